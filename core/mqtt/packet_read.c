/* SPDX-License-Identifier: MIT */

#include "mqtt/packet.h"

#include "mqtt/topic.h"
#include "mqtt/wire.h"

#include <errno.h>

/* ---- Fixed header -------------------------------------------------------------------------------- */

int mqtt_packet_length_long(const uint8_t *data, size_t len, size_t *header_len, size_t *remaining)
{
    *header_len = 0;
    *remaining = 0;
    size_t value = 0;
    for (size_t i = 1; i < MQTT_HEADER_MAX; i++) {
        if (i >= len)
            return 0;
        value |= (size_t)(data[i] & 0x7F) << (7 * (i - 1));
        if (data[i] < 128) {
            *header_len = i + 1;
            *remaining = value;
            return 1;
        }
    }
    return -EBADMSG;
}

#define BIT(TYPE) (1u << (TYPE))

enum mqtt_reason mqtt_header_check(uint8_t first, enum mqtt_level level, enum mqtt_sender sender)
{
    static const unsigned both = BIT(MQTT_PUBLISH) | BIT(MQTT_PUBACK) | BIT(MQTT_PUBREC) |
                                 BIT(MQTT_PUBREL) | BIT(MQTT_PUBCOMP);
    static const unsigned client = BIT(MQTT_CONNECT) | BIT(MQTT_SUBSCRIBE) | BIT(MQTT_UNSUBSCRIBE) |
                                   BIT(MQTT_PINGREQ) | BIT(MQTT_DISCONNECT);
    static const unsigned server =
        BIT(MQTT_CONNACK) | BIT(MQTT_SUBACK) | BIT(MQTT_UNSUBACK) | BIT(MQTT_PINGRESP);
    static const unsigned since_5_0 = BIT(MQTT_DISCONNECT) | BIT(MQTT_AUTH);

    enum mqtt_type type = mqtt_packet_type(first);
    unsigned allowed =
        both | (sender == MQTT_FROM_CLIENT ? client : server) | (level >= MQTT_5_0 ? since_5_0 : 0);
    if (!(allowed & BIT(type)))
        return MQTT_PROTOCOL_ERROR;
    if (type == MQTT_PUBLISH || level == MQTT_3_1)
        return MQTT_SUCCESS;
    unsigned flags =
        type == MQTT_PUBREL || type == MQTT_SUBSCRIBE || type == MQTT_UNSUBSCRIBE ? 2 : 0;
    return (first & 0x0Fu) == flags ? MQTT_SUCCESS : MQTT_MALFORMED_PACKET;
}

/* ---- CONNECT, CONNACK ---------------------------------------------------------------------------- */

enum connect_flag {
    CONNECT_RESERVED = 0x01,
    CONNECT_CLEAN_START = 0x02,
    CONNECT_WILL = 0x04,
    CONNECT_WILL_QOS = 0x18,
    CONNECT_WILL_RETAIN = 0x20,
    CONNECT_PASSWORD = 0x40,
    CONNECT_USER_NAME = 0x80,
};

static bool is_text(struct mqtt_string got, const char *want, size_t len)
{
    return got.len == len && memcmp(got.data, want, len) == 0;
}

/* Which version a CONNECT speaks. Of one that is not known, the answer is in the nearest version. Bridges
 * set the highest bit of the level. */
static void take_version(struct wire_in *in, struct mqtt_connect *out)
{
    struct mqtt_string name = wire_take_string(in);
    uint8_t level = wire_take8(in);
    if (in->error != MQTT_SUCCESS)
        return;
    out->protocol_level = level;
    if (is_text(name, "MQTT", 4) && (level == MQTT_3_1_1 || level == MQTT_5_0)) {
        out->level = (enum mqtt_level)level;
    } else if (is_text(name, "MQIsdp", 6) && level == MQTT_3_1) {
        out->level = MQTT_3_1;
    } else {
        out->level = (level & 0x7F) < MQTT_5_0 ? MQTT_3_1_1 : MQTT_5_0;
        wire_fail(in, MQTT_UNSUPPORTED_PROTOCOL_VERSION);
    }
}

