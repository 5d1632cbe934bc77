/* SPDX-License-Identifier: MIT */

/* tocsin send */

#include "base/clock.h"
#include "base/log.h"
#include "broker/broker.h"
#include "cli/cli.h"
#include "daemon/setup.h"
#include "link/embedded.h"
#include "mqtt/topic.h"
#include "router/render.h"
#include "router/route.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#define LINK_TO_BROKER "to-broker"
#define TEXT_MAX_BYTES (16 * 1024 * 1024)

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "title", 't', "TEXT", "Title of the notification." },
    { "severity", 's', "WORD", "ok, warning, critical or unknown." },
    { "priority", 'p', "NUMBER", "Priority." },
    { "topic", 0, "TOPIC", "Topic that it says it comes from; tocsin/send if left out." },
    { "wait", 'w', "SECONDS",
      "Longest wait for a link that the service publishes by; 10 if left out." },
    { "json", 0, NULL, "Print a JSON object instead of text." },
    { .name = NULL },
};

/* What the call asks for. */
struct request {
    const char *title, *text, *topic;
    int severity; /* -1: none */
    long priority;
    bool has_priority;
    long wait_s;
};

static const char *read_request(const struct cli_args *args, struct request *r)
{
    const char *severity = cli_value(&cli_send, args, "severity");
    const char *priority = cli_value(&cli_send, args, "priority");
    const char *topic = cli_value(&cli_send, args, "topic");
    const char *wait = cli_value(&cli_send, args, "wait");
    char *end = NULL;
    *r = (struct request){
        .title = cli_value(&cli_send, args, "title"),
        .text = args->rest[1],
        .topic = topic ? topic : "tocsin/send",
        .severity = severity ? severity_from_word(severity, strlen(severity)) : -1,
        .has_priority = priority != NULL,
        .wait_s = 10,
    };
    if (severity && r->severity < 0)
        return "--severity is ok, warning, critical or unknown";
    if (priority)
        r->priority = strtol(priority, &end, 10);
    if (priority && (*end || end == priority || r->priority < INT16_MIN || r->priority > INT16_MAX))
        return "--priority is a whole number from -32768 to 32767";
    if (wait)
        r->wait_s = strtol(wait, &end, 10);
    if (wait && (*end || end == wait || r->wait_s < 0 || r->wait_s > 86400))
        return "--wait is a number of seconds";
    if (topic_name_fault(r->topic, strlen(r->topic)))
        return "--topic is no topic name";
    if (!strchr(args->rest[0], ':'))
        return "where to? write SERVICE:TARGET, such as log:default";
    return NULL;
}

/* Renders the target's own formats as the engine would. */
static const char **render_formats(const struct target *target, const struct fields *fields,
                                   struct buf *texts)
{
    const char **rendered = calloc(target->format_count + 1, sizeof(*rendered));
    for (size_t i = 0; rendered && i < target->format_count; i++) {
        size_t missing = 0;
        buf_init(&texts[i], TEXT_MAX_BYTES);
        if (!target->formats[i].format)
            continue;
        format_render(target->formats[i].format, fields, target->formats[i].clean, &texts[i],
                      &missing);
        rendered[i] = buf_str(&texts[i]);
        if (missing > 0)
            fprintf(stderr,
                    "tocsin send: %s:%s: a text that is sent so has no such fields, they stay as "
                    "they are written: %s\n",
                    target->service, target->name, rendered[i]);
    }
    return rendered;
}

