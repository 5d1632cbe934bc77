/* SPDX-License-Identifier: MIT */

/*
 * Workers: a thread with one instance of the plugin, which it calls with what is due. A call that
 * outlasts the deadline costs the worker its place: its deliveries go back to the queue, another worker
 * takes the place, and the old thread, whenever it comes back, cleans up behind itself and ends.
 *
 * The deadline is one call's, however many deliveries it has, so a batch begins small and grows only while
 * calls are far from it: a service that takes a second for each message is slow, not dead.
 */

#include "base/clock.h"
#include "delivery/service.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_OPEN_WAIT 100         /* ms */
#define LAST_OPEN_WAIT  (60 * 1000) /* ms */
#define GRACE           500 /* ms: for a call that is under way when the time to stop is over */

struct worker {
    struct service *service; /* a reference */
    size_t place;            /* in the service's workers */
    pthread_t thread;
    pthread_cond_t wake;
    struct instance_host host;

    /* The thread's own. */
    void *self; /* the plugin's instance */
    bool is_open;
    int64_t open_after_ms, open_wait_ms; /* after an open() that failed */
    struct log_trouble opening;
    struct tocsin_delivery *results;
    struct tocsin_delivery **pointers; /* to them */
    struct settling settling;
    size_t batch_max; /* for now; at most the service's */

    /* Under the service's lock. */
    struct delivery **batch; /* with the thread: `n` of them */
    size_t n;
    int64_t busy_since_ms; /* in the plugin; 0 when not */
    bool waiting, abandoned, ended, reopen;
};

/* ---- Making ---- */

static void worker_free(struct worker *w)
{
    if (!w)
        return;
    pthread_cond_destroy(&w->wake);
    free(w->results);
    free(w->pointers);
    free(w->settling.fates);
    free(w->settling.notes);
    free(w->batch);
    service_unref(w->service);
    free(w);
}

static struct worker *worker_new(struct service *s, size_t place)
{
    struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    service_ref(s);
    w->service = s;
    w->place = place;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    instance_host_init(&w->host, s->name, s->host);
    w->batch_max = s->first_batch;
    w->results = calloc(s->max_batch, sizeof(*w->results));
    w->pointers = calloc(s->max_batch, sizeof(struct tocsin_delivery *));
    w->settling.fates = calloc(s->max_batch, sizeof(*w->settling.fates));
    w->settling.notes = calloc(s->max_batch, sizeof(*w->settling.notes));
    w->batch = calloc(s->max_batch, sizeof(struct delivery *));
    if (!w->results || !w->pointers || !w->settling.fates || !w->settling.notes || !w->batch) {
        worker_free(w);
        return NULL;
    }
    for (size_t i = 0; i < s->max_batch; i++)
        w->pointers[i] = &w->results[i];
    return w;
}

/* ---- In the plugin: the lock is dropped, and the watchdog looks on ---- */

static void enter_plugin(struct worker *w)
{
    w->busy_since_ms = clock_mono_ms();
    pthread_mutex_unlock(&w->service->lock);
}

/* Returns whether the worker still has its place. */
static bool leave_plugin(struct worker *w)
{
    pthread_mutex_lock(&w->service->lock);
    w->busy_since_ms = 0;
    return !w->abandoned;
}

/* Without an instance there is nothing to send with. Sets when to try again. */
static bool open_instance(struct worker *w)
{
    struct service *s = w->service;
    enter_plugin(w);
    void *self = NULL;
    int rc = s->plugin->open(&w->host.host, s->config, &self);
    bool has_place = leave_plugin(w);
    w->is_open = rc == 0;
    w->self = self;
    if (rc == 0) {
        if (log_trouble_over(&w->opening))
            log_info("%s: opened at last", s->name);
        w->open_wait_ms = 0;
        return has_place;
    }
    int64_t now_ms = clock_mono_ms();
    w->open_wait_ms = w->open_wait_ms ? w->open_wait_ms * 2 : FIRST_OPEN_WAIT;
    if (w->open_wait_ms > LAST_OPEN_WAIT)
        w->open_wait_ms = LAST_OPEN_WAIT;
    w->open_after_ms = now_ms + w->open_wait_ms;
    char text[80];
    if (log_trouble_due(&w->opening, now_ms))
        log_error("%s: cannot be opened, will be tried again: %s", s->name,
                  strerror_r(-rc, text, sizeof(text)));
    return false;
}

