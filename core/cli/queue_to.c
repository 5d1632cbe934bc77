/* SPDX-License-Identifier: MIT */

#include "cli/queue_to.h"

#include "base/log.h"
#include "daemon/setup.h"
#include "delivery/record.h"
#include "router/decode.h"
#include "router/render.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX_BYTES (16 * 1024 * 1024)

struct queue_to {
    struct identity identity;
    struct setup setup;
    struct target *target;
    struct fields_arena *arena;
    struct json_doc *doc;
};

static void say_known(const struct services *services, const char *where)
{
    const struct target *target;
    const char *name;
    fprintf(stderr, "tocsin queue: there is no target \"%s\", known are:", where);
    for (size_t i = 0; (name = services_name_at(services, i)); i++)
        for (size_t j = 0; (target = services_target_at(services, name, strlen(name), j)); j++)
            fprintf(stderr, " %s:%s", name, target->name);
    fputc('\n', stderr);
}

struct queue_to *queue_to_open(const char *config, const char *where)
{
    struct queue_to *to = calloc(1, sizeof(*to));
    struct conf_errors errors = CONF_ERRORS_INIT;
    const char *colon = strchr(where, ':');
    bool good = false;
    log_set_level(TOCSIN_LOG_WARNING);
    if (to && setup_read(&to->setup, config ? config : setup_default_path(), &to->identity, NULL,
                         &errors) < 0) {
        fputs(buf_str(&errors.text), stderr);
    } else if (to) {
        if (colon)
            to->target = services_target(to->setup.services, where, (size_t)(colon - where),
                                         colon + 1, strlen(colon + 1));
        if (!to->target)
            say_known(to->setup.services, where);
        to->arena = fields_arena_new();
        to->doc = json_doc_new();
        good = to->target && to->arena && to->doc;
    }
    conf_errors_release(&errors);
    if (good)
        return to;
    queue_to_close(to);
    return NULL;
}

void queue_to_close(struct queue_to *to)
{
    if (!to)
        return;
    json_doc_free(to->doc);
    fields_arena_free(to->arena);
    setup_release(&to->setup);
    identity_release(&to->identity);
    free(to);
}

const struct target *queue_to_target(const struct queue_to *to)
{
    return to->target;
}

/* record_read()'s: keeps the name. */
static const char *keep_link(void *context, const char *name)
{
    char **kept = context;
    free(*kept);
    return *kept = strdup(name);
}

/* What formats can use of a delivery that was rendered once. */
static struct fields fields_of(const struct queue_to *to, const struct delivery *d)
{
    const struct tocsin_message *v = &d->view;
    struct fields fields = {
        .message = d->message,
        .route = v->route,
        .arena = to->arena,
        .decoded = VALUE_NOTHING,
        .title = VALUE_OF_TEXT(v->title, strlen(v->title)),
        .text = VALUE_OF_TEXT(v->text, v->text_len),
        .severity = VALUE_NOTHING,
        .priority = VALUE_NOTHING,
    };
    if (v->has_severity) {
        const char *word = severity_word((int)v->severity);
        fields.severity = VALUE_OF_TEXT(word, strlen(word));
    }
    if (v->has_priority)
        fields.priority = VALUE_OF_INT(v->priority);
    struct decoder decoder = { .doc = to->doc };
    struct buf why = BUF_INIT(256);
    decoder_begin(&decoder, d->message);
    if (decoder_value(&decoder, DECODE_AUTO, &fields.decoded, &why) < 0)
        fields.decoded = VALUE_NOTHING;
    buf_release(&why);
    return fields;
}

/* Renders the target's formats. Returns the texts in memory to be freed, each with its buffer in `texts`. */
static const char **render(const struct queue_to *to, uint64_t number, const struct delivery *d,
                           struct buf *texts)
{
    const struct target *t = to->target;
    const char **rendered = calloc(t->format_count + 1, sizeof(*rendered));
    const struct fields fields = fields_of(to, d);
    for (size_t i = 0; rendered && i < t->format_count; i++) {
        size_t missing = 0;
        buf_init(&texts[i], TEXT_MAX_BYTES);
        if (!t->formats[i].format)
            continue;
        format_render(t->formats[i].format, &fields, t->formats[i].clean, &texts[i], &missing);
        rendered[i] = buf_str(&texts[i]);
        if (missing > 0)
            fprintf(stderr,
                    "tocsin queue: %" PRIu64 ": %s:%s has a format with fields that are not kept, "
                    "they stay as they are written: %s\n",
                    number, t->service, t->name, rendered[i]);
    }
    return rendered;
}

static int write_for(const struct queue_to *to, uint64_t number, const struct delivery *d,
                     struct buf *out)
{
    const struct tocsin_message *v = &d->view;
    const struct target *t = to->target;
    struct buf html = BUF_INIT(TEXT_MAX_BYTES);
    struct buf *texts = calloc(t->format_count + 1, sizeof(*texts));
    struct tocsin_field *fields = calloc(v->field_count + 1, sizeof(*fields));
    const char **rendered = texts ? render(to, number, d, texts) : NULL;
    int rc = rendered && fields ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < v->field_count; i++)
        fields[i] = *v->fields[i];
    if (v->html)
        buf_add_str(&html, v->html);
    else
        render_escaped(&html, v->text, v->text_len);
    struct delivery_parts parts = {
        .target = to->target,
        .message = d->message,
        .route = v->route,
        .title = v->title,
        .title_len = strlen(v->title),
        .text = v->text_is_payload ? NULL : v->text,
        .text_len = v->text_len,
        .html = t->wants & TOCSIN_WANTS_HTML ? buf_str(&html) : NULL,
        .html_len = html.len,
        .rendered = rendered,
        .fields = fields,
        .field_count = v->field_count,
        .priority = v->priority,
        .has_priority = v->has_priority,
        .has_severity = v->has_severity,
        .severity = v->severity,
    };
    struct delivery *fresh = rc == 0 ? delivery_new(&parts) : NULL;
    if (fresh) {
        memcpy(fresh->id, d->id, sizeof(fresh->id));
        rc = record_write(fresh, t->format_count, out);
    } else {
        rc = -ENOMEM;
    }
    delivery_free(fresh);
    for (size_t i = 0; rendered && i < t->format_count; i++)
        buf_release(&texts[i]);
    free(rendered);
    free(fields);
    free(texts);
    buf_release(&html);
    return rc;
}

int queue_to_record(const struct queue_to *to, uint64_t number, const void *record, size_t len,
                    struct buf *out)
{
    /* As it was for the target that it had. */
    struct target before = { .service = "",
                             .name = "",
                             .format_count = record_formats(record, len) };
    struct delivery *d = NULL;
    char *link = NULL;
    int rc = record_read(record, len, &before, keep_link, &link, &d);
    if (rc == 0)
        rc = write_for(to, number, d, out);
    delivery_free(d);
    free(link);
    fields_arena_clear(to->arena);
    return rc;
}
