/* SPDX-License-Identifier: MIT */

/* Reads the text of a template into its nodes. On the thread of its script state. */

#include "base/nearest.h"
#include "router/script_state.h"
#include "router/template_node.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX /* the end of a list of jumps whose target is not known yet */

/* An if or for that is open. */
struct block {
    bool is_for;
    bool has_else;
    int line;
    uint32_t branch; /* the FOR, or the last IF whose target is not known; else NOWHERE */
    uint32_t jumps; /* the last JUMP to the end of the block; each one's target is the one before */
};

struct parser {
    struct template *template;
    const char *text;
    size_t len, at;
    int line; /* of `at`, or of the tag that is being read */
    struct block blocks[TEMPLATE_MAX_NESTING];
    size_t depth;
    bool strip;        /* the last tag takes away the blanks after it */
    bool line_is_bare; /* nothing but blanks and statements so far */
    struct buf *why;
};

/* A part of the text. */
struct span {
    const char *text;
    size_t len;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static struct span trimmed(struct span s)
{
    while (s.len > 0 && is_blank(s.text[s.len - 1]))
        s.len--;
    while (s.len > 0 && is_blank(*s.text)) {
        s.text++;
        s.len--;
    }
    return s;
}

static bool span_is(struct span s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.text, word, s.len) == 0;
}

static int fail(struct parser *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(struct parser *p, const char *format, ...)
{
    char words[256];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof(words), format, args);
    va_end(args);
    buf_addf(p->why, "%s:%d: %s", p->template->name, p->line, words);
    return -EINVAL;
}

/* ---- What is made ---- */

static struct template_node *add_node(struct parser *p, enum node_type type)
{
    struct template *t = p->template;
    if (t->count == t->capacity) {
        uint32_t capacity = t->capacity ? t->capacity * 2 : 16;
        struct template_node *nodes = realloc(t->nodes, capacity * sizeof(*nodes));
        if (!nodes)
            return NULL;
        t->nodes = nodes;
        t->capacity = capacity;
    }
    struct template_node *node = &t->nodes[t->count++];
    *node = (struct template_node){ .type = type, .line = p->line, .target = NOWHERE };
    return node;
}

/* A copy that lives as long as the template. */
static const char *keep_word(struct template *t, struct span s)
{
    if (t->word_count == t->word_capacity) {
        size_t capacity = t->word_capacity ? t->word_capacity * 2 : 8;
        char **words = realloc(t->words, capacity * sizeof(*words));
        if (!words)
            return NULL;
        t->words = words;
        t->word_capacity = capacity;
    }
    char *word = strndup(s.text, s.len);
    if (word)
        t->words[t->word_count++] = word;
    return word;
}

static int add_text(struct parser *p, struct span s)
{
    if (s.len == 0)
        return 0;
    struct template_node *node = add_node(p, NODE_TEXT);
    if (!node)
        return -ENOMEM;
    node->text = s.text;
    node->len = s.len;
    return 0;
}

/* ---- Expressions ---- */

static bool is_name(struct span s)
{
    if (s.len == 0 || isdigit((unsigned char)*s.text))
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!is_word(s.text[i]))
            return false;
    return true;
}

static bool is_keyword(struct span s)
{
    static const char *const keywords[] = {
        "and",      "break",  "do",   "else", "elseif", "end",   "false", "for",
        "function", "goto",   "if",   "in",   "local",  "nil",   "not",   "or",
        "repeat",   "return", "then", "true", "until",  "while", "_ENV",
    };
    for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
        if (span_is(s, keywords[i]))
            return true;
    return false;
}

static bool has_word(struct span s, const char *word)
{
    size_t len = strlen(word);
    const char *end = s.text + s.len;
    for (const char *at = s.text; (at = memmem(at, (size_t)(end - at), word, len)); at += len)
        if ((at == s.text || !is_word(at[-1])) && (at + len == end || !is_word(at[len])))
            return true;
    return false;
}

/* The innermost loop computes `loop` only when somebody asks. */
static void note_loop(struct parser *p, struct span s)
{
    for (size_t i = p->depth; i-- > 0;) {
        if (!p->blocks[i].is_for || p->blocks[i].has_else)
            continue;
        if (has_word(s, "loop"))
            p->template->nodes[p->blocks[i].branch].uses_loop = true;
        return;
    }
}

