/* SPDX-License-Identifier: MIT */

/*
 * What the configuration says about a link, read by the tables link_options and link_tls_options. Never
 * changes once read; belongs to the conf that it was read from.
 */

#ifndef TOCSIN_LINK_SETTINGS_H
#define TOCSIN_LINK_SETTINGS_H

#include "config/conf.h"
#include "config/options.h"
#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stdint.h>

struct link_tls {
    const char *ca, *capath, *cert, *key;
    struct tocsin_secret key_password;
    bool insecure;
    struct tocsin_secret psk;
    const char *psk_identity;
    const char *alpn;
    const char *version;
    const char *ciphers;
};

/* What a link's status topic says where nobody has given it a document (links_set_status()); the last one is the will. */
#define LINK_STATUS_ONLINE  "{\"online\":true}"
#define LINK_STATUS_OFFLINE "{\"online\":false,\"health\":\"stopped\"}"
#define LINK_STATUS_LOST                        \
    "{\"online\":false,\"health\":\"stopped\"," \
    "\"reasons\":[\"the connection to the broker was lost\"]}"

struct link_settings {
    const char *name;
    const char *host;
    int64_t port;
    const char *protocol;
    const char *username;
    struct tocsin_secret password;
    const char *client_id;
    const char *state_file;
    bool clean_session;
    struct tocsin_duration session_expiry;
    struct tocsin_duration keepalive;
    int64_t receive_maximum;
    struct tocsin_size max_packet_size;
    const struct tocsin_node *tls;
    struct tocsin_duration connect_timeout;
    struct tocsin_duration reconnect_min, reconnect_max;
    const char *retained;
    bool status;
    int64_t max_untaken;
    struct tocsin_size max_untaken_bytes;
    int64_t max_hops;
    int64_t loop_limit;
    struct tocsin_duration loop_window;

    bool use_tls;
    struct link_tls tls_options; /* read from `tls` */
    uint16_t tcp_port;           /* 0: `host` is the path of a Unix socket */
};

/*
 * Reads one link. Adds to `errors` and returns how many. `memory` must live as long as the settings.
 */
size_t link_settings_read(const struct conf_node *group, struct link_settings *out,
                          struct options_memory *memory, struct conf_errors *errors);

#endif
