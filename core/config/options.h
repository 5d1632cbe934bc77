/* SPDX-License-Identifier: MIT */

/*
 * Option tables: reading a group of the configuration into a struct, and telling people about it.
 *
 * The tables (struct tocsin_option, in the public ABI) are the only list of options. Any thread.
 */

#ifndef TOCSIN_CONFIG_OPTIONS_H
#define TOCSIN_CONFIG_OPTIONS_H

#include "config/conf.h"
#include "tocsin/plugin.h"

/* One table and the struct that it fills. */
struct options_part {
    const struct tocsin_option *table; /* ends with an entry without a name; NULL is an empty one */
    void *into;                        /* zeroed by the caller; strings in it belong to the tree,
                                        * defaults to the table */
};

/* A FORMAT text met while reading, at its index (see struct tocsin_format). */
struct options_format {
    const struct tocsin_option *option;
    const struct conf_node *node; /* where it stands; NULL for a default */
    const char *text;
};

/*
 * What reading leaves behind besides the structs: arrays of strings for LIST options, and the texts of
 * FORMAT and FORMATS options in the order of their indexes. It must live as long as the structs.
 * Begin with { 0 }.
 */
struct options_memory {
    void **blocks;
    size_t block_count;
    struct options_format *formats;
    size_t format_count;
};

void options_memory_release(struct options_memory *memory);

/*
 * Reads the members of `group` (NULL: an empty one) into the parts. An error, added to `errors`, is:
 * an unknown key (with the nearest known one), a wrong type, a value out of range or not among the
 * choices, a required option that is missing. `extra` names keys that somebody else reads (ends with
 * NULL; NULL for none).
 *
 * A string stands for a list of one. Numbers and bools may also be strings when these came from ${env:}
 * or ${file:}, since the file has no other way to say so. What is not there gets its default, read by the
 * same rules from the plain text (a list gets one item from it); a default that does not parse is a
 * mistake in the program, see options_default_valid().
 *
 * Returns the number of errors found.
 */
size_t options_read(const struct conf_node *group, const struct options_part *parts, size_t n,
                    const char *const *extra, struct options_memory *memory,
                    struct conf_errors *errors);

/* Whether the default of an option that others wrote (if it has one) is one that options_read() can
 * read. Adds what is wrong to `why` if not. */
bool options_default_valid(const struct tocsin_option *option, struct buf *why);

/* The member of that name, or NULL if the group has none, or is NULL itself: for errors about
 * combinations of options. */
const struct conf_node *options_node(const struct conf_node *group, const char *name);

/* Appends the table for people: name, type, default, range, and the help text wrapped to 80 columns. */
void options_help(const struct tocsin_option *table, struct buf *out);

/* The same as a piece of the configuration file, indented by `indent` blanks: for the sample. All but
 * what is required is commented out. */
void options_sample(const struct tocsin_option *table, size_t indent, struct buf *out);

/* The same as mdoc(7) list items, for manual pages; `.Bl` and `.El` are the caller's. */
void options_mdoc(const struct tocsin_option *table, struct buf *out);

#endif
