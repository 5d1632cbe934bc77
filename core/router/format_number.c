/* SPDX-License-Identifier: MIT */

/* Numbers as format specifications want them, byte for byte as CPython writes them. Any thread. */

#include "base/utf8.h"
#include "router/format_spec.h"
#include "router/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLOAT_BYTES \
    (FORMAT_PRECISION_MAX + 400) /* the largest double has 309 digits before its point */

/* A number taken apart: all but its padding and grouping. */
struct parts {
    char sign; /* or 0 */
    const char *prefix;
    size_t prefix_len;
    const char *digits; /* before the point; only they are grouped */
    size_t digit_count;
    const char *rest;
    size_t rest_len;   /* bytes */
    size_t rest_chars; /* characters */
};

/* How many digits there are with the zeros that fill the number up to `width`, counting separators; a
 * separator is never the first, so the last zero may be one more. */
static size_t digits_with_zeros(size_t count, size_t width, size_t group)
{
    if (group == 0)
        return count > width ? count : width;
    while (count + (count - 1) / group < width)
        count++;
    return count;
}

static char *write_fill(char *to, const struct format_spec *spec, size_t count)
{
    if (spec->fill_len == 1) {
        memset(to, spec->fill[0], count);
        return to + count;
    }
    for (size_t i = 0; i < count; i++, to += spec->fill_len)
        memcpy(to, spec->fill, spec->fill_len);
    return to;
}

/* Writes `count` digits, the first of which may be zeros that were added, with their separators. */
static char *write_digits(char *to, const struct parts *p, size_t count, size_t group,
                          char separator)
{
    size_t zeros = count - p->digit_count;
    for (size_t i = 0; i < count; i++) {
        if (group > 0 && i > 0 && (count - i) % group == 0)
            *to++ = separator;
        *to++ = i < zeros ? '0' : p->digits[i - zeros];
    }
    return to;
}

static char *write_bytes(char *to, const char *bytes, size_t len)
{
    if (len > 0)
        memcpy(to, bytes, len);
    return to + len;
}

static void lay_out(const struct format_spec *spec, const struct parts *p, struct buf *out)
{
    char align = spec->align ? spec->align : spec->zero ? '=' : '>';
    bool zeros = align == '=' && spec->fill_len == 1 && spec->fill[0] == '0';
    size_t group = !spec->grouping ? 0 : spec->type && strchr("boxX", spec->type) ? 4 : 3;
    size_t width = (size_t)spec->width;
    size_t around = (p->sign != '\0') + p->prefix_len + p->rest_chars;

    size_t digits = p->digit_count;
    size_t chars = 0;
    if (digits > 0) {
        digits = digits_with_zeros(digits, zeros && width > around ? width - around : 0, group);
        chars = digits + (group ? (digits - 1) / group : 0);
    }
    size_t padding = width > around + chars ? width - around - chars : 0;
    size_t before = align == '>' ? padding : align == '^' ? padding / 2 : 0;
    size_t inside = align == '=' ? padding : 0;

    size_t len = (p->sign != '\0') + p->prefix_len + chars + p->rest_len + padding * spec->fill_len;
    char *to = buf_reserve(out, len);
    if (!to)
        return;
    to = write_fill(to, spec, before);
    if (p->sign)
        *to++ = p->sign;
    to = write_bytes(to, p->prefix, p->prefix_len);
    to = write_fill(to, spec, inside);
    to = write_digits(to, p, digits, group, spec->grouping);
    to = write_bytes(to, p->rest, p->rest_len);
    write_fill(to, spec, padding - before - inside);
    buf_commit(out, len);
}

static char sign_of(const struct format_spec *spec, bool negative)
{
    if (negative)
        return '-';
    return spec->sign == '-' ? '\0' : spec->sign;
}

static bool add_character(const struct format_spec *spec, int64_t code, struct buf *out)
{
    char text[4];
    size_t len = code >= 0 && code <= 0x10FFFF ? utf8_encode((uint32_t)code, text) : 0;
    if (len == 0)
        return false;
    const struct parts p = { .rest = text, .rest_len = len, .rest_chars = 1 };
    lay_out(spec, &p, out);
    return true;
}

