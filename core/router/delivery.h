/* SPDX-License-Identifier: MIT */

/*
 * A delivery: one message, rendered for one target. The engine makes it, a service's queue carries it,
 * a plugin sends it. It has one owner at a time, and that owner's thread may change it. What the plugin
 * sees of it never changes, so a plugin call that was given up may go on reading it: the memory lives
 * until the last borrower has returned it.
 */

#ifndef TOCSIN_ROUTER_DELIVERY_H
#define TOCSIN_ROUTER_DELIVERY_H

#include "router/message.h"
#include "router/target.h"
#include "tocsin/plugin.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lane;
struct queue_target;

/* What the ledger keeps of a route's messages: a route's option `ledger`. */
enum ledger_keep {
    LEDGER_KEEP_DEFAULT, /* as the group `ledger` says */
    LEDGER_KEEP_ALL,
    LEDGER_KEEP_DELIVERIES,
    LEDGER_KEEP_NONE,
};

struct delivery {
    struct delivery *next; /* for the list it is in */
    struct delivery *prev; /* the same, within a queue */
    atomic_uint refs;      /* the owner and the borrowers */
    struct target *target;
    struct message *message;     /* a reference of its own */
    struct tocsin_message view;  /* what the plugin sees; points into `message` and this block */
    const char *const *rendered; /* `rendered_count` texts, NULL where not set; in this block */
    size_t rendered_count;       /* target->format_count, when it was made */
    size_t size; /* bytes of memory, for limits: this block, the message and fallbacks */
    enum ledger_keep ledger; /* the route's */

    /* What is made when this one has failed, and so on: rendered already, with the same id, in nobody's queue. Never
     * changed. The target of a fallback may be gone by then: it is looked up again by its address. */
    struct delivery *fallback;
    const char *address; /* of a fallback: "service:target", in this block; else NULL */

    /* What keeps it on disk (delivery/keep.h); NULL for nothing. Freed with the delivery. */
    void *kept;
    void (*kept_free)(void *kept);
    uint64_t number; /* its place in the order on disk; 0: none yet */
    uint64_t identity
        [2]; /* by which it is known when its message is sent again (delivery/seen.h); 0: not */

    /* The queue's own. */
    struct queue_target *queue_target;
    struct delivery *topic_next; /* in the same list, of the same topic (delivery/lines.h) */
    struct lane *lane;           /* of which it is the head on its way, or NULL */
    unsigned worker;             /* to whom it goes */
    unsigned attempts;           /* made so far */
    int64_t created_ms;          /* monotonic clock */
    int64_t due_ms; /* the same: not to be tried before, when it comes from disk; 0: at once */
    bool holding;   /* holds the message, because it has no place in a bounded queue yet */
    bool flying;    /* with a worker */
    bool retrying;  /* tried in vain, and counted as such */
    bool moved;     /* it has come from the target before: its message has been taken over */
    bool failed;    /* rejected or given up, and on its way to its fallback */
    bool forgotten; /* nobody waits for it any more: dropped instead of tried again */
    struct delivery *held_prev, *held_next; /* of its target, while it is holding */
    char id[40];                            /* view.id */
};

/* What a delivery is made of. Texts are copied; lengths in bytes. */
struct delivery_parts {
    struct target *target;
    struct message *message;
    const char *route;
    enum ledger_keep ledger;
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
    bool is_fallback; /* it gets an address */
};

/* Makes one in a single block of memory, or returns NULL. What is not UTF-8, or has a NUL in it, gets
 * U+FFFD there; so does view.text, when the payload is the text (view.payload stays as it is). */
struct delivery *delivery_new(const struct delivery_parts *parts);

/* The first part of the ids that this run of the program makes, up to the '-'. */
#define DELIVERY_RUN_SIZE 17
void delivery_run(char out[DELIVERY_RUN_SIZE]);

/* Adds one, made as a fallback, behind those that it has. It belongs to the delivery. Before anybody else sees it. */
void delivery_add_fallback(struct delivery *delivery, struct delivery *fallback);

/* The owner is done with it: drops its hold, if it has one, and frees it, unless somebody has borrowed
 * it. NULL is allowed. */
void delivery_free(struct delivery *delivery);

/* Whether it goes before others of its target: of severity critical, or with a priority above 0. */
static inline bool delivery_is_urgent(const struct delivery *delivery)
{
    const struct tocsin_message *v = &delivery->view;
    return (v->has_severity && v->severity == TOCSIN_CRITICAL) || v->priority > 0;
}

/* A borrower may read the view until it returns it, whatever the owner does meanwhile. */
void delivery_borrow(struct delivery *delivery);
void delivery_return(struct delivery *delivery);

#endif
