/* SPDX-License-Identifier: MIT */

/* Sheets: what was written comes back, and what is damaged ends within its bytes. */

#include "../suite.h"

#include "ledger/sheet.h"
#include "router/engine.h"

#include <stdio.h>
#include <stdlib.h>

static struct target target = { .service = "file", .name = "out" };

static struct message *message_of(const char *topic)
{
    struct message *m = message_new(topic, strlen(topic), "x", 1, NULL);
    assert_non_null(m);
    m->link = "home";
    m->received_ms = 1790000000123;
    m->qos = 2;
    m->retain = true;
    return m;
}

static struct delivery *delivery_of(struct message *m, const char *id)
{
    struct delivery *d =
        delivery_new(&(struct delivery_parts){ .target = &target, .message = m, .route = "r" });
    assert_non_null(d);
    if (id)
        snprintf(d->id, sizeof(d->id), "%s", id);
    return d;
}

static void same(struct sheet_text text, const char *wanted)
{
    CHECK(text.len == strlen(wanted) && (text.len == 0 || memcmp(text.data, wanted, text.len) == 0),
          "%.*s is not %s", (int)text.len, text.data ? text.data : "", wanted);
}

static void write_message(struct sheet *sheet, struct message *m, const struct delivery *d)
{
    sheet_add_decision(
        sheet, &(struct sheet_decision){
                   .route = "r", .reason = "why", .verdict = VERDICT_DISPATCHED, .missing = 3 });
    sheet_add_decision(sheet, &(struct sheet_decision){
                                  .route = "s", .when = "a > 1", .verdict = VERDICT_WHEN_FALSE });
    sheet_add_no_target(sheet, "r", "nowhere");
    sheet_add_delivery(sheet, d);
    sheet_add_message(sheet, m, 12);
}

static void message_comes_back_with_its_parts(void **state)
{
    (void)state;
    struct message *m = message_of("a/b");
    struct delivery *d = delivery_of(m, NULL);
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, 1790000000999);
    write_message(&sheet, m, d);
    write_message(&sheet, m, d);
    assert_true(sheet_finish(&sheet));

    struct sheet_reader reader;
    struct sheet_item item;
    struct sheet_part part;
    sheet_reader_init(&reader, sheet.out.data, sheet.out.len);
    for (int i = 0; i < 2; i++) {
        assert_true(sheet_next(&reader, &item));
        assert_int_equal(item.kind, SHEET_MESSAGE);
        assert_int_equal(item.at_ms, 1790000000123);
        same(item.topic, "a/b");
        same(item.link, "home");
        assert_int_equal(item.qos, 2);
        assert_true(item.retain && !item.dup);
        assert_int_equal(item.size, 1);
        assert_int_equal(item.routes, 12);
        assert_true(sheet_next_part(&reader, &item, &part));
        assert_int_equal(part.kind, SHEET_DECISION);
        same(part.route, "r");
        same(part.reason, "why");
        assert_int_equal(part.missing, 3);
        assert_true(sheet_next_part(&reader, &item, &part));
        assert_int_equal(part.verdict, VERDICT_WHEN_FALSE);
        same(part.when, "a > 1");
        assert_true(sheet_next_part(&reader, &item, &part));
        assert_int_equal(part.kind, SHEET_NO_TARGET);
        same(part.target, "nowhere");
        assert_true(sheet_next_part(&reader, &item, &part));
        assert_int_equal(part.kind, SHEET_DELIVERY);
        same(part.service, "file");
        same(part.target, "out");
        char run[DELIVERY_RUN_SIZE];
        delivery_run(run);
        same(part.id.run, run);
        assert_int_equal(part.id.number, strtoull(strrchr(d->id, '-') + 1, NULL, 16));
        assert_false(sheet_next_part(&reader, &item, &part));
    }
    assert_false(sheet_next(&reader, &item));
    assert_false(reader.damaged);
    sheet_reader_release(&reader);
    sheet_release(&sheet);
    delivery_free(d);
    message_unref(m);
}

static void names_are_written_once_in_a_sheet(void **state)
{
    (void)state;
    struct message *m = message_of("a/b");
    struct delivery *d = delivery_of(m, NULL);
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, 1790000000999);
    write_message(&sheet, m, d);
    size_t first = sheet.out.len;
    write_message(&sheet, m, d);
    assert_true(sheet.out.len - first < 60);
    sheet_begin(&sheet, 1790000000999);
    write_message(&sheet, m, d);
    assert_int_equal(sheet.out.len, first);
    sheet_release(&sheet);
    delivery_free(d);
    message_unref(m);
}

