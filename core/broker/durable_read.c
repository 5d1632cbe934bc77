/* SPDX-License-Identifier: MIT */

/*
 * Reads back what durable_sql.c has written. The main thread, at the start.
 *
 * All tables are in the order of sessions, so each is gone through once, side by side: there may be a million
 * sessions, or one with a million messages. Of a long queue only the first messages are looked up, the rows of
 * the others are counted.
 */

#include "broker/durable_op.h"

#include "base/utf8.h"
#include "broker/durable_row.h"
#include "broker/spill.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define IDENTIFIER_MAX 268435455
#define CLIENT_ID_MAX  65535

/* A statement whose first column is a number by which its rows are in order. */
struct cursor {
    sqlite3_stmt *row;
    bool there; /* there is a row */
    uint64_t number;
};

enum cursor_name {
    SESSIONS,
    SUBSCRIPTIONS,
    RECEIVED,
    FLIGHTS,
    QUEUES,
    CURSORS,
};

struct reading {
    sqlite3 *db;
    const struct durable_clock *clock;
    const struct durable_visitor *visitor;
    void *context;
    struct cursor cursors[CURSORS];
    sqlite3_stmt *record, *rest, *shared;
    struct row_cache *cache;
    uint64_t *last, *unreadable;
};

static void note_number(struct reading *r, uint64_t number)
{
    if (number > *r->last && number <= NUMBER_MAX)
        *r->last = number;
}

static uint64_t number_in(sqlite3_stmt *row, int column)
{
    const sqlite3_int64 number = sqlite3_column_int64(row, column);
    return number < 0 ? 0 : (uint64_t)number;
}

static int prepare(struct reading *r, const char *sql, sqlite3_stmt **out)
{
    return sqlite3_prepare_v2(r->db, sql, -1, out, NULL) == SQLITE_OK ? 0 : -EIO;
}

/* ---- Cursors ---- */

static int cursor_next(struct reading *r, struct cursor *c)
{
    const int rc = sqlite3_step(c->row);
    c->there = rc == SQLITE_ROW;
    if (c->there) {
        c->number = number_in(c->row, 0);
        note_number(r, c->number);
    }
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -EIO;
}

static int cursor_open(struct reading *r, enum cursor_name name, const char *sql)
{
    const int rc = prepare(r, sql, &r->cursors[name].row);
    if (rc < 0)
        return rc;
    if (sqlite3_bind_parameter_count(r->cursors[name].row) > 0)
        sqlite3_bind_int64(r->cursors[name].row, 1, 0);
    return cursor_next(r, &r->cursors[name]);
}

/* Begins again behind a session; one that is opened with that as its parameter. */
static int cursor_skip(struct reading *r, struct cursor *c, uint64_t session)
{
    sqlite3_reset(c->row);
    sqlite3_bind_int64(c->row, 1, (sqlite3_int64)session);
    return cursor_next(r, c);
}

/* Whether the cursor is at a row of the session. */
static bool cursor_at(const struct cursor *c, uint64_t session)
{
    return c->there && c->number == session;
}

/* Goes on to a session's first row. What is before it is of sessions that have ended, or cannot be read. */
static int cursor_seek(struct reading *r, struct cursor *c, uint64_t session)
{
    int rc = 0;
    while (rc == 0 && c->there && c->number < session) {
        if (c == &r->cursors[QUEUES])
            note_number(r, number_in(c->row, QUEUED_NUMBER));
        rc = cursor_next(r, c);
    }
    return rc;
}

static int open_cursors(struct reading *r)
{
    int rc = cursor_open(r, SESSIONS,
                         "SELECT number, id, persistent, expiry, left_ms, will, will_delay, "
                         "will_expiry, sent FROM session ORDER BY number");
    if (rc == 0)
        rc = cursor_open(r, SUBSCRIPTIONS,
                         "SELECT session, share, filter, identifier, options FROM subscription "
                         "ORDER BY session, share, filter");
    if (rc == 0)
        rc = cursor_open(r, RECEIVED,
                         "SELECT session, packet_id FROM received ORDER BY session, packet_id");
    if (rc == 0)
        rc = cursor_open(r, FLIGHTS,
                         "SELECT " QUEUED_COLUMNS " FROM queued WHERE packet_id <> 0 "
                         "ORDER BY session, number");
    if (rc == 0)
        rc = cursor_open(r, QUEUES,
                         "SELECT " QUEUED_COLUMNS " FROM queued WHERE session > ?1 "
                         "ORDER BY session, number");
    if (rc == 0)
        rc = prepare(r, MESSAGE_RECORD, &r->record);
    if (rc == 0)
        rc = prepare(r,
                     "SELECT count(*), total(size), max(number) FROM queued "
                     "WHERE session = ?1 AND number > ?2 AND packet_id = 0 AND share IS NULL "
                     "AND " NUMBER_IS_SANE,
                     &r->rest);
    if (rc == 0)
        rc = prepare(r,
                     "SELECT " QUEUED_COLUMNS " FROM queued WHERE session = ?1 AND number > ?2 "
                     "AND packet_id = 0 AND share IS NOT NULL ORDER BY number",
                     &r->shared);
    return rc;
}

