/* SPDX-License-Identifier: MIT */

/* All services of a configuration: the set, its watchdog, and what comes from outside. */

#include "delivery/services.h"
#include "ledger/ledger.h"

#include "base/clock.h"
#include "delivery/keep.h"
#include "delivery/seen.h"
#include "delivery/service.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_TICK 1000  /* ms between two looks of the watchdog */
#define FIND_WAIT_MS 10000 /* longest time that a reload waits for the disk */

struct services {
    struct service **items; /* in the order of the file */
    size_t count;
    struct service *
        *ending; /* room for those that end with the set, so that the end needs no memory */
    struct map names;
    struct services *successor; /* the set that was made with this one as `previous` */
    struct services *predecessor;
    struct directory *directory;

    /* The watchdog: looks whether a call of a plugin takes too long. */
    pthread_t watchdog;
    bool watched;
    pthread_mutex_t lock; /* of what follows; before a service's, if both are needed */
    pthread_cond_t wake;
    bool stop;
    int64_t tick_ms;
    struct retired *retired;
    size_t retired_count;
};

/* A service of an earlier set that still has deliveries which nobody else can make. */
struct retired {
    struct retired *next;
    struct service *service; /* with the reference of that set */
};

/* ---- Making ---- */

static struct service *find(const struct services *services, const char *name, size_t len)
{
    return services ? map_get(&services->names, name, len) : NULL;
}

/* The service of `previous` that this group describes, or NULL. */
static struct service *unchanged(const struct services *previous, const struct conf_node *group)
{
    const char *name = conf_node_name(group);
    struct service *s = find(previous, name, strlen(name));
    return s && conf_node_equal(s->group, group) ? s : NULL;
}

static void drop(struct services *services)
{
    for (size_t i = 0; i < services->count; i++)
        service_unref(services->items[i]);
    free(services->items);
    free(services->ending);
    map_release(&services->names);
    directory_unref(services->directory);
    pthread_cond_destroy(&services->wake);
    pthread_mutex_destroy(&services->lock);
    free(services);
}

/* Adds what the group describes: a service that runs already, or a new one. */
static int add(struct services *services, struct conf *conf, const struct conf_node *group,
               const struct services_host *host, const struct services *previous,
               struct conf_errors *errors)
{
    struct service *s = unchanged(previous, group);
    if (s) {
        service_ref(s);
        if (service_check_links(s, host, errors) > 0) {
            service_unref(s);
            return -EINVAL;
        }
    } else {
        int rc = service_new(conf, group, host, &s, errors);
        if (rc < 0)
            return rc;
        s->directory = directory_ref(services->directory);
    }
    services->items[services->count++] = s;
    return map_set(&services->names, s->name, strlen(s->name), s);
}

static int fill(struct services *services, struct conf *conf, const struct services_host *host,
                const struct services *previous, struct conf_errors *errors)
{
    const struct conf_node *group = conf_node_get(conf_root(conf), "services");
    if (!group)
        return 0;
    if (conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "must be a group: write services = { NAME = { ... }; };");
        return -EINVAL;
    }
    size_t count = conf_node_count(group);
    services->items = calloc(count + 1, sizeof(struct service *));
    services->ending = calloc(count + 1, sizeof(struct service *));
    if (!services->items || !services->ending)
        return -ENOMEM;
    int rc = 0;
    for (size_t i = 0; i < count; i++) {
        int one = add(services, conf, conf_node_at(group, i), host, previous, errors);
        if (one < 0 && rc != -ENOMEM)
            rc = one;
    }
    return rc;
}

int services_new(struct conf *conf, const struct services_host *host, struct services *previous,
                 struct services **out, struct conf_errors *errors)
{
    *out = NULL;
    struct services *services = calloc(1, sizeof(*services));
    if (!services)
        return -ENOMEM;
    pthread_mutex_init(&services->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&services->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);

    services->directory = previous ? directory_ref(previous->directory) : directory_new();
    int rc = services->directory ? fill(services, conf, host, previous, errors) : -ENOMEM;
    if (rc < 0) {
        drop(services);
        return rc;
    }
    services->tick_ms = LONGEST_TICK;
    for (size_t i = 0; i < services->count; i++) {
        struct service *s = services->items[i];
        assert(s && "the first `count` places are taken");
        pthread_mutex_lock(&s->lock);
        s->sets++;
        pthread_mutex_unlock(&s->lock);
        if (services->tick_ms > s->core.deadline.ms / 4 + 1)
            services->tick_ms = s->core.deadline.ms / 4 + 1;
    }
    if (previous) {
        previous->successor = services;
        services->predecessor = previous;
    } else {
        directory_set(services->directory, services);
    }
    *out = services;
    return 0;
}

