/* SPDX-License-Identifier: MIT */

#include "link/settings.h"

#include "link/links.h"

#include <ctype.h>
#include <string.h>

#define PLAIN_PORT 1883
#define TLS_PORT   8883

/* clang-format off */
#define O(FIELD, ...) TOCSIN_OPTION(struct link_settings, FIELD, __VA_ARGS__)
#define T(FIELD, ...) TOCSIN_OPTION(struct link_tls, FIELD, __VA_ARGS__)
/* clang-format on */

const struct tocsin_option link_options[] = {
    O(name, .flags = TOCSIN_OPTION_REQUIRED,
      .help =
          "Name of the link, for routes, targets and the log: letters, digits, '-', '_' and '.'."),
    O(host, .def = "localhost",
      .help = "Host name or address of the broker, or the path of its Unix socket."),
    O(port, .def = "0", .min = 0, .max = 65535,
      .help = "TCP port of the broker; 0 stands for 1883, or 8883 with tls."),
    O(protocol, .def = "auto", .choices = "auto|5|3.1.1",
      .help = "MQTT version; auto tries 5 and falls back to 3.1.1 if the broker refuses it."),
    O(username, .help = "User name at the broker."),
    O(password, .help = "Password at the broker."),
    O(client_id,
      .help = "Client identifier of the receiving connection; the sending one adds \"-send\". By "
              "default it is made from the names of node and link. It must stay the same for the "
              "broker to keep messages while this router is away."),
    O(clean_session, .def = "false",
      .help = "Whether the broker forgets this client when the connection ends. If not, it keeps "
              "messages of QoS 1 while this router is away."),
    O(state_file,
      .help =
          "File in which to remember what is subscribed, so that filters that are no longer wanted "
          "after a restart are taken back. By default link-NAME.filters in the directory "
          "STATE_DIRECTORY of the environment, which systemd sets, or nowhere."),
    O(session_expiry, .def = "7d", .min = 1000, .max = 4294967294000,
      .help = "How long the broker keeps messages while this router is away (MQTT 5)."),
    O(keepalive, .def = "60s", .min = 5000, .max = 65535000,
      .help = "After so long without traffic the connection is checked; rounded down to seconds."),
    O(receive_maximum, .def = "1000", .min = 1, .max = 65535,
      .help = "Most messages of QoS 1 that the broker may send ahead of their acknowledgement "
              "(MQTT 5)."),
    O(max_packet_size, .def = "64MiB", .min = 1024, .max = 268435455,
      .help = "Largest packet that the broker may send (MQTT 5)."),
    O(tls, .help = "A group, empty or with the options below, that turns on TLS."),
    O(connect_timeout, .def = "15s", .min = 100, .max = 600000,
      .help = "Most time for an attempt to connect, name resolution included."),
    O(reconnect_min, .def = "1s", .min = 10, .max = 3600000,
      .help =
          "Longest pause before the second attempt to connect; it doubles with each further one "
          "up to reconnect_max, and the actual pause is random below it."),
    O(reconnect_max, .def = "60s", .min = 10, .max = 86400000,
      .help = "Longest pause between two attempts to connect."),
    O(retained, .def = "process", .choices = "process|skip",
      .help = "What to do with the retained messages that the broker sends after each connect."),
    O(status, .def = "true",
      .help = "Whether to keep the status as a retained message in the topic tocsin/NODE/status: "
              "all of it (see admin), and messages about dead letters, if this is the first link "
              "and there is no included broker, else whether we are online."),
    O(max_untaken, .def = "20000", .min = 1, .max = 10000000,
      .help =
          "Most messages in memory for which routing has not found a place yet; beyond it nothing "
          "more is read."),
    O(max_untaken_bytes, .def = "64MiB", .min = 65536, .max = INT64_MAX,
      .help = "The same in bytes; one message is always allowed."),
    O(max_hops, .def = "4", .min = 0, .max = 255,
      .help = "A message that routers have republished more often than this is dropped (MQTT 5)."),
    O(loop_limit, .def = "100", .min = 1, .max = 1000000,
      .help = "With MQTT 3.1.1: a message that this router has published by this link itself is "
              "dropped when it comes back more often than this within loop_window."),
    O(loop_window, .def = "10s", .min = 100, .max = 3600000, .help = "See loop_limit."),
    { .name = NULL },
};

