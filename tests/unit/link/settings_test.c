/* SPDX-License-Identifier: MIT */

#include "link/links.h"

#include "../suite.h"

#include <errno.h>

static void ignore_messages(void *context, struct message *first, size_t n)
{
    (void)context;
    (void)first;
    (void)n;
}

static void ignore_loss(void *context, const char *link, uint64_t generation)
{
    (void)context;
    (void)link;
    (void)generation;
}

static const struct links_handler handler = { .messages = ignore_messages, .lost = ignore_loss };

struct made {
    struct conf *conf;
    struct links *links;
    struct conf_errors errors;
    int rc;
};

static void make(struct made *made, const char *node, const char *text)
{
    *made = (struct made){ .errors = CONF_ERRORS_INIT };
    assert_int_equal(conf_load_text("t.conf", text, &made->conf, &made->errors), 0);
    made->rc = links_new(made->conf, NULL, node, &handler, &made->links, &made->errors);
}

static void made_release(struct made *made)
{
    links_free(made->links);
    conf_unref(made->conf);
    conf_errors_release(&made->errors);
}

static void errors_name_the_place_and_what_to_write(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "links = ( { host = \"h\"; } );", "t.conf:1: links[0]: name is missing" },
        { "links = ( { name = \"a b\"; } );", "links[0].name: \"a b\" is no name for a link" },
        { "links = ( { name = \"\"; } );", "links[0].name: \"\" is no name" },
        { "links = { name = \"a\"; };", "t.conf:1: links: is not a list" },
        { "links = ( \"a\" );", "links[0]: is not a link" },
        { "links = ( { name = \"a\"; },\n { name = \"a\"; } );",
          "t.conf:2: links[1].name: there is a link \"a\" already" },
        { "links = ( { name = \"a\"; hots = \"h\"; } );", "hots" },
        { "links = ( { name = \"a\"; port = 65536; } );", "links[0].port" },
        { "links = ( { name = \"a\"; protocol = \"4\"; } );", "\"auto\", \"5\" or \"3.1.1\"" },
        { "links = ( { name = \"a\"; password = \"p\"; } );", "write username" },
        { "links = ( { name = \"a\"; client_id = \"\"; } );", "links[0].client_id: is empty" },
        { "links = ( { name = \"a\"; keepalive = \"1s\"; } );", "links[0].keepalive" },
        { "links = ( { name = \"a\"; reconnect_min = \"2m\"; } );", "longer than reconnect_max" },
        { "links = ( { name = \"a\"; tls = { cert = \"c\"; }; } );",
          "t.conf:1: links[0].tls.cert: has no key" },
        { "links = ( { name = \"a\"; tls = { key = \"c\"; }; } );",
          "links[0].tls.key: has no cert" },
        { "links = ( { name = \"a\"; tls = { psk = \"00\"; }; } );", "psk_identity" },
        { "links = ( { name = \"a\"; tls = { psk_identity = \"i\"; }; } );", "write psk" },
        { "links = ( { name = \"a\"; tls = { psk = \"0g\"; psk_identity = \"i\"; }; } );",
          "hexadecimal" },
        { "links = ( { name = \"a\"; tls = { psk = \"00\"; psk_identity = \"i\"; ca = \"c\"; }; } "
          ");",
          "cannot be combined" },
        { "links = ( { name = \"a\"; tls = { cipher = \"c\"; }; } );", "links[0].tls.cipher" },
        { "links = ( { name = \"a\"; host = \"/s\"; tls = {}; } );", "Unix socket" },
        { "links = ( { name = \"a\"; client_id = \"i\"; },\n { name = \"b\"; client_id = \"i\"; } "
          ");",
          "t.conf:2: links[1].client_id: link \"a\" has the same" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct made made;
        make(&made, "node", rows[i].text);
        CHECK(made.rc == -EINVAL && !made.links, "row %zu: %d", i, made.rc);
        CHECK(strstr(buf_str(&made.errors.text), rows[i].want), "row %zu: \"%s\" is not in %s", i,
              rows[i].want, buf_str(&made.errors.text));
        made_release(&made);
    }
}

static void secrets_are_not_in_errors(void **state)
{
    (void)state;
    struct made made;
    make(&made, "node",
         "links = ( { name = \"a\"; password = \"tell-nobody\"; "
         "tls = { psk = \"tell-nobody\"; psk_identity = \"i\"; }; } );");
    assert_int_equal(made.rc, -EINVAL);
    assert_null(strstr(buf_str(&made.errors.text), "tell-nobody"));
    made_release(&made);
}

static void a_node_must_fit_into_a_topic(void **state)
{
    (void)state;
    static const char *const rows[] = { "", "a/b", "a+", "#", "\xff" };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct made made;
        make(&made, rows[i], "links = ( { name = \"a\"; } );");
        CHECK(made.rc == -EINVAL, "\"%s\": %d", rows[i], made.rc);
        made_release(&made);
    }
}

static void links_are_made_in_the_order_of_the_file(void **state)
{
    (void)state;
    struct made made;
    make(&made, "node", "links = ( { name = \"b\"; }, { name = \"a\"; tls = {}; } );");
    assert_int_equal(made.rc, 0);
    assert_string_equal(links_name_at(made.links, 0), "b");
    assert_string_equal(links_name_at(made.links, 1), "a");
    assert_null(links_name_at(made.links, 2));

    const struct link_filter filter = { "x/#", 1 };
    assert_int_equal(links_set_filters(made.links, "a", &filter, 1), 0);
    struct link_stats stats;
    assert_true(links_stats(made.links, "a", &stats));
    assert_false(stats.connected);
    assert_false(links_stats(made.links, "c", &stats));

    struct tocsin_publication one = { .topic = "t" }, *list[] = { &one };
    links_publish(made.links, "a", list, 1, 1000);
    assert_int_equal(one.error, -EAGAIN);
    links_publish(made.links, "c", list, 1, 1000);
    assert_int_equal(one.error, -EINVAL);
    made_release(&made);
}

TEST_SUITE("link settings", cmocka_unit_test(errors_name_the_place_and_what_to_write),
           cmocka_unit_test(secrets_are_not_in_errors),
           cmocka_unit_test(a_node_must_fit_into_a_topic),
           cmocka_unit_test(links_are_made_in_the_order_of_the_file));
