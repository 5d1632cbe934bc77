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

#include "config/conf.h"
#include "router/delivery.h"
#include "store/store.h"

struct keeper;
struct seen;

/* Keeps deliveries in this store. NULL when there is no memory. */
struct keeper *keeper_new(struct store *store);
struct store *keeper_store(const struct keeper *keeper);
void keeper_free(struct keeper *keeper); /* after the store has been closed; NULL is allowed */

/* Loads what an earlier run has seen (seen.h), and keeps it with the deliveries from now on. Before anything is put. Returns
 * 0 or a negative errno value. */
int keeper_load_seen(struct keeper *keeper, struct seen *seen);

/* Puts a delivery on disk that is not there yet; with `hold`, its message is held until then, also when it is on its way
 * there already. When there is no memory for that, a message that should be held is refused (message.h). */
void keep_put(struct keeper *keeper, struct delivery *delivery, bool hold);

/* It has been tried in vain so often, the last time for this reason, and is due again at `due_ms` (wall clock). */
void keep_retry(struct keeper *keeper, struct delivery *delivery, unsigned attempts, int64_t due_ms,
                const char *reason);

/* It was rejected or given up after so many attempts: it becomes a dead letter, which a person can look at, have
 * tried again, or drop (`tocsin queue`), as long as it is within the bounds. `untold`: nobody could be told of it. */
void keep_bury(struct keeper *keeper, struct delivery *delivery, unsigned attempts,
               const char *reason, bool untold);

/* It has failed, and `to` is tried in its place: puts that one on disk, with a new place in the order, if this one is there or
 * on its way there, and takes this one away, in one go. It takes over the hold that this one has until it is written. When
 * there is no memory for that, this one stays there, and is tried again after a restart. */
void keep_move(struct keeper *keeper, struct delivery *from, struct delivery *to);

/* Bounds of all dead letters: the oldest go. */
struct dead_bounds {
    uint64_t count, bytes; /* bytes: of their records */
    int64_t age_ms;        /* 0: none */
};
#define DEAD_BOUNDS_DEFAULT \
    ((struct dead_bounds){ 10000, (uint64_t)256 * 1024 * 1024, (int64_t)180 * 24 * 3600 * 1000 })
void keeper_set_bounds(struct keeper *keeper,
                       const struct dead_bounds *bounds); /* NULL is allowed */

/* The group `dead_letters`, for help and the sample, and reading it. Returns 0, or -EINVAL (`errors`). */
extern const struct tocsin_option dead_letter_options[];
int dead_bounds_read(const struct conf *conf, struct dead_bounds *out, struct conf_errors *errors);

/* Looks soon whether there are too many, or too old ones. Any thread, after the start. */
void keeper_trim(struct keeper *keeper);

/* The same from time to time, when it is called often. */
void keeper_tick(struct keeper *keeper, int64_t now_ms);

/* It is done: sent, or forgotten. */
void keep_end(struct keeper *keeper, struct delivery *delivery);

/* Gives it a place in the order on disk (delivery->number), if it has none, for whenever it is put there: one that is put
 * there late, because it has to be tried again, is not behind what came after it. */
void keep_order(struct keeper *keeper, struct delivery *delivery);

/* ---- Loading ---- */

/* Part of the order of one target: deliveries after one number, up to another. */
struct keep_range {
    const char *service, *target;
    uint64_t after, last;
};

/* Dead letters that are to be tried again wait like others from now on. Before anything is put. Returns 0 or a
 * negative errno value. */
int keep_revive_all(struct keeper *keeper);

/* Calls `tell` with each dead letter that nobody could be told of; the delivery (with its number) is borrowed, and of its target
 * there are only the names. Before anything is put. Returns 0 or a negative errno value. */
#define KEEP_UNTOLD_LINK 256 /* bytes of a link's name */
typedef void keep_untold_fn(void *context, const struct delivery *delivery, const char *reason,
                            unsigned attempts);
int keep_untold(struct keeper *keeper, keep_untold_fn *tell, void *context);

/* Somebody has been told of the one of this number. Any thread. */
void keep_told(struct keeper *keeper, uint64_t number);

/* How many dead letters there are, as of a moment ago. Any thread. */
uint64_t keeper_dead(const struct keeper *keeper);

/* How many wait on disk for targets that are not configured: so many at the start, and so many less since. Any thread. */
void keeper_set_stray(struct keeper *keeper, uint64_t count);
void keeper_found_stray(struct keeper *keeper, uint64_t count);
uint64_t keeper_stray(const struct keeper *keeper);

/* How many there are on disk for a target, and the number of the last. For no target (both NULL): for all. Before
 * anything is put. Returns 0 or a negative errno value. */
int keep_count(struct keeper *keeper, const char *service, const char *target, uint64_t *count,
               uint64_t *last);

/*
 * Loads at most `most` deliveries of a range, as many as have KEEP_LOAD_BYTES on disk but at least one, in their order, and calls `loaded` with them as a list, on the
 * store's thread, when all that has been put before is on disk. `link` gives names that live as long as the program
 * (NULL for one that is gone). Times become those of the clocks now; what is overdue is spread over some seconds.
 *
 * `rows` is how many there were, `last` the number of the last of them: what cannot be read stays on disk, and is
 * logged. The struct belongs to the caller until `loaded` has been called, and then again.
 */
#define KEEP_LOAD_BYTES ((size_t)8 * 1024 * 1024)
struct keep_load {
    struct store_task task; /* private */
    struct keeper *keeper;
    struct keep_range range;
    bool revived; /* in place of those that wait, those that a person wants tried again */
    const uint64_t
        *numbers; /* in place of the range, those of these numbers that wait; NULL: all of it */
    size_t number_count;
    size_t most;
    struct target *for_target;
    int64_t longest_ms; /* that one may still have to wait; 0: a day */
    const char *const *links;
    void (*loaded)(struct keep_load *load);

    /* What came of it. */
    struct delivery *first;
    size_t rows;
    uint64_t last;
    bool more;                 /* there may be more in the range */
    size_t numbers_done;       /* how many of the numbers were looked at */
    uint64_t dead, dead_bytes; /* private */
};
void keep_load(struct keep_load *load);

/* The same at once, before anything is put: does not call `loaded`. Returns 0 or a negative errno value. */
int keep_load_now(struct keep_load *load);

/*
 * What is on disk for targets that are configured only now, while the program runs: nobody may have made anything for them
 * yet. keep_find() asks about one, and returns the list `others` with that question in front, or NULL without memory (then
 * `others` is as it was). keep_find_answers() waits until all of a list are answered, after everything that has been put
 * before, and dead letters that are to be tried again wait like others from then on. Returns 0; or -EIO or -ETIMEDOUT,
 * and then the list is not the caller's any more.
 */
struct keep_find {
    struct store_task task; /* private */
    struct keeper *keeper;
    struct keep_find *next;
    const struct target *target;
    uint64_t count, last; /* the answer: how many, and the number of the last */
    bool answered;
    uint64_t dead, dead_bytes; /* private, like the rest */
    bool revived;
    const char *name; /* behind the service's */
    char service[];
};
struct keep_find *keep_find(struct keeper *keeper, const struct target *target,
                            struct keep_find *others);
int keep_find_answers(struct keep_find *list, int64_t wait_ms);
void keep_find_free(struct keep_find *list); /* NULL is allowed */

#endif
