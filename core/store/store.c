/* SPDX-License-Identifier: MIT */

/* The file, and the thread that writes it. */

#include "store/store.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"
#include "store/fault.h"
#include "store/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GROUP_MOST       10000 /* tasks of one transaction */
#define STATEMENTS       64    /* different ones */
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
    char *path;
    bool durable;
    int lock_fd; /* the file `PATH-lock`, locked as long as we run */
    sqlite3 *db;
    struct statement statements[STATEMENTS];
    size_t statement_count;
    struct buf scratch;

    pthread_t thread;
    bool started;
    struct mailbox mailbox;
    atomic_bool stopping;
    atomic_int_fast64_t stop_by_ms;

    /* The writer's. */
    struct mail *group, **group_end; /* what has been taken and not been committed, oldest first */
    int64_t wait_ms;
    struct log_trouble trouble;

    struct store_task watch;
    void (*wanted_changed)(void *context); /* until the writer watches */
    void (*changed)(void *context);
    void *changed_context;
    int data_version;
    int64_t looked_ms;

    atomic_uint_fast64_t posted, finished, commits, failures;
    atomic_bool in_trouble;
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
        if (sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &at->prepared,
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
    return store->db;
}

/* ---- The writer ---- */

static bool has_failed(int rc)
{
    return rc != SQLITE_OK && rc != SQLITE_DONE;
}

/* Carries out the group. Returns how many tasks of it have been committed, 0 if it failed. */
static size_t commit(struct store *store)
{
    size_t count = 0;
    int rc = SQLITE_OK;
    bool begun = false;
    for (struct mail *mail = store->group; mail && count < GROUP_MOST && !has_failed(rc);
         mail = mail->next) {
        struct store_task *task = CONTAINER_OF(mail, struct store_task, mail);
        count++;
        if (task->needed && !task->needed(task))
            continue;
        if (!begun)
            rc = sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        begun = true;
        if (!has_failed(rc))
            rc = task->apply(task, store);
    }
    fault_point("before-commit");
    if (begun && !has_failed(rc))
        rc = sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL);
    if (!has_failed(rc)) {
        fault_point("after-commit");
        return count;
    }
    int system = sqlite3_system_errno(store->db);
    char words[200];
    snprintf(words, sizeof(words), "%s%s%s", sqlite3_errmsg(store->db), system ? ": " : "",
             system ? strerror(system) : "");
    if (!sqlite3_get_autocommit(store->db))
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    if (log_trouble_due(&store->trouble, clock_mono_ms()))
        log_error("store: cannot write %s, nothing more is acknowledged until that is over: %s",
                  store->path, words);
    atomic_store(&store->in_trouble, true);
    atomic_fetch_add(&store->failures, 1);
    return 0;
}

/* Tells those that have been committed. */
static void tell(struct store *store, size_t count)
{
    if (log_trouble_over(&store->trouble))
        log_info("store: %s can be written again", store->path);
    atomic_store(&store->in_trouble, false);
    atomic_fetch_add(&store->commits, 1);
    while (count-- > 0) {
        struct mail *mail = store->group;
        store->group = mail->next;
        if (!store->group)
            store->group_end = &store->group;
        struct store_task *task = CONTAINER_OF(mail, struct store_task, mail);
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
    int timeout = store->group ? (int)store->wait_ms : store->changed ? STORE_WATCH_MS : -1;
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
        if (store->group) {
            size_t count = commit(store);
            if (count > 0) {
                store->wait_ms = 0;
                tell(store, count);
                continue;
            }
            store->wait_ms = store->wait_ms ? store->wait_ms * 2 : FIRST_WAIT_MS;
            if (store->wait_ms > LAST_WAIT_MS)
                store->wait_ms = LAST_WAIT_MS;
        }
        if (stopping && !may_go_on(store))
            break;
        rest(store);
    }
    return NULL;
}

void store_post(struct store *store, struct store_task *task)
{
    atomic_fetch_add_explicit(&store->posted, 1, memory_order_relaxed);
    mailbox_post_one(&store->mailbox, &task->mail);
}

