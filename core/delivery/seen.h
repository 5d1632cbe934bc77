/* SPDX-License-Identifier: MIT */

/*
 * What has been taken over already, so that a message that comes again does not notify again.
 *
 * Who sends a message of QoS 1 or 2 sends it again, marked DUP, when the connection broke before the acknowledgement
 * came. Each delivery of such a message has an identity: a hash of who sent it (link and client), its packet
 * identifier, its content, and the target and route that it is for. It is known from when it is submitted, and for
 * SEEN_ACKED_MS after it was safe (on disk, or done), when its message was acknowledged at the latest. With a
 * store, identities are written in the transaction that writes the delivery, and a clean end writes those of
 * deliveries that were not. After a restart, and after a link has lost its connection, they are known until the
 * sender sends something new (and SEEN_ACKED_MS more), for a day at most.
 *
 * Only what is marked DUP is suppressed: what is published twice notifies twice. While what came first is not safe, what
 * comes again is not acknowledged either. A sender that gives new messages the identifier and content of the last one
 * within SEEN_ACKED_MS is believed to do so always: then nothing of it is known any more once it is safe, because what
 * it sends again may be a new one that has not arrived the first time.
 *
 * A message that was delivered before it was written and then cut off from its acknowledgement by a crash notifies
 * twice: that is the window that keep.h speaks of.
 *
 * Threads: any, but seen_load() and seen_save().
 */

#ifndef TOCSIN_DELIVERY_SEEN_H
#define TOCSIN_DELIVERY_SEEN_H

#include "router/delivery.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

#define SEEN_MOST     65536 /* identities; beyond, the oldest go */
#define SEEN_ACKED_MS (120 * 1000)
#define SEEN_OLD_MS   ((int64_t)24 * 3600 * 1000)

struct seen;

/* NULL when there is no memory. */
struct seen *seen_new(void);
void seen_free(struct seen *seen); /* after the store has been closed; NULL is allowed */

/* Gives deliveries their identities, and sets those aside (`*again`) that are known already at this time (monotonic
 * clock). Returns the rest, in order. Their messages are held by somebody meanwhile. */
struct delivery *seen_pass(struct seen *seen, struct delivery *first, int64_t now_ms,
                           struct delivery **again);

/* It does not hold its message any more: it has a place for good, is on disk, or done. To be called while the delivery is
 * there, before the hold is dropped; more than once does no harm. */
void seen_safe(struct seen *seen, const struct delivery *delivery, bool on_disk);

/* It was dropped so that its sender sends it again. */
void seen_forget(struct seen *seen, const struct delivery *delivery);

/* The link that is this sender (message_sender()) has lost its connection: what it was told of last is uncertain. */
void seen_lost(struct seen *seen, uint64_t sender);

struct seen_stats {
    uint64_t messages, deliveries; /* counters: suppressed */
    uint64_t known;                /* gauge: identities */
};
void seen_stats(struct seen *seen, struct seen_stats *out);

/* ---- With a store (seen_rows.c) ---- */

/* Reads what an earlier run has left, and keeps what is new in the store from now on. Before anything is posted; raises
 * `*next_number`, the first number that a delivery may get. Returns 0 or a negative errno value. */
int seen_load(struct seen *seen, struct store *store, uint64_t *next_number);

/* Posts what is known and not on disk: before the store is closed at a clean end. */
void seen_save(struct seen *seen);

/* For apply(): writes the identity of a delivery with this number. Returns an SQLite result code. */
int seen_write(struct store *store, uint64_t number, const struct delivery *delivery);

/* ---- Between seen.c and seen_rows.c ---- */

struct seen_row {
    uint64_t number, sender, identity[2];
};

/* An identity of an earlier run, oldest first; and the secret that all of them were made with. */
void seen_add_old(struct seen *seen, const struct seen_row *row);
void seen_set_secret(struct seen *seen, uint64_t secret);

struct store *seen_store(struct seen *seen);
void seen_set_store(struct seen *seen, struct store *store);

/* What is known and not on disk, in memory to be freed. Returns how many these are. */
size_t seen_unwritten(struct seen *seen, struct seen_row **rows);

/* Rows that are not needed any more: posts their end. */
void seen_drop_rows(struct store *store, const uint64_t *numbers, size_t n);

#endif
