/* SPDX-License-Identifier: MIT */

#include "broker/interest.h"
#include "mqtt/topic.h"

#include "../suite.h"
#include "random_topic.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

static uint64_t match(struct interest *interest, const char *topic)
{
    return interest_match(interest, topic, strlen(topic));
}

static void workers_are_found_by_what_their_filters_match(void **state)
{
    (void)state;
    struct interest *interest = interest_new();
    assert_int_equal(match(interest, "a/b"), 0);
    assert_int_equal(interest_add(interest, 0, "a/b", 3), 0);
    assert_int_equal(interest_add(interest, 63, "a/+", 3), 0);
    assert_int_equal(interest_add(interest, 5, "#", 1), 0);
    assert_true(match(interest, "a/b") == (1 | UINT64_C(1) << 63 | 1 << 5));
    assert_true(match(interest, "a/c") == (UINT64_C(1) << 63 | 1 << 5));
    assert_true(match(interest, "$SYS") == 0);
    interest_free(interest);
}

static void worker_is_in_a_filter_once(void **state)
{
    (void)state;
    struct interest *interest = interest_new();
    interest_add(interest, 1, "a", 1);
    const uint64_t generation = interest_generation(interest);
    interest_add(interest, 1, "a", 1);
    interest_remove(interest, 2, "a", 1);
    interest_remove(interest, 1, "b", 1);
    assert_true(interest_generation(interest) == generation);
    interest_add(interest, 2, "a", 1);
    assert_true(interest_generation(interest) > generation);
    assert_int_equal(match(interest, "a"), 6);
    assert_int_equal(interest_count(interest, NULL), 1);
    interest_remove(interest, 1, "a", 1);
    assert_int_equal(match(interest, "a"), 4);
    interest_remove(interest, 2, "a", 1);
    assert_int_equal(match(interest, "a"), 0);
    assert_int_equal(interest_count(interest, NULL), 0);
    interest_free(interest);
}

static void memory_does_not_grow_with_changes(void **state)
{
    (void)state;
    struct interest *interest = interest_new();
    char filter[32];
    size_t first = 0, bytes = 0;
    for (int round = 0; round < 4; round++) {
        for (unsigned i = 0; i < 20000; i++) {
            const size_t len = (size_t)snprintf(filter, sizeof filter, "load/%u", i);
            interest_add(interest, i % 3, filter, len);
            interest_add(interest, 3, filter, len);
            interest_remove(interest, round % 2 ? i % 3 : 3, filter, len);
        }
        for (unsigned i = 0; round % 2 && i < 20000; i++) {
            const size_t len = (size_t)snprintf(filter, sizeof filter, "load/%u", i);
            interest_remove(interest, 3, filter, len);
        }
        interest_count(interest, &bytes);
        first = round ? first : bytes;
        CHECK(bytes <= first, "round %d: %zu bytes, %zu at first", round, bytes, first);
    }
    assert_int_equal(interest_count(interest, &bytes), 0);
    CHECK(bytes < 400000, "%zu bytes are left", bytes);
    interest_free(interest);
}

/* ---- Against a list ---- */

#define ROOM 200

struct model_row {
    char filter[RANDOM_TOPIC_SIZE];
    size_t len;
    uint64_t workers;
};

static struct model_row *model_find(struct model_row *rows, size_t *count, const char *filter,
                                    size_t len)
{
    for (size_t i = 0; i < *count; i++)
        if (rows[i].len == len && memcmp(rows[i].filter, filter, len) == 0)
            return &rows[i];
    struct model_row *row = &rows[(*count)++];
    *row = (struct model_row){ .len = len };
    memcpy(row->filter, filter, len);
    return row;
}

static void index_agrees_with_a_list_through_random_changes(void **state)
{
    (void)state;
    for (unsigned run = 1; run <= 20; run++) {
        struct interest *interest = interest_new();
        static struct model_row rows[ROOM];
        size_t count = 0;
        uint64_t random = run;
        for (unsigned step = 0; step < 3000; step++) {
            char text[RANDOM_TOPIC_SIZE];
            size_t len = random_topic(&random, text, 4, true);
            const unsigned worker = random_below(&random, 8) * 9;
            struct model_row *row = count < ROOM ? model_find(rows, &count, text, len)
                                                 : &rows[random_below(&random, ROOM)];
            const uint64_t before = row->workers;
            const uint64_t generation = interest_generation(interest);
            if (random_below(&random, 2)) {
                row->workers |= UINT64_C(1) << worker;
                assert_int_equal(interest_add(interest, worker, row->filter, row->len), 0);
            } else {
                row->workers &= ~(UINT64_C(1) << worker);
                interest_remove(interest, worker, row->filter, row->len);
            }
            CHECK((interest_generation(interest) != generation) == (row->workers != before),
                  "run %u: the generation", run);

            len = random_topic(&random, text, 4, false);
            uint64_t expected = 0;
            size_t filters = 0;
            for (size_t i = 0; i < count; i++) {
                filters += rows[i].workers != 0;
                if (topic_filter_matches(rows[i].filter, rows[i].len, text, len))
                    expected |= rows[i].workers;
            }
            const uint64_t found = interest_match(interest, text, len);
            CHECK(found == expected, "run %u, %.*s: %llx, not %llx", run, (int)len, text,
                  (unsigned long long)found, (unsigned long long)expected);
            CHECK(interest_count(interest, NULL) == filters, "run %u: the count", run);
        }
        interest_free(interest);
    }
}

/* ---- Several threads ---- */

#define THREADS 4
#define ROUNDS  300

struct shared {
    struct interest *interest;
    atomic_uint next;
};

/* Each worker has filters of its own, which it must find as it left them, whatever the others do. */
static void *work(void *context)
{
    struct shared *shared = context;
    const unsigned worker = atomic_fetch_add(&shared->next, 1);
    const uint64_t bit = UINT64_C(1) << worker;
    char own[32];
    uintptr_t wrong = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        const size_t len = (size_t)snprintf(own, sizeof own, "%u/%u/x", worker, i);
        const uint64_t generation = interest_generation(shared->interest);
        interest_add(shared->interest, worker, own, len);
        interest_add(shared->interest, worker, "all/+", 5);
        wrong += interest_generation(shared->interest) < generation + 2;
        wrong += interest_match(shared->interest, own, len) != bit;
        wrong += !(match(shared->interest, "all/x") & bit);
        interest_remove(shared->interest, worker, "all/+", 5);
        wrong += (match(shared->interest, "all/x") & bit) != 0;
    }
    return (void *)wrong;
}

static void workers_share_it(void **state)
{
    (void)state;
    struct shared shared = { .interest = interest_new() };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, &shared), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_int_equal((uintptr_t)wrong, 0);
    }
    assert_int_equal(interest_count(shared.interest, NULL), THREADS * ROUNDS);
    interest_free(shared.interest);
}

TEST_SUITE("interest", cmocka_unit_test(workers_are_found_by_what_their_filters_match),
           cmocka_unit_test(worker_is_in_a_filter_once),
           cmocka_unit_test(memory_does_not_grow_with_changes),
           cmocka_unit_test(index_agrees_with_a_list_through_random_changes),
           cmocka_unit_test(workers_share_it));
