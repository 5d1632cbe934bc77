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
#include "base/utf8.h"
#include "plugin-host/tool.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Small things ---- */

void *pool_alloc(struct pool *pool, size_t size)
{
    struct block *block = calloc(1, sizeof(*block) + size);
    if (!block)
        abort();
    block->next = pool->first;
    pool->first = block;
    return block->data;
}

void pool_clear(struct pool *pool)
{
    while (pool->first) {
        struct block *block = pool->first;
        pool->first = block->next;
        free(block);
    }
}

bool wrong(struct tool *tool, const char *format, ...)
{
    if (tool->error[0])
        return false;
    va_list args;
    va_start(args, format);
    vsnprintf(tool->error, sizeof(tool->error), format, args);
    va_end(args);
    return false;
}

json_t *text_new(const char *text)
{
    struct buf buf = BUF_INIT(1 << 26);
    utf8_add_lossy(&buf, text, strlen(text));
    json_t *json = json_stringn(buf_str(&buf), buf.len);
    buf_release(&buf);
    return json;
}

json_t *hex_new(const uint8_t *data, size_t len)
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

/* ---- Targets ---- */

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
    if (!key || !json_options_read(tool, plugin->target_options, group, target->config,
                                   target->formats, &target->format_count)) {
        wrong(tool, "target: cannot be read");
        free(key);
        return NULL;
    }
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
    size_t format_count;
    if (json_options_read(tool, plugin->service_options, options, tool->service, formats,
                          &format_count) &&
        format_count > 0)
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
    signal(SIGXFSZ,
           SIG_IGN); /* a full file is an error, not an end: workers have all signals blocked */

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
