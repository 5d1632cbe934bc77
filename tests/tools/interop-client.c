/* SPDX-License-Identifier: MIT */

/*
 * interop-client: libmosquitto as a client that tests/system/interop/driver.py speaks with.
 *
 * Requests, answers and events are lines of JSON; driver.py tells which. One thread: the standard input and the
 * sockets of all clients are awaited together.
 */

#include <errno.h>
#include <jansson.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CLIENTS 1000
#define MAX_PENDING 4096
#define NOT_ALL     -1 /* stands for a message id while a request still publishes */

struct client {
    struct mosquitto *mosq;
    char *name;
    int version; /* as drivers count: 3, 4, 5 */
    bool over;
    json_t *connect; /* the request while it is not answered */
    json_t *granted;
    int left; /* subscriptions to be answered */
    int present;
    struct {
        int mid;
        json_int_t n;
    } pending[MAX_PENDING];
    int npending;
};

static struct client *clients[MAX_CLIENTS];
static int nclients;

static void say(json_t *line)
{
    json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(line);
}

static void fail(const char *what, int rc)
{
    fprintf(stderr, "interop-client: %s: %s\n", what, mosquitto_strerror(rc));
    exit(1);
}

static void must(int rc, const char *what)
{
    if (rc != MOSQ_ERR_SUCCESS) {
        fail(what, rc);
    }
}

/* ---- Base64 ----------------------------------------------------------------------------------- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *base64(const unsigned char *data, size_t len)
{
    char *text = malloc((len + 2) / 3 * 4 + 1), *out = text;
    for (size_t i = 0; i < len; i += 3) {
        const unsigned b = i + 1 < len ? data[i + 1] : 0, c = i + 2 < len ? data[i + 2] : 0;
        const unsigned bits = (unsigned)data[i] << 16 | b << 8 | c;
        *out++ = digits[bits >> 18];
        *out++ = digits[bits >> 12 & 63];
        *out++ = i + 1 < len ? digits[bits >> 6 & 63] : '=';
        *out++ = i + 2 < len ? digits[bits & 63] : '=';
    }
    *out = '\0';
    return text;
}

static unsigned char *unbase64(const char *text, size_t *len)
{
    static unsigned char values[256];
    if (!values['B']) {
        for (unsigned i = 0; i < 64; i++) {
            values[(unsigned char)digits[i]] = (unsigned char)i;
        }
    }
    unsigned char *data = malloc(strlen(text) + 1);
    unsigned bits = 0, have = 0;
    *len = 0;
    for (; *text && *text != '='; text++) {
        bits = bits << 6 | values[(unsigned char)*text];
        have += 6;
        if (have >= 8) {
            have -= 8;
            data[(*len)++] = (unsigned char)(bits >> have);
        }
    }
    return data;
}

/* ---- Properties ------------------------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static json_int_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool flag_of(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static void publish_properties(mosquitto_property **to, const json_t *props)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)props, key, value)
    {
        int rc = MOSQ_ERR_NOT_SUPPORTED;
        if (strcmp(key, "user") == 0) {
            size_t i;
            json_t *pair;
            json_array_foreach(value, i, pair)
            {
                rc = mosquitto_property_add_string_pair(to, MQTT_PROP_USER_PROPERTY,
                                                        json_string_value(json_array_get(pair, 0)),
                                                        json_string_value(json_array_get(pair, 1)));
            }
        } else if (strcmp(key, "response_topic") == 0) {
            rc = mosquitto_property_add_string(to, MQTT_PROP_RESPONSE_TOPIC,
                                               json_string_value(value));
        } else if (strcmp(key, "content_type") == 0) {
            rc =
                mosquitto_property_add_string(to, MQTT_PROP_CONTENT_TYPE, json_string_value(value));
        } else if (strcmp(key, "correlation") == 0) {
            rc = mosquitto_property_add_binary(to, MQTT_PROP_CORRELATION_DATA,
                                               json_string_value(value),
                                               (uint16_t)json_string_length(value));
        } else if (strcmp(key, "expiry") == 0) {
            rc = mosquitto_property_add_int32(to, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
                                              (uint32_t)json_integer_value(value));
        } else if (strcmp(key, "format") == 0) {
            rc = mosquitto_property_add_byte(to, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR,
                                             (uint8_t)json_integer_value(value));
        }
        must(rc, key);
    }
}

static void told_text(json_t *props, const char *key, const mosquitto_property *property, int id)
{
    char *text;
    if (mosquitto_property_read_string(property, id, &text, false)) {
        json_object_set_new(props, key, json_string(text));
        free(text);
    }
}

static json_t *told_properties(const mosquitto_property *list)
{
    json_t *props = json_object(), *user = json_array(), *ids = json_array();
    for (const mosquitto_property *p = list; p; p = mosquitto_property_next(p)) {
        char *name, *text;
        void *data;
        uint16_t len;
        uint32_t number;
        uint8_t byte;
        switch (mosquitto_property_identifier(p)) {
        case MQTT_PROP_USER_PROPERTY:
            mosquitto_property_read_string_pair(p, MQTT_PROP_USER_PROPERTY, &name, &text, false);
            json_array_append_new(user, json_pack("[s, s]", name, text));
            free(name);
            free(text);
            break;
        case MQTT_PROP_SUBSCRIPTION_IDENTIFIER:
            mosquitto_property_read_varint(p, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, &number, false);
            json_array_append_new(ids, json_integer(number));
            break;
        case MQTT_PROP_RESPONSE_TOPIC:
            told_text(props, "response_topic", p, MQTT_PROP_RESPONSE_TOPIC);
            break;
        case MQTT_PROP_CONTENT_TYPE:
            told_text(props, "content_type", p, MQTT_PROP_CONTENT_TYPE);
            break;
        case MQTT_PROP_CORRELATION_DATA:
            mosquitto_property_read_binary(p, MQTT_PROP_CORRELATION_DATA, &data, &len, false);
            json_object_set_new(props, "correlation", json_stringn(data, len));
            free(data);
            break;
        case MQTT_PROP_MESSAGE_EXPIRY_INTERVAL:
            mosquitto_property_read_int32(p, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL, &number, false);
            json_object_set_new(props, "expiry", json_integer(number));
            break;
        case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
            mosquitto_property_read_byte(p, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR, &byte, false);
            json_object_set_new(props, "format", json_integer(byte));
            break;
        default:
            break;
        }
    }
    if (json_array_size(user)) {
        json_object_set(props, "user", user);
    }
    if (json_array_size(ids)) {
        json_object_set(props, "ids", ids);
    }
    json_decref(user);
    json_decref(ids);
    return props;
}

/* ---- What the library tells ------------------------------------------------------------------- */

