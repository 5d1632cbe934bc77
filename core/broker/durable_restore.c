/* SPDX-License-Identifier: MIT */

/* The sessions and retained messages of an earlier run. The main thread, before the workers run; what is loaded later:
 * the worker's thread. */

#include "base/clock.h"
#include "base/log.h"
#include "broker/client.h"
#include "broker/durable_batch.h"
#include "broker/subscribe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct restoring {
    struct durable *durable;
    int64_t now_ms; /* wall clock */
    /* The session that the visitor is at, */
    struct worker *worker;
    struct session *session;
    uint64_t number;
    uint32_t again; /* and how many of its queue may have been sent before */
};

static int on_retained(void *context, struct publication *publication)
{
    const struct restoring *r = context;
    int rc = retained_set(r->durable->broker->retained, publication);
    publication_unref(publication);
    r->durable->restored_retained += rc == 0;
    return rc;
}

/* ---- A session ---- */

/* Seconds of a span that are left, when it began at `from_ms` (0: now). */
static uint32_t left_of(const struct restoring *r, uint32_t span, int64_t from_ms)
{
    if (span == EXPIRY_NEVER || from_ms == 0 || from_ms > r->now_ms)
        return span;
    int64_t gone = (r->now_ms - from_ms) / 1000;
    return gone >= (int64_t)span ? 0 : span - (uint32_t)gone;
}

static int restore_will(struct session *session, const struct stored_session *from)
{
    if (!from->will)
        return 0;
    struct will *will = calloc(1, sizeof(*will));
    if (!will) {
        publication_unref(from->will);
        return -ENOMEM;
    }
    will->publication = from->will;
    will->delay = from->will_delay;
    will->expiry = from->will_expiry;
    session->will = will;
    return 0;
}

/*
 * A client that was connected when the broker ended is likely to come back soon: its will waits for that, at
 * least will_grace. If it does not come, nobody else says that it has gone.
 */
static int on_session(void *context, const struct stored_session *from)
{
    struct restoring *r = context;
    struct broker *broker = r->durable->broker;
    r->worker = broker->workers[broker_owner(broker, from->id, from->id_len)];
    /* One that has ended, and waits for those who have been given what it had, has an id no more: that is perhaps another's. */
    const bool ended = from->left_ms != 0 && !from->persistent && !from->will;
    r->session = session_new(r->worker, from->id, ended ? 0 : from->id_len);
    r->number = from->number;
    if (!r->session || !tenure_restored(r->worker, r->session, from->number)) {
        publication_unref(from->will);
        return -ENOMEM;
    }
    struct session *session = r->session;
    session->tenure->messages = true;
    int rc = restore_will(session, from);
    if (rc < 0)
        return rc;
    session->expiry = from->persistent ? session_expiry_allowed(r->worker, from->expiry) : 0;
    session->window = (uint16_t)broker->settings.max_inflight_messages;
    session->orphaned = from->left_ms == 0;
    r->again = session->orphaned ? session->window : from->sent;

    uint32_t grace = (uint32_t)(broker->settings.will_grace.ms / 1000);
    uint32_t will_in = from->will_delay, ends_in = session->expiry;
    if (session->orphaned)
        will_in = will_in > grace ? will_in : grace;
    else
        will_in = left_of(r, will_in, from->left_ms);
    if (!from->persistent)
        ends_in = will_in;
    else
        ends_in = left_of(r, ends_in, from->left_ms);
    session_await(r->worker, session, will_in, ends_in);
    r->durable->restored_sessions += from->persistent;
    return 0;
}

static struct session *session_of(const struct restoring *r, uint64_t number)
{
    return r->session && r->number == number ? r->session : NULL;
}

static int on_subscription(void *context, uint64_t number, const char *share, size_t share_len,
                           const char *filter, size_t filter_len, uint32_t id, uint8_t options)
{
    const struct restoring *r = context;
    struct session *session = session_of(r, number);
    if (!session)
        return 0;
    const struct mqtt_subscription wanted = {
        .filter = { filter, filter_len },
        .share_name = { share_len ? share : NULL, share_len },
        .qos = options & SUBSCRIPTION_QOS,
        .no_local = (options & SUBSCRIPTION_NO_LOCAL) != 0,
        .retain_as_published = (options & SUBSCRIPTION_RETAIN_AS_PUBLISHED) != 0,
    };
    int rc = subscriptions_restore(r->worker, session, &wanted, id);
    return rc < 0 ? rc : 0;
}

static int on_received(void *context, uint64_t number, uint16_t packet_id)
{
    const struct restoring *r = context;
    struct session *session = session_of(r, number);
    if (!session)
        return 0;
    session->tenure->ids_kept = true;
    return ids_add(&session->received, packet_id) < 0 ? -ENOMEM : 0;
}

