/* SPDX-License-Identifier: MIT */

#include "clients.h"

#include "../suite.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int connect_to(const void *address, socklen_t len, int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, address, len) == 0)
        return fd;
    int rc = -errno;
    close(fd);
    return rc;
}

int client_ipv4(uint16_t port)
{
    const struct sockaddr_in address = { .sin_family = AF_INET,
                                         .sin_port = htons(port),
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    return connect_to(&address, sizeof(address), AF_INET);
}

int client_ipv6(uint16_t port)
{
    const struct sockaddr_in6 address = { .sin6_family = AF_INET6,
                                          .sin6_port = htons(port),
                                          .sin6_addr = in6addr_loopback };
    return connect_to(&address, sizeof(address), AF_INET6);
}

int client_unix(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    return connect_to(&address, sizeof(address), AF_UNIX);
}

int client_connect(uint16_t port)
{
    int fd = client_ipv4(port);
    CHECK(fd >= 0, "port %u: %s", port, strerror(-fd));
    return fd;
}

void client_await(int fd)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&readable, 1, 60000), 1);
}
