/* SPDX-License-Identifier: MIT */

/* What reading and writing packets costs: lines "name ns". One thread. */

#include "mqtt/packet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 1000000

static uint64_t sink; /* keeps the compiler from leaving work out */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

struct packet {
    uint8_t data[256];
    size_t len;
    enum mqtt_level level;
};

static void read_publish(const struct packet *p)
{
    size_t header, remaining;
    struct mqtt_publish publish;
    if (mqtt_packet_length(p->data, p->len, &header, &remaining) != 1 ||
        mqtt_read_publish(p->data[0], p->data + header, remaining, p->level, MQTT_FROM_CLIENT,
                          &publish) != MQTT_SUCCESS)
        abort();
    sink += publish.topic.len + publish.payload.len;
}

static void read_ack(const struct packet *p)
{
    size_t header, remaining;
    struct mqtt_ack ack;
    if (mqtt_packet_length(p->data, p->len, &header, &remaining) != 1 ||
        mqtt_read_ack(MQTT_PUBACK, p->data + header, remaining, p->level, &ack) != MQTT_SUCCESS)
        abort();
    sink += ack.packet_id;
}

static void write_head(const struct packet *p)
{
    uint8_t out[256];
    size_t at;
    const struct mqtt_publish_head head = { .topic = { "site/17/room/4/celsius", 22 },
                                            .payload_len = 64,
                                            .packet_id = (uint16_t)sink,
                                            .qos = 1 };
    sink += mqtt_write_publish_head(out, sizeof(out), p->level, &head, &at) + out[at];
}

/* The best of a few runs: the others were disturbed. */
static void measure(const char *name, void (*run)(const struct packet *), const struct packet *p)
{
    double best = 1e300;
    for (int attempt = 0; attempt < 5; attempt++) {
        double start = now_ns();
        for (int i = 0; i < ROUNDS; i++)
            run(p);
        double ns = (now_ns() - start) / ROUNDS;
        best = ns < best ? ns : best;
    }
    printf("%s %.1f\n", name, best);
}

static struct packet publish_of(enum mqtt_level level, const char *topic, struct mqtt_slice carried)
{
    struct packet p = { .level = level };
    const struct mqtt_publish_head head = { .topic = { topic, strlen(topic) },
                                            .payload_len = 64,
                                            .packet_id = 1,
                                            .qos = 1,
                                            .carried = carried };
    p.len = mqtt_write_publish_head(p.data, sizeof(p.data), level, &head, NULL) + 64;
    return p;
}

int main(void)
{
    const struct mqtt_slice none = { NULL, 0 };
    uint8_t memory[100];
    struct mqtt_property_writer w = { .data = memory, .room = sizeof(memory) };
    mqtt_property_add_number(&w, MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR, 1);
    mqtt_property_add_string(&w, MQTT_PROPERTY_CONTENT_TYPE,
                             (struct mqtt_string){ "application/json", 16 });
    mqtt_property_add_user(&w, (struct mqtt_string){ "source", 6 },
                           (struct mqtt_string){ "sensor-17", 9 });

    struct packet p = publish_of(MQTT_3_1_1, "site/17/room/4/celsius", none);
    measure("publish-read", read_publish, &p);
    p = publish_of(MQTT_5_0, "site/17/room/4/celsius", none);
    measure("publish-read-5", read_publish, &p);
    p = publish_of(MQTT_5_0, "site/17/room/4/celsius", mqtt_property_written(&w));
    measure("publish-read-properties", read_publish, &p);
    p = publish_of(MQTT_3_1_1, "stätte/17/raum/4/°c", none);
    measure("publish-read-utf8", read_publish, &p);
    p = publish_of(MQTT_5_0, "t", none);
    measure("publish-head-write", write_head, &p);
    p = (struct packet){ .len = MQTT_ACK_LENGTH, .level = MQTT_5_0 };
    mqtt_write_ack_short(p.data, MQTT_PUBACK, 7);
    measure("ack-read", read_ack, &p);
    return sink == 0;
}
