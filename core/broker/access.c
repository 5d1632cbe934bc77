/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/access.h"

#include <string.h>

enum mqtt_reason access_connect(struct client *c, const struct mqtt_connect *connect)
{
    (void)c;
    if (mqtt_properties_have(&connect->properties, MQTT_PROPERTY_AUTHENTICATION_METHOD))
        return MQTT_BAD_AUTHENTICATION_METHOD; /* there is none [MQTT-4.12.0-1] */
    return MQTT_SUCCESS;
}

bool access_publish(const struct session *session, const char *topic, size_t len)
{
    (void)session;
    return len < 4 || memcmp(topic, "$SYS", 4) != 0 || (len > 4 && topic[4] != '/');
}

bool access_subscribe(const struct session *session, const char *filter, size_t len)
{
    (void)session;
    (void)filter;
    (void)len;
    return true;
}
