/* SPDX-License-Identifier: MIT */

#include "broker/filter_tree.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum node_flags {
    NODE_HAS_PLUS = 1, /* a child begins with the level '+' */
    NODE_HAS_HASH = 2, /* a child is '#' */
};

struct filter_node {
    uint32_t parent;
    uint32_t value;
    uint32_t children; /* how many */
    uint16_t len;
    uint8_t flags;
    char text[]; /* one level or several */
};

static struct filter_node *node_at(const struct filter_tree *tree, uint32_t ref)
{
    assert(ref);
    return pool_at(&tree->pool, ref);
}

static size_t level_len(const char *text, size_t len)
{
    const char *slash = memchr(text, '/', len);
    return slash ? (size_t)(slash - text) : len;
}

/* The flag that a parent has for a child with this text. */
static uint8_t flag_of(const char *text, size_t len)
{
    if (len == 0)
        return 0;
    return text[0] == '+' ? NODE_HAS_PLUS : text[0] == '#' ? NODE_HAS_HASH : 0;
}

static uint32_t node_hash(const struct filter_node *node)
{
    return ref_table_hash(node->text, level_len(node->text, node->len), node->parent);
}

static uint32_t node_new(struct filter_tree *tree, uint32_t parent, const char *text, size_t len)
{
    const uint32_t ref = pool_alloc(&tree->pool, offsetof(struct filter_node, text) + len);
    if (!ref)
        return 0;
    struct filter_node *node = node_at(tree, ref);
    node->parent = parent;
    node->value = 0;
    node->children = 0;
    node->len = (uint16_t)len;
    node->flags = 0;
    memcpy(node->text, text, len);
    return ref;
}

int filter_tree_init(struct filter_tree *tree)
{
    *tree = (struct filter_tree){ 0 };
    tree->root = node_new(tree, 0, "", 0);
    return tree->root ? 0 : -ENOMEM;
}

void filter_tree_release(struct filter_tree *tree)
{
    ref_table_release(&tree->children);
    pool_release(&tree->pool);
    tree->root = 0;
}

/* ---- Adding and removing ---- */

static uint32_t child_find(const struct filter_tree *tree, uint32_t parent, const char *level,
                           size_t len)
{
    struct ref_probe probe = ref_table_probe(&tree->children, ref_table_hash(level, len, parent));
    uint32_t ref;
    while ((ref = ref_probe_next(&tree->children, &probe))) {
        const struct filter_node *node = node_at(tree, ref);
        if (node->parent == parent && node->len >= len &&
            (node->len == len || node->text[len] == '/') && memcmp(node->text, level, len) == 0)
            break;
    }
    return ref;
}

static uint32_t child_add(struct filter_tree *tree, uint32_t parent, const char *text, size_t len)
{
    if (ref_table_reserve(&tree->children) < 0)
        return 0;
    const uint32_t ref = node_new(tree, parent, text, len);
    if (!ref)
        return 0;
    ref_table_add(&tree->children, node_hash(node_at(tree, ref)), ref);
    node_at(tree, parent)->children++;
    node_at(tree, parent)->flags |= flag_of(text, len);
    return ref;
}

/* How much of the node's text, in whole levels, the filter begins with. The first level is known to be the same. */
static size_t common_len(const struct filter_node *node, const char *filter, size_t len)
{
    size_t same = 0, at = 0;
    while (at < node->len && at < len && node->text[at] == filter[at]) {
        if (filter[at] == '/')
            same = at;
        at++;
    }
    const bool node_level_ends = at == node->len || node->text[at] == '/';
    const bool filter_level_ends = at == len || filter[at] == '/';
    return node_level_ends && filter_level_ends ? at : same;
}

/*
 * Gives the first `len` bytes of a node's text to a new parent between it and its old one, which is returned,
 * or 0 without memory. The node keeps its reference, which is what others know it by, and its place, in which it
 * now needs less.
 */
static uint32_t node_split(struct filter_tree *tree, uint32_t lower_ref, size_t len)
{
    if (ref_table_reserve(&tree->children) < 0)
        return 0;
    struct filter_node *lower = node_at(tree, lower_ref);
    const uint32_t ref = node_new(tree, lower->parent, lower->text, len);
    if (!ref)
        return 0;
    struct filter_node *upper = node_at(tree, ref);
    ref_table_replace(&tree->children, node_hash(lower), lower_ref, ref);

    lower->parent = ref;
    lower->len = (uint16_t)(lower->len - (len + 1));
    memmove(lower->text, lower->text + len + 1, lower->len);
    ref_table_add(&tree->children, node_hash(lower), lower_ref);
    upper->children = 1;
    upper->flags = flag_of(lower->text, lower->len);
    return ref;
}

uint32_t filter_tree_find(const struct filter_tree *tree, const char *filter, size_t len)
{
    uint32_t ref = tree->root;
    for (;;) {
        ref = child_find(tree, ref, filter, level_len(filter, len));
        if (!ref)
            return 0;
        const struct filter_node *node = node_at(tree, ref);
        if (common_len(node, filter, len) < node->len)
            return 0;
        if (len == node->len)
            return ref;
        filter += node->len + 1u;
        len -= node->len + 1u;
    }
}

uint32_t filter_tree_add(struct filter_tree *tree, const char *filter, size_t len)
{
    uint32_t ref = tree->root;
    for (;;) {
        const uint32_t child = child_find(tree, ref, filter, level_len(filter, len));
        if (!child)
            return child_add(tree, ref, filter, len);
        const size_t common = common_len(node_at(tree, child), filter, len);
        ref = common < node_at(tree, child)->len ? node_split(tree, child, common) : child;
        if (!ref || common == len)
            return ref;
        filter += common + 1;
        len -= common + 1;
    }
}

