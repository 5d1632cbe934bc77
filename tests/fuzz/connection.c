/* SPDX-License-Identifier: MIT */

/*
 * What a broker makes of any bytes on several connections at once, in any order of reading, writing, closing, and
 * passing of time. All its workers run here, a turn at a time, without their threads.
 *
 * The first byte chooses the settings and whether there is a tap; then follow orders: a byte whose low two bits
 * name the connection and the next four the order (enum order), and what that needs. tests/fuzz/connection_seeds.py
 * makes such inputs of the wire conversations.
 *
 * Beside what the sanitizers see: the broker writes nothing but packets that a server may send in that state of the
 * connection; memory stays in proportion to what it was sent; in the end nothing is left.
 */

#include "broker/client.h"
#include "broker/session.h"
#include "broker/worker.h"

#include "base/buf.h"
#include "base/log.h"
#include "mqtt/packet.h"

#include <errno.h>
#include <fcntl.h>
#include <sanitizer/allocator_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Always in force, whatever the build. */
#define MUST(COND)                                                 \
    do {                                                           \
        if (!(COND)) {                                             \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #COND); \
            abort();                                               \
        }                                                          \
    } while (0)

#define PEERS       4
#define OPENS       64 /* connections of an input */
#define FIRST_FD    100
#define ALIASES     64
#define MEMORY_BASE (16u << 20)
#define MEMORY_EACH 1000 /* bytes for each byte that was sent */

enum order {
    SEND, /* and all up to SEND_LAST: a length, bytes. With the top bit no turn follows */
    SEND_LAST = 7,
    FILL,   /* a byte, and how often in 256 */
    TURN,   /* of all workers */
    DROP,   /* the connection */
    OPEN,   /* a new one; the top bit chooses the listener */
    READ,   /* from now on what the broker sends to it is read, or no more */
    TIME,   /* seconds that pass; with the top bit minutes */
    FINISH, /* how many messages that the tap has are done; with the top bit refused */
    SHUT,   /* its sending half */
};

/* A client's end of a connection. */
struct peer {
    int fd;        /* -1: there is none */
    int broker_fd; /* used once only */
    bool reads;
    bool accepted; /* CONNACK has come */
    bool over;     /* nothing may come any more */
    enum mqtt_level level;
    uint32_t max_packet;
    uint32_t alias_maximum;
    bool alias_known[ALIASES + 1];
    struct buf got;
};

static struct world {
    struct broker *broker;
    struct peer peers[PEERS];
    int opened;
    struct broker_tap *tap;
    struct tap_message *held, **held_end;
    int64_t passed_ms;
    size_t memory_before, sent;
} world;

static const char *const settings[] = {
    "broker = { workers = 1; sys_interval = \"1s\"; };",
    "broker = { workers = 2; sys_interval = \"0s\"; receive_maximum = 20;\n"
    "  listeners = ( { port = 0; }, { port = 0; mount_point = \"m/\"; } ); };",
    "broker = { workers = 1; sys_interval = \"0s\"; max_inflight_messages = 2; max_queued_messages "
    "= 5;\n"
    "  max_output_bytes = 65536L; receive_maximum = 3; queue_qos0_messages = true; max_keepalive = "
    "60;\n"
    "  persistent_client_expiration = \"1h\"; max_inflight_bytes = 1000; max_queued_bytes = 3000;\n"
    "  listeners = ( { port = 0; max_qos = 1; max_topic_alias = 3; max_packet_size = 3000; },\n"
    "                { port = 0; mount_point = \"m/\"; max_connections = 2; } ); };",
    "broker = { workers = 3; sys_interval = \"0s\"; max_inflight_messages = 3; max_queued_messages "
    "= 0;\n"
    "  upgrade_outgoing_qos = true; response_information = \"here\"; message_size_limit = 5000;\n"
    "  listeners = ( { port = 0; mount_point = \"a/\"; }, { port = 0; } ); };",
};

/* ---- What the broker writes ---- */

