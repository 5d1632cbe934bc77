/* SPDX-License-Identifier: MIT */

/* What workers note, and what comes of it when it is committed. The worker's thread but where it says other. */

#include "broker/durable.h"

#include "base/clock.h"
#include "broker/client.h"
#include "broker/deliver.h"
#include "broker/durable_batch.h"
#include "broker/receipt.h"
#include "broker/subscribe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_FIRST   16 /* ops */
#define CROWDED_BYTES (64 * 1024 * 1024)
#define EXPIRES_MOST \
    32 /* queues that a worker has looked through at once: others wait for the writer too */

/* ---- Batches ---- */

/* Drops what an op holds. */
static void op_release(struct durable_op *op)
{
    tenure_unref(op->tenure);
    kept_unref(op->kept);
    publication_unref(op->publication);
    identifiers_unref(op->ids);
    free(op->text);
    for (size_t i = 0; i < op->loaded_count; i++)
        stored_message_release(&op->loaded[i]);
    free(op->loaded);
}

static void batch_free(struct durable_batch *batch)
{
    if (batch->link) {
        *batch->link = batch->next;
        if (batch->next)
            batch->next->link = batch->link;
    }
    free(batch->ops);
    free(batch);
}

/* The store's thread, as the two after it. */
static bool batch_is_needed(const struct store_task *task)
{
    const struct durable_batch *batch = CONTAINER_OF(task, struct durable_batch, task);
    for (size_t i = 0; i < batch->count; i++) {
        const struct durable_op *op = &batch->ops[i];
        if (op->kind == DURABLE_MESSAGE ? atomic_load(&op->kept->state) != KEPT_GONE
                                        : op->kind != DURABLE_NOTHING)
            return true;
    }
    return false;
}

static int batch_apply(struct store_task *task, struct store *store)
{
    struct durable_batch *batch = CONTAINER_OF(task, struct durable_batch, task);
    const struct durable_clock clock = {
        .broker = batch->durable->broker,
        .retained = batch->durable->broker->retained,
    };
    int rc = 0; /* SQLITE_OK */
    for (size_t i = 0; i < batch->count && (rc == 0 || rc == DURABLE_DONE); i++)
        rc = durable_apply(&batch->ops[i], &clock, store);
    return rc;
}

static void batch_is_done(struct store_task *task, struct store *store)
{
    struct durable_batch *batch = CONTAINER_OF(task, struct durable_batch, task);
    (void)store;
    loop_post_one(&batch->worker->loop, &batch->letter.mail);
}

static struct durable_batch *batch_begin(struct worker *worker)
{
    struct durable_batch *batch = calloc(1, sizeof(*batch));
    if (!batch)
        return NULL;
    batch->ops = calloc(BATCH_FIRST, sizeof(*batch->ops));
    if (!batch->ops) {
        free(batch);
        return NULL;
    }
    batch->places = BATCH_FIRST;
    batch->bytes = sizeof(*batch) + BATCH_FIRST * sizeof(*batch->ops);
    batch->task.needed = batch_is_needed;
    batch->task.apply = batch_apply;
    batch->task.done = batch_is_done;
    batch->letter.kind = LETTER_DURABLE;
    batch->worker = worker;
    batch->durable = worker->broker->durable;
    batch->next = worker->batches;
    batch->link = &worker->batches;
    if (batch->next)
        batch->next->link = &batch->next;
    worker->batches = batch;
    return worker->noting = batch;
}

struct durable_op *durable_note(struct worker *worker, enum durable_kind kind, uint64_t session)
{
    struct durable_batch *batch = worker->noting;
    if (!batch && !(batch = batch_begin(worker)))
        return NULL;
    if (batch->count == batch->places) {
        size_t places = batch->places * 2 + BATCH_FIRST;
        struct durable_op *more = realloc(batch->ops, places * sizeof(*more));
        if (!more)
            return NULL;
        batch->ops = more;
        batch->bytes += (places - batch->places) * sizeof(*more);
        batch->places = places;
    }
    struct durable_op *op = &batch->ops[batch->count++];
    *op = (struct durable_op){ .kind = (uint8_t)kind, .session = session };
    return op;
}

