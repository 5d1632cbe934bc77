/* SPDX-License-Identifier: MIT */

#include "mqtt/properties.h"

#include "mqtt/wire.h"

enum kind {
    NO_PROPERTY, /* no such identifier */
    BYTE,
    TWO_BYTES,
    FOUR_BYTES,
    VARINT,
    STRING,
    BINARY,
    PAIR,
};

static const uint8_t kinds[MQTT_PROPERTY_END] = {
    [MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR] = BYTE,
    [MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL] = FOUR_BYTES,
    [MQTT_PROPERTY_CONTENT_TYPE] = STRING,
    [MQTT_PROPERTY_RESPONSE_TOPIC] = STRING,
    [MQTT_PROPERTY_CORRELATION_DATA] = BINARY,
    [MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER] = VARINT,
    [MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL] = FOUR_BYTES,
    [MQTT_PROPERTY_ASSIGNED_CLIENT_IDENTIFIER] = STRING,
    [MQTT_PROPERTY_SERVER_KEEP_ALIVE] = TWO_BYTES,
    [MQTT_PROPERTY_AUTHENTICATION_METHOD] = STRING,
    [MQTT_PROPERTY_AUTHENTICATION_DATA] = BINARY,
    [MQTT_PROPERTY_REQUEST_PROBLEM_INFORMATION] = BYTE,
    [MQTT_PROPERTY_WILL_DELAY_INTERVAL] = FOUR_BYTES,
    [MQTT_PROPERTY_REQUEST_RESPONSE_INFORMATION] = BYTE,
    [MQTT_PROPERTY_RESPONSE_INFORMATION] = STRING,
    [MQTT_PROPERTY_SERVER_REFERENCE] = STRING,
    [MQTT_PROPERTY_REASON_STRING] = STRING,
    [MQTT_PROPERTY_RECEIVE_MAXIMUM] = TWO_BYTES,
    [MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM] = TWO_BYTES,
    [MQTT_PROPERTY_TOPIC_ALIAS] = TWO_BYTES,
    [MQTT_PROPERTY_MAXIMUM_QOS] = BYTE,
    [MQTT_PROPERTY_RETAIN_AVAILABLE] = BYTE,
    [MQTT_PROPERTY_USER_PROPERTY] = PAIR,
    [MQTT_PROPERTY_MAXIMUM_PACKET_SIZE] = FOUR_BYTES,
    [MQTT_PROPERTY_WILDCARD_SUBSCRIPTION_AVAILABLE] = BYTE,
    [MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIERS_AVAILABLE] = BYTE,
    [MQTT_PROPERTY_SHARED_SUBSCRIPTION_AVAILABLE] = BYTE,
};

/* Sets of properties: a bit each. */
#define BIT(NAME) (UINT64_C(1) << MQTT_PROPERTY_##NAME)

#define CARRIED                                                                \
    (BIT(PAYLOAD_FORMAT_INDICATOR) | BIT(CONTENT_TYPE) | BIT(RESPONSE_TOPIC) | \
     BIT(CORRELATION_DATA) | BIT(USER_PROPERTY))
#define EXPLAINED (BIT(REASON_STRING) | BIT(USER_PROPERTY))

