/* SPDX-License-Identifier: MIT */

/* The nodes of a configuration tree. One thread builds a tree, any thread may read it after that. */

#include "config/node.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GROWTH 32 /* members */

static bool has_members(const struct conf_node *node)
{
    return node->type == CONF_GROUP || node->type == CONF_LIST;
}

struct conf_node *node_new(enum conf_type type, const char *name, size_t len, const char *file,
                           unsigned line)
{
    struct conf_node *node = calloc(1, sizeof(*node));
    if (!node)
        return NULL;
    node->name = strndup(name, len);
    if (!node->name) {
        free(node);
        return NULL;
    }
    node->type = type;
    node->file = file;
    node->line = line;
    return node;
}

void node_free(struct conf_node *node)
{
    if (!node)
        return;
    if (has_members(node)) {
        for (size_t i = 0; i < node->members.count; i++)
            node_free(node->members.items[i]);
        free(node->members.items);
    } else if (node->type == CONF_STRING) {
        /* It may be a password. */
        if (node->string)
            explicit_bzero(node->string, strlen(node->string));
        free(node->string);
    }
    free(node->name);
    free(node);
}

int node_append(struct conf_node *parent, struct conf_node *child)
{
    assert(has_members(parent));
    size_t count = parent->members.count;
    if (count % GROWTH == 0) {
        struct conf_node **items =
            realloc(parent->members.items, (count + GROWTH) * sizeof(*items));
        if (!items)
            return -ENOMEM;
        parent->members.items = items;
    }
    child->parent = parent;
    child->index = count;
    parent->members.items[parent->members.count++] = child;
    return 0;
}

static struct conf_node *find(const struct conf_node *group, const char *name)
{
    for (size_t i = 0; i < group->members.count; i++)
        if (strcmp(group->members.items[i]->name, name) == 0)
            return group->members.items[i];
    return NULL;
}

static int append_all(struct conf_node *into, struct conf_node *from)
{
    for (size_t i = 0; i < from->members.count; i++) {
        int rc = node_append(into, from->members.items[i]);
        if (rc < 0)
            return rc;
        from->members.items[i] = NULL;
    }
    return 0;
}

int node_merge(struct conf_node *into, struct conf_node *from, struct conf_errors *errors)
{
    int result = 0;
    for (size_t i = 0; i < from->members.count; i++) {
        struct conf_node *child = from->members.items[i];
        struct conf_node *there = find(into, child->name);
        int rc = 0;
        if (!there) {
            rc = node_append(into, child);
            if (rc == 0)
                from->members.items[i] = NULL;
        } else if (there->type == CONF_GROUP && child->type == CONF_GROUP) {
            rc = node_merge(there, child, errors);
        } else if (there->type == CONF_LIST && child->type == CONF_LIST) {
            rc = append_all(there, child);
        } else {
            conf_error(errors, child, "stands in %s:%u already: leave one of them out", there->file,
                       there->line);
            rc = -EINVAL;
        }
        if (rc == -ENOMEM)
            return rc;
        if (rc < 0)
            result = rc;
    }
    return result;
}

enum conf_type conf_node_type(const struct conf_node *node)
{
    return node->type;
}

const char *conf_node_name(const struct conf_node *node)
{
    return node->name;
}

const char *conf_node_file(const struct conf_node *node)
{
    return node->file;
}

unsigned conf_node_line(const struct conf_node *node)
{
    return node->line;
}

void conf_node_add_path(const struct conf_node *node, struct buf *out)
{
    if (!node->parent)
        return;
    conf_node_add_path(node->parent, out);
    if (node->parent->type == CONF_LIST)
        buf_addf(out, "[%zu]", node->index);
    else
        buf_addf(out, "%s%s", node->parent->parent ? "." : "", node->name);
}

size_t conf_node_count(const struct conf_node *node)
{
    assert(has_members(node));
    return node->members.count;
}

const struct conf_node *conf_node_at(const struct conf_node *node, size_t index)
{
    assert(has_members(node) && index < node->members.count);
    return node->members.items[index];
}

const struct conf_node *conf_node_get(const struct conf_node *node, const char *name)
{
    assert(node->type == CONF_GROUP);
    return find(node, name);
}

const char *conf_node_string(const struct conf_node *node)
{
    assert(node->type == CONF_STRING);
    return node->string;
}

int64_t conf_node_int(const struct conf_node *node)
{
    assert(node->type == CONF_INT);
    return node->integer;
}

double conf_node_float(const struct conf_node *node)
{
    assert(node->type == CONF_FLOAT || node->type == CONF_INT);
    return node->type == CONF_FLOAT ? node->real : (double)node->integer;
}

bool conf_node_bool(const struct conf_node *node)
{
    assert(node->type == CONF_BOOL);
    return node->boolean;
}

bool conf_node_is_secret(const struct conf_node *node)
{
    return node->type == CONF_STRING && node->secret;
}

static bool members_equal(const struct conf_node *a, const struct conf_node *b)
{
    if (a->members.count != b->members.count)
        return false;
    for (size_t i = 0; i < a->members.count; i++) {
        const struct conf_node *x = a->members.items[i], *y = b->members.items[i];
        if (a->type == CONF_GROUP && strcmp(x->name, y->name) != 0)
            y = find(b, x->name);
        if (!y || !conf_node_equal(x, y))
            return false;
    }
    return true;
}

bool conf_node_equal(const struct conf_node *a, const struct conf_node *b)
{
    if (a == b)
        return true;
    if (!a || !b || a->type != b->type)
        return false;
    switch (a->type) {
    case CONF_GROUP:
    case CONF_LIST:
        return members_equal(a, b);
    case CONF_STRING:
        return strcmp(a->string, b->string) == 0;
    case CONF_INT:
        return a->integer == b->integer;
    case CONF_FLOAT:
        return a->real == b->real;
    case CONF_BOOL:
        return a->boolean == b->boolean;
    }
    return false;
}
