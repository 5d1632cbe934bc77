/* SPDX-License-Identifier: MIT */

/* Deliveries back from disk, and what is there. See keep.h; the store's thread, but at the start. */

#include "delivery/kept.h"

#include "base/clock.h"
#include "base/container.h"
#include "delivery/record.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <string.h>

#define SPREAD_MS 2000 /* over which retries that are overdue are spread */
#define DAY_MS    ((int64_t)24 * 3600 * 1000)

static uint64_t random_upto(struct keeper *keeper, uint64_t most)
{
    keeper->seed ^= keeper->seed << 13;
    keeper->seed ^= keeper->seed >> 7;
    keeper->seed ^= keeper->seed << 17;
    return (keeper->seed >> 1) % (most + 1);
}

static const char *find_link(void *context, const char *name)
{
    const struct keep_load *load = context;
    for (const char *const *at = load->links; at && *at; at++)
        if (strcmp(*at, name) == 0)
            return *at;
    return strcmp(name, MESSAGE_INTERNAL) == 0 ? MESSAGE_INTERNAL : NULL;
}

enum column {
    COLUMN_NUMBER,
    COLUMN_CREATED,
    COLUMN_ATTEMPTS,
    COLUMN_DUE,
    COLUMN_RECORD,
};

/* A clock that was set back, or a number that makes no sense, must not make it wait for longer than it ever had to. */
static void set_times(const struct keep_load *load, struct delivery *d, sqlite3_stmt *row)
{
    struct keeper *keeper = load->keeper;
    int64_t longest = load->longest_ms > 0 ? load->longest_ms : DAY_MS;
    int64_t wall = clock_wall_ms(), now = clock_mono_ms();
    int64_t age = wall - sqlite3_column_int64(row, COLUMN_CREATED);
    int64_t wait = sqlite3_column_int64(row, COLUMN_DUE) - wall;
    d->created_ms = now - (age > 0 ? age : 0);
    d->attempts = (unsigned)sqlite3_column_int64(row, COLUMN_ATTEMPTS);
    if (d->attempts > 0)
        d->due_ms =
            now + (wait > 0 && wait <= longest ? wait : (int64_t)random_upto(keeper, SPREAD_MS));
}

/* Makes the delivery of a row. Returns 0, or what record_read() does. */
static int make(struct keep_load *load, sqlite3_stmt *row, uint64_t number, struct delivery **out)
{
    const void *record = sqlite3_column_blob(row, COLUMN_RECORD);
    int rc = record_read(record, (size_t)sqlite3_column_bytes(row, COLUMN_RECORD), load->for_target,
                         find_link, load, out);
    if (rc < 0)
        return rc;
    (*out)->number = number;
    struct kept *kept = kept_new(load->keeper, *out);
    if (!kept) {
        delivery_free(*out);
        return -ENOMEM;
    }
    atomic_init(&kept->state, KEPT_WRITTEN);
    kept->inserted = true;
    kept->was_tried = load->revived || sqlite3_column_int64(row, COLUMN_ATTEMPTS) > 0;
    set_times(load, *out, row);
    return 0;
}

