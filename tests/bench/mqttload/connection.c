/* SPDX-License-Identifier: MIT */

/* Connections: opening, sending, receiving, waiting. */

#include "mqttload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static uint8_t ack_buf[RECV_SIZE];
static size_t ack_len;

static void ack_add(enum packet_type type, unsigned id)
{
    if (ack_len + 4 > sizeof(ack_buf))
        die("ack buffer full");
    ack_buf[ack_len++] = (uint8_t)(type << 4 | (type == P_PUBREL ? 2 : 0));
    ack_buf[ack_len++] = 2;
    put16(ack_buf + ack_len, id);
    ack_len += 2;
}

static void want_out(struct conn *c, bool on)
{
    if (c->out_armed == on)
        return;
    struct epoll_event ev = { .events = EPOLLIN | (on ? EPOLLOUT : 0u), .data.ptr = c };
    if (epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev))
        die("epoll_ctl: %s", strerror(errno));
    c->out_armed = on;
}

static void conn_closed(struct conn *c)
{
    if (!c->closed) {
        c->closed = true;
        tally.closed++;
        epoll_ctl(epfd, EPOLL_CTL_DEL, c->fd, NULL);
    }
}

static void out_keep(struct conn *c, const uint8_t *p, size_t n)
{
    if (c->out_pos && c->out_pos == c->out_len)
        c->out_pos = c->out_len = 0;
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out)
            die("out of memory");
    }
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
}

void conn_send(struct conn *c, const uint8_t *p, size_t n, size_t tail)
{
    size_t done = 0;
    if (c->closed)
        return;
    if (!conn_pending(c)) {
        struct iovec iov[2] = { { (void *)(uintptr_t)p, n }, { payload_tail, tail } };
        ssize_t r = writev(c->fd, iov, tail ? 2 : 1);
        if (r < 0 && errno != EAGAIN) {
            conn_closed(c);
            return;
        }
        done = r > 0 ? (size_t)r : 0;
        if (done == n + tail)
            return;
    }
    if (done < n) {
        if (c->tail_left)
            die("packet queued behind a payload tail");
        out_keep(c, p + done, n - done);
        c->tail_left = tail;
    } else {
        c->tail_left = tail - (done - n);
    }
    want_out(c, true);
}

static void conn_flush(struct conn *c)
{
    while (conn_pending(c)) {
        size_t left = c->out_len - c->out_pos;
        struct iovec iov[2] = {
            { c->out + c->out_pos, left },
            { payload_tail, c->tail_left },
        };
        ssize_t r = writev(c->fd, iov, 2);
        if (r < 0) {
            if (errno != EAGAIN)
                conn_closed(c);
            return;
        }
        size_t head = (size_t)r < left ? (size_t)r : left;
        c->out_pos += head;
        c->tail_left -= (size_t)r - head;
        if (c->out_pos == c->out_len)
            c->out_pos = c->out_len = 0;
    }
    want_out(c, false);
}

static void give_id(struct conn *c, unsigned id)
{
    c->id_state[id] = ID_FREE;
    c->free_ids[(c->id_head + c->id_free++) % (uint32_t)opt.window] = (uint16_t)id;
    tally.acked++;
    if (opt.away)
        tally.last_ns = now_ns();
}

static void delivered(struct conn *c, uint64_t now)
{
    struct incoming *m = &c->in;
    tally.delivered++;
    tally.last_ns = now;
    if (m->retain)
        tally.retained++;
    if (m->qos == 1)
        ack_add(P_PUBACK, m->id);
    else if (m->qos == 2)
        ack_add(P_PUBREC, m->id);
    if (!m->stamped || !c->expect)
        return;
    latency_add(now - m->sent_ns);
    if (m->pub >= (uint32_t)opt.pubs) {
        tally.protocol_errors++;
        return;
    }
    uint32_t *want = &c->expect[opt.topology == FAN_IN ? m->pub : 0];
    if (m->seq == *want) {
        ++*want;
    } else if (m->seq > *want) {
        tally.lost += m->seq - *want;
        *want = m->seq + 1;
    } else {
        tally.duplicate++; /* or came late: then it was counted lost */
    }
}

