/* SPDX-License-Identifier: MIT */

/* What is noted comes back from the file, in the order and with the counts; what does not fit is counted; what is old
 * goes. */

#include "../store/temporary.h"

#include "base/log.h"
#include "ledger/book.h"
#include "ledger/ledger.h"
#include "ledger/sheet.h"
#include "ledger/tell.h"
#include "store/store.h"

#include <sqlite3.h>

static const struct ledger_config everything = {
    .keep = LEDGER_KEEP_ALL,
    .max_age_ms = INT64_C(1) << 50,
    .max_size = INT64_C(1) << 40,
};
static struct target target = { .service = "file", .name = "out" };

struct desk {
    struct temporary t;
    struct store *store;
    struct ledger *ledger;
};

static void desk_open(struct desk *desk, const struct ledger_config *config)
{
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(desk->t.path, &desk->store, &why) == 0, "%s", buf_str(&why));
    assert_int_equal(ledger_new(desk->store, config, &desk->ledger), 0);
    ledger_begin(desk->ledger);
    buf_release(&why);
}

static void desk_close(struct desk *desk)
{
    ledger_end(desk->ledger);
    assert_int_equal(store_close(desk->store, 5000), 0);
    ledger_free(desk->ledger);
}

static struct message *message_of(const char *topic)
{
    struct message *m = message_new(topic, strlen(topic), "x", 1, NULL);
    assert_non_null(m);
    m->link = "home";
    m->received_ms = 1790000000123;
    return m;
}

static struct delivery *note(struct ledger *ledger, const char *topic)
{
    struct message *m = message_of(topic);
    struct delivery *d =
        delivery_new(&(struct delivery_parts){ .target = &target, .message = m, .route = "r" });
    assert_non_null(d);
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, 1790000000000);
    sheet_add_delivery(&sheet, d);
    sheet_add_message(&sheet, m, 1);
    ledger_add(ledger, &sheet, 1, 0);
    sheet_release(&sheet);
    message_unref(m);
    return d;
}

static void read_book(const struct desk *desk, const struct book_filter *filter, struct book *book)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(desk->t.path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(book_read(db, filter, false, book), 0);
    sqlite3_close(db);
}

static void messages_and_events_come_back(void **state)
{
    (void)state;
    struct desk desk;
    temporary_init(&desk.t);
    desk_open(&desk, &everything);
    struct delivery *a = note(desk.ledger, "a"), *b = note(desk.ledger, "b/c");
    ledger_note_one(desk.ledger, LEDGER_DROPPED, a, "full");
    ledger_note_moved(desk.ledger, b, "mail:ops", "down");
    ledger_note_one(desk.ledger, LEDGER_SENT, b, NULL);
    struct ledger_stats stats;
    ledger_stats(desk.ledger, &stats);
    assert_int_equal(stats.entries, 2);
    assert_int_equal(stats.events, 4); /* and the daemon's begin */
    desk_close(&desk);
    desk_open(&desk, &everything);
    struct delivery *c = note(desk.ledger, "b/d");
    struct message *m = message_of("again");
    ledger_note_suppressed(desk.ledger, m, "it was taken over before");
    desk_close(&desk);

    struct book book;
    read_book(&desk, &(struct book_filter){ .last = 10 }, &book);
    assert_int_equal(book.count, 4);
    static const char *const topics[] = { "a", "b/c", "b/d", "again" };
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(book.entries[i]->topic.data, topics[i]);
        CHECK(i == 0 || book.entries[i]->number > book.entries[i - 1]->number, "%zu", i);
    }
    const struct book_delivery *d = book.entries[1]->deliveries;
    assert_string_equal(d->id.data, b->id);
    assert_int_equal(d->event_count, 2);
    assert_int_equal(d->state, BOOK_DONE);
    assert_int_equal(book.entries[0]->deliveries->state, BOOK_DONE);
    assert_int_equal(book.entries[2]->deliveries->state, BOOK_LOST);
    struct buf out = BUF_INIT(65536);
    for (size_t i = 0; i < 4; i++)
        tell_entry(book.entries[i], "", &out);
    tell_line(book.entries[1], &out);
    static const char *const said[] = { "dropped: full",
                                        "moved on to mail:ops: down",
                                        "  mail:ops, sent\n",
                                        "has ended: if it was of QoS 0 it is lost",
                                        "It was not routed: it was taken over before.",
                                        "  mail:ops sent" };
    for (size_t i = 0; i < ROWS(said); i++)
        CHECK(strstr(buf_str(&out), said[i]), "%s is not in:\n%s", said[i], buf_str(&out));
    buf_release(&out);
    book_release(&book);

    static const struct {
        struct book_filter filter;
        size_t count;
    } filters[] = {
        { { .topic = "b/+", .last = 10 }, 2 },     { { .topic = "b/+", .last = 1 }, 1 },
        { { .route = "r", .last = 10 }, 3 },       { { .route = "s", .last = 10 }, 0 },
        { { .target = "file", .last = 10 }, 3 },   { { .target = "file:out", .last = 10 }, 3 },
        { { .target = "file:o", .last = 10 }, 0 }, { { .target = "fil", .last = 10 }, 0 },
        { { .delivery = "1-1", .last = 10 }, 0 },  { { .since_ms = INT64_MAX, .last = 10 }, 0 },
    };
    for (size_t i = 0; i < ROWS(filters); i++) {
        read_book(&desk, &filters[i].filter, &book);
        CHECK(book.count == filters[i].count, "filter %zu: %zu", i, book.count);
        book_release(&book);
    }
    message_unref(m);
    delivery_free(a);
    delivery_free(b);
    delivery_free(c);
    temporary_release(&desk.t);
}

