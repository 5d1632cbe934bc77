/* SPDX-License-Identifier: MIT */

/*
 * The topic filter of a route, whose levels may have names: "clients/{device}/{ip}/celsius" is the MQTT
 * filter "clients/+/+/celsius" with the names device and ip; "{rest#}", as the last level, is the named
 * '#'. Plain '+' and '#' stay what they are. Any thread.
 */

#ifndef TOCSIN_ROUTER_ROUTE_TOPIC_H
#define TOCSIN_ROUTER_ROUTE_TOPIC_H

#include "base/buf.h"
#include "router/fields.h"

#include <stdbool.h>
#include <stddef.h>

#define ROUTE_TOPIC_MAX_LEVELS 128

struct level_name {
    char *name;
    size_t level; /* from 0 */
    bool rest;    /* this level and all below, without the slash before them */
};

struct route_topic {
    char *filter; /* as MQTT has it */
    struct level_name *names;
    size_t name_count;
};

/* Reads `text`. Returns 0; or -EINVAL with what is wrong and what to write added to `why`; or -ENOMEM.
 * Whatever it returns, route_topic_release() frees it. */
int route_topic_init(struct route_topic *topic, const char *text, struct buf *why);
void route_topic_release(struct route_topic *topic);

/* Fills `levels` (topic->name_count places) from a topic name that the filter matches. */
void route_topic_levels(const struct route_topic *topic, const char *name, size_t len,
                        struct field_level *levels);

#endif