static int compile(struct parser *p, struct span s, struct template_expression *out)
{
    s = trimmed(s);
    *out = (struct template_expression){ .id = -1 };
    note_loop(p, s);
    if (is_name(s) && !is_keyword(s)) {
        const char *name = keep_word(p->template, s);
        if (!name)
            return -ENOMEM;
        if (!script_name_is_taken(p->template->script, name)) {
            out->name = name; /* a field: no need for Lua */
            out->len = s.len;
            return 0;
        }
    }
    struct buf name = BUF_INIT(4096);
    buf_addf(&name, "%s:%d", p->template->name, p->line);
    int rc = script_compile(p->template->script, buf_str(&name), s.text, s.len, &out->id, p->why);
    buf_release(&name);
    return rc;
}

/* The length up to the first `stop` outside quotes and brackets, or all of it. */
static size_t length_to(struct span s, char stop)
{
    int depth = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.text[i];
        if (c == '"' || c == '\'') {
            for (i++; i < s.len && s.text[i] != c; i++)
                if (s.text[i] == '\\')
                    i++;
        } else if (c == stop && depth <= 0) {
            return i;
        } else if (c == '(' || c == '[' || c == '{') {
            depth++;
        } else if (c == ')' || c == ']' || c == '}') {
            depth--;
        }
    }
    return s.len;
}

static struct span take_to(struct span *rest, char stop)
{
    size_t n = length_to(*rest, stop);
    struct span part = { rest->text, n };
    n += n < rest->len; /* the stop itself */
    rest->text += n;
    rest->len -= n;
    return trimmed(part);
}

