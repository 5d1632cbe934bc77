/* SPDX-License-Identifier: MIT */

/* Long queues: their ends, reading them in steps, and what is in memory of them after a start. */

#include "durable_world.h"

#include "broker/spill.h"

#include <inttypes.h>
#include <sqlite3.h>

/* Writes messages behind each other: numbers `first` and up, with messages 100,000 above. */
static void put_many(struct durable_world *w, uint64_t session, uint64_t first, size_t count,
                     size_t payload_len)
{
    char *payload = calloc(1, payload_len + 1);
    struct durable_op *ops = calloc(count, sizeof(*ops));
    assert_true(payload && ops);
    memset(payload, 'x', payload_len);
    struct publication *p = publication_text("t", payload);
    for (size_t i = 0; i < count; i++)
        ops[i] = (struct durable_op){
            .kind = DURABLE_MESSAGE,
            .session = session,
            .kept = kept_of(first + i, first + i + 100000),
            .publication = p,
            .qos = 1,
        };
    world_apply(w, ops, count);
    for (size_t i = 0; i < count; i++)
        free(ops[i].kept);
    publication_unref(p);
    free(payload);
    free(ops);
}

static bool end(struct durable_world *w, uint64_t session)
{
    struct durable_op op = { .kind = DURABLE_END, .session = session };
    world_apply(w, &op, 1);
    return op.more;
}

static bool sweep(struct durable_world *w)
{
    struct durable_op op = { .kind = DURABLE_SWEEP };
    world_apply(w, &op, 1);
    return op.more;
}

/* All rows of all tables of the broker, but retained messages. */
static int64_t all_rows(const struct durable_world *w)
{
    return world_number(w, "SELECT (SELECT count(*) FROM session) + "
                           "(SELECT count(*) FROM subscription) + "
                           "(SELECT count(*) FROM message) + (SELECT count(*) FROM queued) + "
                           "(SELECT count(*) FROM received) + (SELECT count(*) FROM ended)");
}

/* ---- Ends ---- */

static void an_end_takes_all_that_only_it_had(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "", "a", 0, 0);
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "g", "a", 0, 0);
    subscription_op(w, DURABLE_SUBSCRIBE, 2, "", "a", 0, 0);
    simple_op(w, DURABLE_ID_ADD, 1, 5);
    simple_op(w, DURABLE_ID_ADD, 2, 5);
    world_put(w, 1, 10, 20, "both");
    world_put(w, 2, 11, 20, "both");
    world_put(w, 1, 12, 21, "one");
    world_put(w, 1, 13, 21, "one");
    world_put(w, 2, 14, 22, "other");
    assert_false(end(w, 1));
    world_reopen(w);
    world_expect(w, "session 2 y persistent expiry=300 left=0\n"
                    "  2 subscription :a 0 0\n"
                    "  2 received 5\n"
                    "  2 message 11 of 20 id=0 q1 t=both q0\n"
                    "  2 message 14 of 22 id=0 q1 t=other q0\n");
    assert_int_equal(world_messages(w), 2);
    assert_false(end(w, 2));
    assert_int_equal(all_rows(w), 0);
    assert_false(end(w, 2));
    assert_int_equal(all_rows(w), 0);
}

static void a_long_queue_is_taken_away_in_steps(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    put_many(w, 1, 10, 2500, 3);
    world_put(w, 2, 5000, 100010, "xxx");
    world_put(w, 2, 5001, 102509, "xxx");
    assert_true(end(w, 1));
    const int64_t left = all_rows(w);
    assert_true(left > 4000 && left < 5000);
    /* A restart in between: it does not come back, its numbers are not given again, and nothing of it is an
     * orphan. */
    world_reopen(w);
    world_expect(w, "session 2 y persistent expiry=300 left=0\n"
                    "  2 message 5000 of 100010 id=0 q1 t=xxx q0\n"
                    "  2 message 5001 of 102509 id=0 q1 t=xxx q0\n");
    assert_int_equal(w->last, 102509);
    assert_int_equal(w->unreadable, 0);
    assert_int_equal(all_rows(w), left);
    int sweeps = 1;
    while (sweep(w))
        sweeps++;
    assert_in_range(sweeps, 3, 5);
    assert_int_equal(all_rows(w), 1 + 2 + 2);
    assert_int_equal(world_number(w, "SELECT count(*) FROM queued WHERE session = 2"), 2);
}

