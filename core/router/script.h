/* SPDX-License-Identifier: MIT */

/*
 * Expressions and user functions: Lua 5.4 in a sandbox.
 *
 * Expressions are written once and compiled once; a script state (one a shard) runs them. In an
 * expression a global name is a field (see fields.h), unknown ones are nil; objects are indexed by name
 * and arrays from 0, `#` counts, `pairs` goes through. Beside Lua's operators there are: math (without
 * random), string without patterns (byte, char, len, lower, upper, rep within the memory limit, sub,
 * reverse, format), tostring, tonumber, type, pairs, ipairs, next, select, error, pcall, and
 *   contains(s, part) starts_with(s, part) ends_with(s, part) glob(s, pattern) regex(s, pattern)
 *   round(x [, digits]) json(value) split(s, separator) trim(s) replace(s, from, to)
 * where glob knows * ? [a-z], and regex is PCRE2 with limits on matching.
 *
 * A run ends with an error when it has taken too many instructions or too much memory; the state stays
 * usable. A script state belongs to one thread.
 */

#ifndef TOCSIN_ROUTER_SCRIPT_H
#define TOCSIN_ROUTER_SCRIPT_H

#include "base/buf.h"
#include "router/fields.h"

#include <stddef.h>
#include <stdint.h>

struct script;

struct script_limits {
    int64_t instructions; /* of one run; default 1,000,000 */
    int64_t memory;       /* bytes of the whole state; default 64 MiB */
};

/* Makes a state. NULL when there is no memory. `limits` NULL: the defaults. */
struct script *script_new(const struct script_limits *limits);
void script_free(struct script *script);

/*
 * Compiles an expression; `name` is what errors call it, e.g. "when of route 'server room'". Returns 0
 * and sets `*id`, by which script_run() runs it as long as the state lives; or -EINVAL, with Lua's
 * words (line and what was near) added to `why`; or -ENOMEM.
 */
int script_compile(struct script *script, const char *name, const char *text, size_t len, int *id,
                   struct buf *why);

/*
 * Runs a Lua file of the user: the functions it defines as globals can be called from expressions and by
 * script_call(), and names of fields are visible in them as in expressions. Returns 0, -EINVAL (`why`),
 * -ENOENT or another error of opening, or -ENOMEM.
 */
int script_load(struct script *script, const char *path, struct buf *why);

/* Whether a user's file has defined a function of that name; and each name, for "did you mean". */
bool script_has_function(const struct script *script, const char *name);
void script_each_function(const struct script *script,
                          void (*visit)(const char *name, void *context), void *context);

/*
 * Runs an expression against the fields. Returns 0 and sets `*result`, which points into the fields'
 * arena where it needs memory (a table becomes a JSON document there); or -EINVAL with the reason in
 * `why` (type error, limit passed, ...). A result that is a function or such is an error.
 */
int script_run(struct script *script, int id, const struct fields *fields, struct value *result,
               struct buf *why);

/*
 * Calls a user's function with the whole message as a table that it may read, and takes its result, for
 * a route's `function`: a table adds its members to the set fields (at most `max`), nil or true changes
 * nothing, false ends the route for this message (`*stop` is set). Returns 0 or -EINVAL with `why`.
 */
int script_call(struct script *script, const char *function, const struct fields *fields,
                struct field_set *set, size_t max, size_t *count, bool *stop, struct buf *why);

#endif
