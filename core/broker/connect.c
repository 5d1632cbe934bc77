/* SPDX-License-Identifier: MIT */

/* CONNECT: who the client is, which session is its, and what it is told. The worker's thread. */

#include "base/map.h"
#include "broker/access.h"
#include "broker/client.h"
#include "broker/deliver.h"
#include "broker/durable.h"
#include "broker/receipt.h"
#include "net/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_ROOM 128 /* of a client id that is given: a prefix and 32 digits */

/* ---- Whose it is ---- */

unsigned connect_owner(struct client *c, const uint8_t *body, size_t len)
{
    const struct broker *broker = c->worker->broker;
    struct mqtt_connect in;
    if (broker->worker_count == 1 || mqtt_read_connect(body, len, &in) != MQTT_SUCCESS ||
        in.client_id.len == 0)
        return c->worker->index;
    return broker_owner(broker, in.client_id.data, in.client_id.len);
}

/* A client id that nobody has, and that belongs to this worker. */
static size_t give_id(struct worker *worker, char out[ID_ROOM])
{
    struct broker *broker = worker->broker;
    for (;;) {
        uint64_t number[2] = { broker->id_seed, atomic_fetch_add(&broker->ids_given, 1) };
        uint64_t high = map_hash(number, sizeof(number));
        number[0] = high;
        uint64_t low = map_hash(number, sizeof(number));
        int len = snprintf(out, ID_ROOM, "%s%016" PRIX64 "%016" PRIX64,
                           worker->settings->auto_id_prefix, high, low);
        if (broker_owner(broker, out, (size_t)len) == worker->index &&
            !sessions_find(&worker->sessions, out, (size_t)len))
            return (size_t)len;
    }
}

/* ---- Answers ---- */

static void answer(struct client *c, bool present, enum mqtt_reason reason,
                   struct mqtt_slice properties)
{
    uint8_t packet[2048];
    size_t len = mqtt_write_connack(packet, sizeof(packet), (enum mqtt_level)c->level, present,
                                    reason, properties);
    if (c->max_packet && len > c->max_packet && reason != MQTT_SUCCESS) /* [MQTT-3.2.2-19] */
        len = mqtt_write_connack(packet, sizeof(packet), (enum mqtt_level)c->level, present, reason,
                                 (struct mqtt_slice){ NULL, 0 });
    if (len == 0 || len > sizeof(packet)) /* nothing that this version can be told */
        return;
    if (c->max_packet && len > c->max_packet) { /* [MQTT-3.1.2-24] */
        c->graceful = true;                     /* there was no connection, so there is no will */
        client_end(c, MQTT_SUCCESS, "its Maximum Packet Size is too small for CONNACK");
        return;
    }
    const bool waits = c->unanswered && reason == MQTT_SUCCESS;
    if (waits && durable_greeting(c, packet, len)) {
        client_pause(c); /* so that nothing comes before it */
        return;
    }
    if (waits || output_add(&c->output, &c->worker->pool, packet, len) < 0) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    COUNT(c->worker, packets_sent, 1);
    client_touch(c);
}

static void say_no(struct client *c, enum mqtt_reason reason, const char *why)
{
    uint8_t text[256];
    struct mqtt_property_writer w = { .data = text, .room = sizeof(text) };
    if (why && c->problems)
        mqtt_property_add_string(&w, MQTT_PROPERTY_REASON_STRING,
                                 (struct mqtt_string){ why, strlen(why) });
    answer(c, false, reason, mqtt_property_written(&w));
}

/* Says no, and ends the connection. */
static void refuse(struct client *c, enum mqtt_reason reason, const char *why)
{
    say_no(c, reason, why);
    client_refuse(c, reason, why);
}

/* There was no connection for it, so there are neither a will nor a session. */
void connect_give_up(struct client *c, const char *why)
{
    c->graceful = true;
    c->session->expiry = 0;
    say_no(c, MQTT_SERVER_BUSY, why);
    client_end(c, MQTT_SERVER_BUSY, why);
}

