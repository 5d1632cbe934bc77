/* SPDX-License-Identifier: MIT */

/*
 * What is on its way to one session: messages of QoS 1 and 2 that have been sent and not been acknowledged to
 * the end (flights), and messages that wait for their turn (the queue). It does not outlive its session;
 * one that is empty is freed soon, so an idle session has none. The worker's thread.
 *
 * Packet identifiers are given in order, 1 to 65535 and around; so the flights are a ring that is indexed by
 * them, and an acknowledgement in any order costs the same. When the oldest is not acknowledged for 65535
 * messages the window counts as full.
 */

#ifndef TOCSIN_BROKER_FLOW_H
#define TOCSIN_BROKER_FLOW_H

#include "broker/publication.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kept;
struct session;
struct share_member;
struct worker;

/* The subscription identifiers that a message carries to one session [MQTT-3.3.4-3]; shared by its copies, so
 * counted. One worker's. */
struct identifiers {
    uint32_t refs;
    uint32_t count;
    uint32_t values[];
};

static inline struct identifiers *identifiers_ref(struct identifiers *ids)
{
    if (ids)
        ids->refs++;
    return ids;
}
void identifiers_unref(struct identifiers *ids); /* NULL is allowed */
struct identifiers *identifiers_new(const uint32_t *values, size_t count);

/* How a message goes to one session. */
struct terms {
    struct identifiers *ids;    /* NULL for none */
    struct share_member *share; /* by which shared subscription; NULL for none */
    uint8_t qos;                /* what it is delivered with */
    bool retain;                /* the flag it is delivered with */
};

enum flight_state {
    FLIGHT_DONE,        /* a place whose message has been acknowledged before an older one */
    FLIGHT_PUBLISHED_1, /* waits for PUBACK */
    FLIGHT_PUBLISHED_2, /* waits for PUBREC */
    FLIGHT_RELEASED,    /* waits for PUBCOMP */
};

struct flow_item {
    struct publication
        *publication; /* NULL: in flight of a session that ends with its connection, or
                                      * received by a client that has only to release it */
    struct terms terms;
    struct kept *kept; /* its place on disk (durable.h); NULL for none */
    uint8_t state;
    bool unsent; /* of an earlier connection, not sent again yet */
    bool held;   /* not to be sent (its PUBREL, if it was received) before that is on disk */
    bool again;  /* may have been sent before the last start: with DUP */
};

struct flow {
    struct flow *next, **link; /* the worker's list of all */
    struct session *owner;
    struct worker *worker; /* of the owner; notes what has ended */

    struct flow_item *ring;
    uint32_t ring_mask; /* places less 1; 0: none */
    uint32_t ring_at;   /* place of the oldest */
    uint16_t span;      /* places in use, from the oldest to the newest */
    uint16_t first_id;  /* packet identifier of the oldest, or of the next one if there is none */
    uint16_t in_flight; /* published and not acknowledged, sent by this connection */
    uint16_t unsent;    /* of an earlier connection, not sent again yet, */
    uint16_t unsent_at; /* and which place may be the first of them */
    uint16_t held; /* of QoS 2, that wait for the disk: what comes later is not sent before them */
    uint64_t in_flight_bytes;

    struct flow_item *queue;
    uint32_t queue_places, queue_at, queued; /* a ring too */
    uint64_t queued_bytes;
    uint32_t staying; /* of the queue, those that are never spilled: of shared subscriptions */
    uint64_t staying_bytes;
    uint32_t looked_at; /* the second in which expired messages were looked for */

    /* What of the queue is on disk only: behind all that is in memory and may be spilled. */
    uint64_t spilled, spilled_bytes;
    uint64_t spill_after; /* those with a higher number (kept.number) */
    uint32_t
        spill_expires; /* in which second the first of them expires, or earlier; 0: none does */
    uint16_t again;    /* of them, the first so many may have been sent before the last start */
    bool loading; /* some of it is on its way back, or those that have expired are looked for */
};

/* Makes one and puts it into the list at `*head`. NULL when there is no memory. */
struct flow *flow_new(struct flow **head, struct session *owner);

