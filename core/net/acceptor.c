/* SPDX-License-Identifier: MIT */

/* Accepting connections; each acceptor lives on its loop's thread. */

#include "base/container.h"
#include "net/listener.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CALM_MS 10000 /* without a failure: the trouble is over */

struct acceptor_socket {
    struct loop_source source;
    struct acceptor *owner;
};

static int watch(struct acceptor *acceptor)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < acceptor->listener->count; i++)
        rc = loop_add(acceptor->loop, &acceptor->sockets[i].source, EPOLLIN | EPOLLEXCLUSIVE);
    return rc;
}

static void watch_not(struct acceptor *acceptor)
{
    for (size_t i = 0; i < acceptor->listener->count; i++)
        loop_remove(acceptor->loop, &acceptor->sockets[i].source);
}

/* Those in the backlog would wake the loop at once, again and again, so it looks away for a while. */
static void fail(struct acceptor *acceptor, int error)
{
    atomic_fetch_add_explicit(&acceptor->listener->failed, 1, memory_order_relaxed);
    acceptor->failed_ms = loop_now_ms(acceptor->loop);
    uint64_t more = acceptor->trouble.held_back;
    if (log_trouble_due(&acceptor->trouble, acceptor->failed_ms))
        log_error("listener: connections have to wait listener=%s failures_not_logged=%" PRIu64
                  ": %s; raise the limit of open files, or lower the number of clients",
                  acceptor->listener->name, more, strerrordesc_np(error));
    watch_not(acceptor);
    loop_timer_start(acceptor->loop, &acceptor->pause, ACCEPTOR_PAUSE_MS);
}

static void pause_ended(struct timer_wheel *wheel, struct timer *timer)
{
    (void)wheel;
    struct acceptor *acceptor = CONTAINER_OF(timer, struct acceptor, pause);
    int rc = watch(acceptor);
    if (rc < 0)
        fail(acceptor, -rc);
}

static void succeed(struct acceptor *acceptor)
{
    atomic_fetch_add_explicit(&acceptor->listener->accepted, 1, memory_order_relaxed);
    if (acceptor->trouble.interval_ms > 0 &&
        loop_now_ms(acceptor->loop) - acceptor->failed_ms >= CALM_MS &&
        log_trouble_over(&acceptor->trouble))
        log_info("listener: connections need not wait any more listener=%s",
                 acceptor->listener->name);
}

/* accept(2) passes on errors of the one connection that it would have taken: the next one may do. */
static bool is_about_one(int error)
{
    switch (error) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ENONET:
    case EPERM:
        return true;
    default:
        return false;
    }
}

static void accept_some(struct loop_source *source, uint32_t events)
{
    (void)events;
    struct acceptor *acceptor = CONTAINER_OF(source, struct acceptor_socket, source)->owner;
    int from = source->fd;
    for (int i = 0; i < ACCEPTOR_BATCH && acceptor->sockets; i++) {
        int fd = accept4(from, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            succeed(acceptor);
            acceptor->accepted(acceptor, fd);
        } else if (errno == EAGAIN) {
            return;
        } else if (!is_about_one(errno)) {
            fail(acceptor, errno);
            return;
        }
    }
}

int acceptor_start(struct acceptor *acceptor, struct loop *loop, struct listener *listener,
                   acceptor_accepted *accepted, void *context)
{
    *acceptor = (struct acceptor){
        .loop = loop,
        .listener = listener,
        .accepted = accepted,
        .context = context,
        .pause = { .kind = timer_wheel_kind(&loop->timers, pause_ended) },
    };
    acceptor->sockets = calloc(listener->count, sizeof(*acceptor->sockets));
    if (!acceptor->sockets)
        return -ENOMEM;
    for (size_t i = 0; i < listener->count; i++)
        acceptor->sockets[i] = (struct acceptor_socket){
            .source = { .ready = accept_some, .fd = listener->fds[i] },
            .owner = acceptor,
        };
    int rc = watch(acceptor);
    if (rc < 0)
        acceptor_stop(acceptor);
    return rc;
}

void acceptor_stop(struct acceptor *acceptor)
{
    if (!acceptor->sockets)
        return;
    watch_not(acceptor);
    loop_timer_stop(acceptor->loop, &acceptor->pause);
    free(acceptor->sockets);
    acceptor->sockets = NULL;
}
