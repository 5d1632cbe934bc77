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

/* What is passed along while one route is read. */
struct route_reader {
    struct routes *routes;
    struct route *route;
    const struct conf_node *node;
    struct conf_errors *errors;
    struct options_memory *memory;
    struct buf why;
    bool out_of_memory;
};

/* Reads a format; NULL for none, or when it is wrong. Notes whether it looks at decoded fields. */
struct format *route_read_format(struct route_reader *reader, const char *text,
                                 const struct conf_node *node);

/* For each path of something: sets the bool at `context` where it is one of the payload. */
void route_note_path(const struct field_path *path, void *context);

/* ---- route_targets.c ---- */

/* Reads `targets`; NULL: there are none. */
void route_read_targets(struct route_reader *reader, const struct conf_node *node);

/* Whether a target looks at decoded fields, by its formats or because its plugin wants them all. */
void route_look_at_targets(struct route *route);

#endif
