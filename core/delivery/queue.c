/* SPDX-License-Identifier: MIT */

#include "delivery/queue.h"

#include "base/map.h"
#include "delivery/stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_WISH \
    ((int64_t)24 * 3600 * 1000) /* ms: the longest wait that a plugin may ask for */
#define LONGEST_FACTOR 64       /* attempts; no backoff grows after so many */

struct queue_target {
    struct queue *queue;
    struct queue_target *next;
    size_t index;
    struct queue_rules rules;
    struct target_stats stats; /* the counters only */

    size_t places, bytes;                    /* taken, those with a worker included */
    struct delivery *held_first, *held_last; /* in order of arrival */
    size_t held, held_bytes;
    struct queue_target *next_grantable;
    bool grantable; /* in the queue's list: there may be a place for a held one */

    struct delivery_list moving; /* on their way to their fallbacks, out of all lists and counts */
    struct queue_target *next_mover;
    bool mover; /* in the queue's list: there may be some, or some that have to */

    int64_t parked_ms;  /* until then the plugin wants nothing for it */
    int64_t arrival_us; /* of the next delivery, by the rate limit */
    size_t flying;      /* with workers */
    size_t retrying;    /* tried in vain so far */
    size_t with_fallback;
    struct breaker breaker;

    struct stream streams[]; /* one a worker */
};

struct worker_queue {
    struct stream *ring; /* streams that have something, beginning with the one whose turn it is */
    size_t ring_len;
    size_t count; /* deliveries, those with the worker included */
};

struct queue {
    size_t workers;
    size_t count;
    uint64_t random;
    struct queue_target *targets; /* the last one first */
    size_t target_count;
    struct queue_target *grantable;
    struct queue_target *movers;
    bool news; /* some breaker's */
    struct worker_queue by_worker[];
};

/* ---- Making ---- */

struct queue *queue_new(size_t workers, uint64_t seed)
{
    assert(workers > 0);
    struct queue *queue = calloc(1, sizeof(*queue) + workers * sizeof(queue->by_worker[0]));
    if (!queue)
        return NULL;
    queue->workers = workers;
    queue->random = seed | 1; /* the generator must not begin with zero */
    return queue;
}

void queue_free(struct queue *queue)
{
    if (!queue)
        return;
    while (queue->targets) {
        struct queue_target *t = queue->targets;
        queue->targets = t->next;
        for (struct delivery *d = t->held_first; d; d = d->held_next)
            message_refuse(d->message); /* it never had a place */
        for (size_t i = 0; i < queue->workers; i++)
            stream_release(&t->streams[i]);
        while (t->moving.first) {
            struct delivery *d = t->moving.first;
            t->moving.first = d->next;
            if (d->holding)
                message_refuse(d->message);
            delivery_free(d);
        }
        free(t);
    }
    free(queue);
}

struct queue_target *queue_add_target(struct queue *queue, const struct queue_rules *rules)
{
    struct queue_target *t = calloc(1, sizeof(*t) + queue->workers * sizeof(t->streams[0]));
    if (!t)
        return NULL;
    t->queue = queue;
    t->index = queue->target_count++;
    t->rules = *rules;
    t->next = queue->targets;
    queue->targets = t;
    for (size_t i = 0; i < queue->workers; i++)
        t->streams[i].target = t;
    return t;
}

static unsigned choose_worker(const struct queue *queue, const struct queue_target *target,
                              const struct delivery *d)
{
    if (queue->workers == 1)
        return 0;
    uint64_t hash = map_hash(d->message->topic, d->message->topic_len);
    return (unsigned)((hash ^ target->index * 0x9E3779B97F4A7C15u) % queue->workers);
}

/* ---- The ring of streams that have something ---- */

static void list_stream(struct worker_queue *w, struct stream *s)
{
    if (s->listed)
        return;
    if (w->ring) { /* before the first is behind the last */
        s->next = w->ring;
        s->prev = w->ring->prev;
        s->prev->next = s;
        s->next->prev = s;
    } else {
        s->prev = s->next = s;
        w->ring = s;
    }
    s->listed = true;
    w->ring_len++;
}

