/* SPDX-License-Identifier: MIT */

#include "broker/share.h"

#include "base/container.h"
#include "base/map.h"
#include "broker/filters.h"
#include "broker/flow.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BUSY 8 /* messages in hand from which on others are asked first */

struct share {
    atomic_uint refs;
    pthread_mutex_t lock; /* of the members */
    struct share_member **members;
    size_t count, places, turn;
    struct subscriber subscriber; /* in the tree of all */
    size_t name_len, filter_len;
    char *filter; /* behind the name and a '/' */
    char name[];
};

struct shares {
    pthread_rwlock_t lock; /* of the tree and the map; taken before a group's */
    struct filters *filters;
    struct map by_name; /* "NAME/FILTER" */
    atomic_uint_fast64_t generation;
};

struct shares *shares_new(void)
{
    struct shares *shares = calloc(1, sizeof(*shares));
    if (!shares || !(shares->filters = filters_new())) {
        free(shares);
        return NULL;
    }
    pthread_rwlock_init(&shares->lock, NULL);
    return shares;
}

void shares_free(struct shares *shares)
{
    if (!shares)
        return;
    filters_free(shares->filters);
    map_release(&shares->by_name);
    pthread_rwlock_destroy(&shares->lock);
    free(shares);
}

uint64_t shares_generation(const struct shares *shares)
{
    return atomic_load_explicit(&shares->generation, memory_order_acquire);
}

/* ---- References ---- */

const char *share_name(const struct share *share, size_t *len)
{
    *len = share->name_len + 1 + share->filter_len;
    return share->name;
}

struct share *share_ref(struct share *share)
{
    atomic_fetch_add_explicit(&share->refs, 1, memory_order_relaxed);
    return share;
}

