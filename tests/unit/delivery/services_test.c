/* SPDX-License-Identifier: MIT */

/* Whole services: deliveries, retries, workers that hang, bounds, configuration, the end. */

#include "scripted_services.h"

#include "../../plugin/scripted.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>

static bool five_retried(const struct target_stats *stats)
{
    return stats->retried >= 5;
}

static void deliveries_reach_the_plugin_with_the_options_of_their_target(void **state)
{
    (void)state;
    struct services *services = make("s = { plugin = \"scripted\"; mood = 3; targets = { "
                                     "a = { word = \"one\"; path = \"/{topic}\"; }; b = { }; }; };",
                                     NULL);
    assert_string_equal(services_name_at(services, 0), "s");
    assert_null(services_name_at(services, 1));
    assert_string_equal(services_target_at(services, "s", 1, 1)->name, "b");
    assert_null(services_target_at(services, "s", 1, 2));
    assert_null(services_target(services, "s", 1, "c", 1));
    assert_null(services_target(services, "z", 1, "a", 1));
    struct target *a = target(services, "s", "a");
    assert_int_equal(a->format_count, 1);
    assert_int_equal(a->formats[0].clean, FORMAT_CLEAN_PATH);

    submit(a, "x", "early", 1); /* before the start: it waits */
    assert_int_equal(services_start(services), 0);
    await(&plugin.sent, 1, "sent");
    assert_string_equal(plugin.word, "one");
    assert_int_equal(plugin.mood, 3);
    submit(target(services, "s", "b"), "x", "2", 0);
    await(&plugin.sent, 2, "sent");
    assert_string_equal(plugin.word, "none");
    assert_string_equal(plugin.log[0], "a early");
    assert_string_equal(plugin.log[1], "b 2");
    assert_int_equal(services_free(services, 10 * 1000), 0);
    assert_int_equal(plugin.opened, 1);
    assert_int_equal(plugin.closed, 1);
    assert_int_equal(plugin.taken, 2);
}

static void what_fails_is_tried_again_in_order(void **state)
{
    (void)state;
    struct services *services = make("s = { plugin = \"scripted\"; " QUICK " };", NULL);
    struct target *t = target(services, "s", "default");
    set_failing("1", "", 2);
    submit(t, "x", "1", 1);
    submit(t, "x", "2", 1);
    submit(t, "y", "other", 1);
    services_start(services);
    await(&plugin.sent, 3, "sent");
    size_t at[2] = { 0 };
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(plugin.log[i], "default 1") == 0)
            at[0] = i;
        if (strcmp(plugin.log[i], "default 2") == 0)
            at[1] = i;
    }
    assert_true(at[0] < at[1]);
    await_stats(t, all_done, "done");
    struct target_stats stats;
    services_target_stats(t, &stats);
    assert_int_equal(stats.retried, 2);
    assert_int_equal(stats.sent, 3);
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

static struct {
    size_t count;
    char last[128];
} dead;

static bool on_dead(void *context, const struct delivery *d, const char *reason, unsigned attempts)
{
    (void)context;
    pthread_mutex_lock(&plugin.lock);
    dead.count++;
    snprintf(dead.last, sizeof(dead.last), "%s:%s %s %u %.60s", d->target->service, d->target->name,
             d->view.topic, attempts, reason);
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
    return true;
}

static void who_wants_it_is_told_of_a_delivery_that_was_in_vain(void **state)
{
    (void)state;
    dead.count = 0;
    scripted_host.dead = on_dead;
    struct services *services =
        make("s = { plugin = \"scripted\"; retry = { initial = \"1ms\"; max = \"1ms\"; "
             "max_attempts = 2; }; };",
             NULL);
    struct target *t = target(services, "s", "default");
    set_failing("*", "", 4);
    services_start(services);
    submit(t, "tocsin/n/event/dead", "of a dead letter", 1); /* would never end */
    await_stats(t, all_done, "done");
    submit(t, "x", "1", 1);
    await(&dead.count, 1, "dead");
    assert_string_equal(dead.last, "s:default x 2 host=nowhere: Connection refused");
    assert_int_equal(services_free(services, 10 * 1000), 0);
    assert_int_equal(dead.count, 1);
    scripted_host.dead = NULL;
}

