/* SPDX-License-Identifier: MIT */

/* The breaker of a target: when it opens, what its probe leads to, and what is counted. */

#include "queue_bench.h"

static struct target_stats stats_of(const struct queue_target *t)
{
    struct target_stats stats;
    queue_target_stats(t, &stats);
    return stats;
}

/* Lets a delivery fail so often, each time when it is due. */
static void fails(struct bench *b, int times)
{
    for (int i = 0; i < times; i++) {
        bench_take_next(b);
        bench_settle(b, "r");
    }
}

static void it_opens_after_so_many_failures_and_only_in_a_row(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "1");
    fails(&b, 2);
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    bench_take_next(&b);
    bench_settle(&b, "s"); /* begins the count again */
    bench_submit(&b, b.a, "x", "2");
    fails(&b, 2);
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    assert_int_equal(stats_of(b.a).retrying, 1);
    fails(&b, 1);
    assert_int_equal(stats_of(b.a).breaker, BREAKER_OPEN);
    assert_int_equal(stats_of(b.a).opened, 1);
    assert_int_equal(stats_of(b.b).breaker, BREAKER_CLOSED); /* each target has its own */
    bench_release(&b);
}

static void nothing_is_tried_until_its_time_is_over_then_one_probe(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "1");
    fails(&b, 3);
    int64_t opened = b.now;
    for (int i = 0; i < 20; i++)
        bench_submit(&b, b.a, (char[]){ (char)('a' + i), '\0' }, "p");
    b.now = opened + 999;
    TAKEN(&b, "");
    bench_settle(&b, "");
    assert_int_equal(queue_due(b.queue, 0, b.now), opened + 1000);
    b.now = opened + 1000;
    bench_take(&b);
    assert_int_equal(b.n, 1);
    assert_int_equal(stats_of(b.a).breaker, BREAKER_HALF_OPEN);
    struct delivery *other[4];
    assert_int_equal(queue_take(b.queue, 0, b.now, other, 4), 0); /* exactly one */
    assert_int_equal(queue_due(b.queue, 0, b.now), QUEUE_NEVER);

    bench_settle(&b, "r"); /* twice as long from now on */
    assert_int_equal(stats_of(b.a).breaker, BREAKER_OPEN);
    b.now += 1999;
    TAKEN(&b, "");
    bench_settle(&b, "");
    b.now += 1;
    bench_take(&b);
    assert_int_equal(b.n, 1);
    bench_settle(&b, "s");
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    assert_int_equal(stats_of(b.a).opened, 1); /* one outage */
    bench_take(&b);
    assert_int_equal(b.n, 20);
    bench_settle(&b, "ssssssssssssssssssss");
    bench_release(&b);
}

static void an_answer_closes_it_even_if_it_is_no(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "1");
    fails(&b, 4);
    bench_take_next(&b);
    bench_settle(&b, "x");
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    assert_int_equal(stats_of(b.a).rejected, 1);
    bench_release(&b);
}

static void what_was_on_its_way_when_it_opened_does_not_count(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.breaker.failures = 1;
    bench_init(&b, 1, &rules);
    bench_submit(&b, b.a, "x", "1");
    bench_submit(&b, b.a, "y", "2");
    TAKEN(&b, "1 2");
    bench_settle(&b, "rr"); /* the plugin went on after the first */
    int64_t opened = b.now;
    assert_int_equal(stats_of(b.a).opened, 1);
    bench_submit(&b, b.a, "z", "3");
    b.now = opened + 1000; /* as long as for one failure */
    bench_take(&b);
    assert_int_equal(b.n, 1);
    bench_settle(&b, "s");
    bench_release(&b);
}

static void a_probe_that_was_not_tried_leaves_the_turn_to_the_next(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "1");
    fails(&b, 3);
    b.now += 1000 * 1000;
    bench_submit(&b, b.b, "x", "b");
    const char *taken = bench_take(&b);
    CHECK(strcmp(taken, "b 1") == 0 || strcmp(taken, "1 b") == 0, "%s", taken);
    bool probe_last = taken[0] == 'b';
    if (!probe_last) { /* the other one begins, so that the probe is behind it */
        struct delivery *first = b.batch[0];
        b.batch[0] = b.batch[1];
        b.batch[1] = first;
    }
    bench_settle(&b, "r.");
    assert_int_equal(stats_of(b.a).breaker, BREAKER_OPEN);
    TAKEN(&b, "1");
    bench_settle(&b, "s");
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    bench_release(&b);
}

static void zero_failures_never_open_it(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.breaker.failures = 0;
    bench_init(&b, 1, &rules);
    bench_submit(&b, b.a, "x", "1");
    fails(&b, 50);
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    assert_int_equal(stats_of(b.a).retried, 50);
    bench_release(&b);
}

static void its_news_is_told_once(void **state)
{
    (void)state;
    struct bench b;
    struct breaker news;
    bench_init(&b, 1, &RULES);
    bench_submit(&b, b.a, "x", "1");
    fails(&b, 2);
    assert_false(queue_has_news(b.queue));
    fails(&b, 1);
    assert_true(queue_has_news(b.queue));
    queue_news_told(b.queue);
    assert_false(queue_has_news(b.queue));
    assert_false(queue_target_news(b.b, &news));
    assert_true(queue_target_news(b.a, &news));
    assert_int_equal(news.state, BREAKER_OPEN);
    assert_int_equal(news.open_ms, 1000);
    assert_false(queue_target_news(b.a, &news));
    bench_take_next(&b);
    bench_settle(&b, "s");
    assert_true(queue_target_news(b.a, &news));
    assert_int_equal(news.state, BREAKER_CLOSED);
    bench_release(&b);
}

static void jitter_is_the_share_of_a_wait_that_is_random(void **state)
{
    (void)state;
    static const struct {
        double jitter;
        int64_t least, most;
    } rows[] = { { 0, 1000, 1000 }, { 0.5, 500, 1000 }, { 1, 0, 1000 } };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct queue_rules rules = RULES;
        rules.retry_jitter = rows[i].jitter;
        int64_t shortest = INT64_MAX, longest = 0;
        for (uint64_t seed = 1; seed < 100; seed++) {
            struct bench b;
            bench_init_seed(&b, 1, &rules, seed * 7919);
            bench_submit(&b, b.a, "x", "1");
            fails(&b, 1);
            int64_t waited = bench_wait_due(&b);
            shortest = waited < shortest ? waited : shortest;
            longest = waited > longest ? waited : longest;
            bench_release(&b);
        }
        CHECK(shortest >= rows[i].least && longest <= rows[i].most, "row %zu: %lld to %lld", i,
              (long long)shortest, (long long)longest);
        CHECK(shortest <= rows[i].least + 100 && longest >= rows[i].most - 100,
              "row %zu: only %lld to %lld", i, (long long)shortest, (long long)longest);
    }
}

TEST_SUITE("delivery breaker", cmocka_unit_test(it_opens_after_so_many_failures_and_only_in_a_row),
           cmocka_unit_test(nothing_is_tried_until_its_time_is_over_then_one_probe),
           cmocka_unit_test(an_answer_closes_it_even_if_it_is_no),
           cmocka_unit_test(what_was_on_its_way_when_it_opened_does_not_count),
           cmocka_unit_test(a_probe_that_was_not_tried_leaves_the_turn_to_the_next),
           cmocka_unit_test(zero_failures_never_open_it), cmocka_unit_test(its_news_is_told_once),
           cmocka_unit_test(jitter_is_the_share_of_a_wait_that_is_random));
