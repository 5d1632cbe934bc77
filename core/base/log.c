/* SPDX-License-Identifier: MIT */

#include "base/log.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES    2048
#define STUCK_MS          1000 /* how long a line waits for whoever reads the log */
#define FIRST_INTERVAL_MS (10 * 1000)
#define LAST_INTERVAL_MS  (60 * 60 * 1000)

static _Atomic enum tocsin_level threshold = TOCSIN_LOG_INFO;

/* -1: ask the environment at the first line. */
static atomic_int systemd = -1;

void log_set_level(enum tocsin_level level)
{
    threshold = level;
}

bool log_enabled(enum tocsin_level level)
{
    return level <= threshold;
}

void log_set_systemd(bool on)
{
    systemd = on;
}

static bool under_systemd(void)
{
    if (systemd < 0)
        systemd = getenv("JOURNAL_STREAM") != NULL;
    return systemd != 0;
}

static size_t put_head(char *line, enum tocsin_level level)
{
    static const struct {
        const char *word;
        int priority; /* syslog's */
    } levels[] = {
        [TOCSIN_LOG_ERROR] = { "error", 3 },
        [TOCSIN_LOG_WARNING] = { "warning", 4 },
        [TOCSIN_LOG_INFO] = { "info", 6 },
        [TOCSIN_LOG_DEBUG] = { "debug", 7 },
    };
    if (under_systemd())
        return (size_t)snprintf(line, LINE_MAX_BYTES, "<%d>", levels[level].priority);

    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm tm;
    localtime_r(&now.tv_sec, &tm);
    return (size_t)snprintf(line, LINE_MAX_BYTES,
                            "%04d-%02d-%02d %02d:%02d:%02d.%03ld %s: ", tm.tm_year + 1900,
                            tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                            now.tv_nsec / 1000000, levels[level].word);
}

/* Appends `text` with control characters made visible, as far as there is room. */
static size_t put_clean(char *line, size_t len, const char *text)
{
    for (; *text && len + 6 < LINE_MAX_BYTES; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < ' ' || c == 0x7F)
            len += (size_t)snprintf(line + len, 5, "\\x%02x", c);
        else
            line[len++] = (char)c;
    }
    return len;
}

static pthread_mutex_t output_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t lost; /* lines since the last one that got through; under the lock */

/* Two lines are shorter than what a pipe that polls as writable takes without waiting. */
static bool is_writable(int wait_ms)
{
    struct pollfd output = { .fd = STDERR_FILENO, .events = POLLOUT };
    return poll(&output, 1, wait_ms) != 0;
}

static void write_lost(void)
{
    char line[LINE_MAX_BYTES];
    size_t len = put_head(line, TOCSIN_LOG_WARNING);
    len += (size_t)snprintf(line + len, sizeof(line) - len,
                            "%" PRIu64 " lines of the log were lost: nobody read them\n", lost);
    if (write(STDERR_FILENO, line, len) > 0)
        lost = 0;
}

/*
 * One write, so that lines of several threads do not mix. Nobody is left to tell if it fails. A reader that
 * has come to a halt must not stop the router: the first line waits a while for it, then lines are lost.
 */
static void write_line(const char *line, size_t len)
{
    pthread_mutex_lock(&output_lock);
    bool writable = is_writable(lost == 0 ? STUCK_MS : 0);
    if (writable && lost > 0)
        write_lost();
    if (!writable || lost > 0) {
        lost++;
    } else {
        ssize_t written = write(STDERR_FILENO, line, len);
        (void)written;
    }
    pthread_mutex_unlock(&output_lock);
}

void log_vline(enum tocsin_level level, const char *prefix, const char *format, va_list args)
{
    if (!log_enabled(level))
        return;
    char text[LINE_MAX_BYTES];
    vsnprintf(text, sizeof(text), format, args);

    char line[LINE_MAX_BYTES];
    size_t len = put_head(line, level);
    if (prefix) {
        len = put_clean(line, len, prefix);
        len = put_clean(line, len, ": ");
    }
    len = put_clean(line, len, text);
    line[len++] = '\n';
    write_line(line, len);
}

void log_line(enum tocsin_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_vline(level, NULL, format, args);
    va_end(args);
}

bool log_trouble_due(struct log_trouble *trouble, int64_t now_ms)
{
    if (trouble->interval_ms > 0 && now_ms < trouble->next_ms) {
        trouble->held_back++;
        return false;
    }
    int64_t next = trouble->interval_ms * 2;
    if (next < FIRST_INTERVAL_MS)
        next = FIRST_INTERVAL_MS;
    if (next > LAST_INTERVAL_MS)
        next = LAST_INTERVAL_MS;
    trouble->interval_ms = next;
    trouble->next_ms = now_ms + next;
    trouble->held_back = 0;
    return true;
}

bool log_trouble_over(struct log_trouble *trouble)
{
    bool was = trouble->interval_ms > 0;
    *trouble = (struct log_trouble){ 0 };
    return was;
}
