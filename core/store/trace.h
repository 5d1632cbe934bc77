/* SPDX-License-Identifier: MIT */

/*
 * Whether a file that is no database as it stands was one: only then is there something to rescue. Any thread, but not while
 * a connection of this process works with the file: to close it here would take away that one's locks.
 */

#ifndef TOCSIN_STORE_TRACE_H
#define TOCSIN_STORE_TRACE_H

#include <stdbool.h>

/* Whether a file begins as a database does, or has a page of one further on, or has a log beside it, PATH-wal; and is as
 * long as the head of one at least. A file that cannot be read has no trace. */
bool trace_found(const char *path);

#endif
