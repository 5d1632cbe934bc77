/* SPDX-License-Identifier: MIT */

/*
 * A hash map from byte strings to pointers, with a seeded hash, so that strangers may choose the keys.
 * It belongs to one thread; a map that nobody changes any more may be read by all.
 */

#ifndef TOCSIN_BASE_MAP_H
#define TOCSIN_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_entry {
    const char *key; /* borrowed: it must live as long as the entry */
    size_t len;
    uint64_t hash;
    void *value; /* never NULL */
};

struct map {
    struct map_entry *entries; /* open addressing; a free place has no value */
    size_t count;
    size_t capacity; /* 0 or a power of two */
};

/* clang-format off */
#define MAP_INIT { 0 }
/* clang-format on */

/* Frees the table, not the keys or values. */
void map_release(struct map *map);

/* The value of a key, or NULL. */
void *map_get(const struct map *map, const char *key, size_t len);

/* Sets a key, replacing an old value (the old key stays). Returns 0 or -ENOMEM. */
int map_set(struct map *map, const char *key, size_t len, void *value);

/* Takes a key out. Returns its value, or NULL if it was not there. */
void *map_remove(struct map *map, const char *key, size_t len);

/* Goes through all entries in no order: begin with *at = 0; returns NULL at the end. The map must
 * not change meanwhile. */
const struct map_entry *map_next(const struct map *map, size_t *at);

/* The seeded hash itself (one seed for each run of the program). */
uint64_t map_hash(const void *key, size_t len);

#endif
