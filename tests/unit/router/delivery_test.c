/* SPDX-License-Identifier: MIT */

#include "router/delivery.h"

#include "../suite.h"

#include <ctype.h>
#include <string.h>

static struct message *new_message(const char *payload, size_t len)
{
    struct message *m = message_new("a/b", 3, payload, len, NULL);
    m->link = "home";
    m->received_ms = 1234;
    m->qos = 1;
    return m;
}

static void delivery_carries_copies_of_everything_it_was_made_of(void **state)
{
    (void)state;
    struct target target = { .service = "s", .name = "t", .format_count = 3 };
    struct message *m = new_message("21.5", 4);
    char route[] = "route", title[] = "title", text[] = "text", html[] = "<b>text</b>";
    char path[] = "/tmp/x", name[] = "celsius", value[] = "21.5";
    const char *rendered[] = { path, NULL, "" };
    struct tocsin_field field = { name, value, 4, TOCSIN_FIELD_NUMBER };
    struct delivery *d = delivery_new(&(struct delivery_parts){
        .target = &target,
        .message = m,
        .route = route,
        .title = title,
        .title_len = 5,
        .text = text,
        .text_len = 4,
        .html = html,
        .html_len = 11,
        .rendered = rendered,
        .fields = &field,
        .field_count = 1,
        .priority = 2,
        .has_priority = true,
        .severity = TOCSIN_CRITICAL,
        .has_severity = true,
    });
    message_unref(m);
    memset(route, 'X', 5);
    memset(title, 'X', 5);
    memset(text, 'X', 4);
    memset(html, 'X', 11);
    memset(path, 'X', 6);
    memset(name, 'X', 7);
    memset(value, 'X', 4);

    assert_string_equal(d->view.topic, "a/b");
    assert_string_equal(d->view.link, "home");
    assert_string_equal(d->view.route, "route");
    assert_string_equal(d->view.title, "title");
    assert_string_equal(d->view.text, "text");
    assert_int_equal(d->view.text_len, 4);
    assert_string_equal(d->view.html, "<b>text</b>");
    assert_false(d->view.text_is_payload);
    assert_memory_equal(d->view.payload, "21.5", 4);
    assert_int_equal(d->view.received_ms, 1234);
    assert_int_equal(d->view.qos, 1);
    assert_true(d->view.has_severity && d->view.severity == TOCSIN_CRITICAL);
    assert_true(d->view.has_priority && d->view.priority == 2);
    assert_string_equal(d->rendered[0], "/tmp/x");
    assert_null(d->rendered[1]);
    assert_string_equal(d->rendered[2], "");
    assert_int_equal(d->view.field_count, 1);
    assert_string_equal(d->view.fields[0]->name, "celsius");
    assert_string_equal(d->view.fields[0]->text, "21.5");
    assert_int_equal(d->view.fields[0]->type, TOCSIN_FIELD_NUMBER);
    assert_true(d->size > message_size(d->message) + sizeof(*d));
    delivery_free(d);
}

static void text_is_the_payload_when_there_is_no_other(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        size_t len;
        const char *text;
    } rows[] = {
        { "", 0, "" },
        { "plain", 5, "plain" },
        { "gr\xC3\xBC\xC3\x9F", 6, "gr\xC3\xBC\xC3\x9F" },
        { "bad \xFF!", 6, "bad \xEF\xBF\xBD!" },
        { "a\0b", 3,
          "a\xEF\xBF\xBD"
          "b" },
    };
    struct target target = { .service = "s", .name = "t" };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct message *m = new_message(rows[i].payload, rows[i].len);
        struct delivery *d =
            delivery_new(&(struct delivery_parts){ .target = &target, .message = m, .route = "r" });
        message_unref(m);
        CHECK(d->view.text_is_payload, "row %zu", i);
        CHECK(strcmp(d->view.text, rows[i].text) == 0, "row %zu: \"%s\"", i, d->view.text);
        CHECK(d->view.text_len == strlen(rows[i].text), "row %zu: %zu", i, d->view.text_len);
        CHECK(d->view.payload_len == rows[i].len &&
                  memcmp(d->view.payload, rows[i].payload, rows[i].len) == 0,
              "row %zu: the payload has changed", i);
        CHECK(strcmp(d->view.title, "") == 0, "row %zu: title", i);
        delivery_free(d);
    }
}

