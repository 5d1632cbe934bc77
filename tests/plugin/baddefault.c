/* SPDX-License-Identifier: MIT */

/* A plugin with a default that its option could not have in a file. */

#include "tocsin/plugin.h"

struct config {
    int64_t port;
};

static const struct tocsin_option options[] = {
    TOCSIN_OPTION(struct config, port, .def = "70000", .min = 1, .max = 65535, .help = "Port."),
    { .name = NULL },
};

static int no_open(const struct tocsin_host *host, const void *service, void **self)
{
    (void)host;
    (void)service;
    *self = NULL;
    return 0;
}

static void no_send(void *self, struct tocsin_delivery *const *deliveries, size_t n)
{
    (void)self;
    (void)deliveries;
    (void)n;
}

static void no_close(void *self)
{
    (void)self;
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "baddefault",
    .summary = "for a test",
    .service_options = options,
    .service_size = sizeof(struct config),
    .open = no_open,
    .send = no_send,
    .close = no_close,
};
