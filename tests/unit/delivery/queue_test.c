/* SPDX-License-Identifier: MIT */

#include "delivery/queue.h"

#include "../suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A queue under test: deliveries are named by their text, topics by one letter. */
struct bench {
    struct queue *queue;
    struct queue_target *a, *b;
    struct target names;
    struct delivery *batch[64];
    size_t n;
    int64_t now;
    int taken; /* messages that have been taken over */
};

static const struct queue_rules RULES = {
    .retry_initial_ms = 1000,
    .retry_max_ms = 60 * 1000,
    .retry_factor = 2,
    .max_messages = 1000,
    .max_bytes = 1024 * 1024,
};

static void bench_init_seed(struct bench *b, size_t workers, const struct queue_rules *rules,
                            uint64_t seed)
{
    *b = (struct bench){ .names = { .service = "s", .name = "t" }, .now = 1000 * 1000 };
    b->queue = queue_new(workers, seed);
    b->a = queue_add_target(b->queue, rules);
    b->b = queue_add_target(b->queue, rules);
}

static void bench_init(struct bench *b, size_t workers, const struct queue_rules *rules)
{
    bench_init_seed(b, workers, rules, 42);
}

static void count_taken(struct message *message, void *context)
{
    (void)message;
    ((struct bench *)context)->taken++;
}

static enum queue_place submit_message(struct bench *b, struct queue_target *target,
                                       const char *topic, const char *text, uint8_t qos)
{
    struct message *m = message_new(topic, strlen(topic), text, strlen(text), NULL);
    m->qos = qos;
    m->link = "home";
    m->generation = 1;
    m->taken = count_taken;
    m->taken_context = b;
    struct delivery *d =
        delivery_new(&(struct delivery_parts){ .target = &b->names, .message = m, .route = "r" });
    size_t worker;
    enum queue_place place = queue_submit(b->queue, target, d, b->now, &worker);
    if (place == QUEUE_DROPPED)
        delivery_free(d);
    message_release_hold(m);
    message_unref(m);
    return place;
}

static void submit(struct bench *b, struct queue_target *target, const char *topic,
                   const char *text)
{
    submit_message(b, target, topic, text, 1);
}

/* Takes what is due, and says what it was: "1 2 3". */
static const char *take_upto(struct bench *b, size_t max)
{
    static char words[512];
    b->n = queue_take(b->queue, 0, b->now, b->batch, max);
    words[0] = '\0';
    for (size_t i = 0; i < b->n; i++) {
        size_t len = strlen(words);
        snprintf(words + len, sizeof(words) - len, "%s%s", i ? " " : "", b->batch[i]->view.text);
    }
    return words;
}

static const char *take(struct bench *b)
{
    return take_upto(b, 64);
}

/* Settles the batch, one letter a delivery: s sent, x rejected, r retry with a reason, '.' retry as it was
 * preset, p sent and parked for 5 s, w retry after 90 s. */
static enum queue_fate *settle(struct bench *b, const char *verdicts)
{
    static enum queue_fate fates[64];
    struct tocsin_delivery results[64];
    memset(results, 0, sizeof(results));
    assert_int_equal(strlen(verdicts), b->n);
    for (size_t i = 0; i < b->n; i++) {
        char v = verdicts[i];
        results[i].verdict = v == 's' || v == 'p' ? TOCSIN_SENT
                             : v == 'x'           ? TOCSIN_REJECT
                                                  : TOCSIN_RETRY;
        if (v == 'r' || v == 'w')
            strcpy(results[i].reason, "away");
        results[i].park_ms = v == 'p' ? 5000 : 0;
        results[i].retry_after_ms = v == 'w' ? 90 * 1000 : 0;
    }
    queue_settle(b->queue, b->now, b->batch, results, b->n, fates);
    for (size_t i = 0; i < b->n; i++)
        if (fates[i] < QUEUE_RETRYING)
            delivery_free(b->batch[i]);
    struct message *granted[2];
    size_t n;
    while ((n = queue_grant(b->queue, granted, 2)) > 0)
        for (size_t i = 0; i < n; i++) {
            message_release_hold(granted[i]);
            message_unref(granted[i]);
        }
    return fates;
}

