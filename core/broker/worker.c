/* SPDX-License-Identifier: MIT */

/* The loop of a worker: letters in, turns, letters out. The worker's thread but where it says other. */

#include "broker/worker.h"

#include "base/clock.h"
#include "broker/client.h"
#include "broker/deliver.h"
#include "broker/durable.h"
#include "broker/parcel.h"
#include "broker/publishing.h"
#include "broker/receipt.h"
#include "broker/subscribe.h"
#include "broker/sys.h"
#include "broker/tap.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define PULSE_MS      1000
#define HURRY_MS      20                 /* while connections are paused */
#define BACKLOG_BYTES (32 * 1024 * 1024) /* of another worker: above, publishers stay paused */
#define POOL_KEPT     256                /* chunks */
#define TRIM_SESSIONS 500                /* so many must have ended, more than are left, */
#define TRIM_MS       15000              /* and so long ago, that caches have been swept too */
#define SWEEP_DISK_MS (10 * 60 * 1000)
#define SWEEP         1000 /* retained messages looked at every second */

/* ---- Letters ---- */

static size_t letter_size(const struct letter *letter)
{
    if (letter->kind == LETTER_PARCEL)
        return parcel_size((const struct letter_parcel *)letter);
    if (letter->kind != LETTER_PUBLICATION && letter->kind != LETTER_SHARED)
        return 0;
    return publication_size(((const struct letter_publication *)letter)->publication);
}

void worker_write(struct worker *worker, unsigned to, struct letter *letter, size_t size)
{
    if (size > 0)
        atomic_fetch_add_explicit(&worker->broker->workers[to]->backlog, size,
                                  memory_order_relaxed);
    worker->parcels[to] = NULL; /* what comes later must not overtake this */
    mailbag_add(&worker->bags[to], &letter->mail);
}

static void read_publication(struct worker *worker, struct letter_publication *letter)
{
    struct publish publish = publish_of(letter->publication);
    publish.receipt = letter->receipt;
    publish.wants_receipt = letter->receipt != NULL;
    publish.was = letter->was;
    if (letter->letter.kind == LETTER_SHARED)
        deliver_shared(worker, letter->member, &publish);
    else
        route_here(worker, &publish);
    if (publish.failed)
        COUNT(worker, publish_dropped, 1);
    if (letter->receipt)
        receipt_done(letter->receipt, publish.failed);
    kept_unref(publish.was);
    publication_unref(letter->publication);
    free(letter);
}

static void stop_intake(struct worker *worker)
{
    worker->stopping = true;
    for (size_t i = 0; i < worker->settings->listener_count; i++)
        acceptor_stop(&worker->acceptors[i]);
    for (struct client *c = worker->clients; c; c = c->next)
        client_pause(c);
}

/* Tells all clients, and lets the loop end after this turn. */
static void stop(struct worker *worker)
{
    worker->closing = true;
    for (struct client *c = worker->clients; c; c = c->next)
        client_end(c, MQTT_SERVER_SHUTTING_DOWN, NULL);
    loop_stop(&worker->loop);
}

static void obey(struct worker *worker, struct letter_order *letter)
{
    switch (letter->order) {
    case ORDER_STOP_INTAKE:
        stop_intake(worker);
        break;
    case ORDER_STOP:
        stop_intake(worker);
        stop(worker);
        break;
    case ORDER_BARRIER:
        break;
    }
    if (letter->done)
        sem_post(letter->done);
    free(letter);
}