static bool flags_are_valid(unsigned flags, enum mqtt_level level)
{
    if ((flags & CONNECT_RESERVED) && level != MQTT_3_1) /* [MQTT-3.1.2-3] */
        return false;
    if ((flags & CONNECT_WILL_QOS) == CONNECT_WILL_QOS) /* [MQTT-3.1.2-12] */
        return false;
    if (!(flags & CONNECT_WILL) && (flags & (CONNECT_WILL_QOS | CONNECT_WILL_RETAIN)))
        return false; /* [MQTT-3.1.2-11], [MQTT-3.1.2-13] */
    if ((flags & CONNECT_PASSWORD) && !(flags & CONNECT_USER_NAME))
        return level == MQTT_5_0; /* [MQTT-3.1.2-22] of 3.1.1 */
    return true;
}

static void take_will(struct wire_in *in, unsigned flags, enum mqtt_level level,
                      struct mqtt_will *out)
{
    out->qos = (uint8_t)((flags & CONNECT_WILL_QOS) >> 3);
    out->retain = flags & CONNECT_WILL_RETAIN;
    wire_take_properties(in, level, MQTT_WILL, MQTT_FROM_CLIENT, &out->properties);
    out->topic = wire_take_string(in);
    out->payload = wire_take_binary(in);
    if (in->error == MQTT_SUCCESS &&
        (out->topic.len == 0 ||
         wire_topic_check((const uint8_t *)out->topic.data, out->topic.len) != MQTT_SUCCESS))
        wire_fail(in, MQTT_TOPIC_NAME_INVALID);
}

/* In 3.1 the flags may promise what then does not come. */
static bool follows(const struct wire_in *in, enum mqtt_level level)
{
    return level != MQTT_3_1 || wire_left(in) > 0;
}

enum mqtt_reason mqtt_read_connect(const uint8_t *body, size_t len, struct mqtt_connect *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    out->level = MQTT_3_1_1;
    out->protocol_level = 0;
    out->user_name = out->will.topic = (struct mqtt_string){ NULL, 0 };
    out->password = out->will.payload = (struct mqtt_slice){ NULL, 0 };
    out->will.qos = 0;
    out->will.retain = false;
    mqtt_properties_clear(&out->will.properties);

    take_version(&in, out);
    const enum mqtt_level level = out->level;
    const unsigned flags = wire_take8(&in);
    if (!flags_are_valid(flags, level))
        wire_fail(&in, MQTT_MALFORMED_PACKET);
    out->clean_start = flags & CONNECT_CLEAN_START;
    out->keep_alive_s = wire_take16(&in);
    wire_take_properties(&in, level, MQTT_CONNECT, MQTT_FROM_CLIENT, &out->properties);
    out->client_id = wire_take_string(&in);
    if (flags & CONNECT_WILL)
        take_will(&in, flags, level, &out->will);
    if ((flags & CONNECT_USER_NAME) && follows(&in, level))
        out->user_name = wire_take_string(&in);
    if ((flags & CONNECT_PASSWORD) && follows(&in, level))
        out->password = wire_take_binary(&in);

    enum mqtt_reason reason = wire_finish(&in);
    if (reason == MQTT_SUCCESS && out->client_id.len == 0 &&
        (level == MQTT_3_1 || (level == MQTT_3_1_1 && !out->clean_start)))
        reason = MQTT_CLIENT_IDENTIFIER_NOT_VALID;
    return reason;
}

enum mqtt_reason mqtt_read_connack(const uint8_t *body, size_t len, enum mqtt_level level,
                                   struct mqtt_connack *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    uint8_t flags = wire_take8(&in);
    uint8_t code = wire_take8(&in);
    wire_take_properties(&in, level, MQTT_CONNACK, MQTT_FROM_SERVER, &out->properties);
    if (level == MQTT_3_1)
        flags = 0; /* reserved */
    if (flags > 1) /* [MQTT-3.2.2-1] */
        wire_fail(&in, MQTT_MALFORMED_PACKET);
    out->session_present = flags & 1;
    out->reason = level >= MQTT_5_0 ? (enum mqtt_reason)code : mqtt_reason_of_return_code(code);
    if (!mqtt_reason_allowed((enum mqtt_reason)out->reason, MQTT_CONNACK, MQTT_FROM_SERVER) ||
        (level < MQTT_5_0 && code > 5) ||
        (out->session_present && out->reason != MQTT_SUCCESS)) /* [MQTT-3.2.2-6] */
        wire_fail(&in, MQTT_PROTOCOL_ERROR);
    return wire_finish(&in);
}

