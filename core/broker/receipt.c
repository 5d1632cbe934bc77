/* SPDX-License-Identifier: MIT */

#include "broker/receipt.h"

#include "broker/durable.h"

#include <stdlib.h>

struct receipt *receipt_for_will(struct worker *worker)
{
    struct receipt *receipt = calloc(1, sizeof(*receipt));
    if (!receipt)
        return NULL;
    receipt->letter.kind = LETTER_RECEIPT;
    receipt->worker = worker;
    atomic_init(&receipt->waits, 1);
    atomic_init(&receipt->refused, false);
    return receipt;
}

struct receipt *receipt_for_end(struct worker *worker, struct tenure *tenure)
{
    struct receipt *receipt = receipt_for_will(worker);
    if (receipt)
        receipt->tenure = tenure;
    return receipt;
}

struct receipt *receipt_new(struct worker *worker, struct session *session)
{
    struct receipt *receipt = receipt_for_will(worker);
    if (!receipt)
        return NULL;
    receipt->session = session;
    struct receipt *newest = session->receipts;
    receipt->next = newest ? newest->next : receipt;
    if (newest)
        newest->next = receipt;
    session->receipts = receipt;
    return receipt;
}

void receipt_done(struct receipt *receipt, bool refused)
{
    if (refused)
        atomic_store_explicit(&receipt->refused, true, memory_order_relaxed);
    if (atomic_fetch_sub_explicit(&receipt->waits, 1, memory_order_acq_rel) == 1)
        loop_post_one(&receipt->worker->loop, &receipt->letter.mail);
}

/* Takes the oldest out of the ring, and frees it. */
static void drop_oldest(struct session *session)
{
    struct receipt *newest = session->receipts, *oldest = newest->next;
    if (oldest == newest)
        session->receipts = NULL;
    else
        newest->next = oldest->next;
    free(oldest);
}

static void answer(struct client *c, uint8_t qos, uint16_t packet_id, enum mqtt_reason reason)
{
    client_acknowledge(c, qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, packet_id, reason);
}

/* Sends what has nothing before it that waits. */
static void send_oldest(struct session *session)
{
    while (session->receipts && session->receipts->next->done) {
        const struct receipt *oldest = session->receipts->next;
        struct client *c = session->client;
        bool refused = atomic_load_explicit(&oldest->refused, memory_order_relaxed);
        if (refused && oldest->qos == 2)
            ids_remove(&session->received, oldest->packet_id);
        if (oldest->awaited && c) {
            c->receipts = (uint16_t)(c->receipts - (oldest->qos == 1));
            c->waiting--;
            if (refused)
                client_end(c, MQTT_SERVER_BUSY, "a message could not be taken over");
            else
                answer(c, oldest->qos, oldest->packet_id, (enum mqtt_reason)oldest->reason);
        }
        drop_oldest(session);
    }
}

void receipt_add_id(struct receipt *receipt, uint16_t packet_id, bool elsewhere)
{
    struct session *session = receipt->session;
    if (!session || !session_is_durable(session))
        return;
    if (elsewhere)
        receipt->add_id = true;
    else
        durable_id_added(receipt->worker, session, packet_id, receipt);
}

/* All else is safe: now the identifier. Returns whether it waits for that. */
static bool goes_on(struct worker *worker, struct receipt *receipt)
{
    struct session *session = receipt->session;
    bool add = receipt->add_id && session && session_is_durable(session) && !worker->closing &&
               !atomic_load_explicit(&receipt->refused, memory_order_relaxed) &&
               ids_have(session->received, receipt->packet_id);
    receipt->add_id = false;
    if (!add)
        return false;
    atomic_store_explicit(&receipt->waits, 1, memory_order_relaxed);
    durable_id_added(worker, session, receipt->packet_id, receipt);
    receipt_done(receipt, false);
    return true;
}

void receipt_arrive(struct worker *worker, struct receipt *receipt)
{
    if (receipt->tenure) {
        durable_handed_over(worker, receipt->tenure,
                            atomic_load_explicit(&receipt->refused, memory_order_relaxed));
        free(receipt);
        return;
    }
    if (goes_on(worker, receipt))
        return;
    receipt->done = true;
    if (receipt->will && !atomic_load_explicit(&receipt->refused, memory_order_relaxed))
        durable_will_arrived(worker, receipt->will);
    if (!receipt->session)
        free(receipt);
    else
        send_oldest(receipt->session);
}

void receipt_acknowledge(struct client *c, struct receipt *receipt, uint8_t qos, uint16_t packet_id,
                         enum mqtt_reason reason)
{
    struct session *session = c->session;
    if (!receipt && !session->receipts) {
        answer(c, qos, packet_id, reason);
        return;
    }
    bool waits = receipt != NULL;
    if (!receipt && !(receipt = receipt_new(c->worker, session))) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    receipt->packet_id = packet_id;
    receipt->qos = qos;
    receipt->reason = (uint8_t)reason;
    receipt->awaited = true;
    c->receipts = (uint16_t)(c->receipts + (qos == 1));
    c->waiting++;
    if (waits) {
        receipt_done(receipt, false); /* the maker's own wait */
    } else {
        receipt->done = true;
        send_oldest(session);
    }
    /* Clients of 5.0 know the limit, and get no further but by releasing what was not acknowledged yet. */
    if (c->waiting >= c->worker->settings->receive_maximum + (c->level == MQTT_5_0))
        worker_pause(c->worker, c);
}

bool receipt_is_waiting(struct client *c, uint16_t packet_id)
{
    struct receipt *newest = c->session->receipts, *at = newest;
    while (at) {
        if (at->qos == 2 && at->packet_id == packet_id) {
            c->waiting += !at->awaited;
            at->awaited = true;
            return true;
        }
        at = at->next == newest ? NULL : at->next;
    }
    return false;
}

void receipts_disconnect(struct session *session)
{
    struct receipt *newest = session->receipts, *at = newest;
    while (at) {
        at->awaited = false;
        at = at->next == newest ? NULL : at->next;
    }
}

void receipts_forget(struct session *session)
{
    struct receipt *newest = session->receipts;
    session->receipts = NULL;
    if (!newest)
        return;
    struct receipt *at = newest->next;
    newest->next = NULL;
    while (at) {
        struct receipt *next = at->next;
        at->session = NULL;
        if (at->done)
            free(at);
        at = next;
    }
}
