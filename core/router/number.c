/* SPDX-License-Identifier: MIT */

/* Numbers from and to text. Any thread. */

#include "router/number.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_INTEGERS    9007199254740992u /* 2^53: each whole number up to it is a double */
#define EXACT_TENS        22                /* 10^22 is the largest power of ten that is a double */
#define MANTISSA_DIGITS   19                /* that always fit a uint64_t */
#define EXPONENT_LIMIT    1000000000        /* beyond any number of digits that a text can have */
#define DECIDING_DIGITS   800 /* more than 767 digits never decide how a double is rounded */
#define FEW_DIGITS        1000000000000000u /* 10^15: decimals of 15 digits are all different doubles */
#define FEW_PLACES        9
#define LONGEST_PRECISION 17

static const double ten_to[EXACT_TENS + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* ---- From text ---- */

/* A number taken apart: mantissa times ten to the exponent. */
struct decimal {
    uint64_t mantissa; /* its first MANTISSA_DIGITS significant digits */
    int64_t exponent;
    size_t dropped; /* significant digits that are not in the mantissa */
    bool negative;
    bool whole; /* neither a point nor an exponent */
};

/* Takes digits from `*at` on; `after_point` says that they lower the exponent. Returns how many. */
static size_t take_digits(const char *text, size_t len, size_t *at, bool after_point,
                          struct decimal *d)
{
    size_t start = *at;
    size_t i = start;
    for (; i < len && is_digit(text[i]); i++) {
        if (d->mantissa < 1000000000000000000u) { /* 10^18: there is room for one more */
            d->mantissa = d->mantissa * 10 + (uint64_t)(text[i] - '0');
            d->exponent -= after_point;
        } else {
            d->dropped++;
            d->exponent += !after_point;
        }
    }
    *at = i;
    return i - start;
}

static bool take_exponent(const char *text, size_t len, size_t *at, struct decimal *d)
{
    size_t i = *at + 1;
    bool negative = i < len && text[i] == '-';
    if (i < len && (text[i] == '-' || text[i] == '+'))
        i++;
    if (i == len || !is_digit(text[i]))
        return false;

    int64_t exponent = 0;
    for (; i < len && is_digit(text[i]); i++)
        if (exponent < EXPONENT_LIMIT)
            exponent = exponent * 10 + (text[i] - '0');
    d->exponent += negative ? -exponent : exponent;
    *at = i;
    return true;
}

static bool take_apart(const char *text, size_t len, struct decimal *d)
{
    *d = (struct decimal){ .whole = true };
    size_t i = 0;
    if (i < len && (text[i] == '-' || text[i] == '+'))
        d->negative = text[i++] == '-';

    size_t digits = take_digits(text, len, &i, false, d);
    if (i < len && text[i] == '.') {
        i++;
        d->whole = false;
        digits += take_digits(text, len, &i, true, d);
    }
    if (digits == 0)
        return false;
    if (i < len && (text[i] == 'e' || text[i] == 'E')) {
        d->whole = false;
        if (!take_exponent(text, len, &i, d))
            return false;
    }
    return i == len;
}

/* The nearest double when the quick ways don't apply: hands the C library a text that is short enough
 * to be on the stack, and rounds the same. */
static double nearest_double(const char *text, size_t len, const struct decimal *d)
{
    char copy[DECIDING_DIGITS + 32];
    size_t n = 0;
    size_t digits = 0; /* significant ones seen */
    bool rest = false; /* whether one that is left out is not 0 */
    for (size_t i = 0; i < len && text[i] != 'e' && text[i] != 'E'; i++) {
        if (!is_digit(text[i]) || (digits == 0 && text[i] == '0'))
            continue;
        digits++;
        if (n < DECIDING_DIGITS)
            copy[n++] = text[i];
        else
            rest |= text[i] != '0';
    }
    if (n == 0)
        return 0;

    size_t in_mantissa = digits - d->dropped;
    int64_t exponent = d->exponent - ((int64_t)n - (int64_t)in_mantissa);
    if (rest) { /* it only matters that something follows */
        copy[n++] = '1';
        exponent--;
    }
    if (exponent > EXPONENT_LIMIT)
        exponent = EXPONENT_LIMIT;
    if (exponent < -EXPONENT_LIMIT)
        exponent = -EXPONENT_LIMIT;
    snprintf(copy + n, sizeof(copy) - n, "e%d", (int)exponent);
    return strtod(copy, NULL);
}

bool number_parse(const char *text, size_t len, struct value *out)
{
    struct decimal d;
    *out = VALUE_NOTHING;
    if (!take_apart(text, len, &d))
        return false;

    if (d.whole && d.dropped == 0 && d.mantissa <= (uint64_t)INT64_MAX + d.negative) {
        *out = VALUE_OF_INT((int64_t)(d.negative ? 0 - d.mantissa : d.mantissa));
        return true;
    }
    double number;
    if (d.dropped == 0 && d.mantissa <= EXACT_INTEGERS && d.exponent >= -EXACT_TENS &&
        d.exponent <= EXACT_TENS) {
        /* Both operands are exact, so the one rounding is the right one. */
        number = (double)d.mantissa;
        if (d.exponent < 0)
            number /= ten_to[-d.exponent];
        else
            number *= ten_to[d.exponent];
    } else {
        number = nearest_double(text, len, &d);
    }
    *out = VALUE_OF_FLOAT(d.negative ? -number : number);
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool number_parse_loose(const char *text, size_t len, struct value *out)
{
    while (len > 0 && is_blank(text[len - 1]))
        len--;
    while (len > 0 && is_blank(text[0])) {
        text++;
        len--;
    }
    return number_parse(text, len, out);
}

/* ---- To text ---- */

size_t number_digits(uint64_t number, unsigned base, char out[64])
{
    size_t at = 64;
    if (base == 10) { /* on its own, so that the compiler knows what it divides by */
        do {
            out[--at] = (char)('0' + number % 10);
            number /= 10;
        } while (number > 0);
        return at;
    }
    unsigned bits = base == 16 ? 4 : base == 8 ? 3 : 1;
    do {
        out[--at] = "0123456789abcdef"[number & (base - 1)];
        number >>= bits;
    } while (number > 0);
    return at;
}

size_t number_integer(int64_t number, char out[NUMBER_TEXT_BYTES])
{
    char digits[64];
    size_t at = number_digits(number < 0 ? 0 - (uint64_t)number : (uint64_t)number, 10, digits);
    if (number < 0)
        digits[--at] = '-';
    memcpy(out, digits + at, 64 - at);
    return 64 - at;
}

/* Whether the number is a decimal of at most 15 digits with few places. If so it is the only one of
 * that length that reads back, and with the fewest places it is the shortest. */
static bool few_digits(double number, uint64_t *mantissa, int *places)
{
    for (int k = 0; k <= FEW_PLACES; k++) {
        double scaled = number * ten_to[k] + 0.5;
        if (!(scaled < (double)FEW_DIGITS))
            return false;
        uint64_t rounded = (uint64_t)scaled;
        if ((double)rounded / ten_to[k] == number) {
            *mantissa = rounded;
            *places = k;
            return true;
        }
    }
    return false;
}

static size_t strip_zeros(const char *digits, size_t n)
{
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

/* "%.*e", without the point and the exponent. */
static void round_to(double number, unsigned precision, char digits[NUMBER_TEXT_BYTES], int *point)
{
    char text[NUMBER_TEXT_BYTES];
    snprintf(text, sizeof(text), "%.*e", (int)precision - 1, number);
    digits[0] = text[0];
    if (precision > 1)
        memcpy(digits + 1, text + 2, precision - 1);
    *point = atoi(strchr(text, 'e') + 1) + 1;
}

static bool reads_back(const char *digits, size_t n, int point, double number)
{
    char text[2 * NUMBER_TEXT_BYTES];
    snprintf(text, sizeof(text), "%.*se%d", (int)n, digits, point - (int)n);
    return strtod(text, NULL) == number;
}

/* Below a power of two the doubles are twice as dense as above it, so the nearest decimal may miss it
 * where the next one above does not. */
static bool next_reads_back(char *digits, size_t n, int point, double number)
{
    int exponent;
    if (frexp(number, &exponent) != 0.5 || digits[n - 1] == '9')
        return false;
    digits[n - 1]++;
    if (reads_back(digits, n, point, number))
        return true;
    digits[n - 1]--;
    return false;
}

size_t number_significant(double number, unsigned precision, char digits[NUMBER_TEXT_BYTES],
                          int *point)
{
    assert(number >= 0 && isfinite(number) && precision <= LONGEST_PRECISION);

    uint64_t mantissa;
    int places;
    if (precision == 0 && few_digits(number, &mantissa, &places)) {
        char text[64];
        size_t at = number_digits(mantissa, 10, text);
        size_t n = 64 - at;
        memcpy(digits, text + at, n);
        *point = mantissa > 0 ? (int)n - places : 1;
        return strip_zeros(digits, n);
    }
    if (precision > 0) {
        round_to(number, precision, digits, point);
        return strip_zeros(digits, precision);
    }
    /* The numbers next to 0 have fewer digits to give. */
    for (unsigned n = number < DBL_MIN ? 1 : 15; n < LONGEST_PRECISION; n++) {
        round_to(number, n, digits, point);
        if (reads_back(digits, n, *point, number) || next_reads_back(digits, n, *point, number))
            return strip_zeros(digits, n);
    }
    round_to(number, LONGEST_PRECISION, digits, point);
    return strip_zeros(digits, LONGEST_PRECISION);
}

size_t number_lay_out(const char *digits, size_t n, int point, unsigned precision, bool alternate,
                      char *out)
{
    /* The digit before which the point stands, the first and the last one to write. Digits outside of
     * `digits` are zeros. */
    bool exponent = point < -3 || point > (precision ? (int)precision - 1 : 16);
    int at = exponent ? 1 : point;
    int first = at < 1 ? at - 1 : 0;
    int end = alternate && precision ? (int)precision : (int)n;
    int least = exponent ? at : at + 1;
    if (end < least)
        end = least;

    char *to = out;
    for (int i = first; i < end; i++) {
        if (i == at)
            *to++ = '.';
        *to++ = i >= 0 && i < (int)n ? digits[i] : '0';
    }
    if (end == at && alternate)
        *to++ = '.';
    if (exponent)
        to += snprintf(to, 8, "e%+03d", point - 1);
    return (size_t)(to - out);
}

size_t number_shortest(double number, char out[NUMBER_TEXT_BYTES])
{
    char *to = out;
    if (isnan(number)) {
        memcpy(out, "nan", 3);
        return 3;
    }
    if (signbit(number))
        *to++ = '-';
    if (isinf(number)) {
        memcpy(to, "inf", 3);
        return (size_t)(to + 3 - out);
    }
    char digits[NUMBER_TEXT_BYTES];
    int point;
    size_t n = number_significant(fabs(number), 0, digits, &point);
    return (size_t)(to - out) + number_lay_out(digits, n, point, 0, false, to);
}

size_t number_fixed(double number, unsigned precision, char out[NUMBER_TEXT_BYTES])
{
    if (precision > FEW_PLACES)
        return 0;
    double scale = ten_to[precision];
    double scaled = number * scale;
    if (!(scaled < (double)FEW_DIGITS))
        return 0;

    uint64_t units = (uint64_t)scaled;
    double fraction = scaled - (double)units;
    if (fraction == 0.5) {
        /* The product is exactly scaled + error: the error decides, and without one the even neighbour. */
        double error = fma(number, scale, -scaled);
        units += error > 0 || (error == 0 && (units & 1));
    } else {
        units += fraction > 0.5;
    }

    char digits[64];
    size_t at = number_digits(units, 10, digits);
    while (64 - at < precision + 1)
        digits[--at] = '0';
    size_t before = 64 - at - precision;
    memcpy(out, digits + at, before);
    if (precision == 0)
        return before;
    out[before] = '.';
    memcpy(out + before + 1, digits + at + before, precision);
    return before + 1 + precision;
}
