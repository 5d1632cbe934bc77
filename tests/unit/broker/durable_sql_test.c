/* SPDX-License-Identifier: MIT */

/* Each op, written to a real file and read back. */

#include "durable_world.h"

/* ---- Sessions, subscriptions, identifiers ---- */

static void an_empty_store_has_nothing(void **state)
{
    struct durable_world *w = *state;
    world_expect(w, "");
    assert_int_equal(w->last, 0);
    assert_int_equal(w->unreadable, 0);
}

static void a_session_comes_back_as_it_was_last(void **state)
{
    struct durable_world *w = *state;
    struct publication *will = publication_text("gone", "bye");
    will->qos = 1;
    will->retain = true;
    struct durable_op ops[] = {
        { .kind = DURABLE_SESSION,
          .session = 7,
          .text = (char[]){ "one" },
          .text_len = 3,
          .persistent = true,
          .expiry = UINT32_MAX,
          .left_ms = 1234567890123 },
        { .kind = DURABLE_SESSION,
          .session = 9,
          .text = (char[]){ "two" },
          .text_len = 3,
          .publication = will,
          .will_delay = 4,
          .will_expiry = UINT32_MAX },
    };
    world_apply(w, ops, 2);
    world_reopen(w);
    world_expect(w, "session 7 one persistent expiry=4294967295 left=1234567890123\n"
                    "session 9 two expiry=0 left=0 will 4 4294967295 gone=bye q1r\n");
    assert_int_equal(w->last, 9);

    ops[1].publication = NULL;
    ops[1].persistent = true;
    ops[1].expiry = 5;
    ops[1].left_ms = 77;
    world_apply(w, &ops[1], 1);
    world_reopen(w);
    world_expect(w, "session 7 one persistent expiry=4294967295 left=1234567890123\n"
                    "session 9 two persistent expiry=5 left=77\n");
    publication_unref(will);
}

static void subscriptions_come_back(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "one");
    session_op(w, 2, "two");
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "", "a/#", 0, 1);
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "group", "a/#", 268435455, 2);
    subscription_op(w, DURABLE_SUBSCRIBE, 2, "", "a/#", 3, 0x0e);
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "", "b", 5, 0);
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "", "b", 6, 9);
    world_reopen(w);
    world_expect(w, "session 1 one persistent expiry=300 left=0\n"
                    "  1 subscription :a/# 0 1\n"
                    "  1 subscription :b 6 9\n"
                    "  1 subscription group:a/# 268435455 2\n"
                    "session 2 two persistent expiry=300 left=0\n"
                    "  2 subscription :a/# 3 14\n");
    subscription_op(w, DURABLE_UNSUBSCRIBE, 1, "", "a/#", 0, 0);
    subscription_op(w, DURABLE_UNSUBSCRIBE, 1, "", "nothing", 0, 0);
    world_reopen(w);
    world_expect(w, "session 1 one persistent expiry=300 left=0\n"
                    "  1 subscription :b 6 9\n"
                    "  1 subscription group:a/# 268435455 2\n"
                    "session 2 two persistent expiry=300 left=0\n"
                    "  2 subscription :a/# 3 14\n");
}

static void identifiers_come_back(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 3, "x");
    simple_op(w, DURABLE_ID_ADD, 3, 65535);
    simple_op(w, DURABLE_ID_ADD, 3, 2);
    simple_op(w, DURABLE_ID_ADD, 3, 1);
    simple_op(w, DURABLE_ID_ADD, 3, 1);
    simple_op(w, DURABLE_ID_REMOVE, 3, 2);
    simple_op(w, DURABLE_ID_REMOVE, 3, 4);
    simple_op(w, DURABLE_NOTHING, 3, 0);
    world_reopen(w);
    world_expect(w, "session 3 x persistent expiry=300 left=0\n"
                    "  3 received 1\n"
                    "  3 received 65535\n");
}

/* ---- Messages ---- */

