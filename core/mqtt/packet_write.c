/* SPDX-License-Identifier: MIT */

#include "mqtt/packet.h"

#include "mqtt/wire.h"

static const struct mqtt_slice nothing = { NULL, 0 };

/* Whether a length can be the Remaining Length. Its parts were not larger than memory is, so their sum
 * has not run over. */
static bool is_packet(size_t remaining)
{
    return remaining <= MQTT_VARINT_MAX;
}

static size_t packet_length(size_t remaining)
{
    return 1 + mqtt_varint_length(remaining) + remaining;
}

static uint8_t *put_header(uint8_t *out, uint8_t first, size_t remaining)
{
    *out++ = first;
    return mqtt_varint_write(out, remaining);
}

static uint8_t first_byte(enum mqtt_type type)
{
    bool reserved = type == MQTT_PUBREL || type == MQTT_SUBSCRIBE || type == MQTT_UNSUBSCRIBE;
    return (uint8_t)(type << 4 | (reserved ? 2 : 0));
}

static uint8_t *put_string(uint8_t *out, struct mqtt_string text)
{
    return wire_put_binary(out, text.data, text.len);
}

/* A reason, then properties, and of both no more than is needed. */
static size_t write_reason(uint8_t *out, size_t room, enum mqtt_type type, const uint8_t *id,
                           enum mqtt_reason reason, struct mqtt_slice properties)
{
    const size_t id_len = id ? 2 : 0;
    size_t remaining = id_len;
    /* AUTH may leave out its Property Length only together with its reason. */
    bool with_length = properties.len > 0 || (type == MQTT_AUTH && reason != MQTT_SUCCESS);
    if (with_length)
        remaining += 1 + wire_properties_length(MQTT_5_0, properties);
    else if (reason != MQTT_SUCCESS)
        remaining += 1;
    if (!is_packet(remaining))
        return 0;
    if (packet_length(remaining) > room)
        return packet_length(remaining);

    out = put_header(out, first_byte(type), remaining);
    out = wire_put_raw(out, id, id_len);
    if (remaining > id_len)
        *out++ = (uint8_t)reason;
    if (with_length)
        wire_put_properties(out, MQTT_5_0, properties);
    return packet_length(remaining);
}

/* ---- Of servers ---------------------------------------------------------------------------------- */

size_t mqtt_write_connack(uint8_t *out, size_t room, enum mqtt_level level, bool session_present,
                          enum mqtt_reason reason, struct mqtt_slice properties)
{
    int code = level < MQTT_5_0 ? mqtt_reason_return_code(reason) : (int)reason;
    size_t remaining = 2 + wire_properties_length(level, properties);
    if (code < 0 || !is_packet(remaining))
        return 0;
    if (packet_length(remaining) > room)
        return packet_length(remaining);
    out = put_header(out, first_byte(MQTT_CONNACK), remaining);
    *out++ = session_present && level != MQTT_3_1;
    *out++ = (uint8_t)code;
    wire_put_properties(out, level, properties);
    return packet_length(remaining);
}

size_t mqtt_write_publish_head(uint8_t *out, size_t room, enum mqtt_level level,
                               const struct mqtt_publish_head *head, size_t *packet_id_at)
{
    size_t len = 2 + head->topic.len + (head->qos > 0 ? 2 : 0);
    size_t properties = 0;
    if (level >= MQTT_5_0) {
        properties = head->own.len + head->carried.len;
        len += mqtt_varint_length(properties) + properties;
    }
    const size_t remaining = len + head->payload_len;
    if (packet_id_at)
        *packet_id_at = 0;
    if (head->topic.len > MQTT_STRING_MAX || !is_packet(remaining))
        return 0;
    const size_t total = 1 + mqtt_varint_length(remaining) + len;
    if (packet_id_at && head->qos > 0)
        *packet_id_at = total - len + 2 + head->topic.len;
    if (total > room)
        return total;

    unsigned first = MQTT_PUBLISH << 4 | (unsigned)head->qos << 1;
    first |= (head->dup ? MQTT_FLAG_DUP : 0) | (head->retain ? MQTT_FLAG_RETAIN : 0);
    out = put_header(out, (uint8_t)first, remaining);
    out = put_string(out, head->topic);
    if (head->qos > 0)
        out = wire_put16(out, head->packet_id);
    if (level >= MQTT_5_0) {
        out = mqtt_varint_write(out, properties);
        out = wire_put_raw(out, head->own.data, head->own.len);
        wire_put_raw(out, head->carried.data, head->carried.len);
    }
    return total;
}

