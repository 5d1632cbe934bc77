/* SPDX-License-Identifier: MIT */

/*
 * mail: sends notifications by SMTP. One worker's thread.
 *
 * Each recipient gets a transaction of his own, so that what happens to one does not touch the others.
 * A delivery has one verdict: it is retried while any recipient is still to be served, and which ones
 * have been is remembered until then. Letters are in letter.c, SMTP in smtp.c.
 * Libraries: libcurl
 */

#include "letter.h"
#include "smtp.h"
#include "tocsin/plugin.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define RECIPIENTS_MAX    100
#define PROGRESS_MAX      1024 /* deliveries with some recipients served, waiting for a retry */
#define SUBJECT_MAX_BYTES 500

struct mail_target {
    struct tocsin_list to;
    struct tocsin_list cc;
    struct tocsin_list bcc;
    const char *from;
    const char *reply_to;
    struct tocsin_format subject;
    const char *body;
    const char *attachment;
    struct tocsin_format attachment_name;
    const char *attachment_type;
    const char *importance;
    struct tocsin_format thread;
};

enum recipient_state {
    RECIPIENT_OPEN,
    RECIPIENT_SERVED,
    RECIPIENT_REFUSED
};

/* How far a delivery has come. */
struct progress {
    uint64_t used; /* the smallest is the oldest */
    char reason[160];
    uint8_t states[RECIPIENTS_MAX]; /* enum recipient_state */
    char id[];
};

