/* SPDX-License-Identifier: MIT */

/*
 * Versions, packet types, and reason codes by the names that MQTT 5.0 section 2.4 gives them. Below 0x80 it went well. Readers of
 * packets return one too: MQTT_SUCCESS, or what to answer to such a packet. Any thread.
 */

#ifndef TOCSIN_MQTT_REASON_H
#define TOCSIN_MQTT_REASON_H

#include <stdbool.h>
#include <stdint.h>

/* The versions, as the Protocol Level of CONNECT has them. Greater is newer. */
enum mqtt_level {
    MQTT_3_1 = 3,
    MQTT_3_1_1 = 4,
    MQTT_5_0 = 5,
};

/* Control packet types, by their number in the fixed header. */
enum mqtt_type {
    MQTT_WILL = 0, /* none, but a place of properties */
    MQTT_CONNECT = 1,
    MQTT_CONNACK = 2,
    MQTT_PUBLISH = 3,
    MQTT_PUBACK = 4,
    MQTT_PUBREC = 5,
    MQTT_PUBREL = 6,
    MQTT_PUBCOMP = 7,
    MQTT_SUBSCRIBE = 8,
    MQTT_SUBACK = 9,
    MQTT_UNSUBSCRIBE = 10,
    MQTT_UNSUBACK = 11,
    MQTT_PINGREQ = 12,
    MQTT_PINGRESP = 13,
    MQTT_DISCONNECT = 14,
    MQTT_AUTH = 15,
};

/* Some rules depend on who has sent the packet. */
enum mqtt_sender {
    MQTT_FROM_CLIENT,
    MQTT_FROM_SERVER,
};

enum mqtt_reason {
    MQTT_SUCCESS = 0x00,
    MQTT_NORMAL_DISCONNECTION = 0x00,
    MQTT_GRANTED_QOS_0 = 0x00,
    MQTT_GRANTED_QOS_1 = 0x01,
    MQTT_GRANTED_QOS_2 = 0x02,
    MQTT_DISCONNECT_WITH_WILL_MESSAGE = 0x04,
    MQTT_NO_MATCHING_SUBSCRIBERS = 0x10,
    MQTT_NO_SUBSCRIPTION_EXISTED = 0x11,
    MQTT_CONTINUE_AUTHENTICATION = 0x18,
    MQTT_RE_AUTHENTICATE = 0x19,
    MQTT_UNSPECIFIED_ERROR = 0x80,
    MQTT_MALFORMED_PACKET = 0x81,
    MQTT_PROTOCOL_ERROR = 0x82,
    MQTT_IMPLEMENTATION_SPECIFIC_ERROR = 0x83,
    MQTT_UNSUPPORTED_PROTOCOL_VERSION = 0x84,
    MQTT_CLIENT_IDENTIFIER_NOT_VALID = 0x85,
    MQTT_BAD_USER_NAME_OR_PASSWORD = 0x86,
    MQTT_NOT_AUTHORIZED = 0x87,
    MQTT_SERVER_UNAVAILABLE = 0x88,
    MQTT_SERVER_BUSY = 0x89,
    MQTT_BANNED = 0x8A,
    MQTT_SERVER_SHUTTING_DOWN = 0x8B,
    MQTT_BAD_AUTHENTICATION_METHOD = 0x8C,
    MQTT_KEEP_ALIVE_TIMEOUT = 0x8D,
    MQTT_SESSION_TAKEN_OVER = 0x8E,
    MQTT_TOPIC_FILTER_INVALID = 0x8F,
    MQTT_TOPIC_NAME_INVALID = 0x90,
    MQTT_PACKET_IDENTIFIER_IN_USE = 0x91,
    MQTT_PACKET_IDENTIFIER_NOT_FOUND = 0x92,
    MQTT_RECEIVE_MAXIMUM_EXCEEDED = 0x93,
    MQTT_TOPIC_ALIAS_INVALID = 0x94,
    MQTT_PACKET_TOO_LARGE = 0x95,
    MQTT_MESSAGE_RATE_TOO_HIGH = 0x96,
    MQTT_QUOTA_EXCEEDED = 0x97,
    MQTT_ADMINISTRATIVE_ACTION = 0x98,
    MQTT_PAYLOAD_FORMAT_INVALID = 0x99,
    MQTT_RETAIN_NOT_SUPPORTED = 0x9A,
    MQTT_QOS_NOT_SUPPORTED = 0x9B,
    MQTT_USE_ANOTHER_SERVER = 0x9C,
    MQTT_SERVER_MOVED = 0x9D,
    MQTT_SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E,
    MQTT_CONNECTION_RATE_EXCEEDED = 0x9F,
    MQTT_MAXIMUM_CONNECT_TIME = 0xA0,
    MQTT_SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1,
    MQTT_WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2,
};

/* The specification's name in lower case, as "malformed packet"; "unknown reason" for what is none.
 * 0x00 is "success". */
const char *mqtt_reason_name(enum mqtt_reason reason);

/* Whether a packet of that type may say so (the table of section 2.4; for DISCONNECT and AUTH also who
 * sends it, 3.14.2.1 and 3.15.2.1). */
bool mqtt_reason_allowed(enum mqtt_reason reason, enum mqtt_type type, enum mqtt_sender sender);

/* The CONNACK return code of 3.1 and 3.1.1 (0 to 5) that says the same; -1 if there is none, and the
 * connection is closed without a CONNACK. */
int mqtt_reason_return_code(enum mqtt_reason reason);

/* The other way, for clients; MQTT_PROTOCOL_ERROR for a return code above 5. */
enum mqtt_reason mqtt_reason_of_return_code(uint8_t code);

#endif
