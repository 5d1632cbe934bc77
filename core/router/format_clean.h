/* SPDX-License-Identifier: MIT */

/* Keeps the value of a field in its place: see enum format_clean. Any thread. */

#ifndef TOCSIN_ROUTER_FORMAT_CLEAN_H
#define TOCSIN_ROUTER_FORMAT_CLEAN_H

#include "router/format.h"

/* Cleans what was appended to the buffer from `start` on. An error of the buffer stays in the buffer. */
void format_clean_from(struct buf *out, size_t start, enum format_clean clean);

#endif
