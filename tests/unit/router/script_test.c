/* SPDX-License-Identifier: MIT */

#include "router/script.h"

#include "router/script_state.h"

#include "../suite.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAYLOAD                                                                               \
    "{\"celsius\":31.5,\"count\":7,\"room\":\"attic\",\"on\":true,\"off\":false,"             \
    "\"nothing\":null,\"type\":\"alarm\",\"round\":9,\"list\":[10,20,null,40],"               \
    "\"data\":{\"b\":1,\"a\":{\"deep\":\"x\"}},\"empty\":[],\"numeric\":\"21.5\","            \
    "\"text\":\"  Hello World \",\"big\":9007199254740993,\"things\":[{\"n\":\"A\",\"c\":1}," \
    "{\"n\":\"B\",\"c\":2}]}"

struct setting {
    struct script *script;
    struct message *message;
    struct json_doc *doc;
    struct fields fields;
    struct buf why, text;
};

static int set_up(void **state)
{
    static struct setting s;
    static const struct field_level levels[] = { { "device", "pump/1", 4 } };
    s = (struct setting){ .why = BUF_INIT(4000), .text = BUF_INIT(1 << 20) };
    s.script = script_new(&(struct script_limits){ .instructions = 20000, .memory = 4 << 20 });
    s.message = message_new("home/attic", 10, PAYLOAD, strlen(PAYLOAD), NULL);
    s.message->link = "dc2";
    s.message->qos = 1;
    s.doc = json_doc_new();
    const char *why;
    size_t at;
    assert_int_equal(json_doc_parse(s.doc, PAYLOAD, strlen(PAYLOAD), &why, &at), 0);
    s.fields = (struct fields){
        .message = s.message,
        .route = "server room",
        .levels = levels,
        .level_count = 1,
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
    buf_release(&s->text);
    return 0;
}

/* Compiles and runs; the result as JSON, "none", or the error, is in s->text. */
static int evaluate(struct setting *s, const char *text)
{
    int id;
    struct value value;
    buf_clear(&s->why);
    buf_clear(&s->text);
    int rc = script_compile(s->script, "when", text, strlen(text), &id, &s->why);
    if (rc == 0)
        rc = script_run(s->script, id, &s->fields, &value, &s->why);
    if (rc < 0)
        buf_add_str(&s->text, buf_str(&s->why));
    else if (value.type == VALUE_NONE)
        buf_add_str(&s->text, "none");
    else if (value.type == VALUE_FLOAT)
        value_add_text(&value, &s->text);
    else
        value_add_json(&value, &s->text);
    return rc;
}

struct row {
    const char *text, *want;
};

static void check_rows(struct setting *s, const struct row *rows, size_t count, int want_rc)
{
    for (size_t i = 0; i < count; i++) {
        int rc = evaluate(s, rows[i].text);
        CHECK(rc == want_rc && strcmp(buf_str(&s->text), rows[i].want) == 0, "%s: %d, %s",
              rows[i].text, rc, buf_str(&s->text));
    }
}

static void expression_gives_a_value(void **state)
{
    static const struct row rows[] = {
        { "celsius > 30", "true" },
        { "celsius > 30 and room ~= 'attic'", "false" },
        { "count + 1", "8" },
        { "count / 2", "3.5" },
        { "big", "9007199254740993" },
        { "room .. '/' .. device", "\"attic/pump\"" },
        { "topic", "\"home/attic\"" },
        { "qos", "1" },
        { "nothing", "none" },
        { "not_there", "none" },
        { "nothing == nil and not_there == nil", "true" },
        { "on and not off", "true" },
        { "numeric + 1", "22.5" },
        { "count >= 7 and 'critical' or 'warning'", "\"critical\"" },
        { "-- a comment\n count", "7" },
        { "count -- at the end", "7" },
        { "(function(x) local y = x * 2; return y end)(4)", "8" },
        { "1/0", "inf" },
        /* JSON values. */
        { "data.a.deep", "\"x\"" },
        { "list[0] + list[1]", "30" },
        { "list[-1]", "40" },
        { "list[4]", "none" },
        { "(function() local l = list return { l[0], l[3], l[1], l[1], l[-4], l[0], l[3], l[4] } "
          "end)()",
          "[10,40,20,20,10,10,40]" },
        { "list.x", "none" },
        { "data[0]", "none" },
        { "#list", "4" },
        { "#data", "2" },
        { "#empty == 0", "true" },
        { "list", "[10,20,null,40]" },
        { "data.a", "{\"deep\":\"x\"}" },
        { "things[1].n", "\"B\"" },
        { "data == json.data", "true" },
        { "data == json.list", "false" },
        { "tostring(data)", "\"{\\\"b\\\":1,\\\"a\\\":{\\\"deep\\\":\\\"x\\\"}}\"" },
        { "type(data)", "\"table\"" },
        { "(function() local n = 0 for k, v in pairs(list) do n = n + k end return n end)()", "6" },
        { "(function() local n = 0 for i = 0, #list - 1 do n = n + (list[i] or 0) end return n "
          "end)()",
          "70" },
        { "(function() local t = '' for k in pairs(data) do t = t .. k end return t end)()",
          "\"ba\"" },
        { "(function() local n = 0 for i, v in ipairs(things) do n = n + i * 10 + v.c end return "
          "n end)()",
          "13" },
        /* A function goes before a field of its name. */
        { "round(celsius)", "32" },
        { "json.round", "9" },
        { "json.type", "\"alarm\"" },
        /* Tables. */
        { "{ 1, 2, 'x' }", "[1,2,\"x\"]" },
        { "{ [0] = 1, 2 }", "[1,2]" },
        { "{}", "[]" },
        { "{ b = 1, a = { true, list }, c = data }",
          "{\"a\":[true,[10,20,null,40]],\"b\":1,\"c\":{\"b\":1,\"a\":{\"deep\":\"x\"}}}" },
        { "{ 'a\\0b\\255' }", "[\"a\\u0000b\xef\xbf\xbd\"]" },
    };
    check_rows(*state, rows, ROWS(rows), 0);
}

static void functions_offered_do_what_they_say(void **state)
{
    static const struct row rows[] = {
        { "contains(room, 'tt')", "true" },
        { "contains(room, '')", "true" },
        { "contains('', 'x')", "false" },
        { "contains(count, 7)", "true" },
        { "starts_with(topic, 'home/')", "true" },
        { "starts_with('a', 'ab')", "false" },
        { "ends_with(topic, 'attic')", "true" },
        { "ends_with('a', 'ba')", "false" },
        { "glob('clients/pump/7', 'clients/*/?')", "true" },
        { "glob('abcbd', 'a*b?')", "true" },
        { "glob('abc', '*b')", "false" },
        { "glob('', '*')", "true" },
        { "glob('', '?')", "false" },
        { "glob('ab', 'a')", "false" },
        { "glob('b7', '[a-c][!a-z]')", "true" },
        { "glob('d', '[a-c]')", "false" },
        { "glob(']', '[]]')", "true" },
        { "glob('-', '[a-]')", "true" },
        { "glob('[', '[')", "true" },
        { "glob('a*', 'a\\\\*')", "true" },
        { "glob('ab', 'a\\\\*')", "false" },
        { "glob('\xc3\xa4', '?')", "true" },
        { "glob('\xc3\xa4', '[\xc3\xa0-\xc3\xbf]')", "true" },
        { "glob('\xff', '?')", "true" },
        { "glob(string.rep('a', 300) .. 'b', '*a*a*a*a*a*a*c')", "false" },
        { "regex(room, '^a.{3}c$')", "true" },
        { "regex(room, 'T+')", "false" },
        { "regex(room, '(?i)T+')", "true" },
        { "regex('x\xff'..'5', '\\\\d')", "true" },
        { "regex(string.rep('a', 5000) .. 'b7', 'b[0-9]$')", "true" },
        { "regex(string.rep('a', 5000), '^b')", "false" },
        { "round(2.5)", "3" },
        { "round(-2.5)", "-3" },
        { "round(3.14159, 2)", "3.14" },
        { "round(1234, -2)", "1200" },
        { "round(1234.5, -2)", "1200" },
        { "round(7, 3)", "7" },
        { "round(1e300)", "1e+300" },
        { "round(1e300, 20)", "1e+300" },
        { "round(numeric)", "22" },
        { "tojson(data.a)", "\"{\\\"deep\\\":\\\"x\\\"}\"" },
        { "tojson({ x = list, y = 'q' })", "\"{\\\"x\\\":[10,20,null,40],\\\"y\\\":\\\"q\\\"}\"" },
        { "tojson(nil)", "\"null\"" },
        { "split('a,b,,c', ',')", "[\"a\",\"b\",\"\",\"c\"]" },
        { "split(topic, '/')[1]", "\"attic\"" },
        { "#split(topic, '/')", "2" },
        { "split('', ',')", "[\"\"]" },
        { "(function() local t = '' for i, v in ipairs(split('a,b', ',')) do t = t .. i .. v end "
          "return t end)()",
          "\"0a1b\"" },
        { "(function() local t = '' for i, v in ipairs({ 'a', 'b' }) do t = t .. i .. v end return "
          "t end)()",
          "\"1a2b\"" },
        { "trim(json.text)", "\"Hello World\"" },
        { "trim('  ')", "\"\"" },
        { "replace('a.b.c', '.', '/')", "\"a/b/c\"" },
        { "replace('aaa', 'aa', 'b')", "\"ba\"" },
        { "('x'):rep(3):upper()", "\"XXX\"" },
        { "string.format('%.1f|%5s|%q', celsius, room, 'a')", "\"31.5|attic|\\\"a\\\"\"" },
        { "math.floor(celsius) + math.max(1, 2)", "33" },
        { "select('#', pcall(error, 'x'))", "2" },
        { "tonumber('0x10')", "16" },
        { "next({})", "none" },
    };
    check_rows(*state, rows, ROWS(rows), 0);
}

static void expression_that_is_none_is_refused_with_a_hint(void **state)
{
    static const struct row rows[] = {
        { "", "when: it is empty" },
        { " \n", "when: it is empty" },
        { "count = 7", "when: not expected: '=' (compare with ==)" },
        { "count, room", "when: ')' expected near ',' (an expression is one value)" },
        { "count; room", "when: not expected: 'room'" },
        { "count;", "when: ')' expected near ';' (an expression is one value, not a statement)" },
        { "1), (2", "when: not expected: ')'" },
        { "1) + (2", "when: not expected: ')'" },
        { "count != 7", "when: not expected: '!' (write ~= for unequal, and not for a negation)" },
        { "on && off", "when: unexpected symbol near '&' (write and)" },
        { "on || off", "when: unexpected symbol near '|' (write or)" },
        { "if on then return 1 end",
          "when: unexpected symbol near 'if' (an expression is a value, not a statement)" },
        { "return 1", "when: unexpected symbol near 'return' (leave out return)" },
        { "(count", "when: ')' expected (to close '(' at line 1) at the end" },
        { "count >", "when: unexpected symbol at the end" },
        { "count\n+\n* 2", "when: line 3: unexpected symbol near '*'" },
        { "'abc", "when: unfinished string near ''abc'" },
        { "\x1bLua", "when: unexpected symbol near '<\\27>'" },
    };
    check_rows(*state, rows, ROWS(rows), -EINVAL);
}

static void failure_names_the_field_that_is_not_there(void **state)
{
    static const struct row rows[] = {
        { "kelvin > 30", "when: attempt to compare number with nil (field 'kelvin' is not there)" },
        { "kelvin + 1",
          "when: attempt to perform arithmetic on a nil value (field 'kelvin' is not there)" },
        { "kelvin.x", "when: attempt to index a nil value (field 'kelvin' is not there)" },
        { "data.z.x", "when: attempt to index a nil value (field 'z' is not there)" },
        { "data.z < 1", "when: attempt to compare nil with number (field 'z' is not there)" },
        { "'a' .. kelvin",
          "when: attempt to concatenate a nil value (field 'kelvin' is not there)" },
        { "contains(kelvin, 'x')", "when: bad argument #1 to 'contains' (string expected, got nil) "
                                   "(field 'kelvin' is not there)" },
        { "rond(celsius)", "when: there is no function 'rond', did you mean 'round'?" },
        { "room > 30", "when: attempt to compare number with string" },
        { "data + 1",
          "when: attempt to perform arithmetic on a JSON object value (global 'data')" },
        { "error('own words')", "when: own words" },
        { "error({})", "when: error() with a table" },
        { "error(5)", "when: error 5" },
        { "error('a\\nb\\255')", "when: a b\xef\xbf\xbd" },
        { "function() end", "when: a function is no value" },
        { "{ function() end }", "when: a function is no value" },
        { "{ a = 1, [2] = 2 }", "when: the names in a table must be texts, or the numbers 0 to n-1 "
                                "or 1 to n" },
        { "(function() local t = {} t.t = t return t end)()",
          "when: tables are nested more than 60 deep" },
        { "(function() x = 1 end)()", "when: an expression can't set 'x'" },
        { "(function() string.x = 1 end)()", "when: 'x' can't be set here" },
        { "(function() data.x = 1 end)()", "when: a JSON value can't be changed" },
        { "ipairs(data)", "when: ipairs goes through arrays, and this is an object: use pairs" },
        { "regex(room, '(')",
          "when: regex: the pattern is not valid: missing closing parenthesis at byte 1" },
        { "split(room, '')", "when: split: the separator is empty" },
        { "replace(room, '', 'x')", "when: replace: the text to replace is empty" },
    };
    check_rows(*state, rows, ROWS(rows), -EINVAL);
}

static void function_used_as_a_field_is_refused(void **state)
{
    static const struct row errors[] = {
        { "type == 'alarm'", "when: 'type' is a function here: write json.type for the field" },
        { "count > 3 and round",
          "when: 'round' is a function here: write json.round for the field" },
        { "count + --[[ x ]] next",
          "when: 'next' is a function here: write json.next for the field" },
        { "select..'x'", "when: 'select' is a function here: write json.select for the field" },
    };
    static const struct row rows[] = {
        { "json.type == 'alarm'", "true" },
        { "type(count) == 'number'", "true" },
        { "type'x' == 'string'", "true" },
        { "'type == 1' == [[type == 1]]", "true" },
        { "(function(type) return type == 1 end)(1)", "true" },
        { "pcall(tonumber, '1')", "true" },
        { "math.pi > 3", "true" },
    };
    check_rows(*state, errors, ROWS(errors), -EINVAL);
    check_rows(*state, rows, ROWS(rows), 0);
}

/* What is answered without Lua must be what Lua says. In parentheses nothing is simple. */
static void simple_expression_gives_what_lua_gives(void **state)
{
    static const char *const paths[] = {
        "celsius",  "count",       "big",     "room",     "on",         "nothing",
        "kelvin",   "data.b",      "data.a",  "list",     "list[0]",    "list[2]",
        "list[9]",  "data.a.deep", "data.z",  "data.z.y", "room.len",   "count.x",
        "kelvin.x", "things[1].n", "numeric", "topic",    "json.round", "device",
        "qos",      "nothing.x",   "data[0]", "list.x",   "tiny",
    };
    static const char *const signs[] = { "<", ">", "<=", ">=", "==", "~=" };
    static const char *const constants[] = {
        "7",
        "31.5",
        "-1",
        "0",
        "1e3",
        ".5",
        "9007199254740993",
        "9007199254740992.0",
        "'attic'",
        "\"x\"",
        "'7'",
        "0x7",
        "'\\97ttic'",
        "nil",
        "true",
        "9223372036854775808",
        "- 1",
    };
    struct setting *s = *state;
    char simple[100], lua[110], got[300];
    for (size_t i = 0; i < ROWS(paths); i++) {
        for (size_t j = 0; j < ROWS(signs) * ROWS(constants) + 1; j++) {
            if (j == ROWS(signs) * ROWS(constants))
                snprintf(simple, sizeof(simple), "%s", paths[i]);
            else
                snprintf(simple, sizeof(simple), "%s %s%s", paths[i], signs[j % ROWS(signs)],
                         constants[j / ROWS(signs)]);
            snprintf(lua, sizeof(lua), "(%s)", simple);
            int rc = evaluate(s, simple);
            snprintf(got, sizeof(got), "%s", buf_str(&s->text));
            CHECK(evaluate(s, lua) == rc && strcmp(got, buf_str(&s->text)) == 0, "%s: %s, not %s",
                  simple, got, buf_str(&s->text));
        }
    }
    static const struct row rows[] = {
        { "celsius > 30 and room == 'attic'", "true" },
        { "celsius > 40 and kelvin > 1", "false" },
        { "celsius > 40 or count == 7 or kelvin > 1", "true" },
        { "celsius > 40 or count == 8", "false" },
        { "celsius > 40 and count == 7 or room == 'attic'", "true" },
        { "celsius > 30 -- hot", "true" },
        { "celsius --[==[ ]] ]==] > 30", "true" },
    };
    check_rows(s, rows, ROWS(rows), 0);
}

static void global_of_a_file_hides_a_field_from_older_expressions(void **state)
{
    struct setting *s = *state;
    struct value value;
    int id;
    assert_int_equal(script_compile(s->script, "when", "count == 1", 10, &id, &s->why), 0);
    assert_int_equal(script_run(s->script, id, &s->fields, &value, &s->why), 0);
    assert_false(value.u.boolean);
    assert_int_equal(script_load_text(s->script, "f", "count = 1", 9, &s->why), 0);
    assert_int_equal(script_run(s->script, id, &s->fields, &value, &s->why), 0);
    assert_true(value.u.boolean);
}

static void sandbox_has_no_way_out(void **state)
{
    static const char *const names[] = {
        "io",
        "os",
        "debug",
        "package",
        "require",
        "load",
        "loadfile",
        "dofile",
        "loadstring",
        "collectgarbage",
        "print",
        "setmetatable",
        "rawset",
        "rawget",
        "getmetatable",
        "rawequal",
        "rawlen",
        "coroutine",
        "table",
        "utf8",
        "warn",
        "xpcall",
        "_G",
        "_VERSION",
        "string.dump",
        "string.find",
        "string.match",
        "string.gmatch",
        "string.gsub",
        "string.pack",
        "string.unpack",
        "('x').dump",
        "('x').find",
        "('x').gsub",
        "math.random",
        "math.randomseed",
        "next(_ENV)",
        "next(string)",
        "next(math)",
    };
    struct setting *s = *state;
    for (size_t i = 0; i < ROWS(names); i++) {
        int rc = evaluate(s, names[i]);
        CHECK(rc == 0 && strcmp(buf_str(&s->text), "none") == 0, "%s: %d, %s", names[i], rc,
              buf_str(&s->text));
    }
}

static void run_ends_at_its_limits_and_the_state_stays_usable(void **state)
{
#define LOOP(BODY) "(function() " BODY " end)()"
    static const struct row rows[] = {
        { LOOP("while true do end"), "instructions" },
        { LOOP("repeat until false"), "instructions" },
        { LOOP("for i = 1, math.huge do end"), "instructions" },
        { LOOP("local function f() return f() end f()"), "instructions" },
        { LOOP("while true do pcall(function() while true do end end) end"), "instructions" },
        { LOOP("local function f() while true do end end pcall(f) return 1"), "instructions" },
        { LOOP("pcall(string.rep, 'x', 1e8) return 1"), "memory" },
        { LOOP("while true do pcall(error) end"), "instructions" },
        { LOOP("while true do pcall(string.rep, 'x', 1e9) end"), "" },
        { LOOP("local t = {} for i = 1, 1e9 do t[i] = 'x' .. i end"), "" },
        { LOOP("local s = 'x' while true do s = s .. s end"), "" },
        { "('x'):rep(1e8)", "memory" },
        { "('x'):rep(1e9, 'y')", "memory" },
        { "('x'):rep(1 << 60)", "string too large" },
        { LOOP("while true do local s = ('x'):rep(2e6) end"), "instructions" },
        { "string.format('%99999d', 1)", "invalid conversion" },
        { LOOP("local s = ('a'):rep(1e6) while true do contains(s, 'b') end"), "instructions" },
        { LOOP("local s = ('a'):rep(1e5) while true do glob(s, '*a*b') end"), "instructions" },
        { "glob(('a'):rep(1e5), ('*a'):rep(50) .. 'b')", "instructions" },
        { "regex(('a'):rep(40), '(a|a)+[bc]')", "too much work" },
        { "regex(('a'):rep(3e4), '(a|aa)+[bc]')", "too much work" },
        { "regex(('a'):rep(6e4), '(|)aaa+[bc]')", "too much work" },
        { "regex(('a'):rep(7e4), 'a')", "string.sub" },
        { "regex('a', ('('):rep(200))", "not valid" },
        { "regex('a', ('a'):rep(5000))", "4096" },
        { LOOP("local function f() return f() + 1 end return f()"), "" },
        { LOOP("local function f() return pcall(f) end return f()"), NULL },
        { LOOP("local function f() local ok, e = pcall(f) error(e) end return f()"), "" },
        { "string.byte(('x'):rep(1e6), 1, -1)", "too long" },
        { LOOP("local t = {} for i = 1, 2000 do t[i] = i end for i = 1, 2 do t = { t, t, t, t, t, "
               "t, t, t, t } end return t"),
          "instructions" },
        { "{ ('x'):rep(2e5) }", NULL },
        { LOOP("local t = {} for i = 1, 1e3 do t[i] = {} end return t"), NULL },
    };
    struct setting *s = *state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        int rc = evaluate(s, rows[i].text);
        CHECK(rc == (rows[i].want ? -EINVAL : 0), "%s: %d, %s", rows[i].text, rc,
              buf_str(&s->text));
        CHECK(!rows[i].want || strstr(buf_str(&s->text), rows[i].want), "%s: %s", rows[i].text,
              buf_str(&s->text));
        CHECK(s->script->used <= 4 << 20, "%s: %zu bytes", rows[i].text, s->script->used);
        CHECK(s->script->text.cap <= 1 << 16, "%s: %zu bytes of text", rows[i].text,
              s->script->text.cap);
        rc = evaluate(s, "count + 1");
        CHECK(rc == 0 && strcmp(buf_str(&s->text), "8") == 0, "after %s: %s", rows[i].text,
              buf_str(&s->text));
    }
}