void share_unref(struct share *share)
{
    if (!share || atomic_fetch_sub_explicit(&share->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&share->lock);
    free(share->members);
    free(share);
}

struct share_member *share_member_ref(struct share_member *member)
{
    atomic_fetch_add_explicit(&member->refs, 1, memory_order_relaxed);
    return member;
}

void share_member_unref(struct share_member *member)
{
    if (!member || atomic_fetch_sub_explicit(&member->refs, 1, memory_order_acq_rel) != 1)
        return;
    share_unref(member->share);
    free(member);
}

/* ---- Groups ---- */

static struct share *share_new(const char *name, size_t name_len, const char *filter,
                               size_t filter_len)
{
    struct share *share = calloc(1, sizeof(*share) + name_len + 1 + filter_len);
    if (!share)
        return NULL;
    atomic_init(&share->refs, 1);
    pthread_mutex_init(&share->lock, NULL);
    share->name_len = name_len;
    share->filter_len = filter_len;
    share->filter = share->name + name_len + 1;
    memcpy(share->name, name, name_len);
    share->name[name_len] = '/';
    memcpy(share->filter, filter, filter_len);
    return share;
}

/* Puts a new group where it is found. */
static int found(struct shares *shares, struct share *share)
{
    const struct subscription subscription = { .subscriber = &share->subscriber };
    int rc = filters_add(shares->filters, share->filter, share->filter_len, &subscription);
    if (rc < 0)
        return rc;
    rc = map_set(&shares->by_name, share->name, share->name_len + 1 + share->filter_len, share);
    if (rc < 0)
        filters_remove(shares->filters, share->filter, share->filter_len, &share->subscriber);
    return rc;
}

static int join(struct share *share, struct share_member *member)
{
    int rc = 0;
    pthread_mutex_lock(&share->lock);
    if (share->count == share->places) {
        size_t more = share->places ? share->places * 2 : 4;
        struct share_member **fresh = realloc(share->members, more * sizeof(*fresh));
        if (fresh) {
            share->members = fresh;
            share->places = more;
        } else {
            rc = -ENOMEM;
        }
    }
    if (rc == 0) {
        member->at = share->count;
        share->members[share->count++] = member;
    }
    pthread_mutex_unlock(&share->lock);
    return rc;
}

struct share_member *shares_join(struct shares *shares, const char *name, size_t name_len,
                                 const char *filter, size_t filter_len, unsigned worker,
                                 struct session *session)
{
    struct share_member *member = calloc(1, sizeof(*member));
    if (!member)
        return NULL;
    atomic_init(&member->refs, 1);
    atomic_init(&member->connected, true);
    member->worker = worker;
    member->session = session;

    struct share *fresh = share_new(name, name_len, filter, filter_len);
    if (!fresh) {
        free(member);
        return NULL;
    }
    pthread_rwlock_wrlock(&shares->lock);
    struct share *share =
        map_get(&shares->by_name, fresh->name, fresh->name_len + 1 + fresh->filter_len);
    bool is_new = !share && found(shares, fresh) == 0;
    if (is_new)
        share = fresh;
    if (share && join(share, member) == 0)
        member->share = share_ref(share);
    if (is_new)
        atomic_fetch_add_explicit(&shares->generation, 1, memory_order_release);
    pthread_rwlock_unlock(&shares->lock);
    if (!is_new)
        share_unref(fresh);
    if (member->share)
        return member;
    free(member);
    return NULL;
}

/* Only the worker itself may look at the session of a member. */
static struct share_member *member_of(struct share *share, unsigned worker,
                                      const struct session *session)
{
    struct share_member *found = NULL;
    pthread_mutex_lock(&share->lock);
    for (size_t i = 0; i < share->count && !found; i++)
        if (share->members[i]->worker == worker && share->members[i]->session == session)
            found = share->members[i];
    pthread_mutex_unlock(&share->lock);
    return found;
}

struct share_member *shares_find(struct shares *shares, const char *name, size_t name_len,
                                 const char *filter, size_t filter_len, unsigned worker,
                                 const struct session *session)
{
    char small[512], *key = small;
    const size_t len = name_len + 1 + filter_len;
    if (len > sizeof(small) && !(key = malloc(len)))
        return NULL;
    memcpy(key, name, name_len);
    key[name_len] = '/';
    memcpy(key + name_len + 1, filter, filter_len);

    pthread_rwlock_rdlock(&shares->lock);
    struct share *share = map_get(&shares->by_name, key, len);
    struct share_member *member = share ? member_of(share, worker, session) : NULL;
    pthread_rwlock_unlock(&shares->lock);
    if (key != small)
        free(key);
    return member;
}

void shares_leave(struct shares *shares, struct share_member *member)
{
    struct share *share = member->share;
    atomic_store(&member->left, true);
    pthread_rwlock_wrlock(&shares->lock);
    pthread_mutex_lock(&share->lock);
    share->members[member->at] = share->members[--share->count];
    share->members[member->at]->at = member->at;
    bool last = share->count == 0;
    pthread_mutex_unlock(&share->lock);
    if (last) {
        filters_remove(shares->filters, share->filter, share->filter_len, &share->subscriber);
        map_remove(&shares->by_name, share->name, share->name_len + 1 + share->filter_len);
        atomic_fetch_add_explicit(&shares->generation, 1, memory_order_release);
    }
    pthread_rwlock_unlock(&shares->lock);
    if (last)
        share_unref(share);
    share_member_unref(member);
}

/* ---- Choosing ---- */

/* Less is better. */
enum rank {
    BEST,
    AWAY,
    LESS_SAFE,
    FULL,
    AWAY_AND_FULL,
    NOBODY
};

static enum rank rank_of(const struct share_member *member, bool on_disk)
{
    const bool here = atomic_load_explicit(&member->connected, memory_order_relaxed);
    unsigned most = atomic_load_explicit(&member->most, memory_order_relaxed);
    if (most > 0 && atomic_load_explicit(&member->load, memory_order_relaxed) >= most)
        return here ? FULL : AWAY_AND_FULL;
    if (!here)
        return AWAY;
    return on_disk && !atomic_load_explicit(&member->durable, memory_order_relaxed) ? LESS_SAFE
                                                                                    : BEST;
}

struct share_member *share_choose(struct share *share, const struct share_member * not,
                                  bool on_disk)
{
    struct share_member *best = NULL;
    enum rank best_rank = NOBODY;
    unsigned best_load = 0;
    pthread_mutex_lock(&share->lock);
    for (size_t i = 0; i < share->count; i++) {
        struct share_member *member = share->members[(share->turn + i) % share->count];
        if (member == not )
            continue;
        enum rank rank = rank_of(member, on_disk);
        unsigned load = atomic_load_explicit(&member->load, memory_order_relaxed);
        if (rank < best_rank || (rank == best_rank && rank != AWAY && load < best_load)) {
            best = member;
            best_rank = rank;
            best_load = load;
        }
        if (rank == BEST && load < BUSY)
            break;
    }
    if (best) {
        share->turn = (share->turn + 1) % share->count;
        share_member_ref(best);
        atomic_fetch_add_explicit(&best->load, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&share->lock);
    return best;
}

struct visit {
    void (*visit)(struct share *share, void *context);
    void *context;
};

static void on_match(const struct subscription *subscription, void *context)
{
    const struct visit *visit = context;
    visit->visit(CONTAINER_OF(subscription->subscriber, struct share, subscriber), visit->context);
}

void shares_match(struct shares *shares, const char *topic, size_t len,
                  void (*visit)(struct share *share, void *context), void *context)
{
    struct visit v = { visit, context };
    pthread_rwlock_rdlock(&shares->lock);
    if (shares->by_name.count > 0)
        filters_match(shares->filters, topic, len, on_match, &v);
    pthread_rwlock_unlock(&shares->lock);
}
