/* SPDX-License-Identifier: MIT */

#include "base/utf8.h"

#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

size_t utf8_decode(const char *text, size_t len, uint32_t *code)
{
    const uint8_t *s = (const uint8_t *)text;
    *code = 0;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }

    size_t n;
    uint32_t c, least;
    if ((s[0] & 0xE0) == 0xC0) {
        n = 2, c = s[0] & 0x1Fu, least = 0x80;
    } else if ((s[0] & 0xF0) == 0xE0) {
        n = 3, c = s[0] & 0x0Fu, least = 0x800;
    } else if ((s[0] & 0xF8) == 0xF0) {
        n = 4, c = s[0] & 0x07u, least = 0x10000;
    } else {
        return 0;
    }
    if (n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if (c < least || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    *code = c;
    return n;
}

size_t utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        if (code >= 0xD800 && code <= 0xDFFF)
            return 0;
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    if (code > 0x10FFFF)
        return 0;
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* The number of ASCII bytes at the start, eight at a time. */
static size_t ascii_run(const char *text, size_t len)
{
    size_t i = 0;
    for (; len - i >= sizeof(uint64_t); i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, text + i, sizeof(word));
        if (word & 0x8080808080808080u)
            break;
    }
    while (i < len && (uint8_t)text[i] < 0x80)
        i++;
    return i;
}

bool utf8_valid(const void *text, size_t len)
{
    const char *s = text;
    for (size_t i = 0; i < len;) {
        i += ascii_run(s + i, len - i);
        if (i == len)
            break;
        uint32_t code;
        size_t n = utf8_decode(s + i, len - i, &code);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

static bool starts_character(char byte)
{
    return ((uint8_t)byte & 0xC0) != 0x80;
}

size_t utf8_count(const char *text, size_t len)
{
    size_t count = 0;
    for (size_t i = 0; i < len; i++)
        count += starts_character(text[i]);
    return count;
}

size_t utf8_cut(const char *text, size_t len, size_t max_bytes)
{
    if (len <= max_bytes)
        return len;
    while (max_bytes > 0 && !starts_character(text[max_bytes]))
        max_bytes--;
    return max_bytes;
}

size_t utf8_cut_chars(const char *text, size_t len, size_t max_chars)
{
    size_t count = 0;
    for (size_t i = 0; i < len; i++)
        if (starts_character(text[i]) && count++ == max_chars)
            return i;
    return len;
}

int utf8_add_lossy(struct buf *out, const void *text, size_t len)
{
    const char *s = text;
    size_t start = 0; /* of the run that can be taken as it is */
    for (size_t i = 0; i < len;) {
        uint32_t code;
        size_t n = utf8_decode(s + i, len - i, &code);
        if (n > 0 && code != 0) {
            i += n;
            continue;
        }
        buf_add(out, s + start, i - start);
        buf_add_str(out, REPLACEMENT);
        start = ++i;
    }
    return buf_add(out, s + start, len - start);
}
