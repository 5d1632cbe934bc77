/* SPDX-License-Identifier: MIT */

/*
 * The accounts: nothing comes from nowhere, and nothing goes nowhere.
 *
 *     messages:   handed on by links + internal = received
 *                 received = routed + not matched + refused + waiting
 *     deliveries: made by routes = created
 *                 created + restored + revived = sent + waiting, retrying (in memory or on disk) + dead (rejected, given up)
 *                         + dropped, suppressed, forgotten or refused by a rule + unreadable, removed or left on disk
 *
 * Both sides are counted by different hands. Within a shard and within a target they agree at every moment. Between
 * them there are counters that were read at different moments, so these are compared only while nothing moves, and
 * a difference is believed when it is still there several looks later.
 *
 * A struct conservation belongs to one thread.
 */

#ifndef TOCSIN_ADMIN_CONSERVATION_H
#define TOCSIN_ADMIN_CONSERVATION_H

#include "admin/observation.h"
#include "base/buf.h"

#include <stdbool.h>

/* Appends a sentence for each law that does not hold, as things are seen to be. Returns how many there are. */
unsigned conservation_compare(const struct observation *seen, struct buf *why);

/* Whether nothing that is counted has moved between two observations, nor is about to. */
bool conservation_is_still(const struct observation *before, const struct observation *after);

struct conservation {
    unsigned suspicious; /* looks in a row that were not right */
    bool is_broken;      /* and that were enough of them */
    char why[512];       /* what is wrong, when it is */
};

#define CONSERVATION_LOOKS 3

/* Looks at two observations, one shortly after the other. Returns whether `is_broken` has changed. */
bool conservation_look(struct conservation *conservation, const struct observation *before,
                       const struct observation *after);

#endif
