/* SPDX-License-Identifier: MIT */

#include "loop/timer.h"

#include "base/container.h"

#include "../suite.h"

#include <stdlib.h>

#define SECOND ((int64_t)1000)
#define DAY    (24 * 3600 * SECOND)
#define YEAR   (365 * DAY)

/* A wheel with a clock of its own. */
struct bench {
    struct timer_wheel wheel;
    int64_t now;
    int ends;            /* of all timers */
    struct timer *again; /* to be started anew by its end, `again_ms` after it */
    int64_t again_ms;
    struct timer *victim; /* to be stopped by the next end */
};

struct probe {
    struct timer timer;
    int ends;
    int64_t ended_at;
};

static void probe_ended(struct timer_wheel *wheel, struct timer *timer)
{
    struct bench *b = CONTAINER_OF(wheel, struct bench, wheel);
    struct probe *probe = CONTAINER_OF(timer, struct probe, timer);
    assert_false(timer_is_running(timer));
    probe->ends++;
    probe->ended_at = b->now;
    b->ends++;
    if (b->again == timer)
        timer_start(wheel, timer, b->now + b->again_ms);
    if (b->victim && b->victim != timer) {
        timer_stop(wheel, b->victim);
        b->victim = NULL;
    }
}

static void other_ended(struct timer_wheel *wheel, struct timer *timer)
{
    probe_ended(wheel, timer);
    CONTAINER_OF(timer, struct probe, timer)->ends += 100;
}

static void bench_init(struct bench *b, int64_t now)
{
    *b = (struct bench){ .now = now };
    timer_wheel_init(&b->wheel, now);
    assert_int_equal(timer_wheel_kind(&b->wheel, probe_ended), 0);
}

static void advance(struct bench *b, int64_t now)
{
    b->now = now;
    timer_wheel_advance(&b->wheel, now);
}

static int64_t tick_up(int64_t ms)
{
    return (ms + TIMER_TICK_MS - 1) / TIMER_TICK_MS * TIMER_TICK_MS;
}

/* As a loop would: from one wake-up to the next. */
static int run(struct bench *b, int64_t until)
{
    int wakes = 0;
    for (int64_t next; (next = timer_wheel_next(&b->wheel)) <= until; wakes++) {
        CHECK(next > b->now, "woken at %lld for %lld", (long long)b->now, (long long)next);
        advance(b, next);
    }
    advance(b, until);
    return wakes;
}

static void timer_ends_at_its_tick_and_never_early(void **state)
{
    (void)state;
    static const int64_t spans[] = { 1,
                                     15,
                                     16,
                                     17,
                                     100,
                                     1000,
                                     1024,
                                     63 * 16,
                                     64 * 16,
                                     65 * 16,
                                     65536,
                                     4095 * 16,
                                     4096 * 16,
                                     60 * SECOND,
                                     DAY,
                                     49 * DAY,
                                     50 * DAY,
                                     497 * DAY,
                                     YEAR,
                                     136 * YEAR,
                                     4096LL * 64 * 16,
                                     1LL << 40,
                                     (1LL << 40) + 1,
                                     1LL << 50 };
    static const int64_t begins[] = { 0,     1,         15,
                                      16,    1008,      1023,
                                      65535, 123456789, 4096LL * 4096 * 16 - 1 };
    for (size_t k = 0; k < ROWS(begins); k++)
        for (size_t i = 0; i < ROWS(spans); i++) {
            struct bench b;
            bench_init(&b, begins[k]);
            struct probe probe = { 0 };
            int64_t due = begins[k] + spans[i];
            timer_start(&b.wheel, &probe.timer, due);
            assert_true(timer_is_running(&probe.timer));
            assert_int_equal(timer_due_ms(&probe.timer), tick_up(due));
            advance(&b, due - 1);
            CHECK(probe.ends == 0 || tick_up(due) == due - 1, "span %lld: early",
                  (long long)spans[i]);
            int wakes = run(&b, tick_up(due) + 1);
            CHECK(probe.ends == 1 && probe.ended_at == tick_up(due),
                  "begin %lld span %lld: %d ends at %lld", (long long)begins[k],
                  (long long)spans[i], probe.ends, (long long)probe.ended_at);
            CHECK(wakes <= TIMER_LEVELS, "span %lld: %d wakes", (long long)spans[i], wakes);
            assert_int_equal(timer_wheel_next(&b.wheel), TIMER_NEVER);
        }
}

