/* SPDX-License-Identifier: MIT */

/* The list of links, and what they have in common. Main thread, except where links.h says any thread. */

#include "link/links.h"

#include "base/clock.h"
#include "link/connector.h"
#include "link/echo.h"
#include "link/embedded.h"
#include "link/receiver.h"
#include "link/sender.h"
#include "link/settings.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <mosquitto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPIC_ROOT "tocsin/"

struct link {
    struct link_settings settings;
    const char *name; /* kept for messages that outlive the configuration */
    char *client_id, *sender_id, *status, *state_file, *session;
    char *letters;
    struct echo *echo;
    struct receiver_config receiver_config;
    struct sender_config sender_config;
    struct receiver *receiver;
    struct sender *sender;
};

struct links {
    struct conf *conf;
    struct options_memory memory;
    struct links_handler handler;
    struct link *list;
    size_t count;
    struct embedded *embedded; /* NULL for none */
    char *status;              /* of the embedded link */
    pthread_mutex_t lock;      /* for `changed` alone */
    pthread_cond_t changed;
    bool receiving;
};

static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void start_library(void)
{
    mosquitto_lib_init();
}

/*
 * Names of links stand in messages, which may outlive everything here: they live as long as the program,
 * and are the same for the same link after a reload.
 */
static const char *keep_name(const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct kept {
        struct kept *next;
        char text[];
    } * kept;

    pthread_mutex_lock(&lock);
    struct kept *one = kept;
    while (one && strcmp(one->text, name) != 0)
        one = one->next;
    if (!one) {
        size_t size = strlen(name) + 1;
        one = malloc(sizeof(*one) + size);
        if (one) {
            memcpy(one->text, name, size);
            one->next = kept;
            kept = one;
        }
    }
    pthread_mutex_unlock(&lock);
    return one ? one->text : NULL;
}

static bool is_embedded(const struct links *links, const char *name)
{
    return links->embedded && strcmp(name, EMBEDDED_NAME) == 0;
}

static struct link *find(const struct links *links, const char *name)
{
    for (size_t i = 0; i < links->count; i++)
        if (strcmp(links->list[i].name, name) == 0)
            return &links->list[i];
    return NULL;
}

/* ---- From the configuration ---------------------------------------------------------------------- */

/* "a", "b", "c", NULL as one text of its own; NULL when there is no memory. */
static char *joined(const char *const *parts)
{
    struct buf text = BUF_INIT(TOPIC_MAX_BYTES);
    for (; *parts; parts++)
        buf_add_str(&text, *parts);
    return buf_take(&text);
}

/* A topic of ours: `below` is "/status", or such. */
static char *own_topic(const struct links *links, const char *node, const char *below)
{
    const char *const by_node[] = { TOPIC_ROOT, node, below, NULL };
    const char *const given[] = { links->handler.topic, below, NULL };
    return joined(links->handler.topic ? given : by_node);
}

static void signal_change(void *context)
{
    struct links *links = context;
    pthread_mutex_lock(&links->lock);
    pthread_cond_broadcast(&links->changed);
    pthread_mutex_unlock(&links->lock);
}

