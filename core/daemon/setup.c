/* SPDX-License-Identifier: MIT */

#include "daemon/setup.h"

#include "broker/broker.h"
#include "link/embedded.h"
#include "store/place.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INSTALLED TOCSIN_SYSCONFDIR "/tocsin/tocsin.conf"

const struct tocsin_option settings_options[] = {
    TOCSIN_OPTION(struct settings, node,
                  .help =
                      "Name of this router, in client ids and status topics; the host name if left "
                      "out."),
    TOCSIN_OPTION(struct settings, log_level, .def = "info", .choices = "error|warning|info|debug",
                  .help = "Least important lines that are logged. Payloads appear at debug only."),
    TOCSIN_OPTION(struct settings, plugin_dir,
                  .help =
                      "Folder of the service plugins; if left out, plugins/ beside the program, or "
                      "else " TOCSIN_PLUGINDIR "."),
    TOCSIN_OPTION(struct settings, drain, .def = "10s", .min = 0, .max = 3600000,
                  .help = "Longest time that a clean end waits for deliveries under way."),
    { .name = NULL },
};

static const char *const sections[] = { "admin", "broker",   "store",  "ledger", "dead_letters",
                                        "links", "services", "router", "routes", NULL };

const char *setup_default_path(void)
{
    return access("tocsin.conf", F_OK) == 0 ? "tocsin.conf" : INSTALLED;
}

enum tocsin_level settings_log_level(const struct settings *settings)
{
    static const char *const words[] = { "error", "warning", "info", "debug" };
    for (size_t i = 0; settings->log_level && i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(words[i], settings->log_level) == 0)
            return (enum tocsin_level)i;
    return TOCSIN_LOG_INFO;
}

/* ---- Identity ---- */

/* The name of a topic level and a client id: what does not fit becomes '-'. */
static char *node_name(const char *wanted)
{
    char host[256] = "tocsin";
    if (!wanted && gethostname(host, sizeof(host) - 1) < 0)
        wanted = "tocsin";
    char *name = strdup(wanted ? wanted : host);
    for (char *c = name; c && *c; c++)
        if (strchr("/+# ", *c) || (unsigned char)*c < ' ')
            *c = '-';
    return name;
}

char *setup_node(const struct conf *conf)
{
    const struct conf_node *node = conf_node_get(conf_root(conf), "node");
    return node_name(node && conf_node_type(node) == CONF_STRING ? conf_node_string(node) : NULL);
}

/* In a build tree the plugins are beside the program, installed they are where they belong. */
char *setup_plugin_dir(const char *wanted)
{
    if (wanted)
        return strdup(wanted);
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - sizeof("/plugins"));
    while (len > 0 && path[len - 1] != '/')
        len--;
    if (len > 0) {
        memcpy(path + len, "plugins", sizeof("plugins"));
        if (access(path, F_OK) == 0)
            return strdup(path);
    }
    return strdup(TOCSIN_PLUGINDIR);
}

static const char *link_name(const struct conf_node *list, size_t index)
{
    const struct conf_node *link = conf_node_at(list, index);
    const struct conf_node *name =
        conf_node_type(link) == CONF_GROUP ? conf_node_get(link, "name") : NULL;
    return name && conf_node_type(name) == CONF_STRING ? conf_node_string(name) : NULL;
}

static int fill_identity(struct identity *id, const struct setup *setup)
{
    const struct conf_node *list = conf_node_get(conf_root(setup->conf), "links");
    size_t most = list && conf_node_type(list) == CONF_LIST ? conf_node_count(list) : 0;
    id->node = node_name(setup->settings.node);
    id->plugin_dir = setup_plugin_dir(setup->settings.plugin_dir);
    id->has_broker = setup_has_broker(setup->conf);
    id->links = calloc(most + 2, sizeof(char *));
    if (!id->node || !id->plugin_dir || !id->links)
        return -ENOMEM;
    if (id->has_broker && !(id->links[id->link_count++] = strdup(EMBEDDED_NAME)))
        return -ENOMEM;
    for (size_t i = 0; i < most; i++) {
        const char *name = link_name(list, i);
        if (name && !(id->links[id->link_count++] = strdup(name)))
            return -ENOMEM;
    }
    id->host.node = id->node;
    id->host.plugin_dir = id->plugin_dir;
    id->host.links = (const char *const *)id->links;
    id->host.link_count = id->link_count;
    return 0;
}

void identity_release(struct identity *identity)
{
    for (size_t i = 0; i < identity->link_count; i++)
        free(identity->links[i]);
    free(identity->links);
    free(identity->plugin_dir);
    free(identity->node);
    *identity = (struct identity){ 0 };
}

/* ---- How routes find targets: in the services, or, where those could not be made, by name in the file, so
 * that one error does not hide behind another ---- */

static const struct conf_node *service_node(const struct setup *setup, const char *service,
                                            size_t len)
{
    const struct conf_node *services = conf_node_get(conf_root(setup->conf), "services");
    size_t count =
        services && conf_node_type(services) == CONF_GROUP ? conf_node_count(services) : 0;
    for (size_t i = 0; i < count; i++) {
        const struct conf_node *node = conf_node_at(services, i);
        const char *name = conf_node_name(node);
        if (strlen(name) == len && memcmp(name, service, len) == 0)
            return node;
    }
    return NULL;
}

/* Stands for every target that is only known by name. It is never used to route. */
static struct target named_target = { .service = "", .name = "" };

static struct target *named_find(void *context, const char *service, size_t service_len,
                                 const char *name, size_t name_len)
{
    (void)name;
    (void)name_len;
    return service_node(context, service, service_len) ? &named_target : NULL;
}

