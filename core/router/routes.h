/* SPDX-License-Identifier: MIT */

/*
 * The routes of a configuration, compiled: which branches of the topic tree, which transforms, which
 * targets. Compiled for one engine, since expressions belong to a script state.
 */

#ifndef TOCSIN_ROUTER_ROUTES_H
#define TOCSIN_ROUTER_ROUTES_H

#include "config/conf.h"
#include "config/options.h"
#include "router/delivery.h"
#include "router/target.h"
#include "tocsin/plugin.h"

#include <stddef.h>
#include <stdint.h>

struct routes;
struct route;

/* How the routes find targets: the delivery side, seen through a narrow window. */
struct target_finder {
    /* "service:name"; NULL if there is none. */
    struct target *(*find)(void *context, const char *service, size_t service_len, const char *name,
                           size_t name_len);
    /* The targets of a service one after the other, and the services' names; NULL at the end. */
    struct target *(*target_at)(void *context, const char *service, size_t service_len,
                                size_t index);
    const char *(*service_at)(void *context, size_t index);
    void *context;
};

/* The group `router`. */
struct router_settings {
    int64_t shards;
    struct tocsin_list functions;
    int64_t instructions;
    struct tocsin_size script_memory;
    struct tocsin_size text_size;
    int64_t template_turns;
};

/*
 * Reads the group `router` and the list `routes` of `conf`, taking a reference. `links` are the names
 * of the links, ending with NULL. Files that it names (templates, functions) are read too; their paths
 * count from the folder of the configuration file. Returns 0 and sets `*out`; or -EINVAL (`errors` has
 * all that is wrong) or -ENOMEM.
 */
int routes_new(struct conf *conf, const struct target_finder *targets, const char *const *links,
               struct routes **out, struct conf_errors *errors);
void routes_free(struct routes *routes);

/* The routes in the order of the file; NULL at the end. */
const struct route *routes_at(const struct routes *routes, size_t index);
size_t routes_count(const struct routes *routes);
const struct router_settings *routes_settings(const struct routes *routes);

size_t route_index(const struct route *route); /* as in routes_at() */
const char *route_name(const struct route *route);
/* The filters of its topics, as MQTT has them, without names; NULL at the end. */
const char *route_filter_at(const struct route *route, size_t index);
const char *route_link(const struct route *route); /* name; NULL: all links */
uint8_t route_qos(const struct route *route);      /* to subscribe with */
const char *route_when(const struct route *route); /* the expression's text; NULL: none */
enum ledger_keep route_ledger(const struct route *route);

extern const struct tocsin_option route_options[];
extern const struct tocsin_option first_of_options[];
extern const struct tocsin_option router_options[];

#endif
