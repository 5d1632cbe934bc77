/* SPDX-License-Identifier: MIT */

/* On to the fallback. See service.h; any thread. */

#include "base/clock.h"
#include "delivery/keep.h"
#include "delivery/service.h"
#include "ledger/ledger.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct directory {
    atomic_uint refs;
    pthread_mutex_t moving;    /* by who makes moves; before a service's lock */
    struct services *services; /* under it */
};

struct directory *directory_new(void)
{
    struct directory *directory = calloc(1, sizeof(*directory));
    if (!directory)
        return NULL;
    atomic_init(&directory->refs, 1);
    pthread_mutex_init(&directory->moving, NULL);
    return directory;
}

struct directory *directory_ref(struct directory *directory)
{
    atomic_fetch_add_explicit(&directory->refs, 1, memory_order_relaxed);
    return directory;
}

void directory_unref(struct directory *directory)
{
    if (!directory || atomic_fetch_sub_explicit(&directory->refs, 1, memory_order_acq_rel) > 1)
        return;
    pthread_mutex_destroy(&directory->moving);
    free(directory);
}

void directory_set(struct directory *directory, struct services *services)
{
    pthread_mutex_lock(&directory->moving);
    directory->services = services;
    pthread_mutex_unlock(&directory->moving);
}

void directory_forget(struct directory *directory, const struct services *services)
{
    pthread_mutex_lock(&directory->moving);
    if (directory->services == services)
        directory->services = NULL;
    pthread_mutex_unlock(&directory->moving);
}

/* ---- Where to ---- */

/* Whether the target can send it: it was rendered for the formats that the target had then. */
static bool fits(const struct delivery *d, const struct target *t)
{
    if (d->rendered_count != t->format_count || ((t->wants & TOCSIN_WANTS_HTML) && !d->view.html))
        return false;
    for (size_t i = 0; i < t->format_count; i++)
        if (t->formats[i].format && !d->rendered[i])
            return false;
    return true;
}

/* Finds the first of the fallbacks that can be submitted, and where. */
static struct delivery *find_fallback(const struct services *services, const struct delivery *d,
                                      struct service_target **out)
{
    *out = NULL;
    for (struct delivery *next = d->fallback; next && services; next = next->fallback) {
        const char *colon = strchr(next->address, ':');
        const struct target *t = services_target(
            services, next->address, (size_t)(colon - next->address), colon + 1, strlen(colon + 1));
        if (t && fits(next, t)) {
            *out = t->owner;
            return next;
        }
    }
    return NULL;
}

/* ---- Moving ---- */

static struct delivery_list take(struct service *s)
{
    struct delivery_list out = { 0 };
    pthread_mutex_lock(&s->lock);
    struct delivery *first = queue_moving(s->queue, clock_mono_ms());
    for (const struct delivery *d = first; d; d = d->next) {
        struct service_target *t = service_target_of(d);
        if (t->spilled > 0)
            spill_load(t);
    }
    pthread_mutex_unlock(&s->lock);
    while (first) {
        struct delivery *d = first;
        first = d->next;
        delivery_list_append(&out, d);
    }
    return out;
}

/* There is no fallback that could be tried: its end is here. */
static void end(struct delivery *d)
{
    static const char reason[] =
        "failed, and none of the targets to fall back to is configured any more";
    struct service_target *t = service_target_of(d);
    struct service *s = t->service;
    pthread_mutex_lock(&s->lock);
    queue_not_moved(t->queue);
    pthread_mutex_unlock(&s->lock);
    log_error("%s: delivery given up target=%s topic=%s attempts=%u: %s", s->name, t->target.name,
              d->view.topic, d->attempts, reason);
    ledger_note_one(s->host->ledger, LEDGER_GIVEN_UP, d, reason);
    service_bury(s->host, d, reason, d->attempts);
    delivery_free(d);
}

static void append_all(struct delivery_list *list, struct delivery_list more)
{
    while (more.first) {
        struct delivery *d = more.first;
        more.first = d->next;
        delivery_list_append(list, d);
    }
}

void service_move(struct service *service)
{
    struct directory *directory = service->directory;
    struct delivery_list ended = { 0 };

    pthread_mutex_lock(&directory->moving);
    struct delivery_list list = take(service);
    while (list.first) {
        struct delivery *d = list.first;
        list.first = d->next;
        struct service_target *to;
        struct delivery *next = find_fallback(directory->services, d, &to);
        if (!next) {
            delivery_list_append(&ended, d);
            continue;
        }
        log_debug("%s: delivery goes on to %s target=%s topic=%s id=%s", d->target->service,
                  next->address, d->target->name, d->view.topic, d->id);
        if (!d->failed) /* else it has been noted with its reason */
            ledger_note_moved(service->host->ledger, d, next->address, "the breaker was open");
        service_submit_moved(to, next, d, clock_mono_ms());
        append_all(&list, take(to->service)); /* where it is not taken either */
    }
    pthread_mutex_unlock(&directory->moving);

    while (ended.first) {
        struct delivery *d = ended.first;
        ended.first = d->next;
        end(d);
    }
}
