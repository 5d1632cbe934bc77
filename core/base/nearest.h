/* SPDX-License-Identifier: MIT */

/* "Did you mean ...?": the known name that is nearest to a mistyped one. Any thread. */

#ifndef TOCSIN_BASE_NEAREST_H
#define TOCSIN_BASE_NEAREST_H

#include <stddef.h>

/* Looks through names one at a time and remembers the nearest. Begin with { .wrong = TEXT }. */
struct nearest {
    const char *wrong;
    const char *best; /* NULL while nothing is near enough to be worth a suggestion */
    size_t distance;
};

/* Considers one known name, which must outlive the struct. */
void nearest_try(struct nearest *nearest, const char *name);

#endif
