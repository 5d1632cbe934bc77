/* SPDX-License-Identifier: MIT */

/* The broker as the rest of the program sees it. */

#include "broker/broker.h"

#include "base/clock.h"
#include "base/map.h"
#include "broker/durable.h"
#include "broker/publishing.h"
#include "broker/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

uint32_t broker_second(const struct broker *broker, int64_t now_ms)
{
    int64_t second = (now_ms - broker->started_ms) / 1000 + 1;
    return second < 1 ? 1 : (uint32_t)second;
}

unsigned broker_owner(const struct broker *broker, const char *id, size_t len)
{
    if (broker->worker_count == 1)
        return 0;
    return (unsigned)((map_hash(id, len) >> 32) % broker->worker_count);
}

/* ---- Life; the main thread ---- */

int broker_new(struct conf *conf, struct broker **out, struct conf_errors *errors)
{
    *out = NULL;
    struct broker *broker = calloc(1, sizeof(*broker));
    if (!broker)
        return -ENOMEM;
    broker->conf = conf_ref(conf);
    pthread_mutex_init(&broker->taps_lock, NULL);
    pthread_rwlock_init(&broker->running_lock, NULL);
    const struct conf_node *group = conf_node_get(conf_root(conf), "broker");
    int rc = 0;
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "not a group, write broker = { ... };");
        rc = -EINVAL;
    }
    if (rc == 0)
        rc = settings_read(group, &broker->settings, errors);
    if (rc == 0) {
        broker->worker_count = (unsigned)broker->settings.workers;
        broker->started_ms = clock_mono_ms();
        if (getrandom(&broker->id_seed, sizeof(broker->id_seed), 0) < 0)
            broker->id_seed = (uint64_t)clock_wall_ms();
        broker->interest = interest_new();
        broker->retained = retained_new();
        broker->shares = shares_new();
        broker->workers = calloc(broker->worker_count, sizeof(struct worker *));
        if (!broker->interest || !broker->retained || !broker->shares || !broker->workers)
            rc = -ENOMEM;
    }
    if (rc < 0)
        broker_free(broker);
    else
        *out = broker;
    return rc;
}

static int open_listener(const struct broker *broker, struct broker_listener *l)
{
    const struct listener_options options = {
        .unix_path = l->path,
        .unix_mode = l->unix_mode,
        .bind = l->bind_interface ? NULL : l->bind,
        .interface = l->bind_interface,
        .domain = !l->socket_domain                       ? LISTENER_IPV4_AND_IPV6
                  : strcmp(l->socket_domain, "ipv4") == 0 ? LISTENER_IPV4
                                                          : LISTENER_IPV6,
        .port = (uint16_t)l->port,
        .nodelay = broker->settings.set_tcp_nodelay,
    };
    struct buf why = BUF_INIT(4096);
    int rc = listener_open(&options, &l->listener, &why);
    if (rc < 0)
        log_error("%s", buf_str(&why));
    else
        log_info("listening on %s", l->listener->name);
    buf_release(&why);
    return rc;
}

static int make_workers(struct broker *broker)
{
    for (unsigned i = 0; i < broker->worker_count; i++) {
        if (!broker->workers[i] && !(broker->workers[i] = worker_new(broker, i))) {
            log_error("no memory for the broker's workers");
            return -ENOMEM;
        }
    }
    return 0;
}

int broker_restore(struct broker *broker, struct store *store)
{
    bool wanted = strcmp(broker->settings.durability, "commit") == 0;
    if (!store || !wanted) {
        log_info("broker: nothing is kept on disk (%s): sessions and retained messages end with "
                 "this program",
                 wanted ? "there is no store" : "durability is \"memory\"");
        return 0;
    }
    int rc = make_workers(broker);
    if (rc == 0 && !(broker->durable = durable_new(broker, store)))
        rc = -ENOMEM;
    return rc < 0 ? rc : durable_restore(broker->durable);
}

bool broker_durable_stats(const struct broker *broker, struct durable_stats *out)
{
    *out = (struct durable_stats){ 0 };
    if (broker->durable)
        durable_stats(broker->durable, out);
    return broker->durable != NULL;
}