static void slow_single_steps_end_by_the_clock(void **state)
{
    struct setting *s = *state;
    struct script *script = script_new(NULL); /* 1,000,000 instructions */
    script->cpu_limit_ns = 20000000;
    struct value value;
    int id;
    static const char text[] =
        LOOP("local a, b = ('x'):rep(1e6), ('x'):rep(1e6) while a == b do end");
    assert_int_equal(script_compile(script, "when", text, strlen(text), &id, &s->why), 0);
    assert_int_equal(script_run(script, id, &s->fields, &value, &s->why), -EINVAL);
    assert_string_equal(buf_str(&s->why), "when: it takes more than 20 ms of the processor");
    script_free(script);
}

static void memory_stays_flat_over_many_runs(void **state)
{
    struct setting *s = *state;
    static const char text[] = "contains(room .. tostring(count), 'x') or data.a.deep == 'x'";
    int id;
    assert_int_equal(script_compile(s->script, "when", text, strlen(text), &id, &s->why), 0);
    size_t most = 0, early = 0;
    for (int i = 0; i < 50000; i++) {
        struct value value;
        assert_int_equal(script_run(s->script, id, &s->fields, &value, &s->why), 0);
        fields_arena_clear(s->fields.arena);
        most = s->script->used > most ? s->script->used : most;
        if (i == 5000)
            early = most;
    }
    CHECK(most <= early + 1024, "%zu bytes at first, %zu later", early, most);
}

