/* SPDX-License-Identifier: MIT */

#include "router/format.h"

#include "../suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* A message whose payload is `json`, and room for what is made of it. */
struct setting {
    struct message *message;
    struct json_doc *doc;
    struct fields fields;
    struct buf out, why;
};

static void setting_init(struct setting *s)
{
    *s = (struct setting){ .out = BUF_INIT(100000), .why = BUF_INIT(10000) };
    s->message = message_new("home/attic", 10, "", 0, NULL);
    s->doc = json_doc_new();
    s->fields = (struct fields){ .message = s->message, .arena = fields_arena_new() };
}

static void setting_release(struct setting *s)
{
    fields_arena_free(s->fields.arena);
    json_doc_free(s->doc);
    message_unref(s->message);
    buf_release(&s->out);
    buf_release(&s->why);
}

static void setting_decode(struct setting *s, const char *json)
{
    const char *why;
    size_t at;
    int rc = json_doc_parse(s->doc, json, strlen(json), &why, &at);
    CHECK(rc == 0, "%s: %s at %zu", json, why, at);
    s->fields.decoded = json_value(s->doc, 0);
}

/* Renders `text` into s->out. Returns how many fields stayed as they are written. */
static size_t render(struct setting *s, const char *text, enum format_clean clean)
{
    struct format *format;
    size_t missing = 0;
    buf_clear(&s->out);
    buf_clear(&s->why);
    int rc = format_new(text, strlen(text), &format, &s->why);
    CHECK(rc == 0, "%s: %d, %s", text, rc, buf_str(&s->why));
    rc = format_render(format, &s->fields, clean, &s->out, &missing);
    CHECK(rc == 0, "%s: %d", text, rc);
    format_free(format);
    return missing;
}

static void format_writes_what_python_writes(void **state)
{
    (void)state;
    static const struct {
        const char *json, *spec, *want;
    } rows[] = {
#include "format_cases.inc"
    };
    struct setting s;
    setting_init(&s);
    for (size_t i = 0; i < ROWS(rows); i++) {
        char text[64];
        snprintf(text, sizeof(text), "{value:%s}", rows[i].spec);
        setting_decode(&s, rows[i].json);
        size_t missing = render(&s, text, FORMAT_AS_IS);
        CHECK(missing == 0 && strcmp(buf_str(&s.out), rows[i].want) == 0, "%s as %s: %s, not %s",
              rows[i].json, text, buf_str(&s.out), rows[i].want);
    }
    setting_release(&s);
}

#define DOCUMENT                                                                         \
    "{\"i\":42,\"f\":21.5,\"whole\":3.0,\"s\":\"text\",\"n\":\"21.5\",\"blank\":\" 7 "   \
    "\",\"t\":true,"                                                                     \
    "\"no\":false,\"z\":null,\"a\":[1, 2],\"o\":{\"k\":\"v\"},\"q\":\"say \\\"hi\\\"\"," \
    "\"e\":\"\",\"big\":1e30,\"huge\":1e999,\"neg\":-5}"

