/* SPDX-License-Identifier: MIT */

/*
 * LD_PRELOAD: a connection that is gone while a link's thread is about to publish. As long as the file PUBLISH_AWAY is there,
 * libmosquitto's mosquitto_publish() says so for topics of dead letters. Any thread.
 */

#include <dlfcn.h>
#include <mosquitto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int mosquitto_publish(struct mosquitto *mosq, int *mid, const char *topic, int len,
                             const void *payload, int qos, bool retain)
{
    static __typeof__(mosquitto_publish) *next;
    if (!next) { /* C has no cast from an object to a function, POSIX has */
        void *found = dlsym(RTLD_NEXT, "mosquitto_publish");
        memcpy(&next, &found, sizeof(next));
    }
    const char *away = getenv("PUBLISH_AWAY");
    if (away && access(away, F_OK) == 0 && strstr(topic, "/dead-letter/"))
        return MOSQ_ERR_NO_CONN;
    return next(mosq, mid, topic, len, payload, qos, retain);
}