/* ---- Users' files ---- */

#define FILE_TEXT                                                                          \
    "local seen = 0\n"                                                                     \
    "local kept\n"                                                                         \
    "LIMIT = 30\n"                                                                         \
    "function hot(c) return c > LIMIT end\n"                                               \
    "function here() return room .. '!' end\n"                                             \
    "function count_up() seen = seen + 1 return seen end\n"                                \
    "function keep() kept = kept or data return kept.b end\n"                              \
    "function leak() value = 1 end\n"                                                      \
    "function add(m) return { warm = m.celsius > 20, where = m.device, l = m.list } end\n" \
    "function nothing() end\n"                                                             \
    "function yes() return true end\n"                                                     \
    "function no() return false end\n"                                                     \
    "function number() return 5 end\n"                                                     \
    "function forge() return { topic = 'x' } end\n"                                        \
    "function many() return { a = 1, b = 2, c = 3, d = 4, e = 5 } end\n"                   \
    "function numbers() return { 1, 2 } end\n"                                             \
    "function names(m) local n = 0 for k, v in pairs(m) do n = n + 1 end\n"                \
    "  return { n = n, t = m.topic } end\n"                                                \
    "function change(m) m.topic = 'x' end\n"                                               \
    "function fail() error('broken') end\n"

static void load_file(struct setting *s)
{
    int rc = script_load_text(s->script, "functions.lua", FILE_TEXT, strlen(FILE_TEXT), &s->why);
    CHECK(rc == 0, "%s", buf_str(&s->why));
}

