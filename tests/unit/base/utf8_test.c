/* SPDX-License-Identifier: MIT */

#include "base/utf8.h"

#include "../suite.h"

#include <errno.h>

static void only_rfc_3629_is_valid(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        bool valid;
    } rows[] = {
        { "", 0, true },
        { "a\0b", 3, true },
        { "\x7F", 1, true },
        { "\xC3\xA4", 2, true },
        { "\xE2\x82\xAC", 3, true },
        { "\xF0\x9F\x94\x94", 4, true },
        { "\xF4\x8F\xBF\xBF", 4, true }, /* U+10FFFF */
        { "\xED\x9F\xBF", 3, true },     /* before the surrogates */
        { "\xEE\x80\x80", 3, true },     /* after them */
        { "\x80", 1, false },            /* begins with a continuation */
        { "\xC3", 1, false },            /* ends too early */
        { "\xE2\x82", 2, false },
        { "\xF0\x9F\x94", 3, false },
        { "\xC3"
          "a",
          2, false },
        { "\xE2\x82"
          "a",
          3, false },
        { "\xC0\x80", 2, false }, /* overlong */
        { "\xC1\xBF", 2, false },
        { "\xE0\x9F\xBF", 3, false },
        { "\xF0\x8F\xBF\xBF", 4, false },
        { "\xED\xA0\x80", 3, false }, /* surrogates */
        { "\xED\xBF\xBF", 3, false },
        { "\xF4\x90\x80\x80", 4, false }, /* above U+10FFFF */
        { "\xF8\x88\x80\x80\x80", 5, false },
        { "\xFE", 1, false },
        { "\xFF", 1, false },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        /* In the middle of a longer text too, where fast paths may be. */
        CHECK(utf8_valid(rows[i].text, rows[i].len) == rows[i].valid, "row %zu", i);
        for (size_t before = 0; before < 40; before++) {
            char text[100];
            memset(text, 'x', sizeof(text));
            memcpy(text + before, rows[i].text, rows[i].len);
            CHECK(utf8_valid(text, sizeof(text)) == rows[i].valid, "row %zu after %zu", i, before);
            CHECK(utf8_valid(text, before + rows[i].len) == rows[i].valid, "row %zu at end", i);
        }
    }
}

static void every_character_survives_encoding_and_decoding(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        char text[4];
        size_t len = utf8_encode(code, text);
        bool surrogate = code >= 0xD800 && code <= 0xDFFF;
        CHECK((len == 0) == surrogate, "U+%04X", code);
        if (surrogate)
            continue;
        uint32_t again;
        CHECK(utf8_decode(text, len, &again) == len && again == code, "U+%04X", code);
        CHECK(len == 1 || utf8_decode(text, len - 1, &again) == 0, "U+%04X cut", code);
    }
    char text[4];
    assert_int_equal(utf8_encode(0x110000, text), 0);
    assert_int_equal(utf8_encode(UINT32_MAX, text), 0);
}

static void text_is_cut_between_characters(void **state)
{
    (void)state;
    static const char text[] = "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x94\x94z"; /* 1 + 2 + 3 + 4 + 1 */
    static const size_t by_bytes[] = { 0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11 };
    static const size_t by_chars[] = { 0, 1, 3, 6, 10, 11, 11 };
    size_t len = strlen(text);
    for (size_t i = 0; i < ROWS(by_bytes); i++)
        CHECK(utf8_cut(text, len, i) == by_bytes[i], "%zu bytes: %zu", i, utf8_cut(text, len, i));
    for (size_t i = 0; i < ROWS(by_chars); i++)
        CHECK(utf8_cut_chars(text, len, i) == by_chars[i], "%zu characters: %zu", i,
              utf8_cut_chars(text, len, i));
    assert_int_equal(utf8_count(text, len), 5);
    assert_int_equal(utf8_count(text, 0), 0);
}

static void what_is_not_a_character_is_replaced_byte_by_byte(void **state)
{
    (void)state;
#define BAD "\xEF\xBF\xBD"
    static const struct {
        const char *text;
        size_t len;
        const char *want;
    } rows[] = {
        { "", 0, "" },
        { "plain \xC3\xA4", 8, "plain \xC3\xA4" },
        { "a\0b", 3, "a" BAD "b" },
        { "\xFFx\xC3", 3, BAD "x" BAD },
        { "\xE2\x82z", 3, BAD BAD "z" },
        { "\xED\xA0\x80", 3, BAD BAD BAD },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct buf out = BUF_INIT(100);
        assert_int_equal(utf8_add_lossy(&out, rows[i].text, rows[i].len), 0);
        CHECK(strcmp(buf_str(&out), rows[i].want) == 0, "row %zu: %s", i, buf_str(&out));
        buf_release(&out);
    }
    struct buf small = BUF_INIT(4);
    assert_int_equal(utf8_add_lossy(&small, "ab\xFF", 3), -E2BIG);
    buf_release(&small);
}

TEST_SUITE("UTF-8", cmocka_unit_test(only_rfc_3629_is_valid),
           cmocka_unit_test(every_character_survives_encoding_and_decoding),
           cmocka_unit_test(text_is_cut_between_characters),
           cmocka_unit_test(what_is_not_a_character_is_replaced_byte_by_byte));
