/* SPDX-License-Identifier: MIT */

#include "queue_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct queue_rules RULES = {
    .retry_initial_ms = 1000,
    .retry_max_ms = 60 * 1000,
    .retry_factor = 2,
    .retry_jitter = 1,
    .breaker = { .failures = 3, .open_ms = 1000, .factor = 2, .max_ms = 60 * 1000 },
    .max_messages = 1000,
    .max_bytes = 1024 * 1024,
};

void bench_init_seed(struct bench *b, size_t workers, const struct queue_rules *rules,
                     uint64_t seed)
{
    *b = (struct bench){ .names = { .service = "s", .name = "t" }, .now = 1000 * 1000 };
    b->queue = queue_new(workers, seed);
    b->a = queue_add_target(b->queue, rules);
    b->b = queue_add_target(b->queue, rules);
}

void bench_init(struct bench *b, size_t workers, const struct queue_rules *rules)
{
    bench_init_seed(b, workers, rules, 42);
}

static void count_taken(struct message *message, void *context)
{
    (void)message;
    ((struct bench *)context)->taken++;
}

enum queue_place bench_submit_message(struct bench *b, struct queue_target *target,
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

void bench_submit(struct bench *b, struct queue_target *target, const char *topic, const char *text)
{
    bench_submit_message(b, target, topic, text, 1);
}

const char *bench_take_upto(struct bench *b, size_t max)
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

const char *bench_take(struct bench *b)
{
    return bench_take_upto(b, 64);
}

enum queue_fate *bench_settle(struct bench *b, const char *verdicts)
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
            memcpy(results[i].reason, "away", sizeof("away"));
        results[i].park_ms = v == 'p' ? 5000 : 0;
        results[i].retry_after_ms = v == 'w' ? 90 * 1000 : 0;
    }
    queue_settle(b->queue, b->now, b->batch, results, b->n, fates);
    for (size_t i = 0; i < b->n; i++)
        if (fates[i] < QUEUE_RETRYING)
            delivery_free(b->batch[i]);
    struct queue_granted granted[2];
    size_t n;
    while ((n = queue_grant(b->queue, granted, 2)) > 0)
        for (size_t i = 0; i < n; i++) {
            message_release_hold(granted[i].message);
            message_unref(granted[i].message);
        }
    return fates;
}

int64_t bench_wait_due(struct bench *b)
{
    int64_t due = queue_due(b->queue, 0, b->now);
    assert_true(due != QUEUE_NEVER);
    int64_t waited = due - b->now;
    b->now = due;
    return waited;
}

const char *bench_take_next(struct bench *b)
{
    const char *words;
    do {
        bench_wait_due(b);
        words = bench_take_upto(b, 1);
    } while (b->n == 0);
    return words;
}

void bench_release(struct bench *b)
{
    queue_free(b->queue);
}
