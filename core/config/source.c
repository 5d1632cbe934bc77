/* SPDX-License-Identifier: MIT */

/* Reading configuration files, with their includes. Any thread. */

#include "config/source.h"

#include "base/utf8.h"
#include "config/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES 65536

const char *file_names_keep(struct file_names *names, const char *name, size_t len)
{
    char **items = realloc(names->items, (names->count + 1) * sizeof(*items));
    if (!items)
        return NULL;
    names->items = items;
    items[names->count] = strndup(name, len);
    return items[names->count] ? items[names->count++] : NULL;
}

void file_names_release(struct file_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
    free(names->items);
    *names = (struct file_names){ 0 };
}

int file_read(const char *path, struct buf *out)
{
    /* Non-blocking, so that a FIFO nobody writes to cannot hang us in open(). */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    int rc = fcntl(fd, F_SETFL, 0) < 0 ? -errno : 0;
    char chunk[16384];
    while (rc == 0) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n == 0)
            break;
        if (n > 0)
            rc = buf_add(out, chunk, (size_t)n);
        else if (errno != EINTR)
            rc = -errno;
    }
    explicit_bzero(chunk, sizeof(chunk)); /* it may be a password */
    close(fd);
    return rc;
}

void path_beside(struct buf *out, const char *beside, const char *path, size_t len)
{
    const char *slash = strrchr(beside, '/');
    if (slash && path[0] != '/')
        buf_add(out, beside, (size_t)(slash - beside) + 1);
    buf_add(out, path, len);
}

void source_init(struct source *source)
{
    *source = (struct source){ .text = BUF_INIT(SOURCE_MAX_BYTES) };
}

void source_release(struct source *source)
{
    buf_release(&source->text);
    free(source->spans);
    source->spans = NULL;
    source->span_count = 0;
}

/* The next line of the text is this one. */
static int begin_span(struct source *source, const char *file, unsigned line)
{
    struct source_span *spans = realloc(source->spans, (source->span_count + 1) * sizeof(*spans));
    if (!spans)
        return -ENOMEM;
    source->spans = spans;
    spans[source->span_count++] =
        (struct source_span){ .first = source->lines + 1, .file = file, .line = line };
    return 0;
}

static const struct source_span *span_of(const struct source *source, unsigned line)
{
    size_t low = 0, high = source->span_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (source->spans[middle].first <= line)
            low = middle;
        else
            high = middle;
    }
    return &source->spans[low];
}

const char *source_file(const struct source *source, unsigned line)
{
    return span_of(source, line)->file;
}

unsigned source_line(const struct source *source, unsigned line)
{
    const struct source_span *span = span_of(source, line);
    return span->line + (line - span->first);
}

/* Follows the state over one line: only what stands neither in a string nor in a comment counts. */
static enum source_state state_after(enum source_state state, const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = line[i], next = i + 1 < len ? line[i + 1] : '\0';
        if (state == SOURCE_STRING) {
            if (c == '\\')
                i++;
            else if (c == '"')
                state = SOURCE_CODE;
        } else if (state == SOURCE_COMMENT) {
            if (c == '*' && next == '/') {
                state = SOURCE_CODE;
                i++;
            }
        } else if (c == '#' || (c == '/' && next == '/')) {
            break;
        } else if (c == '/' && next == '*') {
            state = SOURCE_COMMENT;
            i++;
        } else if (c == '"') {
            state = SOURCE_STRING;
        }
    }
    return state;
}

static int add_line(struct source *source, const char *line, size_t len)
{
    source->state = state_after(source->state, line, len);
    buf_add(&source->text, line, len);
    buf_add_byte(&source->text, '\n');
    source->lines++;
    return source->text.error;
}

/* The path in `@include "PATH"`; NULL if the line is another one. */
static const char *included(const char *line, size_t len, size_t *path_len)
{
    static const char word[] = "@include";
    size_t at = 0;
    while (at < len && (line[at] == ' ' || line[at] == '\t'))
        at++;
    if (len - at < sizeof(word) - 1 || memcmp(line + at, word, sizeof(word) - 1) != 0)
        return NULL;
    at += sizeof(word) - 1;
    size_t blanks = at;
    while (at < len && (line[at] == ' ' || line[at] == '\t'))
        at++;
    if (at == blanks || at == len || line[at] != '"')
        return NULL;
    const char *path = line + at + 1;
    const char *end = memchr(path, '"', len - at - 1);
    if (!end)
        return NULL;
    *path_len = (size_t)(end - path);
    return path;
}

