/* SPDX-License-Identifier: MIT */

/* The broker's workers hand messages over, any thread publishes and takes over, the main thread does the rest. */

#include "link/embedded.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "link/properties.h"
#include "link/settings.h"
#include "mqtt/reason.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HOPS          4
#define MAX_UNTAKEN_BYTES (64 * 1024 * 1024)

struct embedded {
    struct broker *broker;
    struct broker_tap *tap;
    const char *status;
    const struct links_handler *handler;
    atomic_bool open; /* for publications */
    atomic_bool status_stays;
    atomic_uint_fast64_t received, published, failed, loops_stopped;
    pthread_mutex_t lock; /* of what follows */
    struct log_trouble loop_trouble;

    pthread_rwlock_t
        receiving_lock; /* of what follows; held to read while something is published */
    bool stopped;       /* receiving, for good */
    char **filters;     /* what it then received; with NULL at the end */
};

/* ---- Messages in; the workers' threads ---- */

/* message_taken_fn; any thread */
static void taken(struct message *m, void *context)
{
    tap_message_done(context, m->qos > 0 && atomic_load(&m->refused));
}

static void stop_loop(struct embedded *link, const char *topic, unsigned hops)
{
    atomic_fetch_add(&link->loops_stopped, 1);
    pthread_mutex_lock(&link->lock);
    bool due = log_trouble_due(&link->loop_trouble, clock_mono_ms());
    pthread_mutex_unlock(&link->lock);
    if (due)
        log_warning("link " EMBEDDED_NAME ": loop stopped, message dropped topic=%s hops=%u", topic,
                    hops);
}

static int read_properties(const struct embedded *link, struct properties_in *in,
                           const struct publication *p, int64_t now_ms)
{
    const uint32_t left = broker_expiry(link->broker, p);
    if (p->properties_len == 0 && left == UINT32_MAX) {
        in->any = false;
        in->hops = 0;
        return 0;
    }
    const struct mqtt_properties carried = {
        .raw = { publication_properties(p), p->properties_len },
    };
    if (properties_read_packet(in, &carried, now_ms) < 0)
        return -ENOMEM;
    if (left != UINT32_MAX) {
        in->any = true;
        in->properties.expires_ms = now_ms + (int64_t)left * 1000;
    }
    return 0;
}

/* Makes a message of what the tap was given. NULL when it has been settled here. */
static struct message *take_in(struct embedded *link, struct tap_message *from,
                               struct properties_in *in, int64_t now_ms)
{
    const struct publication *p = from->publication;
    struct message *m = NULL;
    if (read_properties(link, in, p, now_ms) == 0)
        m = message_new(publication_topic(p), p->topic_len, publication_payload(p), p->payload_len,
                        in->any ? &in->properties : NULL);
    if (!m) {
        tap_message_done(from, true);
        return NULL;
    }
    if (strcmp(m->topic, link->status) == 0) { /* our own, or somebody wants it to be so */
        message_unref(m);
        tap_message_done(from, false);
        return NULL;
    }
    if (in->hops > MAX_HOPS) {
        stop_loop(link, m->topic, in->hops);
        message_unref(m);
        tap_message_done(from, false);
        return NULL;
    }
    m->received_ms = now_ms;
    m->link = EMBEDDED_NAME;
    m->generation = 1;
    m->qos = from->qos;
    m->retain = from->retain;
    m->dup = from->dup;
    m->packet_id = from->packet_id;
    if (from->packet_id > 0)
        m->sender = message_sender(EMBEDDED_NAME, &from->client, sizeof(from->client));
    m->hops = in->hops;
    m->next = NULL;
    m->taken = taken;
    m->taken_context = from;
    publication_unref(from->publication); /* there is a copy now */
    from->publication = NULL;
    return m;
}

/* broker_tap_fn */
static void on_messages(void *context, struct tap_message *first, size_t n)
{
    struct embedded *link = context;
    const int64_t now_ms = clock_wall_ms();
    struct properties_in in = { 0 };
    struct message *list = NULL, **end = &list;
    (void)n;
    size_t count = 0;
    for (struct tap_message *from = first, *next; from; from = next) {
        next = from->next;
        *end = take_in(link, from, &in, now_ms);
        if (*end) {
            end = &(*end)->next;
            count++;
        }
    }
    properties_release(&in);
    atomic_fetch_add_explicit(&link->received, count, memory_order_relaxed);
    if (count > 0)
        link->handler->messages(link->handler->context, list, count);
}

/* ---- Publications out; any thread ---- */

