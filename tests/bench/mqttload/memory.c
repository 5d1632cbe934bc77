/* SPDX-License-Identifier: MIT */

/* What idle connections, subscriptions and retained messages occupy. */

#include "mqttload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void retain_topic(char *buf, size_t n, long i)
{
    snprintf(buf, n, "bench/r/%03ld/%07ld", i % 100, i);
}

/* --conns N [--touch] [--filters M]: what a connection and a subscription cost. */
void run_idle(void)
{
    size_t n = (size_t)opt.conns;
    char name[64];
    subs = xalloc(n * sizeof(*subs));
    settle();
    struct meter a = meter_read();
    for (size_t i = 0; i < n; i++)
        conn_open(&subs[i], ROLE_SUBSCRIBER, (uint32_t)i, "i");
    settle();
    struct meter b = meter_read();

    for (int f = 0; f < opt.filters; f++) {
        for (size_t i = 0; i < n; i++) {
            snprintf(name, sizeof(name), "bench/c/%05zu/%05d", i, f);
            conn_subscribe(&subs[i], name, 1, (unsigned)f + 1);
        }
        conns_wait_subscribed(subs, n);
    }
    settle();
    struct meter c = meter_read();

    if (opt.touch) { /* each sends one message to itself */
        for (size_t i = 0; i < n; i++) {
            snprintf(name, sizeof(name), "bench/c/%05zu/me", i);
            conn_subscribe(&subs[i], name, 1, 65000);
            conns_wait_subscribed(&subs[i], 1);
            packet_publish(&subs[i], name, 0, false);
            memset(subs[i].packet + subs[i].head_len, 0, STAMP_SIZE);
            conn_send(&subs[i], subs[i].packet, subs[i].packet_len, 0);
            uint64_t end = now_ns() + QUIET_NS;
            while (tally.delivered <= i && now_ns() < end)
                dispatch(10);
        }
    }
    settle();
    struct meter d = meter_read();

    double per_conn = 1024.0 * (double)(b.rss_kb - a.rss_kb) / (double)n;
    double filters = (double)n * opt.filters;
    printf(
        "{\"label\":\"%s\",\"mode\":\"idle\",\"conns\":%d,\"filters_each\":%d,\"closed\":%" PRIu64
        ",\"rss_start_kb\":%ld,\"rss_connected_kb\":%ld,\"rss_subscribed_kb\":%ld"
        ",\"rss_touched_kb\":%ld,\"bytes_per_conn\":%.0f,\"bytes_per_filter\":%.0f"
        ",\"bytes_per_touched_conn\":%.0f,\"touch_delivered\":%" PRIu64
        ",\"slab_kb_per_conn\":%.2f",
        opt.label, opt.conns, opt.filters, tally.closed, a.rss_kb, b.rss_kb, c.rss_kb, d.rss_kb,
        per_conn, filters > 0 ? 1024.0 * (double)(c.rss_kb - b.rss_kb) / filters : 0,
        1024.0 * (double)(d.rss_kb - a.rss_kb) / (double)n, tally.delivered,
        (double)(b.slab_kb - a.slab_kb) / (double)n);
    meter_print(&a, &b, 0, (double)n);
    printf("}\n");
    for (size_t i = 0; i < n; i++)
        conn_close(&subs[i]);
}

/* --retain N: N retained messages stored, then read back with one filter. */
void run_retain(void)
{
    char name[64];
    opt.pubs = opt.subs = 1;
    opt.pub_qos = 1;
    opt.topology = FAN_OUT;
    pubs = xalloc(sizeof(*pubs));
    subs = xalloc(sizeof(*subs));
    turns_init();
    conn_open(pubs, ROLE_PUBLISHER, 0, "p");
    retain_topic(name, sizeof(name), 0);
    packet_publish(pubs, name, 1, true);
    window_init(pubs);
    settle();

    struct meter a = meter_read();
    uint64_t t0 = now_ns();
    flow_run(opt.retain, 0);
    double store_s = (double)(now_ns() - t0) / 1e9;
    settle();
    struct meter b = meter_read();

    opt.pubs = 0;
    conn_open(subs, ROLE_SUBSCRIBER, 0, "s");
    t0 = now_ns();
    conn_subscribe(subs, "bench/r/#", opt.sub_qos, 1);
    uint64_t quiet = t0, seen = 0;
    while (tally.retained < (uint64_t)opt.retain && now_ns() - quiet < QUIET_NS) {
        dispatch(50);
        if (tally.retained != seen) {
            seen = tally.retained;
            quiet = now_ns();
        }
    }
    double read_s = tally.last_ns > t0 ? (double)(tally.last_ns - t0) / 1e9 : 0;
    struct meter c = meter_read();
    printf("{\"label\":\"%s\",\"mode\":\"retain\",\"retained\":%ld,\"size\":%d,\"acked\":%" PRIu64
           ",\"read_back\":%" PRIu64 ",\"bytes_per_retained\":%.0f,\"store_per_s\":%.0f"
           ",\"read_back_per_s\":%.0f,\"read_back_cpu_us_each\":%.3f,\"rss_read_back_kb\":%ld",
           opt.label, opt.retain, opt.size, tally.acked, tally.retained,
           1024.0 * (double)(b.rss_kb - a.rss_kb) / (double)opt.retain,
           (double)opt.retain / store_s, read_s > 0 ? (double)tally.retained / read_s : 0,
           tally.retained ? (double)(c.cpu_ns - b.cpu_ns) / 1e3 / (double)tally.retained : 0,
           c.rss_kb);
    meter_print(&a, &b, store_s, (double)opt.retain);
    printf("}\n");
    conn_close(pubs);
    conn_close(subs);
}
