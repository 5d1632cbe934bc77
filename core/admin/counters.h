/* SPDX-License-Identifier: MIT */

/*
 * The names of all counters, once: the log (SIGUSR1), the status topic, and whoever else tells them to the world, go
 * through these tables. A row is a member of the struct that the table is about. Any thread.
 */

#ifndef TOCSIN_ADMIN_COUNTERS_H
#define TOCSIN_ADMIN_COUNTERS_H

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum counter_kind {
    COUNTER_TOTAL,   /* uint64_t, only grows */
    COUNTER_GAUGE,   /* uint64_t */
    COUNTER_SIGNED,  /* int64_t, a gauge */
    COUNTER_FLAG,    /* bool */
    COUNTER_BREAKER, /* enum breaker_state, told by its name */
};

struct counter {
    const char *name;
    enum counter_kind kind;
    size_t offset;
    const char *help; /* what is counted, in a few words */
};

/* Each ends with a row without a name. */
extern const struct counter counters_of_routing[]; /* struct routing_stats */
extern const struct counter counters_of_target[];  /* struct target_stats */
extern const struct counter counters_of_link[];    /* struct link_stats */
extern const struct counter counters_of_store[];   /* struct store_stats */
extern const struct counter counters_of_ledger[];  /* struct ledger_stats */
extern const struct counter counters_of_broker[];  /* struct broker_stats */

/* The value of a row; of a flag 0 or 1, of a breaker its number. */
int64_t counter_value(const struct counter *counter, const void *stats);

/* Appends " name=value" for each row, with `leave_out_zeros` only for those that are not zero. */
void counters_write(const struct counter *table, const void *stats, bool leave_out_zeros,
                    struct buf *out);

/* The same as a JSON object; NULL when there is no memory. */
json_t *counters_json(const struct counter *table, const void *stats, bool leave_out_zeros);

#endif
