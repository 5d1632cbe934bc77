/* SPDX-License-Identifier: MIT */

/*
 * Numbers from and to text, exact in both directions, without memory and without the locale's say.
 * Any thread.
 */

#ifndef TOCSIN_ROUTER_NUMBER_H
#define TOCSIN_ROUTER_NUMBER_H

#include "router/value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NUMBER_TEXT_BYTES 32 /* room for any number_shortest() or number_integer() */

/*
 * Reads all of `text` as a decimal number: [+-] digits [. digits] [e [+-] digits], where the digits on one side of the
 * point may be missing. JSON's numbers are a subset. A whole number without point and exponent that
 * fits an int64_t becomes VALUE_INT, everything else the nearest VALUE_FLOAT: infinity when it is too
 * large for a double, as Python does it. Returns whether it is a number; `*out` is VALUE_NONE if not.
 */
bool number_parse(const char *text, size_t len, struct value *out);

/* The same for what sensors and people send: blanks around it are allowed. */
bool number_parse_loose(const char *text, size_t len, struct value *out);

/* Writes the shortest text that reads back as the same number, as Python's repr() does: "21.5", "3.0",
 * "1e+22", "inf", "nan". Not terminated. Returns its length in bytes. */
size_t number_shortest(double number, char out[NUMBER_TEXT_BYTES]);

size_t number_integer(int64_t number, char out[NUMBER_TEXT_BYTES]);

/* The digits of `number` in base 2, 8, 10 or 16 (small letters), most significant first, at the end of
 * `out`. Returns where they begin. */
size_t number_digits(uint64_t number, unsigned base, char out[64]);

/*
 * The significant digits of a finite, non-negative number, rounded to `precision` of them (1 to 17), or as
 * many as it takes to read the same number back if `precision` is 0. `*point` is how many of them stand
 * before the decimal point, negative for zeros after it: 0.0015 is "15" and -2. Trailing zeros are
 * left out. Returns how many digits there are, at least one.
 */
size_t number_significant(double number, unsigned precision, char digits[NUMBER_TEXT_BYTES],
                          int *point);

/*
 * Lays out the digits of number_significant() as Python does when no type is asked for: with an
 * exponent where the point is far away, else always with a digit after it. `precision` is the one they were
 * rounded to, 0 for the shortest; `alternate` keeps a point at the end, and the zeros up to that precision. `out` has
 * room for max(n, precision) + 10 bytes. Not terminated. Returns the length.
 */
size_t number_lay_out(const char *digits, size_t n, int point, unsigned precision, bool alternate,
                      char *out);

/*
 * What "%.*f" would write for a finite, non-negative number, where that can be had cheaply and exactly:
 * at most 9 digits after the point, and not too large. Returns the length, or 0: ask printf.
 */
size_t number_fixed(double number, unsigned precision, char out[NUMBER_TEXT_BYTES]);

#endif
