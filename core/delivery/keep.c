/* SPDX-License-Identifier: MIT */

/* Deliveries on their way to disk and away from it. See keep.h. */

#include "delivery/kept.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"
#include "delivery/record.h"
#include "delivery/seen.h"
#include "delivery/survey.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

struct keeper *keeper_new(struct store *store)
{
    struct keeper *keeper = calloc(1, sizeof(*keeper));
    if (keeper) {
        keeper->store = store;
        keeper_set_bounds(keeper, &DEAD_BOUNDS_DEFAULT);
        atomic_init(&keeper->next_number, 1);
        keeper->seed = (uint64_t)clock_wall_ms() | 1;
    }
    return keeper;
}

struct store *keeper_store(const struct keeper *keeper)
{
    return keeper->store;
}

void keeper_free(struct keeper *keeper)
{
    if (keeper) {
        survey_free(keeper->survey);
        keep_find_free(keeper->late);
    }
    free(keeper);
}

int keeper_load_seen(struct keeper *keeper, struct seen *seen)
{
    uint64_t next_number = atomic_load(&keeper->next_number);
    int rc = seen_load(seen, keeper->store, &next_number);
    atomic_store(&keeper->next_number, next_number);
    keeper->seen = seen;
    return rc;
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
    sqlite3_stmt *s =
        store_statement(store, "INSERT OR REPLACE INTO delivery "
                               "(number, service, target, state, created_ms, attempts, "
                               "due_ms, record, urgent) "
                               "VALUES (?1, ?2, ?3, 0, ?4, 0, 0, ?5, ?6)");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)kept->number);
    sqlite3_bind_text(s, 2, kept->service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, kept->target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, kept->created_ms);
    sqlite3_bind_blob64(s, 5, record->data, record->len, SQLITE_STATIC);
    sqlite3_bind_int(s, 6, delivery_is_urgent(kept->delivery));
    int rc = store_step(s);
    if (rc == SQLITE_OK)
        rc = seen_write(store, kept->number, kept->delivery);
    kept->inserted = rc == SQLITE_OK;
    return rc;
}

