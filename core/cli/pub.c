/* SPDX-License-Identifier: MIT */

/* tocsin pub: publishes what it is given. Main thread. */

#include "base/clock.h"
#include "cli/client.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <fcntl.h>
#include <mqtt_protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW      100   /* messages of -l that may be on their way at once */
#define LARGE_LINE  65536 /* such a line goes alone */
#define CHUNK_BYTES 65536 /* read from standard input at a time */

static const struct cli_option options[] = {
    { "topic", 't', "TOPIC", "Topic to publish to." },
    { "message", 'm', "TEXT", "The payload." },
    { "file", 'f', "FILE", "The payload is what is in the file." },
    { "stdin-file", 's', NULL, "The payload is all of standard input." },
    { "stdin-line", 'l', NULL, "Each line of standard input is a message." },
    { "null-message", 'n', NULL, "The payload is empty." },
    { "qos", 'q', "QOS", "0, 1 or 2; 0 if left out." },
    { "retain", 'r', NULL, "The broker keeps it for later subscribers." },
    { "repeat", 0, "N", "Publish the message N times." },
    { "repeat-delay", 0, "SECONDS", "Wait so long from when one has arrived to the next." },
    { "max-inflight", 'M', "N", "Most messages of QoS 1 and 2 without an answer; 20 if left out." },
    CLIENT_OPTIONS,
    { .name = NULL },
};

struct publisher {
    struct cli_client client;
    struct client_options options;
    const char *topic;
    int qos;
    bool retain;
    bool has_alias, alias_known; /* a topic alias is given; the broker knows it */
    bool persistent;             /* connect again if the connection is lost */
    size_t pending;              /* published, and not yet written (QoS 0) or acknowledged */
    bool failed;                 /* a message was refused */
};

static void on_publish(struct mosquitto *mosq, void *context, int mid, int reason,
                       const mosquitto_property *properties)
{
    (void)mosq;
    (void)mid;
    struct cli_client *c = context;
    struct publisher *p = c->owner;
    char *text = NULL;
    p->pending -= p->pending > 0;
    if (reason < 0x80)
        return;
    mosquitto_property_read_string(properties, MQTT_PROP_REASON_STRING, &text, false);
    client_say(&p->options, "the broker refused a message to \"%s\": %s%s%s", p->topic,
               mosquitto_reason_string(reason), text ? ": " : "", text ? text : "");
    free(text);
    p->failed = true;
}

/* Returns 0, or an exit status when it has complained. */
static int publish(struct publisher *p, const void *payload, size_t len)
{
    const bool by_alias = p->has_alias && p->alias_known;
    if (len > CLIENT_MAX_PAYLOAD) {
        client_say(&p->options, "a payload is at most %d bytes long", CLIENT_MAX_PAYLOAD);
        return CLI_FAILED;
    }
    p->pending++; /* before the call, in which the callback may come */
    const int rc =
        mosquitto_publish_v5(p->client.mosq, NULL, by_alias ? NULL : p->topic, (int)len, payload,
                             p->qos, p->retain, p->options.properties[CLIENT_PUBLISH]);
    p->alias_known = true;
    if (rc == MOSQ_ERR_SUCCESS || rc == MOSQ_ERR_NO_CONN || rc == MOSQ_ERR_CONN_LOST)
        return 0; /* whoever waits for the answer notices */
    p->pending--;
    client_say(&p->options, "cannot publish to \"%s\": %s%s", p->topic, mosquitto_strerror(rc),
               rc == MOSQ_ERR_QOS_NOT_SUPPORTED ? "; try a lower -q" : "");
    return CLI_FAILED;
}

/* After a loss. Returns 0 when there is a connection again, or an exit status when it has complained. */
static int regain(struct publisher *p)
{
    int status;
    if (!p->persistent) {
        client_say(&p->options, "connection lost before all was sent: %s", p->client.why);
        return CLI_FAILED;
    }
    if (cli_client_reconnect(&p->client, &status) != CLIENT_UP)
        return status ? status : CLI_FAILED;
    /* With QoS 1 and 2 the library publishes again what was not acknowledged. */
    if (p->qos == 0 && p->pending > 0) {
        client_say(&p->options, "lost %zu messages of QoS 0", p->pending);
        p->pending = 0;
    }
    return 0;
}

/* Waits for something to happen, at most `timeout_ms`, or that `fd` can be read. */
static int wait_some(struct publisher *p, int timeout_ms, int fd, bool *readable)
{
    switch (cli_client_wait(&p->client, timeout_ms, fd, readable)) {
    case CLIENT_UP:
        return 0;
    case CLIENT_LOST:
        return regain(p);
    default: /* a signal */
        return CLI_FAILED;
    }
}