/* ---- Opening ---- */

/* A user who is new has no ~/.local/state yet; elsewhere nobody's folders are made but the last one. */
static void make_home(const char *folder)
{
    const char *home = getenv("HOME");
    size_t len = home && *home == '/' ? strlen(home) : 0;
    if (len == 0 || strncmp(folder, home, len) != 0 ||
        strcmp(folder + len, "/.local/state/tocsin") != 0)
        return;
    struct buf parent = BUF_INIT(65536);
    if (buf_addf(&parent, "%s/.local", home) == 0 && mkdir(buf_str(&parent), 0700) < 0 &&
        errno != EEXIST)
        log_debug("%s cannot be made: %s", buf_str(&parent), strerror(errno));
    if (buf_add_str(&parent, "/state") == 0 && mkdir(buf_str(&parent), 0700) < 0 && errno != EEXIST)
        log_debug("%s cannot be made: %s", buf_str(&parent), strerror(errno));
    buf_release(&parent);
}

static int make_folder(const char *path, struct buf *why)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return 0;
    char *folder = strndup(path, (size_t)(slash - path));
    if (!folder)
        return -ENOMEM;
    make_home(folder);
    int rc = mkdir(folder, 0750) == 0 || errno == EEXIST ? 0 : -errno;
    if (rc < 0)
        buf_addf(why,
                 "the folder %s cannot be made: %s; make it, or name another file in store.path",
                 folder, strerror(-rc));
    free(folder);
    return rc;
}

/* Locks the file `PATH-lock`: SQLite's own locks let a second program wait instead of telling it. */
static int lock(struct store *store, struct buf *why)
{
    struct buf name = BUF_INIT(65536);
    buf_addf(&name, "%s-lock", store->path);
    store->lock_fd = open(buf_str(&name), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    int rc = store->lock_fd < 0 ? -errno : 0;
    if (rc == 0 && flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0)
        rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
    if (rc == -EBUSY)
        buf_addf(
            why,
            "%s is in use: another tocsin runs with this store; end it, or name another file in "
            "store.path",
            store->path);
    else if (rc < 0)
        buf_addf(why,
                 "%s cannot be written: %s; store.path has to be in a folder that this user "
                 "may write",
                 buf_str(&name), strerror(-rc));
    buf_release(&name);
    return rc == -EROFS || rc == -EPERM ? -EACCES : rc;
}

/* Says what SQLite has against the file. */
static int explain(const struct store *store, struct buf *why)
{
    int code = sqlite3_errcode(store->db) & 0xff, system = sqlite3_system_errno(store->db);
    switch (code) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        buf_addf(
            why,
            "%s is damaged (%s): nothing in it was changed; `sqlite3 %s .recover` shows what can "
            "be saved; move it away to begin with an empty one",
            store->path, sqlite3_errmsg(store->db), store->path);
        return -EBADMSG;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
        buf_addf(why,
                 "%s cannot be written: %s%s%s; give this user the right to write it and its "
                 "folder",
                 store->path, sqlite3_errmsg(store->db), system ? ": " : "",
                 system ? strerror(system) : "");
        return -EACCES;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        buf_addf(why, "%s is locked by another program: end that one", store->path);
        return -EBUSY;
    default:
        buf_addf(why, "%s cannot be opened: %s%s%s", store->path, sqlite3_errmsg(store->db),
                 system ? ": " : "", system ? strerror(system) : "");
        return system ? -system : -EIO;
    }
}

static int run(const struct store *store, const char *sql)
{
    return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -EIO;
}

static int on_check(void *context, int columns, char **values, char **names)
{
    (void)names;
    struct buf *found = context;
    if (columns > 0 && values[0] && strcmp(values[0], "ok") != 0 && found->len < 500)
        buf_addf(found, "%s%s", found->len ? "; " : "", values[0]);
    return 0;
}

