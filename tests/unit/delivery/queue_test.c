/* SPDX-License-Identifier: MIT */

/* Order, attempts, rates and turns of a queue. */

#include "queue_bench.h"

#include <stdio.h>
#include <stdlib.h>

static void deliveries_come_in_order_of_arrival(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    assert_int_equal(queue_due(b.queue, 0, b.now), QUEUE_NEVER);
    bench_submit(&b, b.a, "x", "1");
    bench_submit(&b, b.a, "y", "2");
    bench_submit(&b, b.a, "x", "3");
    assert_int_equal(queue_due(b.queue, 0, b.now), b.now);
    TAKEN(&b, "1 2 3");
    assert_int_equal(queue_due(b.queue, 0, b.now), QUEUE_NEVER);
    assert_int_equal(queue_count(b.queue), 3);
    bench_settle(&b, "sxs");
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
        bench_submit(&b, b.a, "x", "a");
        bench_submit(&b, b.b, "x", "b");
    }
    assert_string_equal(bench_take_upto(&b, 2), "a a");
    bench_settle(&b, "ss");
    assert_string_equal(bench_take_upto(&b, 2), "b b");
    bench_settle(&b, "ss");
    assert_string_equal(bench_take_upto(&b, 2), "a b");
    bench_settle(&b, "ss");
    bench_release(&b);
}

static void later_ones_of_the_topic_wait_behind_a_retry_and_others_pass(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "x1");
    bench_submit(&b, b.a, "x", "x2");
    bench_submit(&b, b.a, "y", "y1");
    TAKEN(&b, "x1 x2 y1");
    enum queue_fate *fates = bench_settle(&b, "r..");
    assert_int_equal(fates[0], QUEUE_RETRYING);
    assert_int_equal(fates[1], QUEUE_UNTRIED);
    assert_int_equal(fates[2], QUEUE_UNTRIED);
    bench_submit(&b, b.a, "x", "x3");
    bench_submit(&b, b.b, "x", "bx"); /* another target: another lane */
    TAKEN(&b, "y1 bx");
    assert_int_equal(b.batch[0]->attempts, 0);
    bench_settle(&b, "ss");

    assert_true(bench_wait_due(&b) <= 1000);
    TAKEN(&b, "x1");
    assert_int_equal(b.batch[0]->attempts, 1);
    bench_submit(&b, b.a, "x", "x4"); /* while the head is on its way */
    bench_submit(&b, b.a, "z", "z1");
    bench_settle(&b, "r");
    TAKEN(&b, "z1");
    bench_settle(&b, "s");
    bench_wait_due(&b);
    TAKEN(&b, "x1");
    bench_settle(&b, "s");
    TAKEN(&b, "x2 x3 x4"); /* the lane is dissolved */
    bench_settle(&b, "sss");
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
    bench_submit(&b, b.a, "x", "x1");
    bench_submit(&b, b.a, "x", "x2");
    TAKEN(&b, "x1 x2");
    bench_settle(&b, "r.");
    assert_string_equal(bench_take_next(&b), "x1");
    bench_settle(&b, "x");
    TAKEN(&b, "x2");
    bench_settle(&b, "s");
    bench_release(&b);
}

static void an_untried_head_of_a_lane_keeps_its_place_and_its_attempts(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "x1");
    bench_submit(&b, b.a, "y", "y1");
    TAKEN(&b, "x1 y1");
    bench_settle(&b, "rr"); /* the plugin went on: both were tried */
    bench_submit(&b, b.a, "y", "y2");
    b.now += 2000; /* both lanes are due */
    const char *got = bench_take(&b);
    bool x_first = strcmp(got, "x1 y1") == 0;
    CHECK(x_first || strcmp(got, "y1 x1") == 0, "%s", got);
    bench_settle(&b, "r.");
    TAKEN(&b, ""); /* three failures: down */
    bench_wait_due(&b);
    TAKEN(&b, x_first ? "y1" : "x1");
    assert_int_equal(b.batch[0]->attempts, 1);
    bench_settle(&b, "s");
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
        bench_submit(&b, b.a, "x", "1");
        for (size_t i = 0; i < ROWS(most); i++) {
            TAKEN(&b, "1");
            bench_settle(&b, "r");
            int64_t waited = bench_wait_due(&b);
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
    bench_submit(&b, b.a, "x", "1");
    TAKEN(&b, "1");
    bench_settle(&b, "w");
    assert_int_equal(bench_wait_due(&b), 90 * 1000);
    bench_release(&b);
}

