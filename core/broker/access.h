/* SPDX-License-Identifier: MIT */

/*
 * Who may do what: every decision of that kind is made here. Without configured access control anybody may
 * connect, and publish and subscribe all but what is the broker's own ($SYS). The worker's thread.
 */

#ifndef TOCSIN_BROKER_ACCESS_H
#define TOCSIN_BROKER_ACCESS_H

#include "broker/client.h"

/* MQTT_SUCCESS, or why the client may not connect. */
enum mqtt_reason access_connect(struct client *c, const struct mqtt_connect *connect);

/* Whether the session may publish to a topic, or subscribe to a filter; both without the mount point. */
bool access_publish(const struct session *session, const char *topic, size_t len);
bool access_subscribe(const struct session *session, const char *filter, size_t len);

#endif
