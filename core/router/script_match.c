/* SPDX-License-Identifier: MIT */

/* Shell patterns and regular expressions for expressions. Runs on the thread of the script state. */

#define PCRE2_CODE_UNIT_WIDTH 8

#include "router/script_match.h"

#include "base/utf8.h"

#include <errno.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- Shell patterns ---- */

/* The character at `text`, or the byte as a number that is no character. Returns its length. */
static size_t character(const char *text, size_t len, uint32_t *code)
{
    unsigned char first = (unsigned char)*text;
    if (first < 0x80) {
        *code = first;
        return 1;
    }
    size_t n = utf8_decode(text, len, code);
    if (n == 0)
        *code = 0x110000U + first;
    return n ? n : 1;
}

/*
 * The set that begins after a '[' at `p`. Returns the bytes up to and with its ']', or 0 when there is
 * none: then the '[' stands for itself.
 */
static size_t set_match(const char *p, size_t len, uint32_t code, bool *in)
{
    size_t i = 0;
    bool negated = len > 0 && (p[0] == '!' || p[0] == '^');
    if (negated)
        i++;
    bool found = false;
    for (bool first = true; i < len; first = false) {
        if (p[i] == ']' && !first) {
            *in = found != negated;
            return i + 1;
        }
        uint32_t low, high;
        i += character(p + i, len - i, &low);
        high = low;
        if (i + 1 < len && p[i] == '-' && p[i + 1] != ']') {
            i++;
            i += character(p + i, len - i, &high);
        }
        found = found || (code >= low && code <= high);
    }
    return 0;
}

/* Whether the pattern's next part, which is no '*', is the character. Sets how long the part is. */
static bool part_match(const char *p, size_t len, uint32_t code, size_t *part_len)
{
    if (*p == '?') {
        *part_len = 1;
        return true;
    }
    if (*p == '[') {
        bool in;
        size_t n = set_match(p + 1, len - 1, code, &in);
        if (n > 0) {
            *part_len = 1 + n;
            return in;
        }
    }
    size_t escaped = *p == '\\' && len > 1;
    uint32_t wanted;
    *part_len = escaped + character(p + escaped, len - escaped, &wanted);
    return wanted == code;
}

int glob_match(const char *pattern, size_t pattern_len, const char *text, size_t len,
               int64_t *steps)
{
    size_t p = 0, t = 0;
    size_t after_star = SIZE_MAX; /* in the pattern */
    size_t star_end = 0;          /* where the text of the last '*' ends, so far */

    /* Only the last '*' needs to be tried again with more text: an earlier one could not do better. */
    for (;;) {
        if (--*steps < 0)
            return -ETIME;
        if (p < pattern_len && pattern[p] == '*') {
            after_star = ++p;
            star_end = t;
            continue;
        }
        if (t == len) {
            if (p == pattern_len)
                return 1;
            return 0;
        }
        uint32_t code;
        size_t n = character(text + t, len - t, &code), part_len;
        if (p < pattern_len) {
            bool same = part_match(pattern + p, pattern_len - p, code, &part_len);
            *steps -= (int64_t)part_len / 8; /* a set is looked through each time */
            if (same) {
                p += part_len;
                t += n;
                continue;
            }
        }
        if (after_star == SIZE_MAX)
            return 0;
        star_end += character(text + star_end, len - star_end, &code);
        t = star_end;
        p = after_star;
    }
}

/* ---- Regular expressions ---- */

#define MATCH_LIMIT 100000    /* PCRE2's steps for one place where a match may begin */
#define DEPTH_LIMIT 1000      /* nested tries */
#define HEAP_KIB    4096      /* memory of one match */
#define NEST_LIMIT  100       /* parentheses */
#define SLICE       512       /* places to begin between two looks at the clock */
#define SEARCH_NS   100000000 /* of one search */

struct regex {
    pcre2_code *code;
    size_t len;
    char pattern[];
};

struct regex_engine {
    pcre2_compile_context *compiling;
    pcre2_match_context *matching;
    pcre2_match_data *data;
};

static void engine_free(struct regex_engine *engine)
{
    if (!engine)
        return;
    pcre2_match_data_free(engine->data);
    pcre2_match_context_free(engine->matching);
    pcre2_compile_context_free(engine->compiling);
    free(engine);
}

static struct regex_engine *engine_new(void)
{
    struct regex_engine *engine = calloc(1, sizeof(*engine));
    if (!engine)
        return NULL;
    engine->compiling = pcre2_compile_context_create(NULL);
    engine->matching = pcre2_match_context_create(NULL);
    engine->data = pcre2_match_data_create(1, NULL);
    if (!engine->compiling || !engine->matching || !engine->data) {
        engine_free(engine);
        return NULL;
    }
    pcre2_set_parens_nest_limit(engine->compiling, NEST_LIMIT);
    pcre2_set_match_limit(engine->matching, MATCH_LIMIT);
    pcre2_set_depth_limit(engine->matching, DEPTH_LIMIT);
    pcre2_set_heap_limit(engine->matching, HEAP_KIB);
    return engine;
}

