/* SPDX-License-Identifier: MIT */

/*
 * The circuit breaker of a target. Part of the queue (queue.h), and locked with it.
 *
 *   closed     everything goes; so many failures in a row, without a success between them, open it
 *   open       nothing goes until its time is over
 *   half-open  one delivery is on its way, the probe: if it comes through, the breaker closes, else it opens again, for
 *              longer than before
 *
 * The probe is what is due first when the time is over. What was on its way when the breaker opened neither opens it again
 * nor makes it stay open for longer; but where it comes through, the breaker closes. That the service refuses a delivery for
 * good is an answer, so it counts as coming through.
 */

#ifndef TOCSIN_DELIVERY_BREAKER_H
#define TOCSIN_DELIVERY_BREAKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum breaker_state {
    BREAKER_CLOSED,
    BREAKER_OPEN,
    BREAKER_HALF_OPEN,
};

/* "closed", "open", "half-open". */
const char *breaker_state_name(enum breaker_state state);

struct breaker_rules {
    int64_t failures; /* in a row; 0: it never opens */
    int64_t open_ms;  /* the first time */
    double factor;    /* by which it grows from one time to the next, */
    int64_t max_ms;   /* up to this */
};

/* Begins zeroed. */
struct breaker {
    enum breaker_state state;
    unsigned failures; /* in a row */
    unsigned probes;   /* in vain since it opened */
    int64_t open_ms;   /* for how long it opened the last time */
    int64_t until_ms;  /* when it is open: the end of it */
    uint64_t opened;   /* how often it was opened while it was closed */
    bool news;         /* its state has changed; whoever tells of it takes this back */
};

/* How many of `max` may go now, with so many on their way. */
size_t breaker_allows(const struct breaker *breaker, int64_t now_ms, size_t flying, size_t max);

/* Some of these go. */
void breaker_go(struct breaker *breaker);

/* The target has answered. Returns whether the breaker was not closed. */
bool breaker_works(struct breaker *breaker);

/* It has failed. Returns whether the breaker is open from now on. */
bool breaker_fails(struct breaker *breaker, const struct breaker_rules *rules, int64_t now_ms);

/* One that was on its way was not tried; the probe, perhaps: another one may go. */
void breaker_untried(struct breaker *breaker);

#endif
