/* SPDX-License-Identifier: MIT */

/*
 * What lies between a connection's packets and its socket: nothing, or TLS, or WebSocket, or both. A connection
 * has a pointer to its transport, which is NULL for a plain socket: that one costs no memory and no indirect
 * call. It belongs to the connection's thread.
 *
 * How to use it: when epoll says that the socket can be read or written, call transport_read() until it gives
 * -EAGAIN or less than was asked for (then also while transport_has_more()); after each call wait for what
 * transport_wants() says in addition to what the connection itself waits for, and call again when it comes.
 */

#ifndef TOCSIN_NET_TRANSPORT_H
#define TOCSIN_NET_TRANSPORT_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport;

struct transport_ops {
    const char *name; /* "tls", "websockets" */

    /* As transport_read() and transport_writev(). A handshake that is not finished goes on in both, and
     * they give -EAGAIN until it is. */
    ssize_t (*read)(struct transport *transport, int fd, void *to, size_t len);
    ssize_t (*writev)(struct transport *transport, int fd, const struct iovec *parts, int count);

    /* EPOLLIN and EPOLLOUT that it needs for itself, whatever the connection does. */
    uint32_t (*wants)(const struct transport *transport);

    /* Whether bytes have been read from the socket that transport_read() has not given yet. */
    bool (*has_more)(const struct transport *transport);

    /* Says goodbye if that can be done at once, frees the transport. Does not close the descriptor. */
    void (*close)(struct transport *transport, int fd);

    /* The name in the peer's verified certificate, NULL if there is none. It belongs to the transport. */
    const char *(*certificate_name)(const struct transport *transport);

    /* Who the peer is, if the transport knows better than the socket (a proxy told it); may be NULL, as
     * may the function. */
    const char *(*peer)(const struct transport *transport);
};

/* The beginning of each transport. */
struct transport {
    const struct transport_ops *ops;
};

/* The plain socket. Returns as transport_read() and transport_writev(). */
static inline ssize_t transport_plain_read(int fd, void *to, size_t len)
{
    ssize_t got = recv(fd, to, len, MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}
ssize_t transport_plain_writev(int fd, const struct iovec *parts, int count);

/* Reads up to `len` bytes (at least one). Returns how many, 0 when the peer has ended its side, -EAGAIN when
 * there are none now, or another negative errno value, after which the connection is of no use. */
static inline ssize_t transport_read(struct transport *transport, int fd, void *to, size_t len)
{
    if (!transport)
        return transport_plain_read(fd, to, len);
    return transport->ops->read(transport, fd, to, len);
}

/* Writes as much as goes out now; `count` of at most IOV_MAX. Returns how many bytes were taken (what is left
 * is to be given again), -EAGAIN, or another negative errno value. Raises no SIGPIPE. */
static inline ssize_t transport_writev(struct transport *transport, int fd,
                                       const struct iovec *parts, int count)
{
    if (!transport)
        return transport_plain_writev(fd, parts, count);
    return transport->ops->writev(transport, fd, parts, count);
}

static inline uint32_t transport_wants(const struct transport *transport)
{
    return transport ? transport->ops->wants(transport) : 0;
}

static inline bool transport_has_more(const struct transport *transport)
{
    return transport && transport->ops->has_more(transport);
}

static inline const char *transport_certificate_name(const struct transport *transport)
{
    return transport ? transport->ops->certificate_name(transport) : NULL;
}

/* Frees the transport, and closes the descriptor. Take it out of the loop before. */
void transport_close(struct transport *transport, int fd);

#endif
