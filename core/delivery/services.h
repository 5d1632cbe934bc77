/* SPDX-License-Identifier: MIT */

/*
 * The services of a configuration: plugins loaded, workers running, queues between.
 *
 * Each service has its workers (threads, each with a plugin instance), and each target of a service a
 * queue. What is there once for all plugins:
 *   - order is kept per target and topic: while a delivery waits for its next attempt, later ones of the
 *     same target and topic wait behind it, others pass;
 *   - what is critical, or has a priority above 0, goes before others of its target, with what is before it of its topic; at
 *     most STREAM_URGENT_MOST in a row while others wait (stream.h);
 *   - what a plugin's verdict (plugin.h) leads to: TOCSIN_SENT ends the delivery. TOCSIN_RETRY tries it again after
 *     retry.initial * retry.factor^n, at most retry.max, of which the share retry.jitter is random; or after the
 *     plugin's retry_after_ms, if that is longer ("retry after"). After retry.max_attempts or at retry.max_age it is
 *     given up, loudly. TOCSIN_REJECT ends it at once, as loudly. What is rejected or given up becomes a dead
 *     letter (keep.h);
 *   - a target that the plugin parks, or whose rate limit is reached, holds back only itself;
 *   - a plugin call that outlasts the service's `deadline` is given up as a retry: its worker is
 *     replaced, other services do not notice;
 *   - a target that fails again and again is left alone for a while by its breaker (breaker.h), then tried with
 *     one delivery at a time, ever more rarely, so that the service's other targets get their turns;
 *   - each target's queue is bounded in deliveries and bytes. At the bound, deliveries of QoS 1 and 2 messages hold
 *     their message (so it is not acknowledged) until there is room; those of QoS 0 are dropped and
 *     counted. So a target that is down slows its own queue first, and links only when that is full.
 *
 * Threads: services_new() and the like from the main thread, services_submit() from any.
 */

#ifndef TOCSIN_DELIVERY_SERVICES_H
#define TOCSIN_DELIVERY_SERVICES_H

#include "config/conf.h"
#include "delivery/breaker.h"
#include "router/delivery.h"
#include "router/target.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct services;
struct keeper;
struct ledger;
struct seen;

/* What the outside provides. All of it outlives the services. */
struct services_host {
    const char *plugin_dir; /* where NAME.so are; the environment's TOCSIN_PLUGINS goes first */
    const char *node;       /* name of this router */
    /* Names of the links that a TOCSIN_OPTION_LINK option may give. */
    const char *const *links;
    size_t link_count;
    /* tocsin_host.publish() goes here; NULL when there are no links running. */
    void (*publish)(void *context, const char *link, struct tocsin_publication *const *publications,
                    size_t n, int64_t timeout_ms);
    void *context;
    struct keeper *keeper; /* where deliveries are kept on disk (keep.h); NULL: nowhere */
    struct ledger *ledger; /* where it is noted what became of them; NULL: nowhere */
    struct seen *seen;     /* what has been taken over already (seen.h); NULL: nobody knows */
    /* A delivery was rejected, or given up after so many attempts: with a keeper, it is a dead letter now. NULL when nobody
     * wants to know. By a thread of its service, without a lock; may block for a moment. The delivery (service and target
     * are delivery->target's) is borrowed. Not for messages below "tocsin/", which are about such things: of those there
     * would be no end. Returns false if it is to be said at the next start, as nobody can be told any more. */
    bool (*dead)(void *context, const struct delivery *delivery, const char *reason,
                 unsigned attempts);
};

/*
 * Reads the group `services` of `conf` (taking a reference), loads the plugins, checks all of it and
 * makes the targets; no thread starts and no I/O is done besides loading plugins. Services that are the
 * same as in `previous` (NULL: none) are taken over running, not made again.
 *
 * Returns 0 and sets `*out`; or -EINVAL (`errors` tells) or -ENOMEM, and `previous` goes on as it was.
 */
int services_new(struct conf *conf, const struct services_host *host, struct services *previous,
                 struct services **out, struct conf_errors *errors);

/*
 * Takes in what an earlier run has left on disk. Before the services start. Returns 0 or a negative errno value;
 * deliveries for targets that are not there any more stay on disk, which is logged.
 */
int services_restore(struct services *services);

/* Another program has changed the store: takes in dead letters that are to be tried again. Any thread. */
void services_revive(struct services *services);

/* Starts the workers of services that do not run yet. Returns 0 or a negative errno value. */
int services_start(struct services *services);

/*
 * Ends services. If another set was made with this one as `previous` and is running, nothing that waits is
 * lost: for targets that are there too, with the same formats, it is handed on to them, and a service
 * that has other deliveries goes on behind the new set until they are made. Else the services finish what is
 * queued, for at most `drain_ms`, then stop; what is left is put on disk, or counted and logged.
 *
 * Nobody may submit to them any more. The set and its targets are freed. NULL is allowed. Returns the number
 * of deliveries left undone.
 */
