/* SPDX-License-Identifier: MIT */

/* A delivery as a GELF 1.1 record. */

#include "gelf.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX  256   /* additional ones; servers refuse records with very many */
#define NAME_BYTES  250   /* of an additional field's name */
#define VALUE_BYTES 32766 /* more makes the index behind the server refuse the record */
#define SHORT_CHARS 1024
#define FULL_LEAST  16

static const char ellipsis[] = "…";

/* ---- Bytes ------------------------------------------------------------------------------------- */

void bytes_release(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){ .data = NULL };
}

void bytes_clear(struct bytes *bytes)
{
    bytes->len = 0;
    bytes->failed = false;
}

bool bytes_reserve(struct bytes *bytes, size_t n)
{
    if (bytes->failed || bytes->room - bytes->len >= n)
        return !bytes->failed;
    size_t room = bytes->room < 1024 ? 1024 : bytes->room;
    while (room - bytes->len < n && room <= SIZE_MAX / 2)
        room *= 2;
    char *data = room - bytes->len < n ? NULL : realloc(bytes->data, room);
    if (!data) {
        bytes->failed = true;
        return false;
    }
    bytes->data = data;
    bytes->room = room;
    return true;
}

void bytes_add(struct bytes *bytes, const void *data, size_t n)
{
    if (n > 0 && bytes_reserve(bytes, n)) {
        memcpy(bytes->data + bytes->len, data, n);
        bytes->len += n;
    }
}

static void add_text(struct bytes *out, const char *text)
{
    bytes_add(out, text, strlen(text));
}

/* ---- JSON -------------------------------------------------------------------------------------- */

/* Whether `text[i]` begins a character of valid UTF-8. */
static bool is_start(const char *text, size_t i)
{
    return ((unsigned char)text[i] & 0xc0) != 0x80;
}

/* The length of the longest beginning of at most `max` bytes that ends between two characters. */
static size_t cut_bytes(const char *text, size_t len, size_t max)
{
    if (len <= max)
        return len;
    while (max > 0 && !is_start(text, max))
        max--;
    return max;
}

/* The same for `max` characters. */
static size_t cut_chars(const char *text, size_t len, size_t max)
{
    size_t i = 0;
    for (size_t chars = 0; i < len; i++) {
        if (is_start(text, i) && chars++ == max)
            break;
    }
    return i;
}

/* Puts how `c` is written inside a JSON string to `out`. Returns the number of bytes. */
static size_t escape(unsigned char c, char out[6])
{
    static const char hex[] = "0123456789abcdef";
    const char *short_form = c == '"'    ? "\\\""
                             : c == '\\' ? "\\\\"
                             : c == '\n' ? "\\n"
                             : c == '\r' ? "\\r"
                             : c == '\t' ? "\\t"
                                         : NULL;
    if (short_form) {
        memcpy(out, short_form, 2);
        return 2;
    }
    if (c >= ' ') {
        out[0] = (char)c;
        return 1;
    }
    out[0] = '\\';
    out[1] = 'u';
    out[2] = '0';
    out[3] = '0';
    out[4] = hex[c >> 4];
    out[5] = hex[c & 15];
    return 6;
}

/* Adds the inside of a JSON string, at most `max` bytes of it, cut between two characters. Returns how
 * many bytes of `text` it was made of. */
static size_t add_escaped(struct bytes *out, const char *text, size_t len, size_t max)
{
    const size_t begin = out->len;
    size_t fits = 0, fits_len = out->len;
    for (size_t i = 0; i < len; i++) {
        char as[6];
        if (is_start(text, i)) {
            fits = i;
            fits_len = out->len;
        }
        const size_t n = escape((unsigned char)text[i], as);
        if (out->len - begin + n > max) {
            out->len = fits_len;
            return fits;
        }
        bytes_add(out, as, n);
        if (out->failed)
            return 0;
    }
    return len;
}

static void add_string(struct bytes *out, const char *text, size_t len)
{
    bytes_add(out, "\"", 1);
    add_escaped(out, text, len, SIZE_MAX);
    bytes_add(out, "\"", 1);
}

