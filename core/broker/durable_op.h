/* SPDX-License-Identifier: MIT */

/*
 * What is to be changed on disk, as the store's writer sees it, and how it is read back at the start. Between
 * durable.c (workers) and durable_sql.c (the writer's thread; the main thread at the start).
 */

#ifndef TOCSIN_BROKER_DURABLE_OP_H
#define TOCSIN_BROKER_DURABLE_OP_H

#include "base/buf.h"
#include "broker/flow.h"
#include "broker/publication.h"
#include "broker/retained.h"
#include "store/store.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sqlite3;
struct receipt;
struct tenure;

/* A message's place on disk. A worker drops it before it was written, or the writer writes it: whoever is first says so
 * in `state`. */
struct kept {
    atomic_uint refs;  /* the flow's item, and each op under way */
    atomic_uint state; /* enum kept_state */
    uint64_t session;  /* the session's number on disk */
    uint64_t number;   /* its place in the order of its session */
    uint64_t message;  /* the row that it shares with others of the same publish */
    bool shared;       /* it came by a shared subscription: it is never spilled */
};

enum kept_state {
    KEPT_NEW,     /* nobody has written it */
    KEPT_WRITTEN, /* in a transaction that is, or will be, committed */
    KEPT_GONE,    /* dropped before that: never written */
};

/* The id of a DURABLE_SESSION that is only a will on its way (durable_will()): a NUL, with which no client's begins, and its
 * number. Bytes. */
#define WILL_ID (1 + sizeof(uint64_t))

enum durable_kind {
    DURABLE_SESSION, /* made or changed */
    DURABLE_END,     /* with all that belongs to it */
    DURABLE_SUBSCRIBE,
    DURABLE_UNSUBSCRIBE,
    DURABLE_MESSAGE, /* queued, or launched with a packet identifier (QoS 2) */
    DURABLE_LAUNCH,  /* QoS 2: has got its packet identifier */
    DURABLE_RELEASE, /* QoS 2: the client has it: only the identifier stays */
    DURABLE_LAND,    /* done */
    DURABLE_ID_ADD,  /* received with QoS 2 */
    DURABLE_ID_REMOVE,
    DURABLE_RETAIN,  /* the topic's retained message is now what memory has */
    DURABLE_LOAD,    /* reads the next of a queue into `loaded` */
    DURABLE_EXPIRE,  /* forgets those of a queue that have expired */
    DURABLE_SWEEP,   /* forgets retained messages that have expired, and what ENDs have left */
    DURABLE_NOTHING, /* only waits for what is before it */
};

/* What its worker does when it is committed. */
enum durable_after {
    AFTER_NOTHING,
    AFTER_PACKET,  /* sends `text`, if the connection is still the same */
    AFTER_CONNACK, /* the same, and goes on with the client */
    AFTER_PUBCOMP,
    AFTER_HELD,   /* sends the flight of `packet_id`, or its PUBREL */
    AFTER_LOAD,   /* appends `loaded` to the queue */
    AFTER_EXPIRE, /* counts off what was taken away */
};

/* One that was read back. References are the reader's, to hand on. */
struct stored_message {
    struct publication *publication; /* NULL: released, only its identifier is there */
    struct kept *kept;
    uint32_t *ids; /* subscription identifiers, in memory of its own; NULL for none */
    uint32_t id_count;
    char *
        share; /* "NAME/FILTER" of its shared subscription, NUL-terminated, in memory of its own; NULL for none */
    uint16_t packet_id; /* 0: queued */
    uint8_t qos;
    bool retain;
    bool behind; /* the rest of the queue begins before it (see `rest` below) */
};

struct durable_op {
    uint8_t kind;  /* enum durable_kind */
    uint8_t after; /* enum durable_after */
    uint8_t qos;
    uint8_t options; /* of a subscription */
    bool retain;
    bool persistent; /* DURABLE_SESSION */
    uint8_t reason;  /* of PUBCOMP */
    uint16_t packet_id;
    uint16_t share_len; /* `text` begins with so many bytes of a share's name, then the filter */
    uint32_t connection;
    uint32_t
        expiry; /* DURABLE_SESSION: seconds, or of a subscription: its identifier; DURABLE_LOAD: most */
    uint32_t will_delay, will_expiry; /* DURABLE_SESSION with a will in `publication` */
    uint64_t session;                 /* its number */
    int64_t left_ms;                  /* DURABLE_SESSION: wall clock; 0: it is connected */
    uint32_t sent; /* DURABLE_SESSION that has left: messages of QoS 1 that it had been sent */
    struct tenure *tenure;
    struct kept *kept;               /* a reference; DURABLE_LOAD: NULL */
    uint64_t after_number;           /* DURABLE_LOAD, DURABLE_EXPIRE: those behind it */
    struct publication *publication; /* a reference; DURABLE_RETAIN: names the topic */
    struct identifiers *ids;         /* a reference */
    struct receipt *receipt;         /* waits for it */
    char *
        text; /* memory of its own: client id, share and filter, packet; a message's share as "NAME/FILTER" */
    size_t text_len;
    struct stored_message *loaded; /* out: an array, from the writer to the worker */
    size_t loaded_count;
    uint64_t loaded_last; /* number of the last row looked at */
    size_t loaded_rows;   /* and how many they were */
    uint64_t loaded_bytes;
    bool ending;   /* says that a session is no more: counted in the worker's `endings`, */
    uint16_t slot; /* here */
    uint32_t next; /* out: DURABLE_EXPIRE: the second in which it is to be done again; 0: none */
    bool failed;   /* out: it cannot be carried out, now or later */
    bool more; /* out: DURABLE_END, DURABLE_SWEEP have left something: a DURABLE_SWEEP is wanted */
};