/* Lets the time pass until something is due. Returns how long it was, in ms. */
static int64_t wait_due(struct bench *b)
{
    int64_t due = queue_due(b->queue, 0, b->now);
    assert_true(due != QUEUE_NEVER);
    int64_t waited = due - b->now;
    b->now = due;
    return waited;
}

/* Waits for the next delivery. */
static const char *take_next(struct bench *b)
{
    const char *words;
    do {
        wait_due(b);
        words = take_upto(b, 1);
    } while (b->n == 0);
    return words;
}

static void bench_release(struct bench *b)
{
    queue_free(b->queue);
}

#define TAKEN(B, WANT)                                                      \
    do {                                                                    \
        const char *taken_now = take(B);                                    \
        CHECK(strcmp(taken_now, WANT) == 0, "%s, not %s", taken_now, WANT); \
    } while (0)

static void deliveries_come_in_order_of_arrival(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    assert_int_equal(queue_due(b.queue, 0, b.now), QUEUE_NEVER);
    submit(&b, b.a, "x", "1");
    submit(&b, b.a, "y", "2");
    submit(&b, b.a, "x", "3");
    assert_int_equal(queue_due(b.queue, 0, b.now), b.now);
    TAKEN(&b, "1 2 3");
    assert_int_equal(queue_due(b.queue, 0, b.now), QUEUE_NEVER);
    assert_int_equal(queue_count(b.queue), 3);
    settle(&b, "sxs");
    assert_int_equal(queue_count(b.queue), 0);
    struct target_stats stats;
    queue_target_stats(b.a, &stats);
    assert_int_equal(stats.created, 3);
    assert_int_equal(stats.sent, 2);
    assert_int_equal(stats.rejected, 1);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.bytes, 0);
    bench_release(&b);
}

static void targets_take_turns(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    for (int i = 0; i < 3; i++) {
        submit(&b, b.a, "x", "a");
        submit(&b, b.b, "x", "b");
    }
    assert_string_equal(take_upto(&b, 2), "a a");
    settle(&b, "ss");
    assert_string_equal(take_upto(&b, 2), "b b");
    settle(&b, "ss");
    assert_string_equal(take_upto(&b, 2), "a b");
    settle(&b, "ss");
    bench_release(&b);
}

static void later_ones_of_the_topic_wait_behind_a_retry_and_others_pass(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, b.a, "x", "x1");
    submit(&b, b.a, "x", "x2");
    submit(&b, b.a, "y", "y1");
    TAKEN(&b, "x1 x2 y1");
    enum queue_fate *fates = settle(&b, "r..");
    assert_int_equal(fates[0], QUEUE_RETRYING);
    assert_int_equal(fates[1], QUEUE_UNTRIED);
    assert_int_equal(fates[2], QUEUE_UNTRIED);
    submit(&b, b.a, "x", "x3");
    submit(&b, b.b, "x", "bx"); /* another target: another lane */
    TAKEN(&b, "y1 bx");
    assert_int_equal(b.batch[0]->attempts, 0);
    settle(&b, "ss");

    assert_true(wait_due(&b) <= 1000);
    TAKEN(&b, "x1");
    assert_int_equal(b.batch[0]->attempts, 1);
    submit(&b, b.a, "x", "x4"); /* while the head is on its way */
    submit(&b, b.a, "z", "z1");
    settle(&b, "r");
    TAKEN(&b, "z1");
    settle(&b, "s");
    wait_due(&b);
    TAKEN(&b, "x1");
    settle(&b, "s");
    TAKEN(&b, "x2 x3 x4"); /* the lane is dissolved */
    settle(&b, "sss");
    assert_int_equal(queue_count(b.queue), 0);
    struct target_stats stats;
    queue_target_stats(b.a, &stats);
    assert_int_equal(stats.retried, 2);
    assert_int_equal(stats.sent, 6);
    bench_release(&b);
}