static void order_holds_with_several_workers_and_random_failures(void **state)
{
    (void)state;
    enum {
        TOPICS = 16,
        EACH = 100
    };
    struct services *services =
        make("s = { plugin = \"scripted\"; workers = 4; " QUICK " };", NULL);
    struct target *t = target(services, "s", "default");
    services_start(services);
    set_failing("*", "", 100);
    for (int i = 0; i < TOPICS * EACH; i++) {
        char topic[8], text[16];
        snprintf(topic, sizeof(topic), "t%d", i % TOPICS);
        snprintf(text, sizeof(text), "%d.%d", i % TOPICS, i / TOPICS);
        submit(t, topic, text, 1);
    }
    await(&plugin.sent, TOPICS * EACH, "sent");
    int next[TOPICS] = { 0 };
    for (size_t i = 0; i < TOPICS * EACH; i++) {
        int topic, number;
        assert_int_equal(sscanf(plugin.log[i], "default %d.%d", &topic, &number), 2);
        CHECK(number == next[topic], "topic %d: %d, not %d", topic, number, next[topic]);
        next[topic]++;
    }
    assert_int_equal(services_free(services, 10 * 1000), 0);
    assert_true(plugin.opened > 1);
    assert_int_equal(plugin.closed, plugin.opened);
}

static void a_call_that_hangs_is_given_up_and_its_delivery_tried_again(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; deadline = \"100ms\"; " QUICK " }; "
             "other = { plugin = \"scripted\"; deadline = \"100ms\"; " QUICK " };",
             NULL);
    memcpy(plugin.hanging, "hang", sizeof("hang"));
    set_gate(true);
    services_start(services);
    struct target *t = target(services, "s", "default");
    submit(t, "x", "hang", 1);
    await(&plugin.blocked, 1, "blocked");
    struct target *other = target(services, "other", "default");
    submit(other, "x", "o", 1);
    await(&plugin.sent, 1, "sent by the other service");

    /* Each try hangs, until there are too many: then the service waits. While it does, another service goes
     * through the same, so there was time enough. */
    await_stats(t, five_retried, "retried");
    submit(t, "y", "later", 1);
    submit(other, "x", "hang", 1);
    await_stats(other, five_retried, "retried by the other service");
    assert_int_equal(now(&plugin.blocked), 10);
    struct target_stats stats;
    services_target_stats(t, &stats);
    assert_int_equal(stats.sent, 0);
    assert_int_equal(stats.waiting, 2);

    /* They come back; what they say does not count, and one of them starts a worker. */
    set_gate(false);
    await_stats(t, all_done, "done");
    await_stats(other, all_done, "done by the other service");
    services_target_stats(t, &stats);
    assert_int_equal(stats.sent, 2);
    assert_int_equal(services_free(services, 10 * 1000), 0);
    assert_int_equal(plugin.sent, 4);
    await(&plugin.read_after, 10 * strlen("hangx"), "read after it was given up");
    assert_int_equal(plugin.published, 0); /* they reach nobody any more */
    await(&plugin.closed, plugin.opened, "closed");
}

static void batches_of_a_slow_service_fit_into_the_deadline(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; deadline = \"400ms\"; " QUICK " };", NULL);
    struct target *t = target(services, "s", "default");
    plugin.slow_ms = 90; /* so eight take too long, and one does not */
    for (int i = 0; i < 8; i++)
        submit(t, "x", "1", 1);
    services_start(services);
    await_stats(t, all_done, "done");
    struct target_stats stats;
    services_target_stats(t, &stats);
    assert_int_equal(stats.sent, 8);
    assert_in_range(stats.retried, 8, 15); /* the first batch, and no other */
    assert_int_equal(services_free(services, 10 * 1000), 0);
    await(&plugin.closed, 2, "closed");
}

