/* SPDX-License-Identifier: MIT */

/*
 * A filter's value in the tree is its first entry. The entries of a filter are a list; so are those of a
 * subscriber. All but the first of a filter are also in a hash table, by filter and subscriber, so that
 * neither list is ever searched, and the usual filter with one subscriber takes no place there.
 */

#include "broker/filters.h"

#include "broker/filter_tree.h"

#include <errno.h>
#include <stdlib.h>

struct entry {
    struct subscriber *subscriber;
    uint32_t node;
    uint32_t next, previous;         /* of the same filter */
    uint32_t own_next, own_previous; /* of the same subscriber */
    uint32_t id_and_options;         /* 28 bits and 4 */
};

struct filters {
    struct filter_tree tree;
    struct ref_table others; /* entries that are not the first of their filter */
    uint64_t generation;
    size_t filters, subscriptions;
    char *text; /* room for any filter that was added */
    size_t text_size;
};

static struct entry *entry_at(const struct filters *filters, uint32_t ref)
{
    return pool_at(&filters->tree.pool, ref);
}

static struct subscription entry_subscription(const struct entry *entry)
{
    return (struct subscription){
        .subscriber = entry->subscriber,
        .id = entry->id_and_options >> 4,
        .options = entry->id_and_options & SUBSCRIPTION_KEPT,
    };
}

static uint32_t entry_hash(const struct subscriber *subscriber, uint32_t node)
{
    return ref_table_hash(&subscriber, sizeof subscriber, node);
}

struct filters *filters_new(void)
{
    struct filters *filters = calloc(1, sizeof *filters);
    if (filters && filter_tree_init(&filters->tree) < 0) {
        filters_free(filters);
        return NULL;
    }
    return filters;
}

void filters_free(struct filters *filters)
{
    if (!filters)
        return;
    ref_table_release(&filters->others);
    filter_tree_release(&filters->tree);
    free(filters->text);
    free(filters);
}

static uint32_t entry_find(const struct filters *filters, uint32_t node,
                           const struct subscriber *subscriber)
{
    const uint32_t first = *filter_tree_value(&filters->tree, node);
    if (!first || entry_at(filters, first)->subscriber == subscriber)
        return first;
    struct ref_probe probe = ref_table_probe(&filters->others, entry_hash(subscriber, node));
    uint32_t ref;
    while ((ref = ref_probe_next(&filters->others, &probe))) {
        const struct entry *entry = entry_at(filters, ref);
        if (entry->node == node && entry->subscriber == subscriber)
            break;
    }
    return ref;
}

/* Adds to the filter's list behind its first. There is room in the table. */
static void filter_link(struct filters *filters, uint32_t ref)
{
    struct entry *entry = entry_at(filters, ref);
    uint32_t *value = filter_tree_value(&filters->tree, entry->node);
    if (!*value) {
        *value = ref;
        return;
    }
    struct entry *first = entry_at(filters, *value);
    entry->previous = *value;
    entry->next = first->next;
    if (first->next)
        entry_at(filters, first->next)->previous = ref;
    first->next = ref;
    ref_table_add(&filters->others, entry_hash(entry->subscriber, entry->node), ref);
}

static void filter_unlink(struct filters *filters, uint32_t ref)
{
    const struct entry *entry = entry_at(filters, ref);
    /* The table loses the entry, or the one that becomes the first in its place. */
    const uint32_t out = entry->previous ? ref : entry->next;
    if (out)
        ref_table_remove(&filters->others,
                         entry_hash(entry_at(filters, out)->subscriber, entry->node), out);
    if (entry->next)
        entry_at(filters, entry->next)->previous = entry->previous;
    if (entry->previous)
        entry_at(filters, entry->previous)->next = entry->next;
    else
        *filter_tree_value(&filters->tree, entry->node) = entry->next;
}

static void own_link(struct filters *filters, uint32_t ref)
{
    struct entry *entry = entry_at(filters, ref);
    entry->own_next = entry->subscriber->first;
    if (entry->own_next)
        entry_at(filters, entry->own_next)->own_previous = ref;
    entry->subscriber->first = ref;
    entry->subscriber->count++;
}

static void own_unlink(struct filters *filters, uint32_t ref)
{
    const struct entry *entry = entry_at(filters, ref);
    if (entry->own_next)
        entry_at(filters, entry->own_next)->own_previous = entry->own_previous;
    if (entry->own_previous)
        entry_at(filters, entry->own_previous)->own_next = entry->own_next;
    else
        entry->subscriber->first = entry->own_next;
    entry->subscriber->count--;
}

/* So that filters_drop() cannot fail. */
static int reserve_text(struct filters *filters, size_t len)
{
    if (len <= filters->text_size)
        return 0;
    char *text = realloc(filters->text, len);
    if (!text)
        return -ENOMEM;
    filters->text = text;
    filters->text_size = len;
    return 0;
}