struct durable_op *durable_note_for(struct worker *worker, const struct session *session,
                                    enum durable_kind kind)
{
    struct durable_op *op =
        session->tenure ? durable_note(worker, kind, session->tenure->number) : NULL;
    if (op) {
        op->tenure = tenure_ref(session->tenure);
        op->connection = session->tenure->connection;
        session->tenure->noted |= kind != DURABLE_NOTHING;
    }
    return op;
}

void durable_unnote(struct worker *worker)
{
    struct durable_batch *batch = worker->noting;
    op_release(&batch->ops[--batch->count]);
}

static void note_publication(struct worker *worker, struct durable_op *op,
                             struct publication *publication)
{
    op->publication = publication_ref(publication);
    worker->noting->bytes += publication_size(publication);
}

bool durable_note_text(struct worker *worker, struct durable_op *op, const void *a, size_t a_len,
                       const void *b, size_t b_len)
{
    op->text = malloc(a_len + b_len + 1);
    if (!op->text)
        return false;
    if (a_len)
        memcpy(op->text, a, a_len);
    if (b_len)
        memcpy(op->text + a_len, b, b_len);
    op->text_len = a_len + b_len;
    worker->noting->bytes += op->text_len;
    return true;
}

void durable_post(struct worker *worker)
{
    if (worker->ends && !worker->closing)
        durable_note_ends(worker);
    struct durable_batch *batch = worker->noting;
    if (!batch)
        return;
    struct durable *durable = batch->durable;
    worker->noting = NULL;
    atomic_fetch_add_explicit(&durable->waiting, batch->count, memory_order_relaxed);
    atomic_fetch_add_explicit(&durable->bytes, batch->bytes, memory_order_relaxed);
    store_post(durable->store, &batch->task);
}

/* ---- What is done when it is committed ---- */

/* So many of what is on disk only are gone from there. */
static void count_off(struct flow *flow, uint64_t rows, uint64_t bytes)
{
    flow->spilled -= rows < flow->spilled ? rows : flow->spilled;
    flow->spilled_bytes -= bytes < flow->spilled_bytes ? bytes : flow->spilled_bytes;
    if (flow->spilled == 0)
        flow->spilled_bytes = 0;
}

static void load_arrive(struct worker *worker, struct durable_op *op)
{
    struct session *session = op->tenure->session;
    struct flow *flow = session ? session->flow : NULL;
    if (!flow)
        return;
    flow->loading = false;
    for (size_t i = 0; i < op->loaded_count; i++)
        durable_append(worker, session, &op->loaded[i]);
    flow->spill_after = op->loaded_last;
    count_off(flow, op->loaded_rows ? op->loaded_rows : flow->spilled, op->loaded_bytes);
    if (session->client && !session->client->ending)
        deliver_waiting(session->client);
}

static void expire_arrive(struct worker *worker, const struct durable_op *op)
{
    struct session *session = op->tenure->session;
    struct flow *flow = session ? session->flow : NULL;
    worker->expiring--;
    if (!flow)
        return;
    flow->loading = false;
    count_off(flow, op->loaded_rows, op->loaded_bytes);
    flow_spill_expires(flow, op->next);
    COUNT(worker, publish_dropped, op->loaded_rows);
    if (session->client && !session->client->ending)
        deliver_waiting(session->client);
    durable_expire(worker, session);
}

/* Sends what had to wait. */
static void op_after(struct worker *worker, struct durable_op *op)
{
    struct session *session = op->tenure ? op->tenure->session : NULL;
    struct client *c = session ? session->client : NULL;
    bool same = c && !c->ending && op->connection == op->tenure->connection;
    switch ((enum durable_after)op->after) {
    case AFTER_NOTHING:
        break;
    case AFTER_PACKET:
        op->tenure->answered++;
        if (same && output_add(&c->output, &worker->pool, op->text, op->text_len) < 0)
            client_end(c, MQTT_SERVER_BUSY, "out of memory");
        else if (same)
            COUNT(worker, packets_sent, 1);
        if (same)
            client_touch(c);
        if (worker->walks)
            walks_go_on(worker);
        break;
    case AFTER_CONNACK:
        if (!same)
            break;
        client_answered(c);
        if (output_add(&c->output, &worker->pool, op->text, op->text_len) < 0)
            client_end(c, MQTT_SERVER_BUSY, "out of memory");
        else
            COUNT(worker, packets_sent, 1);
        client_touch(c);
        if (!worker->stopping)
            client_resume(c);
        break;
    case AFTER_PUBCOMP:
        if (same)
            client_acknowledge(c, MQTT_PUBCOMP, op->packet_id, (enum mqtt_reason)op->reason);
        break;
    case AFTER_HELD:
        if (session)
            deliver_held(worker, session, op->kept, op->packet_id);
        break;
    case AFTER_LOAD:
        load_arrive(worker, op);
        break;
    case AFTER_EXPIRE:
        expire_arrive(worker, op);
        break;
    }
}

