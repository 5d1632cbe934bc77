/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/client.h"

#include "base/clock.h"
#include "broker/aliases.h"
#include "broker/deliver.h"
#include "broker/durable.h"
#include "broker/receipt.h"
#include "net/peer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define PATIENCE_PACKETS 32 /* between two looks at the clock */
#define PATIENCE_MS      20
#define LONG_PACKET      (16 * 1024) /* from here on a packet is read into a block of its own */
#define LONG_FIRST \
    (64 * 1024)        /* the first size of that block; then four times as much, and so on */
#define LONG_READS   8 /* of one turn */
#define RELIEF_BYTES (256 * 1024)
#define HEAD         sizeof(struct publication) /* room before the bytes of a long packet */

static void on_ready(struct loop_source *source, uint32_t events);

/* ---- Life ---- */

static void enlist(struct worker *worker, struct client *c)
{
    c->worker = worker;
    c->next = worker->clients;
    c->link = &worker->clients;
    if (c->next)
        c->next->link = &c->next;
    worker->clients = c;
    COUNT(worker, sockets, 1);
}

static void delist(struct client *c)
{
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    COUNT(c->worker, sockets, -1);
}

static void discard(struct client *c)
{
    transport_close(c->transport, c->source.fd);
    atomic_fetch_sub(&c->worker->broker->connections, 1);
    atomic_fetch_sub(&c->listener->connections, 1);
    free(c->partial);
    free(c);
}

void client_discard(struct worker *worker, struct client *c)
{
    c->worker = worker;
    output_drop(&c->output, &worker->pool);
    discard(c);
}

void client_open(struct worker *worker, struct broker_listener *listener, int fd)
{
    struct broker *broker = worker->broker;
    COUNT(worker, connections, 1);
    int64_t all = atomic_fetch_add(&broker->connections, 1) + 1;
    int64_t here = atomic_fetch_add(&listener->connections, 1) + 1;
    int64_t most = worker->settings->max_connections;
    struct client *c = NULL;
    if ((most < 0 || all <= most) &&
        (listener->max_connections < 0 || here <= listener->max_connections))
        c = calloc(1, sizeof(*c));
    if (c) {
        *c = (struct client){
            .source = { .ready = on_ready, .fd = fd },
            .timer = { .kind = worker->client_kind },
            .listener = listener,
            .level = MQTT_3_1_1,
            .connecting = true,
        };
        if (loop_add(&worker->loop, &c->source, EPOLLIN) == 0) {
            enlist(worker, c);
            loop_timer_start(&worker->loop, &c->timer, worker->settings->connect_timeout.ms);
            return;
        }
        free(c);
    }
    COUNT(worker, connections_refused, 1);
    if (log_rate_due(&worker->turned_away, loop_now_ms(&worker->loop)))
        log_warning("connection refused peer=%s: %s", peer_name(NULL, fd).text,
                    most >= 0 && all > most ? "the broker has max_connections"
                    : listener->max_connections >= 0 && here > listener->max_connections
                        ? "its listener has max_connections"
                        : "no memory, or no place in epoll");
    atomic_fetch_sub(&broker->connections, 1);
    atomic_fetch_sub(&listener->connections, 1);
    transport_close(NULL, fd);
}

/* ---- The end ---- */

void client_touch(struct client *c)
{
    if (c->touched)
        return;
    c->touched = true;
    c->next_touched = c->worker->touched;
    c->worker->touched = c;
}

static void say_goodbye(struct client *c, const char *why)
{
    uint8_t text[256];
    struct mqtt_property_writer w = { .data = text, .room = sizeof(text) };
    if (why && c->problems)
        mqtt_property_add_string(&w, MQTT_PROPERTY_REASON_STRING,
                                 (struct mqtt_string){ why, strlen(why) });
    uint8_t packet[300];
    size_t len = mqtt_write_disconnect(packet, sizeof(packet), MQTT_5_0, c->reason,
                                       mqtt_property_written(&w));
    if (c->max_packet && len > c->max_packet)
        len = mqtt_write_disconnect(packet, sizeof(packet), MQTT_5_0, c->reason,
                                    (struct mqtt_slice){ 0 });
    if (c->max_packet && len > c->max_packet)
        return;
    if (output_add(&c->output, &c->worker->pool, packet, len) == 0)
        COUNT(c->worker, packets_sent, 1);
}