static void a_message_comes_back_with_its_terms(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    struct publication *p = publication_text("a/b", "hello");
    p->qos = 2;
    p->retain = true;
    struct kept *kept[] = { kept_of(10, 30), kept_of(11, 30) };
    struct identifiers *ids = malloc(sizeof(*ids) + 2 * sizeof(uint32_t));
    *ids = (struct identifiers){ .refs = 1, .count = 2 };
    ids->values[0] = 1;
    ids->values[1] = 268435455;
    struct durable_op ops[] = {
        { .kind = DURABLE_MESSAGE, .session = 1, .kept = kept[0], .publication = p, .qos = 0 },
        { .kind = DURABLE_MESSAGE,
          .session = 1,
          .kept = kept[1],
          .publication = p,
          .qos = 1,
          .retain = true,
          .ids = ids,
          .text = (char[]){ "group/a/+" },
          .text_len = 9 },
    };
    world_apply(w, ops, 2);
    assert_int_equal(atomic_load(&kept[0]->state), KEPT_WRITTEN);
    world_reopen(w);
    world_expect(w,
                 "session 1 x persistent expiry=300 left=0\n"
                 "  1 message 10 of 30 id=0 q0 a/b=hello q2r\n"
                 "  1 message 11 of 30 id=0 q1r share=group/a/+ [1] [268435455] a/b=hello q2r\n");
    assert_int_equal(world_messages(w), 1);
    assert_int_equal(w->last, 30);
    free(ids);
    free(kept[0]);
    free(kept[1]);
    publication_unref(p);
}

static void a_flight_of_qos_2_comes_back_in_each_state(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    struct publication *p = publication_text("t", "m");
    struct kept *kept = kept_of(5, 6);
    world_put(w, 1, 4, 6, "m");
    message_op(w, DURABLE_MESSAGE, 1, kept, p, 0);
    message_op(w, DURABLE_LAUNCH, 1, kept, NULL, 65535);
    world_run(w, "UPDATE queued SET qos = 2 WHERE number = 5");
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "  1 message 5 of 6 id=65535 q2 t=m q0\n"
                    "  1 message 4 of 6 id=0 q1 t=m q0\n");
    message_op(w, DURABLE_RELEASE, 1, kept, NULL, 65535);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "  1 message 5 of 0 id=65535 q2\n"
                    "  1 message 4 of 6 id=0 q1 t=m q0\n");
    world_land(w, 1, 4, 6);
    assert_int_equal(world_messages(w), 0);
    world_reopen(w);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "  1 message 5 of 0 id=65535 q2\n");
    message_op(w, DURABLE_LAND, 1, kept, NULL, 0);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n");
    free(kept);
    publication_unref(p);
}

static void what_is_gone_before_it_was_written_is_never_written(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    struct publication *p = publication_text("t", "m");
    struct kept *kept = kept_of(5, 6);
    atomic_store(&kept->state, KEPT_GONE);
    struct durable_op ops[] = {
        { .kind = DURABLE_MESSAGE, .session = 1, .kept = kept, .publication = p, .qos = 2 },
        { .kind = DURABLE_LAUNCH, .session = 1, .kept = kept, .packet_id = 1 },
        { .kind = DURABLE_RELEASE, .session = 1, .kept = kept, .packet_id = 1 },
        { .kind = DURABLE_LAND, .session = 1, .kept = kept },
    };
    world_apply(w, ops, ROWS(ops));
    assert_int_equal(atomic_load(&kept->state), KEPT_GONE);
    assert_int_equal(world_messages(w), 0);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n");
    free(kept);
    publication_unref(p);
}

static void a_group_that_was_rolled_back_comes_again(void **state)
{
    struct durable_world *w = *state;
    struct publication *p = publication_text("t", "m");
    struct kept *stays = kept_of(5, 6), *goes = kept_of(7, 6), *flies = kept_of(8, 9);
    struct durable_op ops[] = {
        { .kind = DURABLE_SESSION,
          .session = 1,
          .text = (char[]){ "x" },
          .text_len = 1,
          .persistent = true },
        { .kind = DURABLE_MESSAGE, .session = 1, .kept = stays, .publication = p, .qos = 1 },
        { .kind = DURABLE_MESSAGE, .session = 1, .kept = goes, .publication = p, .qos = 1 },
        { .kind = DURABLE_MESSAGE, .session = 1, .kept = flies, .publication = p, .qos = 2 },
        { .kind = DURABLE_LAND, .session = 1, .kept = goes },
        { .kind = DURABLE_LAUNCH, .session = 1, .kept = flies, .packet_id = 3 },
        { .kind = DURABLE_RELEASE, .session = 1, .kept = flies, .packet_id = 3 },
        { .kind = DURABLE_LOAD, .session = 1, .expiry = 10 },
    };
    world_apply_late(w, ops, ROWS(ops), 2);
    struct durable_op *load = &ops[ROWS(ops) - 1];
    assert_int_equal(load->loaded_count, 1);
    assert_int_equal(load->loaded_rows, 1);
    assert_int_equal(load->loaded_last, 5);
    stored_message_release(&load->loaded[0]);
    free(load->loaded);
    world_reopen(w);
    world_expect(w, "session 1 x persistent expiry=0 left=0\n"
                    "  1 message 8 of 0 id=3 q2\n"
                    "  1 message 5 of 6 id=0 q1 t=m q0\n");
    assert_int_equal(world_messages(w), 1);
    free(stays);
    free(goes);
    free(flies);
    publication_unref(p);
}

