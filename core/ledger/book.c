/* SPDX-License-Identifier: MIT */

#include "ledger/book.h"

#include "mqtt/topic.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_MOST 1024

/* ---- Copies ---- */

static struct book_text copy(struct sheet_text text)
{
    struct book_text out = { malloc(text.len + 1), text.len };
    if (!out.data) {
        out.len = 0;
        return out; /* whoever prints it sees "" */
    }
    if (text.len > 0)
        memcpy(out.data, text.data, text.len);
    out.data[text.len] = '\0';
    return out;
}

void book_add_id(struct buf *out, const struct sheet_id *id)
{
    buf_add(out, id->run.data, id->run.len);
    if (id->number > 0)
        buf_addf(out, "-%" PRIx64, id->number);
}

static struct book_text copy_id(const struct sheet_id *id)
{
    struct buf text = BUF_INIT(ID_MOST);
    book_add_id(&text, id);
    struct book_text out = copy((struct sheet_text){ buf_str(&text), text.len });
    buf_release(&text);
    return out;
}

static void event_release(struct book_event *event)
{
    free(event->reason.data);
    free(event->receipt.data);
    free(event->moved_to.data);
}

static void delivery_release(struct book_delivery *d)
{
    for (size_t i = 0; i < d->event_count; i++)
        event_release(&d->events[i]);
    free(d->events);
    free(d->id.data);
    free(d->route.data);
    free(d->service.data);
    free(d->target.data);
}

static void entry_free(struct book_entry *entry)
{
    if (!entry)
        return;
    for (size_t i = 0; i < entry->delivery_count; i++)
        delivery_release(&entry->deliveries[i]);
    for (size_t i = 0; i < entry->decision_count; i++) {
        free(entry->decisions[i].route.data);
        free(entry->decisions[i].reason.data);
        free(entry->decisions[i].when.data);
        free(entry->decisions[i].target.data);
    }
    free(entry->deliveries);
    free(entry->decisions);
    free(entry->topic.data);
    free(entry->link.data);
    free(entry);
}

static void count_parts(struct sheet_reader *reader, struct sheet_item item, size_t *decisions,
                        size_t *deliveries)
{
    struct sheet_part part;
    while (sheet_next_part(reader, &item, &part))
        ++*(part.kind == SHEET_DELIVERY ? deliveries : decisions);
}

static void take_part(struct book_entry *entry, const struct sheet_part *part)
{
    if (part->kind == SHEET_DELIVERY) {
        entry->deliveries[entry->delivery_count++] = (struct book_delivery){
            .id = copy_id(&part->id),
            .route = copy(part->route),
            .service = copy(part->service),
            .target = copy(part->target),
        };
        return;
    }
    entry->decisions[entry->decision_count++] = (struct book_decision){
        .kind = part->kind,
        .route = copy(part->route),
        .reason = copy(part->reason),
        .when = copy(part->when),
        .target = copy(part->target),
        .verdict = part->verdict,
        .missing = part->missing,
    };
}

/* NULL when there is no memory. */
static struct book_entry *entry_new(struct sheet_reader *reader, struct sheet_item *item,
                                    uint64_t number)
{
    size_t decisions = 0, deliveries = 0;
    count_parts(reader, *item, &decisions, &deliveries);
    struct book_entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    *entry = (struct book_entry){
        .number = number,
        .at_ms = item->at_ms,
        .topic = copy(item->topic),
        .link = copy(item->link),
        .size = item->size,
        .routes = item->routes,
        .qos = item->qos,
        .retain = item->retain,
        .dup = item->dup,
        .decisions = calloc(decisions + 1, sizeof(*entry->decisions)),
        .deliveries = calloc(deliveries + 1, sizeof(*entry->deliveries)),
    };
    if (!entry->decisions || !entry->deliveries) {
        entry_free(entry);
        return NULL;
    }
    struct sheet_part part;
    while (sheet_next_part(reader, item, &part))
        take_part(entry, &part);
    return entry;
}

/* ---- What is wanted ---- */

