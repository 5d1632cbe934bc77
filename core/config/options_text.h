/* SPDX-License-Identifier: MIT */

/* What reading options and telling about them have in common. For core/config alone. */

#ifndef TOCSIN_CONFIG_OPTIONS_TEXT_H
#define TOCSIN_CONFIG_OPTIONS_TEXT_H

#include "base/buf.h"
#include "tocsin/plugin.h"

/* Appends the range, such as `1 to 65535` or `"1s" or more`. Returns whether there is one. */
bool options_add_range(const struct tocsin_option *option, struct buf *out);

/* Appends `"a", "b" or "c"` for "a|b|c". */
void options_add_choices(const char *choices, struct buf *out);

/* Appends a value as one could write it in the file, for an option without a default. */
void options_add_example(const struct tocsin_option *option, struct buf *out);

#endif
