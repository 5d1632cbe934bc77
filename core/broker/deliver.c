/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/deliver.h"

#include "broker/aliases.h"
#include "broker/durable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BY_REFERENCE 3072 /* payloads from here on are not copied into the output */

static void count_dropped(struct worker *worker, const struct session *session, const char *why)
{
    COUNT(worker, publish_dropped, 1);
    if (log_rate_due(&worker->dropped, loop_now_ms(&worker->loop)))
        log_warning("message dropped client=%s: %s", session->id, why);
}

/* Why write_publish() says no. */
static const char not_to_be_sent[] =
    "larger than its Maximum Packet Size, or not below its mount_point";

/* ---- Encoding ---- */

/* What is the broker's own in the properties of one receiver. */
struct own_properties {
    struct mqtt_property_writer writer;
    uint8_t space[512];
    uint8_t *memory;    /* in place of that, if there are many subscription identifiers */
    uint16_t new_alias; /* told in this packet for the first time; 0: none */
};

/* Returns false when there is no memory. */
static bool write_own(struct client *c, const struct publish *p, const struct terms *terms,
                      struct mqtt_string *topic, struct own_properties *own)
{
    size_t most = 16 + (terms->ids ? terms->ids->count * (size_t)5 : 0);
    own->memory = most > sizeof(own->space) ? malloc(most) : NULL;
    if (most > sizeof(own->space) && !own->memory)
        return false;
    own->writer = (struct mqtt_property_writer){ .data = own->memory ? own->memory : own->space,
                                                 .room = most };
    own->new_alias = 0;
    if (p->expires)
        mqtt_property_add_number(&own->writer, MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL,
                                 expires_in(p->expires, c->worker->second));
    if (c->alias_maximum > 0) {
        bool known = false;
        uint16_t alias =
            aliases_give(&c->aliases, c->alias_maximum, topic->data, topic->len, &known);
        if (alias) {
            mqtt_property_add_number(&own->writer, MQTT_PROPERTY_TOPIC_ALIAS, alias);
            if (known)
                topic->len = 0;
            else
                own->new_alias = alias;
        }
    }
    for (uint32_t i = 0; terms->ids && i < terms->ids->count; i++)
        mqtt_property_add_number(&own->writer, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER,
                                 terms->ids->values[i]);
    return true;
}

/* Puts a head of `len` bytes into the output. Returns 1 or -ENOMEM. */
static int add_head(struct client *c, const struct mqtt_publish_head *head, size_t len)
{
    if (len <= OUTPUT_ROOM) {
        uint8_t *at = output_room(&c->output, &c->worker->pool, len);
        if (!at)
            return -ENOMEM;
        mqtt_write_publish_head(at, len, MQTT_5_0, head, NULL);
        output_commit(&c->output, len);
        return 1;
    }
    uint8_t *memory = malloc(len);
    if (!memory)
        return -ENOMEM;
    mqtt_write_publish_head(memory, len, MQTT_5_0, head, NULL);
    int rc = output_add(&c->output, &c->worker->pool, memory, len);
    free(memory);
    return rc < 0 ? rc : 1;
}

/* A client of 5.0: with properties, and within its Maximum Packet Size. Returns 1, 0 if the packet is larger
 * [MQTT-3.1.2-25], or -ENOMEM. */
static int send_5(struct client *c, const struct publish *p, const struct mqtt_publish_head *in,
                  const struct terms *terms)
{
    struct mqtt_publish_head head = *in;
    struct own_properties own;
    if (!write_own(c, p, terms, &head.topic, &own))
        return -ENOMEM;
    head.own = mqtt_property_written(&own.writer);
    head.carried = (struct mqtt_slice){ p->properties, p->properties_len };

    int rc = 0;
    size_t len = mqtt_write_publish_head(NULL, 0, MQTT_5_0, &head, NULL);
    if (len > 0 && (!c->max_packet || len + p->payload_len <= c->max_packet))
        rc = add_head(c, &head, len);
    else if (own.new_alias)
        aliases_take_back(c->aliases, own.new_alias);
    free(own.memory);
    return rc;
}

static uint8_t first_byte(const struct mqtt_publish_head *head)
{
    return (uint8_t)(MQTT_PUBLISH << 4 | (head->dup ? MQTT_FLAG_DUP : 0) | head->qos << 1 |
                     (head->retain ? MQTT_FLAG_RETAIN : 0));
}

/* A client before 5.0, which is the usual case: written out by hand, with a short payload in the same piece.
 * Returns 1 and sets `*with_payload`, 0 if there is no such packet, or -ENOMEM. */
