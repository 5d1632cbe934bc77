/* SPDX-License-Identifier: MIT */

/* A compiled path, as fields.c walks it. */

#ifndef TOCSIN_ROUTER_FIELD_PATH_H
#define TOCSIN_ROUTER_FIELD_PATH_H

#include <stddef.h>
#include <stdint.h>

#define FIELD_PATH_PARTS_MAX \
    65 /* a name, and a step for each level that a JSON document may have */

enum field_fixed {
    FIELD_NOT_FIXED,
    FIELD_TOPIC,
    FIELD_PAYLOAD,
    FIELD_QOS,
    FIELD_RETAIN,
    FIELD_LINK,
    FIELD_ROUTE,
    FIELD_TITLE,
    FIELD_TEXT,
    FIELD_PRIORITY,
    FIELD_SEVERITY,
    FIELD_DTEPOCH,
    FIELD_DTISO,
    FIELD_LTISO,
    FIELD_DTHHMM,
    FIELD_DTHHMMSS,
    FIELD_JSON,

    FIELD_FIRST_RENDERED = FIELD_TITLE,
    FIELD_LAST_RENDERED = FIELD_SEVERITY,
    FIELD_FIRST_TIME = FIELD_DTEPOCH,
    FIELD_LAST_TIME = FIELD_DTHHMMSS,
};

enum field_fixed field_fixed_find(const char *name, size_t len);

struct field_part {
    const char *name; /* NULL: an element of an array; not terminated */
    size_t len;
    int64_t index;
};

struct field_path {
    const char *text; /* as it was written */
    enum field_fixed fixed;
    size_t count; /* at least one, and the first has a name */
    struct field_part parts[];
};

#endif
