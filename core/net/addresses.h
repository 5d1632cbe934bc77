/* SPDX-License-Identifier: MIT */

/* The addresses that a listener's options mean. Main thread: names are looked up, which may take a while. */

#ifndef TOCSIN_NET_ADDRESSES_H
#define TOCSIN_NET_ADDRESSES_H

#include "base/buf.h"
#include "net/listener.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in ipv4;
        struct sockaddr_in6 ipv6;
        struct sockaddr_storage storage;
    };
    socklen_t len;
};

struct addresses {
    size_t count;
    struct address all[LISTENER_SOCKETS];
};

/* Finds them, each once, IPv4 before IPv6; at least one. Returns 0, or a negative errno value with a sentence
 * in `why`. */
int addresses_find(const struct listener_options *options, struct addresses *out, struct buf *why);

uint16_t address_port(const struct address *address);
void address_set_port(struct address *address, uint16_t port);

/* Appends "127.0.0.1:1883" or "[fe80::1%eth0]:1883". An IPv4 address within an IPv6 one is shown as IPv4. */
void address_add(struct buf *out, const struct address *address);

#endif
