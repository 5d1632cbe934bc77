/* SPDX-License-Identifier: MIT */

/*
 * Deliveries on disk. One of a QoS 1 or 2 message holds its message (so that it is not acknowledged) until it has
 * been committed, or has been delivered before that, and then it is never written. One of a QoS 0 message is
 * written when it has to be tried again, or is left when the program ends: nobody waits for it.
 *
 * What is on disk is taken away when the delivery is done, in a later group. So a crash in between delivers it
 * once more: the window is a sync and STORE_GATHER_MS.
 *
 * Threads: keep_put(), keep_retry() and keep_end() by who owns the delivery; never two at once for one.
 */

#ifndef TOCSIN_DELIVERY_KEEP_H
#define TOCSIN_DELIVERY_KEEP_H

#include "router/delivery.h"
#include "store/store.h"

struct keeper;

/* Keeps deliveries in this store. NULL when there is no memory. */
struct keeper *keeper_new(struct store *store);
void keeper_free(struct keeper *keeper); /* after the store has been closed; NULL is allowed */

/* Puts a delivery on disk that is not there yet; with `hold`, its message is held until then. When there is no
 * memory for that, a message that should be held is refused (message.h). */
void keep_put(struct keeper *keeper, struct delivery *delivery, bool hold);

/* It has been tried in vain so often, and is due again at `due_ms` (wall clock). */
void keep_retry(struct keeper *keeper, struct delivery *delivery, unsigned attempts,
                int64_t due_ms);

/* It is done: sent, rejected, given up. */
void keep_end(struct keeper *keeper, struct delivery *delivery);

/*
 * Makes the deliveries again that an earlier run left, in their order, and gives each to `found`, which owns it
 * then. `target` finds the target of a name, or NULL: then the delivery stays on disk, and is counted. Before
 * anything is put. Times become those of the clocks now. Returns how many were left on disk, or a negative errno
 * value.
 */
struct keep_finder {
    struct target *(*target)(void *context, const char *service, const char *target);
    void (*found)(void *context, struct delivery *delivery);
    void *context;
    const char *const *links; /* names that live as long as the program, NULL at the end */
};
int64_t keeper_load(struct keeper *keeper, const struct keep_finder *finder);

#endif
