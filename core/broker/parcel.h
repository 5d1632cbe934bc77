/* SPDX-License-Identifier: MIT */

/*
 * Parcels: short messages for another worker, copied one behind the other into one letter. So they cost the two
 * workers neither an allocation nor an atomic operation each, which is more than the copy. The worker's thread.
 *
 * A parcel is open, which means that it can be added to, as long as it is the last letter in the turn's bag for
 * that worker: what follows it in the bag has been published later.
 */

#ifndef TOCSIN_BROKER_PARCEL_H
#define TOCSIN_BROKER_PARCEL_H

#include "broker/worker.h"

#include <stdbool.h>

struct letter_parcel {
    struct letter letter;
    uint32_t len;  /* bytes in use */
    uint32_t size; /* bytes */
    uint8_t data[];
};

/* Whether a message goes by parcel: it is short, and nobody has kept it, so that a reference would not be cheaper. */
bool parcel_suits(const struct publish *publish);

/* Puts a message that suits into the open parcel for a worker, or begins one. Returns 0 or -ENOMEM. */
int parcel_add(struct worker *worker, unsigned to, struct publish *publish);

/* What it keeps in memory. */
static inline size_t parcel_size(const struct letter_parcel *parcel)
{
    return sizeof(*parcel) + parcel->size;
}

/* Delivers all that is in a parcel to this worker's own sessions, and frees it. */
void parcel_read(struct worker *worker, struct letter_parcel *parcel);

/* Throws one away that nobody reads any more. */
void parcel_discard(struct letter_parcel *parcel);

#endif
