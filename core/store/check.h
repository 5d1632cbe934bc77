/* SPDX-License-Identifier: MIT */

/*
 * Whether a store's file is whole. A small one is checked before it is used. A large one would hold up the start, so
 * it is read beside the work, by a thread and a connection of their own; a damaged page that is needed before that
 * thread has come to it is an error of whoever reads it.
 */

#ifndef TOCSIN_STORE_CHECK_H
#define TOCSIN_STORE_CHECK_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

struct sqlite3;

#define CHECK_AT_ONCE_MOST (8 * 1024 * 1024) /* bytes of a file that is checked before it is used */

/* Reads every page once; adds to `found` what is wrong, as far as it makes sense to say it all. Returns an SQLite result code:
 * SQLITE_OK, with nothing in `found`, when the file is whole. */
int check_database(struct sqlite3 *db, struct buf *found);

/* Whether the file is so large that it is checked beside the work. */
bool check_is_long(const char *path);

struct check;

/* Begins it. `damaged` is called, on the check's own thread, when something was found; it is told what. Returns 0 or a
 * negative errno value. */
int check_start(const char *path, void (*damaged)(void *context, const char *found), void *context,
                struct check **out);

/* Breaks it off, as it keeps the log of what is written from being used again; says so. Any thread, as often as wanted. */
void check_break_off(struct check *check);

/* Ends it. NULL is allowed. */
void check_stop(struct check *check);

#endif
