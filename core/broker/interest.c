/* SPDX-License-Identifier: MIT */

/*
 * A filter's value in the tree is the worker's number + 1 while one worker wants it, which is the rule, and
 * otherwise a reference to a mask. The two cannot be confused: the tree's root lies in the pool's first chunk,
 * so that masks, which are of another size, lie in later ones and have larger references.
 */

#include "broker/interest.h"

#include "broker/filter_tree.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct interest {
    pthread_rwlock_t lock;
    atomic_uint_least64_t generation;
    struct filter_tree tree;
    size_t filters;
};

struct interest *interest_new(void)
{
    struct interest *interest = calloc(1, sizeof *interest);
    if (!interest)
        return NULL;
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&interest->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    atomic_init(&interest->generation, 1);
    if (filter_tree_init(&interest->tree) < 0) {
        interest_free(interest);
        return NULL;
    }
    return interest;
}

void interest_free(struct interest *interest)
{
    if (!interest)
        return;
    filter_tree_release(&interest->tree);
    pthread_rwlock_destroy(&interest->lock);
    free(interest);
}

static uint64_t value_mask(const struct filter_tree *tree, uint32_t value)
{
    if (value == 0)
        return 0;
    if (value <= INTEREST_WORKERS)
        return UINT64_C(1) << (value - 1);
    return *(const uint64_t *)pool_at(&tree->pool, value);
}

/* Gives a node another set of workers. Returns 0, or -ENOMEM, which happens to larger sets only. */
static int node_set(struct filter_tree *tree, uint32_t node, uint64_t mask)
{
    uint32_t *value = filter_tree_value(tree, node);
    if (mask & (mask - 1)) {
        if (*value <= INTEREST_WORKERS) {
            const uint32_t ref = pool_alloc(&tree->pool, sizeof mask);
            if (!ref)
                return -ENOMEM;
            assert(ref > INTEREST_WORKERS);
            *value = ref;
        }
        *(uint64_t *)pool_at(&tree->pool, *value) = mask;
        return 0;
    }
    if (*value > INTEREST_WORKERS)
        pool_free(&tree->pool, *value);
    *value = mask ? (uint32_t)__builtin_ctzll(mask) + 1 : 0;
    return 0;
}

static int add_locked(struct interest *interest, uint64_t worker, const char *filter, size_t len)
{
    struct filter_tree *tree = &interest->tree;
    const uint32_t node = filter_tree_add(tree, filter, len);
    if (!node)
        return -ENOMEM;
    const uint64_t before = value_mask(tree, *filter_tree_value(tree, node));
    if (before & worker)
        return 0;
    const int rc = node_set(tree, node, before | worker);
    if (rc < 0)
        return rc; /* others have it: there is nothing to prune */
    interest->filters += before == 0;
    atomic_fetch_add_explicit(&interest->generation, 1, memory_order_release);
    return 0;
}

int interest_add(struct interest *interest, unsigned worker, const char *filter, size_t len)
{
    assert(worker < INTEREST_WORKERS);
    pthread_rwlock_wrlock(&interest->lock);
    const int rc = add_locked(interest, UINT64_C(1) << worker, filter, len);
    pthread_rwlock_unlock(&interest->lock);
    return rc;
}

static void remove_locked(struct interest *interest, uint64_t worker, const char *filter,
                          size_t len)
{
    struct filter_tree *tree = &interest->tree;
    const uint32_t node = filter_tree_find(tree, filter, len);
    const uint64_t before = node ? value_mask(tree, *filter_tree_value(tree, node)) : 0;
    if (!(before & worker))
        return;
    node_set(tree, node, before & ~worker);
    filter_tree_prune(tree, node);
    interest->filters -= before == worker;
    atomic_fetch_add_explicit(&interest->generation, 1, memory_order_release);
}

void interest_remove(struct interest *interest, unsigned worker, const char *filter, size_t len)
{
    assert(worker < INTEREST_WORKERS);
    pthread_rwlock_wrlock(&interest->lock);
    remove_locked(interest, UINT64_C(1) << worker, filter, len);
    pthread_rwlock_unlock(&interest->lock);
}

void interest_renew(struct interest *interest)
{
    atomic_fetch_add_explicit(&interest->generation, 1, memory_order_release);
}

struct match {
    const struct filter_tree *tree;
    uint64_t mask;
};

static void visit_value(uint32_t value, void *context)
{
    struct match *match = context;
    match->mask |= value_mask(match->tree, value);
}

uint64_t interest_match(struct interest *interest, const char *topic, size_t len)
{
    struct match match = { &interest->tree, 0 };
    pthread_rwlock_rdlock(&interest->lock);
    filter_tree_match(&interest->tree, topic, len, visit_value, &match);
    pthread_rwlock_unlock(&interest->lock);
    return match.mask;
}

uint64_t interest_generation(const struct interest *interest)
{
    return atomic_load_explicit(&interest->generation, memory_order_acquire);
}

size_t interest_count(struct interest *interest, size_t *bytes)
{
    pthread_rwlock_rdlock(&interest->lock);
    const size_t count = interest->filters;
    if (bytes)
        *bytes = sizeof *interest + filter_tree_bytes(&interest->tree);
    pthread_rwlock_unlock(&interest->lock);
    return count;
}
