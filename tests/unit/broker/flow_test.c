/* SPDX-License-Identifier: MIT */

#include "broker/flow.h"

#include "../suite.h"
#include "broker/session.h"
#include "broker/share.h"

#include <stdlib.h>

static struct publication *message(uint32_t number)
{
    struct publication *publication =
        publication_new("t", 1, NULL, 0, &number, (uint32_t)sizeof(number));
    assert_non_null(publication);
    return publication;
}

static uint32_t number_of(const struct publication *publication)
{
    uint32_t number;
    memcpy(&number, publication_payload(publication), sizeof(number));
    return number;
}

static const struct terms qos_1 = { .qos = 1 }, qos_2 = { .qos = 2 };

static void identifiers_go_from_1_to_65535_and_around(void **state)
{
    (void)state;
    struct flow *list = NULL, *flow = flow_new(&list, NULL);
    for (uint32_t i = 0; i < 3 * 65535; i++) {
        uint16_t id = flow_launch(flow, NULL, NULL, &qos_1);
        CHECK(id == i % 65535 + 1, "message %u has %u", i, id);
        flow_land(flow, flow_flight(flow, id));
        CHECK(flow_is_empty(flow), "%s", "is not empty");
    }
    flow_free(flow);
    assert_null(list);
}

/* The oldest is never acknowledged: at 65535 places the window is full, and not a message sooner. */
static void hole_of_65535_messages_closes_the_window(void **state)
{
    (void)state;
    struct flow *list = NULL, *flow = flow_new(&list, NULL);
    uint16_t oldest = flow_launch(flow, NULL, NULL, &qos_1);
    for (uint32_t i = 1; i < 65535; i++) {
        CHECK(flow_has_room(flow, 2, 0), "full after %u", i);
        uint16_t id = flow_launch(flow, NULL, NULL, &qos_2);
        struct flow_item *item = flow_flight(flow, id);
        flow_received(flow, item);
        flow_land(flow, item);
        assert_null(flow_flight(flow, id));
    }
    assert_false(flow_has_room(flow, 65535, 0));
    assert_int_equal(flow->in_flight, 1);
    flow_land(flow, flow_flight(flow, oldest));
    assert_true(flow_is_empty(flow));
    assert_int_equal(flow_launch(flow, NULL, NULL, &qos_1), 1);
    flow_free(flow);
}

static void window_counts_messages_and_bytes_and_lets_one_through(void **state)
{
    (void)state;
    struct flow *list = NULL, *flow = flow_new(&list, NULL);
    assert_true(flow_has_room(flow, 1, 1)); /* larger than the window, but nothing else is there */
    uint16_t id = flow_launch(flow, message(1), NULL, &qos_1);
    uint64_t size = publication_size(flow_flight(flow, id)->publication);
    assert_int_equal(flow->in_flight_bytes, size);
    assert_false(flow_has_room(flow, 1, 0));
    assert_true(flow_has_room(flow, 2, 0));
    assert_false(flow_has_room(flow, 2, size));
    assert_true(flow_has_room(flow, 2, size + 1));
    flow_land(flow, flow_flight(flow, id));
    assert_int_equal(flow->in_flight_bytes, 0);
    id = flow_launch(flow, message(2), NULL, &qos_2);
    flow_received(flow, flow_flight(flow, id)); /* the client has it; only its identifier is left */
    assert_int_equal(flow->in_flight_bytes, 0);
    assert_int_equal(flow->in_flight, 1);
    flow_free(flow);
}

static void queue_drops_what_has_expired_and_keeps_the_order(void **state)
{
    (void)state;
    struct flow *list = NULL, *flow = flow_new(&list, NULL);
    for (uint32_t i = 0; i < 50; i++) {
        struct publication *publication = message(i);
        publication->expires = i % 3 == 0 ? 0 : i % 3 == 1 ? 10 : 20;
        assert_int_equal(flow_queue(flow, publication, NULL, &qos_1), 0);
    }
    assert_int_equal(flow_queue_expire(flow, 9), 0);
    assert_int_equal(flow_queue_expire(flow, 10), 17);
    assert_int_equal(flow->queued, 33);
    struct publication *late = message(50);
    late->expires = 10;
    assert_int_equal(flow_queue(flow, late, NULL, &qos_1), 0);
    assert_int_equal(flow_queue_expire(flow, 10), 0); /* it has looked in this second */
    assert_int_equal(flow_queue_expire(flow, 11), 1);
    uint64_t bytes = flow->queued_bytes;
    assert_true(bytes > 0);
    for (uint32_t i = 0; i < 50; i++) {
        if (i % 3 == 1)
            continue;
        CHECK(number_of(flow_queue_head(flow)->publication) == i, "%u is not the next", i);
        struct flow_item item = flow_queue_take(flow);
        flow_item_release(&item);
    }
    assert_int_equal(flow->queued_bytes, 0);
    assert_null(flow_queue_head(flow));
    flow_free(flow);
}

