/* SPDX-License-Identifier: MIT */

/*
 * Formats: texts with fields in them, in the manner of Python's str.format().
 *
 *   {name} {a.b[0]["c d"]}      a field, by its path (see fields.h)
 *   {name:>8.2f}                with Python's format specification: fill, align < > = ^, sign + - blank,
 *                               # (alternate form), 0, width, grouping , or _, .precision, type
 *                               s d b o x X e E f F g G % c: see below
 *   {name!j} {name!s}           as JSON, as text
 *   {name?n/a}                  the text after '?' when the field is not there or null; it goes to
 *                               the end: {name:.1f?n/a}
 *   {{ }}                       the braces themselves
 *
 * Numbers and text look as CPython writes them, byte for byte; true, false, null, arrays and objects are
 * texts, their JSON, and true and false are 1 and 0 where a number type is asked for. Where Python refuses
 * a number for its type, this does not, since JSON has only one: 3.0 is good for a `d`, and 3 for a
 * precision. A text that looks like a number ("21.5") is taken as one where a number type, a sign, # or a
 * grouping is asked for.
 *
 * A field that is not there (and has no default), or whose value does not fit the specification,
 * stays as it is written, {celsius:.1f}, and is counted: an alarm with a gap beats no alarm.
 *
 * A format never changes once compiled, so any thread may render it.
 */

#ifndef TOCSIN_ROUTER_FORMAT_H
#define TOCSIN_ROUTER_FORMAT_H

#include "base/buf.h"
#include "router/fields.h"

#include <stddef.h>

struct format;

/* What is done to the text of each field, not to the text around it, nor to a default: those are the author's. */
enum format_clean {
    FORMAT_AS_IS,
    FORMAT_CLEAN_PATH,  /* one level of a file name: '/' and NUL become '_', "", "." and ".." too */
    FORMAT_CLEAN_TOPIC, /* one level of a topic name: '/', '+', '#', NUL and "" become '_'; but the
                         * message's own topic, and named levels of it, stay as they are */
    FORMAT_CLEAN_LINE,  /* control characters become blanks, U+0080 to U+009F too */
    FORMAT_CLEAN_NAME,  /* as LINE, and ';' becomes '_' */
    FORMAT_CLEAN_HTML,  /* & < > " ' become entities */
};

/*
 * Compiles a text. Returns 0 and sets `*out`; or -EINVAL, with a sentence about what is wrong and where
 * added to `why` ("'}' without '{' at byte 7: write '}}' for a brace"); or -ENOMEM.
 */
int format_new(const char *text, size_t len, struct format **out, struct buf *why);
void format_free(struct format *format);
const char *format_text(const struct format *format);

/* The text if there is not a single field in the format, else NULL. */
const char *format_constant(const struct format *format);

/* Calls `visit` for the path of each field, for checks of the configuration. */
void format_each_path(const struct format *format,
                      void (*visit)(const struct field_path *path, void *context), void *context);

/*
 * Appends the rendered text. Adds the number of fields that were missing or did not fit to
 * `*missing`. Returns 0, or -E2BIG or -ENOMEM from the buffer. Width and precision are at most 10,000.
 * What is appended is UTF-8 as far as the values are.
 */
int format_render(const struct format *format, const struct fields *fields, enum format_clean clean,
                  struct buf *out, size_t *missing);

#endif
