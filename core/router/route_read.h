/* SPDX-License-Identifier: MIT */

/* Reading and compiling one route; for routes.c. */

#ifndef TOCSIN_ROUTER_ROUTE_READ_H
#define TOCSIN_ROUTER_ROUTE_READ_H

#include "config/conf.h"
#include "config/options.h"
#include "router/route.h"

/*
 * Reads a route into the script state and target window of `routes`. What is wrong is added to `errors`,
 * and the route is made all the same, so that everything after it can be checked. Returns 0 and sets `*out`,
 * or -ENOMEM.
 */
int route_read(struct routes *routes, const struct conf_node *node, const char *const *links,
               struct options_memory *memory, struct conf_errors *errors, struct route **out);
void route_free(struct route *route);

#endif
