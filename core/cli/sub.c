/* SPDX-License-Identifier: MIT */

/* tocsin sub: prints what it receives. Main thread. */

#include "base/clock.h"
#include "cli/client.h"
#include "cli/sub_format.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES  (6 * (size_t)CLIENT_MAX_PAYLOAD + 65536) /* a payload of \u0000 alone */
#define KEPT_LINE_BYTES 65536 /* of the memory for a line that stay for the next */

static const struct cli_option options[] = {
    { "topic", 't', "FILTER", "Topics to subscribe to. May be repeated." },
    { "unsubscribe", 'U', "FILTER",
      "Subscription to end, of a session kept by -c. May be repeated." },
    { "qos", 'q', "QOS", "Most QoS to get messages with: 0, 1 or 2; 0 if left out." },
    { "verbose", 'v', NULL, "Print the topic before the payload." },
    { "format", 'F', "FORMAT", "Print this instead, see below." },
    { "no-newline", 'N', NULL, "Print no line feed after a message." },
    { "pretty", 0, NULL, "Lay out the JSON of %j and %J over several lines." },
    { "count", 'C', "N", "End after N messages." },
    { "timeout", 'W', "SECONDS", "End after so many seconds, with exit status 27." },
    { "exit-subscribed", 'E', NULL, "End as soon as the broker has taken the subscriptions." },
    { "no-retained", 'R', NULL, "Leave out messages that were retained." },
    { "retained-only", 0, NULL, "Print retained messages, and end with the first that is not." },
    { "remove-retained", 0, NULL, "Remove the retained messages that come from the broker." },
    { "retain-as-published", 0, NULL, "Get the retain flag as it was published; MQTT 5." },
    { "filter-out", 'T', "FILTER", "Leave out messages to these topics. May be repeated." },
    { "random-filter", 0, "PERCENT", "Print only so many of the messages, by chance." },
    CLIENT_OPTIONS,
    { .name = NULL },
};

/* Filters, as they stand in the call. */
struct filters {
    char **texts;
    size_t count;
};

struct subscriber {
    struct cli_client client;
    struct client_options options;
    struct filters topics, ended, left_out;
    int qos;
    const char *format; /* NULL: payload alone */
    bool verbose, newline, pretty;
    bool retained_only, no_retained, remove_retained, as_published, until_subscribed;
    double percent;
    long count, printed; /* most messages; 0: no limit */
    int64_t timeout_ms;

    bool done;       /* nothing more is to be printed */
    int status;      /* how it ends then */
    size_t removing; /* messages that remove retained ones, not yet acknowledged */
    struct buf line;
};

static void finish(struct subscriber *s, int status)
{
    s->done = true;
    s->status = status;
}

/* ---- Printing ------------------------------------------------------------------------------------ */

static int lay_out(struct subscriber *s, const struct sub_message *m)
{
    if (s->format) {
        const int rc = sub_format_add(s->format, m, s->pretty, &s->line);
        return rc == 0 && s->newline ? buf_add_byte(&s->line, '\n') : rc;
    }
    /* As mosquitto_sub does it. */
    if (m->len == 0 && !(s->verbose && s->newline))
        return 0;
    if (s->verbose)
        buf_addf(&s->line, "%s ", m->topic);
    if (m->len > 0)
        buf_add(&s->line, m->payload, m->len);
    else
        buf_add_str(&s->line, "(null)");
    if (s->newline)
        buf_add_byte(&s->line, '\n');
    return s->line.error;
}

