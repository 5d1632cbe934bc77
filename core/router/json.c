/* SPDX-License-Identifier: MIT */

/*
 * Reading JSON, and what is asked of a document afterwards. A document belongs to one thread.
 *
 * The nodes lie in the order of the text: a container is followed by all that is in it, and a member's
 * name is a node of its own, right before the member's value.
 */

#include "router/json.h"

#include "base/utf8.h"
#include "router/json_string.h"
#include "router/number.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX      (64u << 20)        /* bytes */
#define NODES_MAX     (4u * 1000 * 1000) /* fits node.count */
#define DEPTH_MAX     64
#define NODES_AT_ONCE 256 /* of the first allocation */
#define KEEP_MAX \
    (1u << 20) /* bytes of memory that a small document keeps of a large one before it */

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

struct json_doc {
    const char *text;
    size_t len;
    struct node *nodes;
    uint32_t count;
    uint32_t capacity;
    /* Strings without their escapes. They are never longer so, so each lies where it stands in the
     * text, and none moves. Made at the first need, although the document is const by then. */
    struct plain {
        char *bytes;
        size_t capacity;
    } * plain;
};

struct json_doc *json_doc_new(void)
{
    struct json_doc *doc = calloc(1, sizeof(*doc));
    if (!doc)
        return NULL;
    doc->plain = calloc(1, sizeof(*doc->plain));
    if (!doc->plain) {
        free(doc);
        return NULL;
    }
    return doc;
}

void json_doc_free(struct json_doc *doc)
{
    if (!doc)
        return;
    free(doc->plain->bytes);
    free(doc->plain);
    free(doc->nodes);
    free(doc);
}

/* ---- Reading ---- */

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
        *doc->plain = (struct plain){ 0 };
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

/* ---- Asking ---- */

static inline const struct node *node_at(const struct json_doc *doc, uint32_t node)
{
    assert(node < doc->count);
    return &doc->nodes[node];
}

/* The node after all that is in this one. */
static inline uint32_t node_end(const struct json_doc *doc, uint32_t node)
{
    const struct node *n = node_at(doc, node);
    return n->type >= NODE_ARRAY ? n->end : node + 1;
}

/* Memory for what the string at this node means. NULL when there is none. */
static char *plain_bytes(const struct json_doc *doc)
{
    struct plain *plain = doc->plain;
    if (plain->capacity < doc->len) {
        /* Nobody holds on to the old bytes: they are of another text, or there are none. */
        free(plain->bytes);
        plain->bytes = malloc(doc->len);
        plain->capacity = plain->bytes ? doc->len : 0;
    }
    return plain->bytes;
}

static struct value string_value(const struct json_doc *doc, uint32_t node)
{
    struct node *n = &doc->nodes[node];
    if (!(n->flags & NODE_ESCAPED))
        return VALUE_OF_TEXT(doc->text + n->at, n->len);

    char *plain = plain_bytes(doc);
    if (!plain)
        return VALUE_NOTHING;
    if (!(n->flags & NODE_UNESCAPED)) {
        n->end = (uint32_t)json_string_unescape(doc->text + n->at, n->len, plain + n->at);
        n->flags |= NODE_UNESCAPED;
    }
    return VALUE_OF_TEXT(plain + n->at, n->end);
}

struct value json_value(const struct json_doc *doc, uint32_t node)
{
    const struct node *n = node_at(doc, node);
    struct value value = VALUE_NOTHING;
    switch ((enum node_type)n->type) {
    case NODE_NULL:
        value.type = VALUE_NULL;
        break;
    case NODE_TRUE:
    case NODE_FALSE:
        return VALUE_OF_BOOL(n->type == NODE_TRUE);
    case NODE_NUMBER:
        number_parse(doc->text + n->at, n->len, &value);
        break;
    case NODE_STRING:
        return string_value(doc, node);
    case NODE_ARRAY:
    case NODE_OBJECT:
        value.type = n->type == NODE_ARRAY ? VALUE_ARRAY : VALUE_OBJECT;
        value.u.json.doc = doc;
        value.u.json.node = node;
        break;
    }
    return value;
}

uint32_t json_member(const struct json_doc *doc, uint32_t node, const char *name, size_t len)
{
    const struct node *object = node_at(doc, node);
    uint32_t found = JSON_NONE;
    if (object->type != NODE_OBJECT)
        return JSON_NONE;
    for (uint32_t i = node + 1; i < object->end; i = node_end(doc, i + 1)) {
        const struct node *n = &doc->nodes[i];
        const char *text = doc->text + n->at;
        size_t text_len = n->len;
        if (n->flags & NODE_ESCAPED) {
            const struct value plain = string_value(doc, i);
            if (plain.type != VALUE_STRING)
                continue;
            text = plain.u.string.text;
            text_len = plain.u.string.len;
        }
        if (text_len == len && memcmp(text, name, len) == 0)
            found = i + 1;
    }
    return found;
}

uint32_t json_element(const struct json_doc *doc, uint32_t node, int64_t index)
{
    const struct node *array = node_at(doc, node);
    if (array->type != NODE_ARRAY)
        return JSON_NONE;
    if (index < 0)
        index += array->count;
    if (index < 0 || index >= array->count)
        return JSON_NONE;

    uint32_t at = node + 1;
    if (array->end - at == array->count) /* none of them has anything in it */
        return at + (uint32_t)index;
    while (index-- > 0)
        at = node_end(doc, at);
    return at;
}

uint32_t json_count(const struct json_doc *doc, uint32_t node)
{
    return node_at(doc, node)->count;
}

uint32_t json_first(const struct json_doc *doc, uint32_t node)
{
    const struct node *n = node_at(doc, node);
    if (n->count == 0)
        return JSON_NONE;
    return n->type == NODE_OBJECT ? node + 2 : node + 1;
}

uint32_t json_next(const struct json_doc *doc, uint32_t child)
{
    const struct node *n = node_at(doc, child);
    if (child == 0 || (n->flags & NODE_LAST))
        return JSON_NONE;
    return node_end(doc, child) + ((n->flags & NODE_MEMBER) ? 1 : 0);
}

struct value json_name(const struct json_doc *doc, uint32_t child)
{
    if (!(node_at(doc, child)->flags & NODE_MEMBER))
        return VALUE_NOTHING;
    return string_value(doc, child - 1);
}

/* ---- Writing ---- */

int json_add_compact(const struct json_doc *doc, uint32_t node, struct buf *out)
{
    const struct node *n = node_at(doc, node);
    const char *at = doc->text + n->at;
    const char *end = at + n->len;
    if (n->type == NODE_STRING)
        return buf_add(out, at - 1, n->len + 2);
    if (n->type < NODE_ARRAY)
        return buf_add(out, at, n->len);

    const char *start = at; /* of the run that can be taken as it is */
    while (at < end) {
        if (*at == '"') {
            bool escaped;
            json_string_scan(at + 1, end, &at, &escaped);
            at++;
        } else if (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') {
            buf_add(out, start, (size_t)(at - start));
            start = ++at;
        } else {
            at++;
        }
    }
    return buf_add(out, start, (size_t)(end - start));
}
