/* SPDX-License-Identifier: MIT */

#include "delivery/keep.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"
#include "delivery/record.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

struct keeper {
    struct store *store;
    atomic_uint_fast64_t next_number;
    uint64_t seed; /* for the spread of what is due at once */
};

enum kept_state {
    KEPT_WAITING, /* to be written */
    KEPT_WRITTEN,
    KEPT_ENDED, /* the delivery is done; if it was written, it is to be taken away */
};

struct kept {
    struct store_task task; /* to write it, then to take it away; borrows the delivery meanwhile */
    struct keeper *keeper;
    struct delivery *delivery;
    _Atomic(enum kept_state) state;
    bool holds;    /* the message, until it is written or done */
    bool inserted; /* the writer's */
    uint64_t number;
    int64_t created_ms;
    size_t rendered_count;
    char *target; /* behind the service's name */
    char service[];
};

struct keeper *keeper_new(struct store *store)
{
    struct keeper *keeper = calloc(1, sizeof(*keeper));
    if (keeper) {
        keeper->store = store;
        atomic_init(&keeper->next_number, 1);
        keeper->seed = (uint64_t)clock_wall_ms() | 1;
    }
    return keeper;
}

void keeper_free(struct keeper *keeper)
{
    free(keeper);
}

/* ---- Writing; the store's thread ---- */

static bool is_needed(const struct store_task *task)
{
    const struct kept *kept = CONTAINER_OF(task, struct kept, task);
    return atomic_load_explicit(&kept->state, memory_order_acquire) != KEPT_ENDED;
}

static int insert(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct buf *record = store_scratch(store);
    if (record_write(kept->delivery, kept->rendered_count, record) < 0)
        return SQLITE_NOMEM;
    sqlite3_stmt *s = store_statement(store, "INSERT OR REPLACE INTO delivery VALUES "
                                             "(?1, ?2, ?3, 0, ?4, 0, 0, ?5)");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)kept->number);
    sqlite3_bind_text(s, 2, kept->service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, kept->target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, kept->created_ms);
    sqlite3_bind_blob64(s, 5, record->data, record->len, SQLITE_STATIC);
    int rc = store_step(s);
    kept->inserted = rc == SQLITE_OK;
    return rc;
}