/* What a client of 5.0 has to know that it could not guess. */
static void accept_5(struct client *c, const struct mqtt_connect *in, bool present)
{
    const struct broker_settings *s = c->worker->settings;
    uint8_t space[1024];
    struct mqtt_property_writer w = { .data = space, .room = sizeof(space) };
    const struct session *session = c->session;
    uint32_t wanted =
        mqtt_properties_number(&in->properties, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL, 0);

    if (session->expiry != wanted)
        mqtt_property_add_number(&w, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL, session->expiry);
    if (s->receive_maximum != 65535)
        mqtt_property_add_number(&w, MQTT_PROPERTY_RECEIVE_MAXIMUM, (uint32_t)s->receive_maximum);
    if (c->listener->max_qos < 2)
        mqtt_property_add_number(&w, MQTT_PROPERTY_MAXIMUM_QOS, (uint32_t)c->listener->max_qos);
    if (!s->retain_available)
        mqtt_property_add_number(&w, MQTT_PROPERTY_RETAIN_AVAILABLE, 0);
    if (c->listener->max_packet_size.bytes < MQTT_VARINT_MAX)
        mqtt_property_add_number(&w, MQTT_PROPERTY_MAXIMUM_PACKET_SIZE,
                                 (uint32_t)c->listener->max_packet_size.bytes);
    if (c->named_here)
        mqtt_property_add_string(&w, MQTT_PROPERTY_ASSIGNED_CLIENT_IDENTIFIER,
                                 (struct mqtt_string){ session->id, session->id_len });
    if (c->listener->max_topic_alias > 0)
        mqtt_property_add_number(&w, MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM,
                                 (uint32_t)c->listener->max_topic_alias);
    if (!s->wildcard_available)
        mqtt_property_add_number(&w, MQTT_PROPERTY_WILDCARD_SUBSCRIPTION_AVAILABLE, 0);
    if (!s->subscription_identifiers_available)
        mqtt_property_add_number(&w, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIERS_AVAILABLE, 0);
    if (!s->shared_available)
        mqtt_property_add_number(&w, MQTT_PROPERTY_SHARED_SUBSCRIPTION_AVAILABLE, 0);
    if (c->keep_alive_s != in->keep_alive_s)
        mqtt_property_add_number(&w, MQTT_PROPERTY_SERVER_KEEP_ALIVE, c->keep_alive_s);
    if (s->response_information &&
        mqtt_properties_number(&in->properties, MQTT_PROPERTY_REQUEST_RESPONSE_INFORMATION, 0))
        mqtt_property_add_string(
            &w, MQTT_PROPERTY_RESPONSE_INFORMATION,
            (struct mqtt_string){ s->response_information, strlen(s->response_information) });
    answer(c, present, MQTT_SUCCESS, mqtt_property_written(&w));
}

/* ---- Sessions ---- */

/* The session's connection, if it has one, is replaced by this client's new one. */
static void take_over(struct session *session)
{
    struct client *old = session->client;
    if (!old)
        return;
    client_end(old, MQTT_SESSION_TAKEN_OVER, NULL);
    old->session = NULL;
    session->client = NULL;
    COUNT(old->worker, clients_connected, -1);
    receipts_disconnect(session);
    if (old->graceful)
        session_forget_will(session);
    if (session->flow)
        flow_interrupted(session->flow);
}

/* The client's session, new or resumed. NULL when there is no memory. */
static struct session *session_for(struct worker *worker, const char *id, size_t len, bool clean,
                                   bool *present)
{
    struct session *session = sessions_find(&worker->sessions, id, len);
    *present = false;
    if (session) {
        bool was_here = session->client != NULL;
        take_over(session);
        if (session->orphaned) /* it is back; and one that ends with its connection has ended */
            session_forget_will(session);
        if (clean || session_has_expired(worker, session) ||
            (session->orphaned && !session_is_persistent(session)) ||
            (was_here && !session_is_persistent(session))) {
            session_end(worker, session);
            session = NULL;
        } else {
            /* The will of a connection that was taken over, unless it can wait [MQTT-3.1.4-3]. */
            if (was_here && session->will && session->will->delay == 0)
                session_publish_will(worker, session);
            session_return(worker, session);
            *present = true;
        }
    }
    return session ? session : session_new(worker, id, len);
}

/* Remembers the will of this connection. Returns false when there is no memory. */
static bool keep_will(struct client *c, const struct mqtt_connect *in)
{
    const struct mqtt_will *will = &in->will;
    if (!will->topic.data)
        return true;
    size_t mount = c->listener->mount_len, carried = will->properties.carried_len;
    char *topic = malloc(mount + will->topic.len);
    uint8_t *properties = carried ? malloc(carried) : NULL;
    struct will *kept = calloc(1, sizeof(*kept));
    struct publication *publication = NULL;
    if (topic && kept && (properties || carried == 0)) {
        if (mount)
            memcpy(topic, c->listener->mount_point, mount);
        memcpy(topic + mount, will->topic.data, will->topic.len);
        if (carried)
            mqtt_properties_carry(&will->properties, properties);
        publication = publication_new(topic, mount + will->topic.len, properties, carried,
                                      will->payload.data, will->payload.len);
    }
    free(topic);
    free(properties);
    if (!publication) {
        free(kept);
        return false;
    }
    publication->qos = will->qos;
    publication->retain = will->retain;
    kept->publication = publication;
    kept->delay = mqtt_properties_number(&will->properties, MQTT_PROPERTY_WILL_DELAY_INTERVAL, 0);
    kept->expiry =
        mqtt_properties_number(&will->properties, MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL, 0);
    c->session->will = kept;
    return true;
}

/* ---- CONNECT ---- */

