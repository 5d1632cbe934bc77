/* SPDX-License-Identifier: MIT */

/*
 * Carries out what workers have noted. The writer's thread.
 *
 * A group of ops may be rolled back and come again from its beginning, so each statement here can be repeated.
 */

#include "broker/durable_op.h"

#include "base/clock.h"
#include "broker/durable_row.h"
#include "broker/spill.h"
#include "broker/worker.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define END_ROWS \
    100 /* that the end of a session takes away at once; the others are left to later sweeps */
#define SWEEP_ROWS  1000 /* that a sweep takes away: some 10 ms */
#define EXPIRE_ROWS 100  /* and of one queue: those of some sessions come together */

static const char session_put[] =
    "INSERT OR REPLACE INTO session "
    "(number, id, persistent, expiry, left_ms, will, will_delay, will_expiry, sent) "
    "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
static const char session_delete[] = "DELETE FROM session WHERE number = ?1";
static const char subscription_put[] =
    "INSERT OR REPLACE INTO subscription (session, share, filter, identifier, options) "
    "VALUES (?1, ?2, ?3, ?4, ?5)";
static const char subscription_delete[] =
    "DELETE FROM subscription WHERE session = ?1 AND share = ?2 AND filter = ?3";
static const char message_have[] = "SELECT 1 FROM message WHERE number = ?1";
static const char message_put[] = "INSERT OR IGNORE INTO message (number, record) VALUES (?1, ?2)";
static const char message_delete[] = "DELETE FROM message WHERE number = ?1 "
                                     "AND NOT EXISTS (SELECT 1 FROM queued WHERE message = ?1)";
static const char queued_put[] = "INSERT OR REPLACE INTO queued (" QUEUED_COLUMNS ", expires_ms) "
                                 "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10)";
static const char queued_launch[] =
    "UPDATE queued SET packet_id = ?3 WHERE session = ?1 AND number = ?2";
static const char queued_release[] =
    "UPDATE queued SET packet_id = ?3, released = 1, message = NULL, size = 0, share = NULL, "
    "identifiers = NULL WHERE session = ?1 AND number = ?2";
static const char queued_delete[] = "DELETE FROM queued WHERE session = ?1 AND number = ?2";
static const char queued_load[] = "SELECT " QUEUED_COLUMNS " FROM queued "
                                  "WHERE session = ?1 AND number > ?2 AND packet_id = 0 AND share "
                                  "IS NULL AND " NUMBER_IS_SANE " ORDER BY number LIMIT ?3";
/* By the index queued_expiring. With + so that the order of numbers, by which most of a long queue would have to be gone
 * through, is no choice. */
#define EXPIRING                                                              \
    "FROM queued WHERE session = ?1 AND +number > ?2 AND expires_ms > 0 AND " \
    "packet_id = 0 AND share IS NULL AND +" NUMBER_IS_SANE
static const char queued_expired[] =
    "SELECT number, message, size " EXPIRING " AND expires_ms <= ?3 LIMIT ?4";
static const char queued_expires[] = "SELECT min(expires_ms) " EXPIRING;
static const char message_record[] = MESSAGE_RECORD;
static const char received_put[] =
    "INSERT OR IGNORE INTO received (session, packet_id) VALUES (?1, ?2)";
static const char received_delete[] = "DELETE FROM received WHERE session = ?1 AND packet_id = ?2";
static const char retained_put[] =
    "INSERT INTO retained (topic, expires_ms, record) VALUES (?1, ?2, ?3) "
    "ON CONFLICT (topic) DO UPDATE SET expires_ms = excluded.expires_ms, record = excluded.record";
static const char retained_delete[] = "DELETE FROM retained WHERE topic = ?1";
static const char retained_expired[] =
    "SELECT topic FROM retained WHERE expires_ms > 0 AND expires_ms <= ?1 LIMIT 1";
