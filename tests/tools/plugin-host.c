/* SPDX-License-Identifier: MIT */

/*
 * plugin-host PLUGIN.so: a host for one plugin, driven by JSON lines, for tests. One thread.
 *
 * Each line on standard input is one request, and each is answered by one line on standard output.
 * Whatever the plugin or its children write to standard output goes to standard error instead. A
 * request that is wrong is answered by {"error": "..."} and changes nothing; an unknown key is wrong.
 *
 * {"open": {OPTIONS of the service}, "service": "name"}
 *     -> {"opened": 0, "logs": LOGS} or {"error": "...", "logs": LOGS}. Runs check(), then open().
 *        Options have JSON types: booleans, numbers, strings; durations ("5s") and sizes ("64KiB") as
 *        strings; lists as arrays of strings or one string. What is left out gets its default.
 * {"send": [DELIVERY, ...], "publish_results": [...]}
 *     -> {"results": [{"verdict": "sent|retry|reject", "reason", "receipt", "retry_after_ms",
 *         "park_ms"}, ...], "published": [...], "logs": LOGS}
 *        LOGS is [["error|warning|info|debug", "text"], ...]: all since the last answer that had logs.
 * {"publish_results": [0, -11, [-22, 135], ...]}
 *     -> {"ok": true}. What host->publish() makes of the next publications, in order: `error`, or
 *        [error, reason_code]; 0 when there is no more. The publications themselves are in "published"
 *        of the next results: {"link", "topic", "payload_hex", "qos", "retain", "hops", "timeout_ms",
 *        "properties"}.
 * {"wants": {OPTIONS of a target}}         -> {"wants": 3}
 * {"check_target": {OPTIONS of a target}}  -> {"error": null} or {"error": "..."}; for bad options too
 * {"reopen": true}                         -> {"reopened": true, "logs": LOGS}
 * {"close": true}                          -> {"closed": true, "logs": LOGS}; "open" may follow
 *
 * A DELIVERY, all members optional:
 *   "target": {OPTIONS of the target}   equal ones are one target; it lives until "close"
 *   "target_name": "t", "attempt": 1
 *   "rendered": {"path": "/tmp/x", "argv": ["a", "b"]}   what FORMAT and FORMATS options come to for
 *                                       this delivery; by default each is used as it is written
 *   "topic": "t"
 *   "payload": "text" or "payload_hex": "00ff"           by default the text
 *   "text": "..."                       by default the payload, if that is UTF-8
 *   "title": "", "html": null, "route": "r", "link": "l", "id": "t-1" (then "t-2", ...)
 *   "received_ms": 1700000000000, "priority": 1, "severity": "ok|warning|critical|unknown"
 *   "text_is_payload": false, "qos": 0, "retain": false, "hops": 0
 *   "fields": [["name", "text", "string|number|bool|null|json"], ...]
 *   "properties": {"content_type", "response_topic", "correlation_hex", "user": [["a", "b"], ...],
 *                  "expires_ms", "payload_utf8"}
 * has_priority and has_severity follow from the presence of their members.
 */

#include "base/buf.h"
#include "base/units.h"
#include "base/utf8.h"
#include "tocsin/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Memory that is given back as a whole. */
struct block {
    struct block *next;
    max_align_t data[];
};

struct pool {
    struct block *first;
};

struct format_text {
    const struct tocsin_option *option;
    const char *text;
};

/* A target and the texts of its formats, by index. */
struct target {
    struct target *next;
    char *key; /* its options as JSON */
    void *config;
    struct format_text *formats;
    size_t format_count;
};

struct tool {
    struct tocsin_host host; /* first: the plugin's pointer to it is ours too */
    const struct tocsin_plugin *plugin;
    struct pool instance; /* what lives until "close" */
    struct pool request;  /* what lives until the answer */
    json_t *pins;         /* JSON that options point into: until "close" */
    json_t *request_pins; /* JSON that a message points into: until the answer */
    void *service;
    void *self;
    bool is_open;
    struct target *targets;
    unsigned next_id;
    json_t *publish_results;
    json_t *published;
    pthread_mutex_t lock; /* of logs: any thread may log */
    json_t *logs;
    char error[512]; /* why the request is wrong; "" while it is not */
};

