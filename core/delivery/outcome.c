/* SPDX-License-Identifier: MIT */

/* Ways into the queue and out of it: submitting, and what is said and freed when a batch is done. */

#include "base/clock.h"
#include "delivery/keep.h"
#include "delivery/seen.h"
#include "delivery/service.h"
#include "ledger/ledger.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GRANTS_AT_ONCE 64

/* ---- What the log is told about one delivery ---- */

enum note {
    NOTE_NOTHING,
    NOTE_DEBUG,
    NOTE_FAILS, /* the target's trouble has begun, or goes on */
    NOTE_WORKS, /* and is over */
    NOTE_REJECTED,
    NOTE_GIVEN_UP,
    NOTE_MOVES,
};

static enum note choose_note(struct service_target *t, enum queue_fate fate, int64_t now_ms)
{
    switch (fate) {
    case QUEUE_SENT:
        if (log_trouble_over(&t->failing))
            return NOTE_WORKS;
        break;
    case QUEUE_RETRYING:
        if (log_trouble_due(&t->failing, now_ms))
            return NOTE_FAILS;
        break;
    case QUEUE_REJECTED:
        if (log_trouble_due(&t->rejecting, now_ms))
            return NOTE_REJECTED;
        break;
    case QUEUE_GIVEN_UP:
        if (log_trouble_due(&t->giving_up, now_ms))
            return NOTE_GIVEN_UP;
        break;
    case QUEUE_MOVING:
        if (log_trouble_due(&t->moving, now_ms))
            return NOTE_MOVES;
        break;
    case QUEUE_FORGOTTEN:
    case QUEUE_UNTRIED:
        return NOTE_NOTHING;
    }
    return log_enabled(TOCSIN_LOG_DEBUG) ? NOTE_DEBUG : NOTE_NOTHING;
}

static void write_debug(const char *service, const struct delivery *d,
                        const struct tocsin_delivery *r, enum queue_fate fate)
{
    static const char *const words[] = {
        [QUEUE_SENT] = "sent",
        [QUEUE_REJECTED] = "rejected",
        [QUEUE_GIVEN_UP] = "given up",
        [QUEUE_RETRYING] = "to be tried again",
        [QUEUE_MOVING] = "to go on to its fallback",
    };
    log_debug("%s: delivery %s target=%s topic=%s id=%s attempt=%u%s%s%s%s", service, words[fate],
              r->target_name, d->view.topic, d->id, r->attempt, r->receipt[0] ? " receipt=" : "",
              r->receipt, r->reason[0] ? ": " : "", r->reason);
}

/* Without the lock: a delivery that is in the queue again may be handed on to another service meanwhile, so of
 * it only what never changes is looked at. */
static void write_note(enum note note, const char *service, const struct delivery *d,
                       const struct tocsin_delivery *r, enum queue_fate fate)
{
    if (note == NOTE_NOTHING)
        return;
    const char *name = r->target_name;
    const char *reason = r->reason[0] ? r->reason : "no reason given";
    switch (note) {
    case NOTE_NOTHING:
        break;
    case NOTE_DEBUG:
        write_debug(service, d, r, fate);
        break;
    case NOTE_FAILS:
        log_warning("%s: delivery failed, will be tried again target=%s topic=%s attempt=%u: %s",
                    service, name, d->view.topic, r->attempt, reason);
        break;
    case NOTE_WORKS:
        log_info("%s: target works again target=%s", service, name);
        break;
    case NOTE_REJECTED:
        log_error("%s: delivery rejected target=%s topic=%s: %s", service, name, d->view.topic,
                  reason);
        break;
    case NOTE_GIVEN_UP:
        log_error("%s: delivery given up target=%s topic=%s attempts=%u: %s", service, name,
                  d->view.topic, r->attempt, reason);
        break;
    case NOTE_MOVES:
        log_warning("%s: delivery failed, goes on to %s target=%s topic=%s attempt=%u: %s", service,
                    d->fallback->address, name, d->view.topic, r->attempt, reason);
        break;
    }
}

static void tell_breaker(const struct service_target *t, const struct breaker *b)
{
    const char *service = t->service->name, *name = t->target.name;
    switch (b->state) {
    case BREAKER_CLOSED:
        log_info("%s: breaker closed, the target works target=%s", service, name);
        break;
    case BREAKER_OPEN:
        if (b->probes == 0)
            log_warning("%s: breaker open, nothing is tried for %" PRId64
                        " ms target=%s failures=%u",
                        service, b->open_ms, name, b->failures);
        else
            log_debug("%s: breaker open again, for %" PRId64 " ms target=%s", service, b->open_ms,
                      name);
        break;
    case BREAKER_HALF_OPEN:
        log_debug("%s: breaker half-open, one delivery is tried target=%s", service, name);
        break;
    }
}

