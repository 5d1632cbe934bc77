/* SPDX-License-Identifier: MIT */

/* The thread that writes the file. */

#include "store/store.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"
#include "base/log_rate.h"
#include "store/check.h"
#include "store/fault.h"
#include "store/file.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GROUP_MOST       10000 /* tasks of one transaction */
#define STATEMENTS       128   /* different ones */
#define FIRST_WAIT_MS    100   /* after a failed commit */
#define LAST_WAIT_MS     5000
#define STOPPING_WAIT_MS 20 /* the same when there is not much time left */
#define SCRATCH_MOST     (1024 * 1024 * 1024)
#define SCRATCH_KEPT     (1024 * 1024)
#define WAL_PAGES        4000 /* of 4 KiB, after which the log is moved into the file */

struct statement {
    const char *sql;
    sqlite3_stmt *prepared;
};

struct store {
    struct store_file file;
    struct check *check; /* of a file that is too large to be checked at the start; or NULL */
    atomic_bool damaged; /* it found something: `damage` does not change any more */
    struct buf damage;
    struct statement statements[STATEMENTS];
    size_t statement_count;
    struct buf scratch;

    pthread_t thread;
    struct mailbox mailbox;
    atomic_bool stopping;
    atomic_int_fast64_t stop_by_ms;

    /* The writer's. */
    struct mail *group, **group_end; /* what has been taken and not been committed, oldest first */
    int64_t wait_ms;
    struct log_trouble trouble;
    struct log_rate set_apart_rate;
    _Atomic(struct store_rider *) rider;

    struct store_task probe; /* whether it can be written again */
    bool probing;
    struct store_task watch;
    void (*wanted_changed)(void *context); /* until the writer watches */
    void (*changed)(void *context);
    void *changed_context;
    int data_version;
    int64_t looked_ms;

    atomic_uint_fast64_t posted, finished, commits, failures, set_apart;
    atomic_bool in_trouble;

    struct drain *drains; /* the main thread's */
};

/* ---- Statements ---- */

sqlite3_stmt *store_statement(struct store *store, const char *sql)
{
    struct statement *at = store->statements, *end = at + store->statement_count;
    while (at < end && at->sql != sql)
        at++;
    if (at == end) {
        if (store->statement_count == STATEMENTS)
            return NULL;
        if (sqlite3_prepare_v3(store->file.db, sql, -1, SQLITE_PREPARE_PERSISTENT, &at->prepared,
                               NULL) != SQLITE_OK)
            return NULL;
        at->sql = sql;
        store->statement_count++;
    }
    sqlite3_reset(at->prepared);
    sqlite3_clear_bindings(at->prepared);
    return at->prepared;
}

int store_step(sqlite3_stmt *statement)
{
    if (!statement)
        return SQLITE_ERROR;
    sqlite3_step(statement);
    return sqlite3_reset(statement);
}

struct buf *store_scratch(struct store *store)
{
    if (store->scratch.cap > SCRATCH_KEPT)
        buf_release(&store->scratch);
    buf_clear(&store->scratch);
    return &store->scratch;
}

sqlite3 *store_connection(struct store *store)
{
    return store->file.db;
}

/* ---- The writer ---- */

static bool has_failed(int rc)
{
    return rc != SQLITE_OK && rc != SQLITE_DONE;
}

/* Whether it is the task that cannot be carried out, now or later, and not the file or the machine. */
static bool is_tasks_own(const struct store *store, int rc)
{
    if ((rc & 0xff) == SQLITE_ERROR && has_failed(sqlite3_errcode(store->file.db)))
        rc = sqlite3_errcode(store->file.db); /* who prepares a statement is told no more */
    switch (rc & 0xff) {
    case SQLITE_ERROR:
    case SQLITE_TOOBIG:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
        return true;
    default:
        return false;
    }
}

static int run(const struct store *store, const char *sql)
{
    return sqlite3_exec(store->file.db, sql, NULL, NULL, NULL);
}

/* In a group that has one which cannot be carried out: finds which these are, and leaves the others as they would
 * be without them. */
