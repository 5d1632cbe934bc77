/* SPDX-License-Identifier: MIT */

/* Published messages that are kept. Any thread. */

#include "broker/publication.h"

#include <stdlib.h>
#include <string.h>

struct publication *publication_new(const char *topic, size_t topic_len, const void *properties,
                                    size_t properties_len, const void *payload, size_t payload_len)
{
    struct publication *publication =
        malloc(sizeof *publication + topic_len + properties_len + payload_len);
    if (!publication)
        return NULL;

    *publication = (struct publication){
        .topic_at = sizeof *publication,
        .topic_len = (uint16_t)topic_len,
        .properties_at = (uint32_t)(sizeof *publication + topic_len),
        .properties_len = (uint32_t)properties_len,
        .payload_at = (uint32_t)(sizeof *publication + topic_len + properties_len),
        .payload_len = (uint32_t)payload_len,
    };
    atomic_init(&publication->refs, 1);
    uint8_t *at = (uint8_t *)(publication + 1);
    if (topic_len)
        memcpy(at, topic, topic_len);
    if (properties_len)
        memcpy(at + topic_len, properties, properties_len);
    if (payload_len)
        memcpy(at + topic_len + properties_len, payload, payload_len);
    return publication;
}

void publication_free(struct publication *publication)
{
    free(publication);
}
