/* SPDX-License-Identifier: MIT */

#include "router/delivery.h"

#include "base/buf.h"
#include "base/utf8.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- Identifiers: a random number for this run of the program, then a counter ---- */

static uint64_t run;
static pthread_once_t run_once = PTHREAD_ONCE_INIT;
static _Atomic uint64_t last_id;

static void make_run(void)
{
    if (getrandom(&run, sizeof(run), GRND_NONBLOCK) != (ssize_t)sizeof(run))
        run = (uint64_t)time(NULL) * 0x9E3779B97F4A7C15u;
}

static char *put_hex(char *at, uint64_t number)
{
    static const char digits[] = "0123456789abcdef";
    int shift = 60;
    while (shift > 0 && number >> shift == 0)
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *at++ = digits[number >> shift & 15];
    return at;
}

static void make_id(char id[40])
{
    pthread_once(&run_once, make_run);
    char *at = put_hex(id, run);
    *at++ = '-';
    at = put_hex(at, atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1);
    *at = '\0';
}

void delivery_run(char out[DELIVERY_RUN_SIZE])
{
    pthread_once(&run_once, make_run);
    *put_hex(out, run) = '\0';
}

/* ---- Making one ---- */

/* Cuts the block into pieces, arrays first, so that only they need to be aligned. */
struct cutter {
    char *at;
};

static void *cut(struct cutter *cutter, size_t bytes)
{
    void *piece = cutter->at;
    cutter->at += bytes;
    return piece;
}

