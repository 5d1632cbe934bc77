/* SPDX-License-Identifier: MIT */

/* The set of routes: its settings, its topic tree, its life. What stands in one route is route.c's. */

#include "router/routes.h"

#include "router/route_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct tocsin_option router_options[] = {
    TOCSIN_OPTION(struct router_settings, shards, .def = "1", .min = 1, .max = 64,
                  .help = "Threads that route. A topic always goes to the same one."),
    TOCSIN_OPTION(struct router_settings, functions,
                  .help = "Lua files whose functions expressions and routes may call."),
    TOCSIN_OPTION(struct router_settings, instructions, .def = "1000000", .min = 1000,
                  .max = 1000000000,
                  .help = "Lua instructions that one expression or function call may take."),
    TOCSIN_OPTION(struct router_settings, script_memory, .def = "64MiB", .min = 1048576,
                  .max = INT64_C(1) << 36, .help = "Memory of all expressions of one shard."),
    TOCSIN_OPTION(struct router_settings, text_size, .def = "1MiB", .min = 1024, .max = 1 << 30,
                  .help =
                      "Largest text that a format or template may render; longer ones are cut."),
    TOCSIN_OPTION(struct router_settings, template_turns, .def = "100000", .min = 1,
                  .max = INT64_C(1) << 40,
                  .help = "Turns that all loops of a template may take together."),
    { .name = NULL },
};

/* Appends the path of a file that counts from the folder of the configuration file. */
static void add_path(struct buf *out, const struct conf_node *node, const char *path)
{
    const char *file = conf_node_file(node), *slash = strrchr(file, '/');
    if (path[0] != '/' && slash)
        buf_add(out, file, (size_t)(slash + 1 - file));
    buf_add_str(out, path);
}

static void load_functions(struct routes *routes, const struct conf_node *group,
                           struct conf_errors *errors)
{
    for (size_t i = 0; i < routes->settings.functions.count; i++) {
        const struct conf_node *node = options_node(group, "functions");
        struct buf path = BUF_INIT(4096), why = BUF_INIT(4096);
        add_path(&path, node, routes->settings.functions.items[i]);
        int rc = path.error ? path.error : script_load(routes->script, buf_str(&path), &why);
        if (rc < 0)
            conf_error(errors, node, "\"%s\" cannot be used: %s", buf_str(&path),
                       why.len > 0 ? buf_str(&why) : strerror(-rc));
        buf_release(&path);
        buf_release(&why);
    }
}

static int read_settings(struct routes *routes, const struct conf_node *group,
                         struct conf_errors *errors)
{
    const struct options_part part = { router_options, &routes->settings };
    options_read(group, &part, 1, NULL, &routes->memory[routes->memory_count++], errors);
    const struct script_limits limits = { .instructions = routes->settings.instructions,
                                          .memory = routes->settings.script_memory.bytes };
    routes->script = script_new(errors->count > 0 ? NULL : &limits);
    if (!routes->script)
        return -ENOMEM;
    load_functions(routes, group, errors);
    return 0;
}

static void check_name(const struct routes *routes, const struct route *route,
                       const struct conf_node *node, struct conf_errors *errors)
{
    const struct conf_node *name = conf_node_get(node, "name");
    for (size_t i = 0; name && i < routes->count; i++)
        if (strcmp(routes->list[i]->name, route->name) == 0)
            conf_error(errors, name, "there is a route \"%s\" already, choose another name",
                       route->name);
}

static int read_routes(struct routes *routes, const struct conf_node *list,
                       const char *const *links, struct conf_errors *errors)
{
    for (size_t i = 0; list && i < conf_node_count(list); i++) {
        const struct conf_node *node = conf_node_at(list, i);
        if (conf_node_type(node) != CONF_GROUP) {
            conf_error(errors, node, "a route is a group, write { topic = \"...\"; ... }");
            continue;
        }
        struct route *route;
        int rc = route_read(routes, node, links, &routes->memory[routes->memory_count++], errors,
                            &route);
        if (rc < 0)
            return rc;
        check_name(routes, route, node, errors);
        route->index = routes->count;
        routes->list[routes->count++] = route;
        routes->match_count += route->topic_count;
    }
    return 0;
}

/* Puts every filter of every route into the tree. */
static int plant(struct routes *routes)
{
    routes->tree = topic_tree_new();
    routes->matches = calloc(routes->match_count + 1, sizeof(*routes->matches));
    if (!routes->tree || !routes->matches)
        return -ENOMEM;
    struct route_match *match = routes->matches;
    for (size_t i = 0; i < routes->count; i++) {
        const struct route *route = routes->list[i];
        for (size_t j = 0; j < route->topic_count; j++, match++) {
            *match = (struct route_match){ route, &route->topics[j] };
            const char *filter = route->topics[j].filter;
            int rc = topic_tree_add(routes->tree, filter, strlen(filter), match);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

int routes_new(struct conf *conf, const struct target_finder *targets, const char *const *links,
               struct routes **out, struct conf_errors *errors)
{
    *out = NULL;
    size_t errors_before = errors->count;
    const struct conf_node *root = conf_root(conf);
    const struct conf_node *list = conf_node_get(root, "routes");
    const struct conf_node *group = conf_node_get(root, "router");
    if (list && conf_node_type(list) != CONF_LIST) {
        conf_error(errors, list, "routes is a list, write routes = ( { ... }, { ... } );");
        list = NULL;
    }
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "router is a group, write router = { ... };");
        group = NULL;
    }
    size_t most = list ? conf_node_count(list) : 0;

    struct routes *routes = calloc(1, sizeof(*routes));
    if (!routes)
        return -ENOMEM;
    routes->conf = conf_ref(conf);
    routes->finder = *targets;
    routes->list = calloc(most + 1, sizeof(struct route *));
    routes->memory = calloc(most + 1, sizeof(*routes->memory));
    int rc = routes->list && routes->memory ? 0 : -ENOMEM;
    if (rc == 0)
        rc = read_settings(routes, group, errors);
    if (rc == 0)
        rc = read_routes(routes, list, links, errors);
    if (rc == 0 && errors->count > errors_before)
        rc = -EINVAL;
    if (rc == 0)
        rc = plant(routes);
    if (rc < 0) {
        routes_free(routes);
        return rc;
    }
    *out = routes;
    return 0;
}

void routes_free(struct routes *routes)
{
    if (!routes)
        return;
    for (size_t i = 0; i < routes->count; i++)
        route_free(routes->list[i]);
    for (size_t i = 0; i < routes->memory_count; i++)
        options_memory_release(&routes->memory[i]);
    topic_tree_free(routes->tree);
    script_free(routes->script);
    free(routes->matches);
    free(routes->memory);
    free(routes->list);
    conf_unref(routes->conf);
    free(routes);
}

const struct route *routes_at(const struct routes *routes, size_t index)
{
    return index < routes->count ? routes->list[index] : NULL;
}

size_t routes_count(const struct routes *routes)
{
    return routes->count;
}

const struct router_settings *routes_settings(const struct routes *routes)
{
    return &routes->settings;
}

size_t route_index(const struct route *route)
{
    return route->index;
}

const char *route_name(const struct route *route)
{
    return route->name;
}

const char *route_filter_at(const struct route *route, size_t index)
{
    return index < route->topic_count ? route->topics[index].filter : NULL;
}

const char *route_link(const struct route *route)
{
    return route->link;
}

uint8_t route_qos(const struct route *route)
{
    return route->qos;
}

const char *route_when(const struct route *route)
{
    return route->when_text;
}

enum ledger_keep route_ledger(const struct route *route)
{
    return route->ledger;
}
