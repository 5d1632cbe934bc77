/* SPDX-License-Identifier: MIT */

#include "base/map.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SMALLEST 16 /* places */

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;
static atomic_bool seeded; /* spares the call, as this is done for every message */

static void make_seed(void)
{
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
        seed = (uint64_t)time(NULL) * 0x9E3779B97F4A7C15u ^ (uintptr_t)&seed;
    atomic_store_explicit(&seeded, true, memory_order_release);
}

uint64_t map_hash(const void *key, size_t len)
{
    if (!atomic_load_explicit(&seeded, memory_order_acquire))
        pthread_once(&seed_once, make_seed);
    return XXH3_64bits_withSeed(key, len, seed);
}

void map_release(struct map *map)
{
    free(map->entries);
    *map = (struct map)MAP_INIT;
}

/* The place of the key, or the free place where it would go. There is always a free one. */
static struct map_entry *place(const struct map *map, const char *key, size_t len, uint64_t hash)
{
    size_t mask = map->capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct map_entry *e = &map->entries[i];
        if (!e->value || (e->hash == hash && e->len == len && memcmp(e->key, key, len) == 0))
            return e;
    }
}

void *map_get(const struct map *map, const char *key, size_t len)
{
    return map->count > 0 ? place(map, key, len, map_hash(key, len))->value : NULL;
}

static int grow(struct map *map)
{
    struct map bigger = { .capacity = map->capacity ? map->capacity * 2 : SMALLEST };
    bigger.entries = calloc(bigger.capacity, sizeof(*bigger.entries));
    if (!bigger.entries)
        return -ENOMEM;
    for (size_t i = 0; i < map->capacity; i++) {
        const struct map_entry *e = &map->entries[i];
        if (e->value)
            *place(&bigger, e->key, e->len, e->hash) = *e;
    }
    bigger.count = map->count;
    free(map->entries);
    *map = bigger;
    return 0;
}

int map_set(struct map *map, const char *key, size_t len, void *value)
{
    if ((map->count + 1) * 4 > map->capacity * 3) {
        int rc = grow(map);
        if (rc < 0)
            return rc;
    }
    uint64_t hash = map_hash(key, len);
    struct map_entry *e = place(map, key, len, hash);
    if (e->value) {
        e->value = value;
        return 0;
    }
    *e = (struct map_entry){ .key = key, .len = len, .hash = hash, .value = value };
    map->count++;
    return 0;
}

void *map_remove(struct map *map, const char *key, size_t len)
{
    if (map->count == 0)
        return NULL;
    struct map_entry *e = place(map, key, len, map_hash(key, len));
    void *value = e->value;
    if (!value)
        return NULL;

    /* Close the gap: move back each follower that a search would otherwise miss. */
    size_t mask = map->capacity - 1, gap = (size_t)(e - map->entries);
    for (size_t i = (gap + 1) & mask; map->entries[i].value; i = (i + 1) & mask) {
        size_t home = map->entries[i].hash & mask;
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            map->entries[gap] = map->entries[i];
            gap = i;
        }
    }
    map->entries[gap] = (struct map_entry){ 0 };
    map->count--;
    return value;
}

const struct map_entry *map_next(const struct map *map, size_t *at)
{
    while (*at < map->capacity) {
        const struct map_entry *e = &map->entries[(*at)++];
        if (e->value)
            return e;
    }
    return NULL;
}
