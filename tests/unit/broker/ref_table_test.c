/* SPDX-License-Identifier: MIT */

#include "broker/ref_table.h"

#include "../suite.h"
#include "random_topic.h"

static bool holds(const struct ref_table *table, uint32_t hash, uint32_t ref)
{
    struct ref_probe probe = ref_table_probe(table, hash);
    for (uint32_t found; (found = ref_probe_next(table, &probe));)
        if (found == ref)
            return true;
    return false;
}

/* Few hashes, some at the upper end, so that many collide and the table is searched around its end. */
static uint32_t hash_of(uint32_t ref)
{
    return ref % 3 == 0 ? UINT32_MAX - ref % 7 : ref * 2654435761u;
}

static void table_agrees_with_an_array_through_random_changes(void **state)
{
    (void)state;
    enum {
        REFS = 3000
    };
    static bool held[REFS];
    memset(held, 0, sizeof held);
    struct ref_table table = { 0 };
    uint64_t random = 1;
    assert_false(holds(&table, 1, 1));
    uint32_t count = 0;
    for (unsigned step = 0; step < 40000; step++) {
        /* It grows, and shrinks again. */
        const uint32_t range = step < 20000 ? REFS : 40;
        const uint32_t ref = 1 + random_below(&random, range - 1);
        if (held[ref]) {
            ref_table_remove(&table, hash_of(ref), ref);
            count--;
        } else {
            assert_int_equal(ref_table_reserve(&table), 0);
            ref_table_add(&table, hash_of(ref), ref);
            count++;
        }
        held[ref] = !held[ref];
        assert_int_equal(table.count, count);
        if (step == 20000) {
            for (uint32_t other = 40; other < REFS; other++) {
                if (held[other])
                    ref_table_remove(&table, hash_of(other), other);
                count -= held[other];
                held[other] = false;
            }
            CHECK(ref_table_bytes(&table) < 2048, "%zu bytes for %u", ref_table_bytes(&table),
                  count);
        }
        if (step % 500 == 0)
            for (uint32_t other = 1; other < REFS; other++)
                CHECK(holds(&table, hash_of(other), other) == held[other], "step %u: %u", step,
                      other);
    }
    ref_table_release(&table);
    assert_int_equal(ref_table_bytes(&table), 0);
}

static void reference_is_replaced_in_its_place(void **state)
{
    (void)state;
    struct ref_table table = { 0 };
    for (uint32_t ref = 1; ref < 10; ref++) {
        ref_table_reserve(&table);
        ref_table_add(&table, 77, ref);
    }
    ref_table_replace(&table, 77, 5, 50);
    assert_false(holds(&table, 77, 5));
    assert_true(holds(&table, 77, 50));
    assert_true(holds(&table, 77, 9));
    ref_table_release(&table);
}

static void hash_depends_on_the_context(void **state)
{
    (void)state;
    assert_true(ref_table_hash("a", 1, 1) == ref_table_hash("a", 1, 1));
    assert_true(ref_table_hash("a", 1, 1) != ref_table_hash("a", 1, 2));
    assert_true(ref_table_hash("a", 1, 1) != ref_table_hash("b", 1, 1));
}

TEST_SUITE("ref table", cmocka_unit_test(table_agrees_with_an_array_through_random_changes),
           cmocka_unit_test(reference_is_replaced_in_its_place),
           cmocka_unit_test(hash_depends_on_the_context));
