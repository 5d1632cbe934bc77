/* SPDX-License-Identifier: MIT */

/*
 * nullrelay: the least a broker could do, to know the limit on this machine. One thread.
 *
 *     nullrelay PORT [parse]
 *
 * It speaks just enough MQTT 3.1.1 for mqttload to run against it: it answers CONNECT and SUBSCRIBE, looks once at
 * the topic number of a publisher's first PUBLISH, and from then on passes bytes on unread: publisher to subscribers,
 * and what a subscriber sends (its acks) back to the publisher. So QoS 1 and 2 work end to end, with the client's own
 * packet ids. In fan-in the acks are dealt out in the order in which the publishers' packets went in, which needs
 * packets of one length and nothing else.
 *
 * One epoll_wait gathers, one read() a ready publisher goes straight into its subscriber's output buffer, one write()
 * a subscriber that has anything ends the round. Messages are not parsed, matched, counted or stored.
 *
 * With "parse" it does the least that a real broker must, to tell the cost of MQTT from the cost of moving bytes:
 * every packet (up to 256 KiB) is cut out of the stream, every topic is checked as UTF-8 and looked up among the
 * subscriptions (a hash for exact filters, a prefix test for "#" ones; one a connection), each subscriber gets a copy
 * under a packet id of its own, each publisher its acks, and QoS 2 ids are remembered until released. No message is
 * stored. Its input is trusted: it is for mqttload and nothing else.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUND     512          /* events taken at once */
#define READ_MAX  (256 * 1024) /* bytes asked of one read() */
#define OUT_MAX   (8 * 1024 * 1024)
#define TOPICS    4096
#define HANDSHAKE 16           /* bytes of output that are not kept room for */
#define WILDCARD  (TOPICS - 1) /* place of the one "#" subscription */

enum kind {
    NEW,
    PUBLISHER,
    SUBSCRIBER
};

struct conn {
    int fd;
    enum kind kind;
    unsigned topic;
    uint8_t *out;
    size_t out_pos, out_len, out_cap;
    bool dirty, armed;
    struct conn *next;      /* subscriber: next of the same topic */
    struct conn *publisher; /* subscriber: where its acks go */
    size_t packet_len;      /* publisher: length of its packets */
    struct turn *fifo;
    size_t fifo_head, fifo_len, fifo_cap;

    uint8_t *in; /* parse: head of a packet cut by a read */
    size_t in_len;
    uint16_t last_id;
    struct ids *ids;       /* parse: NULL until one is needed */
    struct filter *filter; /* parse: what it has subscribed to */
};

struct ids {
    uint64_t unacked[1024];  /* a bit for each id sent, not acked */
    uint64_t received[1024]; /* and for each QoS 2 id not released */
};

struct turn {
    struct conn *from;
    size_t packets;
};

static bool parse_mode;

/* parse: a filter and who subscribed to it. */
static struct filter {
    uint8_t text[64];
    size_t len;
    struct conn *who[128];
    size_t count;
} exact[TOPICS], prefix[16];
static size_t prefix_count;

static int epfd;
static struct conn *subscribers[TOPICS];
static struct conn *dirty[1 << 16];
static size_t dirty_count;
static uint8_t scratch[READ_MAX];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void room(struct conn *c, size_t n)
{
    if (c->out_pos == c->out_len)
        c->out_pos = c->out_len = 0;
    if (c->out_len + n <= c->out_cap)
        return;
    c->out_cap = c->out_len + n > READ_MAX ? (c->out_len + n) * 2 : c->out_len + n;
    if (c->out_cap > 2 * OUT_MAX || !(c->out = realloc(c->out, c->out_cap)))
        fail("output buffer");
}

static void mark(struct conn *c)
{
    if (!c->dirty) {
        c->dirty = true;
        dirty[dirty_count++] = c;
    }
}

