/* SPDX-License-Identifier: MIT */

/* What a delivery costs behind the engine, in ns of CPU: being made, going through the queue, and becoming a
 * line of a file. Best of five, since other programs take their share. */

#include "delivery/services.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DELIVERIES 200000
#define LIST       64 /* deliveries that are submitted together */

static double cpu_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static struct delivery *make_list(struct target *target, const char *path, int first)
{
    struct delivery *list = NULL, **at = &list;
    for (int i = first; i < first + LIST; i++) {
        char topic[40];
        int len = snprintf(topic, sizeof(topic), "sensors/room%d/climate", i % 1000);
        struct message *m = message_new(topic, (size_t)len, "{\"celsius\":21.5}", 16, NULL);
        m->link = "bench";
        m->qos = 1;
        struct delivery *d =
            delivery_new(&(struct delivery_parts){ .target = target,
                                                   .message = m,
                                                   .route = "climate",
                                                   .text = "1234567 21.5 in the living room",
                                                   .text_len = 31,
                                                   .rendered = &path });
        message_release_hold(m);
        message_unref(m);
        *at = d;
        at = &d->next;
    }
    return list;
}

struct cost {
    double made, submitted, written;
};

static int run(const char *path, struct cost *best)
{
    struct buf text = BUF_INIT(4096);
    buf_addf(&text,
             "services = { file = { plugin = \"file\"; queue = { max_bytes = \"1GiB\"; "
             "max_messages = 1000000; }; targets = { out = { path = \"%s\"; }; }; }; };",
             path);
    struct conf *conf;
    struct conf_errors errors = CONF_ERRORS_INIT;
    const struct services_host host = { .plugin_dir = "build/release/plugins", .node = "bench" };
    struct services *services = NULL;
    int rc = conf_load_text("bench", buf_str(&text), &conf, &errors);
    if (rc == 0)
        rc = services_new(conf, &host, NULL, &services, &errors);
    if (rc == 0)
        rc = services_start(services);
    if (rc < 0) {
        fprintf(stderr, "%s\n", buf_str(&errors.text));
        return rc;
    }
    struct target *target = services_target(services, "file", 4, "out", 3);
    struct cost cost = { 0 };
    double begin = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < DELIVERIES; i += LIST) {
        double before = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
        struct delivery *list = make_list(target, path, i);
        double made = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
        services_submit(list);
        cost.made += made - before;
        cost.submitted += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - made;
    }
    size_t undone = services_free(services, 60 * 1000);
    cost.written = cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - begin - cost.made - cost.submitted;
    if (best->made == 0 ||
        cost.made + cost.submitted + cost.written < best->made + best->submitted + best->written)
        *best = cost;
    conf_unref(conf);
    buf_release(&text);
    conf_errors_release(&errors);
    unlink(path);
    return undone > 0 ? -1 : 0;
}

int main(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/tocsin-bench-%ld", (long)getpid());
    struct cost best = { 0 };
    for (int turn = 0; turn < 5; turn++)
        if (run(path, &best) < 0)
            return 1;
    printf("message and delivery made %.0f\n", best.made / DELIVERIES);
    printf("submitted, in lists of %d %.0f\n", LIST, best.submitted / DELIVERIES);
    printf("taken, written to a file, settled %.0f\n", best.written / DELIVERIES);
    return 0;
}
