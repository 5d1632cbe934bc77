/* SPDX-License-Identifier: MIT */

/*
 * The text of one configuration file, with what it includes put in its place, and where each line of it
 * came from. For core/config alone; any thread.
 *
 * `@include "PATH"` at the beginning of a line stands for the content of that file; a relative path is
 * relative to the file that says so. This is not left to libconfig, which ends the program when it is
 * given a folder, and takes relative paths from the working directory.
 */

#ifndef TOCSIN_CONFIG_SOURCE_H
#define TOCSIN_CONFIG_SOURCE_H

#include "base/buf.h"
#include "config/conf.h"

#include <stddef.h>

#define SOURCE_MAX_BYTES    (4 * 1024 * 1024) /* with all that it includes */
#define SOURCE_MAX_INCLUDES 1000
#define SOURCE_MAX_NESTED   10 /* includes within includes */

/* Names of files, which nodes point to. */
struct file_names {
    char **items;
    size_t count;
};

/* Keeps a copy of a name. NULL: no memory. */
const char *file_names_keep(struct file_names *names, const char *name, size_t len);
void file_names_release(struct file_names *names);

/* From line `first` of the text on (counted from 1), lines are those of `file` from `line` on. */
struct source_span {
    unsigned first;
    const char *file;
    unsigned line;
};

enum source_state {
    SOURCE_CODE,
    SOURCE_STRING,
    SOURCE_COMMENT
};

struct source {
    struct buf text; /* no NUL in it, valid UTF-8, ends with a line feed */
    struct source_span *spans;
    size_t span_count;
    unsigned lines;          /* of the text so far */
    enum source_state state; /* at its end */
    size_t includes;
};

void source_init(struct source *source);
void source_release(struct source *source);

/* Reads a file, or takes a text in its stead. `name` is kept by `names`. Returns 0, -EINVAL (`errors`
 * tells) or -ENOMEM. */
int source_read(struct source *source, struct file_names *names, const char *path,
                struct conf_errors *errors);
int source_read_text(struct source *source, struct file_names *names, const char *name,
                     const char *text, struct conf_errors *errors);

/* Where a line of the text stands. */
const char *source_file(const struct source *source, unsigned line);
unsigned source_line(const struct source *source, unsigned line);

/* Appends all of a file. Returns 0, -E2BIG (more than the buffer takes), or a negative errno value. */
int file_read(const char *path, struct buf *out);

/* Appends a path; a relative one is relative to the folder of the file `beside`. */
void path_beside(struct buf *out, const char *beside, const char *path, size_t len);

#endif
