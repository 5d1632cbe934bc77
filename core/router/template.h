/* SPDX-License-Identifier: MIT */

/*
 * Templates: files with {{ expression }}, {% statements %} and {# comments #}.
 *
 *   {{ celsius | round(1) }}      an expression (script.h) and filters: upper lower trim round(digits)
 *                                 default(text) join(separator) tojson replace(from, to) escape safe
 *   {% if EXPR %} {% elif EXPR %} {% else %} {% endif %}
 *   {% for x in EXPR %} {% else %} {% endfor %}           an array (of an object, the names); loop.index (from 1), loop.index0,
 *                                                         loop.first, loop.last, loop.length inside
 *   {% for key, value in EXPR %}                          an object, in the order of the document
 *   {%- -%} {{- -}} {#- -#}       take away the blanks and line feeds on that side
 *   a line with nothing but a statement or a comment on it leaves no trace
 *
 * When the target wants HTML, what {{ }} gives is escaped unless the filter `safe` says otherwise.
 * An expression that fails, or whose value is not there, leaves what is written as it is, and is counted.
 *
 * A template is compiled for one script state, and belongs to the same thread.
 */

#ifndef TOCSIN_ROUTER_TEMPLATE_H
#define TOCSIN_ROUTER_TEMPLATE_H

#include "base/buf.h"
#include "router/fields.h"
#include "router/script.h"

#include <stdbool.h>
#include <stddef.h>

struct template;

struct template_limits {
    size_t output; /* bytes; default 1 MiB */
    size_t turns;  /* of all loops together; default 100,000 */
};

/*
 * Compiles a text; `name` is what errors call it, usually the file. Returns 0 and sets `*out`; or -EINVAL,
 * with "NAME:LINE: what is wrong, what to write" added to `why`; or -ENOMEM.
 */
int template_new(struct script *script, const char *name, const char *text, size_t len,
                 struct template **out, struct buf *why);

/* The same from a file; also an error of opening or reading it. At most 1 MiB. */
int template_load(struct script *script, const char *path, struct template **out, struct buf *why);

void template_free(struct template *template);

/*
 * Appends the rendered text. Adds the number of expressions that failed or had no value to `*missing`, and
 * the first reason to `why`. Returns 0; or -E2BIG when a limit (NULL: the defaults) is passed, with
 * `why`; or -ENOMEM.
 */
int template_render(const struct template *template, const struct fields *fields, bool html,
                    const struct template_limits *limits, struct buf *out, size_t *missing,
                    struct buf *why);

#endif
