/* SPDX-License-Identifier: MIT */

#include "delivery/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1

/* Part of the file format: never renumber. */
enum tag {
    TAG_ID = 1,
    TAG_TOPIC = 2,
    TAG_PAYLOAD = 3,
    TAG_LINK = 4,
    TAG_ROUTE = 5,
    TAG_TITLE = 6,
    TAG_TEXT = 7, /* missing: the payload is the text */
    TAG_HTML = 8,
    TAG_PRIORITY = 9,
    TAG_SEVERITY = 10,
    TAG_QOS = 11,
    TAG_RETAIN = 12,
    TAG_HOPS = 13,
    TAG_RECEIVED = 14, /* ms since 1970 */
    TAG_RENDERED = 15, /* in the order of the target's formats, */
    TAG_NOT_RENDERED = 16,
    TAG_FIELD_NAME = 17, /* then its type and text */
    TAG_FIELD_TYPE = 18,
    TAG_FIELD_TEXT = 19,
    TAG_PROPERTIES = 20, /* there are properties, perhaps none of these */
    TAG_CONTENT_TYPE = 21,
    TAG_RESPONSE_TOPIC = 22,
    TAG_CORRELATION = 23,
    TAG_USER_NAME = 24, /* then its value */
    TAG_USER_VALUE = 25,
    TAG_EXPIRES = 26, /* ms since 1970 */
    TAG_PAYLOAD_UTF8 = 27,
    TAG_FALLBACK = 28, /* "service:target", then what was rendered for it */
    TAG_FALLBACK_HTML = 29,
    TAG_FALLBACK_RENDERED = 30,
    TAG_FALLBACK_NOT_RENDERED = 31,
    TAG_FALLBACK_FIELD_NAME = 32,
    TAG_FALLBACK_FIELD_TYPE = 33,
    TAG_FALLBACK_FIELD_TEXT = 34,
    TAG_LEDGER = 40, /* what its route has kept of it; missing: the default */
};

/* ---- Writing ---- */

static void put(struct buf *out, enum tag tag, const void *data, size_t len)
{
    buf_add_byte(out, (char)tag);
    size_t rest = len;
    for (; rest >= 0x80; rest >>= 7)
        buf_add_byte(out, (char)(rest | 0x80));
    buf_add_byte(out, (char)rest);
    buf_add(out, data, len);
}

static void put_text(struct buf *out, enum tag tag, const char *text)
{
    if (text)
        put(out, tag, text, strlen(text));
}

static void put_number(struct buf *out, enum tag tag, uint64_t number)
{
    uint8_t bytes[8];
    size_t len = 0;
    for (; number; number >>= 8)
        bytes[len++] = (uint8_t)number;
    put(out, tag, bytes, len);
}

/* Texts in the order of the target's formats. */
static void put_rendered(struct buf *out, enum tag tag, enum tag not_set, const char *const *texts,
                         size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (texts[i])
            put_text(out, tag, texts[i]);
        else
            put_number(out, not_set, 0);
    }
}

/* `name` is followed by the tags of type and text. */
static void put_fields(struct buf *out, enum tag name, const struct tocsin_message *v)
{
    for (size_t i = 0; i < v->field_count; i++) {
        put_text(out, name, v->fields[i]->name);
        put_number(out, name + 1, v->fields[i]->type);
        put(out, name + 2, v->fields[i]->text, v->fields[i]->len);
    }
}

static void put_fallbacks(struct buf *out, const struct delivery *d)
{
    for (; d; d = d->fallback) {
        put_text(out, TAG_FALLBACK, d->address);
        put_text(out, TAG_FALLBACK_HTML, d->view.html);
        put_rendered(out, TAG_FALLBACK_RENDERED, TAG_FALLBACK_NOT_RENDERED, d->rendered,
                     d->rendered_count);
        put_fields(out, TAG_FALLBACK_FIELD_NAME, &d->view);
    }
}

