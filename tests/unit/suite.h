/* SPDX-License-Identifier: MIT */

/*
 * All unit tests are one program. A test file ends with
 *
 *     TEST_SUITE("topic filter", cmocka_unit_test(a_sentence), cmocka_unit_test(another));
 *
 * and is found by the Makefile. Run some: `make unit TESTS='topic*'`.
 */

#ifndef TOCSIN_TESTS_SUITE_H
#define TOCSIN_TESTS_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* cmocka.h wants the standard headers above first. */
#include <cmocka.h>

struct test_suite {
    const char *name;
    const struct CMUnitTest *tests;
    size_t count;
    struct test_suite *next;
};

void test_suite_add(struct test_suite *suite);

/* clang-format off */
#define TEST_SUITE(NAME, ...)                                              \
    static const struct CMUnitTest suite_tests[] = { __VA_ARGS__ };        \
    static struct test_suite this_suite = {                                \
        .name = NAME,                                                      \
        .tests = suite_tests,                                              \
        .count = sizeof(suite_tests) / sizeof(suite_tests[0]),             \
    };                                                                     \
    __attribute__((constructor)) static void add_this_suite(void)          \
    {                                                                      \
        test_suite_add(&this_suite);                                       \
    }                                                                      \
    _Static_assert(sizeof(suite_tests) > 0, "a suite has tests")
/* clang-format on */

/* Fails the test and says which case it was. */
#define CHECK(COND, ...)           \
    do {                           \
        if (!(COND))               \
            fail_msg(__VA_ARGS__); \
    } while (0)

#define ROWS(TABLE) (sizeof(TABLE) / sizeof((TABLE)[0]))

#endif
