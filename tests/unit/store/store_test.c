/* SPDX-License-Identifier: MIT */

/* Groups, their order, what becomes of them when they fail, and the end. */

#include "temporary.h"

#include "base/container.h"
#include "base/log.h"
#include "store/store.h"

#include <pthread.h>
#include <sched.h>
#include <sqlite3.h>

enum {
    TASKS = 100
};

/* What all tasks of a test share. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool shut;    /* the gate, at which tasks wait that are to */
    bool at_gate; /* one does */
    int failures; /* how often the task that is to fail does so still */
    int applied, done, set_apart;
    int order[2 * TASKS]; /* of done() */
} world = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

struct job {
    struct store_task task;
    int number;
    bool waits, fails, idle;
    int hopeless; /* the code with which it always fails, after it has changed something */
};

static int set_up(void **state)
{
    struct temporary *t = malloc(sizeof(*t));
    temporary_init(t);
    *state = t;
    world.shut = world.at_gate = false;
    world.failures = world.applied = world.done = world.set_apart = 0;
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

static int64_t size_of(const struct temporary *t, const char *suffix)
{
    char path[128];
    struct stat file;
    snprintf(path, sizeof(path), "%s%s", t->path, suffix);
    return stat(path, &file) == 0 ? (int64_t)file.st_size : 0;
}

static struct store *opened(const struct temporary *t)
{
    struct store *store;
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(t->path, &store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    return store;
}

static bool job_needed(const struct store_task *task)
{
    return !CONTAINER_OF(task, struct job, task)->idle;
}

static int job_apply(struct store_task *task, struct store *store)
{
    const struct job *job = CONTAINER_OF(task, struct job, task);
    pthread_mutex_lock(&world.lock);
    world.applied++;
    if (job->waits)
        world.at_gate = true;
    pthread_cond_broadcast(&world.changed);
    while (job->waits && world.shut)
        pthread_cond_wait(&world.changed, &world.lock);
    bool fails = job->fails && world.failures > 0;
    world.failures -= fails;
    pthread_mutex_unlock(&world.lock);
    if (fails)
        return SQLITE_FULL;
    sqlite3_stmt *s =
        store_statement(store, "INSERT INTO delivery (number, service, target, state, created_ms, "
                               "attempts, due_ms, record) VALUES (?1, '', '', 0, 0, 0, 0, '')");
    assert_non_null(s);
    sqlite3_bind_int(s, 1, job->number);
    int rc = store_step(s);
    return job->hopeless ? job->hopeless : rc;
}

static void job_failed(struct store_task *task, struct store *store, int code)
{
    (void)store;
    pthread_mutex_lock(&world.lock);
    assert_int_equal(code, CONTAINER_OF(task, struct job, task)->hopeless);
    world.order[world.done++] = -CONTAINER_OF(task, struct job, task)->number;
    world.set_apart++;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.lock);
}

static void job_done(struct store_task *task, struct store *store)
{
    (void)store;
    pthread_mutex_lock(&world.lock);
    world.order[world.done++] = CONTAINER_OF(task, struct job, task)->number;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.lock);
}

static void post(struct store *store, struct job *job, int number)
{
    job->task = (struct store_task){
        .needed = job_needed, .apply = job_apply, .done = job_done, .failed = job_failed
    };
    job->number = number;
    store_post(store, &job->task);
}

static void await_done(int count)
{
    pthread_mutex_lock(&world.lock);
    while (world.done < count)
        pthread_cond_wait(&world.changed, &world.lock);
    pthread_mutex_unlock(&world.lock);
}

/* Posts a task that stays at the gate, and awaits that it is there. */
static void post_gate(struct store *store, struct job *job, int number)
{
    world.shut = true;
    job->waits = true;
    post(store, job, number);
    pthread_mutex_lock(&world.lock);
    while (!world.at_gate)
        pthread_cond_wait(&world.changed, &world.lock);
    pthread_mutex_unlock(&world.lock);
}

static void open_gate(void)
{
    pthread_mutex_lock(&world.lock);
    world.shut = false;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.lock);
}

