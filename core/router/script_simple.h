/* SPDX-License-Identifier: MIT */

/*
 * What can be said of an expression without running Lua: most `when` compare a field with a constant, and
 * are answered here at a fraction of the cost. Whatever is not plain is left to Lua, also every error.
 * Belongs to script.h; any thread.
 */

#ifndef TOCSIN_ROUTER_SCRIPT_SIMPLE_H
#define TOCSIN_ROUTER_SCRIPT_SIMPLE_H

#include "base/buf.h"
#include "router/fields.h"

#include <stdbool.h>
#include <stddef.h>

struct simple;

/* Whether a name means something else than a field. */
typedef bool simple_taken_fn(const char *name, void *context);

/*
 * Reads an expression that Lua has accepted: a path, or paths compared with numbers and texts, joined by
 * `and` alone or by `or` alone. Returns NULL when it is another, or when there is no memory.
 */
struct simple *simple_new(const char *text, size_t len, simple_taken_fn *taken, void *context);
void simple_free(struct simple *simple);

/* Whether its names still mean fields only. */
bool simple_is_valid(const struct simple *simple, simple_taken_fn *taken, void *context);

/* Sets `*result` to what Lua's would be, which points to where the field is. Returns false when Lua must
 * be asked. */
bool simple_run(const struct simple *simple, const struct fields *fields, struct value *result);

/*
 * Looks for a function's name that is used as if it was a field, as in type == "alarm", which Lua takes
 * for a comparison that is never true. Returns 0, or -EINVAL and adds a sentence to `why`.
 */
int simple_check(const char *text, size_t len, simple_taken_fn *is_function, void *context,
                 struct buf *why);

#endif
