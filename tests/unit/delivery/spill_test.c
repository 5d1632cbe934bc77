/* SPDX-License-Identifier: MIT */

/* Queues that go on on disk, with services that follow others: all is delivered, and nothing twice. */

#include "../store/temporary.h"
#include "scripted_services.h"

#include "delivery/keep.h"
#include "delivery/scan.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#define SMALL "queue = { max_messages = 20; }; breaker = { failures = 0; }; " QUICK

/* A store beside the services. */
static struct {
    struct temporary files;
    struct store *store;
    struct keeper *keeper;
} disk;

static void open_disk(void)
{
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(disk.files.path, &disk.store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    disk.keeper = keeper_new(disk.store);
    assert_non_null(disk.keeper);
    scripted_host.keeper = disk.keeper;
}

static void close_disk(void)
{
    store_close(disk.store, 10 * 1000);
    keeper_free(disk.keeper);
    scripted_host.keeper = NULL;
}

static int set_up_with_disk(void **state)
{
    set_up(state);
    temporary_init(&disk.files);
    open_disk();
    return 0;
}

static int tear_down_with_disk(void **state)
{
    close_disk();
    temporary_release(&disk.files);
    return tear_down(state);
}

#define DISK_TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up_with_disk, tear_down_with_disk)

static struct services *run(int mood, struct services *previous)
{
    char text[256];
    snprintf(text, sizeof(text), "s = { plugin = \"scripted\"; mood = %d; " SMALL "};", mood);
    struct services *services = make(text, previous);
    assert_int_equal(services_start(services), 0);
    return services;
}

/* Submits so many, numbered on from `*number`, to seven topics in turn, and some to one of their own. */
static void submit_some(struct services *to, int *number, int n)
{
    for (int i = 0; i < n; i++, ++*number) {
        char topic[16], text[16];
        const bool alone = *number % 50 == 2;
        snprintf(topic, sizeof(topic), alone ? "alone/%d" : "t/%d", alone ? *number : *number % 7);
        snprintf(text, sizeof(text), "%d", *number);
        submit(target(to, "s", "default"), topic, text, 1);
    }
}

static void check_each_came_once(int count)
{
    char *came = calloc((size_t)count, 1);
    for (size_t i = 0; i < plugin.sent; i++) {
        int number;
        assert_int_equal(sscanf(plugin.log[i], "%*s %d", &number), 1);
        CHECK(came[number]++ == 0, "%d came twice", number);
    }
    assert_int_equal(plugin.sent, count);
    free(came);
}

static bool nothing_waits(const struct target_stats *stats)
{
    return stats->waiting == 0;
}

/* The other one has some already, in its queue and on disk, when it takes over what the one before has on disk. */
static void what_is_taken_over_is_not_mixed_up_with_what_came_meanwhile(void **state)
{
    (void)state;
    int number = 0;
    set_failing("*", "", SIZE_MAX);
    struct services *services = run(0, NULL);
    for (int i = 1; i <= 4; i++) {
        submit_some(services, &number, 100);
        struct services *next = run(i, services);
        submit_some(next, &number, 100);
        submit_some(services, &number, 50); /* by a part of the router that is not as far */
        submit_some(next, &number, 50);
        assert_int_equal(services_free(services, 1), 0);
        services = next;
    }
    /* What was in a queue when others were handed on is still there when these are loaded. */
    set_failing("102", "", SIZE_MAX);
    await(&plugin.sent, (size_t)number - 1, "all but one");
    set_failing("", "", 0);
    await_stats(target(services, "s", "default"), nothing_waits, "done");
    assert_int_equal(services_free(services, 10 * 1000), 0);
    check_each_came_once(number);
}

/* The same where the other one cannot send it, since its text is another: each goes on with its own. */
static void what_cannot_be_taken_over_is_not_mixed_up_with_what_came_meanwhile(void **state)
{
    (void)state;
    static const char text[] =
        "s = { plugin = \"scripted\"; " SMALL " targets = { default = { path = \"%s\"; }; }; };";
    char before[256], after[256];
    snprintf(before, sizeof(before), text, "old");
    snprintf(after, sizeof(after), text, "new");
    int number = 0;
    set_failing("*", "", SIZE_MAX);
    struct services *old = make(before, NULL);
    assert_int_equal(services_start(old), 0);
    submit_some(old, &number, 100);
    struct services *new = make(after, old);
    assert_int_equal(services_start(new), 0);
    for (int i = 0; i < 4; i++) {
        submit_some(new, &number, 15);
        submit_some(old, &number, 15);
    }
    submit_some(new, &number, 100);
    assert_int_equal(services_free(old, 1), 0);
    set_failing("", "", 0);
    await_stats(target(new, "s", "default"), nothing_waits, "done");
    await(&plugin.sent, (size_t)number, "sent");
    await(&plugin.closed, 1, "closed by the service that has nothing left to do");
    assert_int_equal(services_free(new, 10 * 1000), 0);
    check_each_came_once(number);
}

/* Submits one with this text and a payload of so many bytes. */
static void submit_large(struct target *t, const char *topic, const char *text, size_t len,
                         int priority)
{
    char *payload = calloc(len, 1);
    struct message *m = message_new(topic, strlen(topic), payload, len, NULL);
    free(payload);
    m->qos = 1;
    m->link = scripted_links[0];
    struct delivery *d = delivery_new(&(struct delivery_parts){ .target = t,
                                                                .message = m,
                                                                .route = "r",
                                                                .text = text,
                                                                .text_len = strlen(text),
                                                                .priority = priority,
                                                                .has_priority = true });
    services_submit(d);
    message_release_hold(m);
    message_unref(m);
}

#define LARGE ((size_t)5 << 20)

static void large_urgent_ones_are_loaded_one_by_one_but_before_others(void **state)
{
    (void)state;
    static const char text[] =
        "s = { plugin = \"scripted\"; queue = { max_messages = 20; max_bytes "
        "= \"4MiB\"; }; breaker = { failures = 0; }; " QUICK "};";
    struct services *services = make(text, NULL);
    set_failing("*", "", SIZE_MAX);
    assert_int_equal(services_start(services), 0);
    int number = 0;
    submit_some(services, &number, 100);
    submit_large(target(services, "s", "default"), "A", "A", LARGE, 1);
    submit_large(target(services, "s", "default"), "B", "B", LARGE, 1);
    assert_int_equal(services_free(services, 1), 0);
    close_disk();
    open_disk();

    services = make(text, NULL);
    assert_int_equal(services_restore(services), 0);
    struct target_stats stats;
    services_target_stats(target(services, "s", "default"), &stats);
    CHECK(stats.bytes < 2 * LARGE, "%zu", (size_t)stats.bytes);
    set_failing("", "", 0);
    assert_int_equal(services_start(services), 0);
    await(&plugin.sent, 102, "all");
    assert_string_equal(plugin.log[0], "default A");
    assert_string_equal(plugin.log[1], "default B");
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

static void change_disk(const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(disk.files.path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10 * 1000);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static bool one_is_revived(const struct target_stats *stats)
{
    return stats->revived == 1;
}

/* It comes from another target, as with `tocsin queue retry --to`, or was a dead letter when the program ended. */
static void a_dead_letter_that_is_tried_again_is_not_loaded_with_its_neighbours(void **state)
{
    (void)state;
    int number = 0;
    set_failing("*", "", SIZE_MAX);
    struct services *services = run(0, NULL);
    submit_some(services, &number, 200);
    assert_int_equal(services_free(services, 1), 0);
    close_disk();
    change_disk("UPDATE delivery SET state = 1 WHERE number = 153");
    open_disk();
    services = make("s = { plugin = \"scripted\"; " SMALL "};", NULL);
    assert_int_equal(services_restore(services), 0);
    assert_int_equal(services_start(services), 0);
    change_disk("UPDATE delivery SET state = 2 WHERE number = 153");
    services_revive(services);
    await_stats(target(services, "s", "default"), one_is_revived, "revived");
    set_failing("152", "", SIZE_MAX); /* is still there when the others are loaded */
    await(&plugin.sent, (size_t)number - 1, "all but one");
    set_failing("", "", 0);
    await_stats(target(services, "s", "default"), nothing_waits, "done");
    assert_int_equal(services_free(services, 10 * 1000), 0);
    check_each_came_once(number);
}

static const char twelve_megabytes[] =
    "s = { plugin = \"scripted\"; queue = { max_bytes = \"12MiB\"; }; "
    "breaker = { failures = 0; }; " QUICK "};";

/* An earlier run has left 20 of one MiB, and one that is urgent behind them. */
static void leave_urgent_one_behind_large_ones(void)
{
    struct services *services = make(twelve_megabytes, NULL);
    set_failing("*", "", SIZE_MAX);
    assert_int_equal(services_start(services), 0);
    struct target *t = target(services, "s", "default");
    for (int i = 0; i < 20; i++)
        submit_large(t, (char[]){ (char)('a' + i), '\0' }, "o", 1 << 20, 0);
    submit_large(t, "U", "U", 1, 1);
    assert_int_equal(services_free(services, 1), 0);
    set_failing("", "", 0);
    close_disk();
    open_disk();
}

static size_t scans_done;

static void count_scan(struct scan *scan)
{
    (void)scan;
    pthread_mutex_lock(&plugin.lock);
    scans_done++;
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
}

static void a_scan_reads_some_megabytes_at_a_time(void **state)
{
    (void)state;
    leave_urgent_one_behind_large_ones();
    struct scan *scan = calloc(1, sizeof(*scan));
    assert_non_null(scan);
    scan->store = disk.store;
    scan->range = (struct keep_range){ "s", "default", 0, INT64_MAX };
    assert_int_equal(scan_now(scan), 0);
    assert_int_equal(scan->count, 0);
    assert_true(scan->more);
    assert_null(scan->topics);
    scan_release(scan);

    memset(scan, 0, sizeof(*scan));
    scan->store = disk.store;
    scan->range = (struct keep_range){ "s", "default", 0, INT64_MAX };
    scan->done = count_scan;
    struct store_stats before, after;
    store_stats(disk.store, &before);
    scans_done = 0;
    scan_post(scan);
    await(&scans_done, 1, "scanned");
    store_stats(disk.store, &after);
    assert_int_equal(scan->count, 1);
    assert_false(scan->more);
    assert_non_null(scan->topics);
    /* One for what is urgent, three for the rest, of which the last may not be counted yet. */
    CHECK(after.commits - before.commits >= 3, "%d", (int)(after.commits - before.commits));
    scan_release(scan);
    free(scan);
}

static bool thirteen_are_on_disk_only(const struct target_stats *stats)
{
    return stats->spilled == 13;
}

static void what_is_urgent_far_behind_is_found_while_others_are_delivered(void **state)
{
    (void)state;
    leave_urgent_one_behind_large_ones();
    struct services *services = make(twelve_megabytes, NULL);
    struct target *t = target(services, "s", "default");
    assert_int_equal(services_restore(services), 0);
    struct target_stats stats;
    services_target_stats(t, &stats);
    assert_int_equal(stats.spilled, 14);
    set_gate(true);
    snprintf(plugin.hanging, sizeof(plugin.hanging), "o");
    assert_int_equal(services_start(services), 0);
    await_stats(t, thirteen_are_on_disk_only, "loaded");
    await(&plugin.blocked, 1, "in the plugin");
    set_gate(false);
    await_stats(t, all_done, "done");
    assert_int_equal(plugin.sent, 20); /* one more has hung */
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

/* clang-format off */
TEST_SUITE("spill",
           DISK_TEST(what_is_taken_over_is_not_mixed_up_with_what_came_meanwhile),
           DISK_TEST(what_cannot_be_taken_over_is_not_mixed_up_with_what_came_meanwhile),
           DISK_TEST(a_dead_letter_that_is_tried_again_is_not_loaded_with_its_neighbours),
           DISK_TEST(large_urgent_ones_are_loaded_one_by_one_but_before_others),
           DISK_TEST(a_scan_reads_some_megabytes_at_a_time),
           DISK_TEST(what_is_urgent_far_behind_is_found_while_others_are_delivered));
/* clang-format on */
