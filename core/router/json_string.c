/* SPDX-License-Identifier: MIT */

/* JSON strings, checked, read and written. Any thread. */

#include "router/json_string.h"

#include "base/utf8.h"
#include "router/json.h"

#include <stdint.h>
#include <string.h>

#define EACH_BYTE(BYTE) (UINT64_C(0x0101010101010101) * (BYTE))

/* Where the run of bytes that need no look ends: neither quote nor backslash, control or beyond ASCII. Eight at a
 * time; the lowest bit that is set belongs to the first such byte, higher ones may be wrong. */
static inline const char *skip_plain(const char *at, const char *end)
{
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        uint64_t quote = word ^ EACH_BYTE('"');
        uint64_t backslash = word ^ EACH_BYTE('\\');
        uint64_t stops = ((quote - EACH_BYTE(1)) & ~quote) |
                         ((backslash - EACH_BYTE(1)) & ~backslash) | (word - EACH_BYTE(0x20)) |
                         word;
        stops &= EACH_BYTE(0x80);
        if (stops) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            return at + __builtin_ctzll(stops) / 8;
#else
            break;
#endif
        }
        at += 8;
    }
    while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20 &&
           (unsigned char)*at < 0x80)
        at++;
    return at;
}

static bool read_hex(const char *at, const char *end, uint32_t *code)
{
    *code = 0;
    if (end - at < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (uint32_t)((c | 0x20) - 'a') + 10;
        else
            return false;
        *code = *code << 4 | digit;
    }
    return true;
}

/* Reads the escape at a backslash. Returns its length in bytes, or 0 if there is no such escape. */
static size_t read_escape(const char *at, const char *end, uint32_t *code)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";

    *code = 0;
    if (end - at < 2)
        return 0;
    if (at[1] != 'u') {
        const char *letter = memchr(letters, at[1], sizeof(letters) - 1);
        if (!letter)
            return 0;
        *code = (uint32_t)meanings[letter - letters];
        return 2;
    }
    if (!read_hex(at + 2, end, code))
        return 0;
    if (*code < 0xD800 || *code > 0xDFFF)
        return 6;

    uint32_t low;
    if (*code > 0xDBFF || end - at < 12 || at[6] != '\\' || at[7] != 'u' ||
        !read_hex(at + 8, end, &low) || low < 0xDC00 || low > 0xDFFF)
        return 0;
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return 12;
}

const char *json_string_scan(const char *at, const char *end, const char **stop, bool *escaped)
{
    *escaped = false;
    for (;;) {
        at = skip_plain(at, end);
        *stop = at;
        if (at == end)
            return "a string without its last quote";
        if (*at == '"')
            return NULL;

        size_t n;
        uint32_t code;
        if (*at == '\\') {
            *escaped = true;
            n = read_escape(at, end, &code);
            if (n == 0)
                return "no such escape";
        } else if ((unsigned char)*at < 0x20) {
            return "a control character in a string";
        } else {
            n = utf8_decode(at, (size_t)(end - at), &code);
            if (n == 0)
                return "not valid UTF-8";
        }
        at += n;
    }
}

size_t json_string_unescape(const char *text, size_t len, char *out)
{
    const char *end = text + len;
    char *to = out;
    while (text < end) {
        const char *backslash = memchr(text, '\\', (size_t)(end - text));
        size_t run = (size_t)((backslash ? backslash : end) - text);
        memcpy(to, text, run);
        to += run;
        text += run;
        if (!backslash)
            break;
        uint32_t code;
        text += read_escape(text, end, &code);
        to += utf8_encode(code, to);
    }
    return (size_t)(to - out);
}

/* ---- Writing ---- */

static void add_escape(struct buf *out, unsigned char c)
{
    switch (c) {
    case '"':
        buf_add(out, "\\\"", 2);
        break;
    case '\\':
        buf_add(out, "\\\\", 2);
        break;
    case '\b':
        buf_add(out, "\\b", 2);
        break;
    case '\f':
        buf_add(out, "\\f", 2);
        break;
    case '\n':
        buf_add(out, "\\n", 2);
        break;
    case '\r':
        buf_add(out, "\\r", 2);
        break;
    case '\t':
        buf_add(out, "\\t", 2);
        break;
    default:
        buf_addf(out, "\\u%04x", c);
        break;
    }
}

int json_add_string(struct buf *out, const char *text, size_t len)
{
    const char *at = text;
    const char *end = text + len;
    const char *start = at; /* of the run that can be taken as it is */
    buf_add_byte(out, '"');
    while ((at = skip_plain(at, end)) < end) {
        uint32_t code;
        size_t n = utf8_decode(at, (size_t)(end - at), &code);
        if (n > 1) {
            at += n;
            continue;
        }
        buf_add(out, start, (size_t)(at - start));
        if (n == 0)
            buf_add_str(out, "\xEF\xBF\xBD");
        else
            add_escape(out, (unsigned char)*at);
        start = ++at;
    }
    buf_add(out, start, (size_t)(end - start));
    return buf_add_byte(out, '"');
}
