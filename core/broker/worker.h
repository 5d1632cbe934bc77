/* SPDX-License-Identifier: MIT */

/*
 * A worker: one thread that is a small complete broker for the sessions it owns, those whose client id
 * hashes to it. What it needs of other workers, and they of it, goes as letters through mailboxes.
 *
 * A turn of its loop: packets are read and what they lead to is put into the outputs of connections (here
 * and, in bags of letters, for other workers); at its end everything leaves, in one write a connection and one
 * post a worker. Connections are closed only there, so nothing vanishes under somebody's hands.
 *
 * Headers of this folder that say "the worker's thread" are for that thread alone.
 */

#ifndef TOCSIN_BROKER_WORKER_H
#define TOCSIN_BROKER_WORKER_H

#include "base/container.h"
#include "base/log.h"
#include "base/log_rate.h"
#include "broker/broker.h"
#include "broker/filters.h"
#include "broker/flow.h"
#include "broker/interest.h"
#include "broker/output.h"
#include "broker/retained.h"
#include "broker/routing.h"
#include "broker/session.h"
#include "broker/settings.h"
#include "broker/share.h"
#include "loop/loop.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WORKER_BUFFER (128 * 1024) /* read at once */
#define ENDINGS       1024         /* a power of 2 */
#define TAPS_MAX      8
#define TAP_FIRST     (INTEREST_WORKERS - TAPS_MAX) /* its number in the index of interest */

/* Counters of one worker: it alone writes them, any thread may read. */
struct counters {
    atomic_uint_fast64_t packets_received, packets_sent;
    atomic_uint_fast64_t publish_received, publish_sent, publish_dropped;
    atomic_uint_fast64_t publish_bytes_received, publish_bytes_sent;
    atomic_uint_fast64_t bytes_received, bytes_sent;
    atomic_uint_fast64_t connections, connections_refused, packets_refused;
    atomic_uint_fast64_t clients_expired;
    atomic_uint_fast64_t clients_connected, clients_total, sockets; /* gauges */
    atomic_uint_fast64_t subscriptions, shared_subscriptions;       /* gauges */
    atomic_uint_fast64_t stored, stored_bytes; /* gauges: in queues and in flight */
};

