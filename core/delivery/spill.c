/* SPDX-License-Identifier: MIT */

/* Queues that are full go on on disk. See service.h. */

#include "base/clock.h"
#include "base/container.h"
#include "delivery/keep.h"
#include "delivery/service.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOAD_MOST 1000 /* deliveries at a time */

static struct keeper *keeper_of(const struct service_target *t)
{
    return t->service->host->keeper;
}

bool spill_is_needed(const struct service_target *t, const struct delivery *d)
{
    if (!keeper_of(t) || d->kept)
        return false;
    return t->spilled > 0 || !queue_has_place(t->queue, d->size);
}

void spill(struct service_target *t, struct delivery *d, struct delivery *failed)
{
    if (failed)
        keep_move(keeper_of(t), failed, d);
    if (!d->kept) /* QoS 0, or no memory the first time */
        keep_put(keeper_of(t), d, d->message->qos > 0 && (!failed || d->holding));
    if (d->kept) {
        if (t->spilled == 0)
            t->spill_after = d->number - 1;
        t->spill_last = d->number;
        t->spilled++;
    } else {
        t->flow.refused++;
    }
    delivery_free(d); /* the store has borrowed it until it is written */
}

/* ---- Back ---- */

struct loading {
    struct keep_load load;
    struct service_target *target;
    char *names; /* the range's, which outlive the configuration */
};

static void drop_list(struct delivery *list)
{
    while (list) {
        struct delivery *next = list->next;
        delivery_free(list);
        list = next;
    }
}

static void loading_free(struct loading *loading)
{
    service_unref(loading->target->service);
    free(loading->names);
    free(loading);
}

/* Dead letters that a person wants tried again. */
static void loaded_revived(struct keep_load *load)
{
    struct loading *loading = CONTAINER_OF(load, struct loading, load);
    struct service *s = loading->target->service;
    if (load->rows > 0)
        log_info("%s: to be tried again target=%s: %zu deliveries", s->name,
                 loading->target->target.name, load->rows);
    service_submit(s, load->first, ORIGIN_DEAD, clock_mono_ms());
    loading_free(loading);
}

static size_t list_length(const struct delivery *list)
{
    size_t n = 0;
    for (; list; list = list->next)
        n++;
    return n;
}

/* Counts what has been read from the disk as no longer on disk only. With the lock, and before any of it is in the
 * queue. */
static void note_loaded(struct service_target *t, const struct keep_load *load)
{
    size_t before = t->spilled;
    t->spill_after = load->last;
    t->spilled = load->rows > 0 && load->rows < before ? before - load->rows : 0;
    t->flow.unreadable += load->rows - list_length(load->first);
    /* Others may have taken some away, or added some. */
    uint64_t gone = before - t->spilled;
    if (gone > load->rows)
        t->flow.removed += gone - load->rows;
    else
        t->flow.restored += load->rows - gone;
}

/* Gives a place to each: what was loaded is on disk, so it cannot hold its message. With the lock. */
static void take_in(struct service_target *t, struct delivery *list)
{
    int64_t now_ms = clock_mono_ms();
    while (list) {
        struct delivery *d = list;
        list = d->next;
        size_t worker;
        enum queue_place place = queue_submit(t->service->queue, t->queue, d, now_ms, &worker);
        assert((place == QUEUE_PLACED || place == QUEUE_PASSED) && "what is on disk has a place");
        (void)place;
        service_wake(t->service, worker);
    }
}

/* What was loaded belongs to the target's queue; or to nobody, if it has an heir who loads it itself. In one go: what
 * comes in meanwhile is behind it, and an heir finds all of it either here or there. */
static void loaded(struct keep_load *load)
{
    struct loading *loading = CONTAINER_OF(load, struct loading, load);
    struct service_target *t = loading->target;
    struct service *s = t->service;
    struct delivery *list = load->first;

    pthread_mutex_lock(&s->lock);
    t->loading = false;
    if (!t->heired) {
        note_loaded(t, load);
        take_in(t, list);
        list = NULL;
        spill_load(t);
    }
    bool moving = queue_has_moving(s->queue);
    pthread_mutex_unlock(&s->lock);

    if (moving)
        service_move(s);
    drop_list(list);
    loading_free(loading);
}

