/* SPDX-License-Identifier: MIT */

/*
 * A shard: a thread that runs an engine on the messages that links hand it, and hands the deliveries to the
 * services. A topic always goes to the same shard, so its order is kept.
 */

#ifndef TOCSIN_DAEMON_SHARD_H
#define TOCSIN_DAEMON_SHARD_H

#include "router/engine.h"
#include "router/message.h"
#include "router/routing_stats.h"

struct shard;
struct ledger;

/* Makes a shard that owns `engine`, and notes in a ledger (NULL: in none). NULL when there is no memory. */
struct shard *shard_new(struct engine *engine, struct ledger *ledger);

/* Starts the thread. Returns 0 or a negative errno value. */
int shard_start(struct shard *shard);

/* Hands over a list of `n` messages, linked by `next`, with their references. Any thread; never blocks for
 * long: links bound what is under way. */
void shard_push(struct shard *shard, struct message *first, struct message *last, size_t n);

/* Goes on with another engine from the next batch on, and waits for that; the old one is freed. Main
 * thread. */
void shard_set_engine(struct shard *shard, struct engine *engine);

/*
 * Routes what has been pushed, but begins nothing more from `stop_by_ms` (monotonic clock) on; then ends the
 * thread and frees. Returns how many messages were not routed: they are refused, so that links do not acknowledge them. Adds
 * its last counters to `last`. NULL is allowed.
 */
size_t shard_free(struct shard *shard, int64_t stop_by_ms, struct routing_stats *last);

/* Adds its counters. Any thread. */
void shard_add_stats(struct shard *shard, struct routing_stats *sum);

#endif
