/* SPDX-License-Identifier: MIT */

#include "link/subscriptions.h"

#include "mqtt/topic.h"

#include "../suite.h"

#include <stdio.h>
#include <stdlib.h>

#define MOST 6

static struct subscriptions *plan_of(const char *const *texts, const uint8_t *qos, bool identifiers)
{
    struct link_filter filters[MOST];
    size_t n = 0;
    for (; n < MOST && texts[n]; n++)
        filters[n] = (struct link_filter){ texts[n], qos ? qos[n] : 1 };
    struct subscriptions *plan;
    assert_int_equal(subscriptions_new(filters, n, identifiers, &plan), 0);
    return plan;
}

/* "a:1 b:0", a '*' behind those with an identifier */
static void show(const struct subscriptions *plan, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < plan->count; i++)
        len += (size_t)snprintf(out + len, size - len, "%s%s:%u%s", i > 0 ? " " : "",
                                plan->list[i].filter, plan->list[i].qos,
                                plan->list[i].id != 0 ? "*" : "");
}

static void plans_leave_out_what_is_covered_and_part_what_overlaps(void **state)
{
    (void)state;
    static const struct {
        const char *filters[MOST + 1];
        uint8_t qos[MOST];
        const char *identifiers, *joined;
    } rows[] = {
        { { NULL }, { 0 }, "", "" },
        { { "a", "b/+" }, { 0, 1 }, "a:0 b/+:1", "a:0 b/+:1" },
        { { "a", "a", "a" }, { 0, 1, 0 }, "a:1", "a:1" },
        { { "a/b", "a/#", "a/+" }, { 0, 0, 0 }, "a/#:0", "a/#:0" },
        { { "a/b", "a/#" }, { 1, 0 }, "a/#:1", "a/#:1" },
        { { "#", "$SYS/x", "a" }, { 0, 0, 1 }, "#:1 $SYS/x:0", "#:1 $SYS/x:0" },
        { { "a/+/c", "a/b/+" }, { 0, 1 }, "a/+/c:0* a/b/+:1*", "a/+/+:1" },
        { { "a/+/c", "a/b/+", "x", "a/b/d" },
          { 0, 0, 1, 1 },
          "a/+/c:0* a/b/+:1* x:1",
          "a/+/+:1 x:1" },
        /* Joining two makes a filter that overlaps or covers a third. */
        { { "+/b", "a/+", "z/#" }, { 0, 0, 1 }, "+/b:0* a/+:0* z/#:1*", "+/#:1" },
        { { "a/+/1", "a/2/+", "a/3/4" }, { 0, 0, 1 }, "a/+/1:0* a/2/+:0* a/3/4:1", "a/+/+:1" },
        /* It takes a second round: only what the first two make overlaps the third. */
        { { "a/+/1", "a/2/+", "+/3/4" }, { 0, 0, 1 }, "+/3/4:1 a/+/1:0* a/2/+:0*", "+/+/+:1" },
        /* Two groups. */
        { { "a/+/c", "a/b/+", "s/+/c", "s/b/+" },
          { 0, 0, 0, 0 },
          "a/+/c:0* a/b/+:0* s/+/c:0* s/b/+:0*",
          "a/+/+:0 s/+/+:0" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        char got[200];
        struct subscriptions *plan = plan_of(rows[i].filters, rows[i].qos, true);
        show(plan, got, sizeof(got));
        CHECK(strcmp(got, rows[i].identifiers) == 0, "row %zu: %s, not %s", i, got,
              rows[i].identifiers);
        subscriptions_free(plan);
        plan = plan_of(rows[i].filters, rows[i].qos, false);
        show(plan, got, sizeof(got));
        CHECK(strcmp(got, rows[i].joined) == 0, "row %zu joined: %s, not %s", i, got,
              rows[i].joined);
        subscriptions_free(plan);
    }
}

static void identifiers_depend_on_all_that_overlap_and_on_nothing_else(void **state)
{
    (void)state;
    static const char *const two[] = { "a/+/c", "a/b/+", NULL };
    static const char *const same[] = { "a/b/+", "x/#", "a/+/c", "y", NULL };
    static const char *const three[] = { "a/+/c", "a/b/+", "a/b/#", NULL };
    struct subscriptions *a = plan_of(two, NULL, true), *b = plan_of(same, NULL, true),
                         *c = plan_of(three, NULL, true);
    uint32_t id = subscriptions_find(a, "a/+/c")->id;
    assert_in_range(id, 1, 268435455);
    assert_int_equal(subscriptions_find(a, "a/b/+")->id, id + 1);
    assert_int_equal(subscriptions_find(b, "a/+/c")->id, id);
    assert_int_not_equal(subscriptions_find(c, "a/+/c")->id, id);
    assert_null(subscriptions_find(a, "x/#"));
    subscriptions_free(a);
    subscriptions_free(b);
    subscriptions_free(c);
}

/* Brokers send a copy for each subscription, or one with all identifiers. Either way one is taken. */
static void each_message_is_taken_once(void **state)
{
    (void)state;
    static const char *const filters[] = { "+/b/#", "a/+/c", "a/b/+", "a/b/c/+", "x/+", NULL };
    static const char *const topics[] = { "a/b/c", "a/b",     "a/x/c", "a/b/d",
                                          "z/b",   "a/b/c/d", "x/b",   "x/1" };
    struct subscriptions *plan = plan_of(filters, NULL, true);
    for (size_t t = 0; t < ROWS(topics); t++) {
        size_t len = strlen(topics[t]), taken = 0, n = 0;
        uint32_t ids[MOST];
        for (size_t i = 0; i < plan->count; i++) {
            const struct subscription *one = &plan->list[i];
            if (!topic_filter_matches(one->filter, strlen(one->filter), topics[t], len))
                continue;
            taken += subscriptions_take(plan, topics[t], len, &one->id, one->id != 0);
            if (one->id != 0)
                ids[n++] = one->id;
        }
        CHECK(taken == 1, "%s: %zu copies", topics[t], taken);
        CHECK(subscriptions_take(plan, topics[t], len, ids, n), "%s: all at once", topics[t]);
    }
    subscriptions_free(plan);
}

static void a_copy_with_an_unknown_identifier_is_taken(void **state)
{
    (void)state;
    static const char *const filters[] = { "a/+/c", "a/b/+", NULL };
    struct subscriptions *plan = plan_of(filters, NULL, true);
    uint32_t larger = plan->list[1].id, unknown = plan->list[1].id + 1;
    const uint32_t both[] = { larger, unknown };
    assert_false(subscriptions_take(plan, "a/b/c", 5, &larger, 1));
    assert_true(subscriptions_take(plan, "a/b/c", 5, &unknown, 1));
    assert_true(subscriptions_take(plan, "a/b/c", 5, both, 2));
    assert_true(subscriptions_take(plan, "a/b/c", 5, NULL, 0));
    subscriptions_free(plan);
}

static void thousands_of_filters_make_a_plan(void **state)
{
    (void)state;
    enum {
        COUNT = 4000
    };
    struct link_filter *filters = calloc(COUNT, sizeof(*filters));
    char(*texts)[40] = calloc(COUNT, sizeof(*texts));
    for (size_t i = 0; i < COUNT; i++) {
        const char *const forms[] = { "site%zu/+/temp", "site/%zu/temp", "site%zu/a/#", "+/%zu/x" };
        snprintf(texts[i], sizeof(texts[i]), forms[i % 4], i / 4);
        filters[i] = (struct link_filter){ texts[i], 1 };
    }
    struct subscriptions *plan;
    assert_int_equal(subscriptions_new(filters, COUNT, true, &plan), 0);
    assert_int_equal(plan->count, COUNT);
    subscriptions_free(plan);
    free(filters);
    free(texts);
}

TEST_SUITE("link subscriptions",
           cmocka_unit_test(plans_leave_out_what_is_covered_and_part_what_overlaps),
           cmocka_unit_test(identifiers_depend_on_all_that_overlap_and_on_nothing_else),
           cmocka_unit_test(each_message_is_taken_once),
           cmocka_unit_test(a_copy_with_an_unknown_identifier_is_taken),
           cmocka_unit_test(thousands_of_filters_make_a_plan));