static void put_properties(struct buf *out, const struct tocsin_properties *p)
{
    if (!p)
        return;
    put_number(out, TAG_PROPERTIES, 1);
    put_text(out, TAG_CONTENT_TYPE, p->content_type);
    put_text(out, TAG_RESPONSE_TOPIC, p->response_topic);
    if (p->correlation)
        put(out, TAG_CORRELATION, p->correlation, p->correlation_len);
    for (size_t i = 0; i < p->user_count; i++) {
        put_text(out, TAG_USER_NAME, p->user[i].name);
        put_text(out, TAG_USER_VALUE, p->user[i].value);
    }
    if (p->expires_ms > 0)
        put_number(out, TAG_EXPIRES, (uint64_t)p->expires_ms);
    if (p->payload_utf8 >= 0)
        put_number(out, TAG_PAYLOAD_UTF8, (uint64_t)p->payload_utf8);
}

int record_write(const struct delivery *d, size_t rendered_count, struct buf *out)
{
    const struct tocsin_message *v = &d->view;
    buf_add_byte(out, VERSION);
    put_text(out, TAG_ID, d->id);
    put(out, TAG_TOPIC, v->topic, d->message->topic_len);
    put(out, TAG_PAYLOAD, v->payload, v->payload_len);
    put_text(out, TAG_LINK, v->link);
    put_text(out, TAG_ROUTE, v->route);
    if (v->title[0])
        put_text(out, TAG_TITLE, v->title);
    if (!v->text_is_payload) /* else, what is not UTF-8 in it is made fit again when it is read */
        put(out, TAG_TEXT, v->text, v->text_len);
    put_text(out, TAG_HTML, v->html);
    if (v->has_priority)
        put_number(out, TAG_PRIORITY, (uint64_t)(int64_t)v->priority);
    if (v->has_severity)
        put_number(out, TAG_SEVERITY, v->severity);
    put_number(out, TAG_QOS, v->qos);
    put_number(out, TAG_RETAIN, v->retain);
    put_number(out, TAG_HOPS, v->hops);
    if (d->ledger != LEDGER_KEEP_DEFAULT)
        put_number(out, TAG_LEDGER, d->ledger);
    put_number(out, TAG_RECEIVED, (uint64_t)v->received_ms);
    put_rendered(out, TAG_RENDERED, TAG_NOT_RENDERED, d->rendered, rendered_count);
    put_fields(out, TAG_FIELD_NAME, v);
    put_properties(out, v->properties);
    put_fallbacks(out, d->fallback);
    return out->error;
}

/* ---- Reading ---- */

struct slice {
    const uint8_t *data;
    size_t len;
};

struct reader {
    const uint8_t *at, *end;
    bool failed;
};

/* The next field. Returns false at the end, or for bytes that are none. */
static bool next(struct reader *r, uint8_t *tag, struct slice *out)
{
    if (r->at == r->end)
        return false;
    *tag = *r->at++;
    uint64_t len = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (r->at == r->end || shift > 56) {
            r->failed = true;
            return false;
        }
        uint8_t byte = *r->at++;
        len |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            break;
    }
    if (len > (uint64_t)(r->end - r->at)) {
        r->failed = true;
        return false;
    }
    *out = (struct slice){ r->at, (size_t)len };
    r->at += len;
    return true;
}

static uint64_t number(struct slice s)
{
    uint64_t value = 0;
    for (size_t i = 0; i < s.len && i < 8; i++)
        value |= (uint64_t)s.data[i] << 8 * i;
    return value;
}

static const struct {
    const char *name;
    bool is_number;
} tags[] = {
    [TAG_ID] = { "id", false },
    [TAG_TOPIC] = { "topic", false },
    [TAG_PAYLOAD] = { "payload", false },
    [TAG_LINK] = { "link", false },
    [TAG_ROUTE] = { "route", false },
    [TAG_TITLE] = { "title", false },
    [TAG_TEXT] = { "text", false },
    [TAG_HTML] = { "html", false },
    [TAG_PRIORITY] = { "priority", true },
    [TAG_SEVERITY] = { "severity", true },
    [TAG_QOS] = { "qos", true },
    [TAG_RETAIN] = { "retain", true },
    [TAG_HOPS] = { "hops", true },
    [TAG_RECEIVED] = { "received_ms", true },
    [TAG_RENDERED] = { "rendered", false },
    [TAG_FIELD_NAME] = { "field", false },
    [TAG_FIELD_TEXT] = { "value", false },
    [TAG_CONTENT_TYPE] = { "content_type", false },
    [TAG_RESPONSE_TOPIC] = { "response_topic", false },
    [TAG_CORRELATION] = { "correlation_data", false },
    [TAG_USER_NAME] = { "user_property", false },
    [TAG_USER_VALUE] = { "user_value", false },
    [TAG_EXPIRES] = { "expires_ms", true },
    [TAG_PAYLOAD_UTF8] = { "payload_format_indicator", true },
    [TAG_FALLBACK] = { "fallback", false },
};

