/* SPDX-License-Identifier: MIT */

/*
 * Links: where messages come from, and acknowledgements go back to.
 *
 * A link of kind `mqtt` is a client of some broker, by libmosquitto, on threads of its own. It has two
 * connections: the receiving one subscribes, and writes acknowledgements only when every message read
 * so far has been taken over (message.h); the sending one publishes (republish, status, will), and so
 * never waits for the other.
 *
 * The link of kind `embedded` is a subscriber inside the broker of this process (embedded.h). There is one, by
 * the name "broker", if there is a broker.
 *
 * A message is handed on once, however many filters match it. Memory is bounded: a link reads no more
 * while too much of what it has handed on has not been taken over.
 */

#ifndef TOCSIN_LINK_LINKS_H
#define TOCSIN_LINK_LINKS_H

#include "config/conf.h"
#include "router/message.h"
#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct broker;
struct links;

/* Where messages go. Called by the link's thread. */
struct links_handler {
    /* A list of `n` messages linked by `next`, in order of arrival; the references are handed over. */
    void (*messages)(void *context, struct message *first, size_t n);
    /* The receiving connection of this generation is gone (see services_forget_held()). Called only when
     * the broker will send the unacknowledged messages again. */
    void (*lost)(void *context, const char *link, uint64_t generation);
    void *context;
    const char *
        topic; /* of this program, below which the status is; NULL: "tocsin/NODE". Only for links_new(). */
};

/* What a link shall receive. */
struct link_filter {
    const char *filter; /* an MQTT topic filter, without names */
    uint8_t qos;        /* 0 to 2; a link of kind mqtt makes 1 of 2 */
};

/*
 * Reads the list `links` of `conf` (taking a reference) and checks it; connects nothing. `broker` is the one to
 * be embedded in, which outlives the links, or NULL; `node` is the router's name, for client ids and the
 * status topic. Returns 0 and sets `*out`, or -EINVAL (`errors`) or
 * -ENOMEM.
 */
int links_new(struct conf *conf, struct broker *broker, const char *node,
              const struct links_handler *handler, struct links **out, struct conf_errors *errors);

/* Names: that of the embedded link, then in the order of the file; NULL at the end. They live as long as the program. */
const char *links_name_at(const struct links *links, size_t index);

/* Sets what a link shall receive, in place of what was set before: subscribes and unsubscribes the
 * difference, now or when it is connected. Main thread. The filters are copied. Returns 0 or -ENOMEM. */
int links_set_filters(struct links *links, const char *link, const struct link_filter *filters,
                      size_t n);

/* Starts the threads. Returns 0 or a negative errno value. A broker that is away is no error; but the one in
 * this process has been started. Its messages come from its own start on. */
int links_start(struct links *links);

/*
 * Starts the sending halves alone, for a program that runs beside the daemon: under client identifiers
 * that the brokers choose, so that nobody is thrown out, and without status and will. In place of
 * links_start(), without an embedded link.
 */
int links_start_sending(struct links *links);

/*
 * What the status topic says from now on, in the included broker, or else in that of the first link: a JSON document,
 * retained. `last` stays when the links end; without that it then says that we are offline. Where we have no document,
 * it says whether we are online. Our own status is never handed on as a message. Any thread. Returns 0, or a negative errno
 * value; a link that is not connected publishes it later.
 */
int links_set_status(struct links *links, const char *text, bool last);

/* Publishes to the subscribers of the included broker, or else of that of the first link, unless it says status = false; but
 * not back to routes: what comes by a link below dead-letter/ of our own topic is not handed on. Returns 0, -ENOENT when there
 * is none, or what broker_publish() or sender_announce() does. Any thread. */
int links_announce(struct links *links, const char *topic, const void *payload, size_t len);

/* Stops receiving (first half of a clean shutdown): acknowledges what has been taken over, then closes
 * the receiving connections. Publishing goes on. */
void links_stop_receiving(struct links *links);

/* Stops publishing (second half): publishes that we are offline, and closes. Calls of links_publish() that are under
 * way, and later ones, fail with -EAGAIN at once. */
void links_stop_sending(struct links *links);

/* Stops what has not been stopped, and frees. Nobody may be in links_publish() any more. NULL is allowed.
 * Returns false if the embedded link had to be left, because somebody still has one of its messages: then the
 * broker must not be freed either. */
bool links_free(struct links *links);

/* tocsin_host.publish(): see there. Any thread; blocks. `context` is the struct links. */
void links_publish(void *context, const char *link, struct tocsin_publication *const *publications,
                   size_t n, int64_t timeout_ms);

/* Awaits that every link is connected and subscribed; false when `timeout_ms` has passed. */
bool links_await_ready(struct links *links, int64_t timeout_ms);

struct link_stats {
    uint64_t received; /* handed on */
    uint64_t received_bytes, published, publish_failed, connects, loops_stopped;
    uint64_t subscriptions_refused; /* by the broker */
    uint64_t dropped;               /* of QoS 0, because too much was untaken; embedded link only */
    uint64_t untaken;               /* gauge: handed on, not taken over yet */
    bool connected;                 /* gauge: receiving, and subscribed */
};
bool links_stats(const struct links *links, const char *link, struct link_stats *out);

/* For help and the sample. */
extern const struct tocsin_option link_options[];
extern const struct tocsin_option link_tls_options[];

#endif