static void unlist_stream(struct worker_queue *w, struct stream *s)
{
    if (!s->listed)
        return;
    s->prev->next = s->next;
    s->next->prev = s->prev;
    if (w->ring == s)
        w->ring = s->next == s ? NULL : s->next;
    s->listed = false;
    w->ring_len--;
}

static void relist_stream(struct worker_queue *w, struct stream *s)
{
    if (stream_is_empty(s))
        unlist_stream(w, s);
    else
        list_stream(w, s);
}

/* ---- Random waits ---- */

static int64_t random_upto(struct queue *queue, int64_t most)
{
    queue->random ^= queue->random << 13;
    queue->random ^= queue->random >> 7;
    queue->random ^= queue->random << 17;
    return (int64_t)((queue->random >> 1) % ((uint64_t)most + 1));
}

/* initial * factor^steps, at most `most`. */
static int64_t grown(const struct queue_rules *rules, unsigned steps, int64_t most)
{
    double ms = (double)rules->retry_initial_ms;
    for (unsigned i = 0; i < steps && i < LONGEST_FACTOR && ms < (double)most; i++)
        ms *= rules->retry_factor;
    return ms < (double)most ? (int64_t)ms : most;
}

static int64_t backoff(struct queue_target *t, unsigned attempts)
{
    int64_t most = grown(&t->rules, attempts - 1, t->rules.retry_max_ms);
    return most - random_upto(t->queue, (int64_t)((double)most * t->rules.retry_jitter));
}

