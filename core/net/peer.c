/* SPDX-License-Identifier: MIT */

#include "net/peer.h"

#include "net/addresses.h"

#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* The peer's end has no path as a rule; our end's says which listener it came by. */
static void put_unix(struct peer_name *name, int fd)
{
    struct sockaddr_un own = { 0 };
    socklen_t len = sizeof(own);
    size_t path_len = 0;
    if (getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
        len > offsetof(struct sockaddr_un, sun_path))
        path_len = strnlen(own.sun_path, len - offsetof(struct sockaddr_un, sun_path));
    int end = snprintf(name->text, sizeof(name->text), "unix:%.*s", (int)path_len, own.sun_path);

    struct ucred who;
    len = sizeof(who);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.uid != (uid_t)-1)
        snprintf(name->text + end, sizeof(name->text) - (size_t)end, " uid %u", who.uid);
}

/* SO_PEERNAME still knows after a reset, when getpeername() does not. It wants the exact size. */
static void put_ip(struct peer_name *name, int fd, int family)
{
    struct address peer = { .len = family == AF_INET6 ? sizeof(peer.ipv6) : sizeof(peer.ipv4) };
    if (getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &peer.any, &peer.len) < 0)
        return;
    struct buf text = BUF_INIT(sizeof(name->text) - 1);
    address_add(&text, &peer);
    if (text.error == 0)
        memcpy(name->text, text.data, text.len + 1);
    buf_release(&text);
}

struct peer_name peer_name(const struct transport *transport, int fd)
{
    struct peer_name name = { "unknown" };
    const char *told = transport && transport->ops->peer ? transport->ops->peer(transport) : NULL;
    struct address own = { .len = sizeof(own.storage) };
    if (told)
        snprintf(name.text, sizeof(name.text), "%s", told);
    else if (getsockname(fd, &own.any, &own.len) < 0)
        return name;
    else if (own.any.sa_family == AF_UNIX)
        put_unix(&name, fd);
    else if (own.any.sa_family == AF_INET || own.any.sa_family == AF_INET6)
        put_ip(&name, fd, own.any.sa_family);
    return name;
}
