/* SPDX-License-Identifier: MIT */

#include "router/json.h"

#include "../suite.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static void json_accepts_what_rfc_8259_allows_and_writes_it_back(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "{}", "{}" },
        { "[]", "[]" },
        { " [ ] ", "[]" },
        { "{ }", "{}" },
        { "null", "null" },
        { " true\n", "true" },
        { "false", "false" },
        { "0", "0" },
        { "-0", "-0" },
        { "-12.50e+03", "-12.50e+03" },
        { "1E5", "1E5" },
        { "\"\"", "\"\"" },
        { "\"a b\\n \\u00e4\"", "\"a b\\n \\u00e4\"" },
        { "[1, 2,\t[3 , {}], \"x , y\" ]", "[1,2,[3,{}],\"x , y\"]" },
        { "{\"a\": {\"b\" : [ {} , [] ]},\r\n\"c\":null}", "{\"a\":{\"b\":[{},[]]},\"c\":null}" },
        { "{\"\": 1}", "{\"\":1}" },
        { "{\"a\":1,\"a\":2}", "{\"a\":1,\"a\":2}" },
        { "\"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x94\x94\"", "\"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x94\x94\"" },
        { "\"\x7F\"", "\"\x7F\"" },
        { "\"\\ud83d\\uDD14\"", "\"\\ud83d\\uDD14\"" },
        { "1e999", "1e999" },
        { "123456789012345678901234567890", "123456789012345678901234567890" },
    };
    struct json_doc *doc = json_doc_new();
    struct buf out = BUF_INIT(4096);
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *why;
        size_t at;
        int rc = json_doc_parse(doc, rows[i].text, strlen(rows[i].text), &why, &at);
        CHECK(rc == 0, "%s: %d, %s at %zu", rows[i].text, rc, why, at);
        buf_clear(&out);
        json_add_compact(doc, 0, &out);
        CHECK(strcmp(buf_str(&out), rows[i].want) == 0, "%s: %s", rows[i].text, buf_str(&out));
    }
    buf_release(&out);
    json_doc_free(doc);
}

static void json_says_what_is_wrong_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
        size_t at;
    } rows[] = {
        { "", "expected a value", 0 },
        { "  ", "expected a value", 2 },
        { "nul", "expected a value", 0 },
        { "True", "expected a value", 0 },
        { "NaN", "expected a value", 0 },
        { "+1", "expected a value", 0 },
        { ".5", "expected a value", 0 },
        { "'a'", "expected a value", 0 },
        { "\xEF\xBB\xBF{}", "expected a value", 0 },
        { "-", "expected a digit", 1 },
        { "1.", "expected a digit", 2 },
        { "1.e5", "expected a digit", 2 },
        { "1e", "expected a digit", 2 },
        { "1e+", "expected a digit", 3 },
        { "01", "a number does not begin with 0", 2 },
        { "-01", "a number does not begin with 0", 3 },
        { "1 2", "expected the end of the text", 2 },
        { "nullx", "expected the end of the text", 4 },
        { "{}}", "expected the end of the text", 2 },
        { "[1", "expected ',' or ']'", 2 },
        { "[1 2]", "expected ',' or ']'", 3 },
        { "[1}", "expected ',' or ']'", 2 },
        { "[1,]", "expected a value", 3 },
        { "[,1]", "expected a value", 1 },
        { "[", "expected a value", 1 },
        { "{", "expected a name in quotes", 1 },
        { "{]", "expected a name in quotes", 1 },
        { "{a:1}", "expected a name in quotes", 1 },
        { "{\"a\":1,}", "expected a name in quotes", 7 },
        { "{\"a\" 1}", "expected ':'", 5 },
        { "{\"a\"", "expected ':'", 4 },
        { "{\"a\":}", "expected a value", 5 },
        { "{\"a\":1", "expected ',' or '}'", 6 },
        { "{\"a\":1]", "expected ',' or '}'", 6 },
        { "\"a", "a string without its last quote", 2 },
        { "\"a\\", "no such escape", 2 },
        { "\"\\x\"", "no such escape", 1 },
        { "\"\\u12G4\"", "no such escape", 1 },
        { "\"\\u123", "no such escape", 1 },
        { "\"\\ud83d\"", "no such escape", 1 },
        { "\"\\udd14\"", "no such escape", 1 },
        { "\"\\ud83d\\u0041\"", "no such escape", 1 },
        { "\"\\ud83d\\ud83d\"", "no such escape", 1 },
        { "\"1234567\n\"", "a control character in a string", 8 },
        { "\"\x1F\"", "a control character in a string", 1 },
        { "\"\xC0\x80\"", "not valid UTF-8", 1 },
        { "\"12345678\xED\xA0\x80\"", "not valid UTF-8", 9 },
        { "\"\xF4\x90\x80\x80\"", "not valid UTF-8", 1 },
        { "\"\xE2\x82\"", "not valid UTF-8", 1 },
        { "\"\xA0\"", "not valid UTF-8", 1 },
    };
    struct json_doc *doc = json_doc_new();
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *why;
        size_t at;
        int rc = json_doc_parse(doc, rows[i].text, strlen(rows[i].text), &why, &at);
        CHECK(rc == -EINVAL && strcmp(why, rows[i].why) == 0 && at == rows[i].at,
              "%s: %d, %s at %zu", rows[i].text, rc, why ? why : "none", at);
    }
    json_doc_free(doc);
}