static void check_publish(struct peer *peer, uint8_t first, const uint8_t *body, size_t len)
{
    struct mqtt_publish in;
    MUST(mqtt_read_publish(first, body, len, peer->level, MQTT_FROM_SERVER, &in) == MQTT_SUCCESS);
    if (peer->level < MQTT_5_0)
        return;
    uint32_t alias = mqtt_properties_number(&in.properties, MQTT_PROPERTY_TOPIC_ALIAS, 0);
    if (alias) {
        MUST(alias <= ALIASES && alias <= peer->alias_maximum);
        MUST(in.topic.len > 0 || peer->alias_known[alias]);
        peer->alias_known[alias] = true;
    }
}

static void check_packet(struct peer *peer, uint8_t first, const uint8_t *body, size_t len)
{
    enum mqtt_type type = mqtt_packet_type(first);
    MUST(!peer->over);
    MUST(peer->accepted == (type != MQTT_CONNACK));
    if (type == MQTT_CONNACK)
        peer->level = len == 2 ? MQTT_3_1_1 : MQTT_5_0;
    MUST(mqtt_header_check(first, peer->level, MQTT_FROM_SERVER) == MQTT_SUCCESS);

    struct mqtt_connack connack;
    struct mqtt_ack ack;
    struct mqtt_suback suback;
    struct mqtt_disconnect disconnect;
    switch (type) {
    case MQTT_CONNACK:
        MUST(mqtt_read_connack(body, len, peer->level, &connack) == MQTT_SUCCESS);
        peer->accepted = true;
        peer->over = connack.reason != MQTT_SUCCESS;
        break;
    case MQTT_PUBLISH:
        check_publish(peer, first, body, len);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        MUST(mqtt_read_ack(type, body, len, peer->level, &ack) == MQTT_SUCCESS);
        break;
    case MQTT_SUBACK:
        MUST(mqtt_read_suback(body, len, peer->level, &suback) == MQTT_SUCCESS);
        break;
    case MQTT_UNSUBACK:
        MUST(mqtt_read_unsuback(body, len, peer->level, &suback) == MQTT_SUCCESS);
        break;
    case MQTT_PINGRESP:
        MUST(mqtt_read_ping(len) == MQTT_SUCCESS);
        break;
    default:
        MUST(type == MQTT_DISCONNECT && peer->level == MQTT_5_0);
        MUST(mqtt_read_disconnect(body, len, peer->level, MQTT_FROM_SERVER, &disconnect) ==
             MQTT_SUCCESS);
        peer->over = true;
    }
}

static void close_peer(struct peer *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    buf_release(&peer->got);
    *peer = (struct peer){ .fd = -1, .reads = true, .got = BUF_INIT(64u << 20) };
}

