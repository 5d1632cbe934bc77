/* SPDX-License-Identifier: MIT */

/* What an expression costs: one line each, "name nanoseconds". */

#include "router/script.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 300000

#define PAYLOAD                                                                              \
    "{\"celsius\":31.5,\"room\":\"server room\",\"humidity\":40,\"battery\":{\"volt\":3.1}," \
    "\"readings\":[{\"n\":\"a\",\"c\":1},{\"n\":\"b\",\"c\":2},{\"n\":\"c\",\"c\":3}]}"

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* The best of five, since other programs take their share. */
static int measure(struct script *script, const struct fields *fields, const char *name,
                   const char *text)
{
    struct buf why = BUF_INIT(1000);
    int id, rc = script_compile(script, name, text, strlen(text), &id, &why);
    double best = 1e18;
    for (int turn = 0; turn < 5 && rc == 0; turn++) {
        double start = now_ns();
        for (int i = 0; i < RUNS / 5 && rc == 0; i++) {
            struct value value;
            rc = script_run(script, id, fields, &value, &why);
            fields_arena_clear(fields->arena);
        }
        double ns = (now_ns() - start) / (RUNS / 5.0);
        best = ns < best ? ns : best;
    }
    if (rc < 0)
        fprintf(stderr, "%s\n", buf_str(&why));
    else
        printf("%s %.0f\n", name, best);
    buf_release(&why);
    return rc;
}

int main(void)
{
    static const struct {
        const char *name, *text;
    } rows[] = {
        { "expression-constant", "true" },
        { "expression-compare", "celsius > 30" },
        { "expression-two", "celsius > 30 and room ~= 'attic'" },
        { "expression-path", "battery.volt < 3 or readings[2].c > 2" },
        { "expression-text", "room .. ': ' .. humidity" },
        { "expression-contains", "contains(room, 'server')" },
        { "expression-glob", "glob(topic, 'home/*/temp')" },
        { "expression-regex", "regex(room, '^server')" },
        { "expression-round", "round(celsius, 1)" },
        { "expression-table", "{ c = celsius, room = room }" },
    };
    struct script *script = script_new(NULL);
    struct message *message = message_new("home/attic/temp", 15, PAYLOAD, strlen(PAYLOAD), NULL);
    struct json_doc *doc = json_doc_new();
    struct fields_arena *arena = fields_arena_new();
    const char *why;
    size_t at;
    int rc = -ENOMEM;
    if (script && message && doc && arena)
        rc = json_doc_parse(doc, PAYLOAD, strlen(PAYLOAD), &why, &at);
    if (rc == 0) {
        struct fields fields = {
            .message = message,
            .route = "bench",
            .decoded = json_value(doc, 0),
            .arena = arena,
        };
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && rc == 0; i++)
            rc = measure(script, &fields, rows[i].name, rows[i].text);
    }
    fields_arena_free(arena);
    json_doc_free(doc);
    message_unref(message);
    script_free(script);
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