static void what_is_not_utf8_is_replaced_everywhere(void **state)
{
    (void)state;
    struct target target = { .service = "s", .name = "t", .format_count = 1 };
    struct message *m = new_message("x", 1);
    const char *rendered[] = { "p\xFF" };
    struct tocsin_field field = { "n\xFF", "v\xFF", 2, TOCSIN_FIELD_STRING };
    struct delivery *d = delivery_new(&(struct delivery_parts){
        .target = &target,
        .message = m,
        .route = "r",
        .title = "t\xFF",
        .title_len = 2,
        .text = "x\0\xFF",
        .text_len = 3,
        .html = "h\xFF",
        .html_len = 2,
        .rendered = rendered,
        .fields = &field,
        .field_count = 1,
    });
    message_unref(m);
    assert_string_equal(d->view.title, "t\xEF\xBF\xBD");
    assert_string_equal(d->view.text, "x\xEF\xBF\xBD\xEF\xBF\xBD");
    assert_int_equal(d->view.text_len, 7);
    assert_string_equal(d->view.html, "h\xEF\xBF\xBD");
    assert_string_equal(d->rendered[0], "p\xEF\xBF\xBD");
    assert_string_equal(d->view.fields[0]->name, "n\xEF\xBF\xBD");
    assert_string_equal(d->view.fields[0]->text, "v\xEF\xBF\xBD");
    assert_int_equal(d->view.fields[0]->len, 4);
    delivery_free(d);
}

static void id_is_unique_and_of_letters_digits_and_dashes(void **state)
{
    (void)state;
    struct target target = { .service = "s", .name = "t" };
    struct message *m = new_message("x", 1);
    const struct delivery_parts parts = { .target = &target, .message = m, .route = "r" };
    struct delivery *a = delivery_new(&parts), *b = delivery_new(&parts);
    assert_string_not_equal(a->view.id, b->view.id);
    for (const char *c = a->view.id; *c; c++)
        CHECK(isalnum((unsigned char)*c) || *c == '-', "%s", a->view.id);
    assert_true(strlen(a->view.id) > 10);
    delivery_free(a);
    delivery_free(b);
    message_unref(m);
}

static int taken;

static void count_taken(struct message *message, void *context)
{
    (void)message;
    (void)context;
    taken++;
}

static void freeing_drops_the_hold_at_once_and_the_memory_after_the_last_borrower(void **state)
{
    (void)state;
    struct target target = { .service = "s", .name = "t" };
    struct message *m = new_message("x", 1);
    m->taken = count_taken;
    taken = 0;
    struct delivery *d =
        delivery_new(&(struct delivery_parts){ .target = &target, .message = m, .route = "r" });
    message_hold(m);
    d->holding = true;
    message_release_hold(m); /* the one it was made with */
    message_unref(m);
    assert_int_equal(taken, 0);

    delivery_borrow(d);
    delivery_free(d);
    assert_int_equal(taken, 1);
    assert_string_equal(d->view.text, "x");
    delivery_return(d);
    delivery_free(NULL);
}

TEST_SUITE("delivery", cmocka_unit_test(delivery_carries_copies_of_everything_it_was_made_of),
           cmocka_unit_test(text_is_the_payload_when_there_is_no_other),
           cmocka_unit_test(what_is_not_utf8_is_replaced_everywhere),
           cmocka_unit_test(id_is_unique_and_of_letters_digits_and_dashes),
           cmocka_unit_test(freeing_drops_the_hold_at_once_and_the_memory_after_the_last_borrower));
