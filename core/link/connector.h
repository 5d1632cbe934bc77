/* SPDX-License-Identifier: MIT */

/*
 * Resolves a name and connects, in a thread of its own, for a thread that must not block.
 *
 * libmosquitto's blocking connect tries all addresses, sends the right name in TLS and checks it against
 * the certificate, none of which it does when it is given an address; but a resolver or a silent host can
 * block it for minutes, and nothing can interrupt that. So it runs here, and whoever is no longer
 * interested lets go: the thread cleans up when the call returns.
 */

#ifndef TOCSIN_LINK_CONNECTOR_H
#define TOCSIN_LINK_CONNECTOR_H

#include <mosquitto.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct connector;

struct connector_job {
    struct mosquitto *mosq; /* taken over; in threaded mode */
    const char *host;       /* copied, as the others */
    uint16_t port;          /* 0: `host` is the path of a Unix socket */
    int keepalive;          /* seconds */
    const mosquitto_property *properties;
    const char *key_password; /* of the TLS key; NULL for none */
    int wake_fd;              /* eventfd: written to when it is done; duplicated */
};

/* For log callbacks: keeps the first error that the library logs as the reason, since it tells why TLS
 * failed nowhere else. */
void connector_keep_error(char *why, size_t size, int level, const char *text);

/* For mosquitto_tls_set() of the client: gives OpenSSL the password of the key. */
int connector_key_password(char *text, int size, int rwflag, void *mosq);

/* Starts. Returns 0 and sets `*out`, or a negative errno value; `job->mosq` is freed then. */
int connector_new(const struct connector_job *job, struct connector **out);

/* Whether it has come to an end. */
bool connector_done(struct connector *connector);

/* Takes the result of one that is done: 0 and `*mosq`, with CONNECT queued; or a negative errno value,
 * `*mosq` NULL, and the reason in `why`. */
int connector_take(struct connector *connector, struct mosquitto **mosq, char *why, size_t size);

/* Frees one that is done; lets go of one that is not, after a short wait. NULL is allowed. */
void connector_free(struct connector *connector);

/* Makes libmosquitto set up TLS for the process, which it does at the first TLS connection and without a
 * lock. Before any thread; any number of times. */
void connector_prepare_tls(void);

#endif
