/* SPDX-License-Identifier: MIT */

/* The options of the broker and of its listeners: these tables are the only list of them. Main thread. */

#include "broker/settings.h"

#include "broker/broker.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PACKET_MAX 268435455 /* the longest remaining length [MQTT 5.0, 1.5.5] */

const struct tocsin_option broker_options[] = {
    TOCSIN_OPTION(struct broker_settings, workers, .def = "0", .min = 0, .max = 48,
                  .help = "Threads that serve clients; 0: one on up to four processors, else half "
                          "as many as there are."),
    TOCSIN_OPTION(struct broker_settings, max_connections, .def = "-1", .min = -1, .max = 10000000,
                  .help =
                      "Most connections of all listeners; -1 for as many as the system allows."),
    TOCSIN_OPTION(struct broker_settings, max_inflight_messages, .def = "20", .min = 0,
                  .max = 65535,
                  .help = "Most messages of QoS 1 and 2 on their way to a client at a time; 0 for "
                          "65535. A client's own Receive Maximum may be lower."),
    TOCSIN_OPTION(
        struct broker_settings, max_inflight_bytes, .def = "0", .min = 0, .max = INT64_MAX,
        .help = "Most bytes of messages of QoS 1 and 2 on their way to a client; 0 for no "
                "limit."),
    TOCSIN_OPTION(struct broker_settings, max_queued_messages, .def = "1000", .min = 0,
                  .max = 1000000000,
                  .help = "Most messages that wait for a client beyond those on their way; later "
                          "ones are dropped for it, and counted. 0 for no limit."),
    TOCSIN_OPTION(struct broker_settings, max_queued_bytes, .def = "64MiB", .min = 0,
                  .max = INT64_MAX, .help = "Most bytes that wait for a client; 0 for no limit."),
    TOCSIN_OPTION(
        struct broker_settings, max_output_bytes, .def = "16MiB", .min = 65536, .max = INT64_MAX,
        .help = "Most bytes that wait to be written to a client that reads slowly; beyond, "
                "messages of QoS 0 are dropped for it, those of QoS 1 and 2 queued."),
    TOCSIN_OPTION(struct broker_settings, queue_qos0_messages, .def = "false",
                  .help =
                      "Whether messages of QoS 0 also wait for persistent clients that are away."),
    TOCSIN_OPTION(struct broker_settings, message_size_limit, .def = "0", .min = 0,
                  .max = PACKET_MAX,
                  .help = "Largest payload that is taken; 0 for what MQTT allows (256 MiB)."),
    TOCSIN_OPTION(struct broker_settings, max_packet_size, .def = "0", .min = 0, .max = PACKET_MAX,
                  .help = "Largest packet that is taken from a client, who is told (MQTT 5) and "
                          "disconnected; 0 for what MQTT allows (256 MiB)."),
    TOCSIN_OPTION(struct broker_settings, max_keepalive, .def = "65535", .min = 0, .max = 65535,
                  .help = "Longest keep-alive in seconds. MQTT 5 clients that want longer are told "
                          "this one, others are refused."),
    TOCSIN_OPTION(struct broker_settings, receive_maximum, .def = "1000", .min = 1, .max = 65535,
                  .help =
                      "Most messages of QoS 1 and 2 from a client that are not acknowledged yet; "
                      "MQTT 5 clients are told, others are read from no further."),
    TOCSIN_OPTION(struct broker_settings, max_topic_levels, .def = "200", .min = 1, .max = 65535,
                  .help = "Most levels of a topic or filter."),
    TOCSIN_OPTION(struct broker_settings, persistent_client_expiration, .def = "0s", .min = 0,
                  .max = INT64_MAX,
                  .help =
                      "How long the session of a client that is away is kept at most; 0s for as "
                      "long as the client asked for."),
    TOCSIN_OPTION(struct broker_settings, connect_timeout, .def = "20s", .min = 100, .max = 3600000,
                  .help =
                      "How long a connection may take until its CONNECT has come and, where that "
                      "waits for the disk, has been answered."),
    TOCSIN_OPTION(struct broker_settings, durability, .def = "commit", .choices = "commit|memory",
                  .help = "What is on disk, if there is a store: \"commit\": persistent sessions, "
                          "their messages, retained messages and wills, each before it is "
                          "acknowledged; \"memory\": nothing, which is faster, but all of it ends "
                          "with the program."),
    TOCSIN_OPTION(struct broker_settings, will_grace, .def = "60s", .min = 0, .max = 86400000,
                  .help = "How long after a start clients that were connected before may take to "
                          "come back until their wills are published."),
    TOCSIN_OPTION(struct broker_settings, sys_interval, .def = "10s", .min = 0, .max = 86400000,
                  .help = "How often the topics below $SYS are published; 0s for never."),
    TOCSIN_OPTION(struct broker_settings, retain_available, .def = "true",
                  .help = "Whether messages may be retained."),
    TOCSIN_OPTION(struct broker_settings, wildcard_available, .def = "true",
                  .help = "Whether filters may have wildcards."),
    TOCSIN_OPTION(struct broker_settings, shared_available, .def = "true",
                  .help = "Whether there are shared subscriptions."),
    TOCSIN_OPTION(struct broker_settings, subscription_identifiers_available, .def = "true",
                  .help = "Whether subscriptions may have identifiers (MQTT 5)."),
    TOCSIN_OPTION(struct broker_settings, upgrade_outgoing_qos, .def = "false",
                  .help =
                      "Whether messages are delivered with the QoS of the subscription, also if "
                      "they were published with a lower one."),
    TOCSIN_OPTION(struct broker_settings, set_tcp_nodelay, .def = "true",
                  .help = "Whether packets are sent at once (TCP_NODELAY)."),
    TOCSIN_OPTION(struct broker_settings, allow_zero_length_clientid, .def = "true",
                  .help = "Whether clients may leave their client id to the broker."),
    TOCSIN_OPTION(struct broker_settings, auto_id_prefix, .def = "auto-",
                  .help = "What client ids that the broker gives begin with."),
    TOCSIN_OPTION(struct broker_settings, connection_messages, .def = "true",
                  .help = "Whether the log tells of clients that come and go."),
    TOCSIN_OPTION(struct broker_settings, response_information,
                  .help = "What MQTT 5 clients are told that ask for Response Information: the "
                          "topic below which responses are expected."),
    { .name = NULL },
};

