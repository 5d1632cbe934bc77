/* SPDX-License-Identifier: MIT */

/* What a service is made of: its group of the configuration, read and checked. Main thread. */

#include "delivery/service.h"

#include "base/clock.h"
#include "base/nearest.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAY_MS       ((int64_t)24 * 3600 * 1000)
#define FIRST_BATCH  8
#define LONGEST_OPEN ((int64_t)60 * 1000)

const struct tocsin_option service_core_options[] = {
    TOCSIN_OPTION(struct service_core, plugin, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "Name of the plugin that does the work."),
    TOCSIN_OPTION(struct service_core, workers, .def = "1", .min = 1, .max = 64,
                  .help = "Threads, each with a connection of its own; a topic of a target always "
                          "goes to the same one. A plugin may allow fewer."),
    TOCSIN_OPTION(struct service_core, deadline, .def = "60s", .min = 10, .max = DAY_MS,
                  .help = "Longest time that one call of the plugin may take, longer than its own "
                          "time limits; then it is given up, "
                          "its deliveries are tried again, and a fresh worker goes on."),
    TOCSIN_OPTION(struct service_core, retry,
                  .help = "Group that says how often, and how long, a delivery is tried again; a "
                          "target can have its own."),
    TOCSIN_OPTION(struct service_core, queue,
                  .help = "Group that bounds the queue of each target; a target can have its own."),
    TOCSIN_OPTION(struct service_core, breaker,
                  .help = "Group that says when a target that fails again and again is left alone, "
                          "and for how long; a target can have its own."),
    TOCSIN_OPTION(struct service_core, targets,
                  .help = "Group of the targets, each a group of its own. Without it there is one, "
                          "'default', if the plugin needs no options for it."),
    { .name = NULL },
};

const struct tocsin_option target_core_options[] = {
    TOCSIN_OPTION(struct target_core, rate_limit, .def = "0", .min = 0, .max = 1000000,
                  .help = "Most deliveries in the time of rate_per, so many at once and then "
                          "evenly spread; 0 sets no limit."),
    TOCSIN_OPTION(struct target_core, rate_per, .def = "1s", .min = 1, .max = DAY_MS,
                  .help = "Time that rate_limit is about."),
    TOCSIN_OPTION(struct target_core, retry,
                  .help = "Group like the service's; what it does not say is as there."),
    TOCSIN_OPTION(struct target_core, queue,
                  .help = "Group like the service's; what it does not say is as there."),
    TOCSIN_OPTION(struct target_core, breaker,
                  .help = "Group like the service's; what it does not say is as there."),
    { .name = NULL },
};

const struct tocsin_option retry_options[] = {
    TOCSIN_OPTION(struct retry_config, initial, .def = "1s", .min = 1, .max = DAY_MS,
                  .help = "Longest wait before the second attempt; a service may ask for longer "
                          "ones."),
    TOCSIN_OPTION(struct retry_config, factor, .def = "2.0", .min = 1, .max = 100,
                  .help = "By how much the limit of the wait grows from attempt to attempt."),
    TOCSIN_OPTION(struct retry_config, max, .def = "5m", .min = 1, .max = DAY_MS,
                  .help = "Longest wait between two attempts."),
    TOCSIN_OPTION(struct retry_config, jitter, .def = "1.0", .min = 0, .max = 1,
                  .help = "How much of each wait is random: with 1 it is between nothing and its "
                          "limit, with 0.5 between half of it and the limit, with 0 always the "
                          "limit."),
    TOCSIN_OPTION(struct retry_config, max_attempts, .def = "0", .min = 0, .max = 1000000,
                  .help = "Attempts after which a delivery is given up; 0 sets no limit."),
    TOCSIN_OPTION(struct retry_config, max_age, .def = "2d", .min = 0, .max = 365 * DAY_MS,
                  .help = "Age at which a delivery that fails is given up; 0 sets no limit."),
    { .name = NULL },
};

const struct tocsin_option queue_options[] = {
    TOCSIN_OPTION(struct queue_config, max_messages, .def = "200000", .min = 1, .max = 100000000,
                  .help = "Deliveries that may wait. At the bound, QoS 1 and 2 messages stay "
                          "unacknowledged until there is room, QoS 0 messages are dropped."),
    TOCSIN_OPTION(struct queue_config, max_bytes, .def = "128MiB", .min = 65536,
                  .max = (int64_t)1 << 40, .help = "Memory that they may take, in the same way."),
    { .name = NULL },
};