static int parse_args(struct parser *p, struct span args, const struct filter_kind *kind,
                      struct template_filter *filter)
{
    args = trimmed(args);
    while (args.len > 0) {
        struct span arg = take_to(&args, ',');
        if (filter->arg_count == kind->max_args)
            return fail(p, "the filter '%s' takes %s argument%s", kind->name,
                        kind->max_args == 0   ? "no"
                        : kind->max_args == 1 ? "one"
                                              : "two",
                        kind->max_args > 1 ? "s" : "");
        int rc = compile(p, arg, &filter->args[filter->arg_count++]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int parse_filter(struct parser *p, struct span s, struct template_filter *filter)
{
    size_t name_len = 0;
    while (name_len < s.len && is_word(s.text[name_len]))
        name_len++;
    char name[32];
    snprintf(name, sizeof(name), "%.*s", (int)name_len, s.text);
    if (name_len == 0)
        return fail(p, "a filter's name is expected after '|' (for or, write or)");
    const char *nearest = NULL;
    const struct filter_kind *kind = filter_find(name, &nearest);
    if (!kind && nearest)
        return fail(p, "there is no filter '%s', did you mean '%s'?", name, nearest);
    if (!kind)
        return fail(p, "there is no filter '%s'; there are " FILTER_NAMES, name);

    *filter = (struct template_filter){ .type = kind->type };
    struct span rest = trimmed((struct span){ s.text + name_len, s.len - name_len });
    if (rest.len > 0) {
        if (rest.len < 2 || *rest.text != '(' || rest.text[rest.len - 1] != ')')
            return fail(p, "after the filter '%s' comes '(' and ')', '|' or the end", name);
        int rc = parse_args(p, (struct span){ rest.text + 1, rest.len - 2 }, kind, filter);
        if (rc < 0)
            return rc;
    }
    if (filter->arg_count < kind->min_args)
        return fail(p, "the filter '%s' needs %s", name,
                    kind->type == FILTER_REPLACE ? "(from, to)" : "(text)");
    return 0;
}

static int parse_output(struct parser *p, struct span written, struct span inside)
{
    struct template_filter filters[TEMPLATE_MAX_FILTERS];
    unsigned char count = 0;
    struct template_expression expression;
    struct span rest = inside;
    struct span first = take_to(&rest, '|');
    if (first.len == 0)
        return fail(p, "an expression is expected in {{ }}");
    int rc = compile(p, first, &expression);
    bool more = rest.text > inside.text && rest.text[-1] == '|';
    while (rc == 0 && more) {
        const char *before = rest.text;
        struct span filter = take_to(&rest, '|');
        more = rest.text > before && rest.text[-1] == '|';
        if (count == TEMPLATE_MAX_FILTERS)
            return fail(p, "more than %d filters", TEMPLATE_MAX_FILTERS);
        rc = parse_filter(p, filter, &filters[count++]);
    }
    if (rc < 0)
        return rc;
    struct template_node *node = add_node(p, NODE_OUTPUT);
    if (!node)
        return -ENOMEM;
    node->text = written.text;
    node->len = written.len;
    node->expression = expression;
    if (count > 0) {
        node->u.filters = malloc(count * sizeof(filters[0]));
        if (!node->u.filters)
            return -ENOMEM;
        memcpy(node->u.filters, filters, count * sizeof(filters[0]));
        node->filter_count = count;
    }
    return 0;
}

/* ---- Statements ---- */

static int compile_statement(struct parser *p, struct span s, struct template_expression *out)
{
    if (length_to(s, '|') < s.len)
        return fail(p, "filters belong into {{ }}; for or, write or");
    return compile(p, s, out);
}

static int add_condition(struct parser *p, struct span s, struct block *block)
{
    struct template_expression expression;
    int rc = compile_statement(p, s, &expression);
    if (rc < 0)
        return rc;
    struct template_node *node = add_node(p, NODE_IF);
    if (!node)
        return -ENOMEM;
    node->expression = expression;
    block->branch = p->template->count - 1;
    return 0;
}

/* A jump to the end of the block. */
static int add_jump(struct parser *p, struct block *block)
{
    struct template_node *node = add_node(p, NODE_JUMP);
    if (!node)
        return -ENOMEM;
    node->target = block->jumps;
    block->jumps = p->template->count - 1;
    return 0;
}

/* The next block, which is open when p->depth counts it; NULL after fail(). */
static struct block *open_block(struct parser *p, bool is_for)
{
    if (p->depth == TEMPLATE_MAX_NESTING) {
        fail(p, "more than %d statements inside each other", TEMPLATE_MAX_NESTING);
        return NULL;
    }
    struct block *block = &p->blocks[p->depth];
    *block = (struct block){
        .is_for = is_for,
        .line = p->line,
        .branch = NOWHERE,
        .jumps = NOWHERE,
    };
    return block;
}

static int parse_if(struct parser *p, struct span rest)
{
    struct block *block = open_block(p, false);
    int rc = block ? add_condition(p, rest, block) : -EINVAL;
    if (rc == 0)
        p->depth++;
    return rc;
}

static int take_key(struct parser *p, struct span s, const char **out)
{
    if (!is_name(s) || is_keyword(s) || span_is(s, "loop"))
        return fail(p,
                    "'%.*s' can't be a name: write {%% for x in LIST %%} or {%% for key, value in "
                    "OBJECT %%}",
                    s.len > 40 ? 40 : (int)s.len, s.text);
    *out = keep_word(p->template, s);
    if (!*out)
        return -ENOMEM;
    if (script_name_is_taken(p->template->script, *out))
        return fail(p, "'%s' is the name of a function: choose another", *out);
    return 0;
}

static int parse_for(struct parser *p, struct span rest)
{
    /* "in" stands alone before the expression. */
    size_t in = 0;
    while (in + 2 < rest.len &&
           !(is_blank(rest.text[in]) && rest.text[in + 1] == 'i' && rest.text[in + 2] == 'n' &&
             (in + 3 == rest.len || !is_word(rest.text[in + 3]))))
        in++;
    if (in + 2 >= rest.len)
        return fail(p, "'in' is missing: write {%% for x in LIST %%}");
    struct span names = { rest.text, in };
    struct span list = { rest.text + in + 3, rest.len - in - 3 };

    const char *keys[2] = { NULL, NULL };
    struct span first = take_to(&names, ',');
    bool two = names.text[-1] == ',';
    int rc = take_key(p, first, &keys[0]);
    if (rc == 0 && two)
        rc = take_key(p, trimmed(names), &keys[1]);
    struct template_expression expression;
    if (rc == 0)
        rc = compile_statement(p, list, &expression);
    struct block *block = rc == 0 ? open_block(p, true) : NULL;
    if (!block)
        return rc < 0 ? rc : -EINVAL;
    struct template_node *node = add_node(p, NODE_FOR);
    if (!node)
        return -ENOMEM;
    node->expression = expression;
    node->key_count = two ? 2 : 1;
    memcpy(node->u.keys, keys, sizeof(keys));
    block->branch = p->template->count - 1;
    p->depth++;
    return 0;
}

/* The block that a word belongs to; NULL after fail(). */
static struct block *block_of(struct parser *p, const char *word, const char *opener)
{
    if (p->depth > 0)
        return &p->blocks[p->depth - 1];
    fail(p, "{%% %s %%} without {%% %s %%}", word, opener);
    return NULL;
}

static int close_condition(struct parser *p, struct block *block)
{
    int rc = add_jump(p, block);
    if (rc == 0)
        p->template->nodes[block->branch].target = p->template->count;
    block->branch = NOWHERE;
    return rc;
}

static int parse_elif(struct parser *p, struct span rest)
{
    struct block *block = block_of(p, "elif", "if");
    if (!block)
        return -EINVAL;
    if (block->is_for || block->has_else)
        return fail(p,
                    block->is_for ? "{%% elif %%} in a for: close the for of line %d first"
                                  : "{%% elif %%} after {%% else %%} (if of line %d)",
                    block->line);
    int rc = close_condition(p, block);
    return rc < 0 ? rc : add_condition(p, rest, block);
}

/* The end of a loop's body. */
static int close_body(struct parser *p, struct block *block, bool and_jump)
{
    struct template_node *node = add_node(p, NODE_NEXT);
    if (!node)
        return -ENOMEM;
    node->target = block->branch + 1;
    int rc = and_jump ? add_jump(p, block) : 0;
    p->template->nodes[block->branch].target = p->template->count;
    return rc;
}

static int parse_else(struct parser *p)
{
    struct block *block = block_of(p, "else", "if");
    if (!block)
        return -EINVAL;
    if (block->has_else)
        return fail(p, "a second {%% else %%} (%s of line %d)", block->is_for ? "for" : "if",
                    block->line);
    int rc = block->is_for ? close_body(p, block, true) : close_condition(p, block);
    block->has_else = true;
    return rc;
}

static int parse_end(struct parser *p, bool is_for)
{
    struct block *block = block_of(p, is_for ? "endfor" : "endif", is_for ? "for" : "if");
    if (!block)
        return -EINVAL;
    if (block->is_for != is_for)
        return fail(p, "{%% end%s %%} here closes the %s of line %d: write {%% end%s %%}",
                    is_for ? "for" : "if", block->is_for ? "for" : "if", block->line,
                    block->is_for ? "for" : "if");
    int rc = is_for && !block->has_else ? close_body(p, block, false) : 0;
    struct template_node *nodes = p->template->nodes;
    if (!is_for && block->branch != NOWHERE)
        nodes[block->branch].target = p->template->count;
    for (uint32_t jump = block->jumps; jump != NOWHERE;) {
        uint32_t before = nodes[jump].target;
        nodes[jump].target = p->template->count;
        jump = before;
    }
    p->depth--;
    return rc;
}

static int unknown_statement(struct parser *p, struct span word)
{
    static const char *const words[] = { "if", "elif", "else", "endif", "for", "endfor" };
    char name[32];
    snprintf(name, sizeof(name), "%.*s", word.len > 31 ? 31 : (int)word.len, word.text);
    struct nearest nearest = { .wrong = name };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        nearest_try(&nearest, words[i]);
    if (nearest.best)
        return fail(p, "there is no statement '%s', did you mean '%s'?", name, nearest.best);
    return fail(p, "there is no statement '%s'; there are if, elif, else, endif, for, endfor",
                name);
}

static int parse_statement(struct parser *p, struct span inside)
{
    struct span s = trimmed(inside), word = { s.text, 0 };
    while (word.len < s.len && is_word(s.text[word.len]))
        word.len++;
    struct span rest = trimmed((struct span){ s.text + word.len, s.len - word.len });
    bool alone = span_is(word, "else") || span_is(word, "endif") || span_is(word, "endfor");
    if (alone && rest.len > 0)
        return fail(p, "nothing is expected after '%.*s'", (int)word.len, word.text);
    if (span_is(word, "if"))
        return parse_if(p, rest);
    if (span_is(word, "elif"))
        return parse_elif(p, rest);
    if (span_is(word, "else"))
        return parse_else(p);
    if (span_is(word, "endif"))
        return parse_end(p, false);
    if (span_is(word, "for"))
        return parse_for(p, rest);
    if (span_is(word, "endfor"))
        return parse_end(p, true);
    return unknown_statement(p, word);
}

/* ---- Tags ---- */

/* The length of the tag at p->at, "{?" to "?}", or 0 if it has no end. */
static size_t tag_length(const struct parser *p, char kind)
{
    const char *s = p->text + p->at;
    size_t len = p->len - p->at;
    if (kind == '#') {
        const char *end = memmem(s + 2, len - 2, "#}", 2);
        return end ? (size_t)(end - s) + 2 : 0;
    }
    char close = kind == '{' ? '}' : '%';
    for (size_t i = 2; i < len;) {
        struct span rest = { s + i, len - i };
        i += length_to(rest, close);
        if (i + 1 < len && s[i + 1] == '}')
            return i + 2;
        i++;
    }
    return 0;
}

/* The text before a tag, or to the end; `strip_end`: without the blanks at its end. */
static int parse_text(struct parser *p, size_t len, bool strip_end)
{
    struct span s = { p->text + p->at, len };
    while (p->strip && s.len > 0 && is_blank(*s.text)) {
        s.text++;
        s.len--;
    }
    while (strip_end && s.len > 0 && is_blank(s.text[s.len - 1]))
        s.len--;
    p->strip = false;
    return add_text(p, s);
}

/* Goes on in the text, and notes whether the line has had anything but blanks and statements. */
static void skip(struct parser *p, size_t len, bool is_text)
{
    for (size_t end = p->at + len; p->at < end; p->at++) {
        char c = p->text[p->at];
        p->line += c == '\n';
        if (is_text && c == '\n')
            p->line_is_bare = true;
        else if (is_text && !is_blank(c))
            p->line_is_bare = false;
    }
}

/*
 * Whether a tag of `len` bytes has a line of its own: then the line leaves no trace. `before` is how much
 * text stands before it; sets how many blanks before it and how many bytes after it go with it.
 */
static bool is_standalone(const struct parser *p, size_t before, size_t len, size_t *indent,
                          size_t *after)
{
    const char *tag = p->text + p->at + before;
    *indent = 0;
    while (*indent < before &&
           (tag[-1 - (ptrdiff_t)*indent] == ' ' || tag[-1 - (ptrdiff_t)*indent] == '\t'))
        ++*indent;
    bool begins = *indent < before ? tag[-1 - (ptrdiff_t)*indent] == '\n' : p->line_is_bare;
    const char *rest = tag + len, *end = p->text + p->len;
    const char *at = rest;
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r'))
        at++;
    *after = (size_t)(at - rest) + (at < end);
    return begins && (at == end || *at == '\n');
}

static int parse_inside(struct parser *p, char kind, struct span written)
{
    struct span inside = { written.text + 2, written.len - 4 };
    if (inside.len > 0 && *inside.text == '-') {
        inside.text++;
        inside.len--;
    }
    p->strip = inside.len > 0 && inside.text[inside.len - 1] == '-';
    inside.len -= p->strip;
    if (kind == '{')
        return parse_output(p, written, inside);
    return kind == '%' ? parse_statement(p, inside) : 0;
}

/* The text up to the next tag, and the tag. */
static int parse_part(struct parser *p)
{
    const char *s = p->text + p->at;
    size_t n = 0, left = p->len - p->at;
    while (n + 1 < left &&
           !(s[n] == '{' && (s[n + 1] == '{' || s[n + 1] == '%' || s[n + 1] == '#')))
        n++;
    if (n + 1 >= left) {
        int rc = parse_text(p, left, false);
        p->at = p->len;
        return rc;
    }
    char kind = s[n + 1];
    size_t begin = p->at;
    p->at += n;
    size_t len = tag_length(p, kind);
    p->at = begin;
    size_t indent = 0, after = 0;
    bool alone = len > 0 && kind != '{' && is_standalone(p, n, len, &indent, &after);

    int rc = parse_text(p, n - (alone ? indent : 0), n + 2 < left && s[n + 2] == '-');
    skip(p, n, true);
    if (rc == 0 && len == 0)
        rc = fail(p, "'{%c' is not closed by '%c}' (or a quote or bracket in it is open)", kind,
                  kind == '{' ? '}' : kind);
    if (rc == 0)
        rc = parse_inside(p, kind, (struct span){ s + n, len });
    if (rc < 0)
        return rc;
    skip(p, len, false);
    if (kind == '{')
        p->line_is_bare = false;
    if (alone)
        skip(p, after, true);
    return 0;
}

int template_parse(struct template *template, size_t len, struct buf *why)
{
    struct parser p = {
        .template = template,
        .text = template->source,
        .len = len,
        .line = 1,
        .line_is_bare = true,
        .why = why,
    };
    int rc = 0;
    while (rc == 0 && p.at < len)
        rc = parse_part(&p);
    if (rc == 0 && p.depth > 0) {
        const struct block *block = &p.blocks[p.depth - 1];
        p.line = block->line;
        rc = fail(&p, "this %s is not closed: write {%% end%s %%}", block->is_for ? "for" : "if",
                  block->is_for ? "for" : "if");
    }
    return rc;
}