void client_end(struct client *c, enum mqtt_reason reason, const char *why)
{
    if (c->ending)
        return;
    c->ending = true;
    c->reason = (uint8_t)reason;
    if (reason >= 0x80 && c->level == MQTT_5_0 && !c->connecting && !c->unanswered)
        say_goodbye(c, why);
    if (c->worker->settings->connection_messages && c->session)
        log_info("client disconnected id=%s reason=%s%s%s", CLIENT_NAME(c),
                 reason == MQTT_SUCCESS ? "normal" : mqtt_reason_name(reason), why ? ": " : "",
                 why ? why : "");
    client_touch(c);
}

void client_refuse(struct client *c, enum mqtt_reason reason, const char *why)
{
    struct worker *worker = c->worker;
    if (c->ending)
        return;
    COUNT(worker, packets_refused, 1);
    if (log_rate_due(&worker->bad_packets, loop_now_ms(&worker->loop)))
        log_warning("bad packet client=%s peer=%s: %s%s%s", CLIENT_NAME(c),
                    peer_name(c->transport, c->source.fd).text, mqtt_reason_name(reason),
                    why ? ", " : "", why ? why : "");
    client_end(c, reason, why);
}

/* Takes it out of everything, and frees it. */
static void close_now(struct client *c)
{
    struct worker *worker = c->worker;
    struct session *session = c->session;
    loop_remove(&worker->loop, &c->source);
    loop_timer_stop(&worker->loop, &c->timer);
    if (c->in_paused) {
        struct client **at = &worker->paused;
        while (*at != c)
            at = &(*at)->next_paused;
        *at = c->next_paused;
    }
    delist(c);
    output_drop(&c->output, &worker->pool);
    aliases_free(c->aliases);
    c->session = NULL;
    if (session) {
        session->client = NULL;
        COUNT(worker, clients_connected, -1);
    }
    bool graceful = c->graceful;
    discard(c);
    if (session) {
        receipts_disconnect(session);
        session_leave(worker, session, graceful);
    }
}

/* ---- Writing ---- */

static void wait_for(struct client *c)
{
    uint32_t events = (c->paused ? 0 : EPOLLIN) | (c->blocked ? EPOLLOUT : 0) |
                      (c->unanswered && !c->finished ? EPOLLRDHUP : 0);
    if (loop_modify(&c->worker->loop, &c->source, events ? events : EPOLLHUP) < 0)
        client_end(c, MQTT_UNSPECIFIED_ERROR, NULL);
}

static void flush(struct client *c)
{
    uint64_t written = 0;
    int rc = output_write(&c->output, &c->worker->pool, c->transport, c->source.fd, &written);
    COUNT(c->worker, bytes_sent, written);
    if (rc < 0) {
        client_end(c, MQTT_UNSPECIFIED_ERROR, "cannot be written to");
        return;
    }
    if (c->paused && written > 0) /* it lives, though its pings are not read */
        c->heard_ms = (uint32_t)loop_now_ms(&c->worker->loop);
    bool was_blocked = c->blocked;
    c->blocked = rc == 0;
    if (c->blocked != was_blocked && !c->ending)
        wait_for(c);
    if (was_blocked && !c->blocked && c->session && !c->ending)
        deliver_waiting(c);
}

void client_relieve(struct client *c)
{
    if (c->output.bytes > RELIEF_BYTES && !c->blocked && !c->ending)
        flush(c);
}