static void what_does_not_fit_is_counted_and_told(void **state)
{
    (void)state;
    struct desk desk;
    temporary_init(&desk.t);
    log_set_level(TOCSIN_LOG_ERROR);
    struct buf why = BUF_INIT(4096);
    assert_int_equal(store_open(desk.t.path, &desk.store, &why), 0);
    assert_int_equal(ledger_new(desk.store, &everything, &desk.ledger), 0);
    struct message *m = message_of("a");
    char reason[400];
    memset(reason, 'x', sizeof(reason));
    reason[sizeof(reason) - 1] = '\0';
    struct ledger_stats stats;
    size_t noted = 0;
    do { /* nothing is written yet, so it fills up */
        ledger_note_suppressed(desk.ledger, m, reason);
        ledger_stats(desk.ledger, &stats);
        noted++;
    } while (stats.dropped < 5);
    assert_int_equal(stats.entries, noted - 5);
    assert_true(stats.waiting <= LEDGER_WAITING_MOST && stats.waiting > LEDGER_WAITING_MOST - 1000);
    ledger_begin(desk.ledger);
    desk_close(&desk);

    struct book book;
    read_book(&desk, &(struct book_filter){ .last = 10 }, &book);
    assert_int_equal(book.count, 10);
    assert_true(book.dropped >= 5);
    book_release(&book);
    buf_release(&why);
    log_set_level(TOCSIN_LOG_INFO);
    message_unref(m);
    temporary_release(&desk.t);
}

static void the_oldest_go_beyond_the_size(void **state)
{
    (void)state;
    struct desk desk;
    temporary_init(&desk.t);
    struct ledger_config config = everything;
    struct message *m = message_of("a");
    for (int i = 0; i < 6; i++) {
        desk_open(&desk, &config);
        for (int j = 0; j < 400; j++)
            ledger_note_suppressed(desk.ledger, m, "it was taken over before, and so it goes");
        config.max_size = 65536;
        desk_close(&desk);
    }
    desk_open(&desk, &config);
    struct ledger_stats stats;
    ledger_stats(desk.ledger, &stats);
    assert_true(stats.bytes <= 65536 + 40000);
    desk_close(&desk);
    struct book book;
    read_book(&desk, &(struct book_filter){ .last = 10000 }, &book);
    assert_true(book.count > 0 && book.count < 2400);
    assert_true(book.entries[0]->number > 1);
    book_release(&book);
    message_unref(m);
    temporary_release(&desk.t);
}

static void without_a_ledger_nothing_is_noted(void **state)
{
    (void)state;
    struct message *m = message_of("a");
    struct ledger_stats stats;
    ledger_note_suppressed(NULL, m, "x");
    ledger_note(NULL, NULL, 0);
    ledger_stats(NULL, &stats);
    assert_int_equal(stats.entries, 0);
    assert_int_equal(ledger_keeps(NULL, LEDGER_KEEP_ALL), LEDGER_KEEP_NONE);
    assert_false(ledger_wants_unmatched(NULL));
    message_unref(m);
}

static void a_route_that_is_not_kept_has_no_events(void **state)
{
    (void)state;
    struct desk desk;
    temporary_init(&desk.t);
    desk_open(&desk, &everything);
    struct delivery *d = note(desk.ledger, "a");
    d->ledger = LEDGER_KEEP_NONE;
    ledger_note_one(desk.ledger, LEDGER_SENT, d, NULL);
    struct ledger_stats stats;
    ledger_stats(desk.ledger, &stats);
    assert_int_equal(stats.events, 1);
    desk_close(&desk);
    delivery_free(d);
    temporary_release(&desk.t);
}

TEST_SUITE("ledger", cmocka_unit_test(messages_and_events_come_back),
           cmocka_unit_test(what_does_not_fit_is_counted_and_told),
           cmocka_unit_test(the_oldest_go_beyond_the_size),
           cmocka_unit_test(without_a_ledger_nothing_is_noted),
           cmocka_unit_test(a_route_that_is_not_kept_has_no_events));
