/* SPDX-License-Identifier: MIT */

/* The environment of a program: what a delivery says of itself. Any thread; no I/O. */

#ifndef EXEC_ENVIRONMENT_H
#define EXEC_ENVIRONMENT_H

#include "tocsin/plugin.h"

#include <stddef.h>

#define ENVIRONMENT_VALUE_MAX ((size_t)64 * 1024)  /* bytes of one value */
#define ENVIRONMENT_MAX       ((size_t)512 * 1024) /* of all together */

struct environment {
    char **items; /* "NAME=value", then NULL */
    size_t count;
    size_t cap;
    size_t bytes;
    int error; /* 0, -E2BIG or -ENOMEM: the first, and nothing is added after it */
};

void environment_release(struct environment *environment);

/* Adds a variable, unless the value has a NUL or is longer than ENVIRONMENT_VALUE_MAX. */
void environment_add(struct environment *environment, const char *name, const char *value,
                     size_t len);

/* Adds TOCSIN_TOPIC, TOCSIN_TEXT and so on of a delivery, and TOCSIN_NAME for each of its fields.
 * A field can replace none of the others, and of two fields with the same name the first counts. */
void environment_add_delivery(struct environment *environment, const struct tocsin_delivery *d);

#endif