/* ---- PUBLISH and its acknowledgements ------------------------------------------------------------ */

enum mqtt_reason mqtt_read_publish(uint8_t first, const uint8_t *body, size_t len,
                                   enum mqtt_level level, enum mqtt_sender sender,
                                   struct mqtt_publish *out)
{
    const uint8_t qos = first >> 1 & 3;
    if (len < 2 || qos == 3 || (qos == 0 && (first & MQTT_FLAG_DUP)))
        return MQTT_MALFORMED_PACKET;
    const size_t topic_len = wire_peek16(body);
    size_t at = 2 + topic_len;
    if (at + (qos > 0 ? 2 : 0) > len)
        return MQTT_MALFORMED_PACKET;

    enum mqtt_reason reason = wire_topic_check(body + 2, topic_len);
    if (reason != MQTT_SUCCESS)
        return reason;
    out->topic = (struct mqtt_string){ (const char *)body + 2, topic_len };
    out->qos = qos;
    out->dup = first & MQTT_FLAG_DUP;
    out->retain = first & MQTT_FLAG_RETAIN;
    out->packet_id = 0;
    if (qos > 0) {
        out->packet_id = wire_peek16(body + at);
        at += 2;
        if (out->packet_id == 0)
            return MQTT_PROTOCOL_ERROR;
    }

    mqtt_properties_clear(&out->properties);
    if (level >= MQTT_5_0) {
        if (at < len && body[at] == 0) {
            at++;
        } else {
            const uint8_t *end;
            reason = mqtt_properties_read(&out->properties, MQTT_PUBLISH, sender, body + at,
                                          len - at, &end);
            if (reason != MQTT_SUCCESS)
                return reason;
            at = (size_t)(end - body);
        }
    }
    if (topic_len == 0 && !mqtt_properties_have(&out->properties, MQTT_PROPERTY_TOPIC_ALIAS))
        return MQTT_PROTOCOL_ERROR;
    out->payload = (struct mqtt_slice){ body + at, len - at };
    return MQTT_SUCCESS;
}

enum mqtt_reason mqtt_read_ack_long(enum mqtt_type type, const uint8_t *body, size_t len,
                                    enum mqtt_level level, struct mqtt_ack *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    out->packet_id = wire_take_packet_id(&in);
    out->reason = MQTT_SUCCESS;
    mqtt_properties_clear(&out->properties);
    if (level >= MQTT_5_0 && wire_left(&in) > 0)
        out->reason = (enum mqtt_reason)wire_take8(&in);
    /* Who sends it makes no difference: see the table. */
    if (!mqtt_reason_allowed(out->reason, type, MQTT_FROM_SERVER))
        wire_fail(&in, MQTT_PROTOCOL_ERROR);
    if (level >= MQTT_5_0 && wire_left(&in) > 0)
        wire_take_properties(&in, level, type, MQTT_FROM_SERVER, &out->properties);
    return wire_finish(&in);
}

/* ---- SUBSCRIBE, UNSUBSCRIBE and their acknowledgements ------------------------------------------- */

#define SHARE "$share/"

/* Sets text, share name and filter. Returns false if it is "$share/" and no more than one level. */
static bool split(struct mqtt_string text, struct mqtt_subscription *out)
{
    const size_t prefix = sizeof(SHARE) - 1;
    out->text = out->filter = text;
    out->share_name = (struct mqtt_string){ NULL, 0 };
    if (text.len < prefix || memcmp(text.data, SHARE, prefix) != 0)
        return true;
    const char *name = text.data + prefix;
    const char *slash = memchr(name, '/', text.len - prefix);
    if (!slash)
        return false;
    out->share_name = (struct mqtt_string){ name, (size_t)(slash - name) };
    out->filter = (struct mqtt_string){ slash + 1, (size_t)(text.data + text.len - slash - 1) };
    return true;
}