static const char *text_of(struct book_text text)
{
    return text.data ? text.data : "";
}

static bool is_for(const struct book_delivery *d, const char *target)
{
    const char *colon = strchr(target, ':');
    size_t len = colon ? (size_t)(colon - target) : strlen(target);
    if (d->service.len != len || memcmp(text_of(d->service), target, len) != 0)
        return false;
    return !colon || strcmp(text_of(d->target), colon + 1) == 0;
}

bool book_entry_has_route(const struct book_entry *entry, const char *route)
{
    for (size_t i = 0; i < entry->decision_count; i++)
        if (strcmp(text_of(entry->decisions[i].route), route) == 0)
            return true;
    for (size_t i = 0; i < entry->delivery_count; i++)
        if (strcmp(text_of(entry->deliveries[i].route), route) == 0)
            return true;
    return false;
}

bool book_entry_was_suppressed(const struct book_entry *entry)
{
    return entry->decision_count > 0 && entry->decisions[0].kind == SHEET_SUPPRESSED;
}

bool book_wants(const struct book_filter *f, const struct book_entry *entry)
{
    if (f->number > 0 && entry->number != f->number)
        return false;
    if (entry->at_ms < f->since_ms)
        return false;
    if (f->topic &&
        !topic_filter_matches(f->topic, strlen(f->topic), text_of(entry->topic), entry->topic.len))
        return false;
    if (f->route && !book_entry_has_route(entry, f->route))
        return false;
    bool has_target = !f->target, has_delivery = !f->delivery;
    for (size_t i = 0; i < entry->delivery_count; i++) {
        const struct book_delivery *d = &entry->deliveries[i];
        has_target = has_target || is_for(d, f->target);
        has_delivery = has_delivery || strcmp(text_of(d->id), f->delivery) == 0;
    }
    return has_target && has_delivery;
}

/* ---- Messages ---- */

static int add_entry(struct book *book, struct book_entry *entry)
{
    if (book->count == book->room) {
        size_t room = book->room ? book->room * 2 : 16;
        struct book_entry **entries = realloc(book->entries, room * sizeof(*entries));
        if (!entries)
            return -ENOMEM;
        book->entries = entries;
        book->room = room;
    }
    book->entries[book->count++] = entry;
    return 0;
}

/* Adds the messages of a row that are wanted, the newest first, up to `last`. */
static int read_row(struct book *book, const struct book_filter *filter, uint64_t number,
                    const void *data, size_t len)
{
    struct book row = { 0 };
    struct sheet_reader reader;
    struct sheet_item item;
    int rc = 0;
    sheet_reader_init(&reader, data, len);
    while (rc == 0 && sheet_next(&reader, &item)) {
        if (item.kind != SHEET_MESSAGE)
            continue;
        struct book_entry *entry = entry_new(&reader, &item, number++);
        if (!entry)
            rc = -ENOMEM;
        else if (!book_wants(filter, entry) || add_entry(&row, entry) < 0)
            entry_free(entry);
    }
    book->damaged |= reader.damaged;
    sheet_reader_release(&reader);
    while (row.count > 0) {
        struct book_entry *entry = row.entries[--row.count];
        if (rc == 0 && book->count < filter->last)
            rc = add_entry(book, entry);
        else
            rc = rc == 0 ? 1 : rc; /* there are enough */
        if (rc != 0)
            entry_free(entry);
    }
    free(row.entries);
    return rc;
}

static void reverse(struct book *book)
{
    for (size_t i = 0; i < book->count / 2; i++) {
        struct book_entry *entry = book->entries[i];
        book->entries[i] = book->entries[book->count - 1 - i];
        book->entries[book->count - 1 - i] = entry;
    }
}