struct mail {
    const struct tocsin_host *host;
    const struct mail_service *service;
    struct smtp *smtp;
    struct progress *kept[PROGRESS_MAX];
    size_t kept_count;
    uint64_t clock;
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct mail_service, host, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "Name or address of the SMTP server."),
    TOCSIN_OPTION(struct mail_service, port, .def = "0", .min = 0, .max = 65535,
                  .help = "TCP port; 0 is 587 with starttls, 465 with smtps, 25 with none."),
    TOCSIN_OPTION(struct mail_service, tls, .def = "starttls", .choices = "starttls|smtps|none",
                  .help = "TLS by STARTTLS, from the first byte, or not at all; a server that does "
                          "not offer it gets nothing."),
    TOCSIN_OPTION(struct mail_service, ca,
                  .help = "File with the CA certificates to trust instead of the system's."),
    TOCSIN_OPTION(struct mail_service, cert, .help = "File with a client certificate, as PEM."),
    TOCSIN_OPTION(struct mail_service, key, .help = "File with its private key, as PEM."),
    TOCSIN_OPTION(struct mail_service, key_password, .help = "Passphrase of the private key."),
    TOCSIN_OPTION(struct mail_service, verify, .def = "true",
                  .help = "Whether the server's certificate and its name must be right."),
    TOCSIN_OPTION(struct mail_service, username, .help = "Name to log in with; without it, none."),
    TOCSIN_OPTION(struct mail_service, password, .help = "Password to log in with."),
    TOCSIN_OPTION(struct mail_service, token,
                  .help = "OAuth 2.0 bearer token to log in with, instead of a password."),
    TOCSIN_OPTION(struct mail_service, auth, .def = "auto",
                  .choices = "auto|plain|login|cram-md5|oauthbearer|xoauth2",
                  .help = "How to log in; auto takes the strongest way that the server offers."),
    TOCSIN_OPTION(struct mail_service, allow_plaintext_auth, .def = "false",
                  .help = "Allows a password or token without TLS, where anyone can read it."),
    TOCSIN_OPTION(struct mail_service, ehlo,
                  .help = "Name this host gives of itself; without it, the host's full name."),
    TOCSIN_OPTION(struct mail_service, from, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "Sender, \"tocsin@example.org\" or \"Alarms <tocsin@example.org>\"."),
    TOCSIN_OPTION(struct mail_service, envelope_from,
                  .help =
                      "Address that bounces go to; \"<>\" for nowhere; without it, the sender's."),
    TOCSIN_OPTION(struct mail_service, connect_timeout, .def = "10s", .min = 100, .max = 600000,
                  .help = "Longest wait for a connection, TLS included."),
    TOCSIN_OPTION(struct mail_service, timeout, .def = "45s", .min = 100, .max = 3600000,
                  .help = "Longest time for one mail to all of its recipients; keep it below the "
                          "service's deadline."),
    TOCSIN_OPTION(struct mail_service, retry_after, .def = "60s", .min = 0, .max = 3600000,
                  .help =
                      "Wait after a temporary refusal (4xx) such as greylisting; it doubles with "
                      "each attempt, up to 16 times as long."),
    TOCSIN_OPTION(struct mail_service, park, .def = "5m", .min = 0, .max = 86400000,
                  .help = "How long a target waits when the server refuses the login."),
    TOCSIN_OPTION(struct mail_service, max_size, .def = "25MiB", .min = 1024, .max = 1 << 30,
                  .help = "Longest mail, in bytes as sent; a longer one is rejected."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct mail_target, to,
                  .help = "Recipients, as \"a@example.org\" or "
                          "\"Ann <a@example.org>\"."),
    TOCSIN_OPTION(struct mail_target, cc, .help = "Recipients of copies."),
    TOCSIN_OPTION(struct mail_target, bcc, .help = "Recipients that the others do not see."),
    TOCSIN_OPTION(struct mail_target, from, .help = "Sender, instead of the service's."),
    TOCSIN_OPTION(struct mail_target, reply_to, .help = "Address that answers go to."),
    TOCSIN_OPTION(struct mail_target, subject, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Subject; without it the title, or the text's first line, or the topic."),
    TOCSIN_OPTION(struct mail_target, body, .def = "text", .choices = "text|html|both",
                  .help = "Form of the text: plain, HTML, or both for the reader to choose."),
    TOCSIN_OPTION(struct mail_target, attachment, .def = "none", .choices = "none|payload|image",
                  .help =
                      "What is attached: nothing, the payload, or the payload if it is an image "
                      "(PNG, JPEG, GIF, WebP)."),
    TOCSIN_OPTION(struct mail_target, attachment_name, .flags = TOCSIN_CLEAN_PATH,
                  .help = "File name of the attachment; without it \"payload\" with an ending."),
    TOCSIN_OPTION(struct mail_target, attachment_type,
                  .help = "Media type of the attachment, as text/csv; without it, found out."),
    TOCSIN_OPTION(struct mail_target, importance, .def = "auto", .choices = "auto|high|normal|low",
                  .help =
                      "Mark of importance; auto goes by the priority (above 0 high, below low), "
                      "or the severity (critical is high)."),
    TOCSIN_OPTION(struct mail_target, thread, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Mails in which this comes to the same text are shown as one thread."),
    { .name = NULL },
};

/* ---- Checks ---- */

static bool is_mailbox(const char *text)
{
    struct mailbox box;
    return mailbox_parse(text, &box);
}

/* What may stand in a URL's host or in EHLO: a name, or an address with or without brackets. */
static bool is_host(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  ".-_:[]%";
    size_t len = strlen(text);
    return len > 0 && len < 256 && strspn(text, allowed) == len;
}

static const char *mail_check(const void *config)
{
    const struct mail_service *service = config;
    bool tls = strcmp(service->tls, "none") != 0;
    bool secret = service->password.text || service->token.text;
    struct mailbox box;

    if (!is_host(service->host))
        return "host must be a name or an address, without a scheme or port";
    if (service->ehlo && !is_host(service->ehlo))
        return "ehlo must be a host name or an address literal such as [192.0.2.1]";
    if (!is_mailbox(service->from))
        return "from must be like \"tocsin@example.org\" or \"Alarms <tocsin@example.org>\"";
    if (service->envelope_from && strcmp(service->envelope_from, "<>") != 0 &&
        (!mailbox_parse(service->envelope_from, &box) || box.address != service->envelope_from))
        return "envelope_from must be a bare address, or \"<>\"";
    if (secret && !service->username)
        return "username is missing: password and token need it";
    if (service->username && !secret)
        return "password or token is missing: username needs one";
    if (service->password.text && service->token.text)
        return "password and token exclude each other: leave one out";
    if (secret && !tls && !service->allow_plaintext_auth)
        return "tls = \"none\" would send the password in the clear: use TLS, or say "
               "allow_plaintext_auth = true";
    if (service->key && !service->cert)
        return "cert is missing: key needs it";
    if (!tls && (service->ca || service->cert))
        return "ca and cert need TLS: set tls to \"starttls\" or \"smtps\"";
    return NULL;
}

static const char *recipient_at(const struct mail_target *target, size_t index)
{
    const struct tocsin_list *lists[] = { &target->to, &target->cc, &target->bcc };
    for (size_t i = 0; i < 3; i++) {
        if (index < lists[i]->count)
            return lists[i]->items[index];
        index -= lists[i]->count;
    }
    return NULL;
}

/* "type/subtype" of the characters of RFC 6838 section 4.2. */
static bool is_media_type(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "!#$&-^_.+";
    size_t type = strspn(text, allowed);
    if (type == 0 || type > 127 || text[type] != '/')
        return false;
    size_t subtype = strspn(text + type + 1, allowed);
    return subtype > 0 && subtype <= 127 && text[type + 1 + subtype] == '\0';
}

static const char *mail_check_target(const void *service, const void *config)
{
    const struct mail_target *target = config;
    size_t count = target->to.count + target->cc.count + target->bcc.count;
    (void)service;

    if (count == 0)
        return "to, cc or bcc is missing: a mail needs a recipient";
    if (count > RECIPIENTS_MAX)
        return "to, cc and bcc are too many: a mail can have 100 recipients";
    for (size_t i = 0; i < count; i++) {
        if (!is_mailbox(recipient_at(target, i)))
            return "to, cc and bcc must be like \"ann@example.org\" or \"Ann <ann@example.org>\"";
    }
    if (target->from && !is_mailbox(target->from))
        return "from must be like \"tocsin@example.org\" or \"Alarms <tocsin@example.org>\"";
    if (target->reply_to && !is_mailbox(target->reply_to))
        return "reply_to must be like \"ann@example.org\" or \"Ann <ann@example.org>\"";
    if (target->attachment_type && !is_media_type(target->attachment_type))
        return "attachment_type must be like \"text/csv\"";
    return NULL;
}

static unsigned mail_wants(const void *service, const void *config)
{
    const struct mail_target *target = config;
    (void)service;
    return strcmp(target->body, "text") == 0 ? 0 : TOCSIN_WANTS_HTML;
}

/* ---- From delivery to letter ---- */

/* The beginning of a text, at most `max` bytes, without half a character at its end. */
static void cut_copy(char *to, size_t max, const char *text, size_t len)
{
    if (len > max) {
        len = max;
        while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
            len--;
    }
    memcpy(to, text, len);
    to[len] = '\0';
}

static void subject_choose(const struct tocsin_delivery *d, char subject[SUBJECT_MAX_BYTES + 1])
{
    const struct mail_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *text = tocsin_rendered(d, &target->subject);

    if (text || m->title[0]) {
        text = text ? text : m->title;
        cut_copy(subject, SUBJECT_MAX_BYTES, text, strlen(text));
        return;
    }
    const char *line = m->text + strspn(m->text, " \t\r\n");
    size_t len = strcspn(line, "\r\n");
    bool readable = len > 0 && (!m->text_is_payload || bytes_are_text(m->payload, m->payload_len));
    if (!readable) {
        line = m->topic;
        len = strlen(line);
    }
    cut_copy(subject, SUBJECT_MAX_BYTES, line, len);
}

static int importance_choose(const struct mail_target *target, const struct tocsin_message *m)
{
    if (strcmp(target->importance, "auto") != 0)
        return strcmp(target->importance, "high") == 0  ? 1
               : strcmp(target->importance, "low") == 0 ? -1
                                                        : 0;
    if (m->has_priority)
        return (m->priority > 0) - (m->priority < 0);
    return m->has_severity && m->severity == TOCSIN_CRITICAL ? 1 : 0;
}

static void attachment_choose(const struct tocsin_delivery *d, struct letter *letter)
{
    static const struct {
        const char *type, *name;
    } names[] = {
        { "image/png", "payload.png" },       { "image/jpeg", "payload.jpg" },
        { "image/gif", "payload.gif" },       { "image/webp", "payload.webp" },
        { "text/plain", "payload.txt" },      { "text/csv", "payload.csv" },
        { "text/html", "payload.html" },      { "application/json", "payload.json" },
        { "application/pdf", "payload.pdf" },
    };
    const struct mail_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *image = image_type(m->payload, m->payload_len);

    if (strcmp(target->attachment, "none") == 0 ||
        (strcmp(target->attachment, "image") == 0 && !image))
        return;
    const char *type = target->attachment_type ? target->attachment_type : image;
    if (!type && m->properties && m->properties->content_type &&
        is_media_type(m->properties->content_type) &&
        strncasecmp(m->properties->content_type, "multipart/", 10) != 0 &&
        strncasecmp(m->properties->content_type, "message/", 8) != 0)
        type = m->properties->content_type;
    if (!type)
        type =
            bytes_are_text(m->payload, m->payload_len) ? "text/plain" : "application/octet-stream";
    letter->attachment = m->payload_len > 0 ? (const void *)m->payload : "";
    letter->attachment_len = m->payload_len;
    letter->attachment_type = type;
    letter->attachment_shown = strcmp(target->attachment, "image") == 0;
    letter->attachment_name = tocsin_rendered(d, &target->attachment_name);
    if (!letter->attachment_name) {
        letter->attachment_name = "payload.bin";
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            if (strcmp(type, names[i].type) == 0)
                letter->attachment_name = names[i].name;
        }
    }
}

