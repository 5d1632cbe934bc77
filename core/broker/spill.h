/* SPDX-License-Identifier: MIT */

/*
 * How much of a session's queue is in memory; what is behind that waits on disk only. Any thread.
 *
 * What came by a shared subscription stays in memory, and does not count here: when the session ends, or leaves the group,
 * others must get it. So only max_queued_messages and max_queued_bytes bound that.
 */

#ifndef TOCSIN_BROKER_SPILL_H
#define TOCSIN_BROKER_SPILL_H

/* A queue that is longer than this in memory goes on on disk. */
#define SPILL_MESSAGES      1000
#define SPILL_BYTES         (1024 * 1024)
#define SPILL_AWAY_MESSAGES 20 /* while the client is away */
#define SPILL_AWAY_BYTES    (64 * 1024)
#define SPILL_LOAD          500 /* messages at once, and not more than SPILL_BYTES */

#endif
