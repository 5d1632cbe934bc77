/* SPDX-License-Identifier: MIT */

/* Opening and closing of listening sockets. Main thread. */

#include "net/listener.h"

#include "net/addresses.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FREE_PORT_TRIES 20

/* ---- TCP ---------------------------------------------------------------------------------------- */

static bool set_option(int fd, int level, int option)
{
    const int on = 1;
    return setsockopt(fd, level, option, &on, sizeof(on)) == 0;
}

static int bind_and_listen(int fd, const struct address *address,
                           const struct listener_options *options)
{
    /* Connections inherit TCP_NODELAY from the listening socket. Without IPV6_V6ONLY the IPv4 socket of the
     * same port would be in the way. */
    if (!set_option(fd, SOL_SOCKET, SO_REUSEADDR) ||
        (address->any.sa_family == AF_INET6 && !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY)) ||
        (options->nodelay && !set_option(fd, IPPROTO_TCP, TCP_NODELAY)))
        return -errno;
    if (bind(fd, &address->any, address->len) < 0 ||
        listen(fd, options->backlog > 0 ? options->backlog : LISTENER_BACKLOG) < 0)
        return -errno;
    return 0;
}

static int open_socket(const struct address *address, const struct listener_options *options,
                       int *out)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int rc = bind_and_listen(fd, address, options);
    if (rc < 0)
        close(fd);
    else
        *out = fd;
    return rc;
}

static const char *advice(int error, uint16_t port)
{
    if (error == -EADDRINUSE)
        return "; another program listens there, perhaps another broker: stop it, or choose "
               "another port";
    if (error == -EADDRNOTAVAIL)
        return "; no interface of this host has that address: correct `bind`, or leave it out";
    if ((error == -EACCES || error == -EPERM) && port > 0 && port < 1024)
        return "; ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher port";
    if (error == -EMFILE || error == -ENFILE)
        return "; raise the limit of open files";
    return "";
}

/* Whether the kernel has no IPv6, or has it switched off. */
static bool is_missing_ipv6(const struct address *address, int error)
{
    return address->any.sa_family == AF_INET6 &&
           (error == -EAFNOSUPPORT || error == -EADDRNOTAVAIL);
}

static void close_sockets(struct listener *listener)
{
    while (listener->count > 0)
        close(listener->fds[--listener->count]);
}

static uint16_t port_of(int fd)
{
    struct address address = { .len = sizeof(address.storage) };
    if (getsockname(fd, &address.any, &address.len) < 0)
        return 0;
    return address_port(&address);
}

/* All addresses have one port: what the first one gets, if it is 0. */
static int open_all(struct listener *listener, struct addresses *addresses,
                    const struct listener_options *options, struct buf *why)
{
    int missing = 0;
    listener->port = options->port;
    for (size_t i = 0; i < addresses->count; i++) {
        struct address *address = &addresses->all[i];
        address_set_port(address, listener->port);
        int rc = open_socket(address, options, &listener->fds[listener->count]);
        if (is_missing_ipv6(address, rc) && addresses->count > 1) {
            missing = rc;
            continue;
        }
        if (rc < 0) {
            buf_add_str(why, "listening on ");
            address_add(why, address);
            buf_addf(why, ": %s%s", strerrordesc_np(-rc), advice(rc, listener->port));
            return rc;
        }
        listener->port = port_of(listener->fds[listener->count++]);
    }
    if (listener->count == 0)
        buf_addf(why, "listening on port %u: %s", options->port, strerrordesc_np(-missing));
    return listener->count == 0 ? missing : 0;
}

static int open_tcp(struct listener *listener, const struct listener_options *options,
                    struct buf *why)
{
    struct addresses addresses;
    int rc = addresses_find(options, &addresses, why);
    if (rc < 0)
        return rc;

    /* A port that is free for IPv4 may be taken for IPv6. */
    for (int tries = 0; tries < FREE_PORT_TRIES; tries++) {
        buf_clear(why);
        rc = open_all(listener, &addresses, options, why);
        if (rc != -EADDRINUSE || options->port != 0)
            break;
        close_sockets(listener);
    }
    return rc;
}

/* ---- Unix sockets ------------------------------------------------------------------------------- */