/* What the functions below have in common. */
struct reader {
    struct source *source;
    struct file_names *names;
    struct conf_errors *errors;
};

static int take_file(const struct reader *r, const char *path, size_t depth,
                     const struct source_span *from);

static int take_include(const struct reader *r, const char *path, size_t len, size_t depth,
                        const struct source_span *from)
{
    if (depth == SOURCE_MAX_NESTED || r->source->includes++ == SOURCE_MAX_INCLUDES) {
        conf_error_at(r->errors, from->file, from->line, "@include",
                      "files include each other too often: does one include itself?");
        return -EINVAL;
    }
    struct buf full = BUF_INIT(SOURCE_MAX_BYTES);
    path_beside(&full, from->file, path, len);
    int rc = full.error;
    if (rc == 0)
        rc = take_file(r, buf_str(&full), depth + 1, from);
    buf_release(&full);
    return rc;
}

static int take_text(const struct reader *r, const char *file, const char *text, size_t len,
                     size_t depth)
{
    static const char mark[] = "\xEF\xBB\xBF"; /* a byte order mark, as some editors write it */
    if (len >= 3 && memcmp(text, mark, 3) == 0) {
        text += 3;
        len -= 3;
    }
    int rc = begin_span(r->source, file, 1);
    for (unsigned number = 1; rc == 0 && len > 0; number++) {
        const char *feed = memchr(text, '\n', len);
        size_t line_len = feed ? (size_t)(feed - text) : len;
        if (memchr(text, '\0', line_len) || !utf8_valid(text, line_len)) {
            conf_error_at(r->errors, file, number, "", "is not text in UTF-8: save it as UTF-8");
            return -EINVAL;
        }
        size_t path_len;
        const char *path =
            r->source->state == SOURCE_CODE ? included(text, line_len, &path_len) : NULL;
        if (path) {
            const struct source_span from = { .file = file, .line = number };
            rc = take_include(r, path, path_len, depth, &from);
            if (rc == 0)
                rc = begin_span(r->source, file, number);
            const char *rest = path + path_len + 1;
            if (rc == 0)
                rc = add_line(r->source, rest, (size_t)(text + line_len - rest));
        } else {
            rc = add_line(r->source, text, line_len);
        }
        line_len += feed != NULL;
        text += line_len;
        len -= line_len;
    }
    return rc;
}

/* `from` is where it is included; NULL for the first file. */
static int take_file(const struct reader *r, const char *path, size_t depth,
                     const struct source_span *from)
{
    struct buf content = BUF_INIT(SOURCE_MAX_BYTES);
    const char *file = NULL;
    int rc = file_read(path, &content);
    if (rc == -E2BIG || rc == -ENOMEM) {
        /* The caller knows what to say. */
    } else if (rc < 0 && from) {
        conf_error_at(r->errors, from->file, from->line, "@include", "%s cannot be read: %s", path,
                      strerrordesc_np(-rc));
        rc = -EINVAL;
    } else if (rc < 0) {
        conf_error_at(r->errors, path, 0, "", "cannot be read: %s", strerrordesc_np(-rc));
        rc = -EINVAL;
    } else {
        file = file_names_keep(r->names, path, strlen(path));
        rc = file ? take_text(r, file, buf_str(&content), content.len, depth) : -ENOMEM;
    }
    buf_release(&content);
    return rc;
}

static int too_large(int rc, const char *file, struct conf_errors *errors)
{
    if (rc != -E2BIG)
        return rc;
    conf_error_at(errors, file, 0, "", "is larger than %d MiB, with what it includes",
                  SOURCE_MAX_BYTES / 1024 / 1024);
    return -EINVAL;
}

int source_read(struct source *source, struct file_names *names, const char *path,
                struct conf_errors *errors)
{
    const struct reader r = { source, names, errors };
    return too_large(take_file(&r, path, 0, NULL), path, errors);
}

int source_read_text(struct source *source, struct file_names *names, const char *name,
                     const char *text, struct conf_errors *errors)
{
    const struct reader r = { source, names, errors };
    const char *file = file_names_keep(names, name, strlen(name));
    int rc = file ? take_text(&r, file, text, strlen(text), 0) : -ENOMEM;
    return too_large(rc, name, errors);
}
