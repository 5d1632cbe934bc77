/* SPDX-License-Identifier: MIT */

/* How many deliveries there are on disk, of each target and state, found by one walk along an index: a start with a million of
 * them cannot afford more. The main thread, before the store's first task. */

#ifndef TOCSIN_DELIVERY_SURVEY_H
#define TOCSIN_DELIVERY_SURVEY_H

#include <stdint.h>

struct sqlite3;
struct survey;

#define SURVEY_STATES 3 /* those of the table `delivery` (store/schema.c) */

/* NULL when it cannot be read, or there is no memory. */
struct survey *survey_new(struct sqlite3 *db);
void survey_free(struct survey *survey); /* NULL is allowed */

/* Those of a target, or of all (NULL, NULL), in that state. */
uint64_t survey_count(const struct survey *survey, const char *service, const char *target,
                      unsigned state);

#endif