/* What is needed to turn seconds of the broker's clock into times that survive it, and to see retained messages. */
struct durable_clock {
    const struct broker *broker;
    struct retained *retained;
};

/* Carries an op out within the store's transaction: an SQLite result code. May be called again after a rollback. The
 * writer's thread. One that cannot be carried out because of what it is has `failed`, and the others of its batch are as they
 * would be without it.
 *
 * A DURABLE_END leaves rows of a long queue, and a DURABLE_SWEEP takes away some 1,000 of them: so no op holds up
 * the writer for long. Nothing is lost if none is noted: they are known on disk, and the next sweep goes on, also after
 * a restart.
 *
 * DURABLE_LOAD gives those that have no packet identifier, and are not of a shared subscription. `loaded_rows` and `loaded_bytes` count also what could not be
 * read; they are 0 at the end of the queue.
 *
 * DURABLE_EXPIRE takes away up to 100 of those that DURABLE_LOAD would give, and counts them in the same way. */
int durable_apply(struct durable_op *op, const struct durable_clock *clock, struct store *store);

/* ---- Reading back; before anything is posted ---- */

struct stored_session {
    uint64_t number;
    const char *id; /* during the call */
    size_t id_len;
    bool persistent;
    uint32_t expiry;
    int64_t left_ms;          /* 0: it was connected */
    uint32_t sent;            /* so many of QoS 1, the oldest, it had been sent when it left */
    struct publication *will; /* a reference, the visitor's; NULL for none */
    uint32_t will_delay, will_expiry;
};

/* Each returns 0, or a negative errno value that ends the reading. Retained messages that have not expired come first.
 * Then for each session in this order: itself, its subscriptions, identifiers, messages that have packet identifiers, the
 * first SPILL_AWAY_MESSAGES of its queue (at least one, and else not more than SPILL_AWAY_BYTES) with all that is there of
 * shared subscriptions, and, if there are others behind those, how many. A message that has expired while nobody looked has `expires` 1, which is over. */
struct durable_visitor {
    int (*retained)(void *context,
                    struct publication *publication); /* a reference, the visitor's */
    int (*session)(void *context, const struct stored_session *session);
    int (*subscription)(void *context, uint64_t session, const char *share, size_t share_len,
                        const char *filter, size_t filter_len, uint32_t id, uint8_t options);
    int (*received)(void *context, uint64_t session, uint16_t packet_id);
    int (*message)(void *context, uint64_t session,
                   struct stored_message *message); /* takes what is in it */
    int (*rest)(void *context, uint64_t session, uint64_t after, uint64_t last, uint64_t count,
                uint64_t bytes);
};

/* Sets `*last` to the highest number given so far, and `*unreadable` to the rows that are left where they are. Returns 0,
 * what a visitor has returned, -ENOMEM, or -EIO, for which SQLite's error tells more. */
int durable_read(struct sqlite3 *db, const struct durable_clock *clock,
                 const struct durable_visitor *visitor, void *context, uint64_t *last,
                 uint64_t *unreadable);

void stored_message_release(struct stored_message *message);

/* ---- A publication as bytes ---- */

/* Appends it; `expires_ms` is a time of the wall clock, 0 for never. Returns 0 or what buf_add() returns. */
int durable_write_publication(const struct publication *publication, int64_t expires_ms,
                              struct buf *out);

/* Makes one of such bytes, with `expires` 0. Returns 0, -EBADMSG for what is no record, or -ENOMEM. Hostile bytes are
 * refused: a topic that is no valid topic name, lengths that do not add up, a QoS of 3, properties that are no
 * properties. */
int durable_read_publication(const void *data, size_t len, struct publication **out,
                             int64_t *expires_ms);

#endif