/* Parses the head of a PUBLISH; returns the bytes used, 0 if too few. */
static size_t parse_publish(struct conn *c, const uint8_t *p, size_t have, uint32_t body,
                            uint64_t now)
{
    uint8_t head = p[0];
    size_t fixed = 1;
    while (p[fixed++] & 128)
        ;
    size_t end = fixed + body, at = fixed;
    size_t need = end < CARRY_MAX - 1 ? end : 0; /* small: want it whole */
    if (need && have < need)
        return 0;
    if (have < at + 2)
        return 0;
    at += 2 + get16(p + at);
    unsigned qos = head >> 1 & 3;
    struct incoming *m = &c->in;
    *m = (struct incoming){ .qos = (uint8_t)qos, .retain = head & 1 };
    if (have < at + 2 + 5)
        return 0;
    if (qos) {
        m->id = (uint16_t)get16(p + at);
        at += 2;
    }
    if (opt.v5) {
        uint32_t props = 0;
        at += packet_remaining(p + at, have - at, &props);
        at += props;
    }
    m->stamped = end >= at + STAMP_SIZE;
    if (m->stamped) {
        if (have < at + STAMP_SIZE)
            return 0;
        memcpy(&m->sent_ns, p + at, 8);
        memcpy(&m->pub, p + at + 8, 4);
        memcpy(&m->seq, p + at + 12, 4);
    }
    tally.bytes += end;
    if (have >= end) {
        delivered(c, now);
        return end;
    }
    c->skip = end - have;
    return have;
}

static void got_ack(struct conn *c, enum packet_type type, unsigned id)
{
    if (type == P_PUBREL) {
        ack_add(P_PUBCOMP, id);
        return;
    }
    enum id_state want = type == P_PUBCOMP ? ID_RELEASED : ID_PUBLISHED;
    if (c->role != ROLE_PUBLISHER || !c->id_state || id == 0 || id > (unsigned)opt.window ||
        c->id_state[id] != want) {
        tally.protocol_errors++;
        return;
    }
    if (type == P_PUBREC) {
        c->id_state[id] = ID_RELEASED;
        ack_add(P_PUBREL, id);
    } else {
        give_id(c, id);
    }
}

static size_t parse_packet(struct conn *c, const uint8_t *p, size_t have, uint64_t now)
{
    uint32_t body;
    size_t n;
    if (have < 2 || !(n = packet_remaining(p + 1, have - 1, &body)))
        return 0;
    enum packet_type type = p[0] >> 4;
    if (type == P_PUBLISH)
        return parse_publish(c, p, have, body, now);
    if (have < 1 + n + body)
        return 0;
    const uint8_t *b = p + 1 + n;
    switch (type) {
    case P_PUBACK:
    case P_PUBREC:
    case P_PUBREL:
    case P_PUBCOMP:
        got_ack(c, type, get16(b));
        break;
    case P_SUBACK:
        if (b[body - 1] >= 0x80)
            die("subscription refused: code 0x%02x", b[body - 1]);
        c->subscribed = true;
        break;
    case P_DISCONNECT:
        fprintf(stderr, "mqttload: broker sent DISCONNECT 0x%02x\n", body ? b[0] : 0);
        break;
    default:
        tally.protocol_errors++;
    }
    return 1 + n + body;
}

static void conn_readable(struct conn *c)
{
    for (;;) {
        ssize_t r;
        size_t ask;
        if (c->skip > LARGE_PAYLOAD) { /* drop it inside the kernel */
            ask = c->skip;
            r = recv(c->fd, NULL, ask, MSG_TRUNC);
        } else {
            memcpy(recv_buf, c->carry, c->carry_len);
            ask = RECV_SIZE - c->carry_len;
            r = recv(c->fd, recv_buf + c->carry_len, ask, 0);
        }
        if (r < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (r <= 0) {
            conn_closed(c);
            return;
        }
        uint64_t now = now_ns();
        ack_len = 0;
        if (c->skip > LARGE_PAYLOAD) {
            c->skip -= (uint64_t)r;
            if (!c->skip)
                delivered(c, now);
        } else {
            size_t have = c->carry_len + (size_t)r, at = 0;
            c->carry_len = 0;
            while (at < have) {
                if (c->skip) {
                    size_t take = c->skip < have - at ? (size_t)c->skip : have - at;
                    at += take;
                    c->skip -= take;
                    if (!c->skip)
                        delivered(c, now);
                    continue;
                }
                size_t used = parse_packet(c, recv_buf + at, have - at, now);
                if (!used)
                    break;
                at += used;
            }
            if (have - at > CARRY_MAX)
                die("packet head longer than %d bytes", CARRY_MAX);
            c->carry_len = have - at;
            memcpy(c->carry, recv_buf + at, c->carry_len);
        }
        if (ack_len)
            conn_send(c, ack_buf, ack_len, 0);
        if (c->role == ROLE_PUBLISHER && c->packet && c->id_free)
            turn_add(c);
        if ((size_t)r < ask)
            return; /* the socket is drained */
    }
}

struct sockaddr_in broker_address(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port) };
    if (inet_pton(AF_INET, opt.host, &a.sin_addr) != 1)
        die("--host wants an IPv4 address");
    return a;
}

