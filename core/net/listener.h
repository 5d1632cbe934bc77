/* SPDX-License-Identifier: MIT */

/*
 * A listener: the sockets on which one configured address or path takes connections. It is opened by the main
 * thread, before the workers start, and closed after they have ended.
 *
 * Each worker has an acceptor for each listener; they share the listening sockets, and the kernel wakes one
 * of them (EPOLLEXCLUSIVE). One socket for each worker (SO_REUSEPORT) would not spread better here, as a
 * connection moves to its session's worker anyway; it would leave connections waiting behind a busy worker,
 * and would let a second daemon take the same port without an error.
 */

#ifndef TOCSIN_NET_LISTENER_H
#define TOCSIN_NET_LISTENER_H

#include "base/buf.h"
#include "base/log.h"
#include "loop/loop.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum listener_domain {
    LISTENER_IPV4_AND_IPV6,
    LISTENER_IPV4,
    LISTENER_IPV6,
};

struct listener_options {
    const char *unix_path; /* a Unix socket, and then no port; NULL for TCP */
    unsigned unix_mode;    /* of the socket file, such as 0660; 0: as umask has it */

    const char *bind;      /* address or host name; NULL or "" for all addresses */
    const char *interface; /* instead: the addresses that this one has now; NULL or "" for all */
    enum listener_domain domain;
    uint16_t port; /* 0: a free one, see listener_port() */
    bool nodelay;  /* TCP_NODELAY on its connections */

    int backlog; /* connections that wait to be accepted; 0: LISTENER_BACKLOG */
};

#define LISTENER_BACKLOG 1024
#define LISTENER_SOCKETS 16 /* most addresses of one listener */

struct listener {
    char *name;    /* for logs: "127.0.0.1:1883", "port 1883", "unix:/run/tocsin.sock" */
    uint16_t port; /* 0 for a Unix socket */
    void *context; /* the owner's */
    bool is_unix;
    size_t count;
    int fds[LISTENER_SOCKETS];

    /* Of all acceptors. */
    atomic_uint_fast64_t accepted;
    atomic_uint_fast64_t failed; /* connections that were not accepted: no descriptor, no memory */

    /* Private: the socket file, to remove what was made here and nothing else. */
    char *path;
    uint64_t path_device, path_inode;
};

/*
 * Opens a listener. Returns 0; or a negative errno value, with a sentence for people in `why` (which is emptied first) that names the
 * address and says what to do. `*out` is NULL then. A socket file that is in the way is replaced if nobody
 * answers on it.
 */
int listener_open(const struct listener_options *options, struct listener **out, struct buf *why);

/* Closes the sockets and removes the socket file. NULL is allowed. */
void listener_close(struct listener *listener);

/* The port, also if it was chosen by the system. */
static inline uint16_t listener_port(const struct listener *listener)
{
    return listener->port;
}

struct acceptor;

/* A connection, nonblocking and close-on-exec, which belongs to the function. Called at most
 * ACCEPTOR_BATCH times a turn for each socket. */
typedef void acceptor_accepted(struct acceptor *acceptor, int fd);

#define ACCEPTOR_BATCH    64
#define ACCEPTOR_PAUSE_MS 250

/*
 * Accepts connections for one loop; it belongs to the loop's thread. When there are no descriptors or no memory
 * for more connections, it logs that at a limited rate, leaves the others in the backlog, and tries again every
 * ACCEPTOR_PAUSE_MS.
 */
struct acceptor {
    struct loop *loop;
    struct listener *listener;
    acceptor_accepted *accepted;
    void *context; /* the owner's */

    /* Private. */
    struct timer pause;
    struct acceptor_socket *sockets;
    struct log_trouble trouble;
    int64_t failed_ms;
};

/* Starts to accept. Returns 0 or a negative errno value. */
int acceptor_start(struct acceptor *acceptor, struct loop *loop, struct listener *listener,
                   acceptor_accepted *accepted, void *context);

/* Accepts no more; those not yet accepted wait for other acceptors. Also during `accepted`. Does nothing if it
 * is not started, or is stopped. */
void acceptor_stop(struct acceptor *acceptor);

#endif
