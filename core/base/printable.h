/* SPDX-License-Identifier: MIT */

/* What strangers have written, on one line of a terminal. Any thread. */

#ifndef TOCSIN_BASE_PRINTABLE_H
#define TOCSIN_BASE_PRINTABLE_H

#include "base/buf.h"

#include <stddef.h>

/* Appends `text`, with each byte of it as \xNN that is not part of valid UTF-8, or of a character that a terminal would not show but
 * obey: controls, and those that turn the direction of writing. Returns 0 or what buf_add() returns. */
int printable_add(struct buf *out, const char *text, size_t len);

#endif
