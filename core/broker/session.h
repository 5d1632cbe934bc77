/* SPDX-License-Identifier: MIT */

/*
 * Sessions: what the broker knows of a client id, whether it is connected or not. The worker's thread.
 *
 * What could be in a store (its identity, expiry, subscriptions, messages under way, identifiers received,
 * will) is changed here, in flow.h, ids.h and filters.h only.
 */

#ifndef TOCSIN_BROKER_SESSION_H
#define TOCSIN_BROKER_SESSION_H

#include "broker/filters.h"
#include "broker/flow.h"
#include "broker/ids.h"
#include "broker/publication.h"
#include "loop/timer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct worker;
struct client;

#define EXPIRY_NEVER UINT32_MAX /* Session Expiry Interval [MQTT 5.0, 3.1.2.11.2] */

struct will {
    struct publication *publication;
    uint32_t delay;  /* seconds */
    uint32_t expiry; /* Message Expiry Interval in seconds, from its publication on; 0: none */
};

/* While a session has no connection: waits for the end of the session and of the will's delay. */
struct absence {
    struct timer timer;
    struct session *session;
    uint32_t will_at;    /* seconds of the broker's clock; 0: no will waits */
    uint32_t expires_at; /* 0: never */
};

struct session {
    struct session *next;  /* of the same bucket */
    struct client *client; /* NULL while the client is away */
    struct flow *flow;     /* NULL while nothing is under way */
    struct ids *received;  /* QoS 2 identifiers not released yet; NULL for none */
    struct will *will;
    struct share_member *members; /* its shared subscriptions */
    struct receipt *receipts;     /* the newest; they are a ring */
    struct absence *absence;
    struct tenure *tenure; /* what is on disk of it (durable.h); NULL: nothing */
    struct subscriber subscriber;
    uint32_t hash;
    uint32_t expiry; /* seconds after the connection's end; 0: ends with it */
    uint16_t window; /* Receive Maximum of the connection, or what the settings allow */
    uint16_t id_len;
    bool walking; /* has retained_walks */
    bool
        orphaned; /* was connected when an earlier run of the broker ended, and has not been since */
    char id[];    /* NUL-terminated */
};

static inline bool session_is_persistent(const struct session *session)
{
    return session->expiry != 0;
}

/* A table of sessions. Zeroed, it is empty. */
struct sessions {
    struct session **buckets;
    size_t mask; /* buckets less 1 */
    size_t count;
};

struct session *sessions_find(const struct sessions *sessions, const char *id, size_t len);

/* Makes a session of a client id that has none, without a connection. NULL when there is no memory. */
struct session *session_new(struct worker *worker, const char *id, size_t len);

/* Ends it, and all that belongs to it: publishes a will that waits, gives shared messages to others. It has
 * no connection. */
void session_end(struct worker *worker, struct session *session);

/* Its connection is gone: publishes the will (unless `graceful`) or begins its delay; ends the session, or
 * waits for its expiry. */
void session_leave(struct worker *worker, struct session *session, bool graceful);

/* A client has come back to it: its will's delay and expiry end. */
void session_return(struct worker *worker, struct session *session);

/* It was there before the start, without a connection: its will waits for so many seconds (if it has one), its end for so many
 * (EXPIRY_NEVER: for ever). */
void session_await(struct worker *worker, struct session *session, uint32_t will_in,
                   uint32_t ends_in);

/* Whether it should have ended by now: a client can come back before the timer ends, above all when the broker starts. */
bool session_has_expired(const struct worker *worker, const struct session *session);

/* Publishes the will now, and forgets it. */
void session_publish_will(struct worker *worker, struct session *session);
void session_forget_will(struct session *session);

/* The expiry that a client gets who asks for `wanted` seconds. */
uint32_t session_expiry_allowed(const struct worker *worker, uint32_t wanted);

/* Its flow, made if need be; NULL when there is no memory. */
struct flow *session_flow(struct worker *worker, struct session *session);

/* The timer of an absence has ended. */
void session_absence_ended(struct timer_wheel *wheel, struct timer *timer);

/* Ends all, without wills. At the end of the program. */
void sessions_release(struct worker *worker);

#endif
