/* SPDX-License-Identifier: MIT */

/* The first worker's thread. */

#include "broker/sys.h"

#include "broker/routing.h"
#include "broker/worker.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPIC_ROOM 96

enum unit {
    NUMBER,
    LOAD, /* per minute, as averages over 1, 5 and 15 minutes */
};

/* What there is: `PREFIX/1min` and so on for loads. */
static const struct entry {
    const char *topic;
    size_t offset; /* in struct broker_stats */
    enum unit unit;
} entries[] = {
#define AT(FIELD) offsetof(struct broker_stats, FIELD)
    { "clients/connected", AT(clients_connected), NUMBER },
    { "clients/total", AT(clients_total), NUMBER },
    { "clients/maximum", AT(clients_maximum), NUMBER },
    { "clients/expired", AT(clients_expired), NUMBER },
    { "messages/received", AT(messages_received), NUMBER },
    { "messages/sent", AT(messages_sent), NUMBER },
    { "messages/stored", AT(stored), NUMBER },
    { "store/messages/count", AT(stored), NUMBER },
    { "store/messages/bytes", AT(stored_bytes), NUMBER },
    { "publish/messages/received", AT(publish_received), NUMBER },
    { "publish/messages/sent", AT(publish_sent), NUMBER },
    { "publish/messages/dropped", AT(publish_dropped), NUMBER },
    { "publish/bytes/received", AT(publish_bytes_received), NUMBER },
    { "publish/bytes/sent", AT(publish_bytes_sent), NUMBER },
    { "bytes/received", AT(bytes_received), NUMBER },
    { "bytes/sent", AT(bytes_sent), NUMBER },
    { "subscriptions/count", AT(subscriptions), NUMBER },
    { "shared_subscriptions/count", AT(shared_subscriptions), NUMBER },
    { "retained messages/count", AT(retained), NUMBER },
    { "connections/refused", AT(connections_refused), NUMBER },
    { "packets/refused", AT(packets_refused), NUMBER },
    { "load/messages/received", AT(messages_received), LOAD },
    { "load/messages/sent", AT(messages_sent), LOAD },
    { "load/publish/received", AT(publish_received), LOAD },
    { "load/publish/sent", AT(publish_sent), LOAD },
    { "load/publish/dropped", AT(publish_dropped), LOAD },
    { "load/bytes/received", AT(bytes_received), LOAD },
    { "load/bytes/sent", AT(bytes_sent), LOAD },
    { "load/connections", AT(connections), LOAD },
#undef AT
};

#define ENTRIES (sizeof(entries) / sizeof(entries[0]))

static const struct span {
    const char *name;
    double minutes;
} spans[] = { { "1min", 1 }, { "5min", 5 }, { "15min", 15 } };

#define SPANS (sizeof(spans) / sizeof(spans[0]))

struct sys {
    int64_t next_ms, last_ms;
    bool begun;
    uint64_t last[ENTRIES];         /* the counter at the last time, */
    uint64_t told[ENTRIES];         /* and what was published of it */
    double average[ENTRIES][SPANS]; /* per minute */
    char told_average[ENTRIES][SPANS][24];
};

static void publish(struct worker *worker, const char *topic, const char *text)
{
    char whole[TOPIC_ROOM + 16];
    int len = snprintf(whole, sizeof(whole), "$SYS/broker/%s", topic);
    struct publish p = {
        .topic = whole,
        .topic_len = (size_t)len,
        .payload = (const uint8_t *)text,
        .payload_len = strlen(text),
        .retain = true,
    };
    route(worker, &p);
    route_retain(worker, &p);
    publish_release(&p, NULL);
}

static uint64_t value_of(const struct broker_stats *stats, const struct entry *entry)
{
    return *(const uint64_t *)(const void *)((const char *)stats + entry->offset);
}

static void publish_number(struct worker *worker, struct sys *sys, size_t i, uint64_t value)
{
    if (sys->begun && sys->told[i] == value)
        return;
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, value);
    publish(worker, entries[i].topic, text);
    sys->told[i] = value;
}

/* An average that forgets exponentially, as load averages do. */
static void publish_load(struct worker *worker, struct sys *sys, size_t i, uint64_t value,
                         double minutes)
{
    double rate = minutes > 0 ? (double)(value - sys->last[i]) / minutes : 0;
    sys->last[i] = value;
    for (size_t s = 0; s < SPANS; s++) {
        double keep = exp(-minutes / spans[s].minutes);
        sys->average[i][s] = rate + keep * (sys->average[i][s] - rate);
        char text[24], topic[TOPIC_ROOM];
        snprintf(text, sizeof(text), "%.2f", sys->average[i][s]);
        if (sys->begun && strcmp(text, sys->told_average[i][s]) == 0)
            continue;
        memcpy(sys->told_average[i][s], text, sizeof(text));
        snprintf(topic, sizeof(topic), "%s/%s", entries[i].topic, spans[s].name);
        publish(worker, topic, text);
    }
}

void sys_publish(struct worker *worker)
{
    int64_t interval = worker->settings->sys_interval.ms, now = loop_now_ms(&worker->loop);
    if (interval <= 0 || worker->stopping)
        return;
    if (!worker->sys && !(worker->sys = calloc(1, sizeof(*worker->sys))))
        return;
    struct sys *sys = worker->sys;
    if (now < sys->next_ms)
        return;
    sys->next_ms = now + interval;
    double minutes = sys->begun ? (double)(now - sys->last_ms) / 60000 : 0;
    sys->last_ms = now;

    struct broker_stats stats;
    broker_stats(worker->broker, &stats);
    if (!sys->begun)
        publish(worker, "version", "tocsin version " TOCSIN_VERSION);
    char uptime[40];
    snprintf(uptime, sizeof(uptime), "%" PRIu32 " seconds", worker->second - 1);
    publish(worker, "uptime", uptime);
    for (size_t i = 0; i < ENTRIES; i++) {
        uint64_t value = value_of(&stats, &entries[i]);
        if (entries[i].unit == NUMBER)
            publish_number(worker, sys, i, value);
        else
            publish_load(worker, sys, i, value, minutes);
    }
    char away[24];
    snprintf(away, sizeof(away), "%" PRIu64, stats.clients_total - stats.clients_connected);
    publish(worker, "clients/disconnected", away);
    sys->begun = true;
}

void sys_free(struct sys *sys)
{
    free(sys);
}
