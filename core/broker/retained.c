/* SPDX-License-Identifier: MIT */

/*
 * The messages in the order of their topics are a list of leaves, each an array of up to LEAF_ITEMS; and they are
 * in a hash table by topic, so that the usual change, a new message in place of an old one, searches no order.
 * Both hold references to items, which hold the publications.
 *
 * In this order '/' comes before all other bytes. So the topics below "a" follow "a" at once, and "a\x01" is
 * behind all of them.
 */

#include "broker/retained.h"

#include "broker/pool.h"
#include "broker/ref_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_ITEMS 127 /* makes 512 bytes */
#define BATCH      64  /* messages dropped in one go of the lock */

struct leaf {
    uint32_t count; /* at least 1 */
    uint32_t items[LEAF_ITEMS];
};

struct item {
    struct publication *publication;
};

struct retained {
    pthread_rwlock_t lock;
    struct pool pool;
    struct ref_table topics;
    uint32_t *leaves;
    size_t leaf_count, leaf_capacity;
    size_t count, bytes;
    size_t expiring;              /* messages that expire one day */
    struct publication *sweep_at; /* where retained_sweep() goes on; NULL is the beginning */
};

struct place {
    size_t leaf, item; /* behind the last message: leaf == leaf_count */
};

struct retained *retained_new(void)
{
    struct retained *retained = calloc(1, sizeof *retained);
    if (!retained)
        return NULL;
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&retained->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    return retained;
}

static struct leaf *leaf_at(const struct retained *retained, size_t leaf)
{
    return pool_at(&retained->pool, retained->leaves[leaf]);
}

static struct publication **item_at(const struct retained *retained, uint32_t ref)
{
    return &((struct item *)pool_at(&retained->pool, ref))->publication;
}

static struct publication *place_publication(const struct retained *retained, struct place place)
{
    return *item_at(retained, leaf_at(retained, place.leaf)->items[place.item]);
}

void retained_free(struct retained *retained)
{
    if (!retained)
        return;
    for (size_t l = 0; l < retained->leaf_count; l++)
        for (size_t i = 0; i < leaf_at(retained, l)->count; i++)
            publication_unref(place_publication(retained, (struct place){ l, i }));
    publication_unref(retained->sweep_at);
    free(retained->leaves);
    ref_table_release(&retained->topics);
    pool_release(&retained->pool);
    pthread_rwlock_destroy(&retained->lock);
    free(retained);
}

/* ---- The order ---- */

/* A topic in two parts, so that nobody has to put it together. */
struct key {
    const char *first;
    size_t first_len;
    const char *second;
    size_t second_len;
};

static struct key topic_key(const struct publication *publication)
{
    return (struct key){ publication_topic(publication), publication->topic_len, "", 0 };
}

static size_t same_len(const char *a, const char *b, size_t len)
{
    size_t at = 0;
    for (uint64_t x, y; at + sizeof x <= len; at += sizeof x) {
        memcpy(&x, a + at, sizeof x);
        memcpy(&y, b + at, sizeof y);
        if (x != y)
            break;
    }
    while (at < len && a[at] == b[at])
        at++;
    return at;
}

static int byte_order(char a, char b)
{
    return (a == '/' ? 0 : (unsigned char)a) - (b == '/' ? 0 : (unsigned char)b);
}

/* Negative when the topic comes before the key, 0 when they are the same. */
static int topic_order(const struct publication *publication, const struct key *key)
{
    const char *topic = publication_topic(publication);
    const size_t len = publication->topic_len;

    size_t n = len < key->first_len ? len : key->first_len;
    size_t same = same_len(topic, key->first, n);
    if (same < n)
        return byte_order(topic[same], key->first[same]);
    if (len < key->first_len)
        return -1;

    topic += n;
    const size_t rest = len - n;
    n = rest < key->second_len ? rest : key->second_len;
    same = same_len(topic, key->second, n);
    if (same < n)
        return byte_order(topic[same], key->second[same]);
    return rest < key->second_len ? -1 : rest > key->second_len;
}

/* The place of the first message that is not before the key, or where it would be added: in a leaf that has
 * one before it, so also behind the last item of that leaf. */
