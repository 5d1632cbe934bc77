/* SPDX-License-Identifier: MIT */

#include "delivery/stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ON_ITS_WAY SIZE_MAX

struct lane {
    struct delivery_list list; /* without a head that is on its way */
    int64_t due_ms;
    int64_t earliest_ms; /* what the plugin has asked for; nothing makes it shorter */
    size_t at;           /* in its heap, or ON_ITS_WAY */
    bool urgent;         /* there is, or was, something urgent in it: which heap is its own */
    size_t topic_len;
    char topic[]; /* not terminated */
};

/* ---- Lists ---- */

static bool is_one(const struct delivery *d, enum stream_which which)
{
    return which == STREAM_ALL || (which == STREAM_FORGOTTEN ? d->forgotten : d->fallback != NULL);
}

/* Moves those of a kind to the end of `out`. */
static void list_remove(struct delivery_list *list, enum stream_which which,
                        struct delivery_list *out)
{
    struct delivery_list kept = { 0 };
    while (list->first) {
        struct delivery *d = delivery_list_pop(list);
        delivery_list_append(is_one(d, which) ? out : &kept, d);
    }
    *list = kept;
}

/* ---- The heaps of lanes ---- */

static void heap_set(struct lane_heap *heap, size_t at, struct lane *lane)
{
    heap->items[at] = lane;
    lane->at = at;
}

static void heap_up(struct lane_heap *heap, size_t at)
{
    struct lane *lane = heap->items[at];
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (heap->items[parent]->due_ms <= lane->due_ms)
            break;
        heap_set(heap, at, heap->items[parent]);
        at = parent;
    }
    heap_set(heap, at, lane);
}

static void heap_down(struct lane_heap *heap, size_t at)
{
    struct lane *lane = heap->items[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->len)
            break;
        if (child + 1 < heap->len && heap->items[child + 1]->due_ms < heap->items[child]->due_ms)
            child++;
        if (lane->due_ms <= heap->items[child]->due_ms)
            break;
        heap_set(heap, at, heap->items[child]);
        at = child;
    }
    heap_set(heap, at, lane);
}

static void heap_add(struct stream *stream, struct lane *lane)
{
    struct lane_heap *heap = &stream->heaps[lane->urgent];
    assert(heap->len < stream->heap_cap);
    heap_set(heap, heap->len++, lane);
    heap_up(heap, lane->at);
}

static void heap_remove(struct stream *stream, struct lane *lane)
{
    struct lane_heap *heap = &stream->heaps[lane->urgent];
    size_t at = lane->at;
    struct lane *last = heap->items[--heap->len];
    if (last != lane) {
        heap_set(heap, at, last);
        heap_up(heap, at);
        heap_down(heap, last->at);
    }
    lane->at = ON_ITS_WAY;
}

static void heap_build(struct lane_heap *heap)
{
    for (size_t i = heap->len / 2; i-- > 0;)
        heap_down(heap, i);
}

/* ---- Lanes ---- */

static struct lane *lane_of(const struct stream *stream, const struct delivery *d)
{
    return stream->lanes.count > 0
               ? map_get(&stream->lanes, d->message->topic, d->message->topic_len)
               : NULL;
}

/* Makes a lane that is not in the heap yet. */
static struct lane *lane_new(struct stream *stream, const struct delivery *d)
{
    if (stream->lanes.count + 1 > stream->heap_cap) {
        size_t cap = stream->heap_cap ? stream->heap_cap * 2 : 8;
        for (size_t i = 0; i < 2; i++) {
            struct lane **items = realloc(stream->heaps[i].items, cap * sizeof(*items));
            if (!items)
                return NULL;
            stream->heaps[i].items = items;
        }
        stream->heap_cap = cap;
    }
    size_t len = d->message->topic_len;
    struct lane *lane = malloc(sizeof(*lane) + len);
    if (!lane)
        return NULL;
    *lane = (struct lane){ .at = ON_ITS_WAY, .topic_len = len };
    memcpy(lane->topic, d->message->topic, len);
    if (map_set(&stream->lanes, lane->topic, len, lane) < 0) {
        free(lane);
        return NULL;
    }
    return lane;
}

static void lane_free(struct stream *stream, struct lane *lane)
{
    map_remove(&stream->lanes, lane->topic, lane->topic_len);
    free(lane);
}

/* Adds one behind the others. */
static void lane_append(struct stream *stream, struct lane *lane, struct delivery *d)
{
    delivery_list_append(&lane->list, d);
    if (lane->urgent || !delivery_is_urgent(d))
        return;
    bool waits = lane->at != ON_ITS_WAY;
    if (waits)
        heap_remove(stream, lane);
    lane->urgent = true;
    if (waits)
        heap_add(stream, lane);
}

static void dissolve(struct stream *stream, struct lane *lane)
{
    lines_prepend(&stream->fresh, &lane->list);
    lane_free(stream, lane);
}

/* ---- Streams ---- */

void stream_release(struct stream *stream)
{
    lines_release(&stream->fresh);
    const struct map_entry *entry;
    for (size_t at = 0; (entry = map_next(&stream->lanes, &at));) {
        struct lane *lane = entry->value;
        while (lane->list.first)
            delivery_free(delivery_list_pop(&lane->list));
        free(lane);
    }
    map_release(&stream->lanes);
    for (size_t i = 0; i < 2; i++)
        free(stream->heaps[i].items);
}

