/* SPDX-License-Identifier: MIT */

/*
 * Looks through what a target has on disk for what is urgent, and for all that must go before it: earlier ones of the same
 * topics. On the way it notes which topics there are. An index knows the urgent ones; the rest is read, some at a time, so
 * that the writer's thread has time for others.
 */

#ifndef TOCSIN_DELIVERY_SCAN_H
#define TOCSIN_DELIVERY_SCAN_H

#include "delivery/keep.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCAN_MOST_URGENT 1000  /* that are looked for at a time */
#define SCAN_MOST        10000 /* numbers that are found at a time */

struct scan_topic {
    uint64_t hash, last; /* number of the last urgent one of this topic */
};

/* Begins zeroed, but for the first part. Belongs to the caller until `done` has been called, and then again. */
struct scan {
    struct store *store;
    struct keep_range range; /* its names outlive the scan */
    void (*done)(struct scan *scan);

    /* What was found. */
    uint64_t *numbers; /* in ascending order */
    size_t count;
    bool more;        /* there is more that is urgent */
    uint64_t *topics; /* of all in the range (topics.h); NULL when there was no memory */

    /* Private. */
    struct store_task task;
    struct scan_topic wanted[SCAN_MOST_URGENT];
    size_t wanted_count, safe_wanted_count;
    bool has_wanted, at_end;
    uint64_t at, safe_at;
    size_t safe_count, cap;
};

/* Calls `done` on the store's thread. */
void scan_post(struct scan *scan);

/* The same at once, before anything is put: does not call `done`, and looks at nothing else where nothing is urgent. So that
 * the start does not wait for it, it ends after some thousand rows or some megabytes: then there is `more`, and `topics` is
 * NULL. Returns 0 or a negative errno value. */
int scan_now(struct scan *scan);

/* Frees what was found. */
void scan_release(struct scan *scan);

#endif
