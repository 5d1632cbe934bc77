/* SPDX-License-Identifier: MIT */

#include "link/sender.h"

#include "base/clock.h"
#include "base/log.h"
#include "link/connection.h"
#include "link/notices.h"
#include "link/properties.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_IN_FLIGHT       1000
#define MAX_IN_FLIGHT_BYTES (64 * 1024 * 1024)
#define READS               64 /* between two looks at the queue */
#define BYE_WAIT_MS         1000

/* One publish() call, on its caller's stack. */
struct batch {
    size_t waiting; /* entries without a result */
    pthread_cond_t done;
};

struct entry {
    struct entry *next;
    struct batch *batch;
    struct tocsin_publication *publication;
    int mid;
};

/* A queue with its end. */
struct entries {
    struct entry *first, **end;
};

/* What a callback said; kept until no lock of the library is held. */
struct answer {
    int mid, reason;
};

struct sender {
    const struct sender_config *config;
    struct connection connection;
    struct sender_counters counters;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* of all below */
    bool up;
    struct entries queue;     /* not given to the library yet */
    struct entries in_flight; /* without an answer */
    size_t in_flight_count, in_flight_bytes;
    char *status;      /* the document; NULL: none yet */
    bool status_fresh; /* it is to be published */
    bool status_last;  /* and stays */
    struct notices notices;

    /* The thread's own. */
    struct answer *answers;
    size_t answer_count, answer_room;
    bool answers_lost; /* there was no memory for one */
    struct log_trouble trouble;
};

static void entries_init(struct entries *entries)
{
    entries->first = NULL;
    entries->end = &entries->first;
}

static void entries_add(struct entries *entries, struct entry *entry)
{
    entry->next = NULL;
    *entries->end = entry;
    entries->end = &entry->next;
}

/* Takes out the entry at `at`, which is where a pointer to it is. */
static struct entry *entries_take(struct entries *entries, struct entry **at)
{
    struct entry *entry = *at;
    *at = entry->next;
    if (!*at)
        entries->end = at;
    return entry;
}

/* ---- Results; all under the lock ----------------------------------------------------------------- */

static void finish(struct sender *s, struct entry *entry, int error, uint8_t reason)
{
    entry->publication->error = error;
    entry->publication->reason_code = reason;
    atomic_fetch_add(error == 0 ? &s->counters.published : &s->counters.failed, 1);
    if (--entry->batch->waiting == 0)
        pthread_cond_signal(&entry->batch->done);
}

static void leave_flight(struct sender *s, const struct entry *entry)
{
    s->in_flight_count--;
    s->in_flight_bytes -= entry->publication->payload_len;
}

static void fail_all(struct sender *s)
{
    while (s->in_flight.first) {
        struct entry *entry = entries_take(&s->in_flight, &s->in_flight.first);
        leave_flight(s, entry);
        finish(s, entry, -EAGAIN, 0);
    }
    while (s->queue.first)
        finish(s, entries_take(&s->queue, &s->queue.first), -EAGAIN, 0);
}

/* Takes out all entries of a batch whose caller waits no longer. */
static void abandon(struct sender *s, struct batch *batch, int error)
{
    struct entries *const lists[] = { &s->queue, &s->in_flight };
    for (size_t i = 0; i < 2; i++)
        for (struct entry **at = &lists[i]->first; *at;) {
            if ((*at)->batch != batch) {
                at = &(*at)->next;
                continue;
            }
            struct entry *entry = entries_take(lists[i], at);
            if (lists[i] == &s->in_flight)
                leave_flight(s, entry);
            finish(s, entry, error, 0);
        }
}

/* Failures that trying again cannot mend are -EINVAL [MQTT-3.4.2.1, 3.5.2.1]. */
static int error_of(int reason)
{
    switch (reason) {
    case MQTT_RC_NOT_AUTHORIZED:
        return -EACCES;
    case MQTT_RC_TOPIC_NAME_INVALID:
    case MQTT_RC_PAYLOAD_FORMAT_INVALID:
    case MQTT_RC_PACKET_TOO_LARGE:
    case MQTT_RC_RETAIN_NOT_SUPPORTED:
    case MQTT_RC_QOS_NOT_SUPPORTED:
        return -EINVAL;
    default:
        return reason >= MQTT_RC_UNSPECIFIED ? -EAGAIN : 0;
    }
}