/* ---- Small things ---- */

static void *pool_alloc(struct pool *pool, size_t size)
{
    struct block *block = calloc(1, sizeof(*block) + size);
    if (!block)
        abort();
    block->next = pool->first;
    pool->first = block;
    return block->data;
}

static void pool_clear(struct pool *pool)
{
    while (pool->first) {
        struct block *block = pool->first;
        pool->first = block->next;
        free(block);
    }
}

/* Keeps the first error of a request. Returns false. */
static bool wrong(struct tool *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool wrong(struct tool *tool, const char *format, ...)
{
    if (tool->error[0])
        return false;
    va_list args;
    va_start(args, format);
    vsnprintf(tool->error, sizeof(tool->error), format, args);
    va_end(args);
    return false;
}

/* JSON text of any bytes. */
static json_t *text_new(const char *text)
{
    struct buf buf = BUF_INIT(1 << 26);
    utf8_add_lossy(&buf, text, strlen(text));
    json_t *json = json_stringn(buf_str(&buf), buf.len);
    buf_release(&buf);
    return json;
}

static json_t *hex_new(const uint8_t *data, size_t len)
{
    char *hex = calloc(len + 1, 2);
    if (!hex)
        abort();
    for (size_t i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", data[i]);
    json_t *json = json_string(hex);
    free(hex);
    return json;
}

/* Bytes from hex, in a block of exactly their size, so that reading past the end is noticed. */
static const uint8_t *hex_bytes(struct tool *tool, const char *hex, size_t *len)
{
    *len = strlen(hex) / 2;
    uint8_t *bytes = pool_alloc(&tool->request, *len);
    for (size_t i = 0; i < *len; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            wrong(tool, "bad hex digits");
        else
            bytes[i] = (uint8_t)byte;
    }
    if (strlen(hex) % 2)
        wrong(tool, "an odd number of hex digits");
    return bytes;
}

/* ---- Options: a reader of its own over the tables ---- */

struct reader {
    struct tool *tool;
    struct pool *pool;
    uint8_t *into;
    struct format_text *formats; /* room for all that the group can have */
    size_t format_count;
};

static void format_add(struct reader *reader, const struct tocsin_option *option, const char *text)
{
    reader->formats[reader->format_count++] = (struct format_text){ option, text };
}

static bool in_range(const struct tocsin_option *option, double value)
{
    return option->min >= option->max ||
           (value >= (double)option->min && value <= (double)option->max);
}

static bool is_choice(const char *choices, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        if (strcspn(at, "|") == len && memcmp(at, word, len) == 0)
            return true;
    }
    return false;
}

/* The value of an option as its JSON, made from the default as it is written in the table. */
static json_t *default_new(const struct tocsin_option *option)
{
    if (!option->def)
        return NULL;
    switch (option->type) {
    case TOCSIN_OPT_BOOL:
    case TOCSIN_OPT_INT:
    case TOCSIN_OPT_FLOAT:
        return json_loads(option->def, JSON_DECODE_ANY, NULL);
    case TOCSIN_OPT_LIST:
    case TOCSIN_OPT_FORMATS:
        if (option->def[0] == '[')
            return json_loads(option->def, 0, NULL);
        return json_string(option->def);
    default:
        return json_string(option->def);
    }
}

static bool read_list(struct reader *reader, const struct tocsin_option *option,
                      const json_t *value)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    const char **items = pool_alloc(reader->pool, (count + 1) * sizeof(*items));

    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(item))
            return wrong(reader->tool, "%s: must be a list of strings", option->name);
        items[i] = json_string_value(item);
    }
    if (option->type == TOCSIN_OPT_LIST) {
        struct tocsin_list list = { .items = items, .count = count };
        memcpy(reader->into + option->offset, &list, sizeof(list));
        return true;
    }
    struct tocsin_formats formats = { .count = count,
                                      .first = reader->format_count,
                                      .texts = items };
    memcpy(reader->into + option->offset, &formats, sizeof(formats));
    for (size_t i = 0; i < count; i++)
        format_add(reader, option, items[i]);
    return true;
}