/* The publication with its properties but the expiry, which the broker has in a field of its own. */
static int make_publication(const struct tocsin_publication *from, struct publication **out)
{
    struct tocsin_publication plain = *from;
    struct tocsin_properties carried;
    if (from->properties) {
        carried = *from->properties;
        carried.expires_ms = 0;
        plain.properties = &carried;
    }
    struct buf properties = BUF_INIT(MQTT_VARINT_MAX);
    int rc = properties_write(&plain, 0, &properties);
    if (rc == 0) {
        *out = publication_new(from->topic, strlen(from->topic), buf_str(&properties),
                               properties.len, from->payload, from->payload_len);
        rc = *out ? 0 : -ENOMEM;
    }
    buf_release(&properties);
    if (rc == 0) {
        (*out)->qos = from->qos;
        (*out)->retain = from->retain;
    }
    return rc == -E2BIG ? -EINVAL : rc;
}

/* Whether routes of this router would get it, if they still got anything. Under the lock. */
static bool comes_too_late(const struct embedded *link, const char *topic)
{
    for (char **filter = link->filters; link->stopped && filter && *filter; filter++)
        if (topic_filter_matches(*filter, strlen(*filter), topic, strlen(topic)))
            return true;
    return false;
}

/* What a broker would say to a client. */
static int check(const struct tocsin_publication *pub, uint8_t *reason)
{
    if (topic_name_fault(pub->topic, strlen(pub->topic))) {
        *reason = MQTT_TOPIC_NAME_INVALID;
        return -EINVAL;
    }
    if (strcmp(pub->topic, "$SYS") == 0 || strncmp(pub->topic, "$SYS/", 5) == 0) {
        *reason = MQTT_NOT_AUTHORIZED;
        return -EACCES;
    }
    if (properties_packet_length(pub) > MQTT_VARINT_MAX) {
        *reason = MQTT_PACKET_TOO_LARGE;
        return -EINVAL;
    }
    return 0;
}

static int publish_one(struct embedded *link, struct tocsin_publication *pub, uint8_t *reason)
{
    const struct tocsin_properties *p = pub->properties;
    int64_t left_ms = p && p->expires_ms > 0 ? p->expires_ms - clock_wall_ms() : 1;
    if (left_ms <= 0)
        return -ESTALE;
    int rc = check(pub, reason);
    if (rc < 0)
        return rc;

    /* Publishers are read from no further while the tap has its fill. What is published from in here comes beside
     * them; it may go beyond, since what waits there may be waiting for just this to go on, but not forever. */
    struct broker_tap_stats tap;
    broker_tap_stats(link->tap, &tap);
    if (tap.in_hand_bytes >= 2 * (uint64_t)MAX_UNTAKEN_BYTES)
        return -EAGAIN;

    struct publication *publication = NULL;
    rc = make_publication(pub, &publication);
    if (rc < 0)
        return rc;
    int64_t expiry = p && p->expires_ms > 0 ? (left_ms + 999) / 1000 : 0;
    pthread_rwlock_rdlock(&link->receiving_lock);
    rc = -EAGAIN;
    if (!comes_too_late(link, pub->topic))
        rc = broker_publish(link->broker, link->tap, publication,
                            expiry > UINT32_MAX ? UINT32_MAX : (uint32_t)expiry, false);
    pthread_rwlock_unlock(&link->receiving_lock);
    if (rc == -EOPNOTSUPP) {
        *reason = MQTT_RETAIN_NOT_SUPPORTED;
        rc = -EINVAL;
    }
    publication_unref(publication);
    return rc;
}

void embedded_publish(struct embedded *link, struct tocsin_publication *const *publications,
                      size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t reason = 0;
        int rc = atomic_load(&link->open) ? publish_one(link, publications[i], &reason) : -EAGAIN;
        publications[i]->error = rc;
        publications[i]->reason_code = reason;
        atomic_fetch_add(rc == 0 ? &link->published : &link->failed, 1);
    }
}

/* ---- Life; the main thread ---- */

static int announce(struct embedded *link, const char *topic, const void *payload, size_t len,
                    bool retain)
{
    struct publication *p = publication_new(topic, strlen(topic), NULL, 0, payload, len);
    if (!p)
        return -ENOMEM;
    p->qos = 1;
    p->retain = retain;
    int rc = broker_publish(link->broker, link->tap, p, 0, true);
    publication_unref(p);
    return rc;
}

int embedded_announce(struct embedded *link, const char *topic, const void *payload, size_t len)
{
    return atomic_load(&link->open) ? announce(link, topic, payload, len, false) : -EAGAIN;
}

