/* SPDX-License-Identifier: MIT */

#include "store/schema.h"

#include "base/buf.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define APPLICATION_ID 0x746f6373 /* "tocs" */

/*
 * Each step leads from one version to the next, and is never changed again once it has been released: add
 * another. PRAGMA user_version says how many have been taken.
 *
 * delivery: in order of `number`; times are in ms since 1970. `record` is all that is needed to make it again
 * (delivery/record.h). States: 0 waits to be delivered; 1 is a dead letter, with the time and the reason; 2 is one
 * that a person wants tried again, and becomes 0 when the daemon notices. `urgent` is 1 for one that goes before others,
 * `untold` for a dead letter that nobody has been told of.
 *
 * attempt: why a delivery was not sent, each time.
 *
 * ledger: what became of messages, in order of `number`, which is that of its first message; `entries` says how many
 * there are. `position` is how many bytes of sheets were written before it, ever. `dropped` is how many messages and events were
 * not noted before it. `sheets` is what was noted (ledger/sheet.h).
 *
 * The broker's (broker/durable_op.h), whose numbers are of one sequence and never used again:
 * session: what is known of a client id; `left_ms` is when its connection ended, 0 while it has one.
 * subscription: of a session; `share` is empty for one that is not shared.
 * message: a message as bytes, which all queues share that it is in; goes with the last of them.
 * queued: what waits for a session or is on its way to it, in order of `number`; with a `packet_id` it was sent with
 * QoS 2; `released`: the client has it, and only the identifier is left. `size` is what it counts against limits.
 * `expires_ms` 0 is never, or not known before the record is read.
 * received: identifiers of QoS 2 that a client has sent a message with and not released.
 * retained: the last message of each topic; `expires_ms` 0 is never.
 * ended: sessions that are no more and have left rows in `queued` or `subscription`, which are taken away bit by bit.
 *
 * seen: the identity of a delivery (delivery/seen.h) with its number, for as long as its message may be sent again. Number 0
 * is the secret that identities are made with, as its sender.
 */