static void users_functions_are_there_in_expressions(void **state)
{
    static const struct row rows[] = {
        { "hot(celsius)", "true" }, { "here()", "\"attic!\"" }, { "count_up()", "1" },
        { "count_up()", "2" },      { "LIMIT + 1", "31" },
    };
    static const struct row errors[] = {
        { "hott(celsius)", "when: there is no function 'hott', did you mean 'hot'?" },
        { "hot(kelvin)", "when: functions.lua:4: attempt to compare number with nil (field "
                         "'kelvin' is not there)" },
        { "leak()", "when: functions.lua:8: a function can't set the global 'value': write local "
                    "value" },
    };
    struct setting *s = *state;
    load_file(s);
    check_rows(s, rows, ROWS(rows), 0);
    check_rows(s, errors, ROWS(errors), -EINVAL);
    assert_true(script_has_function(s->script, "hot"));
    assert_false(script_has_function(s->script, "LIMIT"));
    assert_false(script_has_function(s->script, "contains"));
}

static void json_value_kept_from_an_earlier_run_is_an_error(void **state)
{
    struct setting *s = *state;
    load_file(s);
    assert_int_equal(evaluate(s, "keep()"), 0);
    assert_int_equal(evaluate(s, "keep()"), -EINVAL);
    assert_string_equal(buf_str(&s->text), "when: functions.lua:7: a JSON value of an earlier "
                                           "message was kept; keep what is in it instead");
}