static void take_answers(struct sender *s)
{
    if (s->answer_count == 0)
        return;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->answer_count; i++) {
        /* Answers come about in the order of sending, so the search is short. */
        struct entry **at = &s->in_flight.first;
        while (*at && (*at)->mid != s->answers[i].mid)
            at = &(*at)->next;
        if (!*at) { /* one that nobody waits for: a notice, the status, what was abandoned */
            notices_answered(&s->notices, s->answers[i].mid);
            continue;
        }
        struct entry *entry = entries_take(&s->in_flight, at);
        leave_flight(s, entry);
        int reason = s->answers[i].reason;
        finish(s, entry, error_of(reason), (uint8_t)reason);
    }
    pthread_mutex_unlock(&s->lock);
    s->answer_count = 0;
}

static void on_publish(struct mosquitto *mosq, void *context, int mid, int reason,
                       const mosquitto_property *properties)
{
    (void)mosq;
    (void)properties;
    struct connection *c = context;
    struct sender *s = c->context;
    connection_note_progress(c);
    if (s->answer_count == s->answer_room) {
        size_t room = s->answer_room ? s->answer_room * 2 : 64;
        struct answer *larger = realloc(s->answers, room * sizeof(*larger));
        if (!larger) {
            s->answers_lost = true;
            return;
        }
        s->answers = larger;
        s->answer_room = room;
    }
    s->answers[s->answer_count++] = (struct answer){ mid, reason };
}

static void prepare(struct mosquitto *mosq)
{
    mosquitto_publish_v5_callback_set(mosq, on_publish);
}

/* ---- Sending; under the lock --------------------------------------------------------------------- */

static int send_one(struct sender *s, struct entry *entry, uint8_t *reason)
{
    struct connection *c = &s->connection;
    struct tocsin_publication *pub = entry->publication;
    const struct connack *limits = &c->connack;
    *reason = 0;
    if (pub->retain && !limits->retain) {
        *reason = MQTT_RC_RETAIN_NOT_SUPPORTED;
        return -EINVAL;
    }
    mosquitto_property *properties = NULL;
    int rc = properties_make(pub, clock_wall_ms(), &properties);
    if (rc < 0)
        return rc;
    if (c->v5 && limits->max_packet > 0 && properties_packet_length(pub) > limits->max_packet) {
        *reason = MQTT_RC_PACKET_TOO_LARGE;
        rc = -EINVAL;
    } else if (pub->payload_len > MQTT_MAX_PAYLOAD) {
        rc = -EINVAL;
    } else {
        if (s->config->echo && !c->v5)
            echo_note_sent(s->config->echo, pub->topic, pub->payload, pub->payload_len,
                           clock_mono_ms());
        int qos = pub->qos <= limits->max_qos ? pub->qos : limits->max_qos;
        int error = mosquitto_publish_v5(c->mosq, &entry->mid, pub->topic, (int)pub->payload_len,
                                         pub->payload, qos, pub->retain, c->v5 ? properties : NULL);
        rc = error == MOSQ_ERR_SUCCESS ? 0 : error == MOSQ_ERR_NOMEM ? -ENOMEM : -EINVAL;
    }
    mosquitto_property_free_all(&properties);
    return rc;
}

