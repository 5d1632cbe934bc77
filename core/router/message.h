/* SPDX-License-Identifier: MIT */

/*
 * A message on its way through the router: immutable and reference-counted, because it has many
 * readers (routes, deliveries that wait).
 *
 * The link that made it wants to know when it has been taken over, that is when every delivery that
 * it led to has a place in a queue (later: is on disk): only then may it be acknowledged. For that,
 * a message also counts holds: it is made with one, each delivery that has no place yet takes one more,
 * and whoever drops the last calls the link. Any thread.
 */

#ifndef TOCSIN_ROUTER_MESSAGE_H
#define TOCSIN_ROUTER_MESSAGE_H

#include "tocsin/plugin.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message;
struct message_follower;

/* The link of messages that the router makes itself. */
#define MESSAGE_INTERNAL "internal"

/* Called once, by the thread that drops the last hold; it must be quick and must not block. */
typedef void message_taken_fn(struct message *message, void *context);

struct message {
    atomic_uint refs;
    atomic_uint holds;
    atomic_bool refused;     /* see message_refuse() */
    message_taken_fn *taken; /* NULL when nobody waits for it */
    void *taken_context;

    struct message *next; /* for the queue it is in: between link and shard it is in one at most */

    int64_t received_ms; /* wall clock */
    const char *link;    /* name; lives as long as the program */
    uint64_t generation; /* of the link's connection that brought it */
    uint8_t qos;
    bool retain;
    bool dup;           /* its sender may have sent it before */
    uint8_t hops;       /* how often a router has republished it already */
    uint16_t packet_id; /* that the sender gave it */
    uint64_t sender;    /* a hash of who sent it, the same in another run; 0: it is not known */

    struct message_follower *_Atomic followers; /* see message_follow() */

    const struct tocsin_properties *properties; /* in the same block of memory; NULL for none */
    uint32_t topic_len;
    size_t payload_len;
    const char *topic;      /* NUL-terminated, valid UTF-8; in the same block of memory */
    const uint8_t *payload; /* `payload_len` bytes and a NUL; in the same block of memory */
};

/*
 * Makes a message with one reference and one hold, with copies of topic, payload and properties
 * (NULL for none). The other members are set by the caller before anybody else sees it. Returns NULL
 * when there is no memory.
 */
struct message *message_new(const char *topic, size_t topic_len, const void *payload,
                            size_t payload_len, const struct tocsin_properties *properties);

struct message *message_ref(struct message *message);
void message_unref(struct message *message); /* NULL is allowed */

void message_hold(struct message *message);

/* Drops a hold, and at the last one calls `taken`. The caller still has its reference. */
void message_release_hold(struct message *message);

/* Says that a delivery it led to could not be made, for lack of memory: it must not be acknowledged, but sent
 * again. By who still has a hold. Any thread. */
void message_refuse(struct message *message);

/* Who sends by a link, for message->sender: the client, as far as the link tells them apart (else `len` is 0). Never 0. */
uint64_t message_sender(const char *link, const void *client, size_t len);

/* Takes a hold on `follower` that goes when `message` is taken, and refuses it if that one was: for the same message that
 * has come again meanwhile. Returns 0, -EALREADY when it has been taken, or -ENOMEM. Any thread, by who has a reference to
 * the one and a hold on the other. */
int message_follow(struct message *message, struct message *follower);

/* Bytes of memory that it takes. */
size_t message_size(const struct message *message);

#endif
