/* SPDX-License-Identifier: MIT */

/* Deliveries on disk: what is written when, what holds a message, and what comes back. */

#include "../store/temporary.h"

#include "base/clock.h"
#include "base/container.h"
#include "delivery/keep.h"

#include <pthread.h>
#include <sqlite3.h>

static const char *const links[] = { "home", NULL };

/* A store, a keeper, and a gate at which the writer waits when it is shut. */
struct world {
    struct temporary files;
    struct store *store;
    struct keeper *keeper;
    struct target target;

    struct store_task gate;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool shut, at_gate, passed;
    atomic_int taken; /* messages whose last hold has gone */
};

static int gate_apply(struct store_task *task, struct store *store)
{
    (void)store;
    struct world *w = CONTAINER_OF(task, struct world, gate);
    pthread_mutex_lock(&w->lock);
    w->at_gate = true;
    pthread_cond_broadcast(&w->changed);
    while (w->shut)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return SQLITE_OK;
}

static void gate_done(struct store_task *task, struct store *store)
{
    (void)store;
    struct world *w = CONTAINER_OF(task, struct world, gate);
    pthread_mutex_lock(&w->lock);
    w->passed = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void post_gate(struct world *w, bool shut)
{
    w->shut = shut;
    w->at_gate = w->passed = false;
    w->gate = (struct store_task){ .apply = gate_apply, .done = gate_done };
    store_post(w->store, &w->gate);
}

/* The writer waits in the middle of a group. */
static void shut_gate(struct world *w)
{
    post_gate(w, true);
    pthread_mutex_lock(&w->lock);
    while (!w->at_gate)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void open_gate(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    w->shut = false;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* Awaits that all that was posted before is done. */
static void settle(struct world *w)
{
    if (w->shut) {
        open_gate(w);
        pthread_mutex_lock(&w->lock);
        while (!w->passed)
            pthread_cond_wait(&w->changed, &w->lock);
        pthread_mutex_unlock(&w->lock);
    }
    post_gate(w, false);
    pthread_mutex_lock(&w->lock);
    while (!w->passed)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void open_world(struct world *w)
{
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(w->files.path, &w->store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    w->keeper = keeper_new(w->store);
    assert_non_null(w->keeper);
    uint64_t count, last; /* where numbers go on */
    assert_int_equal(keep_count(w->keeper, NULL, NULL, &count, &last), 0);
}

static void close_world(struct world *w)
{
    assert_int_equal(store_close(w->store, 10000), 0);
    keeper_free(w->keeper);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    temporary_init(&w->files);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->target = (struct target){ .service = "s", .name = "t", .format_count = 1 };
    open_world(w);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    close_world(w);
    temporary_release(&w->files);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return 0;
}

static void on_taken(struct message *message, void *context)
{
    (void)message;
    atomic_fetch_add(&((struct world *)context)->taken, 1);
}

/* A delivery whose message only it has, and nobody holds but those that the test lets. */
static struct delivery *delivery(struct world *w, const char *text, bool held)
{
    struct message *m = message_new("a", 1, text, strlen(text), NULL);
    m->link = links[0];
    m->qos = 1;
    m->taken = on_taken;
    m->taken_context = w;
    const char *const rendered[] = { "r" };
    struct delivery *d = delivery_new(&(struct delivery_parts){
        .target = &w->target, .message = m, .route = "r", .rendered = rendered });
    assert_non_null(d);
    if (!held) {
        m->taken = NULL;
        message_release_hold(m);
        message_hold(m);
        m->taken = on_taken;
    }
    message_unref(m);
    return d;
}

static int64_t number_of(struct world *w, const char *sql)
{
    sqlite3 *db; /* another connection: what it sees has been committed */
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open(w->files.path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return number;
}

static int rows(struct world *w)
{
    return (int)number_of(w, "SELECT count(*) FROM delivery");
}

static void what_is_put_holds_its_message_until_it_is_committed(void **state)
{
    struct world *w = *state;
    struct delivery *d = delivery(w, "x", true);
    shut_gate(w);
    keep_put(w->keeper, d, true);
    message_release_hold(d->message); /* the engine's */
    assert_int_equal(w->taken, 0);
    assert_int_equal(rows(w), 0);
    settle(w);
    assert_int_equal(w->taken, 1);
    assert_int_equal(rows(w), 1);
    keep_end(w->keeper, d);
    delivery_free(d);
    settle(w);
    assert_int_equal(rows(w), 0);
}

static void what_is_delivered_before_the_commit_is_never_written(void **state)
{
    struct world *w = *state;
    struct delivery *d = delivery(w, "x", true);
    shut_gate(w);
    keep_put(w->keeper, d, true);
    message_release_hold(d->message);
    keep_end(w->keeper, d);
    assert_int_equal(w->taken, 1); /* at once: delivered is as good as written */
    delivery_free(d);
    settle(w);
    assert_int_equal(number_of(w, "SELECT count(*) FROM sqlite_master WHERE name = 'delivery'"), 1);
    assert_int_equal(rows(w), 0);
    assert_int_equal(w->taken, 1);
}

static struct target other_target = { .service = "s", .name = "other" };

/* Submits the fallback of a delivery, as a service does. */
static struct delivery *move(struct world *w, struct delivery *from)
{
    struct delivery *to = from->fallback;
    delivery_borrow(to);
    to->target = &other_target;
    keep_move(w->keeper, from, to);
    delivery_free(from);
    return to;
}

static struct delivery *with_fallback(struct world *w, bool held)
{
    struct delivery *d = delivery(w, "x", held);
    delivery_add_fallback(
        d,
        delivery_new(&(struct delivery_parts){
            .target = &other_target, .message = d->message, .route = "r", .is_fallback = true }));
    return d;
}

static int at(struct world *w, const char *target)
{
    return (int)number_of(w, strcmp(target, "t") == 0
                                 ? "SELECT count(*) FROM delivery WHERE target = 't'"
                                 : "SELECT count(*) FROM delivery WHERE target = 'other'");
}

static void a_move_is_one_change_on_disk(void **state)
{
    struct world *w = *state;
    struct delivery *d = with_fallback(w, true);
    keep_put(w->keeper, d, true);
    message_release_hold(d->message);
    settle(w);
    assert_int_equal(w->taken, 1);
    keep_retry(w->keeper, d, 1, clock_wall_ms(), "refused");
    settle(w);
    shut_gate(w);
    d = move(w, d);
    assert_int_equal(at(w, "t"), 1);
    settle(w);
    assert_int_equal(at(w, "t"), 0);
    assert_int_equal(at(w, "other"), 1);
    assert_int_equal(number_of(w, "SELECT count(*) FROM attempt"), 0);
    assert_int_equal(w->taken, 1);

    keep_end(w->keeper, d);
    delivery_free(d);
    settle(w);
    assert_int_equal(rows(w), 0);
}

static void a_move_before_the_commit_takes_the_hold_along(void **state)
{
    struct world *w = *state;
    struct delivery *d = with_fallback(w, true);
    shut_gate(w);
    keep_put(w->keeper, d, true);
    message_release_hold(d->message);
    d = move(w, d);
    assert_int_equal(w->taken, 0);
    settle(w);
    assert_int_equal(w->taken, 1);
    assert_int_equal(at(w, "t"), 0);
    assert_int_equal(at(w, "other"), 1);
    delivery_free(d);
}

static void what_is_sent_right_after_its_move_takes_the_old_one_away(void **state)
{
    struct world *w = *state;
    struct delivery *d = with_fallback(w, true);
    keep_put(w->keeper, d, true);
    message_release_hold(d->message);
    settle(w);
    shut_gate(w);
    d = move(w, d);
    keep_end(w->keeper, d);
    delivery_free(d);
    settle(w);
    assert_int_equal(rows(w), 0);
    assert_int_equal(w->taken, 1);
}

static void what_is_not_on_disk_moves_without_it(void **state)
{
    struct world *w = *state;
    struct delivery *d = with_fallback(w, false);
    d = move(w, d);
    settle(w);
    assert_int_equal(rows(w), 0);
    delivery_free(d);
}

/* Ends a delivery in the middle of the transaction that writes it. */
static struct delivery *ended_by_gate;

static int end_apply(struct store_task *task, struct store *store)
{
    int rc = gate_apply(task, store);
    if (ended_by_gate) {
        keep_end(CONTAINER_OF(task, struct world, gate)->keeper, ended_by_gate);
        delivery_free(ended_by_gate);
        ended_by_gate = NULL;
    }
    return rc;
}

static void what_is_delivered_while_it_is_written_is_taken_away(void **state)
{
    struct world *w = *state;
    struct delivery *d = delivery(w, "x", true);
    struct delivery *other = delivery(w, "y", true);
    shut_gate(w); /* so that both and the end are one group */
    keep_put(w->keeper, d, true);
    keep_put(w->keeper, other, true);
    message_release_hold(d->message);
    message_release_hold(other->message);
    ended_by_gate = d;
    struct world second = *w; /* another task, behind the insertion */
    second.gate = (struct store_task){ .apply = end_apply, .done = gate_done };
    second.shut = second.passed = false;
    store_post(w->store, &second.gate);
    settle(w);
    settle(w); /* the end is posted by the writer itself */
    assert_null(ended_by_gate);
    assert_int_equal(w->taken, 2);
    assert_int_equal(rows(w), 1);
    delivery_free(other);
}

static void one_on_its_way_holds_when_it_is_asked_to(void **state)
{
    struct world *w = *state;
    struct delivery *d = delivery(w, "x", true);
    shut_gate(w);
    keep_retry(w->keeper, d, 1, clock_wall_ms() + 1000, "refused"); /* it had no place yet */
    keep_put(w->keeper, d, true);                                   /* now it has */
    message_release_hold(d->message);
    assert_int_equal(w->taken, 0);
    settle(w);
    assert_int_equal(w->taken, 1);
    assert_int_equal(number_of(w, "SELECT attempts FROM delivery"), 1);
    delivery_free(d);
}

static void order_is_that_of_arrival(void **state)
{
    struct world *w = *state;
    struct delivery *first = delivery(w, "first", false), *second = delivery(w, "second", false);
    keep_order(w->keeper, first);
    keep_put(w->keeper, second, false);
    keep_put(w->keeper, first, false); /* it has failed meanwhile */
    settle(w);
    assert_int_equal(number_of(w, "SELECT count(*) FROM delivery"), 2);
    assert_true(first->number < second->number);
    assert_int_equal(number_of(w, "SELECT min(number) FROM delivery"), (int64_t)first->number);
    delivery_free(first);
    delivery_free(second);
}

static struct keep_load load_of(struct world *w, uint64_t after, size_t most)
{
    return (struct keep_load){ .keeper = w->keeper,
                               .range = { "s", "t", after, INT64_MAX },
                               .most = most,
                               .for_target = &w->target,
                               .links = links };
}

static void what_is_left_comes_back_with_attempts_time_id_and_texts(void **state)
{
    struct world *w = *state;
    char ids[4][40];
    const int64_t due_ms = clock_wall_ms() + 3600 * 1000;
    for (int i = 0; i < 4; i++) {
        const char text[] = { (char)('a' + i), '\0' };
        struct delivery *d = delivery(w, text, false);
        memcpy(ids[i], d->id, sizeof(ids[i]));
        keep_put(w->keeper, d, false);
        if (i == 1)
            keep_retry(w->keeper, d, 7, due_ms, "refused");
        if (i == 2)
            keep_retry(w->keeper, d, 2, clock_wall_ms() - 1000, "refused");
        delivery_free(d);
    }
    close_world(w);
    open_world(w);

    uint64_t count, last;
    assert_int_equal(keep_count(w->keeper, "s", "t", &count, &last), 0);
    assert_int_equal(count, 4);
    assert_int_equal(keep_count(w->keeper, "s", "gone", &count, &last), 0);
    assert_int_equal(count, 0);

    struct keep_load load = load_of(w, 0, 3);
    assert_int_equal(keep_load_now(&load), 0);
    assert_int_equal(load.rows, 3);
    struct delivery *d = load.first;
    int64_t now_ms = clock_mono_ms();
    for (int i = 0; i < 3; i++) {
        const char text[] = { (char)('a' + i), '\0' };
        assert_string_equal(d->view.text, text);
        assert_string_equal(d->id, ids[i]);
        assert_string_equal(d->rendered[0], "r");
        assert_string_equal(d->view.link, "home");
        static const unsigned attempts[] = { 0, 7, 2 };
        assert_int_equal(d->attempts, attempts[i]);
        if (i == 0)
            assert_int_equal(d->due_ms, 0);
        if (i == 1)
            CHECK(d->due_ms > now_ms + 3000 * 1000 && d->due_ms <= now_ms + 3601 * 1000, "%lld",
                  (long long)(d->due_ms - now_ms));
        if (i == 2) /* overdue: spread */
            assert_true(d->due_ms <= now_ms + 3000);
        assert_true(d->created_ms <= now_ms);
        struct delivery *next = d->next;
        delivery_free(d);
        d = next;
    }
    assert_null(d);
    load = load_of(w, load.last, 3);
    assert_int_equal(keep_load_now(&load), 0);
    assert_int_equal(load.rows, 1);
    assert_string_equal(load.first->id, ids[3]);

    /* New ones come behind. */
    struct delivery *fresh = delivery(w, "new", false);
    keep_put(w->keeper, fresh, false);
    assert_true(fresh->number > load.first->number);
    keep_end(w->keeper, load.first);
    delivery_free(load.first);
    delivery_free(fresh);
    settle(w);
    assert_int_equal(rows(w), 4);
}

static void what_cannot_be_read_stays_and_does_not_stop_others(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 3; i++) {
        struct delivery *d = delivery(w, "x", false);
        keep_put(w->keeper, d, false);
        delivery_free(d);
    }
    close_world(w);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(w->files.path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db,
                                  "UPDATE delivery SET record = x'0101' WHERE number = 2;"
                                  "UPDATE delivery SET due_ms = 9223372036854775807, attempts = 1 "
                                  "WHERE number = 3",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    open_world(w);
    struct keep_load load = load_of(w, 0, 10);
    assert_int_equal(keep_load_now(&load), 0);
    assert_int_equal(load.rows, 3);
    assert_int_equal(load.first->number, 1);
    assert_int_equal(load.first->next->number, 3);
    assert_true(load.first->next->due_ms <= clock_mono_ms() + 24 * 3600 * 1000);
    delivery_free(load.first->next);
    delivery_free(load.first);
    settle(w);
    assert_int_equal(rows(w), 3);
}

static void bury(struct world *w, int count)
{
    for (int i = 0; i < count; i++) {
        struct delivery *d = delivery(w, "x", false);
        keep_bury(w->keeper, d, 1, "refused", false);
        delivery_free(d);
    }
    for (int i = 0; i < 10;
         i++) /* what is too much goes some at a time, each posted by the one before */
        settle(w);
}

struct heard {
    int count;
    uint64_t number;
    unsigned attempts;
    char all[256];
};

static void hear(void *context, const struct delivery *d, const char *reason, unsigned attempts)
{
    struct heard *heard = context;
    heard->count++;
    heard->number = d->number;
    heard->attempts = attempts;
    snprintf(heard->all, sizeof(heard->all), "%s:%s %s %.*s %s %s", d->target->service,
             d->target->name, d->view.topic, (int)d->view.text_len, d->view.text, d->view.link,
             reason);
}

static void dead_letters_are_told_later_if_nobody_could_be_told(void **state)
{
    struct world *w = *state;
    bury(w, 3);
    struct delivery *d = delivery(w, "late", false);
    keep_bury(w->keeper, d, 7, "refused", true);
    delivery_free(d);
    settle(w);
    for (int run = 0; run < 3; run++) {
        close_world(w);
        open_world(w);
        struct heard heard = { 0 };
        assert_int_equal(keep_untold(w->keeper, hear, &heard), 0);
        assert_int_equal(heard.count, run < 2); /* until it has been told */
        if (heard.count == 0)
            break;
        assert_int_equal(heard.number, 4);
        assert_int_equal(heard.attempts, 7);
        assert_string_equal(heard.all, "s:t a late home refused");
        if (run == 1)
            keep_told(w->keeper, heard.number);
        settle(w);
    }
    assert_int_equal(number_of(w, "SELECT count(*) FROM delivery WHERE state = 1"), 4);
}

static void what_waits_again_is_told_by_its_next_end(void **state)
{
    struct world *w = *state;
    struct delivery *d = delivery(w, "late", false);
    keep_bury(w->keeper, d, 7, "refused", true);
    delivery_free(d);
    settle(w);
    assert_int_equal(number_of(w, "UPDATE delivery SET state = 2 RETURNING number"), 1);
    close_world(w);
    open_world(w);
    struct heard heard = { 0 };
    assert_int_equal(keep_untold(w->keeper, hear, &heard), 0);
    assert_int_equal(heard.count, 0);
}

static void dead_letters_are_bounded_by_dropping_the_oldest(void **state)
{
    struct world *w = *state;
    keeper_set_bounds(w->keeper, &(struct dead_bounds){ 1000, 1 << 30, 0 });
    bury(w, 1450);
    assert_int_equal(number_of(w, "SELECT count(*) FROM delivery WHERE state = 1"), 1000);
    assert_int_equal(number_of(w, "SELECT min(number) FROM delivery"), 451);
    assert_int_equal(number_of(w, "SELECT count(*) FROM attempt"), 1000);
    assert_int_equal(keeper_dead(w->keeper), 1000);

    const int64_t each = number_of(w, "SELECT max(length(record)) FROM delivery");
    keeper_set_bounds(w->keeper, &(struct dead_bounds){ 1000, (uint64_t)each * 300, 0 });
    bury(w, 1);
    assert_int_equal(keeper_dead(w->keeper), number_of(w, "SELECT count(*) FROM delivery"));
    CHECK(keeper_dead(w->keeper) >= 300 && keeper_dead(w->keeper) < 330, "%d",
          (int)keeper_dead(w->keeper));

    close_world(w);
    open_world(w); /* as of the start */
    assert_int_equal(keep_revive_all(w->keeper), 0);
    assert_int_equal(keeper_dead(w->keeper), number_of(w, "SELECT count(*) FROM delivery"));
    keeper_set_bounds(w->keeper, &(struct dead_bounds){ 1000, 1 << 30, 3600 * 1000 });
    number_of(w, "UPDATE delivery SET ended_ms = 1 WHERE number < 1400 RETURNING number");
    keeper_trim(w->keeper);
    for (int i = 0; i < 10; i++)
        settle(w);
    assert_int_equal(number_of(w, "SELECT min(number) FROM delivery"), 1400);
    assert_int_equal(keeper_dead(w->keeper), number_of(w, "SELECT count(*) FROM delivery"));
}

/* So many deliveries of one MiB on disk. */
static void put_large(struct world *w, int count)
{
    char *large = malloc(1 << 20);
    memset(large, 'x', (1 << 20) - 1);
    large[(1 << 20) - 1] = '\0';
    for (int i = 0; i < count; i++) {
        struct delivery *d = delivery(w, large, true);
        keep_put(w->keeper, d, false);
        message_release_hold(d->message);
        delivery_free(d);
    }
    free(large);
    settle(w);
}

static void drop_loaded(struct keep_load *load)
{
    while (load->first) {
        struct delivery *next = load->first->next;
        delivery_free(load->first);
        load->first = next;
    }
}

static void no_more_is_loaded_at_a_time_than_a_few_megabytes(void **state)
{
    struct world *w = *state;
    put_large(w, 20);
    struct keep_load load = { .keeper = w->keeper,
                              .range = { "s", "t", 0, INT64_MAX },
                              .most = 1000,
                              .for_target = &w->target,
                              .links = links };
    size_t rows = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(keep_load_now(&load), 0);
        CHECK(load.rows <= 8 && load.rows > 0 && load.more == (i < 2), "%zu", load.rows);
        rows += load.rows;
        load.range.after = load.last;
        drop_loaded(&load);
    }
    assert_int_equal(rows, 20);
}

static void nor_of_those_that_are_named(void **state)
{
    struct world *w = *state;
    put_large(w, 20);
    uint64_t numbers[21] = { 1000 }; /* which is not there */
    const int64_t first = number_of(w, "SELECT min(number) FROM delivery");
    for (int i = 0; i < 20; i++)
        numbers[i + 1] = (uint64_t)(first + i);
    struct keep_load load = load_of(w, 0, 1000);
    size_t rows = 0, done = 0;
    for (int i = 0; i < 3; i++) {
        load.numbers = numbers + done;
        load.number_count = 21 - done;
        assert_int_equal(keep_load_now(&load), 0);
        CHECK(load.rows <= 8 && load.rows > 0, "%zu", load.rows);
        if (load.numbers_done < load.number_count)
            assert_int_equal(load.numbers[load.numbers_done - 1],
                             first + (int64_t)rows - 1 + (int64_t)load.rows);
        rows += load.rows;
        done += load.numbers_done;
        drop_loaded(&load);
    }
    assert_int_equal(rows, 20);
    assert_int_equal(done, 21);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

TEST_SUITE("delivery keep", TEST(what_is_put_holds_its_message_until_it_is_committed),
           TEST(what_is_delivered_before_the_commit_is_never_written),
           TEST(a_move_is_one_change_on_disk), TEST(a_move_before_the_commit_takes_the_hold_along),
           TEST(what_is_sent_right_after_its_move_takes_the_old_one_away),
           TEST(what_is_not_on_disk_moves_without_it),
           TEST(what_is_delivered_while_it_is_written_is_taken_away),
           TEST(one_on_its_way_holds_when_it_is_asked_to), TEST(order_is_that_of_arrival),
           TEST(what_is_left_comes_back_with_attempts_time_id_and_texts),
           TEST(what_cannot_be_read_stays_and_does_not_stop_others),
           TEST(dead_letters_are_told_later_if_nobody_could_be_told),
           TEST(what_waits_again_is_told_by_its_next_end),
           TEST(dead_letters_are_bounded_by_dropping_the_oldest),
           TEST(no_more_is_loaded_at_a_time_than_a_few_megabytes),
           TEST(nor_of_those_that_are_named));
