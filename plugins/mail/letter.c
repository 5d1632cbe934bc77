/* SPDX-License-Identifier: MIT */

/* Writing letters (letter.h). Any thread; no I/O. */

#include "letter.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define LINE_MAX_BYTES 76  /* RFC 2045 section 6.7 (5), RFC 2047 section 2 */
#define WORD_MAX_BYTES 75  /* an encoded word: RFC 2047 section 2 */
#define NAME_MAX_BYTES 120 /* of a file: the line stays below 998, RFC 5322 section 2.1.1 */
#define WORD_FRAME     12  /* "=?UTF-8?B?" and "?=" */

static const char hex_digits[] = "0123456789ABCDEF";

/* ---- Bytes ---- */

void octets_release(struct octets *octets)
{
    free(octets->data);
    *octets = (struct octets){ .max = octets->max };
}

/* Makes room for `len` more bytes and counts them as written. Returns NULL on error. */
static char *octets_room(struct octets *out, size_t len)
{
    if (out->error)
        return NULL;
    if (len > out->max - out->len) {
        out->error = -E2BIG;
        return NULL;
    }
    if (out->len + len > out->cap) {
        size_t cap = out->cap < 4096 ? 4096 : out->cap * 2;
        if (cap < out->len + len)
            cap = out->len + len;
        char *data = realloc(out->data, cap);
        if (!data) {
            out->error = -ENOMEM;
            return NULL;
        }
        out->data = data;
        out->cap = cap;
    }
    out->len += len;
    return out->data + out->len - len;
}

static void add(struct octets *out, const char *bytes, size_t len)
{
    char *room = octets_room(out, len);
    if (room && len > 0)
        memcpy(room, bytes, len);
}

static void add_str(struct octets *out, const char *text)
{
    add(out, text, strlen(text));
}

/* For short lines made of checked parts. */
__attribute__((format(printf, 2, 3))) static void addf(struct octets *out, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(line))
        out->error = out->error ? out->error : -E2BIG;
    else
        add(out, line, (size_t)n);
}

/* The number of bytes since the last line end. */
static size_t column(const struct octets *out)
{
    size_t n = 0;
    while (n < out->len && out->data[out->len - n - 1] != '\n')
        n++;
    return n;
}

/* ---- Characters ---- */

/* Length of the UTF-8 character at `p`, or 0 if there is none (RFC 3629 section 4). */
static size_t character_len(const unsigned char *p, size_t len)
{
    unsigned char low = 0x80;
    unsigned char high = 0xbf;
    size_t need;

    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        need = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        need = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        need = 4;
    else
        return 0;
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (len < need || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < need; i++) {
        if (p[i] < 0x80 || p[i] > 0xbf)
            return 0;
    }
    return need;
}