static void many_subscriptions_are_taken_away_in_steps(void **state)
{
    struct durable_world *w = *state;
    world_run(w, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
                 "INSERT INTO subscription SELECT 1 + i % 2, '', 'a/' || i, 0, 0 FROM n");
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    assert_true(end(w, 1));
    world_reopen(w);
    char *text = world_read(w);
    assert_null(strstr(text, "session 1"));
    assert_null(strstr(text, "  1 "));
    free(text);
    while (sweep(w))
        ;
    assert_int_equal(world_number(w, "SELECT count(*) FROM subscription"), 1500);
    assert_int_equal(all_rows(w), 1501);
}

/* ---- Loading ---- */

static struct durable_op load(struct durable_world *w, uint64_t session, uint64_t after,
                              uint32_t most)
{
    struct durable_op op = {
        .kind = DURABLE_LOAD, .session = session, .after_number = after, .expiry = most
    };
    w->twice = true;
    world_apply(w, &op, 1);
    w->twice = false;
    return op;
}

static void forget(struct durable_op *op)
{
    for (size_t i = 0; i < op->loaded_count; i++)
        stored_message_release(&op->loaded[i]);
    free(op->loaded);
}

static void a_queue_is_loaded_in_steps(void **state)
{
    struct durable_world *w = *state;
    put_many(w, 1, 10, 1000, 10);
    put_many(w, 2, 2000, 10, 10);
    world_run(w, "UPDATE queued SET packet_id = 5, qos = 2 WHERE number = 300");
    uint64_t after = 9, number = 10;
    for (size_t i = 0; i < 3; i++) {
        struct durable_op op = load(w, 1, after, 400);
        const size_t wanted = i < 2 ? 400 : 199;
        assert_int_equal(op.loaded_count, wanted);
        assert_int_equal(op.loaded_rows, wanted);
        assert_int_equal(op.loaded_bytes, wanted * (sizeof(struct publication) + 11));
        for (size_t m = 0; m < wanted; m++, number++) {
            number += number == 300;
            assert_int_equal(op.loaded[m].kept->number, number);
            assert_int_equal(op.loaded[m].kept->message, number + 100000);
            assert_int_equal(op.loaded[m].kept->session, 1);
            assert_int_equal(atomic_load(&op.loaded[m].kept->state), KEPT_WRITTEN);
            assert_int_equal(op.loaded[m].publication->payload_len, 10);
        }
        assert_int_equal(op.loaded_last, number - 1);
        after = op.loaded_last;
        forget(&op);
    }
    struct durable_op op = load(w, 1, after, 400);
    assert_int_equal(op.loaded_rows, 0);
    assert_int_equal(op.loaded_bytes, 0);
    assert_int_equal(op.loaded_last, after);
    assert_null(op.loaded);
}

static void not_more_than_some_bytes_are_loaded_but_at_least_one_message(void **state)
{
    struct durable_world *w = *state;
    put_many(w, 1, 1, 3, SPILL_BYTES / 2 - 500);
    put_many(w, 1, 10, 2, SPILL_BYTES * 2);
    struct durable_op op = load(w, 1, 0, 100);
    assert_int_equal(op.loaded_count, 2);
    assert_int_equal(op.loaded_last, 2);
    forget(&op);
    op = load(w, 1, 2, 100);
    assert_int_equal(op.loaded_count, 1);
    assert_int_equal(op.loaded_last, 3);
    forget(&op);
    op = load(w, 1, 3, 100);
    assert_int_equal(op.loaded_count, 1);
    assert_int_equal(op.loaded_last, 10);
    assert_true(op.loaded_bytes > SPILL_BYTES * 2);
    forget(&op);
}

static void what_cannot_be_read_is_left_out_and_counted_as_looked_at(void **state)
{
    struct durable_world *w = *state;
    put_many(w, 1, 1, 10, 10);
    world_run(w, "UPDATE message SET record = x'ff' WHERE number IN (100001, 100004)");
    world_run(w, "DELETE FROM message WHERE number = 100010");
    struct durable_op op = load(w, 1, 0, 100);
    assert_int_equal(op.loaded_count, 7);
    assert_int_equal(op.loaded_rows, 10);
    assert_int_equal(op.loaded_last, 10);
    assert_int_equal(op.loaded_bytes, 10 * (sizeof(struct publication) + 11));
    forget(&op);
}

/* ---- Expiry ---- */

