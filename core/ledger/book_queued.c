/* SPDX-License-Identifier: MIT */

/* Which delivery a number of `tocsin queue` is. */

#include "delivery/record.h"
#include "ledger/book.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>

static int find_on_disk(sqlite3 *db, uint64_t number, struct buf *id)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(db, "SELECT record FROM delivery WHERE number = ?1", -1, &row, NULL) !=
        SQLITE_OK)
        return -EIO;
    sqlite3_bind_int64(row, 1, (sqlite3_int64)number);
    int step = sqlite3_step(row), rc = step == SQLITE_ROW || step == SQLITE_DONE ? -ENOENT : -EIO;
    struct record_field field;
    if (step == SQLITE_ROW)
        for (size_t at = 0; record_next(sqlite3_column_blob(row, 0),
                                        (size_t)sqlite3_column_bytes(row, 0), &at, &field);)
            if (rc == -ENOENT && strcmp(field.name, "id") == 0)
                rc = buf_add(id, field.data, field.len);
    sqlite3_finalize(row);
    return rc;
}

/* Whether something in a row happened to the delivery of that number; the last one counts. */
static bool find_in_row(sqlite3_stmt *row, uint64_t number, struct buf *id)
{
    struct sheet_reader reader;
    struct sheet_item item;
    bool found = false;
    sheet_reader_init(&reader, sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0));
    while (sheet_next(&reader, &item)) {
        if (item.kind != SHEET_EVENT || item.number != number)
            continue;
        buf_clear(id);
        book_add_id(id, &item.id);
        found = true;
    }
    sheet_reader_release(&reader);
    return found;
}

static int find_in_ledger(sqlite3 *db, uint64_t number, struct buf *id)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(db, "SELECT sheets FROM ledger ORDER BY number DESC", -1, &row, NULL) !=
        SQLITE_OK)
        return -EIO;
    int step;
    bool found = false;
    while (!found && (step = sqlite3_step(row)) == SQLITE_ROW)
        found = find_in_row(row, number, id);
    sqlite3_finalize(row);
    return found ? id->error : step == SQLITE_DONE ? -ENOENT : -EIO;
}

int book_find_queued(sqlite3 *db, uint64_t number, struct buf *id)
{
    int rc = find_on_disk(db, number, id);
    return rc == -ENOENT ? find_in_ledger(db, number, id) : rc;
}
