/* SPDX-License-Identifier: MIT */

/*
 * Which workers want a topic at all: the index that all workers share. Each has its own subscriptions
 * (filters.h) and announces here a filter that has got its first subscriber, and withdraws it with the last.
 *
 * Any thread. A read-write lock inside, held for one call only and never while calling out; writers go first,
 * so that many publishers cannot keep a subscriber waiting. Who publishes caches the answer per topic name
 * with interest_generation() and seldom comes here.
 *
 * A filter that one worker wants takes about 43 bytes, and 8 more when several do (tests/bench/trees.c).
 */

#ifndef TOCSIN_BROKER_INTEREST_H
#define TOCSIN_BROKER_INTEREST_H

#include <stddef.h>
#include <stdint.h>

#define INTEREST_WORKERS 64 /* workers, embedded links and bridges together */

struct interest;

/* NULL when there is no memory. */
struct interest *interest_new(void);

/* NULL is allowed. */
void interest_free(struct interest *interest);

/* The worker (0 to INTEREST_WORKERS - 1) wants what matches a valid filter. Once is enough: this is a set, not a
 * count. Returns 0 or -ENOMEM, when nothing has changed. */
int interest_add(struct interest *interest, unsigned worker, const char *filter, size_t len);

/* The worker no longer wants it; nothing happens if it did not. */
void interest_remove(struct interest *interest, unsigned worker, const char *filter, size_t len);

/* The set of workers with a filter that matches a valid topic name: bit n is worker n. */
uint64_t interest_match(struct interest *interest, const char *topic, size_t len);

/* A worker wants the same as before, but not in the same way: who has cached an answer asks again. */
void interest_renew(struct interest *interest);

/*
 * A number that is higher after each change. To cache an answer: read the number, then match, and keep
 * both; the answer holds while the number is the same. After interest_add() has returned, every thread sees
 * the new number (acquire and release).
 */
uint64_t interest_generation(const struct interest *interest);

/* Different filters, and the memory they take in bytes (unless NULL). */
size_t interest_count(struct interest *interest, size_t *bytes);

#endif
