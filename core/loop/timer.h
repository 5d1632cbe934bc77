/* SPDX-License-Identifier: MIT */

/*
 * A hierarchical timer wheel: start, restart and stop cost the same however many timers run. It is given the
 * time (milliseconds of a clock that never jumps back) and reads no clock; it allocates nothing. A wheel and
 * its timers belong to one thread.
 *
 * A timer never ends early, and at most TIMER_TICK_MS late, plus what its owner is late with
 * timer_wheel_advance(). Spans have no limit that matters (2 million years).
 *
 * Timers carry no function: they have a kind, and the wheel knows one function for each kind. The function
 * finds what the timer is part of by CONTAINER_OF().
 */

#ifndef TOCSIN_LOOP_TIMER_H
#define TOCSIN_LOOP_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TIMER_TICK_MS 16 /* a power of two */
#define TIMER_KINDS   16 /* most kinds of a wheel */
#define TIMER_LEVELS  9  /* of 64 slots each: all of the 52 bits of a tick */

/* Part of what it is for; zeroed, it is a timer that does not run. It must not be freed or moved while it
 * runs. 24 bytes. */
struct timer {
    struct timer *next;
    struct timer **link; /* what points to it; NULL while it does not run */
    uint64_t due : 52;   /* ticks */
    uint64_t kind : 8;   /* from timer_wheel_kind(); set by whoever starts it */
};

struct timer_wheel;

/* A timer of the kind has ended; it does not run any more. The function may start, stop and free timers, this
 * one and others. */
typedef void timer_ended(struct timer_wheel *wheel, struct timer *timer);

struct timer_wheel {
    uint64_t now;                    /* ticks; all timers due by then have ended */
    uint64_t occupied[TIMER_LEVELS]; /* a bit for each slot that is not empty */
    struct timer *slots[TIMER_LEVELS][64];
    timer_ended *ended[TIMER_KINDS];
};

void timer_wheel_init(struct timer_wheel *wheel, int64_t now_ms);

/* The number of the kind whose timers end with a call of `ended`; a new one at the first call, of which there
 * may be TIMER_KINDS. */
uint8_t timer_wheel_kind(struct timer_wheel *wheel, timer_ended *ended);

/* Starts a timer, or starts it anew. It ends at `due_ms`, or with the next tick if that is past. Its kind has
 * to be set. */
void timer_start(struct timer_wheel *wheel, struct timer *timer, int64_t due_ms);

/* Does nothing if it does not run. */
void timer_stop(struct timer_wheel *wheel, struct timer *timer);

static inline bool timer_is_running(const struct timer *timer)
{
    return timer->link != NULL;
}

/* When it ends, rounded up to a tick. Only while it runs. */
static inline int64_t timer_due_ms(const struct timer *timer)
{
    return (int64_t)(timer->due * TIMER_TICK_MS);
}

#define TIMER_NEVER INT64_MAX

/* When timer_wheel_advance() is to be called next: when a timer ends, or earlier, as the wheel has to sort
 * those that are far away; TIMER_NEVER if none runs. */
int64_t timer_wheel_next(const struct timer_wheel *wheel);

/* Ends the timers that are due by `now_ms`, in the order of their ticks. A time before that of the last call
 * does nothing. Not to be called by what it calls. */
void timer_wheel_advance(struct timer_wheel *wheel, int64_t now_ms);

#endif