static int send_3(struct client *c, const struct publish *p, const struct mqtt_publish_head *head,
                  bool *with_payload)
{
    size_t topic_len = head->topic.len;
    size_t body = 2 + topic_len + (head->qos ? 2 : 0) + p->payload_len;
    if (body > MQTT_VARINT_MAX)
        return 0;
    *with_payload = p->payload_len < BY_REFERENCE;
    size_t here = body - (*with_payload ? 0 : p->payload_len);
    size_t room = 5 + here;
    uint8_t *at = room <= OUTPUT_ROOM ? output_room(&c->output, &c->worker->pool, room) : NULL;
    if (!at && room <= OUTPUT_ROOM)
        return -ENOMEM;
    if (!at) {
        /* A topic of thousands of bytes: piece by piece. */
        uint8_t start[7], *end = start;
        *end++ = first_byte(head);
        end = mqtt_varint_write(end, body);
        mqtt_set_packet_id(end, (uint16_t)topic_len);
        end += 2;
        struct output *output = &c->output;
        struct output_pool *pool = &c->worker->pool;
        uint8_t id[2];
        mqtt_set_packet_id(id, head->packet_id);
        int rc = output_add(output, pool, start, (size_t)(end - start));
        if (rc == 0)
            rc = output_add(output, pool, head->topic.data, topic_len);
        if (rc == 0 && head->qos)
            rc = output_add(output, pool, id, 2);
        *with_payload = false;
        return rc < 0 ? rc : 1;
    }

    uint8_t *begin = at;
    *at++ = first_byte(head);
    at = mqtt_varint_write(at, body);
    mqtt_set_packet_id(at, (uint16_t)topic_len);
    memcpy(at + 2, head->topic.data, topic_len);
    at += 2 + topic_len;
    if (head->qos) {
        mqtt_set_packet_id(at, head->packet_id);
        at += 2;
    }
    if (*with_payload && p->payload_len > 0) {
        memcpy(at, p->payload, p->payload_len);
        at += p->payload_len;
    }
    output_commit(&c->output, (size_t)(at - begin));
    return 1;
}

static int add_payload(struct client *c, struct publish *p)
{
    if (p->payload_len == 0)
        return 0;
    if (p->payload_len < BY_REFERENCE)
        return output_add(&c->output, &c->worker->pool, p->payload, p->payload_len);
    struct publication *publication = publish_keep(p);
    return publication ? output_add_payload(&c->output, publication) : -ENOMEM;
}

/* Whether a client can know the topic: it lies below the mount point of its listener. Others can match too: "m" does
 * match "m/#", and a session may have been with another listener before. */
static bool is_mounted(const struct client *c, const struct publish *p)
{
    size_t len = c->listener->mount_len;
    return len == 0 || (p->topic_len > len && memcmp(p->topic, c->listener->mount_point, len) == 0);
}

/* Puts a PUBLISH packet into the output. Returns false if the client cannot take it, as it is too large or outside of
 * the mount point; a connection for which there is no memory ends. */
static bool write_publish(struct client *c, struct publish *p, const struct terms *terms,
                          uint16_t packet_id, bool dup)
{
    if (!is_mounted(c, p))
        return false;
    struct worker *worker = c->worker;
    size_t mount = c->listener->mount_len;
    struct mqtt_publish_head head = {
        .topic = { p->topic + mount, p->topic_len - mount },
        .payload_len = p->payload_len,
        .packet_id = packet_id,
        .qos = terms->qos,
        .dup = dup,
        .retain = terms->retain,
    };
    bool with_payload = false;
    int rc = c->level < MQTT_5_0 ? send_3(c, p, &head, &with_payload) : send_5(c, p, &head, terms);
    if (rc == 0)
        return false;
    if (rc > 0 && !with_payload)
        rc = add_payload(c, p);
    if (rc < 0) {
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return true;
    }
    COUNT(worker, packets_sent, 1);
    COUNT(worker, publish_sent, 1);
    COUNT(worker, publish_bytes_sent, p->payload_len);
    if (!c->touched)
        client_touch(c);
    client_relieve(c);
    return true;
}

/* ---- Room ---- */

static bool output_is_full(const struct client *c)
{
    return c->output.bytes >= (uint64_t)c->worker->settings->max_output_bytes.bytes;
}

static bool has_room(const struct client *c, const struct flow *flow)
{
    return flow_has_room(flow, c->session->window,
                         (uint64_t)c->worker->settings->max_inflight_bytes.bytes) &&
           !output_is_full(c);
}

