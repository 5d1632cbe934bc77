/* SPDX-License-Identifier: MIT */

/*
 * How two topic filters relate. All filters given must be valid (topic.h). Any thread; nothing is kept.
 *
 * Two filters overlap when some topic name is matched by both; one covers the other when it matches
 * every topic name that the other does. Both keep to [MQTT-4.7.2-1]: a wildcard at the start has nothing
 * to do with names that start with '$'. Linear in the lengths.
 */

#ifndef TOCSIN_MQTT_FILTER_COVER_H
#define TOCSIN_MQTT_FILTER_COVER_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

bool filter_covers(const char *wide, const char *narrow);
bool filter_overlaps(const char *a, const char *b);

/* Whether it has a wildcard at all. One without matches one name. */
bool filter_has_wildcard(const char *filter);

/* Appends a filter that covers both, as narrow as one filter can be: levels that differ become '+', and
 * what only one of them has becomes '#'. They must overlap. Returns 0 or what buf_add() returns. */
int filter_join(const char *a, const char *b, struct buf *out);

/*
 * Filters in the order of their levels, so that those with the same first levels stand together; for
 * qsort() and for the walks below. Equal only if the texts are.
 */
int filter_compare(const char *a, const char *b);

/*
 * Calls `visit` for each filter of `sorted` (by filter_compare(), all different) that covers `filter` and
 * is not the same text, or that overlaps it (itself included). The cost depends on what is found and on
 * the levels, hardly on how many there are.
 */
typedef void filter_visit_fn(size_t index, void *context);
void filter_visit_covering(const char *const *sorted, size_t n, const char *filter,
                           filter_visit_fn *visit, void *context);
void filter_visit_overlapping(const char *const *sorted, size_t n, const char *filter,
                              filter_visit_fn *visit, void *context);

#endif
