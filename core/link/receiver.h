/* SPDX-License-Identifier: MIT */

/*
 * The receiving side of a link: a thread that subscribes, makes messages of what comes, hands them on in
 * bursts, and acknowledges when all of them have been taken over.
 *
 * libmosquitto queues the acknowledgement of a QoS 1 message before it shows the message, and writes all
 * that is queued or nothing. So what is queued goes out only when nothing that was read is untaken, and
 * while something is queued nothing more is read.
 */

#ifndef TOCSIN_LINK_RECEIVER_H
#define TOCSIN_LINK_RECEIVER_H

#include "link/echo.h"
#include "link/links.h"
#include "link/settings.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct receiver_counters {
    atomic_uint_fast64_t received, received_bytes, connects, loops_stopped, refused;
};

struct receiver_config {
    const struct link_settings *settings;
    const char *name; /* of the link; lives as long as the program */
    const char *client_id;
    const char *state_file; /* where to remember subscriptions; NULL for nowhere */
    const char *session;    /* what tells this session from others */
    const struct links_handler *handler;
    const char *status; /* the topic of our own status, which is nothing for routes */
    const char
        *letters;      /* what those of our own dead letters begin with: routes have them already */
    struct echo *echo; /* NULL for none */
    void (*changed)(void *context); /* receiver_is_ready() may have changed; any thread */
    void *context;
};

struct receiver;

/* The config and what it points to must outlive the receiver. Returns 0 or a negative errno value. */
int receiver_new(const struct receiver_config *config, struct receiver **out);
int receiver_start(struct receiver *receiver);

/* Asks the thread to end: it acknowledges what has been taken over, and closes. */
void receiver_stop(struct receiver *receiver);

/* Awaits the end of the thread, if it runs. */
void receiver_join(struct receiver *receiver);
void receiver_free(struct receiver *receiver); /* after receiver_join(); NULL is allowed */

int receiver_set_filters(struct receiver *receiver, const struct link_filter *filters, size_t n);

/* Connected, and the broker has answered all subscriptions. Any thread. */
bool receiver_is_ready(const struct receiver *receiver);

uint64_t receiver_untaken(const struct receiver *receiver);
const struct receiver_counters *receiver_counters(const struct receiver *receiver);

#endif
