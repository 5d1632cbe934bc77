/* SPDX-License-Identifier: MIT */

/*
 * Receipts: acknowledgements to publishers that wait until somebody else (the router) has taken the message
 * over. Those of one session go out in the order in which the messages came [MQTT-4.6.0-2], [-3]; so
 * an acknowledgement that need not wait waits behind one that must.
 *
 * A receipt is made and ended by the session's worker; receipt_done() is for any thread.
 */

#ifndef TOCSIN_BROKER_RECEIPT_H
#define TOCSIN_BROKER_RECEIPT_H

#include "broker/client.h"

struct receipt {
    struct letter letter;
    struct worker *worker;
    struct session *session; /* NULL after it has ended */
    struct tenure *tenure;   /* a reference: not a message waits, but the end of a session; NULL */
    struct receipt *next;    /* of the session's ring: from the newest to the oldest, and on */
    atomic_uint waits;       /* who has to say receipt_done(), and one for the maker */
    atomic_bool refused;
    uint64_t will; /* the place of a will on disk, which goes when this is done; 0: none */
    uint16_t packet_id;
    uint8_t qos;
    uint8_t reason;
    bool add_id;  /* its identifier of QoS 2 has to be on disk, after all else */
    bool awaited; /* by the client; not after the connection that it came by is gone */
    bool done;
};

/* For a message that is being published by `session`; waits for nobody but its maker yet. NULL: no memory. */
struct receipt *receipt_new(struct worker *worker, struct session *session);

/* For the end of a session, which waits for those to whom it has given messages: no acknowledgement. Has no part in the ring
 * of a session. NULL: no memory. */
struct receipt *receipt_for_end(struct worker *worker, struct tenure *tenure);

/* For a will, of a session that may end at once: nobody is told when it is done. NULL: no memory. */
struct receipt *receipt_for_will(struct worker *worker);

static inline void receipt_wait(struct receipt *receipt)
{
    atomic_fetch_add_explicit(&receipt->waits, 1, memory_order_relaxed);
}

/* It is of QoS 2: if its session is kept on disk, so has to be its identifier: at once, that is together with the
 * message, or, if that is for somebody elsewhere too, after it. Before receipt_acknowledge(). */
void receipt_add_id(struct receipt *receipt, uint16_t packet_id, bool elsewhere);

/* One of those it waits for is done. The last one posts it to its worker. Any thread. */
void receipt_done(struct receipt *receipt, bool refused);

/* Its letter has come: sends what can be sent now. The worker's thread. */
void receipt_arrive(struct worker *worker, struct receipt *receipt);

/* Acknowledges a message of QoS 1 or 2: at once, or by its receipt (NULL for none), or behind earlier ones. */
void receipt_acknowledge(struct client *c, struct receipt *receipt, uint8_t qos, uint16_t packet_id,
                         enum mqtt_reason reason);

/* A packet of QoS 2 has come again. Whether its acknowledgement waits still; it will go out in its time. */
bool receipt_is_waiting(struct client *c, uint16_t packet_id);

/* The session has lost its connection: clients send again what was not acknowledged. */
void receipts_disconnect(struct session *session);

/* The session ends. */
void receipts_forget(struct session *session);

#endif
