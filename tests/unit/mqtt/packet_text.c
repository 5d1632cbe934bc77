/* SPDX-License-Identifier: MIT */

#include "packet_text.h"

#include <stdlib.h>

static void add_bytes(struct buf *out, const char *label, const void *data, size_t len)
{
    buf_add_str(out, label);
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = ((const uint8_t *)data)[i];
        if (byte > ' ' && byte < 0x7F && byte != '\\')
            buf_add_byte(out, (char)byte);
        else
            buf_addf(out, "\\%02X", byte);
    }
}

static void add_string(struct buf *out, const char *label, struct mqtt_string text)
{
    if (text.data)
        add_bytes(out, label, text.data, text.len);
}

static void add_slice(struct buf *out, const char *label, struct mqtt_slice slice)
{
    if (slice.data)
        add_bytes(out, label, slice.data, slice.len);
}

static void add_properties(struct buf *out, const struct mqtt_properties *p)
{
    struct mqtt_property_item item;
    size_t at = 0;
    const char *before = " [";
    while (mqtt_properties_next(p, &at, &item)) {
        buf_addf(out, "%s%02X=", before, item.id);
        before = " ";
        if (item.name.data)
            add_string(out, "", item.name);
        if (item.value.data)
            add_slice(out, item.name.data ? ":" : "", item.value);
        else
            buf_addf(out, "%u", item.number);
    }
    if (p->raw.len > 0)
        buf_add_byte(out, ']');
}

static void add_flag(struct buf *out, const char *name, bool set)
{
    if (set)
        buf_addf(out, " %s", name);
}

static void add_reason(struct buf *out, enum mqtt_reason reason)
{
    buf_addf(out, " %02X", reason);
}

