/* SPDX-License-Identifier: MIT */

#include "cli/status_fetch.h"

#include "admin/settings.h"
#include "base/clock.h"
#include "broker/broker.h"
#include "cli/client.h"
#include "config/options.h"
#include "daemon/setup.h"
#include "link/settings.h"

#include <mqtt_protocol.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_MOST_BYTES (16 * 1024 * 1024)

/* Where it is. */
struct place {
    struct conf *conf;
    struct broker *broker; /* NULL: it is a link's */
    struct options_memory memory;
    struct link_settings link;
    struct client_options options;
    char *node;
    char *topic;
};

static char *copy_of(const char *text)
{
    return text ? strdup(text) : NULL;
}

/* The daemon's own broker. Returns whether a client can reach it. */
static bool find_broker(struct place *p, struct conf_errors *errors)
{
    const char *host;
    int port;
    if (broker_new(p->conf, &p->broker, errors) < 0)
        return false;
    if (!broker_address(p->broker, &host, &port)) {
        conf_error(errors, NULL,
                   "the broker has no listener that this program could use: add one on 127.0.0.1");
        return false;
    }
    p->options.host = host;
    p->options.port = port;
    return true;
}

static bool find_link(struct place *p, struct conf_errors *errors)
{
    const struct conf_node *list = conf_node_get(conf_root(p->conf), "links");
    const struct conf_node *group = list ? conf_node_at(list, 0) : NULL;
    struct link_settings *l = &p->link;
    if (!group || link_settings_read(group, l, &p->memory, errors) > 0)
        return false;
    p->options.host = l->host;
    p->options.port = l->tcp_port;
    p->options.username = copy_of(l->username);
    p->options.password = copy_of(l->password.text);
    if (!l->use_tls)
        return true;
    const struct link_tls *t = &l->tls_options;
    p->options.tls = (struct client_tls){
        .use = true,
        .insecure = t->insecure,
        .os_certs = !t->ca && !t->capath && !t->psk.text,
        .cafile = t->ca,
        .capath = t->capath,
        .cert = t->cert,
        .key = t->key,
        .version = t->version && strcmp(t->version, "1.3") == 0 ? "tlsv1.3" : "tlsv1.2",
        .ciphers = t->ciphers,
        .alpn = t->alpn,
        .psk = copy_of(t->psk.text),
        .psk_identity = t->psk_identity,
    };
    return true;
}

static bool find_place(struct place *p, const char *path, struct conf_errors *errors)
{
    struct admin_settings admin = { 0 };
    p->options = (struct client_options){
        .command = cli_command_named("status"),
        .protocol = MQTT_PROTOCOL_V311,
        .clean = true,
        .keepalive = 60,
        .quiet = true,
    };
    if (conf_load(path, &p->conf, errors) < 0)
        return false;
    p->node = setup_node(p->conf);
    bool found = p->node && admin_settings_read(p->conf, p->node, &admin, errors) == 0;
    if (found && !admin.enabled) {
        conf_error(errors, NULL, "admin.enabled is false, so there is no status");
        found = false;
    }
    struct buf topic = BUF_INIT(65535);
    buf_addf(&topic, "%s/status", admin.topic ? admin.topic : "");
    p->topic = buf_take(&topic);
    admin_settings_release(&admin);
    if (!found || !p->topic)
        return false;
    return setup_has_broker(p->conf) ? find_broker(p, errors) : find_link(p, errors);
}

static void place_release(struct place *p)
{
    client_options_release(&p->options);
    broker_free(p->broker);
    options_memory_release(&p->memory);
    free(p->topic);
    free(p->node);
    conf_unref(p->conf);
}

/* ---- The document ---- */

static void on_message(struct mosquitto *mosq, void *context, const struct mosquitto_message *in)
{
    (void)mosq;
    const struct cli_client *c = context;
    json_t **out = c->owner;
    if (in->payloadlen <= 0 || in->payloadlen > STATUS_MOST_BYTES)
        return;
    json_t *json = json_loadb(in->payload, (size_t)in->payloadlen, 0, NULL);
    /* A link that has just connected only says that it is online. */
    if (json_is_string(json_object_get(json, "health"))) {
        json_decref(*out);
        *out = json;
    } else {
        json_decref(json);
    }
}

static enum status_fetched await_document(struct cli_client *c, const struct place *p, json_t **out,
                                          struct buf *why)
{
    enum client_state state = CLIENT_UP;
    bool unused;
    if (mosquitto_subscribe(c->mosq, NULL, p->topic, 1) != MOSQ_ERR_SUCCESS)
        state = CLIENT_LOST;
    while (state == CLIENT_UP && !*out)
        state = cli_client_wait(c, -1, -1, &unused);
    if (*out)
        return STATUS_FETCHED;
    if (state == CLIENT_LOST)
        buf_addf(why, "the connection was lost: %s", c->why);
    else
        buf_addf(why,
                 "the broker has nothing in the topic %s: does the daemon run, with this "
                 "configuration, and may we read that topic?",
                 p->topic);
    return STATUS_NO_ANSWER;
}

static enum status_fetched ask(const struct place *p, int64_t timeout_ms, json_t **out,
                               struct buf *why)
{
    struct cli_client client;
    enum status_fetched fetched = STATUS_NO_ANSWER;
    if (cli_client_init(&client, &p->options) != 0) {
        buf_addf(why, "cannot make a client: %s", client.why);
    } else {
        client.owner = out;
        mosquitto_message_callback_set(client.mosq, on_message);
        if (cli_client_connect(&client) == 0) {
            client.deadline_ms = clock_mono_ms() + timeout_ms;
            fetched = await_document(&client, p, out, why);
            cli_client_disconnect(&client);
        } else if (p->broker && client.unreachable) {
            buf_addf(why,
                     "the daemon does not run, start it: its broker at %s cannot be reached: %s",
                     p->options.host, client.why);
            fetched = STATUS_NO_DAEMON;
        } else {
            buf_addf(why, "the broker at %s cannot be reached: %s", p->options.host, client.why);
            fetched = STATUS_NO_BROKER;
        }
    }
    cli_client_free(&client);
    return fetched;
}

enum status_fetched status_fetch(const char *config_path, int64_t timeout_ms, json_t **out,
                                 struct buf *why)
{
    struct place place = { 0 };
    struct conf_errors errors = CONF_ERRORS_INIT;
    enum status_fetched fetched = STATUS_NOT_CONFIGURED;
    *out = NULL;
    if (find_place(&place, config_path, &errors))
        fetched = ask(&place, timeout_ms, out, why);
    else if (errors.text.len > 0)
        buf_add(why, buf_str(&errors.text), strcspn(buf_str(&errors.text), "\n"));
    else
        buf_add_str(why, "out of memory, or no link in the configuration");
    conf_errors_release(&errors);
    place_release(&place);
    return fetched;
}
