/* SPDX-License-Identifier: MIT */

/*
 * The ledger: what was decided about each message, and what came of it, for `tocsin why` and `tocsin ledger`.
 *
 * Shards note decisions (scribe.h), services what became of deliveries. All of it is put into a buffer as bytes
 * (sheet.h), and goes with the store's next transaction, as one row; when there is none, within STORE_WATCH_MS. A
 * delivery is in the ledger in the same transaction at the latest that puts it on disk or takes it away, so after a crash both agree.
 *
 * Nobody waits for the ledger. When the store cannot be written, or not as fast as it comes, LEDGER_WAITING_MOST bytes
 * wait; what does not fit is dropped and counted, in the statistics and in the ledger itself. After a
 * transaction that failed, the next one goes without it.
 *
 * The oldest rows above `max_size` or `max_age` go, some with each transaction.
 *
 * Threads: ledger_new(), ledger_configure() and ledger_free() from the main thread, all others from any. NULL is allowed for
 * the ledger everywhere: then there is none, and nothing is noted.
 */

#ifndef TOCSIN_LEDGER_LEDGER_H
#define TOCSIN_LEDGER_LEDGER_H

#include "config/conf.h"
#include "router/delivery.h"
#include "router/message.h"
#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger;
struct store;

#define LEDGER_WAITING_MOST ((size_t)8 * 1024 * 1024)

/* What the group `ledger` says. */
struct ledger_config {
    enum ledger_keep keep;
    int64_t max_age_ms;
    int64_t max_size; /* bytes */
    bool unmatched;
};

/* For help and the sample. */
extern const struct tocsin_option ledger_options[];

/* Reads the group. Returns 0, or -EINVAL (`errors`). */
int ledger_config_read(const struct conf *conf, struct ledger_config *out,
                       struct conf_errors *errors);

/* Goes on where the one in the store ends. Before the first task is posted. Returns 0, -EIO or -ENOMEM. */
int ledger_new(struct store *store, const struct ledger_config *config, struct ledger **out);

/* From now on it is written: by the store's thread, so nobody else may use the store's connection any more. Notes that the
 * daemon begins. */
void ledger_begin(struct ledger *ledger);

/* For a reload. */
void ledger_configure(struct ledger *ledger, const struct ledger_config *config);

/* Notes that the daemon ends in good order. Before the store is closed. */
void ledger_end(struct ledger *ledger);

void ledger_free(struct ledger *ledger); /* after the store has been closed */

/* What is to be kept of a route's messages, when the route itself says `keep`: never LEDGER_KEEP_DEFAULT. */
enum ledger_keep ledger_keeps(const struct ledger *ledger, enum ledger_keep keep);

/* Whether messages that matched no route are wanted. */
bool ledger_wants_unmatched(const struct ledger *ledger);

/* ---- Deliveries ---- */

/* What happened to a delivery. Part of the file format: never renumber. */
enum ledger_event {
    LEDGER_SENT = 1,
    LEDGER_RETRY = 2,    /* tried in vain, to be tried again */
    LEDGER_REJECTED = 3, /* the service will not have it */
    LEDGER_GIVEN_UP = 4, /* tried too often, or for too long */
    LEDGER_FORGOTTEN =
        5,              /* tried in vain, and its link brings it again: nobody waits for this one */
    LEDGER_DROPPED = 6, /* by a stated rule, such as a full queue at QoS 0 */
    LEDGER_SUPPRESSED = 7, /* it was sent before */
    LEDGER_MOVED = 8,      /* from this target to another one */
    LEDGER_EVENT_END,
};

struct ledger_note {
    enum ledger_event event;
    const struct delivery *delivery;
    unsigned attempt;    /* 0: it was not tried */
    const char *reason;  /* NULL, or why */
    const char *receipt; /* NULL, or what the service called it */
    const char *target;  /* LEDGER_MOVED: where it goes now, "service:target" */
};

/* Notes what happened to some deliveries, all now. To be called before what it tells of is posted to the store. */
void ledger_note(struct ledger *ledger, const struct ledger_note *notes, size_t n);

/* One of them: for what happens seldom. */
void ledger_note_one(struct ledger *ledger, enum ledger_event event,
                     const struct delivery *delivery, const char *reason);

/* Notes that a delivery goes to another target ("service:target") from now on, and why. */
void ledger_note_moved(struct ledger *ledger, const struct delivery *delivery, const char *target,
                       const char *reason);

/* Notes a message that is not routed, such as one that a link brought again after it had been taken over, and why: "it
 * was taken over before, as ..." */
void ledger_note_suppressed(struct ledger *ledger, const struct message *message,
                            const char *reason);

/* ---- Sheets, for scribes ---- */

struct sheet;

/* Takes over what is on a sheet, copying it: so many messages, and events of deliveries. */
void ledger_add(struct ledger *ledger, struct sheet *sheet, size_t entries, size_t events);

/* ---- Counters ---- */

struct ledger_stats {
    uint64_t entries; /* messages noted */
    uint64_t events;  /* what happened to deliveries, noted */
    uint64_t
        dropped; /* entries and events that were dropped, because the store could not keep up */
    uint64_t waiting; /* gauge: bytes to be written */
    uint64_t bytes;   /* gauge: on disk, within max_size after a while */
};
void ledger_stats(struct ledger *ledger, struct ledger_stats *out);

#endif
