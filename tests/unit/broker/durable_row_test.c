/* SPDX-License-Identifier: MIT */

/* Times that survive a restart, retained messages, and what is damaged. */

#include "durable_world.h"

#include "base/clock.h"
#include "broker/durable_row.h"

#include <errno.h>

/* ---- Times ---- */

static uint32_t second(const struct durable_world *w)
{
    return broker_second(&w->broker, clock_mono_ms());
}

static void a_second_of_the_broker_goes_to_the_wall_clock_and_back(void **state)
{
    const struct durable_world *w = *state;
    const uint32_t now = second(w);
    const uint32_t seconds[] = { now + 2, now + 10, now + 86400, UINT32_MAX - 1, UINT32_MAX };
    assert_int_equal(expires_to_wall(&w->clock, 0), 0);
    assert_int_equal(expires_from_wall(&w->clock, 0), 0);
    for (size_t i = 0; i < ROWS(seconds); i++) {
        const int64_t wall = expires_to_wall(&w->clock, seconds[i]), before = clock_wall_ms();
        CHECK(wall > before && wall - before <= (int64_t)(seconds[i] - now) * 1000,
              "second %u: in %d ms", seconds[i], (int)(wall - before));
        const uint32_t back = expires_from_wall(&w->clock, wall);
        CHECK(back == seconds[i], "second %u: %u", seconds[i], back);
    }
}

static void what_is_over_stays_over(void **state)
{
    const struct durable_world *w = *state;
    const uint32_t now = second(w);
    assert_int_equal(expires_from_wall(&w->clock, expires_to_wall(&w->clock, now)), 1);
    assert_int_equal(expires_from_wall(&w->clock, expires_to_wall(&w->clock, 1)), 1);
    assert_int_equal(expires_from_wall(&w->clock, 1), 1);
    assert_int_equal(expires_from_wall(&w->clock, INT64_MIN), 1);
}

static void a_restart_ends_nothing_early(void **state)
{
    struct durable_world *w = *state;
    struct broker next = { .started_ms = 0 };
    const struct durable_clock after = { &next, NULL };
    for (int i = 0; i < 1000; i++) {
        const int64_t now = clock_mono_ms();
        w->broker.started_ms = now - i * 7;
        const uint32_t at = second(w) + 5;
        const int64_t begins = w->broker.started_ms + ((int64_t)at - 1) * 1000;
        next.started_ms = now - i * 3;
        const uint32_t back = expires_from_wall(&after, expires_to_wall(&w->clock, at));
        const int64_t begins_there = next.started_ms + ((int64_t)back - 1) * 1000;
        /* One ms is within what the rounding to seconds has added. */
        CHECK(begins_there >= begins - 2 && begins_there < begins + 1010, "%d: %d ms apart", i,
              (int)(begins_there - begins));
    }
}

static void a_wall_clock_that_has_jumped_overflows_nothing(void **state)
{
    struct durable_world *w = *state;
    assert_int_equal(expires_from_wall(&w->clock, INT64_MAX), UINT32_MAX);
    assert_int_equal(expires_from_wall(&w->clock, INT64_MAX - 1), UINT32_MAX);
    assert_int_equal(expires_from_wall(&w->clock, clock_wall_ms() + (int64_t)UINT32_MAX * 1000),
                     UINT32_MAX);
    w->broker.started_ms = clock_mono_ms() + 5000; /* cannot be, but is no reason to wrap around */
    assert_true(expires_from_wall(&w->clock, clock_wall_ms() + 3000) >= 4);
    assert_true(expires_to_wall(&w->clock, 1) > clock_wall_ms());
}

static void a_queued_message_expires_when_it_should(void **state)
{
    struct durable_world *w = *state;
    session_op(w, 1, "x");
    struct publication *p = publication_text("t", "m");
    struct kept *kept = kept_of(5, 6);
    p->expires = second(w) + 50;
    message_op(w, DURABLE_MESSAGE, 1, kept, p, 0);
    world_reopen(w);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "  1 message 5 of 6 id=0 q1 t=m q0\n");
    assert_int_equal(w->expires, p->expires);
    free(kept);

    /* Over when it is read: it is there, to be dropped by who has the session. */
    p->expires = 3;
    kept = kept_of(5, 7);
    message_op(w, DURABLE_MESSAGE, 1, kept, p, 0);
    world_expect(w, "session 1 x persistent expiry=300 left=0\n"
                    "  1 message 5 of 7 id=0 q1 t=m q0\n");
    assert_int_equal(w->expires, 1);
    free(kept);
    publication_unref(p);
}