/* It cannot be kept: nobody is told that it is. */
static void op_failed(struct worker *worker, const struct durable_op *op)
{
    const struct session *session = op->tenure ? op->tenure->session : NULL;
    COUNT(worker, publish_dropped, op->kind == DURABLE_MESSAGE);
    if (log_rate_due(&worker->dropped, loop_now_ms(&worker->loop)))
        log_error("store: what client=%s needs cannot be kept on disk, which is an error of this "
                  "program or of the file",
                  session ? session->id : "");
    if (session && session->client && (op->after == AFTER_PACKET || op->after == AFTER_PUBCOMP))
        client_end(session->client, MQTT_SERVER_BUSY, "it cannot be kept on disk");
}

void durable_arrive(struct worker *worker, struct letter *letter)
{
    struct durable_batch *batch = CONTAINER_OF(letter, struct durable_batch, letter);
    struct durable *durable = batch->durable;
    atomic_fetch_sub_explicit(&durable->waiting, batch->count, memory_order_relaxed);
    atomic_fetch_sub_explicit(&durable->bytes, batch->bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&durable->ops, batch->count, memory_order_relaxed);
    atomic_fetch_add_explicit(&durable->batches, 1, memory_order_relaxed);
    bool more = false;
    for (size_t i = 0; i < batch->count; i++) {
        struct durable_op *op = &batch->ops[i];
        if (op->failed)
            op_failed(worker, op);
        if (op->failed && op->ending)
            durable_end_failed(worker, op->slot);
        if (op->receipt)
            receipt_done(op->receipt, op->failed);
        worker->endings[op->slot] -= op->ending;
        op_after(worker, op);
        more |= op->more;
        op_release(op);
    }
    if (more && !worker->closing)
        durable_sweep(worker);
    batch_free(batch);
}

void durable_discard(struct letter *letter)
{
    struct durable_batch *batch = CONTAINER_OF(letter, struct durable_batch, letter);
    for (size_t i = 0; i < batch->count; i++) {
        if (batch->ops[i].receipt)
            receipt_done(batch->ops[i].receipt, true);
        op_release(&batch->ops[i]);
    }
    batch_free(batch);
}

void durable_release(struct worker *worker)
{
    while (worker->batches)
        durable_discard(&worker->batches->letter);
    worker->noting = NULL;
    while (worker->ends) {
        struct tenure *tenure = worker->ends;
        worker->ends = tenure->next;
        tenure_unref(tenure);
    }
}

/* ---- Places on disk ---- */

void kept_unref(struct kept *kept)
{
    if (kept && atomic_fetch_sub_explicit(&kept->refs, 1, memory_order_acq_rel) == 1)
        free(kept);
}

bool kept_is_written(const struct kept *kept)
{
    return atomic_load(&kept->state) == KEPT_WRITTEN;
}

bool kept_is_shared(const struct kept *kept)
{
    return kept->shared;
}

uint64_t kept_number(const struct kept *kept)
{
    return kept->number;
}

void kept_end(struct worker *worker, struct kept *kept)
{
    if (!kept)
        return;
    unsigned fresh = KEPT_NEW;
    struct durable_op *op;
    if (!atomic_compare_exchange_strong(&kept->state, &fresh, KEPT_GONE) && !worker->closing &&
        (op = durable_note(worker, DURABLE_LAND, kept->session))) {
        op->kept = kept;
        return;
    }
    kept_unref(kept);
}

