/* SPDX-License-Identifier: MIT */

/*
 * How often to log what strangers can cause as often as they like, such as packets that break the
 * protocol: the first few lines of a period at once, the rest of it as a number. One struct for each kind of
 * trouble; zero it to begin. It belongs to one thread. For our own troubles, which begin and end, there is
 * struct log_trouble.
 *
 *     if (log_rate_due(&rate, now_ms))
 *         log_warning("broker: bad packet client=%s: %s", ...);
 *     ...
 *     if ((held_back = log_rate_rest(&rate, now_ms)) > 0)    // now and then, from a timer
 *         log_warning("broker: %" PRIu64 " more bad packets in the last minute", held_back);
 */

#ifndef TOCSIN_BASE_LOG_RATE_H
#define TOCSIN_BASE_LOG_RATE_H

#include <stdbool.h>
#include <stdint.h>

#define LOG_RATE_LINES     5           /* of a period */
#define LOG_RATE_PERIOD_MS (60 * 1000) /* begins with its first line */

struct log_rate {
    int64_t until_ms; /* the end of the period */
    uint64_t held_back;
    uint32_t lines; /* logged in this period; 0: no period has begun */
};

/* Counts one, and says whether to log it, `now_ms` being any clock that does not jump back. */
bool log_rate_due(struct log_rate *rate, int64_t now_ms);

/*
 * How many were held back in the period that is over by now, once; 0 while it lasts, or if there were
 * none. A period's number that nobody asked for in time is added to that of the next.
 */
uint64_t log_rate_rest(struct log_rate *rate, int64_t now_ms);

#endif
