/* SPDX-License-Identifier: MIT */

/*
 * The subscriptions of one worker: which subscribers want a message with a given topic name.
 *
 * It belongs to one thread and does no I/O. A subscriber (a session, a shared group, an embedded link) is
 * a struct that embeds a `struct subscriber`; the tree chains each subscriber's subscriptions through it, so
 * that listing or dropping them costs what there are of them, and the subscriber stores nothing else.
 *
 * Filters and topic names must be valid (mqtt/topic.h) and are compared as bytes [MQTT-4.7.3-4]; a filter
 * of a shared subscription is given without its "$share/GROUP/". Texts of any number of levels work, without
 * recursion. Adding and removing cost the filter's length, however many subscribers there are.
 *
 * What a match can cost: a topic name of n levels visits at most 2^n nodes and at most those that there
 * are, for at each level it takes the level's own branch and that of '+'. Who makes a million filters out
 * of "a" and "+" makes others pay for it, so the caller limits levels (max_topic_levels) and the number of
 * subscriptions; nothing here ends a match early, since that would lose deliveries.
 *
 * A subscription takes about 78 bytes (tests/bench/trees.c): a node of 15 bytes and the text it does not share
 * with other filters, a place in a hash table, and an entry of 32 bytes.
 */

#ifndef TOCSIN_BROKER_FILTERS_H
#define TOCSIN_BROKER_FILTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct filters;

/* Embedded in whoever subscribes; all zero at the beginning. It must not move while it has subscriptions. */
struct subscriber {
    uint32_t first; /* the tree's own */
    uint32_t count; /* subscriptions: may be read */
};

/* Bits of subscription.options: those of the SUBSCRIBE packet, MQTT 5.0 section 3.8.3.1. Retain Handling is
 * of use only in the moment of subscribing and not kept. */
enum subscription_options {
    SUBSCRIPTION_QOS = 0x03,
    SUBSCRIPTION_NO_LOCAL = 0x04,
    SUBSCRIPTION_RETAIN_AS_PUBLISHED = 0x08,
    SUBSCRIPTION_KEPT = 0x0f, /* all that is kept */
};

struct subscription {
    struct subscriber *subscriber;
    uint32_t id;     /* Subscription Identifier, 1 to 268,435,455; 0 is none */
    uint8_t options; /* enum subscription_options; other bits are ignored */
};

/* NULL when there is no memory. */
struct filters *filters_new(void);

/* Frees the tree; subscribers that still have subscriptions are not touched. NULL is allowed. */
void filters_free(struct filters *filters);

/* What filters_add() and filters_remove() have done, as bits. */
enum filters_change {
    FILTERS_REPLACED =
        1,             /* the subscriber had this filter: its options and id are the new ones now */
    FILTERS_FIRST = 2, /* the filter was not in the tree: tell the other workers (interest.h) */
    FILTERS_LAST = 4,  /* the filter is no longer in the tree: the same */
};

/* Adds a subscription, or replaces the one that this subscriber has of the same filter [MQTT-3.8.4-3]. Returns
 * FILTERS_REPLACED, FILTERS_FIRST or 0 (new, and others have this filter too), or -ENOMEM, when
 * nothing has changed. */
int filters_add(struct filters *filters, const char *filter, size_t len,
                const struct subscription *subscription);

/* Removes one. Returns FILTERS_LAST or 0, or -ENOENT when the subscriber has no such subscription. */
int filters_remove(struct filters *filters, const char *filter, size_t len,
                   struct subscriber *subscriber);

/* Whether the subscriber has the filter; copies the subscription to `*out` unless NULL. */
bool filters_find(const struct filters *filters, const char *filter, size_t len,
                  const struct subscriber *subscriber, struct subscription *out);

/*
 * Drops a subscriber's subscriptions, at most `max` in one call (a session may have a million). Calls `last`,
 * unless it is NULL, with each filter that thereby left the tree; the text lives as long as the call, and `last`
 * must not touch the tree. Returns true when none is left. Never fails.
 */
bool filters_drop(struct filters *filters, struct subscriber *subscriber, size_t max,
                  void (*last)(const char *filter, size_t len, void *context), void *context);

/* Calls `each` with all subscriptions of one subscriber, the newest first. `each` must not change the tree;
 * the text lives as long as the call. */
void filters_list(struct filters *filters, const struct subscriber *subscriber,
                  void (*each)(const char *filter, size_t len,
                               const struct subscription *subscription, void *context),
                  void *context);

/*
 * Calls `visit` with each subscription whose filter matches a topic name, in no order; a subscriber with
 * several that match is visited for each. Filters that start with a wildcard do not match topic names that
 * start with '$' [MQTT-4.7.2-1]. `visit` must not change the tree. Allocates nothing.
 */
void filters_match(const struct filters *filters, const char *topic, size_t len,
                   void (*visit)(const struct subscription *subscription, void *context),
                   void *context);

/* A number that is another one after each change, for who caches the outcome of filters_match(). */
uint64_t filters_generation(const struct filters *filters);

struct filters_stats {
    size_t filters;       /* different ones */
    size_t subscriptions; /* of all subscribers */
    size_t bytes;         /* memory that is held, without struct subscriber */
};
struct filters_stats filters_stats(const struct filters *filters);

#endif