bool deliver_is_congested(const struct session *session)
{
    const struct client *c = session->client;
    const struct flow *flow = session->flow;
    return !c || c->ending || c->output.bytes > 512 * 1024 || (flow && flow->queued > 100);
}

static struct terms terms_ref(const struct terms *terms)
{
    struct terms copy = *terms;
    identifiers_ref(copy.ids);
    if (copy.share)
        share_member_ref(copy.share);
    return copy;
}

/* ---- Sending ---- */

/* Puts a message of QoS 1 or 2 in flight and sends it, or holds it until its place on disk is safe. The item's
 * references are taken; its publication may be NULL. */
static void launch(struct client *c, struct flow *flow, struct publish *p, struct flow_item *item)
{
    uint16_t id = flow_launch(flow, item->publication, item->kept, &item->terms);
    if (id == 0) {
        kept_end(c->worker, item->kept);
        flow_item_release(item);
        p->failed = true;
        client_end(c, MQTT_SERVER_BUSY, "out of memory");
        return;
    }
    const struct terms *terms = &item->terms;
    struct flow_item *flight = flow_flight(flow, id);
    flight->again = item->again;
    if (item->kept && terms->qos == 2 && durable_launched(c->worker, c->session, item->kept, id)) {
        flight->held = true;
        flow->held++;
        return;
    }
    if (!write_publish(c, p, terms, id, item->again)) {
        count_dropped(c->worker, c->session, not_to_be_sent);
        flow_land(flow, flow_flight(flow, id));
    }
}

static bool must_keep(const struct worker *worker, const struct session *session,
                      const struct terms *terms)
{
    return session_is_persistent(session) || session_is_durable(session) || terms->share ||
           worker->settings->max_inflight_bytes.bytes > 0;
}

static bool queue_is_full(const struct worker *worker, const struct flow *flow,
                          const struct publication *publication)
{
    uint64_t most = (uint64_t)worker->settings->max_queued_messages;
    uint64_t most_bytes = (uint64_t)worker->settings->max_queued_bytes.bytes;
    uint64_t queued = flow->queued + flow->spilled;
    return (most > 0 && queued >= most) ||
           (most_bytes > 0 && queued > 0 &&
            flow->queued_bytes + flow->spilled_bytes + publication_size(publication) > most_bytes);
}

static bool is_to_spill(const struct session *session, const struct flow *flow)
{
    const uint32_t count = flow_spillable(flow);
    const uint64_t bytes = flow_spillable_bytes(flow);
    return session->client ? count >= SPILL_MESSAGES || bytes >= SPILL_BYTES
                           : count >= SPILL_AWAY_MESSAGES || bytes >= SPILL_AWAY_BYTES;
}

void deliver_spill(struct session *session)
{
    struct flow *flow = session->flow;
    while (!session->client && !flow->loading && is_to_spill(session, flow) &&
           flow_spill_last(flow))
        ;
}

/* Not now: puts it into the queue if it may wait. */
static bool hold_back(struct worker *worker, struct session *session, struct publish *p,
                      const struct terms *terms)
{
    const struct broker_settings *settings = worker->settings;
    struct client *c = session->client;
    bool away = !c || c->ending;
    /* One that ends with its connection gives shared messages to others when it does. */
    bool lives = session_is_persistent(session) || terms->share;
    if ((away && !lives) || (terms->qos == 0 && !(away && settings->queue_qos0_messages))) {
        if (!away)
            count_dropped(worker, session, "the client reads too slowly");
        return false;
    }
    struct flow *flow = session_flow(worker, session);
    struct publication *publication = flow ? publish_keep(p) : NULL;
    if (!publication) {
        p->failed = true;
        return false;
    }
    if (queue_is_full(worker, flow, publication) && (flow_queue_expire(flow, worker->second) == 0 ||
                                                     queue_is_full(worker, flow, publication))) {
        count_dropped(worker, session, "its queue is full (max_queued_messages, max_queued_bytes)");
        return false;
    }
    struct kept *kept = NULL;
    if (session_is_durable(session)) {
        kept = durable_message(worker, session, p, terms);
        if (!kept) {
            p->failed = true;
            return false;
        }
        if (!terms->share && (flow->spilled > 0 || is_to_spill(session, flow))) {
            if (flow->spilled == 0)
                flow->spill_after = kept_number(kept) - 1;
            flow->spilled++;
            flow->spilled_bytes += publication_size(publication);
            flow_spill_expires(flow, publication->expires);
            kept_unref(kept);
            return false;
        }
    }
    struct flow_item item = { .publication = publication_ref(publication),
                              .terms = terms_ref(terms) };
    if (flow_queue(flow, item.publication, kept, &item.terms) < 0) {
        kept_end(worker, kept);
        flow_item_release(&item);
        p->failed = true;
    }
    return true; /* or released as if it had been */
}