enum mqtt_reason mqtt_subscription_split(struct mqtt_string text, struct mqtt_subscription *out)
{
    if (!wire_text_valid((const uint8_t *)text.data, text.len))
        return MQTT_MALFORMED_PACKET;
    if (!split(text, out))
        return MQTT_TOPIC_FILTER_INVALID;
    const struct mqtt_string share = out->share_name;
    if (share.data && (share.len == 0 || memchr(share.data, '+', share.len) ||
                       memchr(share.data, '#', share.len))) /* [MQTT-4.8.2-1], [MQTT-4.8.2-2] */
        return MQTT_TOPIC_FILTER_INVALID;
    return topic_filter_fault(out->filter.data, out->filter.len) ? MQTT_TOPIC_FILTER_INVALID
                                                                 : MQTT_SUCCESS;
}

enum subscription_option {
    OPTION_QOS = 0x03,
    OPTION_NO_LOCAL = 0x04,
    OPTION_RETAIN_AS_PUBLISHED = 0x08,
    OPTION_RETAIN_HANDLING = 0x30,
    OPTION_RESERVED = 0xC0,
};

static enum mqtt_reason check_options(unsigned options, enum mqtt_level level, bool is_shared)
{
    const unsigned reserved = level >= MQTT_5_0     ? OPTION_RESERVED
                              : level == MQTT_3_1_1 ? (unsigned)~OPTION_QOS
                                                    : 0; /* "not used" in 3.1 */
    if (options & reserved)
        return MQTT_MALFORMED_PACKET;
    if ((options & OPTION_QOS) == 3)
        return MQTT_PROTOCOL_ERROR;
    if (level < MQTT_5_0)
        return MQTT_SUCCESS;
    if ((options & OPTION_RETAIN_HANDLING) == OPTION_RETAIN_HANDLING)
        return MQTT_PROTOCOL_ERROR;
    return (options & OPTION_NO_LOCAL) && is_shared ? MQTT_PROTOCOL_ERROR : MQTT_SUCCESS;
}

static enum mqtt_reason read_filters(const uint8_t *body, size_t len, enum mqtt_level level,
                                     enum mqtt_type type, struct mqtt_subscribe *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    out->packet_id = wire_take_packet_id(&in);
    out->count = 0;
    wire_take_properties(&in, level, type, MQTT_FROM_CLIENT, &out->properties);
    out->list = (struct mqtt_slice){ in.at, wire_left(&in) };
    out->level = level;
    if (out->list.len == 0)
        wire_fail(&in, MQTT_PROTOCOL_ERROR); /* [MQTT-3.8.3-2], [MQTT-3.10.3-2] */
    while (wire_left(&in) > 0) {
        struct mqtt_subscription subscription;
        struct mqtt_slice text = wire_take_binary(&in);
        unsigned options = type == MQTT_SUBSCRIBE ? wire_take8(&in) : 0;
        if (in.error != MQTT_SUCCESS)
            break;
        enum mqtt_reason reason = mqtt_subscription_split(
            (struct mqtt_string){ (const char *)text.data, text.len }, &subscription);
        if (reason == MQTT_SUCCESS)
            reason = check_options(options, level, subscription.share_name.data);
        if (reason != MQTT_SUCCESS)
            wire_fail(&in, reason);
        out->count++;
    }
    return wire_finish(&in);
}

enum mqtt_reason mqtt_read_subscribe(const uint8_t *body, size_t len, enum mqtt_level level,
                                     struct mqtt_subscribe *out)
{
    return read_filters(body, len, level, MQTT_SUBSCRIBE, out);
}

enum mqtt_reason mqtt_read_unsubscribe(const uint8_t *body, size_t len, enum mqtt_level level,
                                       struct mqtt_subscribe *out)
{
    return read_filters(body, len, level, MQTT_UNSUBSCRIBE, out);
}

/* Goes on in a list that has been checked. */
static bool next(const struct mqtt_subscribe *packet, size_t *at, bool with_options,
                 struct mqtt_subscription *out)
{
    if (*at >= packet->list.len)
        return false;
    struct wire_in in = { .at = packet->list.data + *at,
                          .end = packet->list.data + packet->list.len };
    struct mqtt_slice text = wire_take_binary(&in);
    unsigned options = with_options ? wire_take8(&in) : 0;
    if (packet->level < MQTT_5_0)
        options &= OPTION_QOS;
    split((struct mqtt_string){ (const char *)text.data, text.len }, out);
    out->qos = options & OPTION_QOS;
    out->no_local = options & OPTION_NO_LOCAL;
    out->retain_as_published = options & OPTION_RETAIN_AS_PUBLISHED;
    out->retain_handling = (enum mqtt_retain_handling)((options & OPTION_RETAIN_HANDLING) >> 4);
    *at = (size_t)(in.at - packet->list.data);
    return true;
}