static const char ended_received[] = "DELETE FROM received WHERE session = ?1";
static const char ended_queued[] =
    "SELECT number, message FROM queued WHERE session = ?1 ORDER BY number LIMIT ?2";
static const char ended_queued_delete[] = "DELETE FROM queued WHERE session = ?1 AND number <= ?2";
static const char ended_subscriptions[] =
    "DELETE FROM subscription WHERE session = ?1 AND (share, filter) IN "
    "(SELECT share, filter FROM subscription WHERE session = ?1 LIMIT ?2)";
static const char ended_put[] = "INSERT OR IGNORE INTO ended (session) VALUES (?1)";
static const char ended_delete[] = "DELETE FROM ended WHERE session = ?1";
static const char ended_first[] = "SELECT session FROM ended LIMIT 1";

/* ---- Statements ---- */

/* The statement with numbers in its first places. NULL if it could not be prepared. */
static sqlite3_stmt *bound(struct store *store, const char *sql, size_t count,
                           const uint64_t *numbers)
{
    sqlite3_stmt *s = store_statement(store, sql);
    for (size_t i = 0; s && i < count; i++)
        sqlite3_bind_int64(s, (int)i + 1, (sqlite3_int64)numbers[i]);
    return s;
}

static int run(struct store *store, const char *sql, size_t count, const uint64_t *numbers)
{
    return store_step(bound(store, sql, count, numbers));
}

/* Runs one that begins with a session and one other number. */
static int run_pair(struct store *store, const char *sql, uint64_t session, uint64_t number)
{
    return run(store, sql, 2, (const uint64_t[]){ session, number });
}

static int run_one(struct store *store, const char *sql, uint64_t number)
{
    return run(store, sql, 1, &number);
}

/* The first column of the only row of a statement. Returns SQLITE_ROW, SQLITE_DONE for none, or an error. */
static int look_up(sqlite3_stmt *s, uint64_t *value)
{
    if (!s)
        return SQLITE_ERROR;
    const int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        *value = (uint64_t)sqlite3_column_int64(s, 0);
    const int end = sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? rc : end;
}

/* ---- Sessions and subscriptions ---- */

static int apply_session(const struct durable_op *op, struct store *store)
{
    sqlite3_stmt *s = store_statement(store, session_put);
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)op->session);
    sqlite3_bind_blob64(s, 2, op->text ? op->text : "", op->text_len, SQLITE_STATIC);
    sqlite3_bind_int(s, 3, op->persistent);
    sqlite3_bind_int64(s, 4, op->expiry);
    sqlite3_bind_int64(s, 5, op->left_ms);
    if (op->publication) {
        struct buf *record = store_scratch(store);
        /* It gets a time at which it expires when it is published: by its worker, perhaps now. */
        if (durable_write_publication(op->publication, 0, record) < 0)
            return SQLITE_NOMEM;
        sqlite3_bind_blob64(s, 6, record->data, record->len, SQLITE_STATIC);
    }
    sqlite3_bind_int64(s, 7, op->will_delay);
    sqlite3_bind_int64(s, 8, op->will_expiry);
    sqlite3_bind_int64(s, 9, op->sent);
    return store_step(s);
}

static int apply_subscription(const struct durable_op *op, struct store *store, const char *sql)
{
    sqlite3_stmt *s = store_statement(store, sql);
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)op->session);
    sqlite3_bind_text64(s, 2, op->text, op->share_len, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_text64(s, 3, op->text + op->share_len, op->text_len - op->share_len, SQLITE_STATIC,
                        SQLITE_UTF8);
    if (op->kind == DURABLE_SUBSCRIBE) {
        sqlite3_bind_int64(s, 4, op->expiry);
        sqlite3_bind_int(s, 5, op->options);
    }
    return store_step(s);
}

/* ---- Messages ---- */

#define LONG 4096 /* bytes of a message that is not put together to no purpose */