void clients_settle(struct worker *worker)
{
    while (worker->touched) {
        struct client *c = worker->touched;
        worker->touched = c->next_touched;
        /* It counts as touched until then, so that what fails here cannot list it again before it is freed. */
        if (c->output.first && !c->blocked)
            flush(c);
        if (c->ending) {
            close_now(c);
            continue;
        }
        c->touched = false;
        if (c->output.first && !c->blocked)
            client_touch(c);
    }
}

void client_acknowledge(struct client *c, enum mqtt_type type, uint16_t packet_id,
                        enum mqtt_reason reason)
{
    if (c->ending)
        return;
    if (reason == MQTT_SUCCESS || c->level < MQTT_5_0) {
        uint8_t *at = client_room(c, MQTT_ACK_LENGTH);
        if (!at)
            return;
        mqtt_write_ack_short(at, type, packet_id);
        client_commit(c, MQTT_ACK_LENGTH);
        return;
    }
    uint8_t packet[16];
    size_t len = mqtt_write_ack(packet, sizeof(packet), c->level, type, packet_id, reason,
                                (struct mqtt_slice){ 0 });
    uint8_t *at = client_room(c, len);
    if (!at)
        return;
    memcpy(at, packet, len);
    client_commit(c, len);
}

/* ---- Packets ---- */

static void on_disconnect(struct client *c, const uint8_t *body, size_t len)
{
    struct mqtt_disconnect in;
    enum mqtt_reason reason = mqtt_read_disconnect(body, len, c->level, MQTT_FROM_CLIENT, &in);
    if (reason != MQTT_SUCCESS) {
        client_refuse(c, reason, NULL);
        return;
    }
    struct session *session = c->session;
    if (mqtt_properties_have(&in.properties, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL)) {
        uint32_t wanted =
            mqtt_properties_number(&in.properties, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL, 0);
        if (session->expiry == 0 && wanted != 0) { /* [MQTT 5.0, 3.14.2.2.2] */
            client_refuse(c, MQTT_PROTOCOL_ERROR,
                          "a session that ends with its connection cannot be prolonged");
            return;
        }
        session->expiry = session_expiry_allowed(c->worker, wanted);
    }
    c->graceful = in.reason == MQTT_NORMAL_DISCONNECTION;
    client_end(c, MQTT_SUCCESS, in.reason ? mqtt_reason_name(in.reason) : NULL);
}

static void on_ping(struct client *c, size_t len)
{
    if (mqtt_read_ping(len) != MQTT_SUCCESS) {
        client_refuse(c, MQTT_MALFORMED_PACKET, NULL);
        return;
    }
    uint8_t *at = client_room(c, MQTT_PING_LENGTH);
    if (!at)
        return;
    mqtt_write_ping(at, MQTT_PINGRESP);
    client_commit(c, MQTT_PING_LENGTH);
}

static void packet(struct client *c, uint8_t first, const uint8_t *body, size_t len)
{
    enum mqtt_type type = mqtt_packet_type(first);
    COUNT(c->worker, packets_received, 1);
    c->heard_ms = (uint32_t)loop_now_ms(&c->worker->loop);
    if (type == MQTT_PUBLISH && !c->connecting) {
        on_publish(c, first, body, len);
        return;
    }
    enum mqtt_reason reason = mqtt_header_check(first, c->level, MQTT_FROM_CLIENT);
    if (c->connecting && type != MQTT_CONNECT) {
        client_refuse(c, MQTT_PROTOCOL_ERROR, "a packet before CONNECT");
    } else if (!c->connecting && type == MQTT_CONNECT) {
        client_refuse(c, MQTT_PROTOCOL_ERROR, "a second CONNECT");
    } else if (reason != MQTT_SUCCESS) {
        client_refuse(c, reason, NULL);
    } else {
        switch (type) {
        case MQTT_CONNECT:
            on_connect(c, body, len);
            break;
        case MQTT_PUBACK:
        case MQTT_PUBREC:
        case MQTT_PUBREL:
        case MQTT_PUBCOMP:
            on_ack(c, type, body, len);
            break;
        case MQTT_SUBSCRIBE:
            on_subscribe(c, body, len);
            break;
        case MQTT_UNSUBSCRIBE:
            on_unsubscribe(c, body, len);
            break;
        case MQTT_PINGREQ:
            on_ping(c, len);
            break;
        case MQTT_DISCONNECT:
            on_disconnect(c, body, len);
            break;
        default: /* AUTH, as no method was agreed on */
            client_refuse(c, MQTT_PROTOCOL_ERROR, "no authentication is under way");
        }
        /* What has to be noted for each of these takes more memory than the packet. */
        if ((type == MQTT_SUBSCRIBE || type == MQTT_UNSUBSCRIBE || type == MQTT_PUBREL) &&
            durable_is_crowded(c->worker->broker->durable))
            worker_pause(c->worker, c);
    }
}