static void close_cursors(struct reading *r)
{
    for (size_t i = 0; i < CURSORS; i++)
        sqlite3_finalize(r->cursors[i].row);
    sqlite3_finalize(r->record);
    sqlite3_finalize(r->rest);
    sqlite3_finalize(r->shared);
}

/* ---- Retained messages ---- */

static int read_retained_row(struct reading *r, sqlite3_stmt *row)
{
    const void *topic = sqlite3_column_blob(row, 0), *record = sqlite3_column_blob(row, 1);
    const size_t topic_len = (size_t)sqlite3_column_bytes(row, 0);
    struct publication *publication;
    int rc = row_publication(r->clock, record ? record : "", (size_t)sqlite3_column_bytes(row, 1),
                             &publication);
    if (rc == 0 && (publication->topic_len != topic_len ||
                    memcmp(publication_topic(publication), topic, topic_len) != 0)) {
        publication_unref(publication);
        rc = -EBADMSG;
    }
    if (rc == -EBADMSG) {
        ++*r->unreadable;
        return 0;
    }
    if (rc < 0)
        return rc;
    /* What has expired is left to the next sweep. */
    if (publication->expires == 1) {
        publication_unref(publication);
        return 0;
    }
    return r->visitor->retained(r->context, publication);
}

static int read_retained(struct reading *r)
{
    sqlite3_stmt *row = NULL;
    int rc = prepare(r, "SELECT topic, record FROM retained", &row), step = SQLITE_DONE;
    while (rc == 0 && (step = sqlite3_step(row)) == SQLITE_ROW)
        rc = read_retained_row(r, row);
    sqlite3_finalize(row);
    return rc < 0 || step == SQLITE_DONE ? rc : -EIO;
}

/* ---- One session ---- */