static struct target *named_target_at(void *context, const char *service, size_t service_len,
                                      size_t index)
{
    return index == 0 && service_node(context, service, service_len) ? &named_target : NULL;
}

static const char *named_service_at(void *context, size_t index)
{
    const struct setup *setup = context;
    const struct conf_node *services = conf_node_get(conf_root(setup->conf), "services");
    size_t count =
        services && conf_node_type(services) == CONF_GROUP ? conf_node_count(services) : 0;
    return index < count ? conf_node_name(conf_node_at(services, index)) : NULL;
}

static struct target *real_find(void *context, const char *service, size_t service_len,
                                const char *name, size_t name_len)
{
    return services_target(context, service, service_len, name, name_len);
}

static struct target *real_target_at(void *context, const char *service, size_t service_len,
                                     size_t index)
{
    return services_target_at(context, service, service_len, index);
}

static const char *real_service_at(void *context, size_t index)
{
    return services_name_at(context, index);
}

static struct target_finder finder_of(struct setup *setup)
{
    if (setup->services)
        return (struct target_finder){ real_find, real_target_at, real_service_at,
                                       setup->services };
    return (struct target_finder){ named_find, named_target_at, named_service_at, setup };
}

/* ---- Reading ---- */

static size_t count_members(const struct conf_node *root, const char *name, enum conf_type type)
{
    const struct conf_node *node = conf_node_get(root, name);
    return node && conf_node_type(node) == type ? conf_node_count(node) : 0;
}

/* Reads the routes once for each shard. Errors are those of the first time. */
static int read_routes(struct setup *setup, const struct identity *id, struct conf_errors *errors)
{
    size_t shards = 1;
    for (size_t i = 0; i < shards; i++) {
        const struct target_finder finder = finder_of(setup);
        struct routes *routes;
        int rc = routes_new(setup->conf, &finder, (const char *const *)id->links, &routes, errors);
        if (rc < 0)
            return rc;
        if (i == 0)
            shards = (size_t)routes_settings(routes)->shards;
        if (!setup->engines)
            setup->engines = calloc(shards, sizeof(struct engine *));
        struct engine *engine = setup->engines ? engine_new(routes) : NULL;
        if (!engine) {
            routes_free(routes);
            return -ENOMEM;
        }
        setup->engines[setup->engine_count++] = engine;
    }
    return 0;
}

/* Links are only checked here: those that run stay as they are. */
static int check_links(const struct setup *setup, const struct identity *id,
                       struct conf_errors *errors)
{
    const struct links_handler nobody = { 0 };
    struct links *links;
    int rc = links_new(setup->conf, NULL, id->node, &nobody, &links, errors);
    if (rc == 0)
        links_free(links);
    return rc;
}

bool setup_has_broker(const struct conf *conf)
{
    const struct conf_node *root = conf_root(conf);
    return conf_node_get(root, "broker") || count_members(root, "links", CONF_LIST) == 0;
}

/* The broker is only checked here: the one that runs stays as it is. */
static int check_broker(const struct setup *setup, struct conf_errors *errors)
{
    struct broker *broker;
    int rc = setup_has_broker(setup->conf) ? broker_new(setup->conf, &broker, errors) : -ENOENT;
    if (rc == 0)
        broker_free(broker);
    return rc == -ENOENT ? 0 : rc;
}

int setup_read(struct setup *setup, const char *path, struct identity *identity,
               struct services *previous, struct conf_errors *errors)
{
    *setup = (struct setup){ 0 };
    if (strcmp(path, INSTALLED) == 0 && access(path, F_OK) < 0) {
        conf_error_at(errors, path, 0, "",
                      "not there, and no tocsin.conf in this folder: write one, or name it with -c "
                      "FILE");
        return -EINVAL;
    }
    int rc = conf_load(path, &setup->conf, errors);
    if (rc < 0)
        return rc;
    const struct options_part part = { settings_options, &setup->settings };
    options_read(conf_root(setup->conf), &part, 1, sections, &setup->memory, errors);
    if (!identity->node)
        rc = fill_identity(identity, setup);

    if (rc != -ENOMEM)
        rc = check_broker(setup, errors);
    if (rc != -ENOMEM)
        rc = store_place(setup->conf, &setup->store_path, errors);
    if (rc != -ENOMEM)
        rc = admin_settings_read(setup->conf, identity->node ? identity->node : "", &setup->admin,
                                 errors);
    if (rc != -ENOMEM)
        rc = ledger_config_read(setup->conf, &setup->ledger, errors);
    if (rc != -ENOMEM)
        rc = dead_bounds_read(setup->conf, &setup->dead_letters, errors);
    if (rc != -ENOMEM)
        rc = check_links(setup, identity, errors);
    if (rc != -ENOMEM)
        rc = services_new(setup->conf, &identity->host, previous, &setup->services, errors);
    if (rc != -ENOMEM)
        rc = read_routes(setup, identity, errors);
    if (rc != -ENOMEM && errors->count > 0)
        rc = -EINVAL;
    if (rc < 0)
        setup_release(setup);
    return rc;
}

void setup_release(struct setup *setup)
{
    for (size_t i = 0; i < setup->engine_count; i++)
        engine_free(setup->engines[i]);
    free(setup->engines);
    services_free(setup->services, 0);
    free(setup->store_path);
    admin_settings_release(&setup->admin);
    options_memory_release(&setup->memory);
    conf_unref(setup->conf);
    *setup = (struct setup){ 0 };
}
