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

/* ---- What is where ---- */

#define FILTER_BITS ((uint64_t)1 << 19)

static bool is_in_filter(const uint64_t *filter, uint64_t hash)
{
    uint64_t one = hash % FILTER_BITS, other = hash / FILTER_BITS % FILTER_BITS;
    return (filter[one / 64] >> one % 64 & 1) && (filter[other / 64] >> other % 64 & 1);
}

static void add_to_filter(uint64_t *filter, uint64_t hash)
{
    uint64_t one = hash % FILTER_BITS, other = hash / FILTER_BITS % FILTER_BITS;
    filter[one / 64] |= (uint64_t)1 << one % 64;
    filter[other / 64] |= (uint64_t)1 << other % 64;
}

static uint64_t hash_of(const struct delivery *d)
{
    return map_hash(d->message->topic, d->message->topic_len);
}

static void forget_topics(struct service_target *t)
{
    free(t->spilled_topics);
    t->spilled_topics = NULL;
}

/* It is going to be on disk only. */
static void note_topic(struct service_target *t, const struct delivery *d)
{
    if (t->spilled == 0) {
        forget_topics(t);
        t->spilled_topics = calloc(FILTER_BITS / 64, sizeof(*t->spilled_topics));
        if (!t->noting)
            t->ahead_count = 0; /* they are before what will be there */
    }
    if (t->spilled_topics)
        add_to_filter(t->spilled_topics, hash_of(d));
}

