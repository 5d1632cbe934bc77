/* SPDX-License-Identifier: MIT */

#include "link/properties.h"

#include "base/utf8.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <inttypes.h>
#include <mqtt_protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HOPS 255

static void forget(struct properties_in *in)
{
    for (size_t i = 0; i < in->text_count; i++)
        free(in->texts[i]);
    in->text_count = 0;
    free(in->correlation);
    in->correlation = NULL;
}

void properties_release(struct properties_in *in)
{
    forget(in);
    free(in->texts);
    free(in->block);
    free(in->user);
    free(in->id_list);
    *in = (struct properties_in){ 0 };
}

/* Makes room for one more element of `size` bytes. */
static bool grow(void **array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return true;
    size_t more = *room ? *room * 2 : 8;
    void *larger = realloc(*array, more * size);
    if (!larger)
        return false;
    *array = larger;
    *room = more;
    return true;
}

/* Keeps what the library has allocated until the next message. */
static bool keep(struct properties_in *in, char *text)
{
    if (!grow((void **)&in->texts, in->text_count, &in->text_room, sizeof(*in->texts))) {
        free(text);
        return false;
    }
    in->texts[in->text_count++] = text;
    return true;
}

static uint8_t hops_of(const char *value)
{
    size_t digits = strspn(value, "0123456789");
    if (digits == 0 || value[digits] != '\0')
        return 0;
    unsigned hops = 0;
    for (; *value && hops < MAX_HOPS; value++)
        hops = hops * 10 + (unsigned)(*value - '0');
    return (uint8_t)(hops < MAX_HOPS ? hops : MAX_HOPS);
}

static int take_user(struct properties_in *in, const char *name, const char *value)
{
    if (strcmp(name, HOPS_PROPERTY) == 0) {
        in->hops = hops_of(value);
        return 0;
    }
    size_t count = in->properties.user_count;
    if (!grow((void **)&in->user, count, &in->user_room, sizeof(*in->user)))
        return -ENOMEM;
    in->user[count] = (struct tocsin_property){ name, value };
    in->properties.user_count = count + 1;
    return 0;
}

static int take_id(struct properties_in *in, uint32_t id)
{
    if (!grow((void **)&in->id_list, in->id_count, &in->id_room, sizeof(*in->id_list)))
        return -ENOMEM;
    in->id_list[in->id_count++] = id;
    return 0;
}

static int read_user(struct properties_in *in, const mosquitto_property *p)
{
    char *name = NULL, *value = NULL;
    if (!mosquitto_property_read_string_pair(p, MQTT_PROP_USER_PROPERTY, &name, &value, false))
        return -ENOMEM;
    if (!keep(in, name)) {
        free(value);
        return -ENOMEM;
    }
    if (!keep(in, value))
        return -ENOMEM;
    return take_user(in, name, value);
}

static int read_text(struct properties_in *in, const mosquitto_property *p, int id,
                     const char **out)
{
    char *text = NULL;
    if (!mosquitto_property_read_string(p, id, &text, false) || !keep(in, text))
        return -ENOMEM;
    *out = text;
    return 0;
}

static int read_correlation(struct properties_in *in, const mosquitto_property *p)
{
    void *data = NULL;
    uint16_t len = 0;
    if (!mosquitto_property_read_binary(p, MQTT_PROP_CORRELATION_DATA, &data, &len, false))
        return -ENOMEM;
    /* The library gives no memory for none; but no data is not the same as no property. */
    in->correlation = data ? data : malloc(1);
    if (!in->correlation)
        return -ENOMEM;
    in->properties.correlation = in->correlation;
    in->properties.correlation_len = len;
    return 0;
}

static int read_id(struct properties_in *in, const mosquitto_property *p)
{
    uint32_t id = 0;
    mosquitto_property_read_varint(p, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, &id, false);
    return take_id(in, id);
}

static int read_one(struct properties_in *in, const mosquitto_property *p, int64_t received_ms)
{
    struct tocsin_properties *out = &in->properties;
    uint8_t byte = 0;
    uint32_t seconds = 0;
    switch (mosquitto_property_identifier(p)) {
    case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
        mosquitto_property_read_byte(p, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR, &byte, false);
        out->payload_utf8 = byte == 1;
        return 0;
    case MQTT_PROP_MESSAGE_EXPIRY_INTERVAL:
        mosquitto_property_read_int32(p, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL, &seconds, false);
        out->expires_ms = received_ms + (int64_t)seconds * 1000;
        return 0;
    case MQTT_PROP_CONTENT_TYPE:
        return read_text(in, p, MQTT_PROP_CONTENT_TYPE, &out->content_type);
    case MQTT_PROP_RESPONSE_TOPIC:
        return read_text(in, p, MQTT_PROP_RESPONSE_TOPIC, &out->response_topic);
    case MQTT_PROP_CORRELATION_DATA:
        return read_correlation(in, p);
    case MQTT_PROP_USER_PROPERTY:
        return read_user(in, p);
    case MQTT_PROP_SUBSCRIPTION_IDENTIFIER:
        return read_id(in, p);
    default:
        return 0;
    }
}