const struct tocsin_option broker_listener_options[] = {
    TOCSIN_OPTION(struct broker_listener, port, .def = "1883", .min = 0, .max = 65535,
                  .help = "TCP port; 0 for one that the system chooses, and the log tells."),
    TOCSIN_OPTION(struct broker_listener, bind, .def = "127.0.0.1",
                  .help = "Address or host name to listen on; an empty text for all addresses."),
    TOCSIN_OPTION(struct broker_listener, bind_interface,
                  .help = "Network interface whose addresses to listen on, in place of bind."),
    TOCSIN_OPTION(struct broker_listener, socket_domain, .choices = "ipv4|ipv6",
                  .help = "Only addresses of that kind; both if left out."),
    TOCSIN_OPTION(struct broker_listener, path,
                  .help = "A Unix socket to listen on, in place of a port."),
    TOCSIN_OPTION(struct broker_listener, mode,
                  .help = "Permissions of the Unix socket, in octal, such as \"0660\"."),
    TOCSIN_OPTION(struct broker_listener, protocol, .def = "mqtt", .choices = "mqtt",
                  .help = "What is spoken here."),
    TOCSIN_OPTION(struct broker_listener, mount_point,
                  .help = "Put before every topic of the clients of this listener, and taken away "
                          "again from what they get."),
    TOCSIN_OPTION(struct broker_listener, max_connections, .def = "-1", .min = -1, .max = 10000000,
                  .help = "Most connections at a time; -1 for no limit."),
    TOCSIN_OPTION(struct broker_listener, max_qos, .def = "2", .min = 0, .max = 2,
                  .help = "Highest QoS that its clients may publish with."),
    TOCSIN_OPTION(struct broker_listener, max_topic_alias, .def = "10", .min = 0, .max = 65535,
                  .help = "Topic aliases that an MQTT 5 client may use, each way; 0 for none."),
    TOCSIN_OPTION(struct broker_listener, max_packet_size, .def = "0", .min = 0, .max = PACKET_MAX,
                  .help = "Largest packet that is taken here; 0 for the broker's max_packet_size."),
    { .name = NULL },
};

