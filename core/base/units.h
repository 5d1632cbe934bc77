/* SPDX-License-Identifier: MIT */

/* Durations and sizes as people write them. Any thread. */

#ifndef TOCSIN_BASE_UNITS_H
#define TOCSIN_BASE_UNITS_H

#include "base/buf.h"

#include <stdint.h>

/* "250ms", "30s", "5m", "2h", "1d", or "0". Sets `*ms`. Returns 0, -EINVAL (not a whole number with
 * one of these units), or -ERANGE. */
int duration_parse(const char *text, int64_t *ms);

/* "512", "64KiB", "10MiB", "1GiB". Sets `*bytes`. Errors as above. */
int size_parse(const char *text, int64_t *bytes);

/* Appends the shortest exact form that the parser above reads back. */
void duration_add(struct buf *out, int64_t ms);
void size_add(struct buf *out, int64_t bytes);

#endif