static int make_link(struct links *links, struct link *link, const char *node)
{
    const struct link_settings *s = &link->settings;
    const char *const default_id[] = { "tocsin-", node, "-", s->name, NULL };
    const char *const given_id[] = { s->client_id, NULL };
    link->client_id = joined(s->client_id ? given_id : default_id);
    const char *const sender_id[] = { link->client_id ? link->client_id : "", "-send", NULL };
    link->sender_id = joined(sender_id);
    link->status = own_topic(links, node, "/status");
    link->letters = own_topic(links, node, "/dead-letter/");
    char port[6];
    snprintf(port, sizeof(port), "%u", s->tcp_port);
    const char *const session[] = { s->host, " ", port, " ", link->client_id ? link->client_id : "",
                                    NULL };
    link->session = joined(session);
    const char *directory = getenv("STATE_DIRECTORY");
    const char *const default_file[] = { directory, "/link-", s->name, ".filters", NULL };
    const char *const given_file[] = { s->state_file, NULL };
    if (s->state_file || directory)
        link->state_file = joined(s->state_file ? given_file : default_file);
    link->echo = echo_new(s->loop_limit, s->loop_window.ms);
    bool complete = link->client_id && link->sender_id && link->status && link->letters &&
                    link->session && link->echo &&
                    (link->state_file || !(s->state_file || directory));
    if (!complete)
        return -ENOMEM;

    link->receiver_config = (struct receiver_config){ .settings = s,
                                                      .name = link->name,
                                                      .client_id = link->client_id,
                                                      .state_file = link->state_file,
                                                      .session = link->session,
                                                      .handler = &links->handler,
                                                      .status = link->status,
                                                      .letters = link->letters,
                                                      .echo = link->echo,
                                                      .changed = signal_change,
                                                      .context = links };
    link->sender_config = (struct sender_config){ .settings = s,
                                                  .name = link->name,
                                                  .client_id = link->sender_id,
                                                  .status = s->status ? link->status : NULL,
                                                  .echo = link->echo,
                                                  .changed = signal_change,
                                                  .context = links };
    int rc = receiver_new(&link->receiver_config, &link->receiver);
    if (rc == 0)
        rc = sender_new(&link->sender_config, &link->sender);
    return rc;
}

static void check_duplicate(const struct links *links, const struct conf_node *group,
                            struct conf_errors *errors)
{
    const struct link *last = &links->list[links->count];
    const struct link *same = find(links, last->name);
    if (strcmp(last->name, EMBEDDED_NAME) == 0)
        conf_error(errors, conf_node_get(group, "name"),
                   "\"" EMBEDDED_NAME "\" is the broker in this process: choose another name");
    if (strcmp(last->name, MESSAGE_INTERNAL) == 0)
        conf_error(errors, conf_node_get(group, "name"),
                   "\"" MESSAGE_INTERNAL
                   "\" is where messages of the router itself come from: choose "
                   "another name");
    if (same)
        conf_error(errors, conf_node_get(group, "name"),
                   "there is a link \"%s\" already: choose another name", last->name);
    for (size_t i = 0; i < links->count && last->settings.client_id; i++) {
        const struct link_settings *other = &links->list[i].settings;
        if (other->client_id && strcmp(other->client_id, last->settings.client_id) == 0 &&
            strcmp(other->host, last->settings.host) == 0 &&
            other->tcp_port == last->settings.tcp_port)
            conf_error(
                errors, conf_node_get(group, "client_id"),
                "link \"%s\" has the same at the same broker: the two would throw each other "
                "out, choose another",
                other->name);
    }
}

static int read_links(struct links *links, const struct conf_node *list, struct conf_errors *errors)
{
    size_t count = list ? conf_node_count(list) : 0;
    links->list = calloc(count + 1, sizeof(*links->list));
    if (!links->list)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct conf_node *group = conf_node_at(list, i);
        if (conf_node_type(group) != CONF_GROUP) {
            conf_error(errors, group, "is not a link: write { name = \"NAME\"; host = \"HOST\"; }");
            continue;
        }
        struct link *link = &links->list[links->count];
        if (link_settings_read(group, &link->settings, &links->memory, errors) > 0)
            continue;
        link->name = keep_name(link->settings.name);
        if (!link->name)
            return -ENOMEM;
        check_duplicate(links, group, errors);
        links->count++;
    }
    return 0;
}

