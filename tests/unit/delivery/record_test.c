/* SPDX-License-Identifier: MIT */

/* Deliveries as bytes: everything that a delivery has comes back. */

#include "../suite.h"

#include "delivery/record.h"

#include <errno.h>
#include <stdlib.h>

static const char *const links[] = { "home", "garden" };

static const char *find_link(void *context, const char *name)
{
    (void)context;
    for (size_t i = 0; i < ROWS(links); i++)
        if (strcmp(links[i], name) == 0)
            return links[i];
    return NULL;
}

static struct target target_of(size_t formats)
{
    return (struct target){ .service = "s", .name = "t", .format_count = formats };
}

static void same_text(const char *what, const char *a, const char *b)
{
    CHECK(!a == !b && (!a || strcmp(a, b) == 0), "%s: %s, not %s", what, b ? b : "NULL",
          a ? a : "NULL");
}

static void same_properties(const struct tocsin_properties *a, const struct tocsin_properties *b)
{
    assert_int_equal(!a, !b);
    if (!a)
        return;
    same_text("content_type", a->content_type, b->content_type);
    same_text("response_topic", a->response_topic, b->response_topic);
    assert_int_equal(!a->correlation, !b->correlation);
    assert_int_equal(a->correlation_len, b->correlation_len);
    if (a->correlation)
        assert_memory_equal(a->correlation, b->correlation, a->correlation_len);
    assert_int_equal(a->user_count, b->user_count);
    for (size_t i = 0; i < a->user_count; i++) {
        same_text("user property", a->user[i].name, b->user[i].name);
        same_text("its value", a->user[i].value, b->user[i].value);
    }
    assert_int_equal(a->expires_ms, b->expires_ms);
    assert_int_equal(a->payload_utf8, b->payload_utf8);
}

static void same(const struct delivery *a, const struct delivery *b)
{
    const struct tocsin_message *v = &a->view, *w = &b->view;
    same_text("id", v->id, w->id);
    assert_ptr_equal(w->id, b->id);
    same_text("topic", v->topic, w->topic);
    assert_int_equal(a->message->topic_len, b->message->topic_len);
    assert_int_equal(v->payload_len, w->payload_len);
    assert_memory_equal(v->payload, w->payload, v->payload_len);
    same_text("text", v->text, w->text);
    assert_int_equal(v->text_len, w->text_len);
    assert_int_equal(v->text_is_payload, w->text_is_payload);
    same_text("title", v->title, w->title);
    same_text("html", v->html, w->html);
    same_text("route", v->route, w->route);
    same_text("link", v->link, w->link);
    assert_int_equal(v->received_ms, w->received_ms);
    assert_int_equal(v->priority, w->priority);
    assert_int_equal(v->has_priority, w->has_priority);
    assert_int_equal(v->severity, w->severity);
    assert_int_equal(v->has_severity, w->has_severity);
    assert_int_equal(v->qos, w->qos);
    assert_int_equal(v->retain, w->retain);
    assert_int_equal(v->hops, w->hops);
    assert_int_equal(a->ledger, b->ledger);
    assert_int_equal(v->field_count, w->field_count);
    for (size_t i = 0; i < v->field_count; i++) {
        same_text("field", v->fields[i]->name, w->fields[i]->name);
        same_text("its text", v->fields[i]->text, w->fields[i]->text);
        assert_int_equal(v->fields[i]->len, w->fields[i]->len);
        assert_int_equal(v->fields[i]->type, w->fields[i]->type);
    }
    for (size_t i = 0; i < a->target->format_count; i++)
        same_text("rendered", a->rendered[i], b->rendered[i]);
    same_properties(v->properties, w->properties);
}

static struct message *message_of(const void *payload, size_t len,
                                  const struct tocsin_properties *properties)
{
    struct message *m = message_new("a/b", 3, payload, len, properties);
    assert_non_null(m);
    m->link = links[1];
    m->received_ms = 1790000000123;
    m->qos = 2;
    m->retain = true;
    m->hops = 3;
    return m;
}

/* Writes, reads, compares; frees the parts' message. */
static void goes_round(struct delivery_parts parts)
{
    struct delivery *d = delivery_new(&parts), *back;
    struct buf out = BUF_INIT(1 << 20);
    assert_int_equal(record_write(d, parts.target->format_count, &out), 0);
    /* A copy of its very length, so that the sanitizer sees what is read beyond it. */
    void *record = malloc(out.len);
    memcpy(record, out.data, out.len);
    assert_int_equal(record_read(record, out.len, parts.target, find_link, NULL, &back), 0);
    free(record);
    same(d, back);
    delivery_free(d);
    delivery_free(back);
    message_unref(parts.message);
    buf_release(&out);
}

