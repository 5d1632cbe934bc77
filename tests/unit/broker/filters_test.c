/* SPDX-License-Identifier: MIT */

#include "broker/filters.h"
#include "mqtt/topic.h"

#include "../suite.h"
#include "random_topic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int add(struct filters *filters, const char *filter, struct subscriber *subscriber,
               uint8_t options, uint32_t id)
{
    const struct subscription subscription = { subscriber, id, options };
    return filters_add(filters, filter, strlen(filter), &subscription);
}

static int take(struct filters *filters, const char *filter, struct subscriber *subscriber)
{
    return filters_remove(filters, filter, strlen(filter), subscriber);
}

struct seen {
    size_t count;
    uint32_t id_sum;
    struct subscription last;
};

static void see(const struct subscription *subscription, void *context)
{
    struct seen *seen = context;
    seen->count++;
    seen->id_sum += subscription->id;
    seen->last = *subscription;
}

static struct seen match(const struct filters *filters, const char *topic)
{
    struct seen seen = { 0 };
    filters_match(filters, topic, strlen(topic), see, &seen);
    return seen;
}

static void filter_matches_as_the_specification_says(void **state)
{
    (void)state;
    static const struct {
        const char *filter, *topic;
        bool matches;
    } rows[] = {
        { "a/b", "a/b", true },    { "a/b", "a", false },        { "a/b", "a/b/c", false },
        { "a/b", "a/bc", false },  { "a/#", "a", true },         { "a/#", "a/b/c", true },
        { "a/#", "ab", false },    { "a/b/c/#", "a/b/c", true }, { "a/b/c/#", "a/b", false },
        { "#", "a/b", true },      { "#", "$SYS/a", false },     { "+/a", "$SYS/a", false },
        { "+", "$SYS", false },    { "$SYS/#", "$SYS/a", true }, { "$SYS/+", "$SYS/$a", true },
        { "a/+", "a/$b", true },   { "+", "a", true },           { "+", "/a", false },
        { "+/+", "/a", true },     { "/+", "/a", true },         { "/", "/", true },
        { "+/", "/", true },       { "a/+", "a", false },        { "a/+", "a/", true },
        { "a/+/#", "a/", true },   { "+/+/#", "a/b/c/d", true }, { "a//b", "a//b", true },
        { "a/+/b", "a//b", true },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        /* Alone in its node, and in nodes that another filter has parted. */
        for (int parted = 0; parted < 3; parted++) {
            struct filters *filters = filters_new();
            struct subscriber one = { 0 }, other = { 0 };
            static const char *const others[] = { NULL, "a/b/x/y", "+/+/x" };
            if (parted)
                add(filters, others[parted], &other, 0, 0);
            assert_int_equal(add(filters, rows[i].filter, &one, 1, 7), FILTERS_FIRST);
            const struct seen seen = match(filters, rows[i].topic);
            CHECK(seen.count == rows[i].matches, "%s %s with %d: %zu visits", rows[i].filter,
                  rows[i].topic, parted, seen.count);
            filters_free(filters);
        }
    }
}

static void options_and_id_are_given_back(void **state)
{
    (void)state;
    struct filters *filters = filters_new();
    struct subscriber one = { 0 };
    assert_int_equal(add(filters, "a/b", &one, 0xff, 268435455), FILTERS_FIRST);
    struct seen seen = match(filters, "a/b");
    assert_int_equal(seen.last.options, SUBSCRIPTION_KEPT);
    assert_int_equal(seen.last.id, 268435455);
    assert_ptr_equal(seen.last.subscriber, &one);

    const uint64_t generation = filters_generation(filters);
    assert_int_equal(add(filters, "a/b", &one, SUBSCRIPTION_NO_LOCAL | 1, 0), FILTERS_REPLACED);
    assert_true(filters_generation(filters) != generation);
    seen = match(filters, "a/b");
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.last.options, SUBSCRIPTION_NO_LOCAL | 1);
    assert_int_equal(seen.last.id, 0);
    assert_int_equal(one.count, 1);

    struct subscription found;
    assert_true(filters_find(filters, "a/b", 3, &one, &found));
    assert_int_equal(found.options, SUBSCRIPTION_NO_LOCAL | 1);
    assert_false(filters_find(filters, "a", 1, &one, NULL));
    filters_free(filters);
}

