/* SPDX-License-Identifier: MIT */

/* plugin-host: a reader of options by their tables, from JSON. */

#include "tool.h"

#include "base/units.h"

#include <string.h>

struct reader {
    struct tool *tool;
    uint8_t *into;
    struct format_text *formats; /* room for all that the group can have */
    size_t format_count;
};

static void format_add(struct reader *reader, const struct tocsin_option *option, const char *text)
{
    reader->formats[reader->format_count++] = (struct format_text){ option, text };
}

static bool in_range(const struct tocsin_option *option, double value)
{
    return option->min >= option->max ||
           (value >= (double)option->min && value <= (double)option->max);
}

static bool is_choice(const char *choices, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        if (strcspn(at, "|") == len && memcmp(at, word, len) == 0)
            return true;
    }
    return false;
}

/* The value of an option as its JSON, made from the default as it is written in the table. */
static json_t *default_new(const struct tocsin_option *option)
{
    if (!option->def)
        return NULL;
    switch (option->type) {
    case TOCSIN_OPT_BOOL:
    case TOCSIN_OPT_INT:
    case TOCSIN_OPT_FLOAT:
        return json_loads(option->def, JSON_DECODE_ANY, NULL);
    case TOCSIN_OPT_LIST:
    case TOCSIN_OPT_FORMATS:
        if (option->def[0] == '[')
            return json_loads(option->def, 0, NULL);
        return json_string(option->def);
    default:
        return json_string(option->def);
    }
}

static bool read_list(struct reader *reader, const struct tocsin_option *option,
                      const json_t *value)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    const char **items = pool_alloc(&reader->tool->instance, (count + 1) * sizeof(*items));

    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(item))
            return wrong(reader->tool, "%s: must be a list of strings", option->name);
        items[i] = json_string_value(item);
    }
    if (option->type == TOCSIN_OPT_LIST) {
        struct tocsin_list list = { .items = items, .count = count };
        memcpy(reader->into + option->offset, &list, sizeof(list));
        return true;
    }
    struct tocsin_formats formats = { .count = count,
                                      .first = reader->format_count,
                                      .texts = items };
    memcpy(reader->into + option->offset, &formats, sizeof(formats));
    for (size_t i = 0; i < count; i++)
        format_add(reader, option, items[i]);
    return true;
}

static bool read_text(struct reader *reader, const struct tocsin_option *option, const char *text)
{
    void *field = reader->into + option->offset;
    int64_t number;

    switch (option->type) {
    case TOCSIN_OPT_STRING:
        if (option->choices && !is_choice(option->choices, text))
            return wrong(reader->tool, "%s: must be one of %s", option->name, option->choices);
        memcpy(field, &text, sizeof(text));
        return true;
    case TOCSIN_OPT_SECRET:
        memcpy(field, &(struct tocsin_secret){ text }, sizeof(struct tocsin_secret));
        return true;
    case TOCSIN_OPT_FORMAT: {
        struct tocsin_format format = { .text = text, .index = reader->format_count };
        memcpy(field, &format, sizeof(format));
        format_add(reader, option, text);
        return true;
    }
    case TOCSIN_OPT_DURATION:
    case TOCSIN_OPT_SIZE:
        if (option->type == TOCSIN_OPT_SIZE ? size_parse(text, &number)
                                            : duration_parse(text, &number))
            return wrong(reader->tool, "%s: \"%s\" has no number or unit", option->name, text);
        if (!in_range(option, (double)number))
            return wrong(reader->tool, "%s: %s is out of range", option->name, text);
        memcpy(field, &number, sizeof(number)); /* the only member of both structs */
        return true;
    default:
        return wrong(reader->tool, "%s: must not be a string", option->name);
    }
}

static bool read_option(struct reader *reader, const struct tocsin_option *option,
                        const json_t *value)
{
    void *field = reader->into + option->offset;

    switch (option->type) {
    case TOCSIN_OPT_BOOL:
        if (!json_is_boolean(value))
            return wrong(reader->tool, "%s: must be true or false", option->name);
        memcpy(field, &(bool){ json_is_true(value) }, sizeof(bool));
        return true;
    case TOCSIN_OPT_INT:
        if (!json_is_integer(value) || !in_range(option, (double)json_integer_value(value)))
            return wrong(reader->tool, "%s: not an integer in range", option->name);
        memcpy(field, &(int64_t){ json_integer_value(value) }, sizeof(int64_t));
        return true;
    case TOCSIN_OPT_FLOAT:
        if (!json_is_number(value) || !in_range(option, json_number_value(value)))
            return wrong(reader->tool, "%s: not a number in range", option->name);
        memcpy(field, &(double){ json_number_value(value) }, sizeof(double));
        return true;
    case TOCSIN_OPT_LIST:
    case TOCSIN_OPT_FORMATS:
        return read_list(reader, option, value);
    case TOCSIN_OPT_TREE:
        return wrong(reader->tool, "%s: not readable here", option->name);
    default:
        if (!json_is_string(value))
            return wrong(reader->tool, "%s: must be a string", option->name);
        return read_text(reader, option, json_string_value(value));
    }
}

/* The options point into `group` and into defaults from then on, so both are pinned. */
bool json_options_read(struct tool *tool, const struct tocsin_option *table, json_t *group,
                       void *into, struct format_text *formats, size_t *format_count)
{
    struct reader reader = { .tool = tool, .into = into, .formats = formats };
    json_t *pins = tool->pins;

    *format_count = 0;
    if (!json_is_object(group))
        return wrong(tool, "options must be an object");
    json_array_append(pins, group);

    const char *key;
    json_t *value;
    json_object_foreach(group, key, value)
    {
        const struct tocsin_option *option = table;
        while (option && option->name && strcmp(option->name, key) != 0)
            option++;
        if (!option || !option->name)
            return wrong(tool, "%s: unknown option", key);
    }
    for (const struct tocsin_option *option = table; option && option->name; option++) {
        value = json_object_get(group, option->name);
        if (!value && (option->flags & TOCSIN_OPTION_REQUIRED))
            return wrong(tool, "%s: is required", option->name);
        if (!value) {
            value = default_new(option);
            if (!value && option->def)
                return wrong(tool, "%s: bad default \"%s\"", option->name, option->def);
            if (!value)
                continue;
            json_array_append_new(pins, value);
        }
        if (!read_option(&reader, option, value))
            return false;
    }
    *format_count = reader.format_count;
    return true;
}

size_t format_room(const struct tocsin_option *table, const json_t *group)
{
    size_t room = 0;
    for (const struct tocsin_option *option = table; option && option->name; option++) {
        const json_t *value = json_object_get(group, option->name);
        room += json_is_array(value) ? json_array_size(value) : 1;
        room += option->def ? strlen(option->def) : 0; /* more than it has items */
    }
    return room;
}
