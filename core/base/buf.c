/* SPDX-License-Identifier: MIT */

#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALLEST 64 /* bytes of a first allocation */

void buf_init(struct buf *buf, size_t max)
{
    *buf = (struct buf){ .max = max };
}

void buf_release(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf){ .max = buf->max };
}

void buf_clear(struct buf *buf)
{
    buf->len = 0;
    buf->error = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

char *buf_reserve(struct buf *buf, size_t len)
{
    if (buf->error)
        return NULL;
    if (len > buf->max - buf->len) {
        buf->error = -E2BIG;
        return NULL;
    }
    size_t need = buf->len + len + 1;
    if (need > buf->cap) {
        size_t cap = buf->cap ? buf->cap : SMALLEST;
        while (cap < need)
            cap += cap / 2 + 1;
        char *data = realloc(buf->data, cap);
        if (!data) {
            buf->error = -ENOMEM;
            return NULL;
        }
        buf->data = data;
        buf->cap = cap;
    }
    return buf->data + buf->len;
}

void buf_commit(struct buf *buf, size_t len)
{
    assert(buf->data && buf->len + len < buf->cap);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

int buf_add(struct buf *buf, const void *data, size_t len)
{
    char *to = buf_reserve(buf, len);
    if (!to)
        return buf->error;
    if (len > 0)
        memcpy(to, data, len);
    buf_commit(buf, len);
    return 0;
}

int buf_add_str(struct buf *buf, const char *text)
{
    return buf_add(buf, text, strlen(text));
}

int buf_add_byte(struct buf *buf, char byte)
{
    return buf_add(buf, &byte, 1);
}

int buf_add_fill(struct buf *buf, char byte, size_t count)
{
    char *to = buf_reserve(buf, count);
    if (!to)
        return buf->error;
    memset(to, byte, count);
    buf_commit(buf, count);
    return 0;
}

int buf_vaddf(struct buf *buf, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    assert(len >= 0);
    char *to = buf_reserve(buf, (size_t)len);
    if (to) {
        vsnprintf(to, (size_t)len + 1, format, again);
        buf_commit(buf, (size_t)len);
    }
    va_end(again);
    return buf->error;
}

int buf_addf(struct buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int rc = buf_vaddf(buf, format, args);
    va_end(args);
    return rc;
}

void buf_cut(struct buf *buf, size_t len)
{
    assert(len <= buf->len);
    buf->len = len;
    if (buf->data)
        buf->data[len] = '\0';
}

const char *buf_str(const struct buf *buf)
{
    return buf->data ? buf->data : "";
}

char *buf_take(struct buf *buf)
{
    char *data = NULL;
    if (!buf->error && buf_reserve(buf, 0)) {
        data = buf->data;
        data[buf->len] = '\0';
        buf->data = NULL;
    }
    buf_release(buf);
    return data;
}