static void a_jump_ends_all_that_is_due_in_order(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 5000);
    struct probe probes[300] = { 0 };
    for (size_t i = 0; i < ROWS(probes); i++)
        timer_start(&b.wheel, &probes[i].timer, 5000 + (int64_t)(i * i * i));
    advance(&b, 5000 + 200 * 200 * 200);
    for (size_t i = 0; i < ROWS(probes); i++)
        CHECK(probes[i].ends == (i <= 199 || tick_up(5000 + 200 * 200 * 200) == b.now),
              "timer %zu: %d ends", i, probes[i].ends);
    advance(&b, YEAR);
    assert_int_equal(b.ends, ROWS(probes));
}

static void stopped_timer_does_not_end(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    struct probe a = { 0 }, c = { 0 };
    timer_stop(&b.wheel, &a.timer); /* does nothing */
    timer_start(&b.wheel, &a.timer, 500);
    timer_start(&b.wheel, &c.timer, 500);
    timer_stop(&b.wheel, &a.timer);
    assert_false(timer_is_running(&a.timer));
    advance(&b, 1000);
    assert_int_equal(a.ends, 0);
    assert_int_equal(c.ends, 1);
    timer_stop(&b.wheel, &c.timer);
    assert_int_equal(timer_wheel_next(&b.wheel), TIMER_NEVER);
}

static void restarted_timer_ends_once_at_its_new_time(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    struct probe probe = { 0 };
    for (int64_t due = 100 * SECOND; due >= SECOND; due -= SECOND)
        timer_start(&b.wheel, &probe.timer, due);
    run(&b, 200 * SECOND);
    assert_int_equal(probe.ends, 1);
    assert_int_equal(probe.ended_at, tick_up(SECOND));
}

static void past_time_means_the_next_tick(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1000000);
    struct probe probes[4] = { 0 };
    static const int64_t dues[] = { -5, 0, 999000, 1000000 };
    for (size_t i = 0; i < ROWS(dues); i++)
        timer_start(&b.wheel, &probes[i].timer, dues[i]);
    assert_true(timer_wheel_next(&b.wheel) <= 1000000 + TIMER_TICK_MS);
    assert_int_equal(b.ends, 0);
    advance(&b, 1000000 + TIMER_TICK_MS);
    assert_int_equal(b.ends, ROWS(dues));
}

static void the_end_of_time_is_never(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1000);
    struct probe probe = { 0 };
    timer_start(&b.wheel, &probe.timer, TIMER_NEVER);
    advance(&b, 10000 * YEAR);
    assert_int_equal(probe.ends, 0);
    timer_stop(&b.wheel, &probe.timer);
    assert_int_equal(timer_wheel_next(&b.wheel), TIMER_NEVER);
}

static void end_may_start_its_timer_anew(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    struct probe probe = { 0 };
    b.again = &probe.timer;
    b.again_ms = 10 * SECOND;
    timer_start(&b.wheel, &probe.timer, 10 * SECOND);
    run(&b, 100 * SECOND + 500);
    assert_int_equal(probe.ends, 10);
    b.again_ms = 0; /* not twice in one call */
    run(&b, 110 * SECOND);
    assert_int_equal(probe.ends, 11);
}

static void end_may_stop_one_of_the_same_tick(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    struct probe probes[3] = { 0 };
    for (size_t i = 0; i < ROWS(probes); i++)
        timer_start(&b.wheel, &probes[i].timer, 4000);
    b.victim = &probes[1].timer;
    advance(&b, 5000);
    assert_int_equal(b.ends, 2);
    assert_int_equal(probes[1].ends, 0);
    assert_int_equal(timer_wheel_next(&b.wheel), TIMER_NEVER);
}

static void kind_decides_what_is_called(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 0);
    uint8_t other = timer_wheel_kind(&b.wheel, other_ended);
    assert_int_equal(other, 1);
    assert_int_equal(timer_wheel_kind(&b.wheel, probe_ended), 0);
    assert_int_equal(timer_wheel_kind(&b.wheel, other_ended), other);
    struct probe a = { 0 }, c = { .timer.kind = other };
    timer_start(&b.wheel, &a.timer, 1);
    timer_start(&b.wheel, &c.timer, 100000);
    advance(&b, 200000);
    assert_int_equal(a.ends, 1);
    assert_int_equal(c.ends, 101);
}

