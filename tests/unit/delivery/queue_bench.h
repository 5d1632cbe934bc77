/* SPDX-License-Identifier: MIT */

/* A queue for tests: what goes in and comes out of it, in few words. */

#ifndef TOCSIN_TESTS_QUEUE_BENCH_H
#define TOCSIN_TESTS_QUEUE_BENCH_H

#include "delivery/queue.h"

#include "../suite.h"

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

extern const struct queue_rules RULES;

void bench_init_seed(struct bench *b, size_t workers, const struct queue_rules *rules,
                     uint64_t seed);
void bench_init(struct bench *b, size_t workers, const struct queue_rules *rules);
void bench_release(struct bench *b);

enum queue_place bench_submit_message(struct bench *b, struct queue_target *target,
                                      const char *topic, const char *text, uint8_t qos);
void bench_submit(struct bench *b, struct queue_target *target, const char *topic,
                  const char *text);

/* Takes what is due, and says what it was: "1 2 3". */
const char *bench_take_upto(struct bench *b, size_t max);

const char *bench_take(struct bench *b); /* all of it */

/* Waits for the next delivery. */
const char *bench_take_next(struct bench *b);

/* Settles the batch, one letter a delivery: s sent, x rejected, r retry with a reason, '.' retry as it was
 * preset, p sent and parked for 5 s, w retry after 90 s. */
enum queue_fate *bench_settle(struct bench *b, const char *verdicts);

/* Lets the time pass until something is due. Returns how long it was, in ms. */
int64_t bench_wait_due(struct bench *b);

#define TAKEN(B, WANT)                                                      \
    do {                                                                    \
        const char *taken_now = bench_take(B);                              \
        CHECK(strcmp(taken_now, WANT) == 0, "%s, not %s", taken_now, WANT); \
    } while (0)

#endif
