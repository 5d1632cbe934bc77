/* SPDX-License-Identifier: MIT */

/*
 * Large blocks of memory from the system directly, which they go back to when freed, whatever malloc has put around
 * them meanwhile. Any thread.
 */

#ifndef TOCSIN_BROKER_PAGES_H
#define TOCSIN_BROKER_PAGES_H

#include <stddef.h>

/* A block that is all zero, or NULL. Small ones (below 32 KiB) do come from malloc. */
void *pages_alloc(size_t len);

/* Frees it; `len` as it was. NULL is allowed. */
void pages_free(void *block, size_t len);

#endif