static int apply_apart(struct store *store, struct store_task *task)
{
    int rc = run(store, "SAVEPOINT task");
    if (!has_failed(rc))
        rc = task->apply(task, store);
    if (has_failed(rc) && is_tasks_own(store, rc) && !sqlite3_get_autocommit(store->file.db)) {
        task->failure = rc;
        rc = run(store, "ROLLBACK TO task");
    }
    return has_failed(rc) ? rc : run(store, "RELEASE task");
}

static void say_trouble(struct store *store, int rc)
{
    if (!log_trouble_due(&store->trouble, clock_mono_ms()))
        return;
    struct buf words = BUF_INIT(65536);
    const bool known = has_failed(sqlite3_errcode(store->file.db));
    const char *said = known ? sqlite3_errmsg(store->file.db) : sqlite3_errstr(rc);
    int code = (known ? sqlite3_errcode(store->file.db) : rc) & 0xff;
    int system = sqlite3_system_errno(store->file.db);
    if (atomic_load(&store->damaged))
        buf_add_str(&words, buf_str(&store->damage));
    else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        store_file_damaged(store->file.path, said, &words);
    else
        buf_addf(&words, "%s%s%s", said, system ? ": " : "", system ? strerror(system) : "");
    log_error("store: cannot write %s, nothing more is acknowledged until that is over: %s",
              store->file.path, buf_str(&words));
    buf_release(&words);
}

/* Carries out the group's first `GROUP_MOST` in one transaction, which it leaves open. Returns an SQLite result code. */
static int apply_group(struct store *store, bool apart, size_t *count, bool *begun)
{
    int rc = SQLITE_OK;
    *count = 0;
    *begun = false;
    for (struct mail *mail = store->group; mail && *count < GROUP_MOST && !has_failed(rc);
         mail = mail->next) {
        struct store_task *task = CONTAINER_OF(mail, struct store_task, mail);
        ++*count;
        task->failure = 0;
        if (task->needed && !task->needed(task))
            continue;
        if (!*begun)
            rc = run(store, "BEGIN IMMEDIATE");
        *begun = true;
        if (!has_failed(rc))
            rc = apart ? apply_apart(store, task) : task->apply(task, store);
    }
    return rc;
}

static void roll_back(const struct store *store)
{
    if (!sqlite3_get_autocommit(store->file.db))
        run(store, "ROLLBACK");
}

/* Whether the rider makes a transaction of its own. */
static bool rides_alone(struct store *store)
{
    struct store_rider *rider = atomic_load(&store->rider);
    return !store->group && rider && rider->wants(rider, true);
}

/* What rides along with a transaction that may not have begun. One that cannot be carried out leaves the others as they
 * would be without it. */
static int apply_rider(struct store *store, struct store_rider *rider, bool *begun, bool *good)
{
    int rc = *begun ? SQLITE_OK : run(store, "BEGIN IMMEDIATE");
    *begun = true;
    if (!has_failed(rc))
        rc = run(store, "SAVEPOINT rider");
    if (!has_failed(rc))
        rc = rider->apply(rider, store);
    *good = !has_failed(rc);
    if (has_failed(rc) && is_tasks_own(store, rc) && !sqlite3_get_autocommit(store->file.db))
        rc = run(store, "ROLLBACK TO rider");
    return has_failed(rc) ? rc : run(store, "RELEASE rider");
}

/* Carries out the group. Returns whether `*count` tasks of it have been committed, or set apart, and it has not failed. */
static bool commit(struct store *store, size_t *count)
{
    bool begun, good = false;
    struct store_rider *rider = NULL;
    *count = 0;
    int rc = atomic_load(&store->damaged) ? SQLITE_CORRUPT : SQLITE_OK;
    if (!has_failed(rc))
        rc = apply_group(store, false, count, &begun);
    if (has_failed(rc) && is_tasks_own(store, rc)) {
        roll_back(store);
        rc = apply_group(store, true, count, &begun);
    }
    if (!has_failed(rc) && store->wait_ms == 0)
        rider = atomic_load(&store->rider);
    if (rider && !rider->wants(rider, !begun))
        rider = NULL;
    if (rider)
        rc = apply_rider(store, rider, &begun, &good);
    fault_point("before-commit");
    if (!has_failed(rc) && begun)
        rc = run(store, "COMMIT");
    if (!has_failed(rc)) {
        fault_point("after-commit");
        if (rider)
            rider->done(rider, good);
        return true;
    }
    say_trouble(store, rc);
    roll_back(store);
    if (rider)
        rider->done(rider, false);
    atomic_store(&store->in_trouble, true);
    atomic_fetch_add(&store->failures, 1);
    return false;
}