static const uint64_t allowed[16] = {
    [MQTT_WILL] = CARRIED | BIT(MESSAGE_EXPIRY_INTERVAL) | BIT(WILL_DELAY_INTERVAL),
    [MQTT_CONNECT] = BIT(SESSION_EXPIRY_INTERVAL) | BIT(AUTHENTICATION_METHOD) |
                     BIT(AUTHENTICATION_DATA) | BIT(REQUEST_PROBLEM_INFORMATION) |
                     BIT(REQUEST_RESPONSE_INFORMATION) | BIT(RECEIVE_MAXIMUM) |
                     BIT(TOPIC_ALIAS_MAXIMUM) | BIT(USER_PROPERTY) | BIT(MAXIMUM_PACKET_SIZE),
    [MQTT_CONNACK] = EXPLAINED | BIT(SESSION_EXPIRY_INTERVAL) | BIT(ASSIGNED_CLIENT_IDENTIFIER) |
                     BIT(SERVER_KEEP_ALIVE) | BIT(AUTHENTICATION_METHOD) |
                     BIT(AUTHENTICATION_DATA) | BIT(RESPONSE_INFORMATION) | BIT(SERVER_REFERENCE) |
                     BIT(RECEIVE_MAXIMUM) | BIT(TOPIC_ALIAS_MAXIMUM) | BIT(MAXIMUM_QOS) |
                     BIT(RETAIN_AVAILABLE) | BIT(MAXIMUM_PACKET_SIZE) |
                     BIT(WILDCARD_SUBSCRIPTION_AVAILABLE) |
                     BIT(SUBSCRIPTION_IDENTIFIERS_AVAILABLE) | BIT(SHARED_SUBSCRIPTION_AVAILABLE),
    [MQTT_PUBLISH] =
        CARRIED | BIT(MESSAGE_EXPIRY_INTERVAL) | BIT(SUBSCRIPTION_IDENTIFIER) | BIT(TOPIC_ALIAS),
    [MQTT_PUBACK] = EXPLAINED,
    [MQTT_PUBREC] = EXPLAINED,
    [MQTT_PUBREL] = EXPLAINED,
    [MQTT_PUBCOMP] = EXPLAINED,
    [MQTT_SUBSCRIBE] = BIT(SUBSCRIPTION_IDENTIFIER) | BIT(USER_PROPERTY),
    [MQTT_SUBACK] = EXPLAINED,
    [MQTT_UNSUBSCRIBE] = BIT(USER_PROPERTY),
    [MQTT_UNSUBACK] = EXPLAINED,
    [MQTT_DISCONNECT] = EXPLAINED | BIT(SESSION_EXPIRY_INTERVAL) | BIT(SERVER_REFERENCE),
    [MQTT_AUTH] = EXPLAINED | BIT(AUTHENTICATION_METHOD) | BIT(AUTHENTICATION_DATA),
};

/* What only the other side may send in these packets. */
static uint64_t forbidden(enum mqtt_type type, enum mqtt_sender sender)
{
    if (type == MQTT_PUBLISH && sender == MQTT_FROM_CLIENT)
        return BIT(SUBSCRIPTION_IDENTIFIER);
    if (type == MQTT_DISCONNECT)
        return sender == MQTT_FROM_CLIENT ? BIT(SERVER_REFERENCE) : BIT(SESSION_EXPIRY_INTERVAL);
    return 0;
}

/* ---- Reading ------------------------------------------------------------------------------------- */

static struct mqtt_slice bytes_of(struct mqtt_string text)
{
    return (struct mqtt_slice){ (const uint8_t *)text.data, text.len };
}

/* Takes one property that is in `set`. */
static void take_item(struct wire_in *in, uint64_t set, struct mqtt_property_item *item)
{
    const uint8_t *start = in->at;
    /* An identifier is a Variable Byte Integer, but all that there are fit in one byte. */
    uint8_t id = wire_take8(in);
    if (id >= MQTT_PROPERTY_END || !(set >> id & 1)) {
        wire_fail(in, MQTT_MALFORMED_PACKET);
        return;
    }
    item->id = (enum mqtt_property)id;
    switch (kinds[id]) {
    case BYTE:
        item->number = wire_take8(in);
        break;
    case TWO_BYTES:
        item->number = wire_take16(in);
        break;
    case FOUR_BYTES:
        item->number = wire_take32(in);
        break;
    case VARINT:
        item->number = wire_take_varint(in);
        break;
    case BINARY:
        item->value = wire_take_binary(in);
        break;
    case PAIR:
        item->name = wire_take_string(in);
        item->value = bytes_of(wire_take_string(in));
        break;
    default:
        item->value = bytes_of(wire_take_string(in));
        break;
    }
    item->raw = (struct mqtt_slice){ start, (size_t)(in->at - start) };
}