/* ---- Handing on ---- */

/* Whether the deliveries for one target can be sent by the other: they are rendered already. */
static bool can_take_over(const struct service_target *from, const struct service_target *to)
{
    if (from->service->plugin != to->service->plugin || from->target.wants != to->target.wants ||
        from->target.format_count != to->target.format_count)
        return false;
    for (size_t i = 0; i < from->target.format_count; i++)
        if (from->formats[i].clean != to->formats[i].clean ||
            strcmp(format_text(from->formats[i].format), format_text(to->formats[i].format)) != 0)
            return false;
    return true;
}

/* Hands what waits in a service's queue on to the targets of the same names in another set, as far as they
 * can send it. Returns the number of deliveries that are left, with the workers or waiting. */
static size_t hand_on(struct service *s, const struct services *successor)
{
    struct service *to = find(successor, s->name, strlen(s->name));
    for (size_t i = 0; to && i < s->target_count; i++) {
        struct service_target *t = s->targets[i];
        struct service_target *heir = service_target(to, t->target.name, strlen(t->target.name));
        if (heir && !can_take_over(t, heir))
            spill_keep_apart(t, heir);
        if (!heir || !can_take_over(t, heir))
            continue;
        struct spill_part part;
        pthread_mutex_lock(&s->lock);
        spill_give(t, &part);
        struct delivery *list = queue_empty(t->queue);
        for (struct delivery *d = list; d; d = d->next) {
            d->target = &heir->target;
            t->flow.handed_over++;
        }
        pthread_mutex_unlock(&s->lock);
        if (list)
            service_submit(to, list, ORIGIN_OLD, clock_mono_ms());
        spill_take(heir, &part);
    }
    pthread_mutex_lock(&s->lock);
    size_t left = queue_count(s->queue) + spill_count(s);
    pthread_mutex_unlock(&s->lock);
    return left;
}

/* See spill_note(). */
static void note_service(struct service *s, bool on)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->target_count; i++)
        spill_note(s->targets[i], on);
    pthread_mutex_unlock(&s->lock);
}

static void note_set(struct services *services, bool on)
{
    for (size_t i = 0; i < services->count; i++) {
        struct service *s = services->items[i];
        pthread_mutex_lock(&s->lock);
        const bool shared = s->sets > 1;
        pthread_mutex_unlock(&s->lock);
        if (!on || !shared)
            note_service(s, on);
    }
    pthread_mutex_lock(&services->lock);
    for (const struct retired *r = services->retired; r; r = r->next)
        note_service(r->service, on);
    pthread_mutex_unlock(&services->lock);
}

static size_t retired_count(struct services *services)
{
    pthread_mutex_lock(&services->lock);
    size_t count = services->retired_count;
    pthread_mutex_unlock(&services->lock);
    return count;
}

/* Leaves a service with deliveries to a running set. Returns false if there is no memory for it. */
static bool retire(struct services *successor, struct service *s, size_t left)
{
    if (!successor->watched)
        return false;
    struct retired *retired = malloc(sizeof(*retired));
    struct service **ending =
        realloc(successor->ending,
                (successor->count + retired_count(successor) + 1) * sizeof(struct service *));
    if (ending)
        successor->ending = ending;
    if (!retired || !ending) {
        free(retired);
        return false;
    }
    log_info("%s: replaced, with deliveries that the old configuration has to make: %zu", s->name,
             left);
    pthread_mutex_lock(&successor->lock);
    *retired = (struct retired){ .next = successor->retired, .service = s };
    successor->retired = retired;
    successor->retired_count++;
    pthread_mutex_unlock(&successor->lock);
    return true;
}

/* What the last try of a call under way came to may be for others, too; a service that is done ends. Only
 * the watchdog takes one out, so it may look without the lock. */