static void send_queued(struct sender *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->queue.first && s->in_flight_count < MAX_IN_FLIGHT &&
           s->in_flight_bytes < MAX_IN_FLIGHT_BYTES) {
        struct entry *entry = entries_take(&s->queue, &s->queue.first);
        uint8_t reason;
        int rc = send_one(s, entry, &reason);
        if (rc < 0) {
            finish(s, entry, rc, reason);
            continue;
        }
        s->in_flight_count++;
        s->in_flight_bytes += entry->publication->payload_len;
        entries_add(&s->in_flight, entry);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- The thread ---------------------------------------------------------------------------------- */

static void publish_status(struct sender *s, const char *text)
{
    if (!s->connection.status)
        return;
    const struct connack *limits = &s->connection.connack;
    int rc = mosquitto_publish(s->connection.mosq, NULL, s->connection.status, (int)strlen(text),
                               text, limits->max_qos < 1 ? limits->max_qos : 1, limits->retain);
    if (rc != MOSQ_ERR_SUCCESS && log_trouble_due(&s->trouble, clock_mono_ms()))
        log_warning("link %s: cannot publish the status topic=%s: %s", s->config->name,
                    s->connection.status, mosquitto_strerror(rc));
}

/* Publishes the document, if there is one that is to be published, else `otherwise` (NULL: nothing). */
static void renew_status(struct sender *s, const char *otherwise)
{
    pthread_mutex_lock(&s->lock);
    bool fresh = s->status && s->status_fresh;
    if (fresh)
        publish_status(s, s->status);
    s->status_fresh = false;
    pthread_mutex_unlock(&s->lock);
    if (!fresh && otherwise)
        publish_status(s, otherwise);
}

/* Publishes what nobody waits for, some at a time. */
static void send_notices(struct sender *s)
{
    struct connection *c = &s->connection;
    int qos = c->connack.max_qos < 1 ? c->connack.max_qos : 1;
    struct notice *notice;
    pthread_mutex_lock(&s->lock);
    while ((notice = notices_take(&s->notices))) {
        int mid = 0;
        int rc = mosquitto_publish(c->mosq, &mid, notice->topic, (int)notice->len, notice->payload,
                                   qos, false);
        if (rc == MOSQ_ERR_NO_CONN || rc == MOSQ_ERR_CONN_LOST) {
            notices_put_back(&s->notices, notice); /* it is sent when there is a connection again */
            break;
        }
        if (rc == MOSQ_ERR_SUCCESS)
            notices_sent(&s->notices, mid);
        else
            atomic_fetch_add(&s->counters.failed, 1);
        if (rc != MOSQ_ERR_SUCCESS && log_trouble_due(&s->trouble, clock_mono_ms()))
            log_warning("link %s: cannot publish topic=%s: %s", s->config->name, notice->topic,
                        mosquitto_strerror(rc));
        notice_free(notice);
    }
    pthread_mutex_unlock(&s->lock);
}

int sender_announce(struct sender *s, const char *topic, const void *payload, size_t len)
{
    pthread_mutex_lock(&s->lock);
    int rc = notices_add(&s->notices, topic, payload, len);
    pthread_mutex_unlock(&s->lock);
    if (rc == 0)
        connection_wake(&s->connection);
    else
        atomic_fetch_add(&s->counters.failed, 1);
    return rc;
}

int sender_set_status(struct sender *s, const char *text, bool last)
{
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    pthread_mutex_lock(&s->lock);
    char *old = s->status;
    s->status = copy;
    s->status_fresh = true;
    s->status_last = last;
    pthread_mutex_unlock(&s->lock);
    free(old);
    connection_wake(&s->connection);
    return 0;
}

/* The document again, after a connect; or the last one, before the end. */
static void repeat_status(struct sender *s, bool at_end)
{
    pthread_mutex_lock(&s->lock);
    s->status_fresh = !at_end || s->status_last;
    pthread_mutex_unlock(&s->lock);
    renew_status(s, at_end ? LINK_STATUS_OFFLINE : LINK_STATUS_ONLINE);
}

static bool turn(struct sender *s)
{
    struct connection *c = &s->connection;
    renew_status(s, NULL);
    send_notices(s);
    send_queued(s);
    if (connection_wants_write(c) && !connection_write(c))
        return false;
    take_answers(s);

    bool readable, writable;
    if (!connection_poll(c, true, connection_wants_write(c), -1, &readable, &writable))
        return false;
    bool open = true;
    if (readable) {
        bool dry = false;
        for (int i = 0; open && !dry && i < READS; i++)
            open = connection_read(c, &dry);
        /* Under TLS the rest may lie in a buffer that poll() does not see. */
        if (open && !dry)
            connection_wake(c);
    }
    take_answers(s);
    return open && !s->answers_lost;
}

static void set_up(struct sender *s, bool up)
{
    pthread_mutex_lock(&s->lock);
    s->up = up;
    if (!up)
        fail_all(s);
    if (up)
        notices_forget(&s->notices);
    pthread_mutex_unlock(&s->lock);
    s->config->changed(s->config->context);
}

static void *run(void *context)
{
    struct sender *s = context;
    struct connection *c = &s->connection;
    pthread_setname_np(pthread_self(), "send");
    while (!connection_stopping(c)) {
        if (connection_open(c) == 0) {
            s->answer_count = 0;
            s->answers_lost = false;
            repeat_status(s, false);
            set_up(s, true);
            bool open = true;
            while (open && !connection_stopping(c))
                open = turn(s);
            set_up(s, false);
            if (open) {
                send_notices(s);
                repeat_status(s, true);
                connection_disconnect(c, BYE_WAIT_MS);
            }
            connection_close(c);
        }
        connection_pause(c);
    }
    return NULL;
}

/* ---- Life ---------------------------------------------------------------------------------------- */

int sender_new(const struct sender_config *config, struct sender **out)
{
    *out = NULL;
    struct sender *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->config = config;
    entries_init(&s->queue);
    entries_init(&s->in_flight);
    notices_init(&s->notices);
    pthread_mutex_init(&s->lock, NULL);
    s->connection = (struct connection){ .settings = config->settings,
                                         .side = "sending",
                                         .client_id = config->client_id,
                                         .clean = true,
                                         .status = config->status,
                                         .prepare = prepare,
                                         .context = s };
    int rc = connection_init(&s->connection);
    if (rc < 0)
        sender_free(s);
    else
        *out = s;
    return rc;
}

void sender_be_nobody(struct sender *s)
{
    s->connection.client_id = NULL;
    s->connection.status = NULL;
}

int sender_start(struct sender *s)
{
    int rc = pthread_create(&s->thread, NULL, run, s);
    s->started = rc == 0;
    return -rc;
}

void sender_stop(struct sender *s)
{
    connection_stop(&s->connection);
}

void sender_join(struct sender *s)
{
    if (s->started)
        pthread_join(s->thread, NULL);
    s->started = false;
}

void sender_free(struct sender *s)
{
    if (!s)
        return;
    connection_release(&s->connection);
    pthread_mutex_destroy(&s->lock);
    notices_release(&s->notices);
    free(s->answers);
    free(s->status);
    free(s);
}

bool sender_is_ready(struct sender *s)
{
    pthread_mutex_lock(&s->lock);
    bool up = s->up;
    pthread_mutex_unlock(&s->lock);
    return up;
}

const struct sender_counters *sender_counters(const struct sender *s)
{
    return &s->counters;
}

static void batch_init(struct batch *batch, size_t n)
{
    batch->waiting = n;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&batch->done, &attributes);
    pthread_condattr_destroy(&attributes);
}

