/* SPDX-License-Identifier: MIT */

/* Reading format specifications, and laying out text by them. Any thread. */

#include "router/format_spec.h"

#include "base/utf8.h"
#include "router/number.h"

#include <string.h>

struct cursor {
    const char *text;
    size_t len;
    size_t at;
    const char *why;
};

static char peek(const struct cursor *c)
{
    return c->at < c->len ? c->text[c->at] : '\0';
}

/* Takes the next byte if it is one of these; else returns 0. */
static char take(struct cursor *c, const char *any)
{
    char next = peek(c);
    if (next == '\0' || !strchr(any, next))
        return '\0';
    c->at++;
    return next;
}

static int take_number(struct cursor *c, int max, const char *why)
{
    int number = 0;
    while (peek(c) >= '0' && peek(c) <= '9') {
        number = number * 10 + (c->text[c->at++] - '0');
        if (number > max) {
            c->why = why;
            return 0;
        }
    }
    return number;
}

/* The fill is a character of any kind, and known by the sign of alignment after it. Returns whether there is one. */
static bool take_align(struct cursor *c, struct format_spec *spec)
{
    static const char signs[] = "<>=^";
    uint32_t code;
    size_t n = c->at < c->len ? utf8_decode(c->text + c->at, c->len - c->at, &code) : 0;
    bool fill = n > 0 && code != '{' && code != '}' && c->at + n < c->len &&
                memchr(signs, c->text[c->at + n], sizeof(signs) - 1);
    spec->fill[0] = ' ';
    spec->fill_len = 1;
    if (fill) {
        memcpy(spec->fill, c->text + c->at, n);
        spec->fill_len = (uint8_t)n;
        c->at += n;
    }
    spec->align = take(c, signs);
    return fill;
}

/* What can't be together whatever the value is. Returns NULL if all is well. */
static const char *contradiction(const struct format_spec *spec)
{
    bool text = spec->type == 's';
    bool character = spec->type == 'c';
    bool integer = spec->type && strchr("dboxX", spec->type);
    if ((text || character) && spec->sign)
        return "a sign is for numbers, and 's' and 'c' are not";
    if ((text || character) && spec->alternate)
        return "'#' is for numbers, and 's' and 'c' are not";
    if ((text || character) && spec->grouping)
        return "',' and '_' are for numbers, and 's' and 'c' are not";
    if (text && spec->align == '=')
        return "'=' is for numbers; write '<', '>' or '^'";
    if ((integer || character) && spec->precision >= 0)
        return "whole numbers have no precision; write 'f' for places after the point";
    if (integer && spec->type != 'd' && spec->grouping == ',')
        return "',' is for decimal numbers; write '_' here";
    return NULL;
}

size_t format_spec_parse(const char *text, size_t len, struct format_spec *spec, const char **why)
{
    struct cursor c = { .text = text, .len = len };
    *spec = (struct format_spec){ .precision = -1 };
    bool fill = take_align(&c, spec);
    spec->sign = take(&c, "+- ");
    spec->alternate = take(&c, "#") != '\0';
    if (!fill && peek(&c) == '0') {
        c.at++;
        spec->fill[0] = '0';
        spec->zero = true;
    }
    spec->width = take_number(&c, FORMAT_WIDTH_MAX, "the width is more than 10,000");
    spec->grouping = take(&c, ",_");
    if (!c.why && take(&c, ".")) {
        if (peek(&c) < '0' || peek(&c) > '9')
            c.why = "a number is missing after the '.'";
        spec->precision =
            take_number(&c, FORMAT_PRECISION_MAX, "the precision is more than 10,000");
    }
    if (!c.why) {
        spec->type = take(&c, "sdboxXeEfFgG%c");
        c.why = contradiction(spec);
    }
    if (!c.why && c.at < len && peek(&c) != '}' && peek(&c) != '?')
        c.why = "that is no format specification; [[fill]align][sign][#][0][width][,][.precision]"
                "[type] is one, with a type of s d b o x X e E f F g G % c";

    spec->numeric = spec->sign || spec->alternate || spec->grouping || spec->align == '=' ||
                    (spec->type && spec->type != 's');
    spec->set = c.at > 0 && !(c.at == 1 && spec->type == 's');
    *why = c.why;
    return c.at;
}

/* ---- Values ---- */

static bool to_number(const struct value *value, struct value *number)
{
    switch (value->type) {
    case VALUE_INT:
    case VALUE_FLOAT:
        *number = *value;
        return true;
    case VALUE_BOOL:
        *number = VALUE_OF_INT(value->u.boolean);
        return true;
    case VALUE_STRING:
        return number_parse_loose(value->u.string.text, value->u.string.len, number);
    default:
        return false;
    }
}

bool format_add_value(const struct format_spec *spec, const struct value *value, struct buf *out)
{
    struct value number;
    bool is_number = value->type == VALUE_INT || value->type == VALUE_FLOAT;
    if (spec->numeric || (is_number && spec->type != 's'))
        return to_number(value, &number) && format_add_number(spec, &number, out);

    size_t start = out->len;
    if (value->type == VALUE_STRING && spec->precision >= 0) {
        const char *text = value->u.string.text;
        buf_add(out, text, utf8_cut_chars(text, value->u.string.len, (size_t)spec->precision));
    } else {
        value_add_text(value, out);
    }
    format_lay_out_text(spec, start, out);
    return true;
}

void format_lay_out_text(const struct format_spec *spec, size_t start, struct buf *out)
{
    if (out->error)
        return;
    size_t len = out->len - start;
    if (spec->precision >= 0 && (size_t)spec->precision < len) {
        len = utf8_cut_chars(out->data + start, len, (size_t)spec->precision);
        buf_cut(out, start + len);
    }
    if (spec->width == 0)
        return;
    size_t count = utf8_count(buf_str(out) + start, len);
    if (count >= (size_t)spec->width)
        return;

    size_t missing = (size_t)spec->width - count;
    size_t before = spec->align == '>' ? missing : spec->align == '^' ? missing / 2 : 0;
    if (!buf_reserve(out, missing * spec->fill_len))
        return;
    char *at = out->data + start;
    memmove(at + before * spec->fill_len, at, len);
    for (size_t i = 0; i < before; i++)
        memcpy(at + i * spec->fill_len, spec->fill, spec->fill_len);
    at += before * spec->fill_len + len;
    for (size_t i = 0; i < missing - before; i++)
        memcpy(at + i * spec->fill_len, spec->fill, spec->fill_len);
    buf_commit(out, missing * spec->fill_len);
}