static void regex_free(struct regex *regex)
{
    if (regex)
        pcre2_code_free(regex->code);
    free(regex);
}

void regexes_release(struct regexes *regexes)
{
    for (size_t i = 0; i < REGEX_CACHE; i++)
        regex_free(regexes->cache[i]);
    engine_free(regexes->engine);
    *regexes = (struct regexes){ 0 };
}

static int regex_new(const struct regex_engine *engine, const char *pattern, size_t len,
                     struct regex **out, struct buf *why)
{
    *out = NULL;
    if (len > REGEX_MAX_PATTERN) {
        buf_addf(why, "the pattern has more than %d bytes", REGEX_MAX_PATTERN);
        return -EINVAL;
    }
    struct regex *regex = malloc(sizeof(*regex) + len);
    if (!regex)
        return -ENOMEM;
    memcpy(regex->pattern, pattern, len);
    regex->len = len;

    int error;
    PCRE2_SIZE at;
    regex->code = pcre2_compile((PCRE2_SPTR)pattern, len,
                                PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C |
                                    PCRE2_USE_OFFSET_LIMIT,
                                &error, &at, engine->compiling);
    if (!regex->code) {
        free(regex);
        char text[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof(text));
        buf_addf(why, "the pattern is not valid: %s at byte %zu", text, (size_t)at);
        return -EINVAL;
    }
    *out = regex;
    return 0;
}

/* The compiled pattern, which then is the first in the cache. */
static int regex_find(struct regexes *regexes, const char *pattern, size_t len, struct regex **out,
                      struct buf *why)
{
    size_t i = 0;
    struct regex *regex = NULL;
    for (; i < REGEX_CACHE && regexes->cache[i]; i++) {
        struct regex *kept = regexes->cache[i];
        if (kept->len == len && memcmp(kept->pattern, pattern, len) == 0) {
            regex = kept;
            break;
        }
    }
    if (!regex) {
        int rc = regex_new(regexes->engine, pattern, len, &regex, why);
        if (rc < 0)
            return rc;
        if (i == REGEX_CACHE)
            regex_free(regexes->cache[--i]);
    }
    memmove(&regexes->cache[1], &regexes->cache[0], i * sizeof(regexes->cache[0]));
    regexes->cache[0] = regex;
    *out = regex;
    return 0;
}

static int64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * PCRE2 limits the work of each place where a match may begin, not that of all of them; a long text
 * with an evil pattern would take minutes. So they are tried in slices, with a look at the clock
 * between two.
 */
static int search(const struct regex_engine *engine, const struct regex *regex, const char *text,
                  size_t len, bool (*late)(void *context), void *context)
{
    int64_t start = len > SLICE ? cpu_ns() : 0;
    for (size_t from = 0;;) {
        bool last = len - from <= SLICE;
        pcre2_set_offset_limit(engine->matching, last ? PCRE2_UNSET : from + SLICE - 1);
        int rc = pcre2_match(regex->code, (PCRE2_SPTR)text, len, from, 0, engine->data,
                             engine->matching);
        if (rc != PCRE2_ERROR_NOMATCH || last)
            return rc;
        if (cpu_ns() - start > SEARCH_NS || late(context))
            return PCRE2_ERROR_MATCHLIMIT;
        from += SLICE;
        while (from < len && ((unsigned char)text[from] & 0xc0) == 0x80)
            from++; /* a match begins at a character */
    }
}

int regex_match(struct regexes *regexes, const char *pattern, size_t pattern_len, const char *text,
                size_t len, bool (*late)(void *context), void *context, struct buf *why)
{
    if (!regexes->engine)
        regexes->engine = engine_new();
    if (!regexes->engine)
        return -ENOMEM;
    if (len > REGEX_MAX_TEXT) {
        buf_addf(why, "the text has more than %d bytes: take a part of it by string.sub",
                 REGEX_MAX_TEXT);
        return -EINVAL;
    }
    struct regex *regex;
    int rc = regex_find(regexes, pattern, pattern_len, &regex, why);
    if (rc < 0)
        return rc;

    int found = search(regexes->engine, regex, text, len, late, context);
    if (found >= 0)
        return 1;
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    if (found == PCRE2_ERROR_NOMEMORY)
        return -ENOMEM;
    if (found == PCRE2_ERROR_MATCHLIMIT || found == PCRE2_ERROR_DEPTHLIMIT ||
        found == PCRE2_ERROR_HEAPLIMIT) {
        buf_add_str(why, "the pattern takes too much work on this text");
        return -EINVAL;
    }
    char words[128];
    pcre2_get_error_message(found, (PCRE2_UCHAR *)words, sizeof(words));
    buf_add_str(why, words);
    return -EINVAL;
}
