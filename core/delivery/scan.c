/* SPDX-License-Identifier: MIT */

/* See scan.h. The store's thread, but at the start. */

#include "delivery/scan.h"

#include "base/container.h"
#include "base/map.h"
#include "delivery/record.h"
#include "delivery/topics.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

/* That are read in one transaction, which others wait for, or before the start goes on. */
#define ROWS_AT_ONCE  10000
#define BYTES_AT_ONCE ((size_t)8 * 1024 * 1024)

static const char urgent_sql[] =
    "SELECT number, record FROM delivery INDEXED BY delivery_urgent "
    "WHERE urgent = 1 AND service = ?1 AND target = ?2 AND state = 0 AND number > ?3 AND "
    "number <= ?4 ORDER BY number";
static const char rows_sql[] =
    "SELECT number, record FROM delivery "
    "WHERE service = ?1 AND target = ?2 AND state = 0 AND number > ?3 AND number <= ?4 "
    "ORDER BY number";

static void bind(const struct scan *scan, sqlite3_stmt *s)
{
    sqlite3_bind_text(s, 1, scan->range.service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, scan->range.target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, (sqlite3_int64)scan->at);
    sqlite3_bind_int64(s, 4, (sqlite3_int64)scan->range.last);
}

/* The hash of the topic in a row's record. Returns false for what is no record. */
static bool topic_of(sqlite3_stmt *row, uint64_t *hash)
{
    const void *record = sqlite3_column_blob(row, 1);
    const size_t len = (size_t)sqlite3_column_bytes(row, 1);
    struct record_field field;
    size_t at = 0;
    while (record && record_next(record, len, &at, &field))
        if (strcmp(field.name, "topic") == 0) {
            *hash = map_hash(field.data, field.len);
            return true;
        }
    return false;
}

static int compare(const void *a, const void *b)
{
    const struct scan_topic *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash > y->hash ? 1 : -1;
    return (x->last < y->last) - (x->last > y->last);
}

/* Notes urgent ones, as long as there is room for more. */
static int find_urgent(struct scan *scan, sqlite3_stmt *row)
{
    size_t bytes = 0;
    int rc = SQLITE_ROW;
    bind(scan, row);
    while (scan->wanted_count < SCAN_MOST_URGENT && bytes < BYTES_AT_ONCE &&
           (rc = sqlite3_step(row)) == SQLITE_ROW) {
        struct scan_topic *t = &scan->wanted[scan->wanted_count];
        t->last = scan->at = (uint64_t)sqlite3_column_int64(row, 0);
        scan->wanted_count += topic_of(row, &t->hash);
        bytes += (size_t)sqlite3_column_bytes(row, 1);
    }
    scan->at_end =
        rc == SQLITE_DONE || scan->at >= scan->range.last || scan->wanted_count == SCAN_MOST_URGENT;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Leaves of each topic the last one, and goes back to the beginning. */
static void choose_wanted(struct scan *scan)
{
    scan->more = !scan->at_end || scan->wanted_count == SCAN_MOST_URGENT;
    qsort(scan->wanted, scan->wanted_count, sizeof(scan->wanted[0]), compare);
    size_t n = 0;
    for (size_t i = 0; i < scan->wanted_count; i++)
        if (n == 0 || scan->wanted[n - 1].hash != scan->wanted[i].hash)
            scan->wanted[n++] = scan->wanted[i];
    scan->wanted_count = n;
    scan->has_wanted = true;
    scan->at = scan->range.after;
}

static int compare_hash(const void *a, const void *b)
{
    const uint64_t hash = *(const uint64_t *)a;
    const struct scan_topic *t = b;
    return (hash > t->hash) - (hash < t->hash);
}

static bool is_wanted(const struct scan *scan, uint64_t hash, uint64_t number)
{
    const struct scan_topic *t =
        bsearch(&hash, scan->wanted, scan->wanted_count, sizeof(scan->wanted[0]), compare_hash);
    return t && number <= t->last;
}

static int add(struct scan *scan, uint64_t number)
{
    if (scan->count == SCAN_MOST) {
        scan->more = true;
        return 0;
    }
    if (scan->count == scan->cap) {
        const size_t cap = scan->cap * 2 + 64;
        uint64_t *numbers = realloc(scan->numbers, cap * sizeof(*numbers));
        if (!numbers)
            return -ENOMEM;
        scan->numbers = numbers;
        scan->cap = cap;
    }
    scan->numbers[scan->count++] = number;
    return 0;
}

static int read_rows(struct scan *scan, sqlite3_stmt *row)
{
    size_t rows = 0, bytes = 0;
    int rc = SQLITE_ROW;
    bind(scan, row);
    while (rows < ROWS_AT_ONCE && bytes < BYTES_AT_ONCE && (rc = sqlite3_step(row)) == SQLITE_ROW) {
        uint64_t hash;
        scan->at = (uint64_t)sqlite3_column_int64(row, 0);
        rows++;
        bytes += (size_t)sqlite3_column_bytes(row, 1);
        if (!topic_of(row, &hash))
            continue;
        if (scan->topics)
            topics_add(scan->topics, hash);
        if (is_wanted(scan, hash, scan->at) && add(scan, scan->at) < 0)
            return SQLITE_NOMEM;
    }
    scan->at_end = rc == SQLITE_DONE || scan->at >= scan->range.last;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int apply(struct store_task *task, struct store *store)
{
    struct scan *scan = CONTAINER_OF(task, struct scan, task);
    scan->at = scan->safe_at; /* a try that was rolled back may have come further */
    scan->count = scan->safe_count;
    if (!scan->has_wanted)
        scan->wanted_count = scan->safe_wanted_count;
    sqlite3_stmt *row = store_statement(store, scan->has_wanted ? rows_sql : urgent_sql);
    if (!row)
        return SQLITE_ERROR;
    int rc = scan->has_wanted ? read_rows(scan, row) : find_urgent(scan, row);
    sqlite3_reset(row);
    return rc;
}

static void went_on(struct store_task *task, struct store *store)
{
    struct scan *scan = CONTAINER_OF(task, struct scan, task);
    if (scan->at_end && scan->has_wanted) {
        scan->done(scan);
        return;
    }
    if (scan->at_end)
        choose_wanted(scan);
    scan->safe_at = scan->at;
    scan->safe_count = scan->count;
    scan->safe_wanted_count = scan->wanted_count;
    store_post(store, &scan->task);
}

void scan_post(struct scan *scan)
{
    scan->topics = topics_new();
    scan->at = scan->safe_at = scan->range.after;
    scan->task = (struct store_task){ .apply = apply, .done = went_on };
    store_post(scan->store, &scan->task);
}

int scan_now(struct scan *scan)
{
    sqlite3 *db = store_connection(scan->store);
    sqlite3_stmt *row = NULL;
    scan->at = scan->range.after;
    int rc = sqlite3_prepare_v2(db, urgent_sql, -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = find_urgent(scan, row);
    sqlite3_finalize(row);
    if (rc != SQLITE_OK || (scan->wanted_count == 0 && scan->at_end))
        return rc == SQLITE_OK ? 0 : -EIO;
    choose_wanted(scan);
    scan->topics = topics_new();
    rc = sqlite3_prepare_v2(db, rows_sql, -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = read_rows(scan, row);
    sqlite3_finalize(row);
    if (!scan->at_end) { /* what was found so far is right, but there may be topics that it does not know */
        scan->more = true;
        free(scan->topics);
        scan->topics = NULL;
    }
    return rc == SQLITE_OK ? 0 : -EIO;
}

void scan_release(struct scan *scan)
{
    free(scan->numbers);
    free(scan->topics);
}