static int make_links(struct links *links, const char *node, struct conf_errors *errors)
{
    size_t before = errors->count;
    const struct conf_node *list = conf_node_get(conf_root(links->conf), "links");
    if (list && conf_node_type(list) != CONF_LIST) {
        conf_error(errors, list, "is not a list: write links = ( { name = \"NAME\"; }, ... );");
        return -EINVAL;
    }
    const char *fault = topic_name_fault(node, strlen(node));
    if (fault || strchr(node, '/'))
        conf_error(errors, NULL, "node = \"%s\" cannot be part of a topic: %s", node,
                   fault ? fault : "it has a '/'");
    int rc = read_links(links, list, errors);
    if (rc == 0 && errors->count > before)
        rc = -EINVAL;
    for (size_t i = 0; i < links->count && rc == 0; i++)
        rc = make_link(links, &links->list[i], node);
    return rc;
}

static int make_embedded(struct links *links, struct broker *broker, const char *node)
{
    links->status = own_topic(links, node, "/status");
    if (links->status)
        links->embedded = embedded_new(broker, links->status, &links->handler);
    return links->embedded ? 0 : -ENOMEM;
}

int links_new(struct conf *conf, struct broker *broker, const char *node,
              const struct links_handler *handler, struct links **out, struct conf_errors *errors)
{
    *out = NULL;
    pthread_once(&library_once, start_library);
    struct links *links = calloc(1, sizeof(*links));
    if (!links)
        return -ENOMEM;
    links->conf = conf_ref(conf);
    links->handler = *handler;
    pthread_mutex_init(&links->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&links->changed, &attributes);
    pthread_condattr_destroy(&attributes);

    int rc = make_links(links, node, errors);
    if (rc == 0 && broker)
        rc = make_embedded(links, broker, node);
    if (rc < 0)
        links_free(links);
    else
        *out = links;
    return rc;
}

const char *links_name_at(const struct links *links, size_t index)
{
    if (links->embedded && index-- == 0)
        return EMBEDDED_NAME;
    return index < links->count ? links->list[index].name : NULL;
}

/* ---- Life ---------------------------------------------------------------------------------------- */

static void prepare_tls(const struct links *links)
{
    for (size_t i = 0; i < links->count; i++)
        if (links->list[i].settings.use_tls)
            connector_prepare_tls();
}

