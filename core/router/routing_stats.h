/* SPDX-License-Identifier: MIT */

/*
 * Counters of messages on their way from the links through the shards, since the start. The engine's are those of
 * all engines there have been, up to the last batch. At every moment
 * received = engine.messages + refused + waiting, of which engine.unmatched matched no route.
 */

#ifndef TOCSIN_ROUTER_ROUTING_STATS_H
#define TOCSIN_ROUTER_ROUTING_STATS_H

#include "router/engine.h"

#include <stdint.h>

struct routing_stats {
    uint64_t received; /* messages handed over to the shards */
    uint64_t refused;  /* not routed at the end, and not acknowledged */
    uint64_t waiting;  /* gauge: to be routed, those of the batch at hand included */
    uint64_t internal; /* of those received, those that this program has made itself */
    struct engine_stats engine;
};

#endif
