/* SPDX-License-Identifier: MIT */

/* The window and the queue of one session. The worker's thread. */

#include "broker/flow.h"

#include "broker/durable.h"
#include "broker/share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RING_FIRST 4 /* places at the beginning; then twice as many, up to 65536 */

/* ---- Identifiers ---- */

struct identifiers *identifiers_new(const uint32_t *values, size_t count)
{
    struct identifiers *ids = malloc(sizeof(*ids) + count * sizeof(*values));
    if (!ids)
        return NULL;
    ids->refs = 1;
    ids->count = (uint32_t)count;
    memcpy(ids->values, values, count * sizeof(*values));
    return ids;
}

void identifiers_unref(struct identifiers *ids)
{
    if (ids && --ids->refs == 0)
        free(ids);
}

/* ---- Life ---- */

struct flow *flow_new(struct flow **head, struct session *owner)
{
    struct flow *flow = calloc(1, sizeof(*flow));
    if (!flow)
        return NULL;
    flow->first_id = 1;
    flow->owner = owner;
    flow->next = *head;
    flow->link = head;
    if (flow->next)
        flow->next->link = &flow->next;
    *head = flow;
    return flow;
}

void flow_item_release(struct flow_item *item)
{
    publication_unref(item->publication);
    identifiers_unref(item->terms.ids);
    if (item->terms.share)
        share_member_done(item->terms.share);
    share_member_unref(item->terms.share);
}

static struct flow_item *place(const struct flow *flow, uint32_t offset)
{
    return &flow->ring[(flow->ring_at + offset) & flow->ring_mask];
}

void flows_begin_with(struct flow **head, struct flow *flow)
{
    if (*head == flow)
        return;
    struct flow *last = flow;
    while (last->next)
        last = last->next;
    *flow->link = NULL;
    last->next = *head;
    last->next->link = &last->next;
    *head = flow;
    flow->link = head;
}

void flow_free(struct flow *flow)
{
    if (!flow)
        return;
    for (uint32_t i = 0; i < flow->span; i++) {
        if (place(flow, i)->state == FLIGHT_DONE)
            continue;
        kept_unref(place(flow, i)->kept);
        flow_item_release(place(flow, i));
    }
    while (flow->queued > 0) {
        struct flow_item item = flow_queue_take(flow);
        kept_unref(item.kept);
        flow_item_release(&item);
    }
    *flow->link = flow->next;
    if (flow->next)
        flow->next->link = flow->link;
    free(flow->ring);
    free(flow->queue);
    free(flow);
}

/* ---- Rings ---- */

/* A ring of twice the places with the same items, beginning at 0. */
static struct flow_item *grown(const struct flow_item *ring, uint32_t places, uint32_t at,
                               uint32_t used)
{
    uint32_t more = places ? places * 2 : RING_FIRST;
    struct flow_item *fresh = malloc(more * sizeof(*fresh));
    for (uint32_t i = 0; fresh && i < used; i++)
        fresh[i] = ring[(at + i) & (places - 1)];
    return fresh;
}

static int grow_ring(struct flow *flow)
{
    uint32_t places = flow->ring ? flow->ring_mask + 1 : 0;
    struct flow_item *fresh = grown(flow->ring, places, flow->ring_at, flow->span);
    if (!fresh)
        return -ENOMEM;
    free(flow->ring);
    flow->ring = fresh;
    flow->ring_mask = (places ? places * 2 : RING_FIRST) - 1;
    flow->ring_at = 0;
    return 0;
}

static int grow_queue(struct flow *flow)
{
    struct flow_item *fresh = grown(flow->queue, flow->queue_places, flow->queue_at, flow->queued);
    if (!fresh)
        return -ENOMEM;
    free(flow->queue);
    flow->queue = fresh;
    flow->queue_places = flow->queue_places ? flow->queue_places * 2 : RING_FIRST;
    flow->queue_at = 0;
    return 0;
}

static uint16_t id_after(uint16_t first, uint32_t offset)
{
    uint32_t id = first + offset;
    return (uint16_t)(id > 65535 ? id - 65535 : id);
}

/* ---- Flights ---- */

static size_t item_size(const struct flow_item *item)
{
    return item->publication ? publication_size(item->publication) : 0;
}