/* Makes room for so many more numbers. Returns false when there is no memory. */
static bool has_room_ahead(struct service_target *t, size_t more)
{
    if (t->ahead_count + more <= t->ahead_cap)
        return true;
    size_t cap = t->ahead_cap * 2 + more + 16;
    uint64_t *ahead = realloc(t->ahead, cap * sizeof(*ahead));
    if (!ahead)
        return false;
    t->ahead = ahead;
    t->ahead_cap = cap;
    return true;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool is_ahead(const struct service_target *t, uint64_t number)
{
    return t->ahead_count > 0 &&
           bsearch(&number, t->ahead, t->ahead_count, sizeof(number), compare);
}

/* Whether an urgent delivery may go before what is on disk only. */
static bool may_go_ahead(const struct service_target *t, const struct delivery *d)
{
    if (!delivery_is_urgent(d) || !queue_has_urgent_place(t->queue, d->size))
        return false;
    return t->spilled == 0 || (t->spilled_topics && !is_in_filter(t->spilled_topics, hash_of(d)));
}

/* One that is taken in, and must not be loaded. Its number is the highest of the target's so far. */
static bool note_ahead(struct service_target *t, struct delivery *d)
{
    if (!has_room_ahead(t, 1))
        return false;
    keep_order(keeper_of(t), d);
    t->ahead[t->ahead_count++] = d->number;
    return true;
}

bool spill_is_needed(struct service_target *t, struct delivery *d)
{
    if (!keeper_of(t) || d->kept)
        return false;
    const bool fits = t->spilled == 0 && queue_has_place(t->queue, d->size);
    if (!fits && !may_go_ahead(t, d))
        return true;
    /* One that has a number has come from a target that has noted it, if that was needed. */
    return (t->spilled > 0 || t->noting) && d->number == 0 && !note_ahead(t, d);
}

void spill_release(struct service_target *t)
{
    forget_topics(t);
    free(t->ahead);
}

/* ---- Out ---- */

void spill(struct service_target *t, struct delivery *d, struct delivery *failed)
{
    if (!d->kept)
        d->number = 0; /* a place that it had elsewhere may be before what has been loaded */
    if (failed)
        keep_move(keeper_of(t), failed, d);
    if (!d->kept) /* QoS 0, or no memory the first time */
        keep_put(keeper_of(t), d, d->message->qos > 0 && (!failed || d->holding));
    if (d->kept) {
        note_topic(t, d);
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
    pthread_mutex_lock(&s->lock);
    loading->target->more_dead = load->more;
    if (load->more)
        spill_load(loading->target); /* or when there is room */
    pthread_mutex_unlock(&s->lock);
    loading_free(loading);
}

static size_t list_length(const struct delivery *list)
{
    size_t n = 0;
    for (; list; list = list->next)
        n++;
    return n;
}

/* Leaves out what has gone ahead. Returns how many these are. With the lock. */
static size_t leave_out_ahead(struct service_target *t, struct keep_load *load)
{
    size_t left_out = 0;
    for (struct delivery **at = &load->first; *at;) {
        struct delivery *d = *at;
        if (!is_ahead(t, d->number)) {
            at = &d->next;
            continue;
        }
        *at = d->next;
        delivery_free(d);
        load->rows--;
        left_out++;
    }
    size_t passed = 0; /* none of these will be read again */
    while (passed < t->ahead_count && t->ahead[passed] <= load->last)
        passed++;
    t->ahead_count -= passed;
    if (passed > 0)
        memmove(t->ahead, t->ahead + passed, t->ahead_count * sizeof(*t->ahead));
    return left_out;
}

/* Counts what has been read from the disk as no longer on disk only. With the lock, and before any of it is in the
 * queue. */
static void note_loaded(struct service_target *t, struct keep_load *load)
{
    size_t before = t->spilled;
    size_t left_out = leave_out_ahead(t, load);
    t->spill_after = load->last;
    bool some = load->rows + left_out > 0; /* where nothing was found, nothing is left */
    t->spilled = some && load->rows < before ? before - load->rows : 0;
    if (t->spilled == 0)
        forget_topics(t);
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

    pthread_mutex_lock(&s->lock);
    t->loading = false;
    if (!t->heired) {
        note_loaded(t, load);
        take_in(t, load->first);
        load->first = NULL;
        spill_load(t);
    }
    bool moving = queue_has_moving(s->queue);
    pthread_mutex_unlock(&s->lock);

    if (moving)
        service_move(s);
    drop_list(load->first);
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
        .longest_ms = queue_longest_wait(t->queue),
        .links = t->service->host->links,
        .loaded = loaded,
    };
    return loading;
}

/* With the lock. */
static bool may_load(const struct service_target *t)
{
    return !t->heired && !t->noting && !t->service->stopping && queue_is_low(t->queue);
}

void spill_load(struct service_target *t)
{
    if (t->more_dead && may_load(t)) {
        t->more_dead = false;
        spill_revive(t);
    }
    if (t->spilled == 0 || t->loading || !may_load(t))
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
    struct keep_load *load = &loading->load;
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
    loading->load.most = LOAD_MOST;
    loading->load.loaded = loaded_revived;
    keep_load(&loading->load);
}

/* What is known of one part on disk becomes known of another, too. With the lock of the other. */
static void join_topics(struct service_target *to, uint64_t *topics)
{
    if (to->spilled == 0) {
        forget_topics(to);
        to->spilled_topics = topics;
        return;
    }
    for (uint64_t i = 0; to->spilled_topics && topics && i < FILTER_BITS / 64; i++)
        to->spilled_topics[i] |= topics[i];
    if (!topics)
        forget_topics(to);
    free(topics);
}

void spill_give(struct service_target *from, struct spill_part *out)
{
    *out = (struct spill_part){ .ahead = from->ahead, .ahead_count = from->ahead_count };
    if (!from->heired) {
        out->count = from->spilled;
        out->after = from->spill_after;
        out->last = from->spill_last;
        out->topics = from->spilled_topics;
        from->spilled_topics = NULL;
    }
    from->ahead = NULL;
    from->ahead_count = from->ahead_cap = 0;
    from->heired = true;
    from->spilled = 0;
    from->flow.handed_over += out->count;
}

void spill_take(struct service_target *to, struct spill_part *part)
{
    pthread_mutex_lock(&to->service->lock);
    if (to->spilled == 0 && !to->noting)
        to->ahead_count = 0;
    if (part->ahead_count > 0 && has_room_ahead(to, part->ahead_count)) {
        memcpy(to->ahead + to->ahead_count, part->ahead, part->ahead_count * sizeof(*part->ahead));
        to->ahead_count += part->ahead_count;
        qsort(to->ahead, to->ahead_count, sizeof(*to->ahead), compare);
    }
    free(part->ahead);
    if (part->count > 0) {
        join_topics(to, part->topics);
        if (to->spilled == 0 || part->after < to->spill_after)
            to->spill_after = part->after;
        if (to->spilled == 0 || part->last > to->spill_last)
            to->spill_last = part->last;
        to->spilled += part->count;
        to->flow.taken_over += part->count;
        spill_load(to);
    } else {
        free(part->topics);
    }
    pthread_mutex_unlock(&to->service->lock);
}

void spill_note(struct service_target *t, bool on)
{
    if (!keeper_of(t) || t->noting == on)
        return;
    t->noting = on;
    if (on)
        return;
    if (t->spilled == 0)
        t->ahead_count = 0;
    spill_load(t);
}

size_t spill_count(const struct service *s)
{
    size_t count = 0;
    for (size_t i = 0; i < s->target_count; i++)
        count += s->targets[i]->spilled;
    return count;
}
