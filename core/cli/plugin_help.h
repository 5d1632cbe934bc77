/* SPDX-License-Identifier: MIT */

/* What can be told of a plugin from its tables; for `tocsin plugins` and `tocsin help`. */

#ifndef TOCSIN_CLI_PLUGIN_HELP_H
#define TOCSIN_CLI_PLUGIN_HELP_H

#include "base/buf.h"

/* Loads a plugin (`dir` NULL: from where plugins usually are) and appends all about it. Returns 0; or a
 * negative errno value, with a sentence in `why`. */
int plugin_add_help(const char *dir, const char *name, struct buf *out, struct buf *why);

#endif
