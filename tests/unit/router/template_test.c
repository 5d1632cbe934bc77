/* SPDX-License-Identifier: MIT */

#include "router/template.h"

#include "../suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAYLOAD                                                                          \
    "{\"celsius\":31.46,\"count\":7,\"room\":\"attic\",\"nothing\":null,\"empty\":[],"   \
    "\"html\":\"<b>&\\\"'\",\"list\":[\"a\",2,null,true],\"numeric\":\" 21.55 \","       \
    "\"data\":{\"z\":1,\"y\":\"two\"},\"rows\":[{\"n\":\"A\",\"c\":[1,2]},{\"n\":\"B\"," \
    "\"c\":[]}],\"on\":true,\"type\":\"alarm\",\"mixed\":\"  a, B  \"}"

struct setting {
    struct script *script;
    struct message *message;
    struct json_doc *doc;
    struct fields fields;
    struct buf why, out;
    size_t missing;
};

static int set_up(void **state)
{
    static struct setting s;
    s = (struct setting){ .why = BUF_INIT(4000), .out = BUF_INIT(4 << 20) };
    s.script = script_new(NULL);
    s.message = message_new("home/attic", 10, PAYLOAD, strlen(PAYLOAD), NULL);
    s.message->link = "dc2";
    s.doc = json_doc_new();
    const char *why;
    size_t at;
    assert_int_equal(json_doc_parse(s.doc, PAYLOAD, strlen(PAYLOAD), &why, &at), 0);
    s.fields = (struct fields){
        .message = s.message,
        .route = "server room",
        .decoded = json_value(s.doc, 0),
        .arena = fields_arena_new(),
    };
    *state = &s;
    return 0;
}

static int tear_down(void **state)
{
    struct setting *s = *state;
    script_free(s->script);
    message_unref(s->message);
    json_doc_free(s->doc);
    fields_arena_free(s->fields.arena);
    buf_release(&s->why);
    buf_release(&s->out);
    return 0;
}

static int render(struct setting *s, const char *text, bool html,
                  const struct template_limits *limits)
{
    struct template *template;
    buf_clear(&s->why);
    buf_clear(&s->out);
    s->missing = 0;
    int rc = template_new(s->script, "t.html", text, strlen(text), &template, &s->why);
    if (rc == 0)
        rc = template_render(template, &s->fields, html, limits, &s->out, &s->missing, &s->why);
    template_free(template);
    fields_arena_clear(s->fields.arena);
    return rc;
}

struct row {
    const char *text, *want;
};

static void check_rows(struct setting *s, const struct row *rows, size_t count, bool html)
{
    for (size_t i = 0; i < count; i++) {
        int rc = render(s, rows[i].text, html, NULL);
        CHECK(rc == 0 && s->missing == 0 && strcmp(buf_str(&s->out), rows[i].want) == 0,
              "%s: %d, %zu missing, %s|%s", rows[i].text, rc, s->missing, buf_str(&s->out),
              buf_str(&s->why));
    }
}

static void template_gives_text_and_values(void **state)
{
    static const struct row rows[] = {
        { "", "" },
        { "plain { } text % #", "plain { } text % #" },
        { "{{ celsius }}", "31.46" },
        { "{{room}}/{{ count + 1 }}", "attic/8" },
        { "{{ list }}", "[\"a\",2,null,true]" },
        { "{{ data.y }} {{ list[0] }} {{ rows[1].n }}", "two a B" },
        { "{{ '}}' }}{{ \"{{\" }}", "}}{{" },
        { "{{ {a={b=1}} }}", "{\"a\":{\"b\":1}}" },
        { "{{ 'it\\'s' .. \"|\" }}", "it's|" },
        { "{{ (1 | 2) }}", "3" },
        { "{{ topic }}{# no {{ x }} of this #}!", "home/attic!" },
        { "{{ json.type }}", "alarm" },
        { "{", "{" },
        { "a{", "a{" },
        { "{{ -- no\n count }}", "7" },
    };
    check_rows(*state, rows, ROWS(rows), false);
}

