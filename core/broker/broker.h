/* SPDX-License-Identifier: MIT */

/*
 * The broker: MQTT 3.1, 3.1.1 and 5.0 for clients that connect by TCP or a Unix socket, and for taps, the
 * subscribers inside this process (the router's embedded link).
 *
 * It runs on `workers` threads, each a small complete broker for the sessions it owns (worker.h); this is
 * what the rest of the program sees of it. Nothing here includes anything of the router.
 */

#ifndef TOCSIN_BROKER_BROKER_H
#define TOCSIN_BROKER_BROKER_H

#include "broker/publication.h"
#include "config/conf.h"
#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct broker;
struct store;

/* The group `broker` and the groups of its list `listeners`, for help and the sample. */
extern const struct tocsin_option broker_options[];
extern const struct tocsin_option broker_listener_options[];

/*
 * Reads the group `broker` of `conf` (taking a reference) and checks it; opens nothing. A configuration
 * without the group gives the defaults: one listener on 127.0.0.1, port 1883. Returns 0 and sets `*out`,
 * or -EINVAL (`errors`) or -ENOMEM.
 */
int broker_new(struct conf *conf, struct broker **out, struct conf_errors *errors);

/*
 * Makes the workers, and what they find on disk in the store (NULL: nothing is kept), according to `durability`. Before
 * anything else is posted to the store, and before broker_start(). Returns 0 or a negative errno value, and has logged why.
 * Main thread.
 */
int broker_restore(struct broker *broker, struct store *store);

/* Opens the listeners and starts the workers. Returns 0 or a negative errno value, and has logged what is
 * wrong and what to do about it. Main thread. */
int broker_start(struct broker *broker);

/* Takes no new connections any more, and reads nothing more from clients. Taps still may publish. */
void broker_stop_intake(struct broker *broker);

/* Tells the clients that it is going [MQTT 5.0 reason 0x8B], closes all connections and ends the threads. */
void broker_stop(struct broker *broker);

/* Stops it if need be, and frees. Every tap has been closed, and the store. NULL is allowed. */
void broker_free(struct broker *broker);

/* The TCP port that the n-th listener listens on, also when the file says 0; -1 for a Unix socket; 0 when
 * there is no such listener. */
int broker_port(const struct broker *broker, size_t listener);

/* How a program on this host reaches the broker of such a configuration: by the first listener that says so, and
 * has no mount point. `*host` belongs to the broker; `*port` is 0 for the path of a Unix socket. Returns false if
 * there is none. */
bool broker_address(const struct broker *broker, const char **host, int *port);

/* ---- Counters; as of a moment ago, any thread ---- */

/* Names are those of the $SYS tree. */
struct broker_stats {
    uint64_t clients_connected, clients_total, clients_maximum, clients_expired;
    uint64_t messages_received, messages_sent; /* packets of any kind */
    uint64_t publish_received, publish_sent, publish_dropped;
    uint64_t publish_bytes_received, publish_bytes_sent;
    uint64_t bytes_received, bytes_sent;
    uint64_t connections, connections_refused, packets_refused, sockets;
    uint64_t subscriptions, shared_subscriptions, retained, stored, stored_bytes;
};
void broker_stats(struct broker *broker, struct broker_stats *out);

/* What it keeps on disk; see durable.h. Returns false, and zeroes, if that is nothing. */
struct durable_stats;
bool broker_durable_stats(const struct broker *broker, struct durable_stats *out);

/* ---- Taps ---- */

struct broker_tap;

/*
 * One message that a tap has been given. The tap has a reference to the publication by it, and gives it
 * back by tap_message_done(), or sooner, and sets it to NULL; as long as it is not done, a publisher of QoS 1 or
 * 2 gets no acknowledgement.
 */
struct tap_message {
    struct tap_message *next;
    struct publication *publication;
    uint8_t qos; /* that it is delivered with: the smaller of the publisher's and the filter's */
    bool retain; /* sent because of a new filter, not just published */
    bool dup;    /* its publisher may have sent it before */
    uint16_t packet_id; /* that its publisher gave it; 0: QoS 0, or no client's */
    uint64_t client;    /* a hash of the publisher's client id, the same in another run */
    void *receipt;      /* the broker's */
};

/*
 * Messages that match a tap's filters, each once, in the order in which the worker got them: `n` of them
 * linked by `next`, now the tap's. Called by the workers' threads, several at once for different messages;
 * must not block.
 */
typedef void broker_tap_fn(void *context, struct tap_message *first, size_t n);

/* Any number up to 8. NULL when there is no memory, or there are too many. Before or after the start; the
 * name must outlive it, and is its client id where one is shown. */
struct broker_tap *broker_tap_open(struct broker *broker, const char *name, broker_tap_fn *messages,
                                   void *context);

/* What a tap shall receive, in place of before. Retained messages that match a filter not there before come
 * once more, with `retain`. Returns 0 or -ENOMEM. Any thread, one at a time for a tap. */
struct tap_filter {
    const char *filter;
    uint8_t qos;
};
int broker_tap_set_filters(struct broker_tap *tap, const struct tap_filter *filters, size_t n);

/* The message is safe (or will never be): drops the reference, frees `message`, and lets the acknowledgement go
 * once all who have the same message are done. With `refused` the publisher of QoS 1 or 2 is not acknowledged
 * but disconnected, so that it sends again. Any thread; does not block. */
void tap_message_done(struct tap_message *message, bool refused);

/* While a tap has this many bytes in hand that are not done, messages of QoS 0 are dropped for it (and
 * counted), and publishers of QoS 1 and 2 are read from no further. */
void broker_tap_set_limit(struct broker_tap *tap, size_t bytes);

struct broker_tap_stats {
    uint64_t received, received_bytes, dropped, published;
    uint64_t in_hand, in_hand_bytes; /* gauges: given, not done */
};
void broker_tap_stats(const struct broker_tap *tap, struct broker_tap_stats *out);

/* Takes all filters away, and returns when no worker is in its function, nor will be. What it has in hand is still
 * to be done. */
void broker_tap_silence(struct broker_tap *tap);

/* Does that too, and frees. What it has in hand must be done before. NULL is allowed. */
void broker_tap_close(struct broker_tap *tap);

/*
 * Publishes for a tap (NULL: the broker itself), and waits until every receiver's queue has it. Taps do not
 * get their own messages back when `no_local`. `expiry` is in seconds, 0 for never. Returns 0, -EAGAIN when
 * the broker is stopping, -EOPNOTSUPP for a retained message where none may be, or -ENOMEM. The publication's
 * topic must be a valid topic name; the reference stays the caller's. Any thread but a worker's.
 */
int broker_publish(struct broker *broker, struct broker_tap *tap, struct publication *publication,
                   uint32_t expiry, bool no_local);

/* The seconds that are left of a publication's Message Expiry Interval; UINT32_MAX if it has none. Any thread. */
uint32_t broker_expiry(const struct broker *broker, const struct publication *publication);

#endif