/* ---- Reading ---- */

/* Keeps what has not been looked at, or is not a whole packet. */
static void keep(struct client *c, const uint8_t *data, size_t len)
{
    if (len == 0) {
        free(c->partial);
        c->partial = NULL;
        c->partial_len = c->partial_size = 0;
        return;
    }
    if (len > c->partial_size) {
        uint8_t *fresh = malloc(len);
        if (!fresh) {
            client_end(c, MQTT_SERVER_BUSY, "out of memory");
            return;
        }
        memcpy(fresh, data, len);
        free(c->partial);
        c->partial = fresh;
        c->partial_size = (uint32_t)len;
    } else {
        memmove(c->partial, data, len);
    }
    c->partial_len = (uint32_t)len;
}

/* Begins a block for a long packet of `total` bytes. */
static void keep_long(struct client *c, const uint8_t *data, size_t len, size_t total)
{
    size_t size = len > LONG_FIRST / 2 ? len * 2 : LONG_FIRST;
    if (size > total)
        size = total;
    uint8_t *block = malloc(HEAD + size);
    if (!block) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    memcpy(block + HEAD, data, len);
    free(c->partial);
    c->partial = block;
    c->partial_len = (uint32_t)len;
    c->partial_size = (uint32_t)size;
    c->is_long = true;
}

