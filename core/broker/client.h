/* SPDX-License-Identifier: MIT */

/*
 * A client's connection: cuts packets out of what it reads, in place, and writes what others have put into its
 * output. It has a buffer only while a packet is incomplete. The worker's thread.
 *
 * Memory for a packet grows with the bytes that have come, never with the length that its header claims.
 */

#ifndef TOCSIN_BROKER_CLIENT_H
#define TOCSIN_BROKER_CLIENT_H

#include "broker/output.h"
#include "broker/session.h"
#include "broker/worker.h"
#include "mqtt/packet.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aliases;

struct client {
    struct loop_source source;
    struct timer timer; /* until CONNACK: connect_timeout; then the keep-alive */
    struct worker *worker;
    struct session *session; /* NULL until CONNECT has been accepted, and after it was taken over */
    struct broker_listener *listener;
    struct transport *transport;
    struct client *next, **link; /* the worker's list of all */
    struct client *next_touched;
    struct client *next_paused;
    struct output output;
    struct aliases *aliases; /* topic aliases of both ways; NULL for none */

    /* A packet that has not come as a whole: bytes; or, if it is long, a block that begins with room for a
     * struct publication, since it may become one as it lies. */
    uint8_t *partial;
    uint32_t partial_len, partial_size;

    uint32_t heard_ms;   /* when the last packet came: the low bits of the loop's clock */
    uint32_t max_packet; /* the client's Maximum Packet Size; 0: none */
    uint32_t waiting;    /* messages of QoS 1 and 2 whose acknowledgement waits for somebody, */
    uint16_t keep_alive_s;
    uint16_t receipts;      /* and those of QoS 1 alone */
    uint16_t alias_maximum; /* the client's Topic Alias Maximum */
    uint16_t inherited;     /* QoS 2 identifiers that earlier connections left */
    uint8_t level;          /* enum mqtt_level */
    uint8_t reason;         /* of the end: enum mqtt_reason */
    bool is_long : 1;       /* see partial */
    bool touched : 1;       /* in the list of the turn's end */
    bool ending : 1;        /* to be closed there */
    bool graceful : 1;      /* the client has said goodbye: no will */
    bool blocked : 1;       /* waits until it can write */
    bool paused : 1;        /* is read from no further for now */
    bool in_paused : 1;     /* in the worker's list of them */
    bool problems : 1;      /* Request Problem Information: wants reason strings */
    bool named_here : 1;    /* the client id was assigned */
    bool connecting : 1;    /* CONNECT has not come yet */
    bool unanswered : 1;    /* CONNACK waits for the disk; till then nothing is read */
    bool finished : 1;      /* it sends no more: what it has sent is read after CONNACK */
};

/* A new connection, of a listener's acceptor. Takes the descriptor. */
void client_open(struct worker *worker, struct broker_listener *listener, int fd);

/* Takes over a connection from another worker, with the packets that it has read. */
void client_arrive(struct worker *worker, struct client *client);

/* Throws away one that was on its way to a worker that has ended. */
void client_discard(struct worker *worker, struct client *client);

/* Ends it at the end of the turn: nothing more is read. With a reason of 0x80 or more (or
 * MQTT_SERVER_SHUTTING_DOWN and the like) a client of 5.0 is told; `why` (may be NULL) is for the log and, if it
 * wants, the client. May be called again, which does nothing. */
void client_end(struct client *client, enum mqtt_reason reason, const char *why);

/* The same for a packet that is against the rules: counted, and logged at a limited rate. */
void client_refuse(struct client *client, enum mqtt_reason reason, const char *why);

/* Something was put into its output, or it is to be ended. */
void client_touch(struct client *client);

/* Writes what there is now, if there is much; what is left goes at the turn's end. */
void client_relieve(struct client *client);

/* The turn's end: flushes and closes what was touched. */
void clients_settle(struct worker *worker);

/* Whether so much waits to be written to it that nothing more is read from it, which might want an answer. */
bool client_is_behind(const struct client *client);

/* Reads no more until client_resume(); what has been read and not looked at waits. */
void client_pause(struct client *client);
void client_resume(struct client *client);

/* It has been answered: its keep-alive begins. */
void client_answered(struct client *client);

/* Whether the client takes a packet of that length; one that must be sent and is not ends the connection
 * [MQTT-3.1.2-24]. */
static inline bool client_takes(struct client *c, size_t len)
{
    if (c->max_packet == 0 || len <= c->max_packet)
        return true;
    client_end(c, MQTT_PACKET_TOO_LARGE, "no answer is within its Maximum Packet Size");
    return false;
}

/* Appends a small packet. */
static inline uint8_t *client_room(struct client *c, size_t len)
{
    if (!client_takes(c, len))
        return NULL;
    uint8_t *at = output_room(&c->output, &c->worker->pool, len);
    if (!at)
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
    return at;
}

static inline void client_commit(struct client *c, size_t len)
{
    output_commit(&c->output, len);
    COUNT(c->worker, packets_sent, 1);
    if (!c->touched)
        client_touch(c);
}

/* Appends an acknowledgement. */
void client_acknowledge(struct client *c, enum mqtt_type type, uint16_t packet_id,
                        enum mqtt_reason reason);

/* The timer of a connection has ended. */
void client_timer_ended(struct timer_wheel *wheel, struct timer *timer);

/* What is needed when printing it. */
#define CLIENT_NAME(C) ((C)->session ? (C)->session->id : "?")

/* ---- What packets do: each in the file of its name; false never needs a look, they end the connection
 * themselves ---- */

/* Whether the client of this CONNECT packet belongs to another worker: the number of its owner. */
unsigned connect_owner(struct client *c, const uint8_t *body, size_t len);

void on_connect(struct client *c, const uint8_t *body, size_t len);

/* Ends one whose CONNACK has waited, with one that says no. */
void connect_give_up(struct client *c, const char *why);

void on_publish(struct client *c, uint8_t first, const uint8_t *body, size_t len);
void on_ack(struct client *c, enum mqtt_type type, const uint8_t *body, size_t len);
void on_subscribe(struct client *c, const uint8_t *body, size_t len);
void on_unsubscribe(struct client *c, const uint8_t *body, size_t len);

#endif
