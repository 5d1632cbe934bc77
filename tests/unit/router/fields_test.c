/* SPDX-License-Identifier: MIT */

#include "router/fields.h"

#include "../suite.h"
#include "router/flatten.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define PAYLOAD                                                                                  \
    "{\"celsius\":21.5,\"topic\":\"forged\",\"title\":\"its own\",\"room\":\"forged\",\"up\":7," \
    "\"data\":{\"sensors\":[{\"c\":1},{\"c\":2}],\"a b\":3,\"x.y\":{\"]\":4},\"0\":5,\"it's\":6}}"

struct setting {
    struct message *message;
    struct json_doc *doc;
    struct fields fields;
    struct buf why;
};

static const struct field_level levels[] = { { "room", "attic/x", 5 }, { "celsius", "cold", 4 } };
static struct field_set set[3], locals[2];

static int set_up(void **state)
{
    static struct setting s;
    setenv("TZ", "XST-05:30", 1);
    tzset();
    s = (struct setting){ .why = BUF_INIT(1000) };
    s.message = message_new("home/attic", 10, PAYLOAD, strlen(PAYLOAD), NULL);
    s.message->received_ms = 1795345175123; /* 2026-11-22T10:59:35.123Z */
    s.message->qos = 1;
    s.message->retain = true;
    s.message->link = "dc2";
    s.doc = json_doc_new();
    const char *why;
    size_t at;
    assert_int_equal(json_doc_parse(s.doc, PAYLOAD, strlen(PAYLOAD), &why, &at), 0);
    set[0] = (struct field_set){ "up", VALUE_OF_INT(1) };
    set[1] = (struct field_set){ "feels", VALUE_OF_FLOAT(2.5) };
    set[2] = (struct field_set){ "up", VALUE_OF_INT(2) };
    locals[0] = (struct field_set){ "x", VALUE_OF_INT(1) };
    locals[1] = (struct field_set){ "x", VALUE_OF_INT(2) };
    s.fields = (struct fields){
        .message = s.message,
        .route = "server room",
        .levels = levels,
        .level_count = ROWS(levels),
        .set = set,
        .set_count = ROWS(set),
        .locals = locals,
        .local_count = ROWS(locals),
        .decoded = json_value(s.doc, 0),
        .arena = fields_arena_new(),
    };
    *state = &s;
    return 0;
}

static int tear_down(void **state)
{
    struct setting *s = *state;
    fields_arena_free(s->fields.arena);
    json_doc_free(s->doc);
    message_unref(s->message);
    buf_release(&s->why);
    unsetenv("TZ");
    tzset();
    return 0;
}

/* The value of a path as JSON, "none" if there is none. */
static const char *get(struct setting *s, const char *text, struct buf *out)
{
    struct field_path *path;
    int rc = field_path_new(text, strlen(text), &path, &s->why);
    CHECK(rc == 0, "%s: %d, %s", text, rc, buf_str(&s->why));
    CHECK(strcmp(field_path_text(path), text) == 0, "%s: %s", text, field_path_text(path));
    struct value value = fields_get(&s->fields, path);
    field_path_free(path);
    buf_clear(out);
    if (value.type == VALUE_NONE)
        buf_add_str(out, "none");
    else
        value_add_json(&value, out);
    return buf_str(out);
}

static void fields_are_found_in_the_order_of_the_header(void **state)
{
    struct setting *s = *state;
    static const struct {
        const char *path, *want;
    } rows[] = {
        { "topic", "\"home/attic\"" },
        { "qos", "1" },
        { "retain", "true" },
        { "link", "\"dc2\"" },
        { "route", "\"server room\"" },
        { "x", "2" },
        { "room", "\"attic\"" },
        { "celsius", "\"cold\"" },
        { "feels", "2.5" },
        { "up", "2" },
        { "title", "\"its own\"" },
        { "severity", "none" },
        { "text", "none" },
        { "value", "none" },
        { "nothing", "none" },
        { "json.topic", "\"forged\"" },
        { "json.celsius", "21.5" },
        { "json.nothing", "none" },
        { "json.nothing.more", "none" },
        { "topic.more", "none" },
        { "topic[0]", "none" },
        { "data.sensors[0].c", "1" },
        { "data.sensors[-1].c", "2" },
        { "data.sensors[2].c", "none" },
        { "data.sensors.c", "none" },
        { "data[\"a b\"]", "3" },
        { "data['a b']", "3" },
        { "data[a b]", "3" },
        { "data.a b", "3" },
        { "data[\"x.y\"][\"]\"]", "4" },
        { "data.0", "5" },
        { "data[\"0\"]", "5" },
        { "data[0]", "none" },
        { "data['it\\'s']", "6" },
        { "data[\"it's\"]", "6" },
        { "data.sensors", "[{\"c\":1},{\"c\":2}]" },
        { "_dtepoch", "1795345175" },
        { "_dtiso", "\"2026-11-22T10:59:35.123Z\"" },
        { "_ltiso", "\"2026-11-22T16:29:35.123+05:30\"" },
        { "_dthhmm", "\"16:29\"" },
        { "_dthhmmss", "\"16:29:35\"" },
    };
    struct buf out = BUF_INIT(1000);
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *got = get(s, rows[i].path, &out);
        CHECK(strcmp(got, rows[i].want) == 0, "%s: %s", rows[i].path, got);
    }
    s->fields.title = VALUE_OF_TEXT("rendered", 8);
    assert_string_equal(get(s, "title", &out), "\"rendered\"");
    buf_release(&out);
}