/* ---- Retained messages ---- */

static void retain_op(struct durable_world *w, const char *topic)
{
    struct publication *p = publication_text(topic, "");
    struct durable_op op = { .kind = DURABLE_RETAIN, .publication = p };
    world_apply(w, &op, 1);
    publication_unref(p);
}

static void set_retained(struct durable_world *w, const char *topic, const char *payload,
                         uint32_t expires)
{
    struct publication *p = publication_text(topic, payload);
    p->retain = true;
    p->expires = expires;
    assert_int_equal(retained_set(w->clock.retained, p), 0);
    publication_unref(p);
}

static bool sweep(struct durable_world *w)
{
    struct durable_op op = { .kind = DURABLE_SWEEP };
    world_apply(w, &op, 1);
    return op.more;
}

static void retained_messages_are_what_memory_has(void **state)
{
    struct durable_world *w = *state;
    set_retained(w, "a", "first", 0);
    set_retained(w, "a", "second", 0);
    set_retained(w, "b", "other", 0);
    set_retained(w, "c", "not noted", 0);
    retain_op(w, "a");
    retain_op(w, "a");
    retain_op(w, "b");
    world_reopen(w);
    world_expect(w, "retained a=second q0r\nretained b=other q0r\n");
    set_retained(w, "b", "again", second(w) + 60);
    const uint32_t expires = second(w) + 60;
    retained_clear(w->clock.retained, "a", 1);
    retain_op(w, "a");
    retain_op(w, "b");
    retain_op(w, "nothing");
    world_reopen(w);
    world_expect(w, "retained b=again q0r\n");
    assert_in_range(w->expires, expires - 1, expires);
    /* Expired in memory, if nobody has looked yet. */
    set_retained(w, "b", "old", 1);
    retain_op(w, "b");
    world_expect(w, "");
}

static void a_message_that_is_found_is_a_reference(void **state)
{
    struct durable_world *w = *state;
    set_retained(w, "a", "x", 0);
    struct publication *found = retained_find(w->clock.retained, "a", 1);
    assert_non_null(found);
    assert_int_equal(atomic_load(&found->refs), 2);
    retained_clear(w->clock.retained, "a", 1);
    assert_null(retained_find(w->clock.retained, "a", 1));
    assert_null(retained_find(w->clock.retained, "", 0));
    assert_memory_equal(publication_topic(found), "a", 1);
    publication_unref(found);
}

static void expired_retained_messages_are_swept_unless_memory_has_them(void **state)
{
    struct durable_world *w = *state;
    set_retained(w, "alive", "x", second(w) + 100);
    set_retained(w, "dead", "x", second(w) + 100);
    set_retained(w, "never", "x", 0);
    retain_op(w, "alive");
    retain_op(w, "dead");
    retain_op(w, "never");
    assert_false(sweep(w));
    assert_int_equal(world_number(w, "SELECT count(*) FROM retained"), 3);
    retained_clear(w->clock.retained, "dead", 4);
    /* The wall clock has jumped by a day. */
    world_run(w, "UPDATE retained SET expires_ms = expires_ms - 86400000 WHERE expires_ms > 0");
    assert_false(sweep(w));
    assert_int_equal(world_number(w, "SELECT count(*) FROM retained"), 2);
    world_expect(w, "retained alive=x q0r\nretained never=x q0r\n");
    assert_int_equal(world_number(w, "SELECT count(*) FROM retained WHERE expires_ms > "
                                     "CAST(strftime('%s') AS INTEGER) * 1000 + 90000"),
                     1);
}

static void what_expired_while_nothing_ran_is_not_given_and_swept_later(void **state)
{
    struct durable_world *w = *state;
    struct publication *p = publication_text("old", "x");
    struct buf record = BUF_INIT(1000);
    assert_int_equal(durable_write_publication(p, 1000, &record), 0);
    struct buf sql = BUF_INIT(10000);
    buf_add_str(&sql, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2500) "
                      "INSERT INTO retained SELECT 'old' || i, 1000 + i, x'");
    for (size_t i = 0; i < record.len; i++)
        buf_addf(&sql, "%02x", (uint8_t)record.data[i]);
    buf_add_str(&sql, "' FROM n; UPDATE retained SET topic = CAST('old' AS BLOB) WHERE topic = "
                      "'old1'; UPDATE retained SET topic = CAST(topic AS BLOB)");
    world_run(w, buf_str(&sql));
    world_expect(w, "");
    assert_int_equal(w->unreadable, 2499); /* whose topics are not those of their records */
    int sweeps = 1;
    while (sweep(w))
        sweeps++;
    assert_int_equal(sweeps, 3);
    assert_int_equal(world_number(w, "SELECT count(*) FROM retained"), 0);
    buf_release(&sql);
    buf_release(&record);
    publication_unref(p);
}

