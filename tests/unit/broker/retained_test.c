/* SPDX-License-Identifier: MIT */

#include "broker/retained.h"
#include "mqtt/topic.h"

#include "../suite.h"
#include "random_topic.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static struct publication *set(struct retained *retained, const char *topic, const char *payload,
                               uint32_t expires)
{
    struct publication *publication =
        publication_new(topic, strlen(topic), NULL, 0, payload, strlen(payload));
    assert_non_null(publication);
    publication->expires = expires;
    assert_int_equal(retained_set(retained, publication), 0);
    publication_unref(publication);
    return publication; /* the caller knows that it is retained */
}

static bool clear(struct retained *retained, const char *topic)
{
    return retained_clear(retained, topic, strlen(topic));
}

struct list {
    char text[1024];
    size_t room; /* publications that are still accepted */
};

static bool list_one(struct publication *publication, void *context)
{
    struct list *list = context;
    if (list->room == 0)
        return false;
    list->room--;
    const size_t used = strlen(list->text);
    snprintf(list->text + used, sizeof list->text - used, "[%.*s=%.*s]", publication->topic_len,
             publication_topic(publication), (int)publication->payload_len,
             (const char *)publication_payload(publication));
    return true;
}

/* All that matches, with scans that look at up to `max` topics each. */
static const char *matching(struct retained *retained, const char *filter, uint32_t now, size_t max)
{
    static struct list list;
    list = (struct list){ .room = SIZE_MAX };
    struct retained_cursor cursor;
    assert_int_equal(retained_cursor_init(&cursor, filter, strlen(filter)), 0);
    while (retained_scan(retained, &cursor, now, max, list_one, &list))
        ;
    retained_cursor_release(&cursor);
    return list.text;
}

static void last_message_of_a_topic_is_kept(void **state)
{
    (void)state;
    struct retained *retained = retained_new();
    set(retained, "a", "1", 0);
    set(retained, "a/b", "22", 0);
    set(retained, "a", "333", 0);
    assert_string_equal(matching(retained, "a", 1, 9), "[a=333]");
    assert_string_equal(matching(retained, "a/b", 1, 9), "[a/b=22]");
    assert_string_equal(matching(retained, "b", 1, 9), "");
    struct retained_stats stats = retained_stats(retained);
    assert_int_equal(stats.count, 2);
    assert_int_equal(stats.bytes, 2 * sizeof(struct publication) + 1 + 3 + 3 + 2);
    assert_true(clear(retained, "a"));
    assert_false(clear(retained, "a"));
    assert_false(clear(retained, "a/"));
    assert_string_equal(matching(retained, "#", 1, 9), "[a/b=22]");
    assert_true(clear(retained, "a/b"));
    stats = retained_stats(retained);
    assert_int_equal(stats.count, 0);
    assert_int_equal(stats.bytes, 0);
    retained_free(retained);
}

static void filter_finds_what_it_matches(void **state)
{
    (void)state;
    static const char *const topics[] = { "a",   "a/b",    "a/b/c", "a/c",    "a!",    "ab",
                                          "/",   "/a",     "$SYS",  "$SYS/b", "b/b/c", "b/x/c",
                                          "a//", "a/\x01", "%",     "b" };
    static const struct {
        const char *filter, *found;
    } rows[] = {
        { "a/#", "[a=][a//=][a/\x01=][a/b=][a/b/c=][a/c=]" },
        { "a/b/#", "[a/b=][a/b/c=]" },
        { "a/b", "[a/b=]" },
        { "+", "[%=][a=][a!=][ab=][b=]" },
        { "+/b", "[a/b=]" },
        { "+/b/c", "[a/b/c=][b/b/c=]" },
        { "+/+/c", "[a/b/c=][b/b/c=][b/x/c=]" },
        { "b/+/c", "[b/b/c=][b/x/c=]" },
        { "/+", "[/=][/a=]" },
        { "+/", "[/=]" },
        { "$SYS/#", "[$SYS=][$SYS/b=]" },
        { "$SYS/+", "[$SYS/b=]" },
        { "a/+/", "[a//=]" },
        { "#",
          "[/=][/a=][%=][a=][a//=][a/\x01=][a/b=][a/b/c=][a/c=][a!=][ab=][b=][b/b/c=][b/x/c=]" },
        { "c/#", "" },
        { "a/b/c/d/#", "" },
        { "+/+/+/+", "" },
    };
    struct retained *retained = retained_new();
    for (size_t i = 0; i < ROWS(topics); i++)
        set(retained, topics[i], "", 0);
    for (size_t i = 0; i < ROWS(rows); i++) {
        for (size_t max = 1; max < 4; max++) {
            const char *found = matching(retained, rows[i].filter, 1, max);
            CHECK(strcmp(found, rows[i].found) == 0, "%s finds %s", rows[i].filter, found);
        }
    }
    retained_free(retained);
}

