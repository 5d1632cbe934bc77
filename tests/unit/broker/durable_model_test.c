/* SPDX-License-Identifier: MIT */

/*
 * Random ops, in random groups, against a model as simple as can be: arrays. At each reopening both say the same, line by
 * line, and no row of a message is there that is in no queue.
 */

#include "durable_world.h"

#include "broker/spill.h"

#include <inttypes.h>

enum {
    SESSIONS = 5,
    TOPICS = 6,
    FILTERS = 6,
    IDS = 8,
    MESSAGES = 4000,
    GROUP = 40,
    ROUNDS = 8,
    GROUPS = 10,
};

struct model_message {
    uint64_t session, number, message;
    struct publication *publication;
    struct kept *kept; /* its owner's */
    uint16_t packet_id;
    uint8_t qos;
    bool written, released, there, retain;
    uint32_t id;
    const char *share;
};

struct model_session {
    uint64_t number; /* 0: none */
    uint32_t expiry;
    int64_t left_ms;
    struct publication *will;
    uint32_t subscriptions[FILTERS]; /* identifier and 1, 0 is none */
    bool received[IDS];
};

static struct {
    struct durable_world *world;
    struct model_session sessions[SESSIONS];
    struct model_message messages[MESSAGES];
    size_t message_count;
    char *retained[TOPICS];
    uint64_t last; /* number given */
    struct publication *publication;
    uint64_t publication_number;
    struct durable_op ops[GROUP];
    size_t op_count;
    uint32_t seed;
} m;

static const char *const filters[FILTERS][2] = {
    { "", "a/#" }, { "", "a/+" }, { "", "b" }, { "g", "a/#" }, { "g", "b" }, { "h", "b" },
};
static const char *const topics[TOPICS] = { "a", "a/b", "a/c", "b", "c/d/e", "f" };

static uint32_t random_below(uint32_t n)
{
    m.seed = m.seed * 1664525 + 1013904223;
    return (m.seed >> 8) % n;
}

/* ---- Ops, on both sides ---- */

static struct durable_op *add(enum durable_kind kind, uint64_t session)
{
    struct durable_op *op = &m.ops[m.op_count++];
    *op = (struct durable_op){ .kind = (uint8_t)kind, .session = session };
    return op;
}

static void add_text(struct durable_op *op, const char *a, const char *b)
{
    op->text_len = strlen(a) + strlen(b);
    op->text = malloc(op->text_len + 1);
    assert_non_null(op->text);
    memcpy(op->text, a, strlen(a));
    memcpy(op->text + strlen(a), b, strlen(b) + 1);
    op->share_len = (uint16_t)strlen(a);
}

static struct publication *random_publication(void)
{
    char payload[40];
    snprintf(payload, sizeof(payload), "p%u", random_below(1000000));
    const char *topic = topics[random_below(TOPICS)];
    if (random_below(10) > 0)
        return publication_text(topic, payload);
    const size_t len = random_below(SPILL_AWAY_BYTES);
    char *many = calloc(1, len + 1);
    assert_non_null(many);
    memset(many, 'y', len);
    struct publication *p = publication_text(topic, many);
    free(many);
    return p;
}

static void change_session(struct model_session *s)
{
    if (!s->number)
        s->number = ++m.last;
    s->expiry = random_below(1000);
    s->left_ms = random_below(2) ? 1000 + random_below(1000) : 0;
    publication_unref(s->will);
    s->will = random_below(3) ? NULL : random_publication();
    struct durable_op *op = add(DURABLE_SESSION, s->number);
    op->persistent = true;
    op->expiry = s->expiry;
    op->left_ms = s->left_ms;
    if (s->will) {
        op->publication = publication_ref(s->will);
        op->will_delay = 1;
        op->will_expiry = 2;
    }
    char id[40];
    snprintf(id, sizeof(id), "client%" PRIu64, s->number);
    add_text(op, "", id);
    op->share_len = 0;
}

static void end_session(struct model_session *s)
{
    add(DURABLE_END, s->number);
    for (size_t i = 0; i < m.message_count; i++)
        if (m.messages[i].session == s->number)
            m.messages[i].there = false;
    publication_unref(s->will);
    *s = (struct model_session){ .number = 0 };
}