/* Writes the letter of a delivery. On error the verdict is set and there is nothing to release. */
static int delivery_write(const struct mail *self, struct tocsin_delivery *d, struct octets *out)
{
    const struct mail_target *target = d->target;
    const struct tocsin_message *m = d->message;
    char subject[SUBJECT_MAX_BYTES + 1];
    struct letter letter = {
        .from = target->from ? target->from : self->service->from,
        .to = target->to,
        .cc = target->cc,
        .reply_to = target->reply_to,
        .subject = subject,
        .id = m->id,
        .thread = tocsin_rendered(d, &target->thread),
        .date_ms = m->received_ms,
        .importance = importance_choose(target, m),
        .text = m->text,
        .text_len = m->text_len,
        .html = strcmp(target->body, "text") == 0 ? NULL : m->html,
    };
    subject_choose(d, subject);
    attachment_choose(d, &letter);
    if (letter.html && strcmp(target->body, "html") == 0)
        letter.text = NULL;
    /* Bytes that nobody can read are not shown beside themselves as an attachment. */
    if (letter.attachment && m->text_is_payload && !bytes_are_text(m->payload, m->payload_len)) {
        letter.text = m->title[0] ? m->title : m->topic;
        letter.text_len = strlen(letter.text);
        letter.html = NULL;
    }

    *out = (struct octets){ .max = (size_t)self->service->max_size.bytes };
    letter_write(&letter, out);
    int error = out->error;
    if (error == -E2BIG)
        self->host->fail(d, TOCSIN_REJECT, 0, "the mail is longer than max_size");
    else if (error)
        self->host->fail(d, TOCSIN_RETRY, error, "cannot write the mail");
    if (error)
        octets_release(out);
    return error;
}

