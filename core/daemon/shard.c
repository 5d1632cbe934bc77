/* SPDX-License-Identifier: MIT */

#include "daemon/shard.h"

#include "base/clock.h"
#include "base/log.h"
#include "delivery/services.h"
#include "ledger/scribe.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define TROUBLES       (VERDICT_COUNT + 1) /* kinds of one route: by verdict, and missing fields */
#define BATCH_MESSAGES 256                 /* routed before their deliveries are handed on */

struct shard {
    pthread_t thread;
    bool started;

    /* Under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t work;    /* for the shard */
    pthread_cond_t changed; /* for shard_set_engine() */
    bool waiting;
    bool stop;
    bool swap;          /* to the engine below; afterwards it holds the old one */
    int64_t stop_by_ms; /* monotonic clock */
    struct message *first, *last;
    struct engine *next_engine;
    struct log_trouble *next_troubles;
    struct routing_stats stats; /* the engine's are copied after each batch */

    /* The thread's own. */
    struct engine *engine;
    struct engine_stats before;   /* of the engines before this one */
    struct log_trouble *troubles; /* TROUBLES a route; NULL when there was no memory */
    struct scribe *scribe;
    struct log_trouble no_target;
    struct log_trouble no_memory;
    uint64_t out_of_memory;
    size_t in_hand; /* messages in the batch at hand */
};

/* One for each kind of trouble of each route. NULL when there is no memory. */
static struct log_trouble *troubles_of(struct engine *engine)
{
    size_t count = 0;
    while (routes_at(engine_routes(engine), count))
        count++;
    return calloc(count + 1, TROUBLES * sizeof(struct log_trouble));
}

static void stats_add(struct engine_stats *sum, const struct engine_stats *more)
{
    sum->messages += more->messages;
    sum->unmatched += more->unmatched;
    sum->deliveries += more->deliveries;
    sum->missing_fields += more->missing_fields;
    sum->no_target += more->no_target;
    sum->out_of_memory += more->out_of_memory;
    for (size_t i = 0; i < VERDICT_COUNT; i++)
        sum->verdicts[i] += more->verdicts[i];
}

struct shard *shard_new(struct engine *engine, struct ledger *ledger)
{
    struct shard *shard = calloc(1, sizeof(*shard));
    if (!shard)
        return NULL;
    shard->troubles = troubles_of(engine);
    pthread_mutex_init(&shard->lock, NULL);
    pthread_cond_init(&shard->work, NULL);
    pthread_cond_init(&shard->changed, NULL);
    shard->engine = engine;
    shard->scribe = scribe_new(ledger);
    return shard;
}

/* ---- The thread ---- */

/* What went wrong in a route is logged once, then ever more rarely. */
static void on_decision(void *context, const struct decision *d)
{
    struct shard *shard = context;
    const char *route = route_name(d->route);
    scribe_decided(shard->scribe, d);
    if (log_enabled(TOCSIN_LOG_DEBUG))
        log_debug("routed topic=%s route=%s: %s%s%s", d->message->topic, route,
                  verdict_text(d->verdict), d->reason[0] ? ": " : "", d->reason);
    bool bad = d->reason[0] != '\0' || d->missing > 0;
    if (!bad)
        return;
    if (!shard->troubles)
        return;
    size_t kind = d->reason[0] ? (size_t)d->verdict : VERDICT_COUNT;
    struct log_trouble *trouble = &shard->troubles[route_index(d->route) * TROUBLES + kind];
    uint64_t held_back = trouble->held_back;
    if (!log_trouble_due(trouble, clock_mono_ms()))
        return;
    char more[64] = "";
    if (held_back > 0)
        snprintf(more, sizeof(more), " (%llu more since the last line)",
                 (unsigned long long)held_back);
    bool sent = d->verdict == VERDICT_DISPATCHED;
    if (d->reason[0])
        log_warning("route trouble route=%s topic=%s: %s: %s%s", route, d->message->topic,
                    sent ? "sent, though" : verdict_text(d->verdict), d->reason, more);
    else
        log_warning("route trouble route=%s topic=%s: fields that are not there stay as they are "
                    "written (%zu); give a default, {name?text}%s",
                    route, d->message->topic, d->missing, more);
}

static void on_no_target(void *context, const struct route *route, const char *name)
{
    struct shard *shard = context;
    scribe_no_target(shard->scribe, route, name);
    if (log_trouble_due(&shard->no_target, clock_mono_ms()))
        log_error(
            "no such target name=%s route=%s: the notification went nowhere; add the target, or "
            "correct the route's targets",
            name, route_name(route));
}

static void settle(struct message *first)
{
    while (first) {
        struct message *m = first;
        first = m->next;
        message_release_hold(m);
        message_unref(m);
    }
}

/* Cuts a batch off the front of the messages that wait; NULL if there are none. Under the lock. */
static struct message *take_batch(struct shard *shard)
{
    struct message *batch = shard->first, *last = batch;
    shard->in_hand = batch ? 1 : 0;
    for (; last && last->next && shard->in_hand < BATCH_MESSAGES; shard->in_hand++)
        last = last->next;
    shard->first = last ? last->next : NULL;
    if (!shard->first)
        shard->last = NULL;
    if (last)
        last->next = NULL;
    return batch;
}

