/* SPDX-License-Identifier: MIT */

/* Dead letters that nobody was told of, because they died when the program was ending: said at the next start. See keep.h. */

#include "delivery/kept.h"

#include "base/clock.h"
#include "base/container.h"
#include "delivery/record.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

enum column {
    COLUMN_NUMBER,
    COLUMN_SERVICE,
    COLUMN_TARGET,
    COLUMN_CREATED,
    COLUMN_ATTEMPTS,
    COLUMN_REASON,
    COLUMN_RECORD,
};

/* It need not be there any more: the name is copied to where the delivery finds it for as long as it is needed. */
static const char *copy_link(void *context, const char *name)
{
    char *link = context;
    snprintf(link, KEEP_UNTOLD_LINK, "%s", name);
    return link;
}

static void tell_one(sqlite3_stmt *row, keep_untold_fn *tell, void *context)
{
    const uint64_t number = (uint64_t)sqlite3_column_int64(row, COLUMN_NUMBER);
    const void *record = sqlite3_column_blob(row, COLUMN_RECORD);
    const size_t len = (size_t)sqlite3_column_bytes(row, COLUMN_RECORD);
    const char *reason = (const char *)sqlite3_column_text(row, COLUMN_REASON);
    /* The target may be gone, or have other formats: its name is enough. */
    struct target target = {
        .service = (const char *)sqlite3_column_text(row, COLUMN_SERVICE),
        .name = (const char *)sqlite3_column_text(row, COLUMN_TARGET),
        .format_count = record_formats(record, len),
    };
    char link[KEEP_UNTOLD_LINK];
    struct delivery *d;
    int rc = record_read(record, len, &target, copy_link, link, &d);
    if (rc < 0) {
        log_error("store: nobody can be told of a dead letter number=%" PRIu64
                  ": its record cannot be used",
                  number);
        return;
    }
    const int64_t age_ms = clock_wall_ms() - sqlite3_column_int64(row, COLUMN_CREATED);
    d->number = number;
    d->created_ms = clock_mono_ms() - (age_ms > 0 ? age_ms : 0);
    tell(context, d, reason ? reason : "", (unsigned)sqlite3_column_int64(row, COLUMN_ATTEMPTS));
    delivery_free(d);
}

int keep_untold(struct keeper *keeper, keep_untold_fn *tell, void *context)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(
        store_connection(keeper->store),
        "SELECT number, service, target, created_ms, attempts, reason, record FROM delivery "
        "WHERE untold = 1 AND state = 1 ORDER BY number",
        -1, &row, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(row)) == SQLITE_ROW) {
        tell_one(row, tell, context);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(row);
    return rc == SQLITE_DONE ? 0 : -EIO;
}

/* ---- Told ---- */

struct told {
    struct store_task task;
    uint64_t number;
};

static int mark(struct store_task *task, struct store *store)
{
    const struct told *told = CONTAINER_OF(task, struct told, task);
    sqlite3_stmt *s = store_statement(store, "UPDATE delivery SET untold = 0 WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)told->number);
    return store_step(s);
}

static void marked(struct store_task *task, struct store *store)
{
    (void)store;
    free(CONTAINER_OF(task, struct told, task));
}

void keep_told(struct keeper *keeper, uint64_t number)
{
    struct told *told = malloc(sizeof(*told));
    if (!told)
        return; /* then it is told once more */
    *told = (struct told){ .task = { .apply = mark, .done = marked }, .number = number };
    store_post(keeper->store, &told->task);
}
