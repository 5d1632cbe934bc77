/* SPDX-License-Identifier: MIT */

/* The chain of segments that waits to be written. The worker's thread. */

#include "broker/output.h"

#include <stdlib.h>
#include <string.h>

#define PARTS 64 /* segments of one system call */

uint8_t *output_new_chunk(struct output *output, struct output_pool *pool)
{
    struct segment *segment = pool->free;
    if (segment) {
        pool->free = segment->next;
        pool->count--;
    } else if (!(segment = malloc(OUTPUT_CHUNK))) {
        return NULL;
    }
    *segment = (struct segment){ .data = (const uint8_t *)(segment + 1) };
    if (output->last)
        output->last->next = segment;
    else
        output->first = segment;
    output->last = segment;
    return (uint8_t *)(segment + 1);
}

int output_add(struct output *output, struct output_pool *pool, const void *data, size_t len)
{
    const uint8_t *from = data;
    while (len > 0) {
        uint8_t *to = output_room(output, pool, 1);
        if (!to)
            return -ENOMEM;
        size_t room = OUTPUT_ROOM - output->last->end;
        size_t part = len < room ? len : room;
        memcpy(to, from, part);
        output_commit(output, part);
        from += part;
        len -= part;
    }
    return 0;
}

int output_add_payload(struct output *output, struct publication *publication)
{
    struct segment *segment = malloc(sizeof(*segment));
    if (!segment)
        return -ENOMEM;
    *segment = (struct segment){
        .publication = publication_ref(publication),
        .data = publication_payload(publication),
        .end = publication->payload_len,
    };
    if (output->last)
        output->last->next = segment;
    else
        output->first = segment;
    output->last = segment;
    output->bytes += segment->end;
    return 0;
}

static void drop_first(struct output *output, struct output_pool *pool)
{
    struct segment *segment = output->first;
    output->first = segment->next;
    if (!output->first)
        output->last = NULL;
    if (segment->publication) {
        publication_unref(segment->publication);
        free(segment);
    } else {
        segment->next = pool->free;
        pool->free = segment;
        pool->count++;
    }
}

int output_write(struct output *output, struct output_pool *pool, struct transport *transport,
                 int fd, uint64_t *written)
{
    while (output->first) {
        struct iovec parts[PARTS];
        int count = 0;
        size_t asked = 0;
        for (struct segment *s = output->first; s && count < PARTS; s = s->next) {
            parts[count++] = (struct iovec){ (void *)(s->data + s->start), s->end - s->start };
            asked += s->end - s->start;
        }
        ssize_t n = transport_writev(transport, fd, parts, count);
        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return (int)n;

        size_t left = (size_t)n;
        *written += left;
        output->bytes -= left;
        while (output->first && left >= output->first->end - output->first->start) {
            left -= output->first->end - output->first->start;
            drop_first(output, pool);
        }
        if (output->first)
            output->first->start += (uint32_t)left;
        if ((size_t)n < asked)
            return 0;
    }
    return 1;
}

void output_drop(struct output *output, struct output_pool *pool)
{
    while (output->first)
        drop_first(output, pool);
    output->bytes = 0;
}

void output_pool_trim(struct output_pool *pool, size_t keep)
{
    while (pool->count > keep) {
        struct segment *segment = pool->free;
        pool->free = segment->next;
        pool->count--;
        free(segment);
    }
}