static void look_at_retired(struct services *services)
{
    pthread_mutex_lock(&services->lock);
    struct retired **at = &services->retired;
    while (*at) {
        struct retired *retired = *at;
        struct service *s = retired->service;
        pthread_mutex_unlock(&services->lock);
        service_check_deadline(s, clock_mono_ms());
        bool done = hand_on(s, services) == 0;
        if (done) {
            service_begin_stop(s, clock_mono_ms());
            service_finish_stop(s);
            log_info("%s: the old configuration has nothing left to do", s->name);
        }
        pthread_mutex_lock(&services->lock);
        if (!done) {
            at = &retired->next;
            continue;
        }
        /* Others are added in front. */
        at = &services->retired;
        while (*at != retired)
            at = &(*at)->next;
        *at = retired->next;
        services->retired_count--;
        service_unref(s);
        free(retired);
    }
    pthread_mutex_unlock(&services->lock);
}

/* ---- Running ---- */

static void *watchdog_main(void *context)
{
    struct services *services = context;
    pthread_mutex_lock(&services->lock);
    while (!services->stop) {
        int64_t due_ms = clock_mono_ms() + services->tick_ms;
        const struct timespec until = { .tv_sec = (time_t)(due_ms / 1000),
                                        .tv_nsec = due_ms % 1000 * 1000000 };
        pthread_cond_timedwait(&services->wake, &services->lock, &until);
        if (services->stop)
            break;
        pthread_mutex_unlock(&services->lock);
        for (size_t i = 0; i < services->count; i++)
            service_check_deadline(services->items[i], clock_mono_ms());
        if (services->count > 0 && services->items[0]->host->keeper)
            keeper_tick(services->items[0]->host->keeper, clock_mono_ms());
        look_at_retired(services);
        pthread_mutex_lock(&services->lock);
    }
    pthread_mutex_unlock(&services->lock);
    return NULL;
}

int services_restore(struct services *services)
{
    struct keeper *keeper = services->count > 0 ? services->items[0]->host->keeper : NULL;
    uint64_t all = 0, last = 0, found = 0;
    int rc = keeper ? keep_revive_all(keeper) : 0;
    if (keeper && rc == 0)
        rc = keep_count(keeper, NULL, NULL, &all, &last);
    for (size_t i = 0; keeper && i < services->count; i++)
        for (size_t j = 0; rc == 0 && j < services->items[i]->target_count; j++)
            rc = spill_restore(services->items[i]->targets[j], &found);
    if (rc < 0)
        return rc;
    if (found > 0)
        log_info("%" PRIu64 " deliveries go on that an earlier run has left", found);
    if (all > found) {
        keeper_set_stray(keeper, all - found);
        log_warning("%" PRIu64 " deliveries on disk are for targets that are not configured: they "
                    "stay there until their targets are configured again",
                    all - found);
    }
    return 0;
}

void services_revive(struct services *services)
{
    for (size_t i = 0; i < services->count; i++)
        for (size_t j = 0; j < services->items[i]->target_count; j++)
            spill_revive(services->items[i]->targets[j]);
}

/* Whether the set before has a target of this name, or one that is left of an earlier one: then what is on disk is its. */
static bool had_before(struct services *before, const struct service_target *t)
{
    const char *service = t->service->name, *name = t->target.name;
    if (services_target(before, service, strlen(service), name, strlen(name)))
        return true;
    bool had = false;
    pthread_mutex_lock(&before->lock);
    for (const struct retired *r = before->retired; r && !had; r = r->next)
        had = strcmp(r->service->name, service) == 0 &&
              service_target(r->service, name, strlen(name));
    pthread_mutex_unlock(&before->lock);
    return had;
}

/* Asks what is on disk for a service's targets, where that can be nobody's. Returns 0 or -ENOMEM. */
static int ask(struct services *before, const struct service *s, struct keep_find **list)
{
    for (size_t i = 0; i < s->target_count; i++) {
        if (had_before(before, s->targets[i]))
            continue;
        struct keep_find *asked = keep_find(s->host->keeper, &s->targets[i]->target, *list);
        if (!asked)
            return -ENOMEM;
        *list = asked;
    }
    return 0;
}

/* Takes up what is on disk for targets that were not configured before: what comes for them from now on is behind it. Returns 0
 * or a negative errno value. */
static int take_up(struct services *services)
{
    struct services *before = services->predecessor;
    struct keeper *keeper = services->count > 0 ? services->items[0]->host->keeper : NULL;
    struct keep_find *list = NULL;
    int rc = 0;
    for (size_t i = 0; keeper && before && rc == 0 && i < services->count; i++)
        if (find(before, services->items[i]->name, strlen(services->items[i]->name)) !=
            services->items[i])
            rc = ask(before, services->items[i], &list);
    if (!list)
        return rc;
    int answers = keep_find_answers(list, FIND_WAIT_MS);
    if (answers < 0)
        return answers;
    uint64_t found = 0;
    for (const struct keep_find *f = list; rc == 0 && f; f = f->next) {
        struct service_target *t = f->target->owner;
        pthread_mutex_lock(&t->service->lock);
        spill_find(t, f->count, f->last);
        pthread_mutex_unlock(&t->service->lock);
        found += f->count;
    }
    keep_find_free(list);
    keeper_found_stray(keeper, found);
    if (found > 0)
        log_info("%" PRIu64 " deliveries go on that have waited on disk for targets that were not "
                 "configured",
                 found);
    return rc;
}

