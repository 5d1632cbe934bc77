/* SPDX-License-Identifier: MIT */

/*
 * A publication as bytes. Any thread.
 *
 * Version, flags, with FLAG_EXPIRES eight bytes (the lowest first), then topic, properties and payload, each behind its
 * length: seven bits a byte, the lowest first, in the fewest bytes. So the properties are as in a packet.
 */

#include "broker/durable_op.h"

#include "mqtt/properties.h"
#include "mqtt/topic.h"

#include <errno.h>

#define VERSION 1

/* Part of the file format. The lowest two bits are the QoS. */
enum flags {
    FLAG_QOS = 0x03,
    FLAG_RETAIN = 0x04,
    FLAG_EXPIRES = 0x08,
    FLAGS = 0x0f,
};

/* ---- Writing ---- */

static void put_part(struct buf *out, const void *data, size_t len)
{
    size_t rest = len;
    for (; rest >= 0x80; rest >>= 7)
        buf_add_byte(out, (char)(rest | 0x80));
    buf_add_byte(out, (char)rest);
    buf_add(out, data, len);
}

int durable_write_publication(const struct publication *publication, int64_t expires_ms,
                              struct buf *out)
{
    buf_add_byte(out, VERSION);
    buf_add_byte(out, (char)(publication->qos | (publication->retain ? FLAG_RETAIN : 0) |
                             (expires_ms > 0 ? FLAG_EXPIRES : 0)));
    if (expires_ms > 0)
        for (unsigned shift = 0; shift < 64; shift += 8)
            buf_add_byte(out, (char)(expires_ms >> shift));
    put_part(out, publication_topic(publication), publication->topic_len);
    put_part(out, publication_properties(publication), publication->properties_len);
    put_part(out, publication_payload(publication), publication->payload_len);
    return out->error;
}

/* ---- Reading ---- */

struct reader {
    const uint8_t *at, *end;
    bool failed;
};

static uint8_t get_byte(struct reader *r)
{
    if (r->at == r->end) {
        r->failed = true;
        return 0;
    }
    return *r->at++;
}

static int64_t get_time(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 8)
        value |= (uint64_t)get_byte(r) << shift;
    if (value == 0 || value > INT64_MAX)
        r->failed = true;
    return r->failed ? 0 : (int64_t)value;
}

static struct mqtt_slice get_part(struct reader *r)
{
    uint64_t len = 0;
    uint8_t byte = 0x80;
    for (unsigned shift = 0; byte & 0x80; shift += 7) {
        byte = get_byte(r);
        len |= (uint64_t)(byte & 0x7f) << shift;
        if (r->failed || (byte == 0 && shift > 0) || shift > 28) {
            r->failed = true;
            return (struct mqtt_slice){ NULL, 0 };
        }
    }
    if (len > (uint64_t)(r->end - r->at)) {
        r->failed = true;
        return (struct mqtt_slice){ NULL, 0 };
    }
    const struct mqtt_slice part = { r->at, (size_t)len };
    r->at += len;
    return part;
}

/* Those that a publication has: only what is carried on. */
static struct mqtt_slice get_properties(struct reader *r)
{
    struct mqtt_properties properties;
    const uint8_t *end;
    if (r->failed ||
        mqtt_properties_read(&properties, MQTT_PUBLISH, MQTT_FROM_CLIENT, r->at,
                             (size_t)(r->end - r->at), &end) != MQTT_SUCCESS ||
        properties.carried_len != properties.raw.len) {
        r->failed = true;
        return (struct mqtt_slice){ NULL, 0 };
    }
    r->at = end;
    return properties.raw;
}

int durable_read_publication(const void *data, size_t len, struct publication **out,
                             int64_t *expires_ms)
{
    *out = NULL;
    *expires_ms = 0;
    struct reader r = { data, (const uint8_t *)data + len, .failed = false };
    if (get_byte(&r) != VERSION)
        return -EBADMSG;
    const uint8_t flags = get_byte(&r), qos = flags & FLAG_QOS;
    if ((flags & ~FLAGS) || qos > 2)
        return -EBADMSG;
    const int64_t expires = flags & FLAG_EXPIRES ? get_time(&r) : 0;
    const struct mqtt_slice topic = get_part(&r);
    const struct mqtt_slice properties = get_properties(&r);
    const struct mqtt_slice payload = get_part(&r);
    if (r.failed || r.at != r.end || payload.len > UINT32_MAX ||
        topic_name_fault((const char *)topic.data, topic.len))
        return -EBADMSG;

    struct publication *publication =
        publication_new((const char *)topic.data, topic.len, properties.data, properties.len,
                        payload.data, payload.len);
    if (!publication)
        return -ENOMEM;
    publication->qos = qos;
    publication->retain = flags & FLAG_RETAIN;
    *out = publication;
    *expires_ms = expires;
    return 0;
}
