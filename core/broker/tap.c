/* SPDX-License-Identifier: MIT */

/* Subscribers inside the process. */

#include "broker/tap.h"

#include "base/clock.h"
#include "broker/receipt.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* What a tap is given, with the broker's side of it. */
struct tap_item {
    struct tap_message message;
    struct broker_tap *tap;
    size_t size;
};

/* ---- Life ---- */

struct broker_tap *broker_tap_open(struct broker *broker, const char *name, broker_tap_fn *messages,
                                   void *context)
{
    struct broker_tap *tap = calloc(1, sizeof(*tap));
    if (!tap)
        return NULL;
    tap->broker = broker;
    tap->name = name;
    tap->messages = messages;
    tap->context = context;
    atomic_init(&tap->limit, 64 * 1024 * 1024);
    pthread_rwlock_init(&tap->lock, NULL);

    pthread_mutex_lock(&broker->taps_lock);
    unsigned number = 0;
    while (number < TAPS_MAX && atomic_load(&broker->taps[number]))
        number++;
    if (number < TAPS_MAX) {
        tap->number = number;
        atomic_store(&broker->taps[number], tap);
    }
    pthread_mutex_unlock(&broker->taps_lock);
    if (number < TAPS_MAX)
        return tap;
    pthread_rwlock_destroy(&tap->lock);
    free(tap);
    return NULL;
}

static void free_filters(struct tap_filter *filters, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free((char *)filters[i].filter);
    free(filters);
}

static bool has_filter(const struct tap_filter *filters, size_t n, const char *filter)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(filters[i].filter, filter) == 0)
            return true;
    return false;
}

struct retained_for_tap {
    struct broker_tap *tap;
    struct tap_message *first, **end;
    size_t count;
    uint8_t qos;
    bool failed;
};

static struct tap_item *item_new(struct broker_tap *tap, struct publication *publication,
                                 uint8_t qos, bool retain)
{
    struct tap_item *item = calloc(1, sizeof(*item));
    if (!item)
        return NULL;
    item->tap = tap;
    item->size = sizeof(*item) + publication_size(publication);
    item->message.publication = publication_ref(publication);
    item->message.qos = qos;
    item->message.retain = retain;
    atomic_fetch_add_explicit(&tap->received, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&tap->received_bytes, publication->payload_len, memory_order_relaxed);
    atomic_fetch_add_explicit(&tap->in_hand, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&tap->in_hand_bytes, item->size, memory_order_relaxed);
    return item;
}

static bool collect_retained(struct publication *publication, void *context)
{
    struct retained_for_tap *r = context;
    uint8_t qos = publication->qos < r->qos ? publication->qos : r->qos;
    struct tap_item *item = item_new(r->tap, publication, qos, true);
    if (!item) {
        r->failed = true;
        return false;
    }
    *r->end = &item->message;
    r->end = &item->message.next;
    r->count++;
    return true;
}

/* Hands over the retained messages of a filter that is new. */
static int give_retained(struct broker_tap *tap, const struct tap_filter *filter)
{
    struct retained_cursor cursor = { 0 };
    uint32_t now = broker_second(tap->broker, clock_mono_ms());
    int rc = retained_cursor_init(&cursor, filter->filter, strlen(filter->filter));
    bool more = rc == 0;
    while (more) {
        struct retained_for_tap r = { .tap = tap, .qos = filter->qos };
        r.end = &r.first;
        more = retained_scan(tap->broker->retained, &cursor, now, 1000, collect_retained, &r);
        if (r.count > 0)
            tap->messages(tap->context, r.first, r.count);
        if (r.failed) {
            rc = -ENOMEM;
            break;
        }
    }
    retained_cursor_release(&cursor);
    return rc;
}

int broker_tap_set_filters(struct broker_tap *tap, const struct tap_filter *filters, size_t n)
{
    struct interest *interest = tap->broker->interest;
    struct tap_filter *fresh = calloc(n ? n : 1, sizeof(*fresh));
    if (!fresh)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        fresh[i] = (struct tap_filter){ strdup(filters[i].filter), filters[i].qos };
        if (!fresh[i].filter) {
            free_filters(fresh, i);
            return -ENOMEM;
        }
    }

    /* The new filters before the index says that they are wanted, which makes workers ask for their QoS; and what
     * is wanted before and after is so at every moment. */
    pthread_rwlock_wrlock(&tap->lock);
    struct tap_filter *old = tap->filters;
    size_t old_count = tap->filter_count;
    tap->filters = fresh;
    tap->filter_count = n;
    pthread_rwlock_unlock(&tap->lock);

    unsigned number = TAP_FIRST + tap->number;
    int rc = 0;
    for (size_t i = 0; i < n; i++)
        if (interest_add(interest, number, fresh[i].filter, strlen(fresh[i].filter)) < 0)
            rc = -ENOMEM;
    for (size_t i = 0; i < old_count; i++)
        if (!has_filter(fresh, n, old[i].filter))
            interest_remove(interest, number, old[i].filter, strlen(old[i].filter));
    interest_renew(interest); /* for those whose QoS alone has changed */
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!has_filter(old, old_count, fresh[i].filter))
            rc = give_retained(tap, &fresh[i]);
    free_filters(old, old_count);
    return rc;
}

