/* SPDX-License-Identifier: MIT */

/*
 * The program's own log: lines on standard error. Any thread.
 *
 * Fixed words first, values after: log_info("link up name=%s host=%s", ...). Bytes from outside may
 * be logged: control characters are written as \xNN, so no message can forge a line. Under systemd
 * (JOURNAL_STREAM is set) each line starts with its priority, <3> to <7>; else with the time.
 * When nobody reads standard error and it is full, lines are lost after a second, and counted.
 */

#ifndef TOCSIN_BASE_LOG_H
#define TOCSIN_BASE_LOG_H

#include "tocsin/plugin.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

/* Lines less important than `level` are dropped. The default is TOCSIN_LOG_INFO. */
void log_set_level(enum tocsin_level level);
bool log_enabled(enum tocsin_level level);

/* Chooses the form: true for systemd priorities, false for the time. By default the environment
 * decides. */
void log_set_systemd(bool on);

void log_line(enum tocsin_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void log_vline(enum tocsin_level level, const char *prefix, const char *format, va_list args);

#define log_error(...)   log_line(TOCSIN_LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(TOCSIN_LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(TOCSIN_LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(TOCSIN_LOG_DEBUG, __VA_ARGS__)

/*
 * A trouble that lasts is logged when it begins, then ever more rarely (after 10 s, 20 s, ... at most
 * once an hour), then once when it is over. Zero it to begin. It belongs to one thread, or to whoever
 * holds its lock.
 */
struct log_trouble {
    int64_t next_ms;     /* when the next line is due */
    int64_t interval_ms; /* 0 while there is no trouble */
    uint64_t held_back;  /* lines not logged since the last one */
};

/* Says whether to log the trouble now, `now_ms` being any clock that does not jump back. */
bool log_trouble_due(struct log_trouble *trouble, int64_t now_ms);

/* The trouble is over. Returns whether there was one, so that its end can be logged. */
bool log_trouble_over(struct log_trouble *trouble);

#endif