static void read_mode(struct broker_listener *listener, const struct conf_node *node,
                      struct conf_errors *errors)
{
    if (!listener->mode)
        return;
    char *end;
    errno = 0;
    unsigned long mode = strtoul(listener->mode, &end, 8);
    if (errno || *end || end == listener->mode || mode == 0 || mode > 0777)
        conf_error(errors, options_node(node, "mode"),
                   "not the permissions of a file, write for example mode = \"0660\";");
    else
        listener->unix_mode = (unsigned)mode;
}

static void read_listener(struct broker_settings *settings, struct broker_listener *listener,
                          const struct conf_node *node, struct conf_errors *errors)
{
    const struct options_part part = { broker_listener_options, listener };
    options_read(node, &part, 1, NULL, &settings->memory, errors);
    read_mode(listener, node, errors);
    const char *mount = listener->mount_point;
    listener->mount_len = mount ? strlen(mount) : 0;
    const char *fault = listener->mount_len ? topic_name_fault(mount, listener->mount_len) : NULL;
    if (fault)
        conf_error(errors, options_node(node, "mount_point"), "not the beginning of a topic: %s",
                   fault);
    if (listener->mount_len > 1024)
        conf_error(errors, options_node(node, "mount_point"), "longer than 1024 bytes");
    if (listener->path && options_node(node, "port"))
        conf_error(errors, options_node(node, "port"),
                   "a listener has a path or a port, not both: write two listeners");
    if (listener->max_packet_size.bytes == 0)
        listener->max_packet_size = settings->max_packet_size;
    if (listener->max_packet_size.bytes == 0)
        listener->max_packet_size.bytes = PACKET_MAX;
}

static int64_t default_workers(void)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (processors <= 4)
        return 1;
    return processors / 2 > 48 ? 48 : processors / 2;
}

int settings_read(const struct conf_node *group, struct broker_settings *settings,
                  struct conf_errors *errors)
{
    *settings = (struct broker_settings){ 0 };
    static const char *const extra[] = { "listeners", NULL };
    const struct options_part part = { broker_options, settings };
    size_t before = errors->count;
    options_read(group, &part, 1, extra, &settings->memory, errors);
    if (settings->workers == 0)
        settings->workers = default_workers();
    if (settings->max_inflight_messages == 0)
        settings->max_inflight_messages = 65535;
    if (strlen(settings->auto_id_prefix) > 64)
        conf_error(errors, options_node(group, "auto_id_prefix"), "longer than 64 bytes");
    if (settings->response_information && strlen(settings->response_information) > 512)
        conf_error(errors, options_node(group, "response_information"), "longer than 512 bytes");

    const struct conf_node *list = options_node(group, "listeners");
    if (list && conf_node_type(list) != CONF_LIST) {
        conf_error(errors, list, "not a list, write listeners = ( { port = 1883; } );");
        return -EINVAL;
    }
    size_t count = list ? conf_node_count(list) : 1;
    settings->listeners = calloc(count ? count : 1, sizeof(*settings->listeners));
    if (!settings->listeners)
        return -ENOMEM;
    settings->listener_count = count;
    for (size_t i = 0; i < count; i++) {
        const struct conf_node *node = list ? conf_node_at(list, i) : NULL;
        if (node && conf_node_type(node) != CONF_GROUP)
            conf_error(errors, node, "not a group, write { port = 1883; }");
        else
            read_listener(settings, &settings->listeners[i], node, errors);
    }
    return errors->count > before ? -EINVAL : 0;
}

void settings_release(struct broker_settings *settings)
{
    for (size_t i = 0; i < settings->listener_count; i++)
        listener_close(settings->listeners[i].listener);
    free(settings->listeners);
    options_memory_release(&settings->memory);
    *settings = (struct broker_settings){ 0 };
}
