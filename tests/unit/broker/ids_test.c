/* SPDX-License-Identifier: MIT */

#include "broker/ids.h"

#include "../suite.h"
#include "random_topic.h"

/* Every identifier is in the set if and only if it should be. */
static void check_all(const struct ids *ids, const bool *want, uint32_t count, unsigned step)
{
    for (uint32_t id = 0; id <= UINT16_MAX; id++)
        CHECK(ids_have(ids, (uint16_t)id) == want[id], "identifier %u at step %u", id, step);
    CHECK(ids_count(ids) == count, "%u in the set, not %u, at step %u", ids_count(ids), count,
          step);
}

static void what_is_added_and_removed_at_random_is_known(void **state)
{
    (void)state;
    static const struct {
        uint32_t most,
            apart; /* how many different identifiers, and what lies between two of them */
    } rows[] = { { 20, 1 }, { 20, 64 }, { 300, 1 }, { 300, 16 }, { 300, 217 }, { 65535, 1 } };
    static bool want[UINT16_MAX + 1];

    for (size_t i = 0; i < ROWS(rows); i++) {
        struct ids *ids = NULL;
        uint32_t count = 0;
        uint64_t random = i + 1;
        memset(want, 0, sizeof(want));
        for (unsigned step = 0; step < 5000; step++) {
            const uint32_t n = 1 + random_below(&random, rows[i].most) * rows[i].apart;
            const uint16_t id = (uint16_t)(n > UINT16_MAX ? UINT16_MAX : n);
            const bool remove = random_below(&random, 2) == 1;
            if (remove)
                CHECK(ids_remove(&ids, id) == want[id], "row %zu: removing %u", i, id);
            else
                CHECK(ids_add(&ids, id) == !want[id], "row %zu: adding %u", i, id);
            count = count + (!remove && !want[id]) - (remove && want[id]);
            want[id] = !remove;
            if (step % 250 == 0)
                check_all(ids, want, count, step);
        }
        check_all(ids, want, count, 5000);
        for (uint32_t id = 1; id <= UINT16_MAX; id++)
            CHECK(ids_remove(&ids, (uint16_t)id) == want[id], "row %zu: taking out %u", i, id);
        assert_null(ids);
    }
}

static void window_that_goes_round_is_known(void **state)
{
    (void)state;
    struct ids *ids = NULL;
    for (uint32_t n = 0; n < 200000; n++) {
        assert_int_equal(ids_add(&ids, (uint16_t)(1 + n % UINT16_MAX)), 1);
        if (n >= 100)
            assert_true(ids_remove(&ids, (uint16_t)(1 + (n - 100) % UINT16_MAX)));
    }
    assert_int_equal(ids_count(ids), 100);
    ids_free(ids);
}

TEST_SUITE("ids", cmocka_unit_test(what_is_added_and_removed_at_random_is_known),
           cmocka_unit_test(window_that_goes_round_is_known));
