/* SPDX-License-Identifier: MIT */

/* `targets` of a route: names, and places with others to fall back to. Main thread. */

#include "base/nearest.h"
#include "router/route_read.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_OF_MOST 16

struct first_of_config {
    struct tocsin_list first_of;
};

const struct tocsin_option first_of_options[] = {
    TOCSIN_OPTION(struct first_of_config, first_of, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "List of \"service:target\": it goes to the first. To the next one only "
                          "where the one before has rejected it or given it up, or is left alone "
                          "because it fails again and again (see breaker)."),
    { .name = NULL },
};

/* Says that a service, or a target of it, is not known, and which is nearest. */
static void unknown_target(struct route_reader *r, const struct conf_node *node, const char *text,
                           const char *colon)
{
    const struct target_finder *finder = &r->routes->finder;
    size_t service_len = colon ? (size_t)(colon - text) : strlen(text);
    char *service = strndup(text, service_len);
    if (!service) {
        r->out_of_memory = true;
        return;
    }
    bool known = false;
    struct nearest services = { .wrong = service };
    const char *name;
    for (size_t i = 0; (name = finder->service_at(finder->context, i)); i++) {
        known = known || strcmp(name, service) == 0;
        nearest_try(&services, name);
    }
    struct nearest targets = { .wrong = colon ? colon + 1 : "" };
    const struct target *target;
    for (size_t i = 0;
         known && colon && (target = finder->target_at(finder->context, service, service_len, i));
         i++)
        nearest_try(&targets, target->name);

    if (!known && services.best)
        conf_error(r->errors, node, "there is no service \"%s\", did you mean \"%s\"?", service,
                   services.best);
    else if (!known)
        conf_error(r->errors, node, "there is no service \"%s\", add it to services", service);
    else if (targets.best)
        conf_error(r->errors, node, "service \"%s\" has no target \"%s\", did you mean \"%s\"?",
                   service, colon ? colon + 1 : "", targets.best);
    else
        conf_error(r->errors, node, "service \"%s\" has no target \"%s\", add it to its targets",
                   service, colon ? colon + 1 : "");
    free(service);
}

/* Finds "service:target", or all targets of "service". */
static void resolve_target(struct route_reader *r, const struct conf_node *node, const char *text,
                           struct route_target *out)
{
    const struct target_finder *finder = &r->routes->finder;
    const char *colon = strchr(text, ':');
    size_t service_len = colon ? (size_t)(colon - text) : strlen(text);
    size_t count = 0;
    if (colon) {
        count =
            finder->find(finder->context, text, service_len, colon + 1, strlen(colon + 1)) != NULL;
    } else {
        while (finder->target_at(finder->context, text, service_len, count))
            count++;
    }
    if (count == 0) {
        unknown_target(r, node, text, colon);
        return;
    }
    out->targets = calloc(count, sizeof(struct target *));
    if (!out->targets) {
        r->out_of_memory = true;
        return;
    }
    out->target_count = count;
    for (size_t i = 0; i < count; i++)
        out->targets[i] =
            colon ? finder->find(finder->context, text, service_len, colon + 1, strlen(colon + 1))
                  : finder->target_at(finder->context, text, service_len, i);
}

/* One name: "service:target", or "service", or either with fields in it. */
static void read_name(struct route_reader *r, const struct conf_node *node, const char *text,
                      struct route_target *out)
{
    struct format *format = route_read_format(r, text, node);
    const char *constant = format ? format_constant(format) : NULL;
    if (constant)
        resolve_target(r, node, constant, out);
    if (format && !constant)
        out->format = format;
    else
        format_free(format);
}

/* One name of first_of. Returns its target, or NULL. */
static struct target *read_alternative(struct route_reader *r, const struct conf_node *node,
                                       const char *text, const struct route_target *before)
{
    struct route_target one = { 0 };
    struct target *target = NULL;
    read_name(r, node, text, &one);
    if (one.format)
        conf_error(r->errors, node, "\"%s\" has fields in it: name targets in first_of", text);
    else if (one.target_count > 1)
        conf_error(r->errors, node,
                   "service \"%s\" has %zu targets: write one of them, such as \"%s:%s\"", text,
                   one.target_count, text, one.targets[0]->name);
    else if (one.target_count == 1)
        target = one.targets[0];
    /* One without a name stands for all, while a service has mistakes. */
    for (size_t i = 0; target && i < before->target_count; i++)
        if (before->targets[i] == target && target->name[0] != '\0') {
            conf_error(r->errors, node, "\"%s\" is there twice: leave out one of them", text);
            target = NULL;
        }
    format_free(one.format);
    free(one.targets);
    return target;
}

static void read_first_of(struct route_reader *r, const struct conf_node *group,
                          struct route_target *out)
{
    struct first_of_config config = { 0 };
    const struct options_part part = { first_of_options, &config };
    if (options_read(group, &part, 1, NULL, r->memory, r->errors) > 0)
        return;
    const struct conf_node *node = options_node(group, "first_of");
    const struct tocsin_list *list = &config.first_of;
    if (list->count == 0 || list->count > FIRST_OF_MOST) {
        conf_error(r->errors, node, "write 1 to %d targets", FIRST_OF_MOST);
        return;
    }
    out->first_of = true;
    out->targets = calloc(list->count, sizeof(struct target *));
    if (!out->targets) {
        r->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < list->count; i++) {
        const struct conf_node *at =
            conf_node_type(node) == CONF_LIST ? conf_node_at(node, i) : node;
        struct target *target = read_alternative(r, at, list->items[i], out);
        if (target)
            out->targets[out->target_count++] = target;
    }
}

static void read_item(struct route_reader *r, const struct conf_node *node,
                      struct route_target *out)
{
    if (conf_node_type(node) == CONF_STRING)
        read_name(r, node, conf_node_string(node), out);
    else if (conf_node_type(node) == CONF_GROUP)
        read_first_of(r, node, out);
    else
        conf_error(r->errors, node,
                   "must be \"service:target\" or { first_of = [ \"service:target\", ... ]; }");
}

void route_read_targets(struct route_reader *r, const struct conf_node *node)
{
    struct route *route = r->route;
    bool is_list = node && conf_node_type(node) == CONF_LIST;
    size_t count = is_list ? conf_node_count(node) : node != NULL;
    route->targets = calloc(count + 1, sizeof(*route->targets));
    if (!route->targets) {
        r->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < count; i++)
        read_item(r, is_list ? conf_node_at(node, i) : node,
                  &route->targets[route->target_count++]);
}

void route_look_at_targets(struct route *route)
{
    for (size_t i = 0; i < route->target_count; i++) {
        const struct route_target *rt = &route->targets[i];
        if (rt->format)
            route->needs_decoded = true;
        for (size_t j = 0; j < rt->target_count; j++) {
            const struct target *target = rt->targets[j];
            if (target->wants & TOCSIN_WANTS_FIELDS)
                route->needs_decoded = true;
            for (size_t k = 0; k < target->format_count; k++)
                if (target->formats[k].format)
                    format_each_path(target->formats[k].format, route_note_path,
                                     &route->needs_decoded);
        }
    }
}
