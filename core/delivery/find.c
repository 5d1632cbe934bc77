/* SPDX-License-Identifier: MIT */

/* What is on disk for targets that a reload has brought. See keep.h; asked by the main thread, answered by the store's, behind
 * all that takes rows away. */

#include "delivery/kept.h"

#include "base/container.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

static void bind(const struct keep_find *find, sqlite3_stmt *s)
{
    sqlite3_bind_text(s, 1, find->service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, find->name, -1, SQLITE_STATIC);
}

/* In the same transaction as the count: else one would be counted, and loaded by itself as well. */
static int revive(struct keep_find *find, struct store *store)
{
    sqlite3_stmt *s =
        store_statement(store, "UPDATE delivery SET state = 0, attempts = 0, due_ms = 0 "
                               "WHERE service = ?1 AND target = ?2 AND state = 2");
    if (!s)
        return SQLITE_ERROR;
    bind(find, s);
    int rc = store_step(s);
    find->revived = rc == SQLITE_OK && sqlite3_changes(sqlite3_db_handle(s)) > 0;
    struct dead_total total = { 0 };
    if (find->revived)
        rc = dead_count(store_statement(store, dead_count_sql), &total);
    find->dead = total.count;
    find->dead_bytes = total.bytes;
    return rc;
}

static int answer(struct store_task *task, struct store *store)
{
    struct keep_find *find = CONTAINER_OF(task, struct keep_find, task);
    int rc = revive(find, store);
    sqlite3_stmt *s = NULL;
    if (rc == SQLITE_OK)
        s = store_statement(store, "SELECT count(*), max(number) FROM delivery "
                                   "WHERE service = ?1 AND target = ?2 AND state = 0");
    if (!s)
        return rc == SQLITE_OK ? SQLITE_ERROR : rc;
    bind(find, s);
    rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        find->count = (uint64_t)sqlite3_column_int64(s, 0);
        find->last = (uint64_t)sqlite3_column_int64(s, 1);
    }
    sqlite3_reset(s);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static void answered(struct store_task *task, struct store *store)
{
    (void)store;
    struct keep_find *find = CONTAINER_OF(task, struct keep_find, task);
    if (find->revived) {
        atomic_store(&find->keeper->dead, find->dead);
        atomic_store(&find->keeper->dead_bytes, find->dead_bytes);
    }
    find->answered = true;
}

static void not_answered(struct store_task *task, struct store *store, int code)
{
    (void)task;
    (void)store;
    (void)code; /* the store has logged it */
}

struct keep_find *keep_find(struct keeper *keeper, const struct target *target,
                            struct keep_find *others)
{
    size_t service_len = strlen(target->service) + 1, name_len = strlen(target->name) + 1;
    struct keep_find *find = calloc(1, sizeof(*find) + service_len + name_len);
    if (!find)
        return NULL;
    find->task = (struct store_task){ .apply = answer, .done = answered, .failed = not_answered };
    find->keeper = keeper;
    find->target = target;
    find->next = others;
    memcpy(find->service, target->service, service_len);
    find->name = memcpy(find->service + service_len, target->name, name_len);
    store_post(keeper->store, &find->task);
    return find;
}

int keep_find_answers(struct keep_find *list, int64_t wait_ms)
{
    struct keeper *keeper = list->keeper;
    if (!store_drain(keeper->store, wait_ms)) {
        struct keep_find **end = &list->next;
        while (*end)
            end = &(*end)->next;
        *end = keeper->late;
        keeper->late = list;
        return -ETIMEDOUT;
    }
    for (const struct keep_find *find = list; find; find = find->next)
        if (!find->answered) {
            keep_find_free(list);
            return -EIO;
        }
    return 0;
}

void keep_find_free(struct keep_find *list)
{
    while (list) {
        struct keep_find *next = list->next;
        free(list);
        list = next;
    }
}

void keeper_set_stray(struct keeper *keeper, uint64_t count)
{
    atomic_store(&keeper->stray, count);
}

/* Some of them may have come from among the dead letters since the start. */
void keeper_found_stray(struct keeper *keeper, uint64_t count)
{
    const uint64_t stray = keeper_stray(keeper);
    atomic_store(&keeper->stray, stray > count ? stray - count : 0);
}

uint64_t keeper_stray(const struct keeper *keeper)
{
    return atomic_load(&keeper->stray);
}
