/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/subscribe.h"

#include "broker/access.h"
#include "broker/client.h"
#include "broker/deliver.h"
#include "broker/durable.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define WALK_STEP   500   /* retained messages looked at for one walk in a turn */
#define WALKS_SPARE 10000 /* walks that a session may have beyond two for each of its filters */

/* ---- Filters with the mount point ---- */

struct mounted {
    const char *text;
    size_t len;
    char *memory;
    char space[512];
};

static bool mount(const struct client *c, struct mqtt_string filter, struct mounted *out)
{
    size_t mount_len = c->listener->mount_len;
    out->memory = NULL;
    out->text = filter.data;
    out->len = filter.len;
    if (mount_len == 0)
        return true;
    out->len += mount_len;
    char *text = out->space;
    if (out->len > 65535 ||
        (out->len > sizeof(out->space) && !(text = out->memory = malloc(out->len))))
        return false;
    memcpy(text, c->listener->mount_point, mount_len);
    memcpy(text + mount_len, filter.data, filter.len);
    out->text = text;
    return true;
}

/* ---- Retained messages ---- */

static void walk_free(struct retained_walk *walk)
{
    retained_cursor_release(&walk->cursor);
    identifiers_unref(walk->ids);
    free(walk);
}

static void begin_walk(struct worker *worker, struct session *session, const struct mounted *filter,
                       uint8_t qos, uint32_t id)
{
    struct retained_walk *walk = calloc(1, sizeof(*walk));
    if (!walk || retained_cursor_init(&walk->cursor, filter->text, filter->len) < 0 ||
        (id && !(walk->ids = identifiers_new(&id, 1)))) {
        if (walk)
            walk_free(walk);
        client_end(session->client, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    walk->session = session;
    walk->answer = session_is_durable(session) ? session->tenure->asked + 1 : 0;
    walk->qos = qos;
    walk->last = walk;
    walk->count = 1;
    struct retained_walk **at = &worker->walks;
    while (*at && (!session->walking || (*at)->session != session))
        at = &(*at)->next;
    struct retained_walk *first = *at;
    if (first) {
        first->last->later = walk;
        first->last = walk;
        first->count++;
    } else {
        *at = walk;
    }
    session->walking = true;
    if (first && first->count > WALKS_SPARE + 2 * (size_t)session->subscriber.count)
        client_end(session->client, MQTT_QUOTA_EXCEEDED,
                   "it asks for retained messages again and again, and does not take them");
}

/* Ends a session's first walk; the next one takes its place. */
static void end_walk(struct retained_walk **at)
{
    struct retained_walk *walk = *at, *later = walk->later;
    if (later) {
        later->next = walk->next;
        later->last = walk->last;
        later->count = walk->count - 1;
        *at = later;
    } else {
        *at = walk->next;
        walk->session->walking = false;
    }
    walk_free(walk);
}

/* Whether the subscription that it is for is still there [MQTT-3.10.4-2]. */
static bool is_wanted(const struct worker *worker, const struct retained_walk *walk)
{
    return filters_find(worker->filters, walk->cursor.filter, walk->cursor.filter_len,
                        &walk->session->subscriber, NULL);
}

struct visit {
    struct worker *worker;
    struct retained_walk *walk;
};

static bool send_retained(struct publication *publication, void *context)
{
    const struct visit *visit = context;
    const struct retained_walk *walk = visit->walk;
    if (deliver_is_congested(walk->session))
        return false;
    struct publish publish = publish_of(publication);
    const struct terms terms = {
        .ids = walk->ids,
        .qos = routing_qos(visit->worker, publication->qos, walk->qos),
        .retain = true,
    };
    deliver(visit->worker, walk->session, &publish, &terms);
    return true;
}

bool walks_go_on(struct worker *worker)
{
    bool more = false;
    for (struct retained_walk **at = &worker->walks; *at;) {
        struct retained_walk *walk = *at;
        struct visit visit = { worker, walk };
        const struct tenure *tenure = walk->session->tenure;
        bool waits = deliver_is_congested(walk->session) ||
                     (tenure && (int32_t)(walk->answer - tenure->answered) > 0);
        if (waits || (is_wanted(worker, walk) &&
                      retained_scan(worker->broker->retained, &walk->cursor, worker->second,
                                    WALK_STEP, send_retained, &visit))) {
            more |= !waits && !deliver_is_congested(walk->session);
            at = &walk->next;
            continue;
        }
        end_walk(at);
    }
    return more;
}

static void drop_walks(struct worker *worker, struct session *session)
{
    for (struct retained_walk **at = &worker->walks; session->walking && *at;) {
        if ((*at)->session == session)
            end_walk(at);
        else
            at = &(*at)->next;
    }
}

/* ---- Subscribing ---- */

static uint8_t options_of(const struct mqtt_subscription *wanted, uint8_t qos)
{
    return (uint8_t)(qos | (wanted->no_local ? SUBSCRIPTION_NO_LOCAL : 0) |
                     (wanted->retain_as_published ? SUBSCRIPTION_RETAIN_AS_PUBLISHED : 0));
}

static struct share_member *find_member(struct worker *worker, const struct session *session,
                                        const struct mqtt_subscription *wanted,
                                        const struct mounted *filter)
{
    if (!session->members)
        return NULL;
    return shares_find(worker->broker->shares, wanted->share_name.data, wanted->share_name.len,
                       filter->text, filter->len, worker->index, session);
}

static void add_member(struct session *session, struct share_member *member)
{
    member->next = session->members;
    member->link = &session->members;
    if (member->next)
        member->next->link = &member->next;
    session->members = member;
}

static void take_member(struct share_member *member)
{
    *member->link = member->next;
    if (member->next)
        member->next->link = member->link;
}

static unsigned room_for(const struct worker *worker)
{
    int64_t most = worker->settings->max_queued_messages;
    return most < UINT_MAX ? (unsigned)most : 0;
}

static int join(struct worker *worker, struct session *session,
                const struct mqtt_subscription *wanted, const struct mounted *filter, uint8_t qos,
                uint32_t id)
{
    struct identifiers *ids = id ? identifiers_new(&id, 1) : NULL;
    struct share_member *member = find_member(worker, session, wanted, filter);
    if (id && !ids)
        return -ENOMEM;
    if (!member) {
        member =
            shares_join(worker->broker->shares, wanted->share_name.data, wanted->share_name.len,
                        filter->text, filter->len, worker->index, session);
        if (!member) {
            identifiers_unref(ids);
            return -ENOMEM;
        }
        add_member(session, member);
        COUNT(worker, shared_subscriptions, 1);
    }
    atomic_store(&member->connected, session->client != NULL); /* at the start nobody is */
    atomic_store(&member->durable, session_is_durable(session));
    atomic_store(&member->most, room_for(worker));
    identifiers_unref(member->ids);
    member->ids = ids;
    member->qos = qos;
    member->as_published = wanted->retain_as_published;
    return 0;
}

/* Returns FILTERS_REPLACED or other bits, or -ENOMEM. */
static int add(struct worker *worker, struct session *session,
               const struct mqtt_subscription *wanted, const struct mounted *filter, uint8_t qos,
               uint32_t id)
{
    struct broker *broker = worker->broker;
    const struct subscription subscription = {
        .subscriber = &session->subscriber,
        .id = id,
        .options = options_of(wanted, qos),
    };
    int change = filters_add(worker->filters, filter->text, filter->len, &subscription);
    if (change > 0 && (change & FILTERS_FIRST) && broker->worker_count > 1 &&
        interest_add(broker->interest, worker->index, filter->text, filter->len) < 0) {
        filters_remove(worker->filters, filter->text, filter->len, &session->subscriber);
        return -ENOMEM;
    }
    if (change >= 0 && !(change & FILTERS_REPLACED))
        COUNT(worker, subscriptions, 1);
    return change;
}

static bool has_wildcard(struct mqtt_string filter)
{
    return memchr(filter.data, '+', filter.len) || memchr(filter.data, '#', filter.len);
}

static size_t levels(struct mqtt_string filter)
{
    size_t n = 1;
    for (size_t i = 0; i < filter.len; i++)
        n += filter.data[i] == '/';
    return n;
}

/* Whether this broker has that kind of subscription; CONNACK has told clients of 5.0, so for them it is a
 * Protocol Error to want it nevertheless [MQTT 5.0, 3.2.2.3.11, 3.2.2.3.13]. */
static enum mqtt_reason availability(const struct broker_settings *settings,
                                     const struct mqtt_subscription *wanted)
{
    if (!settings->wildcard_available && has_wildcard(wanted->filter))
        return MQTT_WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED;
    if (!settings->shared_available && wanted->share_name.data)
        return MQTT_SHARED_SUBSCRIPTIONS_NOT_SUPPORTED;
    return MQTT_SUCCESS;
}

static enum mqtt_reason judge(const struct client *c, const struct mqtt_subscription *wanted)
{
    const struct broker_settings *settings = c->worker->settings;
    if (levels(wanted->filter) > (size_t)settings->max_topic_levels)
        return MQTT_TOPIC_FILTER_INVALID;
    enum mqtt_reason available = availability(settings, wanted);
    if (available != MQTT_SUCCESS)
        return available;
    if (!access_subscribe(c->session, wanted->filter.data, wanted->filter.len))
        return MQTT_NOT_AUTHORIZED;
    return MQTT_SUCCESS;
}

/* One filter of a packet. Returns its reason code. */
static enum mqtt_reason subscribe(struct client *c, const struct mqtt_subscription *wanted,
                                  uint32_t id)
{
    struct worker *worker = c->worker;
    enum mqtt_reason reason = judge(c, wanted);
    if (reason != MQTT_SUCCESS)
        return reason;
    struct mounted filter;
    if (!mount(c, wanted->filter, &filter))
        return MQTT_TOPIC_FILTER_INVALID;

    uint8_t qos = wanted->qos;
    int change = wanted->share_name.data ? join(worker, c->session, wanted, &filter, qos, id)
                                         : add(worker, c->session, wanted, &filter, qos, id);
    bool is_new = change >= 0 && !(change & FILTERS_REPLACED);
    if (change >= 0 &&
        !durable_subscribed(worker, c->session, wanted->share_name.data, wanted->share_name.len,
                            filter.text, filter.len, id, options_of(wanted, qos)))
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
    if (change >= 0 && !wanted->share_name.data && worker->settings->retain_available &&
        (wanted->retain_handling == MQTT_RETAIN_SEND ||
         (wanted->retain_handling == MQTT_RETAIN_SEND_IF_NEW && is_new)))
        begin_walk(worker, c->session, &filter, qos, id);
    free(filter.memory);
    return change < 0 ? MQTT_QUOTA_EXCEEDED : (enum mqtt_reason)qos;
}

/* Whether the client takes an answer to that many filters [MQTT-3.1.2-24]; else the connection ends, before
 * anything is done of which it would not hear. */
static bool can_be_answered(struct client *c, size_t count)
{
    const struct mqtt_slice none = { NULL, 0 };
    if (!c->max_packet ||
        mqtt_write_suback(NULL, 0, c->level, 1, NULL, count, none) <= c->max_packet)
        return true;
    client_refuse(c, MQTT_PACKET_TOO_LARGE, "the answer would be, for its Maximum Packet Size");
    return false;
}

/* Answers with a reason for each filter. */
static void answer(struct client *c, enum mqtt_type type, uint16_t packet_id,
                   const uint8_t *reasons, size_t count)
{
    size_t (*write)(uint8_t *, size_t, enum mqtt_level, uint16_t, const uint8_t *, size_t,
                    struct mqtt_slice) =
        type == MQTT_SUBACK ? mqtt_write_suback : mqtt_write_unsuback;
    const struct mqtt_slice none = { NULL, 0 };
    size_t len = write(NULL, 0, c->level, packet_id, reasons, count, none);
    uint8_t *packet = malloc(len);
    if (packet)
        write(packet, len, c->level, packet_id, reasons, count, none);
    bool later = packet && session_is_durable(c->session) && !c->ending;
    if (!packet || (later ? !durable_answer(c, packet, len)
                          : output_add(&c->output, &c->worker->pool, packet, len) < 0))
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
    else if (!later)
        COUNT(c->worker, packets_sent, 1);
    free(packet);
    client_touch(c);
}

void on_subscribe(struct client *c, const uint8_t *body, size_t len)
{
    struct mqtt_subscribe in;
    enum mqtt_reason reason = mqtt_read_subscribe(body, len, c->level, &in);
    uint32_t id = 0;
    if (reason == MQTT_SUCCESS) {
        id = mqtt_properties_number(&in.properties, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER, 0);
        if (id && !c->worker->settings->subscription_identifiers_available)
            reason = MQTT_SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED;
    }
    struct mqtt_subscription wanted;
    size_t at = 0, count = 0;
    while (reason == MQTT_SUCCESS && c->level == MQTT_5_0 && mqtt_subscribe_next(&in, &at, &wanted))
        reason = availability(c->worker->settings, &wanted);
    if (reason != MQTT_SUCCESS) {
        client_refuse(c, reason, NULL);
        return;
    }
    if (!can_be_answered(c, in.count))
        return;
    uint8_t *reasons = malloc(in.count);
    if (!reasons) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    at = 0;
    while (mqtt_subscribe_next(&in, &at, &wanted))
        reasons[count++] = (uint8_t)subscribe(c, &wanted, id);
    answer(c, MQTT_SUBACK, in.packet_id, reasons, count);
    free(reasons);
    if (c->worker->walks)
        walks_go_on(c->worker);
}

/* ---- Unsubscribing ---- */

static enum mqtt_reason leave(struct worker *worker, struct session *session,
                              const struct mqtt_subscription *wanted, const struct mounted *filter)
{
    struct share_member *member = find_member(worker, session, wanted, filter);
    if (!member)
        return MQTT_NO_SUBSCRIPTION_EXISTED;
    take_member(member);
    subscriptions_leave(worker, session, member);
    return MQTT_SUCCESS;
}

static enum mqtt_reason unsubscribe(struct client *c, const struct mqtt_subscription *wanted)
{
    struct worker *worker = c->worker;
    struct broker *broker = worker->broker;
    struct mounted filter;
    if (!mount(c, wanted->filter, &filter))
        return MQTT_NO_SUBSCRIPTION_EXISTED;
    enum mqtt_reason reason = MQTT_SUCCESS;
    if (wanted->share_name.data) {
        reason = leave(worker, c->session, wanted, &filter);
    } else {
        int change =
            filters_remove(worker->filters, filter.text, filter.len, &c->session->subscriber);
        if (change < 0)
            reason = MQTT_NO_SUBSCRIPTION_EXISTED;
        else
            COUNT(worker, subscriptions, -1);
        if (change > 0 && (change & FILTERS_LAST) && broker->worker_count > 1)
            interest_remove(broker->interest, worker->index, filter.text, filter.len);
    }
    if (reason == MQTT_SUCCESS &&
        !durable_unsubscribed(worker, c->session, wanted->share_name.data, wanted->share_name.len,
                              filter.text, filter.len))
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
    free(filter.memory);
    return reason;
}

void on_unsubscribe(struct client *c, const uint8_t *body, size_t len)
{
    struct mqtt_subscribe in;
    enum mqtt_reason reason = mqtt_read_unsubscribe(body, len, c->level, &in);
    if (reason != MQTT_SUCCESS) {
        client_refuse(c, reason, NULL);
        return;
    }
    if (!can_be_answered(c, in.count))
        return;
    uint8_t *reasons = malloc(in.count);
    if (!reasons) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    struct mqtt_subscription wanted;
    size_t at = 0, count = 0;
    while (mqtt_unsubscribe_next(&in, &at, &wanted))
        reasons[count++] = (uint8_t)unsubscribe(c, &wanted);
    answer(c, MQTT_UNSUBACK, in.packet_id, reasons, count);
    free(reasons);
}

/* ---- Before the start ---- */

int subscriptions_restore(struct worker *worker, struct session *session,
                          const struct mqtt_subscription *wanted, uint32_t id)
{
    const struct mounted filter = { .text = wanted->filter.data, .len = wanted->filter.len };
    return wanted->share_name.data ? join(worker, session, wanted, &filter, wanted->qos, id)
                                   : add(worker, session, wanted, &filter, wanted->qos, id);
}

/* ---- The end of a session ---- */

/* It has left its group: nothing more is sent by it. Drops the reference. */
static void forget_member(struct worker *worker, struct share_member *member)
{
    member->session = NULL;
    identifiers_unref(member->ids);
    member->ids = NULL;
    share_member_unref(member);
    COUNT(worker, shared_subscriptions, -1);
}

void subscriptions_leave(struct worker *worker, struct session *session,
                         struct share_member *member)
{
    share_member_ref(member);
    shares_leave(worker->broker->shares, member);
    if (!worker->closing)
        deliver_to_others(worker, session, member);
    forget_member(worker, member);
}

static void withdraw(const char *filter, size_t len, void *context)
{
    struct worker *worker = context;
    if (worker->broker->worker_count > 1)
        interest_remove(worker->broker->interest, worker->index, filter, len);
}

void subscriptions_drop(struct worker *worker, struct session *session)
{
    drop_walks(worker, session);
    /* Of all at once, as there may be many, and each look at what is under way costs as much as that is. */
    for (struct share_member *m = session->members; m; m = m->next) {
        share_member_ref(m);
        shares_leave(worker->broker->shares, m);
    }
    if (session->members && !worker->closing) {
        durable_hand_over(worker, session);
        deliver_to_others(worker, session, NULL);
    }
    while (session->members) {
        struct share_member *member = session->members;
        take_member(member);
        forget_member(worker, member);
    }
    COUNT(worker, subscriptions, -(uint64_t)session->subscriber.count);
    filters_drop(worker->filters, &session->subscriber, SIZE_MAX, withdraw, worker);
}