static void set_apart(struct store *store, struct store_task *task)
{
    if (log_rate_due(&store->set_apart_rate, clock_mono_ms()))
        log_error("store: a change cannot be made, and is set apart: %s",
                  sqlite3_errstr(task->failure));
    atomic_fetch_add(&store->set_apart, 1);
    if (task->failed)
        task->failed(task, store, task->failure);
}

/* Tells those that have been committed. */
static void tell(struct store *store, size_t count)
{
    if (log_trouble_over(&store->trouble))
        log_info("store: %s can be written again", store->file.path);
    atomic_store(&store->in_trouble, false);
    atomic_fetch_add(&store->commits, 1);
    while (count-- > 0) {
        struct mail *mail = store->group;
        store->group = mail->next;
        if (!store->group)
            store->group_end = &store->group;
        struct store_task *task = CONTAINER_OF(mail, struct store_task, mail);
        if (task->failure)
            set_apart(store, task);
        else
            task->done(task, store);
        atomic_fetch_add_explicit(&store->finished, 1, memory_order_relaxed);
    }
}

static void take(struct store *store)
{
    if (!store->group)
        store->group_end = &store->group;
    *store->group_end = mailbox_take(&store->mailbox);
    while (*store->group_end)
        store->group_end = &(*store->group_end)->next;
}

/* Waits for mail, or until it is time to try again, or to stop. */
static void rest(struct store *store)
{
    bool looks = store->changed || atomic_load(&store->rider);
    int timeout = store->group ? (int)store->wait_ms : looks ? STORE_WATCH_MS : -1;
    if (atomic_load(&store->stopping))
        timeout = store->group ? STOPPING_WAIT_MS : 0;
    if (!store->group && !mailbox_sleep(&store->mailbox))
        return;
    struct pollfd wake = { .fd = store->mailbox.fd, .events = POLLIN };
    uint64_t woken;
    if (poll(&wake, 1, timeout) > 0 && read(store->mailbox.fd, &woken, sizeof(woken)) < 0)
        return;
}

static bool may_go_on(const struct store *store)
{
    if (!atomic_load(&store->stopping))
        return true;
    return store->group && clock_mono_ms() < atomic_load(&store->stop_by_ms);
}

/* Most of what waits may be delivered in the meantime. */
static void gather(void)
{
    const struct timespec span = { .tv_nsec = STORE_GATHER_MS * 1000000L };
    nanosleep(&span, NULL);
}

static int data_version(struct store *store)
{
    sqlite3_stmt *s = store_statement(store, "PRAGMA data_version");
    int version = s && sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int(s, 0) : 0;
    if (s)
        sqlite3_reset(s);
    return version;
}

/* Whether another program has written; our own commits do not count. */
static void look_for_changes(struct store *store)
{
    int64_t now = clock_mono_ms();
    if (!store->changed || now - store->looked_ms < STORE_WATCH_MS)
        return;
    store->looked_ms = now;
    int version = data_version(store);
    if (version == store->data_version)
        return;
    store->data_version = version;
    store->changed(store->changed_context);
}

static int do_nothing(struct store_task *task, struct store *store)
{
    (void)task;
    (void)store;
    return SQLITE_OK;
}

/* From now on the writer looks: it alone uses the connection. */
static void begin_watch(struct store_task *task, struct store *store)
{
    (void)task;
    store->changed = store->wanted_changed;
    store->data_version = data_version(store);
}

void store_watch(struct store *store, void (*changed)(void *context), void *context)
{
    store->wanted_changed = changed;
    store->changed_context = context;
    store->watch = (struct store_task){ .apply = do_nothing, .done = begin_watch };
    store_post(store, &store->watch);
}

