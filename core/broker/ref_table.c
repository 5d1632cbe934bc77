/* SPDX-License-Identifier: MIT */

#include "broker/ref_table.h"

#include "base/map.h"
#include "broker/pages.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SMALLEST 16u /* places */

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void make_seed(void)
{
    seed = map_hash(&seed, sizeof seed);
}

uint32_t ref_table_hash(const void *key, size_t len, uint64_t context)
{
    pthread_once(&seed_once, make_seed);
    const uint64_t hash = XXH3_64bits_withSeed(key, len, seed ^ context * 0x9E3779B97F4A7C15u);
    return (uint32_t)(hash ^ hash >> 32);
}

void ref_table_release(struct ref_table *table)
{
    pages_free(table->places, ref_table_bytes(table));
    *table = (struct ref_table){ 0 };
}

static uint32_t next_place(const struct ref_table *table, uint32_t at)
{
    return at + 1 < table->capacity ? at + 1 : 0;
}

/* How far a place is behind the one where its hash belongs. */
static uint32_t distance(const struct ref_table *table, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + table->capacity - from;
}

static void put(struct ref_table *table, struct ref_place place)
{
    uint32_t at = ref_table_home(table, place.hash);
    while (table->places[at].ref)
        at = next_place(table, at);
    table->places[at] = place;
}

static int resize(struct ref_table *table, uint32_t capacity)
{
    struct ref_table sized = { .count = table->count, .capacity = capacity };
    sized.places = pages_alloc(ref_table_bytes(&sized));
    if (!sized.places)
        return -ENOMEM;
    for (uint32_t i = 0; i < table->capacity; i++)
        if (table->places[i].ref)
            put(&sized, table->places[i]);
    pages_free(table->places, ref_table_bytes(table));
    *table = sized;
    return 0;
}

int ref_table_reserve(struct ref_table *table)
{
    const uint32_t capacity = table->capacity;
    if (((uint64_t)table->count + 1) * 16 <= (uint64_t)capacity * 13)
        return 0;
    if (capacity > UINT32_MAX / 2)
        return -ENOMEM;
    return resize(table, capacity ? capacity + capacity / 4 : SMALLEST);
}

void ref_table_add(struct ref_table *table, uint32_t hash, uint32_t ref)
{
    put(table, (struct ref_place){ hash, ref });
    table->count++;
}

static uint32_t place_of(const struct ref_table *table, uint32_t hash, uint32_t ref)
{
    uint32_t at = ref_table_home(table, hash);
    while (table->places[at].ref != ref) {
        assert(table->places[at].ref);
        at = next_place(table, at);
    }
    return at;
}

void ref_table_remove(struct ref_table *table, uint32_t hash, uint32_t ref)
{
    /* Close the gap: move back each follower that a search would otherwise miss. */
    struct ref_place *places = table->places;
    uint32_t gap = place_of(table, hash, ref);
    for (uint32_t i = next_place(table, gap); places[i].ref; i = next_place(table, i)) {
        if (distance(table, ref_table_home(table, places[i].hash), i) >= distance(table, gap, i)) {
            places[gap] = places[i];
            gap = i;
        }
    }
    places[gap].ref = 0;
    table->count--;

    /* Memory goes back, if there is some for the smaller table; otherwise next time. */
    if (table->capacity > 2 * SMALLEST && table->count < table->capacity / 4)
        resize(table, table->capacity / 2);
}

void ref_table_replace(struct ref_table *table, uint32_t hash, uint32_t ref, uint32_t by)
{
    table->places[place_of(table, hash, ref)].ref = by;
}

size_t ref_table_bytes(const struct ref_table *table)
{
    return table->capacity * sizeof *table->places;
}
