/* SPDX-License-Identifier: MIT */

/* What is in the ledger, in sentences for people. What strangers have written is made printable. One thread. */

#ifndef TOCSIN_LEDGER_TELL_H
#define TOCSIN_LEDGER_TELL_H

#include "ledger/book.h"

/* All that is known of a message: which, what each route decided and why, each delivery with its attempts, where it stands
 * now, and what can be done. `others` are sentences about routes that are not in the record; "" for none. */
void tell_entry(const struct book_entry *entry, const char *others, struct buf *out);

/* The same on one line, as short as it can be. */
void tell_line(const struct book_entry *entry, struct buf *out);

/* An event on one line. `number` is the message's, 0 if it is not known. */
void tell_event(const struct sheet_item *event, const char *id, uint64_t number, struct buf *out);

/* Words for JSON: "sent", "retry", ... */
const char *ledger_event_word(enum ledger_event event);
const char *book_state_word(enum book_state state);

#endif