static void on_mail(struct loop *loop, struct mail *first)
{
    struct worker *worker = CONTAINER_OF(loop, struct worker, loop);
    for (struct mail *mail = first, *next; mail; mail = next) {
        next = mail->next;
        struct letter *letter = CONTAINER_OF(mail, struct letter, mail);
        size_t size = letter_size(letter);
        switch (letter->kind) {
        case LETTER_CLIENT: {
            struct client *c = ((struct letter_client *)letter)->client;
            free(letter);
            client_arrive(worker, c);
            break;
        }
        case LETTER_PUBLICATION:
        case LETTER_SHARED:
            read_publication(worker, (struct letter_publication *)letter);
            break;
        case LETTER_PARCEL:
            parcel_read(worker, (struct letter_parcel *)letter);
            break;
        case LETTER_RECEIPT:
            receipt_arrive(worker, CONTAINER_OF(letter, struct receipt, letter));
            break;
        case LETTER_PUBLISH:
            publishing_arrive(worker, letter);
            break;
        case LETTER_DURABLE:
            durable_arrive(worker, letter);
            break;
        case LETTER_ORDER:
            obey(worker, (struct letter_order *)letter);
            break;
        }
        if (size > 0)
            atomic_fetch_sub_explicit(&worker->backlog, size, memory_order_relaxed);
    }
}

/* Any thread. */
int worker_order(struct worker *worker, enum worker_order order, sem_t *done)
{
    struct letter_order *letter = calloc(1, sizeof(*letter));
    if (!letter)
        return -ENOMEM;
    letter->letter.kind = LETTER_ORDER;
    letter->order = order;
    letter->done = done;
    loop_post_one(&worker->loop, &letter->letter.mail);
    return 0;
}

/* ---- Pauses ---- */

void worker_pause(struct worker *worker, struct client *c)
{
    if (c->ending)
        return;
    client_pause(c);
    if (c->in_paused)
        return;
    c->in_paused = true;
    c->next_paused = worker->paused;
    worker->paused = c;
    loop_timer_start(&worker->loop, &worker->pulse, HURRY_MS);
}

static bool others_are_behind(const struct worker *worker)
{
    const struct broker *broker = worker->broker;
    for (unsigned i = 0; i < broker->worker_count; i++)
        if (i != worker->index && atomic_load_explicit(&broker->workers[i]->backlog,
                                                       memory_order_relaxed) > BACKLOG_BYTES)
            return true;
    return false;
}

static void resume_paused(struct worker *worker)
{
    if (!worker->paused || worker->stopping || taps_are_crowded(worker->broker) ||
        durable_is_crowded(worker->broker->durable) || others_are_behind(worker))
        return;
    struct client *waiting = worker->paused;
    worker->paused = NULL;
    for (struct client *c = waiting, *next; c; c = next) {
        next = c->next_paused;
        c->in_paused = false;
        if (client_is_behind(c) || c->waiting * 2 > worker->settings->receive_maximum)
            worker_pause(worker, c);
        else
            client_resume(c);
    }
}

/* ---- Turns ---- */

static void free_empty_flows(struct worker *worker)
{
    uint64_t stored = 0, bytes = 0;
    struct flow *late = NULL;
    for (struct flow *flow = worker->flows, *next; flow; flow = next) {
        next = flow->next;
        stored += flow->queued + flow->spilled + flow->in_flight + flow->unsent;
        bytes += flow->queued_bytes + flow->spilled_bytes + flow->in_flight_bytes;
        if (!flow_is_empty(flow)) {
            deliver_spill(flow->owner);
            if (!durable_expire(worker, flow->owner) && !late)
                late = flow;
            continue;
        }
        flow->owner->flow = NULL;
        flow_free(flow);
    }
    if (late)
        flows_begin_with(&worker->flows, late);
    atomic_store_explicit(&worker->counters.stored, stored, memory_order_relaxed);
    atomic_store_explicit(&worker->counters.stored_bytes, bytes, memory_order_relaxed);
}

/* Malloc keeps pages that became free between others. After many clients have gone these are nearly all. */
static void trim_memory(struct worker *worker)
{
    int64_t now = loop_now_ms(&worker->loop);
    size_t sessions = worker->sessions.count;
    if (sessions > worker->most_sessions)
        worker->most_sessions = sessions;
    if (worker->trim_ms && now >= worker->trim_ms) {
        worker->trim_ms = 0;
        worker->most_sessions = sessions;
        malloc_trim(0);
    } else if (!worker->trim_ms && worker->most_sessions - sessions >= TRIM_SESSIONS + sessions) {
        worker->trim_ms = now + TRIM_MS;
    }
}