uint16_t flow_launch(struct flow *flow, struct publication *publication, struct kept *kept,
                     const struct terms *terms)
{
    if ((!flow->ring || flow->span > flow->ring_mask) && grow_ring(flow) < 0)
        return 0;
    uint16_t id = id_after(flow->first_id, flow->span);
    struct flow_item *item = place(flow, flow->span++);
    *item = (struct flow_item){
        .publication = publication,
        .terms = *terms,
        .kept = kept,
        .state = terms->qos == 2 ? FLIGHT_PUBLISHED_2 : FLIGHT_PUBLISHED_1,
    };
    flow->in_flight++;
    flow->in_flight_bytes += item_size(item);
    return id;
}

struct flow_item *flow_flight(struct flow *flow, uint16_t id)
{
    if (id == 0)
        return NULL;
    uint32_t offset = id >= flow->first_id ? (uint32_t)(id - flow->first_id)
                                           : (uint32_t)(id + 65535 - flow->first_id);
    if (offset >= flow->span)
        return NULL;
    struct flow_item *item = place(flow, offset);
    return item->state == FLIGHT_DONE ? NULL : item;
}

/* Lets go of the oldest places as far as they are done. */
static void drop_done(struct flow *flow)
{
    while (flow->span > 0 && place(flow, 0)->state == FLIGHT_DONE) {
        flow->ring_at = (flow->ring_at + 1) & flow->ring_mask;
        flow->first_id = id_after(flow->first_id, 1);
        flow->span--;
        if (flow->unsent_at > 0)
            flow->unsent_at--;
    }
}

void flow_land(struct flow *flow, struct flow_item *item)
{
    if (item->unsent)
        flow->unsent--;
    else
        flow->in_flight--;
    flow->held = (uint16_t)(flow->held - (item->held && item->state == FLIGHT_PUBLISHED_2));
    flow->in_flight_bytes -= item_size(item);
    kept_end(flow->worker, item->kept);
    flow_item_release(item);
    item->state = FLIGHT_DONE;
    drop_done(flow);
}

int flow_restore(struct flow *flow, uint16_t id, const struct flow_item *from)
{
    if (id == 0)
        return -EINVAL;
    if (flow->span == 0)
        flow->first_id = id;
    uint32_t offset = id >= flow->first_id ? (uint32_t)(id - flow->first_id)
                                           : (uint32_t)(id + 65535 - flow->first_id);
    if (offset < flow->span)
        return -EINVAL;
    while (flow->span <= offset) { /* those in between have been acknowledged */
        if ((!flow->ring || flow->span > flow->ring_mask) && grow_ring(flow) < 0)
            return -ENOMEM;
        *place(flow, flow->span++) = (struct flow_item){ .state = FLIGHT_DONE };
    }
    struct flow_item *item = place(flow, offset);
    *item = *from;
    item->unsent = true;
    flow->unsent++;
    flow->in_flight_bytes += item_size(item);
    return 0;
}

void flow_received(struct flow *flow, struct flow_item *item)
{
    item->state = FLIGHT_RELEASED;
    flow->in_flight_bytes -= item_size(item);
    publication_unref(item->publication);
    item->publication = NULL;
}

uint32_t flow_sent(const struct flow *flow)
{
    uint32_t sent = flow->again;
    for (uint32_t i = 0; i < flow->span; i++)
        sent += place(flow, i)->state == FLIGHT_PUBLISHED_1;
    for (uint32_t i = 0; i < flow->queued; i++)
        sent += flow->queue[(flow->queue_at + i) & (flow->queue_places - 1)].again;
    return sent;
}

void flow_interrupted(struct flow *flow)
{
    flow->in_flight = 0;
    flow->unsent = 0;
    flow->unsent_at = 0;
    for (uint32_t i = 0; i < flow->span; i++) {
        struct flow_item *item = place(flow, i);
        item->unsent = item->state != FLIGHT_DONE;
        flow->unsent = (uint16_t)(flow->unsent + item->unsent);
    }
}

struct flow_item *flow_next_unsent(struct flow *flow, uint16_t *id)
{
    while (flow->unsent > 0 && flow->unsent_at < flow->span) {
        uint16_t i = flow->unsent_at++;
        struct flow_item *item = place(flow, i);
        if (!item->unsent)
            continue;
        item->unsent = false;
        flow->unsent--;
        flow->in_flight++;
        *id = id_after(flow->first_id, i);
        return item;
    }
    return NULL;
}

