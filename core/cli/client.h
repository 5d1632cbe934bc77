/* SPDX-License-Identifier: MIT */

/*
 * What `tocsin pub` and `tocsin sub` have in common: options, and a connection to a broker that is run by the
 * main thread alone. Messages for people go to standard error, so that standard output is what was received.
 */

#ifndef TOCSIN_CLI_CLIENT_H
#define TOCSIN_CLI_CLIENT_H

#include "cli/cli.h"

#include <mosquitto.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENT_MAX_PAYLOAD 268435455 /* bytes, of what a packet can hold */
#define CLIENT_TIMED_OUT   27        /* exit status, the one that mosquitto_sub has for it */

/* The exit statuses, for both commands' help. */
#define CLIENT_EXIT_STATUS                                                                   \
    "0 if it worked, 1 if not, 2 for a call that makes no sense; if the broker refuses\n"    \
    "             the connection, the reason code that it gives (1 to 5, with MQTT 5 from\n" \
    "             128)"

/* Rows of the table of options, for both commands. */
/* clang-format off */
#define CLIENT_OPTIONS                                                                              \
    { "host", 'h', "HOST", "Broker; 127.0.0.1 if left out." },                                      \
    { "port", 'p', "PORT", "Its port; 1883 if left out, 8883 with TLS." },                          \
    { "unix", 0, "PATH", "Connect to this Unix socket instead." },                                  \
    { "url", 'L', "URL", "All at once: mqtt://USER:PASSWORD@HOST:PORT/TOPIC, or mqtts:// for TLS; " \
                         "what could be taken for a separator is written %2F and so on." },         \
    { "username", 'u', "NAME", "User name." },                                                      \
    { "pw", 'P', "PASSWORD", "Password; better ${env:NAME} or ${file:PATH} (in single quotes), "    \
                             "which nobody sees in the list of processes." },                       \
    { "id", 'i', "ID", "Client id; the broker or the library chooses one if left out." },           \
    { "id-prefix", 'I', "PREFIX", "Client id: this and the process id." },                          \
    { "protocol-version", 'V', "VERSION", "MQTT version: 5 (or mqttv5), 311, 31; 311 if left out "  \
                                          "and no other option wants 5." },                         \
    { "keepalive", 'k', "SECONDS", "Longest silence before a ping; 60 if left out." },              \
    { "disable-clean-session", 'c', NULL, "Keep the session in the broker; wants -i." },            \
    { "session-expiry", 'x', "SECONDS", "How long the broker keeps the session after the end, "     \
                                        "-1 for ever; MQTT 5." },                                   \
    { "bind", 'A', "ADDRESS", "Connect from this address." },                                       \
    { "proxy", 0, "URL", "Connect through SOCKS5: socks5h://USER:PASSWORD@HOST:PORT." },            \
    { "nodelay", 0, NULL, "Send small packets at once (TCP_NODELAY)." },                            \
    { "property", 'D', "PACKET NAME VALUE", "Property of MQTT 5 for a packet; user-property takes " \
                                            "a name and a value. May be repeated." },               \
    { "will-topic", 0, "TOPIC", "Topic of the will, which the broker sends if we vanish." },        \
    { "will-payload", 0, "TEXT", "Its payload; empty if left out." },                               \
    { "will-qos", 0, "QOS", "Its QoS; 0 if left out." },                                            \
    { "will-retain", 0, NULL, "It is retained." },                                                  \
    { "cafile", 0, "FILE", "TLS: certificates that are trusted (PEM)." },                           \
    { "capath", 0, "FOLDER", "TLS: folder of them, made by openssl rehash." },                      \
    { "tls-use-os-certs", 0, NULL, "TLS: trust what the system trusts." },                          \
    { "cert", 0, "FILE", "TLS: our certificate (PEM)." },                                           \
    { "key", 0, "FILE", "TLS: its private key (PEM)." },                                            \
    { "insecure", 0, NULL, "TLS: do not check the broker's name. For trying out only." },           \
    { "psk", 0, "HEX", "TLS: pre-shared key, or ${env:NAME}, ${file:PATH}." },                      \
    { "psk-identity", 0, "NAME", "TLS: the name that goes with it." },                              \
    { "tls-version", 0, "VERSION", "TLS: lowest version, tlsv1.2 or tlsv1.3; 1.2 if left out." },   \
    { "tls-alpn", 0, "PROTOCOL", "TLS: protocol to ask for (ALPN)." },                              \
    { "ciphers", 0, "LIST", "TLS: ciphers, as openssl ciphers has them." },                         \
    { "debug", 'd', NULL, "Tell on standard error which packets come and go." },                    \
    { "quiet", 0, NULL, "Say nothing of what fails." }
/* clang-format on */

