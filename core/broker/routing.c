/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/routing.h"

#include "base/map.h"
#include "broker/deliver.h"
#include "broker/durable.h"
#include "broker/parcel.h"
#include "broker/receipt.h"
#include "broker/tap.h"

#include <stdlib.h>
#include <string.h>

#define CACHE_FIRST   256                /* places at the beginning */
#define CACHE_PLACES  65536              /* at most */
#define CACHE_BYTES   (32 * 1024 * 1024) /* above, all is forgotten */
#define BACKLOG_BYTES (64 * 1024 * 1024) /* for another worker: above, QoS 0 is dropped */

/* ---- What is published ---- */

struct publication *publish_keep(struct publish *p)
{
    if (p->kept)
        return p->kept;
    struct publication *publication = publication_new(
        p->topic, p->topic_len, p->properties, p->properties_len, p->payload, p->payload_len);
    if (publication) {
        publication->expires = p->expires;
        publication->qos = p->qos;
        publication->retain = p->retain;
    }
    return p->kept = publication;
}

struct publish publish_of(struct publication *publication)
{
    return (struct publish){
        .topic = publication_topic(publication),
        .topic_len = publication->topic_len,
        .properties = publication_properties(publication),
        .properties_len = publication->properties_len,
        .payload = publication_payload(publication),
        .payload_len = publication->payload_len,
        .expires = publication->expires,
        .qos = publication->qos,
        .retain = publication->retain,
        .kept = publication,
    };
}

struct receipt *publish_share_receipt(struct worker *worker, struct publish *p)
{
    if (!worker->broker->durable || !p->wants_receipt)
        return NULL;
    if (!p->receipt && !(p->receipt = receipt_new(worker, (struct session *)p->from))) {
        p->failed = true;
        return NULL;
    }
    receipt_wait(p->receipt);
    p->elsewhere = true;
    return p->receipt;
}

void publish_release(struct publish *p, const struct publication *borrowed)
{
    if (p->kept != borrowed)
        publication_unref(p->kept);
}

/* ---- Who wants a topic ---- */

struct gathering {
    struct worker *worker;
    struct subscription *found;
    size_t count, places;
    struct share **shares;
    size_t share_count, share_places;
    bool failed;
};

static void gather(const struct subscription *subscription, void *context)
{
    struct gathering *g = context;
    if (g->count == g->places) {
        size_t more = g->places ? g->places * 2 : 16;
        struct subscription *fresh = realloc(g->found, more * sizeof(*fresh));
        if (!fresh) {
            g->failed = true;
            return;
        }
        g->found = fresh;
        g->places = more;
    }
    g->found[g->count++] = *subscription;
}

static void gather_share(struct share *share, void *context)
{
    struct gathering *g = context;
    if (g->share_count == g->share_places) {
        size_t more = g->share_places ? g->share_places * 2 : 4;
        struct share **fresh = realloc(g->shares, more * sizeof(*fresh));
        if (!fresh) {
            g->failed = true;
            return;
        }
        g->shares = fresh;
        g->share_places = more;
    }
    g->shares[g->share_count++] = share_ref(share);
}

static int by_subscriber(const void *a, const void *b)
{
    const struct subscription *x = a, *y = b;
    return x->subscriber < y->subscriber ? -1 : x->subscriber > y->subscriber;
}

/* One receiver of `n` subscriptions of one session: the highest QoS, all identifiers [MQTT-3.3.4-2],
 * [-3]. `local` leaves out those with No Local. Returns false if none is left, or there is no memory. */
static bool merge(const struct subscription *found, size_t n, bool local, struct receiver *out,
                  bool *failed)
{
    uint32_t few[16], *ids = n <= 16 ? few : malloc(n * sizeof(*ids));
    if (!ids) {
        *failed = true;
        return false;
    }
    size_t id_count = 0, used = 0;
    *out = (struct receiver){
        .session = CONTAINER_OF(found->subscriber, struct session, subscriber),
    };
    for (size_t i = 0; i < n; i++) {
        if (local && (found[i].options & SUBSCRIPTION_NO_LOCAL))
            continue;
        used++;
        uint8_t qos = found[i].options & SUBSCRIPTION_QOS;
        if (qos > out->qos)
            out->qos = qos;
        out->as_published |= (found[i].options & SUBSCRIPTION_RETAIN_AS_PUBLISHED) != 0;
        if (found[i].id)
            ids[id_count++] = found[i].id;
    }
    if (id_count > 0 && !(out->ids = identifiers_new(ids, id_count)))
        *failed = true;
    if (ids != few)
        free(ids);
    return used > 0;
}

/* Makes receivers of subscriptions that are sorted by session: one each, or two where only some of a
 * session's have No Local. `out` has places for that. */
