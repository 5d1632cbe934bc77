/* SPDX-License-Identifier: MIT */

#include "net/transport.h"

#include <unistd.h>

ssize_t transport_plain_writev(int fd, const struct iovec *parts, int count)
{
    /* writev() would raise SIGPIPE. */
    const struct msghdr all = { .msg_iov = (struct iovec *)(uintptr_t)parts,
                                .msg_iovlen = (size_t)count };
    ssize_t sent = sendmsg(fd, &all, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? -errno : sent;
}

void transport_close(struct transport *transport, int fd)
{
    if (transport)
        transport->ops->close(transport, fd);
    close(fd);
}
