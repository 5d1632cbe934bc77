/* SPDX-License-Identifier: MIT */

#include "router/route_topic.h"

#include "../suite.h"

#include <errno.h>

static void named_levels_become_wildcards(void **state)
{
    (void)state;
    static const struct {
        const char *text, *filter; /* NULL: it is refused */
        const char *topic;
        const char *levels; /* "name=text " for each */
    } rows[] = {
        { "a/b", "a/b", "a/b", "" },
        { "a/+/#", "a/+/#", "a/x/y/z", "" },
        { "{room}/celsius", "+/celsius", "attic/celsius", "room=attic " },
        { "clients/{device}/{ip}/celsius", "clients/+/+/celsius",
          "clients/arduino/10.0.0.1/celsius", "device=arduino ip=10.0.0.1 " },
        { "log/{rest#}", "log/#", "log/a/b/c", "rest=a/b/c " },
        { "log/{rest#}", "log/#", "log/", "rest= " },
        { "log/{rest#}", "log/#", "log", "rest= " },
        { "{a}/+/{b}/{c#}", "+/+/+/#", "1/2/3/4/5", "a=1 b=3 c=4/5 " },
        { "{all#}", "#", "x/y", "all=x/y " },
        { "{a}", "+", "", NULL },
        { "/{a}", "/+", "/x", "a=x " },
        { "{a}/{b}", "+/+", "/", "a= b= " },
        { "{a}/{a}", NULL, NULL, NULL },
        { "{topic}/x", NULL, NULL, NULL },
        { "{1a}/x", NULL, NULL, NULL },
        { "{}/x", NULL, NULL, NULL },
        { "x{a}/y", NULL, NULL, NULL },
        { "{a}y/z", NULL, NULL, NULL },
        { "{rest#}/x", NULL, NULL, NULL },
        { "a/#/b", NULL, NULL, NULL },
        { "", NULL, NULL, NULL },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct buf why = BUF_INIT(1024);
        struct route_topic topic;
        int rc = route_topic_init(&topic, rows[i].text, &why);
        if (!rows[i].filter) {
            CHECK(rc == -EINVAL && why.len > 0, "\"%s\": %d", rows[i].text, rc);
        } else {
            CHECK(rc == 0 && strcmp(topic.filter, rows[i].filter) == 0, "\"%s\": %d %s",
                  rows[i].text, rc, buf_str(&why));
        }
        if (rc == 0 && rows[i].levels) {
            struct field_level levels[8];
            route_topic_levels(&topic, rows[i].topic, strlen(rows[i].topic), levels);
            struct buf got = BUF_INIT(1024);
            for (size_t j = 0; j < topic.name_count; j++)
                buf_addf(&got, "%s=%.*s ", levels[j].name, (int)levels[j].len, levels[j].text);
            CHECK(strcmp(buf_str(&got), rows[i].levels) == 0, "\"%s\": %s", rows[i].text,
                  buf_str(&got));
            buf_release(&got);
        }
        route_topic_release(&topic);
        buf_release(&why);
    }
}

static void topic_with_more_levels_than_allowed_is_refused(void **state)
{
    (void)state;
    char text[2 * ROUTE_TOPIC_MAX_LEVELS + 2];
    for (size_t i = 0; i < sizeof(text) - 1; i += 2)
        memcpy(text + i, "a/", 2);
    text[sizeof(text) - 1] = '\0';
    struct buf why = BUF_INIT(1024);
    struct route_topic topic;
    assert_int_equal(route_topic_init(&topic, text, &why), -EINVAL);
    route_topic_release(&topic);
    text[2 * ROUTE_TOPIC_MAX_LEVELS - 1] = '\0';
    assert_int_equal(route_topic_init(&topic, text, &why), 0);
    route_topic_release(&topic);
    buf_release(&why);
}

TEST_SUITE("route topic", cmocka_unit_test(named_levels_become_wildcards),
           cmocka_unit_test(topic_with_more_levels_than_allowed_is_refused));
