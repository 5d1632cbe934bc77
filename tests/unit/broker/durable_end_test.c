/* SPDX-License-Identifier: MIT */

/* When the end of a session is on disk: step by step, in workers without threads. The writer of the store has one. */

#include "../scarce.h"
#include "quiet_store.h"

#include "broker/durable_op.h"
#include "broker/receipt.h"

#define WAITING "SELECT count(*) FROM queued"
#define LEFT    "SELECT count(*) FROM queued WHERE session = (SELECT min(number) FROM session)"
#define KNOWN   "SELECT count(*) FROM session WHERE persistent = 1"
#define ENDED   "SELECT count(*) FROM session WHERE persistent = 0 AND left_ms > 0"

/* A connection whose CONNECT, and nothing that comes of it elsewhere, is seen by the first worker. */
static void connect_alone(const struct quiet *q, struct peer *peer, const char *id)
{
    uint8_t packet[256];
    const struct mqtt_connect connect = {
        .level = MQTT_5_0,
        .clean_start = true,
        .client_id = { id, strlen(id) },
    };
    const size_t len = mqtt_write_connect(packet, sizeof(packet), &connect);
    peer_open(peer, q->broker, MQTT_5_0, 0, 0);
    assert_int_equal(send(peer->fd, packet, len, MSG_NOSIGNAL), (ssize_t)len);
    for (int i = 0; i < 4; i++)
        assert_int_equal(loop_turn(&q->broker->workers[0]->loop, false), 0);
}

static void join(const struct quiet *q, struct peer *peer)
{
    const struct mqtt_subscription group = wanted("$share/g/t", 1);
    peer_subscribe_as(peer, 1, &group, 0);
    quiet_settle(q);
    CHECK(strncmp(peer_next(peer), "SUBACK", 6) == 0, "%s", buf_str(&peer->text));
}

static void publish_ten(const struct quiet *q)
{
    struct peer p;
    quiet_client(q, &p, "publisher");
    for (uint16_t i = 1; i <= 10; i++)
        peer_publish(&p, "t", "text", 1 << 1, i);
    quiet_settle(q);
    peer_close(&p);
}

/* However long the other worker takes. */
static void an_end_waits_for_those_who_are_given_its_messages(void **state)
{
    (void)state;
    struct quiet q;
    char first[16], second[16];
    quiet_begin(&q);
    struct peer a, b, again;
    quiet_client(&q, &a, quiet_id(&q, 0, first));
    join(&q, &a);
    peer_close(&a);
    publish_ten(&q);
    quiet_client(&q, &b, quiet_id(&q, 1, second));
    join(&q, &b);
    assert_int_equal(quiet_number(&q, WAITING), 10);

    connect_alone(&q, &again, first);
    assert_int_equal(quiet_number(&q, WAITING), 10);
    assert_int_equal(quiet_number(&q, ENDED), 1);
    assert_int_equal(quiet_number(&q, KNOWN), 2); /* the publisher's too */
    quiet_settle(&q);
    assert_int_equal(quiet_number(&q, WAITING), 10); /* b has not acknowledged them */
    assert_int_equal(quiet_number(&q, "SELECT count(*) FROM queued WHERE session = "
                                      "(SELECT max(number) FROM session)"),
                     10);
    assert_int_equal(quiet_number(&q, ENDED), 0);
    peer_close(&b);
    peer_close(&again);
    quiet_end(&q);
}

/* The first session of a group has ten messages, another member is there, and the first one ends. */
struct handing {
    struct quiet q;
    char id[16];
    struct peer again, other;
};

static void handing_begin(struct handing *h, unsigned other_worker)
{
    struct peer a;
    char other[16];
    int i = 0;
    quiet_begin(&h->q);
    do
        snprintf(other, sizeof(other), "other%d", i++);
    while (broker_owner(h->q.broker, other, strlen(other)) != other_worker);
    quiet_client(&h->q, &a, quiet_id(&h->q, 0, h->id));
    join(&h->q, &a);
    peer_close(&a);
    publish_ten(&h->q);
    quiet_client(&h->q, &h->other, other);
    join(&h->q, &h->other);
    assert_int_equal(quiet_number(&h->q, LEFT), 10);
}