bool bytes_are_text(const void *bytes, size_t len)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < len;) {
        size_t n = p[i] == '\0' ? 0 : character_len(p + i, len - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

const char *image_type(const uint8_t *bytes, size_t len)
{
    if (len >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0)
        return "image/png";
    if (len >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0)
        return "image/jpeg";
    if (len >= 6 && (memcmp(bytes, "GIF87a", 6) == 0 || memcmp(bytes, "GIF89a", 6) == 0))
        return "image/gif";
    if (len >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0)
        return "image/webp";
    return NULL;
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* One of `chars`, which a NUL never is. */
static bool is_one_of(char c, const char *chars)
{
    return c != '\0' && strchr(chars, c) != NULL;
}

static bool is_printable(char c)
{
    return c >= ' ' && c <= '~';
}

/* ---- Addresses ---- */

/* A dot-atom (RFC 5322 section 3.2.3): no dot at the ends, no two in a row. */
static bool is_dot_atom(const char *text, size_t len, const char *others)
{
    if (len == 0 || text[0] == '.' || text[len - 1] == '.')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '.' ? text[i - 1] == '.' : !is_alnum(text[i]) && !is_one_of(text[i], others))
            return false;
    }
    return true;
}

static bool is_domain(const char *text, size_t len)
{
    if (len < 3 || text[0] != '[')
        return is_dot_atom(text, len, "-");
    for (size_t i = 1; i + 1 < len; i++) {
        if (!is_alnum(text[i]) && !is_one_of(text[i], ".:"))
            return false;
    }
    return text[len - 1] == ']';
}

bool mailbox_parse(const char *text, struct mailbox *out)
{
    size_t len = strlen(text);
    *out = (struct mailbox){ .address = text, .address_len = len };

    if (len > 0 && text[len - 1] == '>') {
        const char *open = strrchr(text, '<');
        if (!open)
            return false;
        out->address = open + 1;
        out->address_len = (size_t)(text + len - 1 - out->address);
        out->name = text;
        out->name_len = (size_t)(open - text);
        while (out->name_len > 0 && out->name[out->name_len - 1] == ' ')
            out->name_len--;
        if (out->name_len >= 2 && text[0] == '"' && text[out->name_len - 1] == '"') {
            out->name++;
            out->name_len -= 2;
        }
    }
    for (size_t i = 0; i < out->name_len; i++) {
        if ((unsigned char)out->name[i] < ' ' || out->name[i] == 0x7f)
            return false;
    }
    const char *at = memchr(out->address, '@', out->address_len);
    if (!at || out->address_len > 254 || out->name_len > 200 ||
        !bytes_are_text(out->name, out->name_len))
        return false;
    out->domain = at + 1;
    out->domain_len = out->address_len - (size_t)(out->domain - out->address);
    return is_dot_atom(out->address, (size_t)(at - out->address), "!#$%&'*+-/=?^_`{|}~") &&
           is_domain(out->domain, out->domain_len);
}

/* ---- Headers ---- */

enum word_encoding {
    WORD_B,
    WORD_Q
};

static void add_base64(struct octets *out, const unsigned char *p, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *to = octets_room(out, (len + 2) / 3 * 4);
    if (!to)
        return;
    for (; len >= 3; p += 3, len -= 3) {
        *to++ = digits[p[0] >> 2];
        *to++ = digits[(p[0] & 3) << 4 | p[1] >> 4];
        *to++ = digits[(p[1] & 15) << 2 | p[2] >> 6];
        *to++ = digits[p[2] & 63];
    }
    if (len > 0) {
        *to++ = digits[p[0] >> 2];
        *to++ = digits[(p[0] & 3) << 4 | (len == 2 ? p[1] >> 4 : 0)];
        *to++ = len == 2 ? digits[(p[1] & 15) << 2] : '=';
        *to++ = '=';
    }
}

/* What may stand for itself in a Q word, also within a display name (RFC 2047 section 5 (3)). */
static bool is_q_plain(char c)
{
    return is_alnum(c) || is_one_of(c, "!*+-/");
}

static size_t q_cost(const char *text, size_t len)
{
    size_t cost = 0;
    for (size_t i = 0; i < len; i++)
        cost += text[i] == ' ' || is_q_plain(text[i]) ? 1 : 3;
    return cost;
}

static void add_hex(struct octets *out, char lead, char c)
{
    const char code[] = { lead, hex_digits[(unsigned char)c >> 4], hex_digits[c & 15] };
    add(out, code, sizeof(code));
}

static void add_q(struct octets *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ')
            add(out, "_", 1);
        else if (is_q_plain(text[i]))
            add(out, &text[i], 1);
        else
            add_hex(out, '=', text[i]);
    }
}

