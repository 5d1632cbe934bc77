/* SPDX-License-Identifier: MIT */

/* When the end of a session is on disk: step by step, in workers without threads. The writer of the store has one. */

#include "../store/temporary.h"
#include "peers.h"

#include "broker/durable.h"
#include "store/store.h"

#include <sqlite3.h>

struct quiet {
    struct temporary files;
    struct store *store;
    struct broker *broker;
};

static void quiet_begin(struct quiet *q)
{
    struct buf why = BUF_INIT(4096);
    temporary_init(&q->files);
    CHECK(store_open(q->files.path, &q->store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    q->broker = quiet_broker("broker = { workers = 2; listeners = ({ port = 0; }); };");
    q->broker->durable = durable_new(q->broker, q->store);
    assert_non_null(q->broker->durable);
}

static void quiet_end(struct quiet *q)
{
    for (unsigned i = 0; i < q->broker->worker_count; i++)
        assert_int_equal(worker_order(q->broker->workers[i], ORDER_STOP, NULL), 0);
    turns(q->broker);
    assert_int_equal(store_close(q->store, 10000), 0);
    quiet_broker_end(q->broker);
    temporary_release(&q->files);
}

static void drain(const struct quiet *q)
{
    assert_true(store_drain(q->store, 10000));
}

/* All that is under way arrives, also on disk. */
static void settle(const struct quiet *q)
{
    for (int i = 0; i < 4; i++) {
        turns(q->broker);
        drain(q);
    }
    turns(q->broker);
}

/* What is on disk: as a start after a kill would find it. The writer has nothing to do. */
static int on_disk(const struct quiet *q, const char *sql)
{
    sqlite3_stmt *row = NULL;
    drain(q);
    assert_int_equal(sqlite3_prepare_v2(store_connection(q->store), sql, -1, &row, NULL), 0);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    const int number = sqlite3_column_int(row, 0);
    sqlite3_finalize(row);
    return number;
}

#define WAITING "SELECT count(*) FROM queued"
#define KNOWN   "SELECT count(*) FROM session WHERE persistent = 1"
#define ENDED   "SELECT count(*) FROM session WHERE persistent = 0 AND left_ms > 0"

/* A client id that belongs to a worker. */
static const char *id_at(const struct quiet *q, unsigned worker, char id[16])
{
    int i = 0;
    do
        snprintf(id, 16, "c%d", i++);
    while (broker_owner(q->broker, id, strlen(id)) != worker);
    return id;
}

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

static void begin(const struct quiet *q, struct peer *peer, const char *id)
{
    peer_open(peer, q->broker, MQTT_5_0, 0, 0);
    peer_connect(peer, id, false, 1000);
    settle(q);
    CHECK(strncmp(peer_next(peer), "CONNACK", 7) == 0, "%s", buf_str(&peer->text));
}

static void join(const struct quiet *q, struct peer *peer)
{
    const struct mqtt_subscription group = wanted("$share/g/t", 1);
    peer_subscribe_as(peer, 1, &group, 0);
    settle(q);
    CHECK(strncmp(peer_next(peer), "SUBACK", 6) == 0, "%s", buf_str(&peer->text));
}

static void publish_ten(const struct quiet *q)
{
    struct peer p;
    begin(q, &p, "publisher");
    for (uint16_t i = 1; i <= 10; i++)
        peer_publish(&p, "t", "text", 1 << 1, i);
    settle(q);
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
    begin(&q, &a, id_at(&q, 0, first));
    join(&q, &a);
    peer_close(&a);
    publish_ten(&q);
    begin(&q, &b, id_at(&q, 1, second));
    join(&q, &b);
    assert_int_equal(on_disk(&q, WAITING), 10);

    connect_alone(&q, &again, first);
    assert_int_equal(on_disk(&q, WAITING), 10);
    assert_int_equal(on_disk(&q, ENDED), 1);
    assert_int_equal(on_disk(&q, KNOWN), 2); /* the publisher's too */
    settle(&q);
    assert_int_equal(on_disk(&q, WAITING), 10); /* b has not acknowledged them */
    assert_int_equal(on_disk(&q, "SELECT count(*) FROM queued WHERE session = "
                                 "(SELECT max(number) FROM session)"),
                     10);
    assert_int_equal(on_disk(&q, ENDED), 0);
    peer_close(&b);
    peer_close(&again);
    quiet_end(&q);
}

static void connack_waits_for_the_end_of_the_session_before(void **state)
{
    (void)state;
    struct quiet q;
    char id[16];
    quiet_begin(&q);
    struct peer a, again;
    begin(&q, &a, id_at(&q, 0, id));
    peer_close(&a);
    assert_int_equal(on_disk(&q, KNOWN), 1);
    connect_alone(&q, &again, id);
    turns(q.broker); /* what the writer has done meanwhile is not known here before the next */
    drain(&q);
    assert_int_equal(on_disk(&q, KNOWN), 0);
    CHECK(strncmp(peer_next(&again), "CONNACK 0", 9) == 0, "%s", buf_str(&again.text));
    EXPECT(&again, "nothing");
    peer_close(&again);
    quiet_end(&q);
}

TEST_SUITE("durable end", cmocka_unit_test(an_end_waits_for_those_who_are_given_its_messages),
           cmocka_unit_test(connack_waits_for_the_end_of_the_session_before));