static void fields_of_a_payload_that_is_no_object_are_the_value(void **state)
{
    struct setting *s = *state;
    struct json_doc *doc = json_doc_new();
    const char *why;
    size_t at;
    struct buf out = BUF_INIT(1000);

    s->fields.decoded = VALUE_OF_FLOAT(21.5);
    assert_string_equal(get(s, "value", &out), "21.5");
    assert_string_equal(get(s, "json", &out), "21.5");
    assert_string_equal(get(s, "valu", &out), "none");

    assert_int_equal(json_doc_parse(doc, "[1,[2]]", 7, &why, &at), 0);
    s->fields.decoded = json_value(doc, 0);
    assert_string_equal(get(s, "value[1][0]", &out), "2");
    assert_string_equal(get(s, "json[-2]", &out), "1");

    s->fields.decoded = VALUE_NOTHING;
    assert_string_equal(get(s, "json", &out), "none");
    assert_string_equal(get(s, "value", &out), "none");
    buf_release(&out);
    json_doc_free(doc);
}

static void field_names_are_compared_in_full(void **state)
{
    struct setting *s = *state;
    static const struct {
        const char *name;
        size_t len;
        enum value_type want;
    } rows[] = {
        { "topic", 5, VALUE_STRING }, { "topic", 4, VALUE_NONE },  { "up\0", 3, VALUE_NONE },
        { "", 0, VALUE_NONE },        { "feels", 5, VALUE_FLOAT }, { "room\0", 5, VALUE_NONE },
        { "x\0", 2, VALUE_NONE },     { "x", 1, VALUE_INT },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct value got = fields_get_name(&s->fields, rows[i].name, rows[i].len);
        CHECK(got.type == rows[i].want, "row %zu: %s", i, value_type_name(got.type));
    }
}

