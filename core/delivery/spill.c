/* SPDX-License-Identifier: MIT */

/* Queues that are full go on on disk. See service.h. */

#include "base/clock.h"
#include "base/container.h"
#include "delivery/keep.h"
#include "delivery/scan.h"
#include "delivery/service.h"
#include "delivery/topics.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOAD_MOST   1000 /* deliveries at a time */
#define LOAD_URGENT 32   /* the same, of those that go before others */
#define SCAN_REST   3    /* times as long as the last scan has taken: before the next one */

static struct keeper *keeper_of(const struct service_target *t)
{
    return t->service->host->keeper;
}

/* ---- What is where ---- */

static uint64_t hash_of(const struct delivery *d)
{
    return map_hash(d->message->topic, d->message->topic_len);
}

static void forget_topics(struct service_target *t)
{
    free(t->spilled_topics);
    free(t->scan_topics);
    t->spilled_topics = t->scan_topics = NULL;
}

/* It is going to be on disk only. */
static void note_topic(struct service_target *t, const struct delivery *d)
{
    if (t->spilled == 0) {
        forget_topics(t);
        t->spilled_topics = topics_new();
        if (!t->noting)
            t->ahead_count = 0; /* they are before what will be there */
    }
    if (t->spilled_topics)
        topics_add(t->spilled_topics, hash_of(d));
    if (t->scan_topics)
        topics_add(t->scan_topics, hash_of(d));
}

/* Makes room for so many more numbers. Returns false when there is no memory. */
static bool has_room(uint64_t **numbers, size_t count, size_t *cap, size_t more)
{
    if (count + more <= *cap)
        return true;
    size_t wanted = *cap * 2 + more + 16;
    uint64_t *larger = realloc(*numbers, wanted * sizeof(*larger));
    if (!larger)
        return false;
    *numbers = larger;
    *cap = wanted;
    return true;
}

static bool has_room_ahead(struct service_target *t, size_t more)
{
    return has_room(&t->ahead, t->ahead_count, &t->ahead_cap, more);
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
    return t->spilled == 0 || (t->spilled_topics && !topics_have(t->spilled_topics, hash_of(d)));
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
    free(t->noted);
    free(t->urgent);
}

/* ---- What is urgent ---- */

struct scanning {
    struct scan scan;
    struct service_target *target;
    int64_t began_ms;
    char names[];
};

/* With the lock. */
static void forget_urgent(struct service_target *t)
{
    free(t->urgent);
    t->urgent = NULL;
    t->urgent_at = t->urgent_count = 0;
}

static void take_over_urgent(struct service_target *t, struct scan *scan)
{
    forget_urgent(t);
    t->urgent = scan->numbers;
    t->urgent_count = scan->count;
    t->urgent_spilled |= scan->more;
    scan->numbers = NULL;
}

static void scanned(struct scan *scan)
{
    struct scanning *scanning = CONTAINER_OF(scan, struct scanning, scan);
    struct service_target *t = scanning->target;
    const int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&t->service->lock);
    t->scanning = false;
    t->scan_ms = now_ms + SCAN_REST * (now_ms - scanning->began_ms);
    if (!t->heired) {
        take_over_urgent(t, scan);
        if (t->scan_topics && scan->topics) { /* what was there, and what has come since */
            topics_join(t->scan_topics, scan->topics);
            free(t->spilled_topics);
            t->spilled_topics = t->scan_topics;
            t->scan_topics = NULL;
        }
        spill_load(t);
    }
    pthread_mutex_unlock(&t->service->lock);
    service_unref(t->service);
    scan_release(scan);
    free(scanning);
}

/* Has the disk looked through, if something urgent has gone there since the last time; not all the time. With the
 * lock. */