static enum mqtt_reason check_value(const struct mqtt_property_item *item)
{
    switch (item->id) {
    case MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER:
    case MQTT_PROPERTY_RECEIVE_MAXIMUM:
    case MQTT_PROPERTY_MAXIMUM_PACKET_SIZE:
        return item->number > 0 ? MQTT_SUCCESS : MQTT_PROTOCOL_ERROR;
    case MQTT_PROPERTY_TOPIC_ALIAS:
        return item->number > 0 ? MQTT_SUCCESS : MQTT_TOPIC_ALIAS_INVALID;
    case MQTT_PROPERTY_RESPONSE_TOPIC:
        return item->value.len > 0 && wire_topic_check(item->value.data, item->value.len) == 0
                   ? MQTT_SUCCESS
                   : MQTT_PROTOCOL_ERROR;
    default:
        /* Each single byte, Maximum QoS too, is 0 or 1. */
        return kinds[item->id] == BYTE && item->number > 1 ? MQTT_PROTOCOL_ERROR : MQTT_SUCCESS;
    }
}

static void read_all(struct mqtt_properties *out, enum mqtt_type type, enum mqtt_sender sender,
                     struct wire_in *in)
{
    const uint64_t excluded = forbidden(type, sender);
    const uint64_t repeated =
        BIT(USER_PROPERTY) | (type == MQTT_PUBLISH ? BIT(SUBSCRIPTION_IDENTIFIER) : 0);
    out->raw = (struct mqtt_slice){ in->at, wire_left(in) };

    while (in->at < in->end) {
        struct mqtt_property_item item;
        take_item(in, allowed[type], &item);
        if (in->error != MQTT_SUCCESS)
            return;
        uint64_t bit = UINT64_C(1) << item.id;
        enum mqtt_reason fault = (excluded & bit) || (out->present & ~repeated & bit)
                                     ? MQTT_PROTOCOL_ERROR
                                     : check_value(&item);
        if (fault != MQTT_SUCCESS) {
            wire_fail(in, fault);
            return;
        }
        out->present |= bit;
        if (bit & CARRIED)
            out->carried_len += (uint32_t)item.raw.len;
        out->value[item.id] =
            kinds[item.id] < STRING ? item.number : (uint32_t)(item.raw.data + 1 - out->raw.data);
    }
    if (mqtt_properties_have(out, MQTT_PROPERTY_AUTHENTICATION_DATA) &&
        !mqtt_properties_have(out, MQTT_PROPERTY_AUTHENTICATION_METHOD))
        wire_fail(in, MQTT_PROTOCOL_ERROR);
}

enum mqtt_reason mqtt_properties_read(struct mqtt_properties *properties, enum mqtt_type type,
                                      enum mqtt_sender sender, const uint8_t *data, size_t len,
                                      const uint8_t **end)
{
    struct wire_in in = { .at = data, .end = data + len };
    mqtt_properties_clear(properties);
    *end = data;

    size_t length = wire_take_varint(&in);
    if (length > wire_left(&in))
        wire_fail(&in, MQTT_MALFORMED_PACKET);
    if (in.error != MQTT_SUCCESS)
        return in.error;
    in.end = in.at + length;
    if (length > 0)
        read_all(properties, type, sender, &in);
    if (in.error != MQTT_SUCCESS)
        mqtt_properties_clear(properties);
    else
        *end = in.end;
    return in.error;
}

struct mqtt_slice mqtt_properties_binary(const struct mqtt_properties *p, enum mqtt_property id)
{
    if (!mqtt_properties_have(p, id))
        return (struct mqtt_slice){ NULL, 0 };
    const uint8_t *at = p->raw.data + p->value[id];
    return (struct mqtt_slice){ at + 2, wire_peek16(at) };
}