void kept_moved(struct worker *worker, struct kept *kept)
{
    struct durable_op *op = kept ? durable_note(worker, DURABLE_LAND, kept->session) : NULL;
    if (op)
        op->kept = kept;
    else
        kept_unref(kept);
}

static struct kept *kept_new(struct worker *worker, const struct session *session)
{
    struct kept *kept = calloc(1, sizeof(*kept));
    if (!kept)
        return NULL;
    atomic_init(&kept->refs, 1);
    atomic_init(&kept->state, KEPT_NEW);
    kept->session = session->tenure->number;
    kept->number = atomic_fetch_add(&worker->broker->durable->last, 1) + 1;
    return kept;
}

static struct kept *kept_ref(struct kept *kept)
{
    atomic_fetch_add_explicit(&kept->refs, 1, memory_order_relaxed);
    return kept;
}

/* ---- Sessions ---- */

struct tenure *tenure_new(struct worker *worker, struct session *session, uint64_t number)
{
    struct tenure *tenure = calloc(1, sizeof(*tenure));
    if (!tenure)
        return NULL;
    tenure->refs = 1;
    tenure->session = session;
    tenure->worker = worker;
    tenure->hash = session->hash;
    tenure->number = number;
    return tenure;
}

struct tenure *tenure_restored(struct worker *worker, struct session *session, uint64_t number)
{
    session->tenure = tenure_new(worker, session, number);
    if (session->tenure)
        session->tenure->noted = true;
    return session->tenure;
}

void tenure_end(struct session *session)
{
    if (!session->tenure)
        return;
    session->tenure->session = NULL;
    tenure_unref(session->tenure);
    session->tenure = NULL;
}

bool durable_note_session(struct worker *worker, const struct session *session)
{
    struct durable_op *op = durable_note_for(worker, session, DURABLE_SESSION);
    if (!op)
        return false;
    if (!durable_note_text(worker, op, session->id, session->id_len, NULL, 0)) {
        durable_unnote(worker);
        return false;
    }
    op->persistent = session_is_persistent(session);
    op->expiry = session->expiry;
    op->left_ms = session->client ? 0 : clock_wall_ms();
    op->sent = !session->client && session->flow ? flow_sent(session->flow) : 0;
    if (session->will) {
        note_publication(worker, op, session->will->publication);
        op->will_delay = session->will->delay;
        op->will_expiry = session->will->expiry;
    }
    return true;
}

bool durable_session(struct worker *worker, struct session *session)
{
    struct durable *durable = worker->broker->durable;
    if (!durable || worker->closing) /* what it is now is what the next start finds */
        return true;
    if (!session_is_persistent(session) && !session->will && !session->tenure)
        return true;
    if (!session->tenure &&
        !(session->tenure = tenure_new(worker, session, atomic_fetch_add(&durable->last, 1) + 1)))
        return false;
    session->tenure->messages |= session_is_persistent(session);
    return durable_note_session(worker, session);
}

void durable_connected(struct session *session)
{
    if (session->tenure)
        session->tenure->connection++;
}

/* It is like a session that has gone and left a will, whose time has come. */
uint64_t durable_will(struct worker *worker, const struct will *will)
{
    struct durable *durable = worker->broker->durable;
    if (!durable || worker->closing)
        return 0;
    uint64_t place = atomic_fetch_add(&durable->last, 1) + 1;
    struct durable_op *op = durable_note(worker, DURABLE_SESSION, place);
    if (!op)
        return 0;
    if (!durable_note_text(worker, op, "", 1, &place, sizeof(place))) {
        durable_unnote(worker);
        return 0;
    }
    op->left_ms = clock_wall_ms();
    note_publication(worker, op, will->publication);
    op->will_expiry = will->expiry;
    return place;
}

void durable_will_arrived(struct worker *worker, uint64_t place)
{
    if (!worker->closing) /* else it comes once more after the next start */
        durable_note(worker, DURABLE_END, place);
}

/* ---- Subscriptions ---- */

static bool note_filter(struct worker *worker, struct session *session, enum durable_kind kind,
                        const char *share, size_t share_len, const char *filter, size_t filter_len,
                        uint32_t id, uint8_t options)
{
    struct durable_op *op = durable_note_for(worker, session, kind);
    if (!op)
        return false;
    if (!durable_note_text(worker, op, share, share ? share_len : 0, filter, filter_len)) {
        durable_unnote(worker);
        return false;
    }
    op->share_len = share ? (uint16_t)share_len : 0;
    op->expiry = id;
    op->options = options;
    return true;
}