/* ---- Damage ---- */

/* One session with one of everything. */
static void fill(struct durable_world *w)
{
    struct publication *will = publication_text("w", "w");
    struct durable_op op = {
        .kind = DURABLE_SESSION,
        .session = 1,
        .text = (char[]){ "x" },
        .text_len = 1,
        .publication = will,
    };
    world_apply(w, &op, 1);
    publication_unref(will);
    subscription_op(w, DURABLE_SUBSCRIBE, 1, "g", "f", 1, 1);
    simple_op(w, DURABLE_ID_ADD, 1, 3);
    world_put(w, 1, 4, 4, "m");
    struct publication *p = publication_text("t", "flight");
    struct kept *kept = kept_of(5, 5);
    message_op(w, DURABLE_MESSAGE, 1, kept, p, 9);
    free(kept);
    publication_unref(p);
    set_retained(w, "r", "r", 0);
    retain_op(w, "r");
    session_op(w, 2, "y");
    world_put(w, 2, 6, 6, "n");
}

static const char *const lines[] = {
    "retained r=r q0r\n",
    "session 1 x expiry=0 left=0 will 0 0 w=w q0\n",
    "  1 subscription g:f 1 1\n",
    "  1 received 3\n",
    "  1 message 5 of 5 id=9 q2 t=flight q0\n",
    "  1 message 4 of 4 id=0 q1 t=m q0\n",
    "session 2 y persistent expiry=300 left=0\n",
    "  2 message 6 of 6 id=0 q1 t=n q0\n",
};

/* What is damaged, which lines are missing then (a bit each), and what is there instead. */
static const struct {
    const char *sql;
    unsigned without;
    const char *instead;
} damages[] = {
    { "UPDATE retained SET record = x'00'", 0x01, "" },
    { "UPDATE retained SET topic = 'other'", 0x01, "" },
    { "UPDATE session SET id = x'ff' WHERE number = 1", 0x3e, "" },
    { "UPDATE session SET id = x'6100' WHERE number = 1", 0x3e, "" },
    { "UPDATE session SET id = '' WHERE number = 1", 0x3e, "" },
    { "UPDATE session SET will = x'0100' WHERE number = 1", 0x02, "session 1 x expiry=0 left=0\n" },
    { "UPDATE subscription SET filter = 'a/#/b'", 0x04, "" },
    { "UPDATE subscription SET filter = ''", 0x04, "" },
    { "UPDATE subscription SET share = 'a/b'", 0x04, "" },
    { "UPDATE subscription SET share = '+'", 0x04, "" },
    { "UPDATE subscription SET identifier = 268435456", 0x04, "" },
    { "UPDATE subscription SET identifier = -1", 0x04, "" },
    { "UPDATE subscription SET options = 256", 0x04, "" },
    { "UPDATE received SET packet_id = 0", 0x08, "" },
    { "UPDATE received SET packet_id = 65536", 0x08, "" },
    { "UPDATE received SET packet_id = 'text'", 0x08, "" },
    { "UPDATE message SET record = substr(record, 1, 5) WHERE number = 5", 0x10, "" },
    { "UPDATE message SET record = x'' WHERE number = 4", 0x20, "" },
    { "UPDATE message SET record = record || x'00' WHERE number = 4", 0x20, "" },
    { "DELETE FROM message WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET message = NULL WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET qos = 3 WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET qos = -1 WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET qos = 0 WHERE number = 5", 0x10, "" },
    { "UPDATE queued SET packet_id = 65536 WHERE number = 5", 0x10, "" },
    { "UPDATE queued SET packet_id = -1 WHERE number = 5", 0x10, "" },
    { "UPDATE queued SET released = 1 WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET share = 'name' WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET share = '/f' WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET share = 'n/' WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET share = 'n/#/x' WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET identifiers = x'010000' WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET identifiers = x'00000000' WHERE number = 4", 0x20, "" },
    { "UPDATE queued SET identifiers = x'00000010' WHERE number = 4", 0x20, "" },
};