static bool read_text(struct reader *reader, const struct tocsin_option *option, const char *text)
{
    void *field = reader->into + option->offset;
    int64_t number;

    switch (option->type) {
    case TOCSIN_OPT_STRING:
        if (option->choices && !is_choice(option->choices, text))
            return wrong(reader->tool, "%s: must be one of %s", option->name, option->choices);
        memcpy(field, &text, sizeof(text));
        return true;
    case TOCSIN_OPT_SECRET:
        memcpy(field, &(struct tocsin_secret){ text }, sizeof(struct tocsin_secret));
        return true;
    case TOCSIN_OPT_FORMAT: {
        struct tocsin_format format = { .text = text, .index = reader->format_count };
        memcpy(field, &format, sizeof(format));
        format_add(reader, option, text);
        return true;
    }
    case TOCSIN_OPT_DURATION:
    case TOCSIN_OPT_SIZE:
        if (option->type == TOCSIN_OPT_SIZE ? size_parse(text, &number)
                                            : duration_parse(text, &number))
            return wrong(reader->tool, "%s: \"%s\" has no number or unit", option->name, text);
        if (!in_range(option, (double)number))
            return wrong(reader->tool, "%s: %s is out of range", option->name, text);
        memcpy(field, &number, sizeof(number)); /* the only member of both structs */
        return true;
    default:
        return wrong(reader->tool, "%s: must not be a string", option->name);
    }
}

static bool read_option(struct reader *reader, const struct tocsin_option *option,
                        const json_t *value)
{
    void *field = reader->into + option->offset;

    switch (option->type) {
    case TOCSIN_OPT_BOOL:
        if (!json_is_boolean(value))
            return wrong(reader->tool, "%s: must be true or false", option->name);
        memcpy(field, &(bool){ json_is_true(value) }, sizeof(bool));
        return true;
    case TOCSIN_OPT_INT:
        if (!json_is_integer(value) || !in_range(option, (double)json_integer_value(value)))
            return wrong(reader->tool, "%s: not an integer in range", option->name);
        memcpy(field, &(int64_t){ json_integer_value(value) }, sizeof(int64_t));
        return true;
    case TOCSIN_OPT_FLOAT:
        if (!json_is_number(value) || !in_range(option, json_number_value(value)))
            return wrong(reader->tool, "%s: not a number in range", option->name);
        memcpy(field, &(double){ json_number_value(value) }, sizeof(double));
        return true;
    case TOCSIN_OPT_LIST:
    case TOCSIN_OPT_FORMATS:
        return read_list(reader, option, value);
    case TOCSIN_OPT_TREE:
        return wrong(reader->tool, "%s: not readable here", option->name);
    default:
        if (!json_is_string(value))
            return wrong(reader->tool, "%s: must be a string", option->name);
        return read_text(reader, option, json_string_value(value));
    }
}

/* The options point into `group` and into defaults from then on, so both are pinned. */
static bool read_options(struct reader *reader, const struct tocsin_option *table, json_t *group)
{
    json_t *pins = reader->tool->pins;
    if (!json_is_object(group))
        return wrong(reader->tool, "options must be an object");
    json_array_append(pins, group);

    const char *key;
    json_t *value;
    json_object_foreach(group, key, value)
    {
        const struct tocsin_option *option = table;
        while (option && option->name && strcmp(option->name, key) != 0)
            option++;
        if (!option || !option->name)
            return wrong(reader->tool, "%s: unknown option", key);
    }
    for (const struct tocsin_option *option = table; option && option->name; option++) {
        value = json_object_get(group, option->name);
        if (!value && (option->flags & TOCSIN_OPTION_REQUIRED))
            return wrong(reader->tool, "%s: is required", option->name);
        if (!value) {
            value = default_new(option);
            if (!value && option->def)
                return wrong(reader->tool, "%s: bad default \"%s\"", option->name, option->def);
            if (!value)
                continue;
            json_array_append_new(pins, value);
        }
        if (!read_option(reader, option, value))
            return false;
    }
    return true;
}

