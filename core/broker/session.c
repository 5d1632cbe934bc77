/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/session.h"

#include "base/map.h"
#include "broker/deliver.h"
#include "broker/durable.h"
#include "broker/receipt.h"
#include "broker/subscribe.h"
#include "broker/worker.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 64

/* ---- The table ---- */

struct session *sessions_find(const struct sessions *sessions, const char *id, size_t len)
{
    if (!sessions->buckets)
        return NULL;
    uint32_t hash = (uint32_t)map_hash(id, len);
    struct session *session = sessions->buckets[hash & sessions->mask];
    while (session &&
           (session->hash != hash || session->id_len != len || memcmp(session->id, id, len) != 0))
        session = session->next;
    return session;
}

static bool grow(struct sessions *sessions)
{
    size_t buckets = sessions->buckets ? (sessions->mask + 1) * 2 : BUCKETS_FIRST;
    struct session **fresh = calloc(buckets, sizeof(struct session *));
    if (!fresh)
        return sessions->buckets != NULL;
    for (size_t i = 0; sessions->buckets && i <= sessions->mask; i++) {
        for (struct session *s = sessions->buckets[i], *next; s; s = next) {
            next = s->next;
            s->next = fresh[s->hash & (buckets - 1)];
            fresh[s->hash & (buckets - 1)] = s;
        }
    }
    free(sessions->buckets);
    sessions->buckets = fresh;
    sessions->mask = buckets - 1;
    return true;
}

struct session *session_new(struct worker *worker, const char *id, size_t len)
{
    struct sessions *sessions = &worker->sessions;
    if ((!sessions->buckets || sessions->count > sessions->mask) && !grow(sessions))
        return NULL;
    struct session *session = calloc(1, sizeof(*session) + len + 1);
    if (!session)
        return NULL;
    session->hash = (uint32_t)map_hash(id, len);
    session->id_len = (uint16_t)len;
    memcpy(session->id, id, len);
    struct session **bucket = &sessions->buckets[session->hash & sessions->mask];
    session->next = *bucket;
    *bucket = session;
    sessions->count++;
    COUNT(worker, clients_total, 1);
    return session;
}

static void forget(struct worker *worker, struct session *session)
{
    struct session **at = &worker->sessions.buckets[session->hash & worker->sessions.mask];
    while (*at != session)
        at = &(*at)->next;
    *at = session->next;
    worker->sessions.count--;
    COUNT(worker, clients_total, -1);
}

struct flow *session_flow(struct worker *worker, struct session *session)
{
    if (!session->flow && (session->flow = flow_new(&worker->flows, session)))
        session->flow->worker = worker;
    return session->flow;
}

/* ---- Wills ---- */

void session_forget_will(struct session *session)
{
    if (!session->will)
        return;
    publication_unref(session->will->publication);
    free(session->will);
    session->will = NULL;
}

void session_publish_will(struct worker *worker, struct session *session)
{
    struct will *will = session->will;
    if (!will)
        return;
    session->will = NULL;
    if (will->expiry)
        will->publication->expires = expires_after(worker->second, will->expiry);
    struct publish publish = publish_of(will->publication);
    publish.from = session;
    if (session->tenure && publish.qos > 0)
        publish.receipt = receipt_for_will(worker);
    publish.wants_receipt = publish.receipt != NULL;
    if (publish.retain)
        route_retain(worker, &publish);
    route(worker, &publish);
    if (publish.failed)
        COUNT(worker, publish_dropped, 1);
    if (publish.receipt) {
        publish.receipt->will = publish.elsewhere ? durable_will(worker, will) : 0;
        receipt_done(publish.receipt, publish.failed);
    }
    publication_unref(will->publication);
    free(will);
}

/* ---- Absence ---- */

uint32_t session_expiry_allowed(const struct worker *worker, uint32_t wanted)
{
    int64_t most = worker->settings->persistent_client_expiration.ms / 1000;
    return most > 0 && wanted > most ? (uint32_t)most : wanted;
}

static void end_absence(struct worker *worker, struct session *session)
{
    if (!session->absence)
        return;
    loop_timer_stop(&worker->loop, &session->absence->timer);
    free(session->absence);
    session->absence = NULL;
}

