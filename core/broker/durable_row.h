/* SPDX-License-Identifier: MIT */

/* Rows and times, for durable_sql.c and durable_read.c alone: the writer's thread, or the main thread at the start. */

#ifndef TOCSIN_BROKER_DURABLE_ROW_H
#define TOCSIN_BROKER_DURABLE_ROW_H

#include "broker/durable_op.h"

struct sqlite3_stmt;

/* The wall clock's time at which a second of the broker's clock begins (at least 1), and back: the first second that begins
 * at that time or later, 1 (which is over) for a time that is over. 0 is never, both ways. */
int64_t expires_to_wall(const struct durable_clock *clock, uint32_t expires);
uint32_t expires_from_wall(const struct durable_clock *clock, int64_t expires_ms);

/* A publication of a record, `expires` set. Returns what durable_read_publication() does. */
int row_publication(const struct durable_clock *clock, const void *record, size_t len,
                    struct publication **out);

/* The columns of a row of `queued` that row_message() wants, and their places. */
#define QUEUED_COLUMNS \
    "session, number, packet_id, size, message, qos, retain, released, share, identifiers"
enum queued_column {
    QUEUED_SESSION,
    QUEUED_NUMBER,
    QUEUED_PACKET_ID,
    QUEUED_SIZE,
    QUEUED_MESSAGE,
    QUEUED_QOS,
    QUEUED_RETAIN,
    QUEUED_RELEASED,
    QUEUED_SHARE,
    QUEUED_IDENTIFIERS,
};

/* Numbers are given one after the other, so there are none above. A row that has one is damaged: it is not looked at, nor does it say
 * where to go on, as those behind it would not fit into the file. */
#define NUMBER_MAX     4611686018427387903
#define NUMBER_IS_SANE "number <= 4611686018427387903"

/* The record of a message by its number. */
#define MESSAGE_RECORD "SELECT record FROM message WHERE number = ?1"

/* What has been read lately: one message may be in the queues of all sessions, and is not to be in memory once for each. */
#define ROW_CACHE 4096
struct row_cache {
    int64_t messages[ROW_CACHE];
    struct publication *publications[ROW_CACHE];
};
void row_cache_free(struct row_cache *cache); /* NULL is allowed */

/* Makes a message of such a row; `record` is the statement MESSAGE_RECORD, `cache` may be NULL. Returns 0, -EBADMSG for what cannot be read,
 * -ENOMEM, or -EIO, for which SQLite's error tells more. */
int row_message(struct sqlite3_stmt *row, struct sqlite3_stmt *record,
                const struct durable_clock *clock, struct row_cache *cache,
                struct stored_message *out);

#endif
