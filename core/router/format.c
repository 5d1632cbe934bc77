/* SPDX-License-Identifier: MIT */

/* Formats: compiled to a list of pieces, rendered piece by piece. A compiled one is for any thread. */

#include "router/format.h"

#include "base/utf8.h"
#include "router/format_clean.h"
#include "router/format_spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Some text, and the field after it. All pointers but `path` are into format->text and format->literals. */
struct piece {
    const char *literal;
    size_t literal_len;
    struct field_path *path; /* NULL: there is no field; only at the end */
    bool json;               /* !j */
    struct format_spec spec;
    const char *other; /* the default; NULL for none */
    size_t other_len;
    const char *source; /* the field as it is written */
    size_t source_len;
};

struct format {
    char *text;     /* as it was written */
    char *literals; /* without the doubled braces; terminated */
    size_t count;
    struct piece pieces[];
};

/* ---- Compiling ---- */

struct compiler {
    const char *text;
    size_t len;
    size_t at;
    char *literals; /* where the next literal byte goes */
    struct piece *piece;
    struct buf *why;
};

/* Says what is wrong at byte `at`, counted from 1 for people. */
static int fail(const struct compiler *c, size_t at, const char *what)
{
    buf_addf(c->why, "%s at byte %zu", what, at + 1);
    return -EINVAL;
}

static char peek(const struct compiler *c)
{
    return c->at < c->len ? c->text[c->at] : '\0';
}

/* Text up to the next field or the end. */
static int read_literal(struct compiler *c)
{
    struct piece *piece = c->piece;
    piece->literal = c->literals;
    while (c->at < c->len) {
        char brace = c->text[c->at];
        bool twice = c->at + 1 < c->len && c->text[c->at + 1] == brace;
        if (brace == '{' && !twice)
            break;
        if (brace == '}' && !twice) {
            fail(c, c->at, "'}' without '{'");
            buf_add_str(c->why, ": write '}}' for a brace");
            return -EINVAL;
        }
        *c->literals++ = brace;
        c->at += brace == '{' || brace == '}' ? 2 : 1;
    }
    piece->literal_len = (size_t)(c->literals - piece->literal);
    return 0;
}

static int read_path(struct compiler *c)
{
    size_t start = c->at;
    size_t len = field_path_span(c->text + start, c->len - start);
    c->at += len;
    if (c->at == c->len)
        return fail(c, start - 1, "'{' without '}': write '{{' for a brace; it stands");
    if (len == 0)
        return fail(c, start - 1, "a field without a name: write '{{' for a brace; it stands");

    size_t before = c->why->len;
    int rc = field_path_new(c->text + start, len, &c->piece->path, c->why);
    if (rc == -EINVAL && c->why->len > before)
        return fail(c, start - 1, "; write '{{' for a brace; it stands");
    return rc;
}

static int read_conversion(struct compiler *c)
{
    c->at++;
    if (peek(c) != 'j' && peek(c) != 's')
        return fail(c, c->at,
                    "'!' is followed by j (as JSON) or s (as text); something else stands");
    c->piece->json = peek(c) == 'j';
    c->at++;
    if (c->at < c->len && !strchr(":?}", peek(c)))
        return fail(c, c->at, "expected ':', '?' or '}' after a conversion");
    return 0;
}

static int read_spec(struct compiler *c, bool converted)
{
    struct format_spec *spec = &c->piece->spec;
    const char *why;
    c->at++;
    size_t start = c->at;
    c->at += format_spec_parse(c->text + c->at, c->len - c->at, spec, &why);
    if (!why && converted && spec->numeric)
        why = "after !j or !s there is a text, which has no number format";
    if (why) {
        const char *text = c->text + start;
        const char *end = memchr(text, '}', c->len - start);
        size_t len = end ? (size_t)(end - text) : c->len - start;
        buf_addf(c->why, "'%.*s': %s; it stands", (int)utf8_cut(text, len, 100), text, why);
        return fail(c, start, "");
    }
    return 0;
}

static int read_default(struct compiler *c)
{
    c->at++;
    c->piece->other = c->text + c->at;
    while (c->at < c->len && c->text[c->at] != '}' && c->text[c->at] != '{')
        c->at++;
    c->piece->other_len = (size_t)(c->text + c->at - c->piece->other);
    return 0;
}

