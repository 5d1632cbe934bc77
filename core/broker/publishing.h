/* SPDX-License-Identifier: MIT */

/* What other threads publish (broker_publish()). */

#ifndef TOCSIN_BROKER_PUBLISHING_H
#define TOCSIN_BROKER_PUBLISHING_H

#include "broker/worker.h"

/* A LETTER_PUBLISH has come: routes it and tells who waits. The worker's thread. */
void publishing_arrive(struct worker *worker, struct letter *letter);

/* The same when nobody is left to route it. Any thread. */
void publishing_refuse(struct letter *letter);

#endif
