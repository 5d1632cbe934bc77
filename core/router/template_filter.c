/* SPDX-License-Identifier: MIT */

/* The filters of templates. Pure; any thread. */

#include "base/nearest.h"
#include "router/format_clean.h"
#include "router/json.h"
#include "router/number.h"
#include "router/script_state.h"
#include "router/template_node.h"

#include <errno.h>
#include <string.h>

const struct filter_kind *filter_find(const char *name, const char **nearest)
{
    static const struct filter_kind kinds[] = {
        { "upper", FILTER_UPPER, 0, 0 },     { "lower", FILTER_LOWER, 0, 0 },
        { "trim", FILTER_TRIM, 0, 0 },       { "round", FILTER_ROUND, 0, 1 },
        { "default", FILTER_DEFAULT, 1, 1 }, { "join", FILTER_JOIN, 0, 1 },
        { "tojson", FILTER_TOJSON, 0, 0 },   { "replace", FILTER_REPLACE, 2, 2 },
        { "escape", FILTER_ESCAPE, 0, 0 },   { "safe", FILTER_SAFE, 0, 0 },
    };
    struct nearest near = { .wrong = name };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
        nearest_try(&near, kinds[i].name);
    }
    *nearest = near.best;
    return NULL;
}

static void change_case(struct buf *room, bool upper)
{
    char first = upper ? 'a' : 'A', last = upper ? 'z' : 'Z';
    for (size_t i = 0; i < room->len; i++)
        if (room->data[i] >= first && room->data[i] <= last)
            room->data[i] = (char)(room->data[i] ^ 0x20);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(struct value *value)
{
    const char *text = value->u.string.text;
    size_t len = value->u.string.len;
    while (len > 0 && is_blank(text[len - 1]))
        len--;
    while (len > 0 && is_blank(*text)) {
        text++;
        len--;
    }
    *value = VALUE_OF_TEXT(text, len);
}

static int round_number(const struct value *args, size_t arg_count, struct value *value,
                        const char **why)
{
    struct value number = *value;
    if (value->type == VALUE_STRING)
        number_parse_loose(value->u.string.text, value->u.string.len, &number);
    if (number.type != VALUE_INT && number.type != VALUE_FLOAT) {
        *why = "round wants a number";
        return -EINVAL;
    }
    if (arg_count > 0 && args[0].type != VALUE_INT) {
        *why = "round wants a whole number of digits";
        return -EINVAL;
    }
    *value = script_round(&number, arg_count > 0 ? args[0].u.integer : 0);
    return 0;
}

static int join(const struct value *args, size_t arg_count, const struct value *value,
                struct buf *room, const char **why)
{
    if (value->type != VALUE_ARRAY) {
        *why = "join wants an array";
        return -EINVAL;
    }
    const struct json_doc *doc = value->u.json.doc;
    uint32_t first = json_first(doc, value->u.json.node);
    for (uint32_t node = first; node != JSON_NONE && !room->error; node = json_next(doc, node)) {
        const struct value element = json_value(doc, node);
        if (node != first && arg_count > 0)
            value_add_text(&args[0], room);
        value_add_text(&element, room);
    }
    return room->error;
}

static int replace(const struct value *args, const struct value *value, struct buf *room,
                   const char **why)
{
    const struct value *from = &args[0], *to = &args[1];
    if (from->type != VALUE_STRING || from->u.string.len == 0) {
        *why = "replace wants a text to look for";
        return -EINVAL;
    }
    const char *text = value->u.string.text, *end = text + value->u.string.len;
    for (const char *at; !room->error; text = at + from->u.string.len) {
        at = memmem(text, (size_t)(end - text), from->u.string.text, from->u.string.len);
        buf_add(room, text, (size_t)((at ? at : end) - text));
        if (!at)
            break;
        value_add_text(to, room);
    }
    return room->error;
}

/* Makes a text of the value, in `room` if it is none. */
static void as_text(struct value *value, struct buf *room)
{
    if (value->type == VALUE_STRING)
        return;
    value_add_text(value, room);
    *value = VALUE_OF_TEXT(buf_str(room), room->len);
}

int filter_apply(enum filter_type type, const struct value *args, size_t arg_count,
                 struct value *value, struct buf *room, const char **why)
{
    int rc = 0;
    buf_clear(room);
    bool is_there = value->type != VALUE_NONE && value->type != VALUE_NULL;
    if (type == FILTER_DEFAULT && !is_there)
        *value = args[0];
    if (type == FILTER_DEFAULT || type == FILTER_SAFE || !is_there)
        return 0;

    switch (type) {
    case FILTER_TRIM:
        as_text(value, room);
        trim(value);
        return room->error;
    case FILTER_ROUND:
        return round_number(args, arg_count, value, why);
    case FILTER_UPPER:
    case FILTER_LOWER:
        value_add_text(value, room);
        change_case(room, type == FILTER_UPPER);
        break;
    case FILTER_JOIN:
        rc = join(args, arg_count, value, room, why);
        break;
    case FILTER_TOJSON:
        value_add_json(value, room);
        break;
    case FILTER_ESCAPE:
        value_add_text(value, room);
        format_clean_from(room, 0, FORMAT_CLEAN_HTML);
        break;
    case FILTER_REPLACE: {
        struct buf text = BUF_INIT(room->max);
        as_text(value, &text);
        rc = text.error ? text.error : replace(args, value, room, why);
        buf_release(&text);
        break;
    }
    case FILTER_DEFAULT:
    case FILTER_SAFE:
        break;
    }
    if (rc < 0 || room->error)
        return rc < 0 ? rc : room->error;
    *value = VALUE_OF_TEXT(buf_str(room), room->len);
    return 0;
}