static void first_and_last_subscriber_of_a_filter_are_reported(void **state)
{
    (void)state;
    struct filters *filters = filters_new();
    struct subscriber one = { 0 }, two = { 0 };
    assert_int_equal(add(filters, "a/b", &one, 0, 1), FILTERS_FIRST);
    assert_int_equal(add(filters, "a/b", &two, 0, 2), 0);
    assert_int_equal(add(filters, "a", &two, 0, 4), FILTERS_FIRST);
    assert_int_equal(match(filters, "a/b").id_sum, 3);
    assert_int_equal(match(filters, "a").id_sum, 4);
    assert_int_equal(take(filters, "a/b", &one), 0);
    assert_int_equal(take(filters, "a/b", &one), -ENOENT);
    assert_int_equal(take(filters, "a/b/c", &two), -ENOENT);
    assert_int_equal(take(filters, "a/b", &two), FILTERS_LAST);
    assert_int_equal(take(filters, "a", &two), FILTERS_LAST);
    assert_int_equal(filters_stats(filters).subscriptions, 0);
    assert_int_equal(filters_stats(filters).filters, 0);
    filters_free(filters);
}

struct listed {
    char text[256];
    uint32_t id_sum;
};

static void list_text(const char *filter, size_t len, void *context)
{
    struct listed *listed = context;
    const size_t used = strlen(listed->text);
    snprintf(listed->text + used, sizeof listed->text - used, "[%.*s]", (int)len, filter);
}

static void list(const char *filter, size_t len, const struct subscription *subscription,
                 void *context)
{
    list_text(filter, len, context);
    ((struct listed *)context)->id_sum += subscription->id;
}

static void subscriber_lists_and_drops_its_own(void **state)
{
    (void)state;
    struct filters *filters = filters_new();
    struct subscriber one = { 0 }, two = { 0 };
    static const char *const own[] = { "/", "a//b/#", "a//b", "+/x", "a//c", "x/y", "x/", "#" };
    for (uint32_t i = 0; i < ROWS(own); i++)
        add(filters, own[i], &one, 0, 1u << i);
    add(filters, "a//b", &two, 0, 0);

    struct listed listed = { 0 };
    filters_list(filters, &one, list, &listed);
    assert_string_equal(listed.text, "[#][x/][x/y][a//c][+/x][a//b][a//b/#][/]");
    assert_int_equal(listed.id_sum, 255);

    struct listed gone = { 0 };
    assert_false(filters_drop(filters, &one, 4, list_text, &gone));
    assert_int_equal(one.count, 4);
    assert_true(filters_drop(filters, &one, 4, list_text, &gone));
    assert_string_equal(gone.text, "[#][x/][x/y][a//c][+/x][a//b/#][/]");
    assert_int_equal(one.count, 0);
    assert_true(filters_drop(filters, &one, 4, NULL, NULL));
    assert_int_equal(match(filters, "a//b").count, 1);
    assert_true(filters_drop(filters, &two, 4, NULL, NULL));
    filters_free(filters);
}

#define MANY 100000

/* Quadratic behaviour anywhere would make this take minutes. */
static void filter_with_very_many_subscribers_works(void **state)
{
    (void)state;
    struct filters *filters = filters_new();
    struct subscriber *subscribers = calloc(MANY, sizeof *subscribers);
    assert_non_null(subscribers);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(add(filters, "a/b", &subscribers[i], 0, 1), i ? 0 : FILTERS_FIRST);
    assert_int_equal(match(filters, "a/b").count, MANY);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(add(filters, "a/b", &subscribers[i], 0, 2), FILTERS_REPLACED);
    assert_int_equal(match(filters, "a/b").id_sum, 2 * MANY);
    for (int i = 0; i < MANY; i += 2)
        assert_int_equal(take(filters, "a/b", &subscribers[i]), 0);
    for (int i = MANY - 1; i > 0; i -= 2)
        assert_true(filters_drop(filters, &subscribers[i], 1, NULL, NULL));
    assert_int_equal(filters_stats(filters).subscriptions, 0);
    CHECK(filters_stats(filters).bytes < 300000, "%zu bytes are left",
          filters_stats(filters).bytes);
    free(subscribers);
    filters_free(filters);
}

static void memory_goes_back_when_subscriptions_go(void **state)
{
    (void)state;
    struct filters *filters = filters_new();
    struct subscriber one = { 0 };
    char filter[64];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 20000; i++) { /* two that part behind the number */
            snprintf(filter, sizeof filter, "load/%d/%s", i / 2, i % 2 ? "+" : "temperature");
            add(filters, filter, &one, 0, 0);
        }
        assert_true(filters_stats(filters).bytes > 20000 * 60);
        assert_true(filters_stats(filters).bytes < 20000 * 120);
        for (int i = 0; round == 0 && i < 20000; i++) {
            snprintf(filter, sizeof filter, "load/%d/%s", i / 2, i % 2 ? "+" : "temperature");
            assert_int_equal(take(filters, filter, &one), FILTERS_LAST);
        }
        assert_true(filters_drop(filters, &one, SIZE_MAX, NULL, NULL));
        CHECK(filters_stats(filters).bytes < 400000, "%zu bytes are left",
              filters_stats(filters).bytes);
    }
    filters_free(filters);
}