/* Changes the file without changing anything in it. */
static int write_header(struct store_task *task, struct store *store)
{
    (void)task;
    sqlite3_stmt *s = store_statement(store, "PRAGMA user_version");
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    char again[64];
    if (rc == SQLITE_ROW)
        snprintf(again, sizeof(again), "PRAGMA user_version = %d", sqlite3_column_int(s, 0));
    if (s)
        sqlite3_reset(s);
    return rc == SQLITE_ROW ? run(store, again) : rc;
}

static void end_probe(struct store_task *task, struct store *store)
{
    (void)task;
    store->probing = false;
}

/* What failed may not be wanted any more, and then nobody would notice that the trouble is over. */
static void probe(struct store *store)
{
    if (store->group || store->probing || !atomic_load(&store->in_trouble) ||
        atomic_load(&store->damaged))
        return;
    store->probing = true;
    store->probe = (struct store_task){ .apply = write_header, .done = end_probe };
    store_post(store, &store->probe);
}

static void *write_main(void *context)
{
    struct store *store = context;
    for (;;) {
        /* Read before the mailbox: what was posted before the stop is seen. */
        bool stopping = atomic_load(&store->stopping);
        if (!stopping)
            look_for_changes(store);
        take(store);
        if (store->group && !stopping && store->wait_ms == 0) {
            gather();
            take(store);
        }
        if (store->group || rides_alone(store)) {
            size_t count;
            if (commit(store, &count)) {
                store->wait_ms = 0;
                tell(store, count);
                continue;
            }
        }
        if (store->group) {
            store->wait_ms = store->wait_ms ? store->wait_ms * 2 : FIRST_WAIT_MS;
            if (store->wait_ms > LAST_WAIT_MS)
                store->wait_ms = LAST_WAIT_MS;
        }
        if (stopping && !may_go_on(store))
            break;
        if (!stopping)
            probe(store);
        rest(store);
    }
    return NULL;
}

void store_ride(struct store *store, struct store_rider *rider)
{
    atomic_store(&store->rider, rider);
    mailbox_wake(&store->mailbox);
}

void store_wake(struct store *store)
{
    mailbox_wake(&store->mailbox);
}

void store_post(struct store *store, struct store_task *task)
{
    atomic_fetch_add_explicit(&store->posted, 1, memory_order_relaxed);
    mailbox_post_one(&store->mailbox, &task->mail);
}

/* ---- Opening ---- */

static void release(struct store *store)
{
    for (size_t i = 0; i < store->statement_count; i++)
        sqlite3_finalize(store->statements[i].prepared);
    store_file_close(&store->file);
    buf_release(&store->scratch);
    buf_release(&store->damage);
    free(store);
}

/* The check's thread. The writer says so with the next group, and goes on saying so. */
static void on_damage(void *context, const char *found)
{
    struct store *store = context;
    store_file_damaged(store->file.path, found, &store->damage);
    log_error("%s; nothing more is acknowledged", buf_str(&store->damage));
    atomic_store(&store->in_trouble, true);
    atomic_store(&store->damaged, true);
}

static int check_at_start(struct store *store, struct buf *why)
{
    if (!store->file.durable)
        return 0;
    if (check_is_long(store->file.path))
        return check_start(store->file.path, on_damage, store, &store->check);
    struct buf found = BUF_INIT(65536);
    int rc = check_database(store->file.db, &found);
    if (found.len > 0)
        store_file_damaged(store->file.path, buf_str(&found), why);
    else if (rc != SQLITE_OK)
        buf_addf(why, "%s cannot be read: %s", store->file.path, sqlite3_errmsg(store->file.db));
    rc = found.len > 0 ? -EBADMSG : rc == SQLITE_OK ? 0 : -EIO;
    buf_release(&found);
    return rc;
}

static int start(struct store *store, struct buf *why)
{
    int rc = mailbox_init(&store->mailbox);
    if (rc == 0 && (rc = -pthread_create(&store->thread, NULL, write_main, store)) < 0)
        mailbox_release(&store->mailbox);
    if (rc < 0)
        buf_addf(why, "the store's thread cannot be started: %s", strerror(-rc));
    else
        pthread_setname_np(store->thread, "store");
    return rc;
}

