/* SPDX-License-Identifier: MIT */

/* What can be read of a damaged store, in a new one. One thread, and nobody else has either file open. */

#ifndef TOCSIN_STORE_RESCUE_H
#define TOCSIN_STORE_RESCUE_H

#include "base/buf.h"

#include <stdint.h>

/* How it went with one table. */
struct rescued {
    const char *table;
    int64_t rows; /* that are in the new file */
    int64_t
        gaps; /* places that could not be read, at least; how many rows were there, nobody knows */
};

/*
 * Copies all rows that can be read from the file `from`, and its log `from`-wal, to the new file `to`, which must not be there
 * yet. Works on a copy, `to`-copy, which goes again: what is damaged stays as it is. `tell` is called for each table.
 * Returns 0, or a negative errno value with a sentence in `why`, and then there is no `to`:
 *   -EEXIST   `to` is there already
 *   -EBADMSG  there is not even a head, or it is no store
 *   others    as the system says
 */
int store_rescue(const char *from, const char *to,
                 void (*tell)(void *context, const struct rescued *rescued), void *context,
                 struct buf *why);

#endif
