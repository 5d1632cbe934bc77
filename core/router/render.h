/* SPDX-License-Identifier: MIT */

/* From a route that fires to deliveries: title, text, HTML, the targets and their own formats. One thread. */

#ifndef TOCSIN_ROUTER_RENDER_H
#define TOCSIN_ROUTER_RENDER_H

#include "base/buf.h"
#include "router/delivery.h"
#include "router/engine.h"
#include "router/route.h"

/* Buffers that live from message to message. */
struct render {
    struct buf title;
    struct buf text;
    struct buf html;
    struct buf rendered; /* a target's formats, one behind the other, each with its NUL */
    struct buf clean;
    struct tocsin_field *fields; /* FLATTEN_MAX of them, made at the first need */
    struct template_limits limits_of_routes;
    size_t field_count;
};

/* What is known of the notification before it is rendered. */
struct notification {
    const struct route *route;
    struct message *message;
    struct fields *fields; /* title and text are added to it */
    bool has_severity;
    bool has_priority;
    enum tocsin_severity severity;
    int priority;
};

void render_init(struct render *render, const struct routes *routes);
void render_release(struct render *render);

/*
 * Makes a delivery for each target and appends it at `*tail`. Counts in `stats` what could not be done; a
 * failed template says why in `why`.
 */
void render_notification(struct render *render, const struct notification *notification,
                         const struct engine_observer *observer, struct engine_stats *stats,
                         struct buf *why, struct delivery ***tail);

/* Appends a text with & < > " ' as entities. */
void render_escaped(struct buf *out, const char *text, size_t len);

#endif
