/* SPDX-License-Identifier: MIT */

/*
 * republish: publishes messages again, by any link of the router, under another topic.
 *
 * The link does the work and counts the hops; what is here is the topic, what of the message goes
 * along, and what the broker's answer means for the delivery. A batch is published at once and its
 * acknowledgements are awaited together.
 *
 * MQTT 5.0: reason codes 2.4, topic names 4.7, what a forwarded message keeps 3.3.2.3.
 */

#include "tocsin/plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BATCH_MAX = 100,
    TOPIC_MAX = 65535, /* bytes [MQTT-4.7.3-3] */
    HOPS_MAX = 255,
    QUOTA_PARK_MS = 30000,
};

static const char ID_PROPERTY[] = "tocsin-id";
static const char EXPIRED[] = "expired before it could be published";

struct republish_service {
    const char *link;
    struct tocsin_duration timeout;
};

struct republish_target {
    struct tocsin_format topic;
    const char *payload;
    int64_t qos;
    bool retain;
    bool properties;
    bool id;
    struct tocsin_format content_type;
    bool dollar_topics;
};

struct republish {
    const struct tocsin_host *host;
    const struct republish_service *service;
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(
        struct republish_service, link, .flags = TOCSIN_OPTION_REQUIRED | TOCSIN_OPTION_LINK,
        .help = "Name of the link that publishes, \"broker\" for the included broker; it may be "
                "the one that messages come by."),
    TOCSIN_OPTION(struct republish_service, timeout, .def = "10s", .min = 100, .max = 600000,
                  .help = "Longest wait for the broker to acknowledge."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct republish_target, topic,
                  .flags = TOCSIN_OPTION_REQUIRED | TOCSIN_CLEAN_TOPIC,
                  .help = "Topic to publish under, such as \"alarms/{room}\"."),
    TOCSIN_OPTION(struct republish_target, payload, .def = "text", .choices = "text|payload",
                  .help =
                      "What is published: \"text\", as the route formats it, or \"payload\", as it "
                      "came, whatever the route says."),
    TOCSIN_OPTION(struct republish_target, qos, .def = "1", .min = 0, .max = 2,
                  .help = "Quality of service, 0 to 2."),
    TOCSIN_OPTION(struct republish_target, retain, .def = "false",
                  .help = "Whether the broker keeps it as the retained message of its topic."),
    TOCSIN_OPTION(
        struct republish_target, properties, .def = "true",
        .help = "Whether the properties of an MQTT 5 message go along: user properties, response "
                "topic, correlation data, expiry; with its own payload also its type."),
    TOCSIN_OPTION(struct republish_target, id, .def = "true",
                  .help =
                      "Whether the user property tocsin-id goes along: the delivery's id, which "
                      "is the same when it is published once more."),
    TOCSIN_OPTION(struct republish_target, content_type, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Content type of MQTT 5, such as \"text/plain\", in place of what came."),
    TOCSIN_OPTION(struct republish_target, dollar_topics, .def = "false",
                  .help = "Whether a topic may begin with '$'; most brokers refuse it."),
    { .name = NULL },
};

/* What is wrong with a topic, or NULL. */
static const char *topic_wrong(const char *topic, bool dollar_topics)
{
    if (topic[0] == '\0')
        return "topic: is empty"; /* [MQTT-4.7.3-1] */
    if (strpbrk(topic, "+#"))
        return "topic: has a wildcard, '+' or '#'"; /* [MQTT-3.3.2-2] */
    if (topic[0] == '$' && !dollar_topics)
        return "topic: begins with '$', which needs dollar_topics = true";
    if (strlen(topic) > TOPIC_MAX)
        return "topic: is longer than 65535 bytes";
    return NULL;
}

