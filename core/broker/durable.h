/* SPDX-License-Identifier: MIT */

/*
 * What the broker keeps on disk, so that nothing acknowledged is lost by a restart or kill -9 (durability =
 * "commit"): persistent sessions with their subscriptions, what is queued for them and in flight in both directions,
 * wills, retained messages.
 *
 * A worker notes each change when it makes it (durable_*() below). At the end of its turn all that it has noted
 * goes to the store as one task, so it is committed together; when that is done it comes back as a letter, and
 * only then goes out what had to wait: a publisher's PUBACK or PUBREC (by its receipt), SUBACK, UNSUBACK, PUBREL,
 * PUBCOMP, and a PUBLISH of QoS 2. A PUBLISH of QoS 1 is sent at once; what its client acknowledges before the
 * commit is never written at all.
 *
 * Why each of them waits:
 *   PUBACK, PUBREC    the message must be safe (to who has a persistent session, or as the retained one)
 *   PUBREC            and so must be its identifier, with the message or after it, never before: a publisher
 *                     that comes again is told "I have it" only if that is true
 *   PUBCOMP           the identifier is free again: the next message with it must not be taken for a repetition
 *   PUBLISH, QoS 2    its identifier must be known after a restart, or the client would take it for another message
 *   PUBREL            the client forgets the identifier: the message must not be sent once more
 *   SUBACK, UNSUBACK  a promise about the messages to come
 *   CONNACK           with which a client learns that a session of its id is no more: it must not come back. That of any
 *                     other does not wait: whatever is acknowledged later is committed later, so it comes behind the
 *                     session itself
 *
 * The end of a session, with all that belongs to it, waits until what it had of shared subscriptions is on disk for those
 * who have been given it, perhaps by other workers. Until then it is on disk as one that has ended (not persistent,
 * without a connection, without a will), which the next start ends in the same way. If one of them cannot take it, as there
 * is no memory, it stays so until then.
 *
 * The store's writer works with ops only (durable_op.h), never with sessions. Everything here is the worker's
 * thread unless it says other. Without a store, or with durability = "memory", broker->durable is NULL, no session
 * has a tenure, and each of these calls returns at once.
 */

#ifndef TOCSIN_BROKER_DURABLE_H
#define TOCSIN_BROKER_DURABLE_H

#include "broker/spill.h"
#include "broker/worker.h"
#include "mqtt/reason.h"

struct durable;
struct store;
struct kept;

/* ---- The whole; the main thread ---- */

/* What is kept of a broker in a store; NULL when there is no memory. Freed after the store has been closed. */
struct durable *durable_new(struct broker *broker, struct store *store);
void durable_free(struct durable *durable); /* NULL is allowed */

/* Makes sessions and retained messages of what is on disk. The workers are there and do not run yet. Returns 0 or a
 * negative errno value, and has logged why. What cannot be read is left where it is, counted and logged. */
int durable_restore(struct durable *durable);

/* Whether so much waits to be committed that publishers should be read from no further. Any thread. */
bool durable_is_crowded(const struct durable *durable);

/* Whether that is so much more that no client can be taken on of which something would have to be kept. Any thread. */
bool durable_is_full(const struct durable *durable);

struct durable_stats {
    uint64_t ops, batches;   /* counters */
    uint64_t waiting, bytes; /* gauges: ops and memory not committed yet */
    uint64_t restored_sessions, restored_messages, restored_retained, unreadable; /* at the start */
};
void durable_stats(const struct durable *durable, struct durable_stats *out); /* any thread */

/* ---- Sessions ---- */

/* The link between a session and what is on disk of it; outlives the session as long as something is under way.
 * `connection` changes with each CONNECT: what waited for the old one is not sent on the new one. */
struct tenure {
    uint32_t refs; /* the session, and each op under way */
    uint32_t connection;
    uint32_t asked,
        answered;  /* SUBACKs and UNSUBACKs noted, and sent: retained messages come after theirs */
    bool messages; /* are kept of it, not only the will */
    bool ids_kept; /* identifiers that it has received may be on disk */
    bool noted;    /* anything of it is, or will be, on disk */
    bool
        remains; /* on disk after its end, till the next start: there alone is something that others must get */
    struct session *session;  /* NULL after its end */
    struct receipt *handover; /* by which its end waits for others; NULL */
    struct tenure *next;      /* of the worker's `ends` */
    struct worker *worker;
    uint32_t hash;   /* of its client id */
    uint64_t number; /* of the session, on disk */
};

/* The session is new, or its expiry, will or presence have changed: after CONNECT, a DISCONNECT that changes the expiry,
 * the connection's end. One that is not persistent is kept only while it has a will. Returns false when there is no
 * memory: then the connection must not go on. */
bool durable_session(struct worker *worker, struct session *session);

/* A new connection has begun. */
void durable_connected(struct session *session);

/* It is about to end, and gives what it has to others: its end will wait for that. */
void durable_hand_over(struct worker *worker, struct session *session);

/* For something that it had there was no memory where it should go: only the next start can hand that over. */
void durable_not_handed_over(struct session *session);

/* It ends, with all that belongs to it, when what it has given to others is on disk. */
void durable_session_end(struct worker *worker, struct session *session);