/* Whether `text` is a JSON number that a double can hold. */
static bool is_number(const char *text, size_t len)
{
    const char *p = text;
    if (*p == '-')
        p++;
    if (*p == '0' && p[1] >= '0' && p[1] <= '9')
        return false;
    const char *digits = p;
    while (*p >= '0' && *p <= '9')
        p++;
    if (p == digits)
        return false;
    if (*p == '.') {
        digits = ++p;
        while (*p >= '0' && *p <= '9')
            p++;
        if (p == digits)
            return false;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-')
            p++;
        digits = p;
        while (*p >= '0' && *p <= '9')
            p++;
        if (p == digits)
            return false;
    }
    return p == text + len && isfinite(strtod(text, NULL));
}

/* ---- Additional fields ------------------------------------------------------------------------- */

/* The fields written so far: where their names are in `out`. */
struct names {
    struct name {
        size_t at, len;
    } used[FIELDS_MAX];
    size_t count;
    size_t end; /* no field may end after this byte of `out` */
};

static bool is_name_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           c == '.' || c == '-';
}

/* Puts a name by the rules of GELF: an underscore in front, nothing but [A-Za-z0-9_.-] after it, not
 * "_id", not "_" alone. Returns its length. */
static size_t clean_name(char out[NAME_BYTES], const char *prefix, const char *name,
                         const char *separator)
{
    size_t n = (size_t)snprintf(out, NAME_BYTES, "_%s", prefix);
    for (size_t i = 0; name[i] != '\0' && n < NAME_BYTES - 2; i++) {
        if (name[i] == '.')
            out[n++] = separator[0];
        else if (is_name_char(name[i]))
            out[n++] = name[i];
        else if (is_start(name, i))
            out[n++] = '_';
    }
    out[n] = '\0';
    if (n == 1 || strcmp(out, "_id") == 0) {
        memmove(out + 1, out, n + 1);
        n++;
    }
    return n;
}

static bool is_used(const struct names *names, const struct bytes *out, const char *name,
                    size_t len)
{
    for (size_t i = 0; i < names->count; i++) {
        if (names->used[i].len == len && memcmp(out->data + names->used[i].at, name, len) == 0)
            return true;
    }
    return false;
}

/* Adds a field, unless there is no place for it. A name that is taken, as by a payload that has a
 * "topic" of its own, gets the prefix "json_". */
static void add_field(struct bytes *out, struct names *names, const char *name,
                      const char *separator, bool number, const char *text, size_t text_len)
{
    const size_t before = out->len;
    char clean[NAME_BYTES];
    size_t len = clean_name(clean, "", name, separator);
    if (is_used(names, out, clean, len))
        len = clean_name(clean, "json_", name, separator);
    if (names->count == FIELDS_MAX || out->failed || is_used(names, out, clean, len))
        return;
    bytes_add(out, ",\"", 2);
    const size_t at = out->len;
    bytes_add(out, clean, len);
    bytes_add(out, "\":", 2);
    if (number)
        bytes_add(out, text, text_len);
    else
        add_string(out, text, cut_bytes(text, text_len, VALUE_BYTES));
    if (out->len > names->end)
        out->len = before;
    else
        names->used[names->count++] = (struct name){ .at = at, .len = len };
}

static void add_field_text(struct bytes *out, struct names *names, const char *name,
                           const char *text)
{
    add_field(out, names, name, ".", false, text, strlen(text));
}

static void add_field_number(struct bytes *out, struct names *names, const char *name,
                             unsigned number)
{
    char text[24];
    const int len = snprintf(text, sizeof(text), "%u", number);
    add_field(out, names, name, ".", true, text, (size_t)len);
}

static bool list_has(const struct tocsin_list *list, const char *text)
{
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->items[i], text) == 0)
            return true;
    }
    return false;
}

static bool adds(const struct gelf_target *target, const char *what)
{
    if (target->add.count == 0)
        return strcmp(what, "topic") == 0 || strcmp(what, "route") == 0;
    return list_has(&target->add, what);
}

static void add_decoded(struct bytes *out, struct names *names, const struct gelf_target *target,
                        const struct tocsin_field *field)
{
    const bool is_bool = field->type == TOCSIN_FIELD_BOOL;
    const bool as_bit = is_bool && strcmp(target->booleans, "number") == 0;
    const char *text = as_bit ? (strcmp(field->text, "true") == 0 ? "1" : "0") : field->text;
    const size_t len = as_bit ? 1 : field->len;
    const bool forced = list_has(&target->as_number, field->name);
    bool number = (forced || as_bit || field->type == TOCSIN_FIELD_NUMBER) && is_number(text, len);

    if (field->type == TOCSIN_FIELD_NULL || (forced && !number))
        return;
    if (list_has(&target->as_text, field->name))
        number = false;
    add_field(out, names, field->name, target->separator, number, text, len);
}