static size_t merge_all(struct gathering *g, struct receiver *out)
{
    size_t count = 0;
    for (size_t i = 0, n; i < g->count; i += n) {
        bool some_local = false;
        for (n = 0; i + n < g->count && g->found[i + n].subscriber == g->found[i].subscriber; n++)
            some_local |= (g->found[i + n].options & SUBSCRIPTION_NO_LOCAL) != 0;
        if (merge(&g->found[i], n, false, &out[count], &g->failed)) {
            out[count].not_to_self = some_local;
            count++;
        }
        if (some_local && n > 1 && merge(&g->found[i], n, true, &out[count], &g->failed)) {
            out[count].only_to_self = true;
            count++;
        }
    }
    return count;
}

static void routed_free(struct routing_cache *cache, struct routed *routed)
{
    if (!routed)
        return;
    for (uint32_t i = 0; i < routed->receiver_count; i++)
        identifiers_unref(routed->receivers[i].ids);
    for (uint32_t i = 0; i < routed->share_count; i++)
        share_unref(routed->shares[i]);
    cache->bytes -= routed->bytes;
    cache->count--;
    if (cache->last == routed)
        cache->last = NULL;
    free(routed->receivers);
    free(routed->shares);
    free(routed);
}

void routing_release(struct routing_cache *cache)
{
    for (size_t i = 0; cache->places && i <= cache->mask; i++)
        routed_free(cache, cache->places[i]);
    free(cache->places);
    *cache = (struct routing_cache){ 0 };
}

static size_t identifiers_bytes(const struct routed *routed)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < routed->receiver_count; i++) {
        const struct identifiers *ids = routed->receivers[i].ids;
        bytes += ids ? sizeof(*ids) + ids->count * sizeof(ids->values[0]) : 0;
    }
    return bytes;
}

/* Asks all who may want the topic. NULL when there is no memory. */
static struct routed *find_out(struct worker *worker, const char *topic, size_t len, uint64_t hash)
{
    struct broker *broker = worker->broker;
    struct routed *routed = calloc(1, sizeof(*routed) + len);
    if (!routed)
        return NULL;
    routed->hash = hash;
    routed->topic_len = (uint16_t)len;
    memcpy(routed->topic, topic, len);
    routed->here = filters_generation(worker->filters);
    routed->interest = interest_generation(broker->interest);
    routed->shared = shares_generation(broker->shares);

    struct gathering g = { .worker = worker };
    filters_match(worker->filters, topic, len, gather, &g);
    routed->others = interest_match(broker->interest, topic, len) & ~(UINT64_C(1) << worker->index);
    shares_match(broker->shares, topic, len, gather_share, &g);
    if (g.count > 1)
        qsort(g.found, g.count, sizeof(*g.found), by_subscriber);
    if (g.count > 0) {
        routed->receivers = malloc(2 * g.count * sizeof(*routed->receivers));
        if (routed->receivers)
            routed->receiver_count = (uint32_t)merge_all(&g, routed->receivers);
        else
            g.failed = true;
        if (routed->receiver_count > 0 && routed->receiver_count < 2 * g.count) {
            void *less =
                realloc(routed->receivers, routed->receiver_count * sizeof(*routed->receivers));
            routed->receivers = less ? less : routed->receivers;
        }
    }
    routed->shares = g.shares;
    routed->share_count = (uint32_t)g.share_count;
    for (unsigned i = 0; i < TAPS_MAX; i++)
        if (routed->others >> (TAP_FIRST + i) & 1)
            routed->tap_qos[i] = tap_qos(broker, i, topic, len);
    free(g.found);
    routed->bytes = sizeof(*routed) + len + routed->receiver_count * sizeof(*routed->receivers) +
                    routed->share_count * sizeof(*routed->shares) + identifiers_bytes(routed);
    worker->routing.count++;
    worker->routing.bytes += routed->bytes;
    if (g.failed) {
        routed_free(&worker->routing, routed);
        return NULL;
    }
    return routed;
}

/* Twice as many places; what was in the old ones is forgotten. */
static bool grow(struct routing_cache *cache)
{
    size_t places = cache->places ? (cache->mask + 1) * 2 : CACHE_FIRST;
    struct routed **fresh = calloc(places, sizeof(struct routed *));
    if (!fresh)
        return cache->places != NULL;
    routing_release(cache);
    cache->places = fresh;
    cache->mask = places - 1;
    return true;
}

/* Whether nothing has changed since. */
static bool is_current(const struct worker *worker, const struct routed *routed)
{
    return routed->here == filters_generation(worker->filters) &&
           routed->interest == interest_generation(worker->broker->interest) &&
           routed->shared == shares_generation(worker->broker->shares);
}

void routing_sweep(struct worker *worker)
{
    struct routing_cache *cache = &worker->routing;
    size_t end = cache->swept + cache->mask / 10 + 1;
    for (; cache->places && cache->swept < end && cache->swept <= cache->mask; cache->swept++) {
        struct routed *routed = cache->places[cache->swept];
        if (routed && routed->used && is_current(worker, routed)) {
            routed->used = false;
        } else {
            routed_free(cache, routed);
            cache->places[cache->swept] = NULL;
        }
    }
    if (cache->swept > cache->mask) {
        cache->swept = 0;
        if (cache->count == 0)
            routing_release(cache);
    }
}

