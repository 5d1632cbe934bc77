/* SPDX-License-Identifier: MIT */

/*
 * A delivery: one message, rendered for one target. The engine makes it, a service's queue carries it,
 * a plugin sends it. It has one owner at a time, and that owner's thread may change it.
 */

#ifndef TOCSIN_ROUTER_DELIVERY_H
#define TOCSIN_ROUTER_DELIVERY_H

#include "router/message.h"
#include "router/target.h"
#include "tocsin/plugin.h"

#include <stdint.h>

struct delivery {
    struct delivery *next; /* for the list it is in */
    struct target *target;
    struct message *message;     /* a reference of its own */
    struct tocsin_message view;  /* what the plugin sees; points into `message` and this block */
    const char *const *rendered; /* target->format_count texts, NULL where not set; in this block */
    size_t size;                 /* bytes of memory, for limits: this block and the message */

    /* The queue's own. */
    unsigned attempts;  /* made so far */
    int64_t created_ms; /* monotonic clock */
    int64_t due_ms;     /* monotonic clock: not before */
    bool holding;       /* holds the message, because it has no place in a bounded queue yet */
    char id[40];        /* view.id */
};

/* What a delivery is made of. Texts are copied; lengths in bytes. */
struct delivery_parts {
    struct target *target;
    struct message *message;
    const char *route;
    const char *title; /* NULL is "" */
    size_t title_len;
    const char *text; /* NULL: the payload is the text (view.text_is_payload) */
    size_t text_len;
    const char *html; /* NULL: not wanted */
    size_t html_len;
    const char *const *rendered; /* as above */
    const struct tocsin_field *fields;
    size_t field_count;
    int priority;
    bool has_priority;
    bool has_severity;
    enum tocsin_severity severity;
};

/* Makes one in a single block of memory, or returns NULL. A payload that is the text and is not UTF-8
 * gets U+FFFD in view.text. */
struct delivery *delivery_new(const struct delivery_parts *parts);

/* Drops its hold, if it has one, and its reference. NULL is allowed. */
void delivery_free(struct delivery *delivery);

#endif
