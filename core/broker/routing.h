/* SPDX-License-Identifier: MIT */

/*
 * Who gets a message: the worker's own sessions, shared subscriptions, other workers, taps. The answer is
 * cached for each topic name until a subscription changes, so that the usual publish costs one look-up. The
 * worker's thread.
 */

#ifndef TOCSIN_BROKER_ROUTING_H
#define TOCSIN_BROKER_ROUTING_H

#include "broker/flow.h"
#include "broker/publication.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kept;
struct worker;
struct session;
struct share;
struct receipt;

/* A message that is being published: it lies in the packet it came by, until somebody has to keep it. */
struct publish {
    const char *topic; /* with the mount point */
    size_t topic_len;
    const uint8_t *properties; /* those that are carried on */
    size_t properties_len;
    const uint8_t *payload;
    size_t payload_len;
    uint32_t expires; /* second of the broker's clock; 0: never */
    uint8_t qos;
    bool retain;
    bool dup;
    uint16_t packet_id;           /* that the publisher gave it; 0: none */
    const struct session *from;   /* for No Local; NULL for nobody */
    struct publication *kept;     /* see publish_keep() */
    const struct broker_tap *tap; /* that does not want it back; NULL for none */
    struct receipt *receipt;      /* made by the first tap that takes it; see receipt.h */
    struct kept *was;             /* its place on disk with a session that gives it away; NULL */
    uint64_t message;             /* what it is called on disk (durable_op.h); 0: nothing yet */
    bool wants_receipt;           /* its publisher waits for an acknowledgement */
    bool elsewhere;               /* out: the receipt waits for taps or other workers too */
    bool failed;  /* out: there was no memory for all of it; it must not be acknowledged */
    bool crowded; /* out: somebody it was for has much to do: read from its publisher no further */
};

/* The message as something to keep; made at the first call. The reference belongs to `publish`: take another.
 * NULL when there is no memory. */
struct publication *publish_keep(struct publish *publish);

/* A publish of something that is kept already, whose reference is borrowed. */
struct publish publish_of(struct publication *publication);

/* Has the receipt wait for another worker too; made if need be. NULL if its publisher wants none, or nobody there keeps
 * anything on disk. */
struct receipt *publish_share_receipt(struct worker *worker, struct publish *publish);

/* Drops the reference of publish_keep(), unless it was borrowed. */
void publish_release(struct publish *publish, const struct publication *borrowed);

/* Delivers to all who want it. Returns how many these are, other workers and taps as one each. */
size_t route(struct worker *worker, struct publish *publish);

/* Only to the worker's own sessions: for what other workers have been given to publish. */
void route_here(struct worker *worker, struct publish *publish);

/* Sets or clears the retained message of a topic, as a publication with that flag asks for. */
void route_retain(struct worker *worker, struct publish *publish);

/* The QoS of a message that was published with one QoS, to who may get another. */
uint8_t routing_qos(const struct worker *worker, uint8_t published, uint8_t granted);

/* ---- The cache ---- */

struct receiver {
    struct session *session;
    struct identifiers *ids;
    uint8_t qos;
    bool as_published; /* Retain As Published */
    bool not_to_self;  /* No Local */
    bool
        only_to_self; /* what is left for the publisher itself, when some of its subscriptions have No Local */
};

struct routed {
    uint64_t hash;
    uint64_t here;     /* generations of the worker's subscriptions, */
    uint64_t interest; /* of the other workers', */
    uint64_t shared;   /* and of the shared ones */
    uint64_t others;   /* workers and taps, by bits */
    struct receiver *receivers;
    struct share **shares;
    uint32_t receiver_count, share_count;
    size_t bytes;
    bool used; /* since the last sweep came by */
    uint8_t tap_qos[8];
    uint16_t topic_len;
    char topic[];
};

struct routing_cache {
    struct routed **places; /* one for each hash; the newer replaces the older */
    struct routed *last;    /* that was asked for: messages of one topic often come in a row */
    size_t mask;
    size_t count, bytes;
    size_t swept; /* places, from the first on */
};

/* Forgets topics that nobody has published to for a while, and those whose answer is out of date. Once a second; each
 * look is at a tenth of them. */
void routing_sweep(struct worker *worker);

void routing_release(struct routing_cache *cache);

#endif