static void connect_answer(struct client *client)
{
    say(json_pack("{s:O, s:b, s:n, s:O}", "n", json_object_get(client->connect, "n"), "present",
                  client->present, "assigned", "granted", client->granted));
    json_decref(client->connect);
    json_decref(client->granted);
    client->connect = client->granted = NULL;
}

static void on_connect(struct mosquitto *mosq, void *context, int rc, int flags,
                       const mosquitto_property *props)
{
    (void)props;
    struct client *client = context;
    if (rc != 0) {
        say(json_pack("{s:O, s:s, s:i}", "n", json_object_get(client->connect, "n"), "error",
                      "refused", "reason", rc));
        client->over = true;
        return;
    }
    client->present = flags & 1;
    const json_t *filters = json_object_get(client->connect, "filters");
    client->granted = json_array();
    client->left = (int)json_array_size(filters);
    size_t i;
    json_t *filter;
    json_array_foreach(filters, i, filter)
    {
        mosquitto_property *list = NULL;
        int options = 0;
        if (client->version == 5) {
            if (number_of(filter, "id")) {
                must(mosquitto_property_add_varint(&list, MQTT_PROP_SUBSCRIPTION_IDENTIFIER,
                                                   (uint32_t)number_of(filter, "id")),
                     "subscription identifier");
            }
            options = (flag_of(filter, "no_local") ? MQTT_SUB_OPT_NO_LOCAL : 0) |
                      (flag_of(filter, "rap") ? MQTT_SUB_OPT_RETAIN_AS_PUBLISHED : 0) |
                      (int)number_of(filter, "rh") << 4;
        }
        must(mosquitto_subscribe_v5(mosq, NULL, text_of(filter, "filter"),
                                    (int)number_of(filter, "qos"), options, list),
             "subscribe");
        mosquitto_property_free_all(&list);
    }
    if (!client->left) {
        connect_answer(client);
    }
}

static void on_subscribe(struct mosquitto *mosq, void *context, int mid, int count,
                         const int *granted)
{
    (void)mosq;
    (void)mid;
    struct client *client = context;
    for (int i = 0; i < count; i++) {
        json_array_append_new(client->granted, json_integer(granted[i]));
    }
    if (--client->left == 0) {
        connect_answer(client);
    }
}

