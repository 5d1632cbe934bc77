/* SPDX-License-Identifier: MIT */

#include "broker/settings.h"

#include "../suite.h"
#include "broker/broker.h"

/* What is wrong with it; empty if nothing is. */
static const char *errors_of(const char *text)
{
    static char out[4096];
    struct conf *conf = NULL;
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct broker *broker = NULL;
    assert_int_equal(conf_load_text("f", text, &conf, &errors), 0);
    int rc = broker_new(conf, &broker, &errors);
    CHECK((rc == 0) == (errors.count == 0) && (rc == 0) == (broker != NULL), "%s: %d", text, rc);
    strncpy(out, errors.count ? buf_str(&errors.text) : "", sizeof(out) - 1);
    broker_free(broker);
    conf_errors_release(&errors);
    conf_unref(conf);
    return out;
}

static void wrong_settings_are_told_with_line_and_remedy(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *parts[3]; /* of the errors */
    } rows[] = {
        { "broker = ( );", { "f:1: broker", "broker = { ... };" } },
        { "broker = {\n listeners = { port = 1; };\n};",
          { "f:2: broker.listeners", "( { port = 1883; } )" } },
        { "broker = {\n listeners = (\n 1883 );\n};",
          { "f:3: broker.listeners[0]", "{ port = 1883; }" } },
        { "broker = {\n max_inflight_mesages = 1;\n};",
          { "f:2: broker.max_inflight_mesages", "max_inflight_messages" } },
        { "broker = { workers = 49; };", { "f:1: broker.workers", "48" } },
        { "broker = { listeners = ( { port = 70000; } ); };",
          { "f:1: broker.listeners[0].port", "65535" } },
        { "broker = { listeners = ( {\n path = \"/s\";\n port = 1; } ); };",
          { "f:3: broker.listeners[0].port", "not both" } },
        { "broker = { listeners = ( { path = \"/s\"; mode = \"0999\"; } ); };",
          { "f:1: broker.listeners[0].mode", "\"0660\"" } },
        { "broker = { listeners = ( { mount_point = \"a/#\"; } ); };",
          { "f:1: broker.listeners[0].mount_point", "not the beginning of a topic" } },
        { "broker = {\n workers = -1;\n receive_maximum = 0;\n};",
          { "f:2: broker.workers", "f:3: broker.receive_maximum" } }, /* all at once */
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *errors = errors_of(rows[i].text);
        for (size_t j = 0; j < 3 && rows[i].parts[j]; j++)
            CHECK(strstr(errors, rows[i].parts[j]), "%s\nis not told \"%s\" but\n%s", rows[i].text,
                  rows[i].parts[j], errors);
    }
}

static void defaults_are_one_listener_for_this_host(void **state)
{
    (void)state;
    assert_string_equal(errors_of(""), "");
    assert_string_equal(errors_of("broker = { };"), "");
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct broker_settings settings;
    assert_int_equal(settings_read(NULL, &settings, &errors), 0);
    assert_int_equal(settings.listener_count, 1);
    assert_int_equal(settings.listeners[0].port, 1883);
    assert_string_equal(settings.listeners[0].bind, "127.0.0.1");
    assert_true(settings.workers >= 1 && settings.workers <= 48);
    assert_int_equal(settings.max_inflight_messages, 20);
    settings_release(&settings);
    conf_errors_release(&errors);
}

TEST_SUITE("broker settings", cmocka_unit_test(wrong_settings_are_told_with_line_and_remedy),
           cmocka_unit_test(defaults_are_one_listener_for_this_host));