static void format_fills_fields_in(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
        size_t missing;
    } rows[] = {
        { "", "", 0 },
        { "plain", "plain", 0 },
        { "{{}}", "{}", 0 },
        { "{{{i}}}", "{42}", 0 },
        { "{i}", "42", 0 },
        { "a {i} b {f} c", "a 42 b 21.5 c", 0 },
        { "{topic}: {f:.0f} \xC2\xB0"
          "C",
          "home/attic: 22 \xC2\xB0"
          "C",
          0 },
        /* text forms */
        { "{t} {no} {z}", "true false null", 0 },
        { "{a} {o}", "[1,2] {\"k\":\"v\"}", 0 },
        { "{whole} {big} {huge}", "3.0 1e+30 inf", 0 },
        { "{t:>6}|{z:<6}|{a:^9}", "  true|null  |  [1,2]  ", 0 },
        { "{i:s}|{i:>4s}|{f:.2s}", "42|  42|21", 0 },
        { "{a:.3}", "[1,", 0 },
        /* conversions */
        { "{q!j}", "\"say \\\"hi\\\"\"", 0 },
        { "{q!s}", "say \"hi\"", 0 },
        { "{o!j:>12}", "   {\"k\":\"v\"}", 0 },
        { "{f!s:>6}", "  21.5", 0 },
        { "{f!j:.2}", "21", 0 },
        { "{z!j}", "null", 0 },
        { "{huge!j}", "null", 0 },
        /* paths */
        { "{a[0]}{a[-1]}{o.k}{o[\"k\"]}{o['k']}{o[k]}", "12vvvv", 0 },
        { "{o[\"}:!?\"]?none}", "none", 0 },
        /* numbers that are texts, and the other way round */
        { "{n:.2f}", "21.50", 0 },
        { "{n:+}", "+21.5", 0 },
        { "{blank:03d}", "007", 0 },
        { "{n:>6}", "  21.5", 0 },
        { "{t:d}{no:d}", "10", 0 },
        { "{t:.1f}", "1.0", 0 },
        { "{whole:d}", "3", 0 },
        { "{whole:c}", "\x03", 0 },
        { "{i:.3}", "42.0", 0 },
        /* what is not there, or does not fit */
        { "{x}", "{x}", 1 },
        { "a {x:.1f} {y!j} b", "a {x:.1f} {y!j} b", 2 },
        { "{a[2]} {i.x} {o.k.l}", "{a[2]} {i.x} {o.k.l}", 3 },
        { "{s:d}", "{s:d}", 1 },
        { "{s:+}", "{s:+}", 1 },
        { "{e:f}", "{e:f}", 1 },
        { "{f:d}", "{f:d}", 1 },
        { "{n:x}", "{n:x}", 1 },
        { "{z:d}", "{z:d}", 1 },
        { "{a:d}", "{a:d}", 1 },
        { "{big:d}", "{big:d}", 1 },
        { "{huge:d}", "{huge:d}", 1 },
        { "{neg:c}", "{neg:c}", 1 },
        /* defaults */
        { "{x?n/a}", "n/a", 0 },
        { "{x?}", "", 0 },
        { "{x:.1f?n/a}", "n/a", 0 },
        { "{x!j?n/a}", "n/a", 0 },
        { "{x!s:>9?n/a}", "n/a", 0 },
        { "{z?n/a}", "n/a", 0 },
        { "{z:d?n/a}", "n/a", 0 },
        { "{i?n/a}", "42", 0 },
        { "{i:>4?n/a}", "  42", 0 },
        { "{i:?>4?n/a}", "??42", 0 },
        { "{e?n/a}", "", 0 },
        { "{s:d?n/a}", "{s:d?n/a}", 1 },
        { "{x?a: b! c? \xE2\x82\xAC}", "a: b! c? \xE2\x82\xAC", 0 },
    };
    struct setting s;
    setting_init(&s);
    setting_decode(&s, DOCUMENT);
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t missing = render(&s, rows[i].text, FORMAT_AS_IS);
        CHECK(strcmp(buf_str(&s.out), rows[i].want) == 0 && missing == rows[i].missing,
              "%s: %s, %zu missing", rows[i].text, buf_str(&s.out), missing);
    }
    setting_release(&s);
}

static void format_says_what_is_wrong_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want; /* part of the sentence */
    } rows[] = {
        { "abc } d", "'}' without '{' at byte 5: write '}}' for a brace" },
        { "{a}}", "'}' without '{' at byte 4" },
        { "ab {", "'{' without '}'" },
        { "ab {a", "it stands at byte 4" },
        { "{", "'{' without '}'" },
        { "{{{", "'{' without '}'" },
        { "{}", "a field without a name" },
        { "{:>5}", "a field without a name" },
        { "{!j}", "a field without a name" },
        { "{?x}", "a field without a name" },
        { "{ \"a\": 1 }", "write '{{' for a brace; it stands at byte 1" },
        { "{\"a\": 1}", "write '{{' for a brace" },
        { "x {a..b}", "field 'a..b': a name is missing" },
        { "{a{b}}", "'{' inside a field at byte 3" },
        { "{a:{w}}", "that is no format specification" },
        { "{a?{b}}", "'{' inside a field at byte 4" },
        { "{a?b", "'{' without '}' at byte 1" },
        { "{a:>5", "'{' without '}' at byte 1" },
        { "{a!r}", "'!' is followed by j" },
        { "{a!}", "'!' is followed by j" },
        { "{a!jx}", "expected ':', '?' or '}'" },
        { "{a!j:d}", "after !j or !s there is a text" },
        { "{a!s:+}", "after !j or !s there is a text" },
        { "{a:y}", "'y': that is no format specification" },
        { "{a:5d>}", "that is no format specification" },
        { "{a:5.f}", "a number is missing after the '.'" },
        { "{a:.}", "a number is missing after the '.'" },
        { "{a:5,_d}", "that is no format specification" },
        { "{a:dd}", "that is no format specification" },
        { "{a:n}", "that is no format specification" },
        { "{a:10001}", "the width is more than 10,000" },
        { "{a:99999999999999999999999}", "the width is more than 10,000" },
        { "{a:.10001f}", "the precision is more than 10,000" },
        { "{a:+s}", "a sign is for numbers" },
        { "{a:+c}", "a sign is for numbers" },
        { "{a:#s}", "'#' is for numbers" },
        { "{a:,s}", "',' and '_' are for numbers" },
        { "{a:=5s}", "'=' is for numbers" },
        { "{a:.2d}", "whole numbers have no precision" },
        { "{a:.2c}", "whole numbers have no precision" },
        { "{a:,x}", "',' is for decimal numbers" },
        { "\xFF", "not valid UTF-8" },
        { "{a:\xC3>5}", "not valid UTF-8" },
    };
    struct buf why = BUF_INIT(1000);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct format *format;
        buf_clear(&why);
        int rc = format_new(rows[i].text, strlen(rows[i].text), &format, &why);
        CHECK(rc == -EINVAL && !format && strstr(buf_str(&why), rows[i].want), "%s: %d, %s",
              rows[i].text, rc, buf_str(&why));
    }
    struct format *format;
    assert_int_equal(format_new("a\0b", 3, &format, &why), -EINVAL);
    buf_release(&why);
}

