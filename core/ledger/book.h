/* SPDX-License-Identifier: MIT */

/*
 * The ledger read from the file, beside a daemon that may be writing it: messages with what was decided about
 * them, and their deliveries with all that happened to them and where they stand now. One thread.
 */

#ifndef TOCSIN_LEDGER_BOOK_H
#define TOCSIN_LEDGER_BOOK_H

#include "base/buf.h"
#include "base/map.h"
#include "ledger/sheet.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sqlite3;

/* Texts are NUL-terminated here, "" where there is none; one that others wrote may have anything in it. */
struct book_text {
    char *data;
    size_t len;
};

struct book_event {
    enum ledger_event event;
    int64_t at_ms;
    uint64_t attempt;
    struct book_text reason, receipt, moved_to;
};

/* Where a delivery stands now. */
enum book_state {
    BOOK_DONE,      /* as its last event says: sent, dropped, forgotten, suppressed */
    BOOK_WAITING,   /* on disk, to be delivered */
    BOOK_DEAD,      /* a dead letter */
    BOOK_REVIVED,   /* one that a person wants tried again */
    BOOK_GONE,      /* it became a dead letter, which is not there any more */
    BOOK_IN_MEMORY, /* not on disk, and the daemon that made it may still run */
    BOOK_LOST,      /* not on disk, and that daemon does not run any more */
};

struct book_delivery {
    struct book_text id, route, service, target;
    struct book_event *events;
    size_t event_count, event_room;
    enum book_state state;
    uint64_t number;          /* on disk; 0: it is not there, as far as is known */
    uint64_t attempts;        /* BOOK_WAITING, BOOK_DEAD: made so far */
    int64_t due_ms, ended_ms; /* 0: not known */
};

struct book_decision {
    enum sheet_part_kind kind; /* DECISION, NO_TARGET or SUPPRESSED */
    struct book_text route, reason, when, target;
    unsigned verdict;
    uint64_t missing;
};

struct book_entry {
    uint64_t number;
    int64_t at_ms;
    struct book_text topic, link;
    uint64_t size, routes;
    uint8_t qos;
    bool retain, dup;
    struct book_decision *decisions;
    size_t decision_count;
    struct book_delivery *deliveries;
    size_t delivery_count;
};

/* Which messages are wanted: all that fit everything that is set. */
struct book_filter {
    uint64_t number;      /* 0: any */
    const char *delivery; /* id of one of its deliveries */
    const char *topic;    /* filter, as MQTT has them */
    const char *route;    /* one that was looked at, or that a delivery came from */
    const char *target;   /* "service" or "service:target" of a delivery */
    int64_t since_ms;     /* 0: any time */
    size_t last;          /* at most so many, the newest */
};

struct book {
    struct book_entry **entries; /* oldest first */
    size_t count, room;
    struct map ids;  /* of deliveries, to these */
    bool damaged;    /* something could not be read */
    char error[200]; /* of SQLite, for -EIO */

    /* Of the whole ledger. */
    uint64_t kept;      /* messages, about */
    uint64_t dropped;   /* messages and events that were not noted, in the rows that were read */
    int64_t oldest_ms;  /* the oldest row's last time; 0: it is empty */
    uint64_t first_row; /* its number; 0: it is empty */
    uint64_t next_row;  /* number after those that were read, for book_follow() */
    struct book_text last_run; /* of the daemon that wrote last; "" when it is not known */
    bool last_ended;           /* that one has ended in good order */
};

/* Reads what is wanted, as of one moment. `runs`: whether a daemon has the store now. Returns 0, -EIO or -ENOMEM; then it
 * is still to be released. */
int book_read(struct sqlite3 *db, const struct book_filter *filter, bool runs, struct book *book);
void book_release(struct book *book);

/* Finds the id of the delivery that has, or had, this number on disk: by what is there, or else by the ledger, in which it is
 * the last one of that number. Adds it to `id`. Returns 0, -ENOENT, -EIO or -ENOMEM. */
int book_find_queued(struct sqlite3 *db, uint64_t number, struct buf *id);

/* Internal: looks up where the deliveries stand. */
int book_settle(struct sqlite3 *db, struct book *book, bool runs);

/* Whether a message is wanted, by its own content alone. */
bool book_wants(const struct book_filter *filter, const struct book_entry *entry);

/* Whether a route is in the record of a message: it decided something, or made a delivery. */
bool book_entry_has_route(const struct book_entry *entry, const char *route);

/* Whether it was not routed at all. */
bool book_entry_was_suppressed(const struct book_entry *entry);

/*
 * Goes on from `*next_row`: calls `message` for each message that was noted since, without what happened to its deliveries, and
 * `event` for each event. Returns as above.
 */
struct book_listener {
    void (*message)(void *context, const struct book_entry *entry);
    void (*event)(void *context, const struct sheet_item *item, const char *id);
    void *context;
};
int book_follow(struct sqlite3 *db, uint64_t *next_row, const struct book_listener *listener);

/* "RUN-NUMBER" of an id. */
void book_add_id(struct buf *out, const struct sheet_id *id);

#endif
