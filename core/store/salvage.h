/* SPDX-License-Identifier: MIT */

/*
 * Rows from the pages of a store's file, without the trees that lead to them: by what a row of each table looks like.
 * What was deleted is not found, as SQLite overwrites it (secure_delete). One thread.
 */

#ifndef TOCSIN_STORE_SALVAGE_H
#define TOCSIN_STORE_SALVAGE_H

#include <stdbool.h>
#include <stdint.h>

struct sqlite3;

/*
 * Adds to the tables of `out` what is found of them in the file `path`, whose log has been moved into it, and is not
 * in them already. `wanted` says which tables; `added` is called for each row. Within a transaction or without.
 * Returns 0 or a negative errno value, for which SQLite's error may tell more.
 */
int salvage(const char *path, struct sqlite3 *out, bool (*wanted)(void *context, const char *table),
            void (*added)(void *context, const char *table), void *context);

#endif