/* ---- Queue ---- */

/* Whether it is never spilled. On disk it may be of a shared subscription that its session has left. */
static bool stays(const struct flow_item *item)
{
    return item->terms.share || (item->kept && kept_is_shared(item->kept));
}

/* There is a place for it. */
static void put_last(struct flow *flow, const struct flow_item *item)
{
    uint32_t at = (flow->queue_at + flow->queued++) & (flow->queue_places - 1);
    flow->queue[at] = *item;
    flow->queued_bytes += item_size(item);
    if (stays(item)) {
        flow->staying++;
        flow->staying_bytes += item_size(item);
    }
}

int flow_queue_item(struct flow *flow, const struct flow_item *item)
{
    if (flow->queued == flow->queue_places && grow_queue(flow) < 0)
        return -ENOMEM;
    put_last(flow, item);
    return 0;
}

int flow_queue(struct flow *flow, struct publication *publication, struct kept *kept,
               const struct terms *terms)
{
    const struct flow_item item = { .publication = publication, .terms = *terms, .kept = kept };
    return flow_queue_item(flow, &item);
}

void flow_spill_expires(struct flow *flow, uint32_t second)
{
    if (second && (!flow->spill_expires || second < flow->spill_expires))
        flow->spill_expires = second;
}

bool flow_spill_last(struct flow *flow)
{
    if (flow->queued == 0)
        return false;
    uint32_t at = (flow->queue_at + flow->queued - 1) & (flow->queue_places - 1);
    struct flow_item *item = &flow->queue[at];
    if (!item->kept || stays(item) || !kept_is_written(item->kept))
        return false;
    flow->queued--;
    flow->queued_bytes -= item_size(item);
    flow->spilled++;
    flow->spilled_bytes += item_size(item);
    flow_spill_expires(flow, item->publication->expires);
    flow->spill_after = kept_number(item->kept) - 1;
    kept_unref(item->kept);
    flow_item_release(item);
    return true;
}

const struct flow_item *flow_queue_head(const struct flow *flow)
{
    return flow->queued ? &flow->queue[flow->queue_at] : NULL;
}

struct flow_item flow_queue_take(struct flow *flow)
{
    struct flow_item item = flow->queue[flow->queue_at];
    flow->queue_at = (flow->queue_at + 1) & (flow->queue_places - 1);
    flow->queued--;
    flow->queued_bytes -= item_size(&item);
    if (stays(&item)) {
        flow->staying--;
        flow->staying_bytes -= item_size(&item);
    }
    return item;
}

size_t flow_queue_expire(struct flow *flow, uint32_t second)
{
    size_t dropped = 0;
    if (flow->looked_at == second)
        return 0;
    flow->looked_at = second;
    for (uint32_t i = flow->queued; i > 0; i--) {
        struct flow_item item = flow_queue_take(flow);
        if (item.publication->expires && item.publication->expires <= second) {
            kept_end(flow->worker, item.kept);
            flow_item_release(&item);
            dropped++;
        } else {
            put_last(flow, &item); /* in its own place */
        }
    }
    return dropped;
}

/* ---- Shared subscriptions ---- */

static bool is_shared_by(const struct flow_item *item, const struct share_member *only)
{
    return item->terms.share && (!only || item->terms.share == only);
}

void flow_take_shared(struct flow *flow, const struct share_member *only,
                      bool (*orphan)(void *context, struct flow_item *item, bool sent),
                      void *context)
{
    for (uint32_t i = 0; i < flow->span; i++) {
        struct flow_item *item = place(flow, i);
        if (item->state != FLIGHT_PUBLISHED_1 || !item->unsent || !is_shared_by(item, only))
            continue;
        uint64_t size = item_size(item);
        struct flow_item taken = *item;
        if (!orphan(context, &taken, true))
            continue;
        flow->unsent--;
        flow->in_flight_bytes -= size;
        item->state = FLIGHT_DONE;
        item->unsent = false;
    }
    drop_done(flow);
    for (uint32_t i = flow->queued; i > 0; i--) {
        struct flow_item item = flow_queue_take(flow);
        if (!is_shared_by(&item, only) || !orphan(context, &item, false))
            put_last(flow, &item);
    }
}
