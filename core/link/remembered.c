/* SPDX-License-Identifier: MIT */

/* The file is a series of NUL-terminated strings: a mark, the session, the filters. */

#include "link/remembered.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK     "tocsin link filters 1"
#define MAX_SIZE (64 * 1024 * 1024)

static int read_file(const char *path, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    ssize_t n;
    do {
        char *to = buf_reserve(out, 64 * 1024);
        n = to ? read(fd, to, 64 * 1024) : 0;
        if (n > 0)
            buf_commit(out, (size_t)n);
    } while (n > 0);
    int rc = n < 0 ? -errno : out->error;
    close(fd);
    return rc;
}

/* Takes the next string off [*at, end); NULL if there is none that ends. */
static const char *next_string(const char **at, const char *end)
{
    const char *text = *at, *nul = memchr(text, '\0', (size_t)(end - text));
    if (!nul)
        return NULL;
    *at = nul + 1;
    return text;
}

static int split(const struct buf *content, const char *session, char ***filters, size_t *count)
{
    const char *at = buf_str(content), *end = at + content->len;
    const char *mark = next_string(&at, end);
    if (!mark || strcmp(mark, MARK) != 0)
        return -EINVAL;
    const char *of = next_string(&at, end);
    if (!of)
        return -EINVAL;
    if (strcmp(of, session) != 0)
        return 0;
    const char *first = at;
    size_t n = 0;
    while (next_string(&at, end))
        n++;
    if (at != end)
        return -EINVAL;
    *filters = calloc(n + 1, sizeof(**filters));
    if (!*filters)
        return -ENOMEM;
    for (at = first; *count < n; (*count)++) {
        (*filters)[*count] = strdup(next_string(&at, end));
        if (!(*filters)[*count])
            return -ENOMEM;
    }
    return 0;
}

int remembered_read(const char *path, const char *session, char ***filters, size_t *count)
{
    *filters = NULL;
    *count = 0;
    struct buf content = BUF_INIT(MAX_SIZE);
    int rc = read_file(path, &content);
    if (rc == 0 && content.len > 0)
        rc = split(&content, session, filters, count);
    buf_release(&content);
    return rc;
}

static int write_file(const char *path, const struct buf *content)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int rc = 0;
    for (size_t done = 0; rc == 0 && done < content->len;) {
        ssize_t n = write(fd, content->data + done, content->len - done);
        if (n < 0 && errno != EINTR)
            rc = -errno;
        else if (n > 0)
            done += (size_t)n;
    }
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    close(fd);
    return rc;
}

int remembered_write(const char *path, const char *session, const char *const *filters,
                     size_t count)
{
    struct buf content = BUF_INIT(MAX_SIZE), draft = BUF_INIT(4096);
    buf_add(&content, MARK, sizeof(MARK));
    buf_add(&content, session, strlen(session) + 1);
    for (size_t i = 0; i < count; i++)
        buf_add(&content, filters[i], strlen(filters[i]) + 1);
    buf_addf(&draft, "%s.new", path);
    int rc = content.error ? content.error : draft.error;
    if (rc == 0)
        rc = write_file(buf_str(&draft), &content);
    if (rc == 0 && rename(buf_str(&draft), path) < 0)
        rc = -errno;
    buf_release(&content);
    buf_release(&draft);
    return rc;
}