static void filters_change_values(void **state)
{
    static const struct row rows[] = {
        { "{{ room | upper }}", "ATTIC" },
        { "{{ 'A\xc3\x84' | lower }}", "a\xc3\x84" },
        { "{{ mixed|trim|upper|trim|lower|replace(', ', '-') }}", "a-b" },
        { "{{ celsius | round }} {{ celsius | round(1) }}", "31 31.5" },
        { "{{ numeric | round(1) }}", "21.6" },
        { "{{ count | round(2) }}", "7" },
        { "{{ kelvin | default('n/a') }}", "n/a" },
        { "{{ nothing | default(count) }}", "7" },
        { "{{ kelvin | upper | default('|') }}", "|" },
        { "{{ kelvin.x.y | default('gone') }}", "gone" },
        { "{{ room | default('x') }}", "attic" },
        { "{{ list | join(', ') }}", "a, 2, null, true" },
        { "{{ list | join }}", "a2nulltrue" },
        { "{{ empty | join(',') }}", "" },
        { "{{ split(topic, '/') | join('.') }}", "home.attic" },
        { "{{ room | tojson }} {{ data | tojson }}", "\"attic\" {\"z\":1,\"y\":\"two\"}" },
        { "{{ 'aXbX' | replace('X', 1) }}", "a1b1" },
        { "{{ html | escape }}", "&lt;b&gt;&amp;&quot;&#39;" },
        { "{{ html | safe }}", "<b>&\"'" },
        { "{{ (count | 8) | round }}", "15" },
    };
    check_rows(*state, rows, ROWS(rows), false);
}

static void html_is_escaped_unless_safe(void **state)
{
    static const struct row rows[] = {
        { "<i>{{ html }}</i>", "<i>&lt;b&gt;&amp;&quot;&#39;</i>" },
        { "{{ html | safe }}", "<b>&\"'" },
        { "{{ html | escape }}", "&lt;b&gt;&amp;&quot;&#39;" },
        { "{{ html | upper }}", "&lt;B&gt;&amp;&quot;&#39;" },
        { "{{ data }}", "{&quot;z&quot;:1,&quot;y&quot;:&quot;two&quot;}" },
        { "{% for k in {'<'} %}{{ k }}{% endfor %}", "&lt;" },
    };
    struct setting *s = *state;
    check_rows(s, rows, ROWS(rows), true);
    assert_int_equal(render(s, "{{ a < b }}", true, NULL), 0);
    assert_string_equal(buf_str(&s->out), "{{ a &lt; b }}");
}

static void conditions_choose(void **state)
{
    static const struct row rows[] = {
        { "{% if celsius > 30 %}hot{% endif %}", "hot" },
        { "{% if celsius > 40 %}hot{% endif %}!", "!" },
        { "{% if kelvin %}k{% elif count == 7 %}seven{% else %}none{% endif %}", "seven" },
        { "{% if kelvin %}k{% elif nothing %}seven{% else %}none{% endif %}", "none" },
        { "{% if on %}1{% elif on %}2{% elif on %}3{% else %}4{% endif %}5", "15" },
        { "{% if on %}{% if kelvin %}a{% else %}b{% endif %}{% else %}c{% endif %}", "b" },
        { "{%if(on)%}x{%endif%}", "x" },
        { "{% if 7 % 2 == 1 %}odd{% endif %}", "odd" },
    };
    check_rows(*state, rows, ROWS(rows), false);
}

