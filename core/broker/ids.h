/* SPDX-License-Identifier: MIT */

/* A set of packet identifiers, 1 to 65535: those that a client has published with QoS 2 and not released yet.
 * Its memory follows what is in it. The worker's thread. */

#ifndef TOCSIN_BROKER_IDS_H
#define TOCSIN_BROKER_IDS_H

#include <stdbool.h>
#include <stdint.h>

struct ids;

/* Adds an identifier, making the set if `*ids` is NULL. Returns 1, 0 if it was there, or -ENOMEM. */
int ids_add(struct ids **ids, uint16_t id);

/* Takes it out, and frees the set with the last one. Returns whether it was there. */
bool ids_remove(struct ids **ids, uint16_t id);

bool ids_have(const struct ids *ids, uint16_t id);
uint32_t ids_count(const struct ids *ids);
void ids_free(struct ids *ids);

#endif
