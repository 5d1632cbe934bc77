/* SPDX-License-Identifier: MIT */

/* CPU and memory of the broker, latencies, and the small basics. */

#include "mqttload.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "mqttload: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    exit(1);
}

void *xalloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    if (!p)
        die("out of memory");
    return p;
}

uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

uint64_t own_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* Log-linear: 64 steps an octave, so a quantile is right to 1.6 %. */
#define LAT_SUB   64
#define LAT_SLOTS (60 * LAT_SUB)
static uint64_t lat_slot[LAT_SLOTS], lat_n, lat_max;

static size_t lat_index(uint64_t ns)
{
    if (ns < LAT_SUB)
        return (size_t)ns;
    int shift = 63 - __builtin_clzll(ns) - 6;
    return (size_t)(shift + 1) * LAT_SUB + ((ns >> shift) - LAT_SUB);
}

static double lat_value_us(size_t i)
{
    if (i < LAT_SUB)
        return (double)i / 1e3;
    size_t shift = i / LAT_SUB - 1;
    return (double)((LAT_SUB + i % LAT_SUB) << shift) / 1e3;
}

void latency_add(uint64_t ns)
{
    size_t i = lat_index(ns);
    lat_slot[i < LAT_SLOTS ? i : LAT_SLOTS - 1]++;
    lat_n++;
    if (ns > lat_max)
        lat_max = ns;
}

static double lat_quantile_us(double q)
{
    uint64_t want = (uint64_t)(q * (double)lat_n), seen = 0;
    for (size_t i = 0; i < LAT_SLOTS; i++)
        if ((seen += lat_slot[i]) > want)
            return lat_value_us(i);
    return (double)lat_max / 1e3;
}

void latency_reset(void)
{
    memset(lat_slot, 0, sizeof(lat_slot));
    lat_n = lat_max = 0;
}

void latency_print(void)
{
    printf(",\"lat_p50_us\":%.1f,\"lat_p95_us\":%.1f,\"lat_p99_us\":%.1f,\"lat_max_us\":%.1f",
           lat_quantile_us(.50), lat_quantile_us(.95), lat_quantile_us(.99), (double)lat_max / 1e3);
}

static long proc_field(const char *path, const char *name)
{
    char line[256];
    long v = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    size_t n = strlen(name);
    while (fgets(line, sizeof(line), f))
        if (!strncmp(line, name, n) && line[n] == ':') {
            v = strtol(line + n + 1, NULL, 10);
            break;
        }
    fclose(f);
    return v;
}

struct meter meter_read(void)
{
    struct meter m = { 0 };
    struct timespec ts;
    m.own_ns = own_cpu_ns();
    m.slab_kb = proc_field("/proc/meminfo", "Slab");
    if (!opt.pid)
        return m;

    clockid_t clk;
    if (clock_getcpuclockid(opt.pid, &clk) || clock_gettime(clk, &ts))
        die("no CPU clock of process %d", opt.pid);
    m.cpu_ns = (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;

    char path[64], line[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", opt.pid);
    FILE *f = fopen(path, "r");
    if (f && fgets(line, sizeof(line), f)) {
        char *p = strrchr(line, ')');
        unsigned long u, s;
        if (p &&
            sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) == 2) {
            m.user_s = (double)u / (double)sysconf(_SC_CLK_TCK);
            m.sys_s = (double)s / (double)sysconf(_SC_CLK_TCK);
        }
    }
    if (f)
        fclose(f);
    snprintf(path, sizeof(path), "/proc/%d/status", opt.pid);
    m.rss_kb = proc_field(path, "VmRSS");
    m.anon_kb = proc_field(path, "RssAnon");
    m.peak_kb = proc_field(path, "VmHWM");
    m.threads = proc_field(path, "Threads");
    return m;
}

void meter_reset_peak(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/clear_refs", opt.pid);
    int fd = opt.pid ? open(path, O_WRONLY) : -1;
    if (fd >= 0) {
        if (write(fd, "5", 1) < 0)
            fprintf(stderr, "mqttload: peak RSS not reset\n");
        close(fd);
    }
}

void meter_print(const struct meter *a, const struct meter *b, double secs, double ops)
{
    if (opt.pid) {
        double cpu_us = (double)(b->cpu_ns - a->cpu_ns) / 1e3;
        double u = b->user_s - a->user_s, s = b->sys_s - a->sys_s;
        printf(",\"broker_cpu_us_per_op\":%.4f,\"broker_cpu_s\":%.4f,\"broker_sys_share\":%.3f"
               ",\"broker_cores_used\":%.3f,\"broker_threads\":%ld",
               ops > 0 ? cpu_us / ops : 0, cpu_us / 1e6, u + s > 0 ? s / (u + s) : 0,
               secs > 0 ? cpu_us / 1e6 / secs : 0, b->threads);
        printf(",\"rss_before_kb\":%ld,\"rss_after_kb\":%ld,\"rss_peak_kb\":%ld"
               ",\"anon_before_kb\":%ld,\"anon_after_kb\":%ld",
               a->rss_kb, b->rss_kb, b->peak_kb, a->anon_kb, b->anon_kb);
    }
    printf(",\"loadgen_cpu_us_per_op\":%.4f",
           ops > 0 ? (double)(b->own_ns - a->own_ns) / 1e3 / ops : 0);
}
