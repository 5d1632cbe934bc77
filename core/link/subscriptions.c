/* SPDX-License-Identifier: MIT */

#include "link/subscriptions.h"

#include "base/buf.h"
#include "mqtt/filter_cover.h"
#include "mqtt/topic.h"
#include "mqtt/topic_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define ID_COUNT 268435455u /* identifiers are 1 to this; a run of them begins in the lower half */

struct subscriptions_own {
    char **texts; /* all that was allocated for filters */
    size_t text_count, text_room;
    struct topic_tree *tree;   /* of the filters with identifiers */
    struct subscription **ids; /* the same, by identifier */
    size_t id_count;
};

/* A filter while the plan is made. */
struct entry {
    const char *text;
    uint8_t qos;
    bool covered;
    size_t group; /* an entry that overlaps, towards the first of its group; itself if none */
};

struct plan {
    struct subscriptions *out;
    struct entry *entries;
    const char **sorted; /* their texts */
    size_t count;
    size_t at; /* the one being looked at */
};

static const char *keep(struct subscriptions_own *own, char *text)
{
    if (own->text_count == own->text_room) {
        size_t room = own->text_room ? own->text_room * 2 : 16;
        char **texts = realloc(own->texts, room * sizeof(*texts));
        if (!texts) {
            free(text);
            return NULL;
        }
        own->texts = texts;
        own->text_room = room;
    }
    if (text)
        own->texts[own->text_count++] = text;
    return text;
}

static int compare_entries(const void *a, const void *b)
{
    return filter_compare(((const struct entry *)a)->text, ((const struct entry *)b)->text);
}

/* Sorts, and leaves one of each text with the highest QoS. */
static void sort_entries(struct plan *plan)
{
    if (plan->count == 0)
        return;
    qsort(plan->entries, plan->count, sizeof(*plan->entries), compare_entries);
    size_t kept = 0;
    for (size_t i = 1; i < plan->count; i++) {
        struct entry *last = &plan->entries[kept], *next = &plan->entries[i];
        if (strcmp(last->text, next->text) != 0)
            plan->entries[++kept] = *next;
        else if (next->qos > last->qos)
            last->qos = next->qos;
    }
    plan->count = kept + 1;
    for (size_t i = 0; i < plan->count; i++)
        plan->sorted[i] = plan->entries[i].text;
}

static void note_cover(size_t index, void *context)
{
    struct plan *plan = context;
    struct entry *narrow = &plan->entries[plan->at], *wide = &plan->entries[index];
    narrow->covered = true;
    if (narrow->qos > wide->qos)
        wide->qos = narrow->qos;
}

static void drop_covered(struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        plan->entries[i].covered = false;
    for (plan->at = 0; plan->at < plan->count; plan->at++)
        filter_visit_covering(plan->sorted, plan->count, plan->entries[plan->at].text, note_cover,
                              plan);
    size_t kept = 0;
    for (size_t i = 0; i < plan->count; i++)
        if (!plan->entries[i].covered) {
            plan->entries[kept] = plan->entries[i];
            plan->sorted[kept] = plan->entries[kept].text;
            kept++;
        }
    plan->count = kept;
}

/* The first entry of the group, to which all are shortened on the way. */
static size_t group_of(struct plan *plan, size_t i)
{
    while (plan->entries[i].group != i) {
        plan->entries[i].group = plan->entries[plan->entries[i].group].group;
        i = plan->entries[i].group;
    }
    return i;
}

static void note_overlap(size_t index, void *context)
{
    struct plan *plan = context;
    size_t a = group_of(plan, plan->at), b = group_of(plan, index);
    if (a < b)
        plan->entries[b].group = a;
    else
        plan->entries[a].group = b;
}

/* Puts entries that overlap, directly or by others between them, into one group. */
static void group_overlaps(struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        plan->entries[i].group = i;
    for (plan->at = 0; plan->at < plan->count; plan->at++)
        /* One without wildcards overlaps only what covers it, and then it is gone. */
        if (filter_has_wildcard(plan->entries[plan->at].text))
            filter_visit_overlapping(plan->sorted, plan->count, plan->entries[plan->at].text,
                                     note_overlap, plan);
    for (size_t i = 0; i < plan->count; i++)
        plan->entries[i].group = group_of(plan, i);
}

/* Joins each group into one filter. Sets `*joined` if there was any of more than one. */
static int join_groups(struct plan *plan, bool *joined)
{
    *joined = false;
    for (size_t i = 0; i < plan->count; i++) {
        struct entry *entry = &plan->entries[i], *first = &plan->entries[entry->group];
        if (entry->group == i)
            continue;
        struct buf text = BUF_INIT(TOPIC_MAX_BYTES);
        filter_join(first->text, entry->text, &text);
        char *taken = buf_take(&text);
        first->text = taken ? keep(plan->out->own, taken) : NULL;
        if (!first->text)
            return -ENOMEM;
        if (entry->qos > first->qos)
            first->qos = entry->qos;
        *joined = true;
    }
    size_t kept = 0;
    for (size_t i = 0; i < plan->count; i++)
        if (plan->entries[i].group == i)
            plan->entries[kept++] = plan->entries[i];
    plan->count = kept;
    sort_entries(plan);
    return 0;
}

