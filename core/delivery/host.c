/* SPDX-License-Identifier: MIT */

/* What the router offers a plugin. Any thread. */

#include "delivery/service.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void host_log(const struct tocsin_host *host, enum tocsin_level level, const char *format,
                     ...) __attribute__((format(printf, 3, 4)));
static void host_log(const struct tocsin_host *host, enum tocsin_level level, const char *format,
                     ...)
{
    va_list args;
    va_start(args, format);
    log_vline(level, host->service, format, args);
    va_end(args);
}

static void host_fail(struct tocsin_delivery *delivery, enum tocsin_verdict verdict, int error,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
static void host_fail(struct tocsin_delivery *delivery, enum tocsin_verdict verdict, int error,
                      const char *format, ...)
{
    delivery->verdict = verdict;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(delivery->reason, sizeof(delivery->reason), format, args);
    va_end(args);
    size_t room = sizeof(delivery->reason);
    size_t len = n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1;
    if (error < 0) {
        char text[80];
        snprintf(delivery->reason + len, room - len, "%s%s", len > 0 ? ": " : "",
                 strerror_r(-error, text, sizeof(text)));
    } else if (len == 0) {
        snprintf(delivery->reason, room, "no reason given");
    }
}

static void host_publish(const struct tocsin_host *host, const char *link,
                         struct tocsin_publication *const *publications, size_t n,
                         int64_t timeout_ms)
{
    const struct instance_host *instance = (const struct instance_host *)host;
    const struct services_host *outside = instance->outside;
    if (!atomic_load(&instance->cut_off) && outside->publish) {
        outside->publish(outside->context, link, publications, n, timeout_ms);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        publications[i]->error = -EAGAIN;
        publications[i]->reason_code = 0;
    }
}

void instance_host_init(struct instance_host *host, const char *service,
                        const struct services_host *outside)
{
    *host = (struct instance_host){
        .host = {
            .struct_size = sizeof(struct tocsin_host),
            .service = service,
            .log = host_log,
            .fail = host_fail,
            .publish = host_publish,
        },
        .outside = outside,
    };
    atomic_init(&host->cut_off, false);
}

void instance_prepare(struct tocsin_delivery *out, const struct delivery *delivery)
{
    const struct service_target *target = service_target_of(delivery);
    out->message = &delivery->view;
    out->target = target->config;
    out->target_name = target->target.name;
    out->rendered = delivery->rendered;
    out->attempt = delivery->attempts + 1;
    out->verdict = TOCSIN_RETRY;
    out->retry_after_ms = 0;
    out->park_ms = 0;
    out->reason[0] = '\0';
    out->receipt[0] = '\0';
}