const struct tocsin_option breaker_options[] = {
    TOCSIN_OPTION(struct breaker_config, failures, .def = "3", .min = 0, .max = 1000000,
                  .help = "Failures in a row that open a target's breaker: then nothing is tried "
                          "until open_for is over, after that one delivery; if it comes through, "
                          "all go on. 0 never opens it."),
    TOCSIN_OPTION(struct breaker_config, open_for, .min = 1, .max = DAY_MS,
                  .help = "How long it stays open, the first time; from then on retry.factor times "
                          "as long as the last time. retry.initial if left out."),
    TOCSIN_OPTION(struct breaker_config, max, .min = 1, .max = DAY_MS,
                  .help =
                      "Longest time that it stays open; if left out retry.max, but at most 1m."),
    { .name = NULL },
};

/* ---- Small groups: a target's `retry` is the service's, but for what it says itself ---- */

static size_t read_retry(const struct conf_node *group, const struct retry_config *base,
                         struct retry_config *out, struct options_memory *memory,
                         struct conf_errors *errors)
{
    *out = (struct retry_config){ 0 };
    const struct options_part part = { retry_options, out };
    size_t wrong = options_read(group, &part, 1, NULL, memory, errors);
    if (base) {
        if (!options_node(group, "initial"))
            out->initial = base->initial;
        if (!options_node(group, "factor"))
            out->factor = base->factor;
        if (!options_node(group, "max"))
            out->max = base->max;
        if (!options_node(group, "jitter"))
            out->jitter = base->jitter;
        if (!options_node(group, "max_attempts"))
            out->max_attempts = base->max_attempts;
        if (!options_node(group, "max_age"))
            out->max_age = base->max_age;
    }
    if (wrong == 0 && group && out->max.ms < out->initial.ms) {
        conf_error(errors, group, "max is less than initial: write a longer max");
        wrong++;
    }
    return wrong;
}

static size_t read_queue(const struct conf_node *group, const struct queue_config *base,
                         struct queue_config *out, struct options_memory *memory,
                         struct conf_errors *errors)
{
    *out = (struct queue_config){ 0 };
    const struct options_part part = { queue_options, out };
    size_t wrong = options_read(group, &part, 1, NULL, memory, errors);
    if (base && !options_node(group, "max_messages"))
        out->max_messages = base->max_messages;
    if (base && !options_node(group, "max_bytes"))
        out->max_bytes = base->max_bytes;
    return wrong;
}

static size_t read_breaker(const struct conf_node *group, const struct breaker_config *base,
                           struct breaker_config *out, struct options_memory *memory,
                           struct conf_errors *errors)
{
    *out = (struct breaker_config){ 0 };
    const struct options_part part = { breaker_options, out };
    size_t wrong = options_read(group, &part, 1, NULL, memory, errors);
    if (base && !options_node(group, "failures"))
        out->failures = base->failures;
    if (base && !options_node(group, "open_for"))
        out->open_for = base->open_for;
    if (base && !options_node(group, "max"))
        out->max = base->max;
    if (wrong == 0 && group && out->max.ms > 0 && out->max.ms < out->open_for.ms) {
        conf_error(errors, group, "max is less than open_for: write a longer max");
        wrong++;
    }
    return wrong;
}

static struct breaker_rules breaker_rules(const struct breaker_config *breaker,
                                          const struct retry_config *retry)
{
    struct breaker_rules rules = {
        .failures = breaker->failures,
        .open_ms = breaker->open_for.ms > 0 ? breaker->open_for.ms : retry->initial.ms,
        .max_ms = breaker->max.ms,
        .factor = retry->factor,
    };
    if (rules.max_ms == 0)
        rules.max_ms = retry->max.ms < LONGEST_OPEN ? retry->max.ms : LONGEST_OPEN;
    if (rules.max_ms < rules.open_ms)
        rules.max_ms = rules.open_ms;
    return rules;
}

/* ---- Links ---- */

