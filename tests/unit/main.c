/* SPDX-License-Identifier: MIT */

/* Runs all suites, or those whose name matches one of the patterns given. */

#include "suite.h"

#include <fnmatch.h>
#include <stdio.h>

static struct test_suite *suites;

void test_suite_add(struct test_suite *suite)
{
    struct test_suite **at = &suites;
    while (*at && strcmp((*at)->name, suite->name) < 0)
        at = &(*at)->next;
    suite->next = *at;
    *at = suite;
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (fnmatch(argv[i], name, 0) == 0)
            return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (struct test_suite *s = suites; s; s = s->next)
        if (wanted(s->name, argc, argv))
            failed += _cmocka_run_group_tests(s->name, s->tests, s->count, NULL, NULL);
    return failed != 0;
}
