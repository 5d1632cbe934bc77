/* SPDX-License-Identifier: MIT */

/*
 * A value that expressions, formats and templates work with. It is small, copied freely, and owns
 * nothing: strings and documents belong to whatever it was taken from, usually the message being
 * routed or the arena of this turn.
 */

#ifndef TOCSIN_ROUTER_VALUE_H
#define TOCSIN_ROUTER_VALUE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_doc;

enum value_type {
    VALUE_NONE, /* there is no such field */
    VALUE_NULL,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING, /* bytes: UTF-8 unless it is a payload that is not */
    VALUE_ARRAY,
    VALUE_OBJECT,
};

struct value {
    enum value_type type;
    union {
        bool boolean;
        int64_t integer;
        double number;
        struct {
            const char *text; /* not terminated */
            size_t len;
        } string;
        struct {
            const struct json_doc *doc;
            uint32_t node;
        } json; /* ARRAY, OBJECT */
    } u;
};

/* clang-format off */
#define VALUE_NOTHING          ((struct value){ .type = VALUE_NONE })
#define VALUE_OF_BOOL(B)       ((struct value){ .type = VALUE_BOOL, .u.boolean = (B) })
#define VALUE_OF_INT(I)        ((struct value){ .type = VALUE_INT, .u.integer = (I) })
#define VALUE_OF_FLOAT(F)      ((struct value){ .type = VALUE_FLOAT, .u.number = (F) })
#define VALUE_OF_TEXT(S, LEN)  ((struct value){ .type = VALUE_STRING, .u.string = { (S), (LEN) } })
/* clang-format on */

/* "no value", "null", "bool", "number", "string", "array", "object" */
const char *value_type_name(enum value_type type);

/* Appends the value as text: strings as they are, numbers in the shortest form that reads back, as
 * Python's repr() has it (21.5, 3, 3.0 for a float, 1e+22, inf), true, false, null, and arrays and
 * objects as compact JSON. VALUE_NONE adds nothing. Returns 0, or what buf_add() returns. */
int value_add_text(const struct value *value, struct buf *out);

/* Appends the value as JSON. A string that is not valid UTF-8 gets U+FFFD. VALUE_NONE gives null, and so
 * do infinity and "not a number", which JSON has no words for. */
int value_add_json(const struct value *value, struct buf *out);

/* Whether an expression's result counts as true: all but none, null and false, as in Lua. */
bool value_is_true(const struct value *value);

#endif