/* The topic as the file has it, as far as it is the same for every message: without its {fields}. */
static const char *republish_check_target(const void *service, const void *ctx)
{
    (void)service;
    const struct republish_target *target = ctx;
    const char *text = target->topic.text;
    size_t depth = 0;

    if (text[0] == '\0')
        return topic_wrong(text, true);
    for (const char *at = text; *at; at++) {
        if (*at == '{')
            depth++;
        else if (*at == '}' && depth > 0)
            depth--;
        else if (depth == 0 && strchr("+#", *at))
            return "topic: has a wildcard, '+' or '#', but must name one topic";
    }
    return text[0] == '$' ? topic_wrong("$", target->dollar_topics) : NULL;
}

static int64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Adds the delivery's id to the user properties, in place of one that an earlier router has given it. Returns them in
 * memory to be freed, or NULL. */
static struct tocsin_property *user_with_id(const struct tocsin_delivery *d,
                                            struct tocsin_properties *properties)
{
    size_t count = properties->user_count, used = 0;
    struct tocsin_property *user = calloc(count + 1, sizeof(*user));
    if (!user)
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(properties->user[i].name, ID_PROPERTY) != 0)
            user[used++] = properties->user[i];
    user[used++] = (struct tocsin_property){ ID_PROPERTY, d->message->id };
    properties->user = user;
    properties->user_count = used;
    return user;
}

/* Fills in what goes along, part of it in `*user`, memory to be freed. Returns whether there is anything. */
static bool properties_fill(const struct tocsin_delivery *d, bool as_it_came,
                            struct tocsin_properties *properties, struct tocsin_property **user)
{
    const struct republish_target *target = d->target;
    const struct tocsin_properties *came = d->message->properties;
    const char *content_type = tocsin_rendered(d, &target->content_type);
    bool carried = came && target->properties;

    *properties = carried ? *came : (struct tocsin_properties){ .payload_utf8 = -1 };
    if (!as_it_came) { /* these are about the payload, which is another one now */
        properties->content_type = NULL;
        properties->payload_utf8 = 1;
    }
    if (content_type)
        properties->content_type = content_type[0] ? content_type : NULL;
    *user = target->id && d->message->id ? user_with_id(d, properties) : NULL;
    return carried || properties->content_type || *user;
}

/* Fills in the publication of a delivery. Returns NULL, or why there can be none. */
static const char *publication_fill(const struct tocsin_delivery *d, int64_t now_ms,
                                    struct tocsin_publication *publication,
                                    struct tocsin_properties *properties,
                                    struct tocsin_property **user)
{
    const struct republish_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *topic = tocsin_rendered(d, &target->topic);
    const char *why = topic_wrong(topic, target->dollar_topics);
    if (why)
        return why;
    if (m->hops >= HOPS_MAX)
        return "republished too often: a loop";
    if (m->properties && m->properties->expires_ms != 0 && m->properties->expires_ms <= now_ms)
        return EXPIRED;

    bool as_it_came = m->text_is_payload || strcmp(target->payload, "payload") == 0;
    bool has_properties = properties_fill(d, as_it_came, properties, user);
    *publication = (struct tocsin_publication){
        .topic = topic,
        .payload = as_it_came ? m->payload : (const uint8_t *)m->text,
        .payload_len = as_it_came ? m->payload_len : m->text_len,
        .qos = (uint8_t)target->qos,
        .retain = target->retain,
        .hops = (uint8_t)(m->hops + 1),
        .properties = has_properties ? properties : NULL,
        .error = -EAGAIN,
    };
    return NULL;
}

/* What a reason code of 0x80 or more means [MQTT 5.0, 3.4.2.1, 3.5.2.1, 3.14.2.1]. */
static const struct reason {
    uint8_t code;
    enum tocsin_verdict verdict;
    const char *text;
} reasons[] = {
    { 0x80, TOCSIN_RETRY, "refused, no reason given" },
    { 0x83, TOCSIN_RETRY, "refused for a reason of the broker's own" },
    { 0x87, TOCSIN_REJECT, "not authorized" },
    { 0x90, TOCSIN_REJECT, "topic name refused" },
    { 0x91, TOCSIN_RETRY, "packet identifier in use" },
    { 0x95, TOCSIN_REJECT, "packet too large for the broker" },
    { 0x97, TOCSIN_RETRY, "quota exceeded" },
    { 0x99, TOCSIN_REJECT, "payload is not of the format that it claims" },
    { 0x9A, TOCSIN_REJECT, "broker keeps no retained messages" },
    { 0x9B, TOCSIN_REJECT, "broker does not have this quality of service" },
};

