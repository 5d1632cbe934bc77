/* SPDX-License-Identifier: MIT */

/* SMTP transactions by libcurl (smtp.h). On the thread that owns the instance. */

#include "smtp.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What the dialogue has come to: the last command, and the reply to it (RFC 5321 section 4.2). */
struct dialogue {
    char verb[9];  /* "" before the first command, that is the greeting */
    bool quitting; /* libcurl says good-bye to a connection: the reply is of no interest */
    int code;      /* 0 while there is no reply to that command */
    char text[128];
};

struct smtp {
    CURL *easy;
    const struct mail_service *service;
    struct dialogue dialogue;
    const char *data; /* what is being sent */
    size_t len;
    size_t sent;
    char error[CURL_ERROR_SIZE];
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static char harmless(char c)
{
    return c >= ' ' && c <= '~' ? c : '?';
}

/* ---- Watching the dialogue ---- */

static void command_seen(struct dialogue *dialogue, const char *line, size_t len)
{
    static const char *const verbs[] = { "EHLO", "HELO", "STARTTLS", "AUTH",
                                         "MAIL", "RCPT", "DATA",     "QUIT" };
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        size_t n = strlen(verbs[i]);
        if (len <= n || strncasecmp(line, verbs[i], n) != 0 || (line[n] != ' ' && line[n] != '\r'))
            continue;
        if (strcmp(verbs[i], "QUIT") == 0) {
            dialogue->quitting = true;
            return;
        }
        *dialogue = (struct dialogue){ .code = 0 };
        memcpy(dialogue->verb, verbs[i], n);
    }
}

/* Keeps the text of all lines of a reply. */
static void reply_seen(struct dialogue *dialogue, const char *line, size_t len)
{
    int code = 0;
    for (size_t i = 0; i < 3; i++) {
        if (i >= len || line[i] < '0' || line[i] > '9')
            return;
        code = code * 10 + line[i] - '0';
    }
    if (code != dialogue->code)
        dialogue->text[0] = '\0';
    dialogue->code = code;

    size_t used = strlen(dialogue->text);
    for (size_t i = used ? 3 : 0; i < len && used + 1 < sizeof(dialogue->text); i++) {
        if (line[i] != '\r' && line[i] != '\n')
            dialogue->text[used++] = i == 3 ? ' ' : harmless(line[i]);
    }
    dialogue->text[used] = '\0';
}

/* libcurl shows the dialogue to its debug callback alone. What it sends may be secret, so nothing but
 * the verb is looked at. */
static int debug_callback(CURL *easy, curl_infotype type, char *data, size_t size, void *context)
{
    struct dialogue *dialogue = context;
    (void)easy;

    if (type == CURLINFO_HEADER_OUT)
        command_seen(dialogue, data, size);
    else if (type == CURLINFO_HEADER_IN && !dialogue->quitting)
        reply_seen(dialogue, data, size);
    return 0;
}

static size_t read_callback(char *to, size_t size, size_t count, void *context)
{
    struct smtp *smtp = context;
    size_t n = size * count;
    if (n > smtp->len - smtp->sent)
        n = smtp->len - smtp->sent;
    memcpy(to, smtp->data + smtp->sent, n);
    smtp->sent += n;
    return n;
}

/* ---- Making and freeing ---- */

/* The name that EHLO gives: as configured, else the host's if that is a full one, else an address
 * literal (RFC 5321 section 4.1.3). */
static void ehlo_name(const char *configured, char *out, size_t size)
{
    char host[256] = "";
    if (!configured && gethostname(host, sizeof(host) - 1) == 0 && strchr(host, '.'))
        configured = host;
    snprintf(out, size, "%s", configured ? configured : "[127.0.0.1]");
}

/* libcurl takes the EHLO name from the path of the URL. */
static CURLU *url_new(const struct mail_service *service)
{
    bool smtps = strcmp(service->tls, "smtps") == 0;
    int64_t port = service->port;
    if (port == 0)
        port = smtps ? 465 : strcmp(service->tls, "starttls") == 0 ? 587 : 25;

    char host[300];
    bool literal = strchr(service->host, ':') && service->host[0] != '[';
    snprintf(host, sizeof(host), literal ? "[%s]" : "%s", service->host);
    char digits[8];
    snprintf(digits, sizeof(digits), "%u", (unsigned)port & 0xffff);
    char path[260] = "/";
    ehlo_name(service->ehlo, path + 1, sizeof(path) - 1);

    CURLU *url = curl_url();
    if (url && curl_url_set(url, CURLUPART_SCHEME, smtps ? "smtps" : "smtp", 0) == CURLUE_OK &&
        curl_url_set(url, CURLUPART_HOST, host, 0) == CURLUE_OK &&
        curl_url_set(url, CURLUPART_PORT, digits, 0) == CURLUE_OK &&
        curl_url_set(url, CURLUPART_PATH, path, CURLU_URLENCODE) == CURLUE_OK)
        return url;
    curl_url_cleanup(url);
    return NULL;
}