size_t services_free(struct services *services, int64_t drain_ms);

/* The target "service:name"; NULL if there is none. */
struct target *services_target(const struct services *services, const char *service,
                               size_t service_len, const char *name, size_t name_len);

/* Names, for "did you mean" and for "service" as a whole: services, then targets of one (NULL at the
 * end). */
const char *services_name_at(const struct services *services, size_t index);
struct target *services_target_at(const struct services *services, const char *service,
                                  size_t service_len, size_t index);

/*
 * Hands a list of deliveries over, linked by `next`, each to its target's queue, and owns them from then
 * on. Where a bound is reached, a delivery of a QoS 1 or 2 message takes a hold on it before this
 * returns, and one of a QoS 0 message is dropped and counted.
 */
void services_submit(struct delivery *first);

/* A link has lost the connection of this generation, and its broker will send again what was not
 * acknowledged: deliveries that hold such a message are dropped. `link` as in struct message. */
void services_forget_held(struct services *services, const char *link, uint64_t generation);

/* SIGHUP: every instance's reopen() before its next send(). */
void services_reopen(struct services *services);

/* One delivery through the real plugin in this thread, for `tocsin send`: opens an instance, sends once,
 * closes it. `out` has the verdict, reason and receipt. Returns 0 or what the plugin's open() returned. */
int services_send_once(struct delivery *delivery, struct tocsin_delivery *out);

/*
 * Counters of one target since it was made; gauges have no history. Every delivery is accounted for (balance.c): what
 * came in, by one of five ways, is what went out, by one of many, and what waits. What was moved out of one target was
 * moved into another, and what was handed over was taken over.
 */
struct target_stats {
    /* In. */
    uint64_t created;    /* made by routes */
    uint64_t restored;   /* found on disk at the start */
    uint64_t revived;    /* dead letters that a person wanted tried again */
    uint64_t taken_over; /* from the target of the configuration before, at a reload */
    uint64_t moved_in;   /* from a target that came before this one in a route's first_of */

    /* Out. */
    uint64_t sent;
    uint64_t rejected, given_up; /* dead letters */
    uint64_t dropped;            /* the queue was full, and the message of QoS 0 */
    uint64_t forgotten; /* held, and its broker sends the message again (services_forget_held()) */
    uint64_t refused;   /* there was no memory: it is sent again, too; of QoS 0 it is lost */
    uint64_t moved_out; /* to the next one of the first_of */
    uint64_t handed_over; /* to the target of the next configuration */
    uint64_t unreadable;  /* stays on disk */
    uint64_t removed;     /* from the disk, by somebody else */
    uint64_t suppressed;  /* of messages that had been taken over before, and came again */
    uint64_t left;        /* there at the end: on disk for the next start, or undone */

    uint64_t retried; /* attempts in vain, of deliveries that are tried again */
    uint64_t opened;  /* how often the breaker was opened while it was closed */

    /* Gauges. */
    uint64_t
        waiting; /* deliveries in the queue, held ones, those in retry, and those on disk only included */
    uint64_t retrying; /* of these, tried in vain so far */
    uint64_t held;     /* of these, beyond the bound */
    uint64_t spilled;  /* of these, on disk only, and not in `bytes` */
    uint64_t bytes;
    enum breaker_state breaker;
    bool failing; /* the last attempts were in vain */
};
void services_target_stats(const struct target *target, struct target_stats *out);

/* What came in less what went out and what is here: 0, unless a delivery was lost or made twice. */
int64_t target_stats_difference(const struct target_stats *stats);

/* Sums over all targets that there are and ever were in this program, those of earlier configurations included. Any
 * thread. For each target that does not add up right now, `unbalanced` (which may be NULL) is called with a lock: it must
 * be quick. */
void services_sum(struct target_stats *sum,
                  void (*unbalanced)(void *context, const struct target *target,
                                     const struct target_stats *stats),
                  void *context);

/* The core's options for each service and target, for help and the sample (beside the plugin's). */
extern const struct tocsin_option service_core_options[];
extern const struct tocsin_option target_core_options[];
extern const struct tocsin_option retry_options[];
extern const struct tocsin_option queue_options[];
extern const struct tocsin_option breaker_options[];

/* ---- Plugins, for `tocsin plugins`, which needs no services ---- */

/* Loads DIR/NAME.so and checks its ABI and tables. Returns 0 and sets `*out`, which stays loaded; or
 * -ENOENT, -EINVAL, with a sentence in `why`. */
int plugin_load(const char *dir, const char *name, const struct tocsin_plugin **out,
                struct buf *why);

/* The names of the plugins in a folder, sorted, NULL at the end; free with plugin_names_free(). */
char **plugin_names(const char *dir);
void plugin_names_free(char **names);

#endif