static void look_for_urgent(struct service_target *t)
{
    if (!t->urgent_spilled || t->scanning || t->urgent_at < t->urgent_count || t->heired ||
        t->noting || t->service->stopping)
        return;
    const int64_t now_ms = clock_mono_ms();
    if (now_ms < t->scan_ms)
        return;
    size_t service_len = strlen(t->target.service) + 1, target_len = strlen(t->target.name) + 1;
    struct scanning *scanning = calloc(1, sizeof(*scanning) + service_len + target_len);
    if (!scanning)
        return; /* the next delivery that is done tries again */
    memcpy(scanning->names, t->target.service, service_len);
    memcpy(scanning->names + service_len, t->target.name, target_len);
    scanning->target = t;
    scanning->began_ms = now_ms;
    scanning->scan.store = keeper_store(keeper_of(t));
    scanning->scan.range = (struct keep_range){ scanning->names, scanning->names + service_len,
                                                t->spill_after, t->spill_last };
    scanning->scan.done = scanned;
    service_ref(t->service);
    t->scanning = true;
    t->urgent_spilled = false;
    free(t->scan_topics);
    t->scan_topics = t->spilled_topics ? NULL : topics_new();
    scan_post(&scanning->scan);
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
        if (t->noting && has_room(&t->noted, t->noted_count, &t->noted_cap, 1))
            t->noted[t->noted_count++] = d->number;
        if (delivery_is_urgent(d)) {
            t->urgent_spilled = true;
            look_for_urgent(t);
        }
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
    uint64_t numbers[LOAD_URGENT];
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

/* Their numbers may be among those that are on disk only: they must not be loaded with these. With the lock. */
static void note_revived(struct service_target *t, const struct delivery *list, size_t count)
{
    if ((t->spilled == 0 && !t->noting) || !has_room_ahead(t, count))
        return;
    for (const struct delivery *d = list; d; d = d->next)
        t->ahead[t->ahead_count++] = d->number;
    qsort(t->ahead, t->ahead_count, sizeof(*t->ahead), compare);
}

/* Dead letters that a person wants tried again. */
static void loaded_revived(struct keep_load *load)
{
    struct loading *loading = CONTAINER_OF(load, struct loading, load);
    struct service *s = loading->target->service;
    if (load->rows > 0)
        log_info("%s: to be tried again target=%s: %zu deliveries", s->name,
                 loading->target->target.name, load->rows);
    pthread_mutex_lock(&s->lock);
    note_revived(loading->target, load->first, load->rows);
    pthread_mutex_unlock(&s->lock);
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

/* What was too much for one load is next. With the lock. */
static void put_back_urgent(struct service_target *t, const struct keep_load *load)
{
    if (load->numbers_done == load->number_count)
        return;
    const uint64_t next = load->numbers[load->numbers_done];
    while (t->urgent_at > 0 && t->urgent[t->urgent_at - 1] >= next)
        t->urgent_at--;
}

/* The same for what goes before others: the rest is loaded without it. */
static void note_loaded_ahead(struct service_target *t, struct keep_load *load)
{
    put_back_urgent(t, load);
    if (!has_room_ahead(t, load->rows)) {
        drop_list(load->first); /* it comes with the others */
        load->first = NULL;
        return;
    }
    for (const struct delivery *d = load->first; d; d = d->next)
        t->ahead[t->ahead_count++] = d->number;
    qsort(t->ahead, t->ahead_count, sizeof(*t->ahead), compare);
    if (load->rows > t->spilled)
        t->flow.restored += load->rows - t->spilled;
    t->spilled = load->rows < t->spilled ? t->spilled - load->rows : 0;
    if (t->spilled == 0)
        forget_topics(t);
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
        if (load->numbers)
            note_loaded_ahead(t, load);
        else
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

/* Whether there are some that go before others, and a place for one. With the lock. */
static bool may_load_urgent(struct service_target *t)
{
    while (t->urgent_at < t->urgent_count &&
           (t->urgent[t->urgent_at] <= t->spill_after || is_ahead(t, t->urgent[t->urgent_at])))
        t->urgent_at++;
    return t->urgent_at < t->urgent_count && !t->heired && !t->noting && !t->service->stopping &&
           queue_has_urgent_place(t->queue, 1);
}

/* The next of them. With the lock. */
static void load_only_urgent(struct loading *loading)
{
    struct service_target *t = loading->target;
    size_t n = 0;
    for (; n < LOAD_URGENT && t->urgent_at < t->urgent_count; t->urgent_at++)
        if (t->urgent[t->urgent_at] > t->spill_after && !is_ahead(t, t->urgent[t->urgent_at]))
            loading->numbers[n++] = t->urgent[t->urgent_at];
    loading->load.numbers = loading->numbers;
    loading->load.number_count = n;
}

void spill_load(struct service_target *t)
{
    if (t->more_dead && may_load(t)) {
        t->more_dead = false;
        spill_revive(t);
    }
    if (t->spilled == 0 || t->loading)
        return;
    look_for_urgent(t);
    const bool urgent = may_load_urgent(t);
    if (!urgent && !may_load(t))
        return;
    struct loading *loading = loading_new(t);
    if (!loading)
        return; /* the next delivery that is done tries again */
    if (urgent)
        load_only_urgent(loading);
    t->loading = true;
    keep_load(&loading->load);
}

/* Loads what comes first. Returns 0 or a negative errno value. */
static int load_first(struct service_target *t, bool urgent)
{
    struct loading *loading = loading_new(t);
    if (!loading)
        return -ENOMEM;
    struct keep_load *load = &loading->load;
    if (urgent)
        load_only_urgent(loading);
    int rc = keep_load_now(&loading->load);
    if (rc == 0) {
        if (urgent)
            note_loaded_ahead(t, load);
        else
            note_loaded(t, load);
        service_submit(t->service, load->first, ORIGIN_DISK, clock_mono_ms());
    }
    loading_free(loading);
    return rc;
}

/* Looks for what is urgent, and loads it before all else. Returns 0 or a negative errno value. */
static int restore_urgent(struct service_target *t)
{
    struct scan *scan = calloc(1, sizeof(*scan));
    if (!scan)
        return -ENOMEM;
    scan->store = keeper_store(keeper_of(t));
    scan->range =
        (struct keep_range){ t->target.service, t->target.name, t->spill_after, t->spill_last };
    int rc = scan_now(scan);
    if (rc == 0) {
        take_over_urgent(t, scan);
        t->spilled_topics = scan->topics;
        scan->topics = NULL;
    }
    while (rc == 0 && may_load_urgent(t))
        rc = load_first(t, true);
    scan_release(scan);
    free(scan);
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
    if (count > 0)
        rc = restore_urgent(t);
    const size_t before = queue_count(t->service->queue);
    /* Where nothing waits, nothing is done that would load more: so what cannot be read must not be all. */
    while (rc == 0 && t->spilled > 0 && queue_is_low(t->queue) &&
           queue_count(t->service->queue) == before)
        rc = load_first(t, false);
    return rc;
}

void spill_find(struct service_target *t, uint64_t count, uint64_t last)
{
    t->spilled = (size_t)count;
    t->spill_after = 0;
    t->spill_last = last;
    t->flow.restored += count;
    t->urgent_spilled = count > 0; /* something of it may be */
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
    if (to->spilled_topics && topics)
        topics_join(to->spilled_topics, topics);
    else
        forget_topics(to);
    free(topics);
}

void spill_give(struct service_target *from, struct spill_part *out)
{
    *out = (struct spill_part){
        .ahead = from->ahead,
        .ahead_count = from->ahead_count,
        .urgent = from->urgent_spilled || from->scanning || from->urgent_at < from->urgent_count,
    };
    forget_urgent(from);
    from->urgent_spilled = false;
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
        to->urgent_spilled |= part->urgent;
        spill_load(to);
    } else {
        free(part->topics);
    }
    pthread_mutex_unlock(&to->service->lock);
}

/* A copy of the numbers of all that a target has taken in since it notes. NULL when there are none, or no memory. */
static uint64_t *copy_noted(struct service_target *t, size_t *count)
{
    pthread_mutex_lock(&t->service->lock);
    *count = t->noting ? t->ahead_count + t->noted_count : 0;
    uint64_t *copy = *count > 0 ? malloc(*count * sizeof(*copy)) : NULL;
    if (copy && t->ahead_count > 0)
        memcpy(copy, t->ahead, t->ahead_count * sizeof(*copy));
    if (copy && t->noted_count > 0)
        memcpy(copy + t->ahead_count, t->noted, t->noted_count * sizeof(*copy));
    pthread_mutex_unlock(&t->service->lock);
    return copy;
}

static void leave_to_other(struct service_target *t, const uint64_t *numbers, size_t count)
{
    pthread_mutex_lock(&t->service->lock);
    if (numbers && t->noting && has_room_ahead(t, count)) {
        memcpy(t->ahead + t->ahead_count, numbers, count * sizeof(*numbers));
        t->ahead_count += count;
        qsort(t->ahead, t->ahead_count, sizeof(*t->ahead), compare);
    }
    pthread_mutex_unlock(&t->service->lock);
}

void spill_keep_apart(struct service_target *from, struct service_target *to)
{
    size_t from_count, to_count;
    uint64_t *from_noted = copy_noted(from, &from_count);
    uint64_t *to_noted = copy_noted(to, &to_count);
    leave_to_other(to, from_noted, from_count);
    leave_to_other(from, to_noted, to_count);
    free(from_noted);
    free(to_noted);
}

void spill_note(struct service_target *t, bool on)
{
    if (!keeper_of(t) || t->noting == on)
        return;
    t->noting = on;
    t->noted_count = 0;
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
