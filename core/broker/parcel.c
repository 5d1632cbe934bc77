/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/parcel.h"

#include "broker/receipt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHORT 1024 /* bytes of topic, properties and payload */
#define PARCEL_FIRST \
    (2 * 1024) /* room in the first one of a turn, which may have to take one message only, */
#define PARCEL_MORE (32 * 1024) /* and in the others */

/* A message in a parcel: this, then topic, properties and payload. */
struct item {
    struct receipt *receipt; /* waits for this worker too; NULL */
    uint32_t expires;
    uint16_t topic_len, properties_len, payload_len;
    uint8_t qos;
    bool retain;
};

static size_t item_size(const struct publish *p)
{
    return sizeof(struct item) + p->topic_len + p->properties_len + p->payload_len;
}

bool parcel_suits(const struct publish *p)
{
    return !p->kept && p->payload_len <= SHORT && p->topic_len + p->properties_len <= SHORT &&
           item_size(p) <= SHORT;
}

static struct letter_parcel *begin(struct worker *worker, unsigned to)
{
    uint32_t size = mailbag_is_empty(&worker->bags[to]) ? PARCEL_FIRST : PARCEL_MORE;
    struct letter_parcel *parcel = malloc(sizeof(*parcel) + size);
    if (!parcel)
        return NULL;
    parcel->letter.kind = LETTER_PARCEL;
    parcel->len = 0;
    parcel->size = size;
    worker_write(worker, to, &parcel->letter, parcel_size(parcel));
    return worker->parcels[to] = parcel;
}

int parcel_add(struct worker *worker, unsigned to, struct publish *p)
{
    struct letter_parcel *parcel = worker->parcels[to];
    if ((!parcel || parcel->size - parcel->len < item_size(p)) && !(parcel = begin(worker, to)))
        return -ENOMEM;

    const struct item item = {
        .receipt = publish_share_receipt(worker, p),
        .expires = p->expires,
        .topic_len = (uint16_t)p->topic_len,
        .properties_len = (uint16_t)p->properties_len,
        .payload_len = (uint16_t)p->payload_len,
        .qos = p->qos,
        .retain = p->retain,
    };
    uint8_t *at = parcel->data + parcel->len;
    memcpy(at, &item, sizeof(item));
    at += sizeof(item);
    memcpy(at, p->topic, p->topic_len);
    at += p->topic_len;
    if (p->properties_len)
        memcpy(at, p->properties, p->properties_len);
    at += p->properties_len;
    if (p->payload_len)
        memcpy(at, p->payload, p->payload_len);
    parcel->len += (uint32_t)item_size(p);
    return 0;
}

void parcel_read(struct worker *worker, struct letter_parcel *parcel)
{
    const uint8_t *at = parcel->data, *end = at + parcel->len;
    while (at < end) {
        struct item item;
        memcpy(&item, at, sizeof(item));
        at += sizeof(item);
        struct publish publish = {
            .topic = (const char *)at,
            .topic_len = item.topic_len,
            .properties = at + item.topic_len,
            .properties_len = item.properties_len,
            .payload = at + item.topic_len + item.properties_len,
            .payload_len = item.payload_len,
            .expires = item.expires,
            .qos = item.qos,
            .retain = item.retain,
            .receipt = item.receipt,
            .wants_receipt = item.receipt != NULL,
        };
        at = publish.payload + publish.payload_len;
        route_here(worker, &publish);
        if (publish.failed)
            COUNT(worker, publish_dropped, 1);
        if (item.receipt)
            receipt_done(item.receipt, publish.failed);
        publish_release(&publish, NULL);
    }
    free(parcel);
}

void parcel_discard(struct letter_parcel *parcel)
{
    const uint8_t *at = parcel->data, *end = at + parcel->len;
    while (at < end) {
        struct item item;
        memcpy(&item, at, sizeof(item));
        at += sizeof(item) + item.topic_len + item.properties_len + item.payload_len;
        if (item.receipt)
            receipt_done(item.receipt, true);
    }
    free(parcel);
}
