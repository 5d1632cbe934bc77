/* SPDX-License-Identifier: MIT */

#include "loop/loop.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <unistd.h>

_Static_assert(sizeof(struct loop_source) == 16, "each connection has one");

static void read_clocks(struct loop *loop)
{
    loop->now_ms = clock_mono_ms();
    loop->wall_ms = clock_wall_ms();
}

/* That there is mail is found out by looking, each turn. */
static void woken(struct loop_source *source, uint32_t events)
{
    (void)source;
    (void)events;
}

int loop_init(struct loop *loop)
{
    *loop = (struct loop){ .epoll_fd = -1, .waker = { .ready = woken } };
    read_clocks(loop);
    timer_wheel_init(&loop->timers, loop->now_ms);
    int rc = mailbox_init(&loop->mailbox);
    if (rc < 0)
        return rc;

    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    rc = loop->epoll_fd < 0 ? -errno : 0;
    loop->waker.fd = loop->mailbox.fd;
    if (rc == 0)
        rc = loop_add(loop, &loop->waker, EPOLLIN | EPOLLET);
    if (rc < 0)
        loop_release(loop);
    return rc;
}

void loop_release(struct loop *loop)
{
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    loop->epoll_fd = -1;
    mailbox_release(&loop->mailbox);
}

int loop_add(struct loop *loop, struct loop_source *source, uint32_t events)
{
    assert(source->events == 0 && events != 0);
    struct epoll_event event = { .events = events, .data.ptr = source };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) < 0)
        return -errno;
    source->events = events;
    return 0;
}

int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events)
{
    assert(source->events != 0 && events != 0);
    if (source->events == events)
        return 0;
    struct epoll_event event = { .events = events, .data.ptr = source };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0)
        return -errno;
    source->events = events;
    return 0;
}

/*
 * Closing alone would not do: a child that has been forked, and has not come to its exec yet, has the descriptor
 * too, and then epoll goes on telling of it.
 */
void loop_remove(struct loop *loop, struct loop_source *source)
{
    if (source->events == 0)
        return;
    int rc = epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    assert(rc == 0); /* or it was closed too early */
    (void)rc;
    source->events = 0;
    for (int i = loop->event_at; i < loop->event_count; i++)
        if (loop->events[i].data.ptr == source)
            loop->events[i].data.ptr = NULL;
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stopping, true);
    mailbox_wake(&loop->mailbox);
}

/* How long epoll may wait: by the clock of now, as the turn that ends here took time. */
static int wait_ms(const struct loop *loop)
{
    int64_t due = timer_wheel_next(&loop->timers);
    if (due == TIMER_NEVER)
        return -1;
    int64_t wait = due - clock_mono_ms();
    if (wait < 0)
        return 0;
    return wait < INT_MAX ? (int)wait : INT_MAX;
}

static void call_sources(struct loop *loop, int count)
{
    loop->event_at = 0;
    loop->event_count = count;
    while (loop->event_at < loop->event_count) {
        const struct epoll_event *event = &loop->events[loop->event_at++];
        struct loop_source *source = event->data.ptr;
        if (source)
            source->ready(source, event->events);
    }
    loop->event_at = loop->event_count = 0;
}

int loop_turn(struct loop *loop, bool may_wait)
{
    int timeout = 0;
    if (may_wait && !loop->again && mailbox_sleep(&loop->mailbox))
        timeout = wait_ms(loop);
    loop->again = false;

    int count = epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS, timeout);
    if (count < 0 && errno != EINTR)
        return -errno;

    read_clocks(loop);
    loop->turns++;
    if (loop->turn_start)
        loop->turn_start(loop);
    if (count > 0)
        call_sources(loop, count);

    struct mail *mail = mailbox_take(&loop->mailbox);
    if (mail) {
        assert(loop->mail);
        loop->mail(loop, mail);
    }
    timer_wheel_advance(&loop->timers, loop->now_ms);
    if (loop->turn_end)
        loop->turn_end(loop);
    return 0;
}

int loop_run(struct loop *loop)
{
    int rc = 0;
    while (rc == 0 && !atomic_load(&loop->stopping))
        rc = loop_turn(loop, true);
    atomic_store(&loop->stopping, false);
    return rc;
}
