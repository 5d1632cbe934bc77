/* SPDX-License-Identifier: MIT */

/*
 * One service: its configuration, its targets, its queue and its workers. Internal to delivery/.
 *
 * What is read from the configuration never changes. All that does is guarded by `lock`, and nobody holds two
 * services' locks at a time, nor calls a plugin, a link or the log of a stranger with one held.
 *
 * A service is kept by the sets it is in and by its threads; a thread that was given up on may be the last.
 */

#ifndef TOCSIN_DELIVERY_SERVICE_H
#define TOCSIN_DELIVERY_SERVICE_H

#include "base/log.h"
#include "base/map.h"
#include "config/options.h"
#include "delivery/queue.h"
#include "delivery/services.h"
#include "delivery/stream.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SERVICE_MOST_ABANDONED 4 /* threads of one service that never came back from the plugin */

struct directory;
struct service;
struct worker;

struct retry_config {
    struct tocsin_duration initial;
    double factor;
    struct tocsin_duration max;
    double jitter;
    int64_t max_attempts;
    struct tocsin_duration max_age;
};

struct queue_config {
    int64_t max_messages;
    struct tocsin_size max_bytes;
};

struct breaker_config {
    int64_t failures;
    struct tocsin_duration open_for, max; /* 0: by the rules for retries */
};

/* What every service has, whatever its plugin. */
struct service_core {
    const char *plugin;
    int64_t workers;
    struct tocsin_duration deadline;
    const struct tocsin_node *retry;
    const struct tocsin_node *queue;
    const struct tocsin_node *breaker;
    const struct tocsin_node *targets;
};

struct target_core {
    int64_t rate_limit;
    struct tocsin_duration rate_per;
    const struct tocsin_node *retry;
    const struct tocsin_node *queue;
    const struct tocsin_node *breaker;
};

/* Ways of deliveries into a target and out of it that its queue does not count: see struct target_stats. With the lock, in
 * one go with what moves them. */
struct target_flow {
    uint64_t created, restored, revived, taken_over, moved_in;
    uint64_t forgotten, refused, handed_over, unreadable, removed, suppressed, left;
};

struct service_target {
    struct target target; /* its owner is this */
    struct service *service;
    struct queue_target *queue;
    void *config; /* the plugin's own */
    struct options_memory memory;
    struct target_format *formats;
    const struct conf_node *group; /* NULL: the implicit one */

    /* Under the lock. */
    struct log_trouble failing, rejecting, giving_up, moving, full;
    struct target_flow flow;

    /* What is on disk only, since the queue is full: deliveries with a number above `spill_after`, up to
     * `spill_last` (spill.c). */
    size_t spilled;
    uint64_t spill_after, spill_last;
    /* The topics that it has something of (topics.h); NULL: they are not known. While a scan finds them out, those that
     * come meanwhile. */
    uint64_t *spilled_topics, *scan_topics;
    /* The numbers of what is to be loaded before all else: what is urgent, and before it what its topics have. From
     * `urgent_at` on. */
    uint64_t *urgent;
    size_t urgent_at, urgent_count;
    int64_t scan_ms;     /* no new scan before that */
    bool urgent_spilled; /* something urgent has gone to disk since the last scan began */
    bool scanning;
    /* The numbers of those in that range that are not on disk only; in ascending order. */
    uint64_t *ahead;
    size_t ahead_count, ahead_cap;
    /* The numbers of those that have gone to disk only since `noting` began. */
    uint64_t *noted;
    size_t noted_count, noted_cap;
    bool noting;    /* there is an heir, or one from whom to inherit: see spill_note() */
    bool loading;   /* some of it is on its way back */
    bool heired;    /* it is another target's now */
    bool more_dead; /* there are more dead letters to be tried again */
};

struct service {
    struct service *next, *prev; /* of all that there are (balance.c) */
    atomic_uint refs;
    struct conf *conf; /* what all configuration points into */
    const struct conf_node *group;
    const char *name;
    const struct services_host *host;
    struct directory *directory; /* a reference */
    const struct tocsin_plugin *plugin;
    struct service_core core;
    void *config; /* the plugin's own */
    struct options_memory memory;
    struct service_target **targets;
    size_t target_count;
    struct map target_names;
    size_t max_batch;

