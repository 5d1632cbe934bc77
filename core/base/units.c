/* SPDX-License-Identifier: MIT */

#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    const char *name;
    int64_t factor;
};

/* From small to large: the printers take the largest that divides. */
static const struct unit durations[] = {
    { "ms", 1 },
    { "s", 1000 },
    { "m", INT64_C(60) * 1000 },
    { "h", INT64_C(3600) * 1000 },
    { "d", INT64_C(86400) * 1000 },
    { NULL, 0 },
};

static const struct unit sizes[] = {
    { "", 1 },   { "KiB", 1024 }, { "MiB", 1024 * 1024 }, { "GiB", INT64_C(1024) * 1024 * 1024 },
    { NULL, 0 },
};

static int parse(const char *text, const struct unit *units, int64_t *out)
{
    *out = 0;
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    if (strcmp(text, "0") == 0)
        return 0;
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno == ERANGE)
        return -ERANGE;
    for (; units->name; units++) {
        if (strcmp(end, units->name) != 0)
            continue;
        if (number > INT64_MAX / units->factor)
            return -ERANGE;
        *out = number * units->factor;
        return 0;
    }
    return -EINVAL;
}

static void print(struct buf *out, const struct unit *units, int64_t value)
{
    const struct unit *best = units;
    for (const struct unit *u = units; u->name && value != 0; u++)
        if (value % u->factor == 0)
            best = u;
    buf_addf(out, "%" PRId64 "%s", value / best->factor, best->name);
}

int duration_parse(const char *text, int64_t *ms)
{
    return parse(text, durations, ms);
}

int size_parse(const char *text, int64_t *bytes)
{
    return parse(text, sizes, bytes);
}

void duration_add(struct buf *out, int64_t ms)
{
    print(out, durations, ms);
}

void size_add(struct buf *out, int64_t bytes)
{
    print(out, sizes, bytes);
}
