/* SPDX-License-Identifier: MIT */

/*
 * A queue against a naive model of it: random deliveries, results and times, for many seeds. The model has a list of all
 * deliveries in order of arrival, and looks through it for each rule.
 */

#include "delivery/queue.h"

#include "../suite.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    SEEDS = 250,
    STEPS = 250,
    TARGETS = 3,
    TOPICS = 7,
    WORKERS_MOST = 3,
    BATCH = 12,
    MOST = 4096
};

struct item {
    struct delivery *d; /* of now */
    int target;         /* of now */
    int last_target;
    char topic;
    bool urgent, flying, done;
    unsigned attempts;
    int64_t not_before;
};

struct model_breaker {
    bool open, probing;
    unsigned failures, probes;
    int64_t until;
};

struct world {
    uint64_t random;
    struct queue *queue;
    size_t workers;
    struct queue_target *targets[TARGETS];
    struct queue_rules rules[TARGETS];
    struct target names[TARGETS];
    struct model_breaker breakers[TARGETS];
    struct item items[MOST]; /* in order of arrival; one that moves goes to the end */
    size_t count;
    bool rides[TARGETS][TOPICS]; /* something urgent has come to the topic while it waits */
    bool lane[TARGETS][TOPICS];  /* the topic's first has failed, and it waits */
    unsigned row[TARGETS][WORKERS_MOST];
    struct delivery *batch[WORKERS_MOST][BATCH];
    size_t n[WORKERS_MOST];
    int64_t now;
    size_t messages, taken, submitted, dropped;
    uint64_t seed;
};

static unsigned chance(struct world *w, unsigned below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (unsigned)((w->random >> 11) % below);
}

static struct item *item_of(struct world *w, const struct delivery *d)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->items[i].d == d && !w->items[i].done)
            return &w->items[i];
    CHECK(false, "seed %llu: a delivery that the model does not have", (unsigned long long)w->seed);
    return NULL;
}

static bool waits_any(const struct world *w, int target, char topic)
{
    for (size_t i = 0; i < w->count; i++) {
        const struct item *it = &w->items[i];
        if (!it->done && it->target == target && it->topic == topic)
            return true;
    }
    return false;
}

static struct item *arrive(struct world *w, struct delivery *d, int target, int last_target,
                           char topic, bool urgent)
{
    assert_true(w->count < MOST);
    if (!waits_any(w, target, topic))
        w->rides[target][topic - 'a'] = w->lane[target][topic - 'a'] = false;
    w->rides[target][topic - 'a'] |= urgent;
    struct item *it = &w->items[w->count++];
    *it = (struct item){
        .d = d, .target = target, .last_target = last_target, .topic = topic, .urgent = urgent
    };
    return it;
}

static void count_taken(struct message *message, void *context)
{
    (void)message;
    ((struct world *)context)->taken++;
}

static bool is_shut(const struct world *w, int target)
{
    const struct model_breaker *b = &w->breakers[target];
    return b->open && (b->probing || w->now < b->until);
}

/* ---- What is done ---- */

/* Moves what the queue says has to move, and looks whether it had to. */
static void move_all(struct world *w)
{
    struct delivery *list;
    while ((list = queue_moving(w->queue, w->now))) {
        while (list) {
            struct delivery *d = list;
            list = d->next;
            struct item *it = item_of(w, d);
            int from = it->target;
            CHECK(it->last_target > from, "it had nowhere to go");
            CHECK(!it->flying, "it is with a worker");
            CHECK(d->failed || w->breakers[from].open, "why does it move?");
            for (struct item *before = w->items; before < it && !d->failed; before++)
                CHECK(before->done || before->target != from || before->topic != it->topic ||
                          before->last_target == from,
                      "seed %llu: it moves past one of its topic", (unsigned long long)w->seed);
            it->done = true;
            struct delivery *next = d->fallback;
            delivery_borrow(next);
            next->moved = true;
            next->holding = d->holding;
            d->holding = false;
            arrive(w, next, from + 1, it->last_target, it->topic, it->urgent);
            size_t worker;
            enum queue_place place =
                queue_submit(w->queue, w->targets[from + 1], next, w->now, &worker);
            CHECK(place != QUEUE_DROPPED, "a move never drops");
            delivery_free(d);
        }
    }
    for (size_t i = 0; i < w->count; i++) {
        const struct item *it = &w->items[i];
        if (it->done || it->last_target == it->target || !is_shut(w, it->target))
            continue;
        bool busy = false; /* others of its worker may be with it */
        for (size_t j = 0; j < w->count; j++)
            busy |= !w->items[j].done && w->items[j].flying && w->items[j].target == it->target &&
                    w->items[j].d->worker == it->d->worker;
        CHECK(busy, "seed %llu: it waits at an open breaker", (unsigned long long)w->seed);
    }
}

