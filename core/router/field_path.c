/* SPDX-License-Identifier: MIT */

/* Compiling the paths that name fields. A compiled path is never changed: any thread. */

#include "router/field_path.h"

#include "router/fields.h"
#include "router/number.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct compiler {
    const char *text;
    size_t len;
    size_t at;
    char *names; /* room for all names without their escapes */
    struct field_part parts[FIELD_PATH_PARTS_MAX];
    size_t count;
    struct buf *why;
};

static int fail(struct compiler *c, const char *what)
{
    buf_addf(c->why, "field '%.*s': %s", (int)(c->len < 200 ? c->len : 200), c->text, what);
    return -EINVAL;
}

static bool is_quote(char c)
{
    return c == '"' || c == '\'';
}

/* Whether a name without quotes can have this byte in it. */
static bool is_plain(char c)
{
    return (unsigned char)c >= ' ' && c != 0x7F && !strchr(".[]{}:!?\"'", c);
}

/* Adds the name that was just read, from `from` to c->names. */
static int add_name(struct compiler *c, const char *from, size_t len)
{
    if (c->count == FIELD_PATH_PARTS_MAX)
        return fail(c, "more than 64 levels, deeper than a document can be");
    c->parts[c->count++] = (struct field_part){ .name = from, .len = len };
    return 0;
}

/* A name after a dot, or at the beginning. */
static int read_name(struct compiler *c)
{
    const char *from = c->text + c->at;
    size_t len = 0;
    while (c->at + len < c->len && is_plain(from[len]))
        len++;
    if (len == 0)
        return fail(c, c->at < c->len
                           ? "a name is missing, or has characters that only [\"...\"] can hold"
                           : "a name is missing");
    if (from[0] == ' ' || from[len - 1] == ' ')
        return fail(c, "a name neither begins nor ends with a blank; write [\" ...\"] if it does");
    memcpy(c->names, from, len);
    int rc = add_name(c, c->names, len);
    c->names += len;
    c->at += len;
    return rc;
}

/* ["any text"], where a backslash takes the next character as it is. */
static int read_quoted(struct compiler *c)
{
    char quote = c->text[c->at++];
    char *name = c->names;
    while (c->at < c->len && c->text[c->at] != quote) {
        if (c->text[c->at] == '\\' && c->at + 1 < c->len)
            c->at++;
        *c->names++ = c->text[c->at++];
    }
    if (c->at == c->len)
        return fail(c, "the closing quote is missing");
    c->at++;
    return add_name(c, name, (size_t)(c->names - name));
}

/* [2], or [name] as Python has it. */
static int read_unquoted(struct compiler *c)
{
    const char *from = c->text + c->at;
    size_t len = 0;
    while (c->at + len < c->len && from[len] != ']' && from[len] != '[' && !is_quote(from[len]))
        len++;
    if (len == 0)
        return fail(c, "there is nothing between the brackets");
    c->at += len;

    struct value index;
    if (number_parse(from, len, &index) && index.type == VALUE_INT && from[0] != '+') {
        int rc = add_name(c, NULL, 0);
        if (rc == 0)
            c->parts[c->count - 1].index = index.u.integer;
        return rc;
    }
    memcpy(c->names, from, len);
    int rc = add_name(c, c->names, len);
    c->names += len;
    return rc;
}

static int read_brackets(struct compiler *c)
{
    c->at++;
    int rc = c->at < c->len && is_quote(c->text[c->at]) ? read_quoted(c) : read_unquoted(c);
    if (rc < 0)
        return rc;
    if (c->at == c->len || c->text[c->at] != ']')
        return fail(c, "the closing ']' is missing");
    c->at++;
    return 0;
}

static int read_path(struct compiler *c)
{
    int rc = read_name(c);
    while (rc == 0 && c->at < c->len) {
        if (c->text[c->at] == '.') {
            c->at++;
            rc = read_name(c);
        } else if (c->text[c->at] == '[') {
            rc = read_brackets(c);
        } else {
            rc = fail(c, "expected '.' or '[' after a name");
        }
    }
    return rc;
}

int field_path_new(const char *text, size_t len, struct field_path **out, struct buf *why)
{
    *out = NULL;
    char *copy = malloc(2 * len + 1); /* the text, and the names in it */
    if (!copy)
        return -ENOMEM;
    if (len > 0)
        memcpy(copy, text, len);
    copy[len] = '\0';

    struct compiler c = { .text = copy, .len = len, .names = copy + len + 1, .why = why };
    int rc = memchr(copy, '\0', len) ? fail(&c, "a NUL byte") : read_path(&c);
    struct field_path *path = NULL;
    if (rc == 0) {
        path = malloc(sizeof(*path) + c.count * sizeof(c.parts[0]));
        rc = path ? 0 : -ENOMEM;
    }
    if (rc < 0) {
        free(copy);
        return rc;
    }
    path->text = copy;
    path->fixed = field_fixed_find(c.parts[0].name, c.parts[0].len);
    path->count = c.count;
    memcpy(path->parts, c.parts, c.count * sizeof(c.parts[0]));
    *out = path;
    return 0;
}

void field_path_free(struct field_path *path)
{
    if (!path)
        return;
    free((char *)path->text);
    free(path);
}

const char *field_path_text(const struct field_path *path)
{
    return path->text;
}

size_t field_path_span(const char *text, size_t len)
{
    bool inside = false;
    char quote = '\0';
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (quote) {
            if (c == '\\')
                i++;
            else if (c == quote)
                quote = '\0';
        } else if (inside) {
            if (is_quote(c) && text[i - 1] == '[')
                quote = c;
            else if (c == ']')
                inside = false;
        } else if (c == '[') {
            inside = true;
        } else if (c != '\0' && strchr(":!?{}", c)) {
            return i;
        }
    }
    return len;
}