static size_t check_links(const struct tocsin_option *table, const void *config,
                          const struct conf_node *group, const struct services_host *host,
                          struct conf_errors *errors)
{
    size_t wrong = 0;
    for (const struct tocsin_option *o = table; o && o->name; o++) {
        if (!(o->flags & TOCSIN_OPTION_LINK))
            continue;
        const char *link = *(const char *const *)((const char *)config + o->offset);
        if (!link)
            continue;
        struct nearest nearest = { .wrong = link };
        bool found = false;
        for (size_t i = 0; i < host->link_count; i++) {
            found |= strcmp(host->links[i], link) == 0;
            nearest_try(&nearest, host->links[i]);
        }
        if (found)
            continue;
        const struct conf_node *node = options_node(group, o->name);
        if (nearest.best)
            conf_error(errors, node ? node : group, "there is no link '%s', did you mean '%s'?",
                       link, nearest.best);
        else
            conf_error(errors, node ? node : group, "there is no link '%s': add it to links", link);
        wrong++;
    }
    return wrong;
}

size_t service_check_links(const struct service *service, const struct services_host *host,
                           struct conf_errors *errors)
{
    size_t wrong = check_links(service->plugin->service_options, service->config, service->group,
                               host, errors);
    for (size_t i = 0; i < service->target_count; i++) {
        const struct service_target *t = service->targets[i];
        assert(t && "the first target_count places are taken");
        wrong += check_links(service->plugin->target_options, t->config, t->group, host, errors);
    }
    return wrong;
}

/* ---- Targets ---- */

static enum format_clean clean_of(unsigned flags)
{
    if (flags & TOCSIN_CLEAN_PATH)
        return FORMAT_CLEAN_PATH;
    if (flags & TOCSIN_CLEAN_TOPIC)
        return FORMAT_CLEAN_TOPIC;
    if (flags & TOCSIN_CLEAN_LINE)
        return FORMAT_CLEAN_LINE;
    if (flags & TOCSIN_CLEAN_NAME)
        return FORMAT_CLEAN_NAME;
    return FORMAT_AS_IS;
}

/* Compiles the formats in the target's options. Returns the number of errors. */
static size_t make_formats(struct service_target *t, struct conf_errors *errors)
{
    size_t wrong = 0, count = t->memory.format_count;
    t->formats = calloc(count + 1, sizeof(*t->formats));
    if (!t->formats) {
        conf_error(errors, t->group, "out of memory");
        return 1;
    }
    t->target.formats = t->formats;
    t->target.format_count = count;
    for (size_t i = 0; i < count; i++) {
        const struct options_format *from = &t->memory.formats[i];
        struct buf why = BUF_INIT(4096);
        t->formats[i].clean = clean_of(from->option->flags);
        if (format_new(from->text, strlen(from->text), &t->formats[i].format, &why) < 0) {
            conf_error(errors, from->node ? from->node : t->group, "%s", buf_str(&why));
            wrong++;
        }
        buf_release(&why);
    }
    return wrong;
}

static void target_free(struct service_target *t)
{
    if (!t)
        return;
    for (size_t i = 0; t->formats && i < t->target.format_count; i++)
        format_free(t->formats[i].format);
    free(t->formats);
    spill_release(t);
    options_memory_release(&t->memory);
    free(t->config);
    free(t);
}

/* What the service says of its targets. */
struct base {
    struct retry_config retry;
    struct queue_config queue;
    struct breaker_config breaker;
    bool is_right; /* the service's options are, so the plugin may be asked about them */
};

/* Reads one target; `group` is NULL for the implicit one. Returns the number of errors. */
static size_t read_target(struct service *s, struct service_target *t, const struct base *base,
                          struct conf_errors *errors)
{
    const struct tocsin_plugin *plugin = s->plugin;
    struct target_core core = { 0 };
    const struct options_part parts[] = { { target_core_options, &core },
                                          { plugin->target_options, t->config } };
    size_t wrong = options_read(t->group, parts, 2, NULL, &t->memory, errors);

