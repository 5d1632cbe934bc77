/* SPDX-License-Identifier: MIT */

/*
 * What a message costs in the engine alone, stage by stage: no socket, no thread, no file. Each row runs the
 * same messages through one more stage, so the difference of two rows is what a stage costs.
 * Prints lines "name nanoseconds".
 */

#include "router/engine.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES 300000

static const char payload[] =
    "{\"device\": \"arduino-17\", \"room\": \"server-room\", \"celsius\": 31.25, \"humidity\": "
    "41.5, "
    "\"battery\": {\"volt\": 3.71, \"low\": false}, \"uptime\": 8162233, \"rssi\": -61, "
    "\"firmware\": \"2.4.1\", \"tags\": [\"rack\", \"a\", 3]}";

static struct target target = { .service = "file", .name = "out" };

static struct target *find(void *context, const char *service, size_t len, const char *name,
                           size_t name_len)
{
    (void)context, (void)service, (void)len, (void)name, (void)name_len;
    return &target;
}

static struct target *target_at(void *context, const char *service, size_t len, size_t index)
{
    (void)context, (void)service, (void)len;
    return index == 0 ? &target : NULL;
}

static const char *service_at(void *context, size_t index)
{
    (void)context;
    return index == 0 ? "file" : NULL;
}

static struct engine *engine_of(const char *route, size_t others)
{
    static const char *const links[] = { "bench", NULL };
    const struct target_finder finder = { find, target_at, service_at, NULL };
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf = NULL;
    struct routes *routes = NULL;
    struct buf text = BUF_INIT(64 * 1024 * 1024);
    buf_addf(&text, "routes = ( %s", route);
    for (size_t i = 0; i < others; i++)
        buf_addf(&text, ", { topic = \"sensors/{room}/other%zu/+\"; when = \"value > 3\"; }", i);
    buf_add_str(&text, " );");
    if (conf_load_text("bench", buf_str(&text), &conf, &errors) < 0 ||
        routes_new(conf, &finder, links, &routes, &errors) < 0) {
        fputs(buf_str(&errors.text), stderr);
        exit(1);
    }
    conf_unref(conf);
    buf_release(&text);
    conf_errors_release(&errors);
    return engine_new(routes);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void measure(const char *name, const char *route, size_t others)
{
    struct engine *engine = engine_of(route, others);
    static const char topic[] = "sensors/server-room/climate";
    struct message *m = message_new(topic, strlen(topic), payload, strlen(payload), NULL);
    m->link = "bench";
    m->received_ms = clock_wall_ms();
    int64_t start = 0;
    for (size_t i = 0; i < MESSAGES + MESSAGES / 10; i++) {
        if (i == MESSAGES / 10)
            start = now_ns(); /* the first tenth warms up */
        struct delivery *d = engine_message(engine, m, NULL);
        while (d) {
            struct delivery *next = d->next;
            delivery_free(d);
            d = next;
        }
    }
    printf("%-44s %7.0f\n", name, (double)(now_ns() - start) / MESSAGES);
    message_unref(m);
    engine_free(engine);
}

int main(void)
{
#define TOPIC   "{ topic = \"sensors/{room}/climate\"; "
#define WHEN    "when = \"celsius > 30\"; "
#define FORMAT  "format = \"{celsius:.1f} in {room} at {battery.volt:.2f} V\"; "
#define TARGETS "targets = \"file:out\"; }"
    measure("match", TOPIC "}", 0);
    measure("match, 10,000 other routes", TOPIC "}", 10000);
    measure("match, decode", TOPIC "decode = \"json\"; }", 0);
    measure("match, decode, when", TOPIC "decode = \"json\"; " WHEN "}", 0);
    measure("match, decode, when, format", TOPIC "decode = \"json\"; " WHEN FORMAT "}", 0);
    measure("match, decode, when, format, dispatch",
            TOPIC "decode = \"json\"; " WHEN FORMAT TARGETS, 0);
    measure("the same, 10 other routes", TOPIC "decode = \"json\"; " WHEN FORMAT TARGETS, 10);
    measure("the same, 10,000 other routes", TOPIC "decode = \"json\"; " WHEN FORMAT TARGETS,
            10000);
    return 0;
}
