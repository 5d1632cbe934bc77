/* SPDX-License-Identifier: MIT */

/* What a worker lets the store do, and how much of it at once: step by step, in workers without threads. */

#include "quiet_store.h"

#include "broker/durable_batch.h"

#include <sys/socket.h>

/* The worker's housekeeping, which is done once a second. */
static void keep_house(const struct quiet *q, struct worker *worker)
{
    worker->housekeeping_ms = 0;
    loop_timer_start(&worker->loop, &worker->pulse, 0);
    while (worker->housekeeping_ms == 0)
        turns(q->broker);
}

#define QUEUES 100
#define MOST   32 /* queues at once */

/* After a start all long queues are to be looked through: not in one transaction, for which all others would wait. And
 * those that are always the first to have something that has expired do not keep the others from their turn. */
static void not_all_queues_are_looked_through_at_once(void **state)
{
    (void)state;
    struct quiet q;
    quiet_begin(&q);
    struct worker *worker = q.broker->workers[0];
    struct flow *flows[QUEUES];
    bool had[QUEUES] = { false };
    for (size_t i = 0; i < QUEUES; i++) {
        char id[16];
        snprintf(id, sizeof(id), "away%zu", i);
        struct session *session = session_new(worker, id, strlen(id));
        assert_non_null(session);
        session->expiry = 1000;
        assert_true(durable_session(worker, session));
        assert_non_null(flows[i] = session_flow(worker, session));
        flows[i]->spilled = 1;
    }
    quiet_settle(&q);
    for (size_t round = 0; round * MOST < QUEUES; round++) {
        for (size_t i = 0; i < QUEUES; i++)
            flows[i]->spill_expires = 1;
        quiet_stuck(&q);
        keep_house(&q, worker);
        keep_house(&q, worker);
        size_t loading = 0;
        for (size_t i = 0; i < QUEUES; i++)
            loading += flows[i]->loading;
        assert_int_equal(loading, MOST);
        quiet_well(&q);
        quiet_settle(&q);
        for (size_t i = 0; i < QUEUES; i++)
            had[i] |= flows[i]->spill_expires == 0;
    }
    for (size_t i = 0; i < QUEUES; i++) {
        CHECK(had[i], "queue %zu has never had its turn", i);
        assert_false(flows[i]->loading);
        flows[i]->spilled = 0;
    }
    quiet_end(&q);
}

/* ---- While the disk hangs ---- */

static struct durable_stats stats_of(const struct quiet *q)
{
    struct durable_stats stats;
    durable_stats(q->broker->durable, &stats);
    return stats;
}

/* Connects without a session to keep, which ends the one that is there. */
static void connect_clean(const struct quiet *q, struct peer *peer, const char *id)
{
    peer_open(peer, q->broker, MQTT_5_0, 0, 0);
    peer_connect(peer, id, true, 0);
    turns(q->broker);
}

/* A client that gives up and connects again costs no more than its CONNACK, until there is too much of that, too. */
static void clients_that_wait_for_connack_do_not_fill_memory(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    struct peer a, again, other;
    quiet_begin(&q);
    quiet_client(&q, &a, quiet_id(&q, 0, id));
    peer_close(&a);
    quiet_settle(&q);
    quiet_stuck(&q);
    connect_clean(&q, &again, id);
    EXPECT(&again, "nothing");
    const struct durable_stats before = stats_of(&q);
    for (size_t i = 1; i <= 20; i++) {
        struct peer next;
        connect_clean(&q, &next, id);
        EXPECT(&again, "closed");
        EXPECT(&next, "nothing");
        peer_close(&again);
        again = next;
        const struct durable_stats now = stats_of(&q);
        assert_int_equal(now.waiting, before.waiting + i);
        assert_true(now.bytes >=
                    before.bytes + i * (sizeof(struct durable_batch) + sizeof(struct durable_op)));
    }

    atomic_fetch_add(&q.broker->durable->bytes, (uint64_t)1 << 30);
    const uint64_t full = stats_of(&q).waiting;
    connect_clean(&q, &other, id);
    CHECK(strncmp(peer_next(&other), "CONNACK 89", 10) == 0, "%s", buf_str(&other.text));
    EXPECT(&other, "closed");
    peer_close(&other);
    EXPECT(&again, "nothing"); /* it goes on waiting */
    connect_clean(&q, &other, "somebody else");
    CHECK(strncmp(peer_next(&other), "CONNACK 00", 10) == 0, "%s", buf_str(&other.text));
    peer_close(&other);
    assert_int_equal(stats_of(&q).waiting, full);
    atomic_fetch_sub(&q.broker->durable->bytes, (uint64_t)1 << 30);

    quiet_well(&q);
    quiet_settle(&q);
    CHECK(strncmp(peer_next(&again), "CONNACK 00", 10) == 0, "%s", buf_str(&again.text));
    assert_int_equal(quiet_number(&q, "SELECT count(*) FROM session"), 0);
    peer_close(&again);
    quiet_end(&q);
}