/* Gives the connection to the worker that owns the client. */
static void move(struct client *c, unsigned owner, const uint8_t *data, size_t len)
{
    struct worker *worker = c->worker;
    struct letter_client *letter = malloc(sizeof(*letter));
    keep(c, data, len);
    if (!letter || c->ending) {
        free(letter);
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    loop_remove(&worker->loop, &c->source);
    loop_timer_stop(&worker->loop, &c->timer);
    delist(c);
    letter->letter.kind = LETTER_CLIENT;
    letter->client = c;
    worker_write(worker, owner, &letter->letter, 0);
}

/* How long one client has kept the worker busy; looks at the clock now and then. */
struct patience {
    unsigned packets;
    int64_t until_ms;
};

static bool is_used_up(struct patience *patience)
{
    if (++patience->packets % PATIENCE_PACKETS != 0)
        return false;
    int64_t now = clock_mono_ms();
    if (patience->until_ms == 0)
        patience->until_ms = now + PATIENCE_MS;
    return now >= patience->until_ms;
}

/* Goes through the packets in `data`, which is not the connection's own memory. When that takes long, because each of
 * them is work, the others get their turn first. */
static void consume(struct client *c, const uint8_t *data, size_t len)
{
    struct patience patience = { 0 };
    size_t at = 0, header = 0, body = 0;
    size_t most = (size_t)c->listener->max_packet_size.bytes;
    int whole = 0;
    while (at < len && !c->ending && !c->paused) {
        whole = mqtt_packet_length(data + at, len - at, &header, &body);
        if (whole < 0) {
            client_refuse(c, MQTT_MALFORMED_PACKET, "a remaining length of five bytes");
        } else if (whole > 0 && c->connecting && mqtt_packet_type(data[at]) != MQTT_CONNECT) {
            packet(c, data[at], data + at + header, 0);
        } else if (whole > 0 && header + body > most) {
            client_refuse(c, MQTT_PACKET_TOO_LARGE, "larger than max_packet_size");
        } else if (whole == 0 || len - at < header + body) {
            break;
        } else {
            if (c->connecting) {
                unsigned owner = connect_owner(c, data + at + header, body);
                if (owner != c->worker->index) {
                    move(c, owner, data + at, len - at);
                    return;
                }
            }
            packet(c, data[at], data + at + header, body);
            at += header + body;
            if (c->blocked && client_is_behind(c))
                worker_pause(c->worker, c);
            if (is_used_up(&patience) && at < len && !c->ending) {
                worker_pause(c->worker, c);
                loop_again(&c->worker->loop);
            }
        }
    }
    if (c->ending)
        at = len;
    if (at < len && whole > 0 && !c->paused && header + body > LONG_PACKET)
        keep_long(c, data + at, len - at, header + body);
    else
        keep(c, data + at, len - at);
}

/* The socket has ended, or failed: without DISCONNECT, so the will is published. */
static void lost(struct client *c, ssize_t n)
{
    client_end(c, MQTT_SUCCESS, n == 0 ? "connection closed by the client" : strerror((int)-n));
}

/* All of a long packet is there. */
static void consume_long(struct client *c, size_t header, size_t body)
{
    struct worker *worker = c->worker;
    uint8_t *block = c->partial;
    c->partial = NULL;
    c->partial_len = c->partial_size = 0;
    c->is_long = false;
    if (c->connecting && mqtt_packet_type(block[HEAD]) == MQTT_CONNECT) {
        consume(c, block + HEAD, header + body);
    } else {
        worker->block = (struct publication *)(void *)block;
        packet(c, block[HEAD], block + HEAD + header, body);
        block = (uint8_t *)worker->block; /* NULL if somebody has taken it */
        worker->block = NULL;
    }
    free(block);
}

static void read_long(struct client *c)
{
    size_t header = 0, body = 0;
    mqtt_packet_length(c->partial + HEAD, c->partial_len, &header, &body);
    size_t total = header + body;
    for (int reads = 0; reads < LONG_READS; reads++) {
        if (c->partial_len == c->partial_size) {
            size_t size = (size_t)c->partial_size * 4 < total ? (size_t)c->partial_size * 4 : total;
            uint8_t *fresh = realloc(c->partial, HEAD + size);
            if (!fresh) {
                client_end(c, MQTT_SERVER_BUSY, "out of memory");
                return;
            }
            c->partial = fresh;
            c->partial_size = (uint32_t)size;
        }
        ssize_t n = transport_read(c->transport, c->source.fd, c->partial + HEAD + c->partial_len,
                                   c->partial_size - c->partial_len);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            lost(c, n);
            return;
        }
        COUNT(c->worker, bytes_received, n);
        c->partial_len += (uint32_t)n;
        if (c->partial_len == total) {
            consume_long(c, header, body);
            return;
        }
        if (c->partial_len < c->partial_size)
            return;
    }
}

static void read_some(struct client *c)
{
    if (c->is_long) {
        read_long(c);
        return;
    }
    struct worker *worker = c->worker;
    size_t have = c->partial_len;
    if (have > WORKER_BUFFER / 2) { /* left by a pause: first that */
        uint8_t *data = c->partial;
        c->partial = NULL;
        c->partial_len = c->partial_size = 0;
        consume(c, data, have);
        free(data);
        return;
    }
    if (have > 0)
        memcpy(worker->buffer, c->partial, have);
    ssize_t n =
        transport_read(c->transport, c->source.fd, worker->buffer + have, WORKER_BUFFER - have);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        lost(c, n);
        return;
    }
    COUNT(worker, bytes_received, n);
    consume(c, worker->buffer, have + (size_t)n);
}

/* Whether it has sent something behind CONNECT that is not looked at yet. */
static bool has_more(const struct client *c)
{
    int unread = 0;
    return c->partial_len > 0 || (ioctl(c->source.fd, FIONREAD, &unread) == 0 && unread > 0);
}

