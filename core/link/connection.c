/* SPDX-License-Identifier: MIT */

#include "link/connection.h"

#include "base/clock.h"
#include "link/connector.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define MISC_INTERVAL_MS 1000
#define STABLE_MS        10000 /* a connection that lasted so long was a good one */
#define PLAIN_MOST       1000  /* messages of QoS 0 before those that come again */
#define LAST_READS       16    /* of what a broker sent before it closed */
#define SYSTEM_CA_PATH   "/etc/ssl/certs"

int connection_init(struct connection *c)
{
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0)
        return -errno;
    atomic_init(&c->stop, false);
    const char *protocol = c->settings->protocol;
    c->version_settled = strcmp(protocol, "auto") != 0;
    c->version = strcmp(protocol, "3.1.1") == 0 ? MQTT_PROTOCOL_V311 : MQTT_PROTOCOL_V5;
    return 0;
}

void connection_release(struct connection *c)
{
    connection_close(c);
    connector_free(c->connector);
    c->connector = NULL;
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    c->wake_fd = -1;
}

void connection_wake(struct connection *c)
{
    int rc = eventfd_write(c->wake_fd, 1);
    (void)rc; /* it fails only when it is full, and then the thread is awake */
}

void connection_stop(struct connection *c)
{
    atomic_store(&c->stop, true);
    connection_wake(c);
}

bool connection_stopping(const struct connection *c)
{
    return atomic_load(&c->stop);
}

void connection_note_progress(struct connection *c)
{
    c->progress++;
}

/* ---- Callbacks ----------------------------------------------------------------------------------- */

static bool property_byte(const mosquitto_property *properties, int id, uint8_t *value)
{
    return mosquitto_property_read_byte(properties, id, value, false) != NULL;
}

static void on_connect(struct mosquitto *mosq, void *context, int reason, int flags,
                       const mosquitto_property *properties)
{
    (void)mosq;
    struct connection *c = context;
    c->progress++;
    c->answered = true;
    c->reason = reason;
    uint8_t identifiers = 1, retain = 1, max_qos = 2;
    uint32_t max_packet = 0;
    uint16_t keepalive = (uint16_t)(c->settings->keepalive.ms / 1000);
    property_byte(properties, MQTT_PROP_SUBSCRIPTION_ID_AVAILABLE, &identifiers);
    property_byte(properties, MQTT_PROP_RETAIN_AVAILABLE, &retain);
    property_byte(properties, MQTT_PROP_MAXIMUM_QOS, &max_qos);
    mosquitto_property_read_int32(properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, &max_packet, false);
    mosquitto_property_read_int16(properties, MQTT_PROP_SERVER_KEEP_ALIVE, &keepalive, false);
    c->connack = (struct connack){
        .session_present = (flags & 1) != 0,
        .identifiers = c->v5 && identifiers != 0,
        .retain = retain != 0,
        .max_qos = max_qos < 2 ? max_qos : 2,
        .max_packet = max_packet,
        .keepalive_ms = (int64_t)keepalive * 1000,
    };
}

static void on_disconnect(struct mosquitto *mosq, void *context, int reason,
                          const mosquitto_property *properties)
{
    (void)mosq;
    (void)properties;
    struct connection *c = context;
    c->progress++;
    /* MQTT 5's reasons for a DISCONNECT by the broker; smaller numbers are the library's errors. */
    if (reason >= 0x80)
        c->reason = reason;
}

/* The library tells of DUP only in the line that it formats for the log, right before it shows the message. */
static void note_dup(struct connection *c, int level, const char *text)
{
    static const char head[] = " received PUBLISH (";
    const char *at = level == MOSQ_LOG_DEBUG ? strstr(text, head) : NULL;
    int dup, qos, retain, id;
    if (at && sscanf(at + sizeof(head) - 1, "d%d, q%d, r%d, m%d,", &dup, &qos, &retain, &id) == 4)
        c->dup_id = dup && qos > 0 ? id : 0;
}

static void keep_error(struct mosquitto *mosq, void *context, int level, const char *text)
{
    (void)mosq;
    struct connection *c = context;
    connector_keep_error(c->why, sizeof(c->why), level, text);
    note_dup(c, level, text);
}

