/* SPDX-License-Identifier: MIT */

/*
 * The scan goes through the tokens of a file with one state for each group and list that is open: what
 * may come next. After an error of syntax it stops, since what follows would be guesswork; duplicates
 * and integers do not stop it. It is stricter than libconfig in one thing: what looks like a number goes
 * on to the next blank or punctuation, so `a=1b=2` is an error.
 */

#include "config/scan.h"

#include "base/map.h"
#include "config/node.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum token {
    TOKEN_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INT,
    TOKEN_INT64,
    TOKEN_FLOAT,
    TOKEN_BOOL,
    TOKEN_WORD, /* none of these */
    TOKEN_MARK, /* one byte of punctuation, or any other byte */
    TOKEN_WRONG /* reported already */
};

enum expected {
    EXPECT_NAME,
    EXPECT_EQUALS,
    EXPECT_VALUE,       /* of a setting, or after a comma of a list */
    EXPECT_FIRST_VALUE, /* of a list, or its end */
    EXPECT_SEPARATOR    /* the value is complete */
};

/* A group or list that is open. */
struct frame {
    char kind; /* '{', '(' or '[' */
    enum expected expected;
    unsigned line;    /* where it begins */
    const char *name; /* GROUP: of the setting that is being read */
    size_t name_len;  /*        0: none */
    unsigned name_line;
    size_t index;       /* in a list */
    enum token element; /* '[': of its first value; TOKEN_END before it */
    enum token last;    /* of the value that is complete: strings may follow one another */
    struct map names;   /* GROUP: name -> line where it stood first */
};

struct scan {
    const struct source *source;
    struct conf_errors *errors;
    const char *at, *end;
    unsigned line;
    const char *token; /* the one that was read last */
    size_t token_len;
    unsigned token_line;
    unsigned torn_begin,
        torn_end; /* the last string of several lines: often one quote is missing */
    struct frame frames[SCAN_MAX_NESTED + 1];
    size_t depth; /* of the innermost frame; 0 is the file */
    int result;
};

static struct frame *top(struct scan *s)
{
    return &s->frames[s->depth];
}

/* "services.phone.port": the path of the setting that is being read. */
static void add_path(const struct scan *s, struct buf *out)
{
    for (size_t i = 0; i <= s->depth; i++) {
        const struct frame *f = &s->frames[i];
        if (f->kind != '{')
            buf_addf(out, "[%zu]", f->index);
        else if (f->name_len > 0)
            buf_addf(out, "%s%.*s", i > 0 ? "." : "", (int)f->name_len, f->name);
    }
}

static int fail_at(struct scan *s, unsigned line, const char *path, const char *text)
{
    conf_error_at(s->errors, source_file(s->source, line), source_line(s->source, line), path, "%s",
                  text);
    s->result = -EINVAL;
    return -EINVAL;
}

static int fail(struct scan *s, unsigned line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct scan *s, unsigned line, const char *format, ...)
{
    struct buf path = BUF_INIT(64 * 1024), text = BUF_INIT(64 * 1024);
    add_path(s, &path);
    va_list args;
    va_start(args, format);
    buf_vaddf(&text, format, args);
    va_end(args);
    fail_at(s, line, buf_str(&path), buf_str(&text));
    buf_release(&path);
    buf_release(&text);
    return -EINVAL;
}

/* As fail(), where a quote that is missing further up may be the reason. Then what seems to be a name may
 * be the text of a password, so the path stays unsaid. */
static int fail_syntax(struct scan *s, unsigned line, const char *what)
{
    if (s->torn_begin == 0 || s->torn_end < line)
        return fail(s, line, "%s", what);
    struct buf text = BUF_INIT(4096);
    buf_addf(&text, "%s; or is a quote missing in line %u?", what,
             source_line(s->source, s->torn_begin));
    fail_at(s, line, "", buf_str(&text));
    buf_release(&text);
    return -EINVAL;
}

/* ---- Tokens -------------------------------------------------------------------------------------- */