/* What the log has not been told of. */
static void log_rest(struct worker *worker)
{
    int64_t now = loop_now_ms(&worker->loop);
    uint64_t n = log_rate_rest(&worker->bad_packets, now);
    if (n > 0)
        log_warning("%" PRIu64 " more bad packets in the last minute", n);
    n = log_rate_rest(&worker->dropped, now);
    if (n > 0)
        log_warning("%" PRIu64 " more messages dropped in the last minute", n);
    n = log_rate_rest(&worker->turned_away, now);
    if (n > 0)
        log_warning("%" PRIu64 " more connections refused in the last minute", n);
}

static void on_pulse(struct timer_wheel *wheel, struct timer *timer)
{
    (void)timer;
    struct loop *loop = CONTAINER_OF(wheel, struct loop, timers);
    struct worker *worker = CONTAINER_OF(loop, struct worker, loop);
    int64_t now = loop_now_ms(loop);
    if (now >= worker->housekeeping_ms) {
        worker->housekeeping_ms = now + PULSE_MS;
        free_empty_flows(worker);
        routing_sweep(worker);
        trim_memory(worker);
        log_rest(worker);
        output_pool_trim(&worker->pool, POOL_KEPT);
        if (worker->index == 0 && now >= worker->sweep_ms) {
            worker->sweep_ms = now + SWEEP_DISK_MS;
            durable_sweep(worker);
        }
        if (worker->index == 0) {
            retained_sweep(worker->broker->retained, worker->second, SWEEP);
            sys_publish(worker);
        }
    }
    resume_paused(worker);
    if (!timer_is_running(&worker->pulse))
        loop_timer_start(loop, &worker->pulse, worker->paused ? HURRY_MS : PULSE_MS);
}

void worker_post(struct worker *worker)
{
    if (worker->tapped)
        taps_settle(worker);
    for (unsigned i = 0; i < worker->broker->worker_count; i++)
        if (!mailbag_is_empty(&worker->bags[i])) {
            worker->parcels[i] = NULL;
            loop_post(&worker->broker->workers[i]->loop, &worker->bags[i]);
        }
}

static void on_turn_end(struct loop *loop)
{
    struct worker *worker = CONTAINER_OF(loop, struct worker, loop);
    if (worker->walks && walks_go_on(worker))
        loop_again(loop);
    if (worker->paused)
        resume_paused(worker);
    /* What closing leads to (wills) belongs to this turn too. */
    do {
        worker_post(worker);
        clients_settle(worker);
    } while (worker->tapped);
    worker_post(worker);
    durable_post(worker);
}

static void on_turn_start(struct loop *loop)
{
    struct worker *worker = CONTAINER_OF(loop, struct worker, loop);
    worker->second = broker_second(worker->broker, loop_now_ms(loop));
}

static void on_accepted(struct acceptor *acceptor, int fd)
{
    struct worker *worker = CONTAINER_OF(acceptor->loop, struct worker, loop);
    client_open(worker, acceptor->context, fd);
}

