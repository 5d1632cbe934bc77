/* SPDX-License-Identifier: MIT */

/*
 * What a link subscribes, so that each message is handed on once, however many of the wanted filters
 * match it.
 *
 * Filters that others cover are left out (their QoS is kept, by raising that of the others). Filters that
 * still overlap are told apart in one of two ways:
 *
 * - With subscription identifiers (MQTT 5) each of them has one. A broker sends a copy for each
 *   subscription, or one copy with all identifiers; the copy with the smallest identifier among the
 *   filters that match is taken. That needs no memory of earlier messages.
 * - Without, overlapping filters are joined into a wider one. What comes in excess finds no route.
 *
 * An identifier depends on all the filters that overlap each other, so a message that waited in the
 * broker while they were changed has identifiers that are not known any more. It is taken: rather twice
 * than never.
 *
 * A plan never changes once made.
 */

#ifndef TOCSIN_LINK_SUBSCRIPTIONS_H
#define TOCSIN_LINK_SUBSCRIPTIONS_H

#include "link/links.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct subscription {
    const char *filter;
    uint8_t qos;
    uint32_t id; /* 1 to 268435455; 0: none is needed */
};

struct subscriptions {
    struct subscription *list; /* in the order in which to subscribe: smaller identifiers of filters
                                * that overlap first, so that nothing is lost between two of them */
    size_t count;
    size_t widened; /* filters that were joined into wider ones */
    struct subscriptions_own *own;
};

/* Makes a plan. The filters are copied, must be valid, and may have duplicates. Returns 0 and sets
 * `*out`, or -ENOMEM. */
int subscriptions_new(const struct link_filter *filters, size_t n, bool identifiers,
                      struct subscriptions **out);

void subscriptions_free(struct subscriptions *subscriptions); /* NULL is allowed */

/* The subscription of exactly this filter, or NULL. */
const struct subscription *subscriptions_find(const struct subscriptions *subscriptions,
                                              const char *filter);

/* Whether to take this copy of a message, which came with `n` identifiers. */
bool subscriptions_take(const struct subscriptions *subscriptions, const char *topic, size_t len,
                        const uint32_t *ids, size_t n);

#endif