bool connection_is_dup(struct connection *c, const struct mosquitto_message *message)
{
    const bool dup = message->qos > 0 && c->dup_id == message->mid;
    c->dup_id = 0;
    if (dup || !c->knows_dup)
        return dup;
    c->plain += message->qos > 0 ? PLAIN_MOST : 1;
    if (c->plain >= PLAIN_MOST) { /* what comes again comes first */
        mosquitto_log_callback_set(c->mosq, NULL);
        c->knows_dup = false;
    }
    return false;
}

/* ---- Making a client ----------------------------------------------------------------------------- */

static int set_tls(struct connection *c, struct mosquitto *mosq)
{
    const struct link_tls *tls = &c->settings->tls_options;
    int rc;
    if (tls->psk.text) {
        rc = mosquitto_tls_psk_set(mosq, tls->psk.text, tls->psk_identity, tls->ciphers);
    } else {
        bool system = !tls->ca && !tls->capath;
        rc = mosquitto_tls_set(mosq, tls->ca, system ? SYSTEM_CA_PATH : tls->capath, tls->cert,
                               tls->key, connector_key_password);
        if (rc == MOSQ_ERR_INVAL) {
            snprintf(c->why, sizeof(c->why),
                     "cannot read one of the files of tls: ca=%s cert=%s key=%s",
                     tls->ca ? tls->ca : "none", tls->cert ? tls->cert : "none",
                     tls->key ? tls->key : "none");
            return rc;
        }
        if (rc == MOSQ_ERR_SUCCESS)
            rc = mosquitto_tls_insecure_set(mosq, tls->insecure);
    }
    /* The library takes this for the lowest version. */
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_tls_opts_set(
            mosq, 1, strcmp(tls->version, "1.3") == 0 ? "tlsv1.3" : "tlsv1.2", tls->ciphers);
    if (rc == MOSQ_ERR_SUCCESS && tls->alpn)
        rc = mosquitto_string_option(mosq, MOSQ_OPT_TLS_ALPN, tls->alpn);
    return rc;
}

static int set_client(struct connection *c, struct mosquitto *mosq)
{
    const struct link_settings *s = c->settings;
    int rc = mosquitto_threaded_set(mosq, true);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_int_option(mosq, MOSQ_OPT_PROTOCOL_VERSION, c->version);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_int_option(mosq, MOSQ_OPT_TCP_NODELAY, 1);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_int_option(mosq, MOSQ_OPT_RECEIVE_MAXIMUM, (int)s->receive_maximum);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_int_option(mosq, MOSQ_OPT_SEND_MAXIMUM, 65535);
    if (rc == MOSQ_ERR_SUCCESS && s->username)
        rc = mosquitto_username_pw_set(mosq, s->username, s->password.text);
    if (rc == MOSQ_ERR_SUCCESS && c->status)
        rc = mosquitto_will_set(mosq, c->status, sizeof(LINK_STATUS_LOST) - 1, LINK_STATUS_LOST, 1,
                                !c->no_will);
    if (rc == MOSQ_ERR_SUCCESS && s->use_tls)
        rc = set_tls(c, mosq);
    mosquitto_connect_v5_callback_set(mosq, on_connect);
    mosquitto_disconnect_v5_callback_set(mosq, on_disconnect);
    c->prepare(mosq);
    return rc;
}

static int add_properties(const struct connection *c, mosquitto_property **out)
{
    if (c->version != MQTT_PROTOCOL_V5)
        return MOSQ_ERR_SUCCESS;
    const struct link_settings *s = c->settings;
    int rc = mosquitto_property_add_int32(out, MQTT_PROP_MAXIMUM_PACKET_SIZE,
                                          (uint32_t)s->max_packet_size.bytes);
    if (rc == MOSQ_ERR_SUCCESS && !c->clean)
        rc = mosquitto_property_add_int32(out, MQTT_PROP_SESSION_EXPIRY_INTERVAL,
                                          (uint32_t)(s->session_expiry.ms / 1000));
    return rc;
}

