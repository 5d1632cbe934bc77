/* SPDX-License-Identifier: MIT */

#include "link/notices.h"

#include "../suite.h"

#include <errno.h>
#include <string.h>

static void they_come_in_order_and_some_at_a_time(void **state)
{
    (void)state;
    struct notices notices;
    notices_init(&notices);
    for (size_t i = 0; i < 2 * NOTICES_UNDER_WAY; i++) {
        const char text[] = { (char)('a' + i % 26) };
        assert_int_equal(notices_add(&notices, "t", text, sizeof(text)), 0);
    }
    for (size_t i = 0; i < 2 * NOTICES_UNDER_WAY; i++) {
        if (i == NOTICES_UNDER_WAY) {
            assert_null(notices_take(&notices));
            notices_forget(&notices); /* as when the connection has broken */
        }
        struct notice *notice = notices_take(&notices);
        assert_non_null(notice);
        assert_string_equal(notice->topic, "t");
        CHECK(notice->len == 1 && notice->payload[0] == (char)('a' + i % 26), "%zu", i);
        notice_free(notice);
    }
    assert_int_equal(notices.count, 0);
    assert_int_equal(notices.bytes, 0);
    assert_int_equal(notices_add(&notices, "t", "", 0), 0);
    assert_null(notices_take(&notices));
    notices_answered(&notices);
    struct notice *notice = notices_take(&notices);
    assert_non_null(notice);
    notice_free(notice);
    notices_release(&notices);
}

static void what_has_no_room_is_refused(void **state)
{
    (void)state;
    static const char large[NOTICES_MOST_BYTES];
    struct notices notices;
    notices_init(&notices);
    for (size_t i = 0; i < NOTICES_MOST; i++)
        assert_int_equal(notices_add(&notices, "t", "x", 1), 0);
    assert_int_equal(notices_add(&notices, "t", "x", 1), -ENOBUFS);
    notices_release(&notices);
    assert_int_equal(notices_add(&notices, "t", large, sizeof(large)), 0);
    assert_int_equal(notices_add(&notices, "t", "x", 1), -ENOBUFS);
    notices_release(&notices);
    assert_int_equal(notices_add(&notices, "t", "x", 1), 0);
    notices_release(&notices);
}

TEST_SUITE("link notices", cmocka_unit_test(they_come_in_order_and_some_at_a_time),
           cmocka_unit_test(what_has_no_room_is_refused));
