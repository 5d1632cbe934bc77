/* SPDX-License-Identifier: MIT */

/* How sessions end on disk, and when clients are told. The worker's thread. */

#include "broker/client.h"
#include "broker/durable_batch.h"
#include "broker/receipt.h"

#include <stdlib.h>

/* What was noted last says that a session of that client id is no more. */
static void note_ending(struct worker *worker, uint32_t hash)
{
    struct durable_op *op = &worker->noting->ops[worker->noting->count - 1];
    op->ending = true;
    op->slot = (uint16_t)(hash % ENDINGS);
    worker->endings[op->slot]++;
}

static void note_end(struct worker *worker, struct tenure *tenure)
{
    if (!tenure->noted) /* only its CONNACK has waited */
        return;
    if (durable_note(worker, DURABLE_END, tenure->number)) {
        note_ending(worker, tenure->hash);
        return;
    }
    tenure->next = worker->ends;
    worker->ends = tenure_ref(tenure);
}

void durable_note_ends(struct worker *worker)
{
    struct tenure *all = worker->ends;
    worker->ends = NULL;
    for (struct tenure *tenure = all, *next; tenure; tenure = next) {
        next = tenure->next;
        note_end(worker, tenure);
        tenure_unref(tenure);
    }
}

void durable_hand_over(struct worker *worker, struct session *session)
{
    struct tenure *tenure = session->tenure;
    if (!tenure || tenure->handover)
        return;
    if ((tenure->handover = receipt_for_end(worker, tenure)))
        tenure_ref(tenure);
    else /* nobody will say whether it is there */
        tenure->remains = true;
}

void durable_not_handed_over(struct session *session)
{
    if (session->tenure)
        session->tenure->remains = true;
}

void durable_handed_over(struct worker *worker, struct tenure *tenure, bool refused)
{
    if (!worker->closing && !refused && !tenure->remains)
        note_end(worker, tenure);
    tenure_unref(tenure);
}

void durable_session_end(struct worker *worker, struct session *session)
{
    struct tenure *tenure = session->tenure;
    if (!tenure)
        return;
    struct receipt *handover = tenure->handover;
    tenure->handover = NULL;
    const bool waits = handover && atomic_load(&handover->waits) > 1;
    session->expiry = 0;
    if (!worker->closing && !waits && !tenure->remains)
        note_end(worker, tenure);
    else if (!worker->closing && session->id_len > 0 &&
             durable_note_session(worker, session)) /* (else the file says so already) */
        note_ending(worker, tenure->hash);
    if (waits) {
        receipt_done(handover, false); /* its own wait; durable_handed_over() goes on */
    } else if (handover) {
        tenure_unref(handover->tenure);
        free(handover);
    }
    tenure_end(session);
}

/* ---- What clients are told ---- */

bool durable_is_ending(const struct worker *worker, uint32_t hash)
{
    return worker->broker->durable && (worker->endings[hash % ENDINGS] > 0 || worker->ends);
}

void durable_end_failed(struct worker *worker, uint16_t slot)
{
    for (struct client *c = worker->clients; c; c = c->next)
        if (c->unanswered && !c->ending && c->session->hash % ENDINGS == slot)
            connect_give_up(c, "the session before cannot be ended on disk");
}

bool durable_greeting(struct client *c, const uint8_t *packet, size_t len)
{
    struct worker *worker = c->worker;
    struct session *session = c->session;
    if (worker->ends) /* they come too late for it */
        return false;
    if (!session->tenure &&
        !(session->tenure =
              tenure_new(worker, session, atomic_fetch_add(&worker->broker->durable->last, 1) + 1)))
        return false;
    struct durable_op *op = durable_note_for(worker, session, DURABLE_NOTHING);
    if (!op)
        return false;
    if (!durable_note_text(worker, op, packet, len, NULL, 0)) {
        durable_unnote(worker);
        return false;
    }
    op->after = AFTER_CONNACK;
    return true;
}
