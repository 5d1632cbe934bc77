/* SPDX-License-Identifier: MIT */

/* `${env:NAME}` and `${file:PATH}` in the strings of a configuration, and in passwords on a command line. Any thread,
 * as long as nobody changes the environment. */

#ifndef TOCSIN_CONFIG_REPLACE_H
#define TOCSIN_CONFIG_REPLACE_H

#include "base/buf.h"

#include <stdbool.h>

#define REPLACE_MAX_BYTES (1024 * 1024) /* of a string afterwards */

/*
 * Appends `text`, with `${env:NAME}` and `${file:PATH}` (relative to the folder of the file `beside`; its
 * content without the last line feed) replaced and `$${` made `${`. Sets `*secret` when something was
 * replaced. Returns 0, -EINVAL with a sentence added to `why` that does not show what was read, or
 * -ENOMEM.
 */
int replace(const char *text, const char *beside, struct buf *out, bool *secret, struct buf *why);

#endif
