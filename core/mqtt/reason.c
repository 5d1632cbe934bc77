/* SPDX-License-Identifier: MIT */

#include "mqtt/reason.h"

#include <stddef.h>

static const char *const names[256] = {
    [MQTT_SUCCESS] = "success",
    [MQTT_GRANTED_QOS_1] = "granted QoS 1",
    [MQTT_GRANTED_QOS_2] = "granted QoS 2",
    [MQTT_DISCONNECT_WITH_WILL_MESSAGE] = "disconnect with will message",
    [MQTT_NO_MATCHING_SUBSCRIBERS] = "no matching subscribers",
    [MQTT_NO_SUBSCRIPTION_EXISTED] = "no subscription existed",
    [MQTT_CONTINUE_AUTHENTICATION] = "continue authentication",
    [MQTT_RE_AUTHENTICATE] = "re-authenticate",
    [MQTT_UNSPECIFIED_ERROR] = "unspecified error",
    [MQTT_MALFORMED_PACKET] = "malformed packet",
    [MQTT_PROTOCOL_ERROR] = "protocol error",
    [MQTT_IMPLEMENTATION_SPECIFIC_ERROR] = "implementation specific error",
    [MQTT_UNSUPPORTED_PROTOCOL_VERSION] = "unsupported protocol version",
    [MQTT_CLIENT_IDENTIFIER_NOT_VALID] = "client identifier not valid",
    [MQTT_BAD_USER_NAME_OR_PASSWORD] = "bad user name or password",
    [MQTT_NOT_AUTHORIZED] = "not authorized",
    [MQTT_SERVER_UNAVAILABLE] = "server unavailable",
    [MQTT_SERVER_BUSY] = "server busy",
    [MQTT_BANNED] = "banned",
    [MQTT_SERVER_SHUTTING_DOWN] = "server shutting down",
    [MQTT_BAD_AUTHENTICATION_METHOD] = "bad authentication method",
    [MQTT_KEEP_ALIVE_TIMEOUT] = "keep alive timeout",
    [MQTT_SESSION_TAKEN_OVER] = "session taken over",
    [MQTT_TOPIC_FILTER_INVALID] = "topic filter invalid",
    [MQTT_TOPIC_NAME_INVALID] = "topic name invalid",
    [MQTT_PACKET_IDENTIFIER_IN_USE] = "packet identifier in use",
    [MQTT_PACKET_IDENTIFIER_NOT_FOUND] = "packet identifier not found",
    [MQTT_RECEIVE_MAXIMUM_EXCEEDED] = "receive maximum exceeded",
    [MQTT_TOPIC_ALIAS_INVALID] = "topic alias invalid",
    [MQTT_PACKET_TOO_LARGE] = "packet too large",
    [MQTT_MESSAGE_RATE_TOO_HIGH] = "message rate too high",
    [MQTT_QUOTA_EXCEEDED] = "quota exceeded",
    [MQTT_ADMINISTRATIVE_ACTION] = "administrative action",
    [MQTT_PAYLOAD_FORMAT_INVALID] = "payload format invalid",
    [MQTT_RETAIN_NOT_SUPPORTED] = "retain not supported",
    [MQTT_QOS_NOT_SUPPORTED] = "QoS not supported",
    [MQTT_USE_ANOTHER_SERVER] = "use another server",
    [MQTT_SERVER_MOVED] = "server moved",
    [MQTT_SHARED_SUBSCRIPTIONS_NOT_SUPPORTED] = "shared subscriptions not supported",
    [MQTT_CONNECTION_RATE_EXCEEDED] = "connection rate exceeded",
    [MQTT_MAXIMUM_CONNECT_TIME] = "maximum connect time",
    [MQTT_SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED] = "subscription identifiers not supported",
    [MQTT_WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED] = "wildcard subscriptions not supported",
};

const char *mqtt_reason_name(enum mqtt_reason reason)
{
    const char *name = (unsigned)reason < 256 ? names[reason] : NULL;
    return name ? name : "unknown reason";
}

/* Packet types: a bit each. The upper half is for the packets that servers send. */
#define BY_SERVER(TYPE) (0x10000u << (TYPE))
#define BY_BOTH(TYPE)   (0x10001u << (TYPE))
#define BY_CLIENT(TYPE) (0x1u << (TYPE))

/* The same in PUBACK and PUBREC, in PUBREL and PUBCOMP, and mostly in SUBACK and UNSUBACK. */
#define RECEIVED   (BY_BOTH(MQTT_PUBACK) | BY_BOTH(MQTT_PUBREC))
#define RELEASED   (BY_BOTH(MQTT_PUBREL) | BY_BOTH(MQTT_PUBCOMP))
#define CONNACK    BY_SERVER(MQTT_CONNACK)
#define SUBACK     BY_SERVER(MQTT_SUBACK)
#define UNSUBACK   BY_SERVER(MQTT_UNSUBACK)
#define LEAVING    BY_BOTH(MQTT_DISCONNECT)
#define THROWN_OUT BY_SERVER(MQTT_DISCONNECT)

