/* SPDX-License-Identifier: MIT */

/*
 * Keeps what is subscribed at the broker equal to what is wanted: over connects, resumed sessions and
 * changes on a live connection. Belongs to the receiving thread, except where it says "any thread".
 */

#ifndef TOCSIN_LINK_SUBSCRIBER_H
#define TOCSIN_LINK_SUBSCRIBER_H

#include "link/links.h"

#include <mosquitto.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct subscriber;

struct subscriber_config {
    const char *link;    /* lives as long as the program, as the others */
    bool skip_retained;  /* ask the broker for no retained messages */
    const char *file;    /* see remembered.h; NULL for none */
    const char *session; /* the same */
};

/* NULL when there is no memory. */
struct subscriber *subscriber_new(const struct subscriber_config *config);
void subscriber_free(struct subscriber *subscriber); /* NULL is allowed */

/* Sets what is wanted from the next subscriber_apply() on. Any thread. Returns 0 or -ENOMEM. */
int subscriber_set_filters(struct subscriber *subscriber, const struct link_filter *filters,
                           size_t n);

/* Whether subscriber_apply() has something to do. */
bool subscriber_changed(const struct subscriber *subscriber);

/* There is a new connection, with a session that still has our subscriptions if it was resumed. */
void subscriber_connected(struct subscriber *subscriber, bool resumed);

/* Queues SUBSCRIBE and UNSUBSCRIBE packets. Returns 0 or a negative errno value, and then the connection
 * is to be given up. */
int subscriber_apply(struct subscriber *subscriber, struct mosquitto *mosq, bool identifiers);

/* SUBACK and UNSUBACK. The first logs and returns how many filters the broker has refused. */
size_t subscriber_answered(struct subscriber *subscriber, int mid, int count, const int *granted,
                           bool v5);
void subscriber_unsubscribed(struct subscriber *subscriber, int mid);

/* Whether all that is wanted has been applied and answered on this connection. Any thread. */
bool subscriber_is_settled(const struct subscriber *subscriber);

/* Whether to take this copy of a message; see subscriptions_take(). */
bool subscriber_takes(const struct subscriber *subscriber, const char *topic, size_t len,
                      const uint32_t *ids, size_t n);

#endif