/* Passes blanks and comments. Returns false after an error. */
static bool skip_blanks(struct scan *s)
{
    while (s->at < s->end) {
        if (*s->at == '\n') {
            s->line++;
            s->at++;
        } else if (strchr(" \t\r\f", *s->at)) {
            s->at++;
        } else if (*s->at == '#' || strncmp(s->at, "//", 2) == 0) {
            s->at += strcspn(s->at, "\n");
        } else if (strncmp(s->at, "/*", 2) == 0) {
            const char *close = strstr(s->at + 2, "*/");
            if (!close) {
                fail_syntax(s, s->line, "the comment that begins here has no end: write */");
                return false;
            }
            for (; s->at < close + 2; s->at++)
                s->line += *s->at == '\n';
        } else {
            break;
        }
    }
    return true;
}

static enum token read_string(struct scan *s)
{
    const char *p = s->at + 1;
    unsigned line = s->line;
    for (; p < s->end && *p != '"'; p++) {
        if (*p == '\\' && (p[1] == 'x' || p[1] == 'X') && p[2] == '0' && p[3] == '0') {
            fail(s, line, "a text cannot have \\x00 in it");
            return TOKEN_WRONG;
        }
        if (*p == '\\' && p + 1 < s->end)
            p++;
        line += *p == '\n';
    }
    if (p >= s->end) {
        fail_syntax(s, s->line, "the text that begins here has no end: write a quote");
        return TOKEN_WRONG;
    }
    if (line > s->line) {
        s->torn_begin = s->line;
        s->torn_end = line;
    }
    s->line = line;
    s->at = p + 1;
    return TOKEN_STRING;
}

static size_t digits(const char *text)
{
    return strspn(text, "0123456789");
}

/* What a word that begins like a number is, by libconfig's rules. */
static enum token classify_number(const char *word, size_t len)
{
    const char *p = word, *end = word + len;
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        size_t n = strspn(p + 2, "0123456789abcdefABCDEF");
        p += 2 + n;
        if (n == 0)
            return TOKEN_WORD;
    } else {
        if (*p == '+' || *p == '-')
            p++;
        size_t whole = digits(p), part = 0;
        p += whole;
        bool is_float = *p == '.';
        if (is_float) {
            part = digits(p + 1);
            p += 1 + part;
        }
        if (whole + part == 0)
            return TOKEN_WORD;
        if (p < end && (*p == 'e' || *p == 'E')) {
            is_float = true;
            p++;
            if (*p == '+' || *p == '-')
                p++;
            if (digits(p) == 0)
                return TOKEN_WORD;
            p += digits(p);
        }
        if (is_float)
            return p == end ? TOKEN_FLOAT : TOKEN_WORD;
    }
    if (p == end)
        return TOKEN_INT;
    if (*p == 'L' && (p + 1 == end || (p[1] == 'L' && p + 2 == end)))
        return TOKEN_INT64;
    return TOKEN_WORD;
}

static enum token read_word(struct scan *s)
{
    const char *p = s->at;
    while (p < s->end && (isalnum((unsigned char)*p) || strchr("-+._*", *p)))
        p++;
    s->at = p;
    size_t len = (size_t)(p - s->token);
    if (!isalpha((unsigned char)*s->token) && *s->token != '*')
        return classify_number(s->token, len);
    if ((len == 4 && strncasecmp(s->token, "true", 4) == 0) ||
        (len == 5 && strncasecmp(s->token, "false", 5) == 0))
        return TOKEN_BOOL;
    return memchr(s->token, '+', len) || memchr(s->token, '.', len) ? TOKEN_WORD : TOKEN_NAME;
}

static enum token next_token(struct scan *s)
{
    if (!skip_blanks(s))
        return TOKEN_WRONG;
    s->token = s->at;
    s->token_line = s->line;
    s->token_len = 0;
    if (s->at == s->end)
        return TOKEN_END;
    enum token token = TOKEN_MARK;
    if (*s->at == '"')
        token = read_string(s);
    else if (isalnum((unsigned char)*s->at) || strchr("*+-.", *s->at))
        token = read_word(s);
    else
        s->at++;
    s->token_len = (size_t)(s->at - s->token);
    return token;
}