static struct place place_for(const struct retained *retained, const struct key *key)
{
    size_t low = 0, high = retained->leaf_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (topic_order(place_publication(retained, (struct place){ middle, 0 }), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return (struct place){ 0, 0 };
    const size_t leaf = low - 1;
    low = 1;
    high = leaf_at(retained, leaf)->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (topic_order(place_publication(retained, (struct place){ leaf, middle }), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return (struct place){ leaf, low };
}

/* Behind the last item of a leaf is the first of the next one. */
static struct place place_forward(const struct retained *retained, struct place place)
{
    if (place.leaf < retained->leaf_count && place.item == leaf_at(retained, place.leaf)->count)
        return (struct place){ place.leaf + 1, 0 };
    return place;
}

static struct place place_seek(const struct retained *retained, const struct key *key)
{
    return place_forward(retained, place_for(retained, key));
}

static struct place place_next(const struct retained *retained, struct place place)
{
    place.item++;
    return place_forward(retained, place);
}

static bool place_ends(const struct retained *retained, struct place place)
{
    return place.leaf >= retained->leaf_count;
}

/* ---- Changes ---- */

static uint32_t topic_find(const struct retained *retained, const char *topic, size_t len)
{
    struct ref_probe probe = ref_table_probe(&retained->topics, ref_table_hash(topic, len, 0));
    uint32_t ref;
    while ((ref = ref_probe_next(&retained->topics, &probe))) {
        const struct publication *publication = *item_at(retained, ref);
        if (publication->topic_len == len &&
            memcmp(publication_topic(publication), topic, len) == 0)
            break;
    }
    return ref;
}

static void leaf_add(struct leaf *leaf, size_t at, uint32_t item)
{
    memmove(leaf->items + at + 1, leaf->items + at, (leaf->count - at) * sizeof *leaf->items);
    leaf->items[at] = item;
    leaf->count++;
}

/* Adds an empty leaf. Returns -ENOMEM without a change. */
static int leaves_add(struct retained *retained, size_t at)
{
    if (retained->leaf_count == retained->leaf_capacity) {
        const size_t capacity = retained->leaf_capacity ? retained->leaf_capacity * 2 : 8;
        uint32_t *leaves = realloc(retained->leaves, capacity * sizeof *leaves);
        if (!leaves)
            return -ENOMEM;
        retained->leaves = leaves;
        retained->leaf_capacity = capacity;
    }
    const uint32_t ref = pool_alloc(&retained->pool, sizeof(struct leaf));
    if (!ref)
        return -ENOMEM;
    memmove(retained->leaves + at + 1, retained->leaves + at,
            (retained->leaf_count - at) * sizeof *retained->leaves);
    retained->leaves[at] = ref;
    retained->leaf_count++;
    leaf_at(retained, at)->count = 0;
    return 0;
}

static void leaves_remove(struct retained *retained, size_t at)
{
    pool_free(&retained->pool, retained->leaves[at]);
    retained->leaf_count--;
    memmove(retained->leaves + at, retained->leaves + at + 1,
            (retained->leaf_count - at) * sizeof *retained->leaves);
}

static int order_add(struct retained *retained, const struct publication *publication,
                     uint32_t item)
{
    const struct key key = topic_key(publication);
    struct place place = place_for(retained, &key);
    if (retained->leaf_count == 0 && leaves_add(retained, 0) < 0)
        return -ENOMEM;

    struct leaf *leaf = leaf_at(retained, place.leaf);
    if (leaf->count == LEAF_ITEMS && place.item == LEAF_ITEMS &&
        place.leaf + 1 < retained->leaf_count) {
        place = (struct place){ place.leaf + 1, 0 };
        leaf = leaf_at(retained, place.leaf);
    }
    if (leaf->count == LEAF_ITEMS) {
        if (leaves_add(retained, place.leaf + 1) < 0)
            return -ENOMEM;
        /* Topics that come in order fill their leaves; others leave halves. */
        struct leaf *second = leaf_at(retained, place.leaf + 1);
        const uint32_t keep = place.item == LEAF_ITEMS ? LEAF_ITEMS : LEAF_ITEMS / 2;
        second->count = leaf->count - keep;
        memcpy(second->items, leaf->items + keep, second->count * sizeof *second->items);
        leaf->count = keep;
        if (place.item > keep || keep == LEAF_ITEMS) {
            place.item -= keep;
            leaf = second;
        }
    }
    leaf_add(leaf, place.item, item);
    return 0;
}

/* Makes one leaf of two neighbours with little in them. */
static void leaves_merge(struct retained *retained, size_t first)
{
    if (first + 1 >= retained->leaf_count)
        return;
    struct leaf *a = leaf_at(retained, first), *b = leaf_at(retained, first + 1);
    if (a->count + b->count > LEAF_ITEMS / 2)
        return;
    memcpy(a->items + a->count, b->items, b->count * sizeof *b->items);
    a->count += b->count;
    leaves_remove(retained, first + 1);
}

static void order_remove(struct retained *retained, struct place place)
{
    struct leaf *leaf = leaf_at(retained, place.leaf);
    leaf->count--;
    memmove(leaf->items + place.item, leaf->items + place.item + 1,
            (leaf->count - place.item) * sizeof *leaf->items);
    if (leaf->count == 0) {
        leaves_remove(retained, place.leaf);
        return;
    }
    leaves_merge(retained, place.leaf);
    if (place.leaf > 0)
        leaves_merge(retained, place.leaf - 1);
}

static void count_in(struct retained *retained, const struct publication *publication)
{
    retained->count++;
    retained->bytes += publication_size(publication);
    retained->expiring += publication->expires != 0;
}

static void count_out(struct retained *retained, const struct publication *publication)
{
    retained->count--;
    retained->bytes -= publication_size(publication);
    retained->expiring -= publication->expires != 0;
}

/* Sets `*old` to what the caller is to unref once the lock is free. */
static int set_locked(struct retained *retained, struct publication *publication,
                      struct publication **old)
{
    const char *topic = publication_topic(publication);
    uint32_t ref = topic_find(retained, topic, publication->topic_len);
    if (ref) {
        *old = *item_at(retained, ref);
        count_out(retained, *old);
    } else {
        if (ref_table_reserve(&retained->topics) < 0)
            return -ENOMEM;
        ref = pool_alloc(&retained->pool, sizeof(struct item));
        if (!ref)
            return -ENOMEM;
        if (order_add(retained, publication, ref) < 0) {
            pool_free(&retained->pool, ref);
            return -ENOMEM;
        }
        ref_table_add(&retained->topics, ref_table_hash(topic, publication->topic_len, 0), ref);
    }
    *item_at(retained, ref) = publication_ref(publication);
    count_in(retained, publication);
    return 0;
}

int retained_set(struct retained *retained, struct publication *publication)
{
    struct publication *old = NULL;
    pthread_rwlock_wrlock(&retained->lock);
    const int rc = set_locked(retained, publication, &old);
    pthread_rwlock_unlock(&retained->lock);
    publication_unref(old);
    return rc;
}

/* Takes the message of an item out; the reference becomes the caller's. */
static struct publication *item_remove(struct retained *retained, uint32_t ref)
{
    struct publication *publication = *item_at(retained, ref);
    const struct key key = topic_key(publication);
    order_remove(retained, place_seek(retained, &key));
    ref_table_remove(&retained->topics, ref_table_hash(key.first, key.first_len, 0), ref);
    pool_free(&retained->pool, ref);
    count_out(retained, publication);
    return publication;
}

bool retained_clear(struct retained *retained, const char *topic, size_t len)
{
    pthread_rwlock_wrlock(&retained->lock);
    const uint32_t ref = topic_find(retained, topic, len);
    struct publication *old = ref ? item_remove(retained, ref) : NULL;
    pthread_rwlock_unlock(&retained->lock);
    publication_unref(old);
    return old != NULL;
}

struct publication *retained_find(struct retained *retained, const char *topic, size_t len)
{
    pthread_rwlock_rdlock(&retained->lock);
    const uint32_t ref = topic_find(retained, topic, len);
    struct publication *found = ref ? publication_ref(*item_at(retained, ref)) : NULL;
    pthread_rwlock_unlock(&retained->lock);
    return found;
}

/* ---- Walks ---- */

static bool expired(const struct publication *publication, uint32_t now)
{
    return publication->expires && publication->expires <= now;
}

/* What a walk meets and drops after it, since it has only the lock for reading. */
struct dropped {
    struct publication *publications[BATCH];
    size_t count;
};

/* Drops the messages that are still there. */
static void drop(struct retained *retained, const struct dropped *dropped)
{
    if (dropped->count == 0)
        return;
    bool removed[BATCH];
    pthread_rwlock_wrlock(&retained->lock);
    for (size_t i = 0; i < dropped->count; i++) {
        const struct publication *publication = dropped->publications[i];
        const uint32_t ref =
            topic_find(retained, publication_topic(publication), publication->topic_len);
        removed[i] = ref && *item_at(retained, ref) == publication;
        if (removed[i])
            item_remove(retained, ref);
    }
    pthread_rwlock_unlock(&retained->lock);
    for (size_t i = 0; i < dropped->count; i++) {
        publication_unref(dropped->publications[i]);
        if (removed[i])
            publication_unref(dropped->publications[i]);
    }
}

int retained_cursor_init(struct retained_cursor *cursor, const char *filter, size_t len)
{
    *cursor = (struct retained_cursor){ .filter = malloc(len), .filter_len = len };
    if (!cursor->filter)
        return -ENOMEM;
    memcpy(cursor->filter, filter, len);
    return 0;
}

void retained_cursor_release(struct retained_cursor *cursor)
{
    free(cursor->filter);
    publication_unref(cursor->at);
    *cursor = (struct retained_cursor){ 0 };
}

static size_t level_len(const char *text, size_t len)
{
    const char *slash = memchr(text, '/', len);
    return slash ? (size_t)(slash - text) : len;
}

enum relation {
    MATCHES,
    STEP, /* no match; the next topic may be one */
    SEEK, /* no match before a certain key */
    END,  /* no match from here on */
};

/* Compares a topic with a filter, level by level. What comes next is known from the first level that differs
 * and, if the topic is already beyond the filter there, from the last '+' before: the next chance is behind all
 * topics that have the same level in its place. */
static enum relation relate(const char *filter, size_t filter_len, const char *topic,
                            size_t topic_len, struct key *seek)
{
    size_t plus_end = 0; /* where the topic's level for the last '+' ends */
    bool plus = false;
    size_t f = 0, t = 0;

    if (topic[0] == '$' && (filter[0] == '+' || filter[0] == '#')) {
        *seek = (struct key){ "%", 1, "", 0 }; /* the byte after '$' */
        return SEEK;
    }
    for (;;) {
        const size_t f_len = level_len(filter + f, filter_len - f);
        const size_t t_len = level_len(topic + t, topic_len - t);
        if (f_len == 1 && filter[f] == '#')
            return MATCHES;
        if (f_len == 1 && filter[f] == '+') {
            plus = true;
            plus_end = t + t_len;
        } else {
            int order = memcmp(topic + t, filter + f, t_len < f_len ? t_len : f_len);
            if (order == 0)
                order = t_len < f_len ? -1 : t_len > f_len;
            if (order < 0) {
                *seek = (struct key){ topic, t, filter + f, f_len };
                return SEEK;
            }
            if (order > 0)
                break;
        }
        f += f_len;
        t += t_len;
        if (f == filter_len && t == topic_len)
            return MATCHES;
        if (f == filter_len)
            break;
        if (t == topic_len) /* "a/#" also matches its parent "a" */
            return filter_len - f == 2 && filter[f + 1] == '#' ? MATCHES : STEP;
        f++;
        t++;
    }
    if (!plus)
        return END;
    *seek = (struct key){ topic, plus_end, "\x01", 1 };
    return SEEK;
}

/* Where a walk begins: at what the filter says before its first wildcard. */
static struct place first_place(const struct retained *retained, const char *filter, size_t len)
{
    size_t at = 0;
    while (at < len && filter[at] != '+' && filter[at] != '#')
        at++;
    if (at < len && at > 0)
        at--; /* the '/' before it: "a/#" begins with "a" */
    const struct key key = { filter, at, "", 0 };
    return place_seek(retained, &key);
}

/* As retained_scan(). Sets `*at` to a reference to where to go on. */
static bool scan_locked(const struct retained *retained, const struct retained_cursor *cursor,
                        uint32_t now, size_t max,
                        bool (*visit)(struct publication *publication, void *context),
                        void *context, struct publication **at, struct dropped *dropped)
{
    struct place place;
    if (cursor->at) {
        const struct key key = topic_key(cursor->at);
        place = place_seek(retained, &key);
    } else {
        place = first_place(retained, cursor->filter, cursor->filter_len);
    }
    for (; !place_ends(retained, place); max--) {
        struct publication *publication = place_publication(retained, place);
        struct key seek;
        const enum relation relation =
            relate(cursor->filter, cursor->filter_len, publication_topic(publication),
                   publication->topic_len, &seek);
        if (relation == END)
            return false;
        const bool is_expired = expired(publication, now);
        if (max == 0 || (relation == MATCHES && !is_expired && !visit(publication, context))) {
            *at = publication_ref(publication);
            return true;
        }
        if (is_expired && dropped->count < BATCH)
            dropped->publications[dropped->count++] = publication_ref(publication);

        place = place_next(retained, place);
        if (relation == SEEK && !place_ends(retained, place) &&
            topic_order(place_publication(retained, place), &seek) < 0)
            place = place_seek(retained, &seek);
    }
    return false;
}

/* A filter without wildcards: as scan_locked(). */
static bool look_up_locked(const struct retained *retained, const struct retained_cursor *cursor,
                           uint32_t now,
                           bool (*visit)(struct publication *publication, void *context),
                           void *context, struct dropped *dropped)
{
    const uint32_t ref = topic_find(retained, cursor->filter, cursor->filter_len);
    if (!ref)
        return false;
    struct publication *publication = *item_at(retained, ref);
    if (!expired(publication, now))
        return !visit(publication, context);
    dropped->publications[dropped->count++] = publication_ref(publication);
    return false;
}

bool retained_scan(struct retained *retained, struct retained_cursor *cursor, uint32_t now,
                   size_t max, bool (*visit)(struct publication *publication, void *context),
                   void *context)
{
    struct dropped dropped;
    dropped.count = 0;
    struct publication *at = NULL;
    const bool wild = memchr(cursor->filter, '+', cursor->filter_len) ||
                      memchr(cursor->filter, '#', cursor->filter_len);

    pthread_rwlock_rdlock(&retained->lock);
    const bool more = wild ? scan_locked(retained, cursor, now, max, visit, context, &at, &dropped)
                           : look_up_locked(retained, cursor, now, visit, context, &dropped);
    pthread_rwlock_unlock(&retained->lock);

    publication_unref(cursor->at);
    cursor->at = at;
    drop(retained, &dropped);
    return more;
}

/* Looks at up to `*max` messages and takes the expired ones out, as many as fit. Sets `*old` to another reference
 * to drop. Returns whether there is more to do. */
static bool sweep_locked(struct retained *retained, uint32_t now, size_t *max,
                         struct dropped *dropped, struct publication **old)
{
    if (!retained->expiring)
        return false;
    struct place place = place_forward(retained, (struct place){ 0, 0 });
    if (retained->sweep_at) {
        const struct key key = topic_key(retained->sweep_at);
        place = place_seek(retained, &key);
    }
    for (; !place_ends(retained, place) && *max > 0 && dropped->count < BATCH; --*max) {
        struct publication *publication = place_publication(retained, place);
        if (expired(publication, now)) {
            item_remove(retained, leaf_at(retained, place.leaf)->items[place.item]);
            dropped->publications[dropped->count++] = publication;
            const struct key key = topic_key(publication);
            place = place_seek(retained, &key);
        } else {
            place = place_next(retained, place);
        }
    }
    const bool ends = place_ends(retained, place);
    *old = retained->sweep_at;
    retained->sweep_at = ends ? NULL : publication_ref(place_publication(retained, place));
    return !ends && *max > 0;
}

size_t retained_sweep(struct retained *retained, uint32_t now, size_t max)
{
    size_t total = 0;
    for (bool more = true; more;) {
        struct dropped dropped;
        dropped.count = 0;
        struct publication *old = NULL;
        pthread_rwlock_wrlock(&retained->lock);
        more = sweep_locked(retained, now, &max, &dropped, &old);
        pthread_rwlock_unlock(&retained->lock);

        publication_unref(old);
        for (size_t i = 0; i < dropped.count; i++)
            publication_unref(dropped.publications[i]);
        total += dropped.count;
    }
    return total;
}

struct retained_stats retained_stats(struct retained *retained)
{
    pthread_rwlock_rdlock(&retained->lock);
    const struct retained_stats stats = {
        .count = retained->count,
        .bytes = retained->bytes,
        .overhead = sizeof *retained + retained->pool.bytes + ref_table_bytes(&retained->topics) +
                    retained->leaf_capacity * sizeof *retained->leaves,
    };
    pthread_rwlock_unlock(&retained->lock);
    return stats;
}