bool record_next(const void *data, size_t len, size_t *at, struct record_field *out)
{
    const uint8_t *bytes = data;
    if (len < 1 || bytes[0] != VERSION)
        return false;
    if (*at == 0)
        *at = 1;
    struct reader r = { bytes + *at, bytes + len, .failed = false };
    uint8_t tag;
    struct slice s;
    while (next(&r, &tag, &s)) {
        *at = (size_t)(r.at - bytes);
        if (tag >= sizeof(tags) / sizeof(tags[0]) || !tags[tag].name)
            continue;
        *out = (struct record_field){ tags[tag].name, (const char *)s.data, s.len,
                                      tags[tag].is_number, "" };
        if (out->is_number) {
            out->len =
                (size_t)snprintf(out->number, sizeof(out->number), "%" PRId64, (int64_t)number(s));
            out->data = out->number;
        }
        return true;
    }
    return false;
}

/* What is special for one target. */
struct rendering {
    const char *address; /* NULL: the target's that the record is for */
    const char *html;
    size_t html_len;
    const char **rendered; /* in the array that all of them share */
    size_t rendered_count;
    struct tocsin_field *fields; /* the same */
    size_t field_count;
};

/* What is being put together. Texts are copies with a NUL, all of them in one block. */
struct parts {
    struct delivery_parts delivery;
    struct tocsin_properties properties;
    struct slice topic, payload;
    const char *link, *id;
    struct rendering *renderings; /* the target's own, then its fallbacks' */
    size_t rendering_count;
    const char **rendered; /* of all */
    size_t rendered_count;
    struct tocsin_field *fields;
    size_t field_count;
    struct tocsin_property *user;
    uint64_t qos, hops, retain, received;
    bool has_properties;
    char *copies; /* as long as the record: each field loses its head and gains a NUL */
    size_t used;
};

static const char *copy(struct parts *p, struct slice s)
{
    char *text = p->copies + p->used;
    if (s.len > 0)
        memcpy(text, s.data, s.len);
    text[s.len] = '\0';
    p->used += s.len + 1;
    return text;
}

static void begin_rendering(struct parts *p, const char *address)
{
    p->renderings[p->rendering_count++] = (struct rendering){
        .address = address,
        .rendered = p->rendered + p->rendered_count,
        .fields = p->fields + p->field_count,
    };
}

static void add_rendered(struct parts *p, struct rendering *to, const char *text)
{
    p->rendered[p->rendered_count++] = text;
    to->rendered_count++;
}

/* A field of what was rendered for one target; others than the last one's come from no writer. */
static void read_rendering(struct parts *p, uint8_t tag, struct slice s)
{
    struct rendering *r = &p->renderings[p->rendering_count - 1];
    struct tocsin_field *last = r->field_count > 0 ? &r->fields[r->field_count - 1] : NULL;
    switch (tag) {
    case TAG_HTML:
    case TAG_FALLBACK_HTML:
        r->html = copy(p, s);
        r->html_len = s.len;
        break;
    case TAG_RENDERED:
    case TAG_FALLBACK_RENDERED:
        add_rendered(p, r, copy(p, s));
        break;
    case TAG_NOT_RENDERED:
    case TAG_FALLBACK_NOT_RENDERED:
        add_rendered(p, r, NULL);
        break;
    case TAG_FIELD_NAME:
    case TAG_FALLBACK_FIELD_NAME:
        r->fields[r->field_count++] = (struct tocsin_field){ .name = copy(p, s), .text = "" };
        p->field_count++;
        break;
    case TAG_FIELD_TYPE:
    case TAG_FALLBACK_FIELD_TYPE:
        if (last && number(s) <= TOCSIN_FIELD_JSON)
            last->type = (enum tocsin_field_type)number(s);
        break;
    case TAG_FIELD_TEXT:
    case TAG_FALLBACK_FIELD_TEXT:
        if (last) {
            last->text = copy(p, s);
            last->len = s.len;
        }
        break;
    case TAG_FALLBACK:
        begin_rendering(p, copy(p, s));
        break;
    }
}