bool durable_subscribed(struct worker *worker, struct session *session, const char *share,
                        size_t share_len, const char *filter, size_t filter_len, uint32_t id,
                        uint8_t options)
{
    return !session_is_durable(session) || note_filter(worker, session, DURABLE_SUBSCRIBE, share,
                                                       share_len, filter, filter_len, id, options);
}

bool durable_unsubscribed(struct worker *worker, struct session *session, const char *share,
                          size_t share_len, const char *filter, size_t filter_len)
{
    return !session_is_durable(session) || note_filter(worker, session, DURABLE_UNSUBSCRIBE, share,
                                                       share_len, filter, filter_len, 0, 0);
}

bool durable_answer(struct client *c, const uint8_t *packet, size_t len)
{
    struct worker *worker = c->worker;
    struct durable_op *op = durable_note_for(worker, c->session, DURABLE_NOTHING);
    if (!op)
        return false;
    if (!durable_note_text(worker, op, packet, len, NULL, 0)) {
        durable_unnote(worker);
        return false;
    }
    op->after = AFTER_PACKET;
    op->tenure->asked++;
    return true;
}

/* ---- Messages to a session ---- */

/* Whose acknowledgement waits. Returns false when there is no memory. */
static bool await(struct worker *worker, struct durable_op *op, struct publish *p)
{
    if (!p->wants_receipt)
        return true;
    if (!p->receipt && !(p->receipt = receipt_new(worker, (struct session *)p->from)))
        return false;
    receipt_wait(p->receipt);
    op->receipt = p->receipt;
    return true;
}

struct kept *durable_message(struct worker *worker, struct session *session, struct publish *p,
                             const struct terms *terms)
{
    struct publication *publication = publish_keep(p);
    struct kept *kept = publication ? kept_new(worker, session) : NULL;
    struct durable_op *op = kept ? durable_note_for(worker, session, DURABLE_MESSAGE) : NULL;
    if (!op) {
        kept_unref(kept);
        return NULL;
    }
    if (!p->message)
        p->message = kept->number;
    kept->message = p->message;
    const struct share *share = terms->share ? terms->share->share : NULL;
    kept->shared = share != NULL;
    size_t share_len = 0;
    const char *name = share ? share_name(share, &share_len) : NULL;
    if ((share && !durable_note_text(worker, op, name, share_len, NULL, 0)) ||
        (terms->qos > 0 && !await(worker, op, p))) {
        durable_unnote(worker);
        kept_unref(kept);
        return NULL;
    }
    if (share)
        op->text[share_len] = '\0';
    note_publication(worker, op, publication);
    op->kept = kept_ref(kept);
    op->ids = identifiers_ref(terms->ids);
    op->qos = terms->qos;
    op->retain = terms->retain;
    p->crowded |= durable_is_crowded(worker->broker->durable);
    return kept;
}

bool durable_launched(struct worker *worker, struct session *session, struct kept *kept,
                      uint16_t packet_id)
{
    struct durable_batch *batch = worker->noting;
    struct durable_op *op = batch && batch->count ? &batch->ops[batch->count - 1] : NULL;
    /* Usually it has just been noted itself. */
    if (!op || op->kind != DURABLE_MESSAGE || op->kept != kept) {
        op = durable_note_for(worker, session, DURABLE_LAUNCH);
        if (!op)
            return false;
        op->kept = kept_ref(kept);
    }
    op->packet_id = packet_id;
    op->after = AFTER_HELD;
    return true;
}

bool durable_received(struct worker *worker, struct session *session, struct kept *kept,
                      uint16_t packet_id)
{
    struct durable_op *op = durable_note_for(worker, session, DURABLE_RELEASE);
    if (!op)
        return false;
    op->kept = kept_ref(kept);
    op->packet_id = packet_id;
    op->after = AFTER_HELD;
    return true;
}

/* ---- Messages from a session ---- */

