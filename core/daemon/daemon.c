/* SPDX-License-Identifier: MIT */

/* The main thread: starts everything in the order in which data flows, from its end to its beginning, then waits
 * for signals. */

#include "daemon/daemon.h"

#include "admin/conservation.h"
#include "admin/report.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "daemon/notify.h"
#include "daemon/state.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STORE_DRAIN_MS 5000 /* for what has come in to be committed, */
#define STORE_CLOSE_MS 500  /* and then for what the broker does at its end */

/* ---- What links call, on their threads ---- */

static void on_messages(void *context, struct message *first, size_t n)
{
    struct daemon *daemon = context;
    (void)n;
    struct message *chain_first = first, *chain_last = NULL;
    size_t count = 0;
    struct shard *chain_shard = NULL;
    for (struct message *m = first, *next; m; m = next) {
        next = m->next;
        struct shard *shard = daemon->shards[0];
        if (daemon->shard_count > 1)
            shard = daemon->shards[map_hash(m->topic, m->topic_len) % daemon->shard_count];
        if (chain_shard && shard != chain_shard) {
            shard_push(chain_shard, chain_first, chain_last, count);
            chain_first = m;
            count = 0;
        }
        chain_shard = shard;
        chain_last = m;
        count++;
    }
    if (chain_shard)
        shard_push(chain_shard, chain_first, chain_last, count);
}

static void on_lost(void *context, const char *link, uint64_t generation)
{
    struct daemon *daemon = context;
    pthread_mutex_lock(&daemon->services_lock);
    services_forget_held(daemon->services, link, generation);
    seen_lost(daemon->seen, message_sender(link, NULL, 0));
    pthread_mutex_unlock(&daemon->services_lock);
}

/* ---- Parts of starting ---- */

static void print_errors(const struct conf_errors *errors)
{
    if (errors->text.len > 0)
        fputs(buf_str(&errors->text), stderr);
    fprintf(stderr, "%zu error%s\n", errors->count, errors->count == 1 ? "" : "s");
}

/* Tells each link what the routes want of it. */
static int subscribe(struct daemon *daemon, const struct routes *routes)
{
    size_t most = 0;
    const struct route *route;
    for (size_t i = 0; (route = routes_at(routes, i)); i++)
        for (size_t j = 0; route_filter_at(route, j); j++)
            most++;
    struct link_filter *filters = calloc(most + 1, sizeof(*filters));
    if (!filters)
        return -ENOMEM;
    int rc = 0;
    const char *link;
    for (size_t l = 0; rc == 0 && (link = links_name_at(daemon->links, l)); l++) {
        size_t n = 0;
        for (size_t i = 0; (route = routes_at(routes, i)); i++) {
            if (route_link(route) && strcmp(route_link(route), link) != 0)
                continue;
            const char *filter;
            for (size_t j = 0; (filter = route_filter_at(route, j)); j++)
                filters[n++] = (struct link_filter){ filter, route_qos(route) };
        }
        rc = links_set_filters(daemon->links, link, filters, n);
    }
    free(filters);
    return rc;
}