static void loops_go_through_arrays_and_objects(void **state)
{
    static const struct row rows[] = {
        { "{% for x in list %}<{{ x | default('-') }}>{% endfor %}", "<a><2><-><true>" },
        { "{% for i, x in rows %}{{ i }}{{ x.n }}{% endfor %}", "0A1B" },
        { "{% for k, v in data %}{{ k }}={{ v }};{% endfor %}", "z=1;y=two;" },
        { "{% for k in data %}{{ k }}{% endfor %}", "zy" },
        { "{% for x in empty %}x{% else %}nobody{% endfor %}", "nobody" },
        { "{% for x in {1} %}x{% else %}nobody{% endfor %}!", "x!" },
        { "{% for r in rows %}{{ r.n }}{% for c in r.c %}{{ c }}{% else %}-{% endfor %}{% endfor "
          "%}",
          "A12B-" },
        { "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.length }}"
          "{% if loop.first %}f{% endif %}{% if loop.last %}l{% endif %} {% endfor %}",
          "104f 214 324 434l " },
        { "{% for a in {1,2} %}{% for b in {1,2} %}{{ loop.index }}{% endfor %}{{ loop.index "
          "}}{% endfor %}",
          "121122" },
        { "{% for a in {1,2} %}{% for b in loop %}{{ b }}{% endfor %} {% endfor %}",
          "indexindex0firstlastlength indexindex0firstlastlength " },
        { "{% for a in {1,2} %}{% for b in {} %}{% else %}{{ loop.index }}{% endfor %}{% endfor %}",
          "12" },
        { "{% for room in {'x'} %}{{ room }}{% endfor %}{{ room }}", "xattic" },
        { "{% for topic in {'x'} %}{{ topic .. '' }}{% endfor %}", "x" },
        { "{% for x in {1,2} %}{% for x in {3} %}{{ x }}{% endfor %}{{ x }}{% endfor %}", "3132" },
        { "{% for x in split('a,b', ',') %}{{ x }}{% if not loop.last %}+{% endif %}{% endfor %}",
          "a+b" },
        { "{% for x in {1,2} %}{% if x == 1 %}{% for y in {} %}{% else %}e{% endfor %}{% endif "
          "%}{% endfor %}",
          "e" },
    };
    check_rows(*state, rows, ROWS(rows), false);
}

static void blanks_are_controlled(void **state)
{
    static const struct row rows[] = {
        { "a\n{% if on %}\nb\n{% endif %}\nc", "a\nb\nc" },
        { "a\r\n{% if on %}\r\nb\r\n{% endif %}\r\nc", "a\r\nb\r\nc" },
        { "{% if on %}\nb\n{% endif %}", "b\n" },
        { "a\n  {% if on %} \n  b\n\t{% endif %}\t\nc", "a\n  b\nc" },
        { "a\n{% if on %}b{% endif %}\nc", "a\nb\nc" },
        { "a{% if on %}\nb{% endif %}\nc", "a\nb\nc" },
        { "{% if on %}{% for x in {1,2} %}\n{{ x }}\n{% endfor %}{% endif %}\nc", "1\n2\nc" },
        { "{{ count }}{% if on %}\nb{% endif %}", "7\nb" },
        { "  {% if on %} x{% endif %}", "   x" },
        { "a {%- if on %} b {%- endif -%} \n c", "a bc" },
        { "a \n {{- count -}} \n b", "a7b" },
        { "a {#- x -#} b", "ab" },
        { "a\n{# x #}\nb", "a\nb" },
        { "a\n {# x\n y #} \nb", "a\nb" },
        { "a {# x #}\nb", "a \nb" },
        { "a\n\n{%- if on %}\nb\n{% endif %}", "ab\n" },
        { "{{ count }}\nb", "7\nb" },
        { "{% if on -%}\n\n x{% endif %}", "x" },
        { "{{-5}}", "5" },
        { "{{- -}}x", NULL },
    };
    check_rows(*state, rows, ROWS(rows) - 1, false);
}