static void what_is_damaged_is_left_out_and_counted(void **state)
{
    struct durable_world *w = *state;
    fill(w);
    for (size_t i = 0; i < ROWS(damages); i++) {
        struct buf wanted = BUF_INIT(10000);
        for (size_t l = 0; l < ROWS(lines); l++)
            if (!(damages[i].without >> l & 1))
                buf_add_str(&wanted, lines[l]);
            else if (l == 1)
                buf_add_str(&wanted, damages[i].instead);
        world_run(w, "SAVEPOINT whole");
        world_run(w, damages[i].sql);
        char *text = world_read(w);
        CHECK(strcmp(text, buf_str(&wanted)) == 0, "%s: %s", damages[i].sql, text);
        CHECK(w->unreadable == 1, "%s: %u", damages[i].sql, (unsigned)w->unreadable);
        CHECK(w->last == 6, "%s: last %u", damages[i].sql, (unsigned)w->last);
        free(text);
        /* It is still there. */
        CHECK(world_number(w, "SELECT count(*) FROM queued") == 3, "%s: rows", damages[i].sql);
        world_run(w, "ROLLBACK TO whole; RELEASE whole");
        buf_release(&wanted);
    }
}

/* Whatever byte of a record is another one, it is read as a message or left out; the others are as before. */
static void flipped_bytes_never_do_worse(void **state)
{
    struct durable_world *w = *state;
    fill(w);
    const int64_t len = world_number(w, "SELECT length(record) FROM message WHERE number = 4");
    for (int64_t at = 1; at <= len; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            char sql[300];
            snprintf(sql, sizeof(sql),
                     "SELECT unicode(CAST(substr(record, %d, 1) AS TEXT)) FROM message WHERE "
                     "number = 4",
                     (int)at);
            const unsigned byte = (unsigned)world_number(w, sql) ^ 1u << bit;
            world_run(w, "SAVEPOINT whole");
            snprintf(sql, sizeof(sql),
                     "UPDATE message SET record = CAST(substr(record, 1, %d) || x'%02x' || "
                     "substr(record, %d) AS BLOB) WHERE number = 4",
                     (int)at - 1, byte & 0xff, (int)at + 1);
            world_run(w, sql);
            char *text = world_read(w);
            CHECK(w->queued + w->unreadable == 2, "byte %d bit %u: %s", (int)at, bit, text);
            CHECK(strstr(text, lines[4]) && strstr(text, lines[7]), "byte %d bit %u", (int)at, bit);
            free(text);
            world_run(w, "ROLLBACK TO whole; RELEASE whole");
        }
}

static int stop_at_session(void *context, const struct stored_session *session)
{
    (void)context;
    publication_unref(session->will);
    return session->number == 1 ? -ENOMEM : 0;
}

static int ignore_retained(void *context, struct publication *publication)
{
    (void)context;
    publication_unref(publication);
    return 0;
}

static void a_visitor_can_end_the_reading(void **state)
{
    struct durable_world *w = *state;
    fill(w);
    static const struct durable_visitor visitor = { .retained = ignore_retained,
                                                    .session = stop_at_session };
    assert_int_equal(durable_read(store_connection(w->store), &w->clock, &visitor, NULL, &w->last,
                                  &w->unreadable),
                     -ENOMEM);
}

#define WITH_WORLD(TEST) cmocka_unit_test_setup_teardown(TEST, world_set_up, world_tear_down)

TEST_SUITE("durable row", WITH_WORLD(a_second_of_the_broker_goes_to_the_wall_clock_and_back),
           WITH_WORLD(what_is_over_stays_over), WITH_WORLD(a_restart_ends_nothing_early),
           WITH_WORLD(a_wall_clock_that_has_jumped_overflows_nothing),
           WITH_WORLD(a_queued_message_expires_when_it_should),
           WITH_WORLD(retained_messages_are_what_memory_has),
           WITH_WORLD(a_message_that_is_found_is_a_reference),
           WITH_WORLD(expired_retained_messages_are_swept_unless_memory_has_them),
           WITH_WORLD(what_expired_while_nothing_ran_is_not_given_and_swept_later),
           WITH_WORLD(what_is_damaged_is_left_out_and_counted),
           WITH_WORLD(flipped_bytes_never_do_worse), WITH_WORLD(a_visitor_can_end_the_reading));
