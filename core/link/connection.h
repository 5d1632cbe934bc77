/* SPDX-License-Identifier: MIT */

/*
 * One connection to a broker: what the receiving and the sending side of a link have in common.
 *
 * A connection belongs to the thread that runs it. That thread resolves names and connects by a helper
 * thread, so that it can give up at any time; each attempt has a libmosquitto client of its own, so no
 * acknowledgement or message of an earlier one is left in it. libmosquitto is in its "threaded" mode:
 * nothing is written before connection_write().
 *
 * The loop of a side:
 *
 *     while (!connection_stopping(c)) {
 *         if (connection_open(c) == 0) {
 *             ... connection_poll(), _read(), _write(), until one of them fails
 *             connection_close(c);
 *         }
 *         connection_pause(c);
 *     }
 */

#ifndef TOCSIN_LINK_CONNECTION_H
#define TOCSIN_LINK_CONNECTION_H

#include "base/log.h"
#include "link/settings.h"

#include <mosquitto.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the broker said when it accepted the connection. */
struct connack {
    bool session_present;
    bool identifiers;     /* subscription identifiers can be used */
    bool retain;          /* retained messages are available */
    uint8_t max_qos;      /* of what we publish */
    uint32_t max_packet;  /* bytes of what we publish; 0: no limit */
    int64_t keepalive_ms; /* after 1.5 times as long without a packet of ours the broker closes */
};

struct connector;

struct connection {
    /* Set by the side before connection_init(). */
    const struct link_settings *settings;
    const char *side;      /* "receiving", "sending": for the log */
    const char *client_id; /* lives as long as the connection; NULL: the broker chooses one */
    bool clean;            /* no session in the broker */
    const char *status;    /* the topic of the will; NULL for none */
    void (*prepare)(struct mosquitto *mosq); /* sets callbacks; their context is `context` below */
    void *context;

    /* For the side to read. */
    struct mosquitto *mosq; /* NULL while there is no connection */
    bool v5;
    struct connack connack;
    bool closing; /* the broker will read no more, but may have sent what we have not read */

    /* Own. */
    int wake_fd;
    atomic_bool stop;
    struct connector *connector;
    int version;          /* MQTT version of the next attempt */
    bool version_settled; /* the broker has accepted it once */
    bool no_will;         /* the broker refused the retained will */
    unsigned attempt;     /* failed ones since the last good connection */
    int64_t opened_ms;
    int64_t misc_ms; /* when mosquitto_loop_misc() is due */
    int64_t ping_ms; /* when connection_hold() is to send a PINGREQ */
    bool answered;   /* CONNACK has come */
    int reason;      /* of CONNACK or DISCONNECT */
    int dup_id;      /* packet identifier of the message that is being read, if it is marked DUP */
    bool knows_dup;  /* the library tells of DUP still */
    unsigned plain;  /* messages that were not marked so */
    unsigned progress; /* counts callbacks, to see whether a read brought anything */
    struct log_trouble trouble;
    char why[200]; /* why the last attempt or connection failed */
};

/* Returns 0 or a negative errno value. */
int connection_init(struct connection *c);
void connection_release(struct connection *c);

/* Ends waiting of any kind in the connection's thread, now and later. Any thread. */
void connection_stop(struct connection *c);
bool connection_stopping(const struct connection *c);

/* Makes connection_poll() return. Any thread. */
void connection_wake(struct connection *c);

/* One attempt, within connect_timeout. Returns 0 when the broker has accepted it, else a negative errno
 * value; the reason has been logged as one trouble that lasts. */
int connection_open(struct connection *c);

/* Closes what connection_open() opened, without a DISCONNECT (see connection_disconnect()). */
void connection_close(struct connection *c);

/* Waits before the next attempt: exponentially longer, with full jitter, until connection_stop(). */
void connection_pause(struct connection *c);

/* Awaits readable (if `read`), writable (if `write`), a wake-up, or that the broker closes, at most
 * `timeout_ms`. Sets what is there; `c->closing` once the broker closes. Also does what has to be done
 * regularly. Returns false when the connection is lost. */
bool connection_poll(struct connection *c, bool read, bool write, int timeout_ms, bool *readable,
                     bool *writable);

/* Awaits a wake-up, or that the broker closes, and neither reads nor writes what is queued, however long
 * it is called: the broker is told that we are there. Only when what is queued has not been begun to be
 * written. Returns false when the connection is lost. */
bool connection_hold(struct connection *c);

/* Reads one packet or a bit more, if there is any. Sets `*dry` if there was none. Returns false when the
 * connection is lost. */
bool connection_read(struct connection *c, bool *dry);

/* Writes what is queued, as far as the socket takes it. Returns false when the connection is lost. */
bool connection_write(struct connection *c);

bool connection_wants_write(const struct connection *c);

/* For the message callback, for each message: whether it is marked DUP, for the broker may have sent it before. */
bool connection_is_dup(struct connection *c, const struct mosquitto_message *message);

/* For callbacks: a packet has come. */
void connection_note_progress(struct connection *c);

/* Writes what is queued and a DISCONNECT, within `timeout_ms`, and closes. */
void connection_disconnect(struct connection *c, int timeout_ms);

#endif