static void topic_of_very_many_levels_works(void **state)
{
    (void)state;
    struct filters *filters = filters_new();
    struct subscriber one = { 0 };
    static char topic[TOPIC_MAX_BYTES], plus[TOPIC_MAX_BYTES], prefix[TOPIC_MAX_BYTES];
    memset(topic, '/', sizeof topic);
    for (size_t i = 0; i < sizeof plus; i++)
        plus[i] = i % 2 ? '/' : '+';
    const struct subscription subscription = { &one, 1, 0 };
    assert_int_equal(filters_add(filters, topic, sizeof topic, &subscription), FILTERS_FIRST);
    assert_int_equal(filters_add(filters, plus, sizeof plus, &subscription), FILTERS_FIRST);
    /* Each of these parts a node: "/", "//", ... and "+/a", "+/+/a", ... */
    for (size_t n = 1; n < 2000; n++) {
        assert_true(filters_add(filters, topic, n, &subscription) > 0);
        memcpy(prefix, plus, 2 * n);
        prefix[2 * n] = 'a';
        assert_int_equal(filters_add(filters, prefix, 2 * n + 1, &subscription), FILTERS_FIRST);
    }
    struct seen seen = { 0 };
    filters_match(filters, topic, sizeof topic, see, &seen);
    assert_int_equal(seen.count, 1);
    seen = (struct seen){ 0 };
    filters_match(filters, topic, sizeof plus / 2, see, &seen);
    assert_int_equal(seen.count, 1); /* 32,767 slashes make the 32,768 levels of `plus` */
    seen = (struct seen){ 0 };
    filters_match(filters, topic, 1000, see, &seen);
    assert_int_equal(seen.count, 1);
    assert_true(filters_drop(filters, &one, SIZE_MAX, NULL, NULL));
    filters_free(filters);
}

/* ---- Against a list that is searched from one end to the other ---- */

#define SUBSCRIBERS 12
#define ROOM        600

struct model_row {
    char filter[RANDOM_TOPIC_SIZE];
    size_t len;
    struct subscription subscription;
    unsigned seen;
};

struct model {
    struct model_row rows[ROOM];
    size_t count;
    unsigned unexpected;
};

static struct model_row *model_find(struct model *model, const char *filter, size_t len,
                                    const struct subscriber *subscriber, size_t *others)
{
    struct model_row *found = NULL;
    *others = 0;
    for (size_t i = 0; i < model->count; i++) {
        struct model_row *row = &model->rows[i];
        if (row->len != len || memcmp(row->filter, filter, len) != 0)
            continue;
        if (row->subscription.subscriber == subscriber)
            found = row;
        else
            ++*others;
    }
    return found;
}

static void model_see(const struct subscription *subscription, void *context)
{
    struct model *model = context;
    for (size_t i = 0; i < model->count; i++) {
        struct model_row *row = &model->rows[i];
        if (row->subscription.subscriber == subscription->subscriber &&
            row->subscription.id == subscription->id &&
            row->subscription.options == subscription->options) {
            row->seen++;
            return;
        }
    }
    model->unexpected++;
}

static void model_match(struct model *model, const struct filters *filters, uint64_t *random,
                        unsigned run)
{
    char topic[RANDOM_TOPIC_SIZE];
    const size_t len = random_topic(random, topic, 5, false);
    for (size_t i = 0; i < model->count; i++)
        model->rows[i].seen = 0;
    filters_match(filters, topic, len, model_see, model);
    CHECK(model->unexpected == 0, "run %u: an unknown subscription for %.*s", run, (int)len, topic);
    for (size_t i = 0; i < model->count; i++) {
        const struct model_row *row = &model->rows[i];
        const bool matches = topic_filter_matches(row->filter, row->len, topic, len);
        CHECK(row->seen == matches, "run %u: %.*s is visited %u times for %.*s", run, (int)row->len,
              row->filter, row->seen, (int)len, topic);
    }
}

struct dropped {
    struct model *model;
    const struct subscriber *subscriber;
    size_t last;
};

