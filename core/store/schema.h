/* SPDX-License-Identifier: MIT */

/* The tables, and how old ones become new ones. The main thread, before the writer starts. */

#ifndef TOCSIN_STORE_SCHEMA_H
#define TOCSIN_STORE_SCHEMA_H

struct sqlite3;
struct buf;

/* Makes sure that the file is ours and its tables are those of this version. Returns 0, -EPROTO with a sentence in
 * `why`, or -EIO, for which SQLite's error tells more. */
int schema_prepare(struct sqlite3 *db, const char *path, struct buf *why);

#endif
