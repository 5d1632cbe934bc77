/* SPDX-License-Identifier: MIT */

/* See check.h. */

#include "store/check.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FOUND_MOST 500 /* bytes of what is told */
#define IDLE_NICE  10

static int on_line(void *context, int columns, char **values, char **names)
{
    (void)names;
    struct buf *found = context;
    const char *line = columns > 0 && values[0] ? values[0] : "ok";
    if (strncmp(line, "*** ", 4) == 0) /* a heading of the first one */
        line += strcspn(line, "\n") + (strchr(line, '\n') != NULL);
    if (strcmp(line, "ok") != 0 && found->len < FOUND_MOST)
        buf_addf(found, "%s%s", found->len ? "; " : "", line);
    return 0;
}

int check_database(sqlite3 *db, struct buf *found)
{
    int rc = sqlite3_exec(db, "PRAGMA quick_check(5)", on_line, found, NULL);
    if (rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB)
        buf_addf(found, "%s%s", found->len ? "; " : "", sqlite3_errmsg(db));
    return rc;
}

bool check_is_long(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && file.st_size > CHECK_AT_ONCE_MOST;
}

/* ---- Beside the work ---- */

struct check {
    char *path;
    void (*damaged)(void *context, const char *found);
    void *context;
    sqlite3 *db;
    pthread_t thread;
    atomic_bool over, broken_off;
};

static void tell(struct check *check, int rc, const struct buf *found, int64_t took_ms)
{
    if (found->len > 0)
        check->damaged(check->context, buf_str(found));
    else if (rc == SQLITE_OK)
        log_info("store: %s is whole, which took %" PRId64 " ms to check", check->path, took_ms);
    else if (atomic_load(&check->broken_off))
        log_warning("store: %s was not checked to its end, as much is written to it; `tocsin store "
                    "check %s` checks it, when tocsin has ended",
                    check->path, check->path);
    else if (rc != SQLITE_INTERRUPT)
        log_warning("store: %s could not be checked: %s", check->path, sqlite3_errmsg(check->db));
}

static void *check_main(void *context)
{
    struct check *check = context;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), IDLE_NICE);
    struct buf found = BUF_INIT(65536);
    int64_t began_ms = clock_mono_ms();
    int rc = check_database(check->db, &found);
    atomic_store(&check->over, true);
    tell(check, rc, &found, clock_mono_ms() - began_ms);
    buf_release(&found);
    return NULL;
}

int check_start(const char *path, void (*damaged)(void *context, const char *found), void *context,
                struct check **out)
{
    *out = NULL;
    struct check *check = calloc(1, sizeof(*check));
    if (!check || !(check->path = strdup(path))) {
        free(check);
        return -ENOMEM;
    }
    check->damaged = damaged;
    check->context = context;
    int rc = 0;
    /* Not read only: then it could not use the log's index, or would miss what is in the log. */
    if (sqlite3_open_v2(path, &check->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        rc = -EIO;
    if (rc == 0) {
        sqlite3_db_config(check->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        rc = -pthread_create(&check->thread, NULL, check_main, check);
    }
    if (rc < 0) {
        sqlite3_close(check->db);
        free(check->path);
        free(check);
        return rc;
    }
    pthread_setname_np(check->thread, "store check");
    *out = check;
    return 0;
}

void check_break_off(struct check *check)
{
    if (!check || atomic_load(&check->over) || atomic_exchange(&check->broken_off, true))
        return;
    sqlite3_interrupt(check->db);
}

void check_stop(struct check *check)
{
    if (!check)
        return;
    /* Again and again: one that comes before it has begun is forgotten. */
    struct timespec until;
    do {
        sqlite3_interrupt(check->db);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 10 * 1000 * 1000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    } while (pthread_timedjoin_np(check->thread, NULL, &until) == ETIMEDOUT);
    sqlite3_close(check->db);
    free(check->path);
    free(check);
}
