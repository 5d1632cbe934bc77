/* SPDX-License-Identifier: MIT */

/* What is in the ledger, as JSON. Main thread. */

#ifndef TOCSIN_CLI_BOOK_JSON_H
#define TOCSIN_CLI_BOOK_JSON_H

#include "ledger/book.h"

struct json_t;

/* Prints a message with all that is known of it, or an event, as an object on one line. Returns whether that worked. `others`,
 * which are taken over, are about routes that are not in the record; NULL for none. */
bool book_json_entry(const struct book_entry *entry, struct json_t *others);
bool book_json_event(const struct sheet_item *event, const char *id, uint64_t number);

#endif