/* Packets that -D can give properties to. */
enum client_packet {
    CLIENT_CONNECT,
    CLIENT_PUBLISH,
    CLIENT_SUBSCRIBE,
    CLIENT_UNSUBSCRIBE,
    CLIENT_DISCONNECT,
    CLIENT_WILL,
    CLIENT_PACKETS,
};

struct client_tls {
    bool use, insecure, os_certs;
    const char *cafile, *capath, *cert, *key, *version, *ciphers, *alpn, *psk_identity;
    char *psk; /* own; secret */
};

/* What -L or --proxy says; the texts lie in `text`. */
struct client_url {
    char *text; /* own */
    const char *scheme, *username, *password, *host, *path;
    int port; /* 0: none */
};

struct client_options {
    const struct cli_command *command;
    const char *host, *bind;
    int port;     /* 0: `host` is the path of a Unix socket */
    int protocol; /* MQTT_PROTOCOL_V31 and so on */
    char *id;     /* own; NULL: none */
    bool clean;
    int keepalive;                /* seconds */
    char *username, *password;    /* own; the password is secret */
    const char *topic;            /* of the URL; NULL: none */
    struct client_url url, proxy; /* scheme NULL: none */
    const char *will_topic, *will_payload;
    int will_qos;
    bool will_retain, nodelay, debug, quiet;
    struct client_tls tls;
    mosquitto_property *properties[CLIENT_PACKETS];
};

/*
 * Reads the options that both have. `v5` is whether another option wants MQTT 5, then its name, else NULL.
 * Secrets are wiped out of the words of the call. Returns 0, or CLI_USAGE or CLI_FAILED when it has complained;
 * in both cases client_options_release() has to follow.
 */
int client_options_read(const struct cli_command *command, const struct cli_args *args,
                        const char *v5, struct client_options *options);
void client_options_release(struct client_options *options);

/* For cli_command.words: those of -D. */
size_t client_option_words(const struct cli_given *given, char *const *following);

/* Reads the number of an option; the preset stays if it was not given. Returns 0, or CLI_USAGE when it has
 * complained. */
int client_number(const struct cli_command *command, const struct cli_args *args, const char *name,
                  long least, long most, long *number);
int client_seconds(const struct cli_command *command, const struct cli_args *args, const char *name,
                   int64_t *ms);

/* Takes a URL apart. Returns NULL, or what is wrong, as the end of "the URL ...". Then, too,
 * client_url_release() has to follow. */
const char *client_url_read(const char *text, struct client_url *url);
void client_url_release(struct client_url *url);

/* Adds the property of a -D. Returns 0, or CLI_USAGE when it has complained. */
int client_property_add(struct client_options *options, const struct cli_given *given);

/* Whether the properties can be sent together. Returns 0, or CLI_USAGE when it has complained. */
int client_properties_check(const struct client_options *options);

/* Complains on standard error, "tocsin COMMAND: ...", unless --quiet. */
void client_say(const struct client_options *options, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- The connection ------------------------------------------------------------------------------ */

enum client_state {
    CLIENT_UP,
    CLIENT_LOST,    /* `why` tells; cli_client_reconnect() may help */
    CLIENT_STOPPED, /* by a signal */
    CLIENT_LATE,    /* deadline_ms has come */
};

struct cli_client {
    const struct client_options *options;
    struct mosquitto *mosq; /* its context is this struct; callbacks for messages can be set */
    void *owner;            /* for those callbacks */
    int64_t deadline_ms;    /* of clock_mono_ms(); 0: none. Heeded once connected. */

    /* Own. */
    int64_t misc_ms;
    bool answered;    /* CONNACK has come */
    bool unreachable; /* not even a TCP connection was possible */
    int reason;       /* of CONNACK, or of the broker's DISCONNECT (then from 128) */
    char why[200];
};

/* Makes the client. Returns 0, or an exit status when it has complained. cli_client_free() has to follow. */
int cli_client_init(struct cli_client *client, const struct client_options *options);
void cli_client_free(struct cli_client *client);

/* Connects, and awaits the broker's answer. Returns 0, or an exit status when it has complained. */
int cli_client_connect(struct cli_client *client);

/* Waits until something has happened, at most `timeout_ms` (-1: no limit), and does what is to be done. `fd`
 * (-1: none) is watched too: `*readable` says whether it can be read from. */
enum client_state cli_client_wait(struct cli_client *client, int timeout_ms, int fd,
                                  bool *readable);

/* After CLIENT_LOST: tries again and again. Returns CLIENT_UP, CLIENT_STOPPED, CLIENT_LATE, or CLIENT_LOST when
 * there is no sense in it; `*status` is then the exit status, and it has complained. */
enum client_state cli_client_reconnect(struct cli_client *client, int *status);

/* Whether a signal asked for the end; what blocks is interrupted by it. */
bool cli_client_stopped(void);

/* Writes what is left, and disconnects. */
void cli_client_disconnect(struct cli_client *client);

#endif
