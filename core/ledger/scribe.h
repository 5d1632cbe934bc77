/* SPDX-License-Identifier: MIT */

/*
 * A scribe notes for the ledger what an engine decides, message by message. It belongs to the engine's thread. NULL is
 * allowed everywhere: then nothing is noted.
 */

#ifndef TOCSIN_LEDGER_SCRIBE_H
#define TOCSIN_LEDGER_SCRIBE_H

#include "ledger/ledger.h"
#include "router/engine.h"

struct scribe;

/* NULL when there is no ledger, or no memory. */
struct scribe *scribe_new(struct ledger *ledger);
void scribe_free(struct scribe *scribe);

/* What the engine's observer is told. */
void scribe_decided(struct scribe *scribe, const struct decision *decision);
void scribe_no_target(struct scribe *scribe, const struct route *route, const char *name);

/* The engine is done with a message, which led to these deliveries; there are so many routes in all. */
void scribe_message(struct scribe *scribe, const struct message *message,
                    const struct delivery *first, size_t routes);

/* Hands what was noted to the ledger. To be called before deliveries and messages are let go. */
void scribe_flush(struct scribe *scribe);

#endif
