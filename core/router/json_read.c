/* SPDX-License-Identifier: MIT */

/* Reading JSON, in one pass over the text. A document belongs to one thread. */

#include "router/json.h"
#include "router/json_node.h"
#include "router/json_string.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX      (64u << 20)        /* bytes */
#define NODES_MAX     (4u * 1000 * 1000) /* fits node.count */
#define DEPTH_MAX     64
#define NODES_AT_ONCE 256        /* of the first allocation */
#define KEEP_MAX      (1u << 20) /* bytes that a large document leaves to the small ones after it */

/* An open container. */
struct frame {
    uint32_t node;
    uint32_t child; /* its latest */
    uint32_t count;
};

struct reader {
    struct json_doc *doc;
    const char *start;
    const char *at;
    const char *end;
    const char *why;
    int error;
    unsigned depth;
    struct frame frames[DEPTH_MAX];
};

/* Remembers what is wrong at the place where the reader is. Returns false. */
static bool fail(struct reader *r, int error, const char *why)
{
    r->error = error;
    r->why = why;
    return false;
}

static bool nodes_grow(struct reader *r)
{
    struct json_doc *doc = r->doc;
    if (doc->count >= NODES_MAX)
        return fail(r, -E2BIG, "more than 4 million elements");
    uint32_t capacity = doc->capacity ? doc->capacity * 2 : NODES_AT_ONCE;
    if (capacity > NODES_MAX)
        capacity = NODES_MAX;
    struct node *nodes = realloc(doc->nodes, capacity * sizeof(*nodes));
    if (!nodes)
        return fail(r, -ENOMEM, "out of memory");
    doc->nodes = nodes;
    doc->capacity = capacity;
    return true;
}

/* Appends a node that begins at `at`. Returns NULL when there is no room. */
static inline struct node *node_add(struct reader *r, enum node_type type, const char *at,
                                    const char *end)
{
    struct json_doc *doc = r->doc;
    if (doc->count == doc->capacity && !nodes_grow(r))
        return NULL;
    struct node *node = &doc->nodes[doc->count++];
    *node = (struct node){ .at = (uint32_t)(at - r->start),
                           .len = (uint32_t)(end - at),
                           .type = type & 0xF };
    return node;
}

static inline void skip_blanks(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

/* A string from its first quote on, as a node. */
static inline bool read_string(struct reader *r)
{
    const char *first = r->at + 1;
    bool escaped = false;
    r->why = json_string_scan(first, r->end, &r->at, &escaped);
    if (r->why) {
        r->error = -EINVAL;
        return false;
    }
    struct node *node = node_add(r, NODE_STRING, first, r->at);
    if (!node)
        return false;
    if (escaped)
        node->flags = NODE_ESCAPED;
    r->at++;
    return true;
}

static inline const char *skip_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

/* RFC 8259, section 6. */
static inline bool read_number(struct reader *r)
{
    const char *first = r->at;
    const char *digits = first + (*first == '-');
    r->at = skip_digits(digits, r->end);
    if (r->at == digits)
        return fail(r, -EINVAL, r->at == first ? "expected a value" : "expected a digit");
    if (*digits == '0' && r->at - digits > 1)
        return fail(r, -EINVAL, "a number does not begin with 0");

    if (r->at < r->end && *r->at == '.') {
        digits = ++r->at;
        r->at = skip_digits(digits, r->end);
        if (r->at == digits)
            return fail(r, -EINVAL, "expected a digit");
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
            r->at++;
        digits = r->at;
        r->at = skip_digits(digits, r->end);
        if (r->at == digits)
            return fail(r, -EINVAL, "expected a digit");
    }
    return node_add(r, NODE_NUMBER, first, r->at) != NULL;
}

static bool read_word(struct reader *r, const char *word, size_t len, enum node_type type)
{
    if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len) != 0)
        return fail(r, -EINVAL, "expected a value");
    const char *first = r->at;
    r->at += len;
    return node_add(r, type, first, r->at) != NULL;
}

/* The name of an object's next member, and the colon after it. */
static bool read_name(struct reader *r)
{
    skip_blanks(r);
    if (r->at == r->end || *r->at != '"')
        return fail(r, -EINVAL, "expected a name in quotes");
    if (!read_string(r))
        return false;
    skip_blanks(r);
    if (r->at == r->end || *r->at != ':')
        return fail(r, -EINVAL, "expected ':'");
    r->at++;
    return true;
}

/* The new node, not yet there, is a child of the container that is open. */
static inline void note_child(struct reader *r)
{
    if (r->depth > 0) {
        struct frame *frame = &r->frames[r->depth - 1];
        frame->child = r->doc->count;
        frame->count++;
    }
}

