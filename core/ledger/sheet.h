/* SPDX-License-Identifier: MIT */

/*
 * Sheets: what the ledger is written on. A sheet is some bytes that one thread has filled and that can be read by
 * themselves; a row of the table `ledger` is one sheet after the other.
 *
 * A sheet begins with its version (1 byte), the length of what follows (4 bytes, little endian) and a time (ms since
 * 1970). Then come items: a tag of one byte, a length, and so many bytes. Lengths, numbers and the time are LEB128.
 * Names (of routes, targets, reasons) are items of their own, once in a sheet, and are referred to by their place. A reader passes
 * over tags that it does not know, and over what follows in an item what it knows of it.
 *
 * A writer or reader belongs to one thread.
 */

#ifndef TOCSIN_LEDGER_SHEET_H
#define TOCSIN_LEDGER_SHEET_H

#include "base/buf.h"
#include "ledger/ledger.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHEET_MOST  ((size_t)1024 * 1024) /* bytes of one */
#define SHEET_LARGE ((size_t)64 * 1024)   /* time to begin another */
#define SHEET_NAMES 512                   /* that are remembered, a power of two */

/* ---- Writing ---- */

struct sheet {
    struct buf out;
    struct buf parts; /* of the message at hand */
    int64_t base_ms;
    uint32_t name_count;
    struct {
        uint32_t offset, len, place;
    } names[SHEET_NAMES]; /* len 0: free */
    size_t names_known;
};

void sheet_init(struct sheet *sheet);
void sheet_release(struct sheet *sheet);

/* Begins an empty one. */
void sheet_begin(struct sheet *sheet, int64_t now_ms);

/* Sets the length. Returns whether all of it had room. */
bool sheet_finish(struct sheet *sheet);

/* What was decided about a message: parts, in any order, then the message itself, which takes them along. */
struct sheet_decision {
    const char *route, *reason, *when; /* reason, when: NULL or "" for none */
    unsigned verdict;                  /* enum verdict of the router */
    size_t missing;
};
void sheet_add_decision(struct sheet *sheet, const struct sheet_decision *decision);
void sheet_add_delivery(struct sheet *sheet, const struct delivery *delivery);
void sheet_add_no_target(struct sheet *sheet, const char *route, const char *name);
void sheet_add_suppressed(struct sheet *sheet, const char *reason);
void sheet_drop_parts(struct sheet *sheet);
void sheet_add_message(struct sheet *sheet, const struct message *message, size_t routes);

void sheet_add_event(struct sheet *sheet, const struct ledger_note *note, int64_t now_ms);

/* The daemon begins, or has ended in good order: `run` is the first part of its deliveries' ids. */
void sheet_add_run(struct sheet *sheet, bool ends, const char *run, int64_t now_ms);

/* ---- Reading ---- */

struct sheet_text {
    const char *data; /* not NUL-terminated; NULL: there is none */
    size_t len;
};

/* The id of a delivery: "RUN-NUMBER", the number in hexadecimal digits; or RUN alone, whatever it is. */
struct sheet_id {
    struct sheet_text run;
    uint64_t number; /* 0: there is none */
};

enum sheet_kind {
    SHEET_MESSAGE,
    SHEET_EVENT,
    SHEET_BEGIN,
    SHEET_END,
};

struct sheet_item {
    enum sheet_kind kind;
    int64_t at_ms;

    /* A message. */
    struct sheet_text topic, link;
    uint64_t size, routes;
    uint8_t qos;
    bool retain, dup;
    const uint8_t *parts, *parts_end; /* for sheet_next_part() */

    /* An event; `id.run` also of BEGIN and END. */
    enum ledger_event event;
    struct sheet_id id;
    uint64_t number; /* of the delivery on disk; 0: none */
    uint64_t attempt;
    struct sheet_text service, target, reason, receipt, moved_to;
};

enum sheet_part_kind {
    SHEET_DECISION = 1,
    SHEET_DELIVERY = 2,
    SHEET_NO_TARGET = 3,
    SHEET_SUPPRESSED = 4,
};

struct sheet_part {
    enum sheet_part_kind kind;
    struct sheet_text route, reason, when, service, target; /* NO_TARGET: its name is `target` */
    unsigned verdict;
    uint64_t missing;
    struct sheet_id id;
};

struct sheet_reader {
    const uint8_t *at, *end, *sheet_end;
    int64_t base_ms;
    struct sheet_text *names;
    size_t name_count, name_room;
    bool damaged; /* something could not be read, and was passed over */
};

/* Reads a row's bytes, which must live as long as what is read. */
void sheet_reader_init(struct sheet_reader *reader, const void *data, size_t len);
void sheet_reader_release(struct sheet_reader *reader);

/* The next item. Returns false at the end, and when there is no memory. */
bool sheet_next(struct sheet_reader *reader, struct sheet_item *item);

/* The next part of the message that sheet_next() gave last. */
bool sheet_next_part(struct sheet_reader *reader, struct sheet_item *item, struct sheet_part *part);

#endif