static const char *cut_copy(struct cutter *cutter, const char *text, size_t len)
{
    char *copy = cut(cutter, len + 1);
    if (len > 0)
        memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

/* The bytes of the block: the struct, arrays of pointers and fields, texts with their NUL. */
static size_t block_size(const struct delivery_parts *parts)
{
    size_t size = sizeof(struct delivery);
    size += parts->target->format_count * sizeof(char *);
    size += parts->field_count * (sizeof(struct tocsin_field *) + sizeof(struct tocsin_field));
    size += strlen(parts->route) + 1;
    if (parts->is_fallback)
        size += strlen(parts->target->service) + strlen(parts->target->name) + 2;
    if (parts->title)
        size += parts->title_len + 1;
    if (parts->text)
        size += parts->text_len + 1;
    if (parts->html)
        size += parts->html_len + 1;
    for (size_t i = 0; i < parts->target->format_count; i++)
        if (parts->rendered[i])
            size += strlen(parts->rendered[i]) + 1;
    for (size_t i = 0; i < parts->field_count; i++)
        size += strlen(parts->fields[i].name) + 1 + parts->fields[i].len + 1;
    return size;
}

static void cut_rendered(struct delivery *d, struct cutter *cutter, const char **rendered,
                         const struct delivery_parts *parts)
{
    for (size_t i = 0; i < parts->target->format_count; i++) {
        const char *text = parts->rendered[i];
        rendered[i] = text ? cut_copy(cutter, text, strlen(text)) : NULL;
    }
    d->rendered = rendered;
    d->rendered_count = parts->target->format_count;
}

static const char *cut_address(struct cutter *cutter, const struct target *target)
{
    size_t service_len = strlen(target->service), name_len = strlen(target->name);
    char *address = cut(cutter, service_len + name_len + 2);
    memcpy(address, target->service, service_len);
    address[service_len] = ':';
    memcpy(address + service_len + 1, target->name, name_len + 1);
    return address;
}

static void cut_fields(struct delivery *d, struct cutter *cutter,
                       const struct tocsin_field **pointers, struct tocsin_field *fields,
                       const struct delivery_parts *parts)
{
    for (size_t i = 0; i < parts->field_count; i++) {
        const struct tocsin_field *from = &parts->fields[i];
        fields[i] = *from;
        fields[i].name = cut_copy(cutter, from->name, strlen(from->name));
        fields[i].text = cut_copy(cutter, from->text, from->len);
        pointers[i] = &fields[i];
    }
    d->view.fields = pointers;
    d->view.field_count = parts->field_count;
}

static struct delivery *make(const struct delivery_parts *parts, bool text_is_payload)
{
    struct message *m = parts->message;
    size_t size = block_size(parts);
    struct delivery *d = malloc(size);
    if (!d)
        return NULL;

    *d = (struct delivery){
        .target = parts->target,
        .message = message_ref(m),
        .size = size + message_size(m),
        .ledger = parts->ledger,
        .view = {
            .topic = m->topic,
            .payload = m->payload,
            .payload_len = m->payload_len,
            .link = m->link ? m->link : "",
            .received_ms = m->received_ms,
            .priority = parts->priority,
            .has_priority = parts->has_priority,
            .severity = parts->severity,
            .has_severity = parts->has_severity,
            .text_is_payload = text_is_payload,
            .qos = m->qos,
            .retain = m->retain,
            .hops = m->hops,
            .properties = m->properties,
        },
    };
    atomic_init(&d->refs, 1);
    make_id(d->id);
    d->view.id = d->id;

    struct cutter cutter = { (char *)(d + 1) };
    const char **rendered = cut(&cutter, parts->target->format_count * sizeof(*rendered));
    const struct tocsin_field **pointers = cut(&cutter, parts->field_count * sizeof(*pointers));
    struct tocsin_field *fields = cut(&cutter, parts->field_count * sizeof(*fields));
    cut_rendered(d, &cutter, rendered, parts);
    cut_fields(d, &cutter, pointers, fields, parts);
    if (parts->is_fallback)
        d->address = cut_address(&cutter, parts->target);
    d->view.route = cut_copy(&cutter, parts->route, strlen(parts->route));
    d->view.title = parts->title ? cut_copy(&cutter, parts->title, parts->title_len) : "";
    d->view.html = parts->html ? cut_copy(&cutter, parts->html, parts->html_len) : NULL;
    if (parts->text) {
        d->view.text = cut_copy(&cutter, parts->text, parts->text_len);
        d->view.text_len = parts->text_len;
    } else {
        d->view.text = (const char *)m->payload;
        d->view.text_len = m->payload_len;
    }
    return d;
}

/* ---- What is not fit to be a text ---- */

static bool is_text(const char *text, size_t len)
{
    return len == 0 || (!memchr(text, '\0', len) && utf8_valid(text, len));
}

static bool all_are_texts(const struct delivery_parts *parts)
{
    for (size_t i = 0; i < parts->target->format_count; i++)
        if (parts->rendered[i] && !is_text(parts->rendered[i], strlen(parts->rendered[i])))
            return false;
    for (size_t i = 0; i < parts->field_count; i++)
        if (!is_text(parts->fields[i].text, parts->fields[i].len) ||
            !is_text(parts->fields[i].name, strlen(parts->fields[i].name)))
            return false;
    if (!parts->text &&
        !is_text((const char *)parts->message->payload, parts->message->payload_len))
        return false;
    return (!parts->text || is_text(parts->text, parts->text_len)) &&
           (!parts->title || is_text(parts->title, parts->title_len)) &&
           (!parts->html || is_text(parts->html, parts->html_len));
}

/* Copies that are texts, kept until the delivery is made. */
struct cleaner {
    char **copies;
    size_t count;
    bool failed;
};

static const char *clean(struct cleaner *cleaner, const char *text, size_t *len)
{
    if (!text || is_text(text, *len))
        return text;
    struct buf copy = BUF_INIT(SIZE_MAX / 2);
    if (utf8_add_lossy(&copy, text, *len) < 0) {
        buf_release(&copy);
        cleaner->failed = true;
        return text;
    }
    *len = copy.len;
    char *taken = buf_take(&copy);
    if (!taken) {
        cleaner->failed = true;
        return text;
    }
    cleaner->copies[cleaner->count++] = taken;
    return taken;
}

static const char *clean_string(struct cleaner *cleaner, const char *text)
{
    size_t len = text ? strlen(text) : 0;
    return clean(cleaner, text, &len);
}

/* The rare case: some bytes from outside have come as far as here. */
static struct delivery *make_cleaned(const struct delivery_parts *dirty)
{
    struct delivery_parts parts = *dirty;
    size_t formats = dirty->target->format_count;
    struct delivery *d = NULL;

    /* At most one copy for each text there is: three, the formats, names and texts of the fields. */
    struct cleaner cleaner = { calloc(3 + formats + 2 * dirty->field_count, sizeof(char *)),
                               .count = 0 };
    const char **rendered = calloc(formats + 1, sizeof(*rendered));
    struct tocsin_field *fields = calloc(dirty->field_count + 1, sizeof(*fields));
    if (!cleaner.copies || !rendered || !fields)
        goto out;

    if (!parts.text) {
        parts.text = (const char *)parts.message->payload;
        parts.text_len = parts.message->payload_len;
    }
    parts.text = clean(&cleaner, parts.text, &parts.text_len);
    parts.title = clean(&cleaner, parts.title, &parts.title_len);
    parts.html = clean(&cleaner, parts.html, &parts.html_len);
    for (size_t i = 0; i < formats; i++)
        rendered[i] = clean_string(&cleaner, dirty->rendered[i]);
    for (size_t i = 0; i < parts.field_count; i++) {
        fields[i] = dirty->fields[i];
        size_t name_len = strlen(fields[i].name);
        fields[i].name = clean(&cleaner, fields[i].name, &name_len);
        fields[i].text = clean(&cleaner, fields[i].text, &fields[i].len);
    }
    parts.rendered = rendered;
    parts.fields = fields;
    if (!cleaner.failed)
        d = make(&parts, !dirty->text);

out:
    for (size_t i = 0; i < cleaner.count; i++)
        free(cleaner.copies[i]);
    free(cleaner.copies);
    free(rendered);
    free(fields);
    return d;
}

struct delivery *delivery_new(const struct delivery_parts *parts)
{
    return all_are_texts(parts) ? make(parts, !parts->text) : make_cleaned(parts);
}

void delivery_add_fallback(struct delivery *delivery, struct delivery *fallback)
{
    memcpy(fallback->id, delivery->id, sizeof(fallback->id));
    const size_t size = fallback->size - message_size(fallback->message);
    struct delivery *last = delivery;
    for (; last->fallback; last = last->fallback)
        last->size += size;
    last->size += size;
    last->fallback = fallback;
}

void delivery_borrow(struct delivery *delivery)
{
    atomic_fetch_add_explicit(&delivery->refs, 1, memory_order_relaxed);
}

void delivery_return(struct delivery *delivery)
{
    if (atomic_fetch_sub_explicit(&delivery->refs, 1, memory_order_acq_rel) > 1)
        return;
    if (delivery->kept)
        delivery->kept_free(delivery->kept);
    if (delivery->fallback)
        delivery_return(delivery->fallback);
    message_unref(delivery->message);
    free(delivery);
}

void delivery_free(struct delivery *delivery)
{
    if (!delivery)
        return;
    if (delivery->holding) {
        delivery->holding = false;
        message_release_hold(delivery->message);
    }
    delivery_return(delivery);
}