static void a_parked_target_sends_nothing_and_others_go_on(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "1");
    TAKEN(&b, "1");
    bench_settle(&b, "p");
    bench_submit(&b, b.a, "y", "2");
    bench_submit(&b, b.b, "y", "b");
    TAKEN(&b, "b");
    bench_settle(&b, "s");
    assert_int_equal(bench_wait_due(&b), 5000);
    TAKEN(&b, "2");
    bench_settle(&b, "s");
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
        bench_submit(&b, b.a, "x", (char[]){ (char)('0' + i), '\0' });
    TAKEN(&b, "1 2");
    bench_settle(&b, "ss");
    TAKEN(&b, "");
    bench_settle(&b, "");
    assert_int_equal(bench_wait_due(&b), 500);
    TAKEN(&b, "3");
    bench_settle(&b, "s");
    b.now += 1000;
    TAKEN(&b, "4 5");
    bench_settle(&b, "xr");
    b.now += 3600 * 1000; /* a long rest saves up no more than the limit */
    TAKEN(&b, "5");
    bench_settle(&b, "s");
    TAKEN(&b, "6");
    bench_settle(&b, "s");
    TAKEN(&b, "");
    bench_release(&b);
}

static void a_target_that_is_down_is_tried_once_at_a_time(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    for (int i = 0; i < 20; i++)
        bench_submit(&b, b.a, (char[]){ (char)('a' + i), '\0' }, "a");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(bench_take_upto(&b, 1), "a");
        bench_settle(&b, "r");
    }
    for (int i = 0; i < 30; i++) { /* for an hour or less, and never two together */
        bench_submit(&b, b.b, "x", "b");
        TAKEN(&b, "b");
        bench_settle(&b, "s");
        int64_t waited = bench_wait_due(&b);
        CHECK(waited > 0, "probe %d came at once", i);
        TAKEN(&b, "a");
        bench_settle(&b, "r");
    }
    int64_t before = b.now;
    assert_string_equal(bench_take_next(&b), "a");
    CHECK(b.now - before <= 60 * 1000, "%lld ms", (long long)(b.now - before));
    bench_settle(&b, "s");

    /* It works again: all of it is due. */
    bench_take(&b);
    assert_int_equal(b.n, 19);
    bench_settle(&b, "sssssssssssssssssss");
    assert_int_equal(queue_count(b.queue), 0);
    bench_release(&b);
}

static void recovery_does_not_shorten_what_the_plugin_asked_for(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "x1");
    TAKEN(&b, "x1");
    bench_settle(&b, "w");
    int64_t asked = b.now + 90 * 1000;
    bench_submit(&b, b.a, "y", "y1");
    for (int i = 0; i < 3; i++) {
        TAKEN(&b, "y1");
        bench_settle(&b, "r");
        bench_wait_due(&b);
    }
    TAKEN(&b, "y1");
    bench_settle(&b, "s");
    bench_wait_due(&b);
    assert_int_equal(b.now, asked);
    TAKEN(&b, "x1");
    bench_settle(&b, "s");
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
        bench_submit(&b, b.a, (char[]){ (char)('a' + i), '\0' }, "1");
    bench_take(&b);
    bench_settle(&b, "rrrrrrrrrrrrrrrrrrrr"); /* each waits for up to an hour */
    bench_wait_due(&b);
    bench_take_upto(&b, 1);
    bench_settle(&b, "s");
    assert_int_equal(queue_due(b.queue, 0, b.now), b.now);
    bench_take(&b);
    assert_int_equal(b.n, 19);
    bench_settle(&b, "sssssssssssssssssss");
    bench_release(&b);
}

