/* SPDX-License-Identifier: MIT */

#include "admin/conservation.h"
#include "admin/counters.h"

#include "../suite.h"

#include <string.h>

static struct observed_link link = { .name = "l" };

/* Ten messages, of which one matched nothing, and twelve deliveries, of which all are accounted for. */
static struct observation balanced(void)
{
    link.stats.received = 9;
    struct observation o = OBSERVATION_INIT;
    o.links = &link;
    o.link_count = 1;
    o.routing = (struct routing_stats){ .received = 10, .internal = 1 };
    o.routing.engine = (struct engine_stats){ .messages = 10, .unmatched = 1, .deliveries = 12 };
    o.sum = (struct target_stats){ .created = 12,
                                   .restored = 3,
                                   .sent = 8,
                                   .rejected = 1,
                                   .given_up = 1,
                                   .dropped = 1,
                                   .waiting = 4,
                                   .spilled = 2 };
    return o;
}

static void each_law_is_compared(void **state)
{
    (void)state;
    struct observation good = balanced();
    struct buf why = BUF_INIT(4096);
    assert_int_equal(target_stats_difference(&good.sum), 0);
    assert_int_equal(conservation_compare(&good, &why), 0);

    struct observation bad[5];
    for (size_t i = 0; i < 5; i++)
        bad[i] = good;
    bad[0].routing.internal = 0;
    bad[1].routing.engine.messages--;
    bad[2].routing.engine.deliveries++;
    bad[3].sum.handed_over++;
    buf_add_str(&bad[4].unbalanced, "target s:t has 1 deliveries more or less");
    static const char *const words[] = {
        "messages handed on by links, and internal ones 9, received 10",
        "messages received 10, routed, refused and waiting 9",
        "deliveries made by routes 13, created 12",
        "deliveries handed over 1, taken over 0",
        "target s:t has 1 deliveries more or less",
    };
    for (size_t i = 0; i < 5; i++) {
        buf_clear(&why);
        assert_int_equal(conservation_compare(&bad[i], &why), 1);
        assert_string_equal(buf_str(&why), words[i]);
    }
    buf_release(&bad[4].unbalanced);
    buf_release(&why);
}

static void every_way_in_and_out_counts(void **state)
{
    (void)state;
    const struct target_stats in[] = {
        { .created = 1 },    { .restored = 1 }, { .revived = 1 },
        { .taken_over = 1 }, { .moved_in = 1 },
    };
    const struct target_stats out[] = {
        { .sent = 1 },      { .rejected = 1 }, { .given_up = 1 },    { .dropped = 1 },
        { .forgotten = 1 }, { .refused = 1 },  { .handed_over = 1 }, { .unreadable = 1 },
        { .removed = 1 },   { .left = 1 },     { .waiting = 1 },     { .moved_out = 1 },
    };
    for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++)
        assert_int_equal(target_stats_difference(&in[i]), 1);
    for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++)
        assert_int_equal(target_stats_difference(&out[i]), -1);
}

static void a_difference_is_believed_when_it_lasts(void **state)
{
    (void)state;
    struct conservation c = { 0 };
    struct observation good = balanced(), bad = balanced();
    bad.sum.created++;
    for (int i = 1; i < CONSERVATION_LOOKS; i++) {
        assert_false(conservation_look(&c, &bad, &bad));
        assert_false(conservation_look(&c, &good, &bad)); /* it moves: nothing is learnt */
        assert_false(c.is_broken);
        conservation_look(&c, &good, &good);
    }
    for (int i = 1; i < CONSERVATION_LOOKS; i++)
        assert_false(conservation_look(&c, &bad, &bad));
    assert_true(conservation_look(&c, &bad, &bad));
    assert_true(c.is_broken);
    assert_string_equal(c.why, "deliveries made by routes 12, created 13");
    assert_false(conservation_look(&c, &bad, &bad));
    assert_true(conservation_look(&c, &good, &good));
    assert_false(c.is_broken);
}

static void counters_that_are_read_at_different_moments_are_not_compared(void **state)
{
    (void)state;
    struct conservation c = { 0 };
    for (unsigned i = 0; i < 100; i++) {
        struct observation before = balanced(), after = balanced();
        before.routing.engine.deliveries += i;
        after.routing.engine.deliveries += i + 1;
        assert_false(conservation_look(&c, &before, &after));
    }
    /* What is exact at every moment is compared. */
    struct observation before = balanced(), after = balanced();
    after.routing.received++;
    for (unsigned i = 0; i < CONSERVATION_LOOKS; i++)
        conservation_look(&c, &before, &after);
    assert_true(c.is_broken);
}

static void counters_are_written_by_their_tables(void **state)
{
    (void)state;
    const struct observation o = balanced();
    struct buf text = BUF_INIT(4096);
    counters_write(counters_of_target, &o.sum, true, &text);
    assert_string_equal(buf_str(&text), " created=12 restored=3 sent=8 rejected=1 given_up=1 "
                                        "dropped=1 waiting=4 spilled=2");
    buf_release(&text);
    json_t *json = counters_json(counters_of_target, &o.sum, false);
    assert_int_equal(json_integer_value(json_object_get(json, "spilled")), 2);
    assert_true(json_is_false(json_object_get(json, "failing")));
    json_decref(json);
}

TEST_SUITE("conservation", cmocka_unit_test(each_law_is_compared),
           cmocka_unit_test(every_way_in_and_out_counts),
           cmocka_unit_test(a_difference_is_believed_when_it_lasts),
           cmocka_unit_test(counters_that_are_read_at_different_moments_are_not_compared),
           cmocka_unit_test(counters_are_written_by_their_tables));
