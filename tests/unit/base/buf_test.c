/* SPDX-License-Identifier: MIT */

#include "base/buf.h"

#include "../suite.h"

#include <errno.h>
#include <stdlib.h>

static void empty_buffer_reads_as_an_empty_text(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(10);
    assert_string_equal(buf_str(&buf), "");
    buf_clear(&buf);
    buf_cut(&buf, 0);
    assert_string_equal(buf_str(&buf), "");
    assert_int_equal(buf_add(&buf, NULL, 0), 0);
    assert_string_equal(buf_str(&buf), "");
    buf_release(&buf);
    buf_release(&buf);
}

static void every_kind_of_adding_appends(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1000);
    assert_int_equal(buf_add(&buf, "a\0b", 3), 0);
    assert_int_equal(buf_add_str(&buf, "cd"), 0);
    assert_int_equal(buf_add_byte(&buf, 'e'), 0);
    assert_int_equal(buf_add_fill(&buf, '-', 4), 0);
    assert_int_equal(buf_addf(&buf, "%d|%s", 42, "x"), 0);
    char *to = buf_reserve(&buf, 5);
    assert_non_null(to);
    memcpy(to, "xyz", 3);
    buf_commit(&buf, 3);
    assert_int_equal(buf.len, 17);
    assert_memory_equal(buf_str(&buf), "a\0bcde----42|xxyz", 18);
    buf_cut(&buf, 1);
    assert_string_equal(buf_str(&buf), "a");
    buf_release(&buf);
}

static void buffer_holds_exactly_its_limit(void **state)
{
    (void)state;
    for (size_t max = 0; max < 300; max++) {
        struct buf buf = BUF_INIT(max);
        for (size_t i = 0; i < max; i++)
            CHECK(buf_add_byte(&buf, 'x') == 0, "max %zu, byte %zu", max, i);
        CHECK(buf_add_byte(&buf, 'x') == -E2BIG, "max %zu", max);
        CHECK(buf.len == max && strlen(buf_str(&buf)) == max, "max %zu", max);
        buf_release(&buf);

        CHECK(buf_add_fill(&buf, 'x', max) == 0, "max %zu at once", max);
        buf_release(&buf);
    }
}

static void first_failure_sticks_until_clear(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(4);
    assert_int_equal(buf_add_str(&buf, "abc"), 0);
    assert_int_equal(buf_addf(&buf, "%s", "de"), -E2BIG);
    assert_string_equal(buf_str(&buf), "abc"); /* nothing of what did not fit */
    assert_int_equal(buf_add_byte(&buf, 'd'), -E2BIG);
    assert_int_equal(buf_add_fill(&buf, 'd', 0), -E2BIG);
    assert_null(buf_reserve(&buf, 0));
    buf_cut(&buf, 1);
    assert_int_equal(buf_add_str(&buf, "b"), -E2BIG);
    assert_null(buf_take(&buf));
    assert_int_equal(buf.error, 0); /* a taken buffer is a new one */

    assert_int_equal(buf_add_str(&buf, "abcde"), -E2BIG);
    buf_clear(&buf);
    assert_int_equal(buf_add_str(&buf, "abcd"), 0);
    assert_string_equal(buf_str(&buf), "abcd");
    buf_release(&buf);
}

static void length_near_the_largest_does_not_wrap(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(100);
    assert_int_equal(buf_add_str(&buf, "abc"), 0);
    assert_null(buf_reserve(&buf, SIZE_MAX));
    assert_int_equal(buf.error, -E2BIG);
    buf_release(&buf);
}

static void taken_content_belongs_to_the_taker(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT(100);
    char *nothing = buf_take(&buf);
    assert_string_equal(nothing, "");
    free(nothing);
    buf_add_str(&buf, "abc");
    char *text = buf_take(&buf);
    assert_string_equal(buf_str(&buf), "");
    buf_add_str(&buf, "xyz");
    assert_string_equal(text, "abc");
    free(text);
    buf_release(&buf);
}

TEST_SUITE("buffer", cmocka_unit_test(empty_buffer_reads_as_an_empty_text),
           cmocka_unit_test(every_kind_of_adding_appends),
           cmocka_unit_test(buffer_holds_exactly_its_limit),
           cmocka_unit_test(first_failure_sticks_until_clear),
           cmocka_unit_test(length_near_the_largest_does_not_wrap),
           cmocka_unit_test(taken_content_belongs_to_the_taker));
