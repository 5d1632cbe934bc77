/* SPDX-License-Identifier: MIT */

/* Messages from publishers to subscribers, as fast as it goes or at a rate. */

#include "mqttload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct conn **turns; /* publishers that may send now */
static size_t turn_count;

void turn_add(struct conn *c)
{
    if (!c->queued && !c->closed) {
        c->queued = true;
        turns[turn_count++] = c;
    }
}

/* How many subscribers a message of this publisher reaches. */
static uint64_t fan_of(const struct conn *c)
{
    if (opt.retain || opt.away)
        return 0;
    return opt.topology == ONE_TO_ONE ? (c->index < (uint32_t)opt.subs) : (uint64_t)opt.subs;
}

static unsigned take_id(struct conn *c)
{
    unsigned id = c->free_ids[c->id_head++ % (uint32_t)opt.window];
    c->id_free--;
    c->id_state[id] = ID_PUBLISHED;
    return id;
}

static void stamp_packet(struct conn *c, uint8_t *p, uint64_t t)
{
    if (c->id_at)
        put16(p + c->id_at, take_id(c));
    memcpy(p + c->head_len, &t, 8);
    memcpy(p + c->head_len + 8, &c->index, 4);
    memcpy(p + c->head_len + 12, &c->seq, 4);
    c->seq++;
    tally.published++;
}

/* Sends up to max messages; returns how many went out. */
static long publish(struct conn *c, long max)
{
    if (c->closed || conn_pending(c))
        return 0;
    long n = c->limit - (long)c->seq;
    if (n > max)
        n = max;
    if (c->id_at && n > (long)c->id_free)
        n = (long)c->id_free;
    uint64_t fan = fan_of(c);
    if (opt.cap && fan) {
        long room = opt.cap - (long)(tally.expected - tally.delivered);
        long fit = room > 0 ? (room + (long)fan - 1) / (long)fan : 0;
        if (n > fit)
            n = fit;
    }
    if (n <= 0)
        return 0;

    uint64_t t = now_ns();
    if (!tally.first_ns)
        tally.first_ns = t;

    if (opt.size >= LARGE_PAYLOAD) {
        n = 1;
        stamp_packet(c, c->packet, t);
        tally.expected += fan;
        conn_send(c, c->packet, c->head_len + STAMP_SIZE, (size_t)opt.size - STAMP_SIZE);
        return n;
    }
    size_t at = 0;
    long i;
    for (i = 0; i < n && at + c->packet_len <= SCRATCH_SIZE; i++) {
        if (opt.retain) {
            char topic[64];
            retain_topic(topic, sizeof(topic), (long)c->seq);
            memcpy(c->packet + (c->id_at - strlen(topic)), topic, strlen(topic));
        }
        memcpy(scratch + at, c->packet, c->packet_len);
        stamp_packet(c, scratch + at, t);
        at += c->packet_len;
    }
    tally.expected += fan * (uint64_t)i;
    conn_send(c, scratch, at, 0);
    return i;
}

void window_init(struct conn *c)
{
    c->free_ids = xalloc((size_t)opt.window * sizeof(*c->free_ids));
    c->id_state = xalloc((size_t)opt.window + 1);
    for (int k = 0; k < opt.window; k++)
        c->free_ids[k] = (uint16_t)(k + 1);
    c->id_free = (uint32_t)opt.window;
}

void turns_init(void)
{
    turns = xalloc((size_t)opt.pubs * sizeof(struct conn *));
}

