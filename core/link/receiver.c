/* SPDX-License-Identifier: MIT */

#include "link/receiver.h"

#include "base/clock.h"
#include "base/log.h"
#include "link/connection.h"
#include "link/intake.h"
#include "link/properties.h"
#include "link/subscriber.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BURST_MESSAGES 256
#define BURST_BYTES    (1024 * 1024)
#define STOP_WAIT_MS   1000
#define BYE_WAIT_MS    1000

struct receiver {
    const struct receiver_config *config;
    struct connection connection;
    struct receiver_counters counters;
    struct intake *intake;
    struct subscriber *subscriber;
    uint64_t sender; /* the link, as messages have it */
    atomic_bool open;
    pthread_t thread;
    bool started;

    /* The thread's own. */
    struct intake_connection *untaken; /* by the present connection */
    uint64_t generation;
    struct properties_in properties;
    struct message *first, **end; /* the burst being read */
    size_t count, bytes;
    bool announced; /* that it is ready */
    bool failed;    /* a message could not be taken in: it must not be acknowledged */
    struct log_trouble loop_trouble, topic_trouble;
};

/* ---- One message --------------------------------------------------------------------------------- */

static void stop_loop(struct receiver *r, const char *topic, const char *why, unsigned count)
{
    atomic_fetch_add(&r->counters.loops_stopped, 1);
    if (log_trouble_due(&r->loop_trouble, clock_mono_ms()))
        log_warning("link %s: loop stopped, message dropped topic=%s %s=%u", r->config->name, topic,
                    why, count);
}

static bool is_wanted(struct receiver *r, const struct mosquitto_message *in, size_t topic_len)
{
    const struct link_settings *s = r->config->settings;
    if (strpbrk(in->topic, "+#")) {
        if (log_trouble_due(&r->topic_trouble, clock_mono_ms()))
            log_warning("link %s: message with a wildcard in its topic dropped topic=%s",
                        r->config->name, in->topic);
        return false;
    }
    if (r->config->status && strcmp(in->topic, r->config->status) == 0)
        return false;
    if (r->config->letters &&
        strncmp(in->topic, r->config->letters, strlen(r->config->letters)) == 0)
        return false;
    if (in->retain && strcmp(s->retained, "skip") == 0)
        return false;
    if (!subscriber_takes(r->subscriber, in->topic, topic_len, r->properties.ids,
                          r->properties.id_count))
        return false;
    if (r->properties.hops > s->max_hops) {
        stop_loop(r, in->topic, "hops", r->properties.hops);
        return false;
    }
    if (!r->connection.v5 && r->config->echo &&
        echo_is_loop(r->config->echo, in->topic, in->payload, (size_t)in->payloadlen,
                     clock_mono_ms())) {
        stop_loop(r, in->topic, "loop_limit", (unsigned)s->loop_limit);
        return false;
    }
    return true;
}

static void on_message(struct mosquitto *mosq, void *context, const struct mosquitto_message *in,
                       const mosquitto_property *properties)
{
    (void)mosq;
    struct connection *c = context;
    struct receiver *r = c->context;
    connection_note_progress(c);
    const bool dup = connection_is_dup(c, in);
    int64_t now_ms = clock_wall_ms();
    if (properties_read(&r->properties, properties, now_ms) < 0) {
        r->failed = true;
        return;
    }
    size_t topic_len = strlen(in->topic), len = (size_t)in->payloadlen;
    if (!is_wanted(r, in, topic_len))
        return;
    struct message *m = message_new(in->topic, topic_len, in->payload, len,
                                    r->properties.any ? &r->properties.properties : NULL);
    if (!m) {
        r->failed = true;
        return;
    }
    m->received_ms = now_ms;
    m->link = r->config->name;
    m->qos = (uint8_t)in->qos;
    m->retain = in->retain;
    m->dup = dup;
    m->packet_id = (uint16_t)in->mid;
    m->sender = r->sender;
    m->hops = r->properties.hops;
    m->next = NULL;
    *r->end = m;
    r->end = &m->next;
    r->count++;
    r->bytes += topic_len + len;
}

