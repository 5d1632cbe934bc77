/* SPDX-License-Identifier: MIT */

/*
 * A tree of topic filters that holds a number for each; what filters.h and interest.h have in common.
 *
 * A node has one level of a filter, or several if no other filter parts from it in between, and a filter is
 * the texts from the root to its node. Children are found by their first level in one hash table for all. So a
 * filter that shares its first levels with others takes one node: 15 bytes and the rest of its text.
 *
 * Filters and topic names must be valid (mqtt/topic.h); what is said in filters.h about the cost of a match holds
 * here. It belongs to one thread, or to whoever holds the lock of what it is part of; readers may be many.
 */

#ifndef TOCSIN_BROKER_FILTER_TREE_H
#define TOCSIN_BROKER_FILTER_TREE_H

#include "broker/pool.h"
#include "broker/ref_table.h"

#include <stddef.h>
#include <stdint.h>

struct filter_tree {
    struct pool pool; /* may also be used for what the values refer to */
    struct ref_table children;
    uint32_t root;
};

/* Returns 0 or -ENOMEM. filter_tree_release() is allowed either way. */
int filter_tree_init(struct filter_tree *tree);
void filter_tree_release(struct filter_tree *tree);

/* The node of a filter, or 0. A node stays the same while it has a value. */
uint32_t filter_tree_find(const struct filter_tree *tree, const char *filter, size_t len);

/* The same, but makes one, whose value is 0; then give it a value, or call filter_tree_prune(). Returns 0
 * when there is no memory. */
uint32_t filter_tree_add(struct filter_tree *tree, const char *filter, size_t len);

/* A node's value; 0 is none. */
uint32_t *filter_tree_value(const struct filter_tree *tree, uint32_t node);

/* After the value has become 0: removes what is no longer needed. */
void filter_tree_prune(struct filter_tree *tree, uint32_t node);

/* Writes the filter of a node into `text`, which has room for `size` bytes, at its end. Returns where it
 * begins. */
const char *filter_tree_text(const struct filter_tree *tree, uint32_t node, char *text,
                             size_t size);

/* Calls `visit` with the value of each filter that has one and matches a valid topic name. */
void filter_tree_match(const struct filter_tree *tree, const char *topic, size_t len,
                       void (*visit)(uint32_t value, void *context), void *context);

/* Bytes of memory. */
size_t filter_tree_bytes(const struct filter_tree *tree);

#endif