/* `depth` arrays, one in the other. */
static int parse_nested(struct json_doc *doc, size_t depth)
{
    char text[2 * 100];
    const char *why;
    size_t at;
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    return json_doc_parse(doc, text, 2 * depth, &why, &at);
}

static void json_may_be_64_deep(void **state)
{
    (void)state;
    struct json_doc *doc = json_doc_new();
    assert_int_equal(parse_nested(doc, 64), 0);
    assert_int_equal(parse_nested(doc, 65), -EINVAL);
    json_doc_free(doc);
}

static void json_numbers_have_the_type_and_value_they_are_written_with(void **state)
{
    (void)state;
    const struct {
        const char *text;
        struct value want;
    } rows[] = {
        { "0", VALUE_OF_INT(0) },
        { "-0", VALUE_OF_INT(0) },
        { "9223372036854775807", VALUE_OF_INT(INT64_MAX) },
        { "-9223372036854775808", VALUE_OF_INT(INT64_MIN) },
        { "9223372036854775808", VALUE_OF_FLOAT(9223372036854775808.0) },
        { "-9223372036854775809", VALUE_OF_FLOAT(-9223372036854775808.0) },
        { "18446744073709551616", VALUE_OF_FLOAT(18446744073709551616.0) },
        { "21.5", VALUE_OF_FLOAT(21.5) },
        { "3.0", VALUE_OF_FLOAT(3.0) },
        { "-0.0", VALUE_OF_FLOAT(-0.0) },
        { "0.1", VALUE_OF_FLOAT(0.1) },
        { "1e5", VALUE_OF_FLOAT(1e5) },
        { "123456789.123456789", VALUE_OF_FLOAT(123456789.123456789) },
        { "9007199254740993.0", VALUE_OF_FLOAT(9007199254740992.0) },
        { "9007199254740993.00000000000000000000000000000001", VALUE_OF_FLOAT(9007199254740994.0) },
        { "1.7976931348623157e308", VALUE_OF_FLOAT(1.7976931348623157e308) },
        { "5e-324", VALUE_OF_FLOAT(5e-324) },
        { "2e-324", VALUE_OF_FLOAT(0.0) },
        { "1e999", VALUE_OF_FLOAT(INFINITY) },
        { "-1e99999999999999999999", VALUE_OF_FLOAT(-INFINITY) },
        { "1e-99999999999999999999", VALUE_OF_FLOAT(0.0) },
        { "0e99999999999999999999", VALUE_OF_FLOAT(0.0) },
    };
    struct json_doc *doc = json_doc_new();
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *why;
        size_t at;
        assert_int_equal(json_doc_parse(doc, rows[i].text, strlen(rows[i].text), &why, &at), 0);
        struct value got = json_value(doc, 0);
        CHECK(got.type == rows[i].want.type, "%s: type %d", rows[i].text, got.type);
        if (got.type == VALUE_INT)
            CHECK(got.u.integer == rows[i].want.u.integer, "%s: %lld", rows[i].text,
                  (long long)got.u.integer);
        else
            CHECK(memcmp(&got.u.number, &rows[i].want.u.number, sizeof(double)) == 0, "%s: %.17g",
                  rows[i].text, got.u.number);
    }
    json_doc_free(doc);
}

/* A 1, a point, a thousand zeros, and then something that makes it a little more than a tie. */
static void json_number_is_rounded_by_its_last_digit(void **state)
{
    (void)state;
    struct buf text = BUF_INIT(4096);
    struct json_doc *doc = json_doc_new();
    const char *why;
    size_t at;
    buf_add_str(&text, "9007199254740993."); /* half-way between two doubles; even is below */
    buf_add_fill(&text, '0', 1000);
    assert_int_equal(json_doc_parse(doc, text.data, text.len, &why, &at), 0);
    CHECK(json_value(doc, 0).u.number == 9007199254740992.0, "%s", "a tie");
    buf_add_str(&text, "1");
    assert_int_equal(json_doc_parse(doc, text.data, text.len, &why, &at), 0);
    CHECK(json_value(doc, 0).u.number == 9007199254740994.0, "%s", "more than a tie");
    buf_add_str(&text, "e-10");
    assert_int_equal(json_doc_parse(doc, text.data, text.len, &why, &at), 0);
    CHECK(json_value(doc, 0).u.number == 900719.92547409935, "%.17g", json_value(doc, 0).u.number);
    json_doc_free(doc);
    buf_release(&text);
}