static uint32_t seconds_in(sqlite3_stmt *row, int column)
{
    const sqlite3_int64 value = sqlite3_column_int64(row, column);
    return value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

/* Sets `*readable`; a will that is not is left out. */
static int read_session(struct reading *r, bool *readable)
{
    sqlite3_stmt *row = r->cursors[SESSIONS].row;
    struct stored_session session = {
        .number = r->cursors[SESSIONS].number,
        .id = sqlite3_column_blob(row, 1),
        .id_len = (size_t)sqlite3_column_bytes(row, 1),
        .persistent = sqlite3_column_int(row, 2) != 0,
        .expiry = seconds_in(row, 3),
        .left_ms = sqlite3_column_int64(row, 4),
        .will_delay = seconds_in(row, 6),
        .will_expiry = seconds_in(row, 7),
        .sent = seconds_in(row, 8),
    };
    const bool is_will = session.id && session.id_len == WILL_ID && session.id[0] == '\0';
    *readable = session.number > 0 && session.number <= NUMBER_MAX && session.id &&
                session.id_len <= CLIENT_ID_MAX &&
                (is_will || (!memchr(session.id, '\0', session.id_len) &&
                             utf8_valid(session.id, session.id_len)));
    if (!*readable) {
        ++*r->unreadable;
        return 0;
    }
    const void *will = sqlite3_column_blob(row, 5);
    if (will) {
        const int rc =
            row_publication(r->clock, will, (size_t)sqlite3_column_bytes(row, 5), &session.will);
        if (rc == -EBADMSG)
            ++*r->unreadable;
        else if (rc < 0)
            return rc;
    }
    return r->visitor->session(r->context, &session);
}

static int read_subscription(struct reading *r, uint64_t session)
{
    sqlite3_stmt *row = r->cursors[SUBSCRIPTIONS].row;
    const char *share = sqlite3_column_blob(row, 1), *filter = sqlite3_column_blob(row, 2);
    const size_t share_len = (size_t)sqlite3_column_bytes(row, 1);
    const size_t filter_len = (size_t)sqlite3_column_bytes(row, 2);
    const sqlite3_int64 id = sqlite3_column_int64(row, 3), options = sqlite3_column_int64(row, 4);
    const bool share_bad =
        share_len > 0 && (topic_name_fault(share, share_len) || memchr(share, '/', share_len));
    if (share_bad || topic_filter_fault(filter ? filter : "", filter_len) || id < 0 ||
        id > IDENTIFIER_MAX || options < 0 || options > UINT8_MAX) {
        ++*r->unreadable;
        return 0;
    }
    return r->visitor->subscription(r->context, session, share_len ? share : NULL, share_len,
                                    filter, filter_len, (uint32_t)id, (uint8_t)options);
}

static int read_received(struct reading *r, uint64_t session)
{
    const sqlite3_int64 id = sqlite3_column_int64(r->cursors[RECEIVED].row, 1);
    if (id < 1 || id > UINT16_MAX) {
        ++*r->unreadable;
        return 0;
    }
    return r->visitor->received(r->context, session, (uint16_t)id);
}

/* Sets `*given` if the visitor was given one. */
static int read_message(struct reading *r, uint64_t session, sqlite3_stmt *row, bool behind,
                        bool *given)
{
    struct stored_message message;
    *given = false;
    const int rc = row_message(row, r->record, r->clock, r->cache, &message);
    if (rc == -EBADMSG) {
        ++*r->unreadable;
        return 0;
    }
    if (rc < 0)
        return rc;
    *given = true;
    message.behind = behind;
    return r->visitor->message(r->context, session, &message);
}

static int read_flight(struct reading *r, uint64_t session)
{
    bool given;
    note_number(r, number_in(r->cursors[FLIGHTS].row, QUEUED_NUMBER));
    return read_message(r, session, r->cursors[FLIGHTS].row, false, &given);
}

#define LONG 1000 /* rows of a queue, after which the others are counted in one go */

/* The first of a queue, and what is behind them. */
struct queue {
    uint64_t after, last, count, bytes;
    size_t given;
    uint64_t given_bytes;
    bool rest;
};

static int read_queued(struct reading *r, uint64_t session, struct queue *q)
{
    sqlite3_stmt *row = r->cursors[QUEUES].row;
    const uint64_t number = number_in(row, QUEUED_NUMBER), size = number_in(row, QUEUED_SIZE);
    note_number(r, number);
    if (sqlite3_column_int64(row, QUEUED_PACKET_ID) != 0)
        return 0;
    const bool shared = sqlite3_column_type(row, QUEUED_SHARE) != SQLITE_NULL;
    if (number < 1 || number > NUMBER_MAX) {
        ++*r->unreadable;
        return 0;
    }
    if (!q->rest && !shared)
        q->rest = q->given == SPILL_AWAY_MESSAGES ||
                  (q->given > 0 && q->given_bytes + size > SPILL_AWAY_BYTES);
    if (q->rest && !shared) {
        q->last = number;
        q->count++;
        q->bytes += size;
        return 0;
    }
    bool given;
    const int rc = read_message(r, session, row, q->rest, &given);
    if (!shared)
        q->after = number;
    if (given && !shared) {
        q->given++;
        q->given_bytes += size;
    }
    return rc;
}

/* What the rest of a long queue has of shared subscriptions. */
static int read_shared(struct reading *r, uint64_t session, uint64_t after)
{
    int rc = 0, step = SQLITE_DONE;
    sqlite3_bind_int64(r->shared, 1, (sqlite3_int64)session);
    sqlite3_bind_int64(r->shared, 2, (sqlite3_int64)after);
    while (rc == 0 && (step = sqlite3_step(r->shared)) == SQLITE_ROW) {
        bool given;
        note_number(r, number_in(r->shared, QUEUED_NUMBER));
        rc = read_message(r, session, r->shared, true, &given);
    }
    sqlite3_reset(r->shared);
    return rc < 0 || step == SQLITE_DONE ? rc : -EIO;
}

/* Counts the rest of a long queue, and leaves it. */
static int count_rest(struct reading *r, uint64_t session, struct queue *q)
{
    sqlite3_bind_int64(r->rest, 1, (sqlite3_int64)session);
    sqlite3_bind_int64(r->rest, 2, (sqlite3_int64)q->last);
    int rc = read_shared(r, session, q->last);
    if (rc == 0)
        rc = sqlite3_step(r->rest) == SQLITE_ROW ? 0 : -EIO;
    if (rc == 0 && sqlite3_column_int64(r->rest, 0) > 0) {
        const double bytes = sqlite3_column_double(r->rest, 1);
        q->count += number_in(r->rest, 0);
        q->bytes += bytes > 0 && bytes < 1e18 ? (uint64_t)bytes : 0;
        q->last = number_in(r->rest, 2);
        note_number(r, q->last);
    }
    sqlite3_reset(r->rest);
    return rc < 0 ? rc : cursor_skip(r, &r->cursors[QUEUES], session);
}

static int read_queue(struct reading *r, uint64_t session)
{
    struct cursor *c = &r->cursors[QUEUES];
    struct queue q = { .count = 0 };
    int rc = cursor_seek(r, c, session);
    while (rc == 0 && cursor_at(c, session)) {
        rc = read_queued(r, session, &q);
        if (rc == 0)
            rc = q.count == LONG ? count_rest(r, session, &q) : cursor_next(r, c);
    }
    if (rc == 0 && q.count > 0)
        rc = r->visitor->rest(r->context, session, q.after, q.last, q.count, q.bytes);
    return rc;
}

/* Gives all rows of a session in a table to `each`. */
static int read_rows(struct reading *r, enum cursor_name name, uint64_t session,
                     int (*each)(struct reading *r, uint64_t session))
{
    struct cursor *c = &r->cursors[name];
    int rc = cursor_seek(r, c, session);
    while (rc == 0 && cursor_at(c, session)) {
        rc = each(r, session);
        if (rc == 0)
            rc = cursor_next(r, c);
    }
    return rc;
}

static int read_sessions(struct reading *r)
{
    struct cursor *c = &r->cursors[SESSIONS];
    int rc = 0;
    while (rc == 0 && c->there) {
        bool readable;
        rc = read_session(r, &readable);
        if (rc == 0 && readable)
            rc = read_rows(r, SUBSCRIPTIONS, c->number, read_subscription);
        if (rc == 0 && readable)
            rc = read_rows(r, RECEIVED, c->number, read_received);
        if (rc == 0 && readable)
            rc = read_rows(r, FLIGHTS, c->number, read_flight);
        if (rc == 0 && readable)
            rc = read_queue(r, c->number);
        if (rc == 0)
            rc = cursor_next(r, c);
    }
    /* Behind the last session: only for the numbers. */
    for (size_t i = 0; i < CURSORS && rc == 0; i++)
        rc = cursor_seek(r, &r->cursors[i], UINT64_MAX);
    return rc;
}

/* ---- All of it ---- */

/* The highest numbers that no row of a queue has. */
static int read_last(struct reading *r)
{
    sqlite3_stmt *row = NULL;
    int rc = prepare(r,
                     "SELECT (SELECT max(number) FROM message WHERE " NUMBER_IS_SANE "), "
                     "(SELECT max(session) FROM ended)",
                     &row);
    if (rc == 0)
        rc = sqlite3_step(row) == SQLITE_ROW ? 0 : -EIO;
    for (int i = 0; i < 2 && rc == 0; i++)
        note_number(r, number_in(row, i));
    sqlite3_finalize(row);
    return rc;
}

/* Messages that are in no queue: there should be none, unless the file was damaged, and they do no harm but take room. So
 * they are looked for only if there are more messages than queues name, and it is no matter if it cannot be done. */
static void delete_orphans(sqlite3 *db)
{
    sqlite3_exec(db,
                 "DELETE FROM message WHERE (SELECT count(*) FROM message) > "
                 "(SELECT count(DISTINCT message) FROM queued) "
                 "AND NOT EXISTS (SELECT 1 FROM queued WHERE queued.message = message.number)",
                 NULL, NULL, NULL);
}

/* Of sessions with one client id the last is the one. Those before it have ended, though the file does not know yet; so that
 * they end as others do. No matter if it cannot be done. */
static void end_doubles(sqlite3 *db)
{
    sqlite3_exec(db,
                 "UPDATE session SET persistent = 0, expiry = 0, will = NULL, will_delay = 0, "
                 "left_ms = max(left_ms, 1) "
                 "WHERE number NOT IN (SELECT max(number) FROM session WHERE " NUMBER_IS_SANE
                 " GROUP BY id) AND " NUMBER_IS_SANE,
                 NULL, NULL, NULL);
}

int durable_read(sqlite3 *db, const struct durable_clock *clock,
                 const struct durable_visitor *visitor, void *context, uint64_t *last,
                 uint64_t *unreadable)
{
    *last = *unreadable = 0;
    struct reading r = {
        .db = db,
        .clock = clock,
        .visitor = visitor,
        .context = context,
        .last = last,
        .unreadable = unreadable,
        .cache = calloc(1, sizeof(*r.cache)),
    };
    int rc = r.cache ? read_last(&r) : -ENOMEM;
    if (rc == 0)
        rc = read_retained(&r);
    end_doubles(db);
    if (rc == 0)
        rc = open_cursors(&r);
    if (rc == 0)
        rc = read_sessions(&r);
    close_cursors(&r);
    row_cache_free(r.cache);
    if (rc == 0)
        delete_orphans(db);
    return rc;
}