void durable_id_added(struct worker *worker, struct session *session, uint16_t packet_id,
                      struct receipt *receipt)
{
    struct durable_op *op = durable_note_for(worker, session, DURABLE_ID_ADD);
    if (!op)
        return;
    session->tenure->ids_kept = true;
    op->packet_id = packet_id;
    receipt_wait(receipt);
    op->receipt = receipt;
}

bool durable_id_released(struct client *c, uint16_t packet_id, enum mqtt_reason reason)
{
    struct session *session = c->session;
    if (!session_is_durable(session))
        return false;
    /* One that is not known may have been released by an earlier connection, and that not be on disk yet. */
    bool waits = reason == MQTT_SUCCESS ? session->tenure->ids_kept : session->tenure->refs > 1;
    struct durable_op *op = waits ? durable_note_for(c->worker, session, DURABLE_ID_REMOVE) : NULL;
    if (!op)
        return false;
    session->tenure->ids_kept = ids_count(session->received) > 0;
    op->packet_id = packet_id;
    op->reason = (uint8_t)reason;
    op->after = AFTER_PUBCOMP;
    return true;
}

/* ---- Retained messages ---- */

bool durable_retained(struct worker *worker, struct publish *p)
{
    if (!worker->broker->durable || (p->topic_len >= 5 && memcmp(p->topic, "$SYS/", 5) == 0))
        return true;
    struct publication *publication = publish_keep(p);
    struct durable_op *op = publication ? durable_note(worker, DURABLE_RETAIN, 0) : NULL;
    if (!op)
        return false;
    if (!await(worker, op, p)) {
        durable_unnote(worker);
        return false;
    }
    note_publication(worker, op, publication);
    p->crowded |= durable_is_crowded(worker->broker->durable);
    return true;
}

void durable_sweep(struct worker *worker)
{
    if (worker->broker->durable)
        durable_note(worker, DURABLE_SWEEP, 0);
}

/* ---- Spilling ---- */

bool durable_load(struct worker *worker, struct session *session)
{
    struct flow *flow = session->flow;
    if (!flow || flow->spilled == 0 || flow->loading || !session_is_durable(session))
        return false;
    struct durable_op *op = durable_note_for(worker, session, DURABLE_LOAD);
    if (!op)
        return false;
    op->expiry = SPILL_LOAD;
    op->after_number = flow->spill_after;
    op->after = AFTER_LOAD;
    flow->loading = true;
    return true;
}

bool durable_expire(struct worker *worker, struct session *session)
{
    struct flow *flow = session->flow;
    if (!flow || flow->spilled == 0 || flow->loading || !flow->spill_expires ||
        flow->spill_expires > worker->second || worker->closing || !session_is_durable(session))
        return true;
    struct durable_op *op =
        worker->expiring < EXPIRES_MOST ? durable_note_for(worker, session, DURABLE_EXPIRE) : NULL;
    if (!op)
        return false;
    worker->expiring++;
    op->after_number = flow->spill_after;
    op->after = AFTER_EXPIRE;
    flow->spill_expires = 0; /* of those that come meanwhile, and then of all */
    flow->loading = true;
    return true;
}

/* ---- The whole; any thread ---- */

struct durable *durable_new(struct broker *broker, struct store *store)
{
    struct durable *durable = calloc(1, sizeof(*durable));
    if (durable) {
        durable->broker = broker;
        durable->store = store;
    }
    return durable;
}

void durable_free(struct durable *durable)
{
    free(durable);
}

bool durable_is_crowded(const struct durable *durable)
{
    return durable && atomic_load_explicit(&durable->bytes, memory_order_relaxed) > CROWDED_BYTES;
}

bool durable_is_full(const struct durable *durable)
{
    return durable && atomic_load_explicit(&durable->bytes, memory_order_relaxed) >
                          4 * (uint64_t)CROWDED_BYTES;
}

void durable_stats(const struct durable *durable, struct durable_stats *out)
{
    *out = (struct durable_stats){
        .ops = atomic_load(&durable->ops),
        .batches = atomic_load(&durable->batches),
        .waiting = atomic_load(&durable->waiting),
        .bytes = atomic_load(&durable->bytes),
        .restored_sessions = durable->restored_sessions,
        .restored_messages = durable->restored_messages,
        .restored_retained = durable->restored_retained,
        .unreadable = durable->unreadable,
    };
}
