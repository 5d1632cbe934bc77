/* SPDX-License-Identifier: MIT */

/* Identities on disk. The main thread before and after the run; tasks on the store's thread. See seen.h. */

#include "base/clock.h"
#include "base/container.h"
#include "delivery/seen.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The row with this number is the secret. */
#define SECRET_NUMBER 0

static int write_row(struct store *store, const struct seen_row *row)
{
    sqlite3_stmt *s = store_statement(store, "INSERT OR REPLACE INTO seen VALUES (?1, ?2, ?3, ?4)");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)row->number);
    sqlite3_bind_int64(s, 2, (sqlite3_int64)row->sender);
    sqlite3_bind_blob(s, 3, row->identity, sizeof(row->identity), SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, clock_wall_ms());
    return store_step(s);
}

int seen_write(struct store *store, uint64_t number, const struct delivery *d)
{
    if (d->identity[1] == 0)
        return SQLITE_OK;
    const struct seen_row row = { number, d->message->sender, { d->identity[0], d->identity[1] } };
    return write_row(store, &row);
}

/* ---- Many at once ---- */

struct rows_task {
    struct store_task task;
    size_t n;
    struct seen_row *rows; /* NULL: the numbers are to be dropped */
    uint64_t numbers[];
};

static int drop_rows(struct store_task *task, struct store *store)
{
    const struct rows_task *t = CONTAINER_OF(task, struct rows_task, task);
    int rc = SQLITE_OK;
    for (size_t i = 0; i < t->n && rc == SQLITE_OK; i++) {
        sqlite3_stmt *s = store_statement(store, "DELETE FROM seen WHERE number = ?1");
        if (!s)
            return SQLITE_ERROR;
        sqlite3_bind_int64(s, 1, (sqlite3_int64)t->numbers[i]);
        rc = store_step(s);
    }
    return rc;
}

static int write_rows(struct store_task *task, struct store *store)
{
    const struct rows_task *t = CONTAINER_OF(task, struct rows_task, task);
    int rc = SQLITE_OK;
    for (size_t i = 0; i < t->n && rc == SQLITE_OK; i++)
        rc = write_row(store, &t->rows[i]);
    return rc;
}

static void rows_done(struct store_task *task, struct store *store)
{
    (void)store;
    struct rows_task *t = CONTAINER_OF(task, struct rows_task, task);
    free(t->rows);
    free(t);
}

void seen_drop_rows(struct store *store, const uint64_t *numbers, size_t n)
{
    struct rows_task *t = malloc(sizeof(*t) + n * sizeof(numbers[0]));
    if (!t)
        return; /* the next start finds them too old */
    t->task = (struct store_task){ .apply = drop_rows, .done = rows_done };
    t->n = n;
    t->rows = NULL;
    memcpy(t->numbers, numbers, n * sizeof(numbers[0]));
    store_post(store, &t->task);
}

void seen_save(struct seen *seen)
{
    struct store *store = seen_store(seen);
    struct seen_row *rows = NULL;
    const size_t n = store ? seen_unwritten(seen, &rows) : 0;
    struct rows_task *t = n > 0 ? malloc(sizeof(*t)) : NULL;
    if (!t) {
        free(rows);
        return;
    }
    t->task = (struct store_task){ .apply = write_rows, .done = rows_done };
    t->n = n;
    t->rows = rows;
    store_post(store, &t->task);
}

/* ---- At the start ---- */

/* Makes the secret if there is none: identities of an earlier run are worth nothing then. */
static int load_secret(struct seen *seen, sqlite3 *db)
{
    sqlite3_stmt *s = NULL;
    uint64_t secret = 0;
    int rc = sqlite3_prepare_v2(db, "SELECT sender FROM seen WHERE number = 0", -1, &s, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
        secret = (uint64_t)sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    if (rc == SQLITE_ROW) {
        seen_set_secret(seen, secret);
        return 0;
    }
    if (rc != SQLITE_DONE || getrandom(&secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
        return -EIO;
    rc = sqlite3_prepare_v2(db, "INSERT INTO seen VALUES (0, ?1, x'', 0)", -1, &s, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, (sqlite3_int64)secret);
        rc = sqlite3_step(s);
    }
    sqlite3_finalize(s);
    seen_set_secret(seen, secret);
    return rc == SQLITE_DONE ? 0 : -EIO;
}

/* Drops what nobody will send again any more, or is too much. */
static int drop_stale(sqlite3 *db)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(
        db,
        "DELETE FROM seen WHERE number > 0 AND (at_ms < ?1 OR at_ms > ?2 OR number <= "
        "(SELECT number FROM seen ORDER BY number DESC LIMIT 1 OFFSET ?3))",
        -1, &s, NULL);
    if (rc == SQLITE_OK) {
        const int64_t now_ms = clock_wall_ms();
        sqlite3_bind_int64(s, 1, now_ms - SEEN_OLD_MS);
        sqlite3_bind_int64(s, 2, now_ms + SEEN_OLD_MS); /* by a clock that was wrong */
        sqlite3_bind_int64(s, 3, SEEN_MOST / 2);
        rc = sqlite3_step(s);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? 0 : -EIO;
}

int seen_load(struct seen *seen, struct store *store, uint64_t *next_number)
{
    sqlite3 *db = store_connection(store);
    int rc = load_secret(seen, db);
    if (rc == 0)
        rc = drop_stale(db);
    if (rc < 0)
        return rc;
    sqlite3_stmt *s = NULL;
    int step = sqlite3_prepare_v2(
        db, "SELECT number, sender, identity FROM seen WHERE number > 0 ORDER BY number", -1, &s,
        NULL);
    while (step == SQLITE_OK || step == SQLITE_ROW) {
        step = sqlite3_step(s);
        if (step != SQLITE_ROW)
            break;
        struct seen_row row = { (uint64_t)sqlite3_column_int64(s, 0),
                                (uint64_t)sqlite3_column_int64(s, 1),
                                { 0 } };
        if (sqlite3_column_bytes(s, 2) == (int)sizeof(row.identity)) {
            memcpy(row.identity, sqlite3_column_blob(s, 2), sizeof(row.identity));
            seen_add_old(seen, &row);
        }
        if (row.number >= *next_number)
            *next_number = row.number + 1;
    }
    sqlite3_finalize(s);
    seen_set_store(seen, store);
    return step == SQLITE_DONE ? 0 : -EIO;
}