static int rows(struct store *store)
{
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_prepare_v2(store_connection(store), "SELECT count(*) FROM delivery",
                                        -1, &row, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int count = sqlite3_column_int(row, 0);
    sqlite3_finalize(row);
    return count;
}

static void what_comes_during_a_commit_is_one_group(void **state)
{
    struct store *store = opened(*state);
    static struct job jobs[TASKS];
    memset(jobs, 0, sizeof(jobs));
    post_gate(store, &jobs[0], 1);
    for (int i = 1; i < TASKS; i++)
        post(store, &jobs[i], i + 1);
    struct store_stats stats;
    store_stats(store, &stats);
    assert_int_equal(stats.waiting, TASKS);
    assert_int_equal(stats.commits, 0);
    assert_int_equal(world.done, 0);
    open_gate();
    await_done(TASKS);
    assert_int_equal(store_close(store, 1000), 0);
    for (int i = 0; i < TASKS; i++)
        assert_int_equal(world.order[i], i + 1);
    store = opened(*state);
    assert_int_equal(rows(store), TASKS);
    assert_int_equal(store_close(store, 0), 0);
}

static void a_group_is_one_commit(void **state)
{
    struct store *store = opened(*state);
    static struct job jobs[TASKS];
    memset(jobs, 0, sizeof(jobs));
    post_gate(store, &jobs[0], 1);
    for (int i = 1; i < TASKS; i++)
        post(store, &jobs[i], i + 1);
    open_gate();
    await_done(TASKS);
    /* The last done() is before the last count. */
    struct store_stats stats;
    do
        store_stats(store, &stats);
    while (stats.waiting > 0);
    assert_int_equal(stats.commits, 2);
    assert_int_equal(stats.tasks, TASKS);
    assert_int_equal(stats.failures, 0);
    assert_int_equal(stats.bytes, size_of(*state, "") + size_of(*state, "-wal"));
    assert_true(size_of(*state, "-wal") > 0);
    assert_int_equal(store_close(store, 0), 0);
}

static void what_is_not_needed_any_more_is_not_done_but_told(void **state)
{
    struct store *store = opened(*state);
    struct job jobs[3] = { { .waits = false } };
    post_gate(store, &jobs[0], 1);
    jobs[1].idle = true;
    post(store, &jobs[1], 2);
    post(store, &jobs[2], 3);
    open_gate();
    await_done(3);
    assert_int_equal(world.applied, 2);
    assert_int_equal(store_close(store, 1000), 0);
    store = opened(*state);
    assert_int_equal(rows(store), 2);
    assert_int_equal(store_close(store, 0), 0);
}

static void a_group_that_fails_is_rolled_back_and_done_again_as_a_whole(void **state)
{
    struct store *store = opened(*state);
    struct job jobs[5] = { { .waits = false } };
    post_gate(store, &jobs[0], 1);
    jobs[2].fails = true;
    world.failures = 2;
    for (int i = 1; i < 4; i++)
        post(store, &jobs[i], i + 1);
    open_gate();
    await_done(4);
    /* The gate; 2 and 3 twice in vain; 2, 3 and 4. */
    assert_int_equal(world.applied, 1 + 2 + 2 + 3);
    for (int i = 0; i < 4; i++)
        assert_int_equal(world.order[i], i + 1);
    struct store_stats stats;
    store_stats(store, &stats);
    assert_int_equal(stats.failures, 2);
    assert_false(stats.in_trouble);
    post(store, &jobs[4], 5); /* it goes on as before */
    await_done(5);
    assert_int_equal(store_close(store, 1000), 0);
    store = opened(*state);
    assert_int_equal(rows(store), 5);
    assert_int_equal(store_close(store, 0), 0);
}

static void what_cannot_be_carried_out_is_set_apart_and_keeps_nobody_waiting(void **state)
{
    static const int codes[] = { SQLITE_TOOBIG, SQLITE_CONSTRAINT_NOTNULL, SQLITE_MISMATCH,
                                 SQLITE_RANGE };
    log_set_level((enum tocsin_level) - 1); /* it says so, at length */
    for (size_t i = 0; i < ROWS(codes); i++) {
        struct store *store = opened(*state);
        static struct job jobs[TASKS];
        memset(jobs, 0, sizeof(jobs));
        world.done = world.set_apart = world.applied = 0;
        world.at_gate = false;
        post_gate(store, &jobs[0], (int)i * TASKS + 1000);
        for (int j = 1; j < TASKS; j++) {
            jobs[j].hopeless = j % 10 == 5 ? codes[i] : 0;
            post(store, &jobs[j], (int)i * TASKS + 1000 + j);
        }
        open_gate();
        await_done(TASKS);
        struct store_stats stats;
        store_stats(store, &stats);
        assert_int_equal(stats.set_apart, 10);
        assert_int_equal(stats.failures, 0);
        assert_false(stats.in_trouble);
        CHECK(world.applied < 3 * TASKS, "%d times, for one group", world.applied);
        for (int j = 0; j < TASKS; j++) {
            int number = (int)i * TASKS + 1000 + j;
            CHECK(world.order[j] == (j % 10 == 5 ? -number : number), "place %d: %d", j,
                  world.order[j]);
        }
        assert_int_equal(store_close(store, 1000), 0);
        store = opened(*state);
        assert_int_equal(rows(store), (int)(i + 1) * (TASKS - 10));
        store_close(store, 0);
    }
}

/* Fills the store so that it is checked beside the work, and flips bytes in the middle of the file. */
static void make_large_and_damaged(const struct temporary *t, bool damaged)
{
    store_close(opened(t), 0);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(t->path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(
            db,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) "
            "INSERT INTO delivery (number, service, target, state, created_ms, attempts, "
            "due_ms, record) SELECT i, 's', 't', 0, 1, 0, 0, zeroblob(1000) FROM n",
            NULL, NULL, NULL),
        SQLITE_OK);
    sqlite3_close(db);
    FILE *file = fopen(t->path, "r+");
    assert_non_null(file);
    fseek(file, damaged ? 5 * 1024 * 1024 : 0, SEEK_SET);
    for (int i = 0; damaged && i < 4096; i++)
        fputc(0x5a, file);
    fclose(file);
}