/* From the newest row backwards. Sets `*first_row` to the oldest that was read. */
static int read_messages(sqlite3 *db, const struct book_filter *filter, struct book *book,
                         int64_t *first_row)
{
    sqlite3_stmt *row = NULL;
    const char *sql = filter->number > 0
                          ? "SELECT number, until_ms, sheets FROM ledger "
                            "WHERE number <= ?1 AND entries > 0 ORDER BY number DESC LIMIT 1"
                          : "SELECT number, until_ms, sheets FROM ledger "
                            "WHERE entries > 0 ORDER BY number DESC";
    if (sqlite3_prepare_v2(db, sql, -1, &row, NULL) != SQLITE_OK)
        return -EIO;
    if (filter->number > 0)
        sqlite3_bind_int64(row, 1, (sqlite3_int64)filter->number);
    int rc = 0, step = SQLITE_DONE;
    while (rc == 0 && book->count < filter->last && (step = sqlite3_step(row)) == SQLITE_ROW) {
        int64_t number = sqlite3_column_int64(row, 0);
        /* What comes before it is older still, but for clocks that were set. */
        if (sqlite3_column_int64(row, 1) < filter->since_ms)
            break;
        *first_row = number;
        rc = read_row(book, filter, (uint64_t)number, sqlite3_column_blob(row, 2),
                      (size_t)sqlite3_column_bytes(row, 2));
    }
    sqlite3_finalize(row);
    reverse(book);
    if (rc < 0)
        return rc;
    return rc == 1 || step == SQLITE_ROW || step == SQLITE_DONE ? 0 : -EIO;
}

/* ---- Events ---- */

static int index_deliveries(struct book *book)
{
    for (size_t i = 0; i < book->count; i++)
        for (size_t j = 0; j < book->entries[i]->delivery_count; j++) {
            struct book_delivery *d = &book->entries[i]->deliveries[j];
            if (d->id.len > 0 && map_set(&book->ids, d->id.data, d->id.len, d) < 0)
                return -ENOMEM;
        }
    return 0;
}

static int add_event(struct book_delivery *d, const struct sheet_item *item)
{
    if (d->event_count == d->event_room) {
        size_t room = d->event_room ? d->event_room * 2 : 2;
        struct book_event *events = realloc(d->events, room * sizeof(*events));
        if (!events)
            return -ENOMEM;
        d->events = events;
        d->event_room = room;
    }
    d->events[d->event_count++] = (struct book_event){
        .event = item->event,
        .at_ms = item->at_ms,
        .attempt = item->attempt,
        .reason = copy(item->reason),
        .receipt = copy(item->receipt),
        .moved_to = copy(item->moved_to),
    };
    if (item->number > 0)
        d->number = item->number;
    return 0;
}

static void note_run(struct book *book, const struct sheet_item *item)
{
    free(book->last_run.data);
    book->last_run = copy(item->id.run);
    book->last_ended = item->kind == SHEET_END;
}

static int read_events_of_row(struct book *book, const void *data, size_t len)
{
    struct sheet_reader reader;
    struct sheet_item item;
    struct buf id = BUF_INIT(ID_MOST);
    int rc = 0;
    sheet_reader_init(&reader, data, len);
    while (rc == 0 && sheet_next(&reader, &item)) {
        if (item.kind == SHEET_BEGIN || item.kind == SHEET_END)
            note_run(book, &item);
        if (item.kind != SHEET_EVENT)
            continue;
        buf_clear(&id);
        book_add_id(&id, &item.id);
        struct book_delivery *d = map_get(&book->ids, buf_str(&id), id.len);
        if (d)
            rc = add_event(d, &item);
    }
    buf_release(&id);
    book->damaged |= reader.damaged;
    sheet_reader_release(&reader);
    return rc;
}

static int read_events(sqlite3 *db, struct book *book, int64_t first_row)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(db,
                           "SELECT number, entries, dropped, sheets FROM ledger WHERE number >= ?1 "
                           "ORDER BY number",
                           -1, &row, NULL) != SQLITE_OK)
        return -EIO;
    sqlite3_bind_int64(row, 1, first_row);
    int rc = 0, step;
    while ((step = sqlite3_step(row)) == SQLITE_ROW && rc == 0) {
        uint64_t entries = (uint64_t)sqlite3_column_int64(row, 1);
        book->next_row = (uint64_t)sqlite3_column_int64(row, 0) + (entries > 0 ? entries : 1);
        book->dropped += (uint64_t)sqlite3_column_int64(row, 2);
        rc = read_events_of_row(book, sqlite3_column_blob(row, 3),
                                (size_t)sqlite3_column_bytes(row, 3));
    }
    sqlite3_finalize(row);
    return rc < 0 ? rc : step == SQLITE_DONE ? 0 : -EIO;
}

