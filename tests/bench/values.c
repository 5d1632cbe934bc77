/* SPDX-License-Identifier: MIT */

/* What reading JSON, finding a field and rendering a format cost: lines "name ns". One thread. */

#include "router/format.h"
#include "router/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 200000

#define PAYLOAD                                                                                   \
    "{\"device\":\"sensor-17\",\"room\":\"server room\",\"celsius\":27.53,\"humidity\":41,"       \
    "\"battery\":{\"volt\":3.02,\"low\":false},\"uptime\":1234567,\"tags\":[\"rack\",\"north\"]," \
    "\"firmware\":\"1.4.2\",\"ip\":\"10.1.2.3\",\"rssi\":-61}"

struct setting {
    struct message *message;
    struct json_doc *doc;
    struct fields fields;
    struct format *format;
    struct field_path *path;
    struct buf out;
};

static uint64_t sink; /* keeps the compiler from leaving work out */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* The best of a few runs: the others were disturbed. */
static void measure(const char *name, void (*run)(struct setting *), struct setting *s)
{
    double best = 1e300;
    for (int attempt = 0; attempt < 5; attempt++) {
        double start = now_ns();
        for (int i = 0; i < ROUNDS; i++)
            run(s);
        double ns = (now_ns() - start) / ROUNDS;
        best = ns < best ? ns : best;
    }
    printf("%s %.1f\n", name, best);
}

static void parse(struct setting *s)
{
    const char *why;
    size_t at;
    if (json_doc_parse(s->doc, PAYLOAD, sizeof(PAYLOAD) - 1, &why, &at) < 0)
        abort();
}

static void get(struct setting *s)
{
    sink += fields_get(&s->fields, s->path).type;
}

static void render(struct setting *s)
{
    size_t missing = 0;
    buf_clear(&s->out);
    format_render(s->format, &s->fields, FORMAT_AS_IS, &s->out, &missing);
    sink += s->out.len + missing;
}

static void number_text(struct setting *s)
{
    (void)s;
    char text[NUMBER_TEXT_BYTES];
    sink += number_shortest(27.53 + (double)(sink & 7), text);
}

static void number_text_long(struct setting *s)
{
    (void)s;
    char text[NUMBER_TEXT_BYTES];
    sink += number_shortest(0.1 + 0.2 + (double)(sink & 1) * 1e-10, text);
}

static void measure_path(const char *name, const char *path, struct setting *s)
{
    struct buf why = BUF_INIT(1000);
    if (field_path_new(path, strlen(path), &s->path, &why) < 0)
        abort();
    measure(name, get, s);
    field_path_free(s->path);
    buf_release(&why);
}

static void measure_format(const char *name, const char *format, struct setting *s)
{
    struct buf why = BUF_INIT(1000);
    if (format_new(format, strlen(format), &s->format, &why) < 0)
        abort();
    measure(name, render, s);
    format_free(s->format);
    buf_release(&why);
}

int main(void)
{
    struct setting s = { .out = BUF_INIT(100000) };
    s.message =
        message_new("clients/arduino/10.1.2.3/celsius", 32, PAYLOAD, sizeof(PAYLOAD) - 1, NULL);
    s.doc = json_doc_new();
    parse(&s);
    s.fields = (struct fields){ .message = s.message,
                                .decoded = json_value(s.doc, 0),
                                .arena = fields_arena_new() };

    printf("json_bytes %zu\n", sizeof(PAYLOAD) - 1);
    measure("json_parse", parse, &s);
    measure_path("field_fixed", "topic", &s);
    measure_path("field_first_member", "device", &s);
    measure_path("field_last_member", "rssi", &s);
    measure_path("field_nested_number", "battery.volt", &s);
    measure_path("field_time", "_dthhmm", &s);
    measure("number_text", number_text, &s);
    measure("number_text_17_digits", number_text_long, &s);
    measure_format("format_literal", "temperature in the server room", &s);
    measure_format("format_text", "{room}", &s);
    measure_format("format_float", "{celsius}", &s);
    measure_format("format_float_1", "{celsius:.1f}", &s);
    measure_format("format_float_12", "{celsius:.12f}", &s);
    measure_format("format_integer", "{uptime:,}", &s);
    measure_format("format_json", "{battery!j}", &s);
    measure_format("format_line", "{celsius:.1f} C at {ip}, {_dthhmm}: {room} {humidity}%", &s);

    fields_arena_free(s.fields.arena);
    json_doc_free(s.doc);
    message_unref(s.message);
    buf_release(&s.out);
    return sink == 0;
}
