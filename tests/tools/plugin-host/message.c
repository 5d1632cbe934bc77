/* SPDX-License-Identifier: MIT */

/* plugin-host: messages from JSON. */

#include "tool.h"

#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

json_t *take(struct tool *tool, json_t *object, const char *key, int type)
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

const char *take_text(struct tool *tool, json_t *object, const char *key, const char *def)
{
    const json_t *value = take(tool, object, key, JSON_STRING);
    return value ? json_string_value(value) : def;
}

int64_t take_int(struct tool *tool, json_t *object, const char *key, int64_t def)
{
    const json_t *value = take(tool, object, key, JSON_INTEGER);
    return value ? json_integer_value(value) : def;
}

bool take_bool(struct tool *tool, json_t *object, const char *key)
{
    const json_t *value = take(tool, object, key, -1);
    return json_is_true(value);
}

bool nothing_left(struct tool *tool, json_t *object, const char *where)
{
    const char *key = json_object_iter_key(json_object_iter(object));
    return key ? wrong(tool, "%s: unknown member \"%s\"", where, key) : true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Bytes from hex, in a block of exactly their size, so that reading past the end is noticed. */
static const uint8_t *hex_bytes(struct tool *tool, const char *hex, size_t *len)
{
    *len = strlen(hex) / 2;
    uint8_t *bytes = pool_alloc(&tool->request, *len);
    for (size_t i = 0; i < *len; i++) {
        /* Digit by digit: sscanf() would measure all of the rest each time. */
        const int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            wrong(tool, "bad hex digits");
        else
            bytes[i] = (uint8_t)(high << 4 | low);
    }
    if (strlen(hex) % 2)
        wrong(tool, "an odd number of hex digits");
    return bytes;
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

const struct tocsin_message *message_read(struct tool *tool, json_t *json)
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
