/* SPDX-License-Identifier: MIT */

/* Expressions that need no Lua, and the tokens of those that do. Any thread. */

#include "router/script_simple.h"

#include "router/number.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Tokens ---- */

enum token_type {
    TOKEN_END,
    TOKEN_NAME, /* keywords too */
    TOKEN_NUMBER,
    TOKEN_TEXT, /* with its quotes */
    TOKEN_SIGN, /* an operator or bracket */
};

struct token {
    enum token_type type;
    const char *text;
    size_t len;
};

struct reader {
    const char *at, *end;
};

static bool token_is(const struct token *token, const char *text)
{
    return token->type != TOKEN_TEXT && strlen(text) == token->len &&
           memcmp(token->text, text, token->len) == 0;
}

static bool token_is_any(const struct token *token, const char *const *texts)
{
    for (; *texts; texts++)
        if (token_is(token, *texts))
            return true;
    return false;
}

/* The length of a long text or comment that begins with "[[" or "[=[" at `s`, or 0. */
static size_t long_bracket(const char *s, const char *end)
{
    size_t level = 0;
    if (s == end || *s != '[')
        return 0;
    while (s + 1 + level < end && s[1 + level] == '=')
        level++;
    if (s + 1 + level >= end || s[1 + level] != '[')
        return 0;
    for (const char *at = s + level + 2; at < end; at++) {
        size_t n = 0;
        while (*at == ']' && at + 1 + n < end && at[1 + n] == '=')
            n++;
        if (*at == ']' && n == level && at + 1 + n < end && at[1 + n] == ']')
            return (size_t)(at + n + 2 - s);
    }
    return (size_t)(end - s);
}

static void skip_blanks(struct reader *r)
{
    for (;;) {
        while (r->at < r->end && isspace((unsigned char)*r->at))
            r->at++;
        if (r->end - r->at < 2 || r->at[0] != '-' || r->at[1] != '-')
            return;
        size_t n = long_bracket(r->at + 2, r->end);
        r->at += 2 + n;
        while (n == 0 && r->at < r->end && *r->at != '\n')
            r->at++;
    }
}

static size_t word_length(const struct reader *r, bool number)
{
    const char *s = r->at;
    for (; s < r->end; s++) {
        bool sign = number && (*s == '+' || *s == '-') && strchr("eEpP", s[-1]) && s > r->at;
        if (!isalnum((unsigned char)*s) && *s != '_' && !(number && *s == '.') && !sign)
            break;
    }
    return (size_t)(s - r->at);
}

static struct token next_token(struct reader *r)
{
    static const char *const long_signs[] = { "...", "..", "==", "~=", "<=", ">=",
                                              "//",  "<<", ">>", "::", NULL };
    skip_blanks(r);
    struct token token = { TOKEN_END, r->at, 0 };
    size_t left = (size_t)(r->end - r->at);
    if (left == 0)
        return token;
    char c = *r->at;
    token.type = TOKEN_SIGN;
    token.len = 1;
    size_t bracket = long_bracket(r->at, r->end);
    if (isalpha((unsigned char)c) || c == '_') {
        token.type = TOKEN_NAME;
        token.len = word_length(r, false);
    } else if (isdigit((unsigned char)c) ||
               (c == '.' && left > 1 && isdigit((unsigned char)r->at[1]))) {
        token.type = TOKEN_NUMBER;
        token.len = word_length(r, true);
    } else if (c == '"' || c == '\'') {
        token.type = TOKEN_TEXT;
        while (token.len < left && r->at[token.len] != c)
            token.len += r->at[token.len] == '\\' ? 2 : 1;
        token.len = token.len < left ? token.len + 1 : left;
    } else if (bracket > 0) {
        token.type = TOKEN_TEXT;
        token.len = bracket;
    } else {
        for (size_t i = 0; long_signs[i]; i++) {
            size_t n = strlen(long_signs[i]);
            if (n <= left && memcmp(r->at, long_signs[i], n) == 0) {
                token.len = n;
                break;
            }
        }
    }
    r->at += token.len;
    return token;
}

/* ---- Simple expressions ---- */

#define TERMS_MAX 8

