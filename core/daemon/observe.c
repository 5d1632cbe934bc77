/* SPDX-License-Identifier: MIT */

#include "daemon/state.h"

#include <inttypes.h>
#include <string.h>

#define MOST_UNBALANCED 3 /* that are named */

struct unbalanced {
    struct observation *seen;
    size_t count;
};

/* With the service's lock. */
static void note_unbalanced(void *context, const struct target *target,
                            const struct target_stats *stats)
{
    struct unbalanced *u = context;
    if (u->count++ < MOST_UNBALANCED)
        buf_addf(&u->seen->unbalanced, "%starget %s:%s has %" PRId64 " deliveries more or less",
                 u->count > 1 ? "; " : "", target->service, target->name,
                 target_stats_difference(stats));
}

static void observe_targets(struct daemon *daemon, struct observation *out)
{
    pthread_mutex_lock(&daemon->services_lock);
    const struct services *services = daemon->services;
    const char *service;
    for (size_t i = 0; services && (service = services_name_at(services, i)); i++) {
        const struct target *target;
        for (size_t j = 0; (target = services_target_at(services, service, strlen(service), j));
             j++) {
            struct target_stats stats;
            services_target_stats(target, &stats);
            observation_add_target(out, service, target->name, &stats);
        }
    }
    pthread_mutex_unlock(&daemon->services_lock);
}

static void observe_links(struct daemon *daemon, struct observation *out)
{
    pthread_rwlock_rdlock(&daemon->links_lock);
    const char *name;
    for (size_t i = 0; daemon->links && (name = links_name_at(daemon->links, i)); i++) {
        struct link_stats stats;
        links_stats(daemon->links, name, &stats);
        observation_add_link(out, name, &stats);
    }
    pthread_rwlock_unlock(&daemon->links_lock);
}

/* Against the flow: what has come further is counted before what it came from. */
void observe(struct daemon *daemon, struct observation *out)
{
    struct unbalanced unbalanced = { .seen = out };
    services_sum(&out->sum, note_unbalanced, &unbalanced);
    out->routing = daemon->routed;
    for (size_t i = 0; i < daemon->shard_count; i++)
        shard_add_stats(daemon->shards[i], &out->routing);
    out->routing.internal = atomic_load(&daemon->internal);
    observe_links(daemon, out);

    observe_targets(daemon, out);
    out->has_store = daemon->store;
    if (daemon->store) {
        store_stats(daemon->store, &out->store);
        ledger_stats(daemon->ledger, &out->ledger);
        out->dead_letters = keeper_dead(daemon->keeper);
        out->stray = keeper_stray(daemon->keeper);
    }
    out->has_broker = daemon->broker;
    if (daemon->broker)
        broker_stats(daemon->broker, &out->broker);
}
