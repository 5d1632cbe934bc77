/* SPDX-License-Identifier: MIT */

#include "broker/share.h"

#include "../suite.h"
#include "broker/session.h"

#include <pthread.h>
#include <stdlib.h>

static struct share_member *join(struct shares *shares, const char *name, const char *filter,
                                 struct session *session)
{
    struct share_member *member =
        shares_join(shares, name, strlen(name), filter, strlen(filter), 0, session);
    assert_non_null(member);
    return member;
}

/* Chooses, and gives the reference back; the load stays. */
static const struct share_member *choose(struct share *share, const struct share_member *except)
{
    struct share_member *member = share_choose(share, except, false);
    share_member_unref(member);
    return member;
}

static void message_goes_to_the_next_who_is_connected_and_not_busy(void **state)
{
    (void)state;
    struct shares *shares = shares_new();
    struct session session = { 0 };
    struct share_member *m[3];
    for (size_t i = 0; i < 3; i++)
        m[i] = join(shares, "g", "t", &session);
    struct share *share = m[0]->share;
    for (size_t i = 0; i < 9; i++)
        CHECK(choose(share, NULL) == m[i % 3], "%zu: not in turn", i);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(atomic_load(&m[i]->load), 3);

    /* Busy ones are passed over; if all are, the least busy one has it. */
    atomic_store(&m[0]->load, 100);
    assert_ptr_equal(choose(share, NULL), m[1]);
    assert_ptr_equal(choose(share, NULL), m[1]);
    atomic_store(&m[1]->load, 90);
    atomic_store(&m[2]->load, 80);
    for (int i = 0; i < 5; i++)
        assert_ptr_equal(choose(share, NULL), m[2]);
    assert_ptr_not_equal(choose(share, m[2]), m[2]);

    /* Who is away comes last, however busy the others are. */
    atomic_store(&m[2]->connected, false);
    atomic_store(&m[2]->load, 0);
    for (int i = 0; i < 5; i++)
        assert_ptr_not_equal(choose(share, NULL), m[2]);
    atomic_store(&m[0]->connected, false);
    atomic_store(&m[1]->connected, false);
    assert_non_null(choose(share, NULL));
    assert_ptr_not_equal(choose(share, m[1]), m[1]);
    for (size_t i = 0; i < 3; i++)
        shares_leave(shares, m[i]);
    shares_free(shares);
}

static void what_is_on_disk_goes_to_who_keeps_it_there_and_none_to_who_is_full(void **state)
{
    (void)state;
    struct shares *shares = shares_new();
    struct session session = { 0 };
    struct share_member *m[3];
    for (size_t i = 0; i < 3; i++)
        m[i] = join(shares, "g", "t", &session);
    struct share *share = m[0]->share;
    atomic_store(&m[1]->durable, true);
    for (size_t i = 0; i < 5; i++) {
        struct share_member *member = share_choose(share, NULL, true);
        assert_ptr_equal(member, m[1]);
        share_member_unref(member);
        atomic_store(&m[1]->connected, i < 2);
    }
    atomic_store(&m[1]->connected, true);

    /* One that is away is better than one that is full; if all are full it is one that is here. */
    atomic_store(&m[0]->connected, false);
    atomic_store(&m[1]->most, 10);
    atomic_store(&m[1]->load, 10);
    atomic_store(&m[2]->most, 1);
    assert_ptr_equal(choose(share, NULL), m[2]);
    assert_false(share_member_is_full(m[2]));
    for (size_t i = 0; i < 5; i++)
        assert_ptr_equal(choose(share, NULL), m[0]);
    atomic_store(&m[0]->most, 1);
    for (size_t i = 0; i < 5; i++)
        assert_ptr_not_equal(choose(share, NULL), m[0]);
    assert_true(share_member_is_full(m[2]));
    for (size_t i = 0; i < 3; i++)
        shares_leave(shares, m[i]);
    shares_free(shares);
}

static void count_groups(struct share *share, void *context)
{
    (void)share;
    ++*(size_t *)context;
}

static size_t matching(struct shares *shares, const char *topic)
{
    size_t count = 0;
    shares_match(shares, topic, strlen(topic), count_groups, &count);
    return count;
}

