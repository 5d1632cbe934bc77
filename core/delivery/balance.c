/* SPDX-License-Identifier: MIT */

/*
 * The accounts of all targets: what came in is what went out and what is here. Each target's add up whenever its
 * service's lock is free, since everything that moves a delivery counts it at both ends in one go. A delivery on its
 * way from one target to another is in neither: then more has been handed over than taken over.
 */

#include "delivery/service.h"

/* All services that there are, also those that are ending, and sums of those that are no more. Before a service's
 * lock, if both are needed. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct service *all;
static struct target_stats past;

void balance_target(const struct service_target *t, struct target_stats *out)
{
    const struct target_flow *flow = &t->flow;
    queue_target_stats(t->queue, out);
    out->created = flow->created;
    out->restored = flow->restored;
    out->revived = flow->revived;
    out->taken_over = flow->taken_over;
    out->moved_in += flow->moved_in;
    out->forgotten += flow->forgotten;
    out->refused = flow->refused;
    out->handed_over = flow->handed_over;
    out->unreadable = flow->unreadable;
    out->removed = flow->removed;
    out->suppressed = flow->suppressed;
    out->left = flow->left;
    out->waiting += t->spilled;
    out->spilled = t->spilled;
    out->failing = t->failing.interval_ms > 0;
}

int64_t target_stats_difference(const struct target_stats *s)
{
    uint64_t in = s->created + s->restored + s->revived + s->taken_over + s->moved_in;
    uint64_t out = s->sent + s->rejected + s->given_up + s->dropped + s->forgotten + s->refused +
                   s->moved_out + s->handed_over + s->unreadable + s->removed + s->left +
                   s->suppressed;
    return (int64_t)(in - out - s->waiting);
}

static void add(struct target_stats *sum, const struct target_stats *more)
{
    sum->created += more->created;
    sum->restored += more->restored;
    sum->revived += more->revived;
    sum->taken_over += more->taken_over;
    sum->moved_in += more->moved_in;
    sum->sent += more->sent;
    sum->rejected += more->rejected;
    sum->given_up += more->given_up;
    sum->dropped += more->dropped;
    sum->forgotten += more->forgotten;
    sum->refused += more->refused;
    sum->moved_out += more->moved_out;
    sum->handed_over += more->handed_over;
    sum->unreadable += more->unreadable;
    sum->removed += more->removed;
    sum->suppressed += more->suppressed;
    sum->left += more->left;
    sum->waiting += more->waiting;
    sum->spilled += more->spilled;
    sum->retried += more->retried;
    sum->opened += more->opened;
    sum->retrying += more->retrying;
    sum->held += more->held;
    sum->bytes += more->bytes;
    sum->failing |= more->failing;
}

void balance_add(struct service *service)
{
    pthread_mutex_lock(&all_lock);
    service->prev = NULL;
    service->next = all;
    if (all)
        all->prev = service;
    all = service;
    pthread_mutex_unlock(&all_lock);
}

static bool is_listed(const struct service *service)
{
    return service->prev || service->next || all == service;
}

void balance_remove(struct service *service)
{
    pthread_mutex_lock(&all_lock);
    if (is_listed(service)) {
        for (size_t i = 0; i < service->target_count; i++) {
            struct target_stats stats;
            balance_target(service->targets[i], &stats);
            stats.left += stats.waiting;
            stats.waiting = stats.spilled = stats.retrying = stats.held = stats.bytes = 0;
            stats.failing = false;
            add(&past, &stats);
        }
        if (service->prev)
            service->prev->next = service->next;
        else
            all = service->next;
        if (service->next)
            service->next->prev = service->prev;
    }
    pthread_mutex_unlock(&all_lock);
}

void services_sum(struct target_stats *sum,
                  void (*unbalanced)(void *context, const struct target *target,
                                     const struct target_stats *stats),
                  void *context)
{
    pthread_mutex_lock(&all_lock);
    *sum = past;
    for (struct service *s = all; s; s = s->next) {
        pthread_mutex_lock(&s->lock);
        for (size_t i = 0; i < s->target_count; i++) {
            struct target_stats stats;
            balance_target(s->targets[i], &stats);
            add(sum, &stats);
            if (unbalanced && target_stats_difference(&stats) != 0)
                unbalanced(context, &s->targets[i]->target, &stats);
        }
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&all_lock);
}