/* ---- Integers ------------------------------------------------------------------------------------ */

static int check_int(struct scan *s, enum token token)
{
    bool hex = s->token_len > 1 && (s->token[1] == 'x' || s->token[1] == 'X');
    bool fits;
    errno = 0;
    if (hex) {
        unsigned long long value = strtoull(s->token, NULL, 16);
        fits = errno == 0 && value <= INT64_MAX;
        if (fits && token == TOKEN_INT && value > INT32_MAX)
            return fail(s, s->token_line, "is a number of more than 32 bits: put an L behind it");
    } else {
        long long value = strtoll(s->token, NULL, 10);
        fits = errno == 0;
        if (fits && token == TOKEN_INT && (value < INT32_MIN || value > INT32_MAX))
            return fail(s, s->token_line, "is a number of more than 32 bits: put an L behind it");
    }
    if (!fits)
        return fail(s, s->token_line, "is a number of more than 64 bits: write a smaller one");
    return 0;
}

/* ---- Grammar; each returns 0, or -EINVAL after an error that ends the scan, or -ENOMEM ----------- */

static int take_name(struct scan *s)
{
    struct frame *f = top(s);
    f->name = s->token;
    f->name_len = s->token_len;
    f->name_line = s->token_line;
    f->expected = EXPECT_EQUALS;
    /* A map holds pointers: line N is kept as the Nth byte of the text, which has at least N bytes. */
    char *text = s->source->text.data;
    const char *there = map_get(&f->names, f->name, f->name_len);
    if (!there)
        return map_set(&f->names, f->name, f->name_len, text + f->name_line);
    unsigned first = (unsigned)(there - text);
    fail(s, s->token_line, "stands in %s:%u already: leave one of them out",
         source_file(s->source, first), source_line(s->source, first));
    return 0; /* the scan goes on */
}

static int open_frame(struct scan *s, char kind)
{
    if (top(s)->kind == '[')
        return fail_syntax(s, s->token_line,
                           "a list in [ ] has plain values only: write ( ) around these");
    if (s->depth == SCAN_MAX_NESTED)
        return fail(s, s->token_line, "is nested more than %d deep", SCAN_MAX_NESTED);
    s->frames[++s->depth] = (struct frame){
        .kind = kind,
        .expected = kind == '{' ? EXPECT_NAME : EXPECT_FIRST_VALUE,
        .line = s->token_line,
    };
    return 0;
}

static char closing(char kind)
{
    return kind == '{' ? '}' : kind == '(' ? ')' : ']';
}

/* A value is complete; it was a scalar, or else TOKEN_MARK. */
static void value_done(struct scan *s, enum token token)
{
    struct frame *f = top(s);
    f->expected = EXPECT_SEPARATOR;
    f->last = token;
}

static int close_frame(struct scan *s, char mark)
{
    struct frame *f = top(s);
    if (s->depth == 0)
        return fail_syntax(s, s->token_line, "there is nothing to be closed here");
    if (mark != closing(f->kind)) {
        s->depth--; /* the path of what should have been closed */
        return fail(s, s->token_line, "'%c' cannot close the '%c' of line %u: write '%c' first",
                    mark, f->kind, source_line(s->source, f->line), closing(f->kind));
    }
    map_release(&f->names);
    s->depth--;
    value_done(s, TOKEN_MARK);
    return 0;
}

static int take_value(struct scan *s, enum token token)
{
    struct frame *f = top(s);
    switch (token) {
    case TOKEN_INT:
    case TOKEN_INT64:
        check_int(s, token);
        break;
    case TOKEN_STRING:
    case TOKEN_FLOAT:
    case TOKEN_BOOL:
        break;
    case TOKEN_MARK:
        if (strchr("{([", *s->token))
            return open_frame(s, *s->token);
        return fail_syntax(s, s->token_line, "a value is missing here");
    case TOKEN_NAME:
    case TOKEN_WORD:
        /* What it is stays unsaid: it may be a password. */
        return fail_syntax(s, s->token_line,
                           "is neither a number nor true or false: write a text in quotes");
    default:
        break; /* the end of the file is no value: take_end() */
    }
    if (f->kind == '[') {
        if (f->element != TOKEN_END && f->element != token)
            return fail(s, s->token_line,
                        "the values of a list in [ ] must be of one type: write ( ) for a mix");
        f->element = token;
    }
    value_done(s, token);
    return 0;
}

