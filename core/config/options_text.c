/* SPDX-License-Identifier: MIT */

/* Telling people about options: help, the sample configuration, manual pages. Any thread. */

#include "config/options_text.h"

#include "base/units.h"
#include "base/utf8.h"
#include "config/options.h"

#include <inttypes.h>
#include <string.h>

#define COLUMNS 80

/* ---- Pieces --------------------------------------------------------------------------------------- */

static void add_bound(struct buf *out, enum tocsin_option_type type, int64_t value)
{
    if (type == TOCSIN_OPT_DURATION || type == TOCSIN_OPT_SIZE) {
        buf_add_byte(out, '"');
        (type == TOCSIN_OPT_DURATION ? duration_add : size_add)(out, value);
        buf_add_byte(out, '"');
    } else {
        buf_addf(out, "%" PRId64, value);
    }
}

bool options_add_range(const struct tocsin_option *option, struct buf *out)
{
    if (option->min >= option->max)
        return false;
    bool has_min = option->min > INT64_MIN, has_max = option->max < INT64_MAX;
    if (!has_min)
        buf_add_str(out, "at most ");
    else
        add_bound(out, option->type, option->min);
    if (has_min)
        buf_add_str(out, has_max ? " to " : " or more");
    if (has_max)
        add_bound(out, option->type, option->max);
    return true;
}

void options_add_choices(const char *choices, struct buf *out)
{
    for (const char *word = choices;; word++) {
        size_t len = strcspn(word, "|");
        bool last = word[len] == '\0';
        if (word > choices)
            buf_add_str(out, last ? " or " : ", ");
        buf_addf(out, "\"%.*s\"", (int)len, word);
        if (last)
            return;
        word += len;
    }
}

/* A string as the file has it. */
static void add_quoted(struct buf *out, const char *text)
{
    buf_add_byte(out, '"');
    for (; *text; text++) {
        switch (*text) {
        case '\n':
            buf_add_str(out, "\\n");
            break;
        case '\t':
            buf_add_str(out, "\\t");
            break;
        case '\r':
            buf_add_str(out, "\\r");
            break;
        case '"':
        case '\\':
            buf_addf(out, "\\%c", *text);
            break;
        default:
            if (text[0] == '$' && text[1] == '{')
                buf_add_byte(out, '$');
            buf_add_byte(out, *text);
        }
    }
    buf_add_byte(out, '"');
}

void options_add_example(const struct tocsin_option *option, struct buf *out)
{
    bool bounded = option->min < option->max && option->min > INT64_MIN;
    switch (option->type) {
    case TOCSIN_OPT_BOOL:
        buf_add_str(out, "true");
        return;
    case TOCSIN_OPT_INT:
        buf_addf(out, "%" PRId64, bounded ? option->min : 1);
        return;
    case TOCSIN_OPT_FLOAT:
        buf_addf(out, "%" PRId64 ".0", bounded ? option->min : 1);
        return;
    case TOCSIN_OPT_DURATION:
        if (bounded && option->min > 0)
            add_bound(out, option->type, option->min);
        else
            buf_add_str(out, "\"30s\"");
        return;
    case TOCSIN_OPT_SIZE:
        if (bounded && option->min > 0)
            add_bound(out, option->type, option->min);
        else
            buf_add_str(out, "\"1MiB\"");
        return;
    case TOCSIN_OPT_LIST:
    case TOCSIN_OPT_FORMATS:
        buf_add_str(out, "[ \"...\" ]");
        return;
    case TOCSIN_OPT_TREE:
        buf_add_str(out, option->choices ? "\"...\"" : "{ }");
        return;
    case TOCSIN_OPT_STRING:
        if (option->choices)
            buf_addf(out, "\"%.*s\"", (int)strcspn(option->choices, "|"), option->choices);
        else
            buf_add_str(out, "\"...\"");
        return;
    case TOCSIN_OPT_SECRET:
    case TOCSIN_OPT_FORMAT:
        buf_add_str(out, "\"...\"");
        return;
    }
}

static void add_default(const struct tocsin_option *option, struct buf *out)
{
    switch (option->type) {
    case TOCSIN_OPT_BOOL:
    case TOCSIN_OPT_INT:
    case TOCSIN_OPT_FLOAT:
        buf_add_str(out, option->def);
        break;
    default:
        add_quoted(out, option->def);
    }
}

/* A default that may be shown. */
static bool shows_default(const struct tocsin_option *option)
{
    return option->def && option->type != TOCSIN_OPT_SECRET;
}

