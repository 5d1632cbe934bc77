/* SPDX-License-Identifier: MIT */

/* GELF over UDP. */

#include "gelf.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHUNK_HEADER     12
#define CHUNKS_MAX       128
#define RESOLVE_AGAIN_MS (10 * 60 * 1000) /* a name may have moved, and UDP never says so */

void datagram_close(struct datagram *udp)
{
    if (udp->fd >= 0)
        close(udp->fd);
    udp->fd = -1;
}

size_t datagram_limit(const struct gelf_service *service)
{
    return CHUNKS_MAX * ((size_t)service->datagram.bytes - CHUNK_HEADER);
}

static int ensure_open(struct datagram *udp, const struct gelf_service *service)
{
    if (udp->fd >= 0 && gelf_now_ms() - udp->opened_ms < RESOLVE_AGAIN_MS)
        return 0;
    datagram_close(udp);

    char port[24];
    snprintf(port, sizeof(port), "%lld", (long long)service->port);
    const struct addrinfo hints = { .ai_socktype = SOCK_DGRAM };
    struct addrinfo *list = NULL;
    const int rc = getaddrinfo(service->host, port, &hints, &list);
    if (rc != 0) {
        snprintf(udp->message, sizeof(udp->message), "cannot resolve %s: %s", service->host,
                 gai_strerror(rc));
        return -EHOSTUNREACH;
    }
    int error = -EHOSTUNREACH;
    for (const struct addrinfo *a = list; a && udp->fd < 0; a = a->ai_next) {
        udp->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (udp->fd < 0 || connect(udp->fd, a->ai_addr, a->ai_addrlen) < 0) {
            error = -errno;
            datagram_close(udp);
        }
    }
    freeaddrinfo(list);
    udp->opened_ms = gelf_now_ms();
    return udp->fd >= 0 ? 0 : error;
}

/* What the network said of datagrams sent before: 0 or a negative errno value. */
static int pending_error(const struct datagram *udp)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(udp->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return -errno;
    return -error;
}

static int send_part(const struct datagram *udp, struct iovec *iov, size_t n)
{
    const struct msghdr message = { .msg_iov = iov, .msg_iovlen = n };
    ssize_t sent;
    do {
        sent = sendmsg(udp->fd, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

static int send_chunks(const struct datagram *udp, const char *data, size_t len, size_t part)
{
    unsigned char header[CHUNK_HEADER] = { 0x1e, 0x0f };
    const size_t count = (len + part - 1) / part;
    if (getrandom(header + 2, 8, 0) != 8)
        return -EIO;
    header[11] = (unsigned char)count;
    for (size_t i = 0; i < count; i++) {
        const size_t n = len - i * part < part ? len - i * part : part;
        struct iovec iov[] = { { .iov_base = header, .iov_len = sizeof(header) },
                               { .iov_base = (char *)data + i * part, .iov_len = n } };
        header[10] = (unsigned char)i;
        const int rc = send_part(udp, iov, 2);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int datagram_send(struct datagram *udp, const struct gelf_service *service, const void *data,
                  size_t len)
{
    const size_t limit = (size_t)service->datagram.bytes;
    udp->message[0] = '\0';
    int rc = ensure_open(udp, service);
    if (rc < 0)
        return rc;

    /* There is no answer but that nobody listens. It may come after the next message is there. */
    rc = pending_error(udp);
    if (rc == 0 && len <= limit) {
        struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
        rc = send_part(udp, &iov, 1);
    } else if (rc == 0) {
        rc = send_chunks(udp, data, len, limit - CHUNK_HEADER);
    }
    if (rc == 0)
        rc = pending_error(udp);
    if (rc < 0)
        datagram_close(udp);
    return rc;
}