static int take_away(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    sqlite3_stmt *s = store_statement(store, "DELETE FROM delivery WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)kept->number);
    return store_step(s);
}

static void taken_away(struct store_task *task, struct store *store)
{
    (void)store;
    delivery_return(CONTAINER_OF(task, struct kept, task)->delivery);
}

/* The task that takes it away; the delivery is borrowed for it. */
static void post_end(struct kept *kept)
{
    kept->task = (struct store_task){ .apply = take_away, .done = taken_away };
    store_post(kept->keeper->store, &kept->task);
}

static void written(struct store_task *task, struct store *store)
{
    (void)store;
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct delivery *d = kept->delivery;
    bool inserted = kept->inserted, holds = kept->holds;
    enum kept_state expected = KEPT_WAITING;
    if (atomic_compare_exchange_strong(&kept->state, &expected, KEPT_WRITTEN)) {
        /* From here on the task may be posted again by the owner. */
        if (holds)
            message_release_hold(d->message);
        delivery_return(d);
    } else if (inserted) {
        post_end(kept); /* done while it was being written */
    } else {
        delivery_return(d);
    }
}

/* ---- Deliveries ---- */

static struct kept *kept_new(struct keeper *keeper, struct delivery *d, uint64_t number)
{
    const char *service = d->target->service, *target = d->target->name;
    size_t service_len = strlen(service), target_len = strlen(target);
    struct kept *kept = malloc(sizeof(*kept) + service_len + target_len + 2);
    if (!kept)
        return NULL;
    *kept = (struct kept){
        .keeper = keeper,
        .delivery = d,
        .number = number,
        .rendered_count = d->target->format_count,
    };
    memcpy(kept->service, service, service_len + 1);
    kept->target = kept->service + service_len + 1;
    memcpy(kept->target, target, target_len + 1);
    d->kept = kept;
    d->kept_free = free;
    return kept;
}

void keep_put(struct keeper *keeper, struct delivery *d, bool hold)
{
    if (d->kept)
        return;
    uint64_t number = atomic_fetch_add_explicit(&keeper->next_number, 1, memory_order_relaxed);
    struct kept *kept = kept_new(keeper, d, number);
    if (!kept) {
        if (hold)
            message_refuse(d->message);
        return;
    }
    kept->task = (struct store_task){ .needed = is_needed, .apply = insert, .done = written };
    kept->created_ms = clock_wall_ms();
    atomic_init(&kept->state, KEPT_WAITING);
    kept->holds = hold;
    if (hold)
        message_hold(d->message);
    delivery_borrow(d);
    store_post(keeper->store, &kept->task);
}

void keep_end(struct keeper *keeper, struct delivery *d)
{
    (void)keeper;
    struct kept *kept = d->kept;
    if (!kept)
        return;
    enum kept_state expected = KEPT_WAITING;
    if (atomic_compare_exchange_strong(&kept->state, &expected, KEPT_ENDED)) {
        if (kept->holds)
            message_release_hold(d->message); /* delivered is as good as written */
        return;
    }
    if (expected == KEPT_WRITTEN) {
        atomic_store(&kept->state, KEPT_ENDED);
        delivery_borrow(d);
        post_end(kept);
    }
}

struct retried {
    struct store_task task;
    uint64_t number;
    unsigned attempts;
    int64_t due_ms;
};

static int update(struct store_task *task, struct store *store)
{
    const struct retried *retried = CONTAINER_OF(task, struct retried, task);
    sqlite3_stmt *s =
        store_statement(store, "UPDATE delivery SET attempts = ?2, due_ms = ?3 WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    sqlite3_bind_int64(s, 2, retried->attempts);
    sqlite3_bind_int64(s, 3, retried->due_ms);
    return store_step(s);
}

static void updated(struct store_task *task, struct store *store)
{
    (void)store;
    free(CONTAINER_OF(task, struct retried, task));
}

void keep_retry(struct keeper *keeper, struct delivery *d, unsigned attempts, int64_t due_ms)
{
    keep_put(keeper, d, false); /* if it was not yet */
    const struct kept *kept = d->kept;
    struct retried *retried = kept ? malloc(sizeof(*retried)) : NULL;
    if (!retried)
        return; /* then a restart tries it again too soon, which does no harm */
    *retried = (struct retried){
        .task = { .apply = update, .done = updated },
        .number = kept->number,
        .attempts = attempts,
        .due_ms = due_ms,
    };
    store_post(keeper->store, &retried->task);
}

/* ---- After a restart ---- */

static uint64_t random_upto(struct keeper *keeper, uint64_t most)
{
    keeper->seed ^= keeper->seed << 13;
    keeper->seed ^= keeper->seed >> 7;
    keeper->seed ^= keeper->seed << 17;
    return (keeper->seed >> 1) % (most + 1);
}

#define SPREAD_MS 2000 /* over which retries that are overdue are spread */

static const char *find_link(void *context, const char *name)
{
    const struct keep_finder *finder = context;
    for (const char *const *at = finder->links; at && *at; at++)
        if (strcmp(*at, name) == 0)
            return *at;
    return NULL;
}

/* Makes the delivery of a row. Returns 1, 0 if it has to stay where it is, or -ENOMEM. */
static int make(struct keeper *keeper, sqlite3_stmt *row, const struct keep_finder *finder)
{
    uint64_t number = (uint64_t)sqlite3_column_int64(row, 0);
    const char *service = (const char *)sqlite3_column_text(row, 1);
    const char *name = (const char *)sqlite3_column_text(row, 2);
    struct target *target = finder->target(finder->context, service, name);
    if (!target)
        return 0;
    struct delivery *d;
    int rc = record_read(sqlite3_column_blob(row, 6), (size_t)sqlite3_column_bytes(row, 6), target,
                         find_link, (void *)finder, &d);
    if (rc == -EBADMSG) {
        log_error("store: delivery %" PRIu64 " for %s:%s cannot be read, it stays where it is",
                  number, service, name);
        return 0;
    }
    struct kept *kept = rc == 0 ? kept_new(keeper, d, number) : NULL;
    if (!kept) {
        delivery_free(d);
        return -ENOMEM;
    }
    atomic_init(&kept->state, KEPT_WRITTEN);
    kept->inserted = true;

    int64_t wall = clock_wall_ms(), now = clock_mono_ms();
    int64_t age = wall - sqlite3_column_int64(row, 3), wait = sqlite3_column_int64(row, 5) - wall;
    d->created_ms = now - (age > 0 ? age : 0);
    d->attempts = (unsigned)sqlite3_column_int64(row, 4);
    /* A clock that was set back must not make it wait for years. */
    if (d->attempts > 0)
        d->due_ms =
            now +
            (wait > 0 && wait < 24 * 3600 * 1000 ? wait : (int64_t)random_upto(keeper, SPREAD_MS));
    finder->found(finder->context, d);
    return 1;
}

/* Numbers go on where those on disk end, whatever their state. */
static int begin_numbers(struct keeper *keeper)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(store_connection(keeper->store),
                                "SELECT ifnull(max(number), 0) FROM delivery", -1, &row, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(row)) == SQLITE_ROW)
        atomic_store(&keeper->next_number, (uint64_t)sqlite3_column_int64(row, 0) + 1);
    sqlite3_finalize(row);
    return rc == SQLITE_ROW ? 0 : -EIO;
}

int64_t keeper_load(struct keeper *keeper, const struct keep_finder *finder)
{
    sqlite3_stmt *row = NULL;
    if (begin_numbers(keeper) < 0 ||
        sqlite3_prepare_v2(store_connection(keeper->store),
                           "SELECT number, service, target, created_ms, attempts, due_ms, record "
                           "FROM delivery WHERE state = 0 ORDER BY number",
                           -1, &row, NULL) != SQLITE_OK)
        return -EIO;
    int64_t left = 0;
    int rc;
    while ((rc = sqlite3_step(row)) == SQLITE_ROW) {
        int made = make(keeper, row, finder);
        if (made < 0) {
            sqlite3_finalize(row);
            return made;
        }
        left += made == 0;
    }
    sqlite3_finalize(row);
    return rc == SQLITE_DONE ? left : -EIO;
}