static void walk_goes_on_where_it_stopped_whatever_changes(void **state)
{
    (void)state;
    struct retained *retained = retained_new();
    struct retained_cursor cursor;
    set(retained, "a", "", 0);
    set(retained, "b", "", 0);
    set(retained, "c", "", 0);
    set(retained, "e", "", 0);
    assert_int_equal(retained_cursor_init(&cursor, "#", 1), 0);
    struct list list = { .room = 2 };
    assert_true(retained_scan(retained, &cursor, 1, 9, list_one, &list));
    assert_string_equal(list.text, "[a=][b=]");
    clear(retained, "c"); /* the next one */
    set(retained, "d", "new", 0);
    set(retained, "a", "again", 0);
    clear(retained, "e");
    set(retained, "e", "other", 0);
    assert_true(retained_scan(retained, &cursor, 1, 9, list_one, &list));
    list.room = 1;
    assert_true(retained_scan(retained, &cursor, 1, 9, list_one, &list));
    assert_string_equal(list.text, "[a=][b=][d=new]");
    list.room = 9;
    assert_false(retained_scan(retained, &cursor, 1, 9, list_one, &list));
    assert_string_equal(list.text, "[a=][b=][d=new][e=other]");
    retained_cursor_release(&cursor);
    retained_free(retained);
}

static bool count_one(struct publication *publication, void *context)
{
    (void)publication;
    ++*(size_t *)context;
    return true;
}

#define MANY 20000

static size_t scans_for(struct retained *retained, const char *filter, size_t max, size_t *found)
{
    struct retained_cursor cursor;
    assert_int_equal(retained_cursor_init(&cursor, filter, strlen(filter)), 0);
    size_t scans = 1;
    *found = 0;
    while (retained_scan(retained, &cursor, 1, max, count_one, found))
        scans++;
    retained_cursor_release(&cursor);
    return scans;
}

