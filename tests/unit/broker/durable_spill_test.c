/* SPDX-License-Identifier: MIT */

/* When the queue of a session goes on on disk: step by step, in workers without threads. */

#include "quiet_store.h"

#include "broker/spill.h"

/* They stay in memory anyway: whatever there is of them, the rest of a queue is spilled for its own length only. */
static void shared_messages_do_not_count_for_spilling(void **state)
{
    (void)state;
    struct quiet q;
    char id[16], payload[SPILL_AWAY_BYTES / 4 + 1];
    quiet_begin(&q);
    struct peer away, publisher;
    quiet_client(&q, &away, quiet_id(&q, 0, id));
    const struct mqtt_subscription group = wanted("$share/g/t", 1), own = wanted("own", 1);
    peer_subscribe_as(&away, 1, &group, 0);
    peer_subscribe_as(&away, 2, &own, 0);
    quiet_settle(&q);
    peer_close(&away);
    const struct session *session = sessions_find(&q.broker->workers[0]->sessions, id, strlen(id));
    assert_non_null(session);

    quiet_client(&q, &publisher, "publisher");
    memset(payload, 'x', sizeof(payload) - 1);
    payload[sizeof(payload) - 1] = '\0';
    for (uint16_t i = 1; i <= 8; i++)
        peer_publish(&publisher, i % 2 ? "t" : "own", i % 2 ? payload : "short", 1 << 1, i);
    quiet_settle(&q);
    const struct flow *flow = session->flow;
    assert_int_equal(flow->queued, 8);
    assert_int_equal(flow->spilled, 0);
    assert_true(flow->staying_bytes > SPILL_AWAY_BYTES);
    assert_in_range(flow_spillable_bytes(flow), 1, 4000);
    for (uint16_t i = 11; i <= 16; i++)
        peer_publish(&publisher, "own", payload, 1 << 1, i);
    quiet_settle(&q);
    assert_true(flow->spilled > 0);

    quiet_client(&q, &away, id);
    quiet_settle(&q);
    assert_int_equal(flow->queued + flow->spilled, 0);
    assert_int_equal(flow->staying_bytes, 0);
    assert_int_equal(flow->queued_bytes, 0);
    peer_close(&away);
    peer_close(&publisher);
    quiet_end(&q);
}

TEST_SUITE("durable spill", cmocka_unit_test(shared_messages_do_not_count_for_spilling));
