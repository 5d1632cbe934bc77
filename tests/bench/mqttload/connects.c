/* SPDX-License-Identifier: MIT */

/* Connections a second, and the speed of the machine itself. */

#include "mqttload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* One of --parallel places in which connections are made, one after another. */
struct place {
    int fd;
    bool asked; /* CONNECT is sent */
    uint64_t start_ns;
};

/* Returns false where not even the attempt could be made. */
static bool place_start(struct place *s, const struct sockaddr_in *a)
{
    s->asked = false;
    s->start_ns = now_ns();
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    if (connect(s->fd, (const struct sockaddr *)a, sizeof(*a)) && errno != EINPROGRESS) {
        close(s->fd);
        return false;
    }
    struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = s };
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, s->fd, &ev))
        die("epoll_ctl: %s", strerror(errno));
    return true;
}

void run_connects(void)
{
    struct sockaddr_in a = broker_address();
    struct place *places = xalloc((size_t)opt.parallel * sizeof(*places));
    struct epoll_event ev[MAX_EVENTS];
    long started = 0, finished = 0, failed = 0;
    uint8_t buf[256];
    char id[64];

    struct meter m0 = meter_read();
    uint64_t t0 = now_ns(), quiet = t0;
    for (int i = 0; i < opt.parallel && started < opt.connects; i++, started++)
        failed += !place_start(&places[i], &a);
    while (finished + failed < opt.connects && now_ns() - quiet < 10 * QUIET_NS) {
        int n = epoll_wait(epfd, ev, MAX_EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct place *s = ev[i].data.ptr;
            bool over = false;
            if (ev[i].events & EPOLLOUT && !s->asked) {
                snprintf(id, sizeof(id), "%.32s-c-%08ld-%03d", opt.ids, started, (int)(s - places));
                size_t len = packet_connect(buf, id);
                s->asked = send(s->fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
            }
            if (ev[i].events & EPOLLIN) {
                ssize_t r = recv(s->fd, buf, sizeof(buf), 0);
                if (r >= 4 && buf[0] == P_CONNACK << 4 && buf[3] == 0) {
                    static const uint8_t bye[2] = { P_DISCONNECT << 4, 0 };
                    latency_add(now_ns() - s->start_ns);
                    if (send(s->fd, bye, 2, MSG_NOSIGNAL) == 2)
                        finished++;
                    over = true;
                } else if (r == 0 || (r < 0 && errno != EAGAIN)) {
                    failed++;
                    over = true;
                }
            } else if (ev[i].events & (EPOLLERR | EPOLLHUP)) {
                failed++;
                over = true;
            }
            if (over) {
                quiet = now_ns();
                close(s->fd);
                if (started < opt.connects) {
                    started++;
                    failed += !place_start(s, &a);
                }
            }
        }
    }
    double secs = (double)(now_ns() - t0) / 1e9;
    usleep(50000); /* let the broker finish the last ones */
    struct meter m1 = meter_read();
    printf(
        "{\"label\":\"%s\",\"mode\":\"connects\",\"parallel\":%d,\"connected\":%ld,\"failed\":%ld"
        ",\"duration_s\":%.4f,\"connects_per_s\":%.0f",
        opt.label, opt.parallel, finished, failed, secs, (double)finished / secs);
    latency_print();
    meter_print(&m0, &m1, secs, (double)finished);
    printf("}\n");
    free(places);
}

#define ROUNDS 10000

/*
 * --gauge: how fast the machine is just now, to tell noise from change: CPU time of one 64 byte write and read over
 * loopback TCP within this process, of one trivial system call, and of one step of an arithmetic loop.
 */
void run_gauge(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof(a);
    char buf[64] = { 0 };
    int listener = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&a, n) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&a, &n) || connect(c, (struct sockaddr *)&a, n))
        die("gauge: %s", strerror(errno));
    int s = accept(listener, NULL, NULL);
    setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));

    double t0 = (double)own_cpu_ns();
    for (int i = 0; i < ROUNDS; i++)
        if (write(c, buf, sizeof(buf)) != sizeof(buf) || read(s, buf, sizeof(buf)) != sizeof(buf))
            die("gauge: %s", strerror(errno));
    double t1 = (double)own_cpu_ns();
    for (int i = 0; i < 10 * ROUNDS; i++)
        (void)getppid();
    double t2 = (double)own_cpu_ns();
    volatile uint64_t x = 1;
    for (int i = 0; i < 1000 * ROUNDS; i++)
        x = x * 3 + 1;
    double t3 = (double)own_cpu_ns();
    printf("{\"mode\":\"gauge\",\"tcp_write_read_ns\":%.0f,\"syscall_ns\":%.0f,\"loop_ns\":%.3f}\n",
           (t1 - t0) / ROUNDS, (t2 - t1) / (10 * ROUNDS), (t3 - t2) / (1000.0 * ROUNDS));
}