static CURLcode tls_set(CURL *easy, const struct mail_service *service)
{
    CURLcode rc = CURLE_OK;
    long check = service->verify ? 1L : 0L;

    if (strcmp(service->tls, "none") == 0)
        return rc;
    rc |= curl_easy_setopt(easy, CURLOPT_USE_SSL, (long)CURLUSESSL_ALL);
    rc |= curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    rc |= curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, check);
    rc |= curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, check * 2);
    if (service->ca)
        rc |= curl_easy_setopt(easy, CURLOPT_CAINFO, service->ca);
    if (service->cert)
        rc |= curl_easy_setopt(easy, CURLOPT_SSLCERT, service->cert);
    if (service->key)
        rc |= curl_easy_setopt(easy, CURLOPT_SSLKEY, service->key);
    if (service->key_password.text)
        rc |= curl_easy_setopt(easy, CURLOPT_KEYPASSWD, service->key_password.text);
    return rc;
}

static CURLcode login_set(CURL *easy, const struct mail_service *service)
{
    static const struct {
        const char *auth, *options;
    } rows[] = {
        { "plain", "AUTH=PLAIN" },       { "login", "AUTH=LOGIN" },
        { "cram-md5", "AUTH=CRAM-MD5" }, { "oauthbearer", "AUTH=OAUTHBEARER" },
        { "xoauth2", "AUTH=XOAUTH2" },
    };
    CURLcode rc = CURLE_OK;

    if (!service->username)
        return rc;
    rc |= curl_easy_setopt(easy, CURLOPT_USERNAME, service->username);
    if (service->password.text)
        rc |= curl_easy_setopt(easy, CURLOPT_PASSWORD, service->password.text);
    if (service->token.text) {
        rc |= curl_easy_setopt(easy, CURLOPT_XOAUTH2_BEARER, service->token.text);
        rc |= curl_easy_setopt(easy, CURLOPT_LOGIN_OPTIONS, "AUTH=OAUTHBEARER;AUTH=XOAUTH2");
    }
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(service->auth, rows[i].auth) == 0)
            rc |= curl_easy_setopt(easy, CURLOPT_LOGIN_OPTIONS, rows[i].options);
    }
    return rc;
}

static CURLcode options_set(struct smtp *smtp)
{
    const struct mail_service *service = smtp->service;
    CURL *easy = smtp->easy;
    CURLcode rc = tls_set(easy, service) | login_set(easy, service);
    long seconds = (long)(service->timeout.ms / 1000) + 1;

    rc |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    rc |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
    rc |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    rc |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    rc |= curl_easy_setopt(easy, CURLOPT_MAXCONNECTS, 1L);
    rc |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)service->connect_timeout.ms);
    rc |= curl_easy_setopt(easy, CURLOPT_SERVER_RESPONSE_TIMEOUT, seconds);
    rc |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, smtp->error);
    rc |= curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    rc |= curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_callback);
    rc |= curl_easy_setopt(easy, CURLOPT_READDATA, smtp);
    rc |= curl_easy_setopt(easy, CURLOPT_DEBUGFUNCTION, debug_callback);
    rc |= curl_easy_setopt(easy, CURLOPT_DEBUGDATA, &smtp->dialogue);
    rc |= curl_easy_setopt(easy, CURLOPT_VERBOSE, 1L);
    return rc;
}

int smtp_new(const struct mail_service *service, struct smtp **out)
{
    *out = NULL;
    struct smtp *smtp = calloc(1, sizeof(*smtp));
    CURLU *url = url_new(service);
    int error = url ? -ENOMEM : -EINVAL;
    if (smtp && url) {
        smtp->service = service;
        smtp->easy = curl_easy_init();
    }
    if (smtp && smtp->easy && options_set(smtp) == CURLE_OK) {
        char *text = NULL;
        if (curl_url_get(url, CURLUPART_URL, &text, 0) == CURLUE_OK &&
            curl_easy_setopt(smtp->easy, CURLOPT_URL, text) == CURLE_OK)
            error = 0;
        curl_free(text);
    }
    curl_url_cleanup(url);
    if (error != 0)
        smtp_free(smtp);
    else
        *out = smtp;
    return error;
}