    struct retry_config own_retry;
    struct queue_config own_queue;
    struct breaker_config own_breaker;
    wrong += read_retry(core.retry, &base->retry, &own_retry, &t->memory, errors);
    wrong += read_queue(core.queue, &base->queue, &own_queue, &t->memory, errors);
    wrong += read_breaker(core.breaker, &base->breaker, &own_breaker, &t->memory, errors);
    wrong += make_formats(t, errors);
    if (wrong > 0 || !base->is_right)
        return wrong;

    const char *why = plugin->check_target ? plugin->check_target(s->config, t->config) : NULL;
    if (why) {
        conf_error(errors, t->group ? t->group : s->group, "%s", why);
        return 1;
    }
    if (plugin->wants)
        t->target.wants = plugin->wants(s->config, t->config);
    const struct queue_rules rules = {
        .retry_initial_ms = own_retry.initial.ms,
        .retry_max_ms = own_retry.max.ms,
        .retry_factor = own_retry.factor,
        .retry_jitter = own_retry.jitter,
        .max_attempts = own_retry.max_attempts,
        .max_age_ms = own_retry.max_age.ms,
        .max_messages = (size_t)own_queue.max_messages,
        .max_bytes = (size_t)own_queue.max_bytes.bytes,
        .rate_limit = core.rate_limit,
        .rate_per_ms = core.rate_per.ms,
        .breaker = breaker_rules(&own_breaker, &own_retry),
    };
    t->queue = queue_add_target(s->queue, &rules);
    if (!t->queue) {
        conf_error(errors, t->group, "out of memory");
        return 1;
    }
    return 0;
}

static size_t add_target(struct service *s, const char *name, const struct conf_node *group,
                         const struct base *base, struct conf_errors *errors)
{
    struct service_target *t = calloc(1, sizeof(*t));
    if (t)
        t->config = calloc(1, s->plugin->target_size + 1);
    if (!t || !t->config || map_set(&s->target_names, name, strlen(name), t) < 0) {
        target_free(t);
        conf_error(errors, group, "out of memory");
        return 1;
    }
    t->target = (struct target){ .service = s->name, .name = name, .owner = t };
    t->service = s;
    t->group = group;
    s->targets[s->target_count++] = t;
    return read_target(s, t, base, errors);
}

static bool needs_options(const struct tocsin_option *table)
{
    for (; table && table->name; table++)
        if (table->flags & TOCSIN_OPTION_REQUIRED)
            return true;
    return false;
}

static size_t read_targets(struct service *s, const struct base *base, struct conf_errors *errors)
{
    const struct conf_node *group = s->core.targets;
    if (!group && needs_options(s->plugin->target_options)) {
        conf_error(errors, s->group, "targets is missing: write targets = { NAME = { ... }; };");
        return 1;
    }
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "must be a group: write targets = { NAME = { ... }; };");
        return 1;
    }
    size_t count = group ? conf_node_count(group) : 1;
    if (count == 0) {
        conf_error(errors, group, "is empty: write targets = { NAME = { ... }; };");
        return 1;
    }
    s->targets = calloc(count, sizeof(struct service_target *));
    if (!s->targets) {
        conf_error(errors, group, "out of memory");
        return 1;
    }
    if (!group)
        return add_target(s, "default", NULL, base, errors);
    size_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        const struct conf_node *node = conf_node_at(group, i);
        wrong += add_target(s, conf_node_name(node), node, base, errors);
    }
    return wrong;
}

struct service_target *service_target(const struct service *service, const char *name, size_t len)
{
    return map_get(&service->target_names, name, len);
}

/* ---- The service ---- */

int service_find_plugin(const struct services_host *host, const char *name,
                        const struct tocsin_plugin **out, struct buf *why)
{
    const char *first = getenv("TOCSIN_PLUGINS");
    if (first && *first) {
        struct buf unused = BUF_INIT(4096);
        bool last = !host->plugin_dir;
        int rc = plugin_load(first, name, out, last ? why : &unused);
        if (rc != -ENOENT && !last)
            buf_add_str(why, buf_str(&unused));
        buf_release(&unused);
        if (rc != -ENOENT || last)
            return rc;
    }
    return plugin_load(host->plugin_dir ? host->plugin_dir : TOCSIN_PLUGINDIR, name, out, why);
}

