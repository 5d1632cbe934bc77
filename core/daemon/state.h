/* SPDX-License-Identifier: MIT */

/* The parts of the running daemon. Internal to daemon/. */

#ifndef TOCSIN_DAEMON_STATE_H
#define TOCSIN_DAEMON_STATE_H

#include "admin/admin.h"
#include "broker/broker.h"
#include "daemon/setup.h"
#include "daemon/shard.h"
#include "delivery/keep.h"
#include "delivery/seen.h"
#include "ledger/ledger.h"
#include "store/store.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

struct daemon {
    const char *path;
    struct identity identity;
    struct setup setup;    /* its services and engines are in use elsewhere */
    struct broker *broker; /* NULL: there is none */
    struct store *store;   /* the same */
    struct keeper *keeper;
    struct ledger *ledger;
    struct seen *seen;
    struct links *links;
    pthread_rwlock_t links_lock; /* held to read by those who publish: a worker that was given up on
                                  * may still be at it when the links go */
    struct admin *admin;
    atomic_uint_fast64_t internal; /* messages that it has made */
    struct shard **shards;
    size_t shard_count;
    struct routing_stats routed; /* of shards that are no more */
    sigset_t signals;

    /* Deliveries held for a lost connection are forgotten in whichever services are current. */
    pthread_mutex_t services_lock;
    struct services *services;
};

/* Copies all counters and states. Adds to what is zero (OBSERVATION_INIT). The main thread, or one that the main
 * thread ends before it takes anything apart. */
void observe(struct daemon *daemon, struct observation *out);

#endif