void smtp_free(struct smtp *smtp)
{
    if (!smtp)
        return;
    /* libcurl says QUIT and waits for the reply, up to two minutes. Without the reading half of the
     * connection it says QUIT only. */
    curl_socket_t fd = CURL_SOCKET_BAD;
    if (smtp->easy && curl_easy_getinfo(smtp->easy, CURLINFO_ACTIVESOCKET, &fd) == CURLE_OK &&
        fd != CURL_SOCKET_BAD)
        shutdown(fd, SHUT_RD);
    curl_easy_cleanup(smtp->easy);
    free(smtp);
}

/* ---- Sending ---- */

/* What became of a transaction, by the command that was answered (RFC 5321 section 4.3.2). */
static enum smtp_outcome outcome_of(const struct dialogue *dialogue, CURLcode rc)
{
    const char *verb = dialogue->verb;
    int code = dialogue->code;

    if (rc == CURLE_OK)
        return SMTP_TAKEN;
    /* Says that it needs a login, or does not like ours: RFC 4954 section 6. */
    if (code == 530 || code == 534 || code == 535 || code == 538)
        return SMTP_DENIED;
    if (code == 421 || code == 454)
        return SMTP_BUSY;
    if (rc == CURLE_LOGIN_DENIED)
        return code >= 400 && code < 500 ? SMTP_BUSY : SMTP_DENIED;
    if (code < 400 || code > 599)
        return SMTP_FAILED;
    if (strcmp(verb, "MAIL") == 0)
        return code < 500 ? SMTP_BUSY : SMTP_SENDER_REFUSED;
    if (strcmp(verb, "RCPT") == 0 || strcmp(verb, "DATA") == 0)
        return code < 500 ? SMTP_DEFERRED : SMTP_REFUSED;
    return code < 500 ? SMTP_BUSY : SMTP_FAILED;
}

/* One transaction. Sets `*again` if a new connection may do better at once. */
static void transact(struct smtp *smtp, int64_t timeout_ms, struct smtp_answer *answer, bool *again)
{
    smtp->dialogue = (struct dialogue){ .code = 0 };
    smtp->sent = 0;
    smtp->error[0] = '\0';
    curl_easy_setopt(smtp->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);

    CURLcode rc = curl_easy_perform(smtp->easy);
    const struct dialogue *dialogue = &smtp->dialogue;
    answer->outcome = outcome_of(dialogue, rc);

    const char *why = smtp->error[0] ? smtp->error : curl_easy_strerror(rc);
    bool replied = rc == CURLE_OK || dialogue->code >= 400;
    snprintf(answer->text, sizeof(answer->text), "%.127s", replied ? dialogue->text : why);
    for (char *c = answer->text; *c; c++)
        *c = harmless(*c);

    long connects = 1;
    curl_easy_getinfo(smtp->easy, CURLINFO_NUM_CONNECTS, &connects);
    bool handed_over = smtp->sent == smtp->len && dialogue->code < 400;
    bool lost = answer->outcome == SMTP_FAILED && rc != CURLE_OPERATION_TIMEDOUT && !handed_over;
    *again = connects == 0 && (lost || dialogue->code == 421);
}

void smtp_send(struct smtp *smtp, const char *from, const char *to, const char *data, size_t len,
               int64_t timeout_ms, struct smtp_answer *answer)
{
    char path[260];
    *answer = (struct smtp_answer){ .outcome = SMTP_FAILED, .text = "out of memory" };
    snprintf(path, sizeof(path), "<%s>", from);
    struct curl_slist *recipients = curl_slist_append(NULL, to);
    smtp->data = data;
    smtp->len = len;

    if (recipients && curl_easy_setopt(smtp->easy, CURLOPT_MAIL_FROM, path) == CURLE_OK &&
        curl_easy_setopt(smtp->easy, CURLOPT_MAIL_RCPT, recipients) == CURLE_OK &&
        curl_easy_setopt(smtp->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)len) == CURLE_OK) {
        int64_t deadline = now_ms() + timeout_ms;
        bool again = false;
        transact(smtp, timeout_ms, answer, &again);
        int64_t left = deadline - now_ms();
        if (again && left > 0) {
            curl_easy_setopt(smtp->easy, CURLOPT_FRESH_CONNECT, 1L);
            transact(smtp, left, answer, &again);
            curl_easy_setopt(smtp->easy, CURLOPT_FRESH_CONNECT, 0L);
        }
    }
    curl_easy_setopt(smtp->easy, CURLOPT_MAIL_RCPT, NULL);
    curl_slist_free_all(recipients);
    smtp->data = NULL;
}
