/* SPDX-License-Identifier: MIT */

/*
 * A shard: a thread that runs an engine on the messages that links hand it, and hands the deliveries to the
 * services. A topic always goes to the same shard, so its order is kept.
 */

#ifndef TOCSIN_DAEMON_SHARD_H
#define TOCSIN_DAEMON_SHARD_H

#include "router/engine.h"
#include "router/message.h"

struct shard;

/* Makes a shard that owns `engine`. NULL when there is no memory. */
struct shard *shard_new(struct engine *engine);

/* Starts the thread. Returns 0 or a negative errno value. */
int shard_start(struct shard *shard);

/* Hands over a list of messages, linked by `next`, with their references. Any thread; never blocks for
 * long: links bound what is under way. */
void shard_push(struct shard *shard, struct message *first, struct message *last);

/* Goes on with another engine after what has been pushed so far, and waits until it does; the old one is
 * freed. Main thread. */
void shard_set_engine(struct shard *shard, struct engine *engine);

/* Works off what has been pushed, ends the thread, frees. NULL is allowed. */
void shard_free(struct shard *shard);

/* Adds the engine's counters, of all engines that it has had, as of a moment ago. Any thread. */
void shard_add_stats(struct shard *shard, struct engine_stats *sum);

#endif
