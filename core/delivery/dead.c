/* SPDX-License-Identifier: MIT */

/* Dead letters on disk: they are buried, counted, kept within their bounds, and revived. See keep.h. */

#include "delivery/kept.h"

#include "base/clock.h"
#include "base/container.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>

#define TRIM_AT_ONCE  200 /* of one transaction */
#define TRIM_EVERY_MS (60 * 1000)

const char dead_count_sql[] =
    "SELECT count(*), ifnull(sum(length(record)), 0) FROM delivery WHERE state = 1";

int dead_count(sqlite3_stmt *s, struct dead_total *out)
{
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    if (rc == SQLITE_ROW)
        *out = (struct dead_total){ (uint64_t)sqlite3_column_int64(s, 0),
                                    (uint64_t)sqlite3_column_int64(s, 1) };
    if (s)
        sqlite3_reset(s);
    return rc == SQLITE_ROW ? SQLITE_OK : SQLITE_ERROR;
}

void keeper_set_bounds(struct keeper *keeper, const struct dead_bounds *bounds)
{
    if (!keeper)
        return;
    atomic_store(&keeper->most_dead, bounds->count);
    atomic_store(&keeper->most_dead_bytes, bounds->bytes);
    atomic_store(&keeper->most_dead_ms, bounds->age_ms);
}

/* Whether the oldest one, which ended then, is too much of so many. */
static bool is_too_much(struct keeper *keeper, struct dead_total total, int64_t ended_ms,
                        int64_t now_ms)
{
    const int64_t age_ms = atomic_load(&keeper->most_dead_ms);
    return total.count > atomic_load(&keeper->most_dead) ||
           total.bytes > atomic_load(&keeper->most_dead_bytes) ||
           (age_ms > 0 && ended_ms < now_ms - age_ms);
}

/* Drops the oldest above the bounds, some at a time. */
static int trim(struct store_task *task, struct store *store)
{
    struct keeper *keeper = CONTAINER_OF(task, struct keeper, trim);
    struct dead_total left = { atomic_load(&keeper->dead), atomic_load(&keeper->dead_bytes) };
    sqlite3_int64 numbers[TRIM_AT_ONCE] = { 0 };
    keeper->trim_saw = left.count;
    const int64_t now_ms = clock_wall_ms();
    keeper->trimmed = (struct dead_total){ 0 };
    sqlite3_stmt *s =
        store_statement(store, "SELECT number, length(record), ended_ms FROM delivery "
                               "WHERE state = 1 ORDER BY ended_ms LIMIT ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int(s, 1, TRIM_AT_ONCE);
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW &&
           is_too_much(keeper, left, sqlite3_column_int64(s, 2), now_ms)) {
        const uint64_t bytes = (uint64_t)sqlite3_column_int64(s, 1);
        numbers[keeper->trimmed.count++] = sqlite3_column_int64(s, 0);
        keeper->trimmed.bytes += bytes;
        left.count -= left.count > 0;
        left.bytes -= bytes < left.bytes ? bytes : left.bytes;
    }
    sqlite3_reset(s);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return rc;
    rc = SQLITE_OK;
    for (size_t i = 0; i < keeper->trimmed.count && rc == SQLITE_OK; i++)
        rc = kept_delete_row(store, (uint64_t)numbers[i], true);
    return rc;
}

static void trimmed(struct store_task *task, struct store *store)
{
    (void)store;
    struct keeper *keeper = CONTAINER_OF(task, struct keeper, trim);
    const struct dead_total gone = keeper->trimmed;
    atomic_fetch_sub(&keeper->dead, gone.count);
    atomic_fetch_sub(&keeper->dead_bytes, gone.bytes);
    keeper->trimmed_ever += gone.count;
    atomic_store(&keeper->trimming, false);
    if (gone.count > 0 && log_trouble_due(&keeper->trim_said, clock_mono_ms()))
        log_warning(
            "store: the oldest dead letters are dropped, as they are too many, too large or "
            "too old (`tocsin help dead_letters`): %" PRIu64 " so far",
            keeper->trimmed_ever);
    /* Others of the group may have been buried since. */
    const struct dead_total now = { atomic_load(&keeper->dead), atomic_load(&keeper->dead_bytes) };
    if (gone.count == TRIM_AT_ONCE ||
        (now.count + gone.count > keeper->trim_saw && is_too_much(keeper, now, INT64_MAX, 0)))
        keeper_trim(keeper);
}

