/* SPDX-License-Identifier: MIT */

#include "base/nearest.h"

#include <ctype.h>
#include <string.h>

#define LONGEST 64 /* bytes; longer names are not compared */

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * Edits (one byte put in, left out or changed, two neighbours swapped; case does not count) that turn
 * `a` into `b`: the optimal string alignment distance, with the last three rows of its table.
 */
static size_t edits(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t rows[3][LONGEST + 1];
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= b_len; j++)
        last[j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        now[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            now[j] = min(min(last[j], now[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]))
                now[j] = min(now[j], before[j - 2] + 1);
        }
        size_t *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[b_len];
}

void nearest_try(struct nearest *nearest, const char *name)
{
    size_t wrong_len = strlen(nearest->wrong), len = strlen(name);
    if (wrong_len > LONGEST || len > LONGEST)
        return;
    size_t distance = edits(nearest->wrong, wrong_len, name, len);
    /* More than a third wrong is another word, not a slip. */
    if (distance > 1 + len / 3 || distance >= len)
        return;
    if (!nearest->best || distance < nearest->distance) {
        nearest->best = name;
        nearest->distance = distance;
    }
}