static void walk_looks_only_where_matches_can_be(void **state)
{
    (void)state;
    struct retained *retained = retained_new();
    char topic[64];
    for (int i = 0; i < MANY; i++) {
        snprintf(topic, sizeof topic, "load/%d/%d", i / 100, i % 100);
        set(retained, topic, "", 0);
    }
    static const struct {
        const char *filter;
        size_t found, looks;
    } rows[] = {
        { "#", MANY, MANY },
        { "load/7/#", 100, 100 },
        { "load/7/+", 100, 100 },
        { "load/7/8", 1, 1 },
        { "load/+/8", MANY / 100, MANY / 100 * 3 },
        { "load/+/888", 0, MANY / 100 * 3 },
        { "+/7/+", 100, 103 },
        { "+/+/+/x", 0, MANY },
        { "load/+", 0, MANY / 100 * 2 },
        { "x/#", 0, 1 },
        { "$SYS/#", 0, 1 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t found;
        const size_t scans = scans_for(retained, rows[i].filter, 1, &found);
        CHECK(found == rows[i].found, "%s finds %zu", rows[i].filter, found);
        CHECK(scans <= rows[i].looks, "%s looks at %zu", rows[i].filter, scans);
        assert_int_equal(scans_for(retained, rows[i].filter, 1000, &found),
                         rows[i].looks == MANY ? MANY / 1000 : 1);
    }
    retained_free(retained);
}

static void expired_messages_are_neither_found_nor_kept(void **state)
{
    (void)state;
    struct retained *retained = retained_new();
    char topic[32];
    for (int i = 0; i < 300; i++) {
        snprintf(topic, sizeof topic, "a/%d", i);
        set(retained, topic, "", i % 3 == 0 ? 10 : i % 3 == 1 ? 20 : 0);
    }
    size_t found;
    assert_int_equal(scans_for(retained, "#", 1000, &found), 1); /* at 1 */
    assert_int_equal(found, 300);
    assert_int_equal(retained_sweep(retained, 9, 1000), 0);

    /* By a walk: all that were met, as far as one batch holds. */
    assert_string_equal(matching(retained, "a/0", 10, 9), "");
    assert_int_equal(retained_stats(retained).count, 299);
    assert_string_equal(matching(retained, "+/3", 9, 9), "[a/3=]");
    assert_string_equal(matching(retained, "+/3", 10, 9), "");
    assert_true(retained_stats(retained).count < 299);

    /* By sweeps, in pieces, all the way round. */
    size_t dropped = 0, before = retained_stats(retained).count;
    for (int i = 0; i < 10; i++)
        dropped += retained_sweep(retained, 10, 50);
    assert_int_equal(retained_stats(retained).count, 200);
    assert_int_equal(dropped, before - 200);
    assert_int_equal(
        retained_sweep(retained, 20, SIZE_MAX) + retained_sweep(retained, 20, SIZE_MAX), 100);
    assert_int_equal(retained_stats(retained).count, 100);
    assert_int_equal(retained_sweep(retained, UINT32_MAX, SIZE_MAX), 0);
    set(retained, "a/2", "", 30); /* in place of one that never expired */
    set(retained, "a/5", "", 30);
    set(retained, "a/5", "", 0);
    assert_int_equal(retained_sweep(retained, 30, SIZE_MAX), 1);
    assert_int_equal(retained_stats(retained).count, 99);
    retained_free(retained);
}

static bool keep(struct publication *publication, void *context)
{
    *(struct publication **)context = publication_ref(publication);
    return true;
}

static void publication_lives_as_long_as_somebody_has_it(void **state)
{
    (void)state;
    struct retained *retained = retained_new();
    struct retained_cursor cursor;
    struct publication *kept = NULL;
    set(retained, "a", "x", 0);
    retained_cursor_init(&cursor, "a", 1);
    retained_scan(retained, &cursor, 1, 1, keep, &kept);
    retained_cursor_release(&cursor);
    assert_int_equal(atomic_load(&kept->refs), 2);
    set(retained, "a", "y", 0);
    assert_int_equal(atomic_load(&kept->refs), 1);
    publication_unref(kept);

    /* A walk that is given up holds the next one until it is released. */
    set(retained, "b", "", 0);
    struct list list = { .room = 1 };
    retained_cursor_init(&cursor, "+", 1);
    assert_true(retained_scan(retained, &cursor, 1, 9, list_one, &list));
    retained_free(retained);
    retained_cursor_release(&cursor);
    retained_cursor_release(&cursor);
}

/* Orders in which splitting leaves badly would make one for each message. */
static void memory_follows_the_number_of_messages(void **state)
{
    (void)state;
    static const char *const orders[] = { "up", "down", "between", "gap", "random" };
    for (unsigned order = 0; order < ROWS(orders); order++) {
        struct retained *retained = retained_new();
        char topic[64];
        uint64_t random = 1;
        for (unsigned i = 0; i < MANY; i++) {
            const unsigned at = order == 0   ? i
                                : order == 1 ? MANY - i
                                : order == 2 ? (i < MANY / 2 ? i * 2 : (MANY - i) * 2 + 1)
                                : order == 3 ? (i < 127 ? i : 2 * MANY - i)
                                             : random_below(&random, MANY * 100);
            snprintf(topic, sizeof topic, "load/%08u", at);
            set(retained, topic, "", 0);
        }
        const struct retained_stats stats = retained_stats(retained);
        CHECK(stats.overhead < stats.count * (order ? 40 : 25) + 150000, "%s: %zu bytes for %zu",
              orders[order], stats.overhead, stats.count);
        for (unsigned i = 0; i < (order < 4 ? MANY * 2 : MANY * 100); i++) {
            snprintf(topic, sizeof topic, "load/%08u", i);
            clear(retained, topic);
        }
        assert_int_equal(retained_stats(retained).count, 0);
        assert_true(retained_stats(retained).overhead < 200000);
        retained_free(retained);
    }
}

static void places_of_messages_that_went_are_used_again(void **state)
{
    (void)state;
    struct retained *retained = retained_new();
    char topic[64];
    for (unsigned i = 0; i < MANY * 10; i++) {
        snprintf(topic, sizeof topic, "load/%u", 10000000 + i);
        set(retained, topic, "", 0);
        snprintf(topic, sizeof topic, "load/%u", 10000000 + i - 1000);
        if (i >= 1000 && i % 50)
            clear(retained, topic);
    }
    const struct retained_stats stats = retained_stats(retained);
    CHECK(stats.overhead < 400000, "%zu bytes for %zu", stats.overhead, stats.count);
    retained_free(retained);
}

/* ---- Against a list ---- */

#define ROOM 500

struct model_row {
    char topic[RANDOM_TOPIC_SIZE];
    size_t len;
    struct publication *publication; /* with a reference; NULL when cleared */
    unsigned seen;
    bool stayed; /* since a walk began */
};

struct model {
    struct model_row rows[ROOM];
    size_t count;
    uint64_t random;
    unsigned wrong;
};

static struct model_row *model_find(struct model *model, const char *topic, size_t len)
{
    for (size_t i = 0; i < model->count; i++)
        if (model->rows[i].len == len && memcmp(model->rows[i].topic, topic, len) == 0)
            return &model->rows[i];
    if (model->count == ROOM)
        return &model->rows[random_below(&model->random, ROOM)];
    struct model_row *row = &model->rows[model->count++];
    *row = (struct model_row){ .len = len };
    memcpy(row->topic, topic, len);
    return row;
}

static bool model_expired(const struct publication *publication, uint32_t now)
{
    return publication && publication->expires && publication->expires <= now;
}

static void model_change(struct model *model, struct retained *retained, uint32_t now, unsigned run)
{
    char topic[RANDOM_TOPIC_SIZE];
    const size_t len = random_topic(&model->random, topic, 4, false);
    struct model_row *row = model_find(model, topic, len);
    struct publication *old = row->publication;
    row->stayed = false;
    row->publication = NULL;
    if (random_below(&model->random, 3) == 0) {
        const bool there = retained_clear(retained, row->topic, row->len);
        CHECK(there == (old != NULL) || model_expired(old, now), "run %u: clearing %.*s", run,
              (int)row->len, row->topic);
    } else {
        row->publication = publication_new(row->topic, row->len, NULL, 0, "x", 1);
        assert_non_null(row->publication);
        if (random_below(&model->random, 4) == 0)
            row->publication->expires = now + random_below(&model->random, 300);
        assert_int_equal(retained_set(retained, row->publication), 0);
    }
    publication_unref(old);
}

static bool model_see(struct publication *publication, void *context)
{
    struct model *model = context;
    if (random_below(&model->random, 8) == 0)
        return false;
    for (size_t i = 0; i < model->count; i++) {
        if (model->rows[i].publication == publication) {
            model->rows[i].seen++;
            return true;
        }
    }
    model->wrong++;
    return true;
}

/* One walk with changes in between: what was there all the time is seen once, the rest at most once. */
static void model_scan(struct model *model, struct retained *retained, uint32_t now, bool changes,
                       unsigned run)
{
    char filter[RANDOM_TOPIC_SIZE];
    const size_t len = random_topic(&model->random, filter, 4, true);
    for (size_t i = 0; i < model->count; i++) {
        model->rows[i].seen = 0;
        model->rows[i].stayed = true;
    }
    struct retained_cursor cursor;
    assert_int_equal(retained_cursor_init(&cursor, filter, len), 0);
    while (retained_scan(retained, &cursor, now, 1 + random_below(&model->random, 20), model_see,
                         model))
        if (changes && random_below(&model->random, 2))
            model_change(model, retained, now, run);
    retained_cursor_release(&cursor);

    CHECK(model->wrong == 0, "run %u: an unknown publication", run);
    for (size_t i = 0; i < model->count; i++) {
        const struct model_row *row = &model->rows[i];
        const bool matches = topic_filter_matches(filter, len, row->topic, row->len);
        const unsigned expected =
            matches && row->publication && !model_expired(row->publication, now);
        CHECK(row->stayed ? row->seen == expected : row->seen <= matches,
              "run %u: %.*s is visited %u times for %.*s", run, (int)row->len, row->topic,
              row->seen, (int)len, filter);
    }
}

static void model_count(const struct model *model, struct retained *retained, uint32_t now,
                        unsigned run)
{
    while (retained_sweep(retained, now, 100) > 0)
        ;
    retained_sweep(retained, now, SIZE_MAX);
    retained_sweep(retained, now, SIZE_MAX);
    size_t count = 0, bytes = 0;
    for (size_t i = 0; i < model->count; i++) {
        const struct publication *publication = model->rows[i].publication;
        if (publication && !model_expired(publication, now)) {
            count++;
            bytes += publication_size(publication);
        }
    }
    CHECK(retained_stats(retained).count == count, "run %u: %zu messages", run, count);
    CHECK(retained_stats(retained).bytes == bytes, "run %u: %zu bytes", run, bytes);
}

static void messages_agree_with_a_list_through_random_changes(void **state)
{
    (void)state;
    static struct model model;
    for (unsigned run = 1; run <= 30; run++) {
        struct retained *retained = retained_new();
        model.count = 0;
        model.random = run;
        for (uint32_t step = 1; step <= 2000; step++) {
            model_change(&model, retained, step, run);
            if (step % 16 == 0)
                model_scan(&model, retained, step, step % 32 == 0, run);
            if (step % 500 == 0)
                model_count(&model, retained, step, run);
        }
        retained_free(retained);
        for (size_t i = 0; i < model.count; i++) {
            CHECK(!model.rows[i].publication || atomic_load(&model.rows[i].publication->refs) == 1,
                  "run %u: references", run);
            publication_unref(model.rows[i].publication);
        }
    }
}

/* ---- Several threads ---- */

#define THREADS 4

struct shared {
    struct retained *retained;
    atomic_uint next;
};

static bool hold(struct publication *publication, void *context)
{
    struct publication **held = context;
    publication_unref(*held);
    *held = publication_ref(publication);
    return true;
}

static void *work(void *context)
{
    struct shared *shared = context;
    const unsigned worker = atomic_fetch_add(&shared->next, 1);
    struct publication *held = NULL;
    uint64_t random = worker;
    char topic[RANDOM_TOPIC_SIZE];
    for (uint32_t i = 1; i < 2000; i++) {
        size_t len = random_topic(&random, topic, 3, false);
        struct publication *publication = publication_new(topic, len, NULL, 0, topic, len);
        publication->expires = i % 3 ? 0 : i + 5;
        retained_set(shared->retained, publication);
        publication_unref(publication);
        len = random_topic(&random, topic, 3, false);
        retained_clear(shared->retained, topic, len);
        if (i % 10 == 0)
            retained_sweep(shared->retained, i, 20);
        len = random_topic(&random, topic, 3, true);
        struct retained_cursor cursor;
        retained_cursor_init(&cursor, topic, len);
        for (int step = 0; step < 3; step++)
            if (!retained_scan(shared->retained, &cursor, i, 5, hold, &held))
                break;
        retained_cursor_release(&cursor);
    }
    publication_unref(held);
    return NULL;
}

static void workers_share_it(void **state)
{
    (void)state;
    struct shared shared = { .retained = retained_new() };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, &shared), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    size_t found;
    scans_for(shared.retained, "#", SIZE_MAX, &found);
    assert_true(found <= retained_stats(shared.retained).count);
    retained_free(shared.retained);
}

TEST_SUITE("retained", cmocka_unit_test(last_message_of_a_topic_is_kept),
           cmocka_unit_test(filter_finds_what_it_matches),
           cmocka_unit_test(walk_goes_on_where_it_stopped_whatever_changes),
           cmocka_unit_test(walk_looks_only_where_matches_can_be),
           cmocka_unit_test(expired_messages_are_neither_found_nor_kept),
           cmocka_unit_test(publication_lives_as_long_as_somebody_has_it),
           cmocka_unit_test(memory_follows_the_number_of_messages),
           cmocka_unit_test(places_of_messages_that_went_are_used_again),
           cmocka_unit_test(messages_agree_with_a_list_through_random_changes),
           cmocka_unit_test(workers_share_it));
