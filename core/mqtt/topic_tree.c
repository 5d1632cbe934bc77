/* SPDX-License-Identifier: MIT */

#include "mqtt/topic_tree.h"

#include "base/map.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The values of one filter. */
struct values {
    void **items;
    size_t count;
};

/* A level. "a/#" has its values at the node of "a", in `below`. */
struct node {
    struct map children; /* by the text of the level */
    struct node *any;    /* the child '+' */
    struct values here;  /* of the filter that ends here */
    struct values below; /* of the filter that ends with '#' below here */
    char level[];        /* NUL-terminated: the key in the parent's map */
};

struct topic_tree {
    struct node *root; /* a level above the first */
};

static struct node *node_new(const char *level, size_t len)
{
    struct node *node = calloc(1, sizeof(*node) + len + 1);
    if (node)
        memcpy(node->level, level, len);
    return node;
}

/* Recurses by level: a filter has at most 65535 bytes, and filters come from a configuration whose
 * depth is bounded when it is read. */
static void node_free(struct node *node)
{
    if (!node)
        return;
    size_t at = 0;
    for (const struct map_entry *e; (e = map_next(&node->children, &at));)
        node_free(e->value);
    map_release(&node->children);
    node_free(node->any);
    free(node->here.items);
    free(node->below.items);
    free(node);
}

struct topic_tree *topic_tree_new(void)
{
    struct topic_tree *tree = malloc(sizeof(*tree));
    if (!tree)
        return NULL;
    tree->root = node_new("", 0);
    if (!tree->root) {
        free(tree);
        return NULL;
    }
    return tree;
}

void topic_tree_free(struct topic_tree *tree)
{
    if (tree)
        node_free(tree->root);
    free(tree);
}

static int values_add(struct values *values, void *value)
{
    void **items = realloc(values->items, (values->count + 1) * sizeof(*items));
    if (!items)
        return -ENOMEM;
    items[values->count++] = value;
    values->items = items;
    return 0;
}

/* The child for a level of a filter, made if need be; NULL when there is no memory. */
static struct node *child_for(struct node *node, const char *level, size_t len)
{
    if (len == 1 && *level == '+') {
        if (!node->any)
            node->any = node_new(level, len);
        return node->any;
    }
    struct node *child = map_get(&node->children, level, len);
    if (child)
        return child;
    child = node_new(level, len);
    if (child && map_set(&node->children, child->level, len, child) < 0) {
        free(child);
        child = NULL;
    }
    return child;
}

static size_t level_len(const char *text, const char *end)
{
    const char *slash = memchr(text, '/', (size_t)(end - text));
    return (size_t)((slash ? slash : end) - text);
}

int topic_tree_add(struct topic_tree *tree, const char *filter, size_t len, void *value)
{
    struct node *node = tree->root;
    const char *end = filter + len;
    for (const char *at = filter;;) {
        size_t n = level_len(at, end);
        if (n == 1 && *at == '#')
            return values_add(&node->below, value);
        node = child_for(node, at, n);
        if (!node)
            return -ENOMEM;
        at += n;
        if (at == end)
            return values_add(&node->here, value);
        at++;
    }
}

struct match {
    const char *end;
    void (*visit)(void *value, void *context);
    void *context;
};

static void visit_all(const struct values *values, const struct match *match)
{
    for (size_t i = 0; i < values->count; i++)
        match->visit(values->items[i], match->context);
}

/* `at` is the start of the next level; past `end` when there is none. */
static void match_from(const struct node *node, const char *at, bool first,
                       const struct match *match)
{
    bool dollar = first && *at == '$'; /* [MQTT-4.7.2-1] */
    if (!dollar)
        visit_all(&node->below, match);
    if (at > match->end) {
        visit_all(&node->here, match);
        return;
    }
    size_t n = level_len(at, match->end);
    const struct node *child = map_get(&node->children, at, n);
    if (child)
        match_from(child, at + n + 1, false, match);
    if (node->any && !dollar)
        match_from(node->any, at + n + 1, false, match);
}

void topic_tree_match(const struct topic_tree *tree, const char *topic, size_t len,
                      void (*visit)(void *value, void *context), void *context)
{
    const struct match match = { .end = topic + len, .visit = visit, .context = context };
    match_from(tree->root, topic, true, &match);
}