static int compare_ids(const void *a, const void *b)
{
    const struct subscription *x = *(struct subscription *const *)a,
                              *y = *(struct subscription *const *)b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int list_ids(struct subscriptions *s)
{
    topic_tree_free(s->own->tree);
    free(s->own->ids);
    s->own->id_count = 0;
    s->own->ids = calloc(s->count + 1, sizeof(struct subscription *));
    s->own->tree = topic_tree_new();
    if (!s->own->ids || !s->own->tree)
        return -ENOMEM;
    for (size_t i = 0; i < s->count; i++) {
        struct subscription *one = &s->list[i];
        if (one->id == 0)
            continue;
        s->own->ids[s->own->id_count++] = one;
        int rc = topic_tree_add(s->own->tree, one->filter, strlen(one->filter), one);
        if (rc < 0)
            return rc;
    }
    qsort(s->own->ids, s->own->id_count, sizeof(struct subscription *), compare_ids);
    return 0;
}

static bool ids_collide(const struct subscriptions *s)
{
    for (size_t i = 1; i < s->own->id_count; i++)
        if (s->own->ids[i - 1]->id == s->own->ids[i]->id)
            return true;
    return false;
}

/* What a group has in common, at the index of its first entry. */
struct group {
    uint64_t hash;
    uint32_t size;
    uint32_t given;
};

/* A group's identifiers are a run of numbers that begins where a hash of all its filters says. */
static void give_ids(struct plan *plan, struct group *groups, uint64_t salt)
{
    struct subscription *list = plan->out->list;
    for (size_t i = 0; i < plan->count; i++)
        groups[i] = (struct group){ .hash = salt };
    for (size_t i = 0; i < plan->count; i++) {
        struct group *group = &groups[plan->entries[i].group];
        /* The NUL too, so that two texts are not like one. */
        group->hash = XXH3_64bits_withSeed(list[i].filter, strlen(list[i].filter) + 1, group->hash);
        group->size++;
    }
    for (size_t i = 0; i < plan->count; i++) {
        struct group *group = &groups[plan->entries[i].group];
        if (group->size > 1)
            list[i].id = (uint32_t)(group->hash % (ID_COUNT / 2)) + ++group->given;
    }
}

static int give_different_ids(struct plan *plan)
{
    struct group *groups = calloc(plan->count + 1, sizeof(*groups));
    int rc = groups ? 0 : -ENOMEM;
    bool different = false;
    for (uint64_t salt = 0; rc == 0 && !different; salt++) {
        give_ids(plan, groups, salt);
        rc = list_ids(plan->out);
        different = rc == 0 && !ids_collide(plan->out);
    }
    free(groups);
    return rc;
}

static int make_plan(struct plan *plan, const struct link_filter *filters, size_t n,
                     bool identifiers)
{
    struct subscriptions *s = plan->out;
    for (size_t i = 0; i < n; i++) {
        char *text = strdup(filters[i].filter);
        const char *kept = text ? keep(s->own, text) : NULL;
        if (!kept)
            return -ENOMEM;
        plan->entries[plan->count++] = (struct entry){ .text = kept, .qos = filters[i].qos };
    }
    sort_entries(plan);
    drop_covered(plan);
    group_overlaps(plan);
    size_t before = plan->count;
    for (bool joined = !identifiers; joined;) {
        int rc = join_groups(plan, &joined);
        if (rc < 0)
            return rc;
        drop_covered(plan);
        group_overlaps(plan);
    }
    s->widened = before - plan->count;

    s->list = calloc(plan->count + 1, sizeof(*s->list));
    if (!s->list)
        return -ENOMEM;
    for (; s->count < plan->count; s->count++)
        s->list[s->count] = (struct subscription){ .filter = plan->entries[s->count].text,
                                                   .qos = plan->entries[s->count].qos };
    return identifiers ? give_different_ids(plan) : 0;
}

int subscriptions_new(const struct link_filter *filters, size_t n, bool identifiers,
                      struct subscriptions **out)
{
    *out = NULL;
    struct subscriptions *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    struct plan plan = { .out = s };
    plan.entries = calloc(n + 1, sizeof(*plan.entries));
    plan.sorted = calloc(n + 1, sizeof(*plan.sorted));
    s->own = calloc(1, sizeof(*s->own));
    int rc =
        plan.entries && plan.sorted && s->own ? make_plan(&plan, filters, n, identifiers) : -ENOMEM;
    free(plan.entries);
    free(plan.sorted);
    if (rc < 0)
        subscriptions_free(s);
    else
        *out = s;
    return rc;
}

void subscriptions_free(struct subscriptions *s)
{
    if (!s)
        return;
    if (s->own) {
        for (size_t i = 0; i < s->own->text_count; i++)
            free(s->own->texts[i]);
        free(s->own->texts);
        topic_tree_free(s->own->tree);
        free(s->own->ids);
        free(s->own);
    }
    free(s->list);
    free(s);
}

const struct subscription *subscriptions_find(const struct subscriptions *s, const char *filter)
{
    size_t lo = 0, hi = s->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = filter_compare(s->list[mid].filter, filter);
        if (order == 0)
            return &s->list[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static bool known_id(const struct subscriptions *s, uint32_t id)
{
    struct subscription key = { .id = id };
    struct subscription *of = &key;
    return s->own->id_count > 0 &&
           bsearch(&of, s->own->ids, s->own->id_count, sizeof(of), compare_ids);
}

static void note_smallest(void *value, void *context)
{
    const struct subscription *one = value;
    uint32_t *smallest = context;
    if (*smallest == 0 || one->id < *smallest)
        *smallest = one->id;
}

bool subscriptions_take(const struct subscriptions *s, const char *topic, size_t len,
                        const uint32_t *ids, size_t n)
{
    if (n == 0)
        return true;
    for (size_t i = 0; i < n; i++)
        if (!known_id(s, ids[i]))
            return true;
    uint32_t smallest = 0;
    topic_tree_match(s->own->tree, topic, len, note_smallest, &smallest);
    for (size_t i = 0; i < n; i++)
        if (ids[i] == smallest)
            return true;
    return smallest == 0;
}
