/* SPDX-License-Identifier: MIT */

/*
 * Patterns for expressions: shell patterns and regular expressions, both with an end in sight whatever
 * the pattern and the text are. They belong to one thread.
 */

#ifndef TOCSIN_ROUTER_SCRIPT_MATCH_H
#define TOCSIN_ROUTER_SCRIPT_MATCH_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Whether all of `text` matches: * any text, ? one character (of UTF-8; else one byte), [a-z] [!a-z]
 * one of a set, \ takes the meaning from the next. Takes what it did off `*steps`. Returns 1, 0, or
 * -ETIME when there were not enough.
 */
int glob_match(const char *pattern, size_t pattern_len, const char *text, size_t len,
               int64_t *steps);

#define REGEX_CACHE       32          /* patterns that are kept compiled */
#define REGEX_MAX_PATTERN 4096        /* bytes */
#define REGEX_MAX_TEXT    (64 * 1024) /* bytes */

struct regexes {
    struct regex *cache[REGEX_CACHE]; /* the last used first; NULL at the end */
    struct regex_engine *engine;      /* made at the first use */
};

void regexes_release(struct regexes *regexes);

/*
 * Whether `pattern` is found anywhere in `text`; PCRE2's language, UTF-8 (bytes that are none match
 * nothing). `late` is asked now and then whether to give up. Returns 1, 0, or -EINVAL with the reason
 * added to `why` (pattern not valid, too much work), or -ENOMEM.
 */
int regex_match(struct regexes *regexes, const char *pattern, size_t pattern_len, const char *text,
                size_t len, bool (*late)(void *context), void *context, struct buf *why);

#endif
