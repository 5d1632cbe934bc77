/* SPDX-License-Identifier: MIT */

#include "router/value.h"

#include "../suite.h"
#include "router/json.h"
#include "router/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void value_has_a_text_and_a_json_form(void **state)
{
    (void)state;
    struct json_doc *doc = json_doc_new();
    const char *why;
    size_t at;
    assert_int_equal(json_doc_parse(doc, "{\"a\": [1, 2]}", 13, &why, &at), 0);

    const struct {
        struct value value;
        const char *text, *json;
    } rows[] = {
        { VALUE_NOTHING, "", "null" },
        { { .type = VALUE_NULL }, "null", "null" },
        { VALUE_OF_BOOL(true), "true", "true" },
        { VALUE_OF_BOOL(false), "false", "false" },
        { VALUE_OF_INT(0), "0", "0" },
        { VALUE_OF_INT(-42), "-42", "-42" },
        { VALUE_OF_INT(INT64_MIN), "-9223372036854775808", "-9223372036854775808" },
        { VALUE_OF_FLOAT(21.5), "21.5", "21.5" },
        { VALUE_OF_FLOAT(INFINITY), "inf", "null" },
        { VALUE_OF_FLOAT(NAN), "nan", "null" },
        { VALUE_OF_TEXT("a\"b\xFF", 4), "a\"b\xFF", "\"a\\\"b\xEF\xBF\xBD\"" },
        { json_value(doc, 0), "{\"a\":[1,2]}", "{\"a\":[1,2]}" },
    };
    struct buf out = BUF_INIT(100);
    for (size_t i = 0; i < ROWS(rows); i++) {
        buf_clear(&out);
        assert_int_equal(value_add_text(&rows[i].value, &out), 0);
        CHECK(strcmp(buf_str(&out), rows[i].text) == 0, "row %zu, text: %s", i, buf_str(&out));
        buf_clear(&out);
        assert_int_equal(value_add_json(&rows[i].value, &out), 0);
        CHECK(strcmp(buf_str(&out), rows[i].json) == 0, "row %zu, JSON: %s", i, buf_str(&out));
    }
    buf_release(&out);
    json_doc_free(doc);
}

static void value_counts_as_false_only_if_nothing_null_or_false(void **state)
{
    (void)state;
    const struct {
        struct value value;
        bool want;
    } rows[] = {
        { VALUE_NOTHING, false },        { { .type = VALUE_NULL }, false },
        { VALUE_OF_BOOL(false), false }, { VALUE_OF_BOOL(true), true },
        { VALUE_OF_INT(0), true },       { VALUE_OF_TEXT("", 0), true },
    };
    for (size_t i = 0; i < ROWS(rows); i++)
        CHECK(value_is_true(&rows[i].value) == rows[i].want, "row %zu", i);
}

static void number_text_is_the_shortest_that_reads_back(void **state)
{
    (void)state;
    /* As Python's repr() writes them. */
    static const struct {
        double number;
        const char *want;
    } rows[] = {
        { 0.0, "0.0" },
        { -0.0, "-0.0" },
        { 3.0, "3.0" },
        { -21.5, "-21.5" },
        { 0.1, "0.1" },
        { 0.1 + 0.2, "0.30000000000000004" },
        { 100.0, "100.0" },
        { 1234567.891, "1234567.891" },
        { 1e15, "1000000000000000.0" },
        { 123456789012345680.0, "1.2345678901234568e+17" },
        { 9999999999999998.0, "9999999999999998.0" },
        { 1e16, "1e+16" },
        { 1e22, "1e+22" },
        { 1e23, "1e+23" },
        { 1.5e300, "1.5e+300" },
        { 0.0001, "0.0001" },
        { 0.00012345, "0.00012345" },
        { 0.00001, "1e-05" },
        { 1.25e-7, "1.25e-07" },
        { 5e-324, "5e-324" },
        { 2.2250738585072014e-308, "2.2250738585072014e-308" },
        { 1.7976931348623157e308, "1.7976931348623157e+308" },
        { 0x1p-44, "5.684341886080802e-14" }, /* the nearest of 16 digits does not read back */
        { 9007199254740993.0, "9007199254740992.0" },
        { 1.0 / 3, "0.3333333333333333" },
        { INFINITY, "inf" },
        { -INFINITY, "-inf" },
        { NAN, "nan" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        char text[NUMBER_TEXT_BYTES + 1];
        text[number_shortest(rows[i].number, text)] = '\0';
        CHECK(strcmp(text, rows[i].want) == 0, "%s: %s", rows[i].want, text);
    }
}

/* A number from a sequence that is the same in every run. */
static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed ^ *seed >> 29;
}