void service_tell_news(struct service *s)
{
    if (!queue_has_news(s->queue))
        return;
    queue_news_told(s->queue);
    for (size_t i = 0; i < s->target_count; i++) {
        struct breaker now;
        if (queue_target_news(s->targets[i]->queue, &now))
            tell_breaker(s->targets[i], &now);
    }
}

/* ---- Out ---- */

/* Whether the target's queue, once full, is empty again. With the lock. */
static bool has_drained(struct service_target *t)
{
    if (t->full.interval_ms == 0)
        return false;
    struct target_stats stats;
    queue_target_stats(t->queue, &stats);
    return stats.waiting == 0 && t->spilled == 0 && log_trouble_over(&t->full);
}

/* Drops and takes the lock. */
static void give_places(struct service *s)
{
    struct queue_granted granted[GRANTS_AT_ONCE];
    size_t n;
    while ((n = queue_grant(s->queue, granted, GRANTS_AT_ONCE)) > 0) {
        for (size_t i = 0; i < n && s->host->keeper; i++)
            keep_put(s->host->keeper, granted[i].delivery, true);
        for (size_t i = 0; i < n && s->host->seen && !s->host->keeper; i++)
            seen_safe(s->host->seen, granted[i].delivery, false);
        pthread_mutex_unlock(&s->lock);
        for (size_t i = 0; i < n; i++) {
            message_release_hold(granted[i].message);
            message_unref(granted[i].message);
        }
        pthread_mutex_lock(&s->lock);
    }
}

/* Those that are to be tried again are on disk from now on, with their time. With the lock: they are in the queue
 * again. */
static void keep_retries(const struct service *s, struct delivery *const *batch,
                         const struct tocsin_delivery *results, size_t n,
                         const enum queue_fate *fates, int64_t now_ms)
{
    struct keeper *keeper = s->host->keeper;
    int64_t wall_ms = keeper ? clock_wall_ms() : 0;
    for (size_t i = 0; i < n && keeper; i++)
        if (fates[i] == QUEUE_RETRYING)
            keep_retry(keeper, batch[i], batch[i]->attempts, wall_ms + batch[i]->due_ms - now_ms,
                       results[i].reason);
}

void service_bury(const struct services_host *host, struct delivery *d, const char *reason,
                  unsigned attempts)
{
    const bool told = !host->dead || strncmp(d->message->topic, "tocsin/", 7) == 0 ||
                      host->dead(host->context, d, reason, attempts);
    if (host->keeper)
        keep_bury(host->keeper, d, attempts, reason, !told);
}

static void end_delivery(const struct services_host *host, struct delivery *d,
                         const struct tocsin_delivery *result, enum queue_fate fate)
{
    const bool dead = fate == QUEUE_REJECTED || fate == QUEUE_GIVEN_UP;
    const char *reason = result->reason[0] ? result->reason : "no reason given";
    if (host->seen && fate == QUEUE_FORGOTTEN)
        seen_forget(host->seen, d);
    else if (host->seen && !(dead && host->keeper)) /* else when it is on disk */
        seen_safe(host->seen, d, false);
    if (dead)
        service_bury(host, d, reason, result->attempt);
    else if (host->keeper)
        keep_end(host->keeper, d);
}

void service_settle(struct service *service, struct delivery *const *batch,
                    const struct tocsin_delivery *results, size_t n, struct settling *room)
{
    int64_t now_ms = clock_mono_ms();
    const struct service_target *drained = NULL;

    if (queue_settle(service->queue, now_ms, batch, results, n, room->fates))
        for (size_t i = 0; i < service->worker_count; i++)
            service_wake(service, i);
    service_tell_news(service);
    for (size_t i = 0; i < n; i++) {
        struct service_target *t = service_target_of(batch[i]);
        enum note note = choose_note(t, room->fates[i], now_ms);
        room->notes[i] = (uint8_t)note;
        /* In the queue again it is not ours any more: what is to be logged is borrowed. */
        if (note != NOTE_NOTHING && room->fates[i] >= QUEUE_RETRYING)
            delivery_borrow(batch[i]);
        if (t->spilled > 0 || t->more_dead)
            spill_load(t);
        if (has_drained(t))
            drained = t;
    }
    service_note(service, batch, results, n, room->fates, true);
    keep_retries(service, batch, results, n, room->fates, now_ms);
    give_places(service);
    bool moving = queue_has_moving(service->queue);
    pthread_mutex_unlock(&service->lock);

    if (moving)
        service_move(service);
    service_note(service, batch, results, n, room->fates, false);
    for (size_t i = 0; i < n; i++) {
        enum queue_fate fate = room->fates[i];
        if (fate < QUEUE_RETRYING)
            end_delivery(service->host, batch[i], &results[i], fate);
        write_note(room->notes[i], service->name, batch[i], &results[i], fate);
        if (fate < QUEUE_RETRYING)
            delivery_free(batch[i]);
        else if (room->notes[i] != NOTE_NOTHING)
            delivery_return(batch[i]);
    }
    if (drained)
        log_info("%s: queue is empty again target=%s", service->name, drained->target.name);
    pthread_mutex_lock(&service->lock);
}

