/* SPDX-License-Identifier: MIT */

#include "router/flatten.h"

#include "base/utf8.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define NAME_MAX_BYTES 256 /* longer names are left out */
#define TEXT_MAX_BYTES (1024 * 1024)

struct flattener {
    const struct fields *fields;
    struct tocsin_field *out;
    size_t count;
    struct buf name; /* of the member being looked at, with its parents */
    struct buf text;
};

/* A copy in the arena, made valid UTF-8 without NUL; NULL when there is no memory. */
static const char *keep(struct flattener *f, const char *text, size_t len, size_t *kept_len)
{
    struct buf clean = BUF_INIT(TEXT_MAX_BYTES * 3);
    if (!utf8_valid(text, len) || memchr(text, '\0', len)) {
        utf8_add_lossy(&clean, text, len);
        text = buf_str(&clean);
        len = clean.len;
    }
    char *copy = fields_arena_alloc(f->fields->arena, len + 1);
    if (copy) {
        memcpy(copy, text, len);
        copy[len] = '\0';
        *kept_len = len;
    }
    buf_release(&clean);
    return copy;
}

static bool known(const struct flattener *f, const char *name)
{
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->out[i].name, name) == 0)
            return true;
    return false;
}

static enum tocsin_field_type type_of(const struct value *value)
{
    switch (value->type) {
    case VALUE_BOOL:
        return TOCSIN_FIELD_BOOL;
    case VALUE_INT:
        return TOCSIN_FIELD_NUMBER;
    case VALUE_FLOAT: /* infinity and its like have no number in JSON */
        return isfinite(value->u.number) ? TOCSIN_FIELD_NUMBER : TOCSIN_FIELD_NULL;
    case VALUE_STRING:
        return TOCSIN_FIELD_STRING;
    case VALUE_ARRAY:
    case VALUE_OBJECT:
        return TOCSIN_FIELD_JSON;
    case VALUE_NONE:
    case VALUE_NULL:
        break;
    }
    return TOCSIN_FIELD_NULL;
}

static void add(struct flattener *f, const struct value *value);

static void add_members(struct flattener *f, const struct value *object)
{
    size_t prefix = f->name.len;
    const struct json_doc *doc = object->u.json.doc;
    for (uint32_t child = json_first(doc, object->u.json.node);
         child != JSON_NONE && f->count < FLATTEN_MAX; child = json_next(doc, child)) {
        struct value name = json_name(doc, child), member = json_value(doc, child);
        if (prefix > 0)
            buf_add_byte(&f->name, '.');
        utf8_add_lossy(&f->name, name.u.string.text, name.u.string.len);
        add(f, &member);
        buf_cut(&f->name, prefix);
        f->name.error = 0; /* too long a name is left out, not all that follow */
    }
}

/* Adds the value under f->name. */
static void add(struct flattener *f, const struct value *value)
{
    if (f->name.error || f->count == FLATTEN_MAX || value->type == VALUE_NONE)
        return;
    if (value->type == VALUE_OBJECT) {
        add_members(f, value);
        return;
    }
    if (known(f, buf_str(&f->name)))
        return;
    buf_clear(&f->text);
    if (value->type == VALUE_STRING)
        value_add_text(value, &f->text);
    else
        value_add_json(value, &f->text);
    size_t name_len = 0, len = 0;
    const char *name = keep(f, buf_str(&f->name), f->name.len, &name_len);
    const char *text = keep(f, buf_str(&f->text), f->text.len, &len);
    if (name && text && !f->text.error)
        f->out[f->count++] = (struct tocsin_field){ name, text, len, type_of(value) };
}

static void add_named(struct flattener *f, const char *name, const struct value *value)
{
    buf_clear(&f->name);
    buf_add_str(&f->name, name);
    add(f, value);
}

size_t fields_flatten(const struct fields *fields, struct tocsin_field *out)
{
    struct flattener f = {
        .fields = fields,
        .out = out,
        .name = BUF_INIT(NAME_MAX_BYTES),
        .text = BUF_INIT(TEXT_MAX_BYTES),
    };
    for (size_t i = 0; i < fields->level_count; i++) {
        const struct field_level *level = &fields->levels[i];
        const struct value value = VALUE_OF_TEXT(level->text, level->len);
        add_named(&f, level->name, &value);
    }
    for (size_t i = 0; i < fields->set_count; i++)
        add_named(&f, fields->set[i].name, &fields->set[i].value);
    if (fields->decoded.type == VALUE_OBJECT) {
        buf_clear(&f.name);
        add(&f, &fields->decoded);
    } else {
        add_named(&f, "value", &fields->decoded);
    }
    buf_release(&f.name);
    buf_release(&f.text);
    return f.count;
}
