/* SPDX-License-Identifier: MIT */

/* Reading a group of the configuration into structs, by option tables. Any thread. */

#include "config/options.h"

#include "base/nearest.h"
#include "base/units.h"
#include "config/options_text.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_SHOWN 12 /* most names that are listed after an unknown one */

/* One value on its way from the file, or from the table, into the struct. */
struct reading {
    const struct tocsin_option *option;
    const struct conf_node *node; /* NULL: the default is being read */
    void *field;
    struct options_memory *memory;
    struct conf_errors *errors;
    struct buf *why; /* instead of `errors`, while a default is tried; else NULL */
    size_t wrong;    /* errors so far */
};

static void wrong(struct reading *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void wrong(struct reading *r, const char *format, ...)
{
    struct buf text = BUF_INIT(64 * 1024);
    va_list args;
    va_start(args, format);
    buf_vaddf(&text, format, args);
    va_end(args);
    /* A bad default is a mistake in a program, so that a test of any kind should end there. */
    assert((r->node || r->why) && "the default of an option is one that a file could have");
    if (r->why)
        buf_addf(r->why, "the default of '%s' %s", r->option->name, buf_str(&text));
    else
        conf_error(r->errors, r->node, "%s", buf_str(&text));
    buf_release(&text);
    r->wrong++;
}

static void no_memory(struct reading *r)
{
    if (r->why)
        buf_add_str(r->why, "out of memory");
    else
        conf_error(r->errors, r->node, "out of memory");
    r->wrong++;
}

/* The value as text where it need not have its type's own form: a default, or from ${env:NAME}. */
static const char *plain_text(const struct reading *r)
{
    if (!r->node)
        return r->option->def;
    return conf_node_is_secret(r->node) ? conf_node_string(r->node) : NULL;
}

/* Whether it may be shown in an error. */
static bool is_secret(const struct reading *r)
{
    return r->option->type == TOCSIN_OPT_SECRET || (r->node && conf_node_is_secret(r->node));
}

/* The string that the file has there, or NULL. */
static const char *string_of(const struct conf_node *node)
{
    return node && conf_node_type(node) == CONF_STRING ? conf_node_string(node) : NULL;
}

static bool parse_int(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return end > text && *end == '\0' && errno == 0;
}

static bool parse_float(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end > text && *end == '\0' && isfinite(*out);
}

static bool parse_bool(const char *text, bool *out)
{
    *out = strcmp(text, "true") == 0;
    return *out || strcmp(text, "false") == 0;
}

/* ---- Ranges and choices -------------------------------------------------------------------------- */

static void wrong_range(struct reading *r, const char *value)
{
    bool has_unit = r->option->type == TOCSIN_OPT_DURATION || r->option->type == TOCSIN_OPT_SIZE;
    const char *quote = has_unit ? "\"" : "";
    struct buf range = BUF_INIT(200);
    options_add_range(r->option, &range);
    if (is_secret(r))
        wrong(r, "is out of range, write %s", buf_str(&range));
    else
        wrong(r, "%s%s%s is out of range, write %s", quote, value, quote, buf_str(&range));
    buf_release(&range);
}

static bool in_range(struct reading *r, int64_t value)
{
    const struct tocsin_option *o = r->option;
    if (o->min >= o->max || (value >= o->min && value <= o->max))
        return true;
    struct buf text = BUF_INIT(100);
    if (o->type == TOCSIN_OPT_DURATION)
        duration_add(&text, value);
    else if (o->type == TOCSIN_OPT_SIZE)
        size_add(&text, value);
    else
        buf_addf(&text, "%" PRId64, value);
    wrong_range(r, buf_str(&text));
    buf_release(&text);
    return false;
}

/* Whether `text` is one of the words in "a|b|c". */
static bool is_choice(const char *choices, const char *text)
{
    size_t len = strlen(text);
    for (const char *word = choices;; word++) {
        size_t word_len = strcspn(word, "|");
        if (word_len == len && memcmp(word, text, len) == 0)
            return true;
        word += word_len;
        if (*word == '\0')
            return false;
    }
}

/* ---- One function for each type: the value from the node, or from the default -------------------- */

static void read_bool(struct reading *r)
{
    bool *out = r->field;
    bool value;
    const char *text = plain_text(r);
    if (text ? parse_bool(text, &value) : conf_node_type(r->node) == CONF_BOOL)
        *out = text ? value : conf_node_bool(r->node);
    else if (!text && string_of(r->node) && parse_bool(string_of(r->node), &value))
        wrong(r, "must be true or false: write %s without quotes", string_of(r->node));
    else
        wrong(r, "must be true or false");
}

static void read_int(struct reading *r)
{
    int64_t *out = r->field;
    int64_t value = 0;
    const char *text = plain_text(r);
    if (text) {
        if (!parse_int(text, &value)) {
            wrong(r, "must be a whole number");
            return;
        }
    } else if (conf_node_type(r->node) == CONF_INT) {
        value = conf_node_int(r->node);
    } else if (string_of(r->node) && parse_int(string_of(r->node), &value)) {
        wrong(r, "must be a number: write %" PRId64 " without quotes", value);
        return;
    } else {
        wrong(r, "must be a whole number");
        return;
    }
    if (in_range(r, value))
        *out = value;
}

static void read_float(struct reading *r)
{
    double *out = r->field;
    double value = 0;
    const char *text = plain_text(r);
    const struct tocsin_option *o = r->option;
    if (text) {
        if (!parse_float(text, &value)) {
            wrong(r, "must be a number");
            return;
        }
    } else if (conf_node_type(r->node) == CONF_FLOAT || conf_node_type(r->node) == CONF_INT) {
        value = conf_node_float(r->node);
    } else if (string_of(r->node) && parse_float(string_of(r->node), &value)) {
        wrong(r, "must be a number: write %s without quotes", string_of(r->node));
        return;
    } else {
        wrong(r, "must be a number");
        return;
    }
    if (!isfinite(value)) {
        wrong(r, "is too large");
    } else if (o->min < o->max && (value < (double)o->min || value > (double)o->max)) {
        char shown[40];
        snprintf(shown, sizeof(shown), "%g", value);
        wrong_range(r, shown);
    } else {
        *out = value;
    }
}

/* Sets `*out` to the string, or says that there is none. */
static bool take_string(struct reading *r, const char *what, const char **out)
{
    *out = r->node ? string_of(r->node) : r->option->def;
    if (*out)
        return true;
    if (is_secret(r))
        wrong(r, "must be %s: write it in quotes", what);
    else if (conf_node_type(r->node) == CONF_INT)
        wrong(r, "must be %s: write \"%" PRId64 "\"", what, conf_node_int(r->node));
    else if (conf_node_type(r->node) == CONF_FLOAT)
        wrong(r, "must be %s: write \"%g\"", what, conf_node_float(r->node));
    else if (conf_node_type(r->node) == CONF_BOOL)
        wrong(r, "must be %s: write \"%s\"", what, conf_node_bool(r->node) ? "true" : "false");
    else
        wrong(r, "must be %s", what);
    return false;
}

static void read_string(struct reading *r)
{
    const char **out = r->field;
    const char *text, *choices = r->option->choices;
    if (!take_string(r, "a string", &text))
        return;
    if (!choices || is_choice(choices, text)) {
        *out = text;
        return;
    }
    struct buf words = BUF_INIT(4096);
    options_add_choices(choices, &words);
    if (is_secret(r))
        wrong(r, "is not a choice, write %s", buf_str(&words));
    else
        wrong(r, "\"%s\" is not a choice, write %s", text, buf_str(&words));
    buf_release(&words);
}

static void read_secret(struct reading *r)
{
    struct tocsin_secret *out = r->field;
    take_string(r, "a string", &out->text);
}

static void read_duration(struct reading *r)
{
    struct tocsin_duration *out = r->field;
    int64_t ms = 0;
    const char *text = r->node ? string_of(r->node) : r->option->def;
    if (!text) {
        if (conf_node_type(r->node) == CONF_INT)
            wrong(r, "has no unit: write \"%" PRId64 "s\" for seconds", conf_node_int(r->node));
        else
            wrong(r, "must be a duration, such as \"250ms\", \"30s\", \"5m\", \"2h\" or \"1d\"");
        return;
    }
    int rc = duration_parse(text, &ms);
    if (rc == -ERANGE && r->option->min < r->option->max)
        wrong_range(r, text);
    else if (rc == -ERANGE)
        wrong(r, "is too long");
    else if (rc < 0 && is_secret(r))
        wrong(r, "is not a duration, such as \"250ms\", \"30s\", \"5m\", \"2h\" or \"1d\"");
    else if (rc < 0)
        wrong(r, "\"%s\" is not a duration, such as \"250ms\", \"30s\", \"5m\", \"2h\" or \"1d\"",
              text);
    else if (in_range(r, ms))
        out->ms = ms;
}

static void read_size(struct reading *r)
{
    struct tocsin_size *out = r->field;
    int64_t bytes = 0;
    const char *text = r->node ? string_of(r->node) : r->option->def;
    int rc = 0;
    if (text)
        rc = size_parse(text, &bytes);
    else if (conf_node_type(r->node) == CONF_INT && conf_node_int(r->node) >= 0)
        bytes = conf_node_int(r->node);
    else
        rc = -EINVAL;

    if (rc == -ERANGE && r->option->min < r->option->max)
        wrong_range(r, text);
    else if (rc == -ERANGE)
        wrong(r, "is too large");
    else if (rc < 0 && text && !is_secret(r))
        wrong(r, "\"%s\" is not a size, such as \"512\", \"64KiB\", \"10MiB\" or \"1GiB\"", text);
    else if (rc < 0)
        wrong(r, "must be a size, such as \"512\", \"64KiB\", \"10MiB\" or \"1GiB\"");
    else if (in_range(r, bytes))
        out->bytes = bytes;
}

/* ---- Lists and formats --------------------------------------------------------------------------- */

static void *memory_block(struct options_memory *memory, size_t count, size_t size)
{
    void **blocks = realloc(memory->blocks, (memory->block_count + 1) * sizeof(*blocks));
    if (!blocks)
        return NULL;
    memory->blocks = blocks;
    void *block = calloc(count, size);
    if (block)
        blocks[memory->block_count++] = block;
    return block;
}

static bool memory_add_format(struct reading *r, const struct conf_node *node, const char *text)
{
    struct options_memory *memory = r->memory;
    struct options_format *formats =
        realloc(memory->formats, (memory->format_count + 1) * sizeof(*formats));
    if (!formats) {
        no_memory(r);
        return false;
    }
    memory->formats = formats;
    formats[memory->format_count++] =
        (struct options_format){ .option = r->option, .node = node, .text = text };
    return true;
}

/* The strings of a value that may be one string or a list of them. Calls `take` for each. */
static void each_string(struct reading *r,
                        void (*take)(struct reading *r, const struct conf_node *node,
                                     const char *text, size_t index))
{
    const char *text;
    if (!r->node || conf_node_type(r->node) != CONF_LIST) {
        if (take_string(r, "a string or a list of strings", &text))
            take(r, r->node, text, 0);
        return;
    }
    const struct conf_node *list = r->node;
    for (size_t i = 0; i < conf_node_count(list); i++) {
        r->node = conf_node_at(list, i);
        if (take_string(r, "a string", &text))
            take(r, r->node, text, i);
    }
    r->node = list;
}

/* An array for these strings and the NULL after them, the last block of the memory. */
static const char **strings_new(struct reading *r)
{
    bool many = r->node && conf_node_type(r->node) == CONF_LIST;
    const char **items =
        memory_block(r->memory, (many ? conf_node_count(r->node) : 1) + 1, sizeof(*items));
    if (!items)
        no_memory(r);
    return items;
}

static const char **strings_last(const struct reading *r)
{
    return (const char **)r->memory->blocks[r->memory->block_count - 1];
}

static void take_item(struct reading *r, const struct conf_node *node, const char *text,
                      size_t index)
{
    (void)node;
    (void)index;
    struct tocsin_list *list = r->field;
    strings_last(r)[list->count++] = text;
}

static void read_list(struct reading *r)
{
    struct tocsin_list *list = r->field;
    list->items = strings_new(r);
    if (list->items)
        each_string(r, take_item);
}

static void read_format(struct reading *r)
{
    struct tocsin_format *format = r->field;
    const char *text;
    if (!take_string(r, "a string", &text))
        return;
    size_t index = r->memory->format_count;
    if (memory_add_format(r, r->node, text))
        *format = (struct tocsin_format){ .text = text, .index = index };
}

static void take_format(struct reading *r, const struct conf_node *node, const char *text,
                        size_t index)
{
    (void)index;
    struct tocsin_formats *formats = r->field;
    if (memory_add_format(r, node, text))
        strings_last(r)[formats->count++] = text;
}

static void read_formats(struct reading *r)
{
    struct tocsin_formats *formats = r->field;
    formats->first = r->memory->format_count;
    formats->texts = strings_new(r);
    if (formats->texts)
        each_string(r, take_format);
}

static void read_tree(struct reading *r)
{
    const struct conf_node **out = r->field;
    if (!r->node)
        wrong(r, "must not be there: a tree has none");
    *out = r->node;
}

static void read_option(struct reading *r)
{
    static void (*const readers[])(struct reading * r) = {
        [TOCSIN_OPT_BOOL] = read_bool,     [TOCSIN_OPT_INT] = read_int,
        [TOCSIN_OPT_FLOAT] = read_float,   [TOCSIN_OPT_STRING] = read_string,
        [TOCSIN_OPT_SECRET] = read_secret, [TOCSIN_OPT_DURATION] = read_duration,
        [TOCSIN_OPT_SIZE] = read_size,     [TOCSIN_OPT_LIST] = read_list,
        [TOCSIN_OPT_FORMAT] = read_format, [TOCSIN_OPT_FORMATS] = read_formats,
        [TOCSIN_OPT_TREE] = read_tree,
    };
    readers[r->option->type](r);
}

/* ---- The whole group ----------------------------------------------------------------------------- */

static bool part_has(const struct options_part *part, const char *name)
{
    for (const struct tocsin_option *o = part->table; o && o->name; o++)
        if (strcmp(o->name, name) == 0)
            return true;
    return false;
}

static bool is_known(const struct options_part *parts, size_t n, const char *const *extra,
                     const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (part_has(&parts[i], name))
            return true;
    for (; extra && *extra; extra++)
        if (strcmp(*extra, name) == 0)
            return true;
    return false;
}

/* One known name more: a candidate for "did you mean", and for the list that is shown without one. */
static void consider(struct nearest *nearest, struct buf *names, size_t *count, const char *name)
{
    nearest_try(nearest, name);
    buf_addf(names, "%s%s", *count > 0 ? ", " : "", name);
    ++*count;
}

static void unknown(const struct conf_node *node, const struct options_part *parts, size_t n,
                    const char *const *extra, struct conf_errors *errors)
{
    struct nearest nearest = { .wrong = conf_node_name(node) };
    struct buf names = BUF_INIT(64 * 1024);
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        for (const struct tocsin_option *o = parts[i].table; o && o->name; o++)
            consider(&nearest, &names, &count, o->name);
    for (; extra && *extra; extra++)
        consider(&nearest, &names, &count, *extra);

    if (nearest.best)
        conf_error(errors, node, "unknown option, did you mean '%s'?", nearest.best);
    else if (count > 0 && count <= NAMES_SHOWN)
        conf_error(errors, node, "unknown option, known are: %s", buf_str(&names));
    else
        conf_error(errors, node, "unknown option");
    buf_release(&names);
}

static size_t missing(const struct conf_node *group, const struct tocsin_option *option,
                      struct conf_errors *errors)
{
    struct buf example = BUF_INIT(4096);
    options_add_example(option, &example);
    conf_error(errors, group, "%s is missing: write %s = %s;", option->name, option->name,
               buf_str(&example));
    buf_release(&example);
    return 1;
}

size_t options_read(const struct conf_node *group, const struct options_part *parts, size_t n,
                    const char *const *extra, struct options_memory *memory,
                    struct conf_errors *errors)
{
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "must be a group: write { ... }");
        return 1;
    }
    size_t found = 0;
    for (size_t i = 0; group && i < conf_node_count(group); i++) {
        const struct conf_node *node = conf_node_at(group, i);
        if (!is_known(parts, n, extra, conf_node_name(node))) {
            unknown(node, parts, n, extra, errors);
            found++;
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (const struct tocsin_option *o = parts[i].table; o && o->name; o++) {
            struct reading r = {
                .option = o,
                .node = options_node(group, o->name),
                .field = (char *)parts[i].into + o->offset,
                .memory = memory,
                .errors = errors,
            };
            if (r.node || o->def)
                read_option(&r);
            else if (o->flags & TOCSIN_OPTION_REQUIRED)
                r.wrong = missing(group, o, errors);
            found += r.wrong;
        }
    }
    return found;
}

bool options_default_valid(const struct tocsin_option *option, struct buf *why)
{
    union {
        struct tocsin_list list;
        struct tocsin_format format;
        struct tocsin_formats formats;
        int64_t number;
        double real;
        const void *pointer;
    } field = { .list = { .count = 0 } };
    struct options_memory memory = { 0 };
    struct reading r = { .option = option, .field = &field, .memory = &memory, .why = why };
    if (option->def)
        read_option(&r);
    options_memory_release(&memory);
    return r.wrong == 0;
}

const struct conf_node *options_node(const struct conf_node *group, const char *name)
{
    return group && conf_node_type(group) == CONF_GROUP ? conf_node_get(group, name) : NULL;
}

void options_memory_release(struct options_memory *memory)
{
    for (size_t i = 0; i < memory->block_count; i++)
        free(memory->blocks[i]);
    free(memory->blocks);
    free(memory->formats);
    *memory = (struct options_memory){ 0 };
}