static void begin(struct properties_in *in)
{
    forget(in);
    in->properties = (struct tocsin_properties){ .payload_utf8 = -1 };
    in->hops = 0;
    in->id_count = 0;
}

static void finish(struct properties_in *in)
{
    in->properties.user = in->user;
    in->ids = in->id_list;
    const struct tocsin_properties *got = &in->properties;
    in->any = got->content_type || got->response_topic || got->correlation || got->user_count > 0 ||
              got->expires_ms != 0 || got->payload_utf8 >= 0;
}

int properties_read(struct properties_in *in, const mosquitto_property *list, int64_t received_ms)
{
    begin(in);
    int rc = 0;
    for (const mosquitto_property *p = list; p && rc == 0; p = mosquitto_property_next(p))
        rc = read_one(in, p, received_ms);
    finish(in);
    return rc;
}

/* ---- Those of the packet codec ------------------------------------------------------------------- */

/* Copies a text to `*block`, and terminates it. */
static const char *copy_text(char **block, const void *data, size_t len)
{
    char *text = *block;
    memcpy(text, data, len);
    text[len] = '\0';
    *block += len + 1;
    return text;
}

static int read_item(struct properties_in *in, const struct mqtt_property_item *item,
                     int64_t received_ms, char **block)
{
    struct tocsin_properties *out = &in->properties;
    const char *name;
    switch (item->id) {
    case MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR:
        out->payload_utf8 = item->number == 1;
        return 0;
    case MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL:
        out->expires_ms = received_ms + (int64_t)item->number * 1000;
        return 0;
    case MQTT_PROPERTY_CONTENT_TYPE:
        out->content_type = copy_text(block, item->value.data, item->value.len);
        return 0;
    case MQTT_PROPERTY_RESPONSE_TOPIC:
        out->response_topic = copy_text(block, item->value.data, item->value.len);
        return 0;
    case MQTT_PROPERTY_CORRELATION_DATA:
        out->correlation = (const uint8_t *)copy_text(block, item->value.data, item->value.len);
        out->correlation_len = item->value.len;
        return 0;
    case MQTT_PROPERTY_USER_PROPERTY:
        name = copy_text(block, item->name.data, item->name.len);
        return take_user(in, name, copy_text(block, item->value.data, item->value.len));
    case MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER:
        return take_id(in, item->number);
    default:
        return 0;
    }
}

int properties_read_packet(struct properties_in *in, const struct mqtt_properties *properties,
                           int64_t received_ms)
{
    begin(in);
    /* Each text has a length of two bytes there, and a terminator here. */
    const size_t len = properties->raw.len;
    if (len > in->block_room) {
        char *larger = realloc(in->block, len);
        if (!larger) {
            finish(in);
            return -ENOMEM;
        }
        in->block = larger;
        in->block_room = len;
    }
    int rc = 0;
    char *block = in->block;
    struct mqtt_property_item item;
    for (size_t at = 0; rc == 0 && mqtt_properties_next(properties, &at, &item);)
        rc = read_item(in, &item, received_ms, &block);
    finish(in);
    return rc;
}

/* ---- The other way ------------------------------------------------------------------------------- */

static uint32_t seconds_left(const struct tocsin_properties *p, int64_t now_ms)
{
    int64_t left = (p->expires_ms - now_ms + 999) / 1000;
    return left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
}

static int add_all(const struct tocsin_publication *pub, int64_t now_ms, mosquitto_property **list)
{
    const struct tocsin_properties *p = pub->properties;
    int rc = MOSQ_ERR_SUCCESS;
    if (p && p->payload_utf8 >= 0)
        rc = mosquitto_property_add_byte(list, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR,
                                         p->payload_utf8 > 0);
    if (rc == MOSQ_ERR_SUCCESS && p && p->expires_ms > 0)
        rc = mosquitto_property_add_int32(list, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
                                          seconds_left(p, now_ms));
    if (rc == MOSQ_ERR_SUCCESS && p && p->content_type)
        rc = mosquitto_property_add_string(list, MQTT_PROP_CONTENT_TYPE, p->content_type);
    if (rc == MOSQ_ERR_SUCCESS && p && p->response_topic)
        rc = mosquitto_property_add_string(list, MQTT_PROP_RESPONSE_TOPIC, p->response_topic);
    if (rc == MOSQ_ERR_SUCCESS && p && p->correlation)
        rc = p->correlation_len > UINT16_MAX
                 ? MOSQ_ERR_INVAL
                 : mosquitto_property_add_binary(list, MQTT_PROP_CORRELATION_DATA, p->correlation,
                                                 (uint16_t)p->correlation_len);
    for (size_t i = 0; rc == MOSQ_ERR_SUCCESS && p && i < p->user_count; i++)
        /* A count of somebody else would be a second one. */
        if (strcmp(p->user[i].name, HOPS_PROPERTY) != 0)
            rc = mosquitto_property_add_string_pair(list, MQTT_PROP_USER_PROPERTY, p->user[i].name,
                                                    p->user[i].value);
    if (rc == MOSQ_ERR_SUCCESS && pub->hops > 0) {
        char hops[4];
        snprintf(hops, sizeof(hops), "%" PRIu8, pub->hops);
        rc = mosquitto_property_add_string_pair(list, MQTT_PROP_USER_PROPERTY, HOPS_PROPERTY, hops);
    }
    return rc;
}