static void submit(struct world *w)
{
    char topic[2] = { (char)('a' + chance(w, TOPICS)), '\0' };
    int target = (int)chance(w, TARGETS),
        last = target + (int)chance(w, (unsigned)(TARGETS - target));
    bool urgent = chance(w, 5) == 0;
    struct message *m = message_new(topic, 1, "p", 1, NULL);
    m->qos = (uint8_t)chance(w, 2);
    m->taken = count_taken;
    m->taken_context = w;
    w->messages++;
    struct delivery_parts parts = {
        .target = &w->names[target],
        .message = m,
        .route = "r",
        .has_severity = true,
        .severity = urgent ? TOCSIN_CRITICAL : TOCSIN_WARNING,
    };
    struct delivery *d = delivery_new(&parts);
    parts.is_fallback = true;
    for (int t = target + 1; t <= last; t++) {
        parts.target = &w->names[t];
        delivery_add_fallback(d, delivery_new(&parts));
    }
    size_t worker;
    enum queue_place place = queue_submit(w->queue, w->targets[target], d, w->now, &worker);
    w->submitted++;
    if (place == QUEUE_DROPPED) {
        assert_int_equal(m->qos, 0);
        w->dropped++;
        delivery_free(d);
    } else {
        arrive(w, d, target, last, topic[0], urgent);
    }
    message_release_hold(m);
    message_unref(m);
    move_all(w);
}

/* Whether something urgent could have gone instead of it. */
static bool urgent_could_go(const struct world *w, const struct item *taken, size_t worker)
{
    for (size_t i = 0; i < w->count; i++) {
        const struct item *it = &w->items[i];
        if (it->done || it->flying || !it->urgent || it->target != taken->target ||
            it->d->worker != worker)
            continue;
        if (!w->lane[it->target][it->topic - 'a'])
            return true;
    }
    return false;
}

static void check_taken(struct world *w, struct item *it, size_t worker, size_t flying_before,
                        size_t n_of_target)
{
    unsigned long long seed = (unsigned long long)w->seed;
    CHECK(it->d->worker == worker, "seed %llu: another worker's", seed);
    CHECK(it->d->attempts == it->attempts, "seed %llu: attempts %u, not %u", seed, it->d->attempts,
          it->attempts);
    CHECK(w->now >= it->not_before, "seed %llu: too early", seed);
    for (const struct item *before = w->items; before < it; before++)
        CHECK(before->done || before->flying || before->target != it->target ||
                  before->topic != it->topic,
              "seed %llu: it overtakes one of its topic", seed);
    const struct model_breaker *b = &w->breakers[it->target];
    CHECK(!b->open || (w->now >= b->until && flying_before == 0 && n_of_target == 1),
          "seed %llu: the breaker is open", seed);
    bool *rides = &w->rides[it->target][it->topic - 'a'];
    unsigned *row = &w->row[it->target][worker];
    if (*rides) {
        ++*row;
    } else {
        CHECK(*row >= 8 || !urgent_could_go(w, it, worker),
              "seed %llu: it goes before something urgent", seed);
        *row = 0;
    }
}

