/* SPDX-License-Identifier: MIT */

#include "base/log_rate.h"

#include "../suite.h"

static void first_lines_of_a_period_are_logged(void **state)
{
    (void)state;
    struct log_rate rate = { 0 };
    for (int i = 0; i < LOG_RATE_LINES; i++)
        CHECK(log_rate_due(&rate, 1000 + i), "line %d", i);
    for (int i = 0; i < 312; i++)
        CHECK(!log_rate_due(&rate, 2000 + i), "line %d", LOG_RATE_LINES + i);
    assert_false(log_rate_due(&rate, 1000 + LOG_RATE_PERIOD_MS - 1));
    assert_true(log_rate_due(&rate, 1000 + LOG_RATE_PERIOD_MS));
}

static void the_rest_is_told_once_when_the_period_is_over(void **state)
{
    (void)state;
    struct log_rate rate = { 0 };
    assert_int_equal(log_rate_rest(&rate, 0), 0);
    for (int i = 0; i < LOG_RATE_LINES + 312; i++)
        log_rate_due(&rate, 1000);
    assert_int_equal(log_rate_rest(&rate, 1000 + LOG_RATE_PERIOD_MS - 1), 0);
    assert_int_equal(log_rate_rest(&rate, 1000 + LOG_RATE_PERIOD_MS), 312);
    assert_int_equal(log_rate_rest(&rate, 1000 + LOG_RATE_PERIOD_MS), 0);

    int64_t now = 1000 + LOG_RATE_PERIOD_MS; /* and it begins anew */
    for (int i = 0; i < LOG_RATE_LINES + 2; i++)
        CHECK(log_rate_due(&rate, now) == (i < LOG_RATE_LINES), "line %d", i);
    assert_int_equal(log_rate_rest(&rate, now + LOG_RATE_PERIOD_MS), 2);
}

static void nothing_is_told_of_a_period_in_which_all_was_logged(void **state)
{
    (void)state;
    struct log_rate rate = { 0 };
    for (int i = 0; i < LOG_RATE_LINES; i++)
        log_rate_due(&rate, 5);
    assert_int_equal(log_rate_rest(&rate, 10 * LOG_RATE_PERIOD_MS), 0);
}

static void a_rest_nobody_asked_for_is_kept(void **state)
{
    (void)state;
    struct log_rate rate = { 0 };
    for (int i = 0; i < LOG_RATE_LINES + 3; i++)
        log_rate_due(&rate, 0);
    int64_t now = 3 * LOG_RATE_PERIOD_MS;
    for (int i = 0; i < LOG_RATE_LINES + 4; i++)
        log_rate_due(&rate, now);
    assert_int_equal(log_rate_rest(&rate, now), 0);
    assert_int_equal(log_rate_rest(&rate, now + LOG_RATE_PERIOD_MS), 7);
}

TEST_SUITE("log rate", cmocka_unit_test(first_lines_of_a_period_are_logged),
           cmocka_unit_test(the_rest_is_told_once_when_the_period_is_over),
           cmocka_unit_test(nothing_is_told_of_a_period_in_which_all_was_logged),
           cmocka_unit_test(a_rest_nobody_asked_for_is_kept));