    pthread_mutex_t lock;
    pthread_cond_t ended; /* a worker has */
    size_t sets;          /* that it is in */
    struct queue *queue;
    struct worker **workers; /* `worker_count` places, empty before the start and after a thread was
                              * given up on for good */
    size_t worker_count;
    size_t abandoned;
    size_t first_batch; /* deliveries that a new worker begins with */
    bool running;
    bool stopping;
    int64_t stop_ms; /* when stopping: what is not done by then stays undone */
};

/* Reads a service's group. Returns 0 and sets `*out`, with one reference and in no set; or -EINVAL (`errors`
 * tells) or -ENOMEM. */
int service_new(struct conf *conf, const struct conf_node *group, const struct services_host *host,
                struct service **out, struct conf_errors *errors);
void service_ref(struct service *service);
void service_unref(struct service *service);

/* Loads the plugin of a name from where the host says. Errors as plugin_load(). */
int service_find_plugin(const struct services_host *host, const char *name,
                        const struct tocsin_plugin **out, struct buf *why);

/* Checks that the links it names are there. Returns the number of errors. */
size_t service_check_links(const struct service *service, const struct services_host *host,
                           struct conf_errors *errors);

struct service_target *service_target(const struct service *service, const char *name, size_t len);

/* The service's target that a delivery is for. */
static inline struct service_target *service_target_of(const struct delivery *d)
{
    return d->target->owner;
}

/* ---- worker.c ---- */

/* Starts a thread that signals do not go to: they are the main thread's. Returns 0 or a negative errno
 * value. */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *context);

/* Fills the empty places with running workers. Returns 0 or a negative errno value. With the lock. */
int service_start_workers(struct service *service);

/* Wakes a worker that waits. With the lock. */
void service_wake(struct service *service, size_t worker);

/* Gives up on workers that have been in a plugin call for longer than the deadline, and starts others. Without
 * the lock. */
void service_check_deadline(struct service *service, int64_t now_ms);

/* Tells the workers to finish what is queued by `stop_ms`, then to end. Without the lock. */
void service_begin_stop(struct service *service, int64_t stop_ms);

/* Awaits the end of the workers, at the latest `stop_ms`; then gives up on those that still run. */
void service_finish_stop(struct service *service);

/* Every instance's reopen() before its next send(). */
void service_reopen(struct service *service);

/* ---- outcome.c ---- */

/* Room for what service_settle() finds out about a batch, one each. */
struct settling {
    enum queue_fate *fates;
    uint8_t *notes;
};

/*
 * Ends a batch that was taken from the queue: settles it, frees what is done, tells the log, gives free
 * places away. Called with the lock, which it drops for a while.
 */
void service_settle(struct service *service, struct delivery *const *batch,
                    const struct tocsin_delivery *results, size_t n, struct settling *room);

/* A delivery has been in vain after so many attempts: tells whoever wants to know, and makes a dead letter of it. Without the
 * lock. */
void service_bury(const struct services_host *host, struct delivery *d, const char *reason,
                  unsigned attempts);

/* Tells the log of breakers that have changed their state, if some have. With the lock. */
void service_tell_news(struct service *service);
/* Where deliveries come from. */
enum origin {
    ORIGIN_ROUTE,
    ORIGIN_OLD,  /* the target of the configuration before, which counts them as handed over */
    ORIGIN_DEAD, /* dead letters, which are to be tried again */
    ORIGIN_DISK, /* they have been counted */
};

/* Submits a list of its own deliveries. Without the lock. */
void service_submit(struct service *service, struct delivery *first, enum origin origin,
                    int64_t now_ms);

/* ---- note.c ---- */

/* Tells the ledger what became of a batch: of those that are in the queue again (with the lock), or of the others. */
void service_note(const struct service *service, struct delivery *const *batch,
                  const struct tocsin_delivery *results, size_t n, const enum queue_fate *fates,
                  bool in_queue);

/* Submits the fallback of a delivery that has failed elsewhere, and frees that one. Without the lock. */
void service_submit_moved(struct service_target *target, struct delivery *fallback,
                          struct delivery *failed, int64_t now_ms);

/* ---- move.c ---- */

