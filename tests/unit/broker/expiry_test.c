/* SPDX-License-Identifier: MIT */

/* When a message with an expiry interval is gone, on a clock of whole seconds. */

#include "broker/worker.h"

#include "../suite.h"

static void message_lives_as_long_as_it_was_given_and_never_forever(void **state)
{
    (void)state;
    static const struct {
        uint32_t now, span, expires, left_at_once;
    } rows[] = {
        { 1, 0, 2, 0 },
        { 1, 1, 3, 1 },
        { 100, 60, 161, 60 },
        { 100, UINT32_MAX - 102, UINT32_MAX - 1, UINT32_MAX - 102 },
        { 100, UINT32_MAX - 101, UINT32_MAX, UINT32_MAX - 101 },
        { 100, UINT32_MAX, UINT32_MAX, UINT32_MAX - 101 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        uint32_t expires = expires_after(rows[i].now, rows[i].span);
        uint32_t left = expires_in(expires, rows[i].now);
        CHECK(expires == rows[i].expires && left == rows[i].left_at_once,
              "at %u for %u: until %u, of which %u are left", rows[i].now, rows[i].span, expires,
              left);
    }
}

static void message_is_not_gone_before_its_last_second_is_over(void **state)
{
    (void)state;
    /* Published late in second 10, for one second: in second 11 it may not be a second old yet. */
    uint32_t expires = expires_after(10, 1);
    CHECK(expires > 11, "gone in second %u", expires);
    CHECK(expires_in(expires, 11) == 0 && expires_in(expires, 12) == 0, "%s", "something is left");
}

TEST_SUITE("message expiry",
           cmocka_unit_test(message_lives_as_long_as_it_was_given_and_never_forever),
           cmocka_unit_test(message_is_not_gone_before_its_last_second_is_over));