static void what_has_no_value_stays_as_written_and_is_counted(void **state)
{
    static const struct {
        const char *text, *want, *why;
        size_t missing;
    } rows[] = {
        { "x\n{{ kelvin }} K", "x\n{{ kelvin }} K", "t.html:2: {{ kelvin }} has no value", 1 },
        { "{{ nothing }}", "{{ nothing }}", "t.html:1: {{ nothing }} has no value", 1 },
        { "{{ kelvin + 1 }}{{ kelvin }}", "{{ kelvin + 1 }}{{ kelvin }}",
          "t.html:1: attempt to perform arithmetic on a nil value (field 'kelvin' is not there)",
          2 },
        { "{{ kelvin.x }}", "{{ kelvin.x }}", "t.html:1: {{ kelvin.x }} has no value", 1 },
        { "{{ room | round }}", "{{ room | round }}", "t.html:1: round wants a number", 1 },
        { "{{ room | join }}", "{{ room | join }}", "t.html:1: join wants an array", 1 },
        { "{{ room | replace('', 'x') }}", "{{ room | replace('', 'x') }}",
          "t.html:1: replace wants a text to look for", 1 },
        { "{{ 1 + room | default('-') }}", "-", NULL, 1 },
        { "{% if room > 5 %}a{% else %}b{% endif %}", "b",
          "t.html:1: attempt to compare number with string", 1 },
        { "{% for x in kelvin %}a{% else %}b{% endfor %}", "b",
          "t.html:1: what the for is to go through has no value", 1 },
        { "{% for x in room %}a{% endfor %}", "", "t.html:1: for wants an array or an object", 1 },
        { "{% for x in list %}{{ x }}{% endfor %}", "a2{{ x }}true",
          "t.html:1: {{ x }} has no value", 1 },
    };
    struct setting *s = *state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        int rc = render(s, rows[i].text, false, NULL);
        CHECK(rc == 0 && s->missing == rows[i].missing &&
                  strcmp(buf_str(&s->out), rows[i].want) == 0 &&
                  (!rows[i].why || strcmp(buf_str(&s->why), rows[i].why) == 0),
              "%s: %d, %zu missing, %s|%s", rows[i].text, rc, s->missing, buf_str(&s->out),
              buf_str(&s->why));
    }
}

