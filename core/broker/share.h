/* SPDX-License-Identifier: MIT */

/*
 * Shared subscriptions ($share/NAME/FILTER): groups whose members may be sessions of several workers. Each
 * message goes to one of them: to the next in turn that is connected and not busy. Any thread but where it
 * says other; locks inside are held for single calls. What waits on disk for one that is away goes to others
 * as far as they keep it as safely, and have room for it.
 */

#ifndef TOCSIN_BROKER_SHARE_H
#define TOCSIN_BROKER_SHARE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shares;
struct share;
struct session;
struct identifiers;

struct share_member {
    atomic_uint refs;
    atomic_uint load; /* messages that it has been given and not acknowledged */
    atomic_bool connected;
    atomic_bool left;    /* gets nothing more */
    atomic_bool durable; /* what waits for it is on disk */
    atomic_uint most;    /* so many may wait for it (max_queued_messages); 0: any number */
    unsigned worker;
    struct share *share;
    size_t at; /* in the group; by its lock */

    /* The worker's thread only. */
    struct session *session;           /* NULL after it has left */
    struct share_member *next, **link; /* of the session */
    struct identifiers *ids;
    uint8_t qos;
    bool as_published;
};

struct shares *shares_new(void);
void shares_free(struct shares *shares); /* NULL is allowed */

/* Joins a group: a member with one reference, which the session has. `text` is the whole "$share/NAME/FILTER",
 * `filter` (with the mount point) what it matches. NULL when there is no memory. */
struct share_member *shares_join(struct shares *shares, const char *name, size_t name_len,
                                 const char *filter, size_t filter_len, unsigned worker,
                                 struct session *session);

/* Leaves it; the reference is dropped. */
void shares_leave(struct shares *shares, struct share_member *member);

/* The member that a session of this worker has in the group of that name and filter; NULL if there is none. */
struct share_member *shares_find(struct shares *shares, const char *name, size_t name_len,
                                 const char *filter, size_t filter_len, unsigned worker,
                                 const struct session *session);

struct share_member *share_member_ref(struct share_member *member);
void share_member_unref(struct share_member *member); /* NULL is allowed */

/* One of the messages that it was chosen for is done: acknowledged, dropped, or given to another. */
static inline void share_member_done(struct share_member *member)
{
    atomic_fetch_sub_explicit(&member->load, 1, memory_order_relaxed);
}

/* Whether more waits for it than may. */
static inline bool share_member_is_full(const struct share_member *member)
{
    unsigned most = atomic_load_explicit(&member->most, memory_order_relaxed);
    return most > 0 && atomic_load_explicit(&member->load, memory_order_relaxed) > most;
}

/* The next member in turn, with a reference: of those connected the first that is not busy, or else the least
 * busy; if none is connected, or they are full, one that is away. With `on_disk`, for what is on disk already, those
 * that are durable come first, also if they are away: others would lose it with a kill. Its load is one more. `not`
 * is passed over (NULL for none). NULL if there is none. */
struct share_member *share_choose(struct share *share, const struct share_member * not,
                                  bool on_disk);

/* "NAME/FILTER", with the mount point; no NUL follows. */
const char *share_name(const struct share *share, size_t *len);

struct share *share_ref(struct share *share);
void share_unref(struct share *share);

/* Calls `visit` with each group whose filter matches. */
void shares_match(struct shares *shares, const char *topic, size_t len,
                  void (*visit)(struct share *share, void *context), void *context);

/* Changes when groups come and go. */
uint64_t shares_generation(const struct shares *shares);

#endif
