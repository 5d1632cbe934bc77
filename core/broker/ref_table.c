/* SPDX-License-Identifier: MIT */

#include "broker/ref_table.h"

#include "base/map.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

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
    free(table->places);
    *table = (struct ref_table){ 0 };
}

static void put(struct ref_place *places, uint32_t mask, struct ref_place place)
{
    uint32_t at = place.hash & mask;
    while (places[at].ref)
        at = (at + 1) & mask;
    places[at] = place;
}

static int resize(struct ref_table *table, uint32_t capacity)
{
    struct ref_place *places = calloc(capacity, sizeof *places);
    if (!places)
        return -ENOMEM;
    for (uint32_t i = 0; table->places && i <= table->mask; i++)
        if (table->places[i].ref)
            put(places, capacity - 1, table->places[i]);
    free(table->places);
    table->places = places;
    table->mask = capacity - 1;
    return 0;
}

int ref_table_reserve(struct ref_table *table)
{
    if (!table->places)
        return resize(table, SMALLEST);
    const uint64_t capacity = (uint64_t)table->mask + 1;
    if (((uint64_t)table->count + 1) * 16 <= capacity * 13)
        return 0;
    return capacity * 2 > UINT32_MAX ? -ENOMEM : resize(table, (uint32_t)capacity * 2);
}

void ref_table_add(struct ref_table *table, uint32_t hash, uint32_t ref)
{
    put(table->places, table->mask, (struct ref_place){ hash, ref });
    table->count++;
}

static uint32_t place_of(const struct ref_table *table, uint32_t hash, uint32_t ref)
{
    uint32_t at = hash & table->mask;
    while (table->places[at].ref != ref) {
        assert(table->places[at].ref);
        at = (at + 1) & table->mask;
    }
    return at;
}

void ref_table_remove(struct ref_table *table, uint32_t hash, uint32_t ref)
{
    /* Close the gap: move back each follower that a search would otherwise miss. */
    struct ref_place *places = table->places;
    const uint32_t mask = table->mask;
    uint32_t gap = place_of(table, hash, ref);
    for (uint32_t i = (gap + 1) & mask; places[i].ref; i = (i + 1) & mask) {
        if (((i - places[i].hash) & mask) >= ((i - gap) & mask)) {
            places[gap] = places[i];
            gap = i;
        }
    }
    places[gap].ref = 0;
    table->count--;

    /* Memory goes back, if there is some for the smaller table; otherwise next time. */
    if (mask >= SMALLEST && table->count < mask / 8)
        resize(table, (mask + 1) / 4);
}

void ref_table_replace(struct ref_table *table, uint32_t hash, uint32_t ref, uint32_t by)
{
    table->places[place_of(table, hash, ref)].ref = by;
}

size_t ref_table_bytes(const struct ref_table *table)
{
    return table->places ? ((size_t)table->mask + 1) * sizeof *table->places : 0;
}