static void file_that_is_wrong_is_refused(void **state)
{
    static const struct row rows[] = {
        { "function f(\n", "f.lua:2: <name> or '...' expected near <eof>" },
        { "topic = 1", "f.lua:1: 'topic' is the name of a field: choose another" },
        { "function contains() end",
          "f.lua:1: 'contains' is a function already: choose another name" },
        { "x.y = 1", "f.lua:1: attempt to index a nil value (field 'x' is not there)" },
        { "while true do end", "f.lua: it takes more than 20000 instructions" },
        { "\x1bLuaS", "f.lua: attempt to load a binary chunk (mode is 't')" },
    };
    struct setting *s = *state;
    for (size_t i = 0; i < ROWS(rows); i++) {
        buf_clear(&s->why);
        int rc = script_load_text(s->script, "f.lua", rows[i].text, strlen(rows[i].text), &s->why);
        CHECK(rc == -EINVAL && strcmp(buf_str(&s->why), rows[i].want) == 0, "%s: %d, %s",
              rows[i].text, rc, buf_str(&s->why));
    }
    buf_clear(&s->why);
    assert_int_equal(script_load(s->script, "/nowhere/f.lua", &s->why), -ENOENT);
    assert_string_equal(buf_str(&s->why), "/nowhere/f.lua: No such file or directory");
    assert_int_equal(script_load(s->script, "/", &s->why), -EISDIR);
}

