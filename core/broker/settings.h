/* SPDX-License-Identifier: MIT */

/* What the file says about the broker. Read by the main thread, and never changed afterwards: any thread. */

#ifndef TOCSIN_BROKER_SETTINGS_H
#define TOCSIN_BROKER_SETTINGS_H

#include "config/conf.h"
#include "config/options.h"
#include "net/listener.h"

#include <stdatomic.h>

/* A listener: what the file says, and what has become of it. */
struct broker_listener {
    const char *bind;
    const char *bind_interface;
    const char *socket_domain;
    const char *path;
    const char *mode;
    const char *mount_point;
    const char *protocol;
    int64_t port;
    int64_t max_connections;
    int64_t max_qos;
    int64_t max_topic_alias;
    struct tocsin_size max_packet_size;

    /* Filled by settings_read() or the start. */
    unsigned unix_mode;
    size_t mount_len;
    struct listener *listener;
    atomic_uint connections;
};

struct broker_settings {
    int64_t workers;
    int64_t max_connections;
    int64_t max_inflight_messages;
    struct tocsin_size max_inflight_bytes;
    int64_t max_queued_messages;
    struct tocsin_size max_queued_bytes;
    struct tocsin_size max_output_bytes;
    bool queue_qos0_messages;
    struct tocsin_size message_size_limit;
    struct tocsin_size max_packet_size;
    int64_t max_keepalive;
    int64_t receive_maximum;
    int64_t max_topic_levels;
    struct tocsin_duration persistent_client_expiration;
    struct tocsin_duration connect_timeout;
    struct tocsin_duration sys_interval;
    const char *durability;
    struct tocsin_duration will_grace;
    bool retain_available;
    bool wildcard_available;
    bool shared_available;
    bool subscription_identifiers_available;
    bool upgrade_outgoing_qos;
    bool set_tcp_nodelay;
    bool allow_zero_length_clientid;
    bool connection_messages;
    const char *auto_id_prefix;
    const char *response_information;

    struct broker_listener *listeners;
    size_t listener_count;
    struct options_memory memory;
};

/* Reads the group (NULL: all defaults). Returns 0, -EINVAL (`errors`) or -ENOMEM; release in any case. */
int settings_read(const struct conf_node *group, struct broker_settings *settings,
                  struct conf_errors *errors);
void settings_release(struct broker_settings *settings);

#endif
