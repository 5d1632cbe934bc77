/* SPDX-License-Identifier: MIT */

/*
 * linkcat FILE: the links of a configuration without a router, driven by JSON lines, for tests. With a group
 * `broker` there is the included one, which starts with the links, and its link "broker".
 *
 * What happens is told by lines on standard output, by any thread:
 *   {"message": {"link", "topic", "payload" or "payload_hex", "qos", "retain", "hops", "generation",
 *                "properties": {...} or null}}
 *       A payload over 4 KiB gives "len" and "sum" (of its bytes, modulo 2^32) instead.
 *   {"lost": {"link", "generation"}}
 *
 * Each line on standard input is a request, and is answered by one line:
 *   {"filters": [["a/#", 1], ...], "link": "l"}   -> {"ok": true}
 *   {"start": true}                               -> {"ok": true}
 *   {"start_sending": true}                       -> {"ok": true}; the sending halves alone
 *   {"ready": 5000}                               -> {"ready": true}; waits so many ms
 *   {"hold": true}     messages from now on are not taken over      -> {"ok": true}
 *   {"release": true}  those held are, and those that follow at once -> {"ok": true}
 *   {"quiet": true}    messages are only counted from now on        -> {"ok": true}
 *   {"count": true}                               -> {"count": messages since the start}
 *   {"publish": [PUBLICATION, ...], "link": "l", "timeout_ms": 5000}
 *                                                 -> {"results": [[error, reason_code], ...]}
 *       PUBLICATION: "topic", "payload" or "payload_hex" or "zeros": bytes, "qos", "retain", "hops",
 *       "properties": {"content_type", "response_topic", "correlation_hex", "user": [["a", "b"], ...],
 *       "expires_in_ms", "payload_utf8"}
 *   {"stats": "l"}                                -> {"stats": {...}}
 *   {"stop_receiving": true}                      -> {"ok": true}
 * The end of standard input ends it. Exit status 1 with the errors on standard error if the
 * configuration is wrong.
 */

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "broker/broker.h"
#include "link/links.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_PAYLOAD 4096
#define MAX_USER     32

struct cat {
    struct broker *broker; /* NULL for none */
    struct links *links;
    pthread_mutex_t lock; /* of all below, and of standard output */
    bool hold, quiet;
    struct message *held, **held_end;
    uint64_t count;
};

static void print_line(json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT);
    printf("%s\n", text);
    fflush(stdout);
    free(text);
    json_decref(line);
}

static json_t *hex(const uint8_t *data, size_t len)
{
    struct buf text = BUF_INIT(1 << 20);
    for (size_t i = 0; i < len; i++)
        buf_addf(&text, "%02x", data[i]);
    json_t *value = json_string(buf_str(&text));
    buf_release(&text);
    return value;
}

/* Returns bytes with a NUL behind them, or NULL. */
static uint8_t *from_hex(const char *text, size_t *len)
{
    *len = strlen(text) / 2;
    uint8_t *data = calloc(*len + 1, 1);
    for (size_t i = 0; data && i < *len; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) == 1)
            data[i] = (uint8_t)byte;
    }
    return data;
}

static json_t *properties_to_json(const struct tocsin_properties *p)
{
    if (!p)
        return json_null();
    json_t *out = json_object();
    if (p->content_type)
        json_object_set_new(out, "content_type", json_string(p->content_type));
    if (p->response_topic)
        json_object_set_new(out, "response_topic", json_string(p->response_topic));
    if (p->correlation)
        json_object_set_new(out, "correlation_hex", hex(p->correlation, p->correlation_len));
    if (p->payload_utf8 >= 0)
        json_object_set_new(out, "payload_utf8", json_integer(p->payload_utf8));
    if (p->expires_ms > 0)
        json_object_set_new(out, "expires_in_ms", json_integer(p->expires_ms - clock_wall_ms()));
    json_t *user = json_array();
    for (size_t i = 0; i < p->user_count; i++)
        json_array_append_new(user, json_pack("[ss]", p->user[i].name, p->user[i].value));
    json_object_set_new(out, "user", user);
    return out;
}

static json_t *message_to_json(const struct message *m)
{
    json_t *out =
        json_pack("{ss ss si sb si sI so}", "link", m->link, "topic", m->topic, "qos", m->qos,
                  "retain", m->retain, "hops", m->hops, "generation", (json_int_t)m->generation,
                  "properties", properties_to_json(m->properties));
    if (m->payload_len > LONG_PAYLOAD) {
        uint32_t sum = 0;
        for (size_t i = 0; i < m->payload_len; i++)
            sum += m->payload[i];
        json_object_set_new(out, "len", json_integer((json_int_t)m->payload_len));
        json_object_set_new(out, "sum", json_integer(sum));
    } else if (utf8_valid(m->payload, m->payload_len)) {
        json_object_set_new(out, "payload", json_stringn((const char *)m->payload, m->payload_len));
    } else {
        json_object_set_new(out, "payload_hex", hex(m->payload, m->payload_len));
    }
    return out;
}