static int connect_to(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

/* Removes a socket file that a process left behind which is no more. Returns 0 if nothing is in the way. */
static int clear_path(const struct sockaddr_un *address, struct buf *why)
{
    struct stat there;
    if (lstat(address->sun_path, &there) < 0)
        return 0; /* bind() will say what else is wrong */
    if (!S_ISSOCK(there.st_mode)) {
        buf_addf(why,
                 "listening on unix:%s: there is a file of that name which is no socket; "
                 "choose another path, or remove it",
                 address->sun_path);
        return -EEXIST;
    }
    int rc = connect_to(address);
    if (rc == 0 || rc == -EAGAIN) { /* -EAGAIN: somebody listens, and is busy */
        buf_addf(why,
                 "listening on unix:%s: another program listens there: stop it, or choose "
                 "another path",
                 address->sun_path);
        return -EADDRINUSE;
    }
    if (rc == -ECONNREFUSED && unlink(address->sun_path) < 0) {
        rc = -errno;
        buf_addf(why, "listening on unix:%s: the socket that is left there cannot be removed: %s",
                 address->sun_path, strerrordesc_np(-rc));
        return rc;
    }
    return 0;
}

/* Nobody can connect before listen(), so nobody does with the mode that umask left. */
static int bind_unix(struct listener *listener, int fd, const struct sockaddr_un *address,
                     const struct listener_options *options)
{
    if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return -errno;
    struct stat made;
    listener->path = strdup(address->sun_path);
    if (!listener->path || lstat(address->sun_path, &made) < 0) {
        unlink(address->sun_path);
        return listener->path ? -errno : -ENOMEM;
    }
    listener->path_device = made.st_dev;
    listener->path_inode = made.st_ino;
    if (options->unix_mode != 0 && chmod(address->sun_path, (mode_t)options->unix_mode) < 0)
        return -errno;
    if (listen(fd, options->backlog > 0 ? options->backlog : LISTENER_BACKLOG) < 0)
        return -errno;
    return 0;
}

static int open_unix(struct listener *listener, const struct listener_options *options,
                     struct buf *why)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t len = strlen(options->unix_path);
    if (len == 0 || len >= sizeof(address.sun_path)) {
        buf_addf(why, "listening on unix:%s: the path must have 1 to %zu bytes", options->unix_path,
                 sizeof(address.sun_path) - 1);
        return -ENAMETOOLONG;
    }
    memcpy(address.sun_path, options->unix_path, len + 1);
    int rc = clear_path(&address, why);
    if (rc < 0)
        return rc;

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    rc = fd < 0 ? -errno : 0;
    if (rc == 0) {
        listener->fds[listener->count++] = fd;
        rc = bind_unix(listener, fd, &address, options);
    }
    if (rc < 0)
        buf_addf(why, "listening on unix:%s: %s%s", options->unix_path, strerrordesc_np(-rc),
                 advice(rc, 0));
    return rc;
}

/* ---- Both --------------------------------------------------------------------------------------- */

static int set_name(struct listener *listener, const struct listener_options *options)
{
    struct buf name = BUF_INIT(1024);
    const char *where = options->bind && *options->bind ? options->bind : options->interface;
    if (options->unix_path)
        buf_addf(&name, "unix:%s", options->unix_path);
    else if (!where || !*where)
        buf_addf(&name, "port %u", listener->port);
    else
        buf_addf(&name, strchr(where, ':') ? "[%s]:%u" : "%s:%u", where, listener->port);
    listener->name = buf_take(&name);
    buf_release(&name);
    return listener->name ? 0 : -ENOMEM;
}

int listener_open(const struct listener_options *options, struct listener **out, struct buf *why)
{
    *out = NULL;
    buf_clear(why);
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener) {
        buf_add_str(why, "listening: out of memory");
        return -ENOMEM;
    }
    listener->is_unix = options->unix_path != NULL;
    int rc =
        listener->is_unix ? open_unix(listener, options, why) : open_tcp(listener, options, why);
    if (rc == 0 && (rc = set_name(listener, options)) < 0)
        buf_add_str(why, "listening: out of memory");
    if (rc < 0)
        listener_close(listener);
    else
        *out = listener;
    return rc;
}

/* Another process may have taken the path over by now. */
static void remove_path(const struct listener *listener)
{
    struct stat there;
    if (lstat(listener->path, &there) == 0 && there.st_dev == listener->path_device &&
        there.st_ino == listener->path_inode)
        unlink(listener->path);
}

void listener_close(struct listener *listener)
{
    if (!listener)
        return;
    if (listener->path)
        remove_path(listener);
    close_sockets(listener);
    free(listener->path);
    free(listener->name);
    free(listener);
}