static void a_call_that_hangs_at_the_end_is_left_behind(void **state)
{
    (void)state;
    struct services *services = make("s = { plugin = \"scripted\"; " QUICK " };", NULL);
    memcpy(plugin.hanging, "hang", sizeof("hang"));
    set_gate(true);
    services_start(services);
    submit(target(services, "s", "default"), "x", "hang", 1);
    submit(target(services, "s", "default"), "x", "2", 1);
    await(&plugin.blocked, 1, "blocked");
    assert_int_equal(services_free(services, 1), 2);
    set_gate(false);
    await(&plugin.closed, 1, "closed");
    assert_int_equal(plugin.read_after, strlen("hangx"));
}

static void the_end_drains_what_can_be_sent(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; targets = { a = { }; down = { }; }; };", NULL);
    set_failing("", "down", 1000000);
    struct target *a = target(services, "s", "a"), *down = target(services, "s", "down");
    for (int i = 0; i < 500; i++) {
        submit(a, "x", "1", 1);
        submit(down, "x", "2", 1);
    }
    services_start(services);
    assert_int_equal(services_free(services, 200), 500);
    assert_int_equal(plugin.sent, 500);
}

static void a_stuck_target_is_bounded_and_its_neighbour_unaffected(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; " QUICK " queue = { max_messages = 1000; }; "
             "targets = { stuck = { }; fine = { queue = { max_messages = 200000; }; }; }; };",
             NULL);
    set_failing("", "stuck", SIZE_MAX);
    struct target *stuck = target(services, "s", "stuck"), *fine = target(services, "s", "fine");
    services_start(services);
    for (int i = 0; i < 100 * 1000; i++) {
        char topic[16];
        snprintf(topic, sizeof(topic), "t/%d", i % 50);
        submit(stuck, topic, "no", 0);
        if (i % 10 == 0)
            submit(fine, topic, "yes", 0);
    }
    await(&plugin.sent, 10 * 1000, "sent to the neighbour");
    struct target_stats stats;
    services_target_stats(stuck, &stats);
    assert_int_equal(stats.created, 100 * 1000);
    assert_true(stats.waiting <= 1000);
    assert_true(stats.dropped >= 99 * 1000);
    assert_true(stats.bytes < 1000 * 1000);
    services_target_stats(fine, &stats);
    assert_int_equal(stats.dropped, 0);
    set_failing("", "", 0);
    assert_int_equal(services_free(services, 30 * 1000), 0);
}

static void beyond_the_bound_messages_are_taken_over_only_when_there_is_room(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; " QUICK " queue = { max_messages = 10; }; };", NULL);
    struct target *t = target(services, "s", "default");
    for (int i = 0; i < 30; i++)
        submit(t, "x", "1", 1);
    assert_int_equal(plugin.taken, 10);
    struct target_stats stats;
    services_target_stats(t, &stats);
    assert_int_equal(stats.held, 20);
    services_forget_held(services, "garden", 5);
    services_forget_held(services, "home", 4);
    services_target_stats(t, &stats);
    assert_int_equal(stats.waiting, 30);
    services_forget_held(services, "home", 5);
    services_target_stats(t, &stats);
    assert_int_equal(stats.waiting, 10);
    assert_int_equal(stats.held, 0);
    for (int i = 0; i < 30; i++)
        submit(t, "x", "2", 1);
    services_start(services);
    await(&plugin.sent, 40, "sent");
    await(&plugin.taken, 60, "taken");
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

static void a_place_goes_to_a_message_that_holds_before_it_is_sent(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; " QUICK " queue = { max_messages = 1; }; };", NULL);
    set_failing("2", "", SIZE_MAX);
    submit(target(services, "s", "default"), "x", "1", 1);
    submit(target(services, "s", "default"), "y", "2", 1);
    assert_int_equal(plugin.taken, 1);
    services_start(services);
    await(&plugin.taken, 2, "taken");
    set_failing("", "", 0);
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

static void a_service_that_cannot_be_opened_is_tried_again(void **state)
{
    (void)state;
    struct services *services = make("s = { plugin = \"scripted\"; };", NULL);
    plugin.open_fails = 2;
    submit(target(services, "s", "default"), "x", "1", 1);
    services_start(services);
    await(&plugin.sent, 1, "sent");
    assert_int_equal(services_free(services, 10 * 1000), 0);
    assert_int_equal(plugin.opened, 1);
    assert_int_equal(plugin.closed, 1);
}