static void on_message(struct mosquitto *mosq, void *context, const struct mosquitto_message *m,
                       const mosquitto_property *props)
{
    (void)mosq;
    const struct client *client = context;
    char *payload = base64(m->payload, (size_t)m->payloadlen);
    say(json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:b, s:o}", "event", "message", "client",
                  client->name, "topic", m->topic, "payload", payload, "qos", m->qos, "retain",
                  m->retain, "dup", 0, "props", told_properties(props)));
    free(payload);
}

static void on_ack(struct mosquitto *mosq, void *context, int mid)
{
    (void)mosq;
    struct client *client = context;
    json_int_t n = -1;
    for (int i = 0; i < client->npending && n < 0; i++) {
        if (client->pending[i].mid == mid) {
            n = client->pending[i].n;
            client->pending[i] = client->pending[--client->npending];
        }
    }
    for (int i = 0; i < client->npending; i++) {
        if (client->pending[i].n == n) {
            return; /* another publication of the same request is not acknowledged yet */
        }
    }
    if (n >= 0) {
        say(json_pack("{s:I}", "n", n));
    }
}

static void on_disconnect(struct mosquitto *mosq, void *context, int rc)
{
    (void)mosq;
    struct client *client = context;
    if (!client->over) {
        client->over = true;
        /* Codes of the protocol are above those of the library that mean a lost connection. */
        say(json_pack("{s:s, s:s, s:i}", "event", "down", "client", client->name, "reason",
                      rc >= 128 ? rc : 0));
    }
}

/* ---- Requests --------------------------------------------------------------------------------- */

static void request_connect(json_t *r)
{
    if (nclients == MAX_CLIENTS) {
        fail("too many clients", MOSQ_ERR_NOMEM);
    }
    struct client *client = calloc(1, sizeof *client);
    clients[nclients++] = client;
    client->name = strdup(text_of(r, "client"));
    client->version = (int)number_of(r, "version");
    client->connect = json_incref(r);
    const bool v5 = client->version == 5, clean = flag_of(r, "clean");
    const char *id = text_of(r, "id");
    client->mosq = mosquitto_new(*id ? id : NULL, *id ? clean : true, client);
    struct mosquitto *mosq = client->mosq;
    const int version = v5                     ? MQTT_PROTOCOL_V5
                        : client->version == 4 ? MQTT_PROTOCOL_V311
                                               : MQTT_PROTOCOL_V31;
    must(mosquitto_int_option(mosq, MOSQ_OPT_PROTOCOL_VERSION, version), "version");
    mosquitto_max_inflight_messages_set(mosq, 0);
    mosquitto_connect_v5_callback_set(mosq, on_connect);
    mosquitto_subscribe_callback_set(mosq, on_subscribe);
    mosquitto_message_v5_callback_set(mosq, on_message);
    mosquitto_publish_callback_set(mosq, on_ack);
    mosquitto_unsubscribe_callback_set(mosq, on_ack);
    mosquitto_disconnect_callback_set(mosq, on_disconnect);

    const json_t *will = json_object_get(r, "will");
    if (json_is_object(will)) {
        size_t len;
        unsigned char *payload = unbase64(text_of(will, "payload"), &len);
        mosquitto_property *list = NULL;
        if (v5) {
            publish_properties(&list, json_object_get(will, "props"));
            must(mosquitto_property_add_int32(&list, MQTT_PROP_WILL_DELAY_INTERVAL,
                                              (uint32_t)number_of(will, "delay")),
                 "will delay");
        }
        must(mosquitto_will_set_v5(mosq, text_of(will, "topic"), (int)len, payload,
                                   (int)number_of(will, "qos"), flag_of(will, "retain"), list),
             "will");
        free(payload);
    }
    mosquitto_property *list = NULL;
    if (v5) {
        must(mosquitto_property_add_int32(&list, MQTT_PROP_SESSION_EXPIRY_INTERVAL,
                                          (uint32_t)number_of(r, "expiry")),
             "session expiry");
    }
    must(mosquitto_connect_bind_v5(mosq, "127.0.0.1", (int)number_of(r, "port"), 60, NULL, list),
         "connect");
    mosquitto_property_free_all(&list);
}