static struct loading *loading_new(struct service_target *t)
{
    struct loading *loading = calloc(1, sizeof(*loading));
    size_t service_len = strlen(t->target.service) + 1, target_len = strlen(t->target.name) + 1;
    char *names = malloc(service_len + target_len);
    if (!loading || !names) {
        free(loading);
        free(names);
        return NULL;
    }
    memcpy(names, t->target.service, service_len);
    memcpy(names + service_len, t->target.name, target_len);
    size_t room = queue_room(t->queue);
    service_ref(t->service);
    loading->target = t;
    loading->names = names;
    loading->load = (struct keep_load){
        .keeper = keeper_of(t),
        .range = { names, names + service_len, t->spill_after, t->spill_last },
        .most = room < LOAD_MOST ? room : LOAD_MOST,
        .for_target = &t->target,
        .links = t->service->host->links,
        .loaded = loaded,
    };
    return loading;
}

void spill_load(struct service_target *t)
{
    if (t->spilled == 0 || t->loading || t->heired || t->service->stopping ||
        !queue_is_low(t->queue))
        return;
    struct loading *loading = loading_new(t);
    if (!loading)
        return; /* the next delivery that is done tries again */
    t->loading = true;
    keep_load(&loading->load);
}

/* Loads what comes first. Returns 0 or a negative errno value. */
static int load_first(struct service_target *t)
{
    struct loading *loading = loading_new(t);
    if (!loading)
        return -ENOMEM;
    const struct keep_load *load = &loading->load;
    int rc = keep_load_now(&loading->load);
    if (rc == 0) {
        note_loaded(t, load);
        service_submit(t->service, load->first, ORIGIN_DISK, clock_mono_ms());
    }
    loading_free(loading);
    return rc;
}

int spill_restore(struct service_target *t, uint64_t *found)
{
    uint64_t count = 0;
    int rc = keep_count(keeper_of(t), t->target.service, t->target.name, &count, &t->spill_last);
    if (rc < 0)
        return rc;
    *found += count;
    t->spilled = (size_t)count;
    t->flow.restored += count;
    const size_t before = queue_count(t->service->queue);
    /* Where nothing waits, nothing is done that would load more: so what cannot be read must not be all. */
    while (rc == 0 && t->spilled > 0 && queue_count(t->service->queue) == before)
        rc = load_first(t);
    return rc;
}

void spill_revive(struct service_target *t)
{
    struct loading *loading = loading_new(t);
    if (!loading)
        return;
    loading->load.revived = true;
    loading->load.range.after = 0;
    loading->load.range.last = INT64_MAX;
    loading->load.most = KEEP_DEAD_MOST * 2;
    loading->load.loaded = loaded_revived;
    keep_load(&loading->load);
}

void spill_hand_on(struct service_target *from, struct service_target *to)
{
    pthread_mutex_lock(&from->service->lock);
    size_t spilled = from->heired ? 0 : from->spilled;
    uint64_t after = from->spill_after, last = from->spill_last;
    from->heired = true;
    from->spilled = 0;
    from->flow.handed_over += spilled;
    pthread_mutex_unlock(&from->service->lock);
    if (spilled == 0)
        return;
    pthread_mutex_lock(&to->service->lock);
    if (to->spilled == 0 || after < to->spill_after)
        to->spill_after = after;
    if (last > to->spill_last)
        to->spill_last = last;
    to->spilled += spilled;
    to->flow.taken_over += spilled;
    spill_load(to);
    pthread_mutex_unlock(&to->service->lock);
}

size_t spill_count(const struct service *s)
{
    size_t count = 0;
    for (size_t i = 0; i < s->target_count; i++)
        count += s->targets[i]->spilled;
    return count;
}
