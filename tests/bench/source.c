/* SPDX-License-Identifier: MIT */

/*
 * A source of messages: the least of a broker that a router can connect to, so that what is measured is the
 * router and not a broker. It listens on loopback, accepts every CONNECT (3.1.1 and 5.0), SUBSCRIBE and PING,
 * acknowledges what is published to it, and to the first connection that subscribes sends COUNT messages as
 * fast as the socket takes them; with QoS 1 it keeps at most WINDOW unacknowledged.
 *
 *     source COUNT QOS [WINDOW] [RATE]
 *
 * RATE, in messages a second, spaces them out. Prints "port N" at the start, "sent NANOSECONDS" when the last
 * message has been written and, with QoS 1, "acknowledged NANOSECONDS" when it has been acknowledged.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 16
#define BURST           400 /* packets encoded before they are written */

struct connection {
    int fd;
    bool v5;
    uint8_t in[65536];
    size_t in_len;
};

static struct connection connections[MAX_CONNECTIONS];
static size_t connection_count;
static struct connection *subscriber;
static uint64_t count, sent, acknowledged, window, rate;
static int qos;
static int64_t begin_ns;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void must(bool good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static void write_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            exit(0); /* the router has ended */
        data += n;
        len -= (size_t)n;
    }
}

/* One PUBLISH; returns its length. */
static size_t encode(uint8_t *out, uint64_t number)
{
    char payload[256];
    int payload_len = snprintf(
        payload, sizeof(payload),
        "{\"device\": \"arduino-17\", \"room\": \"server-room\", \"celsius\": %d.25, "
        "\"humidity\": 41.5, \"battery\": {\"volt\": 3.71, \"low\": false}, \"sequence\": %" PRIu64
        ", \"sent\": %" PRId64 ", \"tags\": [\"rack\", 3]}",
        (int)(number % 5 + 31), number, now_ns() / 1000);
    static const char topic[] = "sensors/server-room/climate";
    size_t topic_len = sizeof(topic) - 1;
    size_t rest = 2 + topic_len + (qos > 0 ? 2 : 0) + subscriber->v5 + (size_t)payload_len;
    uint8_t *at = out;
    *at++ = (uint8_t)(0x30 | qos << 1);
    *at++ = (uint8_t)(rest % 128 | 0x80);
    *at++ = (uint8_t)(rest / 128);
    *at++ = 0;
    *at++ = (uint8_t)topic_len;
    memcpy(at, topic, topic_len);
    at += topic_len;
    if (qos > 0) {
        uint16_t id = (uint16_t)(number % 65535 + 1);
        *at++ = (uint8_t)(id >> 8);
        *at++ = (uint8_t)id;
    }
    if (subscriber->v5)
        *at++ = 0;
    memcpy(at, payload, (size_t)payload_len);
    return (size_t)(at - out) + (size_t)payload_len;
}

/* How many messages may leave now. */
static uint64_t allowance(void)
{
    uint64_t n = count - sent;
    if (qos > 0 && n > window - (sent - acknowledged))
        n = window - (sent - acknowledged);
    if (rate > 0) {
        uint64_t due = (uint64_t)(now_ns() - begin_ns) / 1000 * rate / 1000000 + 1;
        if (n > due - sent)
            n = due > sent ? due - sent : 0;
    }
    return n < BURST ? n : BURST;
}

static void send_burst(void)
{
    static uint8_t out[BURST * 400];
    size_t len = 0;
    if (begin_ns == 0)
        begin_ns = now_ns();
    for (uint64_t n = allowance(); n > 0; n--)
        len += encode(out + len, sent++);
    write_all(subscriber->fd, out, len);
    if (sent == count && len > 0) {
        printf("sent %" PRId64 "\n", now_ns() - begin_ns);
        fflush(stdout);
    }
}