static void read_peer(struct peer *peer)
{
    char bytes[65536];
    ssize_t n = -1;
    while (peer->fd >= 0 && (n = recv(peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        MUST(buf_add(&peer->got, bytes, (size_t)n) == 0);
    size_t at = 0, header, body;
    int rc = 0;
    const uint8_t *got = (const uint8_t *)peer->got.data;
    while (at < peer->got.len &&
           (rc = mqtt_packet_length(got + at, peer->got.len - at, &header, &body)) == 1 &&
           peer->got.len - at >= header + body) {
        MUST(peer->max_packet == 0 || header + body <= peer->max_packet);
        check_packet(peer, got[at], got + at + header, body);
        at += header + body;
    }
    MUST(rc >= 0);
    if (at > 0) {
        memmove(peer->got.data, peer->got.data + at, peer->got.len - at);
        buf_cut(&peer->got, peer->got.len - at);
    }
    if (n == 0 || (n < 0 && errno != EAGAIN))
        close_peer(peer);
}

/* ---- What makes it work ---- */

/* What a client has asked for binds the broker. */
static void learn_limits(struct peer *peer)
{
    for (unsigned i = 0; i < world.broker->worker_count; i++)
        for (const struct client *c = world.broker->workers[i]->clients; c; c = c->next)
            if (c->source.fd == peer->broker_fd && !c->connecting) {
                peer->max_packet = c->max_packet;
                peer->alias_maximum = c->alias_maximum;
            }
}

static void turn(void)
{
    for (unsigned i = 0; i < world.broker->worker_count; i++)
        MUST(loop_turn(&world.broker->workers[i]->loop, false) == 0);
    for (struct peer *peer = world.peers; peer < world.peers + PEERS; peer++) {
        if (peer->fd < 0)
            continue;
        learn_limits(peer);
        if (peer->reads)
            read_peer(peer);
    }
    MUST(__sanitizer_get_current_allocated_bytes() <=
         world.memory_before + MEMORY_BASE + MEMORY_EACH * world.sent);
}

static void open_peer(struct peer *peer, size_t listener)
{
    if (peer->fd >= 0 || world.opened == OPENS)
        return;
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    const int small = 8192;
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    peer->fd = pair[0];
    peer->broker_fd = fcntl(pair[1], F_DUPFD_CLOEXEC, FIRST_FD + world.opened++);
    MUST(peer->broker_fd >= FIRST_FD);
    close(pair[1]);
    struct broker *broker = world.broker;
    client_open(broker->workers[(unsigned)world.opened % broker->worker_count],
                &broker->settings.listeners[listener % broker->settings.listener_count],
                peer->broker_fd);
}

static void send_bytes(struct peer *peer, const uint8_t *data, size_t len)
{
    open_peer(peer, 0);
    for (int tries = 0; len > 0 && peer->fd >= 0 && tries < 20; tries++) {
        ssize_t n = send(peer->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            world.sent += (size_t)n;
            data += n;
            len -= (size_t)n;
        } else {
            turn();
        }
    }
}

/* Each turn reads the true clock; so timers that are started between two calls of this are late, and end in the
 * second. */
static void pass(int64_t ms)
{
    world.passed_ms += ms;
    world.broker->started_ms -= ms;
    for (unsigned i = 0; i < world.broker->worker_count; i++) {
        struct worker *worker = world.broker->workers[i];
        worker->second = broker_second(world.broker, loop_now_ms(&worker->loop));
        worker->loop.now_ms += world.passed_ms;
        timer_wheel_advance(&worker->loop.timers, loop_now_ms(&worker->loop));
        worker->housekeeping_ms = 0;
    }
    turn();
}

/* Messages for the tap. */
static void on_tap(void *context, struct tap_message *first, size_t n)
{
    (void)context;
    MUST(n > 0 && first);
    *world.held_end = first;
    for (; n > 0; n--)
        world.held_end = &(*world.held_end)->next;
    MUST(!*world.held_end);
}

static void finish(size_t n, bool refused)
{
    for (struct tap_message *m; n > 0 && (m = world.held); n--) {
        world.held = m->next;
        if (!world.held)
            world.held_end = &world.held;
        tap_message_done(m, refused);
    }
}

static void play(const uint8_t *at, size_t left)
{
    while (left > 0) {
        uint8_t byte = *at++;
        left--;
        struct peer *peer = &world.peers[byte & 3];
        enum order order = (enum order)(byte >> 2 & 15);
        uint8_t value = left > 0 ? *at : 0;
        bool has_value = order <= FILL || order == TIME || order == FINISH;
        at += has_value && left > 0;
        left -= has_value && left > 0;
        if (order <= SEND_LAST) {
            size_t len = value < left ? value : left;
            send_bytes(peer, at, len);
            at += len;
            left -= len;
            if (byte & 0x80)
                continue;
        } else if (order == FILL) {
            uint8_t bytes[256];
            memset(bytes, value, sizeof(bytes));
            size_t times = left > 0 ? *at : 0;
            at += left > 0;
            left -= left > 0;
            for (; times > 0; times--)
                send_bytes(peer, bytes, sizeof(bytes));
        } else if (order == DROP) {
            close_peer(peer);
        } else if (order == OPEN) {
            open_peer(peer, byte >> 7);
        } else if (order == READ) {
            peer->reads = !peer->reads;
        } else if (order == TIME) {
            pass((value & 0x7f) * (value & 0x80 ? INT64_C(60000) : 1000));
        } else if (order == FINISH) {
            finish(value & 0x7f, value & 0x80);
        } else if (order == SHUT && peer->fd >= 0) {
            shutdown(peer->fd, SHUT_WR);
        }
        turn();
    }
}

/* ---- Beginning and end ---- */

static void begin(uint8_t byte)
{
    const char *text = settings[byte & 3];
    struct conf *conf = NULL;
    struct conf_errors errors = CONF_ERRORS_INIT;
    MUST(conf_load_text("fuzz", text, &conf, &errors) == 0);
    if (broker_new(conf, &world.broker, &errors) < 0) {
        fprintf(stderr, "%s\n", buf_str(&errors.text));
        abort();
    }
    conf_errors_release(&errors);
    conf_unref(conf);
    struct broker *broker = world.broker;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        MUST(broker->workers[i] = worker_new(broker, i));
        loop_timer_start(&broker->workers[i]->loop, &broker->workers[i]->pulse, 1);
    }
    world.held_end = &world.held;
    if (byte & 4) {
        static const struct tap_filter filters[] = { { "t/#", 2 }, { "+/+/a", 1 }, { "#", 0 } };
        MUST(world.tap = broker_tap_open(broker, "tap", on_tap, NULL));
        broker_tap_set_limit(world.tap, 2000);
        MUST(broker_tap_set_filters(world.tap, filters, byte & 8 ? 1 : 3) == 0);
    }
    for (struct peer *peer = world.peers; peer < world.peers + PEERS; peer++)
        close_peer(peer);
}

/* All that is counted now. */
static void check_empty(bool sessions_too)
{
    struct broker_stats stats;
    broker_stats(world.broker, &stats);
    MUST(stats.sockets == 0);
    MUST(stats.clients_connected == 0);
    MUST(atomic_load(&world.broker->connections) == 0);
    for (size_t i = 0; i < world.broker->settings.listener_count; i++)
        MUST(atomic_load(&world.broker->settings.listeners[i].connections) == 0);
    if (!sessions_too)
        return;
    MUST(stats.clients_total == 0);
    MUST(stats.subscriptions == 0);
    MUST(stats.shared_subscriptions == 0);
    for (unsigned i = 0; i < world.broker->worker_count; i++) {
        MUST(!world.broker->workers[i]->walks);
        MUST(!world.broker->workers[i]->flows);
        MUST(atomic_load(&world.broker->workers[i]->backlog) == 0);
    }
}

static void end(uint8_t byte)
{
    struct broker *broker = world.broker;
    if (byte & 16) { /* all clients go before the broker does */
        for (struct peer *peer = world.peers; peer < world.peers + PEERS; peer++)
            close_peer(peer);
        for (int i = 0; i < 10; i++) {
            finish(SIZE_MAX, false); /* who waits for the tap is not looked at */
            turn();
        }
        check_empty(false);
    }
    for (unsigned i = 0; i < broker->worker_count; i++)
        MUST(worker_order(broker->workers[i], byte & 32 ? ORDER_STOP_INTAKE : ORDER_STOP, NULL) ==
             0);
    turn();
    for (unsigned i = 0; i < broker->worker_count; i++)
        MUST(worker_order(broker->workers[i], ORDER_STOP, NULL) == 0);
    turn();
    turn(); /* who was on the way to another worker */
    finish(SIZE_MAX, byte & 64);
    for (unsigned i = 0; i < broker->worker_count; i++) {
        worker_order(broker->workers[i], ORDER_STOP, NULL);
        MUST(loop_turn(&broker->workers[i]->loop, false) == 0);
    }
    for (unsigned i = 0; i < broker->worker_count; i++)
        worker_clear(broker->workers[i]);
    check_empty(false);
    for (unsigned i = 0; i < broker->worker_count; i++)
        sessions_release(broker->workers[i]);
    for (unsigned i = 0; i < broker->worker_count; i++)
        worker_clear(broker->workers[i]);
    check_empty(true);
    MUST(!world.held);
    broker_tap_close(world.tap);
    for (struct peer *peer = world.peers; peer < world.peers + PEERS; peer++)
        close_peer(peer);
    broker_free(broker);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    log_set_level(TOCSIN_LOG_ERROR);
    world = (struct world){ .memory_before = __sanitizer_get_current_allocated_bytes() };
    for (struct peer *peer = world.peers; peer < world.peers + PEERS; peer++)
        peer->fd = -1;
    begin(data[0]);
    play(data + 1, size - 1);
    end(data[0]);
    return 0;
}