static bool add_integer(const struct format_spec *spec, int64_t number, struct buf *out)
{
    static const char prefixes[] = "0b0o0x0X";
    char digits[64];
    char type = spec->type;
    if (type == 'c')
        return add_character(spec, number, out);

    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    size_t at = number_digits(number < 0 ? 0 - (uint64_t)number : (uint64_t)number, base, digits);
    struct parts p = {
        .sign = sign_of(spec, number < 0),
        .digits = digits + at,
        .digit_count = sizeof(digits) - at,
    };
    if (type == 'X')
        for (size_t i = at; i < sizeof(digits); i++)
            if (digits[i] >= 'a')
                digits[i] = (char)(digits[i] - 'a' + 'A');
    if (spec->alternate && base != 10) {
        p.prefix = strchr(prefixes, type) - 1;
        p.prefix_len = 2;
    }
    lay_out(spec, &p, out);
    return true;
}

/* A finite number that is not negative, without a type: "21.5", "3.0", "1e+22". */
static size_t write_general(const struct format_spec *spec, double number, char *out)
{
    char digits[FLOAT_BYTES];
    int point;
    size_t n;
    unsigned precision = spec->precision < 0    ? 0
                         : spec->precision == 0 ? 1u
                                                : (unsigned)spec->precision;
    if (precision <= 17) {
        n = number_significant(number, precision, digits, &point);
    } else {
        /* "d.ddde+dd" without the point */
        snprintf(digits, sizeof(digits), "%.*e", (int)precision - 1, number);
        point = (int)strtol(digits + precision + 2, NULL, 10) + 1;
        memmove(digits + 1, digits + 2, precision - 1);
        n = precision;
        while (n > 1 && digits[n - 1] == '0')
            n--;
    }
    return number_lay_out(digits, n, point, precision, spec->alternate, out);
}

/* Finite and not negative. `out` has FLOAT_BYTES. */
static size_t write_float(const struct format_spec *spec, double number, char *out)
{
    if (spec->type == '\0')
        return write_general(spec, number, out);

    char type = spec->type == '%' ? 'f' : spec->type;
    int precision = spec->precision < 0 ? 6 : spec->precision;
    size_t len = 0;
    if ((type == 'f' || type == 'F') && !spec->alternate && precision <= 9)
        len = number_fixed(number, (unsigned)precision, out);
    if (len == 0) {
        char conversion[] = "%#.*?";
        conversion[4] = type;
        if (!spec->alternate)
            memmove(conversion + 1, conversion + 2, sizeof(conversion) - 2);
        len = (size_t)snprintf(out, FLOAT_BYTES, conversion, precision, number);
    }
    return len;
}

static void add_float(const struct format_spec *spec, double number, struct buf *out)
{
    char text[FLOAT_BYTES];
    size_t len;
    bool negative = signbit(number) && !isnan(number);
    if (spec->type == '%')
        number *= 100;
    if (isfinite(number)) {
        len = write_float(spec, fabs(number), text);
    } else {
        bool large = spec->type == 'E' || spec->type == 'F' || spec->type == 'G';
        memcpy(text, isnan(number) ? large ? "NAN" : "nan" : large ? "INF" : "inf", 3);
        len = 3;
    }
    if (spec->type == '%')
        text[len++] = '%';

    struct parts p = { .sign = sign_of(spec, negative), .digits = text };
    while (p.digit_count < len && text[p.digit_count] >= '0' && text[p.digit_count] <= '9')
        p.digit_count++;
    p.rest = text + p.digit_count;
    p.rest_len = p.rest_chars = len - p.digit_count;
    lay_out(spec, &p, out);
}

bool format_add_number(const struct format_spec *spec, const struct value *number, struct buf *out)
{
    bool whole_type = spec->type && strchr("dboxXc", spec->type);
    bool whole = number->type == VALUE_INT;
    if (whole && (whole_type || (!spec->type && spec->precision < 0)))
        return add_integer(spec, number->u.integer, out);
    if (!whole_type) {
        add_float(spec, whole ? (double)number->u.integer : number->u.number, out);
        return true;
    }
    /* 3.0 is as good a 3 as any: neither JSON nor Lua's division makes a difference. */
    double f = number->u.number;
    return f >= -0x1p63 && f < 0x1p63 && floor(f) == f && add_integer(spec, (int64_t)f, out);
}
