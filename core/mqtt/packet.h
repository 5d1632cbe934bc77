/* SPDX-License-Identifier: MIT */

/*
 * MQTT control packets to structs and back: versions 3.1, 3.1.1 and 5.0, those that clients send and
 * those that servers send. No I/O, no memory of its own. Any thread.
 *
 * Reading: mqtt_packet_length() finds out how long a packet is; when all of it is there, the function for
 * its type is given the body, which is all after the fixed header. Structs point into the body. A reader
 * returns MQTT_SUCCESS, or the reason to answer with on 5.0 before closing the connection (older versions
 * just close); then the struct may be half filled and is not to be used, but for what is said below. A
 * reader checks all that can be seen in the packet alone, bytes left over among it.
 *
 * Writing: a function returns the length of the whole packet, and has written it if that is not more than
 * `room`; so a call with no room asks for the length. 0: there is no such packet, because a string is
 * longer than 65535 bytes or all of it longer than MQTT_VARINT_MAX. Properties are raw bytes (see struct
 * mqtt_property_writer); below 5.0 they are left out. What is written is not checked otherwise.
 */

#ifndef TOCSIN_MQTT_PACKET_H
#define TOCSIN_MQTT_PACKET_H

#include "mqtt/properties.h"

#define MQTT_HEADER_MAX 5 /* bytes of a fixed header */

/* ---- Fixed header (2.1) -------------------------------------------------------------------------- */

int mqtt_packet_length_long(const uint8_t *data, size_t len, size_t *header_len, size_t *remaining);

/*
 * Reads the fixed header at `data`. Returns 1 and sets `*header_len` (bytes of the fixed header) and
 * `*remaining` (bytes of the body, which need not be there yet); 0 if more bytes are needed; -EBADMSG if
 * Remaining Length is longer than four bytes: malformed. One that could be shorter is accepted.
 */
static inline int mqtt_packet_length(const uint8_t *data, size_t len, size_t *header_len,
                                     size_t *remaining)
{
    if (len < 2 || data[1] >= 128)
        return mqtt_packet_length_long(data, len, header_len, remaining);
    *header_len = 2;
    *remaining = data[1];
    return 1;
}

static inline enum mqtt_type mqtt_packet_type(uint8_t first)
{
    return (enum mqtt_type)(first >> 4);
}

/* Checks the first byte: a type that there is in that version and that `sender` may send, else
 * MQTT_PROTOCOL_ERROR, and the reserved flags [MQTT-2.1.3-1], else MQTT_MALFORMED_PACKET. Those of
 * PUBLISH are checked by mqtt_read_publish(). 3.1 has flags of no effect in some packets: not checked. */
enum mqtt_reason mqtt_header_check(uint8_t first, enum mqtt_level level, enum mqtt_sender sender);

/* ---- Structs ------------------------------------------------------------------------------------- */

struct mqtt_will {
    struct mqtt_string topic; /* a valid topic name; data is NULL if there is no will */
    struct mqtt_slice payload;
    uint8_t qos;
    bool retain;
    struct mqtt_properties properties;
};

struct mqtt_connect {
    enum mqtt_level level;  /* of what is to be answered; always set, even if reading failed */
    uint8_t protocol_level; /* as it was sent */
    bool clean_start;       /* before 5.0: clean session */
    uint16_t keep_alive_s;  /* 0: none */
    struct mqtt_string client_id;
    struct mqtt_string user_name; /* absent: data is NULL */
    struct mqtt_slice password;   /* absent: data is NULL */
    struct mqtt_will will;
    struct mqtt_properties properties;
};

struct mqtt_connack {
    bool session_present;
    enum mqtt_reason reason; /* before 5.0: what the return code means */
    struct mqtt_properties properties;
};

struct mqtt_publish {
    struct mqtt_string topic; /* a valid topic name; may be empty on 5.0 with a Topic Alias */
    struct mqtt_slice payload;
    uint16_t packet_id; /* 0 for QoS 0 */
    uint8_t qos;
    bool dup;
    bool retain;
    struct mqtt_properties properties;
};

