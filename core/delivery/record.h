/* SPDX-License-Identifier: MIT */

/*
 * A delivery as bytes, and back: all that is needed to make it again, whatever has become of the configuration
 * meanwhile. Any thread.
 *
 * A record begins with its version. Then come fields: a tag of one byte, a length (LEB128), and so many bytes;
 * numbers are little endian without leading zeros. A reader passes over tags that it does not know.
 *
 * What a delivery falls back to is in its record, too, each behind the name of its target.
 */

#ifndef TOCSIN_DELIVERY_RECORD_H
#define TOCSIN_DELIVERY_RECORD_H

#include "base/buf.h"
#include "router/delivery.h"

/* Appends it. Returns 0 or what buf_add() returns. */
int record_write(const struct delivery *delivery, size_t rendered_count, struct buf *out);

/* Goes through the fields of a record, for people: begin with `*at` 0. `name` is a word such as "topic"; numbers are
 * given as text in `number`. Returns false at the end, and for what is no record. */
struct record_field {
    const char *name;
    const char *data;
    size_t len;
    bool is_number;
    char number[24];
};
bool record_next(const void *data, size_t len, size_t *at, struct record_field *out);

/* How many formats the target had that it was rendered for. */
size_t record_formats(const void *data, size_t len);

/* Makes a delivery of it, for `target`, with its fallbacks, which have no target yet; `link` gives the name that lives as long as the program. Returns 0, -EBADMSG for
 * what is no record, -ESTALE if the target has got other formats since, or -ENOMEM. */
int record_read(const void *data, size_t len, struct target *target,
                const char *(*link)(void *context, const char *name), void *context,
                struct delivery **out);

#endif
