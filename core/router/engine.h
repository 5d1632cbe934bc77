/* SPDX-License-Identifier: MIT */

/*
 * The engine: what becomes of a message. Pure: it is given a message and the time, and returns
 * deliveries and decisions; it does no I/O, reads no clock, starts no thread. The same engine serves the
 * daemon and `tocsin explain`.
 *
 * An engine belongs to one thread. The routes it works on are compiled for it (expressions belong to its
 * script state), so each shard has an engine of its own.
 */

#ifndef TOCSIN_ROUTER_ENGINE_H
#define TOCSIN_ROUTER_ENGINE_H

#include "router/delivery.h"
#include "router/message.h"
#include "router/routes.h"

#include <stddef.h>
#include <stdint.h>

struct engine;

/* Makes an engine for routes, of which it takes ownership. NULL when there is no memory. */
struct engine *engine_new(struct routes *routes);
void engine_free(struct engine *engine);

/* What one route decided about a message. */
enum verdict {
    VERDICT_DISPATCHED,  /* deliveries were made (or none, without targets) */
    VERDICT_NO_MATCH,    /* the topic filter, or the link, does not match; only when tracing */
    VERDICT_STOPPED,     /* an earlier route said stop */
    VERDICT_NOT_DECODED, /* the payload is not what `decode` expects */
    VERDICT_WHEN_FALSE,  /* `when` was false */
    VERDICT_ENDED,       /* `function` returned false */
    VERDICT_ERROR,       /* an expression failed */
    VERDICT_RETAINED,    /* a retained message, and the route skips those */
    VERDICT_COUNT
};
const char *verdict_text(enum verdict verdict);

/* A decision, for those who want to know: the log, `explain` and the ledger. */
struct decision {
    const struct message *message;
    const struct route *route;
    enum verdict verdict;
    const char *reason;          /* "" or why, valid during the call */
    const struct fields *fields; /* NULL for NO_MATCH and STOPPED */
    size_t missing;              /* fields of formats that were not there */
};

struct engine_observer {
    void (*decided)(void *context, const struct decision *decision);
    /* A target that was asked for does not exist (its name has fields in it). */
    void (*no_target)(void *context, const struct route *route, const char *name);
    void *context;
    bool trace; /* every route, also those that do not match */
};

/*
 * Routes a message: runs every route that matches, in the order of the file. Returns the deliveries,
 * linked by `next`, or NULL if there are none. `observer` may be NULL.
 */
struct delivery *engine_message(struct engine *engine, struct message *message,
                                const struct engine_observer *observer);

/* Counters since the engine was made. */
struct engine_stats {
    uint64_t messages;
    uint64_t unmatched; /* messages that matched no route */
    uint64_t deliveries;
    uint64_t missing_fields;
    uint64_t no_target;
    uint64_t out_of_memory;
    uint64_t verdicts[VERDICT_COUNT];
};
void engine_stats(const struct engine *engine, struct engine_stats *out);

struct routes *engine_routes(struct engine *engine);

#endif