static void a_rejected_head_lets_the_next_one_go(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, b.a, "x", "x1");
    submit(&b, b.a, "x", "x2");
    TAKEN(&b, "x1 x2");
    settle(&b, "r.");
    assert_string_equal(take_next(&b), "x1");
    settle(&b, "x");
    TAKEN(&b, "x2");
    settle(&b, "s");
    bench_release(&b);
}

static void an_untried_head_of_a_lane_keeps_its_place_and_its_attempts(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, b.a, "x", "x1");
    submit(&b, b.a, "y", "y1");
    TAKEN(&b, "x1 y1");
    settle(&b, "rr"); /* the plugin went on: both were tried */
    submit(&b, b.a, "y", "y2");
    b.now += 2000; /* both lanes are due */
    const char *got = take(&b);
    bool x_first = strcmp(got, "x1 y1") == 0;
    CHECK(x_first || strcmp(got, "y1 x1") == 0, "%s", got);
    settle(&b, "r.");
    TAKEN(&b, ""); /* three failures: down */
    wait_due(&b);
    TAKEN(&b, x_first ? "y1" : "x1");
    assert_int_equal(b.batch[0]->attempts, 1);
    settle(&b, "s");
    bench_release(&b);
}

static void backoff_is_random_and_grows_to_its_limit(void **state)
{
    (void)state;
    static const int64_t most[] = { 1000, 2000, 4000, 8000, 8000, 8000 };
    int64_t longest[ROWS(most)] = { 0 };
    struct queue_rules rules = RULES;
    rules.retry_max_ms = 8000;
    for (int round = 0; round < 200; round++) {
        struct bench b;
        bench_init_seed(&b, 1, &rules, (uint64_t)round * 7919 + 3);
        submit(&b, b.a, "x", "1");
        for (size_t i = 0; i < ROWS(most); i++) {
            TAKEN(&b, "1");
            settle(&b, "r");
            int64_t waited = wait_due(&b);
            CHECK(waited <= most[i], "attempt %zu: %lld ms", i + 1, (long long)waited);
            if (waited > longest[i])
                longest[i] = waited;
        }
        bench_release(&b);
    }
    for (size_t i = 0; i < ROWS(most); i++)
        CHECK(longest[i] > most[i] * 3 / 4, "attempt %zu: never more than %lld ms", i + 1,
              (long long)longest[i]);
}

static void the_plugins_own_wish_is_the_shortest_wait(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, b.a, "x", "1");
    TAKEN(&b, "1");
    settle(&b, "w");
    assert_int_equal(wait_due(&b), 90 * 1000);
    bench_release(&b);
}

static void a_parked_target_sends_nothing_and_others_go_on(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, b.a, "x", "1");
    TAKEN(&b, "1");
    settle(&b, "p");
    submit(&b, b.a, "y", "2");
    submit(&b, b.b, "y", "b");
    TAKEN(&b, "b");
    settle(&b, "s");
    assert_int_equal(wait_due(&b), 5000);
    TAKEN(&b, "2");
    settle(&b, "s");
    bench_release(&b);
}

static void rate_limit_allows_so_many_at_once_and_then_one_an_interval(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.rate_limit = 2;
    rules.rate_per_ms = 1000;
    bench_init(&b, 1, &rules);
    for (int i = 1; i <= 7; i++)
        submit(&b, b.a, "x", (char[]){ (char)('0' + i), '\0' });
    TAKEN(&b, "1 2");
    settle(&b, "ss");
    TAKEN(&b, "");
    settle(&b, "");
    assert_int_equal(wait_due(&b), 500);
    TAKEN(&b, "3");
    settle(&b, "s");
    b.now += 1000;
    TAKEN(&b, "4 5");
    settle(&b, "xr");
    b.now += 3600 * 1000; /* a long rest saves up no more than the limit */
    TAKEN(&b, "5");
    settle(&b, "s");
    TAKEN(&b, "6");
    settle(&b, "s");
    TAKEN(&b, "");
    bench_release(&b);
}

