/* SPDX-License-Identifier: MIT */

/* GELF over TCP, with TLS or without: libcurl connects, and hands over the connection. */

#include "gelf.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define RESEND_BYTES (256 * 1024) /* of each of the two buffers at most */
#define DRAIN_MS     50           /* between two looks at what has not been acknowledged */

static void disconnect(struct stream *stream)
{
    curl_easy_cleanup(stream->curl);
    stream->curl = NULL;
}

void stream_release(struct stream *stream)
{
    disconnect(stream);
    bytes_release(&stream->last);
    bytes_release(&stream->older);
}

/* ---- What may have to be written again --------------------------------------------------------- */

/* Lets go of what was written longer ago. All of `older` was written before `last` began. */
static void forget_old(struct stream *stream, const struct gelf_service *service)
{
    const int64_t now = gelf_now_ms();
    if (now - stream->last_began_ms > service->resend.ms)
        bytes_clear(&stream->older);
    if (now - stream->written_ms > service->resend.ms)
        bytes_clear(&stream->last);
}

/* Keeps what was written. Two buffers take turns, so what is kept is at least `resend` old before it
 * goes, unless there is too much of it. */
static void remember(struct stream *stream, const struct gelf_service *service, const void *data,
                     size_t len)
{
    const int64_t now = gelf_now_ms();
    if (service->resend.ms == 0)
        return;
    if (stream->last.len > 0 && (now - stream->last_began_ms > service->resend.ms ||
                                 stream->last.len + len > RESEND_BYTES)) {
        const struct bytes swap = stream->older;
        stream->older = stream->last;
        stream->last = swap;
        bytes_clear(&stream->last);
    }
    if (stream->last.len == 0)
        stream->last_began_ms = now;
    if (len <= RESEND_BYTES)
        bytes_add(&stream->last, data, len);
    if (stream->last.failed)
        bytes_clear(&stream->last);
    stream->written_ms = now;
}

/* There is a connection again, and all of it has been written to that. None of it could be lost while there was
 * none, so that time does not count; the rest does, or a server that ends each connection soon would get everything again
 * with each. */
static void stay_as_old(struct stream *stream)
{
    const int64_t away = gelf_now_ms() - stream->lost_ms;
    stream->last_began_ms += away;
    stream->written_ms += away;
}

/* ---- The connection ---------------------------------------------------------------------------- */

/* Whether the other side is still there. It sends nothing, so the only news is the end. */
static bool is_alive(struct stream *stream)
{
    char ignored[512];
    for (int i = 0; i < 64; i++) {
        size_t n = 0;
        const CURLcode rc = curl_easy_recv(stream->curl, ignored, sizeof(ignored), &n);
        if (rc == CURLE_AGAIN)
            return true;
        if (rc != CURLE_OK || n == 0)
            return false;
    }
    return true;
}

static bool connect_now(struct stream *stream, const struct gelf_service *service)
{
    const bool tls = strcmp(service->transport, "tls") == 0;
    stream->curl = curl_easy_init();
    if (!stream->curl || !gelf_set_url(stream->curl, service, tls ? "https" : "http", "/")) {
        snprintf(stream->message, sizeof(stream->message), "out of memory");
        disconnect(stream);
        return false;
    }
    CURL *curl = stream->curl;
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, stream->message);
    curl_easy_setopt(curl, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_ENABLE_ALPN, 0L); /* it is not HTTP that comes */
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)service->connect_timeout.ms);
    const CURLcode rc = curl_easy_perform(curl);
    if (rc != CURLE_OK || curl_easy_getinfo(curl, CURLINFO_ACTIVESOCKET, &stream->fd) != CURLE_OK ||
        stream->fd == CURL_SOCKET_BAD) {
        if (stream->message[0] == '\0')
            snprintf(stream->message, sizeof(stream->message), "%s", curl_easy_strerror(rc));
        disconnect(stream);
        return false;
    }
    return true;
}

/* Writes all of it before the clock says `end_ms`. */
static bool write_all(struct stream *stream, const char *data, size_t len, int64_t end_ms)
{
    while (len > 0) {
        size_t n = 0;
        const CURLcode rc = curl_easy_send(stream->curl, data, len, &n);
        data += n;
        len -= n;
        if (rc == CURLE_AGAIN) {
            const int64_t left = end_ms - gelf_now_ms();
            struct pollfd fd = { .fd = stream->fd, .events = POLLOUT };
            if (left <= 0 || poll(&fd, 1, (int)left) == 0) {
                snprintf(stream->message, sizeof(stream->message), "timeout while writing");
                return false;
            }
        } else if (rc != CURLE_OK) {
            snprintf(stream->message, sizeof(stream->message), "the connection broke");
            return false;
        }
    }
    return true;
}

/* Waits until the other host has acknowledged all that was written. */
static bool wait_until_taken(struct stream *stream, int64_t end_ms)
{
    for (int wait = 1;; wait = wait * 2 < DRAIN_MS ? wait * 2 : DRAIN_MS) {
        int left = 0;
        /* How much is left says nothing of a reset: only poll() tells. */
        struct pollfd fd = { .fd = stream->fd, .events = 0 };
        const bool empty = ioctl(stream->fd, SIOCOUTQ, &left) == 0 && left == 0;
        if (poll(&fd, 1, empty ? 0 : wait) > 0 && (fd.revents & POLLERR)) {
            snprintf(stream->message, sizeof(stream->message), "the connection was reset");
            return false;
        }
        if (empty)
            return true;
        if (gelf_now_ms() > end_ms) {
            snprintf(stream->message, sizeof(stream->message), "timeout: nothing is taken");
            return false;
        }
    }
}

static bool put(struct stream *stream, const char *data, size_t len, int64_t end_ms)
{
    if (write_all(stream, data, len, end_ms) && wait_until_taken(stream, end_ms))
        return true;
    disconnect(stream);
    return false;
}

/* One to which all had been written that is remembered. */
static void lose(struct stream *stream)
{
    disconnect(stream);
    stream->lost_ms = gelf_now_ms();
}

bool stream_write(struct stream *stream, const struct gelf_service *service, const void *data,
                  size_t len)
{
    stream->message[0] = '\0';
    if (stream->curl) /* after the end of one it stays until there is another */
        forget_old(stream, service);
    if (stream->curl && !is_alive(stream))
        lose(stream);

    const bool is_new = !stream->curl;
    if (is_new && !connect_now(stream, service))
        return false;
    const int64_t end_ms = gelf_now_ms() + service->timeout.ms;
    if (is_new) { /* what is written again stays remembered, since this one may be no better */
        if (!put(stream, stream->older.data, stream->older.len, end_ms) ||
            !put(stream, stream->last.data, stream->last.len, end_ms))
            return false;
        stay_as_old(stream);
    }
    if (!put(stream, data, len, end_ms)) {
        lose(stream);
        return false;
    }
    remember(stream, service, data, len);
    return true;
}
