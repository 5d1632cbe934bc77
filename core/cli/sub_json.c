/* SPDX-License-Identifier: MIT */

/* Messages as JSON. Main thread of `tocsin sub`. */

#include "cli/sub_json.h"

#include "router/json.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <stdlib.h>
#include <string.h>

static void add_text(struct buf *out, const char *text)
{
    json_add_string(out, text ? text : "", text ? strlen(text) : 0);
}

/* All user properties, as one object; a name may stand in it more than once. */
static void add_user_properties(const mosquitto_property *list, struct buf *out)
{
    char *name = NULL, *value = NULL;
    const char *comma = "";
    buf_add_str(out, "\"user-properties\":{");
    const mosquitto_property *p =
        mosquitto_property_read_string_pair(list, MQTT_PROP_USER_PROPERTY, &name, &value, false);
    while (p) {
        buf_add_str(out, comma);
        add_text(out, name);
        buf_add_byte(out, ':');
        add_text(out, value);
        free(name);
        free(value);
        comma = ",";
        p = mosquitto_property_read_string_pair(p, MQTT_PROP_USER_PROPERTY, &name, &value, true);
    }
    buf_add_byte(out, '}');
}

static void add_value(const mosquitto_property *p, int id, struct buf *out)
{
    uint8_t byte = 0;
    uint16_t small = 0;
    uint32_t number = 0;
    char *text = NULL;
    void *data = NULL;
    switch (id) {
    case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
        mosquitto_property_read_byte(p, id, &byte, false);
        buf_addf(out, "%d", byte);
        break;
    case MQTT_PROP_TOPIC_ALIAS:
        mosquitto_property_read_int16(p, id, &small, false);
        buf_addf(out, "%d", small);
        break;
    case MQTT_PROP_MESSAGE_EXPIRY_INTERVAL:
        mosquitto_property_read_int32(p, id, &number, false);
        buf_addf(out, "%u", number);
        break;
    case MQTT_PROP_SUBSCRIPTION_IDENTIFIER:
        mosquitto_property_read_varint(p, id, &number, false);
        buf_addf(out, "%u", number);
        break;
    case MQTT_PROP_CORRELATION_DATA:
        mosquitto_property_read_binary(p, id, &data, &small, false);
        json_add_string(out, data ? data : "", small);
        free(data);
        break;
    default:
        mosquitto_property_read_string(p, id, &text, false);
        add_text(out, text);
        free(text);
    }
}

/* In the order of the packet. */
static void add_properties(const mosquitto_property *list, struct buf *out)
{
    bool users = false;
    const char *before = ",\"properties\":{";
    for (const mosquitto_property *p = list; p; p = mosquitto_property_next(p)) {
        int id = mosquitto_property_identifier(p);
        if (id == MQTT_PROP_USER_PROPERTY && users)
            continue;
        buf_add_str(out, before);
        before = ",";
        if (id == MQTT_PROP_USER_PROPERTY) {
            users = true;
            add_user_properties(p, out);
            continue;
        }
        add_text(out, mosquitto_property_identifier_to_string(id));
        buf_add_byte(out, ':');
        add_value(p, id, out);
    }
    if (list)
        buf_add_byte(out, '}');
}

static int add_payload(const struct sub_message *m, bool parsed, struct buf *out)
{
    if (m->len == 0)
        return buf_add_str(out, "null");
    if (!parsed)
        return json_add_string(out, m->payload, m->len);
    const char *why;
    size_t at;
    struct json_doc *doc = json_doc_new();
    int rc = doc ? json_doc_parse(doc, m->payload, m->len, &why, &at) : -ENOMEM;
    if (rc == 0)
        rc = json_add_compact(doc, 0, out);
    json_doc_free(doc);
    return rc == -E2BIG ? -EINVAL : rc;
}

static void add_time(const struct timespec *at, struct buf *out)
{
    char day[40] = "", zone[10] = "";
    struct tm local;
    if (!localtime_r(&at->tv_sec, &local))
        return;
    strftime(day, sizeof(day), "%FT%T", &local);
    strftime(zone, sizeof(zone), "%z", &local);
    buf_addf(out, "%s.%06ld%s", day, at->tv_nsec / 1000, zone);
}

static int add_compact(const struct sub_message *m, bool parsed, struct buf *out)
{
    buf_add_str(out, "{\"tst\":\"");
    add_time(&m->arrived, out);
    buf_add_str(out, "\",\"topic\":");
    add_text(out, m->topic);
    buf_addf(out, ",\"qos\":%d,\"retain\":%d,\"payloadlen\":%zu", m->qos, m->retain, m->len);
    if (m->qos > 0)
        buf_addf(out, ",\"mid\":%d", m->mid);
    add_properties(m->properties, out);
    buf_add_str(out, ",\"payload\":");
    int rc = add_payload(m, parsed, out);
    buf_add_byte(out, '}');
    return rc < 0 ? rc : out->error;
}

/* ---- Over several lines -------------------------------------------------------------------------- */

static void add_line(struct buf *out, size_t depth)
{
    buf_add_byte(out, '\n');
    buf_add_fill(out, ' ', 2 * depth);
}

/* The end of the string that begins at `at`. */
static const char *skip_string(const char *at)
{
    for (at++; *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at + 1;
}

/* Lays out compact JSON that is valid. */
static void add_pretty(const char *at, const char *end, struct buf *out)
{
    for (size_t depth = 0; at < end; at++) {
        const bool empty = (*at == '{' || *at == '[') && (at[1] == '}' || at[1] == ']');
        if (*at == '"') {
            const char *after = skip_string(at);
            buf_add(out, at, (size_t)(after - at));
            at = after - 1;
        } else if (empty) {
            buf_add(out, at++, 2);
        } else if (*at == '{' || *at == '[') {
            buf_add_byte(out, *at);
            add_line(out, ++depth);
        } else if (*at == '}' || *at == ']') {
            add_line(out, --depth);
            buf_add_byte(out, *at);
        } else if (*at == ',') {
            buf_add_byte(out, *at);
            add_line(out, depth);
        } else {
            buf_add_str(out, *at == ':' ? ": " : (char[]){ *at, '\0' });
        }
    }
}

int sub_json_add(const struct sub_message *m, bool parsed, bool pretty, struct buf *out)
{
    if (!pretty)
        return add_compact(m, parsed, out);
    struct buf compact = BUF_INIT(out->max);
    int rc = add_compact(m, parsed, &compact);
    if (rc == 0)
        add_pretty(buf_str(&compact), buf_str(&compact) + compact.len, out);
    buf_release(&compact);
    return rc < 0 ? rc : out->error;
}
