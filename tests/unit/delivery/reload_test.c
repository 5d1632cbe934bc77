/* SPDX-License-Identifier: MIT */

/* Services that follow others: what is taken over, handed on, or finished behind the new ones. */

#include "scripted_services.h"

#include <errno.h>
#include <stdio.h>

static void reload_keeps_what_has_not_changed(void **state)
{
    (void)state;
    struct services *old = make("a = { plugin = \"scripted\"; }; "
                                "b = { plugin = \"scripted\"; mood = 1; };"
                                "gone = { plugin = \"scripted\"; };",
                                NULL);
    services_start(old);
    struct target *a = target(old, "a", "default"), *b = target(old, "b", "default");
    submit(a, "x", "1", 1);
    submit(b, "x", "1", 1);
    submit(target(old, "gone", "default"), "x", "1", 1);
    await(&plugin.sent, 3, "sent");
    struct services *new = make("b = { plugin = \"scripted\"; mood = 2; };"
                                "a = { plugin = \"scripted\"; }; ",
                                old);
    services_start(new);
    assert_ptr_equal(target(new, "a", "default"), a);
    assert_ptr_not_equal(target(new, "b", "default"), b);
    assert_int_equal(services_free(old, 10 * 1000), 0);
    /* A service whose last call was not settled yet ends a little later. */
    await(&plugin.closed, 2, "closed");
    submit(target(new, "a", "default"), "x", "2", 1);
    submit(target(new, "b", "default"), "x", "2", 1);
    await(&plugin.sent, 5, "sent");
    assert_int_equal(plugin.opened, 4);
    assert_int_equal(plugin.mood, 2);

    /* A second look at the file that comes to nothing. */
    struct services *again = make("a = { plugin = \"scripted\"; };", new);
    assert_int_equal(services_free(again, 10 * 1000), 0);
    submit(target(new, "a", "default"), "x", "3", 1);
    await(&plugin.sent, 6, "sent");
    assert_int_equal(services_free(new, 10 * 1000), 0);
    assert_int_equal(plugin.closed, 4);
}

static bool fifty_wait(const struct target_stats *stats)
{
    return stats->waiting == 50;
}

static void reload_hands_on_what_is_queued(void **state)
{
    (void)state;
    struct services *old = make("s = { plugin = \"scripted\"; queue = { max_messages = 40; }; "
                                "targets = { a = { path = \"{topic}\"; }; b = { path = \"old\"; }; "
                                "c = { }; }; };",
                                NULL);
    set_failing("*", "", SIZE_MAX);
    services_start(old);
    for (int i = 0; i < 50; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", i);
        submit(target(old, "s", "a"), "x", text, 1);
        submit(target(old, "s", "b"), "x", text, 1);
        submit(target(old, "s", "c"), "x", text, 1);
    }
    await(&plugin.calls, 1, "calls");
    /* a stays, b's messages cannot be the same any more, c is gone. */
    struct services *new =
        make("s = { plugin = \"scripted\"; mood = 1; queue = { max_messages = 45; "
             "}; targets = { a = { path = \"{topic}\"; }; "
             "b = { path = \"new\"; }; }; };",
             old);
    assert_int_equal(now(&plugin.taken), 120);
    services_start(new);
    assert_int_equal(services_free(old, 1), 0);
    struct target_stats stats;
    /* What was in a call of the old service comes when that is over. */
    await_stats(target(new, "s", "a"), fifty_wait, "handed on");
    services_target_stats(target(new, "s", "a"), &stats);
    /* At most: what a worker had in its hands when the others came did not count. */
    assert_true(stats.held <= 5);
    const size_t total = 50 - (size_t)stats.held + 40 + 40;
    services_target_stats(target(new, "s", "b"), &stats);
    assert_int_equal(stats.waiting, 0);
    services_forget_held(new, "home", 5);
    await(&plugin.taken, 150, "taken"); /* what held in the old service, too */
    set_failing("", "", 0);
    await(&plugin.sent, total, "sent");
    int next[3] = { 0 };
    for (size_t i = 0; i < total; i++) {
        char name;
        int number;
        assert_int_equal(sscanf(plugin.log[i], "%c %d", &name, &number), 2);
        CHECK(number == next[name - 'a'], "%c: %d, not %d", name, number, next[name - 'a']);
        next[name - 'a']++;
    }
    await(&plugin.closed, 1, "closed by the service that has nothing left to do");
    assert_int_equal(services_free(new, 10 * 1000), 0);
}

static void what_a_retired_service_cannot_send_is_left_undone_at_the_end(void **state)
{
    (void)state;
    struct services *first = make("a = { plugin = \"scripted\"; };", NULL);
    set_failing("*", "", SIZE_MAX);
    services_start(first);
    for (int i = 0; i < 30; i++)
        submit(target(first, "a", "default"), "x", "1", 1);
    struct services *second = make("b = { plugin = \"scripted\"; };", first);
    services_start(second);
    assert_int_equal(services_free(first, 1), 0);
    struct services *third = make("", second);
    services_start(third);
    assert_int_equal(services_free(second, 1), 0);
    assert_int_equal(services_free(third, 1), 30);

    /* Back again: what waits finds its service. */
    first = make("a = { plugin = \"scripted\"; };", NULL);
    services_start(first);
    submit(target(first, "a", "default"), "x", "1", 1);
    second = make("", first);
    services_start(second);
    services_free(first, 1);
    third = make("a = { plugin = \"scripted\"; mood = 2; };", second);
    services_start(third);
    services_free(second, 1);
    struct target *t = target(third, "a", "default");
    set_failing("", "", 0);
    await(&plugin.sent, 1, "sent");
    await_stats(t, all_done, "done");
    assert_int_equal(services_free(third, 10 * 1000), 0);
}

static void reload_finds_that_a_link_is_gone(void **state)
{
    (void)state;
    static const char text[] = "services = { s = { plugin = \"scripted\"; link = \"garden\"; }; };";
    struct services *old = make("s = { plugin = \"scripted\"; link = \"garden\"; };", NULL);
    struct services_host without = scripted_host;
    without.link_count = 1;
    struct conf *conf;
    struct services *services;
    struct conf_errors errors = CONF_ERRORS_INIT;
    assert_int_equal(conf_load_text("t.conf", text, &conf, &errors), 0);
    assert_int_equal(services_new(conf, &without, old, &services, &errors), -EINVAL);
    assert_non_null(strstr(buf_str(&errors.text), "there is no link 'garden'"));
    conf_unref(conf);
    conf_errors_release(&errors);
    assert_int_equal(services_free(old, 0), 0);
}

/* clang-format off */
TEST_SUITE("services reload",
           TEST(reload_keeps_what_has_not_changed),
           TEST(reload_hands_on_what_is_queued),
           TEST(what_a_retired_service_cannot_send_is_left_undone_at_the_end),
           TEST(reload_finds_that_a_link_is_gone));
/* clang-format on */