static enum mqtt_reason connect_text(const struct any_packet *in, struct buf *out)
{
    struct mqtt_connect p;
    enum mqtt_reason reason = mqtt_read_connect(in->body, in->len, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_addf(out, "CONNECT v%d", p.level);
    add_flag(out, "clean", p.clean_start);
    buf_addf(out, " keep=%u", p.keep_alive_s);
    add_string(out, " id=", p.client_id);
    add_properties(out, &p.properties);
    if (p.will.topic.data) {
        buf_addf(out, " will q%u", p.will.qos);
        add_flag(out, "retain", p.will.retain);
        add_string(out, " topic=", p.will.topic);
        add_slice(out, " payload=", p.will.payload);
        add_properties(out, &p.will.properties);
    }
    add_string(out, " user=", p.user_name);
    add_slice(out, " password=", p.password);
    return reason;
}

static enum mqtt_reason connack_text(const struct any_packet *in, struct buf *out)
{
    struct mqtt_connack p;
    enum mqtt_reason reason = mqtt_read_connack(in->body, in->len, in->level, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_add_str(out, "CONNACK");
    add_flag(out, "present", p.session_present);
    add_reason(out, p.reason);
    add_properties(out, &p.properties);
    return reason;
}

static enum mqtt_reason publish_text(const struct any_packet *in, struct buf *out)
{
    struct mqtt_publish p;
    enum mqtt_reason reason =
        mqtt_read_publish(in->first, in->body, in->len, in->level, in->sender, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_addf(out, "PUBLISH q%u", p.qos);
    add_flag(out, "dup", p.dup);
    add_flag(out, "retain", p.retain);
    if (p.packet_id)
        buf_addf(out, " id=%u", p.packet_id);
    add_string(out, " topic=", p.topic);
    add_properties(out, &p.properties);
    add_slice(out, " payload=", p.payload);
    return reason;
}

static enum mqtt_reason ack_text(const struct any_packet *in, struct buf *out)
{
    static const char *const names[] = { "PUBACK", "PUBREC", "PUBREL", "PUBCOMP" };
    enum mqtt_type type = mqtt_packet_type(in->first);
    struct mqtt_ack p;
    enum mqtt_reason reason = mqtt_read_ack(type, in->body, in->len, in->level, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_addf(out, "%s id=%u", names[type - MQTT_PUBACK], p.packet_id);
    add_reason(out, p.reason);
    add_properties(out, &p.properties);
    return reason;
}

static void add_subscription(struct buf *out, const struct mqtt_subscription *s, bool options)
{
    buf_add_byte(out, ' ');
    if (s->share_name.data) {
        add_string(out, "share=", s->share_name);
        buf_add_byte(out, ' ');
    }
    add_string(out, "filter=", s->filter);
    if (!options)
        return;
    buf_addf(out, " q%u", s->qos);
    add_flag(out, "no-local", s->no_local);
    add_flag(out, "as-published", s->retain_as_published);
    if (s->retain_handling != MQTT_RETAIN_SEND)
        buf_addf(out, " handling=%d", s->retain_handling);
}

static enum mqtt_reason subscribe_text(const struct any_packet *in, struct buf *out)
{
    bool options = mqtt_packet_type(in->first) == MQTT_SUBSCRIBE;
    struct mqtt_subscribe p;
    enum mqtt_reason reason = options ? mqtt_read_subscribe(in->body, in->len, in->level, &p)
                                      : mqtt_read_unsubscribe(in->body, in->len, in->level, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_addf(out, "%s id=%u", options ? "SUBSCRIBE" : "UNSUBSCRIBE", p.packet_id);
    add_properties(out, &p.properties);
    struct mqtt_subscription s;
    size_t at = 0, count = 0;
    while (options ? mqtt_subscribe_next(&p, &at, &s) : mqtt_unsubscribe_next(&p, &at, &s)) {
        add_subscription(out, &s, options);
        count++;
    }
    if (count != p.count || count == 0)
        abort();
    return reason;
}

static enum mqtt_reason suback_text(const struct any_packet *in, struct buf *out)
{
    bool is_suback = mqtt_packet_type(in->first) == MQTT_SUBACK;
    struct mqtt_suback p;
    enum mqtt_reason reason = is_suback ? mqtt_read_suback(in->body, in->len, in->level, &p)
                                        : mqtt_read_unsuback(in->body, in->len, in->level, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_addf(out, "%s id=%u", is_suback ? "SUBACK" : "UNSUBACK", p.packet_id);
    for (size_t i = 0; i < p.reasons.len; i++)
        add_reason(out, (enum mqtt_reason)p.reasons.data[i]);
    add_properties(out, &p.properties);
    return reason;
}

static enum mqtt_reason read_leaving(const struct any_packet *in, struct mqtt_disconnect *p)
{
    return mqtt_packet_type(in->first) == MQTT_AUTH
               ? mqtt_read_auth(in->body, in->len, in->sender, p)
               : mqtt_read_disconnect(in->body, in->len, in->level, in->sender, p);
}

static enum mqtt_reason disconnect_text(const struct any_packet *in, struct buf *out)
{
    struct mqtt_disconnect p;
    enum mqtt_reason reason = read_leaving(in, &p);
    if (reason != MQTT_SUCCESS)
        return reason;
    buf_add_str(out, mqtt_packet_type(in->first) == MQTT_AUTH ? "AUTH" : "DISCONNECT");
    add_reason(out, p.reason);
    add_properties(out, &p.properties);
    return reason;
}

enum mqtt_reason packet_text(const struct any_packet *packet, struct buf *out)
{
    enum mqtt_reason reason = mqtt_header_check(packet->first, packet->level, packet->sender);
    if (reason != MQTT_SUCCESS)
        return reason;
    switch (mqtt_packet_type(packet->first)) {
    case MQTT_CONNECT:
        return connect_text(packet, out);
    case MQTT_CONNACK:
        return connack_text(packet, out);
    case MQTT_PUBLISH:
        return publish_text(packet, out);
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        return ack_text(packet, out);
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        return subscribe_text(packet, out);
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        return suback_text(packet, out);
    case MQTT_DISCONNECT:
    case MQTT_AUTH:
        return disconnect_text(packet, out);
    default:
        reason = mqtt_read_ping(packet->len);
        if (reason == MQTT_SUCCESS)
            buf_add_str(out, packet->sender == MQTT_FROM_CLIENT ? "PINGREQ" : "PINGRESP");
        return reason;
    }
}

/* ---- Written again ------------------------------------------------------------------------------- */

static size_t connect_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    struct mqtt_connect p;
    mqtt_read_connect(in->body, in->len, &p);
    return mqtt_write_connect(out, room, &p);
}

static size_t connack_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    struct mqtt_connack p;
    mqtt_read_connack(in->body, in->len, in->level, &p);
    return mqtt_write_connack(out, room, in->level, p.session_present, p.reason, p.properties.raw);
}

/* What is carried on goes its own way, if it is all there is. */
static size_t publish_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    struct mqtt_publish p;
    mqtt_read_publish(in->first, in->body, in->len, in->level, in->sender, &p);
    uint8_t *carried = malloc(p.properties.carried_len + 1);
    if (!carried)
        abort();
    uint8_t *end = mqtt_properties_carry(&p.properties, carried);
    if (end != carried + p.properties.carried_len)
        abort();
    bool all = p.properties.carried_len == p.properties.raw.len;
    struct mqtt_slice none = { NULL, 0 };
    const struct mqtt_publish_head head = {
        .topic = p.topic,
        .payload_len = p.payload.len,
        .packet_id = all ? 0 : p.packet_id,
        .qos = p.qos,
        .dup = p.dup,
        .retain = p.retain,
        .own = all ? none : p.properties.raw,
        .carried = all ? (struct mqtt_slice){ carried, p.properties.carried_len } : none,
    };
    size_t id_at;
    size_t left = room > p.payload.len ? room - p.payload.len : 0;
    size_t len = mqtt_write_publish_head(out, left, in->level, &head, &id_at);
    if ((id_at > 0) != (p.qos > 0))
        abort();
    if (len <= left) {
        if (id_at > 0)
            mqtt_set_packet_id(out + id_at, p.packet_id);
        for (size_t i = 0; i < p.payload.len; i++)
            out[len + i] = p.payload.data[i];
    }
    free(carried);
    return len + p.payload.len;
}

static size_t ack_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    enum mqtt_type type = mqtt_packet_type(in->first);
    struct mqtt_ack p;
    mqtt_read_ack(type, in->body, in->len, in->level, &p);
    size_t len =
        mqtt_write_ack(out, room, in->level, type, p.packet_id, p.reason, p.properties.raw);
    if (len == MQTT_ACK_LENGTH && room >= len)
        mqtt_write_ack_short(out, type, p.packet_id);
    return len;
}

static size_t subscribe_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    bool options = mqtt_packet_type(in->first) == MQTT_SUBSCRIBE;
    struct mqtt_subscribe p;
    if (options)
        mqtt_read_subscribe(in->body, in->len, in->level, &p);
    else
        mqtt_read_unsubscribe(in->body, in->len, in->level, &p);
    struct mqtt_subscription *list = calloc(p.count, sizeof(*list));
    if (!list)
        abort();
    size_t at = 0;
    for (size_t i = 0; i < p.count; i++)
        if (!(options ? mqtt_subscribe_next(&p, &at, &list[i])
                      : mqtt_unsubscribe_next(&p, &at, &list[i])))
            abort();
    size_t len = options ? mqtt_write_subscribe(out, room, in->level, p.packet_id, list, p.count,
                                                p.properties.raw)
                         : mqtt_write_unsubscribe(out, room, in->level, p.packet_id, list, p.count,
                                                  p.properties.raw);
    free(list);
    return len;
}

static size_t suback_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    struct mqtt_suback p;
    if (mqtt_packet_type(in->first) == MQTT_SUBACK) {
        mqtt_read_suback(in->body, in->len, in->level, &p);
        return mqtt_write_suback(out, room, in->level, p.packet_id, p.reasons.data, p.reasons.len,
                                 p.properties.raw);
    }
    mqtt_read_unsuback(in->body, in->len, in->level, &p);
    return mqtt_write_unsuback(out, room, in->level, p.packet_id, p.reasons.data, p.reasons.len,
                               p.properties.raw);
}

static size_t disconnect_again(const struct any_packet *in, uint8_t *out, size_t room)
{
    struct mqtt_disconnect p;
    read_leaving(in, &p);
    if (mqtt_packet_type(in->first) == MQTT_AUTH)
        return mqtt_write_auth(out, room, p.reason, p.properties.raw);
    return mqtt_write_disconnect(out, room, in->level, p.reason, p.properties.raw);
}

size_t packet_again(const struct any_packet *packet, uint8_t *out, size_t room)
{
    switch (mqtt_packet_type(packet->first)) {
    case MQTT_CONNECT:
        return connect_again(packet, out, room);
    case MQTT_CONNACK:
        return connack_again(packet, out, room);
    case MQTT_PUBLISH:
        return publish_again(packet, out, room);
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        return subscribe_again(packet, out, room);
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        return suback_again(packet, out, room);
    case MQTT_DISCONNECT:
    case MQTT_AUTH:
        return disconnect_again(packet, out, room);
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        if (room >= MQTT_PING_LENGTH)
            mqtt_write_ping(out, mqtt_packet_type(packet->first));
        return MQTT_PING_LENGTH;
    default:
        return ack_again(packet, out, room);
    }
}
