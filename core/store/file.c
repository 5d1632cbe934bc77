/* SPDX-License-Identifier: MIT */

/* See file.h. */

#include "store/file.h"

#include "base/log.h"
#include "store/schema.h"
#include "store/store.h"
#include "store/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

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
static int lock(struct store_file *file, struct buf *why)
{
    struct buf name = BUF_INIT(65536);
    buf_addf(&name, "%s-lock", file->path);
    file->lock_fd = open(buf_str(&name), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    int rc = file->lock_fd < 0 ? -errno : 0;
    if (rc == 0 && flock(file->lock_fd, LOCK_EX | LOCK_NB) < 0)
        rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
    if (rc == -EBUSY)
        buf_addf(
            why,
            "%s is in use: another tocsin runs with this store; end it, or name another file in "
            "store.path",
            file->path);
    else if (rc < 0)
        buf_addf(why,
                 "%s cannot be written: %s; store.path has to be in a folder that this user "
                 "may write",
                 buf_str(&name), strerror(-rc));
    buf_release(&name);
    return rc == -EROFS || rc == -EPERM ? -EACCES : rc;
}

void store_file_damaged(const char *path, const char *found, struct buf *why)
{
    buf_addf(
        why,
        "%s is damaged (%s): nothing in it was changed; `tocsin store rescue %s` saves what can be "
        "read; or move it away to begin with an empty one",
        path, found, path);
}

void store_file_not_a_database(const char *path, const char *found, struct buf *why)
{
    if (trace_found(path))
        store_file_damaged(path, found, why);
    else
        buf_addf(why,
                 "%s is no store, or nothing is left of it (%s): nothing in it was changed; name "
                 "another file in store.path, or move it away to begin with an empty one",
                 path, found);
}

/* Says what SQLite has against the file. */
static int explain(const struct store_file *file, struct buf *why)
{
    int code = sqlite3_errcode(file->db) & 0xff, system = sqlite3_system_errno(file->db);
    switch (code) {
    case SQLITE_NOTADB:
        store_file_not_a_database(file->path, sqlite3_errmsg(file->db), why);
        return -EBADMSG;
    case SQLITE_CORRUPT:
        store_file_damaged(file->path, sqlite3_errmsg(file->db), why);
        return -EBADMSG;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
        buf_addf(why,
                 "%s cannot be written: %s%s%s; give this user the right to write it and its "
                 "folder",
                 file->path, sqlite3_errmsg(file->db), system ? ": " : "",
                 system ? strerror(system) : "");
        return -EACCES;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        buf_addf(why, "%s is locked by another program: end that one", file->path);
        return -EBUSY;
    default:
        buf_addf(why, "%s cannot be opened: %s%s%s", file->path, sqlite3_errmsg(file->db),
                 system ? ": " : "", system ? strerror(system) : "");
        return system ? -system : -EIO;
    }
}

static int run(const struct store_file *file, const char *sql)
{
    return sqlite3_exec(file->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -EIO;
}

static int open_file(struct store_file *file, struct buf *why)
{
    int rc = file->durable ? make_folder(file->path, why) : 0;
    if (rc == 0 && file->durable)
        rc = lock(file, why);
    if (rc < 0)
        return rc;
    size_t said = why->len;
    /* Payloads are not for everybody: SQLite's own mode would be 0644. Its other files take that of this one. */
    int fd = file->durable
                 ? open(file->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640)
                 : -1;
    if (fd >= 0)
        close(fd);
    if (sqlite3_open_v2(file->path, &file->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        rc = -EIO;
    /* SQLite is content with a file that it may only read. */
    if (rc == 0 && sqlite3_db_readonly(file->db, "main") == 1) {
        buf_addf(why,
                 "%s cannot be written: it may only be read; give this user the right to write it "
                 "and its folder",
                 file->path);
        rc = -EACCES;
    }
    if (rc == 0)
        sqlite3_busy_timeout(file->db, 2000);
    /* The schema is looked at first: what is not ours is not touched. */
    if (rc == 0)
        rc = schema_prepare(file->db, file->path, why);
    if (rc == 0)
        rc = run(file, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
    if (rc < 0 && why->len == said)
        rc = explain(file, why);
    return rc;
}

static int begin(struct store_file *file, const char *path)
{
    *file = (struct store_file){ .durable = strcmp(path, STORE_MEMORY) != 0, .lock_fd = -1 };
    file->path = strdup(path);
    return file->path ? 0 : -ENOMEM;
}

int store_file_open(struct store_file *file, const char *path, struct buf *why)
{
    int rc = begin(file, path);
    return rc == 0 ? open_file(file, why) : rc;
}

int store_file_lock(struct store_file *file, const char *path, struct buf *why)
{
    int rc = begin(file, path);
    return rc == 0 ? lock(file, why) : rc;
}

void store_file_close(struct store_file *file)
{
    sqlite3_close(file->db);
    if (file->lock_fd >= 0)
        close(file->lock_fd);
    free(file->path);
    *file = (struct store_file){ .lock_fd = -1 };
}