static void what_has_expired_on_disk_is_taken_away(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    put_many(w, 1, 10, 2500, 10);
    put_many(w, 2, 5000, 10, 10);
    assert_int_equal(world_number(w, "SELECT max(expires_ms) FROM queued"), 0);
    world_run(w, "UPDATE queued SET expires_ms = 1000 WHERE number % 2 = 0");
    world_run(w, "UPDATE queued SET expires_ms = 1000 * unixepoch() + 1000000 WHERE number = 2501");
    /* These are not on disk only. */
    world_run(w, "UPDATE queued SET packet_id = 7, qos = 2 WHERE number = 2000");
    world_run(w, "UPDATE queued SET share = 'g/t' WHERE number = 2002");
    struct durable_op op = { .kind = DURABLE_EXPIRE, .session = 1, .after_number = 29 };
    const size_t steps = 12; /* of a hundred rows, and the rest */
    for (size_t i = 0; i < steps + 2; i++) {
        const size_t count = i < steps ? 100 : i == steps ? 1240 - 1200 - 2 : 0;
        world_apply(w, &op, 1);
        assert_int_equal(op.loaded_rows, count);
        assert_int_equal(op.loaded_bytes, count * (sizeof(struct publication) + 11));
        if (i < steps)
            assert_int_equal(op.next, 1);
        else /* the broker runs for 100 s */
            assert_in_range(op.next, 1000, 1200);
    }
    assert_int_equal(world_number(w, "SELECT count(*) FROM queued WHERE session = 1"), 2500 - 1238);
    assert_int_equal(world_number(w, "SELECT count(*) FROM queued WHERE session = 2"), 10);
    assert_int_equal(world_messages(w), 2500 - 1238 + 10);
}

static int collect(void *context, int columns, char **values, char **names)
{
    (void)columns;
    (void)names;
    buf_addf(context, "%s\n", values[3]);
    return 0;
}

/* However long the queue is: the writer is not held up by rows that have not expired. */
static void what_has_expired_is_found_by_its_index(void **state)
{
    struct durable_world *w = *state;
    struct durable_op op = { .kind = DURABLE_EXPIRE, .session = 1, .after_number = 29 };
    world_apply(w, &op, 1);
    sqlite3 *db = store_connection(w->store);
    size_t found = 0;
    for (sqlite3_stmt *s = sqlite3_next_stmt(db, NULL); s; s = sqlite3_next_stmt(db, s)) {
        if (!strstr(sqlite3_sql(s), "expires_ms) FROM queued") &&
            !strstr(sqlite3_sql(s), "size FROM queued"))
            continue;
        struct buf sql = BUF_INIT(4096), plan = BUF_INIT(4096);
        buf_addf(&sql, "EXPLAIN QUERY PLAN %s", sqlite3_sql(s));
        assert_int_equal(sqlite3_exec(db, buf_str(&sql), collect, &plan, NULL), SQLITE_OK);
        CHECK(strstr(buf_str(&plan), "queued_expiring (session=? AND expires_ms>?"), "%s: %s",
              buf_str(&sql), buf_str(&plan));
        buf_release(&sql);
        buf_release(&plan);
        found++;
    }
    assert_int_equal(found, 2);
}

/* ---- Reading at the start ---- */

static void of_a_long_queue_only_the_first_are_read(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    session_op(w, 3, "z");
    put_many(w, 1, 10, SPILL_AWAY_MESSAGES, 10);
    put_many(w, 2, 100, SPILL_AWAY_MESSAGES + 2, 10);
    world_run(w, "UPDATE queued SET packet_id = 7, qos = 2 WHERE number IN (103, 121)");
    put_many(w, 3, 200, SPILL_AWAY_MESSAGES + 5, 10);
    world_reopen(w);
    char *text = world_read(w);
    const size_t size = sizeof(struct publication) + 11;
    char rest[100];
    snprintf(rest, sizeof(rest), "  3 rest after=219 last=224 count=5 bytes=%zu\n", 5 * size);
    CHECK(strstr(text, rest), "%s: %s", rest, text);
    assert_null(strstr(text, "1 rest"));
    assert_null(strstr(text, "2 rest"));
    assert_int_equal(w->flights, 2);
    assert_int_equal(w->queued, 3 * SPILL_AWAY_MESSAGES);
    assert_int_equal(w->last, 100224);
    free(text);
    /* Where it goes on. */
    struct durable_op op = load(w, 3, 219, 100);
    assert_int_equal(op.loaded_rows, 5);
    assert_int_equal(op.loaded_last, 224);
    assert_int_equal(op.loaded_bytes, 5 * size);
    forget(&op);
}