static void a_large_file_is_checked_beside_the_work(void **state)
{
    make_large_and_damaged(*state, true);
    struct store *store = opened(*state);
    struct store_stats stats;
    do {
        store_stats(store, &stats);
        sched_yield();
    } while (!stats.in_trouble);
    struct job job = { .number = 0 };
    post(store, &job, 100000);
    assert_int_equal(store_close(store, 100), 1);
    assert_int_equal(world.done, 0); /* nothing more is acknowledged */
}

static void the_end_does_not_wait_for_the_check(void **state)
{
    make_large_and_damaged(*state, false);
    struct job jobs[20] = { { .number = 0 } };
    for (int i = 0; i < 20; i++) {
        struct store *store = opened(*state);
        post(store, &jobs[i], 100000 + i);
        assert_int_equal(store_close(store, 1000), 0);
    }
}

static void the_end_carries_out_what_is_posted(void **state)
{
    struct store *store = opened(*state);
    static struct job jobs[TASKS];
    memset(jobs, 0, sizeof(jobs));
    for (int i = 0; i < TASKS; i++)
        post(store, &jobs[i], i + 1);
    assert_int_equal(store_close(store, 10000), 0);
    assert_int_equal(world.done, TASKS);
}

static void the_end_does_not_wait_for_ever_for_what_fails(void **state)
{
    struct store *store = opened(*state);
    struct job jobs[3] = { { .fails = true } };
    world.failures = 1 << 30;
    for (int i = 0; i < 3; i++)
        post(store, &jobs[i], i + 1);
    pthread_mutex_lock(&world.lock);
    while (world.applied == 0)
        pthread_cond_wait(&world.changed, &world.lock);
    pthread_mutex_unlock(&world.lock);
    assert_int_equal(store_close(store, 50), 3);
    assert_int_equal(world.done, 0);
    store = opened(*state);
    assert_int_equal(rows(store), 0);
    assert_int_equal(store_close(store, 0), 0);
}

static void the_end_waits_for_trouble_that_passes(void **state)
{
    struct store *store = opened(*state);
    struct job job = { .fails = true };
    world.failures = 2;
    post(store, &job, 1);
    assert_int_equal(store_close(store, 10000), 0);
    assert_int_equal(world.done, 1);
}

/* Posts another one when it is done. */
struct chain {
    struct store_task task;
    int left;
};

static int chain_apply(struct store_task *task, struct store *store)
{
    (void)task;
    (void)store;
    return SQLITE_OK;
}

static void chain_done(struct store_task *task, struct store *store)
{
    struct chain *chain = CONTAINER_OF(task, struct chain, task);
    if (--chain->left > 0)
        store_post(store, task);
}

static void a_task_may_be_posted_again_when_it_is_done(void **state)
{
    struct store *store = opened(*state);
    struct chain chain = { .task = { .apply = chain_apply, .done = chain_done }, .left = 20 };
    store_post(store, &chain.task);
    assert_int_equal(store_close(store, 10000), 0);
    assert_int_equal(chain.left, 0);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

TEST_SUITE("store", TEST(what_comes_during_a_commit_is_one_group), TEST(a_group_is_one_commit),
           TEST(what_is_not_needed_any_more_is_not_done_but_told),
           TEST(a_group_that_fails_is_rolled_back_and_done_again_as_a_whole),
           TEST(what_cannot_be_carried_out_is_set_apart_and_keeps_nobody_waiting),
           TEST(a_large_file_is_checked_beside_the_work), TEST(the_end_does_not_wait_for_the_check),
           TEST(the_end_carries_out_what_is_posted),
           TEST(the_end_does_not_wait_for_ever_for_what_fails),
           TEST(the_end_waits_for_trouble_that_passes),
           TEST(a_task_may_be_posted_again_when_it_is_done));