static int put_message(const struct durable_op *op, const struct durable_clock *clock,
                       struct store *store)
{
    uint64_t one;
    if (publication_size(op->publication) > LONG) {
        const int rc = look_up(bound(store, message_have, 1, &op->kept->message), &one);
        if (rc != SQLITE_DONE)
            return rc == SQLITE_ROW ? SQLITE_OK : rc;
    }
    struct buf *record = store_scratch(store);
    if (durable_write_publication(op->publication, expires_to_wall(clock, op->publication->expires),
                                  record) < 0)
        return SQLITE_NOMEM;
    sqlite3_stmt *s = bound(store, message_put, 1, &op->kept->message);
    if (s)
        sqlite3_bind_blob64(s, 2, record->data, record->len, SQLITE_STATIC);
    return store_step(s);
}

static int put_queued(const struct durable_op *op, const struct durable_clock *clock,
                      struct store *store)
{
    const uint64_t numbers[] = {
        op->session,       op->kept->number, op->packet_id, publication_size(op->publication),
        op->kept->message, op->qos,          op->retain,
    };
    sqlite3_stmt *s = bound(store, queued_put, sizeof(numbers) / sizeof(numbers[0]), numbers);
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 10, expires_to_wall(clock, op->publication->expires));
    if (op->text)
        sqlite3_bind_text64(s, 8, op->text, op->text_len, SQLITE_STATIC, SQLITE_UTF8);
    if (op->ids && op->ids->count > 0) {
        struct buf *ids = store_scratch(store);
        for (uint32_t i = 0; i < op->ids->count; i++)
            for (unsigned shift = 0; shift < 32; shift += 8)
                buf_add_byte(ids, (char)(op->ids->values[i] >> shift));
        if (ids->error)
            return SQLITE_NOMEM;
        sqlite3_bind_blob64(s, 9, ids->data, ids->len, SQLITE_STATIC);
    }
    return store_step(s);
}

static int apply_message(const struct durable_op *op, const struct durable_clock *clock,
                         struct store *store)
{
    unsigned state = KEPT_NEW;
    if (!atomic_compare_exchange_strong(&op->kept->state, &state, KEPT_WRITTEN) &&
        state == KEPT_GONE)
        return SQLITE_OK;
    const int rc = put_message(op, clock, store);
    return rc == SQLITE_OK ? put_queued(op, clock, store) : rc;
}

static bool is_gone(const struct durable_op *op)
{
    return atomic_load(&op->kept->state) == KEPT_GONE;
}

static int apply_launch(const struct durable_op *op, struct store *store)
{
    const uint64_t numbers[] = { op->session, op->kept->number, op->packet_id };
    return is_gone(op) ? SQLITE_OK : run(store, queued_launch, 3, numbers);
}

/* The row of a session is not needed as it was: `sql` is what becomes of it. */
static int apply_end_of_message(const struct durable_op *op, struct store *store, const char *sql)
{
    unsigned fresh = KEPT_NEW; /* it was moved, and the op that makes it comes later */
    if (atomic_compare_exchange_strong(&op->kept->state, &fresh, KEPT_GONE) || fresh == KEPT_GONE)
        return SQLITE_OK;
    const uint64_t numbers[] = { op->session, op->kept->number, op->packet_id };
    const int rc = run(store, sql, sql == queued_release ? 3 : 2, numbers);
    return rc == SQLITE_OK ? run_one(store, message_delete, op->kept->message) : rc;
}

/* ---- Loading ---- */

static void forget_loaded(struct durable_op *op)
{
    for (size_t i = 0; i < op->loaded_count; i++)
        stored_message_release(&op->loaded[i]);
    free(op->loaded);
    op->loaded = NULL;
    op->loaded_count = op->loaded_rows = 0;
    op->loaded_bytes = 0;
    op->loaded_last = op->after_number;
}