uint32_t *filter_tree_value(const struct filter_tree *tree, uint32_t node)
{
    return &node_at(tree, node)->value;
}

void filter_tree_prune(struct filter_tree *tree, uint32_t ref)
{
    for (;;) {
        struct filter_node *node = node_at(tree, ref);
        if (ref == tree->root || node->value || node->children)
            return;
        const uint32_t parent = node->parent;
        ref_table_remove(&tree->children, node_hash(node), ref);
        node_at(tree, parent)->children--;
        node_at(tree, parent)->flags &= (uint8_t)~flag_of(node->text, node->len);
        pool_free(&tree->pool, ref);
        ref = parent;
    }
}

const char *filter_tree_text(const struct filter_tree *tree, uint32_t ref, char *text, size_t size)
{
    char *at = text + size;
    for (;;) {
        const struct filter_node *node = node_at(tree, ref);
        assert((size_t)(at - text) >= node->len);
        at -= node->len;
        memcpy(at, node->text, node->len);
        ref = node->parent;
        if (ref == tree->root)
            break;
        *--at = '/';
    }
    return at;
}

/* ---- Matching ---- */

struct walk {
    const struct filter_tree *tree;
    const char *topic;
    size_t len;
    void (*visit)(uint32_t value, void *context);
    void *context;

    uint32_t node;
    size_t at;      /* of the topic's next level; len + 1 behind the last */
    size_t pending; /* nodes on the way from the root to here whose '+' is still to be tried */
};

static void visit_node(const struct walk *walk, uint32_t ref)
{
    const uint32_t value = node_at(walk->tree, ref)->value;
    if (value)
        walk->visit(value, walk->context);
}

/* Goes down to a child if the topic goes on like its text. */
static bool walk_down(struct walk *walk, uint32_t child)
{
    const struct filter_node *node = node_at(walk->tree, child);
    size_t at = walk->at;
    for (size_t i = 0; i < node->len;) {
        if (node->text[i] == '#') {
            visit_node(walk, child);
            return false;
        }
        if (node->text[i] == '+') {
            i++;
            at += level_len(walk->topic + at, walk->len - at);
        } else if (at < walk->len && node->text[i] == walk->topic[at]) {
            i++;
            at++;
        } else {
            /* "a/#" also matches its parent "a". */
            if (at == walk->len && node->len - i == 2 && memcmp(node->text + i, "/#", 2) == 0)
                visit_node(walk, child);
            return false;
        }
    }
    if (at < walk->len && walk->topic[at] != '/')
        return false;
    walk->node = child;
    walk->at = at + 1;
    return true;
}

/* Goes back to the parent; returns whether the node that was left is the '+' of its parent. */
static bool walk_up(struct walk *walk)
{
    const struct filter_node *node = node_at(walk->tree, walk->node);
    size_t levels = 1;
    for (size_t i = 0; i < node->len; i++)
        levels += node->text[i] == '/';
    while (levels-- > 0) {
        walk->at--;
        while (walk->at > 0 && walk->topic[walk->at - 1] != '/')
            walk->at--;
    }
    walk->node = node->parent;
    return flag_of(node->text, node->len) == NODE_HAS_PLUS;
}

/* Wildcards that match here, apart from those of names that start with '$' [MQTT-4.7.2-1]. */
static uint8_t walk_wildcards(const struct walk *walk)
{
    if (walk->node == walk->tree->root && walk->topic[0] == '$')
        return 0;
    return node_at(walk->tree, walk->node)->flags;
}

static bool walk_down_plus(struct walk *walk)
{
    walk->pending--;
    return walk_down(walk, child_find(walk->tree, walk->node, "+", 1));
}

/* Visits the values of the node just reached and goes to the next one, if there is one below. */
static bool walk_on(struct walk *walk)
{
    const uint8_t wildcards = walk_wildcards(walk);
    if (wildcards & NODE_HAS_HASH)
        visit_node(walk, child_find(walk->tree, walk->node, "#", 1));
    if (walk->at > walk->len) {
        visit_node(walk, walk->node);
        return false;
    }
    if (wildcards & NODE_HAS_PLUS)
        walk->pending++;
    const char *level = walk->topic + walk->at;
    const uint32_t child =
        child_find(walk->tree, walk->node, level, level_len(level, walk->len - walk->at));
    if (child && walk_down(walk, child))
        return true;
    return wildcards & NODE_HAS_PLUS && walk_down_plus(walk);
}

/*
 * Depth first, without a stack: the way back is in the nodes, and which branch was taken can be seen from
 * the text of the node. So any depth costs no memory.
 */
void filter_tree_match(const struct filter_tree *tree, const char *topic, size_t len,
                       void (*visit)(uint32_t value, void *context), void *context)
{
    struct walk walk = { tree, topic, len, visit, context, tree->root, 0, 0 };
    for (;;) {
        if (walk_on(&walk))
            continue;
        bool down = false;
        while (!down) {
            if (walk.pending == 0)
                return;
            const bool plus_done = walk_up(&walk);
            if (!plus_done && walk_wildcards(&walk) & NODE_HAS_PLUS)
                down = walk_down_plus(&walk);
        }
    }
}

size_t filter_tree_bytes(const struct filter_tree *tree)
{
    return tree->pool.bytes + ref_table_bytes(&tree->children);
}