static void what_moves_is_in_one_place_in_any_order(void **state)
{
    struct durable_world *w = *state;
    struct publication *p = publication_text("t", "m");
    struct kept *old = kept_of(5, 5), *fresh = kept_of(7, 7);
    struct durable_op moved[] = {
        { .kind = DURABLE_MESSAGE, .session = 2, .kept = fresh, .publication = p, .qos = 1 },
        { .kind = DURABLE_LAND, .session = 1, .kept = old },
    };
    struct durable_op late = {
        .kind = DURABLE_MESSAGE,
        .session = 1,
        .kept = old,
        .publication = p,
        .qos = 1,
    };
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    world_apply_late(w, moved, ROWS(moved), 1);
    world_apply(w, &late, 1);
    world_reopen(w);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "session 2 y persistent expiry=300 left=0\n"
                    "  2 message 7 of 7 id=0 q1 t=m q0\n");
    free(old);
    free(fresh);
    publication_unref(p);
}

static void an_op_that_cannot_be_carried_out_leaves_the_others(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    world_run(w, "CREATE TRIGGER never BEFORE INSERT ON received WHEN new.packet_id = 2 "
                 "BEGIN SELECT RAISE(ABORT, 'no'); END");
    struct durable_op ops[] = {
        { .kind = DURABLE_ID_ADD, .session = 1, .packet_id = 1 },
        { .kind = DURABLE_ID_ADD, .session = 1, .packet_id = 2 },
        { .kind = DURABLE_ID_ADD, .session = 1, .packet_id = 3 },
    };
    world_apply(w, ops, ROWS(ops));
    assert_false(ops[0].failed);
    assert_true(ops[1].failed);
    assert_false(ops[2].failed);
    assert_int_equal(world_number(w, "SELECT sum(packet_id) FROM received"), 4);
}

static void a_message_of_several_sessions_goes_with_the_last(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    world_put(w, 1, 3, 5, "shared");
    world_put(w, 2, 4, 5, "shared");
    assert_int_equal(world_messages(w), 1);
    world_land(w, 1, 3, 5);
    assert_int_equal(world_messages(w), 1);
    world_reopen(w);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "session 2 y persistent expiry=300 left=0\n"
                    "  2 message 4 of 5 id=0 q1 t=shared q0\n");
    world_land(w, 2, 4, 5);
    assert_int_equal(world_messages(w), 0);
    /* Another worker's may come behind the end of the first. */
    world_put(w, 2, 6, 5, "shared");
    assert_int_equal(world_messages(w), 1);
}

TEST_SUITE("durable sql",
           cmocka_unit_test_setup_teardown(an_empty_store_has_nothing, world_set_up,
                                           world_tear_down),
           cmocka_unit_test_setup_teardown(a_session_comes_back_as_it_was_last, world_set_up,
                                           world_tear_down),
           cmocka_unit_test_setup_teardown(subscriptions_come_back, world_set_up, world_tear_down),
           cmocka_unit_test_setup_teardown(identifiers_come_back, world_set_up, world_tear_down),
           cmocka_unit_test_setup_teardown(a_message_comes_back_with_its_terms, world_set_up,
                                           world_tear_down),
           cmocka_unit_test_setup_teardown(a_flight_of_qos_2_comes_back_in_each_state, world_set_up,
                                           world_tear_down),
           cmocka_unit_test_setup_teardown(what_is_gone_before_it_was_written_is_never_written,
                                           world_set_up, world_tear_down),
           cmocka_unit_test_setup_teardown(a_group_that_was_rolled_back_comes_again, world_set_up,
                                           world_tear_down),
           cmocka_unit_test_setup_teardown(what_moves_is_in_one_place_in_any_order, world_set_up,
                                           world_tear_down),
           cmocka_unit_test_setup_teardown(an_op_that_cannot_be_carried_out_leaves_the_others,
                                           world_set_up, world_tear_down),
           cmocka_unit_test_setup_teardown(a_message_of_several_sessions_goes_with_the_last,
                                           world_set_up, world_tear_down));