void sender_publish(struct sender *s, struct tocsin_publication *const *publications, size_t n,
                    int64_t timeout_ms)
{
    struct entry *entries = calloc(n + 1, sizeof(*entries));
    struct batch batch;
    batch_init(&batch, n);
    int64_t end_ms = clock_mono_ms() + timeout_ms;
    const struct timespec end = { .tv_sec = end_ms / 1000, .tv_nsec = end_ms % 1000 * 1000000 };

    pthread_mutex_lock(&s->lock);
    bool up = s->up && entries;
    for (size_t i = 0; i < n; i++) {
        publications[i]->error = entries ? -EAGAIN : -ENOMEM;
        publications[i]->reason_code = 0;
        if (!up)
            atomic_fetch_add(&s->counters.failed, 1);
        if (!up)
            continue;
        entries[i].batch = &batch;
        entries[i].publication = publications[i];
        entries_add(&s->queue, &entries[i]);
    }
    if (up) {
        connection_wake(&s->connection);
        while (batch.waiting > 0)
            if (pthread_cond_timedwait(&batch.done, &s->lock, &end) == ETIMEDOUT)
                abandon(s, &batch, -ETIMEDOUT);
    }
    pthread_mutex_unlock(&s->lock);
    pthread_cond_destroy(&batch.done);
    free(entries);
}