size_t mqtt_write_ack(uint8_t *out, size_t room, enum mqtt_level level, enum mqtt_type type,
                      uint16_t packet_id, enum mqtt_reason reason, struct mqtt_slice properties)
{
    uint8_t id[2];
    mqtt_set_packet_id(id, packet_id);
    if (level < MQTT_5_0)
        return write_reason(out, room, type, id, MQTT_SUCCESS, nothing);
    return write_reason(out, room, type, id, reason, properties);
}

static size_t write_reasons(uint8_t *out, size_t room, enum mqtt_level level, enum mqtt_type type,
                            uint16_t packet_id, struct mqtt_slice reasons,
                            struct mqtt_slice properties)
{
    size_t remaining = 2 + wire_properties_length(level, properties) + reasons.len;
    if (!is_packet(remaining))
        return 0;
    if (packet_length(remaining) > room)
        return packet_length(remaining);
    out = put_header(out, first_byte(type), remaining);
    out = wire_put16(out, packet_id);
    out = wire_put_properties(out, level, properties);
    for (size_t i = 0; i < reasons.len; i++)
        out[i] = level < MQTT_5_0 && reasons.data[i] >= 0x80 ? 0x80 : reasons.data[i];
    return packet_length(remaining);
}

size_t mqtt_write_suback(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                         const uint8_t *reasons, size_t count, struct mqtt_slice properties)
{
    return write_reasons(out, room, level, MQTT_SUBACK, packet_id,
                         (struct mqtt_slice){ reasons, count }, properties);
}

size_t mqtt_write_unsuback(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                           const uint8_t *reasons, size_t count, struct mqtt_slice properties)
{
    struct mqtt_slice list = { reasons, count };
    return write_reasons(out, room, level, MQTT_UNSUBACK, packet_id,
                         level < MQTT_5_0 ? nothing : list, properties);
}

size_t mqtt_write_disconnect(uint8_t *out, size_t room, enum mqtt_level level,
                             enum mqtt_reason reason, struct mqtt_slice properties)
{
    if (level < MQTT_5_0)
        return write_reason(out, room, MQTT_DISCONNECT, NULL, MQTT_SUCCESS, nothing);
    return write_reason(out, room, MQTT_DISCONNECT, NULL, reason, properties);
}

size_t mqtt_write_auth(uint8_t *out, size_t room, enum mqtt_reason reason,
                       struct mqtt_slice properties)
{
    return write_reason(out, room, MQTT_AUTH, NULL, reason, properties);
}

/* ---- Of clients ---------------------------------------------------------------------------------- */

static uint8_t connect_flags(const struct mqtt_connect *connect)
{
    unsigned flags = connect->clean_start ? 0x02 : 0;
    if (connect->will.topic.data)
        flags |= 0x04u | (unsigned)connect->will.qos << 3 | (connect->will.retain ? 0x20 : 0);
    flags |= (connect->password.data ? 0x40 : 0) | (connect->user_name.data ? 0x80 : 0);
    return (uint8_t)flags;
}

static size_t connect_remaining(const struct mqtt_connect *connect)
{
    const struct mqtt_will *will = &connect->will;
    const enum mqtt_level level = connect->level;
    size_t len = (level == MQTT_3_1 ? 8 : 6) + 4;
    len += wire_properties_length(level, connect->properties.raw);
    len += 2 + connect->client_id.len;
    if (will->topic.data)
        len += wire_properties_length(level, will->properties.raw) + 2 + will->topic.len + 2 +
               will->payload.len;
    if (connect->user_name.data)
        len += 2 + connect->user_name.len;
    if (connect->password.data)
        len += 2 + connect->password.len;
    return len;
}

