/* SPDX-License-Identifier: MIT */

#include "mqtt/wire.h"

#include "base/utf8.h"

bool wire_text_valid(const uint8_t *text, size_t len)
{
    return wire_text_is_plain(text, len) || (!memchr(text, '\0', len) && utf8_valid(text, len));
}

enum mqtt_reason wire_topic_check_slow(const uint8_t *text, size_t len)
{
    if (!wire_text_valid(text, len))
        return MQTT_MALFORMED_PACKET;
    if (memchr(text, '+', len) || memchr(text, '#', len))
        return MQTT_TOPIC_NAME_INVALID;
    return MQTT_SUCCESS;
}

static const uint8_t *take(struct wire_in *in, size_t len)
{
    if (wire_left(in) < len) {
        wire_fail(in, MQTT_MALFORMED_PACKET);
        return NULL;
    }
    const uint8_t *at = in->at;
    in->at += len;
    return at;
}

uint8_t wire_take8(struct wire_in *in)
{
    const uint8_t *at = take(in, 1);
    return at ? *at : 0;
}

uint16_t wire_take16(struct wire_in *in)
{
    const uint8_t *at = take(in, 2);
    return at ? wire_peek16(at) : 0;
}

uint32_t wire_take32(struct wire_in *in)
{
    const uint8_t *at = take(in, 4);
    return at ? wire_peek32(at) : 0;
}

uint32_t wire_take_varint(struct wire_in *in)
{
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 28; shift += 7) {
        const uint8_t *at = take(in, 1);
        if (!at)
            return 0;
        value |= (uint32_t)(*at & 0x7F) << shift;
        if (*at & 0x80)
            continue;
        if (*at == 0 && shift > 0)
            break;
        return value;
    }
    wire_fail(in, MQTT_MALFORMED_PACKET);
    return 0;
}

struct mqtt_slice wire_take_binary(struct wire_in *in)
{
    size_t len = wire_take16(in);
    const uint8_t *at = take(in, len);
    return (struct mqtt_slice){ at, at ? len : 0 };
}

struct mqtt_string wire_take_string(struct wire_in *in)
{
    struct mqtt_slice got = wire_take_binary(in);
    if (got.data && !wire_text_valid(got.data, got.len)) {
        wire_fail(in, MQTT_MALFORMED_PACKET);
        got = (struct mqtt_slice){ NULL, 0 };
    }
    return (struct mqtt_string){ (const char *)got.data, got.len };
}

uint16_t wire_take_packet_id(struct wire_in *in)
{
    uint16_t id = wire_take16(in);
    if (id == 0)
        wire_fail(in, MQTT_PROTOCOL_ERROR);
    return id;
}

void wire_take_properties(struct wire_in *in, enum mqtt_level level, enum mqtt_type type,
                          enum mqtt_sender sender, struct mqtt_properties *out)
{
    if (level < MQTT_5_0 || in->error != MQTT_SUCCESS) {
        mqtt_properties_clear(out);
        return;
    }
    const uint8_t *end;
    enum mqtt_reason reason = mqtt_properties_read(out, type, sender, in->at, wire_left(in), &end);
    if (reason == MQTT_SUCCESS)
        in->at = end;
    else
        wire_fail(in, reason);
}

enum mqtt_reason wire_finish(struct wire_in *in)
{
    if (in->error == MQTT_SUCCESS && in->at != in->end)
        in->error = MQTT_MALFORMED_PACKET;
    return in->error;
}