/* ---- Progress ---- */

/* What is known of this delivery, taken out of what is kept, or a new one; NULL without memory. */
static struct progress *progress_take(struct mail *self, const struct tocsin_delivery *d)
{
    const char *id = d->message->id;
    for (size_t i = 0; d->attempt > 1 && i < self->kept_count; i++) {
        struct progress *p = self->kept[i];
        if (strcmp(p->id, id) == 0) {
            self->kept[i] = self->kept[--self->kept_count];
            return p;
        }
    }
    size_t size = strlen(id) + 1;
    struct progress *p = calloc(1, sizeof(*p) + size);
    if (p)
        memcpy(p->id, id, size);
    return p;
}

/* Keeps it for the next attempt, at the cost of the oldest if there is no room. */
static void progress_keep(struct mail *self, struct progress *p)
{
    p->used = ++self->clock;
    if (self->kept_count < PROGRESS_MAX) {
        self->kept[self->kept_count++] = p;
        return;
    }
    size_t oldest = 0;
    for (size_t i = 1; i < self->kept_count; i++) {
        if (self->kept[i]->used < self->kept[oldest]->used)
            oldest = i;
    }
    free(self->kept[oldest]);
    self->kept[oldest] = p;
}

/* ---- Sending ---- */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t retry_after(const struct mail *self, const struct tocsin_delivery *d)
{
    unsigned doublings = d->attempt > 1 ? d->attempt - 1 : 0;
    return self->service->retry_after.ms << (doublings < 4 ? doublings : 4);
}