void broker_tap_set_limit(struct broker_tap *tap, size_t bytes)
{
    atomic_store(&tap->limit, bytes);
}

void broker_tap_stats(const struct broker_tap *tap, struct broker_tap_stats *out)
{
    *out = (struct broker_tap_stats){
        .received = atomic_load(&tap->received),
        .received_bytes = atomic_load(&tap->received_bytes),
        .dropped = atomic_load(&tap->dropped),
        .published = atomic_load(&tap->published),
        .in_hand = atomic_load(&tap->in_hand),
        .in_hand_bytes = atomic_load(&tap->in_hand_bytes),
    };
}

void broker_tap_silence(struct broker_tap *tap)
{
    broker_tap_set_filters(tap, NULL, 0);
    broker_barrier(tap->broker); /* no worker is in a turn that began before */
}

void broker_tap_close(struct broker_tap *tap)
{
    if (!tap)
        return;
    broker_tap_silence(tap);
    atomic_store(&tap->broker->taps[tap->number], NULL);
    broker_barrier(tap->broker); /* nor does one look whether it is crowded */
    free_filters(tap->filters, tap->filter_count);
    pthread_rwlock_destroy(&tap->lock);
    free(tap);
}

/* ---- Workers ---- */

uint8_t tap_qos(struct broker *broker, unsigned number, const char *topic, size_t len)
{
    struct broker_tap *tap = atomic_load(&broker->taps[number]);
    uint8_t qos = 0;
    if (!tap)
        return 0;
    pthread_rwlock_rdlock(&tap->lock);
    for (size_t i = 0; i < tap->filter_count; i++) {
        const struct tap_filter *f = &tap->filters[i];
        if (f->qos > qos && topic_filter_matches(f->filter, strlen(f->filter), topic, len))
            qos = f->qos;
    }
    pthread_rwlock_unlock(&tap->lock);
    return qos;
}

static bool is_crowded(const struct broker_tap *tap)
{
    return atomic_load_explicit(&tap->in_hand_bytes, memory_order_relaxed) >=
           atomic_load_explicit(&tap->limit, memory_order_relaxed);
}

bool taps_are_crowded(const struct broker *broker)
{
    for (unsigned i = 0; i < TAPS_MAX; i++) {
        const struct broker_tap *tap = atomic_load_explicit(&broker->taps[i], memory_order_acquire);
        if (tap && is_crowded(tap))
            return true;
    }
    return false;
}

void tap_deliver(struct worker *worker, unsigned number, struct publish *p, uint8_t granted)
{
    struct broker_tap *tap =
        atomic_load_explicit(&worker->broker->taps[number], memory_order_acquire);
    if (!tap || p->tap == tap)
        return;
    uint8_t qos = p->qos < granted ? p->qos : granted;
    if (is_crowded(tap)) {
        if (qos == 0) {
            atomic_fetch_add_explicit(&tap->dropped, 1, memory_order_relaxed);
            COUNT(worker, publish_dropped, 1);
            return;
        }
        p->crowded = true;
    }
    struct publication *publication = publish_keep(p);
    if (publication && qos > 0 && p->wants_receipt && !p->receipt)
        p->receipt = receipt_new(worker, (struct session *)p->from);
    struct tap_item *item = publication && (qos == 0 || !p->wants_receipt || p->receipt)
                                ? item_new(tap, publication, qos, false)
                                : NULL;
    if (!item) {
        p->failed = true;
        return;
    }
    if (qos > 0 && p->packet_id > 0 && p->from) {
        item->message.dup = p->dup;
        item->message.packet_id = p->packet_id;
        item->message.client = XXH3_64bits(p->from->id, p->from->id_len);
    }
    if (qos > 0 && p->receipt) {
        receipt_wait(p->receipt);
        p->elsewhere = true;
        item->message.receipt = p->receipt;
    }
    struct tap_batch *batch = &worker->taps[number];
    if (!batch->first)
        batch->end = &batch->first;
    *batch->end = &item->message;
    batch->end = &item->message.next;
    batch->count++;
    worker->tapped |= 1u << number;
}

void taps_settle(struct worker *worker)
{
    for (uint32_t left = worker->tapped; left; left &= left - 1) {
        unsigned number = (unsigned)__builtin_ctz(left);
        struct tap_batch batch = worker->taps[number];
        const struct broker_tap *tap = atomic_load(&worker->broker->taps[number]);
        worker->taps[number] = (struct tap_batch){ 0 };
        tap->messages(tap->context, batch.first, batch.count);
    }
    worker->tapped = 0;
}

void tap_message_done(struct tap_message *message, bool refused)
{
    struct tap_item *item = CONTAINER_OF(message, struct tap_item, message);
    struct broker_tap *tap = item->tap;
    struct receipt *receipt = message->receipt;
    publication_unref(message->publication);
    atomic_fetch_sub_explicit(&tap->in_hand_bytes, item->size, memory_order_relaxed);
    atomic_fetch_sub_explicit(&tap->in_hand, 1, memory_order_release);
    free(item);
    if (receipt)
        receipt_done(receipt, refused);
}
