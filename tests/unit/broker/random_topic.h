/* SPDX-License-Identifier: MIT */

/*
 * Random topic names and filters of few different levels, so that they often match, and a generator whose
 * seed can be printed.
 */

#ifndef TOCSIN_TESTS_BROKER_RANDOM_TOPIC_H
#define TOCSIN_TESTS_BROKER_RANDOM_TOPIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RANDOM_TOPIC_SIZE 64

static inline uint32_t random_below(uint64_t *state, uint32_t limit)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % limit;
}

/* Returns the length; not terminated. One to `levels` levels, some empty, some beginning like others. */
static inline size_t random_topic(uint64_t *state, char *out, unsigned levels, bool filter)
{
    static const char *const words[] = { "",   "a",    "b",    "ab", "abc", "a b",
                                         "a!", "\x01", "$SYS", "$",  "%",   "b\xc3\xa4" };
    const unsigned n_words = sizeof words / sizeof *words;
    const unsigned n = 1 + random_below(state, levels);
    size_t len = 0;
    for (unsigned i = 0; i < n; i++) {
        if (i > 0)
            out[len++] = '/';
        if (filter && i + 1 == n && random_below(state, 5) == 0) {
            out[len++] = '#';
        } else if (filter && random_below(state, 4) == 0) {
            out[len++] = '+';
        } else {
            /* Few in most levels, so that they meet. */
            const unsigned kinds = random_below(state, 3) == 0 ? n_words : 4;
            for (const char *at = words[random_below(state, kinds)]; *at; at++)
                out[len++] = *at;
        }
    }
    if (len == 0)
        out[len++] = 'a'; /* a topic has at least one character */
    return len;
}

#endif