/* What could not be handed over is where it was, in a session that the next start ends once more. */
static void handing_end(struct handing *h, int left)
{
    quiet_settle(&h->q);
    assert_int_equal(quiet_number(&h->q, ENDED), 1);
    assert_int_equal(quiet_number(&h->q, LEFT), left);
    assert_int_equal(quiet_number(&h->q, WAITING), 10);
    peer_close(&h->other);
    peer_close(&h->again);
    quiet_end(&h->q);
}

static void what_another_worker_cannot_take_stays_on_disk(void **state)
{
    (void)state;
    struct handing h;
    handing_begin(&h, 1);
    connect_alone(&h.q, &h.again, h.id);
    memory_refuse(sizeof(struct kept));
    quiet_settle(&h.q);
    assert_true(memory_refuse(0) >= 10);
    handing_end(&h, 10);
}

static void what_cannot_be_sent_to_another_worker_stays_on_disk(void **state)
{
    (void)state;
    struct handing h;
    handing_begin(&h, 1);
    memory_refuse(sizeof(struct letter_publication));
    connect_alone(&h.q, &h.again, h.id);
    assert_true(memory_refuse(0) >= 10);
    handing_end(&h, 10);
}

static void what_the_same_worker_cannot_take_stays_on_disk(void **state)
{
    (void)state;
    struct handing h;
    handing_begin(&h, 0);
    memory_refuse(sizeof(struct kept));
    connect_alone(&h.q, &h.again, h.id);
    assert_true(memory_refuse(0) >= 10);
    handing_end(&h, 10);
}

static void what_cannot_be_collected_stays_on_disk(void **state)
{
    (void)state;
    struct handing h;
    struct orphan {
        struct flow_item item;
        struct share_member *to;
    };
    handing_begin(&h, 1);
    memory_refuse(64 * sizeof(struct orphan));
    connect_alone(&h.q, &h.again, h.id);
    assert_true(memory_refuse(0) >= 10);
    handing_end(&h, 10);
}

/* Nobody says whether the others have it. */
static void an_end_without_a_receipt_is_left_to_the_next_start(void **state)
{
    (void)state;
    struct handing h;
    handing_begin(&h, 1);
    memory_refuse(sizeof(struct receipt));
    connect_alone(&h.q, &h.again, h.id);
    assert_true(memory_refuse(0) > 0);
    assert_int_equal(quiet_number(&h.q, ENDED), 1);
    assert_int_equal(quiet_number(&h.q, LEFT), 10);
    handing_end(&h, 0); /* they have it */
}

static void connack_waits_for_the_end_of_the_session_before(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    quiet_begin(&q);
    struct peer a, again;
    quiet_client(&q, &a, quiet_id(&q, 0, id));
    peer_close(&a);
    assert_int_equal(quiet_number(&q, KNOWN), 1);
    connect_alone(&q, &again, id);
    turns(q.broker); /* what the writer has done meanwhile is not known here before the next */
    quiet_drain(&q);
    assert_int_equal(quiet_number(&q, KNOWN), 0);
    CHECK(strncmp(peer_next(&again), "CONNACK 0", 9) == 0, "%s", buf_str(&again.text));
    EXPECT(&again, "nothing");
    peer_close(&again);
    quiet_end(&q);
}

TEST_SUITE("durable end", cmocka_unit_test(an_end_waits_for_those_who_are_given_its_messages),
           cmocka_unit_test(what_another_worker_cannot_take_stays_on_disk),
           cmocka_unit_test(what_cannot_be_sent_to_another_worker_stays_on_disk),
           cmocka_unit_test(what_the_same_worker_cannot_take_stays_on_disk),
           cmocka_unit_test(what_cannot_be_collected_stays_on_disk),
           cmocka_unit_test(an_end_without_a_receipt_is_left_to_the_next_start),
           cmocka_unit_test(connack_waits_for_the_end_of_the_session_before));