static struct delivery *make_delivery(const struct request *r, struct target *target,
                                      struct message *m)
{
    struct fields_arena *arena = fields_arena_new();
    struct buf *texts = calloc(target->format_count + 1, sizeof(*texts));
    struct delivery *delivery = NULL;
    const char **rendered = NULL;
    struct buf html = BUF_INIT(TEXT_MAX_BYTES);
    render_escaped(&html, r->text, strlen(r->text));
    if (arena && texts) {
        const char *word = severity_word(r->severity);
        const struct fields fields = {
            .message = m,
            .route = "send",
            .arena = arena,
            .decoded = VALUE_OF_TEXT(r->text, strlen(r->text)),
            .title = VALUE_OF_TEXT(r->title ? r->title : "", strlen(r->title ? r->title : "")),
            .text = VALUE_OF_TEXT(r->text, strlen(r->text)),
            .severity = r->severity < 0 ? VALUE_NOTHING : VALUE_OF_TEXT(word, strlen(word)),
            .priority = r->has_priority ? VALUE_OF_INT(r->priority) : VALUE_NOTHING,
        };
        rendered = render_formats(target, &fields, texts);
        const struct delivery_parts parts = {
            .target = target,
            .message = m,
            .route = "send",
            .title = r->title,
            .title_len = r->title ? strlen(r->title) : 0,
            .text = r->text,
            .text_len = strlen(r->text),
            .html = target->wants & TOCSIN_WANTS_HTML ? buf_str(&html) : NULL,
            .html_len = html.len,
            .rendered = rendered,
            .priority = (int)r->priority,
            .has_priority = r->has_priority,
            .has_severity = r->severity >= 0,
            .severity = r->severity >= 0 ? (enum tocsin_severity)r->severity : TOCSIN_OK,
        };
        delivery = rendered ? delivery_new(&parts) : NULL;
    }
    for (size_t i = 0; rendered && i < target->format_count; i++)
        buf_release(&texts[i]);
    buf_release(&html);
    free(rendered);
    free(texts);
    fields_arena_free(arena);
    return delivery;
}

static int report(const struct target *target, int rc, const struct tocsin_delivery *d,
                  bool as_json)
{
    static const char *const words[] = {
        [TOCSIN_RETRY] = "failed, and would be tried again",
        [TOCSIN_SENT] = "sent",
        [TOCSIN_REJECT] = "rejected",
    };
    static const char *const keys[] = {
        [TOCSIN_RETRY] = "retry",
        [TOCSIN_SENT] = "sent",
        [TOCSIN_REJECT] = "reject",
    };
    static const int statuses[] = {
        [TOCSIN_RETRY] = EX_TEMPFAIL,
        [TOCSIN_SENT] = CLI_OK,
        [TOCSIN_REJECT] = CLI_FAILED,
    };
    if (rc < 0) {
        fprintf(stderr, "tocsin send: %s: the service cannot be opened: %s\n", target->service,
                strerror(-rc));
        return CLI_FAILED;
    }
    if (as_json) {
        json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:s}", "service", target->service, "target",
                                 target->name, "verdict", keys[d->verdict], "reason", d->reason,
                                 "receipt", d->receipt);
        json_dumpf(json, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(json);
    } else {
        printf("%s:%s: %s%s%s%s%s\n", target->service, target->name, words[d->verdict],
               d->reason[0] ? ": " : "", d->reason, d->receipt[0] ? ", receipt " : "", d->receipt);
    }
    return fflush(stdout) == 0 ? statuses[d->verdict] : CLI_FAILED;
}

/* What a service publishes goes by links that are made for this one call: those of the configuration, or one to the
 * broker that `tocsin run` includes. */
struct sender {
    struct conf *conf;
    const char *node;
    struct links *links, *to_broker;
    int64_t wait_ms;
};

static void add_quoted(struct buf *out, const char *text)
{
    buf_add_byte(out, '"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            buf_add_byte(out, '\\');
        buf_add_byte(out, *text);
    }
    buf_add_byte(out, '"');
}

/* Writes a configuration with a link to the included broker. Returns 0, or -EADDRNOTAVAIL when it has no listener
 * whose address is known. */
static int link_to_broker(struct conf *conf, struct conf **out, struct conf_errors *errors)
{
    struct broker *broker = NULL;
    const char *host;
    int port;
    int rc = broker_new(conf, &broker, errors);
    if (rc == 0 && !broker_address(broker, &host, &port))
        rc = -EADDRNOTAVAIL;
    if (rc == 0) {
        struct buf text = BUF_INIT(65536);
        buf_add_str(&text, "links = ( { name = \"" LINK_TO_BROKER "\"; host = ");
        add_quoted(&text, host);
        buf_addf(&text, "; port = %d; } );", port);
        rc = conf_load_text("listener", buf_str(&text), out, errors);
        buf_release(&text);
    }
    broker_free(broker);
    return rc;
}

static int open_links(const struct sender *sender, bool to_broker, struct links **out)
{
    const struct links_handler nobody = { 0 };
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf = to_broker ? NULL : conf_ref(sender->conf);
    int rc = to_broker ? link_to_broker(sender->conf, &conf, &errors) : 0;
    if (rc == 0)
        rc = links_new(conf, NULL, sender->node, &nobody, out, &errors);
    if (rc == 0)
        rc = links_start_sending(*out);
    if (rc == 0)
        links_await_ready(*out, sender->wait_ms);
    conf_unref(conf);
    conf_errors_release(&errors);
    return rc;
}