/* What an ended session has given to others is on disk; unless it was `refused`. */
void durable_handed_over(struct worker *worker, struct tenure *tenure, bool refused);

/* Whether the end of a session whose client id has the same hash is not on disk yet. May be wrong about a few others. */
bool durable_is_ending(const struct worker *worker, uint32_t hash);

/* Sends CONNACK, which is copied, and goes on with the client, when all noted so far is committed. Returns false when there
 * is no memory. */
bool durable_greeting(struct client *client, const uint8_t *packet, size_t len);

/* A will has been published, for somebody elsewhere too (another worker, the router), who commits it for himself. Till then
 * it has a place of its own on disk, or it could be lost between its session's forgetting and theirs. Returns the place, 0
 * for none. */
uint64_t durable_will(struct worker *worker, const struct will *will);

/* They have it. */
void durable_will_arrived(struct worker *worker, uint64_t place);

/* It is only forgotten here: what is on disk stays. */
void tenure_end(struct session *session);

/* Whether messages for it are kept: it is persistent, or was so when its connection began. */
static inline bool session_is_durable(const struct session *session)
{
    return session->tenure && session->tenure->messages;
}

/* ---- Subscriptions ---- */

/* As in the tree: `filter` with the mount point; `share` (NULL: none) is the group's name. Return false when there is no
 * memory: then it must not be acknowledged. */
bool durable_subscribed(struct worker *worker, struct session *session, const char *share,
                        size_t share_len, const char *filter, size_t filter_len, uint32_t id,
                        uint8_t options);
bool durable_unsubscribed(struct worker *worker, struct session *session, const char *share,
                          size_t share_len, const char *filter, size_t filter_len);

/* Sends a packet (SUBACK, UNSUBACK), which is copied, to the client of a durable session when all noted so far is
 * committed. Returns false when there is no memory. */
bool durable_answer(struct client *client, const uint8_t *packet, size_t len);

/* ---- Messages to a session ---- */

/* A message for a durable session gets its place on disk: before it is launched or queued. `p->receipt` waits for that,
 * if the publisher wants one. NULL when there is no memory, or the session is not durable. */
struct kept *durable_message(struct worker *worker, struct session *session, struct publish *p,
                             const struct terms *terms);

/* One of QoS 2 has got its packet identifier: calls deliver_held() when that is committed, and it may be sent. Returns
 * whether it is; else (no memory) it has to be sent now. */
bool durable_launched(struct worker *worker, struct session *session, struct kept *kept,
                      uint16_t packet_id);

/* The client has it [PUBREC]: calls deliver_held() when that is committed, and PUBREL may be sent. Returns as above. */
bool durable_received(struct worker *worker, struct session *session, struct kept *kept,
                      uint16_t packet_id);

/* It is acknowledged to the end, expired or dropped. Drops the reference. NULL is allowed. */
void kept_end(struct worker *worker, struct kept *kept);

/* It was given to another session, with `worker`, and what is kept of it there has been noted just now. Its publisher may
 * wait for the old place still: so that goes together with the coming of the new one, and not before. Drops the
 * reference. NULL is allowed. */
void kept_moved(struct worker *worker, struct kept *kept);

/* Only drops the reference: what is on disk stays (the end of the program, spilling). NULL is allowed. Any thread. */
void kept_unref(struct kept *kept);

/* Whether it is, or will be, on disk, so that memory may forget it. */
bool kept_is_written(const struct kept *kept);

/* Whether it came by a shared subscription: then it stays in memory. */
bool kept_is_shared(const struct kept *kept);

/* Its place in the order of its session. */
uint64_t kept_number(const struct kept *kept);

/* ---- Messages from a session ---- */

/* An identifier of QoS 2 was received by a durable session: its PUBREC's receipt waits for it too. */
void durable_id_added(struct worker *worker, struct session *session, uint16_t packet_id,
                      struct receipt *receipt);

/* It has been released, and taken out of the set (or was not there: another `reason` than success): sends PUBCOMP when that
 * is committed. Returns false if that need not wait. */
bool durable_id_released(struct client *client, uint16_t packet_id, enum mqtt_reason reason);

/* ---- Retained messages ---- */

/* The retained message of a topic has changed, in memory. Returns false when there is no memory. */
bool durable_retained(struct worker *worker, struct publish *p);

/* Forgets on disk what has expired, and what was left of sessions that have ended. Now and then. */
void durable_sweep(struct worker *worker);

/* ---- Spilling: what waits on disk only ---- */

/* Begins to load more of a session's queue from disk. Returns false if there is nothing, or it has begun already. */
bool durable_load(struct worker *worker, struct session *session);

/* Begins to take away what has expired of what is on disk only, so that it counts no more, if it is time. Returns false if
 * it has to wait: that is done for many others already. */
bool durable_expire(struct worker *worker, struct session *session);

/* ---- Turns ---- */

/* The turn's end: hands the batch to the store. */
void durable_post(struct worker *worker);

/* A batch is committed: its letter has come. */
void durable_arrive(struct worker *worker, struct letter *letter);

/* The same when the worker has ended: only drops what it holds. */
void durable_discard(struct letter *letter);

/* And what was never told of. The store is closed. */
void durable_release(struct worker *worker);

#endif