static int publish_status(struct embedded *link, const char *text)
{
    int rc = announce(link, link->status, text, strlen(text), true);
    if (rc == -EOPNOTSUPP) /* nothing may be retained: who is there hears it */
        rc = announce(link, link->status, text, strlen(text), false);
    if (rc < 0)
        log_warning("link " EMBEDDED_NAME ": cannot publish the status topic=%s: %s", link->status,
                    strerror(-rc));
    return rc;
}

int embedded_set_status(struct embedded *link, const char *text, bool last)
{
    if (!atomic_load(&link->open))
        return -EAGAIN;
    if (last)
        atomic_store(&link->status_stays, true);
    return publish_status(link, text);
}

struct embedded *embedded_new(struct broker *broker, const char *status,
                              const struct links_handler *handler)
{
    struct embedded *link = calloc(1, sizeof(*link));
    if (!link)
        return NULL;
    link->broker = broker;
    link->status = status;
    link->handler = handler;
    pthread_mutex_init(&link->lock, NULL);
    pthread_rwlock_init(&link->receiving_lock, NULL);
    link->tap = broker_tap_open(broker, EMBEDDED_NAME, on_messages, link);
    if (!link->tap) {
        embedded_free(link);
        return NULL;
    }
    broker_tap_set_limit(link->tap, MAX_UNTAKEN_BYTES);
    return link;
}

void embedded_start(struct embedded *link)
{
    atomic_store(&link->open, true);
    publish_status(link, LINK_STATUS_ONLINE);
    log_info("link " EMBEDDED_NAME ": subscribed, messages are received");
}

static void free_texts(char **texts)
{
    for (size_t i = 0; texts && texts[i]; i++)
        free(texts[i]);
    free(texts);
}

static char **copy_filters(const struct link_filter *filters, size_t n)
{
    char **texts = calloc(n + 1, sizeof(*texts));
    for (size_t i = 0; texts && i < n; i++)
        if (!(texts[i] = strdup(filters[i].filter))) {
            free_texts(texts);
            return NULL;
        }
    return texts;
}

int embedded_set_filters(struct embedded *link, const struct link_filter *filters, size_t n)
{
    struct tap_filter *list = calloc(n + 1, sizeof(*list));
    char **texts = copy_filters(filters, n);
    int rc = list && texts ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < n; i++)
        list[i] = (struct tap_filter){ filters[i].filter, filters[i].qos };
    if (rc == 0)
        rc = broker_tap_set_filters(link->tap, list, n);
    if (rc == 0) {
        pthread_rwlock_wrlock(&link->receiving_lock);
        char **old = link->filters;
        link->filters = texts;
        pthread_rwlock_unlock(&link->receiving_lock);
        texts = old;
    }
    free_texts(texts);
    free(list);
    return rc;
}

void embedded_stop_receiving(struct embedded *link)
{
    pthread_rwlock_wrlock(&link->receiving_lock);
    link->stopped = true;
    pthread_rwlock_unlock(&link->receiving_lock);
    broker_tap_silence(link->tap);
}

void embedded_stop_sending(struct embedded *link)
{
    if (!atomic_exchange(&link->open, false))
        return;
    if (!atomic_load(&link->status_stays))
        publish_status(link, LINK_STATUS_OFFLINE);
}

bool embedded_free(struct embedded *link)
{
    if (!link)
        return true;
    struct broker_tap_stats tap = { 0 };
    if (link->tap)
        broker_tap_stats(link->tap, &tap);
    if (tap.in_hand > 0)
        return false;
    broker_tap_close(link->tap);
    free_texts(link->filters);
    pthread_rwlock_destroy(&link->receiving_lock);
    pthread_mutex_destroy(&link->lock);
    free(link);
    return true;
}

/* ---- Any thread ---- */

bool embedded_is_ready(const struct embedded *link)
{
    return atomic_load(&link->open);
}

void embedded_stats(const struct embedded *link, struct link_stats *out)
{
    struct broker_tap_stats tap;
    broker_tap_stats(link->tap, &tap);
    bool open = atomic_load(&link->open);
    *out = (struct link_stats){
        .received = atomic_load(&link->received),
        .received_bytes = tap.received_bytes,
        .published = atomic_load(&link->published),
        .publish_failed = atomic_load(&link->failed),
        .connects = open,
        .loops_stopped = atomic_load(&link->loops_stopped),
        .dropped = tap.dropped,
        .untaken = tap.in_hand,
        .connected = open,
    };
}
