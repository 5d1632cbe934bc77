/* SPDX-License-Identifier: MIT */

#include "cli/client.h"

#include "../suite.h"

static const char *text(const char *value)
{
    return value ? value : "none";
}

static void a_url_is_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *url, *scheme, *username, *password, *host, *path;
        int port;
    } rows[] = {
        { "mqtt://h", "mqtt", "none", "none", "h", "", 0 },
        { "mqtts://h/t", "mqtts", "none", "none", "h", "t", 0 },
        { "mqtt://h:1/a/b/#", "mqtt", "none", "none", "h", "a/b/#", 1 },
        { "mqtt://u@h:65535", "mqtt", "u", "none", "h", "", 65535 },
        { "mqtt://u:p@h/t@x:y", "mqtt", "u", "p", "h", "t@x:y", 0 },
        { "mqtt://u:p:q@h", "mqtt", "u", "p:q", "h", "", 0 },
        { "mqtt://u:p@q@h", "mqtt", "u", "p@q", "h", "", 0 },
        { "mqtt://u%40x:%2F%3a%25@h//t", "mqtt", "u@x", "/:%", "h", "/t", 0 },
        { "mqtt://:@h", "mqtt", "", "", "h", "", 0 },
        { "mqtt://[::1]:1883/t", "mqtt", "none", "none", "::1", "t", 1883 },
        { "mqtt://u@[::1]", "mqtt", "u", "none", "::1", "", 0 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct client_url url;
        const char *fault = client_url_read(rows[i].url, &url);
        CHECK(!fault, "%s: %s", rows[i].url, fault);
        CHECK(strcmp(url.scheme, rows[i].scheme) == 0 &&
                  strcmp(text(url.username), rows[i].username) == 0 &&
                  strcmp(text(url.password), rows[i].password) == 0 &&
                  strcmp(url.host, rows[i].host) == 0 && strcmp(url.path, rows[i].path) == 0 &&
                  url.port == rows[i].port,
              "%s: %s %s %s %s %d %s", rows[i].url, url.scheme, text(url.username),
              text(url.password), url.host, url.port, url.path);
        client_url_release(&url);
    }
}

static void what_is_no_url_is_refused(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "",
        "h",
        "mqtt:/h",
        "mqtt://",
        "mqtt:///t",
        "mqtt://u@",
        "mqtt://h:",
        "mqtt://h:0",
        "mqtt://h:65536",
        "mqtt://h:1x",
        "mqtt://[::1",
        "mqtt://[::1]x",
        "mqtt://[]",
        "mqtt://%@h",
        "mqtt://u:%2@h",
        "mqtt://%00@h",
        "mqtt://u:%zz@h",
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct client_url url;
        CHECK(client_url_read(rows[i], &url), "%s", rows[i]);
        client_url_release(&url);
    }
}

TEST_SUITE("client url", cmocka_unit_test(a_url_is_taken_apart),
           cmocka_unit_test(what_is_no_url_is_refused));