static void take(struct world *w, size_t worker)
{
    if (w->n[worker] > 0)
        return;
    size_t flying[TARGETS] = { 0 }, mine[TARGETS] = { 0 };
    for (size_t i = 0; i < w->count; i++)
        flying[w->items[i].target] += !w->items[i].done && w->items[i].flying;
    int64_t due = queue_due(w->queue, worker, w->now);
    size_t n = queue_take(w->queue, worker, w->now, w->batch[worker], 1 + chance(w, BATCH));
    CHECK(n == 0 || due == w->now, "seed %llu: it was not due", (unsigned long long)w->seed);
    w->n[worker] = n;
    for (size_t i = 0; i < n; i++)
        mine[item_of(w, w->batch[worker][i])->target]++;
    for (size_t i = 0; i < n; i++) {
        struct item *it = item_of(w, w->batch[worker][i]);
        check_taken(w, it, worker, flying[it->target], mine[it->target]);
        it->flying = true;
    }
    for (int t = 0; t < TARGETS; t++)
        if (mine[t] > 0 && w->breakers[t].open)
            w->breakers[t].probing = true;
    move_all(w);
}

static void model_works(struct world *w, int target)
{
    if (w->breakers[target].open)
        for (size_t i = 0; i < w->count; i++)
            if (w->items[i].target == target)
                w->items[i].not_before = 0;
    w->breakers[target] = (struct model_breaker){ 0 };
}

static void model_fails(struct world *w, int target)
{
    struct model_breaker *b = &w->breakers[target];
    const struct breaker_rules *rules = &w->rules[target].breaker;
    if (b->open && !b->probing)
        return;
    if (!b->open && ++b->failures < (unsigned)rules->failures)
        return;
    b->probes += b->open;
    b->open = true;
    b->probing = false;
    int64_t ms = rules->open_ms;
    for (unsigned i = 0; i < b->probes && ms < rules->max_ms; i++)
        ms *= 2;
    b->until = w->now + (ms < rules->max_ms ? ms : rules->max_ms);
}

/* What the model makes of a result; the fate that it wants. */
static enum queue_fate model_settle(struct world *w, struct item *it,
                                    const struct tocsin_delivery *r, bool tried)
{
    const struct queue_rules *rules = &w->rules[it->target];
    it->flying = false;
    if (!tried) {
        w->breakers[it->target].probing = false;
        return QUEUE_UNTRIED;
    }
    bool can_move = it->last_target > it->target;
    bool *lane = &w->lane[it->target][it->topic - 'a'];
    if (r->verdict == TOCSIN_SENT) {
        model_works(w, it->target);
        *lane = false;
        it->done = true;
        return QUEUE_SENT;
    }
    if (r->verdict == TOCSIN_REJECT) {
        model_works(w, it->target);
        *lane = false;
        it->done = !can_move;
        return can_move ? QUEUE_MOVING : QUEUE_REJECTED;
    }
    model_fails(w, it->target);
    it->attempts++;
    *lane = true;
    if (it->attempts >= (unsigned)rules->max_attempts) {
        it->done = !can_move;
        return can_move ? QUEUE_MOVING : QUEUE_GIVEN_UP;
    }
    int64_t wait = rules->retry_initial_ms;
    for (unsigned i = 1; i < it->attempts && wait < rules->retry_max_ms; i++)
        wait *= 2;
    it->not_before = w->now + (wait < rules->retry_max_ms ? wait : rules->retry_max_ms);
    return QUEUE_RETRYING;
}

static void settle(struct world *w, size_t worker, unsigned trouble)
{
    struct tocsin_delivery results[BATCH];
    enum queue_fate fates[BATCH], want[BATCH];
    size_t n = w->n[worker];
    bool stopped = false;
    struct item *items[BATCH];
    memset(results, 0, sizeof(results));
    for (size_t i = 0; i < n; i++)
        items[i] = item_of(w, w->batch[worker][i]);
    for (size_t i = 0; i < n; i++) {
        unsigned dice = chance(w, 10);
        bool fails = dice < trouble;
        results[i].verdict = fails ? TOCSIN_RETRY : dice == 9 ? TOCSIN_REJECT : TOCSIN_SENT;
        if (stopped) /* the plugin stops at the first that fails */
            results[i].verdict = TOCSIN_RETRY;
        else if (fails)
            memcpy(results[i].reason, "away", 5);
        want[i] = model_settle(w, items[i], &results[i], !stopped);
        stopped |= fails;
    }
    queue_settle(w->queue, w->now, w->batch[worker], results, n, fates);
    w->n[worker] = 0;
    for (size_t i = 0; i < n; i++) {
        CHECK(fates[i] == want[i], "seed %llu: fate %d, not %d", (unsigned long long)w->seed,
              (int)fates[i], (int)want[i]);
        if (fates[i] < QUEUE_RETRYING)
            delivery_free(w->batch[worker][i]);
    }
    struct queue_granted granted[4];
    size_t grants;
    while ((grants = queue_grant(w->queue, granted, 4)) > 0)
        for (size_t i = 0; i < grants; i++) {
            message_release_hold(granted[i].message);
            message_unref(granted[i].message);
        }
    move_all(w);
}

