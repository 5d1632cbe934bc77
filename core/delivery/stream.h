/* SPDX-License-Identifier: MIT */

/*
 * What one target has for one worker: fresh deliveries in order of arrival, and the lanes of topics whose
 * first delivery has to wait for its next attempt. Part of the queue (queue.h), and locked with it.
 *
 * Urgent deliveries (delivery_is_urgent()) go before others, with what is before them of their topic and what comes
 * behind them of it while they wait; after STREAM_URGENT_MOST in a row another one has its turn, so that these move, too.
 */

#ifndef TOCSIN_DELIVERY_STREAM_H
#define TOCSIN_DELIVERY_STREAM_H

#include "base/map.h"
#include "delivery/lines.h"
#include "router/delivery.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_NOW   INT64_MIN /* there are fresh deliveries */
#define STREAM_NEVER INT64_MAX /* there is nothing that may be taken */

#define STREAM_URGENT_MOST 8

struct queue_target;

/* Begins zeroed. */
struct stream {
    struct lines fresh;
    struct map lanes; /* topic -> lane */
    /* Those whose head is not on its way, the one that is due first on top; lanes with something urgent apart. */
    struct lane_heap {
        struct lane **items;
        size_t len;
    } heaps[2];
    size_t heap_cap; /* of each; at least the number of lanes: a lane always has room to wait in */
    unsigned urgent_row; /* urgent ones in a row */

    /* The queue's own. */
    struct queue_target *target;
    struct stream *prev, *next;
    bool listed;
    size_t flying;        /* with the worker */
    size_t with_fallback; /* deliveries that have one, those with the worker included */
};

/* Frees it with its deliveries. */
void stream_release(struct stream *stream);

/* Whether nothing waits in it; heads of lanes may be on their way. */
bool stream_is_empty(const struct stream *stream);

/* When stream_take() gives something. The answer may turn out to be too early, when fresh deliveries
 * have to go into lanes, but that is done by then. */
int64_t stream_due(const struct stream *stream);

/* Adds a fresh delivery, after or before the others. */
void stream_append(struct stream *stream, struct delivery *delivery);

/* Takes out the next delivery: the head of a lane that is due, or a fresh one whose topic has no lane. NULL
 * if there is none. */
struct delivery *stream_take(struct stream *stream, int64_t now_ms);

/* Ways back of a taken delivery. */

/* It is to be tried again at `due_ms`, at `earliest_ms` if the target has recovered by then. Returns 0, or
 * -ENOMEM when it has no lane and there is no memory for one: then nothing is done. */
int stream_retry(struct stream *stream, struct delivery *delivery, int64_t due_ms,
                 int64_t earliest_ms);

/* It has not been tried: it is the first again. For a batch, from its last delivery to its first. */
void stream_put_back(struct stream *stream, struct delivery *delivery);

/* It is through: what waited behind it is fresh again. */
void stream_done(struct stream *stream, struct delivery *delivery);

/* It has been given up: what waited behind it is due at `due_ms`. */
void stream_given_up(struct stream *stream, struct delivery *delivery, int64_t due_ms);

/* The target works again: no lane waits longer than its head must. */
void stream_hurry(struct stream *stream, int64_t now_ms);

/* Takes out all deliveries of a kind. */
enum stream_which {
    STREAM_ALL,
    STREAM_FORGOTTEN,
    STREAM_WITH_FALLBACK,
};
struct delivery_list stream_remove(struct stream *stream, enum stream_which which);

#endif
