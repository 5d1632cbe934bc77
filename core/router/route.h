/* SPDX-License-Identifier: MIT */

/*
 * A route from within the router: what routes.c has read and engine.c runs. It never changes after it has
 * been read, and belongs with its engine to one thread.
 */

#ifndef TOCSIN_ROUTER_ROUTE_H
#define TOCSIN_ROUTER_ROUTE_H

#include "mqtt/topic_tree.h"
#include "router/delivery.h"
#include "router/format.h"
#include "router/route_topic.h"
#include "router/routes.h"
#include "router/script.h"
#include "router/template.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NO_EXPRESSION (-1)
#define ROUTE_MAX_SET 64 /* fields that `set` and `function` may add to a message */

enum decode {
    DECODE_AUTO,
    DECODE_JSON,
    DECODE_NUMBER,
    DECODE_TEXT,
    DECODE_BINARY
};

/* A field of `set`: an expression, a format, or a constant. */
struct route_set {
    const char *name;
    int expression;        /* NO_EXPRESSION: not that */
    struct format *format; /* NULL: not that */
    struct value constant;
};

/* `severity` or `priority`: an expression or a constant. */
struct route_rank {
    bool set;
    int expression; /* NO_EXPRESSION: the constant */
    int64_t constant;
};

/* One of `targets`. */
struct route_target {
    struct format *format;   /* with fields in it: looked up for each message; NULL: the list */
    struct target **targets; /* the one, or all of a service; or, with `first_of`, */
    size_t target_count;     /* the first, and then what to fall back to */
    bool first_of;
};

struct route {
    const struct routes *routes;
    size_t index; /* in the order of the file */
    const char *name;
    struct route_topic *topics;
    size_t topic_count;
    const char *link; /* NULL: any */
    uint8_t qos;
    const char *when_text; /* NULL: none */
    enum ledger_keep ledger;
    bool stop;
    bool skip_retained;
    bool needs_decoded; /* something looks at more than fixed fields and levels */
    enum decode decode;
    struct route_set *set;
    size_t set_count;
    const char *function; /* NULL: none */
    int when;
    struct route_rank severity;
    struct route_rank priority;
    struct format *title;           /* NULL: none */
    struct format *format;          /* NULL: none */
    struct template *template;      /* NULL: none; not both */
    struct template *html_template; /* NULL: none */
    struct route_target *targets;
    size_t target_count;
};

/* A filter in the tree: which of a route's filters it is. */
struct route_match {
    const struct route *route;
    const struct route_topic *topic;
};

struct routes {
    struct conf *conf; /* names and such point into it */
    struct script *script;
    struct topic_tree *tree;
    struct route **list;
    size_t count;
    struct route_match *matches;
    size_t match_count;
    struct target_finder finder;
    struct options_memory *memory; /* one for the router group, one for each route */
    size_t memory_count;
    struct router_settings settings;
};

/* "ok", "warning", "critical", "unknown", in any case: the number. Else -1. */
int severity_from_word(const char *text, size_t len);
const char *severity_word(int64_t severity);

#endif
