/* SPDX-License-Identifier: MIT */

/* The two clocks. Any thread. The engine reads neither: it is given the time. */

#ifndef TOCSIN_BASE_CLOCK_H
#define TOCSIN_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Milliseconds since 1970-01-01 UTC; may jump. For what people see. */
static inline int64_t clock_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds since some moment; never jumps. For waiting. */
static inline int64_t clock_mono_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#endif
