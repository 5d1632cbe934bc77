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
    size_t at;           /* in the heap, or ON_ITS_WAY */
    size_t topic_len;
    char topic[]; /* not terminated */
};

/* ---- Lists ---- */

void delivery_list_append(struct delivery_list *list, struct delivery *delivery)
{
    delivery->next = NULL;
    if (list->first)
        list->last->next = delivery;
    else
        list->first = delivery;
    list->last = delivery;
}

static void list_prepend(struct delivery_list *list, struct delivery *delivery)
{
    delivery->next = list->first;
    if (!list->first)
        list->last = delivery;
    list->first = delivery;
}

static struct delivery *list_pop(struct delivery_list *list)
{
    struct delivery *d = list->first;
    list->first = d->next;
    d->next = NULL;
    return d;
}

/* Moves all of `from` to the beginning of `to`. */
static void list_move_before(struct delivery_list *to, struct delivery_list *from)
{
    if (!from->first)
        return;
    from->last->next = to->first;
    if (!to->first)
        to->last = from->last;
    to->first = from->first;
    *from = (struct delivery_list){ 0 };
}

static void list_free(struct delivery_list *list)
{
    while (list->first)
        delivery_free(list_pop(list));
}

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
        struct delivery *d = list_pop(list);
        delivery_list_append(is_one(d, which) ? out : &kept, d);
    }
    *list = kept;
}

/* ---- The heap of lanes ---- */

static void heap_set(struct stream *stream, size_t at, struct lane *lane)
{
    stream->heap[at] = lane;
    lane->at = at;
}

static void heap_up(struct stream *stream, size_t at)
{
    struct lane *lane = stream->heap[at];
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (stream->heap[parent]->due_ms <= lane->due_ms)
            break;
        heap_set(stream, at, stream->heap[parent]);
        at = parent;
    }
    heap_set(stream, at, lane);
}

static void heap_down(struct stream *stream, size_t at)
{
    struct lane *lane = stream->heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= stream->heap_len)
            break;
        if (child + 1 < stream->heap_len &&
            stream->heap[child + 1]->due_ms < stream->heap[child]->due_ms)
            child++;
        if (lane->due_ms <= stream->heap[child]->due_ms)
            break;
        heap_set(stream, at, stream->heap[child]);
        at = child;
    }
    heap_set(stream, at, lane);
}

static void heap_add(struct stream *stream, struct lane *lane)
{
    assert(stream->heap_len < stream->heap_cap);
    heap_set(stream, stream->heap_len++, lane);
    heap_up(stream, lane->at);
}

static void heap_remove(struct stream *stream, struct lane *lane)
{
    size_t at = lane->at;
    struct lane *last = stream->heap[--stream->heap_len];
    if (last != lane) {
        heap_set(stream, at, last);
        heap_up(stream, at);
        heap_down(stream, last->at);
    }
    lane->at = ON_ITS_WAY;
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
        struct lane **heap = realloc(stream->heap, cap * sizeof(*heap));
        if (!heap)
            return NULL;
        stream->heap = heap;
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

static void dissolve(struct stream *stream, struct lane *lane)
{
    list_move_before(&stream->fresh, &lane->list);
    lane_free(stream, lane);
}

/* ---- Streams ---- */

void stream_release(struct stream *stream)
{
    list_free(&stream->fresh);
    const struct map_entry *entry;
    for (size_t at = 0; (entry = map_next(&stream->lanes, &at));) {
        struct lane *lane = entry->value;
        list_free(&lane->list);
        free(lane);
    }
    map_release(&stream->lanes);
    free(stream->heap);
}

bool stream_is_empty(const struct stream *stream)
{
    return !stream->fresh.first && stream->heap_len == 0;
}

int64_t stream_due(const struct stream *stream)
{
    if (stream->fresh.first)
        return STREAM_NOW;
    return stream->heap_len > 0 ? stream->heap[0]->due_ms : STREAM_NEVER;
}

void stream_append(struct stream *stream, struct delivery *delivery)
{
    delivery_list_append(&stream->fresh, delivery);
}

struct delivery *stream_take(struct stream *stream, int64_t now_ms)
{
    if (stream->heap_len > 0 && stream->heap[0]->due_ms <= now_ms) {
        struct lane *lane = stream->heap[0];
        heap_remove(stream, lane);
        struct delivery *d = list_pop(&lane->list);
        d->lane = lane;
        return d;
    }
    while (stream->fresh.first) {
        struct delivery *d = list_pop(&stream->fresh);
        struct lane *lane = lane_of(stream, d);
        if (!lane)
            return d;
        delivery_list_append(&lane->list, d);
    }
    return NULL;
}

int stream_retry(struct stream *stream, struct delivery *delivery, int64_t due_ms,
                 int64_t earliest_ms)
{
    struct lane *lane = delivery->lane;
    if (lane) {
        list_prepend(&lane->list, delivery);
    } else {
        lane = lane_of(stream, delivery);
        if (lane) { /* an earlier one of the same batch has made it, and says when */
            delivery_list_append(&lane->list, delivery);
            return 0;
        }
        lane = lane_new(stream, delivery);
        if (!lane)
            return -ENOMEM;
        delivery_list_append(&lane->list, delivery);
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
        list_prepend(&stream->fresh, delivery);
        return;
    }
    list_prepend(&lane->list, delivery);
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

static void heap_build(struct stream *stream)
{
    for (size_t i = stream->heap_len / 2; i-- > 0;)
        heap_down(stream, i);
}

void stream_hurry(struct stream *stream, int64_t now_ms)
{
    for (size_t i = 0; i < stream->heap_len; i++) {
        struct lane *lane = stream->heap[i];
        int64_t soonest = lane->earliest_ms > now_ms ? lane->earliest_ms : now_ms;
        if (lane->due_ms > soonest)
            lane->due_ms = soonest;
    }
    heap_build(stream);
}

struct delivery_list stream_remove(struct stream *stream, enum stream_which which)
{
    struct delivery_list out = { 0 };
    const struct map_entry *entry;
    for (size_t at = 0; (entry = map_next(&stream->lanes, &at));)
        list_remove(&((struct lane *)entry->value)->list, which, &out);
    list_remove(&stream->fresh, which, &out);

    size_t kept = 0;
    for (size_t i = 0; i < stream->heap_len; i++) {
        struct lane *lane = stream->heap[i];
        if (lane->list.first)
            heap_set(stream, kept++, lane);
        else
            lane_free(stream, lane);
    }
    stream->heap_len = kept;
    heap_build(stream);
    return out;
}