/*
 * From a target on to the next one of a route's first_of. The next one may be another service's, and its configuration may
 * have been read again meanwhile, so targets are found by their names in the directory, which all sets of services that
 * follow each other share. One move is made at a time, so that a topic's deliveries come in their order.
 */
struct directory *directory_new(void); /* NULL when there is no memory */
struct directory *directory_ref(struct directory *directory);
void directory_unref(struct directory *directory); /* NULL is allowed */

/* From now on names are looked up in this set; NULL: nowhere. Awaits moves that are under way. */
void directory_set(struct directory *directory, struct services *services);

/* If it is that one that names are looked up in, they are not any more. */
void directory_forget(struct directory *directory, const struct services *services);

/* Makes the moves that are to be made. Without a lock. */
void service_move(struct service *service);

/* ---- spill.c ---- */

/*
 * With a store, a full queue spills: what has no place is put on disk, and comes back in its order when half of
 * the queue is free. As long as there is anything of a target on disk only, what is new goes there too, behind it; but not
 * what is urgent, unless it is of a topic that has something there. Where urgent ones have gone to disk, or are found there
 * at the start, a scan (scan.h) finds them and what is before them of their topics: that is loaded first.
 */

/* Whether a delivery has to go to disk only; else it is to be submitted. With the lock. */
bool spill_is_needed(struct service_target *target, struct delivery *delivery);

/* Puts it there; it belongs to the store then. If it comes in place of one that has failed, that one is taken away from
 * there; else `failed` is NULL. With the lock. */
void spill(struct service_target *target, struct delivery *delivery, struct delivery *failed);

/* Loads more, if there is room and something to load. With the lock. */
void spill_load(struct service_target *target);

/* Takes in what an earlier run has left of a target. Before the workers run. Returns 0 or a negative errno
 * value, and adds what was found to `*found`. */
int spill_restore(struct service_target *target, uint64_t *found);

/* The same while the program runs, for a target that nobody has made anything for yet: so many are on disk, up to this number.
 * With the lock; spill_load() then loads them. */
void spill_find(struct service_target *target, uint64_t count, uint64_t last);

/* Takes in dead letters that a person wants tried again, if there are any. */
void spill_revive(struct service_target *target);

/*
 * Handing on what is on disk only to another target of the same name. While both take deliveries in, each other's rows are
 * between their own; so from before the second one's first until after the handing on, both note the numbers of what is not
 * on disk only, and neither loads anything. With the target's lock.
 */
void spill_note(struct service_target *target, bool on);

/* What is handed on. */
struct spill_part {
    size_t count;
    uint64_t after, last;
    uint64_t *topics, *ahead;
    size_t ahead_count;
    bool urgent; /* something of it may be */
};

/* Takes it from a target, which loads nothing more, not even what is on its way. With its lock, in one go with the
 * emptying of its queue: what is loaded later is behind that. */
void spill_give(struct service_target *from, struct spill_part *out);

/* Gives it to the other. Without a lock. */
void spill_take(struct service_target *to, struct spill_part *part);

/* Where the other cannot send it, each goes on with its own: both leave out what the other has between it. While both note,
 * after the first one's last. Without a lock. */
void spill_keep_apart(struct service_target *from, struct service_target *to);

/* Forgets what is known of what is on disk. */
void spill_release(struct service_target *target);

/* Deliveries on disk only. With the lock. */
size_t spill_count(const struct service *service);

/* ---- balance.c ---- */

/* From here to its end the service counts in services_sum(); what is in it at its end is `left`. Without a lock. */
void balance_add(struct service *service);
void balance_remove(struct service *service);

/* With the lock. */
void balance_target(const struct service_target *target, struct target_stats *out);

/* ---- host.c ---- */

/* What a plugin instance is given. */
struct instance_host {
    struct tocsin_host host; /* first: the plugin's pointer to it is ours too */
    const struct services_host *outside;
    atomic_bool cut_off; /* the instance was given up on: it reaches nobody any more */
};

void instance_host_init(struct instance_host *host, const char *service,
                        const struct services_host *outside);

/* Makes ready what the plugin is shown of a delivery. */
void instance_prepare(struct tocsin_delivery *out, const struct delivery *delivery);

#endif
