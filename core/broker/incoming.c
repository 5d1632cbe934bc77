/* SPDX-License-Identifier: MIT */

/* What clients publish, and what they acknowledge. The worker's thread. */

#include "base/utf8.h"
#include "broker/access.h"
#include "broker/aliases.h"
#include "broker/client.h"
#include "broker/deliver.h"
#include "broker/durable.h"
#include "broker/receipt.h"
#include "broker/tap.h"

#include <stdlib.h>
#include <string.h>

/* ---- PUBLISH ---- */

/* Answers a message that is not taken. Clients before 5.0 cannot be told: for them it is taken and forgotten
 * [MQTT-3.3.5-2 of 3.1.1]. With QoS 0 there is no answer but DISCONNECT, which a wrong payload format gets
 * [MQTT 5.0, 3.3.2.3.2]; the other reasons are the broker's own, and not worth the connection. */
static void reject(struct client *c, const struct mqtt_publish *in, enum mqtt_reason reason)
{
    COUNT(c->worker, publish_dropped, 1);
    if (in->qos == 0) {
        if (reason == MQTT_PAYLOAD_FORMAT_INVALID)
            client_refuse(c, reason, NULL);
        return;
    }
    if (in->qos == 2 && c->level == MQTT_5_0)
        ids_remove(&c->session->received, in->packet_id);
    receipt_acknowledge(c, NULL, in->qos, in->packet_id, reason);
}

/* Finds the topic of a Topic Alias, or learns it. */
static bool resolve_alias(struct client *c, struct mqtt_publish *in)
{
    if (!mqtt_properties_have(&in->properties, MQTT_PROPERTY_TOPIC_ALIAS))
        return true;
    uint32_t alias = mqtt_properties_number(&in->properties, MQTT_PROPERTY_TOPIC_ALIAS, 0);
    if (alias > (uint64_t)c->listener->max_topic_alias) {
        client_refuse(c, MQTT_TOPIC_ALIAS_INVALID, "above the Topic Alias Maximum");
        return false;
    }
    if (in->topic.len > 0) {
        if (aliases_learn(&c->aliases, (uint16_t)alias, in->topic.data, in->topic.len) == 0)
            return true;
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return false;
    }
    in->topic.data = aliases_topic(c->aliases, (uint16_t)alias, &in->topic.len);
    if (!in->topic.data)
        client_refuse(c, MQTT_PROTOCOL_ERROR, "a topic alias that was not set");
    return in->topic.data != NULL;
}

static size_t topic_levels(const char *topic, size_t len)
{
    size_t levels = 1;
    for (const char *at = topic; (at = memchr(at, '/', len - (size_t)(at - topic))); at++)
        levels++;
    return levels;
}

/* What is not allowed at all, and ends the connection. */
static bool is_allowed(struct client *c, const struct mqtt_publish *in)
{
    const struct broker_settings *settings = c->worker->settings;
    if (in->qos > c->listener->max_qos)
        client_refuse(c, MQTT_QOS_NOT_SUPPORTED, "above max_qos");
    else if (in->retain && !settings->retain_available)
        client_refuse(c, MQTT_RETAIN_NOT_SUPPORTED, "retain_available is false");
    else
        return true;
    return false;
}

/* Why a message that may be sent is not taken; MQTT_SUCCESS if it is. */
static enum mqtt_reason judge(struct client *c, const struct mqtt_publish *in)
{
    const struct broker_settings *settings = c->worker->settings;
    int64_t limit = settings->message_size_limit.bytes;
    if (in->topic.len > (size_t)settings->max_topic_levels &&
        topic_levels(in->topic.data, in->topic.len) > (size_t)settings->max_topic_levels)
        return MQTT_TOPIC_NAME_INVALID;
    if (!access_publish(c->session, in->topic.data, in->topic.len))
        return MQTT_NOT_AUTHORIZED;
    if (limit > 0 && in->payload.len > (size_t)limit)
        return MQTT_QUOTA_EXCEEDED; /* PUBACK cannot say that it is too large [MQTT-3.4.2-1] */
    if (mqtt_properties_number(&in->properties, MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR, 0) == 1 &&
        !utf8_valid((const char *)in->payload.data, in->payload.len))
        return MQTT_PAYLOAD_FORMAT_INVALID;
    return MQTT_SUCCESS;
}

/* QoS 2 identifiers that this connection has received and not released: what earlier ones have left does not count
 * against its quota [MQTT 5.0, 4.9]. */
static uint32_t own_ids(const struct client *c)
{
    uint32_t all = ids_count(c->session->received);
    return all > c->inherited ? all - c->inherited : 0;
}

