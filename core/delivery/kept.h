/* SPDX-License-Identifier: MIT */

/* What keep.c (to disk), load.c (back), dead.c and untold.c (dead letters) share. Internal to keep.h's files. */

#ifndef TOCSIN_DELIVERY_KEPT_H
#define TOCSIN_DELIVERY_KEPT_H

#include "base/log.h"
#include "delivery/keep.h"
#include "delivery/survey.h"

#include <stdatomic.h>

struct sqlite3_stmt;

struct dead_total {
    uint64_t count, bytes;
};

struct keeper {
    struct store *store;
    struct seen *seen; /* NULL: none */
    atomic_uint_fast64_t next_number;

    /* Dead letters, as of the last commit, and their bounds. */
    atomic_uint_fast64_t dead, dead_bytes;
    atomic_uint_fast64_t most_dead, most_dead_bytes;
    atomic_int_fast64_t most_dead_ms, trim_ms;
    struct store_task trim;
    atomic_bool trimming;
    struct dead_total trimmed; /* the store's thread's, from here on */
    uint64_t trimmed_ever, trim_saw;
    struct log_trouble trim_said;

    atomic_uint_fast64_t stray; /* those for targets that are not configured */
    struct survey
        *survey; /* as it was before those to be tried again became waiting ones; NULL: not taken */
    uint64_t seed; /* for the spread of what is due at once */
    struct keep_find
        *late; /* questions that nobody waits for any more: the store may have them still */
};

enum kept_state {
    KEPT_WAITING, /* to be written */
    KEPT_HOLDING, /* the same, and it holds its message until then */
    KEPT_WRITTEN,
    KEPT_ENDED, /* the delivery is done; if it was written, it is to be taken away */
};

/* Of rows (store/schema.c). */
enum state {
    STATE_WAITING = 0,
    STATE_DEAD = 1,
    STATE_REVIVED = 2,
};

struct kept {
    struct store_task task; /* to write it, then to take it away; borrows the delivery meanwhile */
    struct keeper *keeper;
    struct delivery *delivery;
    _Atomic(enum kept_state) state;
    bool inserted;  /* the writer's */
    bool was_tried; /* there are attempts on disk; set before the end */
    uint64_t number;
    uint64_t replaces; /* the number of the one in whose place it is written; 0: of none */
    int64_t created_ms;
    size_t rendered_count;
    char *target; /* behind the service's name */
    char service[];
};

/* What keeps a delivery from now on, with the number that it has. NULL when there is no memory. */
struct kept *kept_new(struct keeper *keeper, struct delivery *delivery);

/* For apply(): takes a delivery's row away, and its attempts'. Returns an SQLite result code. */
int kept_delete_row(struct store *store, uint64_t number, bool was_tried);

/* Another attempt was in vain. */
struct retried {
    struct store_task task;
    struct keeper *keeper;
    uint64_t number;
    unsigned attempts;
    int64_t at_ms, due_ms;
    uint64_t size; /* of its record, when it has become a dead letter */
    bool is_there;
    bool untold; /* a dead letter that nobody could be told of */
    char reason[];
};

/* NULL when it is not kept, or there is no memory. */
struct retried *retried_new(struct keeper *keeper, const struct delivery *delivery,
                            unsigned attempts, const char *reason);

/* For apply(). Returns an SQLite result code. */
int retried_insert_attempt(const struct retried *retried, struct store *store);

/* How many dead letters there are: what the statement of this text says. Returns an SQLite result code. */
extern const char dead_count_sql[];
int dead_count(struct sqlite3_stmt *statement, struct dead_total *out);

#endif