static void flow_open(void)
{
    char name[64];
    pubs = xalloc((size_t)opt.pubs * sizeof(*pubs));
    subs = xalloc((size_t)opt.subs * sizeof(*subs));
    turns_init();
    for (int i = 0; i < opt.subs; i++) {
        conn_open(&subs[i], ROLE_SUBSCRIBER, (uint32_t)i, "s");
        subs[i].expect = xalloc((size_t)(opt.topology == FAN_IN ? opt.pubs : 1) * sizeof(uint32_t));
        if (opt.topology == FAN_IN)
            snprintf(name, sizeof(name), "bench/t/#");
        else
            snprintf(name, sizeof(name), "bench/t/%05d", opt.topology == FAN_OUT ? 0 : i);
        conn_subscribe(&subs[i], name, opt.sub_qos, 1);
    }
    conns_wait_subscribed(subs, (size_t)opt.subs);
    for (int i = 0; opt.away && i < opt.subs; i++)
        conn_close(&subs[i]);
    for (int i = 0; i < opt.pubs; i++) {
        struct conn *c = &pubs[i];
        conn_open(c, ROLE_PUBLISHER, (uint32_t)i, "p");
        snprintf(name, sizeof(name), "bench/t/%05d", opt.topology == FAN_OUT ? 0 : i);
        packet_publish(c, name, opt.pub_qos, false);
        window_init(c);
    }
}

static bool flow_idle(void)
{
    for (int i = 0; i < opt.pubs; i++) {
        const struct conn *c = &pubs[i];
        if (!c->closed && ((long)c->seq < c->limit || conn_pending(c) ||
                           (c->id_at && c->id_free != (uint32_t)opt.window)))
            return false;
    }
    return tally.delivered >= tally.expected;
}

/* Paced sending: message k is due at start + k / (rate * publishers). */
static void flow_paced(int timer, uint64_t start, uint64_t *sent, uint64_t total)
{
    double per_ns = opt.rate * opt.pubs / 1e9;
    uint64_t due = (uint64_t)((double)(now_ns() - start) * per_ns) + 1;
    while (*sent < due && *sent < total) {
        struct conn *c = &pubs[*sent % (uint64_t)opt.pubs];
        if (!publish(c, 1) && !c->closed)
            break;
        ++*sent;
    }
    if (*sent < total) {
        uint64_t at = start + (uint64_t)((double)*sent / per_ns);
        struct itimerspec t = { .it_value = { (time_t)(at / SECOND_NS), (long)(at % SECOND_NS) } };
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
    }
}

/* Each publisher that may send now does, up to `burst` messages; who may go on is queued anew. */
static void turns_take(long burst)
{
    size_t n = turn_count;
    turn_count = 0;
    for (size_t i = 0; i < n; i++) { /* rebuilt in place */
        struct conn *c = turns[i];
        c->queued = false;
        long room = opt.cap ? opt.cap - (long)(tally.expected - tally.delivered) : 1;
        if (room > 0)
            publish(c, burst);
        bool blocked = conn_pending(c) || (c->id_at && !c->id_free);
        if (!blocked && (long)c->seq < c->limit)
            turn_add(c);
    }
}

static void turns_clear(void)
{
    turn_count = 0;
    for (int i = 0; i < opt.pubs; i++)
        pubs[i].queued = false;
}

/* How long there has been no progress. Only time in which we ran counts, not a stopped machine. */
struct quiet {
    uint64_t ns, before, seen;
};

/* Returns whether anything has happened since the last call. */
static bool quiet_update(struct quiet *quiet, uint64_t now)
{
    uint64_t step = now - quiet->before;
    quiet->before = now;
    if (step > tally.stall_ns)
        tally.stall_ns = step;
    quiet->ns += step < SECOND_NS / 5 ? step : SECOND_NS / 5;
    uint64_t progress = tally.delivered + tally.published + tally.acked;
    if (progress == quiet->seen)
        return false;
    quiet->seen = progress;
    quiet->ns = 0;
    return true;
}

static int timer_new(void)
{
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event ev = { .events = EPOLLIN | EPOLLET };
    if (timer < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, timer, &ev))
        die("timer: %s", strerror(errno));
    return timer;
}