/* Most formats that the options of `group` can make. */
static size_t format_room(const struct tocsin_option *table, const json_t *group)
{
    size_t room = 0;
    for (const struct tocsin_option *option = table; option && option->name; option++) {
        const json_t *value = json_object_get(group, option->name);
        room += json_is_array(value) ? json_array_size(value) : 1;
        room += option->def ? strlen(option->def) : 0; /* more than it has items */
    }
    return room;
}

static struct target *target_read(struct tool *tool, json_t *group)
{
    const struct tocsin_plugin *plugin = tool->plugin;
    char *key = json_dumps(group, JSON_SORT_KEYS | JSON_ENCODE_ANY);
    for (struct target *target = tool->targets; key && target; target = target->next) {
        if (strcmp(target->key, key) == 0) {
            free(key);
            return target;
        }
    }
    struct target *target = pool_alloc(&tool->instance, sizeof(*target));
    target->config = pool_alloc(&tool->instance, plugin->target_size);
    target->formats = pool_alloc(&tool->instance, format_room(plugin->target_options, group) *
                                                      sizeof(*target->formats));
    struct reader reader = {
        .tool = tool, .pool = &tool->instance, .into = target->config, .formats = target->formats
    };
    if (!key || !read_options(&reader, plugin->target_options, group)) {
        wrong(tool, "target: cannot be read");
        free(key);
        return NULL;
    }
    target->format_count = reader.format_count;
    target->key = key;
    target->next = tool->targets;
    tool->targets = target;
    return target;
}

/* ---- What the plugin is given ---- */

static void host_log(const struct tocsin_host *host, enum tocsin_level level, const char *format,
                     ...)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    struct tool *tool = (struct tool *)host;
    char text[4096];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    pthread_mutex_lock(&tool->lock);
    json_array_append_new(tool->logs, json_pack("[so]", names[level], text_new(text)));
    pthread_mutex_unlock(&tool->lock);
}

static void host_fail(struct tocsin_delivery *d, enum tocsin_verdict verdict, int error,
                      const char *format, ...)
{
    va_list args;

    d->verdict = verdict;
    va_start(args, format);
    vsnprintf(d->reason, sizeof(d->reason), format, args);
    va_end(args);
    size_t len = strlen(d->reason);
    if (error)
        snprintf(d->reason + len, sizeof(d->reason) - len, "%s%s", len ? ": " : "",
                 strerror(-error));
}

static json_t *properties_new(const struct tocsin_properties *p)
{
    if (!p)
        return json_null();
    json_t *json = json_pack("{sIsi}", "expires_ms", (json_int_t)p->expires_ms, "payload_utf8",
                             (int)p->payload_utf8);
    if (p->content_type)
        json_object_set_new(json, "content_type", text_new(p->content_type));
    if (p->response_topic)
        json_object_set_new(json, "response_topic", text_new(p->response_topic));
    if (p->correlation)
        json_object_set_new(json, "correlation_hex", hex_new(p->correlation, p->correlation_len));
    json_t *user = json_array();
    for (size_t i = 0; i < p->user_count; i++)
        json_array_append_new(
            user, json_pack("[oo]", text_new(p->user[i].name), text_new(p->user[i].value)));
    json_object_set_new(json, "user", user);
    return json;
}

static void host_publish(const struct tocsin_host *host, const char *link,
                         struct tocsin_publication *const *publications, size_t n,
                         int64_t timeout_ms)
{
    struct tool *tool = (struct tool *)host;

    for (size_t i = 0; i < n; i++) {
        struct tocsin_publication *p = publications[i];
        const json_t *result = json_array_get(tool->publish_results, 0);
        const json_t *error = json_is_array(result) ? json_array_get(result, 0) : result;
        p->error = (int)json_integer_value(error);
        p->reason_code = (uint8_t)json_integer_value(json_array_get(result, 1));
        json_array_remove(tool->publish_results, 0);
        json_array_append_new(
            tool->published,
            json_pack("{sosososisbsisIso}", "link", text_new(link), "topic", text_new(p->topic),
                      "payload_hex", hex_new(p->payload, p->payload_len), "qos", (int)p->qos,
                      "retain", (int)p->retain, "hops", (int)p->hops, "timeout_ms",
                      (json_int_t)timeout_ms, "properties", properties_new(p->properties)));
    }
}

