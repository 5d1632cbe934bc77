/* SPDX-License-Identifier: MIT */

/* Fuzzes templates: their text, and hostile expressions in them, within small limits. */

#include "router/template.h"
#include "router/script_state.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD                                                                      \
    "{\"celsius\":31.5,\"room\":\"<attic>\",\"list\":[1,\"x\",null,[2]],\"n\":null," \
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
    const struct script_limits script_limits = { .instructions = 5000, .memory = 1 << 20 };
    const struct template_limits limits = { .output = 10000, .turns = 300 };
    struct buf why = BUF_INIT(1 << 20), out = BUF_INIT(1 << 20);
    struct script *script = script_new(&script_limits);
    script->cpu_limit_ns = 100000000;
    struct template *template;
    int rc = template_new(script, "fuzz", (const char *)data + 1, size - 1, &template, &why);
    if (rc < 0 && why.len == 0)
        abort();
    if (rc == 0) {
        size_t missing = 0;
        bool html = data[0] % 2;
        rc = template_render(template, &fields, html, &limits, &out, &missing, &why);
        if (out.len > limits.output || (rc < 0 && (out.len > 0 || why.len == 0)) ||
            (missing > 0 && why.len == 0))
            abort();
    }
    template_free(template);
    script_free(script);
    buf_release(&why);
    buf_release(&out);
    fields_arena_clear(arena);
    return 0;
}
