/* SPDX-License-Identifier: MIT */

/*
 * Fuzzes expressions and users' files: hostile Lua must end by its limits, and leave a state that
 * works. The first byte chooses what the rest is.
 */

#include "router/script_state.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD                                                                    \
    "{\"celsius\":31.5,\"room\":\"attic\",\"list\":[1,\"x\",null,[2]],\"n\":null," \
    "\"data\":{\"a\":{\"b\":1},\"c\\n\":\"\\u00e4\"},\"round\":1}"

/* The interceptor reads all of the text at each call, which makes a replace() quadratic. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "intercept_memmem=0";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fields_arena *arena;
static struct message *message;
static struct json_doc *doc;

static void set_up(void)
{
    const char *why;
    size_t at;
    arena = fields_arena_new();
    message = message_new("home/attic", 10, PAYLOAD, strlen(PAYLOAD), NULL);
    doc = json_doc_new();
    if (!arena || !message || !doc || json_doc_parse(doc, PAYLOAD, strlen(PAYLOAD), &why, &at) < 0)
        abort();
}

static void check_value(const struct value *value)
{
    struct buf text = BUF_INIT(1 << 26);
    value_add_json(value, &text);
    buf_release(&text);
}

/* What was answered without Lua must be what Lua says; in parentheses nothing is simple. */
static void check_simple(struct script *script, const struct fields *fields, const char *text,
                         size_t len, int want_rc, const struct value *want)
{
    struct buf why = BUF_INIT(1 << 20), lua = BUF_INIT(1 << 20), a = lua, b = lua;
    struct value value;
    int id;
    buf_addf(&lua, "(%.*s\n)", (int)len, text);
    if (script_compile(script, "lua", buf_str(&lua), lua.len, &id, &why) == 0) {
        if (script->expressions[id].simple)
            abort();
        int rc = script_run(script, id, fields, &value, &why);
        if (rc == 0) {
            value_add_json(want, &a);
            value_add_json(&value, &b);
        }
        if (rc != want_rc || strcmp(buf_str(&a), buf_str(&b)) != 0)
            abort();
    }
    buf_release(&why);
    buf_release(&lua);
    buf_release(&a);
    buf_release(&b);
}

static void run(struct script *script, const struct fields *fields, const char *text, size_t len,
                struct buf *why)
{
    struct value value;
    int id;
    if (script_compile(script, "fuzz", text, len, &id, why) < 0)
        return;
    int rc = 0;
    for (int i = 0; i < 2; i++) {
        rc = script_run(script, id, fields, &value, why);
        if (rc == 0)
            check_value(&value);
    }
    if (script->expressions[id].simple)
        check_simple(script, fields, text, len, rc, &value);
}

/* Calls each function that a file has defined. */
struct names {
    char list[8][64];
    size_t count;
};

static void note_name(const char *name, void *context)
{
    struct names *names = context;
    if (names->count < 8 && strlen(name) < 64)
        memcpy(names->list[names->count++], name, strlen(name) + 1);
}

static void call_all(struct script *script, const struct fields *fields, struct buf *why)
{
    struct names names = { .count = 0 };
    script_each_function(script, note_name, &names);
    for (size_t i = 0; i < names.count; i++) {
        struct field_set set[8];
        size_t count;
        bool stop;
        if (script_call(script, names.list[i], fields, set, 8, &count, &stop, why) < 0)
            continue;
        for (size_t j = 0; j < count; j++)
            check_value(&set[j].value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!doc)
        set_up();
    if (size < 1)
        return 0;
    const struct fields fields = {
        .message = message,
        .route = "fuzz",
        .decoded = json_value(doc, 0),
        .arena = arena,
    };
    struct buf why = BUF_INIT(1 << 20);
    const struct script_limits limits = { .instructions = 20000, .memory = 2 << 20 };
    struct script *script = script_new(&limits);
    script->cpu_limit_ns = 100000000;
    const char *text = (const char *)data + 1;
    if (data[0] % 2 == 0) {
        run(script, &fields, text, size - 1, &why);
    } else {
        script_load_text(script, "fuzz.lua", text, size - 1, &why);
        call_all(script, &fields, &why);
    }
    if (script->used > (size_t)limits.memory)
        abort();

    struct value value;
    int id;
    buf_clear(&why);
    if (script_compile(script, "after", "json.list[0] + 1", 16, &id, &why) < 0 ||
        script_run(script, id, &fields, &value, &why) < 0 || value.u.integer != 2)
        abort();
    script_free(script);
    buf_release(&why);
    fields_arena_clear(arena);
    return 0;
}
