/* SPDX-License-Identifier: MIT */

#include "scripted.h"

#include <errno.h>
#include <stdlib.h>

extern __attribute__((visibility("default"))) struct scripted_hooks scripted_hooks;
struct scripted_hooks scripted_hooks;

struct scripted {
    const struct tocsin_host *host;
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct scripted_service, mood, .def = "7", .min = 0, .max = 10, .help = "Mood."),
    TOCSIN_OPTION(struct scripted_service, link, .flags = TOCSIN_OPTION_LINK, .help = "Link."),
    TOCSIN_OPTION(struct scripted_service, forbidden, .help = "Not allowed."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct scripted_target, word, .def = "none", .help = "Word."),
    TOCSIN_OPTION(struct scripted_target, path, .flags = TOCSIN_CLEAN_PATH, .help = "Path."),
    TOCSIN_OPTION(struct scripted_target, forbidden, .help = "Not allowed."),
    { .name = NULL },
};

static const char *scripted_check(const void *service)
{
    return ((const struct scripted_service *)service)->forbidden ? "leave forbidden out" : NULL;
}

static const char *scripted_check_target(const void *service, const void *target)
{
    (void)service;
    return ((const struct scripted_target *)target)->forbidden ? "leave the target's out" : NULL;
}

static int scripted_open(const struct tocsin_host *host, const void *service, void **self)
{
    int rc = scripted_hooks.open ? scripted_hooks.open(host, service) : 0;
    if (rc < 0)
        return rc;
    struct scripted *scripted = malloc(sizeof(*scripted));
    if (!scripted)
        return -ENOMEM;
    scripted->host = host;
    *self = scripted;
    return 0;
}

static void scripted_send(void *self, struct tocsin_delivery *const *deliveries, size_t n)
{
    scripted_hooks.send(((struct scripted *)self)->host, deliveries, n);
}

static void scripted_reopen(void *self)
{
    if (scripted_hooks.reopen)
        scripted_hooks.reopen(((struct scripted *)self)->host);
}

static void scripted_close(void *self)
{
    if (scripted_hooks.close)
        scripted_hooks.close(((struct scripted *)self)->host);
    free(self);
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "scripted",
    .summary = "does what a test says",
    .service_options = service_options,
    .service_size = sizeof(struct scripted_service),
    .target_options = target_options,
    .target_size = sizeof(struct scripted_target),
    .max_batch = 8,
    .check = scripted_check,
    .check_target = scripted_check_target,
    .open = scripted_open,
    .send = scripted_send,
    .reopen = scripted_reopen,
    .close = scripted_close,
};
