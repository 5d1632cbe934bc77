/* SPDX-License-Identifier: MIT */

/*
 * Memory for very many small objects that name each other by 4-byte references in place of pointers, with
 * no overhead for each (malloc's is 8 bytes and the rounding to 16). Objects have sizes that are
 * rounded up to 8 bytes, above 128 to a fifth; up to 32 GiB in all.
 *
 * It belongs to one thread, or to whoever holds the lock of what it is part of.
 */

#ifndef TOCSIN_BROKER_POOL_H
#define TOCSIN_BROKER_POOL_H

#include <stddef.h>
#include <stdint.h>

#define POOL_UNIT        8u     /* bytes: what a reference counts in */
#define POOL_CHUNK       65536u /* bytes: objects lie in chunks, each with objects of one size */
#define POOL_CHUNK_UNITS (POOL_CHUNK / POOL_UNIT)
#define POOL_CLASSES     40
#define POOL_NONE        0u     /* no object has this reference */
#define POOL_LARGEST     65600u /* bytes: objects may have as many */

struct pool_chunk;

struct pool {
    struct pool_chunk **chunks; /* by number; a free number has NULL */
    uint32_t count, capacity;
    uint32_t free_number;           /* no free number is lower */
    uint32_t partial[POOL_CLASSES]; /* number + 1 of a chunk with free places, of each class */
    size_t bytes;                   /* held, chunks and table */
};

/* A pool that is all zero is empty and ready for use. Frees all memory, with the objects. */
void pool_release(struct pool *pool);

/* A new object of up to POOL_LARGEST bytes, not cleared; POOL_NONE when there is no memory. Its address is a multiple
 * of 8 and stays the same. */
uint32_t pool_alloc(struct pool *pool, size_t size);

void pool_free(struct pool *pool, uint32_t ref);

static inline void *pool_at(const struct pool *pool, uint32_t ref)
{
    return (char *)pool->chunks[ref / POOL_CHUNK_UNITS] +
           (size_t)(ref % POOL_CHUNK_UNITS) * POOL_UNIT;
}

#endif