static void template_that_is_wrong_is_refused(void **state)
{
    static const struct row rows[] = {
        { "\n{{ room | uper }}", "t.html:2: there is no filter 'uper', did you mean 'upper'?" },
        { "{{ room | capitals }}",
          "t.html:1: there is no filter 'capitals'; there are upper, lower, trim, round, default, "
          "join, tojson, replace, escape, safe" },
        { "{{ room | }}", "t.html:1: a filter's name is expected after '|' (for or, write or)" },
        { "{{ on || off }}", "t.html:1: a filter's name is expected after '|' (for or, write or)" },
        { "{{ room | default }}", "t.html:1: the filter 'default' needs (text)" },
        { "{{ room | replace('x') }}", "t.html:1: the filter 'replace' needs (from, to)" },
        { "{{ room | upper('x') }}", "t.html:1: the filter 'upper' takes no argument" },
        { "{{ room | round(1, 2) }}", "t.html:1: the filter 'round' takes one argument" },
        { "{{ room | round(1 }}",
          "t.html:1: '{{' is not closed by '}}' (or a quote or bracket in it is open)" },
        { "{{ room | upper lower }}",
          "t.html:1: after the filter 'upper' comes '(' and ')', '|' or the end" },
        { "{{ }}", "t.html:1: an expression is expected in {{ }}" },
        { "{{ | upper }}", "t.html:1: an expression is expected in {{ }}" },
        { "{{- -}}", "t.html:1: an expression is expected in {{ }}" },
        { "a\nb\n{{ 1 + }}", "t.html:3: unexpected symbol at the end" },
        { "{{ room", "t.html:1: '{{' is not closed by '}}' (or a quote or bracket in it is open)" },
        { "{{ 'room }}",
          "t.html:1: '{{' is not closed by '}}' (or a quote or bracket in it is open)" },
        { "{# x", "t.html:1: '{#' is not closed by '#}' (or a quote or bracket in it is open)" },
        { "{% if on }",
          "t.html:1: '{%' is not closed by '%}' (or a quote or bracket in it is open)" },
        { "x\n{% for x in list %}\n\n", "t.html:2: this for is not closed: write {% endfor %}" },
        { "{% if on %}\n{% for x in list %}{% endfor %}",
          "t.html:1: this if is not closed: write {% endif %}" },
        { "{% endfor %}", "t.html:1: {% endfor %} without {% for %}" },
        { "{% endif %}", "t.html:1: {% endif %} without {% if %}" },
        { "{% else %}", "t.html:1: {% else %} without {% if %}" },
        { "{% elif on %}", "t.html:1: {% elif %} without {% if %}" },
        { "{% if on %}\n{% endfor %}",
          "t.html:2: {% endfor %} here closes the if of line 1: write {% endif %}" },
        { "{% for x in list %}{% endif %}",
          "t.html:1: {% endif %} here closes the for of line 1: write {% endfor %}" },
        { "{% for x in list %}{% elif on %}",
          "t.html:1: {% elif %} in a for: close the for of line 1 first" },
        { "{% if on %}{% else %}{% else %}", "t.html:1: a second {% else %} (if of line 1)" },
        { "{% if on %}{% else %}{% elif on %}",
          "t.html:1: {% elif %} after {% else %} (if of line 1)" },
        { "{% fi on %}", "t.html:1: there is no statement 'fi', did you mean 'if'?" },
        { "{% include 'x' %}", "t.html:1: there is no statement 'include'; there are if, elif, "
                               "else, endif, for, endfor" },
        { "{% %}", "t.html:1: there is no statement ''; there are if, elif, else, endif, for, "
                   "endfor" },
        { "{% endif on %}", "t.html:1: nothing is expected after 'endif'" },
        { "{% if %}", "t.html:1: it is empty" },
        { "{% if on | upper %}", "t.html:1: filters belong into {{ }}; for or, write or" },
        { "{% for x of list %}", "t.html:1: 'in' is missing: write {% for x in LIST %}" },
        { "{% for x in %}", "t.html:1: it is empty" },
        { "{% for in list %}", "t.html:1: 'in' is missing: write {% for x in LIST %}" },
        { "{% for 1 in list %}", "t.html:1: '1' can't be a name: write {% for x in LIST %} or {% "
                                 "for key, value in OBJECT %}" },
        { "{% for a, b, c in list %}", "t.html:1: 'b, c' can't be a name: write {% for x in LIST "
                                       "%} or {% for key, value in OBJECT %}" },
        { "{% for end in list %}", "t.html:1: 'end' can't be a name: write {% for x in LIST %} or "
                                   "{% for key, value in OBJECT %}" },
        { "{% for loop in list %}", "t.html:1: 'loop' can't be a name: write {% for x in LIST %} "
                                    "or {% for key, value in OBJECT %}" },
        { "{% for type in list %}", "t.html:1: 'type' is the name of a function: choose another" },
        { "{% if a = 1 %}", "t.html:1: not expected: '=' (compare with ==)" },
    };
    struct setting *s = *state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        int rc = render(s, rows[i].text, false, NULL);
        CHECK(rc == -EINVAL && strcmp(buf_str(&s->why), rows[i].want) == 0, "%s: %d, %s",
              rows[i].text, rc, buf_str(&s->why));
    }
}

static void nesting_is_bounded(void **state)
{
    struct setting *s = *state;
    struct buf text = BUF_INIT(100000);
    for (int i = 0; i < 32; i++)
        buf_add_str(&text, "{% for x in {1} %}{{ loop.index }}");
    for (int i = 0; i < 32; i++)
        buf_add_str(&text, "{% endfor %}");
    assert_int_equal(render(s, buf_str(&text), false, NULL), 0);
    assert_int_equal(s->out.len, 32);
    buf_clear(&text);
    for (int i = 0; i < 33; i++)
        buf_add_str(&text, "{% if 1 %}");
    assert_int_equal(render(s, buf_str(&text), false, NULL), -EINVAL);
    assert_string_equal(buf_str(&s->why), "t.html:1: more than 32 statements inside each other");
    buf_release(&text);
}