static void format_cleans_the_values_and_not_the_text_around_them(void **state)
{
    (void)state;
    static const struct {
        enum format_clean clean;
        const char *json, *text, *want;
    } rows[] = {
        { FORMAT_AS_IS, "\"a/../b\\u0000\"", "/x/{value}", "/x/a/../b" },
        { FORMAT_CLEAN_PATH, "\"a/../b\\u0000c\"", "/x/{value}/y", "/x/a_.._b_c/y" },
        { FORMAT_CLEAN_PATH, "\"..\"", "/x/{value}/y", "/x/__/y" },
        { FORMAT_CLEAN_PATH, "\".\"", "/x/{value}/y", "/x/_/y" },
        { FORMAT_CLEAN_PATH, "\"\"", "/x/{value}/y", "/x/_/y" },
        { FORMAT_CLEAN_PATH, "\"...\"", "/x/{value}/y", "/x/.../y" },
        { FORMAT_CLEAN_PATH, "\"..secret\"", "/x/{value:.2}/y", "/x/__/y" },
        { FORMAT_CLEAN_PATH, "\"\"", "/x/{value:.>2}/y", "/x/__/y" },
        { FORMAT_CLEAN_PATH, "\"\"", "/x/{none:/>5}", "/x/{none:_>5}" },
        { FORMAT_CLEAN_PATH, "\"\"", "/x/{none?a/b}", "/x/a/b" },
        { FORMAT_CLEAN_PATH, "[\"/\"]", "/x/{value}", "/x/[\"_\"]" },
        { FORMAT_CLEAN_TOPIC, "\"a/+/#\\u0000.\"", "x/{value}/#", "x/a_____./#" },
        { FORMAT_CLEAN_TOPIC, "\"\"", "x/{value}/y", "x/_/y" },
        { FORMAT_CLEAN_TOPIC, "\"home/attic\"", "x/{topic}/{value}", "x/home/attic/home_attic" },
        { FORMAT_CLEAN_TOPIC, "\"\"", "x/{topic:+>11}/{topic!j}", "x/_home_attic/\"home_attic\"" },
        { FORMAT_CLEAN_TOPIC, "\"\"", "{rest}/{empty}", "ome/attic/_" },
        { FORMAT_CLEAN_PATH, "\"\"", "{topic}", "home_attic" },
        { FORMAT_CLEAN_LINE, "\"a\\r\\nb\\u0000\\t\\u001b[0m\\u007f\\u0085;\\u00e4\"",
          "x\n{value}\n", "x\na  b   [0m  ;\xC3\xA4\n" },
        { FORMAT_CLEAN_LINE, "\"\"", "x{value}y", "xy" },
        { FORMAT_CLEAN_NAME, "\"a;b\\nc\\u009f;\"", "x;{value};y", "x;a_b c _;y" },
        { FORMAT_CLEAN_HTML, "\"<b>&\\\"'\"", "<i>{value}</i>",
          "<i>&lt;b&gt;&amp;&quot;&#39;</i>" },
        { FORMAT_CLEAN_HTML, "\"<\"", "{value:&>3}|{value}", "&amp;&amp;&lt;|&lt;" },
        { FORMAT_CLEAN_HTML, "\"plain\"", "<i>{value}</i>", "<i>plain</i>" },
        { FORMAT_CLEAN_HTML, "\"\"", "{none:<5}{none?<br>}", "{none:&lt;5}<br>" },
    };
    struct setting s;
    setting_init(&s);
    const struct field_level levels[] = {
        { .name = "rest", .text = s.message->topic + 1, .len = 9 },
        { .name = "empty", .text = s.message->topic, .len = 0 },
    };
    s.fields.levels = levels;
    s.fields.level_count = ROWS(levels);
    for (size_t i = 0; i < ROWS(rows); i++) {
        setting_decode(&s, rows[i].json);
        render(&s, rows[i].text, rows[i].clean);
        CHECK(strcmp(buf_str(&s.out), rows[i].want) == 0, "%s with %s: %s", rows[i].text,
              rows[i].json, buf_str(&s.out));
    }
    setting_release(&s);
}

