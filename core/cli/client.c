/* SPDX-License-Identifier: MIT */

/* The clients' connection. Main thread, and no other: libmosquitto is driven from here. */

#include "cli/client.h"

#include "base/clock.h"
#include "link/connector.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ANSWER_MS     30000 /* that the broker has for CONNACK */
#define FLUSH_MS      10000 /* that the last packets have */
#define MISC_MS       1000
#define FIRST_WAIT_MS 1000
#define MAX_WAIT_MS   30000

/* ---- Signals ------------------------------------------------------------------------------------- */

/*
 * SIGINT and SIGTERM: the first asks for an orderly end, and interrupts what blocks, such as a write to a pipe
 * that nobody reads; the second ends the program. They are held back but in ppoll() and outside cli_client_wait(), so
 * none is overlooked.
 */
static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static sigset_t end_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

/* Name resolution takes no notice of a handler, so that while it connects a signal ends the program at once. */
static void catch_signals(bool catch)
{
    const struct sigaction action = {
        .sa_handler = catch ? on_signal : SIG_DFL,
        .sa_flags = (int)SA_RESETHAND,
    };
    if (stopped)
        return;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_client_stopped(void)
{
    return stopped != 0;
}

/* poll(), which a signal ends too. */
static int await(struct pollfd *fds, nfds_t n, int64_t timeout_ms)
{
    const struct timespec timeout = {
        .tv_sec = timeout_ms / 1000,
        .tv_nsec = timeout_ms % 1000 * 1000000,
    };
    const sigset_t ends = end_signals();
    sigset_t before;
    sigprocmask(SIG_BLOCK, &ends, &before);
    const int ready = stopped ? 0 : ppoll(fds, n, &timeout, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return ready;
}

/* ---- Callbacks ----------------------------------------------------------------------------------- */

static void on_connect(struct mosquitto *mosq, void *context, int reason, int flags,
                       const mosquitto_property *properties)
{
    (void)mosq;
    (void)flags;
    (void)properties;
    struct cli_client *c = context;
    c->answered = true;
    c->reason = reason;
}

static void on_disconnect(struct mosquitto *mosq, void *context, int reason,
                          const mosquitto_property *properties)
{
    (void)mosq;
    struct cli_client *c = context;
    char *text = NULL;
    /* Smaller ones are errors of the library. */
    if (reason < 0x80)
        return;
    c->reason = reason;
    mosquitto_property_read_string(properties, MQTT_PROP_REASON_STRING, &text, false);
    snprintf(c->why, sizeof(c->why), "the broker says: %s%s%s", mosquitto_reason_string(reason),
             text ? ": " : "", text ? text : "");
    free(text);
}

static void on_log(struct mosquitto *mosq, void *context, int level, const char *text)
{
    (void)mosq;
    struct cli_client *c = context;
    connector_keep_error(c->why, sizeof(c->why), level, text);
    if (c->options->debug)
        fprintf(stderr, "tocsin %s: %s\n", c->options->command->name, text);
}

/* ---- Making a client ----------------------------------------------------------------------------- */

static int set_tls(const struct client_tls *tls, struct mosquitto *mosq)
{
    int rc = MOSQ_ERR_SUCCESS;
    if (tls->psk)
        rc = mosquitto_tls_psk_set(mosq, tls->psk, tls->psk_identity, tls->ciphers);
    if (tls->os_certs)
        rc = mosquitto_int_option(mosq, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
    if (rc == MOSQ_ERR_SUCCESS && (tls->cafile || tls->capath || tls->cert))
        rc = mosquitto_tls_set(mosq, tls->cafile, tls->capath, tls->cert, tls->key, NULL);
    if (rc == MOSQ_ERR_SUCCESS && tls->insecure)
        rc = mosquitto_tls_insecure_set(mosq, true);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_tls_opts_set(mosq, 1, tls->version ? tls->version : "tlsv1.2", tls->ciphers);
    if (rc == MOSQ_ERR_SUCCESS && tls->alpn)
        rc = mosquitto_string_option(mosq, MOSQ_OPT_TLS_ALPN, tls->alpn);
    return rc;
}

static int set_will(struct cli_client *c)
{
    const struct client_options *o = c->options;
    mosquitto_property *properties = NULL;
    const int len = o->will_payload ? (int)strlen(o->will_payload) : 0;
    if (!o->will_topic)
        return MOSQ_ERR_SUCCESS;
    /* The library takes the list over when it succeeds. */
    int rc = mosquitto_property_copy_all(&properties, o->properties[CLIENT_WILL]);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_will_set_v5(c->mosq, o->will_topic, len, o->will_payload, o->will_qos,
                                   o->will_retain, properties);
    if (rc != MOSQ_ERR_SUCCESS)
        mosquitto_property_free_all(&properties);
    return rc;
}

static int set_client(struct cli_client *c)
{
    const struct client_options *o = c->options;
    int rc = mosquitto_int_option(c->mosq, MOSQ_OPT_PROTOCOL_VERSION, o->protocol);
    if (rc == MOSQ_ERR_SUCCESS && o->nodelay)
        rc = mosquitto_int_option(c->mosq, MOSQ_OPT_TCP_NODELAY, 1);
    if (rc == MOSQ_ERR_SUCCESS && (o->username || o->password))
        rc = mosquitto_username_pw_set(c->mosq, o->username, o->password);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = set_will(c);
    if (rc == MOSQ_ERR_SUCCESS && o->proxy.scheme)
        rc = mosquitto_socks5_set(c->mosq, o->proxy.host, o->proxy.port, o->proxy.username,
                                  o->proxy.password);
    if (rc == MOSQ_ERR_SUCCESS && o->tls.use)
        rc = set_tls(&o->tls, c->mosq);
    return rc;
}

int cli_client_init(struct cli_client *c, const struct client_options *o)
{
    *c = (struct cli_client){ .options = o };
    signal(SIGPIPE, SIG_IGN);
    mosquitto_lib_init();
    c->mosq = mosquitto_new(o->id, o->clean, c);
    if (!c->mosq) {
        client_say(o, "cannot make a client: %s", strerror(errno));
        return CLI_FAILED;
    }
    mosquitto_connect_v5_callback_set(c->mosq, on_connect);
    mosquitto_disconnect_v5_callback_set(c->mosq, on_disconnect);
    mosquitto_log_callback_set(c->mosq, on_log);
    const int rc = set_client(c);
    if (rc == MOSQ_ERR_SUCCESS)
        return 0;
    if (rc == MOSQ_ERR_INVAL && o->tls.use)
        client_say(o, "one of these files cannot be read: cafile=%s cert=%s key=%s",
                   o->tls.cafile ? o->tls.cafile : "none", o->tls.cert ? o->tls.cert : "none",
                   o->tls.key ? o->tls.key : "none");
    else
        client_say(o, "cannot make a client: %s", c->why[0] ? c->why : mosquitto_strerror(rc));
    return CLI_FAILED;
}

void cli_client_free(struct cli_client *c)
{
    if (c->mosq)
        mosquitto_destroy(c->mosq);
    mosquitto_lib_cleanup();
}

/* ---- Connecting ---------------------------------------------------------------------------------- */

/* The library's sentences end with a full stop, and ours go on. */
static void keep_reason(struct cli_client *c, const char *text)
{
    snprintf(c->why, sizeof(c->why), "%s", text);
    const size_t len = strlen(c->why);
    if (len > 0 && c->why[len - 1] == '.')
        c->why[len - 1] = '\0';
}

static void explain_connect(struct cli_client *c, int rc, int error)
{
    c->unreachable = rc == MOSQ_ERR_EAI || rc == MOSQ_ERR_ERRNO;
    if (rc == MOSQ_ERR_EAI) /* `error` is getaddrinfo()'s */
        keep_reason(c, "there is no such host");
    else if (rc == MOSQ_ERR_ERRNO)
        keep_reason(c, strerror(error));
    else if (!c->why[0])
        keep_reason(c, mosquitto_strerror(rc));
}

/* What to look at when there was no answer. */
static const char *advice(const struct cli_client *c)
{
    const struct client_options *o = c->options;
    if (c->answered || stopped)
        return "";
    if (o->port == 0)
        return "; is the broker's socket there?";
    if (c->unreachable)
        return "; is the broker there? -h and -p say where";
    if (o->tls.use)
        return "; does it speak TLS at that port, and do we trust it? See --cafile, --psk";
    return "; is that an MQTT broker, and without TLS?";
}

static const char *hint(int reason)
{
    switch (reason) {
    case CONNACK_REFUSED_PROTOCOL_VERSION:
    case MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION:
        return "; try another -V";
    case CONNACK_REFUSED_IDENTIFIER_REJECTED:
    case MQTT_RC_CLIENTID_NOT_VALID:
        return "; try another -i";
    case CONNACK_REFUSED_BAD_USERNAME_PASSWORD:
    case CONNACK_REFUSED_NOT_AUTHORIZED:
    case MQTT_RC_BAD_USERNAME_OR_PASSWORD:
    case MQTT_RC_NOT_AUTHORIZED:
        return "; are -u and -P right?";
    default:
        return "";
    }
}

static int await_answer(struct cli_client *c)
{
    const int64_t end = clock_mono_ms() + ANSWER_MS;
    for (;;) {
        const int64_t left = end - clock_mono_ms();
        const enum client_state state =
            cli_client_wait(c, (int)(left > 0 ? left : 0), -1, &(bool){ false });
        if (c->answered && c->reason == 0 && state == CLIENT_UP)
            return 0;
        if (c->answered && c->reason != 0) {
            snprintf(c->why, sizeof(c->why), "the broker refused: %s%s",
                     c->reason < 0x80 ? mosquitto_connack_string(c->reason)
                                      : mosquitto_reason_string(c->reason),
                     hint(c->reason));
            return c->reason;
        }
        if (state == CLIENT_STOPPED)
            snprintf(c->why, sizeof(c->why), "ended by a signal");
        else if (state == CLIENT_UP && left <= 0)
            snprintf(c->why, sizeof(c->why), "no answer within %d s", ANSWER_MS / 1000);
        else if (state == CLIENT_UP)
            continue;
        return CLI_FAILED;
    }
}

/* One attempt. Returns 0, or an exit status and the reason in `why`. */
static int attempt(struct cli_client *c)
{
    const struct client_options *o = c->options;
    c->answered = c->unreachable = false;
    c->reason = 0;
    c->why[0] = '\0';
    catch_signals(false);
    errno = 0;
    const int rc = mosquitto_connect_bind_v5(c->mosq, o->host, o->port, o->keepalive, o->bind,
                                             o->properties[CLIENT_CONNECT]);
    const int error = errno;
    catch_signals(true);
    if (rc != MOSQ_ERR_SUCCESS) {
        explain_connect(c, rc, error);
        return CLI_FAILED;
    }
    return await_answer(c);
}

int cli_client_connect(struct cli_client *c)
{
    const struct client_options *o = c->options;
    const int64_t deadline_ms = c->deadline_ms;
    c->deadline_ms = 0;
    const int status = attempt(c);
    c->deadline_ms = deadline_ms;
    if (status == 0)
        return 0;
    if (o->proxy.host)
        client_say(o, "cannot connect to %s:%d through %s:%d: %s%s", o->host, o->port,
                   o->proxy.host, o->proxy.port, c->why, advice(c));
    else if (o->port == 0)
        client_say(o, "cannot connect to %s: %s%s", o->host, c->why, advice(c));
    else
        client_say(o, "cannot connect to %s:%d: %s%s", o->host, o->port, c->why, advice(c));
    return status;
}

/* Whether the broker may think otherwise later. */
static bool worth_trying(int reason)
{
    return reason == 0 || reason == CONNACK_REFUSED_SERVER_UNAVAILABLE ||
           reason == MQTT_RC_SERVER_UNAVAILABLE || reason == MQTT_RC_SERVER_BUSY ||
           reason == MQTT_RC_SERVER_SHUTTING_DOWN || reason == MQTT_RC_KEEP_ALIVE_TIMEOUT ||
           reason == MQTT_RC_CONNECTION_RATE_EXCEEDED || reason == MQTT_RC_UNSPECIFIED ||
           reason == MQTT_RC_MAXIMUM_CONNECT_TIME || reason == MQTT_RC_ADMINISTRATIVE_ACTION;
}

/* Waits without a connection. */
static enum client_state pause_for(struct cli_client *c, int wait_ms)
{
    const int64_t end = clock_mono_ms() + wait_ms;
    for (;;) {
        const int64_t now = clock_mono_ms();
        int64_t until = end;
        if (c->deadline_ms > 0 && now >= c->deadline_ms)
            return CLIENT_LATE;
        if (now >= end)
            return CLIENT_UP;
        if (c->deadline_ms > 0 && c->deadline_ms < until)
            until = c->deadline_ms;
        await(NULL, 0, until - now);
        if (stopped)
            return CLIENT_STOPPED;
    }
}

enum client_state cli_client_reconnect(struct cli_client *c, int *status)
{
    const struct client_options *o = c->options;
    int wait_ms = FIRST_WAIT_MS;
    *status = worth_trying(c->reason) ? 0 : c->reason;
    client_say(o, "connection lost: %s%s", c->why, *status == 0 ? "; trying again" : "");
    while (*status == 0) {
        const enum client_state state = pause_for(c, wait_ms);
        if (state != CLIENT_UP)
            return state;
        const int rc = attempt(c);
        if (rc == 0) {
            client_say(o, "connected again");
            return CLIENT_UP;
        }
        if (c->answered && !worth_trying(c->reason)) {
            client_say(o, "cannot connect to %s: %s", o->host, c->why);
            *status = rc;
        }
        wait_ms = wait_ms * 2 < MAX_WAIT_MS ? wait_ms * 2 : MAX_WAIT_MS;
    }
    return CLIENT_LOST;
}

/* ---- While it is open ---------------------------------------------------------------------------- */

static bool lost(struct cli_client *c, int rc)
{
    if (rc == MOSQ_ERR_SUCCESS && mosquitto_socket(c->mosq) >= 0)
        return false;
    if (!c->why[0])
        keep_reason(c, rc == MOSQ_ERR_SUCCESS || rc == MOSQ_ERR_ERRNO ? "the broker closed it"
                                                                      : mosquitto_strerror(rc));
    return true;
}

/* What to await of the socket. In the middle of a TLS handshake there is always something to be written,
 * which has to wait for the other side. */
static short wanted_events(struct cli_client *c)
{
    SSL *tls = mosquitto_ssl_get(c->mosq);
    if (tls && !SSL_is_init_finished(tls) && SSL_want_read(tls))
        return POLLIN;
    return (short)(POLLIN | (mosquitto_want_write(c->mosq) ? POLLOUT : 0));
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

enum client_state cli_client_wait(struct cli_client *c, int timeout_ms, int fd, bool *readable)
{
    *readable = false;
    const int64_t now = clock_mono_ms();
    if (c->deadline_ms > 0 && now >= c->deadline_ms)
        return CLIENT_LATE;
    if (now >= c->misc_ms) {
        c->misc_ms = now + MISC_MS;
        if (lost(c, mosquitto_loop_misc(c->mosq)))
            return CLIENT_LOST;
    }
    int64_t wait = c->misc_ms - now;
    if (timeout_ms >= 0)
        wait = sooner(wait, timeout_ms);
    if (c->deadline_ms > 0)
        wait = sooner(wait, c->deadline_ms - now);
    struct pollfd fds[] = {
        { .fd = mosquitto_socket(c->mosq), .events = wanted_events(c) },
        { .fd = fd, .events = POLLIN },
    };
    const int ready = await(fds, 2, wait);
    if (stopped)
        return CLIENT_STOPPED;
    if (ready <= 0)
        return CLIENT_UP;
    *readable = fds[1].revents != 0;
    int rc = MOSQ_ERR_SUCCESS;
    if (fds[0].revents && mosquitto_want_write(c->mosq))
        rc = mosquitto_loop_write(c->mosq, 1);
    if (rc == MOSQ_ERR_SUCCESS && (fds[0].revents & ~POLLOUT))
        rc = mosquitto_loop_read(c->mosq, 1);
    return lost(c, rc) ? CLIENT_LOST : CLIENT_UP;
}

void cli_client_disconnect(struct cli_client *c)
{
    const int64_t end = clock_mono_ms() + FLUSH_MS;
    if (mosquitto_socket(c->mosq) < 0)
        return;
    mosquitto_disconnect_v5(c->mosq, 0, c->options->properties[CLIENT_DISCONNECT]);
    while (mosquitto_socket(c->mosq) >= 0 && mosquitto_want_write(c->mosq)) {
        const int64_t left = end - clock_mono_ms();
        struct pollfd fd = { .fd = mosquitto_socket(c->mosq), .events = POLLOUT };
        if (left <= 0 || poll(&fd, 1, (int)left) <= 0 ||
            mosquitto_loop_write(c->mosq, 1) != MOSQ_ERR_SUCCESS)
            break;
    }
}
