/* SPDX-License-Identifier: MIT */

/* Bounds of a queue, what holds its message at them, and moving from one queue to another. */

#include "queue_bench.h"

static void beyond_the_bound_qos_1_holds_and_qos_0_is_dropped(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 2;
    bench_init(&b, 1, &rules);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "1", 1), QUEUE_PLACED);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "2", 0), QUEUE_PLACED);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "3", 1), QUEUE_HELD);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "4", 2), QUEUE_HELD);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "5", 0), QUEUE_DROPPED);
    assert_int_equal(bench_submit_message(&b, b.b, "x", "b", 0),
                     QUEUE_PLACED); /* bounds are a target's */
    assert_int_equal(b.taken, 4);
    struct target_stats stats;
    queue_target_stats(b.a, &stats);
    assert_int_equal(stats.waiting, 4);
    assert_int_equal(stats.held, 2);
    assert_int_equal(stats.dropped, 1);

    assert_string_equal(bench_take_upto(&b, 1), "1");
    bench_settle(&b, "s");
    assert_int_equal(b.taken, 5); /* 3 has a place */
    TAKEN(&b, "b 2 3 4");         /* holding does not keep it from being sent */
    bench_settle(&b, "ssss");
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
    assert_int_equal(bench_submit_message(&b, b.a, "x", "1", 0), QUEUE_PLACED);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "2", 1), QUEUE_HELD);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "3", 1), QUEUE_HELD);
    TAKEN(&b, "1 2 3");
    bench_settle(&b, "r..");
    assert_int_equal(b.taken, 1);
    assert_string_equal(bench_take_next(&b), "1");
    bench_settle(&b, "s");
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
    rules.max_bytes = 3600;
    bench_init(&b, 1, &rules);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "1", 1), QUEUE_PLACED);
    assert_int_equal(bench_submit_message(&b, b.a, "x", large, 1), QUEUE_PLACED);
    assert_int_equal(bench_submit_message(&b, b.a, "x", large, 1), QUEUE_HELD);
    assert_string_equal(bench_take_upto(&b, 1),
                        "1"); /* there is room for a small one now, not a large */
    bench_settle(&b, "s");
    assert_int_equal(bench_submit_message(&b, b.a, "x", "2", 1), QUEUE_HELD);
    assert_int_equal(bench_submit_message(&b, b.a, "x", "3", 0), QUEUE_DROPPED);
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
    bench_submit(&b, b.a, "x", "1");
    bench_submit(&b, b.a, "x", "2");
    bench_submit(&b, b.a, "x", "3");
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
    assert_string_equal(bench_take_upto(&b, 1), "1");
    b.now++;
    assert_int_equal(bench_settle(&b, "r")[0], QUEUE_GIVEN_UP);
    assert_int_equal(b.taken, 2); /* 2 has the place, 3 still holds */
    struct target_stats stats;
    queue_target_stats(b.b, &stats);
    assert_int_equal(stats.held, 1);
    TAKEN(&b, "2 3");
    bench_settle(&b, "ss");
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
    bench_submit(&b, b.a, "x", "1");
    bench_submit(&b, b.a, "x", "2");
    bench_submit(&b, b.a, "y", "3");
    TAKEN(&b, "1 2 3");
    bench_settle(&b, "rr."); /* 1 and 2 in a lane, 3 fresh */
    bench_submit(&b, b.a, "z", "4");
    bench_submit(&b, b.a, "a", "5");
    assert_string_equal(bench_take_upto(&b, 1), "3");
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
    enum queue_fate *fates = bench_settle(&b, "r.");
    assert_int_equal(fates[0], QUEUE_FORGOTTEN);
    assert_int_equal(fates[1], QUEUE_FORGOTTEN);
    assert_int_equal(b.taken, 5);
    assert_int_equal(queue_count(b.queue), 1);
    assert_string_equal(bench_take_next(&b), "1");
    bench_settle(&b, "s");
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
        bench_submit_message(&b, b.a, "x", (char[]){ (char)('1' + i), '\0' }, (uint8_t)(i % 2));
    bench_submit(&b, b.a, "x", "4"); /* holds */
    assert_int_equal(b.taken, 3);
    bench_submit(&b, b.b, "x", "new");
    bench_submit(&b, b.b, "x", "new");
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
    bench_settle(&b, "ssssss");
    assert_int_equal(b.taken, 6); /* each of them once */
    bench_release(&b);
}

TEST_SUITE("delivery queue bounds",
           cmocka_unit_test(beyond_the_bound_qos_1_holds_and_qos_0_is_dropped),
           cmocka_unit_test(bytes_are_bounded_but_one_delivery_always_has_a_place),
           cmocka_unit_test(nobody_overtakes_those_that_hold),
           cmocka_unit_test(what_comes_from_another_queue_keeps_its_age_and_its_hold),
           cmocka_unit_test(what_holds_for_a_lost_connection_is_forgotten),
           cmocka_unit_test(what_moves_to_another_queue_keeps_its_place));