/* Not by stdio, which would go on with a write that a signal has interrupted. */
static int write_out(const char *at, size_t len)
{
    while (len > 0) {
        const ssize_t n = cli_client_stopped() ? -1 : write(STDOUT_FILENO, at, len);
        if (cli_client_stopped())
            return -EINTR;
        if (n < 0 && errno == EAGAIN)
            poll(&(struct pollfd){ .fd = STDOUT_FILENO, .events = POLLOUT }, 1, -1);
        else if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static void print_line(struct subscriber *s)
{
    const int rc = write_out(buf_str(&s->line), s->line.len);
    if (rc == 0)
        return;
    if (rc != -EPIPE && rc != -EINTR)
        client_say(&s->options, "cannot print: %s", strerror(-rc));
    finish(s, rc == -EINTR ? CLI_OK : CLI_FAILED);
}

static void print(struct subscriber *s, const struct sub_message *m)
{
    const int rc = lay_out(s, m);
    if (rc == -EINVAL)
        client_say(&s->options, "a message to \"%s\" is not JSON, as %%J wants it", m->topic);
    else if (rc < 0)
        client_say(&s->options, "no memory for a message to \"%s\" of %zu bytes", m->topic, m->len);
    else
        print_line(s);
    if (s->line.cap > KEPT_LINE_BYTES)
        buf_release(&s->line);
    buf_clear(&s->line);
}

/* ---- Callbacks ----------------------------------------------------------------------------------- */

static bool is_left_out(const struct subscriber *s, const char *topic)
{
    for (size_t i = 0; i < s->left_out.count; i++)
        if (topic_filter_matches(s->left_out.texts[i], strlen(s->left_out.texts[i]), topic,
                                 strlen(topic)))
            return true;
    return false;
}

static void remove_retained(struct subscriber *s, const char *topic)
{
    const int rc = mosquitto_publish_v5(s->client.mosq, NULL, topic, 0, NULL, 1, true, NULL);
    if (rc == MOSQ_ERR_SUCCESS)
        s->removing++;
    else
        client_say(&s->options, "cannot remove the retained message of \"%s\": %s", topic,
                   mosquitto_strerror(rc));
}

static void on_message(struct mosquitto *mosq, void *context,
                       const struct mosquitto_message *message,
                       const mosquitto_property *properties)
{
    (void)mosq;
    struct cli_client *c = context;
    struct subscriber *s = c->owner;
    if (s->done)
        return;
    if (s->retained_only && !message->retain) {
        finish(s, CLI_OK);
        return;
    }
    if (is_left_out(s, message->topic))
        return;
    if (s->remove_retained && message->retain)
        remove_retained(s, message->topic);
    if ((s->no_retained && message->retain) || drand48() * 100 >= s->percent)
        return;
    struct sub_message m = {
        .topic = message->topic,
        .payload = message->payload,
        .len = (size_t)message->payloadlen,
        .qos = message->qos,
        .retain = message->retain,
        .mid = message->mid,
        .properties = properties,
    };
    clock_gettime(CLOCK_REALTIME, &m.arrived);
    print(s, &m);
    if (!s->done && s->count > 0 && ++s->printed == s->count)
        finish(s, CLI_OK);
}

static void on_subscribe(struct mosquitto *mosq, void *context, int mid, int count,
                         const int *granted, const mosquitto_property *properties)
{
    (void)mosq;
    (void)mid;
    (void)properties;
    struct cli_client *c = context;
    struct subscriber *s = c->owner;
    size_t refused = 0;
    for (size_t i = 0; i < (size_t)count && i < s->topics.count; i++) {
        if (granted[i] < 0x80)
            continue;
        refused++;
        client_say(
            &s->options, "the broker refused the subscription to \"%s\": %s", s->topics.texts[i],
            granted[i] == 0x80 ? "it does not say why" : mosquitto_reason_string(granted[i]));
    }
    if (refused == s->topics.count)
        finish(s, CLI_FAILED);
    else if (s->until_subscribed)
        finish(s, refused > 0 ? CLI_FAILED : CLI_OK);
}

static void on_unsubscribe(struct mosquitto *mosq, void *context, int mid,
                           const mosquitto_property *properties)
{
    (void)mosq;
    (void)mid;
    (void)properties;
    struct cli_client *c = context;
    struct subscriber *s = c->owner;
    /* Nothing else was asked for. */
    if (s->until_subscribed && s->topics.count == 0)
        finish(s, CLI_OK);
}

static void on_publish(struct mosquitto *mosq, void *context, int mid, int reason,
                       const mosquitto_property *properties)
{
    (void)mosq;
    (void)mid;
    (void)properties;
    struct cli_client *c = context;
    struct subscriber *s = c->owner;
    s->removing -= s->removing > 0;
    if (reason >= 0x80)
        client_say(&s->options, "the broker refused to remove a retained message: %s",
                   mosquitto_reason_string(reason));
}

/* ---- Receiving ----------------------------------------------------------------------------------- */

/* Subscribes to all, once there is a connection. */
static int subscribe(struct subscriber *s)
{
    int rc = MOSQ_ERR_SUCCESS;
    if (s->topics.count > 0)
        rc = mosquitto_subscribe_multiple(s->client.mosq, NULL, (int)s->topics.count,
                                          s->topics.texts, s->qos,
                                          s->as_published ? MQTT_SUB_OPT_RETAIN_AS_PUBLISHED : 0,
                                          s->options.properties[CLIENT_SUBSCRIBE]);
    if (rc == MOSQ_ERR_SUCCESS && s->ended.count > 0)
        rc = mosquitto_unsubscribe_multiple(s->client.mosq, NULL, (int)s->ended.count,
                                            s->ended.texts,
                                            s->options.properties[CLIENT_UNSUBSCRIBE]);
    if (rc == MOSQ_ERR_SUCCESS || rc == MOSQ_ERR_NO_CONN || rc == MOSQ_ERR_CONN_LOST)
        return 0; /* a lost connection is noticed by whoever waits */
    client_say(&s->options, "cannot subscribe: %s", mosquitto_strerror(rc));
    return CLI_FAILED;
}

static void regain(struct subscriber *s)
{
    int status;
    switch (cli_client_reconnect(&s->client, &status)) {
    case CLIENT_UP:
        s->removing = 0;
        status = subscribe(s);
        if (status != 0)
            finish(s, status);
        break;
    case CLIENT_LATE:
        finish(s, CLIENT_TIMED_OUT);
        break;
    case CLIENT_LOST:
        finish(s, status);
        break;
    default:
        finish(s, CLI_OK);
    }
}

/* Prints until there is an end to it. */
static void receive(struct subscriber *s)
{
    while (!s->done || s->removing > 0) {
        switch (cli_client_wait(&s->client, -1, -1, &(bool){ false })) {
        case CLIENT_UP:
            break;
        case CLIENT_LOST:
            if (s->done)
                return;
            regain(s);
            break;
        case CLIENT_LATE:
            finish(s, CLIENT_TIMED_OUT);
            return;
        default:
            finish(s, CLI_OK);
            return;
        }
    }
}

static int connect_and_receive(struct subscriber *s)
{
    struct cli_client *c = &s->client;
    int status = cli_client_init(c, &s->options);
    if (status == 0) {
        c->owner = s;
        mosquitto_message_v5_callback_set(c->mosq, on_message);
        mosquitto_subscribe_v5_callback_set(c->mosq, on_subscribe);
        mosquitto_unsubscribe_v5_callback_set(c->mosq, on_unsubscribe);
        mosquitto_publish_v5_callback_set(c->mosq, on_publish);
        status = cli_client_connect(c);
    }
    if (status == 0) {
        if (s->timeout_ms > 0)
            c->deadline_ms = clock_mono_ms() + s->timeout_ms;
        status = subscribe(s);
        if (status == 0) {
            receive(s);
            status = s->status;
        }
        cli_client_disconnect(c);
    }
    if (status == CLIENT_TIMED_OUT)
        client_say(&s->options, "the time of --timeout is over");
    cli_client_free(c);
    return status;
}

/* ---- The call ------------------------------------------------------------------------------------ */

/* Gathers the filters that an option was given. */
static int read_filters(const struct cli_args *args, char letter, struct filters *filters)
{
    filters->texts = calloc(args->given_count + 1, sizeof(*filters->texts));
    if (!filters->texts)
        return CLI_FAILED;
    for (size_t i = 0; i < args->given_count; i++) {
        char *text = args->given[i].value;
        if (args->given[i].option->letter != letter)
            continue;
        const char *fault = topic_filter_fault(text, strlen(text));
        if (fault)
            return cli_misused(&cli_sub, "-%c: bad topic filter \"%s\": %s", letter, text, fault);
        filters->texts[filters->count++] = text;
    }
    return 0;
}

static int read_topics(const struct cli_args *args, struct subscriber *s)
{
    int rc = read_filters(args, 't', &s->topics);
    if (rc == 0)
        rc = read_filters(args, 'U', &s->ended);
    if (rc == 0)
        rc = read_filters(args, 'T', &s->left_out);
    if (rc != 0)
        return rc;
    if (s->options.topic) {
        const char *fault = topic_filter_fault(s->options.topic, strlen(s->options.topic));
        if (fault)
            return cli_misused(&cli_sub, "--url: bad topic filter \"%s\": %s", s->options.topic,
                               fault);
        s->topics.texts[s->topics.count++] = (char *)s->options.topic;
    }
    if (s->topics.count + s->ended.count == 0)
        return cli_misused(&cli_sub, "to what? write -t FILTER, for instance -t '#'");
    return 0;
}

static int read_output(const struct cli_args *args, struct subscriber *s)
{
    size_t at;
    s->format = cli_value(&cli_sub, args, "format");
    s->verbose = cli_value(&cli_sub, args, "verbose") != NULL;
    s->newline = cli_value(&cli_sub, args, "no-newline") == NULL;
    s->pretty = cli_value(&cli_sub, args, "pretty") != NULL;
    const char *fault = s->format ? sub_format_fault(s->format, &at) : NULL;
    if (fault)
        return cli_misused(&cli_sub, "--format: \"%s\" %s", s->format + at, fault);
    const char *percent = cli_value(&cli_sub, args, "random-filter");
    char *end = NULL;
    s->percent = percent ? strtod(percent, &end) : 100;
    if (percent && (*end || end == percent || !(s->percent >= 0.1) || s->percent > 100))
        return cli_misused(&cli_sub, "--random-filter is a number from 0.1 to 100");
    return 0;
}

static int read_request(const struct cli_args *args, struct subscriber *s)
{
    long qos = 0, timeout = 0;
    s->retained_only = cli_value(&cli_sub, args, "retained-only") != NULL;
    s->no_retained = cli_value(&cli_sub, args, "no-retained") != NULL;
    s->remove_retained = cli_value(&cli_sub, args, "remove-retained") != NULL;
    s->as_published = cli_value(&cli_sub, args, "retain-as-published") != NULL;
    s->until_subscribed = cli_value(&cli_sub, args, "exit-subscribed") != NULL;
    if (client_number(&cli_sub, args, "qos", 0, 2, &qos) != 0 ||
        client_number(&cli_sub, args, "timeout", 1, 1000000000, &timeout) != 0 ||
        client_number(&cli_sub, args, "count", 1, 1000000000000, &s->count) != 0)
        return CLI_USAGE;
    s->qos = (int)qos;
    s->timeout_ms = (int64_t)timeout * 1000;
    if (s->retained_only && s->no_retained)
        return cli_misused(&cli_sub, "--retained-only and -R together leave nothing to print");
    if (s->options.properties[CLIENT_PUBLISH])
        return cli_misused(&cli_sub, "-D: sub sends connect, subscribe, unsubscribe, disconnect "
                                     "and will only");
    const int rc = read_topics(args, s);
    return rc == 0 ? read_output(args, s) : rc;
}

static int run(const struct cli_args *args)
{
    struct subscriber s = { .line = BUF_INIT(LINE_MAX_BYTES) };
    const bool as_published = cli_value(&cli_sub, args, "retain-as-published") != NULL;
    int status = client_options_read(&cli_sub, args, as_published ? "retain-as-published" : NULL,
                                     &s.options);
    srand48((long)clock_wall_ms());
    if (status == 0)
        status = read_request(args, &s);
    if (status == 0)
        status = connect_and_receive(&s);
    buf_release(&s.line);
    free(s.topics.texts);
    free(s.ended.texts);
    free(s.left_out.texts);
    client_options_release(&s.options);
    return status;
}

const struct cli_command cli_sub = {
    .name = "sub",
    .summary = "subscribe to topics of a broker, and print the messages",
    .arguments = "",
    .description = "Connects to an MQTT broker, subscribes, and prints the payload of each message "
                   "on a line, until\n"
                   "it is interrupted. The options are those that people know from mosquitto_sub. "
                   "A connection that\n"
                   "is lost is made again.",
    .exit_status = CLIENT_EXIT_STATUS "\n             27 when the time of --timeout is over.",
    .example = "tocsin sub -h 192.0.2.7 -t 'sensors/+/celsius' -F '@H:@M:@S %t %p'",
    .options = options,
    .details = sub_format_help,
    .words = client_option_words,
    .run = run,
};