int broker_start(struct broker *broker)
{
    int rc = make_workers(broker);
    for (size_t i = 0; rc == 0 && i < broker->settings.listener_count; i++)
        rc = open_listener(broker, &broker->settings.listeners[i]);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; rc == 0 && i < broker->worker_count; i++)
        rc = worker_start(broker->workers[i]);
    if (rc < 0)
        log_error("the broker's workers cannot be started: %s", strerror(-rc));
    broker->running = true;
    return rc;
}

/* Gives an order to all workers, and waits until they have followed it. */
static void order_all(struct broker *broker, enum worker_order order)
{
    sem_t done;
    sem_init(&done, 0, 0);
    unsigned told = 0;
    for (unsigned i = 0; i < broker->worker_count; i++)
        if (broker->workers[i] && broker->workers[i]->started &&
            worker_order(broker->workers[i], order, &done) == 0)
            told++;
    while (told > 0)
        if (sem_wait(&done) == 0)
            told--;
    sem_destroy(&done);
}

void broker_barrier(struct broker *broker)
{
    if (!broker->running)
        return;
    order_all(broker, ORDER_BARRIER);
    order_all(broker,
              ORDER_BARRIER); /* the first was answered within a turn: that one has ended now */
}

void broker_stop_intake(struct broker *broker)
{
    if (broker->running)
        order_all(broker, ORDER_STOP_INTAKE);
}

void broker_stop(struct broker *broker)
{
    if (!broker->running)
        return;
    broker_barrier(broker); /* what workers have for each other goes before the order */
    pthread_rwlock_wrlock(&broker->running_lock);
    broker->running = false;
    pthread_rwlock_unlock(&broker->running_lock);
    order_all(broker, ORDER_STOP);
    for (unsigned i = 0; i < broker->worker_count; i++)
        if (broker->workers[i])
            worker_join(broker->workers[i]);
    for (unsigned i = 0; i < broker->worker_count; i++)
        if (broker->workers[i])
            worker_clear(broker->workers[i]);
}

void broker_free(struct broker *broker)
{
    if (!broker)
        return;
    broker_stop(broker);
    /* All of them before the first is freed: acknowledgements wait for what other workers have. */
    for (unsigned i = 0; broker->workers && i < broker->worker_count; i++)
        if (broker->workers[i])
            worker_clear(broker->workers[i]);
    for (unsigned i = 0; broker->workers && i < broker->worker_count; i++)
        if (broker->workers[i])
            durable_release(broker->workers[i]);
    for (unsigned i = 0; broker->workers && i < broker->worker_count; i++)
        worker_free(broker->workers[i]);
    free(broker->workers);
    durable_free(broker->durable);
    interest_free(broker->interest);
    retained_free(broker->retained);
    shares_free(broker->shares);
    settings_release(&broker->settings);
    pthread_mutex_destroy(&broker->taps_lock);
    pthread_rwlock_destroy(&broker->running_lock);
    conf_unref(broker->conf);
    free(broker);
}

int broker_port(const struct broker *broker, size_t index)
{
    if (index >= broker->settings.listener_count || !broker->settings.listeners[index].listener)
        return 0;
    const struct listener *listener = broker->settings.listeners[index].listener;
    return listener->is_unix ? -1 : listener_port(listener);
}

bool broker_address(const struct broker *broker, const char **host, int *port)
{
    for (size_t i = 0; i < broker->settings.listener_count; i++) {
        const struct broker_listener *l = &broker->settings.listeners[i];
        if (l->mount_len > 0 || (!l->path && (l->port == 0 || l->bind_interface)))
            continue;
        *port = l->path ? 0 : (int)l->port;
        *host = l->path                                                       ? l->path
                : strcmp(l->bind, "") == 0 || strcmp(l->bind, "0.0.0.0") == 0 ? "127.0.0.1"
                : strcmp(l->bind, "::") == 0                                  ? "::1"
                                                                              : l->bind;
        return true;
    }
    return false;
}

/* ---- Counters; any thread ---- */