static int read_extent(sqlite3 *db, struct book *book)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(db,
                           "SELECT min(number), max(number), "
                           "(SELECT until_ms FROM ledger ORDER BY number LIMIT 1) FROM ledger",
                           -1, &row, NULL) != SQLITE_OK)
        return -EIO;
    int step = sqlite3_step(row);
    if (step == SQLITE_ROW) {
        book->kept = (uint64_t)(sqlite3_column_int64(row, 1) - sqlite3_column_int64(row, 0));
        book->oldest_ms = sqlite3_column_int64(row, 2);
        book->first_row = (uint64_t)sqlite3_column_int64(row, 0);
    }
    sqlite3_finalize(row);
    return step == SQLITE_ROW ? 0 : -EIO;
}

int book_read(sqlite3 *db, const struct book_filter *filter, bool runs, struct book *book)
{
    *book = (struct book){ 0 };
    int64_t first_row = INT64_MAX;
    /* One transaction, so that no row goes in between. */
    if (sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK)
        return -EIO;
    int rc = read_extent(db, book);
    if (rc == 0)
        rc = read_messages(db, filter, book, &first_row);
    if (rc == 0)
        rc = index_deliveries(book);
    if (rc == 0)
        rc = read_events(db, book, book->count > 0 ? first_row : 0);
    if (rc == 0)
        rc = book_settle(db, book, runs);
    if (rc == -EIO)
        snprintf(book->error, sizeof(book->error), "%s", sqlite3_errmsg(db));
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

void book_release(struct book *book)
{
    for (size_t i = 0; i < book->count; i++)
        entry_free(book->entries[i]);
    free(book->entries);
    map_release(&book->ids);
    free(book->last_run.data);
    *book = (struct book){ 0 };
}

/* ---- Following ---- */

static int follow_row(const struct book_listener *listener, uint64_t number, const void *data,
                      size_t len)
{
    struct sheet_reader reader;
    struct sheet_item item;
    struct buf id = BUF_INIT(ID_MOST);
    int rc = 0;
    sheet_reader_init(&reader, data, len);
    while (rc == 0 && sheet_next(&reader, &item)) {
        if (item.kind == SHEET_MESSAGE) {
            struct book_entry *entry = entry_new(&reader, &item, number++);
            if (entry)
                listener->message(listener->context, entry);
            else
                rc = -ENOMEM;
            entry_free(entry);
        } else if (item.kind == SHEET_EVENT) {
            buf_clear(&id);
            book_add_id(&id, &item.id);
            listener->event(listener->context, &item, buf_str(&id));
        }
    }
    buf_release(&id);
    sheet_reader_release(&reader);
    return rc;
}

int book_follow(sqlite3 *db, uint64_t *next_row, const struct book_listener *listener)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(db,
                           "SELECT number, entries, sheets FROM ledger WHERE number >= ?1 ORDER BY "
                           "number",
                           -1, &row, NULL) != SQLITE_OK)
        return -EIO;
    sqlite3_bind_int64(row, 1, (sqlite3_int64)*next_row);
    int rc = 0, step;
    while ((step = sqlite3_step(row)) == SQLITE_ROW && rc == 0) {
        uint64_t number = (uint64_t)sqlite3_column_int64(row, 0);
        uint64_t entries = (uint64_t)sqlite3_column_int64(row, 1);
        rc = follow_row(listener, number, sqlite3_column_blob(row, 2),
                        (size_t)sqlite3_column_bytes(row, 2));
        if (rc == 0)
            *next_row = number + (entries > 0 ? entries : 1);
    }
    sqlite3_finalize(row);
    return rc < 0 ? rc : step == SQLITE_DONE ? 0 : -EIO;
}
