/* SPDX-License-Identifier: MIT */

/*
 * For tests of what the broker keeps on disk, step by step: workers without threads (peers.h), and a store, whose writer
 * has one.
 */

#ifndef TOCSIN_TESTS_QUIET_STORE_H
#define TOCSIN_TESTS_QUIET_STORE_H

#include "../store/temporary.h"
#include "peers.h"

#include "broker/durable.h"
#include "store/store.h"

#include <semaphore.h>

struct quiet {
    struct temporary files;
    struct store *store;
    struct broker *broker; /* two workers */
    struct store_task stuck;
    sem_t go_on;
};

void quiet_begin(struct quiet *q);
void quiet_end(struct quiet *q);

/* All that has been posted to the store is committed. */
void quiet_drain(const struct quiet *q);

/* All that is under way arrives, also on disk. */
void quiet_settle(const struct quiet *q);

/* The writer gets no further, as if the disk hung, until quiet_well(). */
void quiet_stuck(struct quiet *q);
void quiet_well(struct quiet *q);

/* The one number that a query gives: what is on disk, as a start after a kill would find it. */
int quiet_number(const struct quiet *q, const char *sql);

/* A change behind everybody's back, while the writer has nothing to do. */
void quiet_run(const struct quiet *q, const char *sql);

/* A client id that belongs to a worker. */
const char *quiet_id(const struct quiet *q, unsigned worker, char id[16]);

/* A client with a persistent session, whose CONNACK is read. */
void quiet_client(const struct quiet *q, struct peer *peer, const char *id);

#endif