/* Waits until at most `most` messages are on their way. */
static int await_answers(struct publisher *p, size_t most)
{
    int status = 0;
    while (status == 0 && p->pending > most)
        status = wait_some(p, -1, -1, &(bool){ false });
    return status;
}

/* ---- One message, perhaps several times ---------------------------------------------------------- */

static int pause_for(struct publisher *p, int64_t ms)
{
    const int64_t end = clock_mono_ms() + ms;
    int status = 0;
    for (int64_t left = ms; status == 0 && left > 0; left = end - clock_mono_ms())
        status = wait_some(p, (int)left, -1, &(bool){ false });
    return status;
}

static int publish_repeated(struct publisher *p, const struct buf *payload, long times,
                            int64_t delay_ms)
{
    int status = 0;
    for (long i = 0; i < times && status == 0; i++) {
        if (i > 0 && delay_ms > 0)
            status = pause_for(p, delay_ms);
        if (status == 0)
            status = publish(p, buf_str(payload), payload->len);
        if (status == 0)
            status = await_answers(p, 0);
    }
    return status;
}

/* ---- Lines of standard input --------------------------------------------------------------------- */

/* Publishes the lines that are complete, and keeps the rest; at the end, that too. In the first `scanned` bytes
 * there is no line feed. */
static int publish_lines(struct publisher *p, struct buf *input, size_t scanned, bool end)
{
    const char *at = buf_str(input), *const stop = at + input->len;
    int status = 0;
    while (status == 0 && at < stop) {
        const char *feed = memchr(at + scanned, '\n', (size_t)(stop - at) - scanned);
        if (!feed && !end)
            break;
        const size_t len = (size_t)((feed ? feed : stop) - at);
        status = await_answers(p, len > LARGE_LINE ? 0 : WINDOW);
        if (status == 0)
            status = publish(p, at, len);
        at = feed ? feed + 1 : stop;
        scanned = 0;
    }
    const size_t left = (size_t)(stop - at);
    if (left > 0)
        memmove(input->data, at, left);
    buf_cut(input, left);
    return status;
}

/* Appends what can be read of `fd` now. Returns the number of bytes, or a negative errno value. */
static ssize_t read_some(int fd, struct buf *input)
{
    char *room = buf_reserve(input, CHUNK_BYTES);
    if (!room)
        return input->error;
    const ssize_t n = read(fd, room, CHUNK_BYTES);
    if (n > 0)
        buf_commit(input, (size_t)n);
    return n < 0 ? -errno : n;
}

static const char *input_fault(ssize_t error)
{
    return error == -E2BIG ? "it is larger than a message can be" : strerror((int)-error);
}

static int publish_stdin(struct publisher *p)
{
    struct buf input = BUF_INIT(CLIENT_MAX_PAYLOAD + CHUNK_BYTES);
    int status = 0;
    ssize_t n = 1;
    while (status == 0 && n != 0) {
        bool readable;
        status = wait_some(p, -1, STDIN_FILENO, &readable);
        if (status != 0 || !readable)
            continue;
        const size_t scanned = input.len;
        n = read_some(STDIN_FILENO, &input);
        if (n >= 0) {
            status = publish_lines(p, &input, scanned, n == 0);
        } else if (n != -EINTR && n != -EAGAIN) {
            client_say(&p->options, "cannot read standard input: %s", input_fault(n));
            status = CLI_FAILED;
        }
    }
    buf_release(&input);
    return status == 0 ? await_answers(p, 0) : status;
}

/* ---- The call ------------------------------------------------------------------------------------ */

struct request {
    const char *text, *file;
    bool lines, all_input;
    long times, max_inflight;
    int64_t delay_ms;
};