/* Its CONNACK waits, and it sends no more. If it has gone, nobody needs that; but it may have sent all that it wants
 * to send. */
static void stops_waiting(struct client *c)
{
    if (!has_more(c)) {
        lost(c, 0);
        return;
    }
    c->finished = true;
    wait_for(c);
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct client *c = CONTAINER_OF(source, struct client, source);
    if (c->ending)
        return;
    if (events & EPOLLOUT)
        flush(c);
    if (c->ending)
        return;
    if (c->paused) { /* that the client sends no more is read in its place, behind what it has sent */
        if (events & (EPOLLHUP | EPOLLERR))
            lost(c, 0);
        else if ((events & EPOLLRDHUP) && c->unanswered)
            stops_waiting(c);
    } else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
        read_some(c);
    }
}

void client_arrive(struct worker *worker, struct client *c)
{
    c->timer.kind = worker->client_kind;
    enlist(worker, c);
    if (loop_add(&worker->loop, &c->source, EPOLLIN) < 0) {
        client_end(c, MQTT_SERVER_BUSY, NULL);
        return;
    }
    loop_timer_start(&worker->loop, &c->timer, worker->settings->connect_timeout.ms);
    if (worker->stopping) {
        client_pause(c);
        return;
    }
    uint8_t *data = c->partial;
    size_t len = c->partial_len;
    c->partial = NULL;
    c->partial_len = c->partial_size = 0;
    consume(c, data, len);
    free(data);
}

/* ---- Pauses ---- */

bool client_is_behind(const struct client *c)
{
    return c->blocked &&
           c->output.bytes >= (uint64_t)c->worker->settings->max_output_bytes.bytes / 2;
}

void client_pause(struct client *c)
{
    if (c->paused || c->ending)
        return;
    c->paused = true;
    wait_for(c);
}

void client_resume(struct client *c)
{
    if (!c->paused || c->ending || c->unanswered)
        return;
    c->paused = false;
    wait_for(c);
    if (c->partial_len > 0 && !c->is_long && !c->ending) {
        uint8_t *data = c->partial;
        size_t len = c->partial_len;
        c->partial = NULL;
        c->partial_len = c->partial_size = 0;
        consume(c, data, len);
        free(data);
    }
}

/* ---- Time ---- */

void client_answered(struct client *c)
{
    struct loop *loop = &c->worker->loop;
    c->unanswered = false;
    if (c->paused)
        wait_for(c);
    c->heard_ms = (uint32_t)loop_now_ms(loop);
    loop_timer_stop(loop, &c->timer);
    if (c->keep_alive_s > 0)
        loop_timer_start(loop, &c->timer, (int64_t)c->keep_alive_s * 1500);
}

void client_timer_ended(struct timer_wheel *wheel, struct timer *timer)
{
    (void)wheel;
    struct client *c = CONTAINER_OF(timer, struct client, timer);
    struct worker *worker = c->worker;
    if (c->ending)
        return;
    if (c->connecting) {
        client_refuse(c, MQTT_KEEP_ALIVE_TIMEOUT, "no CONNECT within connect_timeout");
        return;
    }
    if (c->unanswered) {
        connect_give_up(c, "the disk has not been ready within connect_timeout");
        return;
    }
    /* One and a half times the keep-alive [MQTT-3.1.2-22]. A paused connection is not at fault, unless it is because it
     * reads nothing. */
    uint32_t now = (uint32_t)loop_now_ms(&worker->loop), limit = c->keep_alive_s * 1500u;
    if (c->paused && !client_is_behind(c))
        c->heard_ms = now;
    uint32_t silent = now - c->heard_ms;
    if (silent >= limit)
        client_end(c, MQTT_KEEP_ALIVE_TIMEOUT, NULL);
    else
        loop_timer_start(&worker->loop, &c->timer, limit - silent);
}