static void number_text_reads_back_and_no_shorter_one_does(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = next_random(&seed);
        double number;
        if (i % 2)
            number = (double)(int64_t)(bits % 2000000000 - 1000000000) / 1000;
        else
            memcpy(&number, &bits, sizeof(number));
        if (!isfinite(number))
            continue;

        char text[NUMBER_TEXT_BYTES + 1];
        text[number_shortest(number, text)] = '\0';
        CHECK(strtod(text, NULL) == number, "%s for %.17g", text, number);
        char digits[NUMBER_TEXT_BYTES], shorter[40];
        int point;
        size_t n = number_significant(fabs(number), 0, digits, &point);
        if (n > 1) {
            snprintf(shorter, sizeof(shorter), "%.*e", (int)n - 2, number);
            CHECK(strtod(shorter, NULL) != number, "%s: %s would do", text, shorter);
        }
        struct value back;
        CHECK(number_parse(text, strlen(text), &back) && back.type == VALUE_FLOAT &&
                  back.u.number == number,
              "%s is read wrongly", text);
    }
}

static void number_with_few_places_is_rounded_as_printf_does(void **state)
{
    (void)state;
    static const double ties[] = { 0.5,  1.5,    2.5,   0.05,   0.25,  0.35,       1.005,  21.45,
                                   21.5, 1e14,   0.125, 2.675,  1e-30, 0.0,        999.95, 0.045,
                                   8.5,  1234.5, 1e15,  4503.5, 1e300, 9.999999999 };
    uint64_t seed = 2;
    for (int i = 0; i < 20000; i++) {
        double number = i < (int)ROWS(ties)
                            ? ties[i]
                            : (double)(next_random(&seed) % 2000000000) / (i % 2 ? 2000 : 1e7);
        for (unsigned precision = 0; precision < 12; precision++) {
            char got[NUMBER_TEXT_BYTES + 1], want[400];
            size_t len = number_fixed(number, precision, got);
            if (len == 0)
                continue;
            got[len] = '\0';
            snprintf(want, sizeof(want), "%.*f", (int)precision, number);
            CHECK(strcmp(got, want) == 0, "%.17g to %u places: %s, not %s", number, precision, got,
                  want);
        }
    }
}

static void number_is_read_only_if_all_of_the_text_is_one(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool want, loose;
    } rows[] = {
        { "1", true, true },      { "+1", true, true },    { ".5", true, true },
        { "5.", true, true },     { "-5.e3", true, true }, { " 1", false, true },
        { "1\r\n", false, true }, { "", false, false },    { " ", false, false },
        { ".", false, false },    { "-", false, false },   { "1e", false, false },
        { "1e+", false, false },  { "1x", false, false },  { "0x10", false, false },
        { "nan", false, false },  { "inf", false, false }, { "1 2", false, false },
        { "1,5", false, false },  { "--1", false, false }, { "e5", false, false },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct value value;
        size_t len = strlen(rows[i].text);
        CHECK(number_parse(rows[i].text, len, &value) == rows[i].want, "\"%s\"", rows[i].text);
        CHECK(number_parse_loose(rows[i].text, len, &value) == rows[i].loose, "\"%s\", loosely",
              rows[i].text);
        CHECK((value.type != VALUE_NONE) == rows[i].loose, "\"%s\": type %d", rows[i].text,
              value.type);
    }
}

TEST_SUITE("value", cmocka_unit_test(value_has_a_text_and_a_json_form),
           cmocka_unit_test(value_counts_as_false_only_if_nothing_null_or_false),
           cmocka_unit_test(number_text_is_the_shortest_that_reads_back),
           cmocka_unit_test(number_text_reads_back_and_no_shorter_one_does),
           cmocka_unit_test(number_with_few_places_is_rounded_as_printf_does),
           cmocka_unit_test(number_is_read_only_if_all_of_the_text_is_one));