bool deliver(struct worker *worker, struct session *session, struct publish *p,
             const struct terms *terms)
{
    struct client *c = session->client;
    if (!c || c->ending) {
        return hold_back(worker, session, p, terms);
    }
    if (terms->qos == 0) {
        if (output_is_full(c))
            return hold_back(worker, session, p, terms);
        if (!write_publish(c, p, terms, 0, false))
            count_dropped(worker, session, not_to_be_sent);
        return false;
    }
    struct flow *flow = session_flow(worker, session);
    if (!flow) {
        p->failed = true;
        return false;
    }
    if (flow->queued > 0 || flow->spilled > 0 || flow->unsent > 0 || !has_room(c, flow) ||
        (flow->held > 0 && terms->qos == 1)) {
        return hold_back(worker, session, p, terms);
    }
    struct flow_item item = { 0 };
    if (must_keep(worker, session, terms)) {
        struct publication *keep = publish_keep(p);
        if (!keep || (session_is_durable(session) &&
                      !(item.kept = durable_message(worker, session, p, terms)))) {
            p->failed = true;
            return false;
        }
        item.publication = publication_ref(keep);
    }
    item.terms = terms_ref(terms);
    launch(c, flow, p, &item);
    return true;
}

/* ---- What has been waiting ---- */

static void send_again(struct client *c, struct flow *flow, struct flow_item *item, uint16_t id)
{
    if (item->held) /* by deliver_held() */
        return;
    if (item->state == FLIGHT_RELEASED || !item->publication) {
        client_acknowledge(c, MQTT_PUBREL, id, MQTT_SUCCESS);
        return;
    }
    struct publish p = publish_of(item->publication);
    if (!write_publish(c, &p, &item->terms, id, true)) {
        count_dropped(c->worker, c->session, not_to_be_sent);
        flow_land(flow, item);
    }
}

void deliver_held(struct worker *worker, struct session *session, const struct kept *kept,
                  uint16_t id)
{
    struct client *c = session->client;
    struct flow *flow = session->flow;
    struct flow_item *item = flow ? flow_flight(flow, id) : NULL;
    if (!item || item->kept != kept || !item->held)
        return;
    item->held = false;
    bool released = item->state == FLIGHT_RELEASED;
    flow->held = (uint16_t)(flow->held - !released);
    if (!c || c->ending || item->unsent)
        return;
    if (released) {
        client_acknowledge(c, MQTT_PUBREL, id, MQTT_SUCCESS);
        return;
    }
    struct publish p = publish_of(item->publication);
    if (!write_publish(c, &p, &item->terms, id, item->again)) {
        count_dropped(worker, session, not_to_be_sent);
        flow_land(flow, item);
    }
    if (flow->held == 0)
        deliver_waiting(c);
}

static void send_queued(struct client *c, struct flow *flow)
{
    struct worker *worker = c->worker;
    struct flow_item item = flow_queue_take(flow);
    if (item.publication->expires && item.publication->expires <= worker->second) {
        COUNT(worker, publish_dropped, 1);
        kept_end(worker, item.kept);
        flow_item_release(&item);
        return;
    }
    struct publish p = publish_of(item.publication);
    if (item.terms.qos == 0) {
        if (!write_publish(c, &p, &item.terms, 0, false))
            count_dropped(worker, c->session, not_to_be_sent);
        kept_end(worker, item.kept);
        flow_item_release(&item);
        return;
    }
    /* The packet is written before anybody could let go of the publication. */
    struct publication *held = publication_ref(item.publication);
    if (!must_keep(worker, c->session, &item.terms)) {
        publication_unref(item.publication);
        item.publication = NULL;
    }
    launch(c, flow, &p, &item);
    publication_unref(held);
}

void deliver_waiting(struct client *c)
{
    struct flow *flow = c->session->flow;
    if (!flow)
        return;
    while (!c->ending && flow->unsent > 0 && has_room(c, flow)) {
        uint16_t id = 0;
        struct flow_item *item = flow_next_unsent(flow, &id);
        if (!item)
            break;
        send_again(c, flow, item, id);
    }
    const struct flow_item *head;
    while (!c->ending && flow->unsent == 0 && (head = flow_queue_head(flow)) &&
           (head->terms.qos == 0 ? !output_is_full(c) : has_room(c, flow)) &&
           (flow->held == 0 || head->terms.qos == 2))
        send_queued(c, flow);
    if (flow->spilled > 0 && flow_spillable(flow) < SPILL_LOAD / 2 && !c->ending)
        durable_load(c->worker, c->session);
}