/* Lets the next batch be as large as is safe, after one that took so long. */
static void adapt_batch(struct worker *w, size_t n, int64_t took_ms)
{
    const struct service *s = w->service;
    if (took_ms > s->core.deadline.ms / 4)
        w->batch_max = w->batch_max > 4 ? w->batch_max / 4 : 1;
    else if (took_ms < s->core.deadline.ms / 16 && n == w->batch_max)
        w->batch_max = w->batch_max * 2 < s->max_batch ? w->batch_max * 2 : s->max_batch;
}

static void send_batch(struct worker *w)
{
    struct service *s = w->service;
    size_t n = w->n;
    for (size_t i = 0; i < n; i++)
        instance_prepare(&w->results[i], w->batch[i]);
    enter_plugin(w);
    int64_t begin_ms = clock_mono_ms();
    s->plugin->send(w->self, w->pointers, n);
    adapt_batch(w, n, clock_mono_ms() - begin_ms);
    bool has_place = leave_plugin(w);
    if (!has_place)
        return; /* the deliveries are somebody else's */
    for (size_t i = 0; i < n; i++)
        if (w->results[i].verdict != TOCSIN_SENT && w->results[i].verdict != TOCSIN_REJECT)
            w->results[i].verdict = TOCSIN_RETRY;
    w->n = 0;
    service_settle(s, w->batch, w->results, n, &w->settling);
}

static void reopen_instance(struct worker *w)
{
    w->reopen = false;
    if (!w->is_open || !w->service->plugin->reopen)
        return;
    enter_plugin(w);
    w->service->plugin->reopen(w->self);
    leave_plugin(w);
}

/* ---- The thread ---- */

static struct timespec as_timespec(int64_t ms)
{
    return (struct timespec){ .tv_sec = (time_t)(ms / 1000), .tv_nsec = (ms % 1000) * 1000000 };
}

/* Waits for something to do, or for `due_ms`. Returns false when the worker is to end. */
static bool wait_for_work(struct worker *w, int64_t due_ms)
{
    struct service *s = w->service;
    if (s->stopping && due_ms > s->stop_ms) {
        /* What waits for another worker's try at a target that is down may become due yet. */
        if (due_ms < QUEUE_NEVER || queue_worker_count(s->queue, w->place) == 0)
            return false;
        due_ms = s->stop_ms;
    }
    w->waiting = true;
    if (due_ms == QUEUE_NEVER) {
        pthread_cond_wait(&w->wake, &s->lock);
    } else {
        struct timespec until = as_timespec(due_ms);
        pthread_cond_timedwait(&w->wake, &s->lock, &until);
    }
    w->waiting = false;
    return true;
}

/* One turn, with the lock. Returns false when the worker is to end. */
static bool turn(struct worker *w)
{
    struct service *s = w->service;
    int64_t now_ms = clock_mono_ms();
    if (s->stopping && now_ms >= s->stop_ms)
        return false;
    if (w->reopen) {
        reopen_instance(w);
        return true;
    }
    int64_t due_ms = queue_due(s->queue, w->place, now_ms);
    if (!w->is_open && due_ms < w->open_after_ms)
        due_ms = w->open_after_ms;
    if (due_ms > now_ms)
        return wait_for_work(w, due_ms);
    if (!w->is_open) {
        open_instance(w);
        return true;
    }
    w->n = queue_take(s->queue, w->place, now_ms, w->batch, w->batch_max);
    service_tell_news(s);
    if (queue_has_moving(s->queue)) {
        pthread_mutex_unlock(&s->lock);
        service_move(s);
        pthread_mutex_lock(&s->lock);
    }
    if (w->n > 0)
        send_batch(w);
    return true;
}

/* The last things of a thread that was given up on, with the lock: it must not touch the place. */
static void end_abandoned(struct worker *w)
{
    struct service *s = w->service;
    s->abandoned--;
    if (s->running && !s->stopping)
        service_start_workers(s); /* a place may be empty, because there were too many */
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < w->n; i++)
        delivery_return(w->batch[i]);
    worker_free(w);
}

static void *worker_main(void *context)
{
    struct worker *w = context;
    struct service *s = w->service;

    pthread_mutex_lock(&s->lock);
    while (!w->abandoned && turn(w))
        continue;
    if (w->is_open) {
        enter_plugin(w);
        s->plugin->close(w->self);
        leave_plugin(w);
    }
    if (w->abandoned) {
        end_abandoned(w);
        return NULL;
    }
    w->ended = true;
    pthread_cond_broadcast(&s->ended);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *context)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return -rc;
    char short_name[16];
    snprintf(short_name, sizeof(short_name), "%s", name);
    pthread_setname_np(*thread, short_name);
    return 0;
}