/* ---- What the links tell ------------------------------------------------------------------------- */

static void on_messages(void *context, struct message *first, size_t n)
{
    struct cat *cat = context;
    pthread_mutex_lock(&cat->lock);
    cat->count += n;
    if (!cat->quiet)
        for (struct message *m = first; m; m = m->next)
            print_line(json_pack("{so}", "message", message_to_json(m)));
    bool hold = cat->hold;
    if (hold) {
        *cat->held_end = first;
        while (*cat->held_end)
            cat->held_end = &(*cat->held_end)->next;
    }
    pthread_mutex_unlock(&cat->lock);
    while (first && !hold) {
        struct message *m = first;
        first = m->next;
        message_release_hold(m);
        message_unref(m);
    }
}

static void on_lost(void *context, const char *link, uint64_t generation)
{
    struct cat *cat = context;
    pthread_mutex_lock(&cat->lock);
    print_line(json_pack("{s{ss sI}}", "lost", "link", link, "generation", (json_int_t)generation));
    pthread_mutex_unlock(&cat->lock);
}

static void release(struct cat *cat)
{
    pthread_mutex_lock(&cat->lock);
    cat->hold = false;
    struct message *first = cat->held;
    cat->held = NULL;
    cat->held_end = &cat->held;
    pthread_mutex_unlock(&cat->lock);
    while (first) {
        struct message *m = first;
        first = m->next;
        message_release_hold(m);
        message_unref(m);
    }
}

/* ---- Requests ------------------------------------------------------------------------------------ */

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static json_t *set_filters(struct cat *cat, const json_t *request)
{
    const json_t *list = json_object_get(request, "filters");
    size_t n = json_array_size(list);
    struct link_filter *filters = calloc(n + 1, sizeof(*filters));
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(list, i);
        filters[i] = (struct link_filter){
            .filter = json_string_value(json_array_get(pair, 0)),
            .qos = (uint8_t)json_integer_value(json_array_get(pair, 1)),
        };
    }
    int rc = links_set_filters(cat->links, text_of(request, "link"), filters, n);
    free(filters);
    return json_pack("{sb}", "ok", rc == 0);
}

/* One publication and the memory that it points to. */
struct made {
    struct tocsin_publication publication;
    struct tocsin_properties properties;
    struct tocsin_property user[MAX_USER];
    uint8_t *payload, *correlation;
};

static void make_properties(struct made *made, const json_t *from)
{
    struct tocsin_properties *p = &made->properties;
    *p = (struct tocsin_properties){
        .content_type = text_of(from, "content_type"),
        .response_topic = text_of(from, "response_topic"),
        .user = made->user,
        .payload_utf8 = -1,
    };
    if (text_of(from, "correlation_hex")) {
        made->correlation = from_hex(text_of(from, "correlation_hex"), &p->correlation_len);
        p->correlation = made->correlation;
    }
    if (json_object_get(from, "payload_utf8"))
        p->payload_utf8 = (int8_t)json_integer_value(json_object_get(from, "payload_utf8"));
    if (json_object_get(from, "expires_in_ms"))
        p->expires_ms =
            clock_wall_ms() + json_integer_value(json_object_get(from, "expires_in_ms"));
    const json_t *user = json_object_get(from, "user");
    for (; p->user_count < json_array_size(user) && p->user_count < MAX_USER; p->user_count++) {
        const json_t *pair = json_array_get(user, p->user_count);
        made->user[p->user_count] =
            (struct tocsin_property){ json_string_value(json_array_get(pair, 0)),
                                      json_string_value(json_array_get(pair, 1)) };
    }
    made->publication.properties = p;
}

static void make_publication(struct made *made, const json_t *from)
{
    struct tocsin_publication *pub = &made->publication;
    *made = (struct made){ 0 };
    pub->topic = text_of(from, "topic");
    pub->qos = (uint8_t)json_integer_value(json_object_get(from, "qos"));
    pub->retain = json_is_true(json_object_get(from, "retain"));
    pub->hops = (uint8_t)json_integer_value(json_object_get(from, "hops"));
    if (text_of(from, "payload_hex")) {
        made->payload = from_hex(text_of(from, "payload_hex"), &pub->payload_len);
    } else if (json_object_get(from, "zeros")) {
        pub->payload_len = (size_t)json_integer_value(json_object_get(from, "zeros"));
        made->payload = calloc(pub->payload_len + 1, 1);
    } else if (text_of(from, "payload")) {
        pub->payload_len = json_string_length(json_object_get(from, "payload"));
        made->payload = (uint8_t *)strdup(text_of(from, "payload"));
    }
    pub->payload = made->payload;
    if (json_object_get(from, "properties"))
        make_properties(made, json_object_get(from, "properties"));
}