/* Adds encoded words (RFC 2047), as many as needed, none of which splits a character. */
static void add_words(struct octets *out, const char *text, size_t len, enum word_encoding encoding)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t at = 0;

    while (at < len && !out->error) {
        size_t used = column(out);
        size_t room = used < WORD_MAX_BYTES / 2 ? LINE_MAX_BYTES - used : 0;
        if (room == 0) {
            add_str(out, "\r\n ");
            room = LINE_MAX_BYTES - 1;
        }
        room = (room < WORD_MAX_BYTES ? room : WORD_MAX_BYTES) - WORD_FRAME;
        size_t n = 0;
        for (;;) {
            size_t more = at + n < len ? character_len(bytes + at + n, len - at - n) : 0;
            size_t cost = encoding == WORD_B ? (n + more + 2) / 3 * 4 : q_cost(text + at, n + more);
            if (more == 0 || cost > room)
                break;
            n += more;
        }
        add_str(out, encoding == WORD_B ? "=?UTF-8?B?" : "=?UTF-8?Q?");
        if (encoding == WORD_B)
            add_base64(out, bytes + at, n);
        else
            add_q(out, text + at, n);
        at += n;
        add_str(out, at < len ? "?=\r\n " : "?=");
    }
}

/* Any text of a message as one line of UTF-8: a control character becomes a blank, a byte that belongs
 * to no character becomes '?'. */
static void add_clean(struct octets *out, const char *text)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        size_t n = character_len((const unsigned char *)text + i, len - i);
        bool control = (unsigned char)text[i] < ' ' || text[i] == 0x7f;
        if (n == 0 || control)
            add(out, control ? " " : "?", 1);
        else
            add(out, text + i, n);
        i += n ? n : 1;
    }
}

/* "Name: text", as it is if that is a short line of ASCII which no reader takes for encoded words. */
static void add_header(struct octets *out, const char *name, const char *value)
{
    struct octets clean = { .max = out->max };
    add_clean(&clean, value);
    add_str(out, name);
    add_str(out, ": ");

    bool plain = strlen(name) + 2 + clean.len <= LINE_MAX_BYTES;
    for (size_t i = 0; i < clean.len; i++) {
        if (!is_printable(clean.data[i]) ||
            (i > 0 && clean.data[i - 1] == '=' && clean.data[i] == '?'))
            plain = false;
    }
    if (clean.len > 0 && (clean.data[0] == ' ' || clean.data[clean.len - 1] == ' '))
        plain = false;
    if (plain)
        add(out, clean.data, clean.len);
    else
        add_words(out, clean.data, clean.len, WORD_B);
    add_str(out, "\r\n");
    if (clean.error && !out->error)
        out->error = clean.error;
    octets_release(&clean);
}

static void add_mailbox(struct octets *out, const char *text)
{
    struct mailbox box;
    if (!mailbox_parse(text, &box)) { /* check() has seen to it */
        out->error = out->error ? out->error : -EINVAL;
        return;
    }
    if (box.name_len > 0) {
        bool plain = box.name_len <= 60;
        for (size_t i = 0; i < box.name_len; i++)
            plain = plain && is_printable(box.name[i]) && !is_one_of(box.name[i], "\"\\=");
        if (plain) {
            add_str(out, "\"");
            add(out, box.name, box.name_len);
            add_str(out, "\"");
        } else {
            add_words(out, box.name, box.name_len, WORD_Q);
        }
        add_str(out, column(out) + box.address_len + 3 > LINE_MAX_BYTES ? "\r\n <" : " <");
    }
    add(out, box.address, box.address_len);
    if (box.name_len > 0)
        add_str(out, ">");
}

static void add_mailboxes(struct octets *out, const char *name, const char *const *items, size_t n)
{
    if (n == 0)
        return;
    add_str(out, name);
    add_str(out, ": ");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            add_str(out, ",\r\n ");
        add_mailbox(out, items[i]);
    }
    add_str(out, "\r\n");
}