/* Turns the result of a publication into a verdict. */
static void verdict_set(const struct republish *self, struct tocsin_delivery *d,
                        const struct tocsin_publication *publication)
{
    const char *link = self->service->link;
    uint8_t code = publication->reason_code;

    if (publication->error == 0 && code < 0x80) {
        d->verdict = TOCSIN_SENT;
        if (code == 0x10)
            memcpy(d->receipt, "no subscribers", sizeof("no subscribers"));
        return;
    }
    for (size_t i = 0; code >= 0x80 && i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        const struct reason *reason = &reasons[i];
        if (reason->code != code)
            continue;
        self->host->fail(d, reason->verdict, 0, "link=%s: %s (0x%02X)", link, reason->text, code);
        if (code == 0x97)
            d->retry_after_ms = d->park_ms = QUOTA_PARK_MS;
        return;
    }

    int error = publication->error;
    if (error == -ESTALE) {
        self->host->fail(d, TOCSIN_REJECT, 0, "%s", EXPIRED);
        return;
    }
    bool for_good = error == -EACCES || error == -EINVAL || error == -EMSGSIZE || error == -E2BIG;
    enum tocsin_verdict verdict = for_good ? TOCSIN_REJECT : TOCSIN_RETRY;
    if (code != 0)
        self->host->fail(d, verdict, error, "link=%s: refused (0x%02X)", link, code);
    else if (error == -EAGAIN)
        self->host->fail(d, verdict, 0, "link=%s: not connected", link);
    else
        self->host->fail(d, verdict, error, "link=%s", link);
}

static void republish_send(void *ctx, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct republish *self = ctx;
    struct tocsin_properties properties[BATCH_MAX];
    struct tocsin_property *users[BATCH_MAX];
    struct tocsin_publication publications[BATCH_MAX];
    struct tocsin_publication *list[BATCH_MAX];
    struct tocsin_delivery *sound[BATCH_MAX];
    int64_t now_ms = wall_ms();
    size_t count = 0;

    for (size_t i = 0; i < n && i < BATCH_MAX; i++) {
        const char *why = publication_fill(deliveries[i], now_ms, &publications[count],
                                           &properties[count], &users[count]);
        if (why) {
            self->host->fail(deliveries[i], TOCSIN_REJECT, 0, "%s", why);
            continue;
        }
        list[count] = &publications[count];
        sound[count++] = deliveries[i];
    }
    if (count > 0)
        self->host->publish(self->host, self->service->link, list, count,
                            self->service->timeout.ms);
    for (size_t i = 0; i < count; i++)
        free(users[i]);
    bool is_down = false;
    for (size_t i = 0; i < count; i++) {
        int error = list[i]->error;
        bool silent = (error == -EAGAIN || error == -ETIMEDOUT) && list[i]->reason_code == 0;
        if (!silent || !is_down) /* once is enough to say it: the others keep their preset */
            verdict_set(self, sound[i], list[i]);
        is_down = is_down || silent;
    }
}

static int republish_open(const struct tocsin_host *host, const void *service, void **self)
{
    struct republish *republish = malloc(sizeof(*republish));
    if (!republish)
        return -ENOMEM;
    *republish = (struct republish){ .host = host, .service = service };
    *self = republish;
    return 0;
}

static void republish_close(void *ctx)
{
    free(ctx);
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "republish",
    .summary = "messages to an MQTT broker again, under another topic",
    .service_options = service_options,
    .service_size = sizeof(struct republish_service),
    .target_options = target_options,
    .target_size = sizeof(struct republish_target),
    .max_batch = BATCH_MAX,
    .check_target = republish_check_target,
    .open = republish_open,
    .send = republish_send,
    .close = republish_close,
};