static void json_strings_mean_what_their_escapes_say(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
        size_t len;
    } rows[] = {
        { "\"plain\"", "plain", 5 },
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8 },
        { "\"a\\u0000b\"", "a\0b", 3 },
        { "\"\\u0041\\u00e4\\u20AC\"", "A\xC3\xA4\xE2\x82\xAC", 6 },
        { "\"-\\ud83d\\udd14-\"", "-\xF0\x9F\x94\x94-", 6 },
        { "\"\\uFFFF\"", "\xEF\xBF\xBF", 3 },
    };
    struct json_doc *doc = json_doc_new();
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *why;
        size_t at;
        assert_int_equal(json_doc_parse(doc, rows[i].text, strlen(rows[i].text), &why, &at), 0);
        for (int round = 0; round < 2; round++) { /* the second finds what the first has made */
            struct value got = json_value(doc, 0);
            CHECK(got.type == VALUE_STRING && got.u.string.len == rows[i].len &&
                      memcmp(got.u.string.text, rows[i].want, rows[i].len) == 0,
                  "%s: %.*s", rows[i].text, (int)got.u.string.len, got.u.string.text);
        }
    }
    json_doc_free(doc);
}

static struct json_doc *document(const char *text)
{
    struct json_doc *doc = json_doc_new();
    const char *why;
    size_t at;
    int rc = json_doc_parse(doc, text, strlen(text), &why, &at);
    CHECK(rc == 0, "%s: %s at %zu", text, why, at);
    return doc;
}

static void json_members_are_found_by_their_unescaped_name(void **state)
{
    (void)state;
    struct json_doc *doc =
        document("{\"a\":1,\"b\\u002ec\":{\"a\":2},\"a\":[3],\"\":4,\"\\u0061b\":5,"
                 "\"n\\u0000l\":6}");
    static const struct {
        const char *name;
        size_t len;
        const char *want;
    } rows[] = {
        { "a", 1, "[3]" }, { "b.c", 3, "{\"a\":2}" }, { "", 0, "4" },     { "ab", 2, "5" },
        { "b", 1, NULL },  { "A", 1, NULL },          { "n\0l", 3, "6" }, { "n\0x", 3, NULL },
    };
    struct buf out = BUF_INIT(100);
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint32_t node = json_member(doc, 0, rows[i].name, rows[i].len);
        CHECK((node == JSON_NONE) == !rows[i].want, "row %zu: %u", i, node);
        if (node == JSON_NONE)
            continue;
        buf_clear(&out);
        json_add_compact(doc, node, &out);
        CHECK(strcmp(buf_str(&out), rows[i].want) == 0, "row %zu: %s", i, buf_str(&out));
    }
    assert_int_equal(json_member(doc, json_member(doc, 0, "a", 1), "a", 1), JSON_NONE);
    assert_int_equal(json_element(doc, 0, 0), JSON_NONE);
    buf_release(&out);
    json_doc_free(doc);
}

static void json_elements_count_from_either_end(void **state)
{
    (void)state;
    static const char *const texts[] = { "[10,20,30]", "[10,[\"x\",[]],30]", "[{\"a\":1},20,{}]" };
    static const struct {
        int64_t index;
        int element; /* -1: none */
    } rows[] = {
        { 0, 0 },  { 1, 1 },   { 2, 2 },          { 3, -1 },         { -1, 2 },
        { -3, 0 }, { -4, -1 }, { INT64_MAX, -1 }, { INT64_MIN, -1 },
    };
    for (size_t t = 0; t < ROWS(texts); t++) {
        struct json_doc *doc = document(texts[t]);
        uint32_t elements[3];
        elements[0] = json_first(doc, 0);
        elements[1] = json_next(doc, elements[0]);
        elements[2] = json_next(doc, elements[1]);
        assert_int_equal(json_next(doc, elements[2]), JSON_NONE);
        assert_int_equal(json_count(doc, 0), 3);
        for (size_t i = 0; i < ROWS(rows); i++) {
            uint32_t want = rows[i].element < 0 ? JSON_NONE : elements[rows[i].element];
            uint32_t got = json_element(doc, 0, rows[i].index);
            CHECK(got == want, "%s, %lld: %u", texts[t], (long long)rows[i].index, got);
        }
        json_doc_free(doc);
    }
}

