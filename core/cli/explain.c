/* SPDX-License-Identifier: MIT */

/* tocsin explain */

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "daemon/setup.h"
#include "mqtt/topic.h"
#include "router/flatten.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD_MAX_BYTES (256 * 1024 * 1024)
#define REAL_DIGITS       15 /* of numbers in arrays: what a person wants to read */

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "link", 'l', "NAME",
      "Link that the message comes by; if left out the included broker, or "
      "without one the first link." },
    { "retain", 'r', NULL, "The message is a retained one." },
    { "qos", 'q', "0|1|2", "QoS of the message; 0 if left out." },
    { "file", 'f', NULL, "PAYLOAD is the name of a file that has it; - is standard input." },
    { "json", 0, NULL, "Print a JSON object instead of text." },
    { .name = NULL },
};

/* What the observer has seen. */
struct story {
    json_t *routes;
    json_t *lost_targets; /* of the route that comes next */
};

static json_t *json_text(const char *text, size_t len)
{
    struct buf clean = BUF_INIT(PAYLOAD_MAX_BYTES);
    utf8_add_lossy(&clean, text, len);
    json_t *json = json_stringn_nocheck(buf_str(&clean), clean.len);
    buf_release(&clean);
    return json;
}

static json_t *json_fields(const struct fields *fields)
{
    json_t *object = json_object();
    struct tocsin_field *flat = calloc(FLATTEN_MAX, sizeof(*flat));
    size_t count = flat ? fields_flatten(fields, flat) : 0;
    for (size_t i = 0; i < count; i++) {
        const char *text = flat[i].text;
        json_t *value = flat[i].type == TOCSIN_FIELD_STRING
                            ? json_stringn_nocheck(text, flat[i].len)
                            : json_loadb(text, flat[i].len, JSON_DECODE_ANY, NULL);
        json_object_set_new(object, flat[i].name, value ? value : json_null());
    }
    free(flat);
    return object;
}

static void note_decision(void *context, const struct decision *d)
{
    struct story *story = context;
    json_t *route = json_object();
    json_object_set_new(route, "route", json_string_nocheck(route_name(d->route)));
    json_object_set_new(route, "filter", json_string_nocheck(route_filter_at(d->route, 0)));
    json_object_set_new(
        route, "matched",
        json_boolean(d->verdict != VERDICT_NO_MATCH && d->verdict != VERDICT_STOPPED));
    json_object_set_new(route, "dispatched", json_boolean(d->verdict == VERDICT_DISPATCHED));
    const char *link = route_link(d->route);
    bool elsewhere = d->verdict == VERDICT_NO_MATCH && link && strcmp(link, d->message->link) != 0;
    json_object_set_new(route, "verdict",
                        elsewhere ? json_sprintf("it listens to the link \"%s\" only", link)
                                  : json_string_nocheck(verdict_text(d->verdict)));
    if (d->reason[0])
        json_object_set_new(route, "reason", json_text(d->reason, strlen(d->reason)));
    if (d->missing > 0)
        json_object_set_new(route, "missing_fields", json_integer((json_int_t)d->missing));
    if (d->fields)
        json_object_set_new(route, "fields", json_fields(d->fields));
    if (json_array_size(story->lost_targets) > 0) {
        json_object_set(route, "unknown_targets", story->lost_targets);
        json_decref(story->lost_targets);
        story->lost_targets = json_array();
    }
    json_array_append_new(story->routes, route);
}

static void note_no_target(void *context, const struct route *route, const char *name)
{
    struct story *story = context;
    (void)route;
    json_array_append_new(story->lost_targets, json_text(name, strlen(name)));
}

