/* SPDX-License-Identifier: MIT */

/*
 * Objects of one size share chunks; one that is too large for that has a chunk to itself.
 */

#include "broker/pool.h"

#include "broker/pages.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#    include <sanitizer/asan_interface.h>
#else
#    define ASAN_POISON_MEMORY_REGION(AT, SIZE)   ((void)(AT), (void)(SIZE))
#    define ASAN_UNPOISON_MEMORY_REGION(AT, SIZE) ((void)(AT), (void)(SIZE))
#endif

#define SMALL        128u  /* up to here a class for each multiple of 8 */
#define SHARED_MAX   8192u /* up to here a chunk is shared */
#define NUMBERS_MAX  (UINT32_MAX / POOL_CHUNK_UNITS)
#define CLASS_OF_ONE POOL_CLASSES /* for a chunk with a single object */

/* Before the objects. A free place begins with the offset of the next one. */
struct pool_chunk {
    uint32_t number;
    uint32_t next, previous; /* in the list of its class's chunks with free places: number + 1 */
    uint16_t class;
    uint16_t used;   /* places */
    uint16_t free;   /* offset of the first free place, in units; 0 if none */
    uint16_t fresh;  /* offset where no place has been used yet */
    uint32_t length; /* bytes of all of the chunk */
};

/* Units before the first object, so that none has the reference 0. */
#define HEAD_UNITS ((sizeof(struct pool_chunk) + POOL_UNIT - 1) / POOL_UNIT)

/* With four classes for each doubling beyond SMALL: 160, 192, 224, 256, 320, ... */
static unsigned class_of(size_t size)
{
    if (size <= SMALL)
        return size ? (unsigned)((size - 1) / POOL_UNIT) : 0;
    unsigned class = SMALL / POOL_UNIT;
    for (size_t base = SMALL; base < SHARED_MAX; base *= 2)
        for (size_t top = base + base / 4; top <= base * 2; top += base / 4, class ++)
            if (size <= top)
                return class;
    return CLASS_OF_ONE;
}

static unsigned class_units(unsigned class)
{
    if (class < SMALL / POOL_UNIT)
        return class + 1;
    unsigned beyond = class - SMALL / POOL_UNIT;
    unsigned base = SMALL / POOL_UNIT << beyond / 4;
    return base + base / 4 * (beyond % 4 + 1);
}

static bool number_get(struct pool *pool, uint32_t *number)
{
    uint32_t n = pool->free_number;
    while (n < pool->count && pool->chunks[n])
        n++;
    if (n == pool->capacity) {
        uint32_t capacity = n ? n * 2 : 8;
        if (n >= NUMBERS_MAX)
            return false;
        struct pool_chunk **chunks = realloc(pool->chunks, capacity * sizeof *chunks);
        if (!chunks)
            return false;
        pool->bytes += (capacity - pool->capacity) * sizeof *chunks;
        pool->chunks = chunks;
        pool->capacity = capacity;
    }
    *number = pool->free_number = n;
    return true;
}

static struct pool_chunk *chunk_new(struct pool *pool, unsigned class, size_t length)
{
    uint32_t number;
    if (!number_get(pool, &number))
        return NULL;
    struct pool_chunk *chunk = pages_alloc(length);
    if (!chunk)
        return NULL;
    *chunk = (struct pool_chunk){
        .number = number,
        .class = (uint16_t) class,
        .fresh = HEAD_UNITS,
        .length = (uint32_t)length,
    };
    pool->chunks[number] = chunk;
    if (number == pool->count)
        pool->count++;
    pool->bytes += length;
    ASAN_POISON_MEMORY_REGION((char *)chunk + HEAD_UNITS * POOL_UNIT,
                              length - HEAD_UNITS * POOL_UNIT);
    return chunk;
}

