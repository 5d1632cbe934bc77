/* SPDX-License-Identifier: MIT */

/*
 * A flat JSON reader for the hot path: validates (RFC 8259, UTF-8 included, depth at most 64) in one
 * pass over the text and keeps a node an element, with offsets into the text. Numbers and strings are
 * converted when asked for. A document is reused from message to message: once it has grown to what
 * the messages need, reading allocates nothing. It belongs to one thread.
 *
 * Limits: 64 MiB of text, 4 million nodes. Of a name that stands twice in an object the last counts. A
 * number too large for a double is infinity. A \u escape that is half a surrogate pair is an error, since
 * there is no UTF-8 for it; \u0000 is a NUL byte.
 */

#ifndef TOCSIN_ROUTER_JSON_H
#define TOCSIN_ROUTER_JSON_H

#include "base/buf.h"
#include "router/value.h"

#include <stddef.h>
#include <stdint.h>

#define JSON_NONE UINT32_MAX /* no such node */

struct json_doc;

struct json_doc *json_doc_new(void);
void json_doc_free(struct json_doc *doc);

/*
 * Reads `text` (`len` bytes), which must live as long as the document is looked at. Returns 0, or
 * -EINVAL (`*why` is then a static phrase such as "expected ',' or '}'", `*at` the byte offset), -E2BIG
 * or -ENOMEM (`*why` says so too). After an error there is no node to ask about.
 */
int json_doc_parse(struct json_doc *doc, const char *text, size_t len, const char **why,
                   size_t *at);

/* The node's value. The root is node 0. A string points into the text, or, if it has escapes, into memory of
 * the document, valid until the next text is read; if there is no memory it is VALUE_NONE. */
struct value json_value(const struct json_doc *doc, uint32_t node);

/* The member of an object, or the element of an array (from 0; negative counts from the end). Returns
 * JSON_NONE if there is none, or if `node` is neither. `name` is compared with the unescaped name. */
uint32_t json_member(const struct json_doc *doc, uint32_t node, const char *name, size_t len);
uint32_t json_element(const struct json_doc *doc, uint32_t node, int64_t index);

/* How many members or elements a node has; 0 for others. */
uint32_t json_count(const struct json_doc *doc, uint32_t node);

/* Going through: first child and next sibling, JSON_NONE at the end; the name of an object's member
 * as a string value. */
uint32_t json_first(const struct json_doc *doc, uint32_t node);
uint32_t json_next(const struct json_doc *doc, uint32_t child);
struct value json_name(const struct json_doc *doc, uint32_t child);

/* Appends the node's JSON as it was written, without the blanks between its elements. */
int json_add_compact(const struct json_doc *doc, uint32_t node, struct buf *out);

/* Appends `text` as a JSON string with its quotes; invalid UTF-8 becomes U+FFFD. */
int json_add_string(struct buf *out, const char *text, size_t len);

#endif
