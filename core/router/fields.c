/* SPDX-License-Identifier: MIT */

/* The fields of a message by name. Used by the thread that the message is routed on. */

#include "router/fields.h"

#include "router/field_path.h"
#include "router/fields_arena.h"

#include <string.h>

struct fixed_field {
    const char *name;
    size_t len;
    enum field_fixed field;
};

/* clang-format off */
#define FIXED(NAME, FIELD) { NAME, sizeof(NAME) - 1, FIELD }
/* clang-format on */

static const struct fixed_field fixed_fields[] = {
    FIXED("topic", FIELD_TOPIC),
    FIXED("payload", FIELD_PAYLOAD),
    FIXED("qos", FIELD_QOS),
    FIXED("retain", FIELD_RETAIN),
    FIXED("link", FIELD_LINK),
    FIXED("route", FIELD_ROUTE),
    FIXED("title", FIELD_TITLE),
    FIXED("text", FIELD_TEXT),
    FIXED("priority", FIELD_PRIORITY),
    FIXED("severity", FIELD_SEVERITY),
    FIXED("_dtepoch", FIELD_DTEPOCH),
    FIXED("_dtiso", FIELD_DTISO),
    FIXED("_ltiso", FIELD_LTISO),
    FIXED("_dthhmm", FIELD_DTHHMM),
    FIXED("_dthhmmss", FIELD_DTHHMMSS),
    FIXED("json", FIELD_JSON),
};

enum field_fixed field_fixed_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(fixed_fields) / sizeof(fixed_fields[0]); i++) {
        const struct fixed_field *f = &fixed_fields[i];
        if (f->len == len && memcmp(f->name, name, len) == 0)
            return f->field;
    }
    return FIELD_NOT_FIXED;
}

bool fields_name_is_fixed(const char *name, size_t len)
{
    return field_fixed_find(name, len) != FIELD_NOT_FIXED;
}

void fields_each_fixed_name(void (*visit)(const char *name, void *context), void *context)
{
    for (size_t i = 0; i < sizeof(fixed_fields) / sizeof(fixed_fields[0]); i++)
        visit(fixed_fields[i].name, context);
}

static struct value text_value(const char *text)
{
    return text ? VALUE_OF_TEXT(text, strlen(text)) : VALUE_NOTHING;
}

static struct value fixed_value(const struct fields *fields, enum field_fixed field)
{
    const struct message *m = fields->message;
    switch (field) {
    case FIELD_NOT_FIXED:
        break;
    case FIELD_TOPIC:
        return VALUE_OF_TEXT(m->topic, m->topic_len);
    case FIELD_PAYLOAD:
        return VALUE_OF_TEXT((const char *)m->payload, m->payload_len);
    case FIELD_QOS:
        return VALUE_OF_INT(m->qos);
    case FIELD_RETAIN:
        return VALUE_OF_BOOL(m->retain);
    case FIELD_LINK:
        return text_value(m->link);
    case FIELD_ROUTE:
        return text_value(fields->route);
    case FIELD_TITLE:
        return fields->title;
    case FIELD_TEXT:
        return fields->text;
    case FIELD_PRIORITY:
        return fields->priority;
    case FIELD_SEVERITY:
        return fields->severity;
    case FIELD_DTEPOCH:
    case FIELD_DTISO:
    case FIELD_LTISO:
    case FIELD_DTHHMM:
    case FIELD_DTHHMMSS:
        return fields_arena_time(fields->arena, field, m->received_ms);
    case FIELD_JSON:
        return fields->decoded;
    }
    return VALUE_NOTHING;
}

static bool is_name(const char *candidate, const char *name, size_t len)
{
    return strlen(candidate) == len && memcmp(candidate, name, len) == 0;
}

/* The last of that name, or NULL. */
static const struct field_set *find_set(const struct field_set *set, size_t count, const char *name,
                                        size_t len)
{
    while (count-- > 0)
        if (is_name(set[count].name, name, len))
            return &set[count];
    return NULL;
}

static struct value decoded_value(const struct fields *fields, const char *name, size_t len)
{
    const struct value *decoded = &fields->decoded;
    if (decoded->type == VALUE_OBJECT) {
        uint32_t node = json_member(decoded->u.json.doc, decoded->u.json.node, name, len);
        return node == JSON_NONE ? VALUE_NOTHING : json_value(decoded->u.json.doc, node);
    }
    return len == 5 && memcmp(name, "value", 5) == 0 ? *decoded : VALUE_NOTHING;
}

/* The value of a path's first part. */
static struct value first_value(const struct fields *fields, enum field_fixed fixed,
                                const char *name, size_t len)
{
    const struct field_set *found = find_set(fields->locals, fields->local_count, name, len);
    if (found)
        return found->value;

    if (fixed != FIELD_NOT_FIXED) {
        struct value value = fixed_value(fields, fixed);
        bool rendered = fixed >= FIELD_FIRST_RENDERED && fixed <= FIELD_LAST_RENDERED;
        if (value.type != VALUE_NONE || !rendered)
            return value;
    }
    for (size_t i = 0; i < fields->level_count; i++) {
        const struct field_level *level = &fields->levels[i];
        if (is_name(level->name, name, len))
            return VALUE_OF_TEXT(level->text, level->len);
    }
    found = find_set(fields->set, fields->set_count, name, len);
    return found ? found->value : decoded_value(fields, name, len);
}

struct value fields_get_name(const struct fields *fields, const char *name, size_t len)
{
    return first_value(fields, field_fixed_find(name, len), name, len);
}

struct value fields_get(const struct fields *fields, const struct field_path *path)
{
    struct value value = first_value(fields, path->fixed, path->parts[0].name, path->parts[0].len);
    for (size_t i = 1; i < path->count; i++) {
        const struct field_part *part = &path->parts[i];
        uint32_t node = JSON_NONE;
        if (value.type == VALUE_OBJECT && part->name)
            node = json_member(value.u.json.doc, value.u.json.node, part->name, part->len);
        else if (value.type == VALUE_ARRAY && !part->name)
            node = json_element(value.u.json.doc, value.u.json.node, part->index);
        if (node == JSON_NONE)
            return VALUE_NOTHING;
        value = json_value(value.u.json.doc, node);
    }
    return value;
}