static size_t read_service(struct service *s, struct conf_errors *errors)
{
    const struct tocsin_plugin *plugin = s->plugin;
    const struct options_part parts[] = { { service_core_options, &s->core },
                                          { plugin->service_options, s->config } };
    size_t wrong = options_read(s->group, parts, 2, NULL, &s->memory, errors);

    struct base base;
    wrong += read_retry(s->core.retry, NULL, &base.retry, &s->memory, errors);
    wrong += read_queue(s->core.queue, NULL, &base.queue, &s->memory, errors);
    wrong += read_breaker(s->core.breaker, NULL, &base.breaker, &s->memory, errors);

    const char *why = wrong == 0 && plugin->check ? plugin->check(s->config) : NULL;
    if (why) {
        conf_error(errors, s->group, "%s", why);
        wrong++;
    }
    s->worker_count = s->core.workers > 0 ? (size_t)s->core.workers : 1;
    if (plugin->max_workers > 0 && s->worker_count > plugin->max_workers)
        s->worker_count = plugin->max_workers;
    s->max_batch = plugin->max_batch > 0 ? plugin->max_batch : 1;
    s->first_batch = s->max_batch < FIRST_BATCH ? s->max_batch : FIRST_BATCH;
    s->workers = calloc(s->worker_count, sizeof(struct worker *));
    s->queue = queue_new(s->worker_count, map_hash(&s, sizeof(s)) ^ (uint64_t)clock_wall_ms());
    if (!s->workers || !s->queue) {
        conf_error(errors, s->group, "out of memory");
        return wrong + 1;
    }
    base.is_right = wrong == 0;
    wrong += read_targets(s, &base, errors);
    return wrong > 0 ? wrong : service_check_links(s, s->host, errors);
}

/* The plugin's name is needed before its tables, so before all others. Returns 0, or -EINVAL. */
static int find_plugin(struct service *s, struct conf_errors *errors)
{
    if (conf_node_type(s->group) != CONF_GROUP) {
        conf_error(errors, s->group, "must be a group: write { plugin = \"...\"; }");
        return -EINVAL;
    }
    const struct conf_node *node = conf_node_get(s->group, "plugin");
    if (!node || conf_node_type(node) != CONF_STRING) {
        conf_error(errors, node ? node : s->group, "%s",
                   node ? "must be a string, the name of a plugin"
                        : "plugin is missing: write plugin = \"log\";, for example");
        return -EINVAL;
    }
    struct buf why = BUF_INIT(4096);
    int rc = service_find_plugin(s->host, conf_node_string(node), &s->plugin, &why);
    if (rc < 0)
        conf_error(errors, node, "%s", buf_str(&why));
    buf_release(&why);
    return rc < 0 ? -EINVAL : 0;
}

static void service_free(struct service *s)
{
    balance_remove(s);
    queue_free(s->queue); /* before the targets, which its deliveries name */
    for (size_t i = 0; i < s->target_count; i++)
        target_free(s->targets[i]);
    free(s->targets);
    map_release(&s->target_names);
    options_memory_release(&s->memory);
    free(s->config);
    free(s->workers);
    pthread_cond_destroy(&s->ended);
    pthread_mutex_destroy(&s->lock);
    conf_unref(s->conf);
    directory_unref(s->directory);
    free(s);
}

int service_new(struct conf *conf, const struct conf_node *group, const struct services_host *host,
                struct service **out, struct conf_errors *errors)
{
    *out = NULL;
    struct service *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->conf = conf_ref(conf);
    s->group = group;
    s->name = conf_node_name(group);
    s->host = host;

    int rc = find_plugin(s, errors);
    if (rc == 0) {
        s->config = calloc(1, s->plugin->service_size + 1);
        if (!s->config)
            rc = -ENOMEM;
        else if (read_service(s, errors) > 0)
            rc = -EINVAL;
    }
    if (rc < 0) {
        service_free(s);
        return rc;
    }
    balance_add(s);
    *out = s;
    return 0;
}

void service_ref(struct service *service)
{
    atomic_fetch_add_explicit(&service->refs, 1, memory_order_relaxed);
}

void service_unref(struct service *service)
{
    if (atomic_fetch_sub_explicit(&service->refs, 1, memory_order_acq_rel) == 1)
        service_free(service);
}