static void add_date(struct octets *out, int64_t ms)
{
    static const char days[][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (!gmtime_r(&seconds, &tm) || tm.tm_year < 0 || tm.tm_year > 8099)
        return; /* no clock that is right: the server adds a date of its own */
    addf(out, "Date: %s, %02d %s %04d %02d:%02d:%02d +0000\r\n", days[tm.tm_wday], tm.tm_mday,
         months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* FNV-1a: one number for one text, the same in every run. */
static uint64_t hash(const char *text)
{
    uint64_t h = 14695981039346656037U;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211U;
    return h;
}

static void add_ids(struct octets *out, const struct letter *letter)
{
    struct mailbox from;
    if (!mailbox_parse(letter->from, &from))
        return; /* add_mailbox() has reported it */
    addf(out, "Message-ID: <%s@%.*s>\r\n", letter->id, (int)from.domain_len, from.domain);
    if (letter->thread) {
        uint64_t thread = hash(letter->thread);
        for (int i = 0; i < 2; i++)
            addf(out, "%s: <thread-%016" PRIx64 "@%.*s>\r\n", i ? "References" : "In-Reply-To",
                 thread, (int)from.domain_len, from.domain);
    }
}

/* ---- Bodies ---- */

/*
 * Quoted-printable (RFC 2045 section 6.7). LF and CR LF become line ends, a lone CR does not. A dot
 * and an 'F' at the beginning of a line are encoded too, so that neither dot-stuffing nor the "From "
 * of mailbox files can change the text.
 */
static void add_quoted(struct octets *out, const char *text, size_t len)
{
    size_t col = 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '\r' && i + 1 < len && text[i + 1] == '\n')
            continue;
        if (c == '\n') {
            add_str(out, "\r\n");
            col = 0;
            continue;
        }
        const char *next = text + i + 1;
        size_t left = len - i - 1;
        bool ends = left == 0 || *next == '\n' || (*next == '\r' && left > 1 && next[1] == '\n');
        bool plain = is_printable(c) && c != '=';
        if ((c == ' ' || c == '\t') && !ends)
            plain = true;
        else if (c == ' ')
            plain = false;
        size_t width = plain ? 1 : 3;
        if (col + width > LINE_MAX_BYTES - 1) {
            add_str(out, "=\r\n");
            col = 0;
        }
        if (col == 0 && (c == '.' || c == 'F'))
            plain = false;
        if (plain)
            add(out, &c, 1);
        else
            add_hex(out, '=', c);
        col += plain ? 1 : 3;
    }
}

/* Base64 in lines (RFC 2045 section 6.8). */
static void add_base64_lines(struct octets *out, const unsigned char *p, size_t len)
{
    const size_t line = LINE_MAX_BYTES / 4 * 3;
    while (len > 0 && !out->error) {
        size_t n = len < line ? len : line;
        add_base64(out, p, n);
        p += n;
        len -= n;
        if (len > 0)
            add_str(out, "\r\n");
    }
}

static void add_text_part(struct octets *out, const char *type, const char *text, size_t len)
{
    addf(out,
         "Content-Type: %s; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
         type);
    add_quoted(out, text, len);
}

/* What is not a document yet becomes one; without any tag its line ends and blanks are kept. */
static void add_html_part(struct octets *out, const char *html)
{
    const char *start = html + strspn(html, " \t\r\n");
    if (strncasecmp(start, "<!doctype", 9) == 0 || strncasecmp(start, "<html", 5) == 0) {
        add_text_part(out, "text/html", html, strlen(html));
        return;
    }
    bool tags = strchr(html, '<') != NULL;
    struct octets page = { .max = out->max };
    add_str(&page, "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"></head><body>\n");
    add_str(&page, tags ? "" : "<p style=\"white-space: pre-wrap\">");
    add_str(&page, html);
    add_str(&page, tags ? "\n</body></html>\n" : "</p>\n</body></html>\n");
    if (page.error)
        out->error = out->error ? out->error : page.error;
    else
        add_text_part(out, "text/html", page.data, page.len);
    octets_release(&page);
}

static void add_body(struct octets *out, const struct letter *letter)
{
    if (letter->text && letter->html) {
        add_str(out, "Content-Type: multipart/alternative; boundary=\"=_alternative\"\r\n\r\n"
                     "--=_alternative\r\n");
        add_text_part(out, "text/plain", letter->text, letter->text_len);
        add_str(out, "\r\n--=_alternative\r\n");
        add_html_part(out, letter->html);
        add_str(out, "\r\n--=_alternative--");
    } else if (letter->html) {
        add_html_part(out, letter->html);
    } else {
        add_text_part(out, "text/plain", letter->text ? letter->text : "",
                      letter->text ? letter->text_len : 0);
    }
}

/* The parameter filename: quoted if it is ASCII, else as RFC 2231 section 4 has it. */
static void add_file_name(struct octets *out, const char *name)
{
    struct octets clean = { .max = out->max };
    add_clean(&clean, *name ? name : "attachment");
    if (clean.len > NAME_MAX_BYTES) {
        clean.len = NAME_MAX_BYTES;
        while (((unsigned char)clean.data[clean.len] & 0xc0) == 0x80)
            clean.len--;
    }
    bool ascii = clean.len <= 60;
    for (size_t i = 0; i < clean.len; i++) {
        if (is_one_of(clean.data[i], "/\\\""))
            clean.data[i] = '_';
        ascii = ascii && is_printable(clean.data[i]);
    }
    add_str(out, ascii ? "; filename=\"" : "; filename*=UTF-8''");
    for (size_t i = 0; i < clean.len; i++) {
        if (ascii || is_alnum(clean.data[i]) || is_one_of(clean.data[i], ".-_"))
            add(out, &clean.data[i], 1);
        else
            add_hex(out, '%', clean.data[i]);
    }
    add_str(out, ascii ? "\"\r\n" : "\r\n");
    if (clean.error && !out->error)
        out->error = clean.error;
    octets_release(&clean);
}

static void add_attachment(struct octets *out, const struct letter *letter)
{
    addf(out,
         "Content-Type: %s\r\n"
         "Content-Transfer-Encoding: base64\r\n"
         "Content-Disposition: %s",
         letter->attachment_type, letter->attachment_shown ? "inline" : "attachment");
    add_file_name(out, letter->attachment_name);
    add_str(out, "\r\n");
    add_base64_lines(out, letter->attachment, letter->attachment_len);
}

void letter_write(const struct letter *letter, struct octets *out)
{
    static const char *const nobody = "To: undisclosed-recipients:;\r\n";

    add_date(out, letter->date_ms);
    add_mailboxes(out, "From", &letter->from, 1);
    add_mailboxes(out, "Reply-To", &letter->reply_to, letter->reply_to ? 1 : 0);
    if (letter->to.count == 0 && letter->cc.count == 0)
        add_str(out, nobody);
    add_mailboxes(out, "To", letter->to.items, letter->to.count);
    add_mailboxes(out, "Cc", letter->cc.items, letter->cc.count);
    add_header(out, "Subject", letter->subject);
    add_ids(out, letter);
    add_str(out, "Auto-Submitted: auto-generated\r\n"); /* RFC 3834: nobody answers it */
    if (letter->importance != 0)
        add_str(out, letter->importance > 0 ? "X-Priority: 1 (Highest)\r\nImportance: high\r\n"
                                            : "X-Priority: 5 (Lowest)\r\nImportance: low\r\n");
    add_str(out, "MIME-Version: 1.0\r\n");
    if (letter->attachment) {
        add_str(out, "Content-Type: multipart/mixed; boundary=\"=_mixed\"\r\n\r\n--=_mixed\r\n");
        add_body(out, letter);
        add_str(out, "\r\n--=_mixed\r\n");
        add_attachment(out, letter);
        add_str(out, "\r\n--=_mixed--\r\n");
    } else {
        add_body(out, letter);
        add_str(out, "\r\n");
    }
}