static void reopen_reaches_every_instance(void **state)
{
    (void)state;
    struct services *services = make("s = { plugin = \"scripted\"; workers = 2; };", NULL);
    services_start(services);
    struct target *t = target(services, "s", "default");
    for (char c = 'a'; c < 'z'; c++)
        submit(t, (char[]){ c, '\0' }, "1", 1);
    await(&plugin.opened, 2, "opened");
    await(&plugin.sent, 25, "sent");
    services_reopen(services);
    await(&plugin.reopened, 2, "reopened");
    services_free(services, 10 * 1000);
}

static void one_delivery_can_be_sent_without_any_thread(void **state)
{
    (void)state;
    struct services *services = make("s = { plugin = \"scripted\"; };", NULL);
    struct delivery *d = delivery(target(services, "s", "default"), "x", "1", 1);
    struct message *m = d->message;
    struct tocsin_delivery result;
    assert_int_equal(services_send_once(d, &result), 0);
    assert_int_equal(result.verdict, TOCSIN_SENT);
    set_failing("1", "", 1);
    assert_int_equal(services_send_once(d, &result), 0);
    assert_int_equal(result.verdict, TOCSIN_RETRY);
    assert_string_equal(result.reason, "host=nowhere: Connection refused");
    plugin.open_fails = 1;
    assert_int_equal(services_send_once(d, &result), -ECONNREFUSED);
    assert_int_equal(plugin.opened, 2);
    assert_int_equal(plugin.closed, 2);
    delivery_free(d);
    message_release_hold(m);
    message_unref(m);
    services_free(services, 0);
}

static void errors_say_where_and_what_to_write(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "s = 3;", "services.s: must be a group" },
        { "s = { };", "plugin is missing" },
        { "s = { plugin = 3; };", "services.s.plugin: must be a string" },
        { "s = { plugin = \"scriptd\"; };", "did you mean 'scripted'?" },
        { "s = { plugin = \"../scripted\"; };", "is not a plugin's name" },
        { "s = { plugin = \"oldabi\"; };", "it is made for plugin ABI 2, and this program has 1" },
        { "s = { plugin = \"misnamed\"; };", "it calls itself 'another'" },
        { "s = { plugin = \"badtable\"; };", "its option 'on' lies outside its struct" },
        { "s = { plugin = \"baddefault\"; };",
          "the default of 'port' 70000 is out of range, write 1 to 65535" },
        { "s = { plugin = \"shorttable\"; };", "another size" },
        { "s = { plugin = \"scripted\"; mod = 3; };",
          "services.s.mod: unknown option, did you mean" },
        { "s = { plugin = \"scripted\"; mood = 11; };", "services.s.mood: 11 is out of range" },
        { "s = { plugin = \"scripted\"; forbidden = \"x\"; };", "services.s: leave forbidden out" },
        { "s = { plugin = \"scripted\"; link = \"hom\"; };",
          "services.s.link: there is no link 'hom', did you mean 'home'?" },
        { "s = { plugin = \"scripted\"; workers = 0; };", "services.s.workers: 0 is out of range" },
        { "s = { plugin = \"scripted\"; deadline = 3; };", "services.s.deadline: has no unit" },
        { "s = { plugin = \"scripted\"; targets = 3; };", "services.s.targets: must be a group" },
        { "s = { plugin = \"scripted\"; targets = { }; };", "services.s.targets: is empty" },
        { "s = { plugin = \"scripted\"; targets = { a = { wrd = \"x\"; }; }; };",
          "services.s.targets.a.wrd: unknown option, did you mean 'word'?" },
        { "s = { plugin = \"scripted\"; targets = { a = { path = \"{x\"; }; }; };",
          "services.s.targets.a.path: " },
        { "s = { plugin = \"scripted\"; targets = { a = { forbidden = \"x\"; }; }; };",
          "services.s.targets.a: leave the target's out" },
        { "s = { plugin = \"scripted\"; retry = { intial = \"1s\"; }; };",
          "services.s.retry.intial: unknown option, did you mean 'initial'?" },
        { "s = { plugin = \"scripted\"; retry = { initial = \"1h\"; max = \"1s\"; }; };",
          "services.s.retry: max is less than initial" },
        { "s = { plugin = \"scripted\"; targets = { a = { queue = { max_bytes = 1; }; }; }; };",
          "services.s.targets.a.queue.max_bytes: " },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct buf all = BUF_INIT(65536);
        /* A second service that is wrong, too: all errors come at once. */
        buf_addf(&all, "services = { %s last = { plugin = \"scripted\"; x = 1; }; };",
                 rows[i].text);
        struct conf *conf;
        struct services *services;
        struct conf_errors errors = CONF_ERRORS_INIT;
        assert_int_equal(conf_load_text("t.conf", buf_str(&all), &conf, &errors), 0);
        int rc = services_new(conf, &scripted_host, NULL, &services, &errors);
        CHECK(rc == -EINVAL && !services, "%s: %d", rows[i].text, rc);
        CHECK(strstr(buf_str(&errors.text), rows[i].want), "%s: %s", rows[i].text,
              buf_str(&errors.text));
        CHECK(strstr(buf_str(&errors.text), "services.last.x"), "%s: %s", rows[i].text,
              buf_str(&errors.text));
        conf_unref(conf);
        conf_errors_release(&errors);
        buf_release(&all);
    }
}