static void arm(struct conn *c, bool on)
{
    if (c->armed == on)
        return;
    c->armed = on;
    struct epoll_event ev = { .events = EPOLLIN | (on ? EPOLLOUT : 0u), .data.ptr = c };
    epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void flush(struct conn *c)
{
    size_t left = c->out_len - c->out_pos;
    ssize_t n = left ? write(c->fd, c->out + c->out_pos, left) : 0;
    if (n > 0)
        c->out_pos += (size_t)n;
    if (c->out_cap <= HANDSHAKE && c->out_pos == c->out_len) {
        free(c->out); /* an idle connection has no buffer */
        c->out = NULL;
        c->out_pos = c->out_len = c->out_cap = 0;
    }
    arm(c, c->out_pos < c->out_len);
}

static void put(struct conn *c, const void *p, size_t n)
{
    room(c, n);
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
    mark(c);
}

static void filter_remove(struct filter *f, const struct conn *c)
{
    for (size_t i = 0; i < f->count; i++)
        if (f->who[i] == c)
            f->who[i--] = f->who[--f->count];
}

static struct ids *ids_of(struct conn *c)
{
    if (!c->ids && !(c->ids = calloc(1, sizeof(*c->ids))))
        fail("memory");
    return c->ids;
}

static void drop(struct conn *c)
{
    close(c->fd);
    c->fd = -1;
    mark(c); /* freed at the end of the round */
    if (c->filter)
        filter_remove(c->filter, c);
    if (c->kind == PUBLISHER)
        for (struct conn *s = subscribers[c->topic]; s; s = s->next)
            s->publisher = NULL;
    if (c->kind == SUBSCRIBER)
        for (struct conn **p = &subscribers[c->topic]; *p; p = &(*p)->next)
            if (*p == c) {
                *p = c->next;
                break;
            }
}

/* The number that ends a topic or filter; "#" has a place of its own. */
static unsigned topic_number(const uint8_t *p, size_t n)
{
    if (n && p[n - 1] == '#')
        return WILDCARD;
    unsigned v = 0;
    for (size_t i = n > 5 ? n - 5 : 0; i < n; i++)
        v = v * 10 + (unsigned)(p[i] - '0');
    return v % WILDCARD;
}

static size_t length_of(const uint8_t *p, size_t *fixed)
{
    size_t v = 0, i = 1;
    for (int shift = 0;; shift += 7) {
        v |= (size_t)(p[i] & 127) << shift;
        if (!(p[i++] & 128))
            break;
    }
    *fixed = i;
    return i + v;
}

/* Handshake packets, and the first PUBLISH, which turns relaying on. */
static void greet(struct conn *c, const uint8_t *p)
{
    size_t fixed, len = length_of(p, &fixed);
    switch (p[0] >> 4) {
    case 1:
        put(c, "\x20\x02\0", 4);
        break;
    case 8: {
        const uint8_t *b = p + fixed;
        uint8_t ack[5] = { 0x90, 3, b[0], b[1], b[len - fixed - 1] };
        c->kind = SUBSCRIBER;
        c->topic = topic_number(b + 4, (size_t)b[2] << 8 | b[3]);
        c->next = subscribers[c->topic];
        subscribers[c->topic] = c;
        put(c, ack, sizeof(ack));
        break;
    }
    case 3:
        c->kind = PUBLISHER;
        c->topic = topic_number(p + fixed + 2, (size_t)p[fixed] << 8 | p[fixed + 1]);
        c->packet_len = len;
        if (!subscribers[c->topic])
            c->topic = WILDCARD;
        if (subscribers[c->topic])
            subscribers[c->topic]->publisher = c;
        break;
    }
}

static void remember_turn(struct conn *to, struct conn *from, size_t bytes)
{
    if (bytes % from->packet_len)
        fail("a read cut a packet: fan-in needs whole packets");
    if (to->fifo_len == to->fifo_cap) {
        if (to->fifo_head) {
            to->fifo_len -= to->fifo_head;
            memmove(to->fifo, to->fifo + to->fifo_head, to->fifo_len * sizeof(*to->fifo));
            to->fifo_head = 0;
        } else {
            to->fifo_cap = to->fifo_cap * 2 + 1024;
            to->fifo = realloc(to->fifo, to->fifo_cap * sizeof(*to->fifo));
        }
    }
    to->fifo[to->fifo_len++] = (struct turn){ from, bytes / from->packet_len };
}

static void relay_out(struct conn *c, size_t n, const uint8_t *p)
{
    struct conn *s = subscribers[c->topic];
    bool acked = (p[0] >> 1 & 3) != 0;
    if (c->topic == WILDCARD && acked && s)
        remember_turn(s, c, n);
    for (; s; s = s->next)
        put(s, p, n);
}

static void conn_free(struct conn *c)
{
    free(c->out);
    free(c->in);
    free(c->fifo);
    free(c->ids);
    free(c);
}

static void readable(struct conn *c)
{
    struct conn *to = c->kind == PUBLISHER ? subscribers[c->topic] : NULL;
    if (to && !to->next) { /* one target: read into its buffer */
        room(to, READ_MAX);
        ssize_t n = read(c->fd, to->out + to->out_len, READ_MAX);
        if (n == 2 && to->out[to->out_len] == 0xe0)
            n = 0;
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                drop(c);
            return;
        }
        if (c->topic == WILDCARD && (to->out[to->out_len] >> 1 & 3))
            remember_turn(to, c, (size_t)n);
        to->out_len += (size_t)n;
        mark(to);
        return;
    }
    ssize_t n = read(c->fd, scratch, sizeof(scratch));
    if (n <= 0 || (n == 2 && scratch[0] == 0xe0)) {
        if (n >= 0 || errno != EAGAIN)
            drop(c);
        return;
    }
    if (c->kind == PUBLISHER) {
        for (; to; to = to->next) {
            if (to->out_len > to->out_pos) {
                put(to, scratch, (size_t)n);
                continue;
            }
            ssize_t w = write(to->fd, scratch, (size_t)n);
            if (w < n) {
                put(to, scratch + (w > 0 ? w : 0), (size_t)(n - (w > 0 ? w : 0)));
            }
        }
    } else if (c->kind == SUBSCRIBER && c->fifo) {
        for (ssize_t i = 0; i + 4 <= n; i += 4) {
            struct turn *t = &c->fifo[c->fifo_head];
            put(t->from, scratch + i, 4);
            if (!--t->packets)
                c->fifo_head++;
        }
    } else if (c->kind == SUBSCRIBER && c->publisher) {
        put(c->publisher, scratch, (size_t)n);
    } else {
        greet(c, scratch);
        if (c->kind == PUBLISHER)
            relay_out(c, (size_t)n, scratch);
    }
}