static void everything_comes_back(void **state)
{
    (void)state;
    struct target t = target_of(3);
    const struct tocsin_property user[] = { { "k", "v" }, { "k", "v2" }, { "", "" } };
    const struct tocsin_properties properties = {
        .content_type = "text/plain",
        .response_topic = "re/ply",
        .correlation = (const uint8_t *)"\0\1\2",
        .correlation_len = 3,
        .user = user,
        .user_count = 3,
        .expires_ms = 1790000009999,
        .payload_utf8 = 1,
    };
    const struct tocsin_field fields[] = {
        { "n", "-1.5", 4, TOCSIN_FIELD_NUMBER }, { "empty", "", 0, TOCSIN_FIELD_STRING },
        { "b", "true", 4, TOCSIN_FIELD_BOOL },   { "z", "null", 4, TOCSIN_FIELD_NULL },
        { "list", "[1]", 3, TOCSIN_FIELD_JSON },
    };
    const char *const rendered[] = { "one", NULL, "" };
    goes_round((struct delivery_parts){
        .target = &t,
        .message = message_of("{\"n\":-1.5}", 10, &properties),
        .ledger = LEDGER_KEEP_NONE,
        .route = "the route",
        .title = "Title \xC3\xA9",
        .title_len = 8,
        .text = "text\nof two lines",
        .text_len = 17,
        .html = "<b>x</b>",
        .html_len = 8,
        .rendered = rendered,
        .fields = fields,
        .field_count = ROWS(fields),
        .priority = -7,
        .has_priority = true,
        .has_severity = true,
        .severity = TOCSIN_UNKNOWN,
    });
}

static void fallbacks_come_back_with_what_was_rendered_for_them(void **state)
{
    (void)state;
    struct target t = target_of(1),
                  phone = { .service = "phone", .name = "ops", .format_count = 2 },
                  mail = { .service = "mail", .name = "boss" };
    struct message *m = message_of("21.5", 4, NULL);
    const char *const rendered[] = { "one" }, *const of_phone[] = { NULL, "two" };
    const struct tocsin_field field = { "n", "21.5", 4, TOCSIN_FIELD_NUMBER };
    struct delivery *d = delivery_new(&(struct delivery_parts){ .target = &t,
                                                                .message = m,
                                                                .route = "r",
                                                                .title = "T",
                                                                .title_len = 1,
                                                                .rendered = rendered });
    delivery_add_fallback(d, delivery_new(&(struct delivery_parts){ .target = &phone,
                                                                    .message = m,
                                                                    .route = "r",
                                                                    .title = "T",
                                                                    .title_len = 1,
                                                                    .rendered = of_phone,
                                                                    .fields = &field,
                                                                    .field_count = 1,
                                                                    .is_fallback = true }));
    delivery_add_fallback(d, delivery_new(&(struct delivery_parts){ .target = &mail,
                                                                    .message = m,
                                                                    .route = "r",
                                                                    .title = "T",
                                                                    .title_len = 1,
                                                                    .html = "<b>",
                                                                    .html_len = 3,
                                                                    .is_fallback = true }));
    struct buf out = BUF_INIT(1 << 20);
    assert_int_equal(record_write(d, 1, &out), 0);
    struct delivery *back;
    assert_int_equal(record_read(out.data, out.len, &t, find_link, NULL, &back), 0);
    same(d, back);
    const struct delivery *a = d->fallback, *b = back->fallback;
    for (size_t i = 0; i < 2; i++, a = a->fallback, b = b->fallback) {
        assert_non_null(b);
        assert_null(b->target); /* looked up when it is needed */
        same_text("address", a->address, b->address);
        same_text("id", d->id, b->view.id);
        same_text("title", a->view.title, b->view.title);
        same_text("html", a->view.html, b->view.html);
        assert_int_equal(a->rendered_count, b->rendered_count);
        for (size_t j = 0; j < a->rendered_count; j++)
            same_text("rendered", a->rendered[j], b->rendered[j]);
        assert_int_equal(a->view.field_count, b->view.field_count);
    }
    assert_null(b);
    same_text("field", "n", back->fallback->view.fields[0]->name);
    same_text("its text", "21.5", back->fallback->view.fields[0]->text);

    size_t at = 0, found = 0; /* people see where it could go */
    struct record_field field_of;
    while (record_next(out.data, out.len, &at, &field_of))
        if (strcmp(field_of.name, "fallback") == 0)
            found += (field_of.len == 9 && memcmp(field_of.data, "phone:ops", 9) == 0) ||
                     (field_of.len == 9 && memcmp(field_of.data, "mail:boss", 9) == 0);
    assert_int_equal(found, 2);
    delivery_free(d);
    delivery_free(back);

    /* A name without its target is no record of ours. */
    buf_add(&out, "\x1c\x05phone", 7);
    assert_int_equal(record_read(out.data, out.len, &t, find_link, NULL, &back), -EBADMSG);
    message_unref(m);
    buf_release(&out);
}

static void what_is_not_there_comes_back_as_that(void **state)
{
    (void)state;
    struct target t = target_of(0);
    goes_round(
        (struct delivery_parts){ .target = &t, .message = message_of("", 0, NULL), .route = "" });
    const struct tocsin_properties none = { .payload_utf8 = -1 };
    goes_round(
        (struct delivery_parts){ .target = &t, .message = message_of("x", 1, &none), .route = "" });
    const struct tocsin_properties zero = { .payload_utf8 = 0, .correlation = (const uint8_t *)"" };
    goes_round(
        (struct delivery_parts){ .target = &t, .message = message_of("x", 1, &zero), .route = "" });
    goes_round((struct delivery_parts){ .target = &t,
                                        .message = message_of("x", 1, NULL),
                                        .route = "",
                                        .text = "",
                                        .text_len = 0 });
}