static void a_target_that_is_down_is_tried_once_at_a_time(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    for (int i = 0; i < 20; i++)
        submit(&b, b.a, (char[]){ (char)('a' + i), '\0' }, "a");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(take_upto(&b, 1), "a");
        settle(&b, "r");
    }
    for (int i = 0; i < 30; i++) { /* for an hour or less, and never two together */
        submit(&b, b.b, "x", "b");
        TAKEN(&b, "b");
        settle(&b, "s");
        int64_t waited = wait_due(&b);
        CHECK(waited > 0, "probe %d came at once", i);
        TAKEN(&b, "a");
        settle(&b, "r");
    }
    int64_t before = b.now;
    assert_string_equal(take_next(&b), "a");
    CHECK(b.now - before <= 60 * 1000, "%lld ms", (long long)(b.now - before));
    settle(&b, "s");

    /* It works again: all of it is due. */
    take(&b);
    assert_int_equal(b.n, 19);
    settle(&b, "sssssssssssssssssss");
    assert_int_equal(queue_count(b.queue), 0);
    bench_release(&b);
}

static void recovery_does_not_shorten_what_the_plugin_asked_for(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, b.a, "x", "x1");
    TAKEN(&b, "x1");
    settle(&b, "w");
    int64_t asked = b.now + 90 * 1000;
    submit(&b, b.a, "y", "y1");
    for (int i = 0; i < 3; i++) {
        TAKEN(&b, "y1");
        settle(&b, "r");
        wait_due(&b);
    }
    TAKEN(&b, "y1");
    settle(&b, "s");
    wait_due(&b);
    assert_int_equal(b.now, asked);
    TAKEN(&b, "x1");
    settle(&b, "s");
    bench_release(&b);
}

static void recovery_makes_lanes_due_that_had_longer_to_wait(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.retry_initial_ms = rules.retry_max_ms = 3600 * 1000;
    bench_init(&b, 1, &rules);
    for (int i = 0; i < 20; i++)
        submit(&b, b.a, (char[]){ (char)('a' + i), '\0' }, "1");
    take(&b);
    settle(&b, "rrrrrrrrrrrrrrrrrrrr"); /* each waits for up to an hour */
    wait_due(&b);
    take_upto(&b, 1);
    settle(&b, "s");
    assert_int_equal(queue_due(b.queue, 0, b.now), b.now);
    take(&b);
    assert_int_equal(b.n, 19);
    settle(&b, "sssssssssssssssssss");
    bench_release(&b);
}

static void several_failures_of_a_topic_in_one_batch_keep_their_order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct bench b;
        bench_init_seed(&b, 1, &RULES, seed * 7919);
        for (int i = 1; i <= 4; i++)
            submit(&b, b.a, "x", (char[]){ (char)('0' + i), '\0' });
        assert_string_equal(take(&b), "1 2 3 4");
        settle(&b, "rrr."); /* the plugin went on, against the rules */
        assert_string_equal(take_next(&b), "1");
        settle(&b, "s");
        assert_string_equal(take(&b), "2 3 4");
        settle(&b, "sss");
        assert_int_equal(queue_due(b.queue, 0, b.now), QUEUE_NEVER);
        bench_release(&b);
    }
}

