/* SPDX-License-Identifier: MIT */

/* What stands between the quotes of a JSON string (RFC 8259, section 7). Any thread. */

#ifndef TOCSIN_ROUTER_JSON_STRING_H
#define TOCSIN_ROUTER_JSON_STRING_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Checks a string from after its first quote. Returns NULL and sets `*stop` to its last quote and `*escaped`
 * to whether there is a backslash; or what is wrong, as a static phrase, with `*stop` at the place.
 */
const char *json_string_scan(const char *at, const char *end, const char **stop, bool *escaped);

/* Writes what the escapes in a checked string mean; never more than `len` bytes. Returns how many. */
size_t json_string_unescape(const char *text, size_t len, char *out);

#endif
