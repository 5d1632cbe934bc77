/* SPDX-License-Identifier: MIT */

#include "link/echo.h"

#include "../suite.h"

static void own_publications_that_return_too_often_are_a_loop(void **state)
{
    (void)state;
    struct echo *echo = echo_new(2, 1000);
    assert_non_null(echo);
    static const struct {
        int64_t at_ms;
        char what; /* 's'ent, 'r'eceived */
        const char *topic, *payload;
        bool loop;
    } rows[] = {
        { 0, 'r', "t", "x", false }, /* nothing has been published yet */
        { 0, 's', "t", "x", false },
        { 1, 'r', "t", "x", false },
        { 2, 'r', "t", "x", false },
        { 3, 'r', "t", "x", true },
        { 3, 'r', "t", "y", false }, /* another payload, another topic */
        { 3, 'r', "u", "x", false },
        { 4, 's', "t", "x", false }, /* sending it again does not begin a new window */
        { 4, 'r', "t", "x", true },
        { 1000, 'r', "t", "x", false },
        { 1001, 'r', "t", "x", false },
        { 1002, 'r', "t", "x", true },
        { 1500, 'r', "t", "x", false }, /* it has not been sent for longer than the window */
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *payload = rows[i].payload;
        if (rows[i].what == 's')
            echo_note_sent(echo, rows[i].topic, payload, strlen(payload), rows[i].at_ms);
        else
            CHECK(echo_is_loop(echo, rows[i].topic, payload, strlen(payload), rows[i].at_ms) ==
                      rows[i].loop,
                  "row %zu", i);
    }
    echo_free(echo);
}

TEST_SUITE("link echo", cmocka_unit_test(own_publications_that_return_too_often_are_a_loop));
