/* SPDX-License-Identifier: MIT */

/* UTF-8 as RFC 3629 has it: no surrogates, nothing above U+10FFFF, no overlong forms. Any thread. */

#ifndef TOCSIN_BASE_UTF8_H
#define TOCSIN_BASE_UTF8_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether all `len` bytes are valid UTF-8. A NUL is valid here. */
bool utf8_valid(const void *text, size_t len);

/* Decodes the character at `text` (`len` bytes, at least one). Returns its length in bytes and sets
 * `*code`, or 0 if it is not valid. */
size_t utf8_decode(const char *text, size_t len, uint32_t *code);

/* Writes `code` as UTF-8; returns the number of bytes, or 0 if there is no such character. */
size_t utf8_encode(uint32_t code, char out[4]);

/* The number of characters (code points) of valid UTF-8. */
size_t utf8_count(const char *text, size_t len);

/* The length in bytes of the longest beginning of valid `text` that has at most `max_bytes` bytes,
 * or at most `max_chars` characters, and ends between two characters. */
size_t utf8_cut(const char *text, size_t len, size_t max_bytes);
size_t utf8_cut_chars(const char *text, size_t len, size_t max_chars);

/* Appends `text`, each byte that is not part of a valid character replaced by U+FFFD, and each NUL
 * too. Returns 0 or what buf_add() returns. */
int utf8_add_lossy(struct buf *out, const void *text, size_t len);

#endif
