/* SPDX-License-Identifier: MIT */

/*
 * The inside of configuration nodes, for those who build a tree. Everybody else reads conf.h.
 *
 * While a tree is being built it belongs to one thread; afterwards it never changes.
 */

#ifndef TOCSIN_CONFIG_NODE_H
#define TOCSIN_CONFIG_NODE_H

#include "config/conf.h"

struct tocsin_node {
    struct tocsin_node *parent; /* NULL: the root */
    size_t index;               /* in the parent */
    char *name;                 /* "" in a list, and of the root */
    const char *file;           /* belongs to the conf */
    unsigned line;              /* 0: the file as a whole */
    enum conf_type type;
    bool secret;
    union {
        char *string;
        int64_t integer;
        double real;
        bool boolean;
        struct {
            struct tocsin_node **items;
            size_t count;
        } members; /* GROUP, LIST */
    };
};

/* Makes a node with a copy of `name`, `len` bytes, and no value. NULL: no memory. */
struct conf_node *node_new(enum conf_type type, const char *name, size_t len, const char *file,
                           unsigned line);

/* Frees it and all below it. */
void node_free(struct conf_node *node);

/* Makes `child` the last member of `parent`, which owns it then. Returns 0 or -ENOMEM. */
int node_append(struct conf_node *parent, struct conf_node *child);

/*
 * Moves all members of the group `from` into the group `into`: groups of one name are merged, lists of
 * one name appended; anything else that is in both is an error that names both places. Returns 0,
 * -EINVAL (`errors` tells) or -ENOMEM. What could not be moved stays in `from`.
 */
int node_merge(struct conf_node *into, struct conf_node *from, struct conf_errors *errors);

#endif