/* Takes over what is in a row. Returns an SQLite result code. */
static int load_row(struct durable_op *op, size_t *places, sqlite3_stmt *row, sqlite3_stmt *record,
                    const struct durable_clock *clock)
{
    if (op->loaded_count == *places) {
        const size_t more = *places ? *places * 2 : 16;
        struct stored_message *grown = realloc(op->loaded, more * sizeof(*grown));
        if (!grown)
            return SQLITE_NOMEM;
        op->loaded = grown;
        *places = more;
    }
    switch (row_message(row, record, clock, NULL, &op->loaded[op->loaded_count])) {
    case 0:
        op->loaded_count++;
        return SQLITE_OK;
    case -EBADMSG:
        return SQLITE_OK;
    case -ENOMEM:
        return SQLITE_NOMEM;
    default:
        return sqlite3_errcode(sqlite3_db_handle(record));
    }
}

static int apply_load(struct durable_op *op, const struct durable_clock *clock, struct store *store)
{
    forget_loaded(op);
    sqlite3_stmt *record = store_statement(store, message_record);
    sqlite3_stmt *row = bound(store, queued_load, 3,
                              (const uint64_t[]){ op->session, op->after_number, op->expiry });
    if (!row || !record)
        return SQLITE_ERROR;
    size_t places = 0;
    int rc = SQLITE_OK, step = SQLITE_DONE;
    while (rc == SQLITE_OK && (step = sqlite3_step(row)) == SQLITE_ROW) {
        const sqlite3_int64 size = sqlite3_column_int64(row, QUEUED_SIZE);
        const uint64_t bytes = op->loaded_bytes + (size > 0 ? (uint64_t)size : 0);
        if (op->loaded_rows > 0 && bytes > SPILL_BYTES)
            break;
        rc = load_row(op, &places, row, record, clock);
        op->loaded_rows++;
        op->loaded_bytes = bytes;
        op->loaded_last = (uint64_t)sqlite3_column_int64(row, QUEUED_NUMBER);
    }
    const int end = sqlite3_reset(row);
    if (rc != SQLITE_OK)
        return rc;
    return step == SQLITE_ROW || step == SQLITE_DONE ? SQLITE_OK : end;
}

/* ---- Expiry ---- */

struct expired {
    uint64_t number, message;
};

/* Notes up to `most` rows that have expired. */
static int find_expired(struct durable_op *op, int64_t now_ms, size_t most, struct store *store,
                        struct buf *found)
{
    sqlite3_stmt *row =
        bound(store, queued_expired, 4,
              (const uint64_t[]){ op->session, op->after_number, (uint64_t)now_ms, most });
    if (!row)
        return SQLITE_ERROR;
    while (sqlite3_step(row) == SQLITE_ROW) {
        const struct expired one = { (uint64_t)sqlite3_column_int64(row, 0),
                                     (uint64_t)sqlite3_column_int64(row, 1) };
        const sqlite3_int64 size = sqlite3_column_int64(row, 2);
        buf_add(found, &one, sizeof(one));
        op->loaded_rows++;
        op->loaded_bytes += size > 0 ? (uint64_t)size : 0;
    }
    const int rc = sqlite3_reset(row);
    return rc == SQLITE_OK && found->error ? SQLITE_NOMEM : rc;
}