/* Reads every page once. */
static int check_integrity(const struct store *store, struct buf *why)
{
    struct buf found = BUF_INIT(65536);
    int rc = sqlite3_exec(store->db, "PRAGMA quick_check(5)", on_check, &found, NULL);
    bool damaged = rc == SQLITE_OK && found.len > 0;
    if (damaged)
        buf_addf(
            why,
            "%s is damaged (%s): nothing in it was changed; `sqlite3 %s .recover` shows what can "
            "be saved; move it away to begin with an empty one",
            store->path, buf_str(&found), store->path);
    buf_release(&found);
    if (damaged)
        return -EBADMSG;
    return rc == SQLITE_OK ? 0 : -EIO;
}

static int open_file(struct store *store, struct buf *why)
{
    int rc = store->durable ? make_folder(store->path, why) : 0;
    if (rc == 0 && store->durable)
        rc = lock(store, why);
    if (rc < 0)
        return rc;
    size_t said = why->len;
    /* Payloads are not for everybody: SQLite's own mode would be 0644. Its other files take that of this one. */
    int fd = store->durable
                 ? open(store->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640)
                 : -1;
    if (fd >= 0)
        close(fd);
    if (sqlite3_open_v2(store->path, &store->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        rc = -EIO;
    /* SQLite is content with a file that it may only read. */
    if (rc == 0 && sqlite3_db_readonly(store->db, "main") == 1) {
        buf_addf(why,
                 "%s cannot be written: it may only be read; give this user the right to write it "
                 "and its folder",
                 store->path);
        rc = -EACCES;
    }
    if (rc == 0)
        sqlite3_busy_timeout(store->db, 2000);
    /* The schema is looked at first: what is not ours is not touched. */
    if (rc == 0)
        rc = schema_prepare(store->db, store->path, why);
    if (rc == 0)
        rc = run(store, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
    if (rc == 0) {
        char pages[64];
        snprintf(pages, sizeof(pages), "PRAGMA wal_autocheckpoint = %d", WAL_PAGES);
        rc = run(store, pages);
    }
    if (rc == 0)
        rc = check_integrity(store, why);
    if (rc < 0 && why->len == said)
        rc = explain(store, why);
    return rc;
}

static void release(struct store *store)
{
    for (size_t i = 0; i < store->statement_count; i++)
        sqlite3_finalize(store->statements[i].prepared);
    sqlite3_close(store->db);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    buf_release(&store->scratch);
    free(store->path);
    free(store);
}

int store_open(const char *path, struct store **out, struct buf *why)
{
    *out = NULL;
    struct store *store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    store->lock_fd = -1;
    store->durable = strcmp(path, STORE_MEMORY) != 0;
    buf_init(&store->scratch, SCRATCH_MOST);
    store->path = strdup(path);
    int rc = store->path ? open_file(store, why) : -ENOMEM;
    if (rc < 0) {
        release(store);
        return rc;
    }
    rc = mailbox_init(&store->mailbox);
    if (rc == 0 && (rc = -pthread_create(&store->thread, NULL, write_main, store)) < 0)
        mailbox_release(&store->mailbox);
    if (rc < 0) {
        buf_addf(why, "the store's thread cannot be started: %s", strerror(-rc));
        release(store);
        return rc;
    }
    pthread_setname_np(store->thread, "store");
    *out = store;
    return 0;
}

bool store_is_durable(const struct store *store)
{
    return store->durable;
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
    mailbox_release(&store->mailbox);
    release(store);
    return left;
}

void store_stats(struct store *store, struct store_stats *out)
{
    struct stat file;
    *out = (struct store_stats){
        .tasks = atomic_load(&store->finished),
        .commits = atomic_load(&store->commits),
        .failures = atomic_load(&store->failures),
        .waiting = atomic_load(&store->posted) - atomic_load(&store->finished),
        .in_trouble = atomic_load(&store->in_trouble),
        .bytes = store->durable && stat(store->path, &file) == 0 ? (int64_t)file.st_size : 0,
    };
}
