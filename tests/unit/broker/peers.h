/* SPDX-License-Identifier: MIT */

/*
 * For tests of the broker from the socket inwards: a broker whose workers have no threads, and clients at the other
 * ends of socket pairs. Nothing happens but in turns(), so what a test sees is always the same. One thread.
 */

#ifndef TOCSIN_TESTS_PEERS_H
#define TOCSIN_TESTS_PEERS_H

#include "base/buf.h"
#include "broker/client.h"
#include "broker/worker.h"
#include "mqtt/packet.h"

/* A broker of a configuration's text, which must be right. Nothing listens. */
struct broker *quiet_broker(const char *text);

/* Some turns of all workers: all that was on its way has arrived. */
void turns(struct broker *broker);

/* Ends it as a broker that runs is ended, checks that nothing is left, and frees. */
void quiet_broker_end(struct broker *broker);

struct peer {
    struct broker *broker;
    int fd;
    enum mqtt_level level;
    struct buf got, text;
};

/* Opens a connection to a listener, by number, at a worker. */
void peer_open(struct peer *peer, struct broker *broker, enum mqtt_level level, unsigned worker,
               size_t listener);
void peer_close(struct peer *peer); /* does nothing if it is closed */

/* Each sends a packet, and lets the broker have its turns. */
void peer_send(struct peer *peer, const void *data, size_t len);
void peer_connect(struct peer *peer, const char *id, bool clean, uint32_t expiry);
void peer_subscribe(struct peer *peer, uint16_t packet_id, const char *filter, uint8_t qos,
                    uint32_t id);
void peer_subscribe_as(struct peer *peer, uint16_t packet_id,
                       const struct mqtt_subscription *wanted, uint32_t id);
void peer_unsubscribe(struct peer *peer, uint16_t packet_id, const char *filter);
void peer_publish(struct peer *peer, const char *topic, const char *payload, uint8_t flags,
                  uint16_t packet_id);
void peer_ack(struct peer *peer, enum mqtt_type type, uint16_t packet_id);

/* A subscription to a filter, "$share/..." too, for peer_subscribe_as(). */
struct mqtt_subscription wanted(const char *filter, uint8_t qos);

/* The next packet as packet_text.h has it; "nothing", or "closed". Valid until the next call. */
const char *peer_next(struct peer *peer);

/* Opens a connection with a session, whose CONNACK is read. */
void peer_begin(struct peer *peer, struct broker *broker, enum mqtt_level level, const char *id,
                bool clean);

#define EXPECT(PEER, TEXT) assert_string_equal(peer_next(PEER), TEXT)

#endif
