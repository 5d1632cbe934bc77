/* SPDX-License-Identifier: MIT */

#include "quiet_store.h"

#include "base/container.h"

#include <sqlite3.h>

void quiet_begin(struct quiet *q)
{
    struct buf why = BUF_INIT(4096);
    temporary_init(&q->files);
    sem_init(&q->go_on, 0, 0);
    CHECK(store_open(q->files.path, &q->store, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    q->broker = quiet_broker("broker = { workers = 2; listeners = ({ port = 0; }); };");
    q->broker->durable = durable_new(q->broker, q->store);
    assert_non_null(q->broker->durable);
}

void quiet_end(struct quiet *q)
{
    for (unsigned i = 0; i < q->broker->worker_count; i++)
        assert_int_equal(worker_order(q->broker->workers[i], ORDER_STOP, NULL), 0);
    turns(q->broker);
    assert_int_equal(store_close(q->store, 10000), 0);
    quiet_broker_end(q->broker);
    temporary_release(&q->files);
    sem_destroy(&q->go_on);
}

void quiet_drain(const struct quiet *q)
{
    assert_true(store_drain(q->store, 10000));
}

static int stuck_apply(struct store_task *task, struct store *store)
{
    (void)store;
    sem_wait(&CONTAINER_OF(task, struct quiet, stuck)->go_on);
    return SQLITE_OK;
}

static void stuck_done(struct store_task *task, struct store *store)
{
    (void)task;
    (void)store;
}

void quiet_stuck(struct quiet *q)
{
    q->stuck = (struct store_task){ .apply = stuck_apply, .done = stuck_done };
    store_post(q->store, &q->stuck);
}

void quiet_well(struct quiet *q)
{
    sem_post(&q->go_on);
}

void quiet_settle(const struct quiet *q)
{
    for (int i = 0; i < 4; i++) {
        turns(q->broker);
        quiet_drain(q);
    }
    turns(q->broker);
}

int quiet_number(const struct quiet *q, const char *sql)
{
    sqlite3_stmt *row = NULL;
    quiet_drain(q);
    assert_int_equal(sqlite3_prepare_v2(store_connection(q->store), sql, -1, &row, NULL), 0);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    const int number = sqlite3_column_int(row, 0);
    sqlite3_finalize(row);
    return number;
}

void quiet_run(const struct quiet *q, const char *sql)
{
    quiet_drain(q);
    CHECK(sqlite3_exec(store_connection(q->store), sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s",
          sql, sqlite3_errmsg(store_connection(q->store)));
}

const char *quiet_id(const struct quiet *q, unsigned worker, char id[16])
{
    int i = 0;
    do
        snprintf(id, 16, "c%d", i++);
    while (broker_owner(q->broker, id, strlen(id)) != worker);
    return id;
}

void quiet_client(const struct quiet *q, struct peer *peer, const char *id)
{
    peer_open(peer, q->broker, MQTT_5_0, 0, 0);
    peer_connect(peer, id, false, 1000);
    quiet_settle(q);
    CHECK(strncmp(peer_next(peer), "CONNACK", 7) == 0, "%s", buf_str(&peer->text));
}
