/* SPDX-License-Identifier: MIT */

/* The subscriptions of sessions, and the retained messages that new ones bring. The worker's thread. */

#ifndef TOCSIN_BROKER_SUBSCRIBE_H
#define TOCSIN_BROKER_SUBSCRIBE_H

#include "broker/worker.h"
#include "mqtt/packet.h"

/* Retained messages on their way to a new subscription: a bit at a time, as the client takes them. A session's walks
 * come one after the other; the worker's list has the first of each. */
struct retained_walk {
    struct retained_walk *next; /* of another session */
    struct retained_walk *later,
        *last; /* of this one; `last` and `count` are right in the first only */
    size_t count;
    struct session *session;
    struct retained_cursor cursor;
    uint32_t answer; /* that goes before it, of the session's tenure */
    struct identifiers *ids;
    uint8_t qos;
};

/* Goes on with all walks. Whether some could go on at once. */
bool walks_go_on(struct worker *worker);

/* A subscription that was there before the start; its filter has the mount point. Returns 0 or more, or -ENOMEM. */
int subscriptions_restore(struct worker *worker, struct session *session,
                          const struct mqtt_subscription *wanted, uint32_t id);

/* Takes a session out of a shared subscription; what it has of it goes to others. The member is no longer in the
 * session's list. */
void subscriptions_leave(struct worker *worker, struct session *session,
                         struct share_member *member);

/* Drops all subscriptions and walks of a session that ends. */
void subscriptions_drop(struct worker *worker, struct session *session);

#endif
