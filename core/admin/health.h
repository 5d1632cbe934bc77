/* SPDX-License-Identifier: MIT */

/* How it goes, in one word, with the reasons in words. A struct health belongs to one thread. */

#ifndef TOCSIN_ADMIN_HEALTH_H
#define TOCSIN_ADMIN_HEALTH_H

#include "admin/conservation.h"
#include "admin/observation.h"

#include <stddef.h>
#include <stdint.h>

enum health_level {
    HEALTH_OK,
    HEALTH_WARNING,  /* a person should look at it some time */
    HEALTH_CRITICAL, /* messages do not come through */
    HEALTH_STOPPED,
};
const char *health_word(enum health_level level);

#define HEALTH_REASONS 16 /* that are told; others are counted */

struct health {
    enum health_level level;
    size_t count; /* of reasons, also those that are not told */
    char reasons[HEALTH_REASONS][200];
};

/* Links get so long after the start to connect, before that is a reason. */
#define HEALTH_CONNECT_MS 5000

/* Judges what is seen, `since_ms` after the start. The worst reasons come first. */
void health_judge(struct health *health, const struct observation *seen,
                  const struct conservation *conservation, int64_t since_ms);

/* Whether what people would be told differs in more than numbers. */
bool health_differs(const struct health *a, const struct health *b);

/* "warning: 3 dead letters wait; ..." */
void health_write(const struct health *health, struct buf *out);

#endif
