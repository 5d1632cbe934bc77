/* SPDX-License-Identifier: MIT */

#include "broker/pool.h"

#include "../suite.h"
#include "random_topic.h"

static void objects_of_all_sizes_stay_what_they_were(void **state)
{
    (void)state;
    enum {
        ROOM = 4000
    };
    static struct {
        uint32_t ref;
        size_t size;
        uint8_t fill;
    } objects[ROOM];
    struct pool pool = { 0 };
    uint64_t random = 1;
    memset(objects, 0, sizeof objects);
    for (unsigned step = 0; step < 60000; step++) {
        const uint32_t i = random_below(&random, ROOM);
        if (objects[i].ref) {
            const uint8_t *at = pool_at(&pool, objects[i].ref);
            for (size_t byte = 0; byte < objects[i].size; byte += 1 + objects[i].size / 16)
                CHECK(at[byte] == objects[i].fill, "object of %zu bytes at step %u",
                      objects[i].size, step);
            CHECK(at[objects[i].size - 1] == objects[i].fill, "end of an object of %zu bytes",
                  objects[i].size);
            pool_free(&pool, objects[i].ref);
            objects[i].ref = 0;
            continue;
        }
        static const uint32_t limits[] = { 24, 60, 200, 1000, 9000 };
        objects[i].size = 1 + random_below(&random, limits[random_below(&random, 5)]);
        objects[i].fill = (uint8_t)step;
        objects[i].ref = pool_alloc(&pool, objects[i].size);
        assert_true(objects[i].ref != POOL_NONE);
        assert_int_equal((uintptr_t)pool_at(&pool, objects[i].ref) % POOL_UNIT, 0);
        memset(pool_at(&pool, objects[i].ref), objects[i].fill, objects[i].size);
    }
    assert_true(pool.bytes > 1000000);
    for (unsigned i = 0; i < ROOM; i++)
        if (objects[i].ref)
            pool_free(&pool, objects[i].ref);
    assert_true(pool.bytes < (POOL_CLASSES + 1) * POOL_CHUNK); /* one chunk of a size stays */
    pool_release(&pool);
    assert_int_equal(pool.bytes, 0);
}

static void small_objects_cost_their_size_and_no_more(void **state)
{
    (void)state;
    struct pool pool = { 0 };
    uint32_t last = 0;
    for (int i = 0; i < 100000; i++) {
        const uint32_t ref = pool_alloc(&pool, 32);
        assert_true(ref != last);
        last = ref;
    }
    CHECK(pool.bytes < 100000 * 32 + 2 * POOL_CHUNK, "%zu bytes", pool.bytes);
    pool_release(&pool);
    pool_release(&pool);
}

static void largest_object_has_a_chunk_to_itself(void **state)
{
    (void)state;
    struct pool pool = { 0 };
    const uint32_t small = pool_alloc(&pool, 1), large = pool_alloc(&pool, POOL_LARGEST);
    memset(pool_at(&pool, large), 1, POOL_LARGEST);
    assert_true(pool.bytes > POOL_CHUNK + POOL_LARGEST);
    const uint32_t other = pool_alloc(&pool, POOL_LARGEST);
    pool_free(&pool, large);
    assert_true(pool.bytes < POOL_CHUNK + 2 * POOL_LARGEST);
    assert_true(pool_alloc(&pool, POOL_LARGEST) == large); /* its number is used again */
    pool_free(&pool, small);
    pool_free(&pool, other);
    pool_release(&pool);
}

TEST_SUITE("pool", cmocka_unit_test(objects_of_all_sizes_stay_what_they_were),
           cmocka_unit_test(small_objects_cost_their_size_and_no_more),
           cmocka_unit_test(largest_object_has_a_chunk_to_itself));
