/* SPDX-License-Identifier: MIT */

/* Urgent deliveries go before others, without breaking a topic's order and without stopping the others. */

#include "queue_bench.h"

#include <stdio.h>

static void submit(struct bench *b, const char *topic, const char *text, int severity, int priority)
{
    struct message *m = message_new(topic, strlen(topic), text, strlen(text), NULL);
    m->qos = 1;
    struct delivery *d = delivery_new(&(struct delivery_parts){
        .target = &b->names,
        .message = m,
        .route = "r",
        .has_severity = severity >= 0,
        .severity = severity >= 0 ? (enum tocsin_severity)severity : TOCSIN_OK,
        .priority = priority,
        .has_priority = priority != 0,
    });
    size_t worker;
    queue_submit(b->queue, b->a, d, b->now, &worker);
    message_release_hold(m);
    message_unref(m);
}

static void critical(struct bench *b, const char *topic, const char *text)
{
    submit(b, topic, text, TOCSIN_CRITICAL, 0);
}

static void ordinary(struct bench *b, const char *topic, const char *text)
{
    submit(b, topic, text, TOCSIN_WARNING, 0);
}

static void settle_all(struct bench *b)
{
    char verdicts[65] = { 0 };
    memset(verdicts, 's', b->n);
    bench_settle(b, verdicts);
}

static void what_is_urgent_is_critical_or_has_a_priority_above_0(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit(&b, "a", "none", -1, 0);
    submit(&b, "b", "ok", TOCSIN_OK, 0);
    submit(&b, "c", "warning", TOCSIN_WARNING, 0);
    submit(&b, "d", "unknown", TOCSIN_UNKNOWN, 0);
    submit(&b, "e", "low", -1, -5);
    submit(&b, "f", "critical", TOCSIN_CRITICAL, 0);
    submit(&b, "g", "high", -1, 1);
    TAKEN(&b, "critical high none ok warning unknown low");
    settle_all(&b);
    bench_release(&b);
}

static void it_takes_along_what_waits_of_its_topic(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    ordinary(&b, "y", "y1");
    ordinary(&b, "x", "x1");
    ordinary(&b, "z", "z1");
    ordinary(&b, "x", "x2");
    critical(&b, "x", "X3");
    ordinary(&b, "x", "x4"); /* and what comes behind it, while it waits */
    ordinary(&b, "y", "y2");
    critical(&b, "w", "W1");
    TAKEN(&b, "x1 x2 X3 x4 W1 y1 z1 y2");
    settle_all(&b);
    ordinary(&b, "x", "x5"); /* nothing urgent waits any more */
    ordinary(&b, "y", "y3");
    TAKEN(&b, "x5 y3");
    settle_all(&b);
    bench_release(&b);
}

static void after_some_in_a_row_another_one_has_its_turn(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    ordinary(&b, "o", "o");
    ordinary(&b, "p", "o");
    for (int i = 0; i < 20; i++)
        critical(&b, (char[]){ (char)('A' + i), '\0' }, "C");
    TAKEN(&b, "C C C C C C C C o C C C C C C C C o C C C C");
    settle_all(&b);
    bench_release(&b);
}

static void one_that_failed_goes_before_others_once_it_is_due(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    for (int i = 0; i < 5; i++)
        ordinary(&b, (char[]){ (char)('a' + i), '\0' }, "o");
    critical(&b, "x", "X");
    bench_take(&b);
    bench_settle(&b, "r.....");
    bench_take(&b); /* the others need not wait for it */
    assert_int_equal(b.n, 5);
    bench_settle(&b, "r....");
    for (int i = 0; i < 4; i++) {
        bench_take_upto(&b, 1);
        bench_settle(&b, "s");
    }
    b.now += 60 * 1000; /* both are due */
    ordinary(&b, "z", "z");
    TAKEN(&b, "X o z");
    settle_all(&b);
    bench_release(&b);
}

static void behind_a_failed_one_of_its_topic_it_hurries_that(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    for (int i = 0; i < 4; i++)
        ordinary(&b, (char[]){ (char)('a' + i), '\0' }, (char[]){ (char)('a' + i), '\0' });
    bench_take(&b);
    bench_settle(&b, "r...");
    TAKEN(&b, "b c d");
    bench_settle(&b, "ssr");
    critical(&b, "a", "A");
    TAKEN(&b, "");
    b.now += 60 * 1000;
    bench_take(&b);
    assert_string_equal(b.batch[0]->view.text, "a"); /* whichever was due first */
    settle_all(&b);
    TAKEN(&b, "A");
    settle_all(&b);
    bench_release(&b);
}

static void a_full_queue_does_not_keep_it_waiting(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 3;
    bench_init(&b, 1, &rules);
    for (int i = 0; i < 6; i++)
        ordinary(&b, (char[]){ (char)('a' + i), '\0' }, "o");
    critical(&b, "x", "X");
    assert_string_equal(bench_take_upto(&b, 1), "X");
    settle_all(&b);
    bench_take(&b);
    settle_all(&b);
    bench_release(&b);
}

TEST_SUITE("delivery urgent",
           cmocka_unit_test(what_is_urgent_is_critical_or_has_a_priority_above_0),
           cmocka_unit_test(it_takes_along_what_waits_of_its_topic),
           cmocka_unit_test(after_some_in_a_row_another_one_has_its_turn),
           cmocka_unit_test(one_that_failed_goes_before_others_once_it_is_due),
           cmocka_unit_test(behind_a_failed_one_of_its_topic_it_hurries_that),
           cmocka_unit_test(a_full_queue_does_not_keep_it_waiting));
