/* SPDX-License-Identifier: MIT */

#include "durable_world.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"

#include <inttypes.h>
#include <semaphore.h>
#include <sqlite3.h>

/* ---- The store ---- */

static struct store *opened(const struct durable_world *w)
{
    struct store *store;
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(w->files.path, &store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    return store;
}

int world_set_up(void **state)
{
    struct durable_world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    temporary_init(&w->files);
    w->broker.started_ms = clock_mono_ms() - 100000;
    w->clock = (struct durable_clock){ &w->broker, retained_new() };
    assert_non_null(w->clock.retained);
    w->store = opened(w);
    log_set_level(TOCSIN_LOG_ERROR);
    *state = w;
    return 0;
}

int world_tear_down(void **state)
{
    struct durable_world *w = *state;
    log_set_level(TOCSIN_LOG_INFO);
    assert_int_equal(store_close(w->store, 1000), 0);
    retained_free(w->clock.retained);
    temporary_release(&w->files);
    free(w);
    return 0;
}

void world_reopen(struct durable_world *w)
{
    assert_int_equal(store_close(w->store, 1000), 0);
    w->store = opened(w);
}

struct job {
    struct store_task task;
    const struct durable_world *world;
    struct durable_op *ops;
    size_t count;
    int failures;
    int code; /* of what it was set apart for */
    sem_t done;
};

static int apply_all(const struct job *job, struct store *store)
{
    int rc = SQLITE_OK;
    for (size_t i = 0; i < job->count && rc == SQLITE_OK; i++)
        rc = durable_apply(&job->ops[i], &job->world->clock, store);
    return rc;
}

static int job_apply(struct store_task *task, struct store *store)
{
    struct job *job = CONTAINER_OF(task, struct job, task);
    sqlite3 *db = store_connection(store);
    if (job->world->twice) {
        sqlite3_exec(db, "SAVEPOINT before", NULL, NULL, NULL);
        int rc = apply_all(job, store);
        if (rc != SQLITE_OK)
            return rc;
        rc = sqlite3_exec(db, "ROLLBACK TO before; RELEASE before", NULL, NULL, NULL);
        if (rc != SQLITE_OK)
            return rc;
    }
    int rc = apply_all(job, store);
    return rc == SQLITE_OK && job->failures-- > 0 ? SQLITE_FULL : rc;
}

static void job_done(struct store_task *task, struct store *store)
{
    (void)store;
    sem_post(&CONTAINER_OF(task, struct job, task)->done);
}

static void job_failed(struct store_task *task, struct store *store, int code)
{
    CONTAINER_OF(task, struct job, task)->code = code;
    job_done(task, store);
}

void world_apply_late(struct durable_world *w, struct durable_op *ops, size_t count, int failures)
{
    struct job job = {
        .task = { .apply = job_apply, .done = job_done, .failed = job_failed },
        .world = w,
        .ops = ops,
        .count = count,
        .failures = failures,
    };
    sem_init(&job.done, 0, 0);
    store_post(w->store, &job.task);
    sem_wait(&job.done);
    sem_destroy(&job.done);
    CHECK(job.code == 0, "cannot be carried out: %s", sqlite3_errstr(job.code));
}

void world_apply(struct durable_world *w, struct durable_op *ops, size_t count)
{
    world_apply_late(w, ops, count, 0);
}

int64_t world_number(const struct durable_world *w, const char *sql)
{
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_prepare_v2(store_connection(w->store), sql, -1, &row, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    const int64_t number = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    return number;
}

void world_run(const struct durable_world *w, const char *sql)
{
    CHECK(sqlite3_exec(store_connection(w->store), sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s",
          sql, sqlite3_errmsg(store_connection(w->store)));
}

/* ---- What is read ---- */

struct listing {
    struct durable_world *world;
    struct buf text;
};

static void add_publication(struct listing *l, struct publication *p)
{
    buf_addf(&l->text, " %.*s=", (int)p->topic_len, publication_topic(p));
    if (p->payload_len > 40)
        buf_addf(&l->text, "(%u bytes)", p->payload_len);
    else
        buf_add(&l->text, publication_payload(p), p->payload_len);
    buf_addf(&l->text, " q%u%s", p->qos, p->retain ? "r" : "");
    l->world->expires = p->expires;
    publication_unref(p);
}

static int on_retained(void *context, struct publication *publication)
{
    struct listing *l = context;
    buf_add_str(&l->text, "retained");
    add_publication(l, publication);
    buf_add_str(&l->text, "\n");
    l->world->retained++;
    return 0;
}

static int on_session(void *context, const struct stored_session *s)
{
    struct listing *l = context;
    buf_addf(&l->text, "session %" PRIu64 " %.*s%s expiry=%u left=%" PRId64, s->number,
             (int)s->id_len, s->id, s->persistent ? " persistent" : "", s->expiry, s->left_ms);
    if (s->will) {
        buf_addf(&l->text, " will %u %u", s->will_delay, s->will_expiry);
        add_publication(l, s->will);
    }
    buf_add_str(&l->text, "\n");
    return 0;
}

static int on_subscription(void *context, uint64_t session, const char *share, size_t share_len,
                           const char *filter, size_t filter_len, uint32_t id, uint8_t options)
{
    struct listing *l = context;
    assert_true(!share == (share_len == 0));
    buf_addf(&l->text, "  %" PRIu64 " subscription %.*s:%.*s %u %u\n", session, (int)share_len,
             share ? share : "", (int)filter_len, filter, id, options);
    return 0;
}

static int on_received(void *context, uint64_t session, uint16_t packet_id)
{
    struct listing *l = context;
    buf_addf(&l->text, "  %" PRIu64 " received %u\n", session, packet_id);
    return 0;
}

static int on_message(void *context, uint64_t session, struct stored_message *m)
{
    struct listing *l = context;
    assert_int_equal(atomic_load(&m->kept->state), KEPT_WRITTEN);
    assert_int_equal(atomic_load(&m->kept->refs), 1);
    assert_int_equal(m->kept->session, session);
    buf_addf(&l->text, "  %" PRIu64 " message %" PRIu64 " of %" PRIu64 " id=%u q%u%s", session,
             m->kept->number, m->kept->message, m->packet_id, m->qos, m->retain ? "r" : "");
    if (m->share)
        buf_addf(&l->text, " share=%s", m->share);
    for (uint32_t i = 0; i < m->id_count; i++)
        buf_addf(&l->text, " [%u]", m->ids[i]);
    if (m->publication)
        add_publication(l, publication_ref(m->publication));
    buf_add_str(&l->text, "\n");
    if (m->packet_id)
        l->world->flights++;
    else
        l->world->queued++;
    stored_message_release(m);
    return 0;
}

static int on_rest(void *context, uint64_t session, uint64_t after, uint64_t last, uint64_t count,
                   uint64_t bytes)
{
    struct listing *l = context;
    buf_addf(&l->text,
             "  %" PRIu64 " rest after=%" PRIu64 " last=%" PRIu64 " count=%" PRIu64
             " bytes=%" PRIu64 "\n",
             session, after, last, count, bytes);
    l->world->rest += count;
    return 0;
}

static const struct durable_visitor visitor = {
    .retained = on_retained,
    .session = on_session,
    .subscription = on_subscription,
    .received = on_received,
    .message = on_message,
    .rest = on_rest,
};

char *world_read(struct durable_world *w)
{
    struct listing l = { .world = w, .text = BUF_INIT((size_t)1 << 24) };
    w->flights = w->queued = w->rest = w->retained = 0;
    CHECK(durable_read(store_connection(w->store), &w->clock, &visitor, &l, &w->last,
                       &w->unreadable) == 0,
          "reading: %s", sqlite3_errmsg(store_connection(w->store)));
    buf_add_str(&l.text, "");
    char *text = buf_take(&l.text);
    assert_non_null(text);
    return text;
}

void world_expect(struct durable_world *w, const char *wanted)
{
    char *text = world_read(w);
    assert_string_equal(text, wanted);
    free(text);
}

/* ---- What ops are made of ---- */

struct publication *publication_text(const char *topic, const char *payload)
{
    struct publication *p =
        publication_new(topic, strlen(topic), NULL, 0, payload, strlen(payload));
    assert_non_null(p);
    return p;
}

struct kept *kept_of(uint64_t number, uint64_t message)
{
    struct kept *kept = calloc(1, sizeof(*kept));
    assert_non_null(kept);
    atomic_init(&kept->refs, 1);
    atomic_init(&kept->state, KEPT_NEW);
    kept->number = number;
    kept->message = message;
    return kept;
}

/* ---- Ops ---- */

void session_op(struct durable_world *w, uint64_t number, const char *id)
{
    char *text = strdup(id);
    struct durable_op op = {
        .kind = DURABLE_SESSION,
        .session = number,
        .text = text,
        .text_len = strlen(id),
        .persistent = true,
        .expiry = 300,
    };
    world_apply(w, &op, 1);
    free(text);
}

void simple_op(struct durable_world *w, enum durable_kind kind, uint64_t session,
               uint16_t packet_id)
{
    struct durable_op op = { .kind = (uint8_t)kind, .session = session, .packet_id = packet_id };
    world_apply(w, &op, 1);
}

void subscription_op(struct durable_world *w, enum durable_kind kind, uint64_t session,
                     const char *share, const char *filter, uint32_t id, uint8_t options)
{
    char text[100];
    snprintf(text, sizeof(text), "%s%s", share, filter);
    struct durable_op op = {
        .kind = (uint8_t)kind,
        .session = session,
        .text = text,
        .text_len = strlen(text),
        .share_len = (uint16_t)strlen(share),
        .expiry = id,
        .options = options,
    };
    world_apply(w, &op, 1);
}

void message_op(struct durable_world *w, enum durable_kind kind, uint64_t session,
                struct kept *kept, struct publication *publication, uint16_t packet_id)
{
    struct durable_op op = {
        .kind = (uint8_t)kind,
        .session = session,
        .kept = kept,
        .publication = publication,
        .qos = packet_id ? 2 : 1,
        .packet_id = packet_id,
    };
    world_apply(w, &op, 1);
}

/* Writes one that nobody holds in memory. */
void world_put(struct durable_world *w, uint64_t session, uint64_t number, uint64_t message,
               const char *payload)
{
    struct publication *p = publication_text("t", payload);
    struct kept *kept = kept_of(number, message);
    message_op(w, DURABLE_MESSAGE, session, kept, p, 0);
    free(kept);
    publication_unref(p);
}

void world_land(struct durable_world *w, uint64_t session, uint64_t number, uint64_t message)
{
    struct kept *kept = kept_of(number, message);
    atomic_store(&kept->state, KEPT_WRITTEN);
    message_op(w, DURABLE_LAND, session, kept, NULL, 0);
    free(kept);
}

int64_t world_messages(const struct durable_world *w)
{
    return world_number(w, "SELECT count(*) FROM message");
}
