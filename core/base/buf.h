/* SPDX-License-Identifier: MIT */

/*
 * A growing byte buffer with an upper limit, always NUL-terminated.
 *
 * The first failure sticks: after it every call fails the same way until buf_clear(), so a series of
 * buf_add() needs one check at its end. A buffer belongs to one thread.
 */

#ifndef TOCSIN_BASE_BUF_H
#define TOCSIN_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>

struct buf {
    char *data; /* NULL before the first byte; read it through buf_str() */
    size_t len; /* bytes, without the terminator */
    size_t cap;
    size_t max; /* most bytes it may hold, without the terminator */
    int error;  /* 0, -E2BIG or -ENOMEM */
};

/* clang-format off */
#define BUF_INIT(MAX) { .max = (MAX) }
/* clang-format on */

void buf_init(struct buf *buf, size_t max);

/* Gives the memory back; the buffer can be used again with the same limit. */
void buf_release(struct buf *buf);

/* Makes it empty and forgets an error, and keeps the memory. */
void buf_clear(struct buf *buf);

/* Appends. Returns 0, -E2BIG when the limit would be passed (nothing is added), or -ENOMEM. */
int buf_add(struct buf *buf, const void *data, size_t len);
int buf_add_str(struct buf *buf, const char *text);
int buf_add_byte(struct buf *buf, char byte);
int buf_add_fill(struct buf *buf, char byte, size_t count);
int buf_addf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
int buf_vaddf(struct buf *buf, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

/* Makes room for `len` more bytes and returns where they go, or NULL; then set buf->len by
 * buf_commit(). */
char *buf_reserve(struct buf *buf, size_t len);
void buf_commit(struct buf *buf, size_t len);

/* Cuts it to `len` bytes, which it must have. An error stays. */
void buf_cut(struct buf *buf, size_t len);

/* The content, NUL-terminated; "" while empty. Valid until the next call that changes it. */
const char *buf_str(const struct buf *buf);

/* Hands over the content, NUL-terminated, to be freed by the caller; NULL if the buffer failed or
 * there is no memory. The buffer is empty afterwards. */
char *buf_take(struct buf *buf);

#endif