static void format_widths_count_characters(void **state)
{
    (void)state;
    struct setting s;
    setting_init(&s);
    setting_decode(&s, "\"\xC3\xA4\xE2\x82\xAC\"");
    render(&s, "{value:\xF0\x9F\x94\x94>10000}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 9998 * 4 + 5);
    assert_string_equal(buf_str(&s.out) + 9997 * 4, "\xF0\x9F\x94\x94\xC3\xA4\xE2\x82\xAC");
    setting_decode(&s, "-1");
    render(&s, "{value:\xE2\x82\xAC=+10000d}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 9998 * 3 + 2);
    assert_memory_equal(buf_str(&s.out), "-\xE2\x82\xAC\xE2\x82\xAC", 7);
    setting_release(&s);
}

static void format_precision_may_be_10000(void **state)
{
    (void)state;
    struct setting s;
    setting_init(&s);
    setting_decode(&s, "-1.7976931348623157e308");
    render(&s, "{value:.10000f}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 1 + 309 + 1 + 10000);
    render(&s, "{value:#.10000}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 1 + 10000 + 1);
    render(&s, "{value:.10000e}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 1 + 1 + 1 + 10000 + 5);
    setting_decode(&s, "5e-324");
    render(&s, "{value:#.10000}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 1 + 1 + 9999 + 5);
    render(&s, "{value:.10000%}", FORMAT_AS_IS);
    assert_int_equal(s.out.len, 1 + 1 + 10000 + 1);
    setting_release(&s);
}

static void format_ends_at_the_limit_of_the_buffer(void **state)
{
    (void)state;
    struct setting s;
    setting_init(&s);
    setting_decode(&s, "\"<1234567890>\"");
    static const char *const texts[] = { "{value}{value}{value}",
                                         "{value:>30}",
                                         "{value:*^30}",
                                         "{value!j}{value!j}",
                                         "{qos:030d}",
                                         "{qos:.30f}",
                                         "{none}{topic}{topic}",
                                         "12345678901234567890{qos}x" };
    for (size_t i = 0; i < ROWS(texts); i++) {
        for (size_t max = 0; max < 21; max++) {
            for (int clean = FORMAT_AS_IS; clean <= FORMAT_CLEAN_HTML; clean++) {
                struct buf out = BUF_INIT(max);
                struct format *format;
                size_t missing = 0;
                assert_int_equal(format_new(texts[i], strlen(texts[i]), &format, &s.why), 0);
                int rc = format_render(format, &s.fields, (enum format_clean)clean, &out, &missing);
                CHECK(rc == -E2BIG && out.len <= max, "%s in %zu bytes: %d", texts[i], max, rc);
                format_free(format);
                buf_release(&out);
            }
        }
    }
    setting_release(&s);
}

static void add_path(const struct field_path *path, void *context)
{
    buf_addf(context, "%s;", field_path_text(path));
}

static void format_tells_what_it_is_made_of(void **state)
{
    (void)state;
    static const struct {
        const char *text, *constant, *paths;
    } rows[] = {
        { "", "", "" },
        { "a {{b}}", "a {b}", "" },
        { "{a}", NULL, "a;" },
        { "x{a.b[0]:>5}y{c!j?z}{{", NULL, "a.b[0];c;" },
    };
    struct buf out = BUF_INIT(1000);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct format *format;
        assert_int_equal(format_new(rows[i].text, strlen(rows[i].text), &format, &out), 0);
        const char *constant = format_constant(format);
        CHECK(rows[i].constant ? constant && strcmp(constant, rows[i].constant) == 0 : !constant,
              "%s: %s", rows[i].text, constant ? constant : "not constant");
        CHECK(strcmp(format_text(format), rows[i].text) == 0, "%s", rows[i].text);
        buf_clear(&out);
        format_each_path(format, add_path, &out);
        CHECK(strcmp(buf_str(&out), rows[i].paths) == 0, "%s: %s", rows[i].text, buf_str(&out));
        format_free(format);
    }
    buf_release(&out);
    format_free(NULL);
}

TEST_SUITE("format", cmocka_unit_test(format_writes_what_python_writes),
           cmocka_unit_test(format_fills_fields_in),
           cmocka_unit_test(format_says_what_is_wrong_and_where),
           cmocka_unit_test(format_cleans_the_values_and_not_the_text_around_them),
           cmocka_unit_test(format_widths_count_characters),
           cmocka_unit_test(format_precision_may_be_10000),
           cmocka_unit_test(format_ends_at_the_limit_of_the_buffer),
           cmocka_unit_test(format_tells_what_it_is_made_of));