static void limits_end_a_template_and_leave_the_output_as_it_was(void **state)
{
    static const struct row rows[] = {
        { "{% for x in list %}{% for y in list %}{% for z in list %}{% for a in list %}{% endfor "
          "%}{% endfor %}{% endfor %}{% endfor %}",
          "t.html:1: more than 100 turns of loops" },
        { "{% for x in list %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
          "t.html:1: more than 100 bytes of output" },
        { "{{ ('x'):rep(1000) }}", "t.html:1: more than 100 bytes of output" },
        { "{{ {('x'):rep(1000)} }}", "t.html:1: more than 100 bytes of output" },
        { "{{ ('x'):rep(2000) | replace('x', ('y'):rep(10000)) }}",
          "t.html:1: more than 16777216 bytes in a filter" },
        { "{% for x in list %}{% for y in list %}{{ (function() while true do end end)() | default"
          "('') }}{% endfor %}{% endfor %}",
          "t.html:1: more than 10000000 instructions" },
        { "{% for x in list %}{% for y in list %}{% for z in list %}{{ ('x'):rep(1e7) | trim | "
          "replace(('x'):rep(1e7), '') }}{% endfor %}{% endfor %}{% endfor %}",
          "t.html:1: more than 268435456 bytes made" },
    };
    static const struct template_limits limits = { .output = 100, .turns = 100 };
    struct setting *s = *state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        int rc = render(s, rows[i].text, false, &limits);
        CHECK(rc == (rows[i].want ? -E2BIG : 0) &&
                  (!rows[i].want || strcmp(buf_str(&s->why), rows[i].want) == 0) && s->out.len == 0,
              "%s: %d, %s, %zu bytes", rows[i].text, rc, buf_str(&s->why), s->out.len);
    }
}

static void output_is_appended(void **state)
{
    struct setting *s = *state;
    struct template *template;
    size_t missing = 5;
    buf_add_str(&s->out, "before ");
    assert_int_equal(template_new(s->script, "t", "{{ count }}{{ x }}", 18, &template, &s->why), 0);
    assert_int_equal(template_render(template, &s->fields, false, NULL, &s->out, &missing, &s->why),
                     0);
    assert_string_equal(buf_str(&s->out), "before 7{{ x }}");
    assert_int_equal(missing, 6);
    template_free(template);
}

static void template_is_read_from_disk(void **state)
{
    struct setting *s = *state;
    struct template *template;
    char path[] = "/tmp/tocsin-template-XXXXXX", want[100];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "a\n{{ count | x }}", 17), 17);
    close(fd);
    int rc = template_load(s->script, path, &template, &s->why);
    unlink(path);
    assert_int_equal(rc, -EINVAL);
    snprintf(want, sizeof(want), "%s:2: there is no filter 'x'", path);
    CHECK(strncmp(buf_str(&s->why), want, strlen(want)) == 0, "%s", buf_str(&s->why));
    buf_clear(&s->why);
    assert_int_equal(template_load(s->script, path, &template, &s->why), -ENOENT);
    CHECK(strstr(buf_str(&s->why), ": No such file"), "%s", buf_str(&s->why));
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

TEST_SUITE("template", TEST(template_gives_text_and_values), TEST(filters_change_values),
           TEST(html_is_escaped_unless_safe), TEST(conditions_choose),
           TEST(loops_go_through_arrays_and_objects), TEST(blanks_are_controlled),
           TEST(what_has_no_value_stays_as_written_and_is_counted),
           TEST(template_that_is_wrong_is_refused), TEST(nesting_is_bounded),
           TEST(limits_end_a_template_and_leave_the_output_as_it_was), TEST(output_is_appended),
           TEST(template_is_read_from_disk));