static void await_next(struct worker *worker, struct absence *absence)
{
    uint32_t at = absence->will_at;
    if (absence->expires_at && (at == 0 || absence->expires_at < at))
        at = absence->expires_at;
    if (at == 0)
        return;
    uint32_t span = at > worker->second ? at - worker->second : 0;
    loop_timer_start(&worker->loop, &absence->timer, (int64_t)span * 1000);
}

bool session_has_expired(const struct worker *worker, const struct session *session)
{
    const struct absence *absence = session->absence;
    return absence && absence->expires_at && absence->expires_at <= worker->second;
}

static void look_at(struct worker *worker, struct session *session)
{
    struct absence *absence = session->absence;
    if (absence->will_at && absence->will_at <= worker->second) {
        absence->will_at = 0;
        session_publish_will(worker, session);
        if (session_is_persistent(session))
            durable_session(worker, session);
    }
    if (session_has_expired(worker, session)) {
        COUNT(worker, clients_expired, 1);
        session_end(worker, session);
        return;
    }
    await_next(worker, absence);
}

void session_absence_ended(struct timer_wheel *wheel, struct timer *timer)
{
    struct loop *loop = CONTAINER_OF(wheel, struct loop, timers);
    struct worker *worker = CONTAINER_OF(loop, struct worker, loop);
    look_at(worker, CONTAINER_OF(timer, struct absence, timer)->session);
}

static void set_connected(const struct session *session, bool connected)
{
    for (struct share_member *m = session->members; m; m = m->next)
        atomic_store(&m->connected, connected);
}

static uint32_t second_after(const struct worker *worker, uint32_t span)
{
    uint64_t at = (uint64_t)worker->second + span;
    return at > UINT32_MAX ? UINT32_MAX : (uint32_t)at;
}

static bool begin_absence(struct worker *worker, struct session *session, uint32_t will_in,
                          uint32_t ends_in)
{
    struct absence *absence = calloc(1, sizeof(*absence));
    if (!absence)
        return false;
    absence->timer.kind = worker->absence_kind;
    absence->session = session;
    absence->will_at = session->will ? second_after(worker, will_in) : 0;
    absence->expires_at = ends_in == EXPIRY_NEVER ? 0 : second_after(worker, ends_in);
    session->absence = absence;
    await_next(worker, absence);
    return true;
}

void session_await(struct worker *worker, struct session *session, uint32_t will_in,
                   uint32_t ends_in)
{
    set_connected(session, false);
    begin_absence(worker, session, will_in, ends_in);
}

void session_leave(struct worker *worker, struct session *session, bool graceful)
{
    /* That the broker goes is no reason to say that its clients have gone: on disk the will stays. */
    if (worker->closing)
        tenure_end(session);
    if (graceful || worker->closing)
        session_forget_will(session);
    if (session->flow)
        flow_interrupted(session->flow);
    if (!session_is_persistent(session)) {
        session_end(worker, session);
        return;
    }
    set_connected(session, false);
    if (session->members && !worker->closing) /* then the others go too, and on disk all stays */
        deliver_to_others(worker, session, NULL);
    if (session->will && session->will->delay == 0)
        session_publish_will(worker, session);
    if (!begin_absence(worker, session, session->will ? session->will->delay : 0, session->expiry))
        session_publish_will(worker, session); /* it stays until the client comes back */
    durable_session(worker, session);
    if (session->flow && session_is_durable(session))
        deliver_spill(session);
}

void session_return(struct worker *worker, struct session *session)
{
    session_forget_will(session); /* the client is back within the delay [MQTT-3.1.3-9] */
    end_absence(worker, session);
    session->orphaned = false;
    set_connected(session, true);
}

/* ---- The end ---- */

void session_end(struct worker *worker, struct session *session)
{
    session_publish_will(worker, session);
    end_absence(worker, session);
    subscriptions_drop(worker, session);
    durable_session_end(worker, session);
    receipts_forget(session);
    flow_free(session->flow);
    ids_free(session->received);
    forget(worker, session);
    free(session);
}

void sessions_release(struct worker *worker)
{
    for (size_t i = 0; worker->sessions.buckets && i <= worker->sessions.mask; i++) {
        while (worker->sessions.buckets[i]) {
            struct session *session = worker->sessions.buckets[i];
            session_forget_will(session);
            tenure_end(session); /* on disk it stays */
            session_end(worker, session);
        }
    }
    free(worker->sessions.buckets);
    worker->sessions = (struct sessions){ 0 };
}
