/* SPDX-License-Identifier: MIT */

/* The topic aliases of a connection of MQTT 5.0 [3.3.2.3.4], both ways. The worker's thread. */

#ifndef TOCSIN_BROKER_ALIASES_H
#define TOCSIN_BROKER_ALIASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aliases;

/* What the client calls `topic` from now on. Makes the aliases if `*aliases` is NULL. Returns 0 or -ENOMEM. */
int aliases_learn(struct aliases **aliases, uint16_t alias, const char *topic, size_t len);

/* The topic of one of the client's aliases, or NULL if it has set none. */
const char *aliases_topic(const struct aliases *aliases, uint16_t alias, size_t *len);

/*
 * The alias by which the client is to know a topic, at most `maximum`; `*known` tells whether it has been told
 * already, or the packet must have the topic too. 0: none is left. Makes the aliases if need be.
 */
uint16_t aliases_give(struct aliases **aliases, uint16_t maximum, const char *topic, size_t len,
                      bool *known);

/* Takes back what aliases_give() has just made known, for a packet that was not sent. */
void aliases_take_back(struct aliases *aliases, uint16_t alias);

void aliases_free(struct aliases *aliases); /* NULL is allowed */

#endif