void flow_run(long count, double seconds)
{
    uint64_t start = now_ns(), stop = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : 0;
    uint64_t sent = 0;
    uint64_t total = (uint64_t)(stop ? (long)(seconds * opt.rate) : count) * (uint64_t)opt.pubs;
    struct quiet quiet = { .before = start, .seen = UINT64_MAX };
    int timer = opt.rate > 0 ? timer_new() : -1;

    for (int i = 0; i < opt.pubs; i++) {
        pubs[i].limit = (long)pubs[i].seq + (stop ? 2000000000 : count);
        if (timer < 0)
            turn_add(&pubs[i]);
    }
    for (;;) {
        bool capped = opt.cap && tally.expected - tally.delivered >= (uint64_t)opt.cap;
        bool may_wait = capped || (timer >= 0 ? sent > 0 : !turn_count);
        dispatch(may_wait ? 100 : 0);
        uint64_t now = now_ns();
        if (stop && now >= stop) {
            for (int i = 0; i < opt.pubs; i++)
                pubs[i].limit = (long)pubs[i].seq;
            stop = 0;
        }
        if (timer >= 0) {
            turns_clear();
            flow_paced(timer, start, &sent, total);
        } else {
            turns_take(opt.burst ? opt.burst : 1000000);
        }
        if (quiet_update(&quiet, now) && tally.delivered < tally.expected)
            continue;
        if ((!stop && flow_idle()) || quiet.ns > QUIET_NS)
            break;
    }
    if (timer >= 0)
        close(timer);
}

static const char *topology_name(void)
{
    return opt.topology == ONE_TO_ONE ? "1:1" : opt.topology == FAN_IN ? "fan-in" : "fan-out";
}

void run_flow(void)
{
    flow_open();
    if (opt.warmup) {
        double rate = opt.rate;
        opt.rate = 0;
        flow_run(opt.warmup, 0);
        opt.rate = rate;
        if (tally.delivered != tally.expected)
            fprintf(stderr, "mqttload: warm-up lost messages\n");
    }
    memset(&tally, 0, sizeof(tally));
    latency_reset();
    meter_reset_peak();
    struct meter a = meter_read();
    flow_run(opt.count, opt.duration);
    struct meter b = meter_read();

    double secs =
        tally.last_ns > tally.first_ns ? (double)(tally.last_ns - tally.first_ns) / 1e9 : 0;
    uint64_t lost = tally.expected > tally.delivered ? tally.expected - tally.delivered : 0;
    printf(
        "{\"label\":\"%s\",\"mode\":\"flow\",\"topics\":\"%s\",\"mqtt\":%d,\"pubs\":%d,\"subs\":%d"
        ",\"pub_qos\":%d,\"sub_qos\":%d,\"size\":%d,\"window\":%d,\"cap\":%ld,\"burst\":%d,"
        "\"poll_us\":%d",
        opt.label, topology_name(), opt.v5 ? 5 : 4, opt.pubs, opt.subs, opt.pub_qos, opt.sub_qos,
        opt.size, opt.window, opt.cap, opt.burst, opt.poll_us);
    printf(",\"published\":%" PRIu64 ",\"expected\":%" PRIu64 ",\"delivered\":%" PRIu64
           ",\"lost\":%" PRIu64 ",\"gaps\":%" PRIu64 ",\"late_or_dup\":%" PRIu64
           ",\"unacknowledged\":%" PRIu64 ",\"protocol_errors\":%" PRIu64 ",\"closed\":%" PRIu64
           ",\"own_stall_ms\":%.1f",
           tally.published, tally.expected, tally.delivered, lost, tally.lost, tally.duplicate,
           opt.pub_qos ? tally.published - tally.acked : 0, tally.protocol_errors, tally.closed,
           (double)tally.stall_ns / 1e6);
    printf(",\"duration_s\":%.4f,\"published_per_s\":%.0f,\"delivered_per_s\":%.0f,"
           "\"delivered_mib_s\":%.2f",
           secs, secs > 0 ? (double)tally.published / secs : 0,
           secs > 0 ? (double)tally.delivered / secs : 0,
           secs > 0 ? (double)tally.bytes / secs / 1048576.0 : 0);
    latency_print();
    meter_print(&a, &b, secs, (double)(opt.away ? tally.acked : tally.delivered));
    printf("}\n");
    for (int i = 0; i < opt.pubs; i++)
        conn_close(&pubs[i]);
    for (int i = 0; !opt.away && i < opt.subs; i++)
        conn_close(&subs[i]);
}