/* Makes it the first of the list; those before it come behind the last. */
void flows_begin_with(struct flow **head, struct flow *flow);

/* Drops everything, takes it out of the list, and frees. NULL is allowed. */
void flow_free(struct flow *flow);

static inline bool flow_is_empty(const struct flow *flow)
{
    return flow->span == 0 && flow->queued == 0 && flow->spilled == 0;
}

/* How many of the queue in memory may be spilled. */
static inline uint32_t flow_spillable(const struct flow *flow)
{
    return flow->queued - flow->staying;
}

static inline uint64_t flow_spillable_bytes(const struct flow *flow)
{
    return flow->queued_bytes - flow->staying_bytes;
}

/* Whether another message may be sent. */
static inline bool flow_has_room(const struct flow *flow, uint32_t window, uint64_t window_bytes)
{
    return flow->in_flight < window && flow->span < 65535 &&
           (window_bytes == 0 || flow->in_flight_bytes < window_bytes || flow->in_flight == 0);
}

/*
 * Puts a message in flight: takes the references to `publication` and `kept` (which may be NULL, see above) and
 * those of the terms. Returns its packet identifier, or 0 when there is no
 * memory; then nothing was taken.
 */
uint16_t flow_launch(struct flow *flow, struct publication *publication, struct kept *kept,
                     const struct terms *terms);

/* Puts one in flight as it was before the last start, not sent yet; identifiers come in the order in which they were
 * given. Returns 0, -EINVAL for an identifier that cannot follow, or -ENOMEM; then nothing was taken. */
int flow_restore(struct flow *flow, uint16_t id, const struct flow_item *item);

/* The flight of an identifier, or NULL if there is none that is not done. */
struct flow_item *flow_flight(struct flow *flow, uint16_t id);

/* It has been acknowledged to the end: drops what it holds, and lets places go that are not needed any more. */
void flow_land(struct flow *flow, struct flow_item *item);

/* A client has it [PUBREC]: the message is not needed any more, only its identifier. */
void flow_received(struct flow *flow, struct flow_item *item);

/* Messages of QoS 1, the oldest, that have been sent and not acknowledged, now or before the last start. */
uint32_t flow_sent(const struct flow *flow);

/* The connection is gone: all flights have to be sent again. */
void flow_interrupted(struct flow *flow);

/* The oldest flight that has to be sent again; sets `*id`. Counts it as sent. NULL for none. */
struct flow_item *flow_next_unsent(struct flow *flow, uint16_t *id);

/* Appends to the queue; takes references as flow_launch(). Returns 0 or -ENOMEM. */
int flow_queue(struct flow *flow, struct publication *publication, struct kept *kept,
               const struct terms *terms);

/* The head of the queue, or NULL; and takes it out: its references are the caller's. */
const struct flow_item *flow_queue_head(const struct flow *flow);
struct flow_item flow_queue_take(struct flow *flow);

/* Drops from the queue what has expired by `second`. Returns how many. Looks once a second: a queue that is full may be
 * long, and be asked for each message. */
size_t flow_queue_expire(struct flow *flow, uint32_t second);

/* The same with all that an item has. */
int flow_queue_item(struct flow *flow, const struct flow_item *item);

/* Forgets the last of the queue in memory, if it is on disk and of no shared subscription, so that it counts as spilled.
 * Returns whether it did. */
bool flow_spill_last(struct flow *flow);

/* One of those on disk only expires in that second; 0: never. */
void flow_spill_expires(struct flow *flow, uint32_t second);

/* Drops the references of an item that is in no flow any more, but not its place on disk. */
void flow_item_release(struct flow_item *item);

/*
 * Offers what came by shared subscriptions and has not been received for sure: what is queued, and flights of
 * QoS 1 of an earlier connection; those of QoS 2 stay [MQTT-4.8.2-5], and those of this connection are completed
 * [MQTT-3.10.4-3]. Calls `orphan` with each, and whether it has been sent; it is taken out if that returns true,
 * then its references are orphan's. Else it stays where it is. With `only` only that member's.
 */
void flow_take_shared(struct flow *flow, const struct share_member *only,
                      bool (*orphan)(void *context, struct flow_item *item, bool sent),
                      void *context);

#endif