static int load_rows(struct keep_load *load, sqlite3_stmt *row)
{
    struct delivery **end = &load->first;
    load->first = NULL;
    load->rows = 0;
    load->last = load->range.after;
    size_t unread = 0, bytes = 0;
    uint64_t first_unread = 0;
    sqlite3_bind_text(row, 1, load->range.service, -1, SQLITE_STATIC);
    sqlite3_bind_text(row, 2, load->range.target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(row, 3, (sqlite3_int64)load->range.after);
    sqlite3_bind_int64(row, 4, (sqlite3_int64)load->range.last);
    sqlite3_bind_int64(row, 5, (sqlite3_int64)load->most);
    int rc;
    while ((rc = sqlite3_step(row)) == SQLITE_ROW) {
        uint64_t number = (uint64_t)sqlite3_column_int64(row, COLUMN_NUMBER);
        bytes += (size_t)sqlite3_column_bytes(row, COLUMN_RECORD);
        if (load->rows > 0 && bytes > KEEP_LOAD_BYTES)
            break; /* so does this */
        int made = make(load, row, number, end);
        if (made == -ENOMEM)
            break; /* the rest comes with the next load */
        load->rows++;
        load->last = number;
        if (made == 0)
            end = &(*end)->next;
        else if (unread++ == 0)
            first_unread = number;
    }
    if (unread > 0)
        log_error("store: deliveries for %s:%s that cannot be read, or were made for other formats "
                  "than the target has now, stay on disk: %zu, the first of them number %" PRIu64,
                  load->range.service, load->range.target, unread, first_unread);
    *end = NULL;
    load->more = rc == SQLITE_ROW || load->rows == load->most;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static const char number_sql[] =
    "SELECT number, created_ms, attempts, due_ms, record FROM delivery "
    "WHERE number = ?1 AND service = ?2 AND target = ?3 AND state = 0";

/* What cannot be read comes with the range, and is counted there. */
static int load_numbers(struct keep_load *load, sqlite3_stmt *row)
{
    struct delivery **end = &load->first;
    int rc = SQLITE_OK;
    size_t bytes = 0;
    load->rows = load->numbers_done = 0;
    for (size_t i = 0; i < load->number_count; i++) {
        sqlite3_bind_int64(row, 1, (sqlite3_int64)load->numbers[i]);
        sqlite3_bind_text(row, 2, load->range.service, -1, SQLITE_STATIC);
        sqlite3_bind_text(row, 3, load->range.target, -1, SQLITE_STATIC);
        rc = sqlite3_step(row);
        if (rc == SQLITE_ROW)
            bytes += (size_t)sqlite3_column_bytes(row, COLUMN_RECORD);
        if (load->rows > 0 && bytes > KEEP_LOAD_BYTES) {
            sqlite3_reset(row);
            rc = SQLITE_OK;
            break; /* the rest comes with the next load */
        }
        if (rc == SQLITE_ROW && make(load, row, load->numbers[i], end) == 0) {
            end = &(*end)->next;
            load->rows++;
        }
        sqlite3_reset(row);
        load->numbers_done++;
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            break;
        rc = SQLITE_OK;
    }
    *end = NULL;
    return rc;
}

static const char load_sql[] =
    "SELECT number, created_ms, attempts, due_ms, record FROM delivery "
    "WHERE service = ?1 AND target = ?2 AND state = 0 AND number > ?3 AND number <= ?4 "
    "ORDER BY number LIMIT ?5";

static void drop_list(struct delivery *first)
{
    while (first) {
        struct delivery *next = first->next;
        delivery_free(first);
        first = next;
    }
}

static const char revived_sql[] =
    "SELECT number, created_ms, 0, 0, record FROM delivery "
    "WHERE service = ?1 AND target = ?2 AND state = 2 AND number > ?3 AND number <= ?4 "
    "ORDER BY number LIMIT ?5";

/* Those that have been loaded wait like others from now on. */
static int mark_revived(const struct keep_load *load, struct store *store)
{
    sqlite3_stmt *s =
        store_statement(store, "UPDATE delivery SET state = 0, attempts = 0, due_ms = 0 "
                               "WHERE service = ?1 AND target = ?2 AND state = 2 AND number <= ?3");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_text(s, 1, load->range.service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, load->range.target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, (sqlite3_int64)load->last);
    return store_step(s);
}

static int apply_load(struct store_task *task, struct store *store)
{
    struct keep_load *load = CONTAINER_OF(task, struct keep_load, task);
    drop_list(load->first); /* of a try that was rolled back */
    load->first = NULL;
    const char *sql = load->numbers ? number_sql : load->revived ? revived_sql : load_sql;
    sqlite3_stmt *row = store_statement(store, sql);
    if (!row)
        return SQLITE_ERROR;
    int rc = load->numbers ? load_numbers(load, row) : load_rows(load, row);
    sqlite3_reset(row);
    if (rc == SQLITE_OK && load->revived && load->rows > 0)
        rc = mark_revived(load, store);
    struct dead_total total;
    if (rc == SQLITE_OK && load->revived &&
        (rc = dead_count(store_statement(store, dead_count_sql), &total)) == SQLITE_OK) {
        load->dead = total.count;
        load->dead_bytes = total.bytes;
    }
    return rc;
}

static void loaded(struct store_task *task, struct store *store)
{
    (void)store;
    struct keep_load *load = CONTAINER_OF(task, struct keep_load, task);
    if (load->revived) { /* somebody else may have dropped some; those of later tasks are counted by them */
        atomic_store(&load->keeper->dead, load->dead);
        atomic_store(&load->keeper->dead_bytes, load->dead_bytes);
    }
    load->loaded(load);
}

void keep_load(struct keep_load *load)
{
    load->first = NULL;
    load->task = (struct store_task){ .apply = apply_load, .done = loaded };
    store_post(load->keeper->store, &load->task);
}

int keep_load_now(struct keep_load *load)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(store_connection(load->keeper->store),
                                load->numbers ? number_sql : load_sql, -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = load->numbers ? load_numbers(load, row) : load_rows(load, row);
    sqlite3_finalize(row);
    return rc == SQLITE_OK ? 0 : -EIO;
}

static const char last_sql[] = "SELECT max(number) FROM delivery";
static const char last_of_target_sql[] =
    "SELECT number FROM delivery WHERE service = ?1 AND target = ?2 AND state = 0 "
    "ORDER BY number DESC LIMIT 1";

int keep_count(struct keeper *keeper, const char *service, const char *target, uint64_t *count,
               uint64_t *last)
{
    sqlite3 *db = store_connection(keeper->store);
    if (!keeper->survey && !(keeper->survey = survey_new(db)))
        return -EIO;
    *count = survey_count(keeper->survey, service, target, STATE_WAITING) +
             survey_count(keeper->survey, service, target, STATE_REVIVED);
    *last = 0;
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(db, service ? last_of_target_sql : last_sql, -1, &row, NULL);
    if (rc == SQLITE_OK && service) {
        sqlite3_bind_text(row, 1, service, -1, SQLITE_STATIC);
        sqlite3_bind_text(row, 2, target, -1, SQLITE_STATIC);
    }
    if (rc == SQLITE_OK && (rc = sqlite3_step(row)) == SQLITE_ROW)
        *last = (uint64_t)sqlite3_column_int64(row, 0);
    if (!service && *last >= atomic_load(&keeper->next_number)) /* they go on behind these */
        atomic_store(&keeper->next_number, *last + 1);
    sqlite3_finalize(row);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -EIO;
}