struct mqtt_string mqtt_properties_string(const struct mqtt_properties *p, enum mqtt_property id)
{
    struct mqtt_slice got = mqtt_properties_binary(p, id);
    return (struct mqtt_string){ (const char *)got.data, got.len };
}

bool mqtt_properties_next(const struct mqtt_properties *p, size_t *at,
                          struct mqtt_property_item *item)
{
    if (*at >= p->raw.len)
        return false;
    struct wire_in in = { .at = p->raw.data + *at, .end = p->raw.data + p->raw.len };
    *item = (struct mqtt_property_item){ 0 };
    take_item(&in, UINT64_MAX, item);
    *at = (size_t)(in.at - p->raw.data);
    return true;
}

uint8_t *mqtt_properties_carry(const struct mqtt_properties *p, uint8_t *out)
{
    if (p->carried_len == p->raw.len)
        return wire_put_raw(out, p->raw.data, p->raw.len);
    struct mqtt_property_item item;
    for (size_t at = 0; mqtt_properties_next(p, &at, &item);)
        if (CARRIED >> item.id & 1)
            out = wire_put_raw(out, item.raw.data, item.raw.len);
    return out;
}

/* ---- Writing ------------------------------------------------------------------------------------- */

/* Makes room for `len` bytes, or says that there is none. */
static uint8_t *extend(struct mqtt_property_writer *w, size_t len)
{
    if (len > w->room - w->len) {
        w->failed = true;
        return NULL;
    }
    uint8_t *at = w->data + w->len;
    w->len += len;
    return at;
}

bool mqtt_property_add_number(struct mqtt_property_writer *w, enum mqtt_property id, uint32_t value)
{
    const enum kind kind = (enum kind)kinds[id];
    if (kind == VARINT && value > MQTT_VARINT_MAX) {
        w->failed = true;
        return false;
    }
    size_t len = kind == BYTE        ? 1
                 : kind == TWO_BYTES ? 2
                 : kind == VARINT    ? mqtt_varint_length(value)
                                     : 4;
    uint8_t *at = extend(w, 1 + len);
    if (!at)
        return false;
    *at++ = (uint8_t)id;
    if (kind == BYTE)
        *at = (uint8_t)value;
    else if (kind == TWO_BYTES)
        wire_put16(at, value);
    else if (kind == VARINT)
        mqtt_varint_write(at, value);
    else
        wire_put32(at, value);
    return true;
}

bool mqtt_property_add_binary(struct mqtt_property_writer *w, enum mqtt_property id,
                              struct mqtt_slice value)
{
    if (value.len > MQTT_STRING_MAX) {
        w->failed = true;
        return false;
    }
    uint8_t *at = extend(w, 3 + value.len);
    if (!at)
        return false;
    *at++ = (uint8_t)id;
    wire_put_binary(at, value.data, value.len);
    return true;
}

bool mqtt_property_add_string(struct mqtt_property_writer *w, enum mqtt_property id,
                              struct mqtt_string value)
{
    return mqtt_property_add_binary(w, id, bytes_of(value));
}

bool mqtt_property_add_user(struct mqtt_property_writer *w, struct mqtt_string name,
                            struct mqtt_string value)
{
    if (name.len > MQTT_STRING_MAX || value.len > MQTT_STRING_MAX) {
        w->failed = true;
        return false;
    }
    uint8_t *at = extend(w, 5 + name.len + value.len);
    if (!at)
        return false;
    *at++ = MQTT_PROPERTY_USER_PROPERTY;
    at = wire_put_binary(at, name.data, name.len);
    wire_put_binary(at, value.data, value.len);
    return true;
}

bool mqtt_property_add_raw(struct mqtt_property_writer *w, struct mqtt_slice raw)
{
    uint8_t *at = extend(w, raw.len);
    if (!at)
        return false;
    wire_put_raw(at, raw.data, raw.len);
    return true;
}
