/* SPDX-License-Identifier: MIT */

/*
 * A list to which posters add at its head, from the newest to the oldest; the taker takes it as a whole and turns
 * it round. As nobody else takes, a head that has not changed means a list that has not changed.
 *
 * The mark that the taker sleeps stands in the place of the head of an empty list, so that a poster learns of it
 * in the same step that adds, and it is one poster that does.
 */

#include "loop/mailbox.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct mail asleep;

int mailbox_init(struct mailbox *box)
{
    atomic_init(&box->newest, NULL);
    box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return box->fd < 0 ? -errno : 0;
}

void mailbox_release(struct mailbox *box)
{
    if (box->fd >= 0)
        close(box->fd);
    box->fd = -1;
}

void mailbox_wake(struct mailbox *box)
{
    /* It fails only when the counter is full, and then the taker has been woken. */
    const uint64_t one = 1;
    ssize_t written = write(box->fd, &one, sizeof(one));
    (void)written;
}

void mailbox_post(struct mailbox *box, struct mailbag *bag)
{
    if (mailbag_is_empty(bag))
        return;
    struct mail *before = atomic_load_explicit(&box->newest, memory_order_relaxed);
    do {
        bag->oldest->next = before == &asleep ? NULL : before;
    } while (!atomic_compare_exchange_weak_explicit(&box->newest, &before, bag->newest,
                                                    memory_order_acq_rel, memory_order_relaxed));
    *bag = (struct mailbag){ 0 };
    if (before == &asleep)
        mailbox_wake(box);
}

void mailbox_post_one(struct mailbox *box, struct mail *mail)
{
    struct mailbag bag = { 0 };
    mailbag_add(&bag, mail);
    mailbox_post(box, &bag);
}

struct mail *mailbox_take(struct mailbox *box)
{
    /* A look is cheaper than an exchange, and most turns find nothing. */
    if (!atomic_load_explicit(&box->newest, memory_order_relaxed))
        return NULL;
    struct mail *mail = atomic_exchange_explicit(&box->newest, NULL, memory_order_acq_rel);
    if (mail == &asleep)
        return NULL;

    struct mail *first = NULL;
    while (mail) {
        struct mail *older = mail->next;
        mail->next = first;
        first = mail;
        mail = older;
    }
    return first;
}

bool mailbox_sleep(struct mailbox *box)
{
    struct mail *before = NULL;
    return atomic_compare_exchange_strong_explicit(&box->newest, &before, &asleep,
                                                   memory_order_acq_rel, memory_order_relaxed) ||
           before == &asleep;
}