static int start_shards(struct daemon *daemon)
{
    daemon->shards = calloc(daemon->setup.engine_count, sizeof(struct shard *));
    if (!daemon->shards)
        return -ENOMEM;
    for (size_t i = 0; i < daemon->setup.engine_count; i++) {
        struct shard *shard = shard_new(daemon->setup.engines[i], daemon->ledger);
        if (!shard)
            return -ENOMEM;
        daemon->setup.engines[i] = NULL; /* the shard's now */
        daemon->shards[daemon->shard_count++] = shard;
        int rc = shard_start(shard);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void publish(void *context, const char *link, struct tocsin_publication *const *publications,
                    size_t n, int64_t timeout_ms)
{
    struct daemon *daemon = context;
    pthread_rwlock_rdlock(&daemon->links_lock);
    if (daemon->links)
        links_publish(daemon->links, link, publications, n, timeout_ms);
    for (size_t i = 0; !daemon->links && i < n; i++) {
        publications[i]->error = -EAGAIN;
        publications[i]->reason_code = 0;
    }
    pthread_rwlock_unlock(&daemon->links_lock);
}

/* Returns whether nobody has anything of them any more. */
static bool end_links(struct daemon *daemon)
{
    struct links *links = daemon->links;
    if (!links)
        return true;
    links_stop_sending(links);
    pthread_rwlock_wrlock(&daemon->links_lock);
    daemon->links = NULL;
    pthread_rwlock_unlock(&daemon->links_lock);
    return links_free(links);
}

/* ---- What the control plane calls ---- */

static void observe_for_admin(void *context, struct observation *out)
{
    observe(context, out);
}

static int set_status(void *context, const char *text, bool last)
{
    struct daemon *daemon = context;
    pthread_rwlock_rdlock(&daemon->links_lock);
    int rc = daemon->links ? links_set_status(daemon->links, text, last) : -EAGAIN;
    pthread_rwlock_unlock(&daemon->links_lock);
    return rc;
}

static int announce(void *context, const char *topic, const void *payload, size_t len)
{
    struct daemon *daemon = context;
    pthread_rwlock_rdlock(&daemon->links_lock);
    int rc = daemon->links ? links_announce(daemon->links, topic, payload, len) : -EAGAIN;
    pthread_rwlock_unlock(&daemon->links_lock);
    return rc;
}

static void route_internal(void *context, struct message *message)
{
    struct daemon *daemon = context;
    atomic_fetch_add(&daemon->internal, 1);
    message->next = NULL;
    on_messages(daemon, message, 1);
}

static void told(void *context, uint64_t number)
{
    struct daemon *daemon = context;
    keep_told(daemon->keeper, number);
}

static void tell_systemd(void *context, const char *state)
{
    (void)context;
    notify_systemd(state);
}

static int make_admin(struct daemon *daemon)
{
    const struct admin_host host = {
        .node = daemon->identity.node,
        .observe = observe_for_admin,
        .set_status = set_status,
        .announce = announce,
        .route = route_internal,
        .tell = tell_systemd,
        .told = daemon->keeper ? told : NULL,
        .context = daemon,
    };
    daemon->admin = admin_new(&host, &daemon->setup.admin);
    return daemon->admin ? 0 : -ENOMEM;
}

/* A service's thread. */
static bool on_dead(void *context, const struct delivery *delivery, const char *reason,
                    unsigned attempts)
{
    const struct daemon *daemon = context;
    return !daemon->admin || admin_dead_letter(daemon->admin, delivery, reason, attempts, 0);
}

static void on_untold(void *context, const struct delivery *delivery, const char *reason,
                      unsigned attempts)
{
    const struct daemon *daemon = context;
    admin_dead_letter(daemon->admin, delivery, reason, attempts, delivery->number);
}

/* ---- The store ---- */

static int open_store(struct daemon *daemon)
{
    const char *path = daemon->setup.store_path;
    daemon->identity.host.seen = daemon->seen = seen_new();
    if (!daemon->seen)
        return -ENOMEM;
    if (!path || strcmp(path, STORE_MEMORY) == 0) {
        log_info("no store (`store = { };` makes one): what waits for a service ends with this "
                 "program");
        return 0;
    }
    struct buf why = BUF_INIT(65536);
    int rc = store_open(path, &daemon->store, &why);
    if (rc < 0)
        log_error("%s", buf_str(&why));
    buf_release(&why);
    if (rc == 0 && !(daemon->keeper = keeper_new(daemon->store)))
        rc = -ENOMEM;
    if (rc == 0 && (rc = keeper_load_seen(daemon->keeper, daemon->seen)) < 0)
        log_error("%s: what was taken over before cannot be read", path);
    keeper_set_bounds(daemon->keeper, &daemon->setup.dead_letters);
    daemon->identity.host.keeper = daemon->keeper;
    if (rc == 0)
        rc = ledger_new(daemon->store, &daemon->setup.ledger, &daemon->ledger);
    daemon->identity.host.ledger = daemon->ledger;
    return rc;
}

/* Goes on where an earlier run has ended. The ledger begins last: it writes by itself, on the store's thread, and until
 * then the store's connection is this one's. */
static int restore(struct daemon *daemon)
{
    int rc = daemon->broker ? broker_restore(daemon->broker, daemon->store) : 0;
    if (rc == 0)
        rc = services_restore(daemon->services);
    if (rc == 0 && daemon->keeper && admin_is_enabled(daemon->admin))
        rc = keep_untold(daemon->keeper, on_untold, daemon);
    if (rc == 0)
        ledger_begin(daemon->ledger);
    return rc;
}

/* The store's thread. */
static void on_store_changed(void *context)
{
    struct daemon *daemon = context;
    pthread_mutex_lock(&daemon->services_lock);
    if (daemon->services)
        services_revive(daemon->services);
    pthread_mutex_unlock(&daemon->services_lock);
}

static size_t close_store(struct daemon *daemon)
{
    ledger_end(daemon->ledger);
    if (daemon->seen)
        seen_save(daemon->seen);
    size_t left = store_close(daemon->store, STORE_CLOSE_MS);
    if (left > 0)
        log_error("%zu changes could not be written to %s", left, daemon->setup.store_path);
    keeper_free(daemon->keeper);
    ledger_free(daemon->ledger);
    seen_free(daemon->seen);
    daemon->store = NULL;
    daemon->keeper = NULL;
    daemon->ledger = NULL;
    daemon->seen = NULL;
    return left;
}

static int start(struct daemon *daemon)
{
    struct links_handler handler = {
        .messages = on_messages,
        .lost = on_lost,
        .context = daemon,
    };
    struct conf_errors errors = CONF_ERRORS_INIT;
    daemon->identity.host.publish = publish;
    daemon->identity.host.dead = on_dead;
    daemon->identity.host.context = daemon;

    int rc = setup_read(&daemon->setup, daemon->path, &daemon->identity, NULL, &errors);
    if (rc == 0 && daemon->identity.has_broker)
        rc = broker_new(daemon->setup.conf, &daemon->broker, &errors);
    if (rc == 0) {
        handler.topic = daemon->setup.admin.topic;
        rc = links_new(daemon->setup.conf, daemon->broker, daemon->identity.node, &handler,
                       &daemon->links, &errors);
    }
    if (errors.count > 0)
        print_errors(&errors);
    conf_errors_release(&errors);
    if (rc < 0)
        return rc;

    daemon->services = daemon->setup.services;
    log_set_level(settings_log_level(&daemon->setup.settings));
    const struct routes *routes = engine_routes(daemon->setup.engines[0]); /* they never change */
    rc = open_store(daemon);
    if (rc == 0)
        rc = make_admin(daemon);
    if (rc == 0)
        rc = restore(daemon);
    if (rc == 0)
        rc = services_start(daemon->services);
    if (rc == 0)
        rc = start_shards(daemon);
    if (rc == 0) /* which brings retained messages that were restored */
        rc = subscribe(daemon, routes);
    if (rc == 0 && daemon->store)
        store_watch(daemon->store, on_store_changed, daemon);
    if (rc == 0 && daemon->broker)
        rc = broker_start(daemon->broker);
    if (rc == 0)
        rc = links_start(daemon->links);
    if (rc == 0)
        rc = admin_start(daemon->admin);
    if (rc < 0)
        log_error("start failed: %s", strerror(-rc));
    return rc;
}

/* ---- Reload ---- */

/* Puts a new configuration in the place of the old one. Messages under way finish as they began. */
static void adopt(struct daemon *daemon, struct setup *fresh)
{
    struct services *old = daemon->services;
    const struct routes *routes = engine_routes(fresh->engines[0]); /* they never change */
    for (size_t i = 0; i < daemon->shard_count; i++) {
        shard_set_engine(daemon->shards[i], fresh->engines[i]);
        fresh->engines[i] = NULL;
    }
    /* Not sooner: what a new filter brings must not meet the old routes. */
    if (subscribe(daemon, routes) < 0)
        log_error("out of memory: subscriptions are as they were before the reload");
    pthread_mutex_lock(&daemon->services_lock);
    daemon->services = fresh->services;
    pthread_mutex_unlock(&daemon->services_lock);

    int64_t drain = fresh->settings.drain.ms;
    struct setup before = daemon->setup;
    daemon->setup = *fresh;
    ledger_configure(daemon->ledger, &fresh->ledger);
    admin_configure(daemon->admin, &fresh->admin);
    keeper_set_bounds(daemon->keeper, &fresh->dead_letters);
    size_t undone = services_free(old, drain);
    if (undone > 0)
        log_error("%zu deliveries of services that are no more were left undone", undone);
    before.services = NULL;
    setup_release(&before);
    log_set_level(settings_log_level(&daemon->setup.settings));
}

static void warn_of_what_stays(const struct daemon *daemon, const struct setup *fresh)
{
    const struct conf_node *old_root = conf_root(daemon->setup.conf);
    const struct conf_node *new_root = conf_root(fresh->conf);
    if (!conf_node_equal(conf_node_get(old_root, "links"), conf_node_get(new_root, "links")))
        log_warning("reload: links have changed, which takes a restart; the old ones stay");
    if (!conf_node_equal(conf_node_get(old_root, "broker"), conf_node_get(new_root, "broker")) ||
        setup_has_broker(fresh->conf) != daemon->identity.has_broker)
        log_warning("reload: the broker has changed, which takes a restart; the old one stays");
    if (!conf_node_equal(conf_node_get(old_root, "store"), conf_node_get(new_root, "store")))
        log_warning("reload: the store has changed, which takes a restart; the old one stays");
    if (strcmp(fresh->admin.topic, admin_topic(daemon->admin)) != 0 ||
        fresh->admin.enabled != admin_is_enabled(daemon->admin))
        log_warning("reload: admin.topic or admin.enabled has changed, which takes a restart; it "
                    "stays as it was");
    if (!conf_node_equal(conf_node_get(old_root, "node"), conf_node_get(new_root, "node")))
        log_warning(
            "reload: the node's name has changed, which takes a restart; the old one stays");
}

static void reload(struct daemon *daemon)
{
    notify_reloading();
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct setup fresh;
    int rc = setup_read(&fresh, daemon->path, &daemon->identity, daemon->services, &errors);
    if (rc == 0 && fresh.engine_count != daemon->shard_count) {
        log_error("reload: router.shards has changed, which takes a restart; nothing was changed");
        setup_release(&fresh);
    } else if (rc == 0 && (rc = services_start(fresh.services)) < 0) {
        log_error("reload: services cannot be started: %s; nothing was changed", strerror(-rc));
        setup_release(&fresh);
    } else if (rc == 0) {
        warn_of_what_stays(daemon, &fresh);
        adopt(daemon, &fresh);
        services_reopen(daemon->services);
        log_info("reloaded file=%s", daemon->path);
    } else {
        char *save = NULL, *text = buf_take(&errors.text);
        for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
             line = strtok_r(NULL, "\n", &save))
            log_error("%s", line);
        log_error("reload: %zu errors, so nothing was changed", errors.count);
        free(text);
        services_reopen(daemon->services);
    }
    conf_errors_release(&errors);
    notify_systemd("READY=1");
}

/* ---- Counters ---- */

static void log_counters(struct daemon *daemon)
{
    struct observation seen = OBSERVATION_INIT;
    observe(daemon, &seen);
    observation_log(&seen);
    observation_release(&seen);
}

/* ---- Life ---- */

static void wait_for_end(struct daemon *daemon)
{
    for (;;) {
        int signal = 0;
        if (sigwait(&daemon->signals, &signal) != 0)
            continue;
        if (signal == SIGHUP)
            reload(daemon);
        else if (signal == SIGUSR1)
            log_counters(daemon);
        else
            return;
    }
}

/* A second SIGTERM or SIGINT, while the first is being followed, ends at once. */
static void *end_at_once(void *context)
{
    const struct daemon *daemon = context;
    for (;;) {
        int signal = 0;
        if (sigwait(&daemon->signals, &signal) == 0 && (signal == SIGTERM || signal == SIGINT)) {
            log_warning("ended at once by a second signal");
            _exit(2);
        }
    }
    return NULL;
}

/* Everything has come to an end, so that all must add up. Returns whether it does. */
static bool check_accounts(struct daemon *daemon)
{
    struct observation seen = OBSERVATION_INIT;
    struct buf why = BUF_INIT(4096);
    observe(daemon, &seen);
    bool good = conservation_compare(&seen, &why) == 0 && seen.routing.waiting == 0;
    if (!good)
        log_error("the accounts are wrong at the end: %s",
                  why.len > 0 ? buf_str(&why) : "messages are still waiting");
    buf_release(&why);
    observation_release(&seen);
    return good;
}

/* From the beginning of the flow to its end. Returns the number of deliveries left undone, and whether all messages and
 * deliveries are accounted for. */
static size_t stop(struct daemon *daemon, bool *accounted)
{
    notify_systemd("STOPPING=1");
    pthread_t watch;
    if (pthread_create(&watch, NULL, end_at_once, daemon) == 0)
        pthread_detach(watch);

    admin_stop(daemon->admin);
    if (daemon->broker)
        broker_stop_intake(daemon->broker);
    if (daemon->links)
        links_stop_receiving(daemon->links);
    int64_t stop_by_ms = clock_mono_ms() + daemon->setup.settings.drain.ms;
    size_t unrouted = 0;
    for (size_t i = 0; i < daemon->shard_count; i++)
        unrouted += shard_free(daemon->shards[i], stop_by_ms, &daemon->routed);
    daemon->shard_count = 0;
    free(daemon->shards);
    if (unrouted > 0)
        log_warning("%zu messages were not routed any more: those of QoS 1 come again", unrouted);

    int64_t left_ms = stop_by_ms - clock_mono_ms();
    pthread_mutex_lock(&daemon->services_lock);
    struct services *services = daemon->services;
    daemon->services = NULL; /* for the store's thread */
    pthread_mutex_unlock(&daemon->services_lock);
    size_t undone = services_free(services, left_ms > 0 ? left_ms : 0);
    daemon->setup.services = NULL;
    /* What is on disk by now is acknowledged; the broker's last changes come after. */
    store_drain(daemon->store, STORE_DRAIN_MS);
    *accounted = !daemon->links || check_accounts(daemon);
    admin_say_stopped(daemon->admin);
    admin_free(daemon->admin);
    daemon->admin = NULL;
    bool done = end_links(daemon);
    if (daemon->broker)
        broker_stop(daemon->broker);
    undone += close_store(daemon);
    if (done)
        broker_free(daemon->broker);
    daemon->broker = NULL;
    setup_release(&daemon->setup);
    return undone;
}

int daemon_run(const char *config_path)
{
    static struct daemon daemon; /* not on the stack: threads may be left behind */
    daemon.path = config_path;
    pthread_mutex_init(&daemon.services_lock, NULL);
    pthread_rwlock_init(&daemon.links_lock, NULL);
    sigemptyset(&daemon.signals);
    const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaddset(&daemon.signals, signals[i]);
    /* Every thread inherits this: signals are waited for here alone. */
    pthread_sigmask(SIG_BLOCK, &daemon.signals, NULL);
    signal(SIGPIPE, SIG_IGN);

    int status = 1;
    if (start(&daemon) == 0) {
        notify_systemd("READY=1");
        log_info("running version=%s node=%s file=%s", TOCSIN_VERSION, daemon.identity.node,
                 config_path);
        wait_for_end(&daemon);
        log_info("ending");
        log_counters(&daemon);
        status = 0;
    }
    bool accounted;
    size_t undone = stop(&daemon, &accounted);
    if (undone > 0) {
        log_error("ended with %zu deliveries undone", undone);
        status = 2;
    } else if (status == 0) {
        log_info("ended");
    }
    identity_release(&daemon.identity);
#ifdef TOCSIN_FAULTS
    if (!accounted)
        status = 3; /* so every test is one of the accounts, too */
#endif
    return status;
}
