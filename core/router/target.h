/* SPDX-License-Identifier: MIT */

/*
 * A target as the engine sees it: what it is called, what it wants of a message, and the formats of its
 * own that are rendered for each delivery. Made by the delivery side, never changed afterwards.
 */

#ifndef TOCSIN_ROUTER_TARGET_H
#define TOCSIN_ROUTER_TARGET_H

#include "router/format.h"

#include <stddef.h>

struct target_format {
    struct format *format; /* NULL: the option is not set */
    enum format_clean clean;
};

struct target {
    const char *service;
    const char *name;
    unsigned wants; /* enum tocsin_wants */
    const struct target_format *formats;
    size_t format_count;
    void *owner; /* the delivery side's own */
};

#endif