static void file_is_read_from_disk(void **state)
{
    struct setting *s = *state;
    char path[] = "/tmp/tocsin-script-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "function f() return 5 end", 25), 25);
    close(fd);
    int rc = script_load(s->script, path, &s->why);
    unlink(path);
    CHECK(rc == 0, "%s", buf_str(&s->why));
    assert_int_equal(evaluate(s, "f()"), 0);
    assert_string_equal(buf_str(&s->text), "5");
}

static void function_of_a_route_adds_fields_or_ends_the_route(void **state)
{
    static const struct {
        const char *function, *want;
        bool stop;
        int rc;
    } rows[] = {
        { "add", "l=[10,20,null,40] warm=true where=pump ", false, 0 },
        { "nothing", "", false, 0 },
        { "yes", "", false, 0 },
        { "no", "", true, 0 },
        { "number", "function number: a table, true, false or nil must be returned, not a number",
          false, -EINVAL },
        { "forge", "function forge: the field 'topic' can't be set: it is fixed", false, -EINVAL },
        { "many", "function many: 5 fields are returned, more than the 4 that there is room for",
          false, -EINVAL },
        { "numbers",
          "function numbers: the names in a table must be texts, or the numbers 0 to "
          "n-1 or 1 to n",
          false, -EINVAL },
        { "change", "function change: functions.lua:19: 'topic' can't be set here", false,
          -EINVAL },
        { "fail", "function fail: functions.lua:20: broken", false, -EINVAL },
        { "absent", "function absent: there is no function of that name", false, -EINVAL },
    };
    struct setting *s = *state;
    load_file(s);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct field_set set[4];
        size_t count = 99;
        bool stop = !rows[i].stop;
        buf_clear(&s->why);
        buf_clear(&s->text);
        int rc = script_call(s->script, rows[i].function, &s->fields, set, ROWS(set), &count, &stop,
                             &s->why);
        for (size_t j = 0; j < count; j++) {
            buf_addf(&s->text, "%s=", set[j].name);
            value_add_text(&set[j].value, &s->text);
            buf_add_byte(&s->text, ' ');
        }
        const char *got = rc < 0 ? buf_str(&s->why) : buf_str(&s->text);
        CHECK(rc == rows[i].rc && stop == rows[i].stop && strcmp(got, rows[i].want) == 0,
              "%s: %d, %s", rows[i].function, rc, got);
    }
}

