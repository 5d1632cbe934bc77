/* SPDX-License-Identifier: MIT */

/* -D PACKET NAME VALUE of the clients. Main thread. */

#include "cli/client.h"

#include <mqtt_protocol.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int command; /* as libmosquitto has it */
} packets[CLIENT_PACKETS] = {
    [CLIENT_CONNECT] = { "connect", CMD_CONNECT },
    [CLIENT_PUBLISH] = { "publish", CMD_PUBLISH },
    [CLIENT_SUBSCRIBE] = { "subscribe", CMD_SUBSCRIBE },
    [CLIENT_UNSUBSCRIBE] = { "unsubscribe", CMD_UNSUBSCRIBE },
    [CLIENT_DISCONNECT] = { "disconnect", CMD_DISCONNECT },
    [CLIENT_WILL] = { "will", CMD_WILL },
};

size_t client_option_words(const struct cli_given *given, char *const *following)
{
    if (given->option->letter != 'D')
        return 0;
    const size_t wanted = following[0] && strcmp(following[0], "user-property") == 0 ? 3 : 2;
    size_t n = 0;
    while (n < wanted && following[n])
        n++;
    return n;
}

static int packet_named(const char *name)
{
    int i = 0;
    while (i < CLIENT_PACKETS && strcasecmp(packets[i].name, name) != 0)
        i++;
    return i;
}

static int add_number(mosquitto_property **list, int id, int type, unsigned long number)
{
    switch (type) {
    case MQTT_PROP_TYPE_BYTE:
        return mosquitto_property_add_byte(list, id, (uint8_t)number);
    case MQTT_PROP_TYPE_INT16:
        return mosquitto_property_add_int16(list, id, (uint16_t)number);
    case MQTT_PROP_TYPE_INT32:
        return mosquitto_property_add_int32(list, id, (uint32_t)number);
    default:
        return mosquitto_property_add_varint(list, id, (uint32_t)number);
    }
}

static int add_texts(mosquitto_property **list, int id, int type, char *const *values)
{
    size_t len = strlen(values[0]);
    if (type == MQTT_PROP_TYPE_STRING)
        return mosquitto_property_add_string(list, id, values[0]);
    if (type == MQTT_PROP_TYPE_STRING_PAIR)
        return mosquitto_property_add_string_pair(list, id, values[0], values[1]);
    if (len > UINT16_MAX)
        return MOSQ_ERR_INVAL;
    return mosquitto_property_add_binary(list, id, values[0], (uint16_t)len);
}

/* The largest number of a type; 0 if it is not one of numbers. */
static unsigned long largest(int type)
{
    switch (type) {
    case MQTT_PROP_TYPE_BYTE:
        return UINT8_MAX;
    case MQTT_PROP_TYPE_INT16:
        return UINT16_MAX;
    case MQTT_PROP_TYPE_INT32:
        return UINT32_MAX;
    case MQTT_PROP_TYPE_VARINT:
        return CLIENT_MAX_PAYLOAD;
    default:
        return 0;
    }
}

int client_property_add(struct client_options *o, const struct cli_given *given)
{
    const int packet = packet_named(given->value);
    int id = 0, type = 0;
    if (packet == CLIENT_PACKETS)
        return cli_misused(o->command,
                           "-D: there is no packet \"%s\": write connect, publish, subscribe, "
                           "unsubscribe, disconnect or will",
                           given->value);
    if (given->word_count < 2)
        return cli_misused(o->command, "-D wants a packet, the name of a property, and its value");
    const char *name = given->words[0], *value = given->words[1];
    if (mosquitto_string_to_property_info(name, &id, &type) != MOSQ_ERR_SUCCESS)
        return cli_misused(o->command,
                           "-D: there is no property \"%s\": they are named as in the standard, in "
                           "lower case and with hyphens, such as content-type",
                           name);
    if (mosquitto_property_check_command(packets[packet].command, id) != MOSQ_ERR_SUCCESS)
        return cli_misused(o->command, "-D: %s cannot have the property %s", packets[packet].name,
                           name);
    if (type == MQTT_PROP_TYPE_STRING_PAIR && given->word_count < 3)
        return cli_misused(o->command, "-D %s %s wants a name and a value", packets[packet].name,
                           name);
    mosquitto_property **list = &o->properties[packet];
    const unsigned long most = largest(type);
    if (most == 0) {
        if (add_texts(list, id, type, given->words + 1) != MOSQ_ERR_SUCCESS)
            return cli_misused(o->command,
                               "-D %s %s: the value is not UTF-8, or longer than 65535 bytes",
                               packets[packet].name, name);
        return 0;
    }
    char *end;
    const unsigned long number = strtoul(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || number > most)
        return cli_misused(o->command, "-D %s %s: \"%s\" is not a number from 0 to %lu",
                           packets[packet].name, name, value, most);
    return add_number(list, id, type, number) == MOSQ_ERR_SUCCESS ? 0 : CLI_FAILED;
}

int client_properties_check(const struct client_options *o)
{
    for (int i = 0; i < CLIENT_PACKETS; i++) {
        const int rc = mosquitto_property_check_all(packets[i].command, o->properties[i]);
        if (rc == MOSQ_ERR_DUPLICATE_PROPERTY)
            return cli_misused(o->command, "%s is given the same property twice", packets[i].name);
        if (rc != MOSQ_ERR_SUCCESS)
            return cli_misused(o->command, "a property of %s has a value that it cannot have",
                               packets[i].name);
    }
    return 0;
}