static void change_subscription(struct model_session *s)
{
    const size_t f = random_below(FILTERS);
    s->subscriptions[f] = random_below(3) ? 1 + random_below(100) : 0;
    struct durable_op *op =
        add(s->subscriptions[f] ? DURABLE_SUBSCRIBE : DURABLE_UNSUBSCRIBE, s->number);
    add_text(op, filters[f][0], filters[f][1]);
    op->expiry = s->subscriptions[f] - (s->subscriptions[f] > 0);
    op->options = 1;
}

static void change_received(struct model_session *s)
{
    const uint16_t id = (uint16_t)random_below(IDS);
    s->received[id] = random_below(2);
    add(s->received[id] ? DURABLE_ID_ADD : DURABLE_ID_REMOVE, s->number)->packet_id =
        (uint16_t)(id + 1);
}

static struct durable_op *add_message_op(enum durable_kind kind, const struct model_message *at)
{
    struct durable_op *op = add(kind, at->session);
    op->kept = at->kept;
    atomic_fetch_add(&at->kept->refs, 1);
    return op;
}

/* Often the message that was published before: it goes to several sessions. */
static void queue_message(const struct model_session *s)
{
    if (!m.publication || random_below(3) == 0) {
        publication_unref(m.publication);
        m.publication = random_publication();
        m.publication_number = ++m.last;
    }
    if (m.message_count == MESSAGES)
        return;
    struct model_message *at = &m.messages[m.message_count++];
    *at = (struct model_message){
        .session = s->number,
        .number = ++m.last,
        .message = m.publication_number,
        .publication = publication_ref(m.publication),
        .qos = (uint8_t)random_below(3),
        .retain = random_below(2),
        .there = true,
        .id = random_below(3) ? 0 : 1 + random_below(1000),
        .share = random_below(5) ? NULL : "g/a/#",
    };
    at->kept = kept_of(at->number, at->message);
    struct durable_op *op = add_message_op(DURABLE_MESSAGE, at);
    op->publication = publication_ref(at->publication);
    op->qos = at->qos;
    op->retain = at->retain;
    if (at->share)
        add_text(op, "", at->share);
    if (at->id) {
        op->ids = malloc(sizeof(*op->ids) + sizeof(uint32_t));
        assert_non_null(op->ids);
        *op->ids = (struct identifiers){ .refs = 1, .count = 1 };
        op->ids->values[0] = at->id;
    }
}

/* What the worker does: nothing is to be written any more of what was not. */
static void land_message(struct model_message *at)
{
    unsigned state = KEPT_NEW;
    at->there = false;
    if (!atomic_compare_exchange_strong(&at->kept->state, &state, KEPT_GONE))
        add_message_op(DURABLE_LAND, at);
}

static void move_message(const struct model_session *s)
{
    struct model_message *found = NULL;
    size_t seen = 0;
    for (size_t i = 0; i < m.message_count; i++)
        if (m.messages[i].there && m.messages[i].session == s->number &&
            random_below((uint32_t)++seen) == 0)
            found = &m.messages[i];
    if (!found)
        return;
    if (found->qos < 2 || random_below(3) == 0) {
        land_message(found);
    } else if (!found->packet_id) {
        found->packet_id = (uint16_t)(1 + random_below(65535));
        add_message_op(DURABLE_LAUNCH, found)->packet_id = found->packet_id;
    } else if (!found->released) {
        found->released = true;
        add_message_op(DURABLE_RELEASE, found)->packet_id = found->packet_id;
    }
}

static void change_retained(void)
{
    const size_t t = random_below(TOPICS);
    struct publication *p = random_publication(), *retain = publication_text(topics[t], "");
    free(m.retained[t]);
    m.retained[t] = NULL;
    if (random_below(3) && p->payload_len < 40) {
        char payload[41] = "";
        memcpy(payload, publication_payload(p), p->payload_len);
        m.retained[t] = strdup(payload);
        struct publication *fresh = publication_text(topics[t], payload);
        assert_int_equal(retained_set(m.world->clock.retained, fresh), 0);
        publication_unref(fresh);
    } else {
        retained_clear(m.world->clock.retained, topics[t], strlen(topics[t]));
    }
    add(DURABLE_RETAIN, 0)->publication = retain;
    publication_unref(p);
}