/* PUBACK, PUBREC, PUBREL, PUBCOMP */
struct mqtt_ack {
    uint16_t packet_id;
    enum mqtt_reason reason; /* MQTT_SUCCESS if left out */
    struct mqtt_properties properties;
};

/* SUBSCRIBE, UNSUBSCRIBE */
struct mqtt_subscribe {
    uint16_t packet_id;
    size_t count; /* filters, at least one */
    struct mqtt_properties properties;
    struct mqtt_slice list; /* for mqtt_subscribe_next() and mqtt_unsubscribe_next() */
    enum mqtt_level level;
};

enum mqtt_retain_handling {
    MQTT_RETAIN_SEND = 0,
    MQTT_RETAIN_SEND_IF_NEW = 1,
    MQTT_RETAIN_DO_NOT_SEND = 2,
};

/* One filter of a SUBSCRIBE or UNSUBSCRIBE packet; the options only of SUBSCRIBE. */
struct mqtt_subscription {
    struct mqtt_string text;       /* as it was sent */
    struct mqtt_string share_name; /* of "$share/NAME/FILTER"; data is NULL if it is not shared */
    struct mqtt_string filter;     /* valid; without the share */
    uint8_t qos;                   /* Maximum QoS */
    bool no_local;
    bool retain_as_published;
    enum mqtt_retain_handling retain_handling;
};

/* SUBACK, UNSUBACK */
struct mqtt_suback {
    uint16_t packet_id;
    struct mqtt_slice reasons; /* a byte each: enum mqtt_reason; none in UNSUBACK before 5.0 */
    struct mqtt_properties properties;
};

/* DISCONNECT, AUTH */
struct mqtt_disconnect {
    enum mqtt_reason reason; /* MQTT_SUCCESS if left out */
    struct mqtt_properties properties;
};

/* ---- Reading ------------------------------------------------------------------------------------- */

/*
 * CONNECT (3.1). Beside MQTT_MALFORMED_PACKET and MQTT_PROTOCOL_ERROR:
 *   MQTT_UNSUPPORTED_PROTOCOL_VERSION  another protocol name or level [MQTT-3.1.2-1], [-2];
 *   MQTT_CLIENT_IDENTIFIER_NOT_VALID   empty, on 3.1, or on 3.1.1 without clean session [MQTT-3.1.3-8];
 *                                      all else was read then;
 *   MQTT_TOPIC_NAME_INVALID            the will's topic is empty or has a wildcard.
 * mqtt_reason_return_code() says what of it can be told a client before 5.0. A client id of 3.1 may be
 * longer than 23 characters.
 */
enum mqtt_reason mqtt_read_connect(const uint8_t *body, size_t len, struct mqtt_connect *out);

enum mqtt_reason mqtt_read_connack(const uint8_t *body, size_t len, enum mqtt_level level,
                                   struct mqtt_connack *out);

/*
 * PUBLISH (3.3). `first` is the first byte of the packet. MQTT_MALFORMED_PACKET for QoS 3
 * [MQTT-3.3.1-4], DUP with QoS 0 [MQTT-3.3.1-2], a topic that is not UTF-8 or has a NUL
 * [MQTT-3.3.2-1]; MQTT_TOPIC_NAME_INVALID for one with a wildcard [MQTT-3.3.2-2]; MQTT_PROTOCOL_ERROR for
 * packet identifier 0 [MQTT-2.2.1-3] and for an empty topic without Topic Alias;
 * MQTT_TOPIC_ALIAS_INVALID for 0. Whether the payload is what Payload Format Indicator says is not looked at.
 */
enum mqtt_reason mqtt_read_publish(uint8_t first, const uint8_t *body, size_t len,
                                   enum mqtt_level level, enum mqtt_sender sender,
                                   struct mqtt_publish *out);

/* PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7): the short forms through the inline function below. */
enum mqtt_reason mqtt_read_ack_long(enum mqtt_type type, const uint8_t *body, size_t len,
                                    enum mqtt_level level, struct mqtt_ack *out);

static inline enum mqtt_reason mqtt_read_ack(enum mqtt_type type, const uint8_t *body, size_t len,
                                             enum mqtt_level level, struct mqtt_ack *out)
{
    if (len != 2 || (body[0] | body[1]) == 0)
        return mqtt_read_ack_long(type, body, len, level, out);
    out->packet_id = (uint16_t)(body[0] << 8 | body[1]);
    out->reason = MQTT_SUCCESS;
    mqtt_properties_clear(&out->properties);
    return MQTT_SUCCESS;
}

/*
 * SUBSCRIBE (3.8) and UNSUBSCRIBE (3.10): all filters and options are checked, so that going through them
 * by _next() cannot fail. MQTT_PROTOCOL_ERROR for none at all [MQTT-3.8.3-2], packet identifier 0, QoS 3,
 * Retain Handling 3, No Local with a shared subscription [MQTT-3.8.3-4]; MQTT_MALFORMED_PACKET for
 * reserved option bits [MQTT-3.8.3-5] and strings that are not UTF-8 or have a NUL;
 * MQTT_TOPIC_FILTER_INVALID for a filter or share against section 4.7.1 or 4.8.2, at all levels.
 */
enum mqtt_reason mqtt_read_subscribe(const uint8_t *body, size_t len, enum mqtt_level level,
                                     struct mqtt_subscribe *out);
enum mqtt_reason mqtt_read_unsubscribe(const uint8_t *body, size_t len, enum mqtt_level level,
                                       struct mqtt_subscribe *out);

/* Gives the next filter; begin with `*at` 0. Returns false at the end. */
bool mqtt_subscribe_next(const struct mqtt_subscribe *packet, size_t *at,
                         struct mqtt_subscription *out);
bool mqtt_unsubscribe_next(const struct mqtt_subscribe *packet, size_t *at,
                           struct mqtt_subscription *out);

/* Splits `text`, which is not "$share/..." or "$share/NAME/FILTER", and checks it as above. Sets text,
 * share_name and filter. */
enum mqtt_reason mqtt_subscription_split(struct mqtt_string text, struct mqtt_subscription *out);

enum mqtt_reason mqtt_read_suback(const uint8_t *body, size_t len, enum mqtt_level level,
                                  struct mqtt_suback *out);
enum mqtt_reason mqtt_read_unsuback(const uint8_t *body, size_t len, enum mqtt_level level,
                                    struct mqtt_suback *out);

/* PINGREQ, PINGRESP (3.12, 3.13) */
static inline enum mqtt_reason mqtt_read_ping(size_t len)
{
    return len == 0 ? MQTT_SUCCESS : MQTT_MALFORMED_PACKET;
}

/* DISCONNECT (3.14): MQTT_PROTOCOL_ERROR for a reason that `sender` may not give. */
enum mqtt_reason mqtt_read_disconnect(const uint8_t *body, size_t len, enum mqtt_level level,
                                      enum mqtt_sender sender, struct mqtt_disconnect *out);

/* AUTH (3.15), 5.0 only. Authentication Method may be absent only if all is. */
enum mqtt_reason mqtt_read_auth(const uint8_t *body, size_t len, enum mqtt_sender sender,
                                struct mqtt_disconnect *out);

/* ---- Writing: what servers send ------------------------------------------------------------------ */

/* CONNACK (3.2). Before 5.0 the reason becomes a return code; 0 is returned if there is none for it. 3.1
 * has no Session Present. */
size_t mqtt_write_connack(uint8_t *out, size_t room, enum mqtt_level level, bool session_present,
                          enum mqtt_reason reason, struct mqtt_slice properties);

/* All of a PUBLISH packet but its payload, which follows directly. */
struct mqtt_publish_head {
    struct mqtt_string topic;
    size_t payload_len;
    uint16_t packet_id; /* for QoS 1 and 2 */
    uint8_t qos;
    bool dup;
    bool retain;
    struct mqtt_slice own;     /* properties: these first, */
    struct mqtt_slice carried; /* then these */
};