static int read_field(struct compiler *c)
{
    size_t start = c->at;
    c->at++;
    int rc = read_path(c);
    bool converted = rc == 0 && peek(c) == '!';
    if (converted)
        rc = read_conversion(c);
    if (rc == 0 && peek(c) == ':')
        rc = read_spec(c, converted);
    if (rc == 0 && peek(c) == '?')
        rc = read_default(c);
    if (rc == 0 && peek(c) == '{')
        rc = fail(c, c->at, "'{' inside a field");
    if (rc == 0 && peek(c) != '}')
        rc = fail(c, start, "'{' without '}'");
    if (rc < 0)
        return rc;
    c->at++;
    c->piece->source = c->text + start;
    c->piece->source_len = c->at - start;
    return 0;
}

static int compile(struct format *format, size_t len, struct buf *why)
{
    struct compiler c = {
        .text = format->text,
        .len = len,
        .literals = format->literals,
        .why = why,
    };
    if (!utf8_valid(c.text, len) || memchr(c.text, '\0', len)) {
        buf_add_str(why, "the text is not valid UTF-8");
        return -EINVAL;
    }
    int rc = 0;
    while (rc == 0 && c.at < len) {
        c.piece = &format->pieces[format->count++];
        rc = read_literal(&c);
        if (rc == 0 && c.at < len)
            rc = read_field(&c);
    }
    *c.literals = '\0';
    return rc;
}

int format_new(const char *text, size_t len, struct format **out, struct buf *why)
{
    *out = NULL;
    size_t fields = 0;
    for (size_t i = 0; i < len;
         i++) { /* at least as many as there are, and doubled braces are none */
        if (text[i] == '{' && i + 1 < len && text[i + 1] == '{')
            i++;
        else
            fields += text[i] == '{';
    }

    struct format *format = calloc(1, sizeof(*format) + (fields + 1) * sizeof(format->pieces[0]));
    if (!format)
        return -ENOMEM;
    int rc = -ENOMEM;
    format->text = malloc(len + 1);
    format->literals = malloc(len + 1);
    if (format->text && format->literals) {
        if (len > 0)
            memcpy(format->text, text, len);
        format->text[len] = '\0';
        rc = compile(format, len, why);
    }
    if (rc < 0) {
        format_free(format);
        return rc;
    }
    *out = format;
    return 0;
}

void format_free(struct format *format)
{
    if (!format)
        return;
    for (size_t i = 0; i < format->count; i++)
        field_path_free(format->pieces[i].path);
    free(format->literals);
    free(format->text);
    free(format);
}

const char *format_text(const struct format *format)
{
    return format->text;
}

const char *format_constant(const struct format *format)
{
    bool constant = format->count == 0 || (format->count == 1 && !format->pieces[0].path);
    return constant ? format->literals : NULL;
}

void format_each_path(const struct format *format,
                      void (*visit)(const struct field_path *path, void *context), void *context)
{
    for (size_t i = 0; i < format->count; i++)
        if (format->pieces[i].path)
            visit(format->pieces[i].path, context);
}

/* ---- Rendering ---- */

/* Appends a value by the piece's rules. Returns whether it fits them. */
static bool add_value(const struct piece *piece, const struct value *value, struct buf *out)
{
    if (piece->json) {
        size_t start = out->len;
        value_add_json(value, out);
        if (piece->spec.set)
            format_lay_out_text(&piece->spec, start, out);
        return true;
    }
    if (piece->spec.set)
        return format_add_value(&piece->spec, value, out);
    value_add_text(value, out);
    return true;
}

/* Whether a value is the message's topic, or levels of it: what has been a topic can be one again. */
static bool is_of_topic(const struct fields *fields, const struct value *value)
{
    const struct message *m = fields->message;
    if (value->type != VALUE_STRING || value->u.string.len == 0)
        return false;
    uintptr_t offset = (uintptr_t)value->u.string.text - (uintptr_t)m->topic;
    return offset < m->topic_len;
}

static void add_field(const struct piece *piece, const struct fields *fields,
                      enum format_clean clean, struct buf *out, size_t *missing)
{
    size_t start = out->len;
    const struct value value = fields_get(fields, piece->path);
    if (value.type <= VALUE_NULL && piece->other) {
        buf_add(out, piece->other, piece->other_len);
        return;
    }
    if (value.type == VALUE_NONE || !add_value(piece, &value, out)) {
        ++*missing;
        buf_add(out, piece->source, piece->source_len);
    }
    if (clean == FORMAT_CLEAN_TOPIC && !piece->json && !piece->spec.set &&
        is_of_topic(fields, &value))
        return;
    format_clean_from(out, start, clean);
}

int format_render(const struct format *format, const struct fields *fields, enum format_clean clean,
                  struct buf *out, size_t *missing)
{
    for (size_t i = 0; i < format->count; i++) {
        const struct piece *piece = &format->pieces[i];
        buf_add(out, piece->literal, piece->literal_len);
        if (piece->path)
            add_field(piece, fields, clean, out, missing);
    }
    return out->error;
}