static void one_op(void)
{
    struct model_session *s = &m.sessions[random_below(SESSIONS)];
    const uint32_t dice = random_below(100);
    if (!s->number || dice < 4)
        change_session(s);
    else if (dice < 5)
        end_session(s);
    else if (dice < 12)
        change_subscription(s);
    else if (dice < 22)
        change_received(s);
    else if (dice < 62)
        queue_message(s);
    else if (dice < 90)
        move_message(s);
    else if (dice < 96)
        change_retained();
    else if (dice < 98)
        add(DURABLE_SWEEP, 0);
    else
        add(DURABLE_LOAD, s->number)->expiry = 30;
}

static void kept_drop(struct kept *kept)
{
    if (kept && atomic_fetch_sub(&kept->refs, 1) == 1)
        free(kept);
}

static void apply_group(void)
{
    m.op_count = 0;
    for (size_t n = random_below(GROUP); m.op_count < n;)
        one_op();
    m.world->twice = random_below(2);
    world_apply(m.world, m.ops, m.op_count);
    m.world->twice = false;
    for (size_t i = 0; i < m.op_count; i++) {
        struct durable_op *op = &m.ops[i];
        for (size_t l = 0; l < op->loaded_count; l++)
            stored_message_release(&op->loaded[l]);
        free(op->loaded);
        publication_unref(op->publication);
        free(op->ids);
        free(op->text);
        kept_drop(op->kept);
    }
}

/* ---- What the model says ---- */

static void say_publication(struct buf *out, const struct publication *p)
{
    buf_addf(out, " %.*s=", (int)p->topic_len, publication_topic(p));
    if (p->payload_len > 40)
        buf_addf(out, "(%u bytes)", p->payload_len);
    else
        buf_add(out, publication_payload(p), p->payload_len);
    buf_add_str(out, " q0");
}

static void say_message(struct buf *out, const struct model_message *at)
{
    buf_addf(out, "  %" PRIu64 " message %" PRIu64 " of %" PRIu64 " id=%u q%u%s", at->session,
             at->number, at->released ? 0 : at->message, at->packet_id, at->qos,
             at->retain ? "r" : "");
    if (at->share && !at->released)
        buf_addf(out, " share=%s", at->share);
    if (at->id && !at->released)
        buf_addf(out, " [%u]", at->id);
    if (!at->released)
        say_publication(out, at->publication);
    buf_add_str(out, "\n");
}

/* Messages are in the order of their numbers. */
static void say_queue(struct buf *out, uint64_t session)
{
    uint64_t after = 0, last = 0, count = 0, bytes = 0, given = 0, given_bytes = 0;
    for (size_t i = 0; i < m.message_count; i++)
        if (m.messages[i].there && m.messages[i].session == session && m.messages[i].packet_id)
            say_message(out, &m.messages[i]);
    for (size_t i = 0; i < m.message_count; i++) {
        const struct model_message *at = &m.messages[i];
        if (!at->there || at->session != session || at->packet_id)
            continue;
        const size_t size = publication_size(at->publication);
        if (at->share) { /* stays in memory, wherever it is */
            say_message(out, at);
            continue;
        }
        if (count > 0 || given == SPILL_AWAY_MESSAGES ||
            (given > 0 && given_bytes + size > SPILL_AWAY_BYTES)) {
            count++;
            bytes += size;
            last = at->number;
            continue;
        }
        say_message(out, at);
        after = at->number;
        given++;
        given_bytes += size;
    }
    if (count)
        buf_addf(out,
                 "  %" PRIu64 " rest after=%" PRIu64 " last=%" PRIu64 " count=%" PRIu64
                 " bytes=%" PRIu64 "\n",
                 session, after, last, count, bytes);
}