static void field_path_says_what_is_wrong(void **state)
{
    struct setting *s = *state;
    static const struct {
        const char *text, *want; /* part of the sentence */
    } rows[] = {
        { "", "a name is missing" },
        { "a.", "a name is missing" },
        { ".a", "a name is missing" },
        { "a..b", "a name is missing" },
        { "[0]", "a name is missing" },
        { "\"a\"", "only [\"...\"] can hold" },
        { " a", "a blank" },
        { "a ", "a blank" },
        { "a.b .c", "a blank" },
        { "a[", "nothing between the brackets" },
        { "a[]", "nothing between the brackets" },
        { "a[0", "the closing ']' is missing" },
        { "a[0[", "the closing ']' is missing" },
        { "a[\"b", "the closing quote is missing" },
        { "a[\"b\\\"]", "the closing quote is missing" },
        { "a[\"b\"x]", "the closing ']' is missing" },
        { "a[0]b", "expected '.' or '['" },
        { "a:b", "expected '.' or '['" },
        { "a\tb", "expected '.' or '['" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct field_path *path;
        buf_clear(&s->why);
        int rc = field_path_new(rows[i].text, strlen(rows[i].text), &path, &s->why);
        CHECK(rc == -EINVAL && !path && strstr(buf_str(&s->why), rows[i].want), "\"%s\": %d, %s",
              rows[i].text, rc, buf_str(&s->why));
    }
}

static void field_path_has_at_most_64_steps_after_its_name(void **state)
{
    struct setting *s = *state;
    char text[1 + 2 * 65];
    struct field_path *path;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 2 ? '.' : 'a';
    assert_int_equal(field_path_new(text, 1 + 2 * 64, &path, &s->why), 0);
    field_path_free(path);
    assert_int_equal(field_path_new(text, 1 + 2 * 65, &path, &s->why), -EINVAL);
}

static void field_path_span_ends_outside_of_brackets(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t want;
    } rows[] = {
        { "a}", 1 },           { "a.b:>5}", 3 },      { "a!j}", 1 }, { "a?x}", 1 },
        { "a[\"}:\"].c}", 9 }, { "a['\\'}']:x}", 8 }, { "abc", 3 },  { "", 0 },
        { "a{", 1 },           { "a[b:c]}", 6 },      { "a[\"", 3 }, { "a['\\", 4 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t got = field_path_span(rows[i].text, strlen(rows[i].text));
        CHECK(got == rows[i].want, "%s: %zu", rows[i].text, got);
    }
}

static void count_name(const char *name, void *context)
{
    CHECK(fields_name_is_fixed(name, strlen(name)), "%s", name);
    ++*(int *)context;
}

static void fixed_names_are_known(void **state)
{
    (void)state;
    int count = 0;
    fields_each_fixed_name(count_name, &count);
    assert_int_equal(count, 16);
    assert_false(fields_name_is_fixed("value", 5));
    assert_false(fields_name_is_fixed("Topic", 5));
}

static void arena_keeps_what_it_gave_until_it_is_cleared(void **state)
{
    (void)state;
    struct fields_arena *arena = fields_arena_new();
    for (int round = 0; round < 3; round++) {
        unsigned char *blocks[100];
        for (size_t i = 0; i < ROWS(blocks); i++) {
            size_t len = i == 50 ? 1000000 : i * 37;
            blocks[i] = fields_arena_alloc(arena, len);
            assert_non_null(blocks[i]);
            assert_int_equal((uintptr_t)blocks[i] % _Alignof(max_align_t), 0);
            memset(blocks[i], (int)i, len);
        }
        for (size_t i = 1; i < ROWS(blocks); i++)
            CHECK(blocks[i][0] == i && blocks[i][i * 37 - 1] == i, "block %zu", i);
        struct json_doc *docs[20];
        for (size_t i = 0; i < ROWS(docs); i++) {
            docs[i] = fields_arena_doc(arena);
            assert_non_null(docs[i]);
            CHECK(i == 0 || docs[i] != docs[i - 1], "document %zu is given twice", i);
        }
        fields_arena_clear(arena);
    }
    assert_null(fields_arena_alloc(arena, SIZE_MAX));
    fields_arena_free(arena);
    fields_arena_free(NULL);
}

static void time_fields_are_made_once_a_message(void **state)
{
    struct setting *s = *state;
    struct value first = fields_get_name(&s->fields, "_dtiso", 6);
    struct value second = fields_get_name(&s->fields, "_dtiso", 6);
    assert_ptr_equal(first.u.string.text, second.u.string.text);

    s->message->received_ms = -1;
    struct buf out = BUF_INIT(100);
    assert_string_equal(get(s, "_dtiso", &out), "\"1969-12-31T23:59:59.999Z\"");
    assert_string_equal(get(s, "_dtepoch", &out), "-1");
    fields_arena_clear(s->fields.arena);
    s->message->received_ms = INT64_MAX; /* a year that a struct tm can just hold */
    CHECK(get(s, "_ltiso", &out)[0] == '"', "%s", buf_str(&out));
    buf_release(&out);
}

static void flattened_numbers_are_numbers_in_json(void **state)
{
    struct setting *s = *state;
    static const char payload[] = "{\"a\":{\"b\":1e999},\"c\":-2.50,\"d\":true}";
    static const struct {
        const char *name, *text;
        enum tocsin_field_type type;
    } rows[] = {
        { "a.b", "null", TOCSIN_FIELD_NULL },
        { "c", "-2.5", TOCSIN_FIELD_NUMBER },
        { "d", "true", TOCSIN_FIELD_BOOL },
    };
    struct tocsin_field out[FLATTEN_MAX];
    const char *why;
    size_t at;
    assert_int_equal(json_doc_parse(s->doc, payload, sizeof(payload) - 1, &why, &at), 0);
    s->fields.level_count = s->fields.set_count = 0;
    s->fields.decoded = json_value(s->doc, 0);
    assert_int_equal(fields_flatten(&s->fields, out), ROWS(rows));
    for (size_t i = 0; i < ROWS(rows); i++)
        CHECK(strcmp(out[i].name, rows[i].name) == 0 && strcmp(out[i].text, rows[i].text) == 0 &&
                  out[i].type == rows[i].type,
              "%s: %s %s", rows[i].name, out[i].name, out[i].text);
}

/* clang-format off */
#define WITH_SETTING(TEST) cmocka_unit_test_setup_teardown(TEST, set_up, tear_down)
/* clang-format on */

TEST_SUITE("fields", WITH_SETTING(fields_are_found_in_the_order_of_the_header),
           WITH_SETTING(fields_of_a_payload_that_is_no_object_are_the_value),
           WITH_SETTING(field_names_are_compared_in_full),
           WITH_SETTING(field_path_says_what_is_wrong),
           WITH_SETTING(field_path_has_at_most_64_steps_after_its_name),
           cmocka_unit_test(field_path_span_ends_outside_of_brackets),
           cmocka_unit_test(fixed_names_are_known),
           cmocka_unit_test(arena_keeps_what_it_gave_until_it_is_cleared),
           WITH_SETTING(time_fields_are_made_once_a_message),
           WITH_SETTING(flattened_numbers_are_numbers_in_json));
