/* SPDX-License-Identifier: MIT */

/*
 * What is still to be written to a connection: a chain of segments. Small packets are copied into chunks of
 * the worker's pool, large payloads are referenced where they lie. A connection that has nothing to write has
 * no segment. It belongs to the worker's thread.
 */

#ifndef TOCSIN_BROKER_OUTPUT_H
#define TOCSIN_BROKER_OUTPUT_H

#include "broker/publication.h"
#include "net/transport.h"

#include <stddef.h>
#include <stdint.h>

/* A chunk, with its head, takes this much. */
#define OUTPUT_CHUNK 4096

struct segment {
    struct segment *next;
    struct publication *publication; /* whose payload it is; NULL for a chunk, whose bytes follow */
    const uint8_t *data;
    uint32_t start, end; /* what is to be written of data */
};

/* The longest packet that can be put into one piece. */
#define OUTPUT_ROOM (OUTPUT_CHUNK - sizeof(struct segment))

struct output {
    struct segment *first, *last;
    uint64_t bytes;
};

/* Chunks that are free, of one worker. Zeroed, it is empty. */
struct output_pool {
    struct segment *free;
    size_t count;
};

/* Gives back what the pool has above `keep` chunks. */
void output_pool_trim(struct output_pool *pool, size_t keep);

/* A place for `len` bytes (at most OUTPUT_ROOM) in one piece; output_commit() says how many were put there.
 * NULL when there is no memory. */
uint8_t *output_new_chunk(struct output *output, struct output_pool *pool);

static inline uint8_t *output_room(struct output *output, struct output_pool *pool, size_t len)
{
    struct segment *last = output->last;
    if (last && !last->publication && OUTPUT_ROOM - last->end >= len)
        return (uint8_t *)(last + 1) + last->end;
    return output_new_chunk(output, pool);
}

static inline void output_commit(struct output *output, size_t len)
{
    output->last->end += (uint32_t)len;
    output->bytes += len;
}

/* Appends a copy of any length. Returns 0 or -ENOMEM, and then the connection must be closed. */
int output_add(struct output *output, struct output_pool *pool, const void *data, size_t len);

/* Appends the payload of a publication by reference. Returns 0 or -ENOMEM. */
int output_add_payload(struct output *output, struct publication *publication);

/* Writes as much as goes. Returns 1 if there is nothing left, 0 if there is, or a negative errno value. Adds
 * the bytes written to `*written`. */
int output_write(struct output *output, struct output_pool *pool, struct transport *transport,
                 int fd, uint64_t *written);

void output_drop(struct output *output, struct output_pool *pool);

#endif