static void a_very_long_queue_is_counted(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    put_many(w, 1, 10, 2500, 10);
    put_many(w, 2, 5000, 1, 10);
    /* Flights and sizes that cannot be in between. */
    world_run(w, "UPDATE queued SET packet_id = 7, qos = 2 WHERE number IN (15, 2000, 2509)");
    world_run(w, "UPDATE queued SET size = 0x4000000000000000 WHERE number IN (1900, 1901)");
    char *text = world_read(w);
    const size_t first = SPILL_AWAY_MESSAGES + 1;
    char rest[100];
    snprintf(rest, sizeof(rest), "  1 rest after=%zu last=2508 count=%zu bytes=", 9 + first,
             2500 - first - 2);
    CHECK(strstr(text, rest), "%s: %s", rest, text);
    CHECK(strstr(text, "  2 message 5000 of 105000 "), "%s", text);
    assert_int_equal(w->flights, 3);
    assert_int_equal(w->queued, SPILL_AWAY_MESSAGES + 1);
    free(text);
    world_run(w, "UPDATE queued SET size = 100");
    text = world_read(w);
    snprintf(rest, sizeof(rest), " count=%zu bytes=%zu\n", 2500 - first - 2,
             (2500 - first - 2) * 100);
    CHECK(strstr(text, rest), "%s: %s", rest, text);
    free(text);
}

/* In a queue that is counted in one go, and in one that is not. */
static void all_of_shared_subscriptions_are_read(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    put_many(w, 1, 10, 2500, 10);
    put_many(w, 2, 5000, 100, 10);
    world_run(w, "UPDATE queued SET share = 'g/t' WHERE number % 10 = 0");
    char *text = world_read(w);
    char rest[100];
    snprintf(rest, sizeof(rest), "  1 rest after=%d last=2509 count=%d bytes=", 11 + 21,
             2250 - SPILL_AWAY_MESSAGES);
    CHECK(strstr(text, rest), "%s: %s", rest, text);
    snprintf(rest, sizeof(rest), "  2 rest after=%d last=5099 count=%d bytes=", 5000 + 22,
             90 - SPILL_AWAY_MESSAGES);
    CHECK(strstr(text, rest), "%s: %s", rest, text);
    assert_int_equal(w->queued, 2 * SPILL_AWAY_MESSAGES + 250 + 10);
    free(text);
    struct durable_op op = load(w, 1, 32, 5000);
    assert_int_equal(op.loaded_rows, 2250 - SPILL_AWAY_MESSAGES);
    forget(&op);
}

static void of_long_messages_fewer_are_read_but_at_least_one(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    session_op(w, 2, "y");
    put_many(w, 1, 10, 3, SPILL_AWAY_BYTES / 2 - 100);
    put_many(w, 2, 20, 2, SPILL_AWAY_BYTES * 2);
    char *text = world_read(w);
    CHECK(strstr(text, "  1 rest after=11 last=12 count=1 "), "%s", text);
    CHECK(strstr(text, "  2 rest after=20 last=21 count=1 "), "%s", text);
    assert_int_equal(w->queued, 3);
    free(text);
}

static void messages_in_no_queue_are_forgotten(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    put_many(w, 1, 1, 5, 1);
    world_run(w, "DELETE FROM queued WHERE number IN (2, 5)");
    char *text = world_read(w);
    assert_int_equal(w->queued, 3);
    assert_int_equal(w->last, 100005);
    assert_int_equal(world_messages(w), 3);
    free(text);
}

#define WITH_WORLD(TEST) cmocka_unit_test_setup_teardown(TEST, world_set_up, world_tear_down)

TEST_SUITE("durable queue", WITH_WORLD(an_end_takes_all_that_only_it_had),
           WITH_WORLD(a_long_queue_is_taken_away_in_steps),
           WITH_WORLD(many_subscriptions_are_taken_away_in_steps),
           WITH_WORLD(a_queue_is_loaded_in_steps),
           WITH_WORLD(not_more_than_some_bytes_are_loaded_but_at_least_one_message),
           WITH_WORLD(what_cannot_be_read_is_left_out_and_counted_as_looked_at),
           WITH_WORLD(of_a_long_queue_only_the_first_are_read),
           WITH_WORLD(a_very_long_queue_is_counted),
           WITH_WORLD(all_of_shared_subscriptions_are_read),
           WITH_WORLD(what_has_expired_on_disk_is_taken_away),
           WITH_WORLD(what_has_expired_is_found_by_its_index),
           WITH_WORLD(of_long_messages_fewer_are_read_but_at_least_one),
           WITH_WORLD(messages_in_no_queue_are_forgotten));