int links_start_sending(struct links *links)
{
    prepare_tls(links);
    for (size_t i = 0; i < links->count; i++) {
        struct link *link = &links->list[i];
        sender_be_nobody(link->sender);
        int rc = sender_start(link->sender);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int links_start(struct links *links)
{
    links->receiving = true;
    prepare_tls(links);
    if (links->embedded)
        embedded_start(links->embedded);
    for (size_t i = 0; i < links->count; i++) {
        int rc = sender_start(links->list[i].sender);
        if (rc == 0)
            rc = receiver_start(links->list[i].receiver);
        if (rc < 0)
            return rc;
    }
    return 0;
}

void links_stop_receiving(struct links *links)
{
    if (links->embedded)
        embedded_stop_receiving(links->embedded);
    for (size_t i = 0; i < links->count; i++)
        if (links->list[i].receiver)
            receiver_stop(links->list[i].receiver);
    for (size_t i = 0; i < links->count; i++)
        if (links->list[i].receiver)
            receiver_join(links->list[i].receiver);
    links->receiving = false;
}

void links_stop_sending(struct links *links)
{
    if (links->embedded)
        embedded_stop_sending(links->embedded);
    for (size_t i = 0; i < links->count; i++)
        if (links->list[i].sender)
            sender_stop(links->list[i].sender);
    for (size_t i = 0; i < links->count; i++)
        if (links->list[i].sender)
            sender_join(links->list[i].sender);
}

bool links_free(struct links *links)
{
    if (!links)
        return true;
    if (links->receiving)
        links_stop_receiving(links);
    links_stop_sending(links);
    bool free_of_all = embedded_free(links->embedded);
    if (free_of_all)
        free(links->status);
    for (size_t i = 0; i < links->count; i++) {
        struct link *link = &links->list[i];
        receiver_free(link->receiver);
        sender_free(link->sender);
        echo_free(link->echo);
        free(link->client_id);
        free(link->sender_id);
        free(link->status);
        free(link->letters);
        free(link->state_file);
        free(link->session);
    }
    free(links->list);
    options_memory_release(&links->memory);
    conf_unref(links->conf);
    pthread_cond_destroy(&links->changed);
    pthread_mutex_destroy(&links->lock);
    if (free_of_all)
        free(links); /* with the handler */
    return free_of_all;
}

/* ---- Use ----------------------------------------------------------------------------------------- */

int links_set_filters(struct links *links, const char *link, const struct link_filter *filters,
                      size_t n)
{
    if (is_embedded(links, link))
        return embedded_set_filters(links->embedded, filters, n);
    const struct link *of = find(links, link);
    return of ? receiver_set_filters(of->receiver, filters, n) : -ENOENT;
}

void links_publish(void *context, const char *link, struct tocsin_publication *const *publications,
                   size_t n, int64_t timeout_ms)
{
    const struct links *links = context;
    if (is_embedded(links, link)) {
        embedded_publish(links->embedded, publications, n);
        return;
    }
    const struct link *of = find(links, link);
    if (of) {
        sender_publish(of->sender, publications, n, timeout_ms);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        publications[i]->error = -EINVAL;
        publications[i]->reason_code = 0;
    }
}

int links_set_status(struct links *links, const char *text, bool last)
{
    if (links->embedded)
        return embedded_set_status(links->embedded, text, last);
    const struct link *first = links->count > 0 ? &links->list[0] : NULL;
    return first && first->settings.status ? sender_set_status(first->sender, text, last) : 0;
}

int links_announce(struct links *links, const char *topic, const void *payload, size_t len)
{
    if (links->embedded)
        return embedded_announce(links->embedded, topic, payload, len);
    const struct link *first = links->count > 0 ? &links->list[0] : NULL;
    return first && first->settings.status ? sender_announce(first->sender, topic, payload, len)
                                           : -ENOENT;
}

static bool all_ready(struct links *links)
{
    if (links->embedded && !embedded_is_ready(links->embedded))
        return false;
    for (size_t i = 0; i < links->count; i++)
        if (!sender_is_ready(links->list[i].sender) ||
            (links->receiving && !receiver_is_ready(links->list[i].receiver)))
            return false;
    return true;
}

bool links_await_ready(struct links *links, int64_t timeout_ms)
{
    int64_t end_ms = clock_mono_ms() + timeout_ms;
    const struct timespec end = { .tv_sec = end_ms / 1000, .tv_nsec = end_ms % 1000 * 1000000 };
    pthread_mutex_lock(&links->lock);
    bool ready = all_ready(links);
    while (!ready && pthread_cond_timedwait(&links->changed, &links->lock, &end) != ETIMEDOUT)
        ready = all_ready(links);
    pthread_mutex_unlock(&links->lock);
    return ready;
}

bool links_stats(const struct links *links, const char *link, struct link_stats *out)
{
    if (is_embedded(links, link)) {
        embedded_stats(links->embedded, out);
        return true;
    }
    const struct link *of = find(links, link);
    *out = (struct link_stats){ 0 };
    if (!of)
        return false;
    const struct receiver_counters *in = receiver_counters(of->receiver);
    const struct sender_counters *sent = sender_counters(of->sender);
    *out = (struct link_stats){
        .received = atomic_load(&in->received),
        .received_bytes = atomic_load(&in->received_bytes),
        .published = atomic_load(&sent->published),
        .publish_failed = atomic_load(&sent->failed),
        .connects = atomic_load(&in->connects),
        .loops_stopped = atomic_load(&in->loops_stopped),
        .subscriptions_refused = atomic_load(&in->refused),
        .untaken = receiver_untaken(of->receiver),
        .connected = receiver_is_ready(of->receiver),
    };
    return true;
}
