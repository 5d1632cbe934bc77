/* SPDX-License-Identifier: MIT */

/* The part of a field after the colon: how its value is laid out. Never changed once compiled. */

#ifndef TOCSIN_ROUTER_FORMAT_SPEC_H
#define TOCSIN_ROUTER_FORMAT_SPEC_H

#include "base/buf.h"
#include "router/value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORMAT_WIDTH_MAX     10000 /* characters */
#define FORMAT_PRECISION_MAX 10000

struct format_spec {
    char fill[4]; /* one character */
    uint8_t fill_len;
    char align;     /* < > = ^, or 0: as the value's type has it */
    char sign;      /* + - or a blank, or 0 */
    char grouping;  /* , or _, or 0 */
    char type;      /* or 0 */
    bool alternate; /* # */
    bool zero;      /* a 0 before the width: numbers get zeros after the sign, unless aligned */
    bool numeric;   /* only a number can be meant */
    bool set;       /* there is more to do than writing the text */
    int width;      /* characters, 0 for none */
    int precision;  /* -1 for none */
};

/*
 * Reads a specification up to a '}' or '?' that ends it. Returns its length in bytes, with `*why` NULL; or where it
 * goes wrong, with `*why` a static sentence.
 */
size_t format_spec_parse(const char *text, size_t len, struct format_spec *spec, const char **why);

/*
 * Appends a value as the specification says. Returns false, with nothing added, if the value does not
 * fit. An error of the buffer stays in the buffer.
 */
bool format_add_value(const struct format_spec *spec, const struct value *value, struct buf *out);

/* Lays out the text that begins at `start` of the buffer: cuts it to the precision and fills it up to the width. */
void format_lay_out_text(const struct format_spec *spec, size_t start, struct buf *out);

/* Appends an INT or FLOAT. Returns false, with nothing added, if it does not fit. */
bool format_add_number(const struct format_spec *spec, const struct value *number, struct buf *out);

#endif
