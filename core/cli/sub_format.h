/* SPDX-License-Identifier: MIT */

/*
 * How `tocsin sub` prints a message: -F as mosquitto_sub has it. Sequences that begin with '%' are of the
 * message, with '@' of its time (strftime), with '\' control characters. Any thread, apart from the time
 * zone of the process.
 *
 * Unlike there: a width counts characters and never cuts; JSON is valid whatever the payload is, its "tst"
 * is ISO 8601, and numbers of a payload in %J stay as they were written.
 */

#ifndef TOCSIN_CLI_SUB_FORMAT_H
#define TOCSIN_CLI_SUB_FORMAT_H

#include "base/buf.h"

#include <mosquitto.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

struct sub_message {
    const char *topic;
    const void *payload;
    size_t len;
    int qos;
    bool retain;
    int mid; /* 0 with QoS 0 */
    const mosquitto_property *properties;
    struct timespec arrived;
};

#define SUB_FORMAT_MAX_WIDTH 10000

/* What is wrong with a format, as a sentence to go after its text; NULL if nothing is. `*at` is then the
 * offset of the sequence. */
const char *sub_format_fault(const char *format, size_t *at);

/* Appends the message, laid out by a format without a fault. Returns 0, -EINVAL if there is a %J and the
 * payload is not JSON (`out` is to be thrown away), or what buf_add() returns. */
int sub_format_add(const char *format, const struct sub_message *message, bool pretty,
                   struct buf *out);

/* The explanation of the format, for help and manual. */
extern const char sub_format_help[];

#endif