static void hand_on(struct receiver *r)
{
    struct message *first = r->first;
    size_t count = r->count;
    if (count == 0)
        return;
    atomic_fetch_add(&r->counters.received, count);
    atomic_fetch_add(&r->counters.received_bytes, r->bytes);
    r->first = NULL;
    r->end = &r->first;
    r->count = r->bytes = 0;
    /* Not sooner: the first messages can come together with CONNACK. */
    for (struct message *m = first; m; m = m->next)
        m->generation = r->generation;
    intake_add(r->untaken, first, count);
    r->config->handler->messages(r->config->handler->context, first, count);
}

/* ---- Subscriptions ------------------------------------------------------------------------------- */

static void note_ready(struct receiver *r)
{
    bool ready = receiver_is_ready(r);
    if (ready && !r->announced)
        log_info("link %s: subscribed, messages are received", r->config->name);
    r->announced = ready;
    r->config->changed(r->config->context);
}

static void on_subscribe(struct mosquitto *mosq, void *context, int mid, int count,
                         const int *granted, const mosquitto_property *properties)
{
    (void)mosq;
    (void)properties;
    struct connection *c = context;
    struct receiver *r = c->context;
    connection_note_progress(c);
    size_t refused = subscriber_answered(r->subscriber, mid, count, granted, c->v5);
    atomic_fetch_add(&r->counters.refused, refused);
    note_ready(r);
}

static void on_unsubscribe(struct mosquitto *mosq, void *context, int mid,
                           const mosquitto_property *properties)
{
    (void)mosq;
    (void)properties;
    struct connection *c = context;
    struct receiver *r = c->context;
    connection_note_progress(c);
    subscriber_unsubscribed(r->subscriber, mid);
    note_ready(r);
}

static void prepare(struct mosquitto *mosq)
{
    mosquitto_message_v5_callback_set(mosq, on_message);
    mosquitto_subscribe_v5_callback_set(mosq, on_subscribe);
    mosquitto_unsubscribe_v5_callback_set(mosq, on_unsubscribe);
}

static bool subscribe(struct receiver *r)
{
    int rc = subscriber_apply(r->subscriber, r->connection.mosq, r->connection.connack.identifiers);
    if (rc < 0)
        log_error("link %s: cannot subscribe: %s", r->config->name,
                  rc == -ENOMEM ? "out of memory" : "the library refuses");
    note_ready(r);
    return rc == 0;
}

/* ---- The thread ---------------------------------------------------------------------------------- */

/* Reads until there is nothing more or the burst is large enough. */
static bool read_burst(struct receiver *r, bool *dry)
{
    bool open = true;
    *dry = false;
    while (open && !*dry && !r->failed && r->count < BURST_MESSAGES && r->bytes < BURST_BYTES)
        open = connection_read(&r->connection, dry);
    hand_on(r);
    if (r->failed)
        log_error("link %s: out of memory, the connection is given up so that nothing is lost",
                  r->config->name);
    return open && !r->failed;
}

/* One turn of the loop. Returns false when the connection is lost. */
static bool turn(struct receiver *r, bool *dry)
{
    struct connection *c = &r->connection;
    bool readable, writable;
    if (subscriber_changed(r->subscriber) && !subscribe(r))
        return false;

    /* Once the broker closes there is nobody to acknowledge to, and what it has sent is read to the end. */
    bool write = connection_wants_write(c) && !c->closing;
    bool taken = intake_all_taken(r->untaken);
    if (intake_was_refused(r->untaken)) {
        log_error("link %s: out of memory for a notification, the connection is given up so that "
                  "nothing is lost",
                  r->config->name);
        return false;
    }
    if (write && taken) {
        if (!connection_write(c))
            return false;
        write = connection_wants_write(c);
    }
    if (write && taken)
        return connection_poll(c, false, true, -1, &readable, &writable);
    if (write)
        return !intake_wait_taken(r->untaken) || connection_hold(c);
    if (intake_is_full(r->intake))
        return !intake_wait_room(r->untaken) || connection_hold(c);

    /* What is left of the last burst may lie in TLS buffers, where poll() does not see it. */
    if (!connection_poll(c, true, false, *dry ? -1 : 0, &readable, &writable))
        return false;
    return !(readable || !*dry) || read_burst(r, dry);
}

/* The broker will send again what the last connection did not acknowledge; or it knows nothing of it any
 * more, and then what is waiting is all there is. */
