/* SPDX-License-Identifier: MIT */

/*
 * A mailbox: the way of things from many threads to one. Any thread posts, one thread takes. What one thread
 * has posted is taken in that order. Posting neither locks nor allocates nor waits; what is posted is linked
 * by a `struct mail` inside it.
 *
 * The taker is woken by an eventfd, and only if it said that it sleeps: whoever posts first after that writes
 * to it, once. So a taker that is busy costs its posters no system call.
 *
 * Things are posted by the bag, so that a turn's output for one taker costs one atomic exchange.
 */

#ifndef TOCSIN_LOOP_MAILBOX_H
#define TOCSIN_LOOP_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mail {
    struct mail *next;
};

/* What one thread collects for one taker. Zeroed, it is empty. It links from the newest to the oldest. */
struct mailbag {
    struct mail *newest, *oldest;
};

static inline bool mailbag_is_empty(const struct mailbag *bag)
{
    return bag->newest == NULL;
}

static inline void mailbag_add(struct mailbag *bag, struct mail *mail)
{
    mail->next = bag->newest;
    bag->newest = mail;
    if (!bag->oldest)
        bag->oldest = mail;
}

struct mailbox {
    char before[64];               /* its posters' cache line has nothing else in it */
    _Atomic(struct mail *) newest; /* or a mark: the taker sleeps */
    int fd;                        /* the eventfd */
    char after[64];
};

/* Returns 0 or a negative errno value. */
int mailbox_init(struct mailbox *box);

/* Closes its descriptor. Nobody may post any more, and nothing may be in it: take it before. */
void mailbox_release(struct mailbox *box);

/* Posts what is in the bag, which is empty afterwards; an empty one does nothing. Any thread. */
void mailbox_post(struct mailbox *box, struct mailbag *bag);

/* Posts one thing. Any thread. */
void mailbox_post_one(struct mailbox *box, struct mail *mail);

/* Takes all that is there, linked by `next`, oldest first; NULL if there is nothing. The taker's thread; it
 * does not sleep any more. */
struct mail *mailbox_take(struct mailbox *box);

/*
 * The taker is about to wait. Returns true if the mailbox is empty: from now on the first one who posts writes
 * to the descriptor. Returns false if there is something to take. The taker's thread.
 *
 * Wait for the descriptor with EPOLLET and never read it: each write is an event.
 */
bool mailbox_sleep(struct mailbox *box);

/* Wakes the taker without posting, whether it sleeps or not. Any thread. */
void mailbox_wake(struct mailbox *box);

#endif