/* ---- The parsing mode ---- */

static struct filter *find_exact(const uint8_t *topic, size_t n, bool add)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++)
        h = (h ^ topic[i]) * 0x100000001b3ull;
    for (size_t i = (h ^ h >> 32) % TOPICS;; i = (i + 1) % TOPICS) {
        if (exact[i].len == n && !memcmp(exact[i].text, topic, n))
            return &exact[i];
        if (exact[i].len)
            continue;
        if (!add)
            return NULL;
        memcpy(exact[i].text, topic, n);
        exact[i].len = n;
        return &exact[i];
    }
}

static struct filter *find_prefix(const uint8_t *text, size_t n)
{
    for (size_t i = 0; i < prefix_count; i++)
        if (prefix[i].len == n && !memcmp(prefix[i].text, text, n))
            return &prefix[i];
    if (prefix_count == sizeof(prefix) / sizeof(*prefix))
        fail("too many filters");
    struct filter *f = &prefix[prefix_count++];
    memcpy(f->text, text, n);
    f->len = n;
    return f;
}

static void subscribe(struct conn *c, const uint8_t *body, size_t len)
{
    size_t n = (size_t)body[2] << 8 | body[3];
    const uint8_t *text = body + 4;
    struct filter *f;
    if (n > sizeof(f->text))
        fail("filter too long");
    if (text[n - 1] == '#') {
        f = find_prefix(text, n - 1);
    } else {
        f = find_exact(text, n, true);
    }
    if (f->count == sizeof(f->who) / sizeof(*f->who))
        fail("too many subscribers");
    f->who[f->count++] = c;
    c->filter = f;
    uint8_t ack[5] = { 0x90, 3, body[0], body[1], body[len - 1] };
    put(c, ack, sizeof(ack));
}

/* ASCII goes by eight bytes at a time; mqttload sends nothing else. */
static bool topic_ok(const uint8_t *p, size_t n)
{
    uint64_t high = 0, word;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        high |= word;
    }
    for (; i < n; i++)
        high |= p[i];
    return n && !(high & 0x8080808080808080ull);
}

static void set_bit(uint64_t *set, unsigned i, bool on)
{
    if (on)
        set[i / 64] |= 1ull << i % 64;
    else
        set[i / 64] &= ~(1ull << i % 64);
}

static void put_ack(struct conn *c, uint8_t first, const uint8_t *id)
{
    uint8_t ack[4] = { first, 2, id[0], id[1] };
    put(c, ack, sizeof(ack));
}

