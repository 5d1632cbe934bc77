/* SPDX-License-Identifier: MIT */

#include "broker/ids.h"

#include "../suite.h"

#include <stdlib.h>

/* Ranges that collide differently: few, neighbours around the end, multiples of a power of two, all. */
static uint16_t pick(unsigned *seed, int how)
{
    uint16_t chance = (uint16_t)rand_r(seed);
    switch (how) {
    case 0:
        return (uint16_t)(1 + chance % 10);
    case 1:
        return (uint16_t)(65535 - chance % 100);
    case 2:
        return (uint16_t)(256 * (1 + chance % 255));
    default:
        return chance ? chance : 1;
    }
}

static void set_holds_what_was_added_and_not_removed(void **state)
{
    (void)state;
    for (int how = 0; how < 4; how++) {
        static bool model[65536];
        memset(model, 0, sizeof(model));
        uint32_t count = 0;
        struct ids *ids = NULL;
        unsigned seed = 99;
        for (int step = 0; step < 100000; step++) {
            uint16_t id = pick(&seed, how);
            bool add = rand_r(&seed) % 100 < (step / 10000 % 2 ? 30 : 70); /* grows and shrinks */
            if (add)
                CHECK(ids_add(&ids, id) == !model[id], "kind %d, step %d: add %u", how, step, id);
            else
                CHECK(ids_remove(&ids, id) == model[id], "kind %d, step %d: remove %u", how, step,
                      id);
            count += add && !model[id];
            count -= !add && model[id];
            model[id] = add;
            uint16_t other = pick(&seed, how);
            CHECK(ids_have(ids, other) == model[other], "kind %d, step %d: have %u", how, step,
                  other);
            CHECK(ids_count(ids) == count && (ids == NULL) == (count == 0), "kind %d, step %d: %u",
                  how, step, ids_count(ids));
        }
        ids_free(ids);
    }
}

static void set_may_hold_all_identifiers(void **state)
{
    (void)state;
    struct ids *ids = NULL;
    for (uint32_t id = 1; id <= 65535; id++)
        assert_int_equal(ids_add(&ids, (uint16_t)id), 1);
    assert_int_equal(ids_count(ids), 65535);
    assert_int_equal(ids_add(&ids, 1), 0);
    assert_false(ids_have(ids, 0));
    for (uint32_t id = 65535; id >= 1; id--)
        assert_true(ids_remove(&ids, (uint16_t)id));
    assert_null(ids);
}

TEST_SUITE("broker ids", cmocka_unit_test(set_holds_what_was_added_and_not_removed),
           cmocka_unit_test(set_may_hold_all_identifiers));