static int start_acceptors(struct worker *worker)
{
    const struct broker_settings *settings = worker->settings;
    for (size_t i = 0; i < settings->listener_count; i++) {
        int rc =
            acceptor_start(&worker->acceptors[i], &worker->loop, settings->listeners[i].listener,
                           on_accepted, &settings->listeners[i]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void *run(void *context)
{
    struct worker *worker = context;
    int rc = loop_run(&worker->loop);
    if (rc < 0)
        log_error("broker worker %u has failed: %s", worker->index, strerror(-rc));
    stop(worker);
    clients_settle(worker);
    durable_post(worker);
    return NULL;
}

/* ---- Life; the main thread ---- */

struct worker *worker_new(struct broker *broker, unsigned index)
{
    struct worker *worker = calloc(1, sizeof(*worker));
    if (!worker)
        return NULL;
    worker->broker = broker;
    worker->settings = &broker->settings;
    worker->index = index;
    worker->second = 1;
    worker->filters = filters_new();
    worker->acceptors = calloc(broker->settings.listener_count + 1, sizeof(*worker->acceptors));
    worker->bags = calloc(broker->worker_count, sizeof(*worker->bags));
    worker->parcels = calloc(broker->worker_count, sizeof(struct letter_parcel *));
    if (!worker->filters || !worker->acceptors || !worker->bags || !worker->parcels ||
        loop_init(&worker->loop) < 0) {
        filters_free(worker->filters);
        free(worker->acceptors);
        free(worker->bags);
        free(worker->parcels);
        free(worker);
        return NULL;
    }
    worker->loop.mail = on_mail;
    worker->loop.turn_start = on_turn_start;
    worker->loop.turn_end = on_turn_end;
    struct timer_wheel *wheel = &worker->loop.timers;
    worker->client_kind = timer_wheel_kind(wheel, client_timer_ended);
    worker->absence_kind = timer_wheel_kind(wheel, session_absence_ended);
    worker->pulse.kind = timer_wheel_kind(wheel, on_pulse);
    return worker;
}

int worker_start(struct worker *worker)
{
    loop_timer_start(&worker->loop, &worker->pulse, 1);
    int rc = start_acceptors(worker);
    if (rc == 0)
        rc = -pthread_create(&worker->thread, NULL, run, worker);
    worker->started = rc == 0;
    return rc;
}

void worker_join(struct worker *worker)
{
    if (worker->started)
        pthread_join(worker->thread, NULL);
    worker->started = false;
}

static void throw_publication_away(struct letter_publication *letter)
{
    if (letter->receipt)
        receipt_done(letter->receipt, true);
    kept_unref(letter->was);
    publication_unref(letter->publication);
    free(letter);
}

static void throw_away(struct worker *worker, struct letter *letter)
{
    struct letter_publication *publication = (struct letter_publication *)letter;
    switch (letter->kind) {
    case LETTER_CLIENT:
        client_discard(worker, ((struct letter_client *)letter)->client);
        free(letter);
        break;
    case LETTER_SHARED:
        share_member_done(publication->member);
        share_member_unref(publication->member);
        throw_publication_away(publication);
        break;
    case LETTER_PUBLICATION:
        throw_publication_away(publication);
        break;
    case LETTER_PARCEL:
        parcel_discard((struct letter_parcel *)letter);
        break;
    case LETTER_RECEIPT:
        receipt_arrive(worker, CONTAINER_OF(letter, struct receipt, letter));
        break;
    case LETTER_PUBLISH:
        publishing_refuse(letter);
        break;
    case LETTER_DURABLE:
        durable_discard(letter);
        break;
    case LETTER_ORDER:
        if (((struct letter_order *)letter)->done)
            sem_post(((struct letter_order *)letter)->done);
        free(letter);
        break;
    }
}

void worker_clear(struct worker *worker)
{
    for (struct mail *mail = mailbox_take(&worker->loop.mailbox), *next; mail; mail = next) {
        next = mail->next;
        throw_away(worker, CONTAINER_OF(mail, struct letter, mail));
    }
}

void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    worker->closing = true; /* also if it has never run */
    worker_clear(worker);
    while (worker->walks) {
        struct retained_walk *walk = worker->walks;
        subscriptions_drop(worker, walk->session);
    }
    sessions_release(worker);
    routing_release(&worker->routing);
    filters_free(worker->filters);
    output_pool_trim(&worker->pool, 0);
    sys_free(worker->sys);
    loop_release(&worker->loop);
    free(worker->acceptors);
    free(worker->bags);
    free(worker->parcels);
    free(worker);
}
