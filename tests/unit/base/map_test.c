/* SPDX-License-Identifier: MIT */

#include "base/map.h"

#include "../suite.h"

#include <stdio.h>
#include <stdlib.h>

static void key_is_found_by_its_bytes(void **state)
{
    (void)state;
    struct map map = MAP_INIT;
    int one = 1, two = 2, empty = 0;
    assert_null(map_get(&map, "a", 1));
    assert_null(map_remove(&map, "a", 1));
    assert_int_equal(map_set(&map, "a\0b", 3, &one), 0);
    assert_int_equal(map_set(&map, "a\0c", 3, &two), 0);
    assert_int_equal(map_set(&map, "", 0, &empty), 0);
    char key[] = { 'a', '\0', 'b' };
    assert_ptr_equal(map_get(&map, key, 3), &one);
    assert_ptr_equal(map_get(&map, "a\0c", 3), &two);
    assert_ptr_equal(map_get(&map, "", 0), &empty);
    assert_null(map_get(&map, "a", 1));
    assert_int_equal(map.count, 3);
    map_release(&map);
    assert_null(map_get(&map, "", 0));
    map_release(&map);
}

static void setting_again_replaces_the_value(void **state)
{
    (void)state;
    struct map map = MAP_INIT;
    int one = 1, two = 2;
    map_set(&map, "a", 1, &one);
    map_set(&map, "a", 1, &two);
    assert_int_equal(map.count, 1);
    assert_ptr_equal(map_get(&map, "a", 1), &two);
    assert_ptr_equal(map_remove(&map, "a", 1), &two);
    assert_null(map_get(&map, "a", 1));
    assert_int_equal(map.count, 0);
    map_release(&map);
}

#define KEYS 2000

/* What the map should hold is kept beside it in an array, and compared after every few steps. */
static void map_agrees_with_a_plain_array_through_many_changes(void **state)
{
    (void)state;
    static char keys[KEYS][16];
    static int values[2];
    int *held[KEYS] = { 0 };
    for (int i = 0; i < KEYS; i++)
        snprintf(keys[i], sizeof(keys[i]), "%d", i);

    struct map map = MAP_INIT;
    size_t count = 0;
    uint32_t random = 12345;
    for (int step = 0; step < 60000; step++) {
        random = random * 1664525 + 1013904223;
        size_t i = (random >> 8) % KEYS;
        size_t len = strlen(keys[i]);
        /* It grows in the first half and shrinks in the second. */
        bool set = (random >> 24) % 4 < (step < 30000 ? 3 : 1);
        if (set) {
            int *value = &values[random & 1];
            assert_int_equal(map_set(&map, keys[i], len, value), 0);
            count += held[i] == NULL;
            held[i] = value;
        } else {
            CHECK(map_remove(&map, keys[i], len) == held[i], "step %d", step);
            count -= held[i] != NULL;
            held[i] = NULL;
        }
        CHECK(map.count == count, "step %d: %zu, not %zu", step, map.count, count);
        if (step % 1000 == 0)
            for (int k = 0; k < KEYS; k++)
                CHECK(map_get(&map, keys[k], strlen(keys[k])) == held[k], "step %d key %d", step,
                      k);
    }

    size_t seen = 0, at = 0;
    for (const struct map_entry *e; (e = map_next(&map, &at)) != NULL; seen++) {
        int key = atoi(e->key);
        CHECK(held[key] == e->value, "key %d", key);
        held[key] = NULL; /* each comes once */
    }
    assert_int_equal(seen, count);
    map_release(&map);
}

static void hash_depends_on_every_byte_and_stays_the_same(void **state)
{
    (void)state;
    assert_true(map_hash("abc", 3) == map_hash("abc", 3));
    assert_true(map_hash("abc", 3) != map_hash("abd", 3));
    assert_true(map_hash("abc", 3) != map_hash("abc", 4));
}

TEST_SUITE("map", cmocka_unit_test(key_is_found_by_its_bytes),
           cmocka_unit_test(setting_again_replaces_the_value),
           cmocka_unit_test(map_agrees_with_a_plain_array_through_many_changes),
           cmocka_unit_test(hash_depends_on_every_byte_and_stays_the_same));
