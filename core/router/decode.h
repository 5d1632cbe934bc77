/* SPDX-License-Identifier: MIT */

/*
 * The decoded payload of the message at hand: parsed once, at the first need, and shared by all routes.
 * One thread.
 */

#ifndef TOCSIN_ROUTER_DECODE_H
#define TOCSIN_ROUTER_DECODE_H

#include "base/buf.h"
#include "router/json.h"
#include "router/message.h"
#include "router/route.h"

struct decoder {
    struct json_doc *doc;
    const struct message *message;
    enum {
        JSON_UNTRIED,
        JSON_READ,
        JSON_BAD
    } json;
    enum {
        TEXT_UNTRIED,
        TEXT_VALID,
        TEXT_INVALID
    } text;
    const char *why; /* of JSON_BAD */
    size_t at;
};

/* Begins with a new message. `doc` stays the caller's. */
void decoder_begin(struct decoder *decoder, const struct message *message);

/* Decodes as a route asks. Returns 0 and sets `*value` (VALUE_NONE for binary); or -EINVAL with the reason
 * added to `why`; or -ENOMEM. DECODE_AUTO never fails but for memory. */
int decoder_value(struct decoder *decoder, enum decode how, struct value *value, struct buf *why);

#endif
