/* SPDX-License-Identifier: MIT */

/*
 * What can be seen of the running program: all counters and states, copied at about one moment. Status, health, the
 * log and the check of the accounts are made from it. It belongs to whoever has it.
 */

#ifndef TOCSIN_ADMIN_OBSERVATION_H
#define TOCSIN_ADMIN_OBSERVATION_H

#include "base/buf.h"
#include "broker/broker.h"
#include "delivery/services.h"
#include "ledger/ledger.h"
#include "link/links.h"
#include "router/routing_stats.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct observed_link {
    const char *name; /* lives as long as the program */
    struct link_stats stats;
};

struct observed_target {
    char *name; /* "service:target", own */
    struct target_stats stats;
};

struct observation {
    /* In the order in which they were read, which is against the flow. */
    struct target_stats sum; /* of all targets there ever were */
    struct buf unbalanced;   /* sentences about targets that do not add up */
    struct routing_stats routing;
    struct observed_link *links;
    size_t link_count;

    struct observed_target *targets; /* of the present configuration */
    size_t target_count;
    bool has_store;
    struct store_stats store;
    struct ledger_stats ledger;
    uint64_t dead_letters; /* gauge: that wait for a person */
    uint64_t stray;        /* gauge: deliveries on disk for targets that are not configured */
    bool has_broker;
    struct broker_stats broker;
    bool incomplete; /* there was no memory for all of it */
};

/* Everything is zero at first. */
#define OBSERVATION_INIT             \
    {                                \
        .unbalanced = BUF_INIT(4096) \
    }

/* Adds a link or a target; without memory the observation is incomplete. */
void observation_add_link(struct observation *observation, const char *name,
                          const struct link_stats *stats);
void observation_add_target(struct observation *observation, const char *service,
                            const char *target, const struct target_stats *stats);

void observation_release(struct observation *observation);

#endif