static void request_publish(struct client *client, const json_t *r)
{
    const json_int_t n = number_of(r, "n"), alias = number_of(r, "alias");
    size_t len;
    unsigned char *payload = unbase64(text_of(r, "payload"), &len);
    client->pending[client->npending].mid = NOT_ALL;
    client->pending[client->npending++].n = n;
    for (json_int_t i = 0; i < number_of(r, "repeat"); i++) {
        mosquitto_property *list = NULL;
        if (client->version == 5) {
            publish_properties(&list, json_object_get(r, "props"));
            if (alias) {
                must(mosquitto_property_add_int16(&list, MQTT_PROP_TOPIC_ALIAS, (uint16_t)alias),
                     "alias");
            }
        }
        if (client->npending == MAX_PENDING) {
            fail("too many publications", MOSQ_ERR_NOMEM);
        }
        /* The library may acknowledge QoS 0 within the call, but tells the id first. */
        client->pending[client->npending].n = n;
        must(mosquitto_publish_v5(client->mosq, &client->pending[client->npending++].mid,
                                  alias && i ? NULL : text_of(r, "topic"), (int)len, payload,
                                  (int)number_of(r, "qos"), flag_of(r, "retain"), list),
             "publish");
        mosquitto_property_free_all(&list);
    }
    free(payload);
    on_ack(client->mosq, client, NOT_ALL);
}

static void request_other(struct client *client, const char *verb, const json_t *r)
{
    const json_int_t n = number_of(r, "n");
    if (strcmp(verb, "publish") == 0) {
        request_publish(client, r);
    } else if (strcmp(verb, "unsubscribe") == 0) {
        int mid = 0;
        must(mosquitto_unsubscribe(client->mosq, &mid, text_of(r, "filter")), verb);
        client->pending[client->npending].mid = mid;
        client->pending[client->npending++].n = n;
    } else if (strcmp(verb, "disconnect") == 0) {
        client->over = true;
        mosquitto_disconnect(client->mosq);
        say(json_pack("{s:I}", "n", n));
    } else if (strcmp(verb, "drop") == 0) {
        client->over = true;
        if (mosquitto_socket(client->mosq) >= 0) {
            close(mosquitto_socket(client->mosq));
        }
        say(json_pack("{s:I}", "n", n));
    } else {
        fail(verb, MOSQ_ERR_INVAL);
    }
}

static void request(const char *line)
{
    json_error_t error;
    json_t *r = json_loads(line, 0, &error);
    const char *verb = text_of(r, "verb"), *name = text_of(r, "client");
    if (!verb || !name) {
        fail("not a request", MOSQ_ERR_INVAL);
    }
    if (strcmp(verb, "connect") == 0) {
        request_connect(r);
    } else {
        for (int i = 0; i < nclients; i++) {
            if (strcmp(clients[i]->name, name) == 0) {
                request_other(clients[i], verb, r);
                break;
            }
        }
    }
    json_decref(r);
}

static char *input;
static size_t input_len, input_room;

/* Returns false at the end of the standard input. */
static bool input_read(void)
{
    if (input_room - input_len < 65536) {
        input_room = 2 * input_room + 131072;
        input = realloc(input, input_room);
    }
    const ssize_t n = read(STDIN_FILENO, input + input_len, 65536);
    if (n <= 0) {
        return false;
    }
    size_t seen = input_len, start = 0;
    input_len += (size_t)n;
    for (; seen < input_len; seen++) {
        if (input[seen] == '\n') {
            input[seen] = '\0';
            request(input + start);
            start = seen + 1;
        }
    }
    memmove(input, input + start, input_len - start);
    input_len -= start;
    return true;
}

int main(void)
{
    mosquitto_lib_init();
    for (;;) {
        static struct pollfd fds[MAX_CLIENTS + 1];
        static struct client *owners[MAX_CLIENTS + 1];
        fds[0] = (struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN };
        nfds_t n = 1;
        for (int i = 0; i < nclients; i++) {
            struct client *const client = clients[i];
            const int fd = mosquitto_socket(client->mosq);
            if (client->over || fd < 0) {
                continue;
            }
            const short events = mosquitto_want_write(client->mosq) ? POLLIN | POLLOUT : POLLIN;
            fds[n] = (struct pollfd){ .fd = fd, .events = events };
            owners[n++] = client;
        }
        if (poll(fds, n, 1000) < 0 && errno != EINTR) {
            return 1;
        }
        for (nfds_t i = 1; i < n; i++) {
            struct mosquitto *const mosq = owners[i]->mosq;
            if (fds[i].revents & (POLLIN | POLLERR | POLLHUP)) {
                mosquitto_loop_read(mosq, 1);
            }
            if (fds[i].revents & POLLOUT) {
                mosquitto_loop_write(mosq, 1);
            }
            mosquitto_loop_misc(mosq);
        }
        if (fds[0].revents && !input_read()) {
            return 0;
        }
    }
}
