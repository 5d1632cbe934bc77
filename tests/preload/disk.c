/* SPDX-License-Identifier: MIT */

/*
 * LD_PRELOAD: a disk that can fail, and that remembers. It is in the way of what a program writes to the file that
 * DISK_PATH names, and to its -wal and -journal. Any thread.
 *
 * The first word of the file DISK_MOOD says what becomes of it: full (writes fail with ENOSPC), torn (half of the bytes,
 * then ENOSPC), broken (writes fail with EIO), unsynced (syncs fail with EIO), anything else: all goes well.
 *
 * To the file DISK_TRACE each change is added: a struct record, then the bytes. So it can be told what would be on a disk
 * whose power failed at some moment (tests/system/crash/power.py).
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum file {
    FILE_OTHER,
    FILE_DATABASE,
    FILE_WAL,
    FILE_JOURNAL,
    FILE_FOLDER,
};

struct record {
    int64_t begin_us, end_us; /* monotonic */
    int64_t offset;           /* of a write; the new length, when it is cut */
    uint32_t len;
    uint8_t kind; /* W written, C cut, S synced, U unlinked */
    uint8_t file;
    uint8_t unused[2];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace_fd = -2; /* not opened yet */

/* The library's own function: C has no cast for that, POSIX has. */
#define NEXT(NAME)                             \
    static __typeof__(NAME) *next;             \
    if (!next) {                               \
        void *found = dlsym(RTLD_NEXT, #NAME); \
        memcpy(&next, &found, sizeof(next));   \
    }

static enum file file_of_path(const char *path)
{
    static const char *const suffixes[] = { "", "-wal", "-journal" };
    const char *database = getenv("DISK_PATH");
    if (!database)
        return FILE_OTHER;
    size_t len = strlen(database);
    if (strncmp(path, database, len) == 0)
        for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
            if (strcmp(path + len, suffixes[i]) == 0)
                return (enum file)(FILE_DATABASE + i);
    size_t folder = (size_t)(strrchr(database, '/') - database);
    return strlen(path) == folder && strncmp(path, database, folder) == 0 ? FILE_FOLDER
                                                                          : FILE_OTHER;
}

static enum file file_of(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof(path) - 1);
    if (len < 0)
        return FILE_OTHER;
    path[len] = '\0';
    return file_of_path(path);
}

static char mood(void)
{
    const char *path = getenv("DISK_MOOD");
    char word = '-';
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        if (read(fd, &word, 1) < 1)
            word = '-';
        close(fd);
    }
    return word;
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void note(uint8_t kind, enum file file, int64_t begin_us, int64_t offset, const void *data,
                 size_t len)
{
    const char *path = getenv("DISK_TRACE");
    if (!path || file == FILE_OTHER)
        return;
    struct record record = { .begin_us = begin_us,
                             .end_us = now_us(),
                             .offset = offset,
                             .len = (uint32_t)len,
                             .kind = kind,
                             .file = (uint8_t)file };
    struct iovec parts[] = { { &record, sizeof(record) }, { (void *)data, len } };
    pthread_mutex_lock(&lock);
    if (trace_fd == -2)
        trace_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (writev(trace_fd, parts, 2) != (ssize_t)(sizeof(record) + len))
        abort(); /* a trace with a gap proves nothing */
    pthread_mutex_unlock(&lock);
}

static bool write_fails(enum file file)
{
    char m = file == FILE_OTHER ? '-' : mood();
    errno = m == 'f' ? ENOSPC : EIO;
    return m == 'f' || m == 'b';
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    NEXT(pwrite64)
    enum file file = file_of(fd);
    int64_t begin_us = now_us();
    if (write_fails(file))
        return -1;
    bool torn = file != FILE_OTHER && len > 1 && mood() == 't';
    ssize_t done = next(fd, data, torn ? len / 2 : len, offset);
    if (done > 0)
        note('W', file, begin_us, offset, data, (size_t)done);
    if (torn) {
        errno = ENOSPC;
        return -1;
    }
    return done;
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return pwrite64(fd, data, len, offset);
}

static bool sync_fails(enum file file)
{
    errno = EIO;
    return file != FILE_OTHER && mood() == 'u';
}

EXPORT int fdatasync(int fd)
{
    NEXT(fdatasync)
    enum file file = file_of(fd);
    int64_t begin_us = now_us();
    if (sync_fails(file))
        return -1;
    int rc = next(fd);
    if (rc == 0)
        note('S', file, begin_us, 0, NULL, 0);
    return rc;
}

EXPORT int fsync(int fd)
{
    NEXT(fsync)
    enum file file = file_of(fd);
    int64_t begin_us = now_us();
    if (sync_fails(file))
        return -1;
    int rc = next(fd);
    if (rc == 0)
        note('S', file, begin_us, 0, NULL, 0);
    return rc;
}

EXPORT int ftruncate64(int fd, off64_t len)
{
    NEXT(ftruncate64)
    enum file file = file_of(fd);
    int64_t begin_us = now_us();
    int rc = next(fd, len);
    if (rc == 0)
        note('C', file, begin_us, len, NULL, 0);
    return rc;
}

EXPORT int ftruncate(int fd, off_t len)
{
    return ftruncate64(fd, len);
}

EXPORT int unlink(const char *path)
{
    NEXT(unlink)
    int64_t begin_us = now_us();
    int rc = next(path);
    if (rc == 0)
        note('U', file_of_path(path), begin_us, 0, NULL, 0);
    return rc;
}