static json_t *json_delivery(const struct delivery *d)
{
    static const char *const severities[] = { "ok", "warning", "critical", "unknown" };
    const struct tocsin_message *view = &d->view;
    json_t *json = json_object();
    json_object_set_new(json, "route", json_string_nocheck(view->route));
    json_object_set_new(json, "service", json_string_nocheck(d->target->service));
    json_object_set_new(json, "target", json_string_nocheck(d->target->name));
    if (view->title[0])
        json_object_set_new(json, "title", json_string_nocheck(view->title));
    json_object_set_new(json, "text", json_stringn_nocheck(view->text, view->text_len));
    if (view->text_is_payload)
        json_object_set_new(json, "text_is_payload", json_true());
    if (view->html)
        json_object_set_new(json, "html", json_string_nocheck(view->html));
    if (view->has_severity)
        json_object_set_new(json, "severity", json_string(severities[view->severity]));
    if (view->has_priority)
        json_object_set_new(json, "priority", json_integer(view->priority));
    json_t *rendered = json_array();
    for (size_t i = 0; i < d->target->format_count; i++)
        if (d->rendered[i])
            json_array_append_new(rendered, json_string_nocheck(d->rendered[i]));
    if (json_array_size(rendered) > 0)
        json_object_set(json, "rendered", rendered);
    json_decref(rendered);
    if (d->fallback)
        json_object_set_new(json, "else", json_delivery(d->fallback));
    return json;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Indents the lines of a text. */
static void add_lines(struct buf *out, const char *label, const char *text)
{
    buf_addf(out, "        %-10s", label);
    for (; *text; text++) {
        buf_add_byte(out, *text);
        if (text[0] == '\n' && text[1] != '\n' && text[1] != '\0')
            buf_add_fill(out, ' ', 18);
    }
    buf_add_byte(out, '\n');
}

static void add_options(struct buf *out, const json_t *delivery)
{
    const json_t *rendered = json_object_get(delivery, "rendered");
    for (size_t i = 0; i < json_array_size(rendered); i++)
        add_lines(out, i == 0 ? "options" : "", json_string_value(json_array_get(rendered, i)));
}

static void add_delivery(struct buf *out, const json_t *delivery)
{
    buf_addf(out, "    would go to %s:%s\n", text_of(delivery, "service"),
             text_of(delivery, "target"));
    if (text_of(delivery, "severity")[0])
        add_lines(out, "severity", text_of(delivery, "severity"));
    const json_t *priority = json_object_get(delivery, "priority");
    if (priority)
        buf_addf(out, "        %-10s%lld\n", "priority", (long long)json_integer_value(priority));
    if (text_of(delivery, "title")[0])
        add_lines(out, "title", text_of(delivery, "title"));
    add_lines(out, "text", text_of(delivery, "text"));
    add_options(out, delivery);
    while ((delivery = json_object_get(delivery, "else"))) {
        buf_addf(out, "    or, where that fails, to %s:%s\n", text_of(delivery, "service"),
                 text_of(delivery, "target"));
        add_options(out, delivery);
    }
}

/* A number as {name} would show it. */
static void add_value(struct buf *out, const json_t *value)
{
    if (json_is_real(value)) {
        const struct value number = VALUE_OF_FLOAT(json_real_value(value));
        value_add_text(&number, out);
        return;
    }
    char *text =
        json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(REAL_DIGITS));
    buf_add_str(out, text ? text : "?");
    free(text);
}

static void add_route(struct buf *out, json_t *route, const json_t *deliveries)
{
    buf_addf(out, "%s route \"%s\" (%s): %s",
             json_is_true(json_object_get(route, "dispatched")) ? "*" : "-",
             text_of(route, "route"), text_of(route, "filter"), text_of(route, "verdict"));
    if (text_of(route, "reason")[0])
        buf_addf(out, ": %s", text_of(route, "reason"));
    buf_add_byte(out, '\n');
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(route, "fields"), key, value)
    {
        buf_addf(out, "    field %s = ", key);
        add_value(out, value);
        buf_add_byte(out, '\n');
    }
    const json_t *missing = json_object_get(route, "missing_fields");
    if (missing)
        buf_addf(out, "    missing fields, which stay as they are written: %lld\n",
                 (long long)json_integer_value(missing));
    size_t i;
    json_array_foreach(json_object_get(route, "unknown_targets"), i, value)
        buf_addf(out, "    there is no target \"%s\"\n", json_string_value(value));
    json_array_foreach((json_t *)deliveries, i,
                       value) if (strcmp(text_of(value, "route"), text_of(route, "route")) == 0)
        add_delivery(out, value);
}

static int tell(json_t *answer, bool as_json)
{
    struct buf out = BUF_INIT(PAYLOAD_MAX_BYTES);
    if (as_json) {
        char *text = json_dumps(answer, JSON_INDENT(2));
        buf_addf(&out, "%s\n", text ? text : "");
        free(text);
        return cli_print(&out);
    }
    const json_t *deliveries = json_object_get(answer, "deliveries");
    size_t i;
    json_t *route;
    json_array_foreach(json_object_get(answer, "routes"), i, route)
        add_route(&out, route, deliveries);
    size_t count = json_array_size(deliveries);
    buf_addf(&out, "%zu %s would be made; nothing was sent.\n", count,
             count == 1 ? "delivery" : "deliveries");
    return cli_print(&out);
}

