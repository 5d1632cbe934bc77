/* SPDX-License-Identifier: MIT */

#include "link/properties.h"

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
    if (!grow((void **)&in->id_list, in->id_count, &in->id_room, sizeof(*in->id_list)))
        return -ENOMEM;
    uint32_t id = 0;
    mosquitto_property_read_varint(p, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, &id, false);
    in->id_list[in->id_count++] = id;
    return 0;
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

int properties_read(struct properties_in *in, const mosquitto_property *list, int64_t received_ms)
{
    forget(in);
    in->properties = (struct tocsin_properties){ .payload_utf8 = -1 };
    in->hops = 0;
    in->id_count = 0;
    int rc = 0;
    for (const mosquitto_property *p = list; p && rc == 0; p = mosquitto_property_next(p))
        rc = read_one(in, p, received_ms);
    in->properties.user = in->user;
    in->ids = in->id_list;
    const struct tocsin_properties *got = &in->properties;
    in->any = got->content_type || got->response_topic || got->correlation || got->user_count > 0 ||
              got->expires_ms != 0 || got->payload_utf8 >= 0;
    return rc;
}

/* ---- The other way ------------------------------------------------------------------------------- */

static int add_all(const struct tocsin_publication *pub, int64_t now_ms, mosquitto_property **list)
{
    const struct tocsin_properties *p = pub->properties;
    int rc = MOSQ_ERR_SUCCESS;
    if (p && p->payload_utf8 >= 0)
        rc = mosquitto_property_add_byte(list, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR,
                                         p->payload_utf8 > 0);
    if (rc == MOSQ_ERR_SUCCESS && p && p->expires_ms > 0) {
        int64_t left = (p->expires_ms - now_ms + 999) / 1000;
        rc = mosquitto_property_add_int32(list, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
                                          left > UINT32_MAX ? UINT32_MAX : (uint32_t)left);
    }
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

int properties_make(const struct tocsin_publication *pub, int64_t now_ms, mosquitto_property **out)
{
    *out = NULL;
    if (pub->properties && pub->properties->expires_ms > 0 && pub->properties->expires_ms <= now_ms)
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