enum comparison {
    IS_LESS,
    IS_MORE,
    IS_LESS_OR_SAME,
    IS_MORE_OR_SAME,
    IS_SAME,
    IS_OTHER
};

struct term {
    struct field_path *path;
    char *name;   /* the path's first part */
    bool is_deep; /* there are others */
    enum comparison comparison;
    struct value constant; /* VALUE_NONE: the path alone */
    char *text;            /* of the constant */
};

struct simple {
    bool is_or; /* of more than one term: joined by `or`, else by `and` */
    size_t count;
    struct term terms[TERMS_MAX];
};

void simple_free(struct simple *simple)
{
    if (!simple)
        return;
    for (size_t i = 0; i < simple->count; i++) {
        field_path_free(simple->terms[i].path);
        free(simple->terms[i].name);
        free(simple->terms[i].text);
    }
    free(simple);
}

/* The path from `first` on; `*next` is the token after it. */
static bool read_path(struct reader *r, struct token first, struct term *term, struct token *next)
{
    static const char *const no_names[] = {
        "nil", "true", "false", "not", "function", "_ENV", NULL
    };
    if (first.type != TOKEN_NAME || token_is_any(&first, no_names))
        return false;
    const char *end = first.text + first.len;
    for (;;) {
        *next = next_token(r);
        bool is_dot = token_is(next, "."), is_index = token_is(next, "[");
        if (!is_dot && !is_index)
            break;
        struct token part = next_token(r);
        if (part.type != (is_dot ? TOKEN_NAME : TOKEN_NUMBER))
            return false;
        for (size_t i = 0; is_index && i < part.len; i++)
            if (!isdigit((unsigned char)part.text[i]))
                return false;
        end = part.text + part.len;
        if (is_index) {
            struct token close = next_token(r);
            if (!token_is(&close, "]"))
                return false;
            end = close.text + 1;
        }
        term->is_deep = true;
    }
    struct buf why = BUF_INIT(200);
    int rc = field_path_new(first.text, (size_t)(end - first.text), &term->path, &why);
    buf_release(&why);
    term->name = strndup(first.text, first.len);
    return rc == 0 && term->name;
}

static bool read_constant(struct reader *r, struct term *term)
{
    struct token token = next_token(r);
    const char *text = token.text;
    size_t len = token.len;
    if (token_is(&token, "-")) {
        token = next_token(r);
        if (token.text != text + 1)
            return false;
        len += token.len;
    }
    if (token.type == TOKEN_NUMBER)
        return number_parse(text, len, &term->constant);
    if (token.type != TOKEN_TEXT || len != token.len || *text == '[' || memchr(text, '\\', len))
        return false;
    term->text = strndup(text + 1, len - 2);
    term->constant = VALUE_OF_TEXT(term->text, len - 2);
    return term->text != NULL;
}

static bool read_terms(struct reader *r, struct simple *simple)
{
    static const char *const signs[] = { "<", ">", "<=", ">=", "==", "~=" };
    for (;;) {
        struct token token = next_token(r), next;
        struct term *term = &simple->terms[simple->count++];
        if (!read_path(r, token, term, &next))
            return false;
        if (next.type == TOKEN_END)
            return simple->count == 1;
        size_t sign = 0;
        while (sign < 6 && !token_is(&next, signs[sign]))
            sign++;
        if (sign == 6 || !read_constant(r, term))
            return false;
        term->comparison = (enum comparison)sign;
        token = next_token(r);
        if (token.type == TOKEN_END)
            return true;
        bool is_or = token_is(&token, "or");
        if ((!is_or && !token_is(&token, "and")) || simple->count == TERMS_MAX ||
            (simple->count > 1 && is_or != simple->is_or))
            return false;
        simple->is_or = is_or;
    }
}

bool simple_is_valid(const struct simple *simple, simple_taken_fn *taken, void *context)
{
    for (size_t i = 0; i < simple->count; i++)
        if (taken(simple->terms[i].name, context))
            return false;
    return true;
}

struct simple *simple_new(const char *text, size_t len, simple_taken_fn *taken, void *context)
{
    struct simple *simple = calloc(1, sizeof(*simple));
    struct reader r = { text, text + len };
    if (simple && read_terms(&r, simple) && simple_is_valid(simple, taken, context))
        return simple;
    simple_free(simple);
    return NULL;
}