static bool is_expired(const struct tocsin_publication *pub, int64_t now_ms)
{
    const struct tocsin_properties *p = pub->properties;
    return p && p->expires_ms > 0 && p->expires_ms <= now_ms;
}

int properties_make(const struct tocsin_publication *pub, int64_t now_ms, mosquitto_property **out)
{
    *out = NULL;
    if (is_expired(pub, now_ms))
        return -ESTALE;
    int rc = add_all(pub, now_ms, out);
    if (rc == MOSQ_ERR_SUCCESS)
        return 0;
    mosquitto_property_free_all(out);
    return rc == MOSQ_ERR_NOMEM ? -ENOMEM : -EINVAL;
}

static size_t varint_length(size_t value)
{
    return value < 128 ? 1 : value < 16384 ? 2 : value < 2097152 ? 3 : 4;
}

static size_t properties_length(const struct tocsin_publication *pub)
{
    size_t len = 0;
    if (pub->hops > 0)
        len += 5 + strlen(HOPS_PROPERTY) + (pub->hops < 10 ? 1 : pub->hops < 100 ? 2 : 3);
    const struct tocsin_properties *p = pub->properties;
    if (!p)
        return len;
    if (p->payload_utf8 >= 0)
        len += 2;
    if (p->expires_ms > 0)
        len += 5;
    if (p->content_type)
        len += 3 + strlen(p->content_type);
    if (p->response_topic)
        len += 3 + strlen(p->response_topic);
    if (p->correlation)
        len += 3 + p->correlation_len;
    for (size_t i = 0; i < p->user_count; i++)
        if (strcmp(p->user[i].name, HOPS_PROPERTY) != 0)
            len += 5 + strlen(p->user[i].name) + strlen(p->user[i].value);
    return len;
}

size_t properties_packet_length(const struct tocsin_publication *pub)
{
    size_t properties = properties_length(pub);
    size_t remaining = 2 + strlen(pub->topic) + (pub->qos > 0 ? 2 : 0) + varint_length(properties) +
                       properties + pub->payload_len;
    return 1 + varint_length(remaining) + remaining;
}

static struct mqtt_string string_of(const char *text)
{
    return (struct mqtt_string){ text, strlen(text) };
}

static bool is_text(const char *text)
{
    return !text || utf8_valid(text, strlen(text));
}

/* What libmosquitto would refuse too. */
static bool can_be_sent(const struct tocsin_properties *p)
{
    if (!is_text(p->content_type))
        return false;
    if (p->response_topic && topic_name_fault(p->response_topic, strlen(p->response_topic)))
        return false;
    for (size_t i = 0; i < p->user_count; i++)
        if (!is_text(p->user[i].name) || !is_text(p->user[i].value))
            return false;
    return true;
}

static void write_all(const struct tocsin_publication *pub, int64_t now_ms,
                      struct mqtt_property_writer *w)
{
    static const struct tocsin_properties none = { .payload_utf8 = -1 };
    const struct tocsin_properties *p = pub->properties ? pub->properties : &none;
    if (p->payload_utf8 >= 0)
        mqtt_property_add_number(w, MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR, p->payload_utf8 > 0);
    if (p->expires_ms > 0)
        mqtt_property_add_number(w, MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL, seconds_left(p, now_ms));
    if (p->content_type)
        mqtt_property_add_string(w, MQTT_PROPERTY_CONTENT_TYPE, string_of(p->content_type));
    if (p->response_topic)
        mqtt_property_add_string(w, MQTT_PROPERTY_RESPONSE_TOPIC, string_of(p->response_topic));
    if (p->correlation)
        mqtt_property_add_binary(w, MQTT_PROPERTY_CORRELATION_DATA,
                                 (struct mqtt_slice){ p->correlation, p->correlation_len });
    for (size_t i = 0; i < p->user_count; i++)
        if (strcmp(p->user[i].name, HOPS_PROPERTY) != 0)
            mqtt_property_add_user(w, string_of(p->user[i].name), string_of(p->user[i].value));
    if (pub->hops > 0) {
        char hops[4];
        snprintf(hops, sizeof(hops), "%" PRIu8, pub->hops);
        mqtt_property_add_user(w, string_of(HOPS_PROPERTY), string_of(hops));
    }
}

int properties_write(const struct tocsin_publication *pub, int64_t now_ms, struct buf *out)
{
    if (is_expired(pub, now_ms))
        return -ESTALE;
    const size_t len = properties_length(pub);
    if (len > MQTT_VARINT_MAX || (pub->properties && !can_be_sent(pub->properties)))
        return -EINVAL;
    uint8_t *room = (uint8_t *)buf_reserve(out, len);
    if (!room)
        return out->error;
    struct mqtt_property_writer w = { .data = room, .room = len };
    write_all(pub, now_ms, &w);
    if (w.failed) /* a text of more than 65535 bytes */
        return -EINVAL;
    buf_commit(out, w.len);
    return 0;
}
