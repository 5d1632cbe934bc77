/* SPDX-License-Identifier: MIT */

/*
 * A hash table of references (pool.h), 8 bytes a place: the objects hold their own keys, so who looks
 * something up compares them himself:
 *
 *     struct ref_probe probe = ref_table_probe(table, hash);
 *     while ((ref = ref_probe_next(table, &probe)))
 *         if (object at ref has this key)
 *             ...
 *
 * Hashes must be seeded (ref_table_hash()), since strangers choose the keys. It belongs to one thread, or to
 * whoever holds the lock of what it is part of.
 */

#ifndef TOCSIN_BROKER_REF_TABLE_H
#define TOCSIN_BROKER_REF_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct ref_place {
    uint32_t hash;
    uint32_t ref; /* 0 when free */
};

struct ref_table {
    struct ref_place *places; /* open addressing; 13 of 16 at most are in use */
    uint32_t count;
    uint32_t capacity;
};

/* A table that is all zero is empty and ready for use. */
void ref_table_release(struct ref_table *table);

/* The hash of some bytes in a context, such as a parent's reference. One seed for each run of the program. */
uint32_t ref_table_hash(const void *key, size_t len, uint64_t context);

/* Makes room, so that the next ref_table_add() cannot fail. Returns 0 or -ENOMEM. */
int ref_table_reserve(struct ref_table *table);

/* Adds a reference that is not there yet; room has been reserved. */
void ref_table_add(struct ref_table *table, uint32_t hash, uint32_t ref);

/* Takes out, or replaces, a reference that is there. */
void ref_table_remove(struct ref_table *table, uint32_t hash, uint32_t ref);
void ref_table_replace(struct ref_table *table, uint32_t hash, uint32_t ref, uint32_t by);

/* Bytes of memory. */
size_t ref_table_bytes(const struct ref_table *table);

struct ref_probe {
    uint32_t hash;
    uint32_t at;
};

/* Where a hash belongs: places are in the order of hashes, so any capacity will do, and a table that grows by a
 * quarter is copied from one end to the other. */
static inline uint32_t ref_table_home(const struct ref_table *table, uint32_t hash)
{
    return (uint32_t)((uint64_t)hash * table->capacity >> 32);
}

static inline struct ref_probe ref_table_probe(const struct ref_table *table, uint32_t hash)
{
    return (struct ref_probe){ hash, ref_table_home(table, hash) };
}

/* The next reference that may be the one, or 0 when there are no more. */
static inline uint32_t ref_probe_next(const struct ref_table *table, struct ref_probe *probe)
{
    if (!table->places)
        return 0;
    for (;;) {
        const struct ref_place *place = &table->places[probe->at];
        if (++probe->at == table->capacity)
            probe->at = 0;
        if (!place->ref || place->hash == probe->hash)
            return place->ref;
    }
}

#endif