void keeper_trim(struct keeper *keeper)
{
    if (atomic_load(&keeper->dead) == 0 || atomic_exchange(&keeper->trimming, true))
        return;
    keeper->trim = (struct store_task){ .apply = trim, .done = trimmed };
    store_post(keeper->store, &keeper->trim);
}

void keeper_tick(struct keeper *keeper, int64_t now_ms)
{
    if (now_ms < atomic_load(&keeper->trim_ms))
        return;
    atomic_store(&keeper->trim_ms, now_ms + TRIM_EVERY_MS);
    keeper_trim(keeper);
}

static int read_size(struct store *store, struct retried *retried)
{
    sqlite3_stmt *s =
        store_statement(store, "SELECT length(record) FROM delivery WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    int rc = sqlite3_step(s);
    retried->is_there = rc == SQLITE_ROW;
    retried->size = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(s, 0) : 0;
    sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int bury(struct store_task *task, struct store *store)
{
    struct retried *retried = CONTAINER_OF(task, struct retried, task);
    sqlite3_stmt *s = store_statement(store, "UPDATE delivery SET state = 1, attempts = ?2, "
                                             "ended_ms = ?3, reason = ?4, untold = ?5 "
                                             "WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    sqlite3_bind_int64(s, 2, retried->attempts);
    sqlite3_bind_int64(s, 3, retried->at_ms);
    sqlite3_bind_text(s, 4, retried->reason, -1, SQLITE_STATIC);
    sqlite3_bind_int(s, 5, retried->untold);
    int rc = store_step(s);
    if (rc == SQLITE_OK)
        rc = retried_insert_attempt(retried, store);
    return rc == SQLITE_OK ? read_size(store, retried) : rc;
}

static void buried(struct store_task *task, struct store *store)
{
    (void)store;
    struct retried *retried = CONTAINER_OF(task, struct retried, task);
    struct keeper *keeper = retried->keeper;
    atomic_fetch_add(&keeper->dead, retried->is_there);
    const struct dead_total total = {
        atomic_load(&keeper->dead),
        atomic_fetch_add(&keeper->dead_bytes, retried->size) + retried->size,
    };
    free(retried);
    if (is_too_much(keeper, total, INT64_MAX, 0))
        keeper_trim(keeper);
}

void keep_bury(struct keeper *keeper, struct delivery *d, unsigned attempts, const char *reason,
               bool untold)
{
    keep_put(keeper, d, false);
    struct retried *retried = retried_new(keeper, d, attempts, reason);
    if (!retried) {
        log_error("no memory for a dead letter, id=%s is lost", d->id);
        keep_end(keeper, d);
        return;
    }
    retried->task = (struct store_task){ .apply = bury, .done = buried };
    retried->untold = untold;
    store_post(keeper->store, &retried->task);
}

uint64_t keeper_dead(const struct keeper *keeper)
{
    return atomic_load(&keeper->dead);
}

int keep_revive_all(struct keeper *keeper)
{
    sqlite3 *db = store_connection(keeper->store);
    survey_free(keeper->survey);
    if (!(keeper->survey = survey_new(db)))
        return -EIO;
    if (survey_count(keeper->survey, NULL, NULL, STATE_REVIVED) > 0) {
        if (sqlite3_exec(db,
                         "UPDATE delivery SET state = 0, attempts = 0, due_ms = 0 WHERE state = 2",
                         NULL, NULL, NULL) != SQLITE_OK)
            return -EIO;
    }
    struct dead_total total;
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, dead_count_sql, -1, &s, NULL);
    if (rc == SQLITE_OK && (rc = dead_count(s, &total)) == SQLITE_OK) {
        atomic_store(&keeper->dead, total.count);
        atomic_store(&keeper->dead_bytes, total.bytes);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? 0 : -EIO;
}
