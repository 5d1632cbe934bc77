/* SPDX-License-Identifier: MIT */

/*
 * What a JSON document is made of: json_read.c fills it, json.c answers from it.
 *
 * The nodes lie in the order of the text: a container is followed by all that is in it, and a member's
 * name is a node of its own, right before the member's value.
 */

#ifndef TOCSIN_ROUTER_JSON_NODE_H
#define TOCSIN_ROUTER_JSON_NODE_H

#include <stddef.h>
#include <stdint.h>

enum node_type {
    NODE_NULL,
    NODE_TRUE,
    NODE_FALSE,
    NODE_NUMBER,
    NODE_STRING,
    NODE_ARRAY, /* from here on they have children */
    NODE_OBJECT,
};

enum node_flags {
    NODE_LAST = 0x1,      /* no sibling follows */
    NODE_MEMBER = 0x2,    /* its name is the node before it */
    NODE_ESCAPED = 0x4,   /* STRING: there is a backslash in it */
    NODE_UNESCAPED = 0x8, /* STRING: what it means is in doc->plain, at the same place */
};

struct node {
    uint32_t at;  /* its first byte; of a string, the one after the quote */
    uint32_t len; /* bytes; of a string, between the quotes */
    /* Containers: the node after all that is in it. UNESCAPED strings: their length. */
    uint32_t end;
    uint32_t count : 24; /* containers: members or elements */
    uint32_t type : 4;
    uint32_t flags : 4;
};

_Static_assert(sizeof(struct node) == 16, "nodes are small");

/* Strings without their escapes. They are never longer so, so each lies where it stands in the text, and none
 * moves. Made at the first need, although the document is const by then. */
struct json_plain {
    char *bytes;
    size_t capacity;
};

struct json_doc {
    const char *text;
    size_t len;
    struct node *nodes;
    uint32_t count;
    uint32_t capacity;
    struct json_plain *plain;
};

#endif
