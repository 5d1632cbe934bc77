/* SPDX-License-Identifier: MIT */

/*
 * Retained messages: the last one of each topic [MQTT-3.3.1-5], for those who subscribe later.
 *
 * All workers share it. Any thread: a read-write lock inside, held for one call; writers go first. The
 * callbacks run under the lock, so they must be short and must not call retained_*() themselves. Times are in
 * seconds of the clock of publication.expires.
 *
 * The topic is stored in the publication only: the publications are kept in the order of their topics, in
 * which a topic is followed at once by all topics below it. So a filter without wildcards costs one look-up,
 * `a/b/#` what is below `a/b`, and `+` skips from one candidate to the next. A message takes about 25
 * bytes beside its publication (tests/bench/trees.c).
 *
 * A walk goes in steps, since `#` on a million messages would otherwise hold up a worker and fill its
 * queues: see retained_scan().
 */

#ifndef TOCSIN_BROKER_RETAINED_H
#define TOCSIN_BROKER_RETAINED_H

#include "broker/publication.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct retained;

/* NULL when there is no memory. */
struct retained *retained_new(void);

/* Drops all messages. NULL is allowed. */
void retained_free(struct retained *retained);

/* Retains a publication with a reference of its own, in place of the one its topic had. Returns 0 or -ENOMEM,
 * when nothing has changed. */
int retained_set(struct retained *retained, struct publication *publication);

/* Forgets the message of a topic, as an empty payload asks for [MQTT-3.3.1-6]. Returns whether there was one. */
bool retained_clear(struct retained *retained, const char *topic, size_t len);

/* A reference to the message of a topic, expired or not; NULL if there is none. */
struct publication *retained_find(struct retained *retained, const char *topic, size_t len);

/*
 * A walk over what matches a filter. It copies the filter, so it may outlive the SUBSCRIBE packet, and keeps
 * its place as a reference to the publication that comes next, so it stays valid whatever happens in between: a
 * topic that had the same message all the time is visited exactly once; one whose message was set, replaced or
 * cleared in between is visited at most once, with the message that it has then.
 */
struct retained_cursor {
    char *filter;
    size_t filter_len;
    struct publication *at;
};

/* Begins a walk with a valid filter. Returns 0 or -ENOMEM; retained_cursor_release() is allowed either way,
 * and for one that is all zero. */
int retained_cursor_init(struct retained_cursor *cursor, const char *filter, size_t len);
void retained_cursor_release(struct retained_cursor *cursor);

/*
 * Goes on with a walk: looks at up to `max` topics (at least 1; matching or not, so this bounds the time: 1,000
 * take about a quarter of a millisecond) and calls `visit` with each publication that matches and has not expired
 * (`expires` <= `now`). `visit` takes a reference if it keeps the publication; it returns false to stop
 * before this one (no room now), which is then the first of the next call. Expired ones that were met are
 * dropped. Filters that start with a wildcard do not match topics that start with '$' [MQTT-4.7.2-1].
 *
 * Returns whether there is more to come: call again, perhaps after other work. Allocates nothing.
 */
bool retained_scan(struct retained *retained, struct retained_cursor *cursor, uint32_t now,
                   size_t max, bool (*visit)(struct publication *publication, void *context),
                   void *context);

/* Looks at up to `max` further messages and drops the expired ones; begins again after the last. Costs
 * nothing while no message has an expiry. For a timer: 1,000 every second sweeps a million in a
 * quarter of an hour. Returns how many were dropped. */
size_t retained_sweep(struct retained *retained, uint32_t now, size_t max);

struct retained_stats {
    size_t count;    /* messages */
    size_t bytes;    /* of the publications, publication_size() */
    size_t overhead; /* of this structure */
};
struct retained_stats retained_stats(struct retained *retained);

#endif
