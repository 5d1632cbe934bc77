/* SPDX-License-Identifier: MIT */

#include "peers.h"

#include "../mqtt/packet_text.h"
#include "../suite.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct broker *quiet_broker(const char *text)
{
    log_set_level(TOCSIN_LOG_ERROR);
    struct conf *conf = NULL;
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct broker *broker = NULL;
    assert_int_equal(conf_load_text("test", text, &conf, &errors), 0);
    CHECK(broker_new(conf, &broker, &errors) == 0, "%s", buf_str(&errors.text));
    conf_errors_release(&errors);
    conf_unref(conf);
    for (unsigned i = 0; i < broker->worker_count; i++)
        assert_non_null(broker->workers[i] = worker_new(broker, i));
    return broker;
}

void turns(struct broker *broker)
{
    for (int round = 0; round < 4; round++)
        for (unsigned i = 0; i < broker->worker_count; i++)
            assert_int_equal(loop_turn(&broker->workers[i]->loop, false), 0);
}

void quiet_broker_end(struct broker *broker)
{
    for (unsigned i = 0; i < broker->worker_count; i++)
        assert_int_equal(worker_order(broker->workers[i], ORDER_STOP, NULL), 0);
    turns(broker);
    for (unsigned i = 0; i < broker->worker_count; i++)
        sessions_release(broker->workers[i]);
    for (unsigned i = 0; i < broker->worker_count; i++)
        worker_clear(broker->workers[i]);
    struct broker_stats stats;
    broker_stats(broker, &stats);
    assert_int_equal(stats.sockets, 0);
    assert_int_equal(stats.clients_connected, 0);
    assert_int_equal(stats.clients_total, 0);
    assert_int_equal(stats.subscriptions, 0);
    assert_int_equal(stats.shared_subscriptions, 0);
    broker_free(broker);
    log_set_level(TOCSIN_LOG_INFO);
}

void peer_open(struct peer *peer, struct broker *broker, enum mqtt_level level, unsigned worker,
               size_t listener)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    *peer = (struct peer){
        .broker = broker,
        .fd = pair[0],
        .level = level,
        .got = BUF_INIT(64u << 20),
        .text = BUF_INIT(64u << 20),
    };
    client_open(broker->workers[worker], &broker->settings.listeners[listener], pair[1]);
    turns(broker);
}

void peer_close(struct peer *peer)
{
    if (peer->fd < 0)
        return;
    close(peer->fd);
    peer->fd = -1;
    buf_release(&peer->got);
    buf_release(&peer->text);
    turns(peer->broker);
}

void peer_send(struct peer *peer, const void *data, size_t len)
{
    const uint8_t *at = data;
    while (len > 0) {
        ssize_t n = send(peer->fd, at, len, MSG_NOSIGNAL);
        CHECK(n > 0 || errno == EAGAIN || errno == EPIPE, "cannot send: %s", strerror(errno));
        if (n < 0 && errno == EPIPE)
            break;
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
        turns(peer->broker);
    }
}

void peer_connect(struct peer *peer, const char *id, bool clean, uint32_t expiry)
{
    uint8_t properties[16], packet[256];
    struct mqtt_property_writer w = { .data = properties, .room = sizeof(properties) };
    if (expiry && peer->level == MQTT_5_0)
        mqtt_property_add_number(&w, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL, expiry);
    struct mqtt_connect connect = {
        .level = peer->level,
        .clean_start = clean,
        .client_id = { id, strlen(id) },
        .properties.raw = mqtt_property_written(&w),
    };
    size_t len = mqtt_write_connect(packet, sizeof(packet), &connect);
    assert_true(len <= sizeof(packet));
    peer_send(peer, packet, len);
}

struct mqtt_subscription wanted(const char *filter, uint8_t qos)
{
    const struct mqtt_string text = { filter, strlen(filter) };
    return (struct mqtt_subscription){ .text = text, .filter = text, .qos = qos };
}

