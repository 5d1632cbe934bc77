/* SPDX-License-Identifier: MIT */

/* What rides along with the store's transactions: when it is taken along, and that it costs the others nothing. */

#include "temporary.h"

#include "base/container.h"
#include "base/log.h"
#include "store/store.h"

#include <pthread.h>
#include <sqlite3.h>

/* One that writes a row each time, with numbers from 1000 on, and fails as it is told. */
static struct {
    struct store_rider rider;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool full, alone; /* wants to ride; also alone */
    int fails;        /* the code with which it fails next; 0: it does not */
    int applied, good, bad;
    int tasks;
} world = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static int insert(struct store *store, int number)
{
    sqlite3_stmt *s =
        store_statement(store, "INSERT INTO delivery (number, service, target, state, created_ms, "
                               "attempts, due_ms, record) VALUES (?1, '', '', 0, 0, 0, 0, '')");
    assert_non_null(s);
    sqlite3_bind_int(s, 1, number);
    return store_step(s);
}

static bool wants(struct store_rider *rider, bool alone)
{
    (void)rider;
    pthread_mutex_lock(&world.lock);
    bool wanted = alone ? world.alone : world.full;
    pthread_mutex_unlock(&world.lock);
    return wanted;
}

static int apply(struct store_rider *rider, struct store *store)
{
    (void)rider;
    pthread_mutex_lock(&world.lock);
    int rc = world.fails, number = 1000 + world.applied++;
    world.fails = 0;
    pthread_mutex_unlock(&world.lock);
    int inserted = insert(store, number);
    return rc ? rc : inserted;
}

static void done(struct store_rider *rider, bool committed)
{
    (void)rider;
    pthread_mutex_lock(&world.lock);
    ++*(committed ? &world.good : &world.bad);
    world.full = world.alone = false;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.lock);
}

struct job {
    struct store_task task;
    int number;
};

static int job_apply(struct store_task *task, struct store *store)
{
    return insert(store, CONTAINER_OF(task, struct job, task)->number);
}

static void job_done(struct store_task *task, struct store *store)
{
    (void)task;
    (void)store;
    pthread_mutex_lock(&world.lock);
    world.tasks++;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.lock);
}

static void post(struct store *store, struct job *job, int number)
{
    *job = (struct job){ .task = { .apply = job_apply, .done = job_done }, .number = number };
    store_post(store, &job->task);
}

static void await(const int *counter, int wanted)
{
    pthread_mutex_lock(&world.lock);
    while (*counter < wanted)
        pthread_cond_wait(&world.changed, &world.lock);
    pthread_mutex_unlock(&world.lock);
}

static struct store *opened(const struct temporary *t)
{
    struct store *store;
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(t->path, &store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    world.rider = (struct store_rider){ .wants = wants, .apply = apply, .done = done };
    world.full = world.alone = false;
    world.fails = world.applied = world.good = world.bad = world.tasks = 0;
    return store;
}

static int count(const struct temporary *t, const char *where)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    char sql[200];
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM delivery WHERE %s", where);
    assert_int_equal(sqlite3_open(t->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int found = sqlite3_column_int(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return found;
}

static int set_up(void **state)
{
    struct temporary *t = malloc(sizeof(*t));
    temporary_init(t);
    *state = t;
    log_set_level(TOCSIN_LOG_ERROR);
    return 0;
}

static int tear_down(void **state)
{
    log_set_level(TOCSIN_LOG_INFO);
    temporary_release(*state);
    free(*state);
    return 0;
}

static void it_goes_along_and_alone_only_when_it_says_so(void **state)
{
    struct store *store = opened(*state);
    struct job job;
    world.full = true;
    store_ride(store, &world.rider);
    post(store, &job, 1);
    await(&world.good, 1);
    struct store_stats stats;
    do
        store_stats(store, &stats);
    while (stats.waiting > 0);
    assert_int_equal(stats.commits, 1); /* both together */
    pthread_mutex_lock(&world.lock);
    world.alone = true;
    pthread_mutex_unlock(&world.lock);
    store_wake(store);
    await(&world.good, 2);
    assert_int_equal(store_close(store, 1000), 0);
    assert_int_equal(count(*state, "number = 1"), 1);
    assert_int_equal(count(*state, "number >= 1000"), 2);
}

static void at_the_end_it_is_asked_once_more(void **state)
{
    struct store *store = opened(*state);
    store_ride(store, &world.rider);
    pthread_mutex_lock(&world.lock);
    world.alone = true;
    pthread_mutex_unlock(&world.lock);
    assert_int_equal(store_close(store, 1000), 0);
    assert_int_equal(world.good, 1);
    assert_int_equal(count(*state, "number >= 1000"), 1);
}

/* What is its own fault leaves the others in their transaction; a full disk fails all, and then they go without it. */
static void its_failure_costs_others_nothing(void **state)
{
    static const int codes[] = { SQLITE_CONSTRAINT, SQLITE_ERROR, SQLITE_FULL };
    for (size_t i = 0; i < ROWS(codes); i++) {
        struct temporary t;
        temporary_init(&t);
        struct store *store = opened(&t);
        struct job job;
        world.full = true;
        world.fails = codes[i];
        store_ride(store, &world.rider);
        post(store, &job, 1);
        await(&world.tasks, 1);
        assert_int_equal(store_close(store, 1000), 0);
        CHECK(world.bad == 1 && world.good == 0, "code %d", codes[i]);
        CHECK(count(&t, "number = 1") == 1, "code %d", codes[i]);
        CHECK(count(&t, "number >= 1000") == 0, "code %d", codes[i]);
        temporary_release(&t);
    }
    (void)state;
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)
TEST_SUITE("store rider", TEST(it_goes_along_and_alone_only_when_it_says_so),
           TEST(at_the_end_it_is_asked_once_more), TEST(its_failure_costs_others_nothing));