/* ---- At random, beside a model that is too simple to be wrong ---- */

#define MOST 65536

struct expected {
    uint16_t id;
    uint32_t number;
    enum flight_state state;
    bool unsent;
};

struct model {
    struct expected flights[MOST]; /* the oldest first */
    size_t count;
    uint16_t last_id;
    uint32_t queue[MOST];
    size_t queued;
};

static struct expected *expected_flight(struct model *m, uint16_t id)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->flights[i].id == id)
            return &m->flights[i];
    return NULL;
}

static void forget(struct model *m, struct expected *e)
{
    memmove(e, e + 1, (size_t)(m->flights + --m->count - e) * sizeof(*e));
}

static void compare(struct flow *flow, struct model *m, unsigned step)
{
    size_t unsent = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->count; i++) {
        const struct expected *e = &m->flights[i];
        const struct flow_item *item = flow_flight(flow, e->id);
        CHECK(item && item->state == e->state && item->unsent == e->unsent, "step %u: flight %u",
              step, e->id);
        if (e->state != FLIGHT_RELEASED) {
            CHECK(number_of(item->publication) == e->number, "step %u: message of %u", step, e->id);
            bytes += publication_size(item->publication);
        }
        unsent += e->unsent;
    }
    CHECK(flow->unsent == unsent && flow->in_flight == m->count - unsent, "step %u: %u + %u of %zu",
          step, flow->unsent, flow->in_flight, m->count);
    CHECK(flow->in_flight_bytes == bytes && flow->queued == m->queued, "step %u: counts", step);
    const struct flow_item *head = flow_queue_head(flow);
    CHECK(m->queued ? head && number_of(head->publication) == m->queue[0] : !head,
          "step %u: head of the queue", step);
}

static void flow_is_what_a_naive_model_of_it_is(void **state)
{
    (void)state;
    struct model *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    struct flow *list = NULL, *flow = flow_new(&list, NULL);
    unsigned seed = 4711;
    for (unsigned step = 0; step < 60000; step++) {
        int chance = rand_r(&seed) % 100;
        uint32_t pick = (uint32_t)rand_r(&seed);
        struct expected *e = m->count ? &m->flights[pick % (pick & 64 ? m->count : 1)] : NULL;
        if (chance < 40 && m->count < 30) {
            const struct terms *terms = pick & 1 ? &qos_1 : &qos_2;
            uint16_t id = flow_launch(flow, message(step), NULL, terms);
            m->last_id = m->count == 0 && flow->span == 1 ? id : m->last_id % 65535 + 1;
            CHECK(id == m->last_id, "step %u: identifier %u", step, id);
            m->flights[m->count++] =
                (struct expected){ id, step, pick & 1 ? FLIGHT_PUBLISHED_1 : FLIGHT_PUBLISHED_2,
                                   false };
        } else if (chance < 60 && e && !e->unsent) {
            struct flow_item *item = flow_flight(flow, e->id);
            if (e->state == FLIGHT_PUBLISHED_2 && pick & 128) {
                flow_received(flow, item);
                e->state = FLIGHT_RELEASED;
            } else {
                flow_land(flow, item);
                forget(m, e);
            }
        } else if (chance < 62) {
            flow_interrupted(flow);
            for (size_t i = 0; i < m->count; i++)
                m->flights[i].unsent = true;
        } else if (chance < 80) {
            uint16_t id = 0;
            size_t i = 0;
            while (i < m->count && !m->flights[i].unsent)
                i++;
            struct flow_item *item = flow_next_unsent(flow, &id);
            CHECK((item != NULL) == (i < m->count) && (!item || id == m->flights[i].id),
                  "step %u: not the oldest to be sent again", step);
            if (item)
                m->flights[i].unsent = false;
        } else if (chance < 90 && m->queued < 100) {
            assert_int_equal(flow_queue(flow, message(step), NULL, &qos_1), 0);
            m->queue[m->queued++] = step;
        } else if (m->queued) {
            struct flow_item item = flow_queue_take(flow);
            CHECK(number_of(item.publication) == m->queue[0], "step %u: out of order", step);
            flow_item_release(&item);
            memmove(m->queue, m->queue + 1, --m->queued * sizeof(m->queue[0]));
        }
        uint16_t any = (uint16_t)pick;
        CHECK((flow_flight(flow, any) != NULL) == (expected_flight(m, any) != NULL), "step %u: %u",
              step, any);
        compare(flow, m, step);
    }
    flow_free(flow);
    free(m);
}