static const uint32_t places[256] = {
    [MQTT_SUCCESS] =
        CONNACK | RECEIVED | RELEASED | SUBACK | UNSUBACK | LEAVING | BY_SERVER(MQTT_AUTH),
    [MQTT_GRANTED_QOS_1] = SUBACK,
    [MQTT_GRANTED_QOS_2] = SUBACK,
    [MQTT_DISCONNECT_WITH_WILL_MESSAGE] = BY_CLIENT(MQTT_DISCONNECT),
    [MQTT_NO_MATCHING_SUBSCRIBERS] = RECEIVED,
    [MQTT_NO_SUBSCRIPTION_EXISTED] = UNSUBACK,
    [MQTT_CONTINUE_AUTHENTICATION] = BY_BOTH(MQTT_AUTH),
    [MQTT_RE_AUTHENTICATE] = BY_CLIENT(MQTT_AUTH),
    [MQTT_UNSPECIFIED_ERROR] = CONNACK | RECEIVED | SUBACK | UNSUBACK | LEAVING,
    [MQTT_MALFORMED_PACKET] = CONNACK | LEAVING,
    [MQTT_PROTOCOL_ERROR] = CONNACK | LEAVING,
    [MQTT_IMPLEMENTATION_SPECIFIC_ERROR] = CONNACK | RECEIVED | SUBACK | UNSUBACK | LEAVING,
    [MQTT_UNSUPPORTED_PROTOCOL_VERSION] = CONNACK,
    [MQTT_CLIENT_IDENTIFIER_NOT_VALID] = CONNACK,
    [MQTT_BAD_USER_NAME_OR_PASSWORD] = CONNACK,
    [MQTT_NOT_AUTHORIZED] = CONNACK | RECEIVED | SUBACK | UNSUBACK | THROWN_OUT,
    [MQTT_SERVER_UNAVAILABLE] = CONNACK,
    [MQTT_SERVER_BUSY] = CONNACK | THROWN_OUT,
    [MQTT_BANNED] = CONNACK,
    [MQTT_SERVER_SHUTTING_DOWN] = THROWN_OUT,
    [MQTT_BAD_AUTHENTICATION_METHOD] = CONNACK | THROWN_OUT,
    [MQTT_KEEP_ALIVE_TIMEOUT] = THROWN_OUT,
    [MQTT_SESSION_TAKEN_OVER] = THROWN_OUT,
    [MQTT_TOPIC_FILTER_INVALID] = SUBACK | UNSUBACK | THROWN_OUT,
    [MQTT_TOPIC_NAME_INVALID] = CONNACK | RECEIVED | LEAVING,
    [MQTT_PACKET_IDENTIFIER_IN_USE] = RECEIVED | SUBACK | UNSUBACK,
    [MQTT_PACKET_IDENTIFIER_NOT_FOUND] = RELEASED,
    [MQTT_RECEIVE_MAXIMUM_EXCEEDED] = LEAVING,
    [MQTT_TOPIC_ALIAS_INVALID] = LEAVING,
    [MQTT_PACKET_TOO_LARGE] = CONNACK | LEAVING,
    [MQTT_MESSAGE_RATE_TOO_HIGH] = LEAVING,
    [MQTT_QUOTA_EXCEEDED] = CONNACK | RECEIVED | SUBACK | LEAVING,
    [MQTT_ADMINISTRATIVE_ACTION] = LEAVING,
    [MQTT_PAYLOAD_FORMAT_INVALID] = CONNACK | RECEIVED | LEAVING,
    [MQTT_RETAIN_NOT_SUPPORTED] = CONNACK | THROWN_OUT,
    [MQTT_QOS_NOT_SUPPORTED] = CONNACK | THROWN_OUT,
    [MQTT_USE_ANOTHER_SERVER] = CONNACK | THROWN_OUT,
    [MQTT_SERVER_MOVED] = CONNACK | THROWN_OUT,
    [MQTT_SHARED_SUBSCRIPTIONS_NOT_SUPPORTED] = SUBACK | THROWN_OUT,
    [MQTT_CONNECTION_RATE_EXCEEDED] = CONNACK | THROWN_OUT,
    [MQTT_MAXIMUM_CONNECT_TIME] = THROWN_OUT,
    [MQTT_SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED] = SUBACK | THROWN_OUT,
    [MQTT_WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED] = SUBACK | THROWN_OUT,
};

bool mqtt_reason_allowed(enum mqtt_reason reason, enum mqtt_type type, enum mqtt_sender sender)
{
    unsigned bit = (unsigned)type + (sender == MQTT_FROM_SERVER ? 16 : 0);
    return (unsigned)reason < 256 && (places[reason] >> bit & 1);
}

int mqtt_reason_return_code(enum mqtt_reason reason)
{
    switch (reason) {
    case MQTT_SUCCESS:
        return 0;
    case MQTT_UNSUPPORTED_PROTOCOL_VERSION:
        return 1;
    case MQTT_CLIENT_IDENTIFIER_NOT_VALID:
        return 2;
    case MQTT_SERVER_UNAVAILABLE:
    case MQTT_SERVER_BUSY:
    case MQTT_SERVER_SHUTTING_DOWN:
    case MQTT_QUOTA_EXCEEDED:
    case MQTT_USE_ANOTHER_SERVER:
    case MQTT_SERVER_MOVED:
    case MQTT_CONNECTION_RATE_EXCEEDED:
        return 3;
    case MQTT_BAD_USER_NAME_OR_PASSWORD:
        return 4;
    case MQTT_NOT_AUTHORIZED:
    case MQTT_BANNED:
        return 5;
    default:
        return -1;
    }
}

enum mqtt_reason mqtt_reason_of_return_code(uint8_t code)
{
    static const enum mqtt_reason reasons[] = {
        MQTT_SUCCESS,
        MQTT_UNSUPPORTED_PROTOCOL_VERSION,
        MQTT_CLIENT_IDENTIFIER_NOT_VALID,
        MQTT_SERVER_UNAVAILABLE,
        MQTT_BAD_USER_NAME_OR_PASSWORD,
        MQTT_NOT_AUTHORIZED,
    };
    return code < sizeof(reasons) / sizeof(reasons[0]) ? reasons[code] : MQTT_PROTOCOL_ERROR;
}