int store_open(const char *path, struct store **out, struct buf *why)
{
    *out = NULL;
    struct store *store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    buf_init(&store->scratch, SCRATCH_MOST);
    buf_init(&store->damage, 65536);
    int rc = store_file_open(&store->file, path, why);
    if (rc == 0) {
        char pages[64];
        snprintf(pages, sizeof(pages), "PRAGMA wal_autocheckpoint = %d", WAL_PAGES);
        run(store, pages);
        rc = check_at_start(store, why);
    }
    if (rc == 0)
        rc = start(store, why);
    if (rc < 0) {
        check_stop(store->check);
        release(store);
        return rc;
    }
    *out = store;
    return 0;
}

bool store_is_durable(const struct store *store)
{
    return store->file.durable;
}

/* ---- The end ---- */

/* A task behind all others. */
struct drain {
    struct store_task task;
    sem_t done;
    atomic_bool
        over; /* says what the semaphore says, also to the thread sanitizer, which does not know sem_clockwait() */
    struct drain *next; /* of those that nobody waits for any more */
};

static bool drain_is_needed(const struct store_task *task)
{
    (void)task;
    return false;
}

static void drain_is_done(struct store_task *task, struct store *store)
{
    (void)store;
    struct drain *drain = CONTAINER_OF(task, struct drain, task);
    atomic_store(&drain->over, true);
    sem_post(&drain->done);
}

static void drain_free(struct drain *drain)
{
    sem_destroy(&drain->done);
    free(drain);
}

bool store_drain(struct store *store, int64_t wait_ms)
{
    struct drain *drain = store ? calloc(1, sizeof(*drain)) : NULL;
    if (!drain)
        return !store;
    drain->task = (struct store_task){
        .needed = drain_is_needed,
        .apply = do_nothing,
        .done = drain_is_done,
    };
    sem_init(&drain->done, 0, 0);
    store_post(store, &drain->task);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(wait_ms / 1000);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    int rc;
    while ((rc = sem_clockwait(&drain->done, CLOCK_MONOTONIC, &until)) < 0 && errno == EINTR)
        ;
    if (rc == 0 && atomic_load(&drain->over)) {
        drain_free(drain);
        return true;
    }
    drain->next = store->drains; /* the writer has it still */
    store->drains = drain;
    return false;
}

size_t store_close(struct store *store, int64_t wait_ms)
{
    if (!store)
        return 0;
    atomic_store(&store->stop_by_ms, clock_mono_ms() + wait_ms);
    atomic_store(&store->stopping, true);
    mailbox_wake(&store->mailbox);
    pthread_join(store->thread, NULL);
    take(store);
    size_t left = 0;
    for (const struct mail *mail = store->group; mail; mail = mail->next)
        left++;
    check_stop(store->check);
    mailbox_release(&store->mailbox);
    for (struct drain *drain = store->drains, *next; drain; drain = next) {
        next = drain->next;
        left -= left > 0 && sem_trywait(&drain->done) < 0;
        drain_free(drain);
    }
    release(store);
    return left;
}

/* The log can be the larger one: a full disk lets nothing be moved from it into the file. */
static int64_t size_on_disk(const struct store *store)
{
    if (!store->file.durable)
        return 0;
    struct stat file, log;
    struct buf name = BUF_INIT(65536);
    buf_addf(&name, "%s-wal", store->file.path);
    int64_t size = stat(store->file.path, &file) == 0 ? (int64_t)file.st_size : 0;
    size += stat(buf_str(&name), &log) == 0 ? (int64_t)log.st_size : 0;
    buf_release(&name);
    return size;
}

void store_stats(struct store *store, struct store_stats *out)
{
    *out = (struct store_stats){
        .tasks = atomic_load(&store->finished),
        .commits = atomic_load(&store->commits),
        .failures = atomic_load(&store->failures),
        .set_apart = atomic_load(&store->set_apart),
        .waiting = atomic_load(&store->posted) - atomic_load(&store->finished),
        .in_trouble = atomic_load(&store->in_trouble),
        .bytes = size_on_disk(store),
    };
}
