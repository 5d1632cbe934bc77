/* SPDX-License-Identifier: MIT */

/*
 * Which routes have nothing to do with a message: the ledger has those that matched it, and of the others their number
 * only. So they are looked up in the configuration as it is now, which may be another than the one the message met. Main
 * thread.
 */

#ifndef TOCSIN_CLI_WHY_ROUTES_H
#define TOCSIN_CLI_WHY_ROUTES_H

#include "base/buf.h"
#include "ledger/book.h"

#include <stdbool.h>

struct json_t;
struct why_routes;

/* Reads the configuration (NULL: the default one), all of it, as `tocsin explain` does. One that has mistakes is no error:
 * then there are no routes, and that is told. NULL when there is no memory; all else can be called with it. */
struct why_routes *why_routes_open(const char *config);
void why_routes_close(struct why_routes *routes);

/* Adds sentences about the routes that are not in the record of a message, the nearest first; all of them, or a few and how
 * many more. Nothing when there are none, or it was not routed. */
void why_routes_tell(const struct why_routes *routes, const struct book_entry *entry, bool all,
                     struct buf *out);

/* Which routes match a topic of which there is no record, or that none does. Returns how many do. */
size_t why_routes_tell_topic(const struct why_routes *routes, const char *topic, bool all,
                             struct buf *out);

/* All of them as an array of objects, to be taken over; NULL when it is not known. */
struct json_t *why_routes_json(const struct why_routes *routes, const struct book_entry *entry);

#endif