/* Whether a message of QoS 1 or 2 is to be published: not if it has come before, or is one too many. */
static bool is_new(struct client *c, const struct mqtt_publish *in)
{
    struct session *session = c->session;
    if (in->qos == 2) {
        int rc = ids_add(&session->received, in->packet_id);
        if (rc < 0) {
            client_end(c, MQTT_SERVER_BUSY, "out of memory");
            return false;
        }
        if (rc == 0) { /* [MQTT-4.3.3-10] */
            if (!receipt_is_waiting(c, in->packet_id))
                receipt_acknowledge(c, NULL, 2, in->packet_id, MQTT_SUCCESS);
            return false;
        }
    }
    if (c->level == MQTT_5_0 &&
        own_ids(c) + c->receipts > (uint64_t)c->worker->settings->receive_maximum) {
        if (in->qos == 2) /* it comes again, and is new then */
            ids_remove(&session->received, in->packet_id);
        client_refuse(c, MQTT_RECEIVE_MAXIMUM_EXCEEDED, NULL);
        return false;
    }
    return true;
}

/* Puts the mount point before the topic, in the worker's scratch or in memory to be freed. */
static bool mount(struct client *c, struct publish *publish, char **memory)
{
    size_t len = c->listener->mount_len + publish->topic_len;
    char *topic = (char *)c->worker->scratch;
    if (len > 65535) {
        client_refuse(c, MQTT_TOPIC_NAME_INVALID, "too long with the mount point");
        return false;
    }
    if (len > sizeof(c->worker->scratch) && !(topic = *memory = malloc(len))) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return false;
    }
    memcpy(topic, c->listener->mount_point, c->listener->mount_len);
    memcpy(topic + c->listener->mount_len, publish->topic, publish->topic_len);
    publish->topic = topic;
    publish->topic_len = len;
    return true;
}

/* The properties that are carried on, in one piece: as they lie, if nothing is to be left out. */
static bool carry(struct client *c, const struct mqtt_publish *in, struct publish *publish,
                  uint8_t **memory)
{
    publish->properties = in->properties.raw.data;
    publish->properties_len = in->properties.carried_len;
    if (in->properties.carried_len == 0 || in->properties.carried_len == in->properties.raw.len)
        return true;
    *memory = malloc(in->properties.carried_len);
    if (!*memory) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return false;
    }
    mqtt_properties_carry(&in->properties, *memory);
    publish->properties = *memory;
    return true;
}

/* A long packet was read into a block that can be kept as it lies, without a copy. */
static void adopt_block(struct worker *worker, struct publish *publish)
{
    struct publication *block = worker->block;
    uint8_t *base = (uint8_t *)block;
    if (publish->topic_len + publish->properties_len > publish->payload_len / 2)
        return;
    uint32_t payload_at = (uint32_t)(publish->payload - base);
    uint32_t own = (uint32_t)(publish->topic_len + publish->properties_len);
    /* Topic and properties go right before the payload; they may lie elsewhere, or overlap with that. */
    if (payload_at < sizeof(*block) + own)
        return;
    char small[512];
    if (own > sizeof(small))
        return;
    memcpy(small, publish->topic, publish->topic_len);
    if (publish->properties_len)
        memcpy(small + publish->topic_len, publish->properties, publish->properties_len);
    memcpy(base + payload_at - own, small, own);
    *block = (struct publication){
        .expires = publish->expires,
        .topic_at = payload_at - own,
        .topic_len = (uint16_t)publish->topic_len,
        .properties_at = payload_at - (uint32_t)publish->properties_len,
        .properties_len = (uint32_t)publish->properties_len,
        .payload_at = payload_at,
        .payload_len = (uint32_t)publish->payload_len,
        .qos = publish->qos,
        .retain = publish->retain,
    };
    atomic_init(&block->refs, 1);
    publish->topic = publication_topic(block);
    publish->properties = publication_properties(block);
    publish->kept = block;
    worker->block = NULL;
}

static void take(struct client *c, const struct mqtt_publish *in, struct publish *publish)
{
    struct worker *worker = c->worker;
    if (worker->block)
        adopt_block(worker, publish);
    if (publish->retain) /* first, so that who subscribes meanwhile finds it or is routed to */
        route_retain(worker, publish);
    size_t receivers = route(worker, publish);
    if (publish->failed) { /* not acknowledged: it comes again */
        if (in->qos == 2)
            ids_remove(&c->session->received, in->packet_id);
        if (publish->receipt)
            receipt_done(publish->receipt, true);
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
    } else if (in->qos > 0) {
        bool nobody = receivers == 0 && c->level == MQTT_5_0;
        if (in->qos == 2 && publish->receipt)
            receipt_add_id(publish->receipt, in->packet_id, publish->elsewhere);
        receipt_acknowledge(c, publish->receipt, in->qos, in->packet_id,
                            nobody ? MQTT_NO_MATCHING_SUBSCRIBERS : MQTT_SUCCESS);
    }
    if (publish->crowded)
        worker_pause(worker, c);
    publish_release(publish, NULL);
}