static void read_property(struct parts *p, uint8_t tag, struct slice s)
{
    struct tocsin_properties *props = &p->properties;
    switch (tag) {
    case TAG_PROPERTIES:
        p->has_properties = true;
        break;
    case TAG_CONTENT_TYPE:
        props->content_type = copy(p, s);
        break;
    case TAG_RESPONSE_TOPIC:
        props->response_topic = copy(p, s);
        break;
    case TAG_CORRELATION:
        props->correlation = s.data;
        props->correlation_len = s.len;
        break;
    case TAG_USER_NAME:
        p->user[props->user_count++] = (struct tocsin_property){ copy(p, s), "" };
        break;
    case TAG_USER_VALUE:
        if (props->user_count > 0)
            p->user[props->user_count - 1].value = copy(p, s);
        break;
    case TAG_EXPIRES:
        props->expires_ms = (int64_t)number(s);
        break;
    case TAG_PAYLOAD_UTF8:
        props->payload_utf8 = number(s) != 0;
        break;
    }
}

static void read_part(struct parts *p, uint8_t tag, struct slice s)
{
    struct delivery_parts *d = &p->delivery;
    switch (tag) {
    case TAG_ID:
        p->id = copy(p, s);
        break;
    case TAG_TOPIC:
        p->topic = s;
        break;
    case TAG_PAYLOAD:
        p->payload = s;
        break;
    case TAG_LINK:
        p->link = copy(p, s);
        break;
    case TAG_ROUTE:
        d->route = copy(p, s);
        break;
    case TAG_TITLE:
        d->title = copy(p, s);
        d->title_len = s.len;
        break;
    case TAG_TEXT:
        d->text = copy(p, s);
        d->text_len = s.len;
        break;
    case TAG_PRIORITY:
        d->priority = (int)(int64_t)number(s);
        d->has_priority = true;
        break;
    case TAG_SEVERITY:
        d->severity = (enum tocsin_severity)(number(s) & 3);
        d->has_severity = true;
        break;
    case TAG_QOS:
        p->qos = number(s);
        break;
    case TAG_RETAIN:
        p->retain = number(s);
        break;
    case TAG_HOPS:
        p->hops = number(s);
        break;
    case TAG_LEDGER:
        d->ledger =
            number(s) <= LEDGER_KEEP_NONE ? (enum ledger_keep)number(s) : LEDGER_KEEP_DEFAULT;
        break;
    case TAG_RECEIVED:
        p->received = number(s);
        break;
    default:
        read_rendering(p, tag, s);
        read_property(p, tag, s);
    }
}

static struct message *make_message(const struct parts *p, const char *link)
{
    struct message *m = message_new((const char *)p->topic.data, p->topic.len, p->payload.data,
                                    p->payload.len, p->has_properties ? &p->properties : NULL);
    if (!m)
        return NULL;
    m->received_ms = (int64_t)p->received;
    m->link = link;
    m->qos = (uint8_t)p->qos;
    m->retain = p->retain != 0;
    m->hops = (uint8_t)p->hops;
    return m;
}

/* How many fields there are of these tags. */
static size_t count(struct reader r, const uint8_t *wanted, size_t n)
{
    size_t found = 0;
    uint8_t tag;
    struct slice s;
    while (next(&r, &tag, &s))
        for (size_t i = 0; i < n; i++)
            found += tag == wanted[i];
    return found;
}

size_t record_formats(const void *data, size_t len)
{
    static const uint8_t formats[] = { TAG_RENDERED, TAG_NOT_RENDERED };
    if (len < 1 || *(const uint8_t *)data != VERSION)
        return 0;
    return count((struct reader){ (const uint8_t *)data + 1, (const uint8_t *)data + len, false },
                 formats, 2);
}

/* Whether it was rendered for the formats that the target has. */
static bool fits(const struct rendering *r, const struct target *target)
{
    if (r->rendered_count != target->format_count)
        return false;
    for (size_t i = 0; target->formats && i < target->format_count; i++)
        if (target->formats[i].format && !r->rendered[i])
            return false;
    return true;
}