static json_t *publish(struct cat *cat, const json_t *request)
{
    const json_t *list = json_object_get(request, "publish");
    size_t n = json_array_size(list);
    struct made *made = calloc(n + 1, sizeof(*made));
    struct tocsin_publication **pointers = calloc(n + 1, sizeof(*pointers));
    for (size_t i = 0; i < n; i++) {
        make_publication(&made[i], json_array_get(list, i));
        pointers[i] = &made[i].publication;
    }
    const json_t *timeout = json_object_get(request, "timeout_ms");
    links_publish(cat->links, text_of(request, "link"), pointers, n,
                  timeout ? json_integer_value(timeout) : 10000);
    json_t *results = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(results,
                              json_pack("[ii]", pointers[i]->error, pointers[i]->reason_code));
        free(made[i].payload);
        free(made[i].correlation);
    }
    free(made);
    free(pointers);
    return json_pack("{so}", "results", results);
}

static json_t *stats(struct cat *cat, const char *link)
{
    struct link_stats s;
    if (!links_stats(cat->links, link, &s))
        return json_pack("{ss}", "error", "no such link");
    return json_pack("{s{sI sI sI sI sI sI sI sI sI sb}}", "stats", "received",
                     (json_int_t)s.received, "received_bytes", (json_int_t)s.received_bytes,
                     "published", (json_int_t)s.published, "publish_failed",
                     (json_int_t)s.publish_failed, "connects", (json_int_t)s.connects,
                     "loops_stopped", (json_int_t)s.loops_stopped, "dropped", (json_int_t)s.dropped,
                     "subscriptions_refused", (json_int_t)s.subscriptions_refused, "untaken",
                     (json_int_t)s.untaken, "connected", s.connected);
}

static bool *flag_of(struct cat *cat, const json_t *request)
{
    return json_object_get(request, "hold")    ? &cat->hold
           : json_object_get(request, "quiet") ? &cat->quiet
                                               : NULL;
}

static json_t *handle(struct cat *cat, const json_t *request)
{
    bool ok = true;
    if (json_object_get(request, "filters"))
        return set_filters(cat, request);
    if (json_object_get(request, "publish"))
        return publish(cat, request);
    if (json_object_get(request, "stats"))
        return stats(cat, text_of(request, "stats"));
    if (json_object_get(request, "ready"))
        return json_pack(
            "{sb}", "ready",
            links_await_ready(cat->links, json_integer_value(json_object_get(request, "ready"))));
    if (json_object_get(request, "start")) {
        ok = (!cat->broker || broker_start(cat->broker) == 0) && links_start(cat->links) == 0;
    } else if (json_object_get(request, "start_sending")) {
        ok = links_start_sending(cat->links) == 0;
    } else if (json_object_get(request, "stop_receiving")) {
        links_stop_receiving(cat->links);
    } else if (json_object_get(request, "release")) {
        release(cat);
    } else if (json_object_get(request, "count") || flag_of(cat, request)) {
        pthread_mutex_lock(&cat->lock);
        bool *flag = flag_of(cat, request);
        if (flag)
            *flag = true;
        json_int_t count = (json_int_t)cat->count;
        pthread_mutex_unlock(&cat->lock);
        if (!flag)
            return json_pack("{sI}", "count", count);
    } else {
        return json_pack("{ss}", "error", "unknown request");
    }
    return json_pack("{sb}", "ok", ok);
}

static void serve(struct cat *cat)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        json_error_t error;
        json_t *request = json_loads(line, 0, &error);
        json_t *answer = request ? handle(cat, request) : json_pack("{ss}", "error", error.text);
        pthread_mutex_lock(&cat->lock);
        print_line(answer);
        pthread_mutex_unlock(&cat->lock);
        json_decref(request);
    }
    free(line);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: linkcat FILE\n", stderr);
        return 2;
    }
    struct cat cat = { .lock = PTHREAD_MUTEX_INITIALIZER };
    cat.held_end = &cat.held;
    const struct links_handler handler = { .messages = on_messages,
                                           .lost = on_lost,
                                           .context = &cat };
    struct conf *conf = NULL;
    struct conf_errors errors = CONF_ERRORS_INIT;
    int rc = conf_load(argv[1], &conf, &errors);
    if (rc == 0 && conf_node_get(conf_root(conf), "broker"))
        rc = broker_new(conf, &cat.broker, &errors);
    if (rc == 0)
        rc = links_new(conf, cat.broker, "cat", &handler, &cat.links, &errors);
    fputs(buf_str(&errors.text), stderr);
    conf_errors_release(&errors);
    if (rc == 0)
        serve(&cat);
    if (cat.broker)
        broker_stop_intake(cat.broker);
    release(&cat);
    links_free(cat.links);
    release(&cat);
    broker_free(cat.broker);
    conf_unref(conf);
    return rc == 0 ? 0 : 1;
}