int services_start(struct services *services)
{
    int taken_up = take_up(services);
    if (taken_up < 0)
        return taken_up;
    for (size_t i = 0; i < services->count; i++) {
        struct service *s = services->items[i];
        pthread_mutex_lock(&s->lock);
        int rc = s->running ? 0 : service_start_workers(s);
        for (size_t j = 0; rc == 0 && j < s->target_count; j++)
            spill_load(s->targets[j]);
        pthread_mutex_unlock(&s->lock);
        if (rc < 0)
            return rc;
    }
    if (services->predecessor) {
        note_set(services->predecessor, true);
        note_set(services, true);
        directory_set(services->directory, services);
    }
    if (services->watched || (services->count == 0 && !services->predecessor))
        return 0;
    int rc = thread_start(&services->watchdog, "watchdog", watchdog_main, services);
    services->watched = rc == 0;
    return rc;
}

static void stop_watchdog(struct services *services)
{
    if (!services->watched)
        return;
    pthread_mutex_lock(&services->lock);
    services->stop = true;
    pthread_cond_signal(&services->wake);
    pthread_mutex_unlock(&services->lock);
    pthread_join(services->watchdog, NULL);
    services->watched = false;
}

/* ---- Ending ---- */

/* Brings together the services that end with this set: its own that no other has, and retired ones. They
 * become the items of the set, each with a reference. */
static void gather_ending(struct services *services)
{
    size_t count = 0;
    for (size_t i = 0; i < services->count; i++) {
        struct service *s = services->items[i];
        pthread_mutex_lock(&s->lock);
        bool last = --s->sets == 0;
        pthread_mutex_unlock(&s->lock);
        if (last)
            services->ending[count++] = s;
        else /* another set has it: this one only lets go */
            service_unref(s);
    }
    while (services->retired) {
        struct retired *r = services->retired;
        services->retired = r->next;
        services->ending[count++] = r->service;
        free(r);
    }
    free(services->items);
    services->items = services->ending;
    services->ending = NULL;
    services->count = count;
}

/* Puts on disk what is left in a service that has ended. What is not acknowledged is sent again by its broker,
 * and so forgotten here. */