static bool is_of(const struct routed *routed, const char *topic, size_t len)
{
    return routed && routed->topic_len == len && memcmp(routed->topic, topic, len) == 0;
}

static struct routed *look(struct worker *worker, const char *topic, size_t len)
{
    struct routing_cache *cache = &worker->routing;
    if (is_of(cache->last, topic, len) && is_current(worker, cache->last))
        return cache->last;
    uint64_t hash = map_hash(topic, len);
    struct routed *routed = cache->places ? cache->places[hash & cache->mask] : NULL;
    if (routed && routed->hash == hash && is_of(routed, topic, len) && is_current(worker, routed)) {
        routed->used = true;
        return cache->last = routed;
    }

    if (cache->bytes > CACHE_BYTES) {
        size_t mask = cache->mask;
        struct routed **places = cache->places;
        for (size_t i = 0; i <= mask; i++) {
            routed_free(cache, places[i]);
            places[i] = NULL;
        }
    }
    if ((!cache->places || (cache->count * 2 > cache->mask && cache->mask + 1 < CACHE_PLACES)) &&
        !grow(cache))
        return NULL;
    routed = find_out(worker, topic, len, hash);
    if (!routed)
        return NULL;
    routed_free(cache, cache->places[hash & cache->mask]);
    return cache->last = cache->places[hash & cache->mask] = routed;
}

/* ---- Delivering ---- */

uint8_t routing_qos(const struct worker *worker, uint8_t published, uint8_t granted)
{
    if (worker->settings->upgrade_outgoing_qos)
        return granted;
    return published < granted ? published : granted;
}

static void to_receiver(struct worker *worker, const struct receiver *receiver, struct publish *p)
{
    const struct session *self = p->from;
    if (receiver->session == self ? receiver->not_to_self : receiver->only_to_self)
        return;
    const struct terms terms = {
        .ids = receiver->ids,
        .qos = routing_qos(worker, p->qos, receiver->qos),
        .retain = p->retain && receiver->as_published,
    };
    deliver(worker, receiver->session, p, &terms);
}

static void to_worker(struct worker *worker, unsigned number, struct publish *p)
{
    bool crowded = atomic_load_explicit(&worker->broker->workers[number]->backlog,
                                        memory_order_relaxed) > BACKLOG_BYTES;
    if (crowded && p->qos == 0) {
        COUNT(worker, publish_dropped, 1);
        return;
    }
    p->crowded |= crowded;
    if (parcel_suits(p)) {
        p->failed |= parcel_add(worker, number, p) < 0;
        return;
    }
    struct letter_publication *letter = malloc(sizeof(*letter));
    struct publication *publication = letter ? publish_keep(p) : NULL;
    if (!publication) {
        free(letter);
        p->failed = true;
        return;
    }
    letter->letter.kind = LETTER_PUBLICATION;
    letter->publication = publication_ref(publication);
    letter->member = NULL;
    letter->receipt = publish_share_receipt(worker, p);
    letter->was = NULL;
    worker_write(worker, number, &letter->letter, publication_size(publication));
}

size_t route(struct worker *worker, struct publish *p)
{
    struct routed *routed = look(worker, p->topic, p->topic_len);
    if (!routed) {
        p->failed = true;
        return 0;
    }
    for (uint32_t i = 0; i < routed->receiver_count; i++)
        to_receiver(worker, &routed->receivers[i], p);
    for (uint32_t i = 0; i < routed->share_count; i++) {
        struct share_member *member = share_choose(routed->shares[i], NULL, false);
        if (member)
            deliver_shared(worker, member, p);
    }
    size_t others = 0;
    for (uint64_t left = routed->others; left; left &= left - 1) {
        unsigned number = (unsigned)__builtin_ctzll(left);
        if (number < TAP_FIRST)
            to_worker(worker, number, p);
        else
            tap_deliver(worker, number - TAP_FIRST, p, routed->tap_qos[number - TAP_FIRST]);
        others++;
    }
    return routed->receiver_count + routed->share_count + others;
}

void route_here(struct worker *worker, struct publish *p)
{
    struct routed *routed = look(worker, p->topic, p->topic_len);
    for (uint32_t i = 0; routed && i < routed->receiver_count; i++)
        to_receiver(worker, &routed->receivers[i], p);
    if (!routed)
        COUNT(worker, publish_dropped, 1);
}

void route_retain(struct worker *worker, struct publish *p)
{
    struct retained *retained = worker->broker->retained;
    if (p->payload_len == 0) {
        if (retained_clear(retained, p->topic, p->topic_len) && !durable_retained(worker, p))
            p->failed = true;
        return;
    }
    struct publication *publication = publish_keep(p);
    if (!publication || retained_set(retained, publication) < 0 || !durable_retained(worker, p))
        p->failed = true;
}