const struct tocsin_option link_tls_options[] = {
    T(ca, .help =
              "File of certificates (PEM) of those whom to trust; without ca, capath and psk: the "
              "system's."),
    T(capath, .help = "Directory of such certificates, prepared by `openssl rehash`."),
    T(cert, .help = "File with this client's certificate chain (PEM); needs key."),
    T(key, .help = "File with the private key of cert (PEM)."),
    T(key_password, .help = "Password of the private key."),
    T(insecure, .def = "false",
      .help = "Whether to accept a certificate of another host name. For tests only."),
    T(psk, .help = "Pre-shared key in hexadecimal digits, instead of certificates."),
    T(psk_identity, .help = "Name under which the broker knows the pre-shared key."),
    T(alpn, .help = "Application protocol to ask for, such as \"mqtt\"."),
    T(version, .def = "1.2", .choices = "1.2|1.3", .help = "Lowest TLS version to accept."),
    T(ciphers, .help = "Cipher list of OpenSSL for TLS 1.2."),
    { .name = NULL },
};

static bool name_is_good(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
            return false;
    return name[0] != '\0';
}

static const struct conf_node *node_of(const struct conf_node *group, const char *name)
{
    const struct conf_node *node = options_node(group, name);
    return node ? node : group;
}

static bool is_hex(const char *text)
{
    size_t len = strlen(text);
    return len > 0 && len % 2 == 0 && strspn(text, "0123456789abcdefABCDEF") == len;
}

static void check_tls(const struct conf_node *group, const struct link_tls *tls,
                      struct conf_errors *errors)
{
    if (tls->cert && !tls->key)
        conf_error(errors, node_of(group, "cert"), "has no key: write key = \"FILE\" beside it");
    if (tls->key && !tls->cert)
        conf_error(errors, node_of(group, "key"), "has no cert: write cert = \"FILE\" beside it");
    if (tls->key_password.text && !tls->key)
        conf_error(errors, node_of(group, "key_password"), "is of no use without key");
    if (tls->psk.text && !tls->psk_identity)
        conf_error(errors, node_of(group, "psk"),
                   "has no identity: write psk_identity = \"NAME\" beside it");
    if (tls->psk_identity && !tls->psk.text)
        conf_error(errors, node_of(group, "psk_identity"), "has no key: write psk beside it");
    if (tls->psk.text && !is_hex(tls->psk.text))
        conf_error(errors, node_of(group, "psk"),
                   "is not an even number of hexadecimal digits, such as \"1f2e3d4c\"");
    if (tls->psk.text && (tls->ca || tls->capath || tls->cert))
        conf_error(errors, node_of(group, "psk"),
                   "cannot be combined with ca, capath or cert: remove one or the other");
}

static void check_link(const struct conf_node *group, struct link_settings *s,
                       struct conf_errors *errors)
{
    if (s->name && !name_is_good(s->name))
        conf_error(errors, node_of(group, "name"),
                   "\"%s\" is no name for a link: use letters, digits, '-', '_' and '.'", s->name);
    if (s->host && s->host[0] == '\0')
        conf_error(errors, node_of(group, "host"), "is empty: write a host name or an address");
    if (s->password.text && !s->username)
        conf_error(errors, node_of(group, "password"),
                   "has no user name: write username = \"NAME\" beside it");
    if (s->client_id && s->client_id[0] == '\0')
        conf_error(errors, node_of(group, "client_id"),
                   "is empty: write a name, or leave it out for one made from node and link");
    if (s->reconnect_min.ms > s->reconnect_max.ms)
        conf_error(errors, node_of(group, "reconnect_min"),
                   "is longer than reconnect_max: make it shorter or that one longer");
    if (s->host && s->host[0] == '/' && s->use_tls)
        conf_error(errors, node_of(group, "tls"),
                   "does not go with a Unix socket: remove it, or write a host name in host");
}

size_t link_settings_read(const struct conf_node *group, struct link_settings *out,
                          struct options_memory *memory, struct conf_errors *errors)
{
    size_t before = errors->count;
    *out = (struct link_settings){ 0 };
    const struct options_part part = { link_options, out };
    options_read(group, &part, 1, NULL, memory, errors);

    out->use_tls = out->tls != NULL;
    if (out->use_tls) {
        const struct options_part tls = { link_tls_options, &out->tls_options };
        if (options_read(out->tls, &tls, 1, NULL, memory, errors) == 0)
            check_tls(out->tls, &out->tls_options, errors);
    }
    if (errors->count == before)
        check_link(group, out, errors);
    if (out->host && out->host[0] == '/')
        out->tcp_port = 0;
    else if (out->port == 0)
        out->tcp_port = out->use_tls ? TLS_PORT : PLAIN_PORT;
    else
        out->tcp_port = (uint16_t)out->port;
    return errors->count - before;
}
