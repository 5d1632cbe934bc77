/* SPDX-License-Identifier: MIT */

#include "mqtt/topic.h"
#include "mqtt/topic_tree.h"

#include "../suite.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *filter, *topic;
    bool want;
} match_rows[] = {
    /* The examples of MQTT 5.0 sections 4.7.1.2, 4.7.1.3 and 4.7.2. */
    { "sport/tennis/player1/#", "sport/tennis/player1", true },
    { "sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true },
    { "sport/#", "sport", true },
    { "sport/tennis/+", "sport/tennis/player1", true },
    { "sport/tennis/+", "sport/tennis/player1/ranking", false },
    { "sport/+", "sport", false },
    { "sport/+", "sport/", true },
    { "+/+", "/finance", true },
    { "/+", "/finance", true },
    { "+", "/finance", false },
    { "#", "$SYS/broker/uptime", false },
    { "+/monitor/Clients", "$SYS/monitor/Clients", false },
    { "$SYS/#", "$SYS/broker/uptime", true },
    { "$SYS/monitor/+", "$SYS/monitor/Clients", true },
    /* Ours. */
    { "#", "/", true },
    { "#", "a/b/c", true },
    { "+/#", "a", true },
    { "a/#", "ab", false },
    { "a/b", "a/b/c", false },
    { "a/b/c", "a/b", false },
    { "a/b", "a/B", false },
    { "a//b", "a//b", true },
    { "a/+/b", "a//b", true },
    { "a/b/", "a/b", false },
    { "a/b", "a/b/", false },
    { "a/$x/+", "a/$x/y", true },
    { "a/+", "a/$x", true },
    { "/", "/", true },
    { "/#", "/", true },
    { "/#", "", false },
};

static void filter_matches_as_the_specification_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(match_rows); i++) {
        const char *filter = match_rows[i].filter, *topic = match_rows[i].topic;
        if (*topic == '\0')
            continue;
        bool got = topic_filter_matches(filter, strlen(filter), topic, strlen(topic));
        CHECK(got == match_rows[i].want, "\"%s\" against \"%s\"", topic, filter);
    }
}

static void count_visit(void *value, void *context)
{
    (void)value;
    ++*(size_t *)context;
}

static void tree_agrees_with_the_filter_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(match_rows); i++) {
        const char *filter = match_rows[i].filter, *topic = match_rows[i].topic;
        if (*topic == '\0')
            continue;
        struct topic_tree *tree = topic_tree_new();
        assert_int_equal(topic_tree_add(tree, filter, strlen(filter), tree), 0);
        size_t count = 0;
        topic_tree_match(tree, topic, strlen(topic), count_visit, &count);
        CHECK(count == match_rows[i].want, "\"%s\" against \"%s\": %zu", topic, filter, count);
        topic_tree_free(tree);
    }
}

static void mark_visit(void *value, void *context)
{
    (void)context;
    ++*(int *)value;
}

/* Levels of few letters, so that random filters and topics meet often. */
static void random_text(char *out, bool filter)
{
    static const char *const levels[] = { "a", "b", "", "$x", "+" };
    size_t depth = (size_t)(rand() % 4) + 1;
    out[0] = '\0';
    for (size_t i = 0; i < depth; i++) {
        if (i > 0)
            strncat(out, "/", 2);
        if (filter && i + 1 == depth && rand() % 3 == 0)
            strncat(out, "#", 2);
        else
            strncat(out, levels[(size_t)rand() % (filter ? 5 : 4)], 3);
    }
    if (out[0] == '\0')
        strncat(out, "a", 2);
}

static void tree_of_many_filters_finds_each_that_matches_once(void **state)
{
    (void)state;
    enum {
        FILTERS = 200,
        TOPICS = 2000
    };
    static char filters[FILTERS][32];
    static int hits[FILTERS];
    srand(1);
    struct topic_tree *tree = topic_tree_new();
    for (size_t i = 0; i < FILTERS; i++) {
        random_text(filters[i], true);
        assert_int_equal(topic_tree_add(tree, filters[i], strlen(filters[i]), &hits[i]), 0);
    }
    for (size_t n = 0; n < TOPICS; n++) {
        char topic[32];
        random_text(topic, false);
        memset(hits, 0, sizeof(hits));
        topic_tree_match(tree, topic, strlen(topic), mark_visit, NULL);
        for (size_t i = 0; i < FILTERS; i++) {
            bool want = topic_filter_matches(filters[i], strlen(filters[i]), topic, strlen(topic));
            CHECK(hits[i] == want, "\"%s\" against \"%s\": %d", topic, filters[i], hits[i]);
        }
    }
    topic_tree_free(tree);
}

static void faults_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        bool name_ok, filter_ok;
    } rows[] = {
        { "", 0, false, false },                        /* [MQTT-4.7.3-1] */
        { "a\0b", 3, false, false },                    /* [MQTT-4.7.3-2] */
        { "sport/tennis#", 13, false, false },          /* [MQTT-4.7.1-1] */
        { "sport/tennis/#/ranking", 22, false, false }, /* [MQTT-4.7.1-1] */
        { "##", 2, false, false },                      /* [MQTT-4.7.1-1] */
        { "sport+", 6, false, false },                  /* [MQTT-4.7.1-2] */
        { "a/+b", 4, false, false },                    /* [MQTT-4.7.1-2] */
        { "a/b+/c", 6, false, false },                  /* [MQTT-4.7.1-2] */
        { "a/\xFF", 3, false, false },                  /* [MQTT-1.5.4-1] */
        { "a/\xED\xA0\x80", 5, false, false },          /* a surrogate */
        { "a/+/b", 5, false, true },
        { "a/#", 3, false, true },
        { "a/b", 3, true, true },
        { "/", 1, true, true },
        { "\xC3\xA4", 2, true, true },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        CHECK(!topic_name_fault(rows[i].text, rows[i].len) == rows[i].name_ok, "name, row %zu", i);
        CHECK(!topic_filter_fault(rows[i].text, rows[i].len) == rows[i].filter_ok,
              "filter, row %zu", i);
    }
}

static void topic_length_limit_is_65535_bytes(void **state)
{
    (void)state;
    char *text = malloc(65536);
    memset(text, 'a', 65536);
    CHECK(topic_filter_fault(text, 65536) != NULL, "%s", "one byte too long");
    CHECK(topic_filter_fault(text, 65535) == NULL, "%s", "just short enough");
    free(text);
}

TEST_SUITE("topic", cmocka_unit_test(filter_matches_as_the_specification_says),
           cmocka_unit_test(tree_agrees_with_the_filter_alone),
           cmocka_unit_test(tree_of_many_filters_finds_each_that_matches_once),
           cmocka_unit_test(faults_are_named), cmocka_unit_test(topic_length_limit_is_65535_bytes));