static void events_come_back_whatever_the_id_is(void **state)
{
    (void)state;
    static const char *const ids[] = { "189cbb576af7c0a9-1",
                                       "189cbb576af7c0a9-ffffffffffffffff",
                                       "id",
                                       "id-",
                                       "id-07",
                                       "id-xyz",
                                       "a-b-c-12",
                                       "-1",
                                       "id-0",
                                       "id-11111111111111111" };
    for (size_t i = 0; i < ROWS(ids); i++) {
        struct message *m = message_of("a/b");
        struct delivery *d = delivery_of(m, ids[i]);
        d->number = 77;
        struct sheet sheet;
        sheet_init(&sheet);
        sheet_begin(&sheet, 1000);
        sheet_add_event(&sheet,
                        &(struct ledger_note){ .event = LEDGER_MOVED,
                                               .delivery = d,
                                               .attempt = 300,
                                               .reason = "r\x80",
                                               .receipt = "ok",
                                               .target = "mail:ops" },
                        500);
        assert_true(sheet_finish(&sheet));
        struct sheet_reader reader;
        struct sheet_item item;
        sheet_reader_init(&reader, sheet.out.data, sheet.out.len);
        CHECK(sheet_next(&reader, &item) && item.kind == SHEET_EVENT, "%s", ids[i]);
        assert_int_equal(item.event, LEDGER_MOVED);
        assert_int_equal(item.at_ms, 500);
        assert_int_equal(item.number, 77);
        assert_int_equal(item.attempt, 300);
        same(item.reason, "r\x80");
        same(item.receipt, "ok");
        same(item.moved_to, "mail:ops");
        char id[80];
        if (item.id.number > 0)
            snprintf(id, sizeof(id), "%.*s-%llx", (int)item.id.run.len,
                     item.id.run.data ? item.id.run.data : "", (unsigned long long)item.id.number);
        else
            snprintf(id, sizeof(id), "%.*s", (int)item.id.run.len, item.id.run.data);
        assert_string_equal(id, ids[i]);
        sheet_reader_release(&reader);
        sheet_release(&sheet);
        delivery_free(d);
        message_unref(m);
    }
}

static void unknown_items_and_versions_are_passed_over(void **state)
{
    (void)state;
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, 1000);
    buf_add(&sheet.out, "\x63\x03xyz", 5); /* of a newer version */
    sheet_add_run(&sheet, true, "run", 2000);
    assert_true(sheet_finish(&sheet));
    struct buf row = BUF_INIT(1000);
    buf_add(&row, "\x09\x02\x00\x00\x00??", 7);
    buf_add(&row, sheet.out.data, sheet.out.len);

    struct sheet_reader reader;
    struct sheet_item item;
    sheet_reader_init(&reader, row.data, row.len);
    assert_true(sheet_next(&reader, &item));
    assert_int_equal(item.kind, SHEET_END);
    assert_int_equal(item.at_ms, 2000);
    same(item.id.run, "run");
    assert_true(reader.damaged); /* the sheet before it could not be read */
    assert_false(sheet_next(&reader, &item));
    sheet_reader_release(&reader);
    buf_release(&row);
    sheet_release(&sheet);
}

/* Cut anywhere, or with any byte changed, it ends, and reads nothing outside (the sanitizer says so). */
static void damaged_sheets_end(void **state)
{
    (void)state;
    struct message *m = message_of("a/b");
    struct delivery *d = delivery_of(m, NULL);
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, 1000);
    write_message(&sheet, m, d);
    sheet_add_event(&sheet, &(struct ledger_note){ .event = LEDGER_SENT, .delivery = d }, 1000);
    assert_true(sheet_finish(&sheet));
    for (size_t i = 0; i < 2 * sheet.out.len; i++) {
        size_t len = i < sheet.out.len ? i : sheet.out.len;
        uint8_t *bytes = malloc(len + 1);
        assert_non_null(bytes);
        memcpy(bytes, sheet.out.data, len);
        if (i >= sheet.out.len)
            bytes[i - sheet.out.len] ^= 0xff;
        struct sheet_reader reader;
        struct sheet_item item;
        struct sheet_part part;
        size_t count = 0;
        sheet_reader_init(&reader, bytes, len);
        while (sheet_next(&reader, &item))
            for (count++; sheet_next_part(&reader, &item, &part);)
                continue;
        CHECK(count <= 2, "%zu", i);
        CHECK(i == 0 || i >= sheet.out.len || reader.damaged, "cut to %zu", i);
        sheet_reader_release(&reader);
        free(bytes);
    }
    sheet_release(&sheet);
    delivery_free(d);
    message_unref(m);
}

static void a_sheet_that_is_too_large_says_so(void **state)
{
    (void)state;
    struct message *m = message_of("a/b");
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, 1000);
    char reason[400];
    memset(reason, 'x', sizeof(reason));
    reason[sizeof(reason) - 1] = '\0';
    for (unsigned i = 0; i < 4000; i++) {
        snprintf(reason, 8, "%06u", i);
        reason[6] = 'x';
        sheet_add_decision(&sheet, &(struct sheet_decision){ .route = "r", .reason = reason });
    }
    sheet_add_message(&sheet, m, 1);
    assert_false(sheet_finish(&sheet));
    sheet_begin(&sheet, 1000);
    sheet_add_message(&sheet, m, 1);
    assert_true(sheet_finish(&sheet));
    sheet_release(&sheet);
    message_unref(m);
}

TEST_SUITE("ledger sheet", cmocka_unit_test(message_comes_back_with_its_parts),
           cmocka_unit_test(names_are_written_once_in_a_sheet),
           cmocka_unit_test(events_come_back_whatever_the_id_is),
           cmocka_unit_test(unknown_items_and_versions_are_passed_over),
           cmocka_unit_test(damaged_sheets_end),
           cmocka_unit_test(a_sheet_that_is_too_large_says_so));