static void bare_address(const char *text, char out[256])
{
    struct mailbox box;
    if (mailbox_parse(text, &box))
        snprintf(out, 256, "%.*s", (int)box.address_len, box.address);
    else
        out[0] = '\0';
}

static bool is_repeated(const struct mail_target *target, size_t index, const char *address)
{
    char other[256];
    for (size_t i = 0; i < index; i++) {
        bare_address(recipient_at(target, i), other);
        if (strcasecmp(other, address) == 0)
            return true;
    }
    return false;
}

/* Notes what the answer means for one recipient. Returns whether to go on with the next one. */
static bool answer_take(struct mail *self, struct tocsin_delivery *d, struct progress *p,
                        size_t index, const char *address, const struct smtp_answer *answer)
{
    switch (answer->outcome) {
    case SMTP_TAKEN:
        p->states[index] = RECIPIENT_SERVED;
        snprintf(d->receipt, sizeof(d->receipt), "%.*s", (int)sizeof(d->receipt) - 1, answer->text);
        return true;
    case SMTP_REFUSED:
        p->states[index] = RECIPIENT_REFUSED;
        if (!p->reason[0])
            snprintf(p->reason, sizeof(p->reason), "%.60s: %.90s", address, answer->text);
        self->host->log(self->host, TOCSIN_LOG_WARNING, "recipient refused target=%s to=%s: %s",
                        d->target_name, address, answer->text);
        return true;
    case SMTP_SENDER_REFUSED:
        for (size_t i = index; i < RECIPIENTS_MAX; i++) {
            if (p->states[i] == RECIPIENT_OPEN)
                p->states[i] = RECIPIENT_REFUSED;
        }
        if (!p->reason[0])
            snprintf(p->reason, sizeof(p->reason), "sender refused: %.120s", answer->text);
        return false;
    case SMTP_DEFERRED:
        self->host->fail(d, TOCSIN_RETRY, 0, "%s: %s", address, answer->text);
        d->retry_after_ms = retry_after(self, d);
        return true;
    case SMTP_BUSY:
        self->host->fail(d, TOCSIN_RETRY, 0, "%s", answer->text);
        d->retry_after_ms = retry_after(self, d);
        return false;
    case SMTP_DENIED:
        self->host->fail(d, TOCSIN_RETRY, 0, "login refused: %s", answer->text);
        d->park_ms = self->service->park.ms;
        return false;
    case SMTP_FAILED:
    default:
        self->host->fail(d, TOCSIN_RETRY, 0, "host=%s: %s", self->service->host, answer->text);
        return false;
    }
}

