/* SPDX-License-Identifier: MIT */

/* A value and its two text forms. Any thread. */

#include "router/value.h"

#include "router/json.h"
#include "router/number.h"

#include <math.h>

const char *value_type_name(enum value_type type)
{
    switch (type) {
    case VALUE_NONE:
        break;
    case VALUE_NULL:
        return "null";
    case VALUE_BOOL:
        return "bool";
    case VALUE_INT:
    case VALUE_FLOAT:
        return "number";
    case VALUE_STRING:
        return "string";
    case VALUE_ARRAY:
        return "array";
    case VALUE_OBJECT:
        return "object";
    }
    return "no value";
}

int value_add_text(const struct value *value, struct buf *out)
{
    char text[NUMBER_TEXT_BYTES];
    switch (value->type) {
    case VALUE_NONE:
        break;
    case VALUE_NULL:
        return buf_add(out, "null", 4);
    case VALUE_BOOL:
        return buf_add_str(out, value->u.boolean ? "true" : "false");
    case VALUE_INT:
        return buf_add(out, text, number_integer(value->u.integer, text));
    case VALUE_FLOAT:
        return buf_add(out, text, number_shortest(value->u.number, text));
    case VALUE_STRING:
        return buf_add(out, value->u.string.text, value->u.string.len);
    case VALUE_ARRAY:
    case VALUE_OBJECT:
        return json_add_compact(value->u.json.doc, value->u.json.node, out);
    }
    return out->error;
}

int value_add_json(const struct value *value, struct buf *out)
{
    if (value->type == VALUE_STRING)
        return json_add_string(out, value->u.string.text, value->u.string.len);
    if (value->type == VALUE_NONE || (value->type == VALUE_FLOAT && !isfinite(value->u.number)))
        return buf_add(out, "null", 4);
    return value_add_text(value, out);
}

bool value_is_true(const struct value *value)
{
    switch (value->type) {
    case VALUE_NONE:
    case VALUE_NULL:
        return false;
    case VALUE_BOOL:
        return value->u.boolean;
    default:
        return true;
    }
}