/* Answers one packet from the router. */
static void answer(struct connection *c, const uint8_t *packet, const uint8_t *body, size_t len)
{
    switch (packet[0] >> 4) {
    case 1: /* CONNECT: the level follows the name */
        c->v5 = body[6] == 5;
        write_all(c->fd,
                  c->v5 ? (const uint8_t *)"\x20\x03\x00\x00\x00"
                        : (const uint8_t *)"\x20\x02\x00\x00",
                  c->v5 ? 5 : 4);
        break;
    case 3: /* PUBLISH */
        if ((packet[0] & 6) == 2) {
            size_t id = 2u + (size_t)(body[0] << 8 | body[1]);
            const uint8_t puback[] = { 0x40, 2, body[id], body[id + 1] };
            write_all(c->fd, puback, sizeof(puback));
        }
        break;
    case 4: /* PUBACK */
        if (++acknowledged == count) {
            printf("acknowledged %" PRId64 "\n", now_ns() - begin_ns);
            fflush(stdout);
        }
        break;
    case 8: { /* SUBSCRIBE: granted as many filters as there are options bytes */
        uint8_t suback[300] = { 0x90, 0, body[0], body[1] };
        size_t at = 2, n = 4;
        if (c->v5) {
            at += 1 + body[2];
            suback[n++] = 0;
        }
        while (at < len && n < sizeof(suback)) {
            at += 2u + (size_t)(body[at] << 8 | body[at + 1]) + 1;
            suback[n++] = (uint8_t)qos;
        }
        suback[1] = (uint8_t)(n - 2);
        write_all(c->fd, suback, n);
        subscriber = c;
        break;
    }
    case 12: /* PINGREQ */
        write_all(c->fd, (const uint8_t *)"\xD0\x00", 2);
        break;
    default:
        break;
    }
}

/* Reads what has come, and answers whole packets. Returns false at the end of the connection. */
static bool serve(struct connection *c)
{
    ssize_t n = read(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len);
    if (n <= 0)
        return false;
    c->in_len += (size_t)n;
    size_t at = 0;
    for (;;) {
        size_t head = 1, len = 0, shift = 0;
        bool whole = false;
        while (at + head < c->in_len && head < 5) {
            uint8_t byte = c->in[at + head++];
            len |= (size_t)(byte & 127) << shift;
            shift += 7;
            if (byte < 128) {
                whole = true;
                break;
            }
        }
        if (!whole || c->in_len - at < head + len)
            break;
        answer(c, c->in + at, c->in + at + head, len);
        at += head + len;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
    return true;
}

int main(int argc, char **argv)
{
    must(argc >= 3, "source COUNT QOS [WINDOW] [RATE]");
    count = strtoull(argv[1], NULL, 10);
    qos = atoi(argv[2]);
    window = argc > 3 ? strtoull(argv[3], NULL, 10) : 1000;
    rate = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    must(bind(listener, (struct sockaddr *)&address, size) == 0, "bind");
    must(listen(listener, 16) == 0, "listen");
    must(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct pollfd fds[MAX_CONNECTIONS + 1] = { { .fd = listener, .events = POLLIN } };
        for (size_t i = 0; i < connection_count; i++)
            fds[i + 1] = (struct pollfd){ .fd = connections[i].fd, .events = POLLIN };
        bool sending = subscriber && sent < count;
        int wait_ms = sending && allowance() > 0 ? 0 : sending && rate > 0 ? 1 : -1;
        must(poll(fds, connection_count + 1, wait_ms) >= 0, "poll");
        for (size_t i = 0; i < connection_count; i++)
            if (fds[i + 1].revents && connections[i].fd >= 0 && !serve(&connections[i])) {
                close(connections[i].fd);
                connections[i].fd = -1; /* poll() passes it over */
            }
        if (fds[0].revents && connection_count < MAX_CONNECTIONS)
            connections[connection_count++].fd = accept(listener, NULL, NULL);
        if (subscriber && subscriber->fd >= 0 && sent < count)
            send_burst();
    }
}