static void what_was_not_tried_does_not_count_for_the_rate(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.rate_limit = 2;
    rules.rate_per_ms = 1000;
    bench_init(&b, 1, &rules);
    submit(&b, b.a, "x", "1");
    submit(&b, b.a, "y", "2");
    submit(&b, b.a, "z", "3");
    TAKEN(&b, "1 2");
    settle(&b, "r.");
    TAKEN(&b, "2");
    settle(&b, "s");
    TAKEN(&b, "");
    bench_release(&b);
}

static void a_target_that_is_down_is_tried_by_one_worker_only(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 2, &RULES);
    char of[2] = { 0 }; /* a topic of each worker */
    for (char c = 'a'; !of[0] || !of[1]; c++) {
        submit(&b, b.a, (char[]){ c, '\0' }, "1");
        for (size_t w = 0; w < 2; w++) {
            b.n = queue_take(b.queue, w, b.now, b.batch, 1);
            if (b.n > 0)
                of[w] = c;
            settle(&b, b.n > 0 ? "s" : "");
        }
    }
    for (int i = 0; i < 3; i++) {
        submit(&b, b.a, (char[]){ of[0], '\0' }, "1");
        take_next(&b);
        settle(&b, "r");
    }
    submit(&b, b.a, (char[]){ of[1], '\0' }, "2");
    take_next(&b);
    struct delivery *other[1];
    assert_int_equal(queue_due(b.queue, 1, b.now), QUEUE_NEVER);
    assert_int_equal(queue_take(b.queue, 1, b.now, other, 1), 0);
    settle(&b, "s");
    assert_int_equal(queue_due(b.queue, 1, b.now), b.now);
    b.n = queue_take(b.queue, 1, b.now, b.batch, 1);
    assert_int_equal(b.n, 1);
    settle(&b, "s");
    bench_release(&b);
}

static void a_delivery_is_given_up_after_its_attempts_or_its_age(void **state)
{
    (void)state;
    static const struct {
        int64_t attempts, age_ms;
        int want; /* attempts, or 0: depends */
    } rows[] = { { 3, 0, 3 }, { 1, 0, 1 }, { 0, 5000, 0 }, { 1000, 5000, 0 } };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct bench b;
        struct queue_rules rules = RULES;
        rules.max_attempts = rows[i].attempts;
        rules.max_age_ms = rows[i].age_ms;
        bench_init(&b, 1, &rules);
        submit(&b, b.a, "x", "1");
        submit(&b, b.a, "x", "2");
        int64_t begin = b.now;
        int attempts = 0;
        enum queue_fate fate;
        do {
            const char *got = take_next(&b);
            CHECK(strcmp(got, "1") == 0, "row %zu: %s", i, got);
            fate = settle(&b, "r")[0];
            attempts++;
        } while (fate == QUEUE_RETRYING && attempts < 100);
        CHECK(fate == QUEUE_GIVEN_UP, "row %zu: fate %d", i, (int)fate);
        CHECK(rows[i].want == 0 || attempts == rows[i].want, "row %zu: %d", i, attempts);
        CHECK(rows[i].want != 0 || b.now - begin >= rows[i].age_ms, "row %zu: too early", i);
        assert_string_equal(take_next(&b), "2"); /* the next one gets its chance */
        settle(&b, "s");
        struct target_stats stats;
        queue_target_stats(b.a, &stats);
        assert_int_equal(stats.given_up, 1);
        assert_int_equal(stats.waiting, 0);
        bench_release(&b);
    }
}

