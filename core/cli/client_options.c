/* SPDX-License-Identifier: MIT */

/* The options that the clients have in common. Main thread. */

#include "cli/client.h"

#include "config/replace.h"
#include "mqtt/topic.h"

#include <mqtt_protocol.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PORT     1883
#define TLS_PORT 8883
#define FOR_EVER UINT32_MAX

/* What is being read. */
struct reading {
    const struct cli_command *command;
    const struct cli_args *args;
    struct client_options *o;
};

static const char *value(const struct reading *r, const char *name)
{
    return cli_value(r->command, r->args, name);
}

static bool flag(const struct reading *r, const char *name)
{
    return value(r, name) != NULL;
}

void client_say(const struct client_options *o, const char *format, ...)
{
    if (o->quiet)
        return;
    va_list args;
    fprintf(stderr, "tocsin %s: ", o->command->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

int client_number(const struct cli_command *command, const struct cli_args *args, const char *name,
                  long least, long most, long *number)
{
    const char *text = cli_value(command, args, name);
    if (!text)
        return 0;
    char *end;
    *number = strtol(text, &end, 10);
    if (*end || end == text || *number < least || *number > most)
        return cli_misused(command, "--%s is a number from %ld to %ld, and not \"%s\"", name, least,
                           most, text);
    return 0;
}

int client_seconds(const struct cli_command *command, const struct cli_args *args, const char *name,
                   int64_t *ms)
{
    const char *text = cli_value(command, args, name);
    if (!text)
        return 0;
    char *end;
    const double seconds = strtod(text, &end);
    if (*end || end == text || !(seconds >= 0) || seconds > 1e6)
        return cli_misused(command, "--%s is a number of seconds, and not \"%s\"", name, text);
    *ms = (int64_t)(seconds * 1000);
    return 0;
}

/* ---- Secrets ------------------------------------------------------------------------------------- */

/* Takes a secret out of the words of the call, which everybody can see in the list of processes. */
static void wipe(char *word)
{
    const size_t len = strlen(word);
    if (len > 0) {
        explicit_bzero(word, len);
        word[0] = 'x';
    }
}

static void free_secret(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

/* Reads `text`, which may stand for the environment or a file, into memory of its own. */
static int read_secret(const struct cli_command *command, const char *option, const char *text,
                       char **secret)
{
    struct buf out = BUF_INIT(65535), why = BUF_INIT(4096);
    bool replaced = false;
    int rc = replace(text, "", &out, &replaced, &why);
    buf_add(&out, "", 0);
    free_secret(*secret);
    *secret = rc == 0 ? strdup(buf_str(&out)) : NULL;
    if (out.data)
        explicit_bzero(out.data, out.len);
    buf_release(&out);
    if (!*secret)
        rc = cli_misused(command, "--%s: %s", option,
                         why.len > 0 ? buf_str(&why) : "it does not fit into memory");
    buf_release(&why);
    return rc;
}

/* Only when nobody looks at the words any more. */
static void wipe_secrets(const struct cli_args *args)
{
    static const char *const secret[] = { "pw", "psk", "url", "proxy" };
    for (size_t i = 0; i < args->given_count; i++)
        for (size_t j = 0; j < sizeof(secret) / sizeof(secret[0]); j++)
            if (strcmp(args->given[i].option->name, secret[j]) == 0)
                wipe(args->given[i].value);
}

/* ---- Groups of options --------------------------------------------------------------------------- */

static int read_url(const struct reading *r, const char *name, struct client_url *url)
{
    const char *text = value(r, name);
    const char *fault = text ? client_url_read(text, url) : NULL;
    return fault ? cli_misused(r->command, "--%s: the URL %s", name, fault) : 0;
}

static int read_proxy(const struct reading *r)
{
    struct client_url *proxy = &r->o->proxy;
    int rc = read_url(r, "proxy", proxy);
    if (rc == 0 && proxy->scheme && strcmp(proxy->scheme, "socks5h") != 0)
        rc = cli_misused(r->command, "--proxy: the URL begins with socks5h://");
    if (rc == 0 && proxy->scheme && proxy->port == 0)
        proxy->port = 1080;
    return rc;
}

/* Where to connect to. */
static int read_address(const struct reading *r)
{
    struct client_options *o = r->o;
    const char *host = value(r, "host"), *path = value(r, "unix");
    long port = 0;
    int rc = read_url(r, "url", &o->url);
    if (rc == 0)
        rc = client_number(r->command, r->args, "port", 1, 65535, &port);
    if (rc != 0)
        return rc;
    const char *scheme = o->url.scheme;
    if (scheme && strcmp(scheme, "mqtt") != 0 && strcmp(scheme, "mqtts") != 0)
        return cli_misused(r->command, "--url: the URL begins with mqtt:// or mqtts://");
    if (!!host + !!path + !!scheme > 1)
        return cli_misused(r->command, "--host, --unix and --url: one of them is enough");
    if (scheme && strcmp(scheme, "mqtts") == 0)
        o->tls.use = true;
    if (scheme && *o->url.path)
        o->topic = o->url.path;
    o->host = scheme ? o->url.host : path ? path : host ? host : "127.0.0.1";
    o->port = path ? 0 : port > 0 ? (int)port : o->url.port;
    if (path && strlen(path) > 107)
        return cli_misused(r->command, "--unix: a path is at most 107 bytes long");
    if (!path && o->port == 0)
        o->port = o->tls.use ? TLS_PORT : PORT;
    o->bind = value(r, "bind");
    return read_proxy(r);
}

static int read_tls(const struct reading *r)
{
    struct client_tls *tls = &r->o->tls;
    tls->cafile = value(r, "cafile");
    tls->capath = value(r, "capath");
    tls->cert = value(r, "cert");
    tls->key = value(r, "key");
    tls->version = value(r, "tls-version");
    tls->alpn = value(r, "tls-alpn");
    tls->ciphers = value(r, "ciphers");
    tls->psk_identity = value(r, "psk-identity");
    tls->insecure = flag(r, "insecure");
    tls->os_certs = flag(r, "tls-use-os-certs");
    const char *psk = value(r, "psk");
    if (!psk != !tls->psk_identity)
        return cli_misused(r->command, "--psk and --psk-identity go together");
    if (!tls->cert != !tls->key)
        return cli_misused(r->command, "--cert and --key go together");
    if (psk && (tls->cafile || tls->capath || tls->cert || tls->os_certs))
        return cli_misused(r->command, "--psk and certificates exclude each other");
    if (tls->version && strcmp(tls->version, "tlsv1.2") != 0 &&
        strcmp(tls->version, "tlsv1.3") != 0)
        return cli_misused(r->command, "--tls-version is tlsv1.2 or tlsv1.3");
    int rc = psk ? read_secret(r->command, "psk", psk, &tls->psk) : 0;
    if (rc == 0 && tls->psk && tls->psk[strspn(tls->psk, "0123456789abcdefABCDEF")])
        rc = cli_misused(r->command, "--psk is written in hexadecimal");
    return rc;
}

/* Whether TLS is used is known only with the port. */
static int settle_tls(const struct reading *r)
{
    struct client_tls *tls = &r->o->tls;
    if (tls->cafile || tls->capath || tls->cert || tls->os_certs || tls->psk ||
        (r->o->port == TLS_PORT && !flag(r, "unix")))
        tls->use = true;
    if (tls->use && !tls->cafile && !tls->capath && !tls->psk)
        tls->os_certs = true;
    if (tls->use && r->o->port == PORT && !flag(r, "port") && r->o->url.port == 0)
        r->o->port = TLS_PORT;
    if (!tls->use && (tls->insecure || tls->version || tls->alpn || tls->ciphers))
        return cli_misused(r->command, "no TLS without --cafile, --capath, --psk or "
                                       "--tls-use-os-certs, or a URL with mqtts://");
    return 0;
}

static int read_user(const struct reading *r)
{
    struct client_options *o = r->o;
    const char *name = value(r, "username"), *password = value(r, "pw");
    int rc = 0;
    if (!name)
        name = o->url.username;
    if (!password)
        password = o->url.password;
    if (name)
        rc = read_secret(r->command, "username", name, &o->username);
    if (rc == 0 && password)
        rc = read_secret(r->command, "pw", password, &o->password);
    return rc;
}

static int read_id(const struct reading *r)
{
    struct client_options *o = r->o;
    const char *id = value(r, "id"), *prefix = value(r, "id-prefix");
    if (id && prefix)
        return cli_misused(r->command, "--id and --id-prefix exclude each other");
    o->clean = !flag(r, "disable-clean-session");
    if (!o->clean && !id && !prefix)
        return cli_misused(r->command, "the session is found again by the client id: add --id");
    if (id && !*id && !o->clean)
        return cli_misused(r->command, "a session that is kept wants an --id that is not empty");
    if (prefix && asprintf(&o->id, "%s%ld", prefix, (long)getpid()) < 0)
        o->id = NULL;
    if (id && *id)
        o->id = strdup(id);
    return ((id && *id) || prefix) && !o->id ? CLI_FAILED : 0;
}

static int read_will(const struct reading *r)
{
    struct client_options *o = r->o;
    long qos = 0;
    o->will_topic = value(r, "will-topic");
    o->will_payload = value(r, "will-payload");
    o->will_retain = flag(r, "will-retain");
    if (client_number(r->command, r->args, "will-qos", 0, 2, &qos) != 0)
        return CLI_USAGE;
    o->will_qos = (int)qos;
    if (!o->will_topic &&
        (o->will_payload || o->will_retain || flag(r, "will-qos") || o->properties[CLIENT_WILL]))
        return cli_misused(r->command, "a will wants a --will-topic");
    const char *fault =
        o->will_topic ? topic_name_fault(o->will_topic, strlen(o->will_topic)) : NULL;
    return fault ? cli_misused(r->command, "--will-topic: bad topic name: %s", fault) : 0;
}

static int version_named(const char *name)
{
    static const struct {
        const char *name;
        int version;
    } versions[] = {
        { "5", MQTT_PROTOCOL_V5 },        { "mqttv5", MQTT_PROTOCOL_V5 },
        { "5.0", MQTT_PROTOCOL_V5 },      { "311", MQTT_PROTOCOL_V311 },
        { "3.1.1", MQTT_PROTOCOL_V311 },  { "mqttv311", MQTT_PROTOCOL_V311 },
        { "31", MQTT_PROTOCOL_V31 },      { "3.1", MQTT_PROTOCOL_V31 },
        { "mqttv31", MQTT_PROTOCOL_V31 },
    };
    for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
        if (strcmp(versions[i].name, name) == 0)
            return versions[i].version;
    return 0;
}

/* Sets `*seconds`; the preset stays if the option was not given. */
static int read_expiry(const struct reading *r, uint32_t *seconds)
{
    const char *expiry = value(r, "session-expiry");
    long number = -1;
    if (!expiry)
        return 0;
    if (strcmp(expiry, "∞") != 0 &&
        client_number(r->command, r->args, "session-expiry", -1, (long)FOR_EVER, &number) != 0)
        return CLI_USAGE;
    *seconds = (uint32_t)number;
    if (*seconds == FOR_EVER && !r->o->id)
        return cli_misused(r->command, "a session that never expires wants an --id");
    return 0;
}

/* The session expires when it was said, by -x or -D, or never if it is kept. */
static int add_expiry(const struct reading *r)
{
    mosquitto_property **list = &r->o->properties[CLIENT_CONNECT];
    uint32_t seconds = r->o->clean ? 0 : FOR_EVER, said;
    if (read_expiry(r, &seconds) != 0)
        return CLI_USAGE;
    if (seconds == 0 ||
        (!flag(r, "session-expiry") &&
         mosquitto_property_read_int32(*list, MQTT_PROP_SESSION_EXPIRY_INTERVAL, &said, false)))
        return 0;
    return mosquitto_property_add_int32(list, MQTT_PROP_SESSION_EXPIRY_INTERVAL, seconds) ==
                   MOSQ_ERR_SUCCESS
               ? 0
               : CLI_FAILED;
}

/* The version, which depends on what else is wanted. */
static int read_version(const struct reading *r, const char *v5)
{
    struct client_options *o = r->o;
    const char *version = value(r, "protocol-version");
    if (flag(r, "property"))
        v5 = "property";
    if (flag(r, "session-expiry"))
        v5 = "session-expiry";
    o->protocol = version ? version_named(version) : v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311;
    if (o->protocol == 0)
        return cli_misused(r->command, "--protocol-version is 5, 311 or 31 (or mqttv5 and so on)");
    if (o->protocol == MQTT_PROTOCOL_V5)
        return add_expiry(r);
    if (v5)
        return cli_misused(r->command, "--%s is of MQTT 5: write -V 5", v5);
    if (o->password && !o->username)
        return cli_misused(r->command, "a password wants a --username, unless with -V 5");
    return 0;
}

static int read_properties(const struct reading *r)
{
    int rc = 0;
    for (size_t i = 0; i < r->args->given_count && rc == 0; i++)
        if (r->args->given[i].option->letter == 'D')
            rc = client_property_add(r->o, &r->args->given[i]);
    return rc;
}

static int read_all(const struct reading *r, const char *v5)
{
    struct client_options *o = r->o;
    long keepalive = 60;
    o->nodelay = flag(r, "nodelay");
    o->debug = flag(r, "debug");
    o->quiet = flag(r, "quiet");
    /* 0 turns it off; libmosquitto takes 5 seconds and more. */
    int rc = client_number(r->command, r->args, "keepalive", 0, 65535, &keepalive);
    if (rc == 0 && keepalive > 0 && keepalive < 5)
        rc = cli_misused(r->command, "--keepalive is 0, for none, or from 5 to 65535 seconds");
    o->keepalive = (int)keepalive;
    if (rc == 0)
        rc = read_tls(r);
    if (rc == 0)
        rc = read_address(r);
    if (rc == 0)
        rc = settle_tls(r);
    if (rc == 0)
        rc = read_user(r);
    if (rc == 0)
        rc = read_id(r);
    if (rc == 0)
        rc = read_properties(r);
    if (rc == 0)
        rc = read_will(r);
    if (rc == 0)
        rc = read_version(r, v5);
    return rc == 0 ? client_properties_check(o) : rc;
}

int client_options_read(const struct cli_command *command, const struct cli_args *args,
                        const char *v5, struct client_options *o)
{
    *o = (struct client_options){ .command = command };
    const struct reading r = { command, args, o };
    const int rc = read_all(&r, v5);
    wipe_secrets(args);
    return rc;
}

void client_options_release(struct client_options *o)
{
    for (int i = 0; i < CLIENT_PACKETS; i++)
        mosquitto_property_free_all(&o->properties[i]);
    client_url_release(&o->url);
    client_url_release(&o->proxy);
    free_secret(o->tls.psk);
    free_secret(o->password);
    free(o->username);
    free(o->id);
    *o = (struct client_options){ 0 };
}