/* ---- In ---- */

/* Whether it is time to say that a queue is full. With the lock. */
static bool note_full(struct service_target *t, enum queue_place place, int64_t now_ms)
{
    return (place == QUEUE_HELD || place == QUEUE_DROPPED) && log_trouble_due(&t->full, now_ms);
}

static void count_origin(struct target_flow *flow, enum origin origin)
{
    flow->created += origin == ORIGIN_ROUTE;
    flow->taken_over += origin == ORIGIN_OLD;
    flow->revived += origin == ORIGIN_DEAD;
}

void service_submit(struct service *service, struct delivery *first, enum origin origin,
                    int64_t now_ms)
{
    struct delivery *dropped = NULL;
    const struct service_target *full = NULL;
    enum queue_place full_place = QUEUE_PLACED;

    pthread_mutex_lock(&service->lock);
    while (first) {
        struct delivery *d = first;
        first = d->next;
        struct service_target *t = service_target_of(d);
        size_t worker;
        count_origin(&t->flow, origin);
        if (spill_is_needed(t, d)) {
            if (log_trouble_due(&t->full, now_ms))
                full = t;
            spill(t, d, NULL);
            continue;
        }
        enum queue_place place = queue_submit(service->queue, t->queue, d, now_ms, &worker);
        if (note_full(t, place, now_ms)) {
            full = t;
            full_place = place;
        }
        const bool has_place = place == QUEUE_PLACED || place == QUEUE_PASSED;
        if (has_place && !service->host->keeper && service->host->seen)
            seen_safe(service->host->seen, d, false);
        if (has_place && service->host->keeper) {
            keep_order(service->host->keeper, d);
            /* One that had a place before has let go of its message, which may have been taken since. */
            if (d->message->qos > 0)
                keep_put(service->host->keeper, d, origin == ORIGIN_ROUTE);
        }
        if (place == QUEUE_DROPPED) {
            d->next = dropped;
            dropped = d;
        } else {
            service_wake(service, worker);
        }
    }
    give_places(service);
    bool moving = queue_has_moving(service->queue);
    pthread_mutex_unlock(&service->lock);

    if (moving)
        service_move(service);

    if (full)
        log_warning("%s: queue is full, %s target=%s", service->name,
                    full_place == QUEUE_DROPPED ? "QoS 0 messages are dropped"
                    : full_place == QUEUE_HELD ? "messages are not acknowledged until there is room"
                                               : "it goes on on disk",
                    full->target.name);
    while (dropped) {
        struct delivery *next = dropped->next;
        ledger_note_one(service->host->ledger, LEDGER_DROPPED, dropped,
                        "the queue was full, and the message of QoS 0");
        delivery_free(dropped);
        dropped = next;
    }
}

void service_submit_moved(struct service_target *t, struct delivery *d, struct delivery *failed,
                          int64_t now_ms)
{
    struct service *s = t->service;
    struct keeper *keeper = s->host->keeper;
    delivery_borrow(
        d); /* the queue's; the other one is that of the delivery that it stood behind */
    d->target = &t->target;
    d->moved = true;
    d->holding = failed->holding;
    failed->holding = false;
    d->identity[0] = failed->identity[0]; /* it is the same to who sends the message again */
    d->identity[1] = failed->identity[1];

    pthread_mutex_lock(&s->lock);
    if (spill_is_needed(t, d)) {
        t->flow.moved_in++;
        spill(t, d, failed);
    } else {
        size_t worker;
        queue_submit(s->queue, t->queue, d, now_ms, &worker);
        if (keeper)
            keep_move(keeper, failed, d);
        service_wake(s, worker);
    }
    give_places(s);
    pthread_mutex_unlock(&s->lock);
    delivery_free(failed);
}