/* A number that a double holds exactly. */
static bool exact(const struct value *value, double *out)
{
    if (value->type == VALUE_FLOAT) {
        *out = value->u.number;
        return true;
    }
    const int64_t most = (int64_t)1 << 53;
    *out = (double)value->u.integer;
    return value->type == VALUE_INT && value->u.integer <= most && value->u.integer >= -most;
}

static bool is_number(const struct value *value)
{
    return value->type == VALUE_INT || value->type == VALUE_FLOAT;
}

/* Whether the values are the same; returns false when Lua must be asked. */
static bool same(const struct value *a, const struct value *b, bool *out)
{
    *out = false;
    if (a->type == VALUE_STRING && b->type == VALUE_STRING) {
        *out = a->u.string.len == b->u.string.len &&
               memcmp(a->u.string.text, b->u.string.text, a->u.string.len) == 0;
        return true;
    }
    if (!is_number(a) || !is_number(b))
        return true;
    double x, y;
    if (!exact(a, &x) || !exact(b, &y))
        return false;
    *out = x == y;
    return true;
}

static bool compare(const struct value *value, const struct term *term, bool *out)
{
    if (term->comparison == IS_SAME)
        return same(value, &term->constant, out);
    if (term->comparison == IS_OTHER) {
        bool known = same(value, &term->constant, out);
        *out = !*out;
        return known;
    }
    double x, y;
    if (!is_number(value) || !is_number(&term->constant) || !exact(value, &x) ||
        !exact(&term->constant, &y))
        return false;
    switch (term->comparison) {
    case IS_LESS:
        *out = x < y;
        break;
    case IS_MORE:
        *out = x > y;
        break;
    case IS_LESS_OR_SAME:
        *out = x <= y;
        break;
    default:
        *out = x >= y;
        break;
    }
    return true;
}

bool simple_run(const struct simple *simple, const struct fields *fields, struct value *result)
{
    bool last = false;
    for (size_t i = 0; i < simple->count; i++) {
        const struct term *term = &simple->terms[i];
        const struct value value = fields_get(fields, term->path);
        if (value.type == VALUE_NONE && term->is_deep)
            return false; /* whether that is an error depends on what is missing */
        if (term->constant.type == VALUE_NONE) {
            *result = value.type == VALUE_NULL ? VALUE_NOTHING : value;
            return true;
        }
        if (!compare(&value, term, &last))
            return false;
        if (last == simple->is_or)
            break;
    }
    *result = (struct value){ .type = VALUE_BOOL, .u.boolean = last };
    return true;
}

/* ---- Checking ---- */

static bool is_operator(const struct token *token)
{
    static const char *const operators[] = {
        "==", "~=", "<",  ">",   "<=", ">=",  "..", "+", "-",
        "*",  "/",  "//", "and", "or", "not", "%",  "^", NULL
    };
    return token_is_any(token, operators);
}

static bool is_called(const struct token *next)
{
    static const char *const signs[] = { "(", "{", ".", ":", "=", NULL };
    return next->type == TOKEN_TEXT || token_is_any(next, signs);
}

int simple_check(const char *text, size_t len, simple_taken_fn *is_function, void *context,
                 struct buf *why)
{
    /* In a function of its own, such a name may be a local variable. */
    if (memmem(text, len, "function", strlen("function")))
        return 0;
    struct reader r = { text, text + len };
    struct token before = { TOKEN_END, text, 0 }, token = next_token(&r);
    while (token.type != TOKEN_END) {
        struct token next = next_token(&r);
        char name[32] = "";
        if (token.type == TOKEN_NAME && token.len < sizeof(name)) {
            memcpy(name, token.text, token.len);
            name[token.len] = '\0';
        }
        bool is_member = token_is(&before, ".") || token_is(&before, ":");
        if (name[0] && !is_member && !is_called(&next) &&
            (is_operator(&before) || is_operator(&next)) && is_function(name, context)) {
            buf_addf(why, "'%s' is a function here: write json.%s for the field", name, name);
            return -EINVAL;
        }
        before = token;
        token = next;
    }
    return 0;
}