static void time_does_not_go_back(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 50000);
    struct probe probe = { 0 };
    timer_start(&b.wheel, &probe.timer, 60000);
    timer_wheel_advance(&b.wheel, 0);
    timer_wheel_advance(&b.wheel, -1);
    advance(&b, 59000);
    assert_int_equal(probe.ends, 0);
    advance(&b, 60000 + TIMER_TICK_MS);
    assert_int_equal(probe.ends, 1);
}

/* ---- Against a model that looks at all timers each time ------------------------------------------- */

static uint64_t random_bits(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Spans of all sizes alike. */
static int64_t random_span(uint64_t *seed)
{
    unsigned bits = (unsigned)(random_bits(seed) % 42);
    return (int64_t)(random_bits(seed) & ((1ull << bits) - 1));
}

#define MODEL_TIMERS 200

static void model_run(uint64_t seed)
{
    const uint64_t first_seed = seed;
    static struct probe probes[MODEL_TIMERS];
    int64_t due[MODEL_TIMERS]; /* in the model; 0: does not run */
    memset(probes, 0, sizeof(probes));
    memset(due, 0, sizeof(due));
    struct bench b;
    bench_init(&b, random_span(&seed));

    for (int step = 0; step < 3000; step++) {
        size_t i = random_bits(&seed) % MODEL_TIMERS;
        uint64_t what = random_bits(&seed) % 8;
        if (what < 4) {
            int64_t at = b.now + random_span(&seed);
            timer_start(&b.wheel, &probes[i].timer, at);
            int64_t next_tick = (b.now / TIMER_TICK_MS + 1) * TIMER_TICK_MS;
            due[i] = tick_up(at) > next_tick ? tick_up(at) : next_tick;
        } else if (what < 5) {
            timer_stop(&b.wheel, &probes[i].timer);
            due[i] = 0;
        } else {
            int64_t next = timer_wheel_next(&b.wheel);
            int64_t to = what == 5 && next != TIMER_NEVER ? next : b.now + random_span(&seed);
            advance(&b, to);
        }

        int64_t soonest = TIMER_NEVER;
        for (size_t k = 0; k < MODEL_TIMERS; k++) {
            bool ends = due[k] != 0 && due[k] <= b.now;
            CHECK(probes[k].ends == ends, "seed %llu step %d: timer %zu due %lld at %lld: %d",
                  (unsigned long long)first_seed, step, k, (long long)due[k], (long long)b.now,
                  probes[k].ends);
            probes[k].ends = 0;
            if (ends)
                due[k] = 0;
            CHECK(timer_is_running(&probes[k].timer) == (due[k] != 0), "seed %llu step %d",
                  (unsigned long long)first_seed, step);
            if (due[k] != 0 && due[k] < soonest)
                soonest = due[k];
        }
        int64_t next = timer_wheel_next(&b.wheel);
        CHECK(next > b.now && next <= soonest && (next == TIMER_NEVER) == (soonest == TIMER_NEVER),
              "seed %llu step %d: next %lld, soonest %lld", (unsigned long long)first_seed, step,
              (long long)next, (long long)soonest);
    }
}

static void wheel_does_what_a_naive_model_does(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        model_run(seed * 0x9E3779B97F4A7C15ull);
}

TEST_SUITE("timer", cmocka_unit_test(timer_ends_at_its_tick_and_never_early),
           cmocka_unit_test(a_jump_ends_all_that_is_due_in_order),
           cmocka_unit_test(stopped_timer_does_not_end),
           cmocka_unit_test(restarted_timer_ends_once_at_its_new_time),
           cmocka_unit_test(past_time_means_the_next_tick),
           cmocka_unit_test(the_end_of_time_is_never),
           cmocka_unit_test(end_may_start_its_timer_anew),
           cmocka_unit_test(end_may_stop_one_of_the_same_tick),
           cmocka_unit_test(kind_decides_what_is_called), cmocka_unit_test(time_does_not_go_back),
           cmocka_unit_test(wheel_does_what_a_naive_model_does));