/* Makes the delivery for one target. A fallback's is found when it is needed; until then it has none. */
static struct delivery *make_one(struct parts *p, const struct rendering *r, struct target *target)
{
    struct target unknown = { .format_count = r->rendered_count };
    char *service = r->address ? strdup(r->address) : NULL;
    char *colon = service ? strchr(service, ':') : NULL;
    if (r->address && !colon) {
        free(service);
        return NULL;
    }
    if (colon) {
        *colon = '\0';
        unknown.service = service;
        unknown.name = colon + 1;
    }
    struct delivery_parts parts = p->delivery;
    parts.target = r->address ? &unknown : target;
    parts.is_fallback = r->address != NULL;
    parts.html = r->html;
    parts.html_len = r->html_len;
    parts.rendered = r->rendered;
    parts.fields = r->fields;
    parts.field_count = r->field_count;
    struct delivery *d = delivery_new(&parts);
    if (d && r->address)
        d->target = NULL;
    free(service);
    return d;
}

/* Makes it with its fallbacks; NULL when there is no memory. */
static struct delivery *make_all(struct parts *p, struct target *target)
{
    struct delivery *d = make_one(p, &p->renderings[0], target);
    if (!d)
        return NULL;
    memcpy(d->id, p->id, strlen(p->id) + 1);
    for (size_t i = 1; i < p->rendering_count; i++) {
        struct delivery *fallback = make_one(p, &p->renderings[i], NULL);
        if (!fallback) {
            delivery_free(d);
            return NULL;
        }
        delivery_add_fallback(d, fallback);
    }
    return d;
}

static void parts_release(struct parts *p)
{
    free(p->renderings);
    free(p->rendered);
    free(p->fields);
    free(p->user);
    free(p->copies);
}

/* Makes room for all that there may be. Returns 0 or -ENOMEM. */
static int parts_init(struct parts *p, struct reader r, size_t len)
{
    static const uint8_t fallbacks[] = { TAG_FALLBACK };
    static const uint8_t users[] = { TAG_USER_NAME };
    static const uint8_t fields[] = { TAG_FIELD_NAME, TAG_FALLBACK_FIELD_NAME };
    static const uint8_t formats[] = { TAG_RENDERED, TAG_NOT_RENDERED, TAG_FALLBACK_RENDERED,
                                       TAG_FALLBACK_NOT_RENDERED };
    *p = (struct parts){ .delivery.route = "", .properties.payload_utf8 = -1 };
    p->renderings = calloc(count(r, fallbacks, 1) + 1, sizeof(*p->renderings));
    p->rendered = calloc(count(r, formats, 4) + 1, sizeof(*p->rendered));
    p->fields = calloc(count(r, fields, 2) + 1, sizeof(*p->fields));
    p->user = calloc(count(r, users, 1) + 1, sizeof(*p->user));
    p->copies = malloc(len + 1);
    if (!p->renderings || !p->rendered || !p->fields || !p->user || !p->copies)
        return -ENOMEM;
    begin_rendering(p, NULL);
    return 0;
}

/* Whether there is all that a delivery must have. */
static bool is_whole(const struct parts *p)
{
    for (size_t i = 1; i < p->rendering_count; i++)
        if (!strchr(p->renderings[i].address, ':'))
            return false;
    return p->topic.data && p->id && strlen(p->id) < sizeof(((struct delivery *)0)->id);
}

int record_read(const void *data, size_t len, struct target *target,
                const char *(*link)(void *context, const char *name), void *context,
                struct delivery **out)
{
    *out = NULL;
    if (len < 1 || *(const uint8_t *)data != VERSION)
        return -EBADMSG;
    struct reader r = { (const uint8_t *)data + 1, (const uint8_t *)data + len, .failed = false };
    struct parts p;
    int rc = parts_init(&p, r, len);

    uint8_t tag;
    struct slice s;
    while (rc == 0 && next(&r, &tag, &s))
        read_part(&p, tag, s);
    if (rc == 0 && (r.failed || !is_whole(&p)))
        rc = -EBADMSG;
    if (rc == 0 && !fits(&p.renderings[0], target))
        rc = -ESTALE;
    if (rc == 0) {
        p.properties.user = p.user;
        p.delivery.message = make_message(&p, link(context, p.link ? p.link : ""));
        *out = p.delivery.message ? make_all(&p, target) : NULL;
        message_unref(p.delivery.message);
        rc = *out ? 0 : -ENOMEM;
    }
    parts_release(&p);
    return rc;
}
