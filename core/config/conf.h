/* SPDX-License-Identifier: MIT */

/*
 * A configuration as a tree that remembers where each value stands.
 *
 * The file is libconfig's, in UTF-8. `@include "PATH"` at the beginning of a line stands for the content
 * of that file. After it, the files `conf.d/NAME.conf` beside it are read in sorted order: a group of
 * theirs is merged into the group of the same name, a list appended to the list of the same name; a value
 * that stands twice is an error that names both places. In strings `${env:NAME}` and `${file:PATH}` (its
 * content without the last line feed) are replaced, `$${` stands for `${`. Relative paths are relative to
 * the folder of the file that they stand in. Integers over 32 bits without `L`, which libconfig would cut,
 * are errors. A file has at most 4 MiB, with what it includes, a string 1 MiB, and groups and lists are
 * nested at most 32 deep; so who walks a tree may recurse. Every string is valid UTF-8 without NUL.
 *
 * A tree never changes once loaded, so any thread may read it. It is reference-counted, since services
 * that survive a reload keep pointers into the tree that they were made from.
 */

#ifndef TOCSIN_CONFIG_CONF_H
#define TOCSIN_CONFIG_CONF_H

#include "base/buf.h"
#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conf;

/* A node of the tree: the public ABI knows it by this name, without its content. */
#define conf_node tocsin_node

enum conf_type {
    CONF_GROUP,
    CONF_LIST,
    CONF_STRING,
    CONF_INT,
    CONF_FLOAT,
    CONF_BOOL
};

/* All that is wrong, one line each: "FILE:LINE: KEY: what is wrong, what to write instead". Control
 * characters are written as \xNN. What does not fit any more is counted only. */
struct conf_errors {
    struct buf text;
    size_t count;
};

/* clang-format off */
#define CONF_ERRORS_INIT { .text = BUF_INIT(1024 * 1024) }
/* clang-format on */

void conf_errors_release(struct conf_errors *errors);

/* Adds an error about a node (NULL: about the whole configuration). Do not show the value of a node that
 * conf_node_is_secret(). */
void conf_error(struct conf_errors *errors, const struct conf_node *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Loads a file and its conf.d. Returns 0 and sets `*out`, to be released by conf_unref(); or -EINVAL
 * (`errors` tells; `*out` is NULL) or -ENOMEM. Every file is tried, so that all errors come at once.
 */
int conf_load(const char *path, struct conf **out, struct conf_errors *errors);

/* The same from a text; `name` stands for the file in errors. There is no conf.d. */
int conf_load_text(const char *name, const char *text, struct conf **out,
                   struct conf_errors *errors);

struct conf *conf_ref(struct conf *conf);
void conf_unref(struct conf *conf);
const struct conf_node *conf_root(const struct conf *conf);

/* ---- Nodes; all belong to the tree ---- */

enum conf_type conf_node_type(const struct conf_node *node);
const char *conf_node_name(const struct conf_node *node); /* "" in a list */
const char *conf_node_file(const struct conf_node *node);
unsigned conf_node_line(const struct conf_node *node);

/* "services.icinga.port", "routes[2].when" */
void conf_node_add_path(const struct conf_node *node, struct buf *out);

/* Members of a group or list; conf_node_get() returns NULL when there is none of that name. */
size_t conf_node_count(const struct conf_node *node);
const struct conf_node *conf_node_at(const struct conf_node *node, size_t index);
const struct conf_node *conf_node_get(const struct conf_node *node, const char *name);

/* Values; asserted to be of the type (FLOAT takes INT too). */
const char *conf_node_string(const struct conf_node *node);
int64_t conf_node_int(const struct conf_node *node);
double conf_node_float(const struct conf_node *node);
bool conf_node_bool(const struct conf_node *node);

/* Whether the string came from ${env:} or ${file:} in whole or in part: never print it. */
bool conf_node_is_secret(const struct conf_node *node);

/* Whether two trees say the same (values with ${...} replaced; order of a group's members and places
 * in files do not count). For reload: what is equal need not be restarted. NULL equals NULL. */
bool conf_node_equal(const struct conf_node *a, const struct conf_node *b);

/* Adds an error about a place in a file; `line` 0: the file as a whole, `path` "": no option. */
void conf_error_at(struct conf_errors *errors, const char *file, unsigned line, const char *path,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