static void several_failures_of_a_topic_in_one_batch_keep_their_order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct bench b;
        bench_init_seed(&b, 1, &RULES, seed * 7919);
        for (int i = 1; i <= 4; i++)
            bench_submit(&b, b.a, "x", (char[]){ (char)('0' + i), '\0' });
        assert_string_equal(bench_take(&b), "1 2 3 4");
        bench_settle(&b, "rrr."); /* the plugin went on, against the rules */
        assert_string_equal(bench_take_next(&b), "1");
        bench_settle(&b, "s");
        assert_string_equal(bench_take(&b), "2 3 4");
        bench_settle(&b, "sss");
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
    bench_submit(&b, b.a, "x", "1");
    bench_submit(&b, b.a, "y", "2");
    bench_submit(&b, b.a, "z", "3");
    TAKEN(&b, "1 2");
    bench_settle(&b, "r.");
    TAKEN(&b, "2");
    bench_settle(&b, "s");
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
        bench_submit(&b, b.a, (char[]){ c, '\0' }, "1");
        for (size_t w = 0; w < 2; w++) {
            b.n = queue_take(b.queue, w, b.now, b.batch, 1);
            if (b.n > 0)
                of[w] = c;
            bench_settle(&b, b.n > 0 ? "s" : "");
        }
    }
    for (int i = 0; i < 3; i++) {
        bench_submit(&b, b.a, (char[]){ of[0], '\0' }, "1");
        bench_take_next(&b);
        bench_settle(&b, "r");
    }
    bench_submit(&b, b.a, (char[]){ of[1], '\0' }, "2");
    bench_take_next(&b);
    struct delivery *other[1];
    assert_int_equal(queue_due(b.queue, 1, b.now), QUEUE_NEVER);
    assert_int_equal(queue_take(b.queue, 1, b.now, other, 1), 0);
    bench_settle(&b, "s");
    assert_int_equal(queue_due(b.queue, 1, b.now), b.now);
    b.n = queue_take(b.queue, 1, b.now, b.batch, 1);
    assert_int_equal(b.n, 1);
    bench_settle(&b, "s");
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
        bench_submit(&b, b.a, "x", "1");
        bench_submit(&b, b.a, "x", "2");
        int64_t begin = b.now;
        int attempts = 0;
        enum queue_fate fate;
        do {
            const char *got = bench_take_next(&b);
            CHECK(strcmp(got, "1") == 0, "row %zu: %s", i, got);
            fate = bench_settle(&b, "r")[0];
            attempts++;
        } while (fate == QUEUE_RETRYING && attempts < 100);
        CHECK(fate == QUEUE_GIVEN_UP, "row %zu: fate %d", i, (int)fate);
        CHECK(rows[i].want == 0 || attempts == rows[i].want, "row %zu: %d", i, attempts);
        CHECK(rows[i].want != 0 || b.now - begin >= rows[i].age_ms, "row %zu: too early", i);
        assert_string_equal(bench_take_next(&b), "2"); /* the next one gets its chance */
        bench_settle(&b, "s");
        struct target_stats stats;
        queue_target_stats(b.a, &stats);
        assert_int_equal(stats.given_up, 1);
        assert_int_equal(stats.waiting, 0);
        bench_release(&b);
    }
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
        bench_submit(&b, b.a, topic, "a");
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
        bench_submit(&b, b.a, (char[]){ (char)('a' + i % TOPICS), '\0' },
                     (char[]){ (char)(' ' + i / TOPICS % 90), '\0' });
    srandom(7);
    for (int round = 0; queue_count(b.queue) > 0; round++) {
        CHECK(round < 1000 * 1000, "%zu are left", queue_count(b.queue));
        bench_wait_due(&b);
        bench_take_upto(&b, 1 + (size_t)random() % 20);
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
        bench_settle(&b, verdicts);
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
           cmocka_unit_test(recovery_makes_lanes_due_that_had_longer_to_wait),
           cmocka_unit_test(several_failures_of_a_topic_in_one_batch_keep_their_order),
           cmocka_unit_test(what_was_not_tried_does_not_count_for_the_rate),
           cmocka_unit_test(a_target_that_is_down_is_tried_by_one_worker_only),
           cmocka_unit_test(a_topic_of_a_target_always_goes_to_the_same_worker),
           cmocka_unit_test(order_holds_under_a_storm_of_random_results));
