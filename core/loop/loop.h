/* SPDX-License-Identifier: MIT */

/*
 * An epoll loop with a timer wheel and a mailbox. It belongs to the thread that runs it; only loop_post(),
 * loop_post_one() and loop_stop() may be called by others.
 *
 * A turn: wait; read the clocks; `turn_start`; the sources that are ready; the mail; the timers that are due; `turn_end`,
 * where output that has collected leaves.
 *
 * A source may be removed, and freed, at any time, also while its event waits in the same turn: that event
 * is forgotten.
 */

#ifndef TOCSIN_LOOP_LOOP_H
#define TOCSIN_LOOP_LOOP_H

#include "loop/mailbox.h"
#include "loop/timer.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#define LOOP_EVENTS 512 /* most events of a turn; what is left comes with the next, in turn */

/* A descriptor that is waited for; part of what it is for. 16 bytes. */
struct loop_source {
    /* `events` as epoll gives them: EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP. */
    void (*ready)(struct loop_source *source, uint32_t events);
    int fd;
    uint32_t events; /* what it waits for now; 0 while it is in no loop */
};

struct loop {
    struct timer_wheel timers;
    struct mailbox mailbox;

    /* Set by the owner after loop_init(). `mail` is needed if anybody posts; it is given all that has come,
     * oldest first. All may be NULL. */
    void (*mail)(struct loop *loop, struct mail *first);
    void (*turn_start)(struct loop *loop);
    void (*turn_end)(struct loop *loop);

    /* Private. */
    int64_t now_ms, wall_ms;
    uint64_t turns;
    int epoll_fd;
    bool again;
    atomic_bool stopping;
    int event_at,
        event_count; /* while sources are called: the next event, and how many there are */
    struct loop_source waker;
    struct epoll_event events[LOOP_EVENTS];
};

/* Returns 0 or a negative errno value; loop_release() is then not needed. */
int loop_init(struct loop *loop);

/* Closes what loop_init() opened. Sources and timers still in it are forgotten; mail must have been taken. */
void loop_release(struct loop *loop);

/* Runs turns until loop_stop(). Returns 0, or a negative errno value if epoll fails. */
int loop_run(struct loop *loop);

/* One turn, which waits if `may_wait`. loop_run() is this until it is stopped. */
int loop_turn(struct loop *loop, bool may_wait);

/* loop_run() returns at the end of this turn, or wakes up for a last one. Any thread. */
void loop_stop(struct loop *loop);

/* The next turn does not wait: there is more to do than this turn was to take. */
static inline void loop_again(struct loop *loop)
{
    loop->again = true;
}

/* The clocks, read once at the beginning of a turn: milliseconds that never jump, and since 1970 (UTC). */
static inline int64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}
static inline int64_t loop_wall_ms(const struct loop *loop)
{
    return loop->wall_ms;
}

/*
 * Waits for `events` (EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLET, EPOLLEXCLUSIVE) of a descriptor. `ready` and `fd`
 * of the source are set before. Returns 0 or a negative errno value (-ENOSPC: the system's limit of watches).
 */
int loop_add(struct loop *loop, struct loop_source *source, uint32_t events);

/* Waits for other events (not those that were added with EPOLLEXCLUSIVE). The same ones again cost nothing. */
int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events);

/* Waits no more. Before the descriptor is closed. Does nothing if the source is in no loop. */
void loop_remove(struct loop *loop, struct loop_source *source);

static inline bool loop_has(const struct loop_source *source)
{
    return source->events != 0;
}

/* Posts to the loop's mailbox, which calls `mail`. Any thread. */
static inline void loop_post(struct loop *loop, struct mailbag *bag)
{
    mailbox_post(&loop->mailbox, bag);
}
static inline void loop_post_one(struct loop *loop, struct mail *mail)
{
    mailbox_post_one(&loop->mailbox, mail);
}

/* Timers by the loop's clock, `span_ms` from now. */
static inline void loop_timer_start(struct loop *loop, struct timer *timer, int64_t span_ms)
{
    timer_start(&loop->timers, timer, loop->now_ms + span_ms);
}
static inline void loop_timer_stop(struct loop *loop, struct timer *timer)
{
    timer_stop(&loop->timers, timer);
}

#endif