int service_start_workers(struct service *service)
{
    service->running = true;
    for (size_t i = 0; i < service->worker_count; i++) {
        if (service->workers[i])
            continue;
        struct worker *w = worker_new(service, i);
        int rc = w ? thread_start(&w->thread, service->name, worker_main, w) : -ENOMEM;
        if (rc < 0) {
            worker_free(w);
            return rc;
        }
        service->workers[i] = w;
    }
    return 0;
}

/* ---- From outside ---- */

void service_wake(struct service *service, size_t worker)
{
    struct worker *w = service->workers[worker];
    if (!w || !w->waiting)
        return;
    w->waiting = false;
    pthread_cond_signal(&w->wake);
}

void service_reopen(struct service *service)
{
    pthread_mutex_lock(&service->lock);
    for (size_t i = 0; i < service->worker_count; i++) {
        if (service->workers[i])
            service->workers[i]->reopen = true;
        service_wake(service, i);
    }
    pthread_mutex_unlock(&service->lock);
}

/*
 * Takes a worker's place away, with the lock. Its deliveries go back to the queue as failed. The thread
 * may still write into its own results, so others take their part. Returns false when there is no memory
 * for them: then nothing has changed.
 */
static bool abandon(struct service *s, size_t place)
{
    struct worker *w = s->workers[place];
    size_t n = w->n;
    struct delivery **batch = calloc(n + 1, sizeof(struct delivery *));
    struct tocsin_delivery *results = calloc(n + 1, sizeof(*results));
    struct settling room = { calloc(n + 1, sizeof(*room.fates)), calloc(n + 1, 1) };
    bool ok = batch && results && room.fates && room.notes;
    if (ok) {
        w->abandoned = true;
        atomic_store(&w->host.cut_off, true);
        pthread_detach(w->thread);
        s->workers[place] = NULL;
        s->abandoned++;
        s->first_batch = 1; /* whoever comes next is careful */
        for (size_t i = 0; i < n; i++) {
            batch[i] = w->batch[i];
            delivery_borrow(batch[i]);
            instance_prepare(&results[i], batch[i]);
            snprintf(results[i].reason, sizeof(results[i].reason),
                     "no answer from the plugin in %" PRId64 " ms", s->core.deadline.ms);
        }
        log_error("%s: plugin does not come back, its worker is given up on", s->name);
        service_settle(s, batch, results, n, &room);
    }
    free(batch);
    free(results);
    free(room.fates);
    free(room.notes);
    return ok;
}

void service_check_deadline(struct service *service, int64_t now_ms)
{
    pthread_mutex_lock(&service->lock);
    bool empty = false;
    for (size_t i = 0; service->running && i < service->worker_count; i++) {
        const struct worker *w = service->workers[i];
        if (w && w->busy_since_ms > 0 && now_ms - w->busy_since_ms >= service->core.deadline.ms)
            abandon(service, i);
        empty |= !service->workers[i];
    }
    /* Also places for which there was no memory, or no thread, the last time. */
    if (empty && service->abandoned <= SERVICE_MOST_ABANDONED && !service->stopping)
        service_start_workers(service);
    pthread_mutex_unlock(&service->lock);
}

void service_begin_stop(struct service *service, int64_t stop_ms)
{
    pthread_mutex_lock(&service->lock);
    service->stopping = true;
    service->stop_ms = stop_ms;
    for (size_t i = 0; i < service->worker_count; i++)
        service_wake(service, i);
    pthread_mutex_unlock(&service->lock);
}

/* Awaits the end of a worker; gives up on one that is in the plugin a while after the stop. Returns whether
 * it has ended. */
static bool await_end(struct service *s, const struct worker *w)
{
    int64_t until_ms = s->stop_ms + GRACE;
    while (!w->ended) {
        const struct timespec until = as_timespec(until_ms);
        if (pthread_cond_timedwait(&s->ended, &s->lock, &until) != ETIMEDOUT)
            continue;
        if (w->busy_since_ms > 0)
            return false;
        until_ms = clock_mono_ms() + GRACE;
    }
    return true;
}

void service_finish_stop(struct service *service)
{
    pthread_mutex_lock(&service->lock);
    for (size_t i = 0; i < service->worker_count; i++) {
        struct worker *w = service->workers[i];
        if (!w)
            continue;
        if (!await_end(service, w) && abandon(service, i))
            continue;
        while (!w->ended) /* no memory to leave it behind */
            pthread_cond_wait(&service->ended, &service->lock);
        service->workers[i] = NULL;
        pthread_mutex_unlock(&service->lock);
        pthread_join(w->thread, NULL);
        worker_free(w);
        pthread_mutex_lock(&service->lock);
    }
    service->running = false;
    pthread_mutex_unlock(&service->lock);
}