static int start_connecting(struct connection *c)
{
    struct mosquitto *mosq = mosquitto_new(c->client_id, c->clean, NULL);
    if (!mosq)
        return -ENOMEM;
    mosquitto_property *properties = NULL;
    int rc = set_client(c, mosq);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = add_properties(c, &properties);
    if (rc != MOSQ_ERR_SUCCESS) {
        if (c->why[0] == '\0')
            snprintf(c->why, sizeof(c->why), "%s", mosquitto_strerror(rc));
        mosquitto_property_free_all(&properties);
        mosquitto_destroy(mosq);
        return -EINVAL;
    }
    const struct connector_job job = {
        .mosq = mosq,
        .host = c->settings->host,
        .port = c->settings->tcp_port,
        .keepalive = (int)(c->settings->keepalive.ms / 1000),
        .properties = properties,
        .key_password = c->settings->tls_options.key_password.text,
        .wake_fd = c->wake_fd,
    };
    int error = connector_new(&job, &c->connector);
    mosquitto_property_free_all(&properties);
    return error;
}

/* ---- Opening ------------------------------------------------------------------------------------- */

static void drain_wake(struct connection *c)
{
    eventfd_t value;
    int rc = eventfd_read(c->wake_fd, &value);
    (void)rc; /* nothing to read is fine */
}

static int await_connector(struct connection *c, int64_t deadline)
{
    while (!connector_done(c->connector)) {
        int64_t left = deadline - clock_mono_ms();
        if (connection_stopping(c))
            return -ECANCELED;
        if (left <= 0) {
            /* It goes on, and the next attempt waits for it. */
            snprintf(c->why, sizeof(c->why), "no answer from resolver or host in time");
            return -ETIMEDOUT;
        }
        struct pollfd fd = { .fd = c->wake_fd, .events = POLLIN };
        poll(&fd, 1, (int)left);
        drain_wake(c);
    }
    int rc = connector_take(c->connector, &c->mosq, c->why, sizeof(c->why));
    connector_free(c->connector);
    c->connector = NULL;
    return rc;
}

/* An attempt that came to an end before CONNACK. */
static int fail_unanswered(struct connection *c, int rc)
{
    if (c->why[0] == '\0')
        snprintf(c->why, sizeof(c->why), "closed before the broker answered CONNECT%s%s",
                 rc == MOSQ_ERR_SUCCESS ? "" : ": ",
                 rc == MOSQ_ERR_SUCCESS ? "" : mosquitto_strerror(rc));
    return -ECONNRESET;
}