static void begin_generation(struct receiver *r)
{
    const struct links_handler *handler = r->config->handler;
    bool resumed = r->connection.connack.session_present;
    if (resumed && r->generation > 0)
        handler->lost(handler->context, r->config->name, r->generation);
    r->generation++;
    subscriber_connected(r->subscriber, resumed);
    atomic_fetch_add(&r->counters.connects, 1);
}

/* Gives what was read a moment to be taken over, so that it is not sent again. */
static void say_goodbye(struct receiver *r)
{
    int64_t deadline = clock_mono_ms() + STOP_WAIT_MS;
    while (!intake_all_taken(r->untaken)) {
        bool readable, writable;
        int64_t left = deadline - clock_mono_ms();
        if (left <= 0)
            break;
        if (intake_wait_taken(r->untaken) &&
            !connection_poll(&r->connection, false, false, (int)left, &readable, &writable))
            return;
    }
    if (intake_all_taken(r->untaken) && !intake_was_refused(r->untaken))
        connection_disconnect(&r->connection, BYE_WAIT_MS);
}

static void run_connection(struct receiver *r)
{
    struct connection *c = &r->connection;
    r->untaken = intake_connection_new(r->intake);
    if (!r->untaken)
        return;
    begin_generation(r);
    atomic_store(&r->open, true);
    hand_on(r); /* what came together with CONNACK: no acknowledgement may go out before */
    bool dry = false, open = !r->failed && subscribe(r);
    while (open && !connection_stopping(c))
        open = turn(r, &dry);
    atomic_store(&r->open, false);
    note_ready(r);
    if (open)
        say_goodbye(r);
    intake_connection_unref(r->untaken);
    r->untaken = NULL;
}

static void *run(void *context)
{
    struct receiver *r = context;
    struct connection *c = &r->connection;
    pthread_setname_np(pthread_self(), "receive");
    while (!connection_stopping(c)) {
        r->failed = false;
        if (connection_open(c) == 0) {
            run_connection(r);
            connection_close(c);
        }
        connection_pause(c);
    }
    return NULL;
}

/* ---- Life ---------------------------------------------------------------------------------------- */

int receiver_new(const struct receiver_config *config, struct receiver **out)
{
    *out = NULL;
    struct receiver *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    const struct link_settings *s = config->settings;
    r->config = config;
    r->sender = message_sender(config->name, NULL, 0);
    r->end = &r->first;
    r->connection = (struct connection){ .settings = s,
                                         .side = "receiving",
                                         .client_id = config->client_id,
                                         .clean = s->clean_session,
                                         .prepare = prepare,
                                         .context = r };
    int rc = connection_init(&r->connection);
    if (rc == 0) {
        r->intake = intake_new(r->connection.wake_fd, (size_t)s->max_untaken,
                               (size_t)s->max_untaken_bytes.bytes);
        const struct subscriber_config subscriber = {
            .link = config->name,
            .skip_retained = strcmp(s->retained, "skip") == 0,
            .file = s->clean_session ? NULL : config->state_file,
            .session = config->session,
        };
        r->subscriber = subscriber_new(&subscriber);
        if (!r->intake || !r->subscriber)
            rc = -ENOMEM;
    }
    if (rc < 0)
        receiver_free(r);
    else
        *out = r;
    return rc;
}

int receiver_start(struct receiver *r)
{
    int rc = pthread_create(&r->thread, NULL, run, r);
    r->started = rc == 0;
    return -rc;
}

void receiver_stop(struct receiver *r)
{
    connection_stop(&r->connection);
}

void receiver_join(struct receiver *r)
{
    if (r->started)
        pthread_join(r->thread, NULL);
    r->started = false;
}

void receiver_free(struct receiver *r)
{
    if (!r)
        return;
    connection_release(&r->connection);
    intake_unref(r->intake);
    subscriber_free(r->subscriber);
    properties_release(&r->properties);
    free(r);
}

int receiver_set_filters(struct receiver *r, const struct link_filter *filters, size_t n)
{
    int rc = subscriber_set_filters(r->subscriber, filters, n);
    if (rc == 0)
        connection_wake(&r->connection);
    return rc;
}

bool receiver_is_ready(const struct receiver *r)
{
    return atomic_load(&r->open) && subscriber_is_settled(r->subscriber);
}

uint64_t receiver_untaken(const struct receiver *r)
{
    return intake_untaken(r->intake);
}

const struct receiver_counters *receiver_counters(const struct receiver *r)
{
    return &r->counters;
}
