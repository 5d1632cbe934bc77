/* SPDX-License-Identifier: MIT */

/* tocsin queue retry --to: makes a delivery's record fit another target. Main thread. */

#ifndef TOCSIN_CLI_QUEUE_TO_H
#define TOCSIN_CLI_QUEUE_TO_H

#include "base/buf.h"
#include "router/target.h"

#include <stddef.h>
#include <stdint.h>

/* A target of the configuration, with the services that it is of. */
struct queue_to;

/* Reads the whole configuration and finds "service:target". Has said on stderr what is wrong when it returns NULL. */
struct queue_to *queue_to_open(const char *config, const char *where);
void queue_to_close(struct queue_to *to); /* NULL is allowed */

const struct target *queue_to_target(const struct queue_to *to);

/*
 * Makes the record of one delivery (its number is for what is said) into one for the target: with the same id, message, title,
 * text and the rest. The target's own formats, such as a path, are rendered anew from what is there of the message; fields
 * that only the route knew, such as named topic levels, stay as they are written in them, which is said on stderr. Returns 0 and
 * appends to `out`, or a negative errno value.
 */
int queue_to_record(const struct queue_to *to, uint64_t number, const void *record, size_t len,
                    struct buf *out);

#endif
