/* SPDX-License-Identifier: MIT */

#include "broker/aliases.h"

#include "../suite.h"

#include <stdio.h>

static void topic_of_an_alias_is_the_last_one_that_was_set(void **state)
{
    (void)state;
    struct aliases *aliases = NULL;
    size_t len = 0;
    assert_null(aliases_topic(NULL, 1, &len));
    static const struct {
        uint16_t alias;
        const char *topic;
    } rows[] = { { 3, "c" }, { 1, "a" }, { 65535, "last" }, { 3, "c again, longer" }, { 1, "" } };
    for (size_t i = 0; i < ROWS(rows); i++)
        assert_int_equal(
            aliases_learn(&aliases, rows[i].alias, rows[i].topic, strlen(rows[i].topic)), 0);
    for (size_t i = 2; i < ROWS(rows); i++) {
        const char *topic = aliases_topic(aliases, rows[i].alias, &len);
        CHECK(topic && len == strlen(rows[i].topic) && memcmp(topic, rows[i].topic, len) == 0,
              "alias %u is not %s", rows[i].alias, rows[i].topic);
    }
    assert_null(aliases_topic(aliases, 0, &len));
    assert_null(aliases_topic(aliases, 2, &len));
    assert_null(aliases_topic(aliases, 65534, &len));
    aliases_free(aliases);
}

static void aliases_are_given_as_far_as_the_client_allows(void **state)
{
    (void)state;
    struct aliases *aliases = NULL;
    bool known = true;
    assert_int_equal(aliases_give(&aliases, 2, "a", 1, &known), 1);
    assert_false(known);
    assert_int_equal(aliases_give(&aliases, 2, "b", 1, &known), 2);
    assert_false(known);
    assert_int_equal(aliases_give(&aliases, 2, "c", 1, &known), 0);
    assert_int_equal(aliases_give(&aliases, 2, "a", 1, &known), 1);
    assert_true(known);

    /* The packet that told it was not sent. */
    aliases_take_back(aliases, 1); /* not the newest: stays */
    aliases_take_back(aliases, 2);
    assert_int_equal(aliases_give(&aliases, 2, "c", 1, &known), 2);
    assert_false(known);
    assert_int_equal(aliases_give(&aliases, 2, "b", 1, &known), 0);

    /* Both ways are apart. */
    size_t len;
    assert_null(aliases_topic(aliases, 1, &len));
    assert_int_equal(aliases_learn(&aliases, 1, "x", 1), 0);
    assert_int_equal(aliases_give(&aliases, 2, "a", 1, &known), 1);
    assert_true(known);
    aliases_free(aliases);
}

static void aliases_of_a_client_that_allows_all_are_few(void **state)
{
    (void)state;
    struct aliases *aliases = NULL;
    char topic[16];
    int given = 0;
    for (int i = 0; i < 1000; i++) {
        bool known;
        snprintf(topic, sizeof(topic), "%d", i);
        given += aliases_give(&aliases, 65535, topic, strlen(topic), &known) > 0;
    }
    CHECK(given >= 10 && given <= 100, "%d", given);
    aliases_free(aliases);
}

TEST_SUITE("broker aliases", cmocka_unit_test(topic_of_an_alias_is_the_last_one_that_was_set),
           cmocka_unit_test(aliases_are_given_as_far_as_the_client_allows),
           cmocka_unit_test(aliases_of_a_client_that_allows_all_are_few));