/* ---- Messages ---- */

/* Its shared subscription, if the session still has it: a reference, and one message more. */
static struct share_member *member_of(const struct session *session, const char *name)
{
    for (struct share_member *m = session->members; name && m; m = m->next) {
        size_t len;
        const char *own = share_name(m->share, &len);
        if (strlen(name) == len && memcmp(own, name, len) == 0) {
            atomic_fetch_add(&m->load, 1);
            return share_member_ref(m);
        }
    }
    return NULL;
}

/* Puts it into the flow. Returns 0, or a negative errno value, when it has been dropped from memory. */
static int append(struct worker *worker, struct session *session, struct stored_message *m,
                  bool again)
{
    struct flow *flow = session_flow(worker, session);
    struct flow_item item = {
        .publication = m->publication,
        .terms = { .qos = m->qos, .retain = m->retain },
        .kept = m->kept,
        .state = !m->publication ? FLIGHT_RELEASED
                 : m->qos == 2   ? FLIGHT_PUBLISHED_2
                                 : FLIGHT_PUBLISHED_1,
        .again = again,
    };
    item.kept->session = session->tenure->number;
    m->publication = NULL;
    m->kept = NULL;
    int rc = flow ? 0 : -ENOMEM;
    if (rc == 0 && m->id_count > 0 && !(item.terms.ids = identifiers_new(m->ids, m->id_count)))
        rc = -ENOMEM;
    item.terms.share = member_of(session, m->share);
    if (rc == 0 && m->packet_id)
        rc = flow_restore(flow, m->packet_id, &item);
    else if (rc == 0 && !item.publication)
        rc = -EINVAL;
    else if (rc == 0)
        rc = flow_queue_item(flow, &item);
    if (rc < 0) {
        kept_unref(item.kept);
        flow_item_release(&item);
    }
    stored_message_release(m);
    return rc;
}

static int on_message(void *context, uint64_t number, struct stored_message *message)
{
    struct restoring *r = context;
    struct session *session = session_of(r, number);
    if (!session) {
        stored_message_release(message);
        return 0;
    }
    bool queued = message->packet_id == 0, again = !queued || (message->qos == 1 && r->again > 0);
    r->again -= queued && again && !message->behind; /* those before it come first */
    int rc = append(r->worker, session, message, again);
    if (rc == -EINVAL) {
        r->durable->unreadable++;
        return 0;
    }
    r->durable->restored_messages += rc == 0;
    return rc;
}

void durable_append(struct worker *worker, struct session *session, struct stored_message *message)
{
    struct flow *flow = session->flow; /* that it was loaded for */
    bool again = flow->again > 0 && message->qos == 1;
    flow->again = (uint16_t)(flow->again - again);
    if (append(worker, session, message, again) < 0)
        COUNT(worker, publish_dropped, 1);
}

static int on_rest(void *context, uint64_t number, uint64_t after, uint64_t last, uint64_t count,
                   uint64_t bytes)
{
    const struct restoring *r = context;
    struct session *session = session_of(r, number);
    (void)last;
    if (!session || count == 0)
        return 0;
    struct flow *flow = session_flow(r->worker, session);
    if (!flow)
        return -ENOMEM;
    flow->spilled = count;
    flow->spilled_bytes = bytes;
    flow->spill_after = after;
    flow->spill_expires = 1; /* it will be looked */
    flow->again = (uint16_t)(r->again > UINT16_MAX ? UINT16_MAX : r->again);
    r->durable->restored_messages += count;
    return 0;
}

int durable_restore(struct durable *durable)
{
    static const struct durable_visitor visitor = {
        .retained = on_retained,
        .session = on_session,
        .subscription = on_subscription,
        .received = on_received,
        .message = on_message,
        .rest = on_rest,
    };
    const struct durable_clock clock = {
        .broker = durable->broker,
        .retained = durable->broker->retained,
    };
    struct restoring r = { .durable = durable, .now_ms = clock_wall_ms() };
    uint64_t last = 0, unreadable = 0;
    int rc =
        durable_read(store_connection(durable->store), &clock, &visitor, &r, &last, &unreadable);
    if (rc < 0) {
        log_error("store: the broker's sessions cannot be read: %s", strerror(-rc));
        return rc;
    }
    durable->unreadable += unreadable;
    atomic_store(&durable->last, last);
    if (durable->restored_sessions + durable->restored_retained > 0)
        log_info("broker: restored sessions=%" PRIu64 " messages=%" PRIu64 " retained=%" PRIu64,
                 durable->restored_sessions, durable->restored_messages,
                 durable->restored_retained);
    if (durable->unreadable > 0)
        log_error("store: %" PRIu64 " records of the broker cannot be read; they stay in the file",
                  durable->unreadable);
    return 0;
}
