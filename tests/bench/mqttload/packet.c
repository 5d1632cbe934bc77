/* SPDX-License-Identifier: MIT */

/* Packets to bytes, of MQTT 3.1.1 and 5.0. */

#include "mqttload.h"

#include <stdlib.h>
#include <string.h>

static size_t put_remaining(uint8_t *p, size_t n)
{
    size_t i = 0;
    do {
        p[i] = n & 127;
        n >>= 7;
        if (n)
            p[i] |= 128;
        i++;
    } while (n);
    return i;
}

size_t packet_remaining(const uint8_t *p, size_t have, uint32_t *value)
{
    uint32_t v = 0;
    for (size_t i = 0; i < 4 && i < have; i++) {
        v |= (uint32_t)(p[i] & 127) << (7 * i);
        if (!(p[i] & 128)) {
            *value = v;
            return i + 1;
        }
    }
    return 0;
}

size_t packet_connect(uint8_t *p, const char *id)
{
    size_t n = strlen(id), body = 10u + (opt.v5 ? 1u : 0u) + 2 + n, at = 0;
    p[at++] = P_CONNECT << 4;
    at += put_remaining(p + at, body);
    memcpy(p + at, "\0\4MQTT", 6);
    at += 6;
    p[at++] = opt.v5 ? 5 : 4;
    p[at++] = opt.persistent ? 0 : 2; /* clean session */
    put16(p + at, 3600);              /* keep alive: longer than any run */
    at += 2;
    if (opt.v5)
        p[at++] = 0; /* no properties */
    put16(p + at, (unsigned)n);
    at += 2;
    memcpy(p + at, id, n);
    return at + n;
}

size_t packet_subscribe(uint8_t *p, unsigned id, const char *filter, int qos)
{
    size_t n = strlen(filter), body = 2u + (opt.v5 ? 1u : 0u) + 2 + n + 1, at = 0;
    p[at++] = P_SUBSCRIBE << 4 | 2;
    at += put_remaining(p + at, body);
    put16(p + at, id);
    at += 2;
    if (opt.v5)
        p[at++] = 0;
    put16(p + at, (unsigned)n);
    at += 2;
    memcpy(p + at, filter, n);
    at += n;
    p[at++] = (uint8_t)qos;
    return at;
}

void packet_publish(struct conn *c, const char *topic, int qos, bool retain)
{
    size_t n = strlen(topic);
    size_t body = 2 + n + (qos ? 2u : 0u) + (opt.v5 ? 1u : 0u) + (size_t)opt.size;
    free(c->packet);
    uint8_t *p = c->packet =
        xalloc(16 + n + (opt.size < LARGE_PAYLOAD ? (size_t)opt.size : STAMP_SIZE));
    size_t at = 0;
    p[at++] = (uint8_t)(P_PUBLISH << 4 | qos << 1 | retain);
    at += put_remaining(p + at, body);
    put16(p + at, (unsigned)n);
    at += 2;
    memcpy(p + at, topic, n);
    at += n;
    c->id_at = qos ? at : 0;
    at += qos ? 2u : 0u;
    if (opt.v5)
        p[at++] = 0;
    c->head_len = at;
    c->packet_len = at + (size_t)opt.size;
    if (opt.size < LARGE_PAYLOAD)
        for (int i = STAMP_SIZE; i < opt.size; i++)
            p[at + (size_t)i] = (uint8_t)('a' + i % 26);
}