/* `duration, "100ms" to "1m", default "5s"` */
static void add_facts(const struct tocsin_option *option, struct buf *out)
{
    static const char *const types[] = {
        [TOCSIN_OPT_BOOL] = "true or false",
        [TOCSIN_OPT_INT] = "whole number",
        [TOCSIN_OPT_FLOAT] = "number",
        [TOCSIN_OPT_STRING] = "string",
        [TOCSIN_OPT_SECRET] = "secret string",
        [TOCSIN_OPT_DURATION] = "duration",
        [TOCSIN_OPT_SIZE] = "size",
        [TOCSIN_OPT_LIST] = "string or list of strings",
        [TOCSIN_OPT_FORMAT] = "string with {fields}",
        [TOCSIN_OPT_FORMATS] = "string or list of strings, with {fields}",
        [TOCSIN_OPT_TREE] = "group",
    };
    if (option->type == TOCSIN_OPT_STRING && option->choices)
        options_add_choices(option->choices, out);
    else if (option->type == TOCSIN_OPT_TREE && option->choices)
        buf_add_str(out, option->choices); /* what it may be, in words */
    else
        buf_add_str(out, types[option->type]);
    if (option->min < option->max) {
        buf_add_str(out, ", ");
        options_add_range(option, out);
    }
    if (option->flags & TOCSIN_OPTION_REQUIRED) {
        buf_add_str(out, ", required");
    } else if (shows_default(option)) {
        buf_add_str(out, ", default ");
        add_default(option, out);
    }
}

/* Appends text in lines of at most COLUMNS, each begun with `prefix` behind `indent` blanks. */
static void add_wrapped(struct buf *out, size_t indent, const char *prefix, const char *text)
{
    size_t column = 0;
    while (*text) {
        size_t len = strcspn(text, " "), width = utf8_count(text, len);
        if (column > 0 && column + 1 + width > COLUMNS) {
            buf_add_byte(out, '\n');
            column = 0;
        }
        if (column == 0) {
            buf_add_fill(out, ' ', indent);
            buf_add_str(out, prefix);
            column = indent + strlen(prefix);
        } else {
            buf_add_byte(out, ' ');
            column++;
        }
        buf_add(out, text, len);
        column += width;
        text += len;
        text += strspn(text, " ");
    }
    buf_add_byte(out, '\n');
}

/* ---- The three forms ------------------------------------------------------------------------------ */

void options_help(const struct tocsin_option *table, struct buf *out)
{
    for (const struct tocsin_option *o = table; o && o->name; o++) {
        struct buf line = BUF_INIT(64 * 1024);
        buf_addf(&line, "%s: ", o->name);
        add_facts(o, &line);
        add_wrapped(out, 2, "", buf_str(&line));
        buf_release(&line);
        add_wrapped(out, 6, "", o->help);
    }
}

void options_sample(const struct tocsin_option *table, size_t indent, struct buf *out)
{
    for (const struct tocsin_option *o = table; o && o->name; o++) {
        struct buf text = BUF_INIT(64 * 1024);
        buf_addf(&text, "%s (", o->help);
        add_facts(o, &text);
        buf_add_byte(&text, ')');
        if (o > table)
            buf_add_byte(out, '\n');
        add_wrapped(out, indent, "# ", buf_str(&text));
        buf_release(&text);

        buf_add_fill(out, ' ', indent);
        buf_addf(out, "%s%s = ", o->flags & TOCSIN_OPTION_REQUIRED ? "" : "#", o->name);
        if (shows_default(o))
            add_default(o, out);
        else
            options_add_example(o, out);
        buf_add_str(out, ";\n");
    }
}

/* A line of mdoc text: what would be a request or an escape is made plain; a sentence begins a line. */
static void add_mdoc_text(struct buf *out, const char *text)
{
    char last = '\n';
    for (; *text; text++) {
        bool sentence = last == '.' && text[0] == ' ' && text[1] >= 'A' && text[1] <= 'Z';
        if (last == '\n' && (*text == '.' || *text == '\''))
            buf_add_str(out, "\\&");
        last = sentence ? '\n' : *text;
        buf_add_byte(out, last);
        if (last == '\\')
            buf_add_byte(out, 'e');
    }
    buf_add_byte(out, '\n');
}

void options_mdoc(const struct tocsin_option *table, struct buf *out)
{
    for (const struct tocsin_option *o = table; o && o->name; o++) {
        buf_addf(out, ".It Ic %s\n", o->name);
        add_mdoc_text(out, o->help);
        struct buf facts = BUF_INIT(64 * 1024);
        buf_add_byte(&facts, '(');
        add_facts(o, &facts);
        buf_add_byte(&facts, ')');
        add_mdoc_text(out, buf_str(&facts));
        buf_release(&facts);
    }
}