static struct client *first_client(const struct quiet *q)
{
    return q->broker->workers[0]->clients;
}

/* Ends the session of "a", and connects again; CONNACK waits. */
static void begin_waiting(struct quiet *q, struct peer *again, char id[16])
{
    struct peer a;
    quiet_client(q, &a, quiet_id(q, 0, id));
    peer_close(&a);
    quiet_settle(q);
    quiet_stuck(q);
    connect_clean(q, again, id);
    EXPECT(again, "nothing");
    assert_true(first_client(q)->unanswered);
}

static void one_who_leaves_before_its_connack_is_noticed(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    struct peer again;
    quiet_begin(&q);
    begin_waiting(&q, &again, id);
    assert_int_equal(shutdown(again.fd, SHUT_WR), 0);
    EXPECT(&again, "closed");
    assert_null(first_client(&q));
    peer_close(&again);
    quiet_well(&q);
    quiet_end(&q);
}

static void what_was_sent_before_leaving_is_read_after_connack(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    struct peer again, watcher;
    quiet_begin(&q);
    quiet_client(&q, &watcher, "watcher");
    peer_subscribe(&watcher, 1, "t", 0, 0);
    quiet_settle(&q);
    EXPECT(&watcher, "SUBACK id=1 00");
    begin_waiting(&q, &again, id);
    peer_publish(&again, "t", "last words", 0, 0);
    assert_int_equal(shutdown(again.fd, SHUT_WR), 0);
    EXPECT(&again, "nothing");
    assert_true(first_client(&q)->finished); /* so that the loop may sleep */
    assert_int_equal(first_client(&q)->source.events & EPOLLRDHUP, 0);
    quiet_well(&q);
    quiet_settle(&q);
    EXPECT(&watcher, "PUBLISH q0 topic=t payload=last\\20words");
    CHECK(strncmp(peer_next(&again), "CONNACK 00", 10) == 0, "%s", buf_str(&again.text));
    EXPECT(&again, "closed");
    peer_close(&again);
    peer_close(&watcher);
    quiet_end(&q);
}

static void connack_does_not_wait_for_longer_than_connect_timeout(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    struct peer again;
    quiet_begin(&q);
    begin_waiting(&q, &again, id);
    struct client *c = first_client(&q);
    assert_true(timer_is_running(&c->timer));
    loop_timer_start(&c->worker->loop, &c->timer, 0);
    const char *text;
    do
        text = peer_next(&again);
    while (strcmp(text, "nothing") == 0);
    CHECK(strncmp(text, "CONNACK 89", 10) == 0, "%s", text);
    EXPECT(&again, "closed");
    peer_close(&again);

    connect_clean(&q, &again, id);
    EXPECT(&again, "nothing");
    quiet_well(&q);
    quiet_settle(&q);
    CHECK(strncmp(peer_next(&again), "CONNACK 00", 10) == 0, "%s", buf_str(&again.text));
    assert_false(timer_is_running(&first_client(&q)->timer)); /* it has no keep-alive */
    peer_close(&again);
    quiet_end(&q);
}

/* It would come back with the next start. */
static void nobody_is_told_of_an_end_that_failed(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    struct peer a, again;
    quiet_begin(&q);
    quiet_client(&q, &a, quiet_id(&q, 0, id));
    peer_close(&a);
    quiet_settle(&q);
    quiet_run(&q, "CREATE TRIGGER refused BEFORE DELETE ON session "
                  "BEGIN SELECT RAISE(ABORT, 'refused'); END");
    quiet_stuck(&q);
    connect_clean(&q, &again, id);
    EXPECT(&again, "nothing");
    quiet_well(&q);
    quiet_settle(&q);
    CHECK(strncmp(peer_next(&again), "CONNACK 89", 10) == 0, "%s", buf_str(&again.text));
    EXPECT(&again, "closed");
    peer_close(&again);
    assert_int_equal(quiet_number(&q, "SELECT count(*) FROM session WHERE persistent = 1"), 1);
    quiet_end(&q);
}

TEST_SUITE("durable turn", cmocka_unit_test(not_all_queues_are_looked_through_at_once),
           cmocka_unit_test(clients_that_wait_for_connack_do_not_fill_memory),
           cmocka_unit_test(one_who_leaves_before_its_connack_is_noticed),
           cmocka_unit_test(what_was_sent_before_leaving_is_read_after_connack),
           cmocka_unit_test(connack_does_not_wait_for_longer_than_connect_timeout),
           cmocka_unit_test(nobody_is_told_of_an_end_that_failed));
