/* SPDX-License-Identifier: MIT */

/* The status document: everything that is seen, as JSON. There are no secrets in it, nor topics or payloads. Any thread. */

#ifndef TOCSIN_ADMIN_STATUS_H
#define TOCSIN_ADMIN_STATUS_H

#include "admin/health.h"
#include "admin/observation.h"

struct status_parts {
    const char *node;
    int64_t started_ms; /* wall clock */
    int64_t now_ms;     /* the same */
    int64_t interval_ms;
    const struct observation *seen;
    const struct health *health;
    const struct conservation *conservation;
};

/* Returns the text, to be freed by the caller, or NULL when there is no memory. */
char *status_text(const struct status_parts *parts);

/* "2026-01-31T12:00:00Z" */
void status_time(int64_t wall_ms, char out[32]);

#endif
