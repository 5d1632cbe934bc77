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