void broker_stats(struct broker *broker, struct broker_stats *out)
{
    *out = (struct broker_stats){ 0 };
    for (unsigned i = 0; i < broker->worker_count; i++) {
        const struct worker *w = broker->workers[i];
        if (!w)
            continue;
        const struct counters *c = &w->counters;
#define ADD(TO, FIELD) out->TO += atomic_load_explicit(&c->FIELD, memory_order_relaxed)
        ADD(clients_connected, clients_connected);
        ADD(clients_total, clients_total);
        ADD(clients_expired, clients_expired);
        ADD(messages_received, packets_received);
        ADD(messages_sent, packets_sent);
        ADD(publish_received, publish_received);
        ADD(publish_sent, publish_sent);
        ADD(publish_dropped, publish_dropped);
        ADD(publish_bytes_received, publish_bytes_received);
        ADD(publish_bytes_sent, publish_bytes_sent);
        ADD(bytes_received, bytes_received);
        ADD(bytes_sent, bytes_sent);
        ADD(connections, connections);
        ADD(connections_refused, connections_refused);
        ADD(packets_refused, packets_refused);
        ADD(sockets, sockets);
        ADD(subscriptions, subscriptions);
        ADD(shared_subscriptions, shared_subscriptions);
        ADD(stored, stored);
        ADD(stored_bytes, stored_bytes);
#undef ADD
    }
    const struct retained_stats retained = retained_stats(broker->retained);
    out->retained = retained.count;
    out->stored += retained.count;
    out->stored_bytes += retained.bytes;
    uint64_t most = atomic_load(&broker->clients_maximum);
    while (out->clients_connected > most &&
           !atomic_compare_exchange_weak(&broker->clients_maximum, &most, out->clients_connected))
        ;
    out->clients_maximum = most > out->clients_connected ? most : out->clients_connected;
}

/* ---- Publishing from other threads ---- */

struct letter_publish {
    struct letter letter;
    struct publication *publication;
    const struct broker_tap *not_to;
    sem_t done;
    int error;
};

void publishing_arrive(struct worker *worker, struct letter *letter)
{
    struct letter_publish *order = (struct letter_publish *)letter;
    struct publish publish = publish_of(order->publication);
    publish.tap = order->not_to;
    if (publish.retain)
        route_retain(worker, &publish);
    route(worker, &publish);
    /* What is published, or done to the store, when the caller knows comes behind this: also what goes by another
     * worker, which is another one for another topic. */
    worker_post(worker);
    durable_post(worker);
    order->error = publish.failed ? -ENOMEM : 0;
    sem_post(&order->done);
}

void publishing_refuse(struct letter *letter)
{
    struct letter_publish *order = (struct letter_publish *)letter;
    order->error = -EAGAIN;
    sem_post(&order->done);
}

int broker_publish(struct broker *broker, struct broker_tap *tap, struct publication *publication,
                   uint32_t expiry, bool no_local)
{
    if (publication->retain && !broker->settings.retain_available)
        return -EOPNOTSUPP;
    if (expiry > 0)
        publication->expires = expires_after(broker_second(broker, clock_mono_ms()), expiry);
    struct letter_publish order = {
        .letter.kind = LETTER_PUBLISH,
        .publication = publication,
        .not_to = no_local ? tap : NULL,
    };
    sem_init(&order.done, 0, 0);
    unsigned owner = broker_owner(broker, publication_topic(publication), publication->topic_len);
    pthread_rwlock_rdlock(&broker->running_lock);
    bool running = broker->running;
    if (running)
        loop_post_one(&broker->workers[owner]->loop, &order.letter.mail);
    else
        order.error = -EAGAIN;
    pthread_rwlock_unlock(&broker->running_lock);
    while (running && sem_wait(&order.done) < 0)
        ;
    sem_destroy(&order.done);
    if (tap && order.error == 0)
        atomic_fetch_add_explicit(&tap->published, 1, memory_order_relaxed);
    return order.error;
}

uint32_t broker_expiry(const struct broker *broker, const struct publication *publication)
{
    if (publication->expires == 0)
        return UINT32_MAX;
    return expires_in(publication->expires, broker_second(broker, clock_mono_ms()));
}
