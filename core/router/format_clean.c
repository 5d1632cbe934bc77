/* SPDX-License-Identifier: MIT */

/* Keeps the value of a field in its place. Any thread. */

#include "router/format_clean.h"

#include <string.h>

static void replace_bytes(char *at, size_t len, const char *unwanted, char by)
{
    for (size_t i = 0; i < len; i++)
        if (at[i] == '\0' || strchr(unwanted, at[i]))
            at[i] = by;
}

/* Control characters become blanks: ASCII's, and U+0080 to U+009F, which take two bytes. Returns the new length. */
static size_t blank_controls(char *at, size_t len)
{
    size_t to = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)at[i];
        unsigned char next = i + 1 < len ? (unsigned char)at[i + 1] : 0;
        bool wide = c == 0xC2 && next >= 0x80 && next <= 0x9F;
        at[to++] = wide || c < ' ' || c == 0x7F ? ' ' : at[i];
        i += wide;
    }
    return to;
}

/* The level of a path: one that is there, and leads neither here nor up. */
static void clean_path(struct buf *out, size_t start)
{
    char *at = out->data + start;
    size_t len = out->len - start;
    replace_bytes(at, len, "/", '_');
    if ((len == 1 && at[0] == '.') || (len == 2 && at[0] == '.' && at[1] == '.'))
        memset(at, '_', len);
}

static const char *entity(char c, size_t *len)
{
    switch (c) {
    case '&':
        *len = 5;
        return "&amp;";
    case '<':
        *len = 4;
        return "&lt;";
    case '>':
        *len = 4;
        return "&gt;";
    case '"':
        *len = 6;
        return "&quot;";
    case '\'':
        *len = 5;
        return "&#39;";
    default:
        *len = 1;
        return NULL;
    }
}

static void escape_html(struct buf *out, size_t start)
{
    size_t len = out->len - start;
    size_t more = 0;
    for (size_t i = 0; i < len; i++) {
        size_t n;
        entity(out->data[start + i], &n);
        more += n - 1;
    }
    if (more == 0 || !buf_reserve(out, more))
        return;

    /* From the end, so that nothing is overwritten before it has moved. */
    char *to = out->data + start + len + more;
    for (size_t i = len; i-- > 0;) {
        size_t n;
        char c = out->data[start + i];
        const char *text = entity(c, &n);
        to -= n;
        if (text)
            memcpy(to, text, n);
        else
            *to = c;
    }
    buf_commit(out, more);
}

void format_clean_from(struct buf *out, size_t start, enum format_clean clean)
{
    if (clean == FORMAT_AS_IS || out->error)
        return;
    if (out->len == start) {
        if (clean == FORMAT_CLEAN_PATH || clean == FORMAT_CLEAN_TOPIC)
            buf_add_byte(out, '_');
        return;
    }
    char *at = out->data + start;
    size_t len = out->len - start;
    switch (clean) {
    case FORMAT_AS_IS:
        break;
    case FORMAT_CLEAN_PATH:
        clean_path(out, start);
        break;
    case FORMAT_CLEAN_TOPIC:
        replace_bytes(at, len, "/+#", '_');
        break;
    case FORMAT_CLEAN_LINE:
        buf_cut(out, start + blank_controls(at, len));
        break;
    case FORMAT_CLEAN_NAME:
        len = blank_controls(at, len);
        buf_cut(out, start + len);
        for (size_t i = 0; i < len; i++)
            if (at[i] == ';')
                at[i] = '_';
        break;
    case FORMAT_CLEAN_HTML:
        escape_html(out, start);
        break;
    }
}
