/* SPDX-License-Identifier: MIT */

#include "base/nearest.h"

#include "../suite.h"

static void nearest_name_is_suggested_only_for_a_slip(void **state)
{
    (void)state;
    static const char *const names[] = { "payload", "priority", "port", "topic", "targets" };
    static const struct {
        const char *wrong, *want;
    } rows[] = {
        { "paylod", "payload" }, { "topci", "topic" }, { "Topic", "topic" },
        { "target", "targets" }, { "prot", "port" },   { "severity", NULL },
        { "x", NULL },           { "", NULL },         { "priorityy", "priority" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct nearest nearest = { .wrong = rows[i].wrong };
        for (size_t j = 0; j < ROWS(names); j++)
            nearest_try(&nearest, names[j]);
        bool same = rows[i].want && nearest.best ? strcmp(rows[i].want, nearest.best) == 0
                                                 : rows[i].want == nearest.best;
        CHECK(same, "\"%s\": %s", rows[i].wrong, nearest.best ? nearest.best : "none");
    }
}

TEST_SUITE("nearest name", cmocka_unit_test(nearest_name_is_suggested_only_for_a_slip));
