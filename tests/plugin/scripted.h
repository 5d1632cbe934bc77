/* SPDX-License-Identifier: MIT */

/*
 * A plugin that does what a test says: it calls the test's own functions. The test finds the hooks by
 * dlsym() in the same shared object that the router has loaded.
 */

#ifndef TOCSIN_TESTS_SCRIPTED_H
#define TOCSIN_TESTS_SCRIPTED_H

#include "tocsin/plugin.h"

struct scripted_service {
    int64_t mood;
    const char *link;
    const char *forbidden; /* check() does not like it */
};

struct scripted_target {
    const char *word;
    struct tocsin_format path;
    const char *forbidden; /* check_target() does not like it */
};

struct scripted_hooks {
    int (*open)(const struct tocsin_host *host, const struct scripted_service *service);
    void (*send)(const struct tocsin_host *host, struct tocsin_delivery *const *deliveries,
                 size_t n);
    void (*reopen)(const struct tocsin_host *host);
    void (*close)(const struct tocsin_host *host);
};

#endif
