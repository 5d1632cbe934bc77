/* SPDX-License-Identifier: MIT */

/* A set of topics that may say yes to one that is not in it, but never no to one that is. Each is two bits. */

#ifndef TOCSIN_DELIVERY_TOPICS_H
#define TOCSIN_DELIVERY_TOPICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define TOPICS_BITS ((uint64_t)1 << 19)

/* An empty one, to be freed by free(). NULL when there is no memory. */
static inline uint64_t *topics_new(void)
{
    return calloc(TOPICS_BITS / 64, sizeof(uint64_t));
}

/* `hash` is map_hash()'s of the topic. */
static inline void topics_add(uint64_t *topics, uint64_t hash)
{
    uint64_t one = hash % TOPICS_BITS, other = hash / TOPICS_BITS % TOPICS_BITS;
    topics[one / 64] |= (uint64_t)1 << one % 64;
    topics[other / 64] |= (uint64_t)1 << other % 64;
}

static inline bool topics_have(const uint64_t *topics, uint64_t hash)
{
    uint64_t one = hash % TOPICS_BITS, other = hash / TOPICS_BITS % TOPICS_BITS;
    return (topics[one / 64] >> one % 64 & 1) && (topics[other / 64] >> other % 64 & 1);
}

static inline void topics_join(uint64_t *to, const uint64_t *from)
{
    for (size_t i = 0; i < TOPICS_BITS / 64; i++)
        to[i] |= from[i];
}

#endif
