/* SPDX-License-Identifier: MIT */

/*
 * Expressions and user functions: Lua 5.4 in a sandbox.
 *
 * Expressions are written once and compiled once; a script state (one a shard) runs them. An expression
 * is one value, not a statement, and can set nothing. A name in it is looked for among
 *   1. the functions below,
 *   2. the globals of the user's files,
 *   3. the fields (see fields.h); unknown ones, and null, are nil.
 * So a payload can't replace a function; its own `type` is json.type. A JSON object is indexed by name
 * and a JSON array from 0 (from -1 backwards); `#` counts, pairs and ipairs go through, tostring gives
 * the JSON. Such a value is dead when the run is over.
 *
 * Beside Lua's operators there are: math (without random), string without patterns (byte, char, format,
 * len, lower, rep, reverse, sub, upper), assert, error, ipairs, next, pairs, pcall, select, tonumber,
 * tostring, type, and
 *   contains(s, part) starts_with(s, part) ends_with(s, part) glob(s, pattern) regex(s, pattern)
 *   round(x [, digits]) tojson(value) split(s, separator) trim(s) replace(s, from, to)
 * where glob knows * ? [a-z], regex is PCRE2 (for texts up to 64 KiB, with limits on its work), and split
 * counts from 0 as JSON does.
 *
 * A run ends with an error when it has taken too many instructions (large texts count as some), too much
 * memory, or, as a last resort, a second of the processor; pcall does not catch that. The state
 * stays usable. A script state belongs to one thread.
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
 * and sets `*id`, by which script_run() runs it as long as the state lives; or -EINVAL, with `name` and
 * Lua's words (line and what was near) added to `why`; or -ENOMEM. At most 64 KiB.
 */
int script_compile(struct script *script, const char *name, const char *text, size_t len, int *id,
                   struct buf *why);

/*
 * Runs a Lua file of the user: the functions it defines as globals can be called from expressions and by
 * script_call(), and names of fields are visible in them as in expressions. Globals can be set only
 * while the file runs, not by a function later: what is to be kept from message to message goes into
 * a local of the file, and each shard has its own. At most 1 MiB. Returns 0, -EINVAL, -ENOENT or
 * another error of opening, with a sentence added to `why`, or -ENOMEM.
 */
int script_load(struct script *script, const char *path, struct buf *why);

/* Whether a user's file has defined a function of that name; and each name, for "did you mean". */
bool script_has_function(const struct script *script, const char *name);
void script_each_function(const struct script *script,
                          void (*visit)(const char *name, void *context), void *context);

/*
 * Runs an expression against the fields. Returns 0 and sets `*result`, which points into the fields'
 * arena where it needs memory (a table becomes a JSON document there); or -EINVAL with the reason in
 * `why` (type error, limit passed, ...), or -ENOMEM. A result that is a function or such is an error. A
 * table with the keys 0 to n-1 or 1 to n becomes an array, else an object, sorted by name.
 */
int script_run(struct script *script, int id, const struct fields *fields, struct value *result,
               struct buf *why);

/*
 * Calls a user's function with the whole message as a table that it may read, and takes its result, for
 * a route's `function`: of a table, the members go to set[0] and on, sorted by name (more than `max`, or
 * one with the name of a fixed field, is an error), nil or true changes nothing, false ends the route for
 * this message (`*stop` is set). `*count` is the number of members, names and values live in the arena.
 * Returns 0, -EINVAL with `why`, or -ENOMEM.
 */
int script_call(struct script *script, const char *function, const struct fields *fields,
                struct field_set *set, size_t max, size_t *count, bool *stop, struct buf *why);

#endif