static int read_request(const struct cli_args *args, struct publisher *p, struct request *r)
{
    long qos = 0;
    const bool none = cli_value(&cli_pub, args, "null-message") != NULL;
    *r = (struct request){
        .text = cli_value(&cli_pub, args, "message"),
        .file = cli_value(&cli_pub, args, "file"),
        .lines = cli_value(&cli_pub, args, "stdin-line") != NULL,
        .all_input = cli_value(&cli_pub, args, "stdin-file") != NULL,
        .times = 1,
        .max_inflight = 20,
    };
    const int modes = !!r->text + !!r->file + r->lines + r->all_input + none;
    if (modes != 1)
        return cli_misused(&cli_pub, modes == 0
                                         ? "what? write -m TEXT, -f FILE, -s (standard input), -l "
                                           "(its lines), or -n (nothing)"
                                         : "-m, -f, -s, -l and -n exclude each other");
    p->retain = cli_value(&cli_pub, args, "retain") != NULL;
    p->topic = cli_value(&cli_pub, args, "topic");
    if (!p->topic)
        p->topic = p->options.topic;
    if (!p->topic)
        return cli_misused(&cli_pub, "where to? write -t TOPIC");
    const char *fault = topic_name_fault(p->topic, strlen(p->topic));
    if (fault)
        return cli_misused(&cli_pub, "--topic: bad topic name \"%s\": %s", p->topic, fault);
    if (client_number(&cli_pub, args, "qos", 0, 2, &qos) != 0 ||
        client_number(&cli_pub, args, "repeat", 1, 1000000000, &r->times) != 0 ||
        client_number(&cli_pub, args, "max-inflight", 1, 65535, &r->max_inflight) != 0 ||
        client_seconds(&cli_pub, args, "repeat-delay", &r->delay_ms) != 0)
        return CLI_USAGE;
    p->qos = (int)qos;
    if (r->lines && r->times > 1)
        return cli_misused(&cli_pub, "--repeat is for one message, and -l for many");
    if (p->options.properties[CLIENT_SUBSCRIBE] || p->options.properties[CLIENT_UNSUBSCRIBE])
        return cli_misused(&cli_pub, "-D: pub sends connect, publish, disconnect and will only");
    p->has_alias = mosquitto_property_read_int16(p->options.properties[CLIENT_PUBLISH],
                                                 MQTT_PROP_TOPIC_ALIAS, &(uint16_t){ 0 }, false);
    /* What the library would publish again has no topic then. */
    p->persistent = r->lines && !p->has_alias;
    return 0;
}

/* Reads the payload into memory. */
static int read_payload(const struct publisher *p, const struct request *r, struct buf *payload)
{
    if (r->text)
        buf_add_str(payload, r->text);
    if (!r->file && !r->all_input)
        return payload->error ? CLI_FAILED : 0;
    const int fd = r->file ? open(r->file, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    ssize_t n = fd < 0 ? -errno : 1;
    while (n > 0 || n == -EINTR)
        n = read_some(fd, payload);
    if (fd > STDIN_FILENO)
        close(fd);
    if (n < 0)
        client_say(&p->options, "cannot read %s: %s", r->file ? r->file : "standard input",
                   input_fault(n));
    return n < 0 ? CLI_FAILED : 0;
}

static int connect_and_publish(struct publisher *p, const struct request *r)
{
    struct buf payload = BUF_INIT(CLIENT_MAX_PAYLOAD + CHUNK_BYTES);
    struct cli_client *c = &p->client;
    int status = cli_client_init(c, &p->options);
    if (status == 0 && !r->lines)
        status = read_payload(p, r, &payload);
    if (status == 0) {
        c->owner = p;
        mosquitto_publish_v5_callback_set(c->mosq, on_publish);
        mosquitto_int_option(c->mosq, MOSQ_OPT_SEND_MAXIMUM, (int)r->max_inflight);
        status = cli_client_connect(c);
    }
    if (status == 0) {
        status = r->lines ? publish_stdin(p) : publish_repeated(p, &payload, r->times, r->delay_ms);
        cli_client_disconnect(c);
    }
    cli_client_free(c);
    buf_release(&payload);
    return status == 0 && p->failed ? CLI_FAILED : status;
}

static int run(const struct cli_args *args)
{
    struct publisher p = { 0 };
    struct request request;
    int status = client_options_read(&cli_pub, args, NULL, &p.options);
    if (status == 0)
        status = read_request(args, &p, &request);
    if (status == 0)
        status = connect_and_publish(&p, &request);
    client_options_release(&p.options);
    return status;
}

const struct cli_command cli_pub = {
    .name = "pub",
    .summary = "publish messages to a broker",
    .arguments = "",
    .description = "Connects to an MQTT broker, publishes a message, or each line of standard "
                   "input, and ends when\n"
                   "the broker has taken it (with QoS 1 and 2: has acknowledged it). The options "
                   "are those that people\n"
                   "know from mosquitto_pub. With -l a connection that is lost is made again.",
    .exit_status = CLIENT_EXIT_STATUS,
    .example = "tocsin pub -h 192.0.2.7 -t sensors/attic/celsius -m 21.5 -q 1 -r",
    .options = options,
    .words = client_option_words,
    .run = run,
};
