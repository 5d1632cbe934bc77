/* SPDX-License-Identifier: MIT */

/* What is asked of a JSON document that has been read. A document belongs to one thread. */

#include "router/json.h"

#include "router/json_node.h"
#include "router/json_string.h"
#include "router/number.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

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
    struct json_plain *plain = doc->plain;
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