static void json_can_be_gone_through_with_names_in_order(void **state)
{
    (void)state;
    struct json_doc *doc = document("{\"b\":[1,{\"x\":[]}],\"\\u0061\":{},\"c\":\"s\"}");
    static const char *const names[] = { "b", "a", "c" };
    size_t i = 0;
    for (uint32_t child = json_first(doc, 0); child != JSON_NONE; child = json_next(doc, child)) {
        struct value name = json_name(doc, child);
        CHECK(i < 3 && name.type == VALUE_STRING && name.u.string.len == 1 &&
                  name.u.string.text[0] == names[i][0],
              "member %zu", i);
        i++;
    }
    assert_int_equal(i, 3);
    assert_int_equal(json_count(doc, 0), 3);
    assert_int_equal(json_first(doc, json_member(doc, 0, "a", 1)), JSON_NONE);
    assert_int_equal(json_first(doc, json_member(doc, 0, "c", 1)), JSON_NONE);
    assert_int_equal(json_next(doc, 0), JSON_NONE);
    uint32_t element = json_first(doc, json_member(doc, 0, "b", 1));
    assert_int_equal(json_name(doc, element).type, VALUE_NONE);
    json_doc_free(doc);
}

static void json_document_is_used_again(void **state)
{
    (void)state;
    struct json_doc *doc = json_doc_new();
    const char *why;
    size_t at;
    struct buf large = BUF_INIT(4u << 20);
    buf_add_str(&large, "[\"\\n\"");
    for (int i = 0; i < 200000; i++)
        buf_add_str(&large, ",\"\\t\"");
    buf_add_str(&large, "]");
    for (int round = 0; round < 3; round++) {
        assert_int_equal(json_doc_parse(doc, large.data, large.len, &why, &at), 0);
        assert_int_equal(json_count(doc, 0), 200001);
        assert_int_equal(json_value(doc, 200001).u.string.text[0], '\t');
        assert_int_equal(json_doc_parse(doc, "[\"\\r\",", 6, &why, &at), -EINVAL);
        assert_int_equal(json_doc_parse(doc, "[\"\\r\"]", 6, &why, &at), 0);
        assert_int_equal(json_value(doc, 1).u.string.text[0], '\r');
    }
    buf_release(&large);
    json_doc_free(doc);
}

static void json_limits_are_told_apart_from_mistakes(void **state)
{
    (void)state;
    struct json_doc *doc = json_doc_new();
    const char *why;
    size_t at;
    size_t len = 2 * 4000000 + 1; /* 4 million elements and the array itself */
    char *text = malloc(len);
    for (size_t i = 0; i < len; i++)
        text[i] = i % 2 ? '0' : ',';
    text[0] = '[';
    text[len - 1] = ']';
    assert_int_equal(json_doc_parse(doc, text, len, &why, &at), -E2BIG);
    assert_string_equal(why, "more than 4 million elements");
    assert_int_equal(json_doc_parse(doc, text, (size_t)(64 << 20) + 1, &why, &at), -E2BIG);
    free(text);
    json_doc_free(doc);
}

static void json_string_is_written_with_escapes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        const char *want;
    } rows[] = {
        { "", 0, "\"\"" },
        { "plain text, long enough", 23, "\"plain text, long enough\"" },
        { "\"\\/\b\f\n\r\t", 8, "\"\\\"\\\\/\\b\\f\\n\\r\\t\"" },
        { "a\0\x01\x1F\x7F", 5, "\"a\\u0000\\u0001\\u001f\x7F\"" },
        { "\xC3\xA4\xF0\x9F\x94\x94", 6, "\"\xC3\xA4\xF0\x9F\x94\x94\"" },
        { "a\xC3", 2, "\"a\xEF\xBF\xBD\"" },
        { "\xED\xA0\x80z", 4, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\"" },
    };
    struct buf out = BUF_INIT(100);
    for (size_t i = 0; i < ROWS(rows); i++) {
        buf_clear(&out);
        assert_int_equal(json_add_string(&out, rows[i].text, rows[i].len), 0);
        CHECK(strcmp(buf_str(&out), rows[i].want) == 0, "row %zu: %s", i, buf_str(&out));
    }
    buf_release(&out);
}

TEST_SUITE("json", cmocka_unit_test(json_accepts_what_rfc_8259_allows_and_writes_it_back),
           cmocka_unit_test(json_says_what_is_wrong_and_where),
           cmocka_unit_test(json_may_be_64_deep),
           cmocka_unit_test(json_numbers_have_the_type_and_value_they_are_written_with),
           cmocka_unit_test(json_number_is_rounded_by_its_last_digit),
           cmocka_unit_test(json_strings_mean_what_their_escapes_say),
           cmocka_unit_test(json_members_are_found_by_their_unescaped_name),
           cmocka_unit_test(json_elements_count_from_either_end),
           cmocka_unit_test(json_can_be_gone_through_with_names_in_order),
           cmocka_unit_test(json_document_is_used_again),
           cmocka_unit_test(json_limits_are_told_apart_from_mistakes),
           cmocka_unit_test(json_string_is_written_with_escapes));
