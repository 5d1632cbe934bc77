/* SPDX-License-Identifier: MIT */

/*
 * The properties of MQTT 5.0 packets (section 2.2.2): read and checked in one pass over the packet's
 * bytes, without a copy, and written into the caller's memory. Any thread.
 */

#ifndef TOCSIN_MQTT_PROPERTIES_H
#define TOCSIN_MQTT_PROPERTIES_H

#include "mqtt/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- What packets are made of -------------------------------------------------------------------- */

/* Valid UTF-8 without NUL, not terminated. `data` is NULL only where a value is absent. */
struct mqtt_string {
    const char *data;
    size_t len;
};

/* Any bytes. */
struct mqtt_slice {
    const uint8_t *data;
    size_t len;
};

/* ---- Variable Byte Integer (1.5.5) --------------------------------------------------------------- */

#define MQTT_VARINT_MAX 268435455u

/* The bytes that `value`, at most MQTT_VARINT_MAX, takes. */
static inline size_t mqtt_varint_length(size_t value)
{
    return value < 128 ? 1 : value < 16384 ? 2 : value < 2097152 ? 3 : 4;
}

/* Writes it and returns the byte after it. */
static inline uint8_t *mqtt_varint_write(uint8_t *out, size_t value)
{
    while (value >= 128) {
        *out++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

/* ---- Reading ------------------------------------------------------------------------------------- */

enum mqtt_property {
    MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR = 0x01,
    MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL = 0x02,
    MQTT_PROPERTY_CONTENT_TYPE = 0x03,
    MQTT_PROPERTY_RESPONSE_TOPIC = 0x08,
    MQTT_PROPERTY_CORRELATION_DATA = 0x09,
    MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER = 0x0B,
    MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL = 0x11,
    MQTT_PROPERTY_ASSIGNED_CLIENT_IDENTIFIER = 0x12,
    MQTT_PROPERTY_SERVER_KEEP_ALIVE = 0x13,
    MQTT_PROPERTY_AUTHENTICATION_METHOD = 0x15,
    MQTT_PROPERTY_AUTHENTICATION_DATA = 0x16,
    MQTT_PROPERTY_REQUEST_PROBLEM_INFORMATION = 0x17,
    MQTT_PROPERTY_WILL_DELAY_INTERVAL = 0x18,
    MQTT_PROPERTY_REQUEST_RESPONSE_INFORMATION = 0x19,
    MQTT_PROPERTY_RESPONSE_INFORMATION = 0x1A,
    MQTT_PROPERTY_SERVER_REFERENCE = 0x1C,
    MQTT_PROPERTY_REASON_STRING = 0x1F,
    MQTT_PROPERTY_RECEIVE_MAXIMUM = 0x21,
    MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM = 0x22,
    MQTT_PROPERTY_TOPIC_ALIAS = 0x23,
    MQTT_PROPERTY_MAXIMUM_QOS = 0x24,
    MQTT_PROPERTY_RETAIN_AVAILABLE = 0x25,
    MQTT_PROPERTY_USER_PROPERTY = 0x26,
    MQTT_PROPERTY_MAXIMUM_PACKET_SIZE = 0x27,
    MQTT_PROPERTY_WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28,
    MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIERS_AVAILABLE = 0x29,
    MQTT_PROPERTY_SHARED_SUBSCRIPTION_AVAILABLE = 0x2A,
    MQTT_PROPERTY_END, /* one more than the greatest */
};

/*
 * Checked properties. What is in `raw` is whole and allowed, so looking into it cannot fail. Below 5.0,
 * and where there are none, `raw.len`, `present` and `carried_len` are 0 and nothing else is set.
 */
struct mqtt_properties {
    struct mqtt_slice raw; /* after the Property Length */
    uint64_t present;      /* bit `id` is set if that property is there */
    /* The bytes of `raw` that a server carries on from PUBLISH or a will to its receivers, in order:
     * Payload Format Indicator, Content Type, Response Topic, Correlation Data and User Property
     * [MQTT-3.3.2-4], [-15], [-16], [-17], [-18], [-20]. */
    uint32_t carried_len;
    /* Own: by id, where present: the number, or where in `raw` the string is. Use the functions. */
    uint32_t value[MQTT_PROPERTY_END];
};

/*
 * Reads what stands at `data`: Property Length and properties of a packet of type `type` (MQTT_WILL for
 * those of a will). `*end` is the byte after them. Returns MQTT_SUCCESS or
 *   MQTT_MALFORMED_PACKET     does not fit, a length that is not encoded in the fewest bytes, an unknown
 *                             property or one that the packet cannot have, a string that is not UTF-8
 *                             or has a NUL;
 *   MQTT_PROTOCOL_ERROR       a property twice, a number out of its range, a
 *                             wildcard in Response Topic [MQTT-3.3.2-14], Subscription Identifier from a
 *                             client [MQTT-3.3.4-6], Session Expiry Interval in a server's or Server
 *                             Reference in a client's DISCONNECT, Authentication Data without
 *                             Authentication Method;
 *   MQTT_TOPIC_ALIAS_INVALID  Topic Alias 0 [MQTT-3.3.2-8].
 * On failure nothing but `present` (0) may be looked at.
 */
enum mqtt_reason mqtt_properties_read(struct mqtt_properties *properties, enum mqtt_type type,
                                      enum mqtt_sender sender, const uint8_t *data, size_t len,
                                      const uint8_t **end);

/* None. */
static inline void mqtt_properties_clear(struct mqtt_properties *properties)
{
    properties->raw = (struct mqtt_slice){ NULL, 0 };
    properties->present = 0;
    properties->carried_len = 0;
}

static inline bool mqtt_properties_have(const struct mqtt_properties *p, enum mqtt_property id)
{
    return p->present >> id & 1;
}

/* The value of a property that is a number (for Subscription Identifier in a server's PUBLISH, the last
 * one), or `absent`. */
static inline uint32_t mqtt_properties_number(const struct mqtt_properties *p,
                                              enum mqtt_property id, uint32_t absent)
{
    return mqtt_properties_have(p, id) ? p->value[id] : absent;
}

/* The value of a property that is a string, or that is bytes; absent: data is NULL. Not for User
 * Property, of which there may be several. */
struct mqtt_string mqtt_properties_string(const struct mqtt_properties *p, enum mqtt_property id);
struct mqtt_slice mqtt_properties_binary(const struct mqtt_properties *p, enum mqtt_property id);

/* One property out of the sequence. */
struct mqtt_property_item {
    enum mqtt_property id;
    uint32_t number;         /* where it is a number */
    struct mqtt_string name; /* of a User Property */
    struct mqtt_slice
        value;             /* where it is a string, bytes or a User Property: UTF-8 unless bytes */
    struct mqtt_slice raw; /* all its bytes, with the identifier */
};

/* Gives the next property of `p`; begin with `*at` 0. Returns false at the end. */
bool mqtt_properties_next(const struct mqtt_properties *p, size_t *at,
                          struct mqtt_property_item *item);

/* Copies the `carried_len` bytes that are carried on. Returns the byte after them. */
uint8_t *mqtt_properties_carry(const struct mqtt_properties *p, uint8_t *out);

/* ---- Writing ------------------------------------------------------------------------------------- */

/*
 * Properties being put together in the caller's memory, without their length: the functions that write
 * packets take such bytes. Begin with { .data = memory, .room = its size }. What does not fit (in `room`,
 * or a string in 65535 bytes) is left out as a whole, false is returned and `failed` is set; the next may
 * fit again. Values are not checked.
 */
struct mqtt_property_writer {
    uint8_t *data;
    size_t room;
    size_t len;
    bool failed;
};

bool mqtt_property_add_number(struct mqtt_property_writer *w, enum mqtt_property id,
                              uint32_t value);
bool mqtt_property_add_string(struct mqtt_property_writer *w, enum mqtt_property id,
                              struct mqtt_string value);
bool mqtt_property_add_binary(struct mqtt_property_writer *w, enum mqtt_property id,
                              struct mqtt_slice value);
bool mqtt_property_add_user(struct mqtt_property_writer *w, struct mqtt_string name,
                            struct mqtt_string value);
/* Bytes that are properties already, such as an item's `raw`. */
bool mqtt_property_add_raw(struct mqtt_property_writer *w, struct mqtt_slice raw);

static inline struct mqtt_slice mqtt_property_written(const struct mqtt_property_writer *w)
{
    return (struct mqtt_slice){ w->data, w->len };
}

#endif
