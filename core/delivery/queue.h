/* SPDX-License-Identifier: MIT */

/*
 * What is to be delivered by one service, and when: a data structure without threads, clock or I/O. Its
 * owner locks it and gives the time (milliseconds of a clock that never jumps back).
 *
 * Each target has its fresh deliveries in order of arrival. One that has to be tried again goes into the
 * lane of its target and topic, and the lane is due when its head may go; whatever else comes up for
 * that topic waits in the lane behind it, while other topics pass. When the head is through, the lane
 * is dissolved: its deliveries are fresh again, before all others.
 *
 * A target that fails again and again is taken to be down as a whole: its breaker (breaker.h) opens, so that a
 * service whose calls run into time-outs has time for its other targets. Once it works again, its lanes need
 * not wait for their time.
 *
 * Urgent deliveries go before others (stream.h), and are given places when others have none any more.
 *
 * With several workers, a target and topic always go to the same one, so the order needs no more.
 */

#ifndef TOCSIN_DELIVERY_QUEUE_H
#define TOCSIN_DELIVERY_QUEUE_H

#include "delivery/breaker.h"
#include "delivery/services.h"
#include "router/delivery.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUEUE_NEVER INT64_MAX

/* The rules of one target. */
struct queue_rules {
    int64_t retry_initial_ms, retry_max_ms;
    double retry_factor;
    double retry_jitter;  /* how much of each wait is random: 0 to 1 */
    int64_t max_attempts; /* 0: no limit */
    int64_t max_age_ms;   /* 0: no limit */
    size_t max_messages, max_bytes;
    int64_t rate_limit; /* deliveries in rate_per_ms; 0: no limit */
    int64_t rate_per_ms;
    struct breaker_rules breaker;
};

struct queue;
struct queue_target;

/* Makes a queue for so many workers (at least one); `seed` is for the jitter of retries. Returns NULL when
 * there is no memory. */
struct queue *queue_new(size_t workers, uint64_t seed);

/* Frees it with all deliveries in it, and refuses the messages that some still hold. NULL is allowed. */
void queue_free(struct queue *queue);

/* Adds a target, which belongs to the queue. Returns NULL when there is no memory. */
struct queue_target *queue_add_target(struct queue *queue, const struct queue_rules *rules);

/* Whether one of that size gets a place at once. */
bool queue_has_place(const struct queue_target *target, size_t size);

/* Whether an urgent one does: for these there is an eighth more. */
bool queue_has_urgent_place(const struct queue_target *target, size_t size);

/* Whether so little waits for the target that more may be loaded from disk, and for how many there is a place. */
bool queue_is_low(const struct queue_target *target);
size_t queue_room(const struct queue_target *target);

/* The longest that a delivery has to wait for its next attempt, ms; unless its service says later. */
int64_t queue_longest_wait(const struct queue_target *target);

enum queue_place {
    QUEUE_PLACED,  /* it has a place */
    QUEUE_HELD,    /* the bound is reached: it is in the queue and holds its message */
    QUEUE_DROPPED, /* the bound is reached, and QoS is 0: it still belongs to the caller */
    QUEUE_PASSED,  /* the breaker is open: it goes on to its fallback (queue_moving()) */
};

/* Takes a delivery in. Sets `*worker` to whom it goes. One that comes from another queue keeps its age, its
 * attempts and its place, bound or not, or its hold; then queue_grant() has to be called. One that has moved from
 * another target is new here, but for that. */
enum queue_place queue_submit(struct queue *queue, struct queue_target *target,
                              struct delivery *delivery, int64_t now_ms, size_t *worker);

/* Takes up to `max` deliveries that are due for a worker, in the order in which they are to be sent. All
 * of them are given back by queue_settle(). */
size_t queue_take(struct queue *queue, size_t worker, int64_t now_ms, struct delivery **out,
                  size_t max);

/* When queue_take() will have something for this worker, if nothing else happens: `now_ms` if it has, or
 * QUEUE_NEVER. */
int64_t queue_due(const struct queue *queue, size_t worker, int64_t now_ms);

/* What became of a delivery that was taken. */
enum queue_fate {
    QUEUE_SENT,
    QUEUE_REJECTED,
    QUEUE_GIVEN_UP,
    QUEUE_FORGOTTEN, /* to be tried again, but nobody waits for it any more */
    QUEUE_RETRYING,  /* in the queue again */
    QUEUE_UNTRIED,   /* in the queue again; it was not its turn */
    QUEUE_MOVING, /* rejected or given up: it goes on to its fallback, and is the queue's until then */
};

/*
 * Ends what queue_take() began, with the plugin's results. A TOCSIN_RETRY after the first one in the batch,
 * without a reason, was not tried: it keeps its place, and no attempt is counted.
 *
 * Sets the fate of each; those that are not in the queue again belong to the caller. Returns whether other
 * workers may have something to do now, because a target is not down any more, or free for another try.
 */
bool queue_settle(struct queue *queue, int64_t now_ms, struct delivery *const *batch,
                  const struct tocsin_delivery *results, size_t n, enum queue_fate *fates);

/*
 * Whether deliveries are to go on to their fallbacks: those that have one, where they were rejected or given up, or
 * where the breaker is open. queue_moving() takes them out, in an order that keeps the topics': they belong to the
 * caller, who submits the fallback of each, marked as `moved`, to its own target; or takes the move back,
 * if there is none that can be: then it was rejected or given up, after all.
 *
 * They do not move past one of the same topic that is with a worker.
 */
bool queue_has_moving(const struct queue *queue);
struct delivery *queue_moving(struct queue *queue, int64_t now_ms);
void queue_not_moved(struct queue_target *target);

/* A delivery that has been given a place. It may be looked at with the lock only; the message comes with a
 * reference and with the hold that the delivery had. */
struct queue_granted {
    struct delivery *delivery;
    struct message *message;
};

/*
 * Gives free places to deliveries that hold, at most `max`: the caller drops reference and hold of their messages,
 * without the lock, and calls again until 0 is returned.
 */
size_t queue_grant(struct queue *queue, struct queue_granted *out, size_t max);

/* Takes the deliveries out that hold a message of this link and generation. Returns them as a list,
 * which belongs to the caller. Those with a worker are not taken out, but not tried again either. */
struct delivery *queue_forget_held(struct queue *queue, const char *link, uint64_t generation);

/* Takes everything of a target out that is not with a worker, in an order that keeps the topics'. */
struct delivery *queue_empty(struct queue_target *target);

/* Deliveries in it, those with a worker included; of all workers, and of one. */
size_t queue_count(const struct queue *queue);
size_t queue_worker_count(const struct queue *queue, size_t worker);

/* Whether the breaker of a target has changed its state since this was asked last; then what it is. */
bool queue_has_news(const struct queue *queue);
void queue_news_told(struct queue *queue);
bool queue_target_news(struct queue_target *target, struct breaker *out);

void queue_target_stats(const struct queue_target *target, struct target_stats *out);

#endif
