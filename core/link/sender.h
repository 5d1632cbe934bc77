/* SPDX-License-Identifier: MIT */

/*
 * The sending side of a link: a thread that publishes for others, and keeps the status topic.
 *
 * The libmosquitto client belongs to that thread alone; whoever publishes puts his publications into a
 * queue and waits. A publication is sent once: if the connection is lost before the answer, it has failed
 * with -EAGAIN, and to send it again is up to the caller.
 */

#ifndef TOCSIN_LINK_SENDER_H
#define TOCSIN_LINK_SENDER_H

#include "link/echo.h"
#include "link/settings.h"
#include "tocsin/plugin.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sender_counters {
    atomic_uint_fast64_t published, failed;
};

struct sender_config {
    const struct link_settings *settings;
    const char *name; /* of the link */
    const char *client_id;
    const char *status;             /* topic of the status; NULL for none */
    struct echo *echo;              /* NULL for none */
    void (*changed)(void *context); /* sender_is_ready() may have changed; the sender's thread */
    void *context;
};

struct sender;

/* The config and what it points to must outlive the sender. Returns 0 or a negative errno value. */
int sender_new(const struct sender_config *config, struct sender **out);
int sender_start(struct sender *sender);

/* Before the start: no status, and a client identifier that the broker chooses. */
void sender_be_nobody(struct sender *sender);

/* What the status topic says from now on, and after each connect: a JSON document, which is copied. Without one it says
 * whether we are online. With `last` it stays when the sender ends. Any thread; does not wait. Returns 0 or -ENOMEM. */
int sender_set_status(struct sender *sender, const char *text, bool last);

/* Publishes a message that nobody waits for, with QoS 1 where the broker allows it; one that cannot be published now when it is
 * connected again. What was under way when the connection broke is lost. Any thread. Returns 0, -ENOBUFS (too many wait) or
 * -ENOMEM. */
int sender_announce(struct sender *sender, const char *topic, const void *payload, size_t len);

/* Asks the thread to end: it publishes that we are offline and closes. */
void sender_stop(struct sender *sender);
void sender_join(struct sender *sender);
void sender_free(struct sender *sender); /* after sender_join(); NULL is allowed */

/*
 * See tocsin_host.publish() and struct tocsin_publication. Any thread; blocks at most `timeout_ms`.
 *
 * When the connection is down, all fail with -EAGAIN at once. A message that has expired is not sent and
 * fails with -ESTALE; one that the broker's limits exclude with -EINVAL (`reason_code` says which). A QoS
 * above the broker's maximum is lowered to it.
 */
void sender_publish(struct sender *sender, struct tocsin_publication *const *publications, size_t n,
                    int64_t timeout_ms);

bool sender_is_ready(struct sender *sender); /* connected; any thread */
const struct sender_counters *sender_counters(const struct sender *sender);

#endif