static void beyond_the_bound_qos_1_holds_and_qos_0_is_dropped(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 2;
    bench_init(&b, 1, &rules);
    assert_int_equal(submit_message(&b, b.a, "x", "1", 1), QUEUE_PLACED);
    assert_int_equal(submit_message(&b, b.a, "x", "2", 0), QUEUE_PLACED);
    assert_int_equal(submit_message(&b, b.a, "x", "3", 1), QUEUE_HELD);
    assert_int_equal(submit_message(&b, b.a, "x", "4", 2), QUEUE_HELD);
    assert_int_equal(submit_message(&b, b.a, "x", "5", 0), QUEUE_DROPPED);
    assert_int_equal(submit_message(&b, b.b, "x", "b", 0),
                     QUEUE_PLACED); /* bounds are a target's */
    assert_int_equal(b.taken, 4);
    struct target_stats stats;
    queue_target_stats(b.a, &stats);
    assert_int_equal(stats.waiting, 4);
    assert_int_equal(stats.held, 2);
    assert_int_equal(stats.dropped, 1);

    assert_string_equal(take_upto(&b, 1), "1");
    settle(&b, "s");
    assert_int_equal(b.taken, 5); /* 3 has a place */
    TAKEN(&b, "b 2 3 4");         /* holding does not keep it from being sent */
    settle(&b, "ssss");
    assert_int_equal(b.taken, 6);
    queue_target_stats(b.a, &stats);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.bytes, 0);
    bench_release(&b);
}

static void bytes_are_bounded_but_one_delivery_always_has_a_place(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_bytes = 100;
    bench_init(&b, 1, &rules);
    assert_int_equal(submit_message(&b, b.a, "x", "1", 0), QUEUE_PLACED);
    assert_int_equal(submit_message(&b, b.a, "x", "2", 1), QUEUE_HELD);
    assert_int_equal(submit_message(&b, b.a, "x", "3", 1), QUEUE_HELD);
    TAKEN(&b, "1 2 3");
    settle(&b, "r..");
    assert_int_equal(b.taken, 1);
    assert_string_equal(take_next(&b), "1");
    settle(&b, "s");
    assert_int_equal(b.taken, 2);
    struct target_stats stats;
    queue_target_stats(b.a, &stats);
    assert_int_equal(stats.held, 1);
    bench_release(&b); /* frees the rest, and drops its holds */
    assert_int_equal(b.taken, 3);
}