static void say_session(struct buf *out, const struct model_session *s)
{
    buf_addf(out, "session %" PRIu64 " client%" PRIu64 " persistent expiry=%u left=%" PRId64,
             s->number, s->number, s->expiry, s->left_ms);
    if (s->will) {
        buf_add_str(out, " will 1 2");
        say_publication(out, s->will);
    }
    buf_add_str(out, "\n");
    for (size_t f = 0; f < FILTERS; f++)
        if (s->subscriptions[f])
            buf_addf(out, "  %" PRIu64 " subscription %s:%s %u 1\n", s->number, filters[f][0],
                     filters[f][1], s->subscriptions[f] - 1);
    for (size_t id = 0; id < IDS; id++)
        if (s->received[id])
            buf_addf(out, "  %" PRIu64 " received %zu\n", s->number, id + 1);
    say_queue(out, s->number);
}

static void say_all(struct buf *out)
{
    for (size_t t = 0; t < TOPICS; t++)
        if (m.retained[t])
            buf_addf(out, "retained %s=%s q0\n", topics[t], m.retained[t]);
    uint64_t done = 0;
    for (size_t n = 0; n < SESSIONS; n++) {
        const struct model_session *next = NULL;
        for (size_t i = 0; i < SESSIONS; i++)
            if (m.sessions[i].number > done && (!next || m.sessions[i].number < next->number))
                next = &m.sessions[i];
        if (!next)
            break;
        say_session(out, next);
        done = next->number;
    }
}

static int64_t model_messages(void)
{
    int64_t count = 0;
    uint64_t before = 0; /* those of one publication are beside each other */
    for (size_t i = 0; i < m.message_count; i++) {
        const struct model_message *at = &m.messages[i];
        if (at->there && !at->released && at->message != before) {
            count++;
            before = at->message;
        }
    }
    return count;
}

/* ---- Both ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Retained messages are in no order. */
static void sort_retained(char *text)
{
    char *found[TOPICS], *at = text;
    size_t count = 0;
    while (strncmp(at, "retained ", 9) == 0) {
        char *stop = strchr(at, '\n') + 1;
        found[count++] = strndup(at, (size_t)(stop - at));
        at = stop;
    }
    qsort(found, count, sizeof(found[0]), by_text);
    at = text;
    for (size_t i = 0; i < count; i++) {
        memcpy(at, found[i], strlen(found[i]));
        at += strlen(found[i]);
        free(found[i]);
    }
}

static void compare(unsigned round)
{
    struct buf wanted = BUF_INIT((size_t)1 << 24);
    buf_add_str(&wanted, "");
    say_all(&wanted);
    char *model = buf_take(&wanted), *text = world_read(m.world);
    sort_retained(model);
    sort_retained(text);
    CHECK(strcmp(model, text) == 0, "seed %u round %u: the model says\n%s\nand the store\n%s",
          m.seed, round, model, text);
    assert_int_equal(m.world->unreadable, 0);
    assert_true(m.world->last <= m.last);
    free(model);
    free(text);
}

static void play(struct durable_world *w, uint32_t seed)
{
    memset(&m, 0, sizeof(m));
    m.world = w;
    m.seed = seed;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < GROUPS; i++)
            apply_group();
        struct durable_op op = { .kind = DURABLE_SWEEP };
        do
            world_apply(w, &op, 1);
        while (op.more);
        CHECK(world_messages(w) == model_messages(), "seed %u: %d messages, and %d in the model",
              seed, (int)world_messages(w), (int)model_messages());
        world_reopen(w);
        compare(round);
    }
    for (size_t i = 0; i < m.message_count; i++) {
        publication_unref(m.messages[i].publication);
        kept_drop(m.messages[i].kept);
    }
    for (size_t i = 0; i < SESSIONS; i++)
        publication_unref(m.sessions[i].will);
    for (size_t i = 0; i < TOPICS; i++)
        free(m.retained[i]);
    publication_unref(m.publication);
}

static void random_ops_are_what_a_model_says(void **state)
{
    play(*state, 20261);
}

static void others_too(void **state)
{
    play(*state, 4711);
}

#define WITH_WORLD(TEST) cmocka_unit_test_setup_teardown(TEST, world_set_up, world_tear_down)

TEST_SUITE("durable model", WITH_WORLD(random_ops_are_what_a_model_says), WITH_WORLD(others_too));