static bool strings_fit(const struct mqtt_connect *connect)
{
    return connect->client_id.len <= MQTT_STRING_MAX && connect->user_name.len <= MQTT_STRING_MAX &&
           connect->password.len <= MQTT_STRING_MAX && connect->will.topic.len <= MQTT_STRING_MAX &&
           connect->will.payload.len <= MQTT_STRING_MAX;
}

size_t mqtt_write_connect(uint8_t *out, size_t room, const struct mqtt_connect *connect)
{
    const struct mqtt_will *will = &connect->will;
    const enum mqtt_level level = connect->level;
    const size_t remaining = connect_remaining(connect);
    if (!strings_fit(connect) || !is_packet(remaining))
        return 0;
    if (packet_length(remaining) > room)
        return packet_length(remaining);

    out = put_header(out, first_byte(MQTT_CONNECT), remaining);
    out = level == MQTT_3_1 ? wire_put_binary(out, "MQIsdp", 6) : wire_put_binary(out, "MQTT", 4);
    *out++ = (uint8_t)level;
    *out++ = connect_flags(connect);
    out = wire_put16(out, connect->keep_alive_s);
    out = wire_put_properties(out, level, connect->properties.raw);
    out = put_string(out, connect->client_id);
    if (will->topic.data) {
        out = wire_put_properties(out, level, will->properties.raw);
        out = put_string(out, will->topic);
        out = wire_put_binary(out, will->payload.data, will->payload.len);
    }
    if (connect->user_name.data)
        out = put_string(out, connect->user_name);
    if (connect->password.data)
        wire_put_binary(out, connect->password.data, connect->password.len);
    return packet_length(remaining);
}

static uint8_t options_of(const struct mqtt_subscription *s, enum mqtt_level level)
{
    if (level < MQTT_5_0)
        return s->qos;
    return (uint8_t)(s->qos | (s->no_local ? 0x04 : 0) | (s->retain_as_published ? 0x08 : 0) |
                     s->retain_handling << 4);
}

static size_t write_filters(uint8_t *out, size_t room, enum mqtt_level level, enum mqtt_type type,
                            uint16_t packet_id, const struct mqtt_subscription *subscriptions,
                            size_t count, struct mqtt_slice properties)
{
    const size_t option_len = type == MQTT_SUBSCRIBE ? 1 : 0;
    size_t remaining = 2 + wire_properties_length(level, properties);
    for (size_t i = 0; i < count; i++) {
        if (subscriptions[i].text.len > MQTT_STRING_MAX)
            return 0;
        remaining += 2 + subscriptions[i].text.len + option_len;
    }
    if (!is_packet(remaining))
        return 0;
    if (packet_length(remaining) > room)
        return packet_length(remaining);

    out = put_header(out, first_byte(type), remaining);
    out = wire_put16(out, packet_id);
    out = wire_put_properties(out, level, properties);
    for (size_t i = 0; i < count; i++) {
        out = put_string(out, subscriptions[i].text);
        if (type == MQTT_SUBSCRIBE)
            *out++ = options_of(&subscriptions[i], level);
    }
    return packet_length(remaining);
}

size_t mqtt_write_subscribe(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                            const struct mqtt_subscription *subscriptions, size_t count,
                            struct mqtt_slice properties)
{
    return write_filters(out, room, level, MQTT_SUBSCRIBE, packet_id, subscriptions, count,
                         properties);
}

size_t mqtt_write_unsubscribe(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                              const struct mqtt_subscription *subscriptions, size_t count,
                              struct mqtt_slice properties)
{
    return write_filters(out, room, level, MQTT_UNSUBSCRIBE, packet_id, subscriptions, count,
                         properties);
}