static void a_payload_that_is_no_text_comes_back_byte_for_byte(void **state)
{
    (void)state;
    struct target t = target_of(0);
    goes_round((struct delivery_parts){
        .target = &t, .message = message_of("a\xFF\0b", 4, NULL), .route = "r" });
}

static void long_ones_come_back(void **state)
{
    (void)state;
    static const size_t lengths[] = { 127, 128, 16383, 16384, 200000 };
    struct target t = target_of(0);
    for (size_t i = 0; i < ROWS(lengths); i++) {
        char *text = malloc(lengths[i]);
        memset(text, 'x', lengths[i]);
        goes_round((struct delivery_parts){
            .target = &t, .message = message_of(text, lengths[i], NULL), .route = "r" });
        free(text);
    }
}

static void a_record_for_other_formats_is_not_taken(void **state)
{
    (void)state;
    struct target one = target_of(1), two = target_of(2);
    const char *const rendered[] = { "only" };
    struct delivery_parts parts = {
        .target = &one, .message = message_of("x", 1, NULL), .route = "r", .rendered = rendered
    };
    struct delivery *d = delivery_new(&parts), *back;
    struct buf out = BUF_INIT(4096);
    assert_int_equal(record_write(d, 1, &out), 0);
    assert_int_equal(record_read(out.data, out.len, &two, find_link, NULL, &back), -ESTALE);
    assert_null(back);
    buf_release(&out);
    delivery_free(d);
    message_unref(parts.message);
}

static void a_link_that_is_gone_has_no_name(void **state)
{
    (void)state;
    struct target t = target_of(0);
    struct delivery_parts parts = { .target = &t,
                                    .message = message_of("x", 1, NULL),
                                    .route = "r" };
    parts.message->link = "gone";
    struct delivery *d = delivery_new(&parts), *back;
    struct buf out = BUF_INIT(4096);
    record_write(d, 0, &out);
    assert_int_equal(record_read(out.data, out.len, &t, find_link, NULL, &back), 0);
    assert_string_equal(back->view.link, "");
    assert_null(back->message->link);
    delivery_free(back);
    delivery_free(d);
    message_unref(parts.message);
    buf_release(&out);
}

static void what_is_no_record_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *what;
    } cases[] = {
        { "", 0, "nothing" },
        { "\x02\x01\x01x\x02\x01y", 7, "another version" },
        { "\x01", 1, "no fields" },
        { "\x01\x01\x01x", 4, "no topic" },
        { "\x01\x02\x01x", 4, "no id" },
        { "\x01\x01\x01x\x02\x01", 6, "a text that is cut" },
        { "\x01\x01\x01x\x02\x01y\x03", 8, "a length that is missing" },
        { "\x01\x01\x01x\x02\x01y\x03\x80", 9, "a length that is cut" },
        { "\x01\x01\x01x\x02\x01y\x03\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 18, "2^70" },
        { "\x01\x01\x28"
          "0123456789012345678901234567890123456789\x02\x01y",
          46, "an id that is too long" },
    };
    struct target t = target_of(0);
    for (size_t i = 0; i < ROWS(cases); i++) {
        struct delivery *back;
        void *copy = malloc(cases[i].len + 1);
        memcpy(copy, cases[i].bytes, cases[i].len);
        CHECK(record_read(copy, cases[i].len, &t, find_link, NULL, &back) == -EBADMSG, "%s",
              cases[i].what);
        assert_null(back);
        free(copy);
    }
}

static void tags_of_later_versions_are_passed_over(void **state)
{
    (void)state;
    struct target t = target_of(0);
    static const char bytes[] = "\x01\x01\x01i\xC8\x02zz\x02\x01y\x03\x01p";
    struct delivery *back;
    assert_int_equal(record_read(bytes, sizeof(bytes) - 1, &t, find_link, NULL, &back), 0);
    assert_string_equal(back->view.topic, "y");
    assert_string_equal(back->view.text, "p");
    assert_string_equal(back->id, "i");
    delivery_free(back);
}

TEST_SUITE("delivery record", cmocka_unit_test(everything_comes_back),
           cmocka_unit_test(fallbacks_come_back_with_what_was_rendered_for_them),
           cmocka_unit_test(what_is_not_there_comes_back_as_that),
           cmocka_unit_test(a_payload_that_is_no_text_comes_back_byte_for_byte),
           cmocka_unit_test(long_ones_come_back),
           cmocka_unit_test(a_record_for_other_formats_is_not_taken),
           cmocka_unit_test(a_link_that_is_gone_has_no_name),
           cmocka_unit_test(what_is_no_record_is_refused),
           cmocka_unit_test(tags_of_later_versions_are_passed_over));
