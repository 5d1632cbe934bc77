/* SPDX-License-Identifier: MIT */

/* What comes again notifies once; what is published twice notifies twice. */

#include "../store/temporary.h"

#include "base/clock.h"
#include "delivery/keep.h"
#include "delivery/seen.h"

#include <sqlite3.h>

struct world {
    struct temporary files;
    struct store *store;
    struct keeper *keeper;
    struct seen *seen;
    struct target target, other;
    atomic_int taken, refused;
};

static void open_world(struct world *w)
{
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(w->files.path, &w->store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    w->keeper = keeper_new(w->store);
    w->seen = seen_new();
    assert_non_null(w->keeper);
    assert_non_null(w->seen);
    assert_int_equal(keeper_load_seen(w->keeper, w->seen), 0);
    uint64_t count, last;
    assert_int_equal(keep_count(w->keeper, NULL, NULL, &count, &last), 0);
}

static void close_world(struct world *w)
{
    assert_int_equal(store_close(w->store, 10000), 0);
    keeper_free(w->keeper);
    seen_free(w->seen);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    temporary_init(&w->files);
    w->target = (struct target){ .service = "s", .name = "t" };
    w->other = (struct target){ .service = "s", .name = "u" };
    open_world(w);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    close_world(w);
    temporary_release(&w->files);
    free(w);
    return 0;
}

static void on_taken(struct message *message, void *context)
{
    struct world *w = context;
    atomic_fetch_add(&w->taken, 1);
    atomic_fetch_add(&w->refused, atomic_load(&message->refused));
}

/* A message with the hold of who routes it, and a reference of the test. */
static struct message *message(struct world *w, uint16_t id, const char *text, bool dup)
{
    struct message *m = message_new("a/b", 3, text, strlen(text), NULL);
    assert_non_null(m);
    m->link = "home";
    m->sender = message_sender("home", NULL, 0);
    m->packet_id = id;
    m->qos = 1;
    m->dup = dup;
    m->taken = on_taken;
    m->taken_context = w;
    return m;
}

static struct delivery *delivery(struct message *m, struct target *target, const char *route)
{
    struct delivery *d =
        delivery_new(&(struct delivery_parts){ .target = target, .message = m, .route = route });
    assert_non_null(d);
    return d;
}

/* Passes deliveries, and frees those that are suppressed. */
static struct delivery *pass_at(struct world *w, struct delivery *first, int64_t now_ms)
{
    struct delivery *again;
    first = seen_pass(w->seen, first, now_ms, &again);
    while (again) {
        struct delivery *next = again->next;
        delivery_free(again);
        again = next;
    }
    return first;
}

/* Passes one delivery to the first target. NULL if it is suppressed. */
static struct delivery *pass(struct world *w, struct message *m)
{
    return pass_at(w, delivery(m, &w->target, "r"), clock_mono_ms());
}

/* Who routes is done with it. */
static void let_go(struct message *m)
{
    message_release_hold(m);
    message_unref(m);
}

/* A whole way: routed, safe, done. Returns whether it was delivered. */
static bool deliver(struct world *w, uint16_t id, const char *text, bool dup)
{
    struct message *m = message(w, id, text, dup);
    struct delivery *d = pass(w, m);
    if (d) {
        seen_safe(w->seen, d, false);
        delivery_free(d);
    }
    let_go(m);
    return d != NULL;
}

static void what_comes_again_is_delivered_once(void **state)
{
    struct world *w = *state;
    assert_true(deliver(w, 1, "on", false));
    assert_false(deliver(w, 1, "on", true));
    assert_false(deliver(w, 1, "on", true));
    assert_true(deliver(w, 2, "on", true)); /* the first time it did not arrive */
    assert_true(deliver(w, 1, "off", true));
    assert_int_equal(w->taken, 5);
    struct seen_stats stats;
    seen_stats(w->seen, &stats);
    assert_int_equal(stats.messages, 2);
    assert_int_equal(stats.deliveries, 2);
}

static void what_is_published_twice_is_delivered_twice(void **state)
{
    struct world *w = *state;
    assert_true(deliver(w, 1, "on", false));
    assert_true(deliver(w, 2, "on", false));
    assert_true(deliver(w, 1, "on", false));
    assert_true(
        deliver(w, 1, "on", true)); /* it always gives this identifier, so this may be a new one */
}

static void senders_properties_targets_and_routes_are_told_apart(void **state)
{
    struct world *w = *state;
    assert_true(deliver(w, 1, "on", false));
    struct message *m = message(w, 1, "on", true);
    m->sender = message_sender("home", "other", 5);
    struct delivery *d = pass(w, m);
    assert_non_null(d);
    delivery_free(d);
    let_go(m);

    m = message(w, 1, "on", true);
    d = delivery(m, &w->target, "r");
    d->next = delivery(m, &w->other, "r");
    d->next->next = delivery(m, &w->target, "another");
    d->next->next->next = delivery(m, &w->target, "r"); /* one more of the same */
    d = pass_at(w, d, clock_mono_ms());
    size_t n = 0;
    for (struct delivery *next; d; d = next, n++) {
        next = d->next;
        delivery_free(d);
    }
    assert_int_equal(n, 3);
    let_go(m);

    struct tocsin_property user = { "a", "b" };
    struct tocsin_properties properties = { .user = &user, .user_count = 1, .payload_utf8 = -1 };
    m = message_new("a/b", 3, "on", 2, &properties);
    m->sender = message_sender("home", NULL, 0);
    m->packet_id = 1;
    m->qos = 1;
    m->dup = true;
    d = pass(w, m);
    assert_non_null(d);
    delivery_free(d);
    let_go(m);
}

static void what_comes_again_waits_for_what_came_first(void **state)
{
    struct world *w = *state;
    for (int refused = 0; refused < 2; refused++) {
        w->taken = w->refused = 0;
        struct message *m = message(w, (uint16_t)(1 + refused), "on", false);
        struct delivery *d = pass(w, m);
        assert_non_null(d);
        message_hold(m); /* as it is being written */
        struct message *again = message(w, (uint16_t)(1 + refused), "on", true);
        assert_null(pass(w, again));
        let_go(again);
        assert_int_equal(w->taken, 0);
        message_release_hold(m);
        assert_int_equal(w->taken, 0); /* the first is held still */
        if (refused)
            message_refuse(m);
        else
            seen_safe(w->seen, d, false);
        let_go(m);
        assert_int_equal(w->taken, 2);
        assert_int_equal(w->refused, refused * 2);
        delivery_free(d);
    }
    assert_true(deliver(w, 2, "on", true)); /* it was refused, so it is not known */
    assert_false(deliver(w, 1, "on", true));
}

static void what_was_dropped_to_come_again_is_delivered(void **state)
{
    struct world *w = *state;
    struct message *m = message(w, 1, "on", false);
    struct delivery *d = pass(w, m);
    seen_forget(w->seen, d);
    delivery_free(d);
    let_go(m);
    assert_true(deliver(w, 1, "on", true));
    assert_false(deliver(w, 1, "on", true));
}

static bool passes_at(struct world *w, int64_t now_ms)
{
    struct message *m = message(w, 1, "on", true);
    struct delivery *d = pass_at(w, delivery(m, &w->target, "r"), now_ms);
    bool passes = d != NULL;
    delivery_free(d);
    let_go(m);
    return passes;
}

static void what_was_acknowledged_is_not_known_for_long(void **state)
{
    struct world *w = *state;
    const int64_t later = clock_mono_ms() + SEEN_ACKED_MS + 1000;
    assert_true(deliver(w, 1, "on", false));
    seen_lost(w->seen, message_sender("home", NULL, 0));
    assert_false(passes_at(w, later)); /* the acknowledgement may never have arrived */
    assert_true(passes_at(w, later + SEEN_ACKED_MS)); /* now it has */
}

static int64_t rows(struct world *w)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open(w->files.path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT count(*) FROM seen WHERE number > 0", -1, &row, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return number;
}

static void what_is_on_disk_is_known_after_a_restart(void **state)
{
    struct world *w = *state;
    struct message *m = message(w, 1, "on", false);
    struct delivery *d = pass(w, m);
    keep_put(w->keeper, d, true);
    let_go(m);
    close_world(w); /* it has been written, with its identity; as by kill -9, nobody saves */
    delivery_free(d);
    assert_int_equal(rows(w), 1);

    open_world(w);
    assert_true(deliver(w, 1, "off", true));
    assert_false(deliver(w, 1, "on", true));
    assert_true(deliver(w, 1, "on", false)); /* a new one: what came before is over */
    close_world(w);
    assert_int_equal(rows(w), 0);
    open_world(w);
}

static void an_old_sender_is_known_until_it_sends_something_new(void **state)
{
    struct world *w = *state;
    struct message *m = message(w, 1, "on", false);
    struct delivery *d = pass(w, m);
    keep_put(w->keeper, d, true);
    let_go(m);
    close_world(w);
    delivery_free(d);
    open_world(w);
    assert_true(deliver(w, 2, "new", false));
    assert_true(passes_at(w, clock_mono_ms() + SEEN_ACKED_MS + 1000));
}

static void a_clean_end_writes_what_was_delivered_and_not_written(void **state)
{
    struct world *w = *state;
    struct message *m = message(w, 1, "on", false);
    struct delivery *d = pass(w, m);
    keep_order(w->keeper, d);
    seen_safe(w->seen, d, false);
    delivery_free(d);
    let_go(m);
    seen_save(w->seen);
    close_world(w);
    assert_int_equal(rows(w), 1);
    open_world(w);
    assert_false(deliver(w, 1, "on", true));
}

static void the_oldest_goes_when_there_are_too_many(void **state)
{
    struct world *w = *state;
    char text[16];
    for (unsigned i = 0; i < SEEN_MOST + 10; i++) {
        snprintf(text, sizeof(text), "%u", i);
        assert_true(deliver(w, (uint16_t)(i % 60000 + 1), text, false));
    }
    struct seen_stats stats;
    seen_stats(w->seen, &stats);
    assert_int_equal(stats.known, SEEN_MOST);
    assert_false(deliver(w, 11, "10", true));
    assert_true(deliver(w, 6, "5", true));
    snprintf(text, sizeof(text), "%u", SEEN_MOST + 9);
    assert_false(deliver(w, (SEEN_MOST + 9) % 60000 + 1, text, true));
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

TEST_SUITE("delivery seen", TEST(what_comes_again_is_delivered_once),
           TEST(what_is_published_twice_is_delivered_twice),
           TEST(senders_properties_targets_and_routes_are_told_apart),
           TEST(what_comes_again_waits_for_what_came_first),
           TEST(what_was_dropped_to_come_again_is_delivered),
           TEST(what_was_acknowledged_is_not_known_for_long),
           TEST(what_is_on_disk_is_known_after_a_restart),
           TEST(an_old_sender_is_known_until_it_sends_something_new),
           TEST(a_clean_end_writes_what_was_delivered_and_not_written),
           TEST(the_oldest_goes_when_there_are_too_many));