static int apply_expire(struct durable_op *op, const struct durable_clock *clock,
                        struct store *store)
{
    op->loaded_rows = 0;
    op->loaded_bytes = 0;
    struct buf *found = store_scratch(store);
    int rc = find_expired(op, clock_wall_ms(), EXPIRE_ROWS, store, found);
    for (size_t i = 0; i < op->loaded_rows && rc == SQLITE_OK; i++) {
        struct expired one;
        memcpy(&one, found->data + i * sizeof(one), sizeof(one));
        rc = run_pair(store, queued_delete, op->session, one.number);
        if (rc == SQLITE_OK)
            rc = run_one(store, message_delete, one.message);
    }
    uint64_t next = 0;
    if (rc == SQLITE_OK)
        rc = look_up(
            bound(store, queued_expires, 2, (const uint64_t[]){ op->session, op->after_number }),
            &next);
    op->next = expires_from_wall(clock, (int64_t)next);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* ---- Retained messages ---- */

/* What memory has for the topic now is also on disk. */
static int keep_retained(const char *topic, size_t len, const struct durable_clock *clock,
                         struct store *store)
{
    struct publication *publication = retained_find(clock->retained, topic, len);
    const bool alive =
        publication && (publication->expires == 0 ||
                        publication->expires > broker_second(clock->broker, clock_mono_ms()));
    struct buf *record = store_scratch(store);
    const int64_t expires_ms = alive ? expires_to_wall(clock, publication->expires) : 0;
    int rc = alive ? durable_write_publication(publication, expires_ms, record) : 0;
    publication_unref(publication);
    if (rc < 0)
        return SQLITE_NOMEM;

    sqlite3_stmt *s = store_statement(store, alive ? retained_put : retained_delete);
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_blob64(s, 1, topic, len, SQLITE_STATIC);
    if (alive) {
        sqlite3_bind_int64(s, 2, expires_ms);
        sqlite3_bind_blob64(s, 3, record->data, record->len, SQLITE_STATIC);
    }
    return store_step(s);
}

/* Looks at one that has expired by the wall clock, which may have jumped: memory knows better. */
static int sweep_one(int64_t now_ms, struct buf *topic, const struct durable_clock *clock,
                     struct store *store)
{
    sqlite3_stmt *s = store_statement(store, retained_expired);
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, now_ms);
    const int rc = sqlite3_step(s);
    buf_clear(topic);
    if (rc == SQLITE_ROW)
        buf_add(topic, sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0));
    const int end = sqlite3_reset(s);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? SQLITE_DONE : end;
    return topic->error ? SQLITE_NOMEM : keep_retained(buf_str(topic), topic->len, clock, store);
}

/* ---- What an ended session leaves ---- */

/* Takes away up to `most` rows of its queue, and the messages that only it had. Sets `*count` to their number. */
static int take_queued(uint64_t session, size_t most, struct store *store, size_t *count)
{
    *count = 0;
    uint64_t last = 0;
    struct buf *messages = store_scratch(store);
    sqlite3_stmt *s = bound(store, ended_queued, 2, (const uint64_t[]){ session, most });
    if (!s)
        return SQLITE_ERROR;
    while (sqlite3_step(s) == SQLITE_ROW) {
        last = (uint64_t)sqlite3_column_int64(s, 0);
        const uint64_t message = (uint64_t)sqlite3_column_int64(s, 1);
        buf_add(messages, &message, sizeof(message));
        ++*count;
    }
    int rc = sqlite3_reset(s);
    if (rc == SQLITE_OK && messages->error)
        rc = SQLITE_NOMEM;
    if (rc == SQLITE_OK && *count > 0)
        rc = run_pair(store, ended_queued_delete, session, last);
    for (size_t i = 0; i < *count && rc == SQLITE_OK; i++) {
        uint64_t message;
        memcpy(&message, messages->data + i * sizeof(message), sizeof(message));
        rc = run_one(store, message_delete, message);
    }
    return rc;
}

/* Takes away up to `most` rows. Sets `*more` to whether there are others. */
static int take_rows(uint64_t session, size_t most, struct store *store, bool *more)
{
    size_t count;
    *more = true;
    int rc = take_queued(session, most, store, &count);
    if (rc != SQLITE_OK || count == most)
        return rc;
    rc = run_pair(store, ended_subscriptions, session, most - count);
    *more = (size_t)sqlite3_changes(store_connection(store)) == most - count;
    return rc;
}

