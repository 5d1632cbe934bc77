/* SPDX-License-Identifier: MIT */

/*
 * What must survive: one SQLite file in WAL mode with `synchronous = FULL`, and one thread that writes it.
 *
 * Others post tasks. The writer takes all that have come since its last commit as one group, carries them out
 * in the order of posting in one transaction, commits, and then, and only then, tells each that it is done. So
 * one sync serves however many came while the last one ran. Before each group it waits STORE_GATHER_MS: what is
 * delivered by then need not be written at all.
 *
 * When the disk is full, or a write or a sync fails, the group is rolled back and tried again, ever more rarely,
 * for as long as it takes: nothing is done, nothing is claimed, so nothing is acknowledged, and intake stops by
 * itself. It is said in the log, and in store_stats(). The same when the file turns out to be damaged.
 *
 * A task that cannot be carried out because of what it is (too large, against a rule of the schema) does not keep others
 * waiting: it is set apart, without any of its changes, and told by failed() when the others of its group are told.
 *
 * Threads: store_open() and store_close() from the main thread, store_post() from any; apply() and done() run on
 * the writer's thread.
 */

#ifndef TOCSIN_STORE_STORE_H
#define TOCSIN_STORE_STORE_H

#include "base/buf.h"
#include "loop/mailbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sqlite3;
struct sqlite3_stmt;
struct store;

#define STORE_MEMORY ":memory:" /* a path: nothing survives, and nothing is waited for */

#define STORE_GATHER_MS 2

/* A change to be made; part of what wants it made, which must not go before done(). */
struct store_task {
    struct mail mail;
    /* Whether there is still something to be done; NULL: there is. A group of which nothing is left costs
     * no transaction. */
    bool (*needed)(const struct store_task *task);
    /* Carries it out within a transaction. Returns an SQLite result code: SQLITE_OK or SQLITE_DONE if it
     * went well, else the group is rolled back, and tried again from its beginning: without this task if the
     * code says that it is the task's own fault (SQLITE_TOOBIG, _CONSTRAINT, _MISMATCH, _RANGE, _MISUSE, _ERROR),
     * else later. */
    int (*apply)(struct store_task *task, struct store *store);
    /* It has been committed. May free the task, and post others. */
    void (*done)(struct store_task *task, struct store *store);
    /* It has been set apart, by this SQLite result code, and nothing of it has been committed. May free the
     * task, and post others. NULL: it is only logged, and nobody is told. */
    void (*failed)(struct store_task *task, struct store *store, int code);
    int failure; /* private: the writer's */
};

/*
 * Opens the file, making it and its folder if they are not there, brings an old schema up to date, checks its
 * integrity (a large file's beside the work: check.h), and starts the writer. Only one program can have it open. Returns 0; or a negative errno value with
 * a sentence in `why` that says what is wrong and what to do:
 *   -EBUSY    another program has it open
 *   -EACCES   it cannot be written
 *   -EPROTO   it is no store of ours, or of a newer version
 *   -EBADMSG  it is damaged
 *   others    as the system says
 */
int store_open(const char *path, struct store **out, struct buf *why);

/* Whether it survives this program. */
bool store_is_durable(const struct store *store);

/* Waits until what has been posted by now is on disk, or `wait_ms` have passed. NULL is allowed. Returns whether it is. Any
 * thread but the writer's. */
bool store_drain(struct store *store, int64_t wait_ms);

/* Carries out what has been posted, if that is possible within `wait_ms`, then closes. Tasks that are left are
 * not told. Returns how many these are. NULL is allowed. */
size_t store_close(struct store *store, int64_t wait_ms);

/* `changed` is called, on the writer's thread, when another program has changed the file (within STORE_WATCH_MS). Once. */
#define STORE_WATCH_MS 1000
void store_watch(struct store *store, void (*changed)(void *context), void *context);

void store_post(struct store *store, struct store_task *task);

/*
 * What goes along with the transactions of others, and makes one itself when there is none: for what nobody
 * waits for. It comes after the tasks of a group. A group that is tried again goes without it.
 */
struct store_rider {
    /* Whether it has something to write; when `alone`, something that should wait no longer. Asked at least every
     * STORE_WATCH_MS, and once more at the end. */
    bool (*wants)(struct store_rider *rider, bool alone);
    int (*apply)(struct store_rider *rider, struct store *store); /* as a task's */
    /* It was committed, or was not. */
    void (*done)(struct store_rider *rider, bool committed);
};

/* There is one. From then on the writer uses the connection, as after the first task. It lives as long as the store. */
void store_ride(struct store *store, struct store_rider *rider);

/* Has the rider asked soon. Any thread. */
void store_wake(struct store *store);

/* For apply(): the prepared statement of an SQL text, reset and without bindings; the text must be a constant, by
 * whose address it is remembered. NULL if it could not be prepared. */
struct sqlite3_stmt *store_statement(struct store *store, const char *sql);

/* Runs a statement that gives no rows. Returns an SQLite result code. */
int store_step(struct sqlite3_stmt *statement);

/* Where apply() can put a record together; empty at its beginning. */
struct buf *store_scratch(struct store *store);

/* Before the first task is posted, and the first rider rides: the connection itself, for reading what is there. */
struct sqlite3 *store_connection(struct store *store);

struct store_stats {
    uint64_t tasks, commits, failures; /* counters; failures: groups that had to be rolled back */
    uint64_t set_apart;                /* counter: tasks that cannot be carried out */
    uint64_t waiting;                  /* gauge: posted, not committed */
    bool in_trouble;                   /* gauge: the last commit failed */
    int64_t bytes;                     /* gauge: of the file and its log */
};
void store_stats(struct store *store, struct store_stats *out);

#endif