static int await_connack(struct connection *c, int64_t deadline)
{
    while (!c->answered) {
        int64_t left = deadline - clock_mono_ms();
        if (connection_stopping(c))
            return -ECANCELED;
        if (left <= 0) {
            snprintf(c->why, sizeof(c->why), "the broker does not answer");
            return -ETIMEDOUT;
        }
        bool write = mosquitto_want_write(c->mosq);
        struct pollfd fds[] = {
            { .fd = mosquitto_socket(c->mosq),
              .events = (short)(POLLIN | POLLRDHUP | (write ? POLLOUT : 0)) },
            { .fd = c->wake_fd, .events = POLLIN },
        };
        poll(fds, 2, (int)left);
        drain_wake(c);
        /* Once the peer has closed, the library would take its end in a TLS handshake for a pause. */
        bool closed = (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
        /* A TLS handshake goes on only by reading, also when it is to write. */
        for (int i = 0; i < (closed ? LAST_READS : 1) && !c->answered; i++) {
            int rc = mosquitto_loop_read(c->mosq, 1);
            if (!c->answered && (rc != MOSQ_ERR_SUCCESS || mosquitto_socket(c->mosq) < 0))
                return fail_unanswered(c, rc);
        }
        if (c->answered)
            break;
        if (closed)
            return fail_unanswered(c, MOSQ_ERR_SUCCESS);
        int rc = mosquitto_loop_write(c->mosq, 1);
        if (rc != MOSQ_ERR_SUCCESS)
            return fail_unanswered(c, rc);
    }
    return 0;
}

static bool refused_version(const struct connection *c)
{
    return c->answered && (c->reason == MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION ||
                           (!c->v5 && c->reason == CONNACK_REFUSED_PROTOCOL_VERSION));
}

/* Chooses the version of the next attempt. Some brokers say that they do not know a version, others
 * just close. */
static bool change_version(struct connection *c, int error)
{
    bool closed = !c->answered && error == -ECONNRESET;
    if (c->version_settled || !(refused_version(c) || closed))
        return false;
    c->version = c->v5 ? MQTT_PROTOCOL_V311 : MQTT_PROTOCOL_V5;
    return true;
}

static int check_connack(struct connection *c)
{
    if (c->reason == 0) {
        c->version_settled = true;
        return 0;
    }
    if (c->reason == MQTT_RC_RETAIN_NOT_SUPPORTED)
        c->no_will = true;
    snprintf(c->why, sizeof(c->why), "the broker refuses: %s",
             c->v5 ? mosquitto_reason_string(c->reason) : mosquitto_connack_string(c->reason));
    return -ECONNREFUSED;
}

static int try_open(struct connection *c)
{
    int64_t deadline = clock_mono_ms() + c->settings->connect_timeout.ms;
    c->why[0] = '\0';
    c->answered = c->closing = false;
    c->reason = 0;
    c->dup_id = 0;
    c->knows_dup = true;
    c->plain = 0;
    int rc = c->connector ? 0 : start_connecting(c);
    if (rc == 0)
        rc = await_connector(c, deadline);
    if (rc < 0)
        return rc;

    c->v5 = c->version == MQTT_PROTOCOL_V5;
    mosquitto_user_data_set(c->mosq, c);
    /* Only as long as there may be something in it: with a log callback the library formats a line for each packet. */
    mosquitto_log_callback_set(c->mosq, keep_error);
    rc = await_connack(c, deadline);
    if (rc == 0)
        rc = check_connack(c);
    if (rc < 0)
        connection_close(c);
    else if (!c->connack.session_present && c->knows_dup)
        mosquitto_log_callback_set(c->mosq, NULL); /* nothing comes again */
    return rc;
}

int connection_open(struct connection *c)
{
    int rc = try_open(c);
    if (rc < 0 && change_version(c, rc) && refused_version(c))
        rc = try_open(c);
    if (rc == -ECANCELED)
        return rc;
    if (rc < 0) {
        if (c->why[0] == '\0')
            snprintf(c->why, sizeof(c->why), "%s", rc == -ENOMEM ? "out of memory" : "failed");
        if (log_trouble_due(&c->trouble, clock_mono_ms()))
            log_warning("link %s: cannot connect, will try again side=%s host=%s port=%u: %s",
                        c->settings->name, c->side, c->settings->host, c->settings->tcp_port,
                        c->why);
        return rc;
    }
    c->opened_ms = clock_mono_ms();
    c->misc_ms = c->opened_ms + MISC_INTERVAL_MS;
    c->ping_ms = c->opened_ms + c->connack.keepalive_ms / 2;
    log_trouble_over(&c->trouble);
    log_info("link %s: connected side=%s host=%s port=%u protocol=%s session=%s", c->settings->name,
             c->side, c->settings->host, c->settings->tcp_port, c->v5 ? "5" : "3.1.1",
             c->connack.session_present ? "resumed" : "new");
    return 0;
}

void connection_close(struct connection *c)
{
    if (!c->mosq)
        return;
    mosquitto_destroy(c->mosq);
    c->mosq = NULL;
}

void connection_pause(struct connection *c)
{
    const struct link_settings *s = c->settings;
    if (c->opened_ms > 0 && clock_mono_ms() - c->opened_ms >= STABLE_MS)
        c->attempt = 0;
    c->opened_ms = 0;
    int64_t longest = s->reconnect_min.ms;
    for (unsigned i = 0; i < c->attempt && longest < s->reconnect_max.ms; i++)
        longest *= 2;
    if (longest > s->reconnect_max.ms)
        longest = s->reconnect_max.ms;
    c->attempt++;

    uint32_t random = 0;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = (uint32_t)clock_mono_ms() * 2654435761u;
    int64_t until = clock_mono_ms() + (int64_t)(random % (uint64_t)longest);
    while (!connection_stopping(c)) {
        int64_t left = until - clock_mono_ms();
        if (left <= 0)
            return;
        struct pollfd fd = { .fd = c->wake_fd, .events = POLLIN };
        poll(&fd, 1, (int)left);
        drain_wake(c);
    }
}

/* ---- While it is open ---------------------------------------------------------------------------- */

static bool lost(struct connection *c, int rc)
{
    if (rc == MOSQ_ERR_SUCCESS && mosquitto_socket(c->mosq) >= 0)
        return false;
    if (c->reason >= 0x80)
        snprintf(c->why, sizeof(c->why), "the broker says: %s", mosquitto_reason_string(c->reason));
    else
        snprintf(c->why, sizeof(c->why), "%s",
                 mosquitto_strerror(rc == MOSQ_ERR_SUCCESS ? MOSQ_ERR_CONN_LOST : rc));
    log_warning("link %s: connection lost side=%s: %s", c->settings->name, c->side, c->why);
    return true;
}

bool connection_wants_write(const struct connection *c)
{
    return mosquitto_want_write(c->mosq);
}

/* Awaits these events of the socket, a wake-up, or that the broker closes. Returns the events. */
static int await(struct connection *c, int events, int timeout_ms)
{
    /* Once the broker closes, poll() would return at once again and again. */
    bool watch = events != 0 || !c->closing;
    struct pollfd fds[] = {
        { .fd = watch ? mosquitto_socket(c->mosq) : -1, .events = (short)(POLLRDHUP | events) },
        { .fd = c->wake_fd, .events = POLLIN },
    };
    if (poll(fds, 2, timeout_ms) <= 0)
        return 0;
    if (fds[1].revents)
        drain_wake(c);
    if (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
        c->closing = true;
    return fds[0].revents;
}

bool connection_poll(struct connection *c, bool read, bool write, int timeout_ms, bool *readable,
                     bool *writable)
{
    *readable = *writable = false;
    int64_t now = clock_mono_ms();
    if (now >= c->misc_ms) {
        c->misc_ms = now + MISC_INTERVAL_MS;
        if (lost(c, mosquitto_loop_misc(c->mosq)))
            return false;
    }
    int64_t until_misc = c->misc_ms - now;
    if (timeout_ms < 0 || timeout_ms > until_misc)
        timeout_ms = (int)until_misc;
    int events = await(c, (read ? POLLIN : 0) | (write ? POLLOUT : 0), timeout_ms);
    *readable = read && ((events & POLLIN) || c->closing);
    *writable = write && ((events & POLLOUT) || c->closing);
    return true;
}

/* Past the library, whose own would queue up behind what is held back. */
static bool send_ping(struct connection *c)
{
    static const char ping[] = { (char)CMD_PINGREQ, 0 };
    SSL *tls = mosquitto_ssl_get(c->mosq);
    if (tls)
        return SSL_write(tls, ping, sizeof(ping)) == sizeof(ping);
    return send(mosquitto_socket(c->mosq), ping, sizeof(ping), MSG_NOSIGNAL | MSG_DONTWAIT) ==
           sizeof(ping);
}

bool connection_hold(struct connection *c)
{
    int64_t now = clock_mono_ms();
    /* The library would take the silence, which is ours, for the broker's. */
    c->misc_ms = now + MISC_INTERVAL_MS;
    if (c->connack.keepalive_ms > 0 && now >= c->ping_ms && !c->closing) {
        if (!send_ping(c))
            return !lost(c, MOSQ_ERR_CONN_LOST);
        c->ping_ms = now + c->connack.keepalive_ms / 2;
    }
    await(c, 0, MISC_INTERVAL_MS);
    return true;
}

bool connection_read(struct connection *c, bool *dry)
{
    unsigned before = c->progress;
    int rc = mosquitto_loop_read(c->mosq, 1);
    /* errno says nothing here: the library also sets it by a failed write to a socket pair of its own. */
    *dry = c->progress == before;
    return !lost(c, rc);
}

static void set_cork(struct connection *c, int on)
{
    int fd = mosquitto_socket(c->mosq);
    if (fd >= 0 && c->settings->tcp_port != 0) {
        int rc = setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
        (void)rc; /* without it, it only costs more segments */
    }
}

bool connection_write(struct connection *c)
{
    /* The library writes each packet by itself. */
    set_cork(c, 1);
    int rc = mosquitto_loop_write(c->mosq, 1);
    set_cork(c, 0);
    return !lost(c, rc);
}

void connection_disconnect(struct connection *c, int timeout_ms)
{
    if (!c->mosq)
        return;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    mosquitto_disconnect_v5(c->mosq, 0, NULL);
    while (mosquitto_socket(c->mosq) >= 0 && mosquitto_want_write(c->mosq)) {
        int64_t left = deadline - clock_mono_ms();
        if (left <= 0 || mosquitto_loop_write(c->mosq, 1) != MOSQ_ERR_SUCCESS)
            break;
        struct pollfd fd = { .fd = mosquitto_socket(c->mosq), .events = POLLOUT };
        if (fd.fd >= 0 && mosquitto_want_write(c->mosq))
            poll(&fd, 1, (int)left);
    }
    connection_close(c);
}