static void keep_rest(struct service *s)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->target_count; i++) {
        struct delivery *list = queue_empty(s->targets[i]->queue);
        while (list) {
            struct delivery *d = list;
            list = d->next;
            s->targets[i]->flow.forgotten += d->holding;
            s->targets[i]->flow.left += !d->holding;
            if (d->holding) {
                ledger_note_one(s->host->ledger, LEDGER_FORGOTTEN, d, "the program ended");
                keep_end(s->host->keeper, d);
            } else
                keep_put(s->host->keeper, d, false);
            delivery_free(d);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

size_t services_free(struct services *services, int64_t drain_ms)
{
    if (!services)
        return 0;
    stop_watchdog(services);
    struct services *successor = services->successor;
    if (successor)
        successor->predecessor = NULL;
    if (services->predecessor) {
        note_set(services->predecessor, false);
        services->predecessor->successor = NULL;
    }
    gather_ending(services);

    /* All of them stop at the same time, so the time is spent once. */
    int64_t stop_ms = clock_mono_ms() + drain_ms;
    size_t ending = 0, undone = 0;
    for (size_t i = 0; i < services->count; i++) {
        struct service *s = services->items[i];
        size_t left = successor ? hand_on(s, successor) : 0;
        note_service(s, false);
        if (left > 0 && retire(successor, s, left))
            continue;
        services->items[ending++] = s;
        service_begin_stop(s, stop_ms);
    }
    services->count = ending;
    if (successor)
        note_set(successor, false);

    for (size_t i = 0; i < services->count; i++)
        service_finish_stop(services->items[i]);
    directory_forget(services->directory, services); /* none moves any more */
    for (size_t i = 0; i < services->count; i++) {
        struct service *s = services->items[i];
        size_t left = hand_on(s, successor);
        if (left > 0 && s->host->keeper) {
            keep_rest(s);
            log_info("%s: kept on disk for the next start: %zu deliveries", s->name, left);
            left = 0;
        }
        if (left > 0)
            log_error("%s: ended with deliveries undone: %zu", s->name, left);
        undone += left;
    }
    drop(services);
    return undone;
}

/* ---- Finding ---- */

struct target *services_target(const struct services *services, const char *service,
                               size_t service_len, const char *name, size_t name_len)
{
    const struct service *s = find(services, service, service_len);
    struct service_target *t = s ? service_target(s, name, name_len) : NULL;
    return t ? &t->target : NULL;
}

const char *services_name_at(const struct services *services, size_t index)
{
    return index < services->count ? services->items[index]->name : NULL;
}

struct target *services_target_at(const struct services *services, const char *service,
                                  size_t service_len, size_t index)
{
    const struct service *s = find(services, service, service_len);
    return s && index < s->target_count ? &s->targets[index]->target : NULL;
}

/* ---- Working ---- */

/* Ends those that were known already. */
static void drop_known(struct delivery *list)
{
    while (list) {
        struct delivery *d = list;
        list = d->next;
        struct service_target *t = service_target_of(d);
        pthread_mutex_lock(&t->service->lock);
        t->flow.created++;
        t->flow.suppressed++;
        pthread_mutex_unlock(&t->service->lock);
        ledger_note_one(t->service->host->ledger, LEDGER_SUPPRESSED, d,
                        "its message was taken over before");
        delivery_free(d);
    }
}

void services_submit(struct delivery *first)
{
    int64_t now_ms = first ? clock_mono_ms() : 0;
    struct seen *seen = first ? service_target_of(first)->service->host->seen : NULL;
    struct delivery *again = NULL;
    if (seen)
        first = seen_pass(seen, first, now_ms, &again);
    drop_known(again);
    while (first) {
        struct service *s = service_target_of(first)->service;
        struct delivery_list ours = { 0 }, others = { 0 };
        while (first) {
            struct delivery *d = first;
            first = d->next;
            delivery_list_append(service_target_of(d)->service == s ? &ours : &others, d);
        }
        service_submit(s, ours.first, ORIGIN_ROUTE, now_ms);
        first = others.first;
    }
}

static size_t forget_held(struct service *s, const char *link, uint64_t generation)
{
    size_t forgotten = 0;
    pthread_mutex_lock(&s->lock);
    struct delivery *list = queue_forget_held(s->queue, link, generation);
    pthread_mutex_unlock(&s->lock);
    while (list) {
        struct delivery *next = list->next;
        ledger_note_one(s->host->ledger, LEDGER_FORGOTTEN, list,
                        "the connection that brought it was lost");
        if (s->host->seen)
            seen_forget(s->host->seen, list);
        if (s->host->keeper)
            keep_end(s->host->keeper, list);
        delivery_free(list);
        list = next;
        forgotten++;
    }
    return forgotten;
}

void services_forget_held(struct services *services, const char *link, uint64_t generation)
{
    size_t forgotten = 0;
    for (size_t i = 0; i < services->count; i++)
        forgotten += forget_held(services->items[i], link, generation);
    pthread_mutex_lock(&services->lock);
    for (const struct retired *r = services->retired; r; r = r->next)
        forgotten += forget_held(r->service, link, generation);
    pthread_mutex_unlock(&services->lock);
    if (forgotten > 0)
        log_info("link %s: will send again what had no place in a queue: %zu deliveries", link,
                 forgotten);
}

void services_reopen(struct services *services)
{
    for (size_t i = 0; i < services->count; i++)
        service_reopen(services->items[i]);
}

int services_send_once(struct delivery *delivery, struct tocsin_delivery *out)
{
    struct service *s = service_target_of(delivery)->service;
    struct instance_host host;
    instance_host_init(&host, s->name, s->host);
    instance_prepare(out, delivery);

    void *self = NULL;
    int rc = s->plugin->open(&host.host, s->config, &self);
    if (rc < 0)
        return rc;
    struct tocsin_delivery *one = out;
    s->plugin->send(self, &one, 1);
    s->plugin->close(self);
    return 0;
}

void services_target_stats(const struct target *target, struct target_stats *out)
{
    const struct service_target *t = target->owner;
    pthread_mutex_lock(&t->service->lock);
    balance_target(t, out);
    pthread_mutex_unlock(&t->service->lock);
}