static void deliver(struct mail *self, struct tocsin_delivery *d, struct progress *p,
                    const struct octets *letter)
{
    const struct mail_target *target = d->target;
    const struct mail_service *service = self->service;
    int64_t deadline = now_ms() + service->timeout.ms;
    char from[256] = "";
    char address[256];

    if (!service->envelope_from)
        bare_address(target->from ? target->from : service->from, from);
    else if (strcmp(service->envelope_from, "<>") != 0)
        bare_address(service->envelope_from, from);

    bool go_on = true;
    for (size_t i = 0; go_on && recipient_at(target, i); i++) {
        if (p->states[i] != RECIPIENT_OPEN)
            continue;
        bare_address(recipient_at(target, i), address);
        if (is_repeated(target, i, address)) {
            p->states[i] = RECIPIENT_SERVED;
            continue;
        }
        int64_t left = deadline - now_ms();
        if (left <= 0) {
            self->host->fail(d, TOCSIN_RETRY, -ETIMEDOUT, "host=%s", service->host);
            return;
        }
        struct smtp_answer answer;
        smtp_send(self->smtp, from, address, letter->data, letter->len, left, &answer);
        go_on = answer_take(self, d, p, i, address, &answer);
    }
}

/* The one verdict of all recipients. Returns whether the next attempt must know how far this one came. */
static bool conclude(const struct mail *self, struct tocsin_delivery *d, const struct progress *p)
{
    size_t count = 0;
    size_t open = 0;
    size_t served = 0;
    for (; recipient_at(d->target, count); count++) {
        open += p->states[count] == RECIPIENT_OPEN;
        served += p->states[count] == RECIPIENT_SERVED;
    }
    if (open > 0)
        return open < count; /* the preset verdict, with the reason of the last failure */
    if (served == count) {
        d->verdict = TOCSIN_SENT;
        d->reason[0] = '\0';
    } else if (served > 0) {
        self->host->fail(d, TOCSIN_REJECT, 0, "%.120s (taken for %zu of %zu)", p->reason, served,
                         count);
    } else {
        self->host->fail(d, TOCSIN_REJECT, 0, "%s", p->reason);
    }
    return false;
}

static void mail_send(void *instance, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct mail *self = instance;

    for (size_t i = 0; i < n; i++) {
        struct tocsin_delivery *d = deliveries[i];
        struct octets letter;
        if (delivery_write(self, d, &letter) != 0)
            continue;
        struct progress *p = progress_take(self, d);
        if (!p) {
            self->host->fail(d, TOCSIN_RETRY, -ENOMEM, "cannot send");
            octets_release(&letter);
            continue;
        }
        deliver(self, d, p, &letter);
        if (conclude(self, d, p))
            progress_keep(self, p);
        else
            free(p);
        octets_release(&letter);
    }
}

static int mail_open(const struct tocsin_host *host, const void *service, void **out)
{
    struct mail *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    self->host = host;
    self->service = service;
    int error = smtp_new(service, &self->smtp);
    if (error) {
        free(self);
        return error;
    }
    *out = self;
    return 0;
}

static void mail_close(void *instance)
{
    struct mail *self = instance;
    smtp_free(self->smtp);
    for (size_t i = 0; i < self->kept_count; i++)
        free(self->kept[i]);
    free(self);
}

/* One worker, because what an instance knows of a delivery's recipients the next attempt must know. */
const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "mail",
    .summary = "mail by SMTP, with TLS, login, HTML and attachments",
    .service_options = service_options,
    .service_size = sizeof(struct mail_service),
    .target_options = target_options,
    .target_size = sizeof(struct mail_target),
    .max_workers = 1,
    .check = mail_check,
    .check_target = mail_check_target,
    .wants = mail_wants,
    .open = mail_open,
    .send = mail_send,
    .close = mail_close,
};