/* ---- Requests ---- */

static json_t *logs_take(struct tool *tool)
{
    pthread_mutex_lock(&tool->lock);
    json_t *logs = tool->logs;
    tool->logs = json_array();
    pthread_mutex_unlock(&tool->lock);
    return logs;
}

static json_t *instance_close(struct tool *tool)
{
    if (tool->is_open)
        tool->plugin->close(tool->self);
    tool->is_open = false;
    tool->self = NULL;
    tool->service = NULL;
    for (struct target *target = tool->targets; target; target = target->next)
        free(target->key);
    tool->targets = NULL;
    pool_clear(&tool->instance);
    json_array_clear(tool->pins);
    return json_pack("{sbso}", "closed", 1, "logs", logs_take(tool));
}

static json_t *instance_open(struct tool *tool, json_t *options, const json_t *name)
{
    const struct tocsin_plugin *plugin = tool->plugin;
    if (tool->is_open)
        wrong(tool, "already open");
    if (tool->error[0])
        return NULL;

    const char *service_name = json_is_string(name) ? json_string_value(name) : plugin->name;
    char *copy = pool_alloc(&tool->instance, strlen(service_name) + 1);
    memcpy(copy, service_name, strlen(service_name));
    tool->host.service = copy;
    tool->service = pool_alloc(&tool->instance, plugin->service_size);
    struct format_text *formats = pool_alloc(
        &tool->instance, format_room(plugin->service_options, options) * sizeof(*formats));
    struct reader reader = {
        .tool = tool, .pool = &tool->instance, .into = tool->service, .formats = formats
    };
    if (read_options(&reader, plugin->service_options, options) && reader.format_count)
        wrong(tool, "a service must not have FORMAT options");
    const char *why = NULL;
    if (!tool->error[0] && plugin->check)
        why = plugin->check(tool->service);
    if (why)
        wrong(tool, "%s", why);
    if (!tool->error[0]) {
        int rc = plugin->open(&tool->host, tool->service, &tool->self);
        tool->is_open = rc == 0;
        if (rc != 0)
            wrong(tool, "open: %s", strerror(-rc));
    }
    if (tool->is_open)
        return json_pack("{siso}", "opened", 0, "logs", logs_take(tool));
    json_t *logs = logs_take(tool);
    json_decref(instance_close(tool));
    return json_pack("{soso}", "error", text_new(tool->error), "logs", logs);
}

/* Members of a request, taken one by one, so that what is left over is unknown. */
static json_t *take(struct tool *tool, json_t *object, const char *key, int type)
{
    json_t *value = json_object_get(object, key);
    if (!value)
        return NULL;
    bool fits = type < 0 ? json_is_boolean(value) : (int)json_typeof(value) == type;
    if (!fits && !json_is_null(value))
        wrong(tool, "%s: wrong type", key);
    json_array_append(tool->request_pins, value);
    json_object_del(object, key);
    return fits ? value : NULL;
}

static const char *take_text(struct tool *tool, json_t *object, const char *key, const char *def)
{
    const json_t *value = take(tool, object, key, JSON_STRING);
    return value ? json_string_value(value) : def;
}

static int64_t take_int(struct tool *tool, json_t *object, const char *key, int64_t def)
{
    const json_t *value = take(tool, object, key, JSON_INTEGER);
    return value ? json_integer_value(value) : def;
}

static bool take_bool(struct tool *tool, json_t *object, const char *key)
{
    const json_t *value = take(tool, object, key, -1);
    return json_is_true(value);
}

static bool nothing_left(struct tool *tool, json_t *object, const char *where)
{
    const char *key = json_object_iter_key(json_object_iter(object));
    return key ? wrong(tool, "%s: unknown member \"%s\"", where, key) : true;
}

