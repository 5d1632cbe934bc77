/* SPDX-License-Identifier: MIT */

/* How bytes get into files, whole or not at all. No state; errors are negative errno values. */

#ifndef TOCSIN_FILE_OUTPUT_H
#define TOCSIN_FILE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* One message. */
struct piece {
    const void *data;
    size_t len;   /* bytes */
    bool newline; /* with a line feed behind it */
};

/* How files are made. */
struct output_rules {
    mode_t permissions; /* of a new file; a folder can be entered by whoever may read */
    bool mkdir;         /* make the folders that are not there */
    bool sync;          /* what is written is on the disk when the call returns */
};

/* Opens a file for appending, or makes it. Returns the descriptor. */
int output_open(const char *path, const struct output_rules *rules);

/*
 * Appends pieces, with as few system calls as there can be. Sets `*done` to how many are in the file, on
 * failure too; of the one after them nothing is left there, if the file is a regular one and nobody else has
 * written to it meanwhile. Returns 0 or an error.
 */
int output_append(int fd, const struct piece *pieces, size_t n, const struct output_rules *rules,
                  size_t *done);

/* Replaces the file's content by the piece: a reader sees the old content or the new. What is not a regular
 * file (a device, a pipe) is written to. Returns 0 or an error. */
int output_replace(const char *path, const struct piece *piece, const struct output_rules *rules);

#endif