static void deliver(struct filter *f, const uint8_t *packet, size_t len, size_t id_at)
{
    for (size_t i = 0; i < f->count; i++) {
        struct conn *s = f->who[i];
        if (s->fd < 0)
            continue;
        put(s, packet, len);
        if (id_at) {
            if (!++s->last_id)
                s->last_id = 1;
            uint8_t *id = s->out + s->out_len - len + id_at;
            id[0] = (uint8_t)(s->last_id >> 8);
            id[1] = (uint8_t)s->last_id;
            set_bit(ids_of(s)->unacked, s->last_id, true);
        }
    }
}

static void handle(struct conn *c, const uint8_t *p, size_t fixed, size_t len)
{
    const uint8_t *body = p + fixed;
    switch (p[0] >> 4) {
    case 1:
        put(c, "\x20\x02\0", 4);
        break;
    case 3: {
        size_t n = (size_t)body[0] << 8 | body[1];
        size_t id_at = p[0] & 6 ? fixed + 2 + n : 0;
        if (!topic_ok(body + 2, n))
            fail("topic");
        if (id_at)
            put_ack(c, p[0] & 4 ? 0x50 : 0x40, p + id_at);
        if (p[0] & 4) {
            unsigned id = (unsigned)p[id_at] << 8 | p[id_at + 1];
            if (ids_of(c)->received[id / 64] >> id % 64 & 1)
                break;
            set_bit(c->ids->received, id, true);
        }
        struct filter *f = find_exact(body + 2, n, false);
        if (f)
            deliver(f, p, len, id_at);
        for (size_t i = 0; i < prefix_count; i++)
            if (n >= prefix[i].len && !memcmp(body + 2, prefix[i].text, prefix[i].len))
                deliver(&prefix[i], p, len, id_at);
        break;
    }
    case 4:
    case 7:
        set_bit(ids_of(c)->unacked, (unsigned)body[0] << 8 | body[1], false);
        break;
    case 5:
        put_ack(c, 0x62, body);
        break;
    case 6:
        set_bit(ids_of(c)->received, (unsigned)body[0] << 8 | body[1], false);
        put_ack(c, 0x70, body);
        break;
    case 8:
        subscribe(c, body, len - fixed);
        break;
    case 14:
        drop(c);
        break;
    }
}

static void readable_parsed(struct conn *c)
{
    if (c->in_len)
        memcpy(scratch, c->in, c->in_len);
    ssize_t r = read(c->fd, scratch + c->in_len, sizeof(scratch) - c->in_len);
    if (r <= 0) {
        if (r == 0 || errno != EAGAIN)
            drop(c);
        return;
    }
    size_t have = c->in_len + (size_t)r, at = 0;
    while (have - at >= 2 && c->fd >= 0) {
        size_t fixed, len;
        if (have - at < 5 && scratch[at + 1] & 128)
            break;
        len = length_of(scratch + at, &fixed);
        if (len > have - at)
            break;
        handle(c, scratch + at, fixed, len);
        at += len;
    }
    c->in_len = have - at;
    if (c->in_len) {
        c->in = realloc(c->in, c->in_len);
        memcpy(c->in, scratch + at, c->in_len);
    }
}

static void accept_all(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
        struct conn *c = calloc(1, sizeof(*c));
        if (!c)
            fail("memory");
        c->fd = fd;
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
        epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void handle_event(struct conn *c, uint32_t events)
{
    if (c->fd >= 0 && events & EPOLLOUT)
        flush(c);
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (parse_mode)
            readable_parsed(c);
        else
            readable(c);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct epoll_event ev[ROUND] = { { .events = EPOLLIN } };
    struct rlimit rl = { 20000, 20000 };
    parse_mode = argc > 2 && !strcmp(argv[2], "parse");
    a.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 18839));
    setrlimit(RLIMIT_NOFILE, &rl);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (bind(listener, (struct sockaddr *)&a, sizeof(a)) || listen(listener, 4096))
        fail("listen");
    epfd = epoll_create1(0);
    epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev[0]);
    for (;;) {
        int n = epoll_wait(epfd, ev, ROUND, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (!c)
                accept_all(listener);
            else
                handle_event(c, ev[i].events);
        }
        for (size_t i = 0; i < dirty_count; i++) {
            dirty[i]->dirty = false;
            if (dirty[i]->fd >= 0)
                flush(dirty[i]);
            else
                conn_free(dirty[i]);
        }
        dirty_count = 0;
    }
}
