/* SPDX-License-Identifier: MIT */

/* What a worker lets the store do, and how much of it at once: step by step, in workers without threads. */

#include "quiet_store.h"

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

TEST_SUITE("durable turn", cmocka_unit_test(not_all_queues_are_looked_through_at_once));