bool stream_is_empty(const struct stream *stream)
{
    return lines_are_empty(&stream->fresh) && stream->heaps[0].len == 0 &&
           stream->heaps[1].len == 0;
}

int64_t stream_due(const struct stream *stream)
{
    if (!lines_are_empty(&stream->fresh))
        return STREAM_NOW;
    int64_t due = STREAM_NEVER;
    for (size_t i = 0; i < 2; i++)
        if (stream->heaps[i].len > 0 && stream->heaps[i].items[0]->due_ms < due)
            due = stream->heaps[i].items[0]->due_ms;
    return due;
}

void stream_append(struct stream *stream, struct delivery *delivery)
{
    lines_append(&stream->fresh, delivery);
}

/* The next one that is urgent, or that is not. */
static struct delivery *take(struct stream *stream, int64_t now_ms, bool urgent)
{
    const struct lane_heap *heap = &stream->heaps[urgent];
    if (heap->len > 0 && heap->items[0]->due_ms <= now_ms) {
        struct lane *lane = heap->items[0];
        heap_remove(stream, lane);
        struct delivery *d = delivery_list_pop(&lane->list);
        d->lane = lane;
        return d;
    }
    struct delivery *d;
    while ((d = lines_take(&stream->fresh, urgent))) {
        struct lane *lane = lane_of(stream, d);
        if (!lane)
            return d;
        lane_append(stream, lane, d);
    }
    return NULL;
}

struct delivery *stream_take(struct stream *stream, int64_t now_ms)
{
    bool urgent = stream->urgent_row < STREAM_URGENT_MOST;
    struct delivery *d = take(stream, now_ms, urgent);
    if (!d) {
        urgent = !urgent;
        d = take(stream, now_ms, urgent);
    }
    /* Where none of the others could go, the next of them that can has its turn. */
    if (!d || !urgent)
        stream->urgent_row = 0;
    else if (stream->urgent_row < STREAM_URGENT_MOST)
        stream->urgent_row++;
    return d;
}

int stream_retry(struct stream *stream, struct delivery *delivery, int64_t due_ms,
                 int64_t earliest_ms)
{
    struct lane *lane = delivery->lane;
    if (lane) {
        delivery_list_prepend(&lane->list, delivery);
    } else {
        lane = lane_of(stream, delivery);
        if (lane) { /* an earlier one of the same batch has made it, and says when */
            lane_append(stream, lane, delivery);
            return 0;
        }
        lane = lane_new(stream, delivery);
        if (!lane)
            return -ENOMEM;
        lane_append(stream, lane, delivery);
    }
    delivery->lane = NULL;
    lane->due_ms = due_ms;
    lane->earliest_ms = earliest_ms;
    heap_add(stream, lane);
    return 0;
}

void stream_put_back(struct stream *stream, struct delivery *delivery)
{
    struct lane *lane = delivery->lane;
    delivery->lane = NULL;
    if (!lane) {
        struct delivery_list one = { 0 };
        delivery_list_append(&one, delivery);
        lines_prepend(&stream->fresh, &one);
        return;
    }
    delivery_list_prepend(&lane->list, delivery);
    heap_add(stream, lane); /* with the time that it had: it is due */
}

void stream_done(struct stream *stream, struct delivery *delivery)
{
    if (delivery->lane)
        dissolve(stream, delivery->lane);
    delivery->lane = NULL;
}

void stream_given_up(struct stream *stream, struct delivery *delivery, int64_t due_ms)
{
    struct lane *lane = delivery->lane;
    delivery->lane = NULL;
    if (!lane)
        return;
    if (!lane->list.first) {
        lane_free(stream, lane);
        return;
    }
    lane->due_ms = due_ms;
    lane->earliest_ms = 0;
    heap_add(stream, lane);
}

void stream_hurry(struct stream *stream, int64_t now_ms)
{
    for (size_t h = 0; h < 2; h++) {
        struct lane_heap *heap = &stream->heaps[h];
        for (size_t i = 0; i < heap->len; i++) {
            struct lane *lane = heap->items[i];
            int64_t soonest = lane->earliest_ms > now_ms ? lane->earliest_ms : now_ms;
            if (lane->due_ms > soonest)
                lane->due_ms = soonest;
        }
        heap_build(heap);
    }
}

struct delivery_list stream_remove(struct stream *stream, enum stream_which which)
{
    struct delivery_list out = { 0 };
    const struct map_entry *entry;
    for (size_t at = 0; (entry = map_next(&stream->lanes, &at));)
        list_remove(&((struct lane *)entry->value)->list, which, &out);
    struct delivery_list fresh = lines_empty(&stream->fresh);
    list_remove(&fresh, which, &out);
    while (fresh.first)
        lines_append(&stream->fresh, delivery_list_pop(&fresh));

    for (size_t h = 0; h < 2; h++) {
        struct lane_heap *heap = &stream->heaps[h];
        size_t kept = 0;
        for (size_t i = 0; i < heap->len; i++) {
            struct lane *lane = heap->items[i];
            if (lane->list.first)
                heap_set(heap, kept++, lane);
            else
                lane_free(stream, lane);
        }
        heap->len = kept;
        heap_build(heap);
    }
    return out;
}
