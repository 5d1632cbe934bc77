/* SPDX-License-Identifier: MIT */

/* A plugin with an option that lies outside its struct. */

#include "tocsin/plugin.h"

struct config {
    bool on;
};

static const struct tocsin_option options[] = {
    { .name = "on", .type = TOCSIN_OPT_BOOL, .offset = sizeof(struct config), .help = "On." },
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
    .name = "badtable",
    .summary = "for a test",
    .service_options = options,
    .service_size = sizeof(struct config),
    .open = no_open,
    .send = no_send,
    .close = no_close,
};