static void model_last(const char *filter, size_t len, void *context)
{
    struct dropped *dropped = context;
    size_t others;
    CHECK(model_find(dropped->model, filter, len, dropped->subscriber, &others) && others == 0,
          "%.*s is not the last one: %zu others", (int)len, filter, others);
    dropped->last++;
}

static void model_drop(struct model *model, struct filters *filters, struct subscriber *subscriber,
                       unsigned run)
{
    size_t expected = 0, others;
    for (size_t i = 0; i < model->count; i++) {
        const struct model_row *row = &model->rows[i];
        if (row->subscription.subscriber == subscriber &&
            model_find(model, row->filter, row->len, subscriber, &others) && others == 0)
            expected++;
    }
    struct dropped dropped = { model, subscriber, 0 };
    while (!filters_drop(filters, subscriber, 3, model_last, &dropped))
        ;
    CHECK(dropped.last == expected, "run %u: %zu of %zu last", run, dropped.last, expected);
    size_t kept = 0;
    for (size_t i = 0; i < model->count; i++)
        if (model->rows[i].subscription.subscriber != subscriber)
            model->rows[kept++] = model->rows[i];
    model->count = kept;
}

static void model_change(struct model *model, struct filters *filters,
                         struct subscriber *subscriber, uint64_t *random, uint32_t id, unsigned run)
{
    char filter[RANDOM_TOPIC_SIZE];
    size_t len = random_topic(random, filter, 5, true), others;
    const bool adds = model->count < ROOM && random_below(random, 8) < 5;
    if (!adds && model->count > 0) { /* mostly one that is there */
        const struct model_row *row = &model->rows[random_below(random, (uint32_t)model->count)];
        len = row->len;
        memcpy(filter, row->filter, len);
        if (random_below(random, 4))
            subscriber = row->subscription.subscriber;
    }
    struct model_row *row = model_find(model, filter, len, subscriber, &others);
    CHECK(filters_find(filters, filter, len, subscriber, NULL) == (row != NULL),
          "run %u: finding %.*s", run, (int)len, filter);
    if (!adds) {
        const int expected = !row ? -ENOENT : others ? 0 : FILTERS_LAST;
        const int rc = filters_remove(filters, filter, len, subscriber);
        CHECK(rc == expected, "run %u: removing %.*s gives %d", run, (int)len, filter, rc);
        if (row)
            *row = model->rows[--model->count];
        return;
    }
    const struct subscription subscription = { subscriber, id, id & SUBSCRIPTION_KEPT };
    const int expected = row ? FILTERS_REPLACED : others ? 0 : FILTERS_FIRST;
    const int rc = filters_add(filters, filter, len, &subscription);
    CHECK(rc == expected, "run %u: adding %.*s gives %d", run, (int)len, filter, rc);
    if (!row) {
        row = &model->rows[model->count++];
        row->len = len;
        memcpy(row->filter, filter, len);
    }
    row->subscription = subscription;
}

static void tree_agrees_with_a_list_through_random_changes(void **state)
{
    (void)state;
    static struct model model;
    for (unsigned run = 1; run <= 30; run++) {
        uint64_t random = run;
        struct filters *filters = filters_new();
        struct subscriber subscribers[SUBSCRIBERS] = { 0 };
        model.count = 0;
        for (uint32_t step = 1; step <= 3000; step++) {
            struct subscriber *subscriber = &subscribers[random_below(&random, SUBSCRIBERS)];
            if (random_below(&random, 300) == 0)
                model_drop(&model, filters, subscriber, run);
            else
                model_change(&model, filters, subscriber, &random, step, run);
            if (step % 8 == 0)
                model_match(&model, filters, &random, run);
            CHECK(filters_stats(filters).subscriptions == model.count, "run %u: count", run);
        }
        for (size_t i = 0; i < SUBSCRIBERS; i++)
            model_drop(&model, filters, &subscribers[i], run);
        assert_int_equal(filters_stats(filters).filters, 0);
        filters_free(filters);
    }
}

TEST_SUITE("filters", cmocka_unit_test(filter_matches_as_the_specification_says),
           cmocka_unit_test(options_and_id_are_given_back),
           cmocka_unit_test(first_and_last_subscriber_of_a_filter_are_reported),
           cmocka_unit_test(subscriber_lists_and_drops_its_own),
           cmocka_unit_test(filter_with_very_many_subscribers_works),
           cmocka_unit_test(memory_goes_back_when_subscriptions_go),
           cmocka_unit_test(topic_of_very_many_levels_works),
           cmocka_unit_test(tree_agrees_with_a_list_through_random_changes));