/* What this connection may do and wants. */
static void adopt_terms(struct client *c, const struct mqtt_connect *in)
{
    const struct broker_settings *s = c->worker->settings;
    const struct mqtt_properties *p = &in->properties;
    uint32_t window = mqtt_properties_number(p, MQTT_PROPERTY_RECEIVE_MAXIMUM, 65535);
    if (window > (uint64_t)s->max_inflight_messages)
        window = (uint32_t)s->max_inflight_messages;
    c->session->window = (uint16_t)window;
    uint32_t aliases = mqtt_properties_number(p, MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM, 0);
    c->alias_maximum = (uint16_t)(aliases > (uint64_t)c->listener->max_topic_alias
                                      ? (uint64_t)c->listener->max_topic_alias
                                      : aliases);
    uint32_t expiry = in->level == MQTT_5_0
                          ? mqtt_properties_number(p, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL, 0)
                      : in->clean_start ? 0
                                        : EXPIRY_NEVER;
    c->session->expiry = session_expiry_allowed(c->worker, expiry);

    c->keep_alive_s = in->keep_alive_s;
    if (s->max_keepalive > 0 && s->max_keepalive < 65535 &&
        (c->keep_alive_s == 0 || c->keep_alive_s > s->max_keepalive))
        c->keep_alive_s = (uint16_t)s->max_keepalive;
}

/* Why the packet is not accepted, though it is well-formed; MQTT_SUCCESS if it is. */
static enum mqtt_reason judge(struct client *c, const struct mqtt_connect *in, const char **why)
{
    const struct broker_settings *s = c->worker->settings;
    *why = NULL;
    if (in->client_id.len == 0 && !s->allow_zero_length_clientid) {
        *why = "allow_zero_length_clientid is false";
        return MQTT_CLIENT_IDENTIFIER_NOT_VALID;
    }
    if (in->level < MQTT_5_0 && s->max_keepalive > 0 && s->max_keepalive < 65535 &&
        (in->keep_alive_s == 0 || in->keep_alive_s > s->max_keepalive)) {
        *why = "keep-alive above max_keepalive";
        return MQTT_CLIENT_IDENTIFIER_NOT_VALID;
    }
    if (in->will.topic.data) {
        if (in->will.qos > c->listener->max_qos)
            return MQTT_QOS_NOT_SUPPORTED;
        if (in->will.retain && !s->retain_available)
            return MQTT_RETAIN_NOT_SUPPORTED;
        if (c->listener->mount_len + in->will.topic.len > 65535)
            return MQTT_TOPIC_NAME_INVALID;
        if (!access_publish(NULL, in->will.topic.data, in->will.topic.len))
            return MQTT_NOT_AUTHORIZED;
    }
    const bool leaves_traces =
        in->will.topic.data ||
        (in->level == MQTT_5_0
             ? mqtt_properties_number(&in->properties, MQTT_PROPERTY_SESSION_EXPIRY_INTERVAL, 0) > 0
             : !in->clean_start);
    if (leaves_traces && durable_is_full(c->worker->broker->durable)) {
        *why = "too much waits for the disk";
        return MQTT_SERVER_BUSY;
    }
    return access_connect(c, in);
}

void on_connect(struct client *c, const uint8_t *body, size_t len)
{
    struct worker *worker = c->worker;
    struct mqtt_connect in;
    enum mqtt_reason reason = mqtt_read_connect(body, len, &in);
    const char *why = NULL;
    c->level = (uint8_t)in.level;
    c->problems = true;
    if (reason == MQTT_SUCCESS) {
        c->problems =
            mqtt_properties_number(&in.properties, MQTT_PROPERTY_REQUEST_PROBLEM_INFORMATION, 1);
        c->max_packet =
            mqtt_properties_number(&in.properties, MQTT_PROPERTY_MAXIMUM_PACKET_SIZE, 0);
        reason = judge(c, &in, &why);
    }
    if (reason != MQTT_SUCCESS) {
        refuse(c, reason, why);
        return;
    }

    char given[ID_ROOM];
    const char *id = in.client_id.data;
    size_t id_len = in.client_id.len;
    if (id_len == 0) {
        id = given;
        id_len = give_id(worker, given);
        c->named_here = true;
    }
    /* Its CONNACK would have to wait, so something would have to be kept of it too. */
    if (durable_is_full(worker->broker->durable) &&
        durable_is_ending(worker, (uint32_t)map_hash(id, id_len))) {
        refuse(c, MQTT_SERVER_BUSY, "too much waits for the disk");
        return;
    }
    bool present = false;
    struct session *session = session_for(worker, id, id_len, in.clean_start, &present);
    if (!session) {
        refuse(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    c->session = session;
    c->connecting = false;
    session->client = c;
    c->unanswered = !present && durable_is_ending(worker, session->hash);
    c->inherited = (uint16_t)ids_count(session->received);
    COUNT(worker, clients_connected, 1);
    adopt_terms(c, &in);
    if (!keep_will(c, &in) || !durable_session(worker, session)) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    durable_connected(session);
    if (!c->unanswered)
        client_answered(c);
    if (worker->settings->connection_messages)
        log_info("client connected id=%s peer=%s protocol=%d%s", session->id,
                 peer_name(c->transport, c->source.fd).text, c->level, present ? " resumed" : "");

    if (c->level == MQTT_5_0)
        accept_5(c, &in, present);
    else
        answer(c, present, MQTT_SUCCESS, (struct mqtt_slice){ NULL, 0 });
    if (!c->ending)
        deliver_waiting(c);
}
