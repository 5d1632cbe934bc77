/* SPDX-License-Identifier: MIT */

#include "scripted_services.h"

#include "../../plugin/scripted.h"
#include "base/log.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct scripted_plugin plugin = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .changed = PTHREAD_COND_INITIALIZER,
};

static void on_send(const struct tocsin_host *host, struct tocsin_delivery *const *deliveries,
                    size_t n)
{
    pthread_mutex_lock(&plugin.lock);
    plugin.calls++;
    for (size_t i = 0; i < n; i++) {
        struct tocsin_delivery *d = deliveries[i];
        const char *text = d->message->text;
        if (plugin.slow_ms > 0) {
            struct timespec pause = { .tv_nsec = plugin.slow_ms * 1000000 };
            pthread_mutex_unlock(&plugin.lock);
            nanosleep(&pause, NULL);
            pthread_mutex_lock(&plugin.lock);
        }
        if (strcmp(text, plugin.hanging) == 0 && plugin.gate_shut) {
            plugin.blocked++;
            pthread_cond_broadcast(&plugin.changed);
            while (plugin.gate_shut)
                pthread_cond_wait(&plugin.changed, &plugin.lock);
            plugin.blocked--;
            plugin.read_after += strlen(d->message->text) + strlen(d->message->topic);
            struct tocsin_publication publication = { .topic = "x", .error = 1 };
            struct tocsin_publication *publications[] = { &publication };
            host->publish(host, "home", publications, 1, 1000);
            plugin.published += publication.error == 0;
            d->verdict = TOCSIN_SENT; /* nobody listens any more */
            pthread_cond_broadcast(&plugin.changed);
            break;
        }
        if ((strcmp(text, plugin.failing) == 0 || strcmp(plugin.failing, "*") == 0 ||
             strcmp(d->target_name, plugin.failing_on) == 0) &&
            plugin.fail_times > 0) {
            plugin.fail_times--;
            /* in brackets: cmocka has a macro of that name */
            (host->fail)(d, TOCSIN_RETRY, -ECONNREFUSED, "host=%s", "nowhere");
            pthread_cond_broadcast(&plugin.changed);
            break;
        }
        plugin.word = ((const struct scripted_target *)d->target)->word;
        if (plugin.sent < SENT_MAX)
            snprintf(plugin.log[plugin.sent], sizeof(plugin.log[0]), "%.11s %.11s", d->target_name,
                     text);
        plugin.sent++;
        d->verdict = TOCSIN_SENT;
    }
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
}

static int on_open(const struct tocsin_host *host, const struct scripted_service *service)
{
    (void)host;
    pthread_mutex_lock(&plugin.lock);
    int rc = 0;
    if (plugin.open_fails > 0) {
        plugin.open_fails--;
        rc = -ECONNREFUSED;
    } else {
        plugin.opened++;
        plugin.mood = service->mood;
    }
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
    return rc;
}

static void count(size_t *counter)
{
    pthread_mutex_lock(&plugin.lock);
    ++*counter;
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
}

static void on_reopen(const struct tocsin_host *host)
{
    (void)host;
    count(&plugin.reopened);
}

static void on_close(const struct tocsin_host *host)
{
    (void)host;
    count(&plugin.closed);
}

static void on_taken(struct message *message, void *context)
{
    (void)message;
    (void)context;
    count(&plugin.taken);
}

/* Awaits that a counter reaches a number. */
void await(const size_t *counter, size_t number, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&plugin.lock);
    int rc = 0;
    while (*counter < number && rc == 0)
        rc = pthread_cond_timedwait(&plugin.changed, &plugin.lock, &until);
    size_t got = *counter;
    pthread_mutex_unlock(&plugin.lock);
    CHECK(got >= number, "%s: %zu, not %zu", what, got, number);
}

size_t now(const size_t *counter)
{
    pthread_mutex_lock(&plugin.lock);
    size_t number = *counter;
    pthread_mutex_unlock(&plugin.lock);
    return number;
}

void set_gate(bool shut)
{
    pthread_mutex_lock(&plugin.lock);
    plugin.gate_shut = shut;
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
}

void set_failing(const char *text, const char *target, size_t times)
{
    pthread_mutex_lock(&plugin.lock);
    snprintf(plugin.failing, sizeof(plugin.failing), "%s", text);
    snprintf(plugin.failing_on, sizeof(plugin.failing_on), "%s", target);
    plugin.fail_times = times;
    pthread_mutex_unlock(&plugin.lock);
}