static void check_sums(struct world *w)
{
    size_t in_model[TARGETS] = { 0 }, all = 0;
    for (size_t i = 0; i < w->count; i++)
        in_model[w->items[i].target] += !w->items[i].done;
    for (int t = 0; t < TARGETS; t++) {
        struct target_stats s;
        queue_target_stats(w->targets[t], &s);
        CHECK(target_stats_difference(&s) == 0, "seed %llu: target %d", (unsigned long long)w->seed,
              t);
        CHECK(s.waiting == in_model[t], "seed %llu: target %d: %llu wait, not %zu",
              (unsigned long long)w->seed, t, (unsigned long long)s.waiting, in_model[t]);
        const struct model_breaker *b = &w->breakers[t];
        enum breaker_state state = !b->open     ? BREAKER_CLOSED
                                   : b->probing ? BREAKER_HALF_OPEN
                                                : BREAKER_OPEN;
        CHECK(s.breaker == state, "seed %llu: breaker %d", (unsigned long long)w->seed, t);
        all += in_model[t];
    }
    assert_int_equal(queue_count(w->queue), all);
}

static void play(uint64_t seed)
{
    static struct world w;
    w = (struct world){ .random = seed * 0x9E3779B97F4A7C15u | 1, .now = 1000, .seed = seed };
    w.workers = 1 + chance(&w, WORKERS_MOST);
    w.queue = queue_new(w.workers, seed);
    for (int t = 0; t < TARGETS; t++) {
        w.rules[t] = (struct queue_rules){
            .retry_initial_ms = 10,
            .retry_max_ms = 200,
            .retry_factor = 2,
            .max_attempts = 2 + chance(&w, 5),
            .max_messages = 5 + chance(&w, 50),
            .max_bytes = 1 << 20,
            .breaker = { .failures = 1 + chance(&w, 4), .open_ms = 50, .factor = 2, .max_ms = 300 },
        };
        w.names[t] = (struct target){ .service = "s", .name = "t" };
        w.targets[t] = queue_add_target(w.queue, &w.rules[t]);
    }
    unsigned busy = 1 + chance(&w, 6), trouble = chance(&w, 8);
    for (int step = 0; step < STEPS; step++) {
        size_t worker = chance(&w, (unsigned)w.workers);
        if (chance(&w, 8) == 0)
            trouble = chance(&w, 9);
        for (unsigned i = chance(&w, busy); i > 0; i--)
            submit(&w);
        w.now += chance(&w, 3) == 0 ? chance(&w, 120) : 0;
        if (w.n[worker] > 0)
            settle(&w, worker, trouble);
        else
            take(&w, worker);
        check_sums(&w);
    }
    for (int step = 0; queue_count(w.queue) > 0; step++) { /* all of it comes to an end */
        CHECK(step < 100 * 1000, "seed %llu: %zu are left", (unsigned long long)seed,
              queue_count(w.queue));
        for (size_t worker = 0; worker < w.workers; worker++) {
            if (w.n[worker] > 0)
                settle(&w, worker, 1);
            take(&w, worker);
        }
        check_sums(&w);
        w.now += 5;
    }
    assert_int_equal(w.taken, w.messages); /* nobody holds a message any more */
    queue_free(w.queue);
}

static void a_queue_does_what_a_naive_one_would(void **state)
{
    (void)state;
    const char *first = getenv("TOCSIN_SEED"); /* for others, or to see one again */
    uint64_t begin = first ? strtoull(first, NULL, 10) : 1;
    for (uint64_t seed = begin; seed < begin + SEEDS; seed++)
        play(seed);
}

TEST_SUITE("delivery queue model", cmocka_unit_test(a_queue_does_what_a_naive_one_would));