static const struct tocsin_properties *properties_read(struct tool *tool, json_t *json)
{
    if (!json)
        return NULL;
    struct tocsin_properties *p = pool_alloc(&tool->request, sizeof(*p));
    p->content_type = take_text(tool, json, "content_type", NULL);
    p->response_topic = take_text(tool, json, "response_topic", NULL);
    const char *hex = take_text(tool, json, "correlation_hex", NULL);
    if (hex)
        p->correlation = hex_bytes(tool, hex, &p->correlation_len);
    p->expires_ms = take_int(tool, json, "expires_ms", 0);
    p->payload_utf8 = (int8_t)take_int(tool, json, "payload_utf8", -1);
    const json_t *user = take(tool, json, "user", JSON_ARRAY);
    p->user_count = json_array_size(user);
    struct tocsin_property *pairs = pool_alloc(&tool->request, p->user_count * sizeof(*pairs));
    for (size_t i = 0; i < p->user_count; i++) {
        if (json_unpack(json_array_get(user, i), "[ss!]", &pairs[i].name, &pairs[i].value) != 0)
            wrong(tool, "properties: \"user\" must be pairs of strings");
    }
    p->user = pairs;
    nothing_left(tool, json, "properties");
    return p;
}

static void fields_read(struct tool *tool, const json_t *json, struct tocsin_message *m)
{
    static const char *const types[] = { "string", "number", "bool", "null", "json" };

    m->field_count = json_array_size(json);
    const struct tocsin_field **fields =
        pool_alloc(&tool->request, (m->field_count + 1) * sizeof(*fields));
    for (size_t i = 0; i < m->field_count; i++) {
        struct tocsin_field *field = pool_alloc(&tool->request, sizeof(*field));
        const char *type;
        if (json_unpack(json_array_get(json, i), "[ss%s!]", &field->name, &field->text, &field->len,
                        &type) != 0) {
            wrong(tool, "fields: each must be [name, text, type]");
            type = "string";
        }
        size_t t = 0;
        while (t < sizeof(types) / sizeof(types[0]) && strcmp(types[t], type) != 0)
            t++;
        if (t == sizeof(types) / sizeof(types[0]))
            wrong(tool, "fields: no type \"%s\"", type);
        field->type = (enum tocsin_field_type)t;
        fields[i] = field;
    }
    m->fields = fields;
}

static void payload_read(struct tool *tool, json_t *json, struct tocsin_message *m)
{
    const char *hex = take_text(tool, json, "payload_hex", NULL);
    const json_t *payload = take(tool, json, "payload", JSON_STRING);
    const json_t *text = take(tool, json, "text", JSON_STRING);
    const json_t *bytes = payload ? payload : text;

    if (hex) {
        m->payload = hex_bytes(tool, hex, &m->payload_len);
    } else {
        m->payload_len = json_string_length(bytes);
        uint8_t *copy = pool_alloc(&tool->request, m->payload_len);
        if (bytes)
            memcpy(copy, json_string_value(bytes), m->payload_len);
        m->payload = copy;
    }
    if (text) {
        m->text = json_string_value(text);
        m->text_len = json_string_length(text);
    } else {
        m->text_len = utf8_valid(m->payload, m->payload_len) ? m->payload_len : 0;
        char *copy = pool_alloc(&tool->request, m->text_len + 1);
        memcpy(copy, m->payload, m->text_len);
        m->text = copy;
    }
}

static const struct tocsin_message *message_read(struct tool *tool, json_t *json)
{
    static const char *const severities[] = { "ok", "warning", "critical", "unknown" };
    struct tocsin_message *m = pool_alloc(&tool->request, sizeof(*m));
    char *id = pool_alloc(&tool->request, 16);

    snprintf(id, 16, "t-%u", ++tool->next_id);
    payload_read(tool, json, m);
    m->topic = take_text(tool, json, "topic", "t");
    m->title = take_text(tool, json, "title", "");
    m->html = take_text(tool, json, "html", NULL);
    m->route = take_text(tool, json, "route", "r");
    m->link = take_text(tool, json, "link", "l");
    m->id = take_text(tool, json, "id", id);
    m->received_ms = take_int(tool, json, "received_ms", 1700000000000);
    m->has_priority = json_is_integer(json_object_get(json, "priority"));
    m->priority = (int)take_int(tool, json, "priority", 0);
    const char *severity = take_text(tool, json, "severity", NULL);
    m->has_severity = severity != NULL;
    for (size_t i = 0; severity && i <= 4; i++) {
        if (i == 4)
            wrong(tool, "severity: no \"%s\"", severity);
        else if (strcmp(severity, severities[i]) == 0) {
            m->severity = (enum tocsin_severity)i;
            break;
        }
    }
    m->text_is_payload = take_bool(tool, json, "text_is_payload");
    m->qos = (uint8_t)take_int(tool, json, "qos", 0);
    m->retain = take_bool(tool, json, "retain");
    m->hops = (uint8_t)take_int(tool, json, "hops", 0);
    fields_read(tool, take(tool, json, "fields", JSON_ARRAY), m);
    m->properties = properties_read(tool, take(tool, json, "properties", JSON_OBJECT));
    return m;
}