static void publish(void *context, const char *link, struct tocsin_publication *const *publications,
                    size_t n, int64_t timeout_ms)
{
    struct sender *sender = context;
    bool to_broker = strcmp(link, EMBEDDED_NAME) == 0;
    struct links **links = to_broker ? &sender->to_broker : &sender->links;
    int rc = *links ? 0 : open_links(sender, to_broker, links);
    if (rc == 0)
        links_publish(*links, to_broker ? LINK_TO_BROKER : link, publications, n, timeout_ms);
    for (size_t i = 0; rc < 0 && i < n; i++)
        publications[i]->error = rc;
}

/* Lists what could have been meant: the targets of the service, or all services. */
static int no_target(const struct services *services, const char *where, size_t service_len)
{
    const struct target *target;
    const char *name;
    fprintf(stderr, "tocsin send: there is no target \"%s\", known are:", where);
    if (services_target_at(services, where, service_len, 0))
        for (size_t i = 0; (target = services_target_at(services, where, service_len, i)); i++)
            fprintf(stderr, " %s:%s", target->service, target->name);
    else
        for (size_t i = 0; (name = services_name_at(services, i)); i++)
            for (size_t j = 0; (target = services_target_at(services, name, strlen(name), j)); j++)
                fprintf(stderr, " %s:%s", name, target->name);
    fputc('\n', stderr);
    return CLI_FAILED;
}

static int deliver(const struct cli_args *args, const struct request *r, struct setup *setup)
{
    const char *where = args->rest[0], *colon = strchr(where, ':');
    struct target *target = services_target(setup->services, where, (size_t)(colon - where),
                                            colon + 1, strlen(colon + 1));
    if (!target) {
        return no_target(setup->services, where, (size_t)(colon - where));
    }
    struct message *m = message_new(r->topic, strlen(r->topic), r->text, strlen(r->text), NULL);
    struct delivery *delivery = NULL;
    if (m) {
        m->link = "send";
        m->received_ms = clock_wall_ms();
        delivery = make_delivery(r, target, m);
    }
    int status = CLI_FAILED;
    if (delivery) {
        struct tocsin_delivery result = { 0 };
        int rc = services_send_once(delivery, &result);
        status = report(target, rc, &result, cli_value(&cli_send, args, "json") != NULL);
    } else {
        fputs("tocsin send: out of memory\n", stderr);
    }
    delivery_free(delivery);
    message_unref(m);
    return status;
}

static int run(const struct cli_args *args)
{
    struct request request;
    const char *bad = read_request(args, &request);
    if (bad)
        return cli_misused(&cli_send, "%s", bad);
    signal(SIGPIPE, SIG_IGN);
    log_set_level(TOCSIN_LOG_WARNING);
    const char *path = cli_value(&cli_send, args, "config");
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct sender sender = { .wait_ms = request.wait_s * 1000 };
    struct identity identity = { .host = { .publish = publish, .context = &sender } };
    struct setup setup;
    int status = CLI_FAILED;
    int rc = setup_read(&setup, path ? path : setup_default_path(), &identity, NULL, &errors);
    if (rc < 0) {
        fputs(buf_str(&errors.text), stderr);
    } else {
        sender.conf = setup.conf;
        sender.node = "tocsin-send";
        status = deliver(args, &request, &setup);
        setup_release(&setup);
        links_free(sender.links);
        links_free(sender.to_broker);
    }
    identity_release(&identity);
    conf_errors_release(&errors);
    return status;
}

const struct cli_command cli_send = {
    .name = "send",
    .summary = "deliver one text through a service, now",
    .arguments = "SERVICE:TARGET TEXT",
    .description = "Makes one delivery through the real plugin, once, and says what became of it: "
                   "for trying a service\n"
                   "out, and for scripts. No router need run, and none that runs is disturbed.",
    .exit_status =
        "0 sent, 75 failed but may go better later, 1 rejected or impossible, 2 for a call that\n"
        "             makes no sense.",
    .example = "tocsin send phone:ops 'the backup is done'",
    .options = options,
    .least = 2,
    .most = 2,
    .run = run,
};