static int apply_end(struct durable_op *op, struct store *store)
{
    int rc = run_one(store, session_delete, op->session);
    if (rc == SQLITE_OK)
        rc = run_one(store, ended_received, op->session);
    if (rc == SQLITE_OK)
        rc = take_rows(op->session, END_ROWS, store, &op->more);
    if (rc == SQLITE_OK && op->more)
        rc = run_one(store, ended_put, op->session);
    return rc;
}

static int sweep_ended(struct store *store, bool *more)
{
    uint64_t session = 0;
    int rc = look_up(store_statement(store, ended_first), &session);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? SQLITE_OK : rc;
    bool left;
    rc = take_rows(session, SWEEP_ROWS, store, &left);
    if (rc == SQLITE_OK && !left)
        rc = run_one(store, ended_delete, session);
    *more = true; /* this one, or perhaps another */
    return rc;
}

static int apply_sweep(struct durable_op *op, const struct durable_clock *clock,
                       struct store *store)
{
    op->more = false;
    const int64_t now_ms = clock_wall_ms();
    struct buf topic = BUF_INIT(65536);
    int rc = SQLITE_OK;
    size_t count = 0;
    while (count < SWEEP_ROWS && rc == SQLITE_OK) {
        rc = sweep_one(now_ms, &topic, clock, store);
        count++;
    }
    buf_release(&topic);
    if (rc == SQLITE_OK)
        op->more = true;
    return rc == SQLITE_OK || rc == SQLITE_DONE ? sweep_ended(store, &op->more) : rc;
}

/* ---- All of it ---- */

static int apply(struct durable_op *op, const struct durable_clock *clock, struct store *store)
{
    switch ((enum durable_kind)op->kind) {
    case DURABLE_SESSION:
        return apply_session(op, store);
    case DURABLE_END:
        return apply_end(op, store);
    case DURABLE_SUBSCRIBE:
        return apply_subscription(op, store, subscription_put);
    case DURABLE_UNSUBSCRIBE:
        return apply_subscription(op, store, subscription_delete);
    case DURABLE_MESSAGE:
        return apply_message(op, clock, store);
    case DURABLE_LAUNCH:
        return apply_launch(op, store);
    case DURABLE_RELEASE:
        return apply_end_of_message(op, store, queued_release);
    case DURABLE_LAND:
        return apply_end_of_message(op, store, queued_delete);
    case DURABLE_ID_ADD:
        return run_pair(store, received_put, op->session, op->packet_id);
    case DURABLE_ID_REMOVE:
        return run_pair(store, received_delete, op->session, op->packet_id);
    case DURABLE_RETAIN:
        return keep_retained(publication_topic(op->publication), op->publication->topic_len, clock,
                             store);
    case DURABLE_LOAD:
        return apply_load(op, clock, store);
    case DURABLE_EXPIRE:
        return apply_expire(op, clock, store);
    case DURABLE_SWEEP:
        return apply_sweep(op, clock, store);
    case DURABLE_NOTHING:
        return SQLITE_OK;
    }
    return SQLITE_MISUSE;
}

/* Whether it is the op itself that cannot be carried out, and not the file or the machine. */
static bool is_ops_own(int rc, struct sqlite3 *db)
{
    if ((rc & 0xff) == SQLITE_ERROR && sqlite3_errcode(db) != SQLITE_OK &&
        sqlite3_errcode(db) != SQLITE_DONE)
        rc = sqlite3_errcode(db); /* who prepares a statement is told no more */
    switch (rc & 0xff) {
    case SQLITE_ERROR:
    case SQLITE_TOOBIG:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
        return !sqlite3_get_autocommit(db);
    default:
        return false;
    }
}

int durable_apply(struct durable_op *op, const struct durable_clock *clock, struct store *store)
{
    const int rc = apply(op, clock, store);
    op->failed = rc != SQLITE_OK && rc != SQLITE_DONE && is_ops_own(rc, store_connection(store));
    return op->failed ? SQLITE_OK : rc;
}