/* ---- Shared subscriptions ---- */

void deliver_shared(struct worker *worker, struct share_member *member, struct publish *p)
{
    while (member) {
        if (member->worker != worker->index) {
            struct letter_publication *letter = malloc(sizeof(*letter));
            struct publication *publication = letter ? publish_keep(p) : NULL;
            if (!publication) {
                free(letter);
                p->failed = true;
                share_member_done(member);
                share_member_unref(member);
                return;
            }
            letter->letter.kind = LETTER_SHARED;
            letter->publication = publication_ref(publication);
            letter->member = member;
            letter->receipt = publish_share_receipt(worker, p);
            letter->was = p->was;
            p->was = NULL;
            worker_write(worker, member->worker, &letter->letter, publication_size(publication));
            return;
        }
        if (member->session) {
            struct terms terms = {
                .ids = member->ids,
                .share = member,
                .qos = routing_qos(worker, p->qos, member->qos),
                .retain = member->as_published && p->retain,
            };
            if (!deliver(worker, member->session, p, &terms))
                share_member_done(member);
            share_member_unref(member);
            /* It has a place of its own now, if it is kept at all. */
            if (!p->failed) {
                kept_moved(worker, p->was);
                p->was = NULL;
            }
            return;
        }
        struct share *share = share_ref(member->share);
        share_member_done(member);
        share_member_unref(member);
        member = share_choose(share, NULL, p->was != NULL);
        share_unref(share);
        if (!member) /* the last one has left while it was under way */
            COUNT(worker, publish_dropped, 1);
    }
    kept_moved(worker, p->was);
    p->was = NULL;
}

struct orphan {
    struct flow_item item;
    struct share_member *to; /* NULL: nobody */
};

struct orphans {
    struct orphan *items;
    size_t count, places;
    bool failed; /* there was no place for one */
};

/* Whether a message is better off with another member than with one that is away. */
static bool is_better(const struct share_member *to, const struct flow_item *item)
{
    return atomic_load(&to->connected) && (!item->kept || atomic_load(&to->durable)) &&
           !share_member_is_full(to);
}

/* Finds another member for a message, and takes it if there is one that gets it earlier. What has been sent once
 * is sent again by this session if there is none, as it was [MQTT-4.4.0-1]. */
static bool collect(void *context, struct flow_item *item, bool sent)
{
    struct orphans *orphans = context;
    if (orphans->count == orphans->places) {
        size_t more = orphans->places ? orphans->places * 2 : 64;
        struct orphan *fresh = realloc(orphans->items, more * sizeof(*fresh));
        if (!fresh) {
            orphans->failed = true;
            return false;
        }
        orphans->items = fresh;
        orphans->places = more;
    }
    const struct share_member *from = item->terms.share;
    bool left = atomic_load(&from->left);
    struct share_member *to = share_choose(from->share, from, item->kept != NULL);
    if (to && !left && !is_better(to, item)) {
        share_member_done(to);
        share_member_unref(to);
        to = NULL;
    }
    if (!to && (sent || !left))
        return false;
    orphans->items[orphans->count++] = (struct orphan){ *item, to };
    return true;
}

void deliver_to_others(struct worker *worker, struct session *session, struct share_member *member)
{
    if (!session->flow)
        return;
    struct orphans orphans = { 0 };
    flow_take_shared(session->flow, member, collect, &orphans);
    for (size_t i = 0; i < orphans.count; i++) {
        struct orphan *orphan = &orphans.items[i];
        struct publish p = publish_of(orphan->item.publication);
        p.was = orphan->item.kept;
        p.receipt = session->tenure ? session->tenure->handover : NULL;
        p.wants_receipt = p.receipt != NULL;
        if (orphan->to) {
            deliver_shared(worker, orphan->to, &p);
            kept_unref(p.was); /* no memory: the next start finds it here */
            orphans.failed |= p.failed;
        } else {
            count_dropped(worker, session, "nobody is left of its shared subscription");
            kept_end(worker, p.was);
        }
        flow_item_release(&orphan->item);
    }
    if (orphans.failed)
        durable_not_handed_over(session);
    free(orphans.items);
}
