/* SPDX-License-Identifier: MIT */

/*
 * What the parts of the load generator share. One thread, one epoll; every function here is called from that
 * thread, and the program ends with a message at the first thing it cannot cope with (die()).
 *
 *   packet.c      packets to bytes
 *   connection.c  sockets: connect, send, receive and parse, wait
 *   flow.c        messages from publishers to subscribers
 *   memory.c      what idle connections, subscriptions and retained messages occupy
 *   connects.c    connections a second; the speed of the machine itself
 *   meter.c       CPU and memory of the broker; latencies
 */

#ifndef MQTTLOAD_H
#define MQTTLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRATCH_SIZE  (64 * 1024)  /* bytes encoded at most before one send() */
#define RECV_SIZE     (256 * 1024) /* bytes asked of one recv() */
#define CARRY_MAX     512          /* longest packet head kept between reads */
#define LARGE_PAYLOAD (16 * 1024)  /* from here on payloads are not copied */
#define STAMP_SIZE    16           /* u64 time, u32 publisher, u32 sequence */
#define MAX_EVENTS    512
#define SECOND_NS     1000000000ull
#define QUIET_NS      (3 * SECOND_NS) /* no progress for so long: give up */

enum packet_type {
    P_CONNECT = 1,
    P_CONNACK,
    P_PUBLISH,
    P_PUBACK,
    P_PUBREC,
    P_PUBREL,
    P_PUBCOMP,
    P_SUBSCRIBE,
    P_SUBACK,
    P_DISCONNECT = 14
};
enum topology {
    ONE_TO_ONE,
    FAN_IN,
    FAN_OUT
};
enum role {
    ROLE_PUBLISHER,
    ROLE_SUBSCRIBER
};
enum id_state {
    ID_FREE,
    ID_PUBLISHED,
    ID_RELEASED
};

/* The command line, as usage() in mqttload.c explains it. */
struct load_options {
    const char *host, *label, *ids;
    int port, pid;
    enum topology topology;
    int pubs, subs, pub_qos, sub_qos, size, window, burst;
    long count, warmup, cap;
    double duration, rate, hold;
    int conns, filters;
    long retain, connects;
    int parallel, poll_us;
    bool v5, touch, gauge, persistent, away;
};
extern struct load_options opt;

/* A PUBLISH whose payload has not all arrived yet. */
struct incoming {
    uint64_t sent_ns;
    uint32_t pub, seq;
    uint16_t id;
    uint8_t qos;
    bool retain, stamped;
};

struct conn {
    int fd;
    enum role role;
    uint32_t index; /* among the connections of its role */
    bool subscribed, closed;
    bool out_armed; /* EPOLLOUT is asked for */
    bool queued;    /* publisher is in the turn queue */

    uint8_t *out; /* bytes the socket did not take yet */
    size_t out_pos, out_len, out_cap;
    size_t tail_left; /* then so many bytes of zero_payload */

    uint8_t carry[CARRY_MAX]; /* head of a packet cut by a read */
    size_t carry_len;
    uint64_t skip; /* payload bytes still to come */
    struct incoming in;

    uint8_t *packet; /* publisher: the packet, ready to patch */
    size_t head_len; /* all before the payload */
    size_t packet_len;
    size_t id_at;       /* where in the head the packet id is */
    uint32_t seq;       /* publisher: messages sent */
    long limit;         /* publisher: messages to send */
    uint16_t *free_ids; /* publisher: ring of unused packet ids */
    uint32_t id_head, id_free;
    uint8_t *id_state;

    uint32_t *expect; /* subscriber: next sequence a publisher */
};

/* What this run has counted. */
struct tally {
    uint64_t published, expected, delivered, bytes;
    uint64_t lost, duplicate, retained, acked;
    uint64_t first_ns, last_ns;
    uint64_t protocol_errors, closed;
    uint64_t stall_ns; /* longest time this program did not run */
};
extern struct tally tally;

extern int epfd;
extern struct conn *pubs, *subs;
extern uint8_t *scratch, *recv_buf, *payload_tail;

/* ---- basics (meter.c) ---------------------------------------------------------------------- */

/* Says what is wrong and ends the program. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Zeroed memory; never NULL. */
void *xalloc(size_t n);

/* The monotonic clock. */
uint64_t now_ns(void);

/* CPU time of this process, user and system. */
uint64_t own_cpu_ns(void);

/* ---- latencies and meters (meter.c) -------------------------------------------------------- */

void latency_add(uint64_t ns);
void latency_reset(void);

/* Prints the quantiles as members of the JSON object being printed. */
void latency_print(void);

struct meter {
    uint64_t cpu_ns;      /* whole process, ended threads included, from its CPU clock */
    double user_s, sys_s; /* the same in ticks, from /proc/PID/stat */
    long rss_kb, anon_kb, peak_kb, threads;
    uint64_t own_ns; /* the load generator itself */
    long slab_kb;    /* kernel memory of the whole machine */
};

struct meter meter_read(void);

/* Starts the peak (VmHWM) anew, where the kernel lets us. */
void meter_reset_peak(void);

/* Prints what lies between two readings; `ops` deliveries, connections or whatever this run counts. */
void meter_print(const struct meter *a, const struct meter *b, double secs, double ops);

/* ---- packets (packet.c) -------------------------------------------------------------------- */

/* Each builds into `p`, which has room for 512 bytes, and returns the length. */
size_t packet_connect(uint8_t *p, const char *id);
size_t packet_subscribe(uint8_t *p, unsigned id, const char *filter, int qos);

/* The publisher's packet with id and stamp still to be patched in. */
void packet_publish(struct conn *c, const char *topic, int qos, bool retain);

/* Bytes of the variable length number at `p`, 0 if more bytes are needed. */
size_t packet_remaining(const uint8_t *p, size_t have, uint32_t *value);

static inline void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

/* ---- connections (connection.c) ------------------------------------------------------------ */

/* Connects, waits for CONNACK and leaves the socket non-blocking in the epoll. */
void conn_open(struct conn *c, enum role role, uint32_t index, const char *name);

/* DISCONNECT, close. */
void conn_close(struct conn *c);

/* Sends bytes, then `tail` bytes of payload; keeps what the socket does not take. */
void conn_send(struct conn *c, const uint8_t *p, size_t n, size_t tail);

static inline bool conn_pending(const struct conn *c)
{
    return c->out_len || c->tail_left;
}

/* Sends a SUBSCRIBE; conns_wait_subscribed() waits for the answers to all of `n` connections. */
void conn_subscribe(struct conn *c, const char *filter, int qos, unsigned id);
void conns_wait_subscribed(struct conn *list, size_t n);

/* Waits for input and output of all connections, at most so long, and handles it. */
void dispatch(int timeout_ms);

/* dispatch() for as long as --hold says. */
void settle(void);

struct sockaddr_in;
struct sockaddr_in broker_address(void);

/* ---- runs ---------------------------------------------------------------------------------- */

void turn_add(struct conn *c); /* publisher may send at the next turn (flow.c) */

/* Every publisher sends count messages, or sends for so many seconds (flow.c). */
void flow_run(long count, double seconds);

/* A publisher's window: `opt.window` packet ids, all free (flow.c). */
void window_init(struct conn *c);

/* Makes room for the publishers' turns (flow.c). */
void turns_init(void);

/* Retained messages each go to a topic of their own (memory.c). */
void retain_topic(char *buf, size_t n, long i);

void run_flow(void);
void run_idle(void);
void run_retain(void);
void run_connects(void);
void run_gauge(void);

#endif
