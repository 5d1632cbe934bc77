/* SPDX-License-Identifier: MIT */

/* Who is at the other end of a socket. Asked when it is needed, and not kept: it is in the kernel anyway. Any
 * thread. */

#ifndef TOCSIN_NET_PEER_H
#define TOCSIN_NET_PEER_H

#include "net/transport.h"

#include <stddef.h>

struct peer_name {
    char text[160];
};

/*
 * "127.0.0.1:54321", "[::1]:54321", "[fe80::1%eth0]:54321", "unix:/run/tocsin.sock uid 1000", or "unknown". An
 * IPv4 address that came by an IPv6 socket is shown as IPv4. Works also after the peer has reset the connection.
 * `transport` may be NULL, and is asked first.
 */
struct peer_name peer_name(const struct transport *transport, int fd);

#endif