int filters_add(struct filters *filters, const char *filter, size_t len,
                const struct subscription *subscription)
{
    if (reserve_text(filters, len) < 0 || ref_table_reserve(&filters->others) < 0)
        return -ENOMEM;
    const uint32_t node = filter_tree_add(&filters->tree, filter, len);
    if (!node)
        return -ENOMEM;

    const uint32_t id_and_options =
        subscription->id << 4 | (subscription->options & SUBSCRIPTION_KEPT);
    uint32_t ref = entry_find(filters, node, subscription->subscriber);
    if (ref) {
        entry_at(filters, ref)->id_and_options = id_and_options;
        filters->generation++;
        return FILTERS_REPLACED;
    }
    ref = pool_alloc(&filters->tree.pool, sizeof(struct entry));
    if (!ref) {
        filter_tree_prune(&filters->tree, node);
        return -ENOMEM;
    }
    *entry_at(filters, ref) = (struct entry){
        .subscriber = subscription->subscriber,
        .node = node,
        .id_and_options = id_and_options,
    };
    filter_link(filters, ref);
    own_link(filters, ref);
    filters->generation++;
    filters->subscriptions++;
    const bool first = *filter_tree_value(&filters->tree, node) == ref;
    filters->filters += first;
    return first ? FILTERS_FIRST : 0;
}

/* Returns whether it was the filter's last; its node is then to be pruned. */
static bool entry_remove(struct filters *filters, uint32_t ref)
{
    const uint32_t node = entry_at(filters, ref)->node;
    filter_unlink(filters, ref);
    own_unlink(filters, ref);
    pool_free(&filters->tree.pool, ref);
    filters->generation++;
    filters->subscriptions--;
    const bool last = !*filter_tree_value(&filters->tree, node);
    filters->filters -= last;
    return last;
}

int filters_remove(struct filters *filters, const char *filter, size_t len,
                   struct subscriber *subscriber)
{
    const uint32_t node = filter_tree_find(&filters->tree, filter, len);
    const uint32_t ref = node ? entry_find(filters, node, subscriber) : 0;
    if (!ref)
        return -ENOENT;
    if (!entry_remove(filters, ref))
        return 0;
    filter_tree_prune(&filters->tree, node);
    return FILTERS_LAST;
}

bool filters_find(const struct filters *filters, const char *filter, size_t len,
                  const struct subscriber *subscriber, struct subscription *out)
{
    const uint32_t node = filter_tree_find(&filters->tree, filter, len);
    const uint32_t ref = node ? entry_find(filters, node, subscriber) : 0;
    if (out)
        *out = ref ? entry_subscription(entry_at(filters, ref)) : (struct subscription){ 0 };
    return ref != 0;
}

bool filters_drop(struct filters *filters, struct subscriber *subscriber, size_t max,
                  void (*last)(const char *filter, size_t len, void *context), void *context)
{
    for (; subscriber->first && max > 0; max--) {
        const uint32_t node = entry_at(filters, subscriber->first)->node;
        if (!entry_remove(filters, subscriber->first))
            continue;
        if (last) {
            const char *end = filters->text + filters->text_size;
            const char *text =
                filter_tree_text(&filters->tree, node, filters->text, filters->text_size);
            last(text, (size_t)(end - text), context);
        }
        filter_tree_prune(&filters->tree, node);
    }
    return !subscriber->first;
}

void filters_list(struct filters *filters, const struct subscriber *subscriber,
                  void (*each)(const char *filter, size_t len,
                               const struct subscription *subscription, void *context),
                  void *context)
{
    const char *end = filters->text + filters->text_size;
    for (uint32_t ref = subscriber->first; ref; ref = entry_at(filters, ref)->own_next) {
        const struct entry *entry = entry_at(filters, ref);
        const char *text =
            filter_tree_text(&filters->tree, entry->node, filters->text, filters->text_size);
        const struct subscription subscription = entry_subscription(entry);
        each(text, (size_t)(end - text), &subscription, context);
    }
}

struct match {
    const struct filters *filters;
    void (*visit)(const struct subscription *subscription, void *context);
    void *context;
};

static void visit_entries(uint32_t ref, void *context)
{
    const struct match *match = context;
    for (; ref; ref = entry_at(match->filters, ref)->next) {
        const struct subscription subscription = entry_subscription(entry_at(match->filters, ref));
        match->visit(&subscription, match->context);
    }
}

void filters_match(const struct filters *filters, const char *topic, size_t len,
                   void (*visit)(const struct subscription *subscription, void *context),
                   void *context)
{
    struct match match = { filters, visit, context };
    filter_tree_match(&filters->tree, topic, len, visit_entries, &match);
}

uint64_t filters_generation(const struct filters *filters)
{
    return filters->generation;
}

struct filters_stats filters_stats(const struct filters *filters)
{
    return (struct filters_stats){
        .filters = filters->filters,
        .subscriptions = filters->subscriptions,
        .bytes = sizeof *filters + filters->text_size + filter_tree_bytes(&filters->tree) +
                 ref_table_bytes(&filters->others),
    };
}
