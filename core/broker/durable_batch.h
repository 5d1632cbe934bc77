/* SPDX-License-Identifier: MIT */

/* What durable.c, durable_end.c and durable_restore.c share. */

#ifndef TOCSIN_BROKER_DURABLE_BATCH_H
#define TOCSIN_BROKER_DURABLE_BATCH_H

#include "broker/durable.h"
#include "broker/durable_op.h"

#include <stdlib.h>

#define DURABLE_DONE 101 /* SQLITE_DONE */

struct durable {
    struct broker *broker;
    struct store *store;
    atomic_uint_fast64_t last; /* number given, of sessions and of messages */
    atomic_uint_fast64_t ops, batches, waiting, bytes;

    /* By the start. */
    uint64_t restored_sessions, restored_messages, restored_retained, unreadable;
};

/* What a worker has noted in one turn: a task on its way to the store, a letter on its way back. */
struct durable_batch {
    struct store_task task;
    struct letter letter;
    struct durable_batch *next, **link; /* the worker's list of all */
    struct worker *worker;
    struct durable *durable;
    struct durable_op *ops;
    size_t count, places, bytes;
};

static inline struct tenure *tenure_ref(struct tenure *tenure)
{
    tenure->refs++;
    return tenure;
}

static inline void tenure_unref(struct tenure *tenure)
{
    if (tenure && --tenure->refs == 0)
        free(tenure);
}

/* ---- Noting; NULL and false: no memory ---- */

/* Room for another op, and for one of a session, which has a tenure. */
struct durable_op *durable_note(struct worker *worker, enum durable_kind kind, uint64_t session);
struct durable_op *durable_note_for(struct worker *worker, const struct session *session,
                                    enum durable_kind kind);

/* Takes back what was noted last. */
void durable_unnote(struct worker *worker);

/* Gives an op a copy of two texts, one behind the other. */
bool durable_note_text(struct worker *worker, struct durable_op *op, const void *a, size_t a_len,
                       const void *b, size_t b_len);

/* The session as it is now. */
bool durable_note_session(struct worker *worker, const struct session *session);

/* The ends that there was no memory for. */
void durable_note_ends(struct worker *worker);

/* The end of a session cannot be carried out: those who wait to be told of it are not. */
void durable_end_failed(struct worker *worker, uint16_t slot);

/* ---- Tenures ---- */

struct tenure *tenure_new(struct worker *worker, struct session *session, uint64_t number);

/* The tenure of a session that was on disk. NULL when there is no memory. */
struct tenure *tenure_restored(struct worker *worker, struct session *session, uint64_t number);

/* Appends what was read back to a session's queue, or to its flights; takes what is in it. What has no place any more is
 * dropped. */
void durable_append(struct worker *worker, struct session *session, struct stored_message *message);

#endif