/* ---- Services from a text ---- */

static void on_publish(void *context, const char *link,
                       struct tocsin_publication *const *publications, size_t n, int64_t timeout_ms)
{
    (void)context;
    (void)link;
    (void)timeout_ms;
    for (size_t i = 0; i < n; i++)
        publications[i]->error = 0;
}

const char *const scripted_links[] = { "home", "garden" };
struct services_host scripted_host = {
    .node = "test", .links = scripted_links, .link_count = 2, .publish = on_publish
};

int set_up(void **state)
{
    (void)state;
    scripted_host.plugin_dir = getenv("TOCSIN_TEST_PLUGINS");
    if (!scripted_host.plugin_dir)
        return -1;
    char path[4096];
    snprintf(path, sizeof(path), "%s/scripted.so", scripted_host.plugin_dir);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    struct scripted_hooks *hooks = handle ? dlsym(handle, "scripted_hooks") : NULL;
    if (!hooks)
        return -1;
    *hooks = (struct scripted_hooks){ on_open, on_send, on_reopen, on_close };
    log_set_level(TOCSIN_LOG_ERROR);

    pthread_mutex_lock(&plugin.lock);
    plugin.sent = plugin.calls = plugin.blocked = plugin.opened = plugin.closed = 0;
    plugin.reopened = plugin.taken = plugin.read_after = plugin.open_fails = 0;
    plugin.failing[0] = plugin.failing_on[0] = plugin.hanging[0] = '\0';
    plugin.fail_times = plugin.published = 0;
    plugin.gate_shut = false;
    plugin.slow_ms = 0;
    pthread_mutex_unlock(&plugin.lock);
    return 0;
}

int tear_down(void **state)
{
    (void)state;
    log_set_level(TOCSIN_LOG_INFO);
    return 0;
}

/* `text` is what stands in the group `services`. */
struct services *make(const char *text, struct services *previous)
{
    struct buf all = BUF_INIT(65536);
    buf_addf(&all, "services = { %s };", text);
    struct conf *conf;
    struct services *services = NULL;
    struct conf_errors errors = CONF_ERRORS_INIT;
    int rc = conf_load_text("t.conf", buf_str(&all), &conf, &errors);
    if (rc == 0)
        rc = services_new(conf, &scripted_host, previous, &services, &errors);
    CHECK(rc == 0, "%s: %s", text, buf_str(&errors.text));
    conf_unref(conf);
    conf_errors_release(&errors);
    buf_release(&all);
    return services;
}

struct target *target(const struct services *services, const char *service, const char *name)
{
    struct target *t = services_target(services, service, strlen(service), name, strlen(name));
    CHECK(t, "%s:%s", service, name);
    return t;
}

struct delivery *delivery(struct target *t, const char *topic, const char *text, uint8_t qos)
{
    struct message *m = message_new(topic, strlen(topic), text, strlen(text), NULL);
    m->qos = qos;
    m->link = scripted_links[0];
    m->generation = 5;
    m->taken = on_taken;
    const char *rendered[1] = { "x" };
    assert_true(t->format_count <= 1);
    struct delivery *d = delivery_new(
        &(struct delivery_parts){ .target = t, .message = m, .route = "r", .rendered = rendered });
    /* The hold of the message is the test's: it lives as long as the delivery. */
    return d;
}

/* Submits one, and then lets go of the message, as the engine does. */
void submit(struct target *t, const char *topic, const char *text, uint8_t qos)
{
    struct delivery *d = delivery(t, topic, text, qos);
    struct message *m = d->message;
    services_submit(d);
    message_release_hold(m);
    message_unref(m);
}

/* Polls a target's counters, since nobody is told of them. */
void await_stats(struct target *t, bool (*enough)(const struct target_stats *stats),
                 const char *what)
{
    struct target_stats stats;
    for (int i = 0; i < 30000; i++) {
        services_target_stats(t, &stats);
        if (enough(&stats))
            return;
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    CHECK(false, "%s: %llu are still waiting", what, (unsigned long long)stats.waiting);
}

bool all_done(const struct target_stats *stats)
{
    return stats->waiting == 0;
}