static void a_targets_rules_are_the_services_but_for_its_own(void **state)
{
    (void)state;
    struct services *services = make(
        "s = { plugin = \"scripted\"; retry = { initial = \"1ms\"; max = \"2ms\"; "
        "max_attempts = 3; }; targets = { a = { }; b = { retry = { max_attempts = 5; }; }; }; };",
        NULL);
    log_set_level(TOCSIN_LOG_ERROR);
    set_failing("*", "", SIZE_MAX);
    services_start(services);
    struct target *a = target(services, "s", "a"), *b = target(services, "s", "b");
    submit(a, "x", "1", 1);
    submit(b, "x", "1", 1);
    await_stats(a, all_done, "done");
    await_stats(b, all_done, "done");
    struct target_stats stats;
    services_target_stats(a, &stats);
    assert_int_equal(stats.given_up, 1);
    assert_int_equal(stats.retried, 2);
    services_target_stats(b, &stats);
    assert_int_equal(stats.given_up, 1);
    assert_int_equal(stats.retried, 4);
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

static void plugins_of_a_folder_are_listed(void **state)
{
    (void)state;
    char **names = plugin_names(scripted_host.plugin_dir);
    static const char *const want[] = { "baddefault", "badtable", "misnamed",  "moody",
                                        "oldabi",     "scripted", "shorttable" };
    for (size_t i = 0; i < ROWS(want); i++)
        CHECK(names[i] && strcmp(names[i], want[i]) == 0, "%zu: %s", i, names[i]);
    assert_null(names[ROWS(want)]);
    plugin_names_free(names);
    names = plugin_names("/nowhere");
    assert_non_null(names);
    assert_null(names[0]);
    plugin_names_free(names);
}

/* clang-format off */
TEST_SUITE("services",
           TEST(deliveries_reach_the_plugin_with_the_options_of_their_target),
           TEST(what_fails_is_tried_again_in_order),
        TEST(who_wants_it_is_told_of_a_delivery_that_was_in_vain),
           TEST(order_holds_with_several_workers_and_random_failures),
           TEST(a_call_that_hangs_is_given_up_and_its_delivery_tried_again),
           TEST(batches_of_a_slow_service_fit_into_the_deadline),
           TEST(a_call_that_hangs_at_the_end_is_left_behind),
           TEST(the_end_drains_what_can_be_sent),
           TEST(a_stuck_target_is_bounded_and_its_neighbour_unaffected),
           TEST(beyond_the_bound_messages_are_taken_over_only_when_there_is_room),
           TEST(a_place_goes_to_a_message_that_holds_before_it_is_sent),
           TEST(a_service_that_cannot_be_opened_is_tried_again),
           TEST(reopen_reaches_every_instance),
           TEST(one_delivery_can_be_sent_without_any_thread),
           TEST(errors_say_where_and_what_to_write),
           TEST(a_targets_rules_are_the_services_but_for_its_own),
           TEST(plugins_of_a_folder_are_listed));
/* clang-format on */
