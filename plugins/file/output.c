/* SPDX-License-Identifier: MIT */

#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIPE_WAIT_MS 1000 /* for the reader of a pipe to make room */

/* One vector for the data of each piece, and one for its line feed. */
#define VECTORS IOV_MAX

/* ---- Opening ---- */

/* Makes the folders on the way to a file. */
static int make_folders(const char *path, mode_t permissions)
{
    char folder[PATH_MAX];
    size_t len = strlen(path);
    if (len >= sizeof(folder))
        return -ENAMETOOLONG;
    memcpy(folder, path, len + 1);
    mode_t mode = permissions | (permissions & 0444) >> 2 | 0700;
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int rc = mkdir(folder, mode);
        *slash = '/';
        if (rc < 0 && errno != EEXIST)
            return -errno;
    }
    return 0;
}

/* Not to be stopped by a pipe that nobody reads, nor to take over a terminal. */
#define OPEN_FLAGS (O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

static int open_or_make(const char *path, const struct output_rules *rules)
{
    for (int tries = 0;; tries++) {
        int fd = open(path, OPEN_FLAGS | O_APPEND);
        if (fd >= 0 || errno != ENOENT)
            return fd >= 0 ? fd : -errno;
        fd = open(path, OPEN_FLAGS | O_APPEND | O_CREAT | O_EXCL, rules->permissions);
        if (fd >= 0) {
            fchmod(
                fd,
                rules->permissions); /* whatever the umask; where it is not ours to say, so be it */
            return fd;
        }
        if (errno != EEXIST || tries > 3)
            return -errno;
    }
}

int output_open(const char *path, const struct output_rules *rules)
{
    int fd = open_or_make(path, rules);
    if (fd == -ENOENT && rules->mkdir) {
        int rc = make_folders(path, rules->permissions);
        fd = rc < 0 ? rc : open_or_make(path, rules);
    }
    return fd;
}

/* ---- Writing ---- */

/* Waits until a pipe has room. */
static int await_room(int fd)
{
    struct pollfd poller = { .fd = fd, .events = POLLOUT };
    int n = poll(&poller, 1, PIPE_WAIT_MS);
    return n > 0 ? 0 : n == 0 || errno == EINTR ? -EAGAIN : -errno;
}

/* Writes vectors, which it changes. Sets `*written` to the bytes that got through, on failure too. */
static int write_vectors(int fd, struct iovec *vectors, size_t n, size_t *written)
{
    *written = 0;
    while (n > 0) {
        ssize_t got = writev(fd, vectors, (int)n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN && await_room(fd) == 0)
            continue;
        if (got < 0)
            return -errno;
        size_t len = (size_t)got;
        *written += len;
        while (n > 0 && len >= vectors->iov_len) {
            len -= vectors->iov_len;
            vectors++;
            n--;
        }
        if (n > 0) {
            vectors->iov_base = (char *)vectors->iov_base + len;
            vectors->iov_len -= len;
        }
    }
    return 0;
}

static size_t piece_len(const struct piece *piece)
{
    return piece->len + (piece->newline ? 1 : 0);
}

static size_t fill_vectors(struct iovec *vectors, const struct piece *pieces, size_t n)
{
    static char line_feed[] = "\n";
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].len > 0)
            vectors[count++] = (struct iovec){ (void *)pieces[i].data, pieces[i].len };
        if (pieces[i].newline)
            vectors[count++] = (struct iovec){ line_feed, 1 };
    }
    return count;
}

/* Takes the last `len` bytes away again, if they are the end of the file still. */
static void take_back(int fd, size_t len)
{
    struct stat file;
    off_t end = lseek(fd, 0, SEEK_CUR); /* where our last write ended */
    if (len == 0 || end < (off_t)len || fstat(fd, &file) < 0 || !S_ISREG(file.st_mode) ||
        file.st_size != end)
        return;
    int rc = ftruncate(fd, end - (off_t)len);
    (void)rc; /* then a torn line stays; the message is tried again as a whole */
}

static int append_some(int fd, const struct piece *pieces, size_t n, size_t *done)
{
    struct iovec vectors[VECTORS];
    size_t written;
    int rc = write_vectors(fd, vectors, fill_vectors(vectors, pieces, n), &written);
    *done = n;
    if (rc == 0)
        return 0;
    for (*done = 0; *done < n && written >= piece_len(&pieces[*done]); ++*done)
        written -= piece_len(&pieces[*done]);
    take_back(fd, written);
    return rc;
}

int output_append(int fd, const struct piece *pieces, size_t n, const struct output_rules *rules,
                  size_t *done)
{
    int rc = 0;
    *done = 0;
    while (*done < n && rc == 0) {
        size_t count = n - *done < VECTORS / 2 ? n - *done : VECTORS / 2, some;
        rc = append_some(fd, pieces + *done, count, &some);
        *done += some;
    }
    if (rules->sync && *done > 0 && fdatasync(fd) < 0 && errno != EINVAL && errno != EROFS) {
        *done = 0; /* nobody knows what is on the disk: better twice than not at all */
        return -errno;
    }
    return rc;
}

/* ---- Replacing ---- */

static int write_piece(int fd, const struct piece *piece, bool sync)
{
    struct iovec vectors[2];
    size_t written;
    int rc = write_vectors(fd, vectors, fill_vectors(vectors, piece, 1), &written);
    if (rc == 0 && sync && fsync(fd) < 0 && errno != EINVAL && errno != EROFS)
        rc = -errno;
    return rc;
}

/* A temporary file in the folder of `path`. */
static int open_beside(const char *path, char temporary[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    int folder_len = slash ? (int)(slash - path) + 1 : 0;
    int n = snprintf(temporary, PATH_MAX, "%.*s.tocsin-XXXXXX", folder_len, path);
    if (n < 0 || n >= PATH_MAX)
        return -ENAMETOOLONG;
    int fd = mkostemp(temporary, O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

static int replace_regular(const char *path, const struct piece *piece,
                           const struct output_rules *rules)
{
    char temporary[PATH_MAX];
    int fd = open_beside(path, temporary);
    if (fd == -ENOENT && rules->mkdir) {
        int rc = make_folders(path, rules->permissions);
        fd = rc < 0 ? rc : open_beside(path, temporary);
    }
    if (fd < 0)
        return fd;
    int rc = write_piece(fd, piece, rules->sync);
    if (rc == 0 && fchmod(fd, rules->permissions) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno; /* a network file system may say only now that it is full */
    if (rc == 0 && rename(temporary, path) < 0)
        rc = -errno;
    if (rc < 0)
        unlink(temporary);
    return rc;
}

int output_replace(const char *path, const struct piece *piece, const struct output_rules *rules)
{
    struct stat file;
    if (path[0] == '\0' || path[strlen(path) - 1] == '/')
        return -EISDIR;
    if (stat(path, &file) < 0 || S_ISREG(file.st_mode))
        return replace_regular(path, piece, rules);
    int fd = open(path, OPEN_FLAGS);
    if (fd < 0)
        return -errno;
    int rc = write_piece(fd, piece, false);
    close(fd);
    return rc;
}