/* "name=text" from the target's own list; a text that is listed as a number is one. */
static void add_own(struct bytes *out, struct names *names, const struct gelf_target *target,
                    const char *item)
{
    char name[NAME_BYTES];
    const char *text = strchr(item, '=');
    if (!text || (size_t)(text - item) >= sizeof(name))
        return;
    snprintf(name, sizeof(name), "%.*s", (int)(text - item), item);
    const struct tocsin_field field = {
        .name = name, .text = text + 1, .len = strlen(text + 1), .type = TOCSIN_FIELD_STRING
    };
    add_decoded(out, names, target, &field);
}

/* What is said of the message comes first, so that no payload can take its names. */
static void add_fields(struct bytes *out, const struct tocsin_delivery *d, size_t end)
{
    static const char *const severities[] = { "ok", "warning", "critical", "unknown" };
    const struct gelf_target *target = d->target;
    const struct tocsin_message *m = d->message;
    struct names names = { .end = end };

    if (adds(target, "topic"))
        add_field_text(out, &names, "topic", m->topic);
    if (adds(target, "route") && m->route)
        add_field_text(out, &names, "route", m->route);
    if (adds(target, "link") && m->link)
        add_field_text(out, &names, "link", m->link);
    if (adds(target, "severity") && m->has_severity && (unsigned)m->severity < 4)
        add_field_text(out, &names, "severity", severities[m->severity]);
    if (adds(target, "message_id") && m->id)
        add_field_text(out, &names, "message_id", m->id);
    if (adds(target, "qos"))
        add_field_number(out, &names, "qos", m->qos);
    if (adds(target, "retain"))
        add_field_number(out, &names, "retain", m->retain);
    for (size_t i = 0; i < target->fields.count; i++)
        add_own(out, &names, target, d->rendered[target->fields.first + i]);
    for (size_t i = 0; target->decoded && i < m->field_count; i++)
        add_decoded(out, &names, target, m->fields[i]);
}

/* ---- The record -------------------------------------------------------------------------------- */

static const char *const levels[] = { "emergency", "alert",  "critical", "error",
                                      "warning",   "notice", "info",     "debug" };

static int level_of(const struct gelf_target *target, const struct tocsin_message *m)
{
    for (int i = 0; i < 8; i++) {
        if (strcmp(target->level, levels[i]) == 0)
            return i;
    }
    if (!m->has_severity)
        return 6;
    switch (m->severity) {
    case TOCSIN_WARNING:
        return 4;
    case TOCSIN_CRITICAL:
        return 2;
    case TOCSIN_UNKNOWN:
        return 3;
    case TOCSIN_OK:
        break;
    }
    return 6;
}

struct text {
    const char *data;
    size_t len;
};

/* Without blanks and line ends around it. */
static struct text trim(const char *text, size_t len)
{
    while (len > 0 && (unsigned char)text[len - 1] <= ' ')
        len--;
    while (len > 0 && (unsigned char)*text <= ' ') {
        text++;
        len--;
    }
    return (struct text){ .data = text, .len = len };
}

/* The target's own, or the title, or the first line; the topic rather than nothing. */
static struct text short_message(const struct tocsin_delivery *d)
{
    const struct gelf_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *own = tocsin_rendered(d, &target->short_message);
    struct text text = own ? trim(own, strlen(own)) : (struct text){ .data = "" };
    if (text.len == 0)
        text = trim(m->title, strlen(m->title));
    if (text.len == 0) {
        text = trim(m->text, m->text_len);
        const char *end = memchr(text.data, '\n', text.len);
        text = trim(text.data, end ? (size_t)(end - text.data) : text.len);
    }
    if (text.len == 0)
        text = (struct text){ .data = m->topic, .len = strlen(m->topic) };
    return text;
}

static void add_head(struct bytes *out, const struct tocsin_delivery *d, const char *hostname,
                     struct text summary)
{
    const struct gelf_target *target = d->target;
    const char *source = tocsin_rendered(d, &target->source);
    const struct text host = trim(source ? source : "", source ? strlen(source) : 0);