/* ---- Shared subscriptions ---- */

struct orphans {
    uint32_t numbers[64];
    bool sent[64];
    size_t count;
};

static bool take_even(void *context, struct flow_item *item, bool sent)
{
    struct orphans *orphans = context;
    uint32_t number = number_of(item->publication);
    if (number % 2)
        return false;
    orphans->sent[orphans->count] = sent;
    orphans->numbers[orphans->count++] = number;
    flow_item_release(item);
    return true;
}

static void only_what_was_not_received_for_sure_is_offered_to_others(void **state)
{
    (void)state;
    struct shares *shares = shares_new();
    struct session session = { 0 };
    struct share_member *a = shares_join(shares, "a", 1, "t", 1, 0, &session),
                        *b = shares_join(shares, "b", 1, "t", 1, 0, &session);
    struct flow *list = NULL, *flow = flow_new(&list, NULL);
    /* 0 to 7 in flight by a, 8 to 15 by b, 16 to 23 by none; QoS 1 and 2 in turn by pairs; then the queue. */
    for (uint32_t i = 0; i < 48; i++) {
        struct share_member *by = i % 24 < 8 ? a : i % 24 < 16 ? b : NULL;
        struct terms terms = { .share = by, .qos = i / 2 % 2 ? 2 : 1 };
        if (by) {
            share_member_ref(by);
            atomic_fetch_add(&by->load, 1);
        }
        if (i < 24)
            assert_int_equal(flow_launch(flow, message(i), NULL, &terms), i + 1);
        else
            assert_int_equal(flow_queue(flow, message(i), NULL, &terms), 0);
    }
    struct orphans orphans = { .count = 0 };
    flow_take_shared(flow, a, take_even, &orphans);
    assert_int_equal(orphans.count, 4); /* those queued: what is in flight is completed */
    for (size_t i = 0; i < 4; i++)
        CHECK(orphans.numbers[i] == 24 + 2 * i && !orphans.sent[i], "%u", orphans.numbers[i]);

    flow_interrupted(flow);
    orphans.count = 0;
    flow_take_shared(flow, NULL, take_even, &orphans);
    static const uint32_t numbers[] = { 0, 4, 8, 12, 32, 34, 36, 38 };
    assert_int_equal(orphans.count, ROWS(numbers));
    for (size_t i = 0; i < ROWS(numbers); i++)
        CHECK(orphans.numbers[i] == numbers[i] && orphans.sent[i] == (i < 4), "%u",
              orphans.numbers[i]);
    assert_null(flow_flight(flow, 1));
    assert_int_equal(flow->unsent, 20);
    assert_int_equal(flow->queued, 16);
    uint16_t id;
    assert_non_null(flow_next_unsent(flow, &id));
    assert_int_equal(id, 2);

    flow_free(flow);
    assert_int_equal(atomic_load(&a->load), 0);
    assert_int_equal(atomic_load(&b->load), 0);
    shares_leave(shares, a);
    shares_leave(shares, b);
    shares_free(shares);
}

TEST_SUITE("broker flow", cmocka_unit_test(identifiers_go_from_1_to_65535_and_around),
           cmocka_unit_test(hole_of_65535_messages_closes_the_window),
           cmocka_unit_test(window_counts_messages_and_bytes_and_lets_one_through),
           cmocka_unit_test(queue_drops_what_has_expired_and_keeps_the_order),
           cmocka_unit_test(flow_is_what_a_naive_model_of_it_is),
           cmocka_unit_test(only_what_was_not_received_for_sure_is_offered_to_others));