bool mqtt_subscribe_next(const struct mqtt_subscribe *packet, size_t *at,
                         struct mqtt_subscription *out)
{
    return next(packet, at, true, out);
}

bool mqtt_unsubscribe_next(const struct mqtt_subscribe *packet, size_t *at,
                           struct mqtt_subscription *out)
{
    return next(packet, at, false, out);
}

static enum mqtt_reason read_reasons(const uint8_t *body, size_t len, enum mqtt_level level,
                                     enum mqtt_type type, struct mqtt_suback *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    out->packet_id = wire_take_packet_id(&in);
    wire_take_properties(&in, level, type, MQTT_FROM_SERVER, &out->properties);
    out->reasons = (struct mqtt_slice){ in.at, wire_left(&in) };
    if (level < MQTT_5_0 && type == MQTT_UNSUBACK)
        return wire_finish(&in);
    if (out->reasons.len == 0)
        wire_fail(&in, MQTT_PROTOCOL_ERROR);
    for (size_t i = 0; i < out->reasons.len; i++) {
        enum mqtt_reason reason = (enum mqtt_reason)out->reasons.data[i];
        if (!mqtt_reason_allowed(reason, type, MQTT_FROM_SERVER) ||
            (level < MQTT_5_0 && reason > MQTT_UNSPECIFIED_ERROR)) /* [MQTT-3.9.3-2] */
            wire_fail(&in, MQTT_PROTOCOL_ERROR);
    }
    in.at = in.end;
    return wire_finish(&in);
}

enum mqtt_reason mqtt_read_suback(const uint8_t *body, size_t len, enum mqtt_level level,
                                  struct mqtt_suback *out)
{
    return read_reasons(body, len, level, MQTT_SUBACK, out);
}

enum mqtt_reason mqtt_read_unsuback(const uint8_t *body, size_t len, enum mqtt_level level,
                                    struct mqtt_suback *out)
{
    return read_reasons(body, len, level, MQTT_UNSUBACK, out);
}

/* ---- DISCONNECT, AUTH ---------------------------------------------------------------------------- */

enum mqtt_reason mqtt_read_disconnect(const uint8_t *body, size_t len, enum mqtt_level level,
                                      enum mqtt_sender sender, struct mqtt_disconnect *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    out->reason = MQTT_NORMAL_DISCONNECTION;
    mqtt_properties_clear(&out->properties);
    if (level < MQTT_5_0)
        return wire_finish(&in);
    if (wire_left(&in) > 0)
        out->reason = (enum mqtt_reason)wire_take8(&in);
    if (!mqtt_reason_allowed(out->reason, MQTT_DISCONNECT, sender))
        wire_fail(&in, MQTT_PROTOCOL_ERROR);
    if (wire_left(&in) > 0)
        wire_take_properties(&in, level, MQTT_DISCONNECT, sender, &out->properties);
    return wire_finish(&in);
}

enum mqtt_reason mqtt_read_auth(const uint8_t *body, size_t len, enum mqtt_sender sender,
                                struct mqtt_disconnect *out)
{
    struct wire_in in = { .at = body, .end = body + len };
    out->reason = MQTT_SUCCESS;
    mqtt_properties_clear(&out->properties);
    if (len > 0) {
        out->reason = (enum mqtt_reason)wire_take8(&in);
        wire_take_properties(&in, MQTT_5_0, MQTT_AUTH, sender, &out->properties);
        if (in.error == MQTT_SUCCESS &&
            !mqtt_properties_have(&out->properties, MQTT_PROPERTY_AUTHENTICATION_METHOD))
            wire_fail(&in, MQTT_PROTOCOL_ERROR);
    }
    if (!mqtt_reason_allowed(out->reason, MQTT_AUTH, sender))
        wire_fail(&in, MQTT_PROTOCOL_ERROR);
    return wire_finish(&in);
}