/* The texts of the target's formats for one delivery. */
static const char *const *rendered_new(struct tool *tool, const struct target *target,
                                       const json_t *rendered)
{
    const char **texts = pool_alloc(&tool->request, (target->format_count + 1) * sizeof(*texts));
    const struct tocsin_option *last = NULL;
    size_t nth = 0;

    for (size_t i = 0; i < target->format_count; i++) {
        const struct tocsin_option *option = target->formats[i].option;
        nth = option == last ? nth + 1 : 0;
        last = option;
        const json_t *value = json_object_get(rendered, option->name);
        if (json_is_array(value))
            value = json_array_get(value, nth);
        texts[i] = json_is_string(value) ? json_string_value(value) : target->formats[i].text;
    }
    return texts;
}

static struct tocsin_delivery *delivery_read(struct tool *tool, json_t *json)
{
    if (!json_is_object(json)) {
        wrong(tool, "a delivery must be an object");
        return NULL;
    }
    json_t *options = take(tool, json, "target", JSON_OBJECT);
    if (!options) {
        options = json_object();
        json_array_append_new(tool->request_pins, options);
    }
    const struct target *target = target_read(tool, options);
    if (!target)
        return NULL;
    struct tocsin_delivery *d = pool_alloc(&tool->request, sizeof(*d));
    d->target = target->config;
    d->target_name = take_text(tool, json, "target_name", "t");
    d->attempt = (unsigned)take_int(tool, json, "attempt", 1);
    d->rendered = rendered_new(tool, target, take(tool, json, "rendered", JSON_OBJECT));
    d->message = message_read(tool, json);
    nothing_left(tool, json, "delivery");
    return d;
}

static json_t *deliveries_send(struct tool *tool, json_t *list)
{
    static const char *const verdicts[] = { "retry", "sent", "reject" };
    size_t n = json_array_size(list);
    size_t most = tool->plugin->max_batch ? tool->plugin->max_batch : 1;

    if (n < 1 || n > most)
        wrong(tool, "send: 1 to %zu deliveries", most);
    if (tool->error[0])
        return NULL;
    struct tocsin_delivery **deliveries =
        pool_alloc(&tool->request, n * sizeof(struct tocsin_delivery *));
    for (size_t i = 0; i < n; i++)
        deliveries[i] = delivery_read(tool, json_array_get(list, i));
    if (tool->error[0])
        return NULL;

    tool->plugin->send(tool->self, deliveries, n);

    json_t *results = json_array();
    for (size_t i = 0; i < n; i++) {
        const struct tocsin_delivery *d = deliveries[i];
        json_array_append_new(results,
                              json_pack("{sssososIsI}", "verdict", verdicts[d->verdict], "reason",
                                        text_new(d->reason), "receipt", text_new(d->receipt),
                                        "retry_after_ms", (json_int_t)d->retry_after_ms, "park_ms",
                                        (json_int_t)d->park_ms));
    }
    json_t *published = tool->published;
    tool->published = json_array();
    return json_pack("{sososo}", "results", results, "published", published, "logs",
                     logs_take(tool));
}

static json_t *target_wants(struct tool *tool, json_t *options)
{
    const struct target *target = target_read(tool, options);
    if (!target)
        return NULL;
    unsigned wants = tool->plugin->wants ? tool->plugin->wants(tool->service, target->config) : 0;
    return json_pack("{si}", "wants", (int)wants);
}