static int64_t wish(int64_t ms)
{
    return ms < 0 ? 0 : ms > LONGEST_WISH ? LONGEST_WISH : ms;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- Bounds ---- */

static bool has_place(const struct queue_target *t, size_t size)
{
    return t->places == 0 ||
           (t->places < t->rules.max_messages && t->bytes + size <= t->rules.max_bytes);
}

bool queue_has_place(const struct queue_target *target, size_t size)
{
    return !target->held_first && has_place(target, size);
}

bool queue_has_urgent_place(const struct queue_target *target, size_t size)
{
    size_t messages = target->rules.max_messages, bytes = target->rules.max_bytes;
    return has_place(target, size) || (target->places < messages + messages / 8 + 1 &&
                                       target->bytes + size <= bytes + bytes / 8);
}

bool queue_is_low(const struct queue_target *target)
{
    return !target->held_first && target->places <= target->rules.max_messages / 2 &&
           target->bytes <= target->rules.max_bytes / 2;
}

size_t queue_room(const struct queue_target *target)
{
    size_t most = target->rules.max_messages;
    return target->places < most ? most - target->places : 0;
}

int64_t queue_longest_wait(const struct queue_target *target)
{
    return target->rules.retry_max_ms;
}

static void link_held(struct queue_target *t, struct delivery *d)
{
    d->held_prev = t->held_last;
    d->held_next = NULL;
    if (t->held_last)
        t->held_last->held_next = d;
    else
        t->held_first = d;
    t->held_last = d;
    t->held++;
    t->held_bytes += d->size;
}

static void unlink_held(struct queue_target *t, struct delivery *d)
{
    if (d->held_prev)
        d->held_prev->held_next = d->held_next;
    else
        t->held_first = d->held_next;
    if (d->held_next)
        d->held_next->held_prev = d->held_prev;
    else
        t->held_last = d->held_prev;
    d->held_prev = d->held_next = NULL;
    t->held--;
    t->held_bytes -= d->size;
}

static void make_grantable(struct queue_target *t)
{
    if (t->grantable)
        return;
    t->grantable = true;
    t->next_grantable = t->queue->grantable;
    t->queue->grantable = t;
}

/* Forgets a delivery that leaves the queue. */
static void leave(struct delivery *d)
{
    struct queue_target *t = d->queue_target;
    struct queue *queue = t->queue;
    queue->count--;
    queue->by_worker[d->worker].count--;
    t->retrying -= d->retrying;
    d->retrying = false;
    t->streams[d->worker].with_fallback -= d->fallback != NULL;
    t->with_fallback -= d->fallback != NULL;
    if (d->holding) { /* delivery_free() drops the hold itself */
        unlink_held(t, d);
        return;
    }
    t->places--;
    t->bytes -= d->size;
    if (t->held_first)
        make_grantable(t);
}

size_t queue_grant(struct queue *queue, struct queue_granted *out, size_t max)
{
    size_t n = 0;
    while (queue->grantable) {
        struct queue_target *t = queue->grantable;
        while (t->held_first && has_place(t, t->held_first->size)) {
            if (n == max)
                return n;
            struct delivery *d = t->held_first;
            unlink_held(t, d);
            d->holding = false;
            t->places++;
            t->bytes += d->size;
            out[n++] = (struct queue_granted){ d, message_ref(d->message) };
        }
        queue->grantable = t->next_grantable;
        t->grantable = false;
    }
    return n;
}

/* ---- On to the fallback ---- */

/* Whether nothing may go but a probe that is on its way, so that what has a fallback does not wait. */
static bool is_shut(const struct queue_target *t, int64_t now_ms)
{
    return t->breaker.state == BREAKER_HALF_OPEN ||
           (t->breaker.state == BREAKER_OPEN && now_ms < t->breaker.until_ms);
}

static void make_mover(struct queue_target *t)
{
    if (t->mover)
        return;
    t->mover = true;
    t->next_mover = t->queue->movers;
    t->queue->movers = t;
}

/* It has left the queue already, or has not come in. */
static void move(struct queue_target *t, struct delivery *d)
{
    delivery_list_append(&t->moving, d);
    t->stats.moved_out++;
    make_mover(t);
}

bool queue_has_moving(const struct queue *queue)
{
    return queue->movers;
}

static void move_waiting(struct queue_target *t)
{
    for (size_t i = 0; i < t->queue->workers; i++) {
        struct stream *s = &t->streams[i];
        if (s->flying > 0 || s->with_fallback == 0)
            continue;
        struct delivery_list list = stream_remove(s, STREAM_WITH_FALLBACK);
        while (list.first) {
            struct delivery *d = list.first;
            list.first = d->next;
            leave(d);
            move(t, d);
        }
        relist_stream(&t->queue->by_worker[i], s);
    }
}

struct delivery *queue_moving(struct queue *queue, int64_t now_ms)
{
    struct delivery_list out = { 0 };
    while (queue->movers) {
        struct queue_target *t = queue->movers;
        if (is_shut(t, now_ms))
            move_waiting(t);
        queue->movers = t->next_mover;
        t->mover = false;
        while (t->moving.first) {
            struct delivery *d = t->moving.first;
            t->moving.first = d->next;
            delivery_list_append(&out, d);
        }
    }
    return out.first;
}

void queue_not_moved(struct queue_target *target)
{
    target->stats.moved_out--;
    target->stats.given_up++;
}

/* ---- In ---- */

enum queue_place queue_submit(struct queue *queue, struct queue_target *target,
                              struct delivery *delivery, int64_t now_ms, size_t *worker)
{
    struct queue_target *t = target;
    enum queue_place place = QUEUE_PLACED;
    /* Its message has been taken over, so it can neither hold it again nor be dropped: it comes from another queue, or
     * from disk. */
    bool had_place =
        (delivery->queue_target || delivery->kept || delivery->moved) && !delivery->holding;

    if (delivery->moved && !delivery->queue_target)
        t->stats.moved_in++;
    else
        t->stats.created++;
    delivery->worker = choose_worker(queue, t, delivery);
    *worker = delivery->worker;
    struct stream *stream = &t->streams[*worker];
    if (delivery->fallback && stream->with_fallback == 0 && is_shut(t, now_ms)) {
        delivery->queue_target = t;
        move(t, delivery);
        return QUEUE_PASSED;
    }
    if (delivery
            ->holding) { /* from another queue: it is given its place like those that wait here */
        link_held(t, delivery);
        make_grantable(t);
        place = QUEUE_HELD;
    } else if (!had_place &&
               !(delivery_is_urgent(delivery) ? queue_has_urgent_place(t, delivery->size)
                                              : queue_has_place(t, delivery->size))) {
        /* nobody overtakes who holds */
        if (delivery->message->qos == 0) {
            t->stats.dropped++;
            return QUEUE_DROPPED;
        }
        message_hold(delivery->message);
        delivery->holding = true;
        link_held(t, delivery);
        place = QUEUE_HELD;
    } else {
        t->places++;
        t->bytes += delivery->size;
    }
    delivery->queue_target = t;
    if (delivery->created_ms == 0)
        delivery->created_ms = now_ms;
    queue->count++;
    queue->by_worker[*worker].count++;
    delivery->retrying = delivery->attempts > 0;
    t->retrying += delivery->retrying;
    stream->with_fallback += delivery->fallback != NULL;
    t->with_fallback += delivery->fallback != NULL;
    /* One from disk that has been tried before waits for its time, and its topic behind it. */
    if (delivery->due_ms <= now_ms || stream_retry(stream, delivery, delivery->due_ms, now_ms) < 0)
        stream_append(stream, delivery);
    list_stream(&queue->by_worker[*worker], stream);
    return place;
}

/* ---- The rate limit: each delivery moves the time of the next arrival on by one interval; it may lie
 * so far ahead that `rate_limit` of them can go at once ---- */

static int64_t rate_interval_us(const struct queue_target *t)
{
    int64_t us = t->rules.rate_per_ms * 1000 / t->rules.rate_limit;
    return us > 0 ? us : 1;
}

static int64_t rate_due_us(const struct queue_target *t)
{
    return t->arrival_us - (t->rules.rate_per_ms * 1000 - rate_interval_us(t));
}

static size_t rate_allows(const struct queue_target *t, int64_t now_ms, size_t max)
{
    if (t->rules.rate_limit == 0)
        return max;
    int64_t now_us = now_ms * 1000;
    if (t->arrival_us <= now_us) /* rested long enough for all of them */
        return max < (uint64_t)t->rules.rate_limit ? max : (size_t)t->rules.rate_limit;
    int64_t due_us = rate_due_us(t);
    if (due_us > now_us)
        return 0;
    uint64_t n = (uint64_t)((now_us - due_us) / rate_interval_us(t)) + 1;
    return n < max ? (size_t)n : max;
}

static void rate_count(struct queue_target *t, int64_t now_ms, size_t n)
{
    if (t->rules.rate_limit == 0 || n == 0)
        return;
    if (t->arrival_us < now_ms * 1000)
        t->arrival_us = now_ms * 1000;
    t->arrival_us += (int64_t)n * rate_interval_us(t);
}

/* ---- Taking ---- */

static bool is_down(const struct queue_target *t)
{
    return t->breaker.state != BREAKER_CLOSED;
}

static void note_news(struct queue_target *t)
{
    t->queue->news |= t->breaker.news;
}

static size_t take_from(struct stream *s, int64_t now_ms, struct delivery **out, size_t max)
{
    struct queue_target *t = s->target;
    if (now_ms < t->parked_ms)
        return 0;
    max = rate_allows(t, now_ms, breaker_allows(&t->breaker, now_ms, t->flying, max));

    size_t n = 0;
    while (n < max) {
        struct delivery *d = stream_take(s, now_ms);
        if (!d)
            break;
        d->flying = true;
        out[n++] = d;
    }
    if (n > 0)
        breaker_go(&t->breaker);
    if (n > 0 && t->with_fallback > 0 && is_shut(t, now_ms))
        make_mover(t); /* what waits for other workers need not wait for the probe */
    note_news(t);
    t->flying += n;
    s->flying += n;
    rate_count(t, now_ms, n);
    return n;
}

size_t queue_take(struct queue *queue, size_t worker, int64_t now_ms, struct delivery **out,
                  size_t max)
{
    struct worker_queue *w = &queue->by_worker[worker];
    struct stream *s = w->ring;
    size_t n = 0;
    for (size_t left = w->ring_len; left > 0 && n < max; left--) {
        struct stream *next = s->next;
        n += take_from(s, now_ms, out + n, max - n);
        if (stream_is_empty(s))
            unlist_stream(w, s);
        s = next;
    }
    if (w->ring)
        w->ring = s;
    return n;
}

int64_t queue_due(const struct queue *queue, size_t worker, int64_t now_ms)
{
    const struct worker_queue *w = &queue->by_worker[worker];
    const struct stream *s = w->ring;
    int64_t soonest = QUEUE_NEVER;
    for (size_t left = w->ring_len; left > 0 && soonest > now_ms; left--, s = s->next) {
        const struct queue_target *t = s->target;
        if (is_down(t) && t->flying > 0)
            continue;
        int64_t due = later(stream_due(s), t->parked_ms);
        if (is_down(t))
            due = later(due, t->breaker.until_ms);
        if (t->rules.rate_limit > 0)
            due = later(due, (rate_due_us(t) + 999) / 1000);
        if (due < soonest)
            soonest = due;
    }
    return later(soonest, now_ms);
}

/* ---- Settling ---- */

/* The target has answered. */
static void works(struct queue_target *t, int64_t now_ms)
{
    if (!breaker_works(&t->breaker))
        return;
    note_news(t);
    for (size_t i = 0; i < t->queue->workers; i++)
        stream_hurry(&t->streams[i], now_ms);
}

static void fails(struct queue_target *t, int64_t now_ms)
{
    breaker_fails(&t->breaker, &t->rules.breaker, now_ms);
    note_news(t);
}

static bool is_spent(const struct queue_target *t, const struct delivery *d, int64_t now_ms)
{
    return (t->rules.max_attempts > 0 && d->attempts >= (uint64_t)t->rules.max_attempts) ||
           (t->rules.max_age_ms > 0 && now_ms - d->created_ms >= t->rules.max_age_ms);
}

/* A delivery that was tried in vain. */
static enum queue_fate settle_retry(struct stream *s, struct delivery *d,
                                    const struct tocsin_delivery *result, int64_t now_ms)
{
    struct queue_target *t = s->target;
    d->attempts++;
    if (d->forgotten) {
        stream_done(s, d);
        t->stats.forgotten++;
        return QUEUE_FORGOTTEN;
    }
    if (is_spent(t, d, now_ms)) {
        stream_given_up(s, d, now_ms + backoff(t, 1));
        if (d->fallback)
            return QUEUE_MOVING;
        t->stats.given_up++;
        return QUEUE_GIVEN_UP;
    }
    t->stats.retried++;
    t->retrying += !d->retrying;
    d->retrying = true;
    int64_t earliest = now_ms + wish(result->retry_after_ms);
    int64_t due = later(now_ms + backoff(t, d->attempts), earliest);
    d->due_ms = due;
    /* Without memory for a lane it stays the first of its target, and the whole target waits. */
    if (stream_retry(s, d, due, earliest) < 0)
        t->parked_ms = later(t->parked_ms, due);
    else
        d->flying = false;
    return QUEUE_RETRYING;
}

static enum queue_fate settle_one(struct stream *s, struct delivery *d,
                                  const struct tocsin_delivery *result, int64_t now_ms)
{
    struct queue_target *t = s->target;
    switch (result->verdict) {
    case TOCSIN_SENT:
        works(t, now_ms);
        stream_done(s, d);
        t->stats.sent++;
        return QUEUE_SENT;
    case TOCSIN_REJECT:
        works(t, now_ms);
        stream_done(s, d);
        if (d->fallback && d->forgotten) {
            t->stats.forgotten++;
            return QUEUE_FORGOTTEN;
        }
        if (d->fallback)
            return QUEUE_MOVING;
        t->stats.rejected++;
        return QUEUE_REJECTED;
    case TOCSIN_RETRY:
        break;
    }
    fails(t, now_ms);
    return settle_retry(s, d, result, now_ms);
}

static bool was_tried(const struct tocsin_delivery *result, bool after_retry)
{
    return !after_retry || result->verdict != TOCSIN_RETRY || result->reason[0] != '\0' ||
           result->retry_after_ms > 0 || result->park_ms > 0;
}

bool queue_settle(struct queue *queue, int64_t now_ms, struct delivery *const *batch,
                  const struct tocsin_delivery *results, size_t n, enum queue_fate *fates)
{
    bool after_retry = false, others = false;
    for (size_t i = 0; i < n; i++) {
        struct delivery *d = batch[i];
        struct queue_target *t = d->queue_target;
        t->flying--;
        t->streams[d->worker].flying--;
        others |= is_down(t);
        if (was_tried(&results[i], after_retry)) {
            if (results[i].verdict == TOCSIN_RETRY)
                after_retry = true;
            fates[i] = settle_one(&t->streams[d->worker], d, &results[i], now_ms);
        } else {
            fates[i] = QUEUE_UNTRIED;
            breaker_untried(&t->breaker);
            note_news(t);
            if (t->rules.rate_limit > 0)
                t->arrival_us -= rate_interval_us(t);
        }
        if (results[i].park_ms > 0)
            t->parked_ms = later(t->parked_ms, now_ms + wish(results[i].park_ms));
    }

    /* What has kept its place goes back from the last to the first. */
    for (size_t i = n; i-- > 0;) {
        struct delivery *d = batch[i];
        struct stream *s = &d->queue_target->streams[d->worker];
        if (fates[i] == QUEUE_UNTRIED && d->forgotten) {
            stream_done(s, d);
            d->queue_target->stats.forgotten++;
            fates[i] = QUEUE_FORGOTTEN;
        }
        if (d->flying && (fates[i] == QUEUE_RETRYING || fates[i] == QUEUE_UNTRIED))
            stream_put_back(s, d);
        d->flying = false;
        if (fates[i] < QUEUE_RETRYING)
            leave(d);
    }
    for (size_t i = 0; i < n; i++) {
        struct delivery *d = batch[i];
        struct queue_target *t = d->queue_target;
        if (fates[i] == QUEUE_MOVING) {
            d->failed = true;
            leave(d);
            move(t, d);
        }
        relist_stream(&queue->by_worker[d->worker], &t->streams[d->worker]);
        if (t->with_fallback > 0 && is_shut(t, now_ms))
            make_mover(t);
    }
    return others && queue->workers > 1;
}

/* ---- Taking out ---- */

static void remove_from(struct queue_target *t, enum stream_which which, struct delivery_list *out)
{
    for (size_t i = 0; i < t->queue->workers; i++) {
        struct delivery_list list = stream_remove(&t->streams[i], which);
        while (list.first) {
            struct delivery *d = list.first;
            list.first = d->next;
            leave(d);
            if (which == STREAM_ALL)
                t->stats.created--; /* another queue counts it */
            else
                t->stats.forgotten++;
            delivery_list_append(out, d);
        }
        relist_stream(&t->queue->by_worker[i], &t->streams[i]);
    }
}

struct delivery *queue_forget_held(struct queue *queue, const char *link, uint64_t generation)
{
    struct delivery_list out = { 0 };
    for (struct queue_target *t = queue->targets; t; t = t->next) {
        bool found = false;
        for (struct delivery *d = t->held_first; d; d = d->held_next) {
            const struct message *m = d->message;
            if (m->generation == generation && m->link && strcmp(m->link, link) == 0)
                found = d->forgotten = true;
        }
        if (found)
            remove_from(t, STREAM_FORGOTTEN, &out);
    }
    return out.first;
}

struct delivery *queue_empty(struct queue_target *target)
{
    struct delivery_list out = target->moving;
    target->moving = (struct delivery_list){ 0 };
    for (const struct delivery *d = out.first; d; d = d->next) {
        target->stats.moved_out--;
        target->stats.created--;
    }
    remove_from(target, STREAM_ALL, &out);
    return out.first;
}

size_t queue_count(const struct queue *queue)
{
    return queue->count;
}

size_t queue_worker_count(const struct queue *queue, size_t worker)
{
    return queue->by_worker[worker].count;
}

bool queue_has_news(const struct queue *queue)
{
    return queue->news;
}

void queue_news_told(struct queue *queue)
{
    queue->news = false;
}

bool queue_target_news(struct queue_target *target, struct breaker *out)
{
    bool news = target->breaker.news;
    *out = target->breaker;
    target->breaker.news = false;
    return news;
}

void queue_target_stats(const struct queue_target *target, struct target_stats *out)
{
    *out = target->stats;
    out->opened = target->breaker.opened;
    out->breaker = target->breaker.state;
    out->retrying = target->retrying;
    out->waiting = target->places + target->held;
    out->held = target->held;
    out->bytes = target->bytes + target->held_bytes;
}