static void chunk_free(struct pool *pool, struct pool_chunk *chunk)
{
    uint32_t number = chunk->number;
    pool->chunks[number] = NULL;
    if (number < pool->free_number)
        pool->free_number = number;
    pool->bytes -= chunk->length;
    ASAN_UNPOISON_MEMORY_REGION(chunk, chunk->length);
    pages_free(chunk, chunk->length);
}

static void list_add(struct pool *pool, struct pool_chunk *chunk)
{
    uint32_t *first = &pool->partial[chunk->class];
    chunk->previous = 0;
    chunk->next = *first;
    if (*first)
        pool->chunks[*first - 1]->previous = chunk->number + 1;
    *first = chunk->number + 1;
}

static void list_remove(struct pool *pool, struct pool_chunk *chunk)
{
    if (chunk->next)
        pool->chunks[chunk->next - 1]->previous = chunk->previous;
    if (chunk->previous)
        pool->chunks[chunk->previous - 1]->next = chunk->next;
    else
        pool->partial[chunk->class] = chunk->next;
}

static bool chunk_full(const struct pool_chunk *chunk)
{
    return !chunk->free && chunk->fresh + class_units(chunk->class) > POOL_CHUNK_UNITS;
}

void pool_release(struct pool *pool)
{
    for (uint32_t n = 0; n < pool->count; n++)
        if (pool->chunks[n])
            chunk_free(pool, pool->chunks[n]);
    free(pool->chunks);
    *pool = (struct pool){ 0 };
}

uint32_t pool_alloc(struct pool *pool, size_t size)
{
    assert(size <= POOL_LARGEST);
    unsigned class = class_of(size);
    if (class == CLASS_OF_ONE) {
        struct pool_chunk *own = chunk_new(pool, class, HEAD_UNITS * POOL_UNIT + size);
        if (!own)
            return POOL_NONE;
        ASAN_UNPOISON_MEMORY_REGION((char *)own + HEAD_UNITS * POOL_UNIT, size);
        return own->number * POOL_CHUNK_UNITS + (uint32_t)HEAD_UNITS;
    }

    struct pool_chunk *chunk;
    if (pool->partial[class]) {
        chunk = pool->chunks[pool->partial[class] - 1];
    } else {
        chunk = chunk_new(pool, class, POOL_CHUNK);
        if (!chunk)
            return POOL_NONE;
        list_add(pool, chunk);
    }
    const bool again = chunk->free;
    const uint16_t unit = again ? chunk->free : chunk->fresh;
    ASAN_UNPOISON_MEMORY_REGION((char *)chunk + unit * POOL_UNIT,
                                size < sizeof chunk->free ? sizeof chunk->free : size);
    if (again)
        memcpy(&chunk->free, (char *)chunk + unit * POOL_UNIT, sizeof chunk->free);
    else
        chunk->fresh = (uint16_t)(unit + class_units(class));
    chunk->used++;
    if (chunk_full(chunk))
        list_remove(pool, chunk);
    return chunk->number * POOL_CHUNK_UNITS + unit;
}

void pool_free(struct pool *pool, uint32_t ref)
{
    struct pool_chunk *chunk = pool->chunks[ref / POOL_CHUNK_UNITS];
    if (chunk->class == CLASS_OF_ONE) {
        chunk_free(pool, chunk);
        return;
    }
    if (chunk_full(chunk))
        list_add(pool, chunk);
    void *place = pool_at(pool, ref);
    ASAN_UNPOISON_MEMORY_REGION(place, sizeof chunk->free);
    memcpy(place, &chunk->free, sizeof chunk->free);
    ASAN_POISON_MEMORY_REGION(place, class_units(chunk->class) * POOL_UNIT);
    chunk->free = (uint16_t)(ref % POOL_CHUNK_UNITS);
    chunk->used--;

    /* One empty chunk of a class stays, so that one object that comes and goes costs no system calls. */
    if (chunk->used == 0 && (chunk->next || chunk->previous)) {
        list_remove(pool, chunk);
        chunk_free(pool, chunk);
    }
}
