/* SPDX-License-Identifier: MIT */

/*
 * What the parts of template.h share: the compiled form (template_parse.c makes it, template.c runs it)
 * and the filters (template_filter.c). A template is a flat list of nodes, run from the first to the end,
 * with jumps.
 */

#ifndef TOCSIN_ROUTER_TEMPLATE_NODE_H
#define TOCSIN_ROUTER_TEMPLATE_NODE_H

#include "router/template.h"

#include <stdint.h>

#define TEMPLATE_MAX_TEXT    (1024 * 1024) /* bytes */
#define TEMPLATE_MAX_NESTING 32            /* if and for in one another */
#define TEMPLATE_MAX_FILTERS 16            /* of one {{ }} */
#define TEMPLATE_MAX_ARGS    2             /* of a filter */

enum filter_type {
    FILTER_UPPER,
    FILTER_LOWER,
    FILTER_TRIM,
    FILTER_ROUND,
    FILTER_DEFAULT,
    FILTER_JOIN,
    FILTER_TOJSON,
    FILTER_REPLACE,
    FILTER_ESCAPE,
    FILTER_SAFE,
};

struct template_expression {
    int id;           /* for script_run(); -1: it is a plain field */
    const char *name; /* of that field */
    size_t len;
};

struct template_filter {
    enum filter_type type;
    unsigned char arg_count;
    struct template_expression args[TEMPLATE_MAX_ARGS];
};

enum node_type {
    NODE_TEXT,   /* gives `text` */
    NODE_OUTPUT, /* gives the value of `expression`, or `text` when there is none */
    NODE_IF,     /* goes to `target` unless `expression` is true */
    NODE_JUMP,   /* goes to `target` */
    NODE_FOR,    /* begins a loop over `expression`; goes to `target` when that is empty */
    NODE_NEXT,   /* goes to `target` for the next turn, or on when there is none */
};

struct template_node {
    enum node_type type;
    bool uses_loop;          /* FOR: `loop` is asked for inside */
    unsigned char key_count; /* FOR: names before "in" */
    unsigned char filter_count;
    uint32_t target;
    int line;
    const char *text;
    size_t len;
    struct template_expression expression;
    union {
        struct template_filter *filters; /* OUTPUT */
        const char *keys[2];             /* FOR */
    } u;
};

struct template
{
    struct script *script;
    char *name;
    char *source; /* the text; other texts are parts of it, if they are not in `words` */
    struct template_node *nodes;
    uint32_t count, capacity;
    char **words; /* names and constants that had to be copied */
    size_t word_count, word_capacity;
};

/* Fills `template`, whose name, source and script are set. Returns as template_new() does. */
int template_parse(struct template *template, size_t len, struct buf *why);

/* ---- template_filter.c ---- */

/* How many arguments a filter takes. */
struct filter_kind {
    const char *name;
    enum filter_type type;
    unsigned char min_args, max_args;
};

/* NULL if there is none of that name; then `*nearest` is what may have been meant, or NULL. */
const struct filter_kind *filter_find(const char *name, const char **nearest);

/* All names, for errors. */
#define FILTER_NAMES "upper, lower, trim, round, default, join, tojson, replace, escape, safe"

/*
 * Applies a filter to `*value`, with its arguments' values. A text that is made goes into `room`, which
 * must not be where `*value` is. Returns 0, -EINVAL with a static `*why`, or the error of the buffer.
 */
int filter_apply(enum filter_type type, const struct value *args, size_t arg_count,
                 struct value *value, struct buf *room, const char **why);

#endif