/* Routes a batch: its deliveries leave together, and only then are the messages let go. */
static void route_batch(struct shard *shard, struct message *batch)
{
    const struct engine_observer observer = {
        .decided = on_decision,
        .no_target = on_no_target,
        .context = shard,
    };
    const size_t routes = routes_count(engine_routes(shard->engine));
    struct delivery *first = NULL, **tail = &first;
    for (struct message *m = batch; m; m = m->next) {
        *tail = engine_message(shard->engine, m, &observer);
        scribe_message(shard->scribe, m, *tail, routes);
        while (*tail)
            tail = &(*tail)->next;
    }
    scribe_flush(shard->scribe);
    if (first)
        services_submit(first);
    settle(batch);
}

static void look_at_memory(struct shard *shard, const struct engine_stats *stats)
{
    if (stats->out_of_memory > shard->out_of_memory &&
        log_trouble_due(&shard->no_memory, clock_mono_ms()))
        log_error("out of memory: %llu notifications could not be made so far",
                  (unsigned long long)stats->out_of_memory);
    shard->out_of_memory = stats->out_of_memory;
}

/* Publishes the counters. Under the lock. */
static void note_stats(struct shard *shard)
{
    struct engine_stats now;
    engine_stats(shard->engine, &now);
    look_at_memory(shard, &now);
    shard->stats.engine = shard->before;
    stats_add(&shard->stats.engine, &now);
    shard->stats.waiting -= shard->in_hand;
    shard->in_hand = 0;
}

/* Puts the engine that waits, with its troubles, in the place of the present one. Under the lock. */
static void swap_engine(struct shard *shard)
{
    struct engine *engine = shard->next_engine;
    struct log_trouble *troubles = shard->next_troubles;
    shard->next_engine = shard->engine;
    shard->next_troubles = shard->troubles;
    shard->engine = engine;
    shard->troubles = troubles;
    shard->before = shard->stats.engine;
    shard->out_of_memory = 0;
    shard->swap = false;
    pthread_cond_signal(&shard->changed);
}

/* Between two batches it looks at what else is wanted, so that neither a reload nor the end waits for all that is
 * there to be routed. */
static void *shard_main(void *context)
{
    struct shard *shard = context;
    pthread_mutex_lock(&shard->lock);
    for (;;) {
        while (!shard->first && !shard->swap && !shard->stop) {
            shard->waiting = true;
            pthread_cond_wait(&shard->work, &shard->lock);
            shard->waiting = false;
        }
        if (shard->swap)
            swap_engine(shard);
        if (shard->stop && (!shard->first || clock_mono_ms() >= shard->stop_by_ms))
            break;
        struct message *batch = take_batch(shard);
        if (!batch)
            continue;
        pthread_mutex_unlock(&shard->lock);
        route_batch(shard, batch);
        pthread_mutex_lock(&shard->lock);
        note_stats(shard);
    }
    pthread_mutex_unlock(&shard->lock);
    return NULL;
}

/* ---- From outside ---- */

int shard_start(struct shard *shard)
{
    int rc = pthread_create(&shard->thread, NULL, shard_main, shard);
    shard->started = rc == 0;
    if (rc == 0)
        pthread_setname_np(shard->thread, "shard");
    return -rc;
}

void shard_push(struct shard *shard, struct message *first, struct message *last, size_t n)
{
    last->next = NULL;
    pthread_mutex_lock(&shard->lock);
    shard->stats.received += n;
    shard->stats.waiting += n;
    if (shard->last)
        shard->last->next = first;
    else
        shard->first = first;
    shard->last = last;
    bool wake = shard->waiting;
    shard->waiting = false;
    pthread_mutex_unlock(&shard->lock);
    if (wake)
        pthread_cond_signal(&shard->work);
}

void shard_set_engine(struct shard *shard, struct engine *engine)
{
    struct log_trouble *troubles = troubles_of(engine);
    pthread_mutex_lock(&shard->lock);
    assert(shard->started && !shard->swap);
    shard->next_engine = engine;
    shard->next_troubles = troubles;
    shard->swap = true;
    pthread_cond_signal(&shard->work);
    while (shard->swap)
        pthread_cond_wait(&shard->changed, &shard->lock);
    struct engine *old = shard->next_engine;
    free(shard->next_troubles);
    pthread_mutex_unlock(&shard->lock);
    engine_free(old);
}

void shard_add_stats(struct shard *shard, struct routing_stats *sum)
{
    pthread_mutex_lock(&shard->lock);
    sum->received += shard->stats.received;
    sum->refused += shard->stats.refused;
    sum->waiting += shard->stats.waiting;
    stats_add(&sum->engine, &shard->stats.engine);
    pthread_mutex_unlock(&shard->lock);
}

size_t shard_free(struct shard *shard, int64_t stop_by_ms, struct routing_stats *last)
{
    if (!shard)
        return 0;
    if (shard->started) {
        pthread_mutex_lock(&shard->lock);
        shard->stop = true;
        shard->stop_by_ms = stop_by_ms;
        pthread_cond_signal(&shard->work);
        pthread_mutex_unlock(&shard->lock);
        pthread_join(shard->thread, NULL);
    }
    size_t left = 0;
    for (struct message *m = shard->first; m; m = m->next) {
        message_refuse(m);
        left++;
    }
    shard->stats.refused += left;
    shard->stats.waiting -= left;
    shard_add_stats(shard, last);
    settle(shard->first);
    engine_free(shard->engine);
    scribe_free(shard->scribe);
    free(shard->troubles);
    pthread_cond_destroy(&shard->changed);
    pthread_cond_destroy(&shard->work);
    pthread_mutex_destroy(&shard->lock);
    free(shard);
    return left;
}
