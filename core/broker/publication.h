/* SPDX-License-Identifier: MIT */

/*
 * A published message (the specification's Application Message) that somebody keeps: a queue, a window
 * of unacknowledged ones, the retained messages, another worker, the router. Immutable once it has been
 * made, and reference-counted: any thread.
 *
 * It is one block of memory: this head, then topic, properties and payload, each found by its offset from
 * the head. So a large packet that was read into one buffer becomes a publication where it lies.
 */

#ifndef TOCSIN_BROKER_PUBLICATION_H
#define TOCSIN_BROKER_PUBLICATION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct publication {
    atomic_uint refs;
    uint32_t expires; /* second of the broker's clock (worker.h); 0 means never */
    uint32_t topic_at;
    uint32_t properties_at;
    uint32_t properties_len; /* encoded, only those that are carried on unaltered [MQTT-3.3.2-17] */
    uint32_t payload_at;
    uint32_t payload_len;
    uint16_t topic_len; /* no NUL follows */
    uint8_t qos;        /* the publisher's */
    bool retain;        /* as published */
};

/* One with one reference and copies of all three parts. NULL when there is no memory. */
struct publication *publication_new(const char *topic, size_t topic_len, const void *properties,
                                    size_t properties_len, const void *payload, size_t payload_len);

static inline struct publication *publication_ref(struct publication *publication)
{
    atomic_fetch_add_explicit(&publication->refs, 1, memory_order_relaxed);
    return publication;
}

void publication_free(struct publication *publication);

/* NULL is allowed. */
static inline void publication_unref(struct publication *publication)
{
    if (publication && atomic_fetch_sub_explicit(&publication->refs, 1, memory_order_acq_rel) == 1)
        publication_free(publication);
}

static inline const char *publication_topic(const struct publication *publication)
{
    return (const char *)publication + publication->topic_at;
}

static inline const uint8_t *publication_properties(const struct publication *publication)
{
    return (const uint8_t *)publication + publication->properties_at;
}

static inline const uint8_t *publication_payload(const struct publication *publication)
{
    return (const uint8_t *)publication + publication->payload_at;
}

/* Bytes that count against limits. */
static inline size_t publication_size(const struct publication *publication)
{
    return sizeof *publication + publication->topic_len + publication->properties_len +
           publication->payload_len;
}

#endif
