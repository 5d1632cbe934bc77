/* SPDX-License-Identifier: MIT */

/*
 * The link to the broker in this process: a tap of it (broker.h), without sockets or threads of its own.
 *
 * A publisher of QoS 1 or 2 is acknowledged when its own message has been taken over (message.h), whatever
 * becomes of others. Nothing is lost with a connection here, so there is but one generation.
 *
 * Main thread, except where it says any thread. Functions are what those of the same name in links.h say.
 */

#ifndef TOCSIN_LINK_EMBEDDED_H
#define TOCSIN_LINK_EMBEDDED_H

#include "broker/broker.h"
#include "link/links.h"

#define EMBEDDED_NAME "broker" /* of the link, and of no other */

struct embedded;

/* `status` is the topic of the status (embedded_set_status()), whose messages are not handed on; it and the handler must outlive the link, as the broker must.
 * NULL when there is no memory. */
struct embedded *embedded_new(struct broker *broker, const char *status,
                              const struct links_handler *handler);

/* Messages come from the broker's start on, by the filters that are set; this says that it is there. The
 * broker runs. */
void embedded_start(struct embedded *link);

int embedded_set_filters(struct embedded *link, const struct link_filter *filters, size_t n);

/* Nothing comes any more when this returns. What is not taken over yet still may be. What would have come back from
 * embedded_publish() fails there with -EAGAIN: so a delivery stays undone, and no message is lost between two
 * routes. */
void embedded_stop_receiving(struct embedded *link);

/* Says that it goes; publishing fails from now on. */
void embedded_stop_sending(struct embedded *link);

/* What the status topic says from now on; `last` stays when the link ends. Any thread. Returns 0 or what broker_publish()
 * does. */
int embedded_set_status(struct embedded *link, const char *text, bool last);

/* For subscribers of the broker; the link itself does not get it. Any thread. */
int embedded_announce(struct embedded *link, const char *topic, const void *payload, size_t len);

/* Frees it, and returns true; or leaves it and returns false if a message is still in the hands of somebody who
 * was given up on: then the broker must be left, too. NULL is allowed. */
bool embedded_free(struct embedded *link);

/* Any thread. Takes no longer than the broker's workers need to look at each message. */
void embedded_publish(struct embedded *link, struct tocsin_publication *const *publications,
                      size_t n);

bool embedded_is_ready(const struct embedded *link);                      /* any thread */
void embedded_stats(const struct embedded *link, struct link_stats *out); /* any thread */

#endif