void on_publish(struct client *c, uint8_t first, const uint8_t *body, size_t len)
{
    struct worker *worker = c->worker;
    struct mqtt_publish in;
    enum mqtt_reason reason = mqtt_read_publish(first, body, len, c->level, MQTT_FROM_CLIENT, &in);
    if (reason != MQTT_SUCCESS) {
        client_refuse(c, reason, NULL);
        return;
    }
    COUNT(worker, publish_received, 1);
    COUNT(worker, publish_bytes_received, in.payload.len);
    if ((in.properties.present && !resolve_alias(c, &in)) || !is_allowed(c, &in) ||
        (in.qos > 0 && !is_new(c, &in)))
        return;
    reason = judge(c, &in);
    if (reason != MQTT_SUCCESS) {
        reject(c, &in, reason);
        return;
    }

    struct publish publish = {
        .topic = in.topic.data,
        .topic_len = in.topic.len,
        .payload = in.payload.data,
        .payload_len = in.payload.len,
        .qos = in.qos,
        .retain = in.retain,
        .dup = in.dup,
        .packet_id = in.packet_id,
        .from = c->session,
        .wants_receipt = in.qos > 0,
    };
    if (mqtt_properties_have(&in.properties, MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL))
        publish.expires = expires_after(
            worker->second,
            mqtt_properties_number(&in.properties, MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL, 0));
    uint8_t *properties = NULL;
    char *topic = NULL;
    if ((!in.properties.present || carry(c, &in, &publish, &properties)) &&
        (c->listener->mount_len == 0 || mount(c, &publish, &topic)))
        take(c, &in, &publish);
    else if (in.qos == 2) /* the connection ends: it comes again, and is new then */
        ids_remove(&c->session->received, in.packet_id);
    if (topic || properties) { /* seldom; and this is called for every message */
        free(topic);
        free(properties);
    }
}

/* ---- Acknowledgements ---- */

static void on_release(struct client *c, uint16_t packet_id)
{
    bool known = ids_remove(&c->session->received, packet_id);
    if (ids_count(c->session->received) < c->inherited)
        c->inherited = (uint16_t)ids_count(c->session->received);
    enum mqtt_reason reason = known ? MQTT_SUCCESS : MQTT_PACKET_IDENTIFIER_NOT_FOUND;
    if (!durable_id_released(c, packet_id, reason))
        client_acknowledge(c, MQTT_PUBCOMP, packet_id, reason);
}

void on_ack(struct client *c, enum mqtt_type type, const uint8_t *body, size_t len)
{
    struct mqtt_ack in;
    enum mqtt_reason reason = mqtt_read_ack(type, body, len, c->level, &in);
    if (reason != MQTT_SUCCESS) {
        client_refuse(c, reason, NULL);
        return;
    }
    if (type == MQTT_PUBREL) {
        on_release(c, in.packet_id);
        return;
    }

    struct flow *flow = c->session->flow;
    struct flow_item *item = flow ? flow_flight(flow, in.packet_id) : NULL;
    if (item && (item->unsent || (item->held && item->state == FLIGHT_PUBLISHED_2)))
        item =
            NULL; /* of an earlier connection, or not sent at all: not what this one has been sent */
    if (!item) {
        if (type == MQTT_PUBREC && in.reason < 0x80) /* [MQTT-4.3.3-4 of 5.0] */
            client_acknowledge(c, MQTT_PUBREL, in.packet_id, MQTT_PACKET_IDENTIFIER_NOT_FOUND);
        return;
    }
    if (type == MQTT_PUBACK && item->state == FLIGHT_PUBLISHED_1) {
        flow_land(flow, item);
    } else if (type == MQTT_PUBREC && item->state == FLIGHT_PUBLISHED_2) {
        if (in.reason >= 0x80) { /* [MQTT-4.3.3-4 of 5.0] */
            flow_land(flow, item);
        } else {
            flow_received(flow, item);
            item->held = item->kept && session_is_durable(c->session) &&
                         durable_received(c->worker, c->session, item->kept, in.packet_id);
            if (!item->held)
                client_acknowledge(c, MQTT_PUBREL, in.packet_id, MQTT_SUCCESS);
        }
    } else if (type == MQTT_PUBREC && item->state == FLIGHT_RELEASED) {
        if (!item->held)
            client_acknowledge(c, MQTT_PUBREL, in.packet_id, MQTT_SUCCESS);
    } else if (type == MQTT_PUBCOMP && item->state == FLIGHT_RELEASED) {
        flow_land(flow, item);
    } else {
        client_refuse(c, MQTT_PROTOCOL_ERROR, "an acknowledgement of another QoS");
        return;
    }
    if (flow->queued > 0 || flow->unsent > 0 || flow->spilled > 0)
        deliver_waiting(c);
}