static void nobody_overtakes_those_that_hold(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    char large[2000];
    memset(large, 'L', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    rules.max_bytes = 3000;
    bench_init(&b, 1, &rules);
    assert_int_equal(submit_message(&b, b.a, "x", "1", 1), QUEUE_PLACED);
    assert_int_equal(submit_message(&b, b.a, "x", large, 1), QUEUE_PLACED);
    assert_int_equal(submit_message(&b, b.a, "x", large, 1), QUEUE_HELD);
    assert_string_equal(take_upto(&b, 1), "1"); /* there is room for a small one now, not a large */
    settle(&b, "s");
    assert_int_equal(submit_message(&b, b.a, "x", "2", 1), QUEUE_HELD);
    assert_int_equal(submit_message(&b, b.a, "x", "3", 0), QUEUE_DROPPED);
    bench_release(&b);
}

static void what_comes_from_another_queue_keeps_its_age_and_its_hold(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 1;
    rules.max_age_ms = 10 * 1000;
    bench_init(&b, 1, &rules);
    submit(&b, b.a, "x", "1");
    submit(&b, b.a, "x", "2");
    submit(&b, b.a, "x", "3");
    struct delivery *list = queue_empty(b.a);
    assert_int_equal(queue_count(b.queue), 0);
    b.now += 9999;
    while (list) {
        struct delivery *d = list;
        list = d->next;
        size_t worker;
        queue_submit(b.queue, b.b, d, b.now, &worker);
    }
    assert_int_equal(b.taken, 1);
    assert_string_equal(take_upto(&b, 1), "1");
    b.now++;
    assert_int_equal(settle(&b, "r")[0], QUEUE_GIVEN_UP);
    assert_int_equal(b.taken, 2); /* 2 has the place, 3 still holds */
    struct target_stats stats;
    queue_target_stats(b.b, &stats);
    assert_int_equal(stats.held, 1);
    TAKEN(&b, "2 3");
    settle(&b, "ss");
    assert_int_equal(b.taken, 3);
    bench_release(&b);
}

static void what_holds_for_a_lost_connection_is_forgotten(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 1;
    bench_init(&b, 1, &rules);
    submit(&b, b.a, "x", "1");
    submit(&b, b.a, "x", "2");
    submit(&b, b.a, "y", "3");
    TAKEN(&b, "1 2 3");
    settle(&b, "rr."); /* 1 and 2 in a lane, 3 fresh */
    submit(&b, b.a, "z", "4");
    submit(&b, b.a, "a", "5");
    assert_string_equal(take_upto(&b, 1), "3");
    b.n = queue_take(b.queue, 0, b.now, b.batch + 1, 1) + 1;
    assert_string_equal(b.batch[1]->view.text, "4");

    assert_null(queue_forget_held(b.queue, "home", 2));
    assert_null(queue_forget_held(b.queue, "elsewhere", 1));
    struct delivery *gone = queue_forget_held(b.queue, "home", 1);
    size_t n = 0;
    while (gone) {
        struct delivery *next = gone->next;
        delivery_free(gone);
        gone = next;
        n++;
    }
    assert_int_equal(n, 2); /* 2 and 5; 3 and 4 are on their way, 1 has a place */
    enum queue_fate *fates = settle(&b, "r.");
    assert_int_equal(fates[0], QUEUE_FORGOTTEN);
    assert_int_equal(fates[1], QUEUE_FORGOTTEN);
    assert_int_equal(b.taken, 5);
    assert_int_equal(queue_count(b.queue), 1);
    assert_string_equal(take_next(&b), "1");
    settle(&b, "s");
    bench_release(&b);
}

static void a_topic_of_a_target_always_goes_to_the_same_worker(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 4, &RULES);
    size_t by_worker[4] = { 0 };
    for (int i = 0; i < 400; i++) {
        char topic[16];
        snprintf(topic, sizeof(topic), "t/%d", i % 100);
        submit(&b, b.a, topic, "a");
    }
    for (size_t w = 0; w < 4; w++) {
        struct delivery *batch[400];
        by_worker[w] = queue_worker_count(b.queue, w);
        size_t n = queue_take(b.queue, w, b.now, batch, 400);
        assert_int_equal(n, by_worker[w]);
        assert_int_equal(n % 4, 0); /* each topic came four times */
        CHECK(n > 0, "worker %zu has nothing", w);
        struct tocsin_delivery *results = calloc(n, sizeof(*results));
        enum queue_fate fates[400];
        for (size_t i = 0; i < n; i++)
            results[i].verdict = TOCSIN_SENT;
        queue_settle(b.queue, b.now, batch, results, n, fates);
        for (size_t i = 0; i < n; i++)
            delivery_free(batch[i]);
        free(results);
    }
    assert_int_equal(queue_count(b.queue), 0);
    bench_release(&b);
}

static void what_moves_to_another_queue_keeps_its_place(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 3;
    bench_init(&b, 1, &rules);
    for (int i = 0; i < 3; i++)
        submit_message(&b, b.a, "x", (char[]){ (char)('1' + i), '\0' }, (uint8_t)(i % 2));
    submit(&b, b.a, "x", "4"); /* holds */
    assert_int_equal(b.taken, 3);
    submit(&b, b.b, "x", "new");
    submit(&b, b.b, "x", "new");
    assert_int_equal(b.taken, 5);

    struct delivery *list = queue_empty(b.a);
    while (list) { /* all into a queue with one place, as after a reload */
        struct delivery *d = list;
        list = d->next;
        size_t worker;
        CHECK(queue_submit(b.queue, b.b, d, b.now, &worker) ==
                  (strcmp(d->view.text, "4") == 0 ? QUEUE_HELD : QUEUE_PLACED),
              "%s", d->view.text);
    }
    TAKEN(&b, "new new 1 2 3 4");
    settle(&b, "ssssss");
    assert_int_equal(b.taken, 6); /* each of them once */
    bench_release(&b);
}