static int take_in_group(struct scan *s, enum token token)
{
    struct frame *f = top(s);
    char mark = token == TOKEN_MARK ? *s->token : '\0';
    switch (f->expected) {
    case EXPECT_EQUALS:
        if (mark != '=' && mark != ':')
            return fail_syntax(s, s->token_line, "needs a value: write '=' after the name");
        f->expected = EXPECT_VALUE;
        return 0;
    case EXPECT_VALUE:
        return take_value(s, token);
    case EXPECT_SEPARATOR:
        if (token == TOKEN_STRING && f->last == TOKEN_STRING)
            return 0; /* strings that follow one another are one */
        if (mark == ';' || mark == ',') {
            f->name_len = 0;
            f->expected = EXPECT_NAME;
            return 0;
        }
        break;
    default:
        break;
    }
    if (token == TOKEN_NAME)
        return take_name(s);
    if (mark == '}' || mark == ')' || mark == ']')
        return close_frame(s, mark);
    if (f->expected == EXPECT_SEPARATOR)
        return fail_syntax(s, s->token_line, "the value has ended: write ';' before what follows");
    f->name_len = 0;
    if (mark == '@')
        return fail_syntax(s, s->token_line,
                           "write @include \"FILE\" at the beginning of a line of its own");
    if (mark == ';' || mark == ',')
        return fail_syntax(s, s->token_line, "a name is missing: is there one ';' too many?");
    return fail_syntax(s, s->token_line, "a name is missing: write NAME = VALUE;");
}

static int take_in_list(struct scan *s, enum token token)
{
    struct frame *f = top(s);
    char mark = token == TOKEN_MARK ? *s->token : '\0';
    if (f->expected == EXPECT_SEPARATOR) {
        if (token == TOKEN_STRING && f->last == TOKEN_STRING)
            return 0;
        if (mark == ',') {
            f->index++;
            f->expected = EXPECT_VALUE;
            return 0;
        }
    }
    if (mark == '}' || mark == ')' || mark == ']') {
        if (f->expected == EXPECT_VALUE && mark == closing(f->kind))
            return fail_syntax(s, s->token_line,
                               "nothing follows the ',' before this: leave it out");
        return close_frame(s, mark);
    }
    if (f->expected == EXPECT_SEPARATOR)
        return fail_syntax(s, s->token_line, "write ',' between the values of a list");
    return take_value(s, token);
}

static int take_end(struct scan *s)
{
    const struct frame *f = top(s);
    if (s->depth > 0) {
        unsigned line = f->line;
        char kind = f->kind;
        s->depth--;
        return fail(s, line, "the '%c' of this line is never closed: write '%c'", kind,
                    closing(kind));
    }
    if (f->expected == EXPECT_EQUALS || f->expected == EXPECT_VALUE)
        return fail_syntax(s, f->name_line, "a value is missing at the end of the file");
    return 0;
}

int scan(const struct source *source, struct conf_errors *errors)
{
    struct scan s = {
        .source = source,
        .errors = errors,
        .at = buf_str(&source->text),
        .end = buf_str(&source->text) + source->text.len,
        .line = 1,
        .frames = { { .kind = '{', .expected = EXPECT_NAME } },
    };
    int rc = 0;
    enum token token;
    do {
        token = next_token(&s);
        if (token == TOKEN_WRONG)
            rc = -EINVAL;
        else if (token == TOKEN_END)
            rc = take_end(&s);
        else if (top(&s)->kind == '{')
            rc = take_in_group(&s, token);
        else
            rc = take_in_list(&s, token);
    } while (rc == 0 && token != TOKEN_END);
    for (size_t i = 0; i < sizeof(s.frames) / sizeof(s.frames[0]); i++)
        map_release(&s.frames[i].names);
    return rc < 0 ? rc : s.result;
}