void peer_subscribe_as(struct peer *peer, uint16_t packet_id, const struct mqtt_subscription *what,
                       uint32_t id)
{
    uint8_t properties[16], packet[1024];
    struct mqtt_property_writer w = { .data = properties, .room = sizeof(properties) };
    if (id)
        mqtt_property_add_number(&w, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER, id);
    size_t len = mqtt_write_subscribe(packet, sizeof(packet), peer->level, packet_id, what, 1,
                                      mqtt_property_written(&w));
    assert_true(len <= sizeof(packet));
    peer_send(peer, packet, len);
}

void peer_subscribe(struct peer *peer, uint16_t packet_id, const char *filter, uint8_t qos,
                    uint32_t id)
{
    const struct mqtt_subscription what = wanted(filter, qos);
    peer_subscribe_as(peer, packet_id, &what, id);
}

void peer_unsubscribe(struct peer *peer, uint16_t packet_id, const char *filter)
{
    const struct mqtt_subscription what = wanted(filter, 0);
    uint8_t packet[1024];
    size_t len = mqtt_write_unsubscribe(packet, sizeof(packet), peer->level, packet_id, &what, 1,
                                        (struct mqtt_slice){ NULL, 0 });
    assert_true(len <= sizeof(packet));
    peer_send(peer, packet, len);
}

void peer_publish(struct peer *peer, const char *topic, const char *payload, uint8_t flags,
                  uint16_t packet_id)
{
    const struct mqtt_publish_head head = {
        .topic = { topic, strlen(topic) },
        .payload_len = strlen(payload),
        .packet_id = packet_id,
        .qos = flags >> 1 & 3,
        .dup = flags & MQTT_FLAG_DUP,
        .retain = flags & MQTT_FLAG_RETAIN,
    };
    size_t len = mqtt_write_publish_head(NULL, 0, peer->level, &head, NULL);
    uint8_t *packet = malloc(len + head.payload_len + 1);
    assert_non_null(packet);
    mqtt_write_publish_head(packet, len, peer->level, &head, NULL);
    memcpy(packet + len, payload, head.payload_len);
    peer_send(peer, packet, len + head.payload_len);
    free(packet);
}

void peer_ack(struct peer *peer, enum mqtt_type type, uint16_t packet_id)
{
    uint8_t packet[MQTT_ACK_LENGTH];
    mqtt_write_ack_short(packet, type, packet_id);
    peer_send(peer, packet, sizeof(packet));
}

/* Puts the first packet of `got` into words, and takes it out. */
static bool take(struct peer *peer)
{
    size_t header, body;
    uint8_t *got = (uint8_t *)peer->got.data;
    if (peer->got.len == 0 || mqtt_packet_length(got, peer->got.len, &header, &body) != 1 ||
        peer->got.len < header + body)
        return false;
    const struct any_packet packet = {
        .first = got[0],
        .body = got + header,
        .len = body,
        .level = peer->level,
        .sender = MQTT_FROM_SERVER,
    };
    buf_clear(&peer->text);
    CHECK(packet_text(&packet, &peer->text) == MQTT_SUCCESS, "no server sends %02x %zu", got[0],
          body);
    memmove(got, got + header + body, peer->got.len - header - body);
    buf_cut(&peer->got, peer->got.len - header - body);
    return true;
}

const char *peer_next(struct peer *peer)
{
    static char bytes[65536];
    turns(peer->broker);
    for (;;) {
        if (take(peer))
            return buf_str(&peer->text);
        ssize_t n = recv(peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return "closed";
        if (n < 0)
            return "nothing";
        assert_int_equal(buf_add(&peer->got, bytes, (size_t)n), 0);
        turns(peer->broker);
    }
}

void peer_begin(struct peer *peer, struct broker *broker, enum mqtt_level level, const char *id,
                bool clean)
{
    peer_open(peer, broker, level, 0, 0);
    peer_connect(peer, id, clean, clean ? 0 : 1000);
    CHECK(strncmp(peer_next(peer), "CONNACK", 7) == 0, "%s", buf_str(&peer->text));
}
