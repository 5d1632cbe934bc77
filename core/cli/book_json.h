/* SPDX-License-Identifier: MIT */

/* What is in the ledger, as JSON. Main thread. */

#ifndef TOCSIN_CLI_BOOK_JSON_H
#define TOCSIN_CLI_BOOK_JSON_H

#include "ledger/book.h"

/* Prints a message with all that is known of it, or an event, as an object on one line. Returns whether that worked. */
bool book_json_entry(const struct book_entry *entry);
bool book_json_event(const struct sheet_item *event, const char *id, uint64_t number);

#endif