int kept_delete_row(struct store *store, uint64_t number, bool was_tried)
{
    int rc = SQLITE_OK;
    if (was_tried) {
        sqlite3_stmt *attempts = store_statement(store, "DELETE FROM attempt WHERE delivery = ?1");
        if (!attempts)
            return SQLITE_ERROR;
        sqlite3_bind_int64(attempts, 1, (sqlite3_int64)number);
        rc = store_step(attempts);
    }
    sqlite3_stmt *s = store_statement(store, "DELETE FROM delivery WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)number);
    return rc == SQLITE_OK ? store_step(s) : rc;
}

static int take_away(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    return kept_delete_row(store, kept->number, kept->was_tried);
}

/* Also when it is done already, and need not be written: the other one must go. */
static int replace(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    int rc = is_needed(task) ? insert(task, store) : SQLITE_OK;
    return rc == SQLITE_OK ? kept_delete_row(store, kept->replaces, true) : rc;
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

/* If it is to be written still, its state becomes `to`. Returns what it was. */
static enum kept_state leave_waiting(struct kept *kept, enum kept_state to)
{
    enum kept_state before = atomic_load(&kept->state);
    while ((before == KEPT_WAITING || before == KEPT_HOLDING) &&
           !atomic_compare_exchange_weak(&kept->state, &before, to))
        ;
    return before;
}

static void written(struct store_task *task, struct store *store)
{
    (void)store;
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct delivery *d = kept->delivery;
    bool inserted = kept->inserted;
    if (inserted && kept->keeper->seen)
        seen_safe(kept->keeper->seen, d, true);
    enum kept_state before = leave_waiting(kept, KEPT_WRITTEN);
    if (before != KEPT_ENDED) {
        /* From here on the task may be posted again by the owner. */
        if (before == KEPT_HOLDING)
            message_release_hold(d->message);
        delivery_return(d);
    } else if (inserted) {
        post_end(kept); /* done while it was being written */
    } else {
        delivery_return(d);
    }
}

/* It cannot be written: so its message must not be acknowledged for it. What is in a queue goes on without. */
static void not_written(struct store_task *task, struct store *store, int code)
{
    (void)store;
    (void)code;
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct delivery *d = kept->delivery;
    if (leave_waiting(kept, KEPT_WAITING) == KEPT_HOLDING) {
        message_refuse(d->message);
        message_release_hold(d->message);
    }
    delivery_return(d);
}

/* ---- Deliveries ---- */

struct kept *kept_new(struct keeper *keeper, struct delivery *d)
{
    const char *service = d->target->service, *target = d->target->name;
    size_t service_len = strlen(service), target_len = strlen(target);
    struct kept *kept = malloc(sizeof(*kept) + service_len + target_len + 2);
    if (!kept)
        return NULL;
    *kept = (struct kept){
        .keeper = keeper,
        .delivery = d,
        .number = d->number,
        .rendered_count = d->target->format_count,
    };
    memcpy(kept->service, service, service_len + 1);
    kept->target = kept->service + service_len + 1;
    memcpy(kept->target, target, target_len + 1);
    d->kept = kept;
    d->kept_free = free;
    return kept;
}

/* One that was tried before it had a place is to be written already, and holds its message from now on. */
static void hold_until_written(struct kept *kept)
{
    message_hold(kept->delivery->message);
    enum kept_state expected = KEPT_WAITING;
    if (!atomic_compare_exchange_strong(&kept->state, &expected, KEPT_HOLDING))
        message_release_hold(kept->delivery->message); /* it is written, or holds it */
}

void keep_order(struct keeper *keeper, struct delivery *d)
{
    if (d->number == 0)
        d->number = atomic_fetch_add_explicit(&keeper->next_number, 1, memory_order_relaxed);
}

void keep_put(struct keeper *keeper, struct delivery *d, bool hold)
{
    if (d->kept) {
        if (hold)
            hold_until_written(d->kept);
        return;
    }
    keep_order(keeper, d);
    struct kept *kept = kept_new(keeper, d);
    if (!kept) {
        if (hold)
            message_refuse(d->message);
        return;
    }
    kept->task = (struct store_task){
        .needed = is_needed, .apply = insert, .done = written, .failed = not_written
    };
    kept->created_ms = clock_wall_ms();
    atomic_init(&kept->state, hold ? KEPT_HOLDING : KEPT_WAITING);
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
    enum kept_state before = leave_waiting(kept, KEPT_ENDED);
    if (before == KEPT_HOLDING)
        message_release_hold(d->message); /* delivered is as good as written */
    if (before == KEPT_WRITTEN) {
        atomic_store(&kept->state, KEPT_ENDED);
        delivery_borrow(d);
        post_end(kept);
    }
}

void keep_move(struct keeper *keeper, struct delivery *from, struct delivery *to)
{
    struct kept *old = from->kept;
    keep_order(keeper, to);
    struct kept *kept = old ? kept_new(keeper, to) : NULL;
    if (!kept)
        return;
    enum kept_state before = leave_waiting(old, KEPT_ENDED);
    atomic_store(&old->state, KEPT_ENDED);
    kept->replaces = old->number;
    kept->created_ms = clock_wall_ms();
    kept->task = (struct store_task){ .apply = replace, .done = written };
    atomic_init(&kept->state, before == KEPT_HOLDING ? KEPT_HOLDING : KEPT_WAITING);
    delivery_borrow(to);
    store_post(keeper->store, &kept->task);
}

struct retried *retried_new(struct keeper *keeper, const struct delivery *d, unsigned attempts,
                            const char *reason)
{
    struct kept *kept = d->kept;
    size_t len = strlen(reason) + 1;
    struct retried *retried = kept ? malloc(sizeof(*retried) + len) : NULL;
    if (!retried)
        return NULL;
    kept->was_tried = true;
    *retried = (struct retried){
        .keeper = keeper,
        .number = kept->number,
        .attempts = attempts,
        .at_ms = clock_wall_ms(),
    };
    memcpy(retried->reason, reason, len);
    return retried;
}

int retried_insert_attempt(const struct retried *retried, struct store *store)
{
    sqlite3_stmt *s =
        store_statement(store, "INSERT OR REPLACE INTO attempt VALUES (?1, ?2, ?3, ?4)");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    sqlite3_bind_int64(s, 2, retried->attempts);
    sqlite3_bind_int64(s, 3, retried->at_ms);
    sqlite3_bind_text(s, 4, retried->reason, -1, SQLITE_STATIC);
    return store_step(s);
}

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
    int rc = store_step(s);
    return rc == SQLITE_OK ? retried_insert_attempt(retried, store) : rc;
}

static void updated(struct store_task *task, struct store *store)
{
    (void)store;
    free(CONTAINER_OF(task, struct retried, task));
}

void keep_retry(struct keeper *keeper, struct delivery *d, unsigned attempts, int64_t due_ms,
                const char *reason)
{
    keep_put(keeper, d, false); /* if it was not yet */
    struct retried *retried = retried_new(keeper, d, attempts, reason);
    if (!retried)
        return; /* then a restart tries it again too soon, which does no harm */
    retried->task = (struct store_task){ .apply = update, .done = updated };
    retried->due_ms = due_ms;
    store_post(keeper->store, &retried->task);
}