/* Random results over many topics: each topic's order must hold, and nothing may be lost. */
static void order_holds_under_a_storm_of_random_results(void **state)
{
    (void)state;
    enum {
        TOPICS = 7,
        EACH = 200
    };
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 300;
    bench_init(&b, 1, &rules);
    unsigned next[TOPICS] = { 0 };
    for (int i = 0; i < TOPICS * EACH; i++)
        submit(&b, b.a, (char[]){ (char)('a' + i % TOPICS), '\0' },
               (char[]){ (char)(' ' + i / TOPICS % 90), '\0' });
    srandom(7);
    for (int round = 0; queue_count(b.queue) > 0; round++) {
        CHECK(round < 1000 * 1000, "%zu are left", queue_count(b.queue));
        wait_due(&b);
        take_upto(&b, 1 + (size_t)random() % 20);
        char verdicts[65] = { 0 };
        bool stopped = false;
        for (size_t i = 0; i < b.n; i++) {
            verdicts[i] = stopped ? '.' : random() % 8 == 0 ? 'r' : 's';
            stopped |= verdicts[i] == 'r';
            if (verdicts[i] != 's')
                continue;
            unsigned topic = (unsigned)(b.batch[i]->view.topic[0] - 'a');
            CHECK(b.batch[i]->view.text[0] == (char)(' ' + next[topic] % 90), "topic %u, %u", topic,
                  next[topic]);
            next[topic]++;
        }
        settle(&b, verdicts);
    }
    for (int i = 0; i < TOPICS; i++)
        assert_int_equal(next[i], EACH);
    assert_int_equal(b.taken, TOPICS * EACH);
    bench_release(&b);
}

TEST_SUITE("delivery queue", cmocka_unit_test(deliveries_come_in_order_of_arrival),
           cmocka_unit_test(targets_take_turns),
           cmocka_unit_test(later_ones_of_the_topic_wait_behind_a_retry_and_others_pass),
           cmocka_unit_test(a_rejected_head_lets_the_next_one_go),
           cmocka_unit_test(an_untried_head_of_a_lane_keeps_its_place_and_its_attempts),
           cmocka_unit_test(backoff_is_random_and_grows_to_its_limit),
           cmocka_unit_test(the_plugins_own_wish_is_the_shortest_wait),
           cmocka_unit_test(a_parked_target_sends_nothing_and_others_go_on),
           cmocka_unit_test(rate_limit_allows_so_many_at_once_and_then_one_an_interval),
           cmocka_unit_test(a_target_that_is_down_is_tried_once_at_a_time),
           cmocka_unit_test(recovery_does_not_shorten_what_the_plugin_asked_for),
           cmocka_unit_test(a_delivery_is_given_up_after_its_attempts_or_its_age),
           cmocka_unit_test(beyond_the_bound_qos_1_holds_and_qos_0_is_dropped),
           cmocka_unit_test(bytes_are_bounded_but_one_delivery_always_has_a_place),
           cmocka_unit_test(recovery_makes_lanes_due_that_had_longer_to_wait),
           cmocka_unit_test(several_failures_of_a_topic_in_one_batch_keep_their_order),
           cmocka_unit_test(what_was_not_tried_does_not_count_for_the_rate),
           cmocka_unit_test(a_target_that_is_down_is_tried_by_one_worker_only),
           cmocka_unit_test(nobody_overtakes_those_that_hold),
           cmocka_unit_test(what_comes_from_another_queue_keeps_its_age_and_its_hold),
           cmocka_unit_test(what_holds_for_a_lost_connection_is_forgotten),
           cmocka_unit_test(what_moves_to_another_queue_keeps_its_place),
           cmocka_unit_test(a_topic_of_a_target_always_goes_to_the_same_worker),
           cmocka_unit_test(order_holds_under_a_storm_of_random_results));