static json_t *target_check(struct tool *tool, json_t *options)
{
    const struct target *target = target_read(tool, options);
    const char *why = NULL;
    if (target && tool->plugin->check_target)
        why = tool->plugin->check_target(tool->service, target->config);
    if (why)
        wrong(tool, "%s", why);
    return tool->error[0] ? NULL : json_pack("{sn}", "error");
}

static json_t *request_do(struct tool *tool, json_t *request)
{
    json_t *options;
    const json_t *results = take(tool, request, "publish_results", JSON_ARRAY);
    if (results)
        json_array_extend(tool->publish_results, (json_t *)results);

    options = take(tool, request, "open", JSON_OBJECT);
    if (options)
        return instance_open(tool, options, take(tool, request, "service", JSON_STRING));
    if (take_bool(tool, request, "close"))
        return instance_close(tool);
    if (results && json_object_size(request) == 0)
        return json_pack("{sb}", "ok", 1);
    if (!tool->is_open)
        wrong(tool, "not open");
    if (tool->error[0])
        return NULL;
    if ((options = take(tool, request, "send", JSON_ARRAY)))
        return deliveries_send(tool, options);
    if ((options = take(tool, request, "wants", JSON_OBJECT)))
        return target_wants(tool, options);
    if ((options = take(tool, request, "check_target", JSON_OBJECT)))
        return target_check(tool, options);
    if (take_bool(tool, request, "reopen")) {
        if (tool->plugin->reopen)
            tool->plugin->reopen(tool->self);
        return json_pack("{sbso}", "reopened", 1, "logs", logs_take(tool));
    }
    wrong(tool, "no such request");
    return NULL;
}

static void request_answer(struct tool *tool, const char *line, size_t len, FILE *out)
{
    json_error_t error;
    json_t *request = json_loadb(line, len, JSON_ALLOW_NUL, &error);
    json_t *answer = NULL;

    tool->error[0] = '\0';
    if (json_is_object(request))
        answer = request_do(tool, request);
    else
        wrong(tool, "not a JSON object: %s", request ? "another type" : error.text);
    if (answer && json_object_size(request) > 0)
        nothing_left(tool, request, "request");
    if (tool->error[0] && !json_object_get(answer, "error")) {
        json_decref(answer);
        answer = json_pack("{so}", "error", text_new(tool->error));
    }
    json_dumpf(answer, out, JSON_COMPACT);
    fputc('\n', out);
    fflush(out);
    json_decref(answer);
    json_decref(request);
    pool_clear(&tool->request);
    json_array_clear(tool->request_pins);
}

static const struct tocsin_plugin *plugin_find(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "plugin-host: %s\n", dlerror());
        return NULL;
    }
    const struct tocsin_plugin *plugin = dlsym(library, "tocsin_plugin");
    if (!plugin || plugin->abi != TOCSIN_PLUGIN_ABI || plugin->struct_size != sizeof(*plugin) ||
        plugin->option_size != sizeof(struct tocsin_option)) {
        fprintf(stderr, "plugin-host: %s is not a plugin of this ABI\n", path);
        return NULL;
    }
    return plugin;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: plugin-host PLUGIN.so\n", stderr);
        return 64;
    }
    FILE *out = fdopen(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3), "w");
    if (!out || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return 1;
    signal(SIGPIPE, SIG_IGN); /* as the daemon does */

    struct tool tool = {
        .host = { .struct_size = sizeof(struct tocsin_host),
                  .log = host_log,
                  .fail = host_fail,
                  .publish = host_publish },
        .plugin = plugin_find(argv[1]),
        .pins = json_array(),
        .request_pins = json_array(),
        .publish_results = json_array(),
        .published = json_array(),
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .logs = json_array(),
    };
    if (tool.plugin) {
        char *line = NULL;
        size_t cap = 0;
        ssize_t len;
        while ((len = getline(&line, &cap, stdin)) > 0)
            request_answer(&tool, line, (size_t)len, out);
        free(line);
        json_decref(instance_close(&tool));
    }
    json_decref(tool.pins);
    json_decref(tool.request_pins);
    json_decref(tool.publish_results);
    json_decref(tool.published);
    json_decref(tool.logs);
    fclose(out);
    return tool.plugin ? 0 : 1;
}