/*
 * Writes the head. The return value is its length without the payload. `*packet_id_at` (unless it is NULL)
 * is where in it the packet identifier stands, big endian, and 0 for QoS 0; so one head can serve many
 * receivers. mqtt_set_packet_id() and MQTT_FLAG_DUP change what differs.
 */
size_t mqtt_write_publish_head(uint8_t *out, size_t room, enum mqtt_level level,
                               const struct mqtt_publish_head *head, size_t *packet_id_at);

/* Flags in the first byte of PUBLISH. */
enum mqtt_publish_flag {
    MQTT_FLAG_RETAIN = 0x01,
    MQTT_FLAG_QOS_1 = 0x02,
    MQTT_FLAG_QOS_2 = 0x04,
    MQTT_FLAG_DUP = 0x08,
};

static inline void mqtt_set_packet_id(uint8_t *at, uint16_t packet_id)
{
    at[0] = (uint8_t)(packet_id >> 8);
    at[1] = (uint8_t)packet_id;
}

/* PUBACK, PUBREC, PUBREL or PUBCOMP without a reason: always four bytes. */
#define MQTT_ACK_LENGTH 4
static inline void mqtt_write_ack_short(uint8_t out[MQTT_ACK_LENGTH], enum mqtt_type type,
                                        uint16_t packet_id)
{
    out[0] = (uint8_t)(type << 4 | (type == MQTT_PUBREL ? 2 : 0));
    out[1] = 2;
    mqtt_set_packet_id(out + 2, packet_id);
}

/* The same with a reason and properties, as short as can be. Before 5.0 there is no reason. */
size_t mqtt_write_ack(uint8_t *out, size_t room, enum mqtt_level level, enum mqtt_type type,
                      uint16_t packet_id, enum mqtt_reason reason, struct mqtt_slice properties);

/* SUBACK (3.9), UNSUBACK (3.11) with `count` reasons, a byte each. Before 5.0 a failure is always 0x80,
 * and UNSUBACK has none. */
size_t mqtt_write_suback(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                         const uint8_t *reasons, size_t count, struct mqtt_slice properties);
size_t mqtt_write_unsuback(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                           const uint8_t *reasons, size_t count, struct mqtt_slice properties);

/* PINGREQ, PINGRESP: always two bytes. */
#define MQTT_PING_LENGTH 2
static inline void mqtt_write_ping(uint8_t out[MQTT_PING_LENGTH], enum mqtt_type type)
{
    out[0] = (uint8_t)(type << 4);
    out[1] = 0;
}

/* DISCONNECT (3.14; from a server only on 5.0), as short as can be. */
size_t mqtt_write_disconnect(uint8_t *out, size_t room, enum mqtt_level level,
                             enum mqtt_reason reason, struct mqtt_slice properties);

/* AUTH (3.15; 5.0 only). */
size_t mqtt_write_auth(uint8_t *out, size_t room, enum mqtt_reason reason,
                       struct mqtt_slice properties);

/* ---- Writing: what clients send ------------------------------------------------------------------ */

/* CONNECT. Of properties `raw` is taken; `protocol_level` is not looked at. */
size_t mqtt_write_connect(uint8_t *out, size_t room, const struct mqtt_connect *connect);

/* SUBSCRIBE and UNSUBSCRIBE: of each of the `count` elements `text`, and of SUBSCRIBE the options; before
 * 5.0 only the QoS. */
size_t mqtt_write_subscribe(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                            const struct mqtt_subscription *subscriptions, size_t count,
                            struct mqtt_slice properties);
size_t mqtt_write_unsubscribe(uint8_t *out, size_t room, enum mqtt_level level, uint16_t packet_id,
                              const struct mqtt_subscription *subscriptions, size_t count,
                              struct mqtt_slice properties);

#endif