static inline void counter_add(atomic_uint_fast64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
#define COUNT(WORKER, FIELD, N) counter_add(&(WORKER)->counters.FIELD, (uint64_t)(N))

/* ---- Letters ---- */

enum letter_kind {
    LETTER_CLIENT,      /* has said who it is: belongs to this worker */
    LETTER_PUBLICATION, /* for this worker's own subscribers */
    LETTER_PARCEL,      /* short ones of these (parcel.h) */
    LETTER_SHARED,      /* for one member of a shared subscription */
    LETTER_RECEIPT,     /* whoever had to take a message over has done so */
    LETTER_PUBLISH,     /* by broker_publish(): to be routed */
    LETTER_DURABLE,     /* what this worker has noted is on disk (durable.h) */
    LETTER_ORDER,       /* by the main thread: a change of what the worker does */
};

struct letter {
    struct mail mail;
    enum letter_kind kind;
};

struct letter_client {
    struct letter letter;
    struct client *client;
};

struct letter_publication {
    struct letter letter;
    struct publication *publication;
    struct share_member *member; /* LETTER_SHARED */
    struct receipt *receipt;     /* waits for this worker too; NULL */
    struct kept *was;            /* see struct publish */
};

enum worker_order {
    ORDER_STOP_INTAKE,
    ORDER_STOP,
    ORDER_BARRIER, /* only to answer */
};

struct letter_order {
    struct letter letter;
    enum worker_order order;
    sem_t *done; /* posted when it has been followed; may be NULL */
};

/* ---- The worker ---- */

struct tap_batch {
    struct tap_message *first, **end;
    size_t count;
};

struct worker {
    struct loop loop;
    struct broker *broker;
    const struct broker_settings *settings;
    unsigned index;
    pthread_t thread;
    bool started;
    bool stopping; /* reads no more */
    bool closing;  /* is at its end: nothing is given to others any more */

    uint32_t second;     /* see broker_second() */
    uint8_t client_kind; /* kinds of timers */
    uint8_t absence_kind;
    struct timer pulse;      /* once a second, or more often while connections are paused */
    int64_t housekeeping_ms; /* when it is due */
    int64_t trim_ms;         /* when memory is given back to the system; 0: not now */
    size_t most_sessions;    /* since that was done last */
    struct sys *sys;         /* what $SYS is made of; the first worker's */

    struct client *clients; /* all of them */
    struct client *touched; /* with output, or ending */
    struct output_pool pool;
    struct sessions sessions;
    struct flow *flows;
    struct filters *filters;
    struct routing_cache routing;
    struct retained_walk *walks; /* retained messages on their way to new subscriptions */
    struct client *paused;       /* read from no further until there is room */
    struct acceptor *acceptors;  /* one for each listener */

    struct letter_parcel **parcels; /* for each worker: the open one in its bag, or NULL */
    struct mailbag *bags;           /* for each worker: what the turn has for it */
    atomic_size_t backlog;          /* bytes posted to this worker and not handled yet */
    struct tap_batch taps[TAPS_MAX];
    uint32_t tapped; /* which of them are not empty */

    struct durable_batch *noting;  /* what the turn has for the disk, */
    struct durable_batch *batches; /* and all that is not on disk yet */
    int64_t sweep_ms;              /* when what has expired there is looked for */
    struct tenure *ends; /* of sessions whose end could not be noted yet, for want of memory */
    uint32_t expiring;   /* queues on disk that are being looked through for what has expired */
    uint32_t endings[ENDINGS]; /* ends that are not on disk, by the hashes of their client ids */

    struct counters counters;
    struct log_rate bad_packets, dropped, turned_away;
    struct publication *block; /* what the packet under way lies in, if it may be kept as it is */
    uint8_t buffer[WORKER_BUFFER];
    uint8_t scratch[OUTPUT_CHUNK];
};

/* Creates a worker, with nothing running. NULL when there is no memory. */
struct worker *worker_new(struct broker *broker, unsigned index);
void worker_free(struct worker *worker); /* NULL is allowed; its thread has ended */

/* Starts the thread. Returns 0 or a negative errno value. */
int worker_start(struct worker *worker);

/* Waits for the end of its thread, if it has one. */
void worker_join(struct worker *worker);

/* Throws away what others have written since the end of all threads. */
void worker_clear(struct worker *worker);

/* Puts a letter for another worker into the turn's bag; `size` is what it keeps in memory. */
void worker_write(struct worker *worker, unsigned to, struct letter *letter, size_t size);

/* Hands over at once what the turn has for taps and for other workers. */
void worker_post(struct worker *worker);

/* Reads from a connection no further until there is room again: its receipts, taps and other workers. */
void worker_pause(struct worker *worker, struct client *client);

/* An order from another thread; `done` may be NULL. Returns 0 or -ENOMEM. */
int worker_order(struct worker *worker, enum worker_order order, sem_t *done);

/* ---- What workers share (broker.c) ---- */

struct broker_tap {
    struct broker *broker;
    const char *name;
    unsigned number;
    broker_tap_fn *messages;
    void *context;
    atomic_size_t limit;
    atomic_uint_fast64_t received, received_bytes, dropped, published, done;
    atomic_size_t in_hand, in_hand_bytes;
    pthread_rwlock_t lock; /* of what follows; held to read by workers that look for its QoS */
    struct tap_filter *filters;
    size_t filter_count;
};

struct broker {
    struct conf *conf;
    struct broker_settings settings;
    struct worker **workers;
    unsigned worker_count;
    bool running; /* its change is under the lock: what is posted then is answered */
    pthread_rwlock_t running_lock;
    int64_t started_ms; /* monotonic clock */
    struct interest *interest;
    struct retained *retained;
    struct shares *shares;
    struct durable *durable; /* NULL: nothing is kept on disk */
    struct broker_tap *_Atomic taps[TAPS_MAX];
    pthread_mutex_t taps_lock;
    atomic_uint connections;
    atomic_uint_fast64_t clients_maximum;
    atomic_uint ids_given;
    uint64_t id_seed; /* so that ids given by two runs differ */
};

/* Returns when every worker has ended the turn that it was in. Not from a worker's thread. */
void broker_barrier(struct broker *broker);

/* Seconds since the broker was made, from 1 on: the clock of publication.expires. */
uint32_t broker_second(const struct broker *broker, int64_t now_ms);

/* publication.expires of what lives `span` seconds from second `now` on: the second after the one in which it
 * ends, since a part of `now` may be over. Never early; UINT32_MAX if it is later than the clock can tell. */
static inline uint32_t expires_after(uint32_t now, uint32_t span)
{
    return span < UINT32_MAX - 1 - now ? now + span + 1 : UINT32_MAX;
}

/* What is left of that span. */
static inline uint32_t expires_in(uint32_t expires, uint32_t now)
{
    return expires > now ? expires - now - 1 : 0;
}

/* The worker that owns a client id. */
unsigned broker_owner(const struct broker *broker, const char *id, size_t len);

#endif
