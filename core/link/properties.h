/* SPDX-License-Identifier: MIT */

/*
 * MQTT 5 properties: libmosquitto's lists, and those of the packet codec, to and from ours. Topic Alias and
 * Subscription Identifier are never carried on. No shared state; the struct belongs to one thread.
 */

#ifndef TOCSIN_LINK_PROPERTIES_H
#define TOCSIN_LINK_PROPERTIES_H

#include "base/buf.h"
#include "mqtt/properties.h"
#include "tocsin/plugin.h"

#include <mosquitto.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The user property that counts how often routers have republished a message: it is ours, and is not
 * among the user properties shown. */
#define HOPS_PROPERTY "tocsin-hops"

/* What came with a message. */
struct properties_in {
    bool any; /* whether `properties` has anything */
    struct tocsin_properties properties;
    uint8_t hops;        /* 0 if the property is absent or no number; 255 if larger */
    const uint32_t *ids; /* subscription identifiers */
    size_t id_count;

    /* Own: memory, kept for the next message. */
    char **texts; /* of the library */
    size_t text_count, text_room;
    char *block; /* of the packet codec: all texts one after the other */
    size_t block_room;
    uint8_t *correlation;
    struct tocsin_property *user;
    size_t user_room;
    uint32_t *id_list;
    size_t id_room;
};

/* Reads a list; begin with { 0 }. What it sets is valid until the next call. Returns 0 or -ENOMEM. */
int properties_read(struct properties_in *in, const mosquitto_property *list, int64_t received_ms);
int properties_read_packet(struct properties_in *in, const struct mqtt_properties *properties,
                           int64_t received_ms);
void properties_release(struct properties_in *in);

/*
 * Makes a list for a publication, to be freed by mosquitto_property_free_all(); NULL when there is
 * nothing to say. Message Expiry Interval is what is left at `now_ms`. Returns 0, -ESTALE if the message
 * has expired, -EINVAL if a property cannot be sent, or -ENOMEM.
 */
int properties_make(const struct tocsin_publication *publication, int64_t now_ms,
                    mosquitto_property **out);

/* The same as the bytes of a packet, without their length in front, added to `out`. Returns also -E2BIG if
 * they do not fit in there. */
int properties_write(const struct tocsin_publication *publication, int64_t now_ms, struct buf *out);

/* The length in bytes of the PUBLISH packet that a publication makes under MQTT 5. */
size_t properties_packet_length(const struct tocsin_publication *publication);

#endif