static void message_given_to_a_function_can_be_gone_through(void **state)
{
    struct setting *s = *state;
    struct field_set set[4];
    size_t count;
    bool stop;
    load_file(s);
    int rc = script_call(s->script, "names", &s->fields, set, ROWS(set), &count, &stop, &s->why);
    CHECK(rc == 0 && count == 2, "%s", buf_str(&s->why));
    assert_int_equal(set[0].value.type, VALUE_INT);
    /* The payload's members that are not null, the level, and the fixed fields. */
    CHECK(set[0].value.u.integer > 20, "%ld fields", (long)set[0].value.u.integer);
    assert_memory_equal(set[1].value.u.string.text, "home/attic", 10);
}

static void loop_variables_are_fields(void **state)
{
    struct setting *s = *state;
    const struct field_set locals[] = { { "x", VALUE_OF_INT(5) } };
    s->fields.locals = locals;
    s->fields.local_count = 1;
    assert_int_equal(evaluate(s, "x + 1"), 0);
    assert_string_equal(buf_str(&s->text), "6");
}

static void state_with_too_little_memory_is_not_made_or_works(void **state)
{
    (void)state;
    struct script *script = script_new(&(struct script_limits){ .instructions = 1, .memory = 1 });
    assert_non_null(script);
    script_free(script);
    script_free(NULL);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

TEST_SUITE("script", TEST(expression_gives_a_value), TEST(functions_offered_do_what_they_say),
           TEST(expression_that_is_none_is_refused_with_a_hint),
           TEST(failure_names_the_field_that_is_not_there),
           TEST(function_used_as_a_field_is_refused), TEST(simple_expression_gives_what_lua_gives),
           TEST(global_of_a_file_hides_a_field_from_older_expressions),
           TEST(sandbox_has_no_way_out), TEST(run_ends_at_its_limits_and_the_state_stays_usable),
           TEST(slow_single_steps_end_by_the_clock), TEST(memory_stays_flat_over_many_runs),
           TEST(users_functions_are_there_in_expressions),
           TEST(json_value_kept_from_an_earlier_run_is_an_error),
           TEST(file_that_is_wrong_is_refused), TEST(file_is_read_from_disk),
           TEST(function_of_a_route_adds_fields_or_ends_the_route),
           TEST(message_given_to_a_function_can_be_gone_through), TEST(loop_variables_are_fields),
           TEST(state_with_too_little_memory_is_not_made_or_works));
