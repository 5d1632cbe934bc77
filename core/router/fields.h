/* SPDX-License-Identifier: MIT */

/*
 * The fields of a message as one route sees them, and the paths that name them.
 *
 * A path is `name`, `name.sub`, `name[2].sub`, `name["any text"]` (or `['any text']`, and, as in Python,
 * `name[sub]`). A name has no blank at its ends and none of . [ ] { } : ! ? and quotes in it. Elements
 * of an array count from 0, and backwards from -1. The first part of a path is looked for, in this
 * order, among the local variables of a template's loops, then among
 *   1. the fixed fields: topic, payload, qos, retain, link, route, title, text, priority, severity and
 *      the time fields _dtepoch, _dtiso, _ltiso, _dthhmm, _dthhmmss (below), and `json`, the whole
 *      decoded payload;
 *   2. the named levels of the route's topic filter;
 *   3. the fields that `set` has computed so far;
 *   4. the members of the decoded payload, if it is an object; a payload decoded as a number or a text
 *      is the field `value`; a JSON payload of another type is `value` too.
 * So a payload can't replace `topic`; its own is `json.topic`. What is rendered is there only once it
 * is: while a route's `title` is not, because it sets none or is just about to, `title` is looked for
 * further down; so are `text`, `priority` and `severity`.
 *
 * Time fields, all of the message's arrival: _dtepoch (whole seconds since 1970), _dtiso (UTC,
 * "2026-11-22T10:59:35.123Z"), _ltiso (local time, "2026-11-22T11:59:35.123+01:00"), _dthhmm ("11:59",
 * local), _dthhmmss ("11:59:35", local).
 *
 * All of this belongs to one thread.
 */

#ifndef TOCSIN_ROUTER_FIELDS_H
#define TOCSIN_ROUTER_FIELDS_H

#include "base/buf.h"
#include "router/json.h"
#include "router/message.h"
#include "router/value.h"

#include <stdbool.h>
#include <stddef.h>

/* A named level: where in the topic it is. Made by the engine for each match. */
struct field_level {
    const char *name;
    const char *text; /* into the topic, not terminated */
    size_t len;
};

/* A field that `set` has computed. */
struct field_set {
    const char *name;
    struct value value;
};

struct fields {
    const struct message *message;
    const char *route; /* name of the route */
    const struct field_level *levels;
    size_t level_count;
    const struct field_set *set; /* of two with the same name the later one counts */
    size_t set_count;
    const struct field_set
        *locals; /* loop variables; here too the later one, which is the inner, counts */
    size_t local_count;

    /* The decoded payload: VALUE_NONE if it is not decoded (or could not be), else its value.
     * An object's members are fields; anything else is the field `value`. */
    struct value decoded;

    /* What rendering has made so far; VALUE_NONE before. */
    struct value title, text, priority, severity;

    /* Room for values that have to be made up (times, unescaped text): grown as needed, and kept until
     * fields_begin() of the next message. Values from fields_get() may point into it. */
    struct fields_arena *arena;
};

struct fields_arena;
struct fields_arena *fields_arena_new(void);
void fields_arena_free(struct fields_arena *arena);

/* Forgets all that was made up for the last message, and keeps the memory. */
void fields_arena_clear(struct fields_arena *arena);

/* `len` bytes that live until fields_arena_clear(), aligned for anything, or NULL. */
void *fields_arena_alloc(struct fields_arena *arena, size_t len);

/* An unused JSON document, for values that are made up (an expression's table): its text belongs into
 * the arena too. It is the arena's until fields_arena_clear(), and is used again afterwards. NULL when
 * there is no memory. */
struct json_doc *fields_arena_doc(struct fields_arena *arena);

/* ---- Paths ---- */

struct field_path; /* compiled, never changed afterwards: any thread may use it */

/*
 * Compiles a path. Returns 0 and sets `*out`, to be freed by field_path_free(); or -EINVAL, with a
 * sentence about what is wrong added to `why`; or -ENOMEM.
 */
int field_path_new(const char *text, size_t len, struct field_path **out, struct buf *why);
void field_path_free(struct field_path *path);
const char *field_path_text(const struct field_path *path);

/* The length in bytes of the path at the beginning of `text`: up to the first of : ! ? { } that is not between
 * brackets. It need not be a good one. */
size_t field_path_span(const char *text, size_t len);

/* The value that a path names; VALUE_NONE if there is none. */
struct value fields_get(const struct fields *fields, const struct field_path *path);

/* The same by the first part alone: what an expression's global variable is. */
struct value fields_get_name(const struct fields *fields, const char *name, size_t len);

/* Whether `name` is one of the fixed fields (1. above): `set` and levels must not be called so. */
bool fields_name_is_fixed(const char *name, size_t len);

/* For "did you mean": calls `visit` with every fixed name. */
void fields_each_fixed_name(void (*visit)(const char *name, void *context), void *context);

#endif