    add_text(out, "{\"version\":\"1.1\",\"host\":");
    if (host.len > 0)
        add_string(out, host.data, cut_bytes(host.data, host.len, NAME_BYTES));
    else
        add_string(out, hostname, strlen(hostname));
    add_text(out, ",\"short_message\":");
    const bool is_long = cut_chars(summary.data, summary.len, SHORT_CHARS) < summary.len;
    bytes_add(out, "\"", 1);
    add_escaped(out, summary.data,
                is_long ? cut_chars(summary.data, summary.len, SHORT_CHARS - 1) : summary.len,
                SIZE_MAX);
    add_text(out, is_long ? ellipsis : "");
    bytes_add(out, "\"", 1);
}

static void add_tail(struct bytes *out, const struct tocsin_delivery *d, size_t end)
{
    const struct tocsin_message *m = d->message;
    char number[64];
    const long long seconds = m->received_ms / 1000, ms = m->received_ms % 1000;

    if (m->received_ms > 0) {
        if (ms > 0)
            snprintf(number, sizeof(number), ",\"timestamp\":%lld.%03lld", seconds, ms);
        else
            snprintf(number, sizeof(number), ",\"timestamp\":%lld", seconds);
        add_text(out, number);
    }
    snprintf(number, sizeof(number), ",\"level\":%d", level_of(d->target, m));
    add_text(out, number);
    add_fields(out, d, end);
    bytes_add(out, "}", 1);
}

/* Adds full_message with at most `max` bytes inside its quotes. Returns how many bytes there are. */
static size_t add_full(struct bytes *out, struct text text, size_t max)
{
    if (max < FULL_LEAST)
        return 0;
    add_text(out, ",\"full_message\":\"");
    const size_t begin = out->len;
    if (add_escaped(out, text.data, text.len, max) < text.len && !out->failed) {
        out->len = begin;
        add_escaped(out, text.data, text.len, max - (sizeof(ellipsis) - 1));
        add_text(out, ellipsis);
    }
    const size_t len = out->len - begin;
    bytes_add(out, "\"", 1);
    return len;
}

int record_write(struct bytes *out, const struct tocsin_delivery *d, const char *hostname,
                 const struct record_limits *limits, size_t *full)
{
    const struct tocsin_message *m = d->message;
    const struct text summary = short_message(d);
    const struct text all = trim(m->text, m->text_len);
    const bool has_full =
        all.len > 0 && (all.len != summary.len || memcmp(all.data, summary.data, all.len) != 0 ||
                        cut_chars(summary.data, summary.len, SHORT_CHARS) < summary.len);
    struct bytes tail = { .data = NULL };

    *full = 0;
    bytes_clear(out);
    add_head(out, d, hostname, summary);
    add_tail(&tail, d, limits->json / 2);
    int rc = 0;
    const size_t used = out->len + tail.len + strlen(",\"full_message\":\"\"");
    if (has_full && used < limits->json) {
        const size_t left = limits->json - used;
        const struct text text = { .data = m->text, .len = m->text_len };
        *full = add_full(out, text, left < limits->full ? left : limits->full);
    }
    if (out->len + tail.len > limits->json)
        rc = -EMSGSIZE;
    bytes_add(out, tail.data, tail.len);
    if (out->failed || tail.failed)
        rc = -ENOMEM;
    bytes_release(&tail);
    return rc;
}

const char *record_check(const struct gelf_target *target)
{
    static const char *const known[] = { "topic", "route",  "link",       "severity",
                                         "qos",   "retain", "message_id", "none" };
    for (size_t i = 0; i < target->add.count; i++) {
        bool found = false;
        for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++)
            found = found || strcmp(target->add.items[i], known[k]) == 0;
        if (!found)
            return "add: choose from topic, route, link, severity, qos, retain, message_id, none";
    }
    for (size_t i = 0; i < target->fields.count; i++) {
        const char *text = target->fields.texts[i];
        size_t n = 0;
        while (is_name_char(text[n]))
            n++;
        if (n == 0 || text[n] != '=')
            return "fields: write each as \"name=text\", the name of letters, digits, '_', '.', "
                   "'-'";
        if (n == 2 && memcmp(text, "id", 2) == 0)
            return "fields: the name id is not allowed";
    }
    return NULL;
}
