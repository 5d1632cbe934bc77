/* SPDX-License-Identifier: MIT */

/* Where deliveries stand now, by what is on disk of them. */

#include "delivery/record.h"
#include "ledger/book.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>

enum column {
    COLUMN_NUMBER,
    COLUMN_STATE,
    COLUMN_ATTEMPTS,
    COLUMN_DUE,
    COLUMN_ENDED,
    COLUMN_RECORD,
};

#define COLUMNS "number, state, attempts, due_ms, ended_ms, record"

static bool is_its_record(sqlite3_stmt *row, const struct book_delivery *d)
{
    struct record_field field;
    size_t at = 0;
    const void *record = sqlite3_column_blob(row, COLUMN_RECORD);
    size_t len = (size_t)sqlite3_column_bytes(row, COLUMN_RECORD);
    while (record_next(record, len, &at, &field))
        if (strcmp(field.name, "id") == 0)
            return field.len == d->id.len && memcmp(field.data, d->id.data, field.len) == 0;
    return false;
}

static void take_row(sqlite3_stmt *row, struct book_delivery *d)
{
    static const enum book_state states[] = { BOOK_WAITING, BOOK_DEAD, BOOK_REVIVED };
    int state = sqlite3_column_int(row, COLUMN_STATE);
    d->state = state >= 0 && state <= 2 ? states[state] : BOOK_DEAD;
    d->number = (uint64_t)sqlite3_column_int64(row, COLUMN_NUMBER);
    d->attempts = (uint64_t)sqlite3_column_int64(row, COLUMN_ATTEMPTS);
    d->due_ms = sqlite3_column_int64(row, COLUMN_DUE);
    d->ended_ms = sqlite3_column_int64(row, COLUMN_ENDED);
}

/* Goes through the rows of a statement until one is the delivery's. Returns 1 if there is one, 0, or -EIO. */
static int find(sqlite3_stmt *row, struct book_delivery *d)
{
    int step, found = 0;
    while (!found && (step = sqlite3_step(row)) == SQLITE_ROW)
        if (is_its_record(row, d)) {
            take_row(row, d);
            found = 1;
        }
    bool failed = !found && step != SQLITE_DONE;
    sqlite3_reset(row);
    return failed ? -EIO : found;
}

/* The state of one that is not on disk. */
static enum book_state state_without_row(const struct book *book, const struct book_delivery *d,
                                         bool runs)
{
    enum ledger_event last = d->event_count > 0 ? d->events[d->event_count - 1].event : 0;
    switch (last) {
    case LEDGER_SENT:
    case LEDGER_FORGOTTEN:
    case LEDGER_DROPPED:
    case LEDGER_SUPPRESSED:
        return BOOK_DONE;
    case LEDGER_REJECTED:
    case LEDGER_GIVEN_UP:
        return BOOK_GONE;
    default:
        break;
    }
    const struct book_text *run = &book->last_run;
    bool same_run = run->len == 0 || (d->id.len > run->len && d->id.data[run->len] == '-' &&
                                      memcmp(d->id.data, run->data, run->len) == 0);
    return runs && same_run && !book->last_ended ? BOOK_IN_MEMORY : BOOK_LOST;
}

/* Where it was last: it may have gone from one target to others. */
static void find_target(const struct book_delivery *d, struct sheet_text *service,
                        struct sheet_text *target)
{
    *service = (struct sheet_text){ d->service.data, d->service.len };
    *target = (struct sheet_text){ d->target.data, d->target.len };
    for (size_t i = 0; i < d->event_count; i++) {
        const struct book_text *to = &d->events[i].moved_to;
        const char *colon = to->data ? strchr(to->data, ':') : NULL;
        if (!colon)
            continue;
        *service = (struct sheet_text){ to->data, (size_t)(colon - to->data) };
        *target = (struct sheet_text){ colon + 1, strlen(colon + 1) };
    }
}

static int settle(struct book *book, struct book_delivery *d, sqlite3_stmt *by_number,
                  sqlite3_stmt *by_target, bool runs)
{
    int found = 0;
    if (d->number > 0) {
        sqlite3_bind_int64(by_number, 1, (sqlite3_int64)d->number);
        found = find(by_number, d);
    }
    enum ledger_event last = d->event_count > 0 ? d->events[d->event_count - 1].event : 0;
    /* One of which nothing is known yet, or that went to another target: its number is not known either. */
    if (found == 0 && (last == 0 || last == LEDGER_MOVED || d->number == 0) &&
        last != LEDGER_SENT && last != LEDGER_DROPPED && last != LEDGER_SUPPRESSED) {
        struct sheet_text service, target;
        find_target(d, &service, &target);
        sqlite3_bind_text(by_target, 1, service.data, (int)service.len, SQLITE_STATIC);
        sqlite3_bind_text(by_target, 2, target.data, (int)target.len, SQLITE_STATIC);
        found = find(by_target, d);
    }
    if (found == 0)
        d->state = state_without_row(book, d, runs);
    return found < 0 ? found : 0;
}

int book_settle(sqlite3 *db, struct book *book, bool runs)
{
    sqlite3_stmt *by_number = NULL, *by_target = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(db, "SELECT " COLUMNS " FROM delivery WHERE number = ?1", -1, &by_number,
                           NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db,
                           "SELECT " COLUMNS " FROM delivery WHERE service = ?1 AND target = ?2",
                           -1, &by_target, NULL) != SQLITE_OK)
        rc = -EIO;
    for (size_t i = 0; rc == 0 && i < book->count; i++)
        for (size_t j = 0; rc == 0 && j < book->entries[i]->delivery_count; j++)
            rc = settle(book, &book->entries[i]->deliveries[j], by_number, by_target, runs);
    sqlite3_finalize(by_number);
    sqlite3_finalize(by_target);
    return rc;
}
