/* SPDX-License-Identifier: MIT */

/*
 * The store's file: its folder, the lock that keeps a second program out, the connection, and what is said when
 * something is wrong with it. Each function from one thread at a time.
 */

#ifndef TOCSIN_STORE_FILE_H
#define TOCSIN_STORE_FILE_H

#include "base/buf.h"

#include <stdbool.h>

struct sqlite3;

struct store_file {
    char *path;
    bool durable; /* not STORE_MEMORY */
    int lock_fd;  /* the file `PATH-lock`, locked as long as we have it open */
    struct sqlite3 *db;
};

/* Locks the file, makes or opens it, brings its schema up to date, and sets the connection up. Returns what store_open()
 * does. To be closed in any case. */
int store_file_open(struct store_file *file, const char *path, struct buf *why);

/* Only the lock, so that no other program has it open. Returns 0, or a negative errno value with a sentence. */
int store_file_lock(struct store_file *file, const char *path, struct buf *why);

/* All statements have to be finalized. */
void store_file_close(struct store_file *file);

/* The sentence for damage; `found` is what was found. */
void store_file_damaged(const char *path, const char *found, struct buf *why);

/* The same for a file that does not begin as a database does: it may never have been one, see trace_found(). */
void store_file_not_a_database(const char *path, const char *found, struct buf *why);

#endif
