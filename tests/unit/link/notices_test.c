/* SPDX-License-Identifier: MIT */

#include "link/notices.h"

#include "../suite.h"

#include <errno.h>
#include <string.h>

static void add_letters(struct notices *notices, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char text[] = { (char)('a' + i % 26) };
        assert_int_equal(notices_add(notices, "t", text, sizeof(text)), 0);
    }
}

/* Sends the oldest, which must be this letter, as number `mid`. */
static void send_letter(struct notices *notices, char letter, int mid)
{
    struct notice *notice = notices_take(notices);
    assert_non_null(notice);
    assert_string_equal(notice->topic, "t");
    CHECK(notice->len == 1 && notice->payload[0] == letter, "%c, not %c", notice->payload[0],
          letter);
    notices_sent(notices, mid);
    notice_free(notice);
}

static void they_come_in_order_and_some_at_a_time(void **state)
{
    (void)state;
    struct notices notices;
    notices_init(&notices);
    add_letters(&notices, 2 * NOTICES_UNDER_WAY);
    for (size_t i = 0; i < 2 * NOTICES_UNDER_WAY; i++) {
        if (i == NOTICES_UNDER_WAY) {
            assert_null(notices_take(&notices));
            notices_forget(&notices); /* as when the connection has broken */
        }
        send_letter(&notices, (char)('a' + i % 26), (int)i);
    }
    assert_int_equal(notices.count, 0);
    assert_int_equal(notices.bytes, 0);
    notices_release(&notices);
}

static void only_their_own_answers_make_room(void **state)
{
    (void)state;
    struct notices notices;
    notices_init(&notices);
    add_letters(&notices, NOTICES_UNDER_WAY + 3);
    for (size_t i = 0; i < NOTICES_UNDER_WAY; i++)
        send_letter(&notices, (char)('a' + i % 26), (int)(10 + i));
    notices_answered(&notices, 9); /* a status, between them */
    notices_answered(&notices, 10 + NOTICES_UNDER_WAY);
    assert_null(notices_take(&notices));
    notices_answered(&notices, 12);
    send_letter(&notices, (char)('a' + NOTICES_UNDER_WAY % 26), 7);
    assert_null(notices_take(&notices));
    notices_answered(&notices, 12); /* is over */
    assert_null(notices_take(&notices));
    notices_answered(&notices, 10);
    notices_answered(&notices, 7);
    send_letter(&notices, (char)('a' + (NOTICES_UNDER_WAY + 1) % 26), 1);
    send_letter(&notices, (char)('a' + (NOTICES_UNDER_WAY + 2) % 26), 2);
    notices_release(&notices);
}

static void what_could_not_be_sent_is_the_oldest_again(void **state)
{
    (void)state;
    struct notices notices;
    for (size_t n = 1; n <= 3; n++) {
        notices_init(&notices);
        add_letters(&notices, n);
        const size_t bytes = notices.bytes;
        for (size_t i = 0; i < 2 * NOTICES_UNDER_WAY;
             i++) { /* it takes no room of what is under way */
            struct notice *notice = notices_take(&notices);
            assert_non_null(notice);
            notices_put_back(&notices, notice);
        }
        assert_int_equal(notices.count, n);
        assert_int_equal(notices.bytes, bytes);
        assert_int_equal(notices_add(&notices, "t", "z", 1), 0);
        for (size_t i = 0; i < n; i++)
            send_letter(&notices, (char)('a' + i), (int)i);
        send_letter(&notices, 'z', (int)n);
        assert_null(notices_take(&notices));
        assert_int_equal(notices.bytes, 0);
        notices_release(&notices);
    }
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
           cmocka_unit_test(only_their_own_answers_make_room),
           cmocka_unit_test(what_could_not_be_sent_is_the_oldest_again),
           cmocka_unit_test(what_has_no_room_is_refused));