static void group_is_its_name_and_filter_and_ends_with_its_last_member(void **state)
{
    (void)state;
    struct shares *shares = shares_new();
    struct session session = { 0 };
    assert_int_equal(matching(shares, "a/b"), 0);
    uint64_t before = shares_generation(shares);
    struct share_member *m1 = join(shares, "g", "a/#", &session),
                        *m2 = join(shares, "g", "a/#", &session),
                        *m3 = join(shares, "h", "a/#", &session),
                        *m4 = join(shares, "g", "a/b", &session);
    assert_ptr_equal(m1->share, m2->share);
    assert_ptr_not_equal(m1->share, m3->share);
    assert_int_equal(matching(shares, "a/b"), 3);
    assert_int_equal(matching(shares, "a/c"), 2);
    assert_true(shares_generation(shares) != before);
    const struct session other = { 0 };
    assert_ptr_equal(shares_find(shares, "g", 1, "a/#", 3, 0, &session), m1);
    assert_ptr_equal(shares_find(shares, "g", 1, "a/b", 3, 0, &session), m4);
    assert_ptr_equal(shares_find(shares, "h", 1, "a/#", 3, 0, &session), m3);
    assert_null(shares_find(shares, "h", 1, "a/b", 3, 0, &session));
    assert_null(shares_find(shares, "g", 1, "a/#", 3, 1, &session));
    assert_null(shares_find(shares, "g", 1, "a/#", 3, 0, &other));

    before = shares_generation(shares);
    shares_leave(shares, m1);
    assert_int_equal(shares_generation(shares), before); /* the group is still there */
    struct share_member *held = share_member_ref(m2);    /* as a message under way has it */
    struct share *share = share_ref(m2->share);
    shares_leave(shares, m2);
    assert_true(shares_generation(shares) != before);
    assert_true(atomic_load(&held->left));
    assert_null(share_choose(share, NULL, false));
    assert_int_equal(matching(shares, "a/b"), 2);
    share_member_unref(held);
    share_unref(share);
    shares_leave(shares, m3);
    shares_leave(shares, m4);
    assert_int_equal(matching(shares, "a/b"), 0);
    shares_free(shares);
}

/* ---- Threads ---- */

#define MEMBERS 8

static void gather(struct share *share, void *context)
{
    struct share **found = context;
    if (!*found)
        *found = share_ref(share);
}

struct runner {
    struct shares *shares;
    unsigned number;
    unsigned chosen;
};

static void *run(void *context)
{
    struct runner *r = context;
    unsigned seed = r->number;
    struct session session = { 0 };
    struct share_member *members[MEMBERS] = { NULL };
    for (int i = 0; i < 3000; i++) {
        struct share_member **member = &members[rand_r(&seed) % MEMBERS];
        if (*member)
            shares_leave(r->shares, *member);
        *member = *member ? NULL
                          : shares_join(r->shares, "g", 1, rand_r(&seed) % 2 ? "a" : "+", 1,
                                        r->number, &session);
        struct share *share = NULL;
        shares_match(r->shares, "a", 1, gather, &share);
        struct share_member *chosen = share ? share_choose(share, NULL, false) : NULL;
        r->chosen += chosen != NULL;
        if (chosen)
            share_member_done(chosen);
        share_member_unref(chosen);
        share_unref(share);
    }
    for (size_t i = 0; i < MEMBERS; i++)
        if (members[i])
            shares_leave(r->shares, members[i]);
    return NULL;
}

static void members_come_and_go_while_others_choose(void **state)
{
    (void)state;
    struct shares *shares = shares_new();
    struct runner runners[3];
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++) {
        runners[i] = (struct runner){ .shares = shares, .number = i };
        assert_int_equal(pthread_create(&threads[i], NULL, run, &runners[i]), 0);
    }
    unsigned chosen = 0;
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        chosen += runners[i].chosen;
    }
    assert_true(chosen > 1000);
    assert_int_equal(matching(shares, "a"), 0);
    shares_free(shares);
}

TEST_SUITE("broker share",
           cmocka_unit_test(what_is_on_disk_goes_to_who_keeps_it_there_and_none_to_who_is_full),
           cmocka_unit_test(message_goes_to_the_next_who_is_connected_and_not_busy),
           cmocka_unit_test(group_is_its_name_and_filter_and_ends_with_its_last_member),
           cmocka_unit_test(members_come_and_go_while_others_choose));