static void read_exact(int fd, uint8_t *p, size_t n)
{
    while (n) {
        ssize_t r = recv(fd, p, n, 0);
        if (r <= 0)
            die("handshake: %s", r ? strerror(errno) : "broker closed the connection");
        p += r;
        n -= (size_t)r;
    }
}

void conn_open(struct conn *c, enum role role, uint32_t index, const char *name)
{
    struct sockaddr_in a = broker_address();
    struct timeval tv = { .tv_sec = 20 };
    uint8_t buf[512];
    char id[64];

    c->role = role;
    c->index = index;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    if (connect(c->fd, (struct sockaddr *)&a, sizeof(a)))
        die("connect %s:%d: %s", opt.host, opt.port, strerror(errno));
    snprintf(id, sizeof(id), "%.32s-%s-%06u", opt.ids, name, index);
    size_t n = packet_connect(buf, id);
    if (send(c->fd, buf, n, 0) != (ssize_t)n)
        die("send CONNECT: %s", strerror(errno));
    read_exact(c->fd, buf, 2);
    if (buf[0] != P_CONNACK << 4 || buf[1] < 2 || buf[1] > 127)
        die("no CONNACK");
    read_exact(c->fd, buf + 2, buf[1]);
    if (buf[3])
        die("connection refused: code 0x%02x", buf[3]);
    if (opt.v5 && buf[1] > 5) /* Receive Maximum, where it comes first */
        if (buf[5] == 0x21 && role == ROLE_PUBLISHER && (int)get16(buf + 6) < opt.window)
            die("broker's receive maximum is %u, below --window", get16(buf + 6));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev))
        die("epoll_ctl: %s", strerror(errno));
}

void conn_close(struct conn *c)
{
    static const uint8_t bye[2] = { P_DISCONNECT << 4, 0 };
    if (!c->closed && send(c->fd, bye, 2, MSG_NOSIGNAL) < 0)
        tally.closed++;
    close(c->fd);
}

/*
 * With --poll-us the thread never waits in epoll_wait, it sleeps by the clock. Then the broker's sends need not wake
 * anybody: on one machine that wake-up (an interrupt to the other core) would be charged to the broker, a cost it does
 * not have when its clients are elsewhere, and messages pile up in the sockets meanwhile, which makes receiving them
 * cheap.
 */
void dispatch(int timeout_ms)
{
    struct epoll_event ev[MAX_EVENTS];
    int n = epoll_wait(epfd, ev, MAX_EVENTS, opt.poll_us ? 0 : timeout_ms);
    if (!n && opt.poll_us && timeout_ms)
        nanosleep(&(struct timespec){ .tv_nsec = opt.poll_us * 1000L }, NULL);
    for (int i = 0; i < n; i++) {
        struct conn *c = ev[i].data.ptr;
        if (!c || c->closed)
            continue; /* NULL: the rate timer */
        if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            conn_readable(c);
        if (ev[i].events & EPOLLOUT && !c->closed) {
            conn_flush(c);
            if (c->role == ROLE_PUBLISHER && !conn_pending(c))
                turn_add(c);
        }
    }
}

void settle(void)
{
    uint64_t end = now_ns() + (uint64_t)(opt.hold * 1e9);
    while (now_ns() < end)
        dispatch(20);
}

void conn_subscribe(struct conn *c, const char *filter, int qos, unsigned id)
{
    uint8_t buf[512];
    c->subscribed = false;
    conn_send(c, buf, packet_subscribe(buf, id, filter, qos), 0);
}

void conns_wait_subscribed(struct conn *list, size_t n)
{
    uint64_t end = now_ns() + 60 * SECOND_NS;
    for (size_t i = 0; i < n; i++)
        while (!list[i].subscribed) {
            dispatch(100);
            if (now_ns() > end || list[i].closed)
                die("no SUBACK");
        }
}