static const char *const steps[] = {
    "CREATE TABLE delivery ("
    "  number INTEGER PRIMARY KEY,"
    "  service TEXT NOT NULL,"
    "  target TEXT NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  attempts INTEGER NOT NULL,"
    "  due_ms INTEGER NOT NULL,"
    "  record BLOB NOT NULL"
    ");"
    "CREATE INDEX delivery_of_target ON delivery (service, target, state, number);",

    "ALTER TABLE delivery ADD COLUMN ended_ms INTEGER;"
    "ALTER TABLE delivery ADD COLUMN reason TEXT;"
    "CREATE TABLE attempt ("
    "  delivery INTEGER NOT NULL,"
    "  number INTEGER NOT NULL,"
    "  at_ms INTEGER NOT NULL,"
    "  reason TEXT NOT NULL,"
    "  PRIMARY KEY (delivery, number)"
    ") WITHOUT ROWID;",

    "CREATE TABLE ledger ("
    "  number INTEGER PRIMARY KEY,"
    "  entries INTEGER NOT NULL,"
    "  until_ms INTEGER NOT NULL,"
    "  position INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL,"
    "  dropped INTEGER NOT NULL,"
    "  sheets BLOB NOT NULL"
    ");",

    "CREATE TABLE session ("
    "  number INTEGER PRIMARY KEY,"
    "  id BLOB NOT NULL,"
    "  persistent INTEGER NOT NULL,"
    "  expiry INTEGER NOT NULL,"
    "  left_ms INTEGER NOT NULL,"
    "  will BLOB,"
    "  will_delay INTEGER NOT NULL,"
    "  will_expiry INTEGER NOT NULL"
    ");"
    "CREATE TABLE subscription ("
    "  session INTEGER NOT NULL,"
    "  share TEXT NOT NULL,"
    "  filter TEXT NOT NULL,"
    "  identifier INTEGER NOT NULL,"
    "  options INTEGER NOT NULL,"
    "  PRIMARY KEY (session, share, filter)"
    ") WITHOUT ROWID;"
    "CREATE TABLE message ("
    "  number INTEGER PRIMARY KEY,"
    "  record BLOB NOT NULL"
    ");"
    "CREATE TABLE queued ("
    "  session INTEGER NOT NULL,"
    "  number INTEGER NOT NULL,"
    "  packet_id INTEGER NOT NULL,"
    "  size INTEGER NOT NULL,"
    "  message INTEGER,"
    "  qos INTEGER NOT NULL,"
    "  retain INTEGER NOT NULL,"
    "  released INTEGER NOT NULL,"
    "  share TEXT,"
    "  identifiers BLOB,"
    "  PRIMARY KEY (session, number)"
    ") WITHOUT ROWID;"
    "CREATE INDEX queued_of_message ON queued (message);"
    "CREATE INDEX queued_in_flight ON queued (session, number) WHERE packet_id <> 0;"
    "CREATE TABLE received ("
    "  session INTEGER NOT NULL,"
    "  packet_id INTEGER NOT NULL,"
    "  PRIMARY KEY (session, packet_id)"
    ") WITHOUT ROWID;"
    "CREATE TABLE retained ("
    "  topic BLOB PRIMARY KEY,"
    "  expires_ms INTEGER NOT NULL,"
    "  record BLOB NOT NULL"
    ");"
    "CREATE INDEX retained_expiring ON retained (expires_ms) WHERE expires_ms > 0;"
    "CREATE TABLE ended (session INTEGER PRIMARY KEY);",

    "CREATE TABLE seen ("
    "  number INTEGER PRIMARY KEY,"
    "  sender INTEGER NOT NULL,"
    "  identity BLOB NOT NULL,"
    "  at_ms INTEGER NOT NULL"
    ");",

    "CREATE INDEX delivery_dead ON delivery (ended_ms) WHERE state = 1;",

    "ALTER TABLE session ADD COLUMN sent INTEGER NOT NULL DEFAULT 0;",

    "ALTER TABLE delivery ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX delivery_urgent ON delivery (service, target, state, number) WHERE urgent = 1;",

    "ALTER TABLE queued ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX queued_expiring ON queued (session, expires_ms) WHERE expires_ms > 0;",

    "ALTER TABLE delivery ADD COLUMN untold INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX delivery_untold ON delivery (number) WHERE untold = 1;",
};

#define VERSION ((int)(sizeof(steps) / sizeof(steps[0])))

static int number_of(sqlite3 *db, const char *pragma, int *out)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db, pragma, -1, &statement, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
        *out = sqlite3_column_int(statement, 0);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    return rc == SQLITE_OK ? 0 : -EIO;
}

static int take_step(sqlite3 *db, int from)
{
    char mark[96];
    snprintf(mark, sizeof(mark), "PRAGMA application_id = %d; PRAGMA user_version = %d;",
             APPLICATION_ID, from + 1);
    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return -EIO;
    if (sqlite3_exec(db, steps[from], NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_exec(db, mark, NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return -EIO; /* closing the connection rolls it back */
}

int schema_prepare(sqlite3 *db, const char *path, struct buf *why)
{
    int application = 0, version = 0, tables = 0;
    if (number_of(db, "PRAGMA application_id", &application) < 0 ||
        number_of(db, "PRAGMA user_version", &version) < 0 ||
        number_of(db, "SELECT count(*) FROM sqlite_master", &tables) < 0)
        return -EIO;
    bool empty = application == 0 && version == 0 && tables == 0;
    if ((application != APPLICATION_ID && !empty) || version < 0) {
        buf_addf(why,
                 "%s is a database of another program: name another file in store.path, or move "
                 "this one away",
                 path);
        return -EPROTO;
    }
    if (version > VERSION) {
        buf_addf(why,
                 "%s was written by a newer version of tocsin (schema %d, this one knows %d): "
                 "install that version again, or name another file in store.path",
                 path, version, VERSION);
        return -EPROTO;
    }
    for (int at = version; at < VERSION; at++)
        if (take_step(db, at) < 0)
            return -EIO;
    return 0;
}