/* The child of the container that is open has a name if that is an object. */
static inline void mark_member(struct reader *r, uint32_t child)
{
    struct node *nodes = r->doc->nodes;
    if (r->depth > 0 && nodes[r->frames[r->depth - 1].node].type == NODE_OBJECT)
        nodes[child].flags |= NODE_MEMBER;
}

static inline bool read_scalar(struct reader *r)
{
    switch (*r->at) {
    case '"':
        return read_string(r);
    case 't':
        return read_word(r, "true", 4, NODE_TRUE);
    case 'f':
        return read_word(r, "false", 5, NODE_FALSE);
    case 'n':
        return read_word(r, "null", 4, NODE_NULL);
    default:
        return read_number(r);
    }
}

/* The bracket or brace that opens a container, and the name of an object's first member. */
static bool open_container(struct reader *r, bool *empty)
{
    *empty = false;
    bool object = *r->at == '{';
    if (r->depth == DEPTH_MAX)
        return fail(r, -EINVAL, "nested more than 64 deep");
    uint32_t index = r->doc->count;
    if (!node_add(r, object ? NODE_OBJECT : NODE_ARRAY, r->at, r->at))
        return false;
    mark_member(r, index);
    r->frames[r->depth++] = (struct frame){ .node = index };
    r->at++;

    skip_blanks(r);
    *empty = r->at < r->end && *r->at == (object ? '}' : ']');
    return *empty || !object || read_name(r);
}

static void close_container(struct reader *r)
{
    const struct frame *frame = &r->frames[--r->depth];
    struct node *nodes = r->doc->nodes;
    struct node *node = &nodes[frame->node];
    r->at++;
    node->len = (uint32_t)(r->at - r->start) - node->at;
    node->end = r->doc->count;
    node->count = frame->count & 0xFFFFFF;
    if (frame->count > 0)
        nodes[frame->child].flags |= NODE_LAST;
}

/* What follows a value: closes the containers that end here, and goes past the comma (and the name) before the
 * next value. At the end of the document the depth is 0. */
static bool read_separator(struct reader *r)
{
    while (r->depth > 0) {
        bool object = r->doc->nodes[r->frames[r->depth - 1].node].type == NODE_OBJECT;
        skip_blanks(r);
        if (r->at < r->end && *r->at == ',') {
            r->at++;
            return !object || read_name(r);
        }
        if (r->at == r->end || *r->at != (object ? '}' : ']'))
            return fail(r, -EINVAL, object ? "expected ',' or '}'" : "expected ',' or ']'");
        close_container(r);
    }
    return true;
}

static bool read_document(struct reader *r)
{
    do {
        skip_blanks(r);
        if (r->at == r->end)
            return fail(r, -EINVAL, "expected a value");
        note_child(r);
        if (*r->at == '{' || *r->at == '[') {
            bool empty;
            if (!open_container(r, &empty))
                return false;
            if (!empty)
                continue; /* with the first child */
        } else {
            uint32_t index = r->doc->count;
            if (!read_scalar(r))
                return false;
            mark_member(r, index);
        }
        if (!read_separator(r))
            return false;
    } while (r->depth > 0);

    skip_blanks(r);
    if (r->at < r->end)
        return fail(r, -EINVAL, "expected the end of the text");
    return true;
}

/* Gives memory back that one large document has left behind. */
static void shrink(struct json_doc *doc, size_t len)
{
    if (doc->capacity > KEEP_MAX / sizeof(*doc->nodes) && len < KEEP_MAX / 16) {
        free(doc->nodes);
        doc->nodes = NULL;
        doc->capacity = 0;
    }
    if (doc->plain->capacity > KEEP_MAX && len < KEEP_MAX / 16) {
        free(doc->plain->bytes);
        *doc->plain = (struct json_plain){ 0 };
    }
}

int json_doc_parse(struct json_doc *doc, const char *text, size_t len, const char **why, size_t *at)
{
    *why = NULL;
    *at = 0;
    doc->text = text;
    doc->len = len;
    doc->count = 0;
    if (len > TEXT_MAX) {
        *why = "longer than 64 MiB";
        return -E2BIG;
    }
    shrink(doc, len);

    struct reader r;
    r.doc = doc;
    r.start = r.at = text;
    r.end = text + len;
    r.why = NULL;
    r.error = 0;
    r.depth = 0;
    if (!read_document(&r)) {
        doc->count = 0;
        *why = r.why;
        *at = (size_t)(r.at - r.start);
    }
    return r.error;
}