static int explain(struct setup *setup, struct message *m, bool as_json)
{
    struct story story = { .routes = json_array(), .lost_targets = json_array() };
    const struct engine_observer observer = {
        .decided = note_decision,
        .no_target = note_no_target,
        .context = &story,
        .trace = true,
    };
    struct delivery *first = engine_message(setup->engines[0], m, &observer);
    json_t *deliveries = json_array();
    while (first) {
        struct delivery *next = first->next;
        json_array_append_new(deliveries, json_delivery(first));
        delivery_free(first);
        first = next;
    }
    json_t *answer = json_pack("{s:o, s:o, s:o}", "topic", json_text(m->topic, m->topic_len),
                               "routes", story.routes, "deliveries", deliveries);
    json_decref(story.lost_targets);
    int status = tell(answer, as_json);
    json_decref(answer);
    return status;
}

/* Reads a file, or standard input, as the payload. */
static int read_payload(const char *path, struct buf *out)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rbe");
    if (!file)
        return -errno;
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
        buf_add(out, chunk, n);
    int rc = ferror(file) ? -EIO : out->error;
    if (file != stdin)
        fclose(file);
    return rc;
}

static struct message *make_message(const struct cli_args *args, const struct identity *identity,
                                    const struct buf *payload)
{
    const char *topic = args->rest[0], *qos = cli_value(&cli_explain, args, "qos");
    const char *link = cli_value(&cli_explain, args, "link");
    struct message *m = message_new(topic, strlen(topic), buf_str(payload), payload->len, NULL);
    if (!m)
        return NULL;
    m->received_ms = clock_wall_ms();
    m->link = link ? link : identity->link_count > 0 ? identity->links[0] : "";
    m->retain = cli_value(&cli_explain, args, "retain") != NULL;
    m->qos = qos ? (uint8_t)(qos[0] - '0') : 0;
    return m;
}

static bool is_link(const struct identity *identity, const char *name)
{
    for (size_t i = 0; i < identity->link_count; i++)
        if (strcmp(identity->links[i], name) == 0)
            return true;
    return false;
}

static const char *bad_call(const struct cli_args *args)
{
    const char *qos = cli_value(&cli_explain, args, "qos");
    if (qos && (strlen(qos) != 1 || qos[0] < '0' || qos[0] > '2'))
        return "--qos is 0, 1 or 2";
    const char *fault = topic_name_fault(args->rest[0], strlen(args->rest[0]));
    return fault;
}

static int run(const struct cli_args *args)
{
    const char *path = cli_value(&cli_explain, args, "config");
    const char *bad = bad_call(args);
    if (bad)
        return cli_misused(&cli_explain, "bad topic or option: %s", bad);
    struct buf payload = BUF_INIT(PAYLOAD_MAX_BYTES);
    int rc = cli_value(&cli_explain, args, "file") ? read_payload(args->rest[1], &payload)
                                                   : buf_add_str(&payload, args->rest[1]);
    if (rc < 0) {
        fprintf(stderr, "tocsin explain: %s: %s\n", args->rest[1], strerror(-rc));
        buf_release(&payload);
        return CLI_FAILED;
    }
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct identity identity = { 0 };
    struct setup setup;
    int status = CLI_FAILED;
    rc = setup_read(&setup, path ? path : setup_default_path(), &identity, NULL, &errors);
    if (rc < 0)
        fputs(buf_str(&errors.text), stderr);
    const char *link = cli_value(&cli_explain, args, "link");
    bool known = rc == 0 && (!link || is_link(&identity, link));
    if (rc == 0 && !known)
        fprintf(stderr, "tocsin explain: there is no link \"%s\"\n", link);
    struct message *m = known ? make_message(args, &identity, &payload) : NULL;
    if (m)
        status = explain(&setup, m, cli_value(&cli_explain, args, "json") != NULL);
    message_unref(m);
    if (rc == 0)
        setup_release(&setup);
    identity_release(&identity);
    conf_errors_release(&errors);
    buf_release(&payload);
    return status;
}

const struct cli_command cli_explain = {
    .name = "explain",
    .summary = "show what would become of a message, and why",
    .arguments = "TOPIC PAYLOAD",
    .description = "Runs the routes on one message and prints, for each route, whether it matches, "
                   "and if not, why;\n"
                   "the fields it sees; and what would be sent where. It connects to nothing and "
                   "sends nothing.",
    .example = "tocsin explain clients/arduino/10.0.0.7/celsius 31.5",
    .options = options,
    .least = 2,
    .most = 2,
    .run = run,
};
