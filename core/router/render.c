/* SPDX-License-Identifier: MIT */

#include "router/render.h"

#include "base/utf8.h"
#include "router/flatten.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TARGET_NAME_MAX_BYTES 512
#define NOT_SET               SIZE_MAX

/* One notification being rendered. */
struct job {
    struct render *render;
    const struct notification *n;
    const struct engine_observer *observer;
    struct engine_stats *stats;
    struct buf *why;
    struct delivery ***tail;
    bool html_done;
    bool fields_done;
};

void render_init(struct render *render, const struct routes *routes)
{
    size_t most = (size_t)routes->settings.text_size.bytes;
    *render = (struct render){ .limits_of_routes = {
                                   .output = most,
                                   .turns = (size_t)routes->settings.template_turns,
                               } };
    buf_init(&render->title, most);
    buf_init(&render->text, most);
    buf_init(&render->html, most);
    buf_init(&render->rendered, most);
    /* A byte that is not UTF-8 becomes three. */
    buf_init(&render->clean, most * 3);
}

void render_release(struct render *render)
{
    buf_release(&render->title);
    buf_release(&render->text);
    buf_release(&render->html);
    buf_release(&render->rendered);
    buf_release(&render->clean);
    free(render->fields);
}

static void count_failure(struct job *job, int rc)
{
    if (rc == -ENOMEM)
        job->stats->out_of_memory++;
    else if (rc < 0)
        job->stats->missing_fields++;
}

/* Makes the buffer valid UTF-8 without NUL, from byte `start` on. */
static void make_text(struct job *job, struct buf *buf, size_t start)
{
    const char *text = buf_str(buf) + start;
    size_t len = buf->len - start;
    if (utf8_valid(text, len) && !memchr(text, '\0', len))
        return;
    struct buf *clean = &job->render->clean;
    buf_clear(clean);
    utf8_add_lossy(clean, text, len);
    buf_cut(buf, start);
    size_t room = buf->max - buf->len;
    count_failure(job, buf_add(buf, buf_str(clean), utf8_cut(buf_str(clean), clean->len, room)));
}

static void render_format(struct job *job, const struct format *format, enum format_clean clean,
                          struct buf *out)
{
    size_t start = out->len, missing = 0;
    int rc = format_render(format, job->n->fields, clean, out, &missing);
    job->stats->missing_fields += missing;
    count_failure(job, rc);
    out->error = 0;
    make_text(job, out, start);
}

static void render_template(struct job *job, const struct template *template, bool html,
                            struct buf *out)
{
    size_t start = out->len, missing = 0, said = job->why->len;
    int rc = template_render(template, job->n->fields, html, &job->render->limits_of_routes, out,
                             &missing, job->why);
    if (rc == 0 && said > 0)
        buf_cut(job->why, said); /* the first reason is told; for HTML it is the same again */
    job->stats->missing_fields += missing;
    count_failure(job, rc);
    out->error = 0;
    make_text(job, out, start);
}

/* Renders title and text. Without format and template the payload is the text, and nothing is rendered. */
static void render_texts(struct job *job)
{
    const struct route *route = job->n->route;
    struct render *r = job->render;
    struct fields *fields = job->n->fields;
    buf_clear(&r->title);
    buf_clear(&r->text);
    if (route->title) {
        render_format(job, route->title, FORMAT_AS_IS, &r->title);
        fields->title = VALUE_OF_TEXT(buf_str(&r->title), r->title.len);
    }
    if (route->template)
        render_template(job, route->template, false, &r->text);
    else if (route->format)
        render_format(job, route->format, FORMAT_AS_IS, &r->text);
    if (route->template || route->format)
        fields->text = VALUE_OF_TEXT(buf_str(&r->text), r->text.len);
    else
        fields->text =
            VALUE_OF_TEXT((const char *)job->n->message->payload, job->n->message->payload_len);
}

void render_escaped(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        switch (text[i]) {
        case '&':
            buf_add_str(out, "&amp;");
            break;
        case '<':
            buf_add_str(out, "&lt;");
            break;
        case '>':
            buf_add_str(out, "&gt;");
            break;
        case '"':
            buf_add_str(out, "&quot;");
            break;
        case '\'':
            buf_add_str(out, "&#39;");
            break;
        default:
            buf_add_byte(out, text[i]);
        }
    }
}

/* The text for targets that want HTML: once for all of them. */
static void render_html(struct job *job)
{
    const struct route *route = job->n->route;
    struct buf *html = &job->render->html;
    if (job->html_done)
        return;
    job->html_done = true;
    buf_clear(html);
    if (route->html_template)
        render_template(job, route->html_template, true, html);
    else if (route->template)
        render_template(job, route->template, true, html);
    else if (route->format)
        render_format(job, route->format, FORMAT_CLEAN_HTML, html);
    else {
        const struct message *m = job->n->message;
        render_escaped(html, (const char *)m->payload, m->payload_len);
        count_failure(job, html->error);
        html->error = 0;
        make_text(job, html, 0);
    }
}

/* All fields as a list: once for all targets that want them. */
static void flatten(struct job *job)
{
    struct render *r = job->render;
    if (job->fields_done)
        return;
    job->fields_done = true;
    r->field_count = 0;
    if (!r->fields)
        r->fields = calloc(FLATTEN_MAX, sizeof(*r->fields));
    if (r->fields)
        r->field_count = fields_flatten(job->n->fields, r->fields);
    else
        job->stats->out_of_memory++;
}

/* Half a path, topic or argument is another one, so what is too long is left empty, which services reject. */
static void render_option(struct job *job, const struct target_format *option, struct buf *out)
{
    size_t start = out->len, missing = 0;
    int rc = format_render(option->format, job->n->fields, option->clean, out, &missing);
    job->stats->missing_fields += missing;
    count_failure(job, rc);
    out->error = 0;
    if (rc == -E2BIG)
        buf_cut(out, start);
    else
        make_text(job, out, start);
}

/* Renders the formats of a target's own. Returns the texts, which live until the next call, or NULL when
 * there is no memory. */
static const char *const *render_target(struct job *job, const struct target *target)
{
    struct buf *out = &job->render->rendered;
    struct fields_arena *arena = job->n->fields->arena;
    const char **texts = fields_arena_alloc(arena, (target->format_count + 1) * sizeof(*texts));
    size_t *starts = fields_arena_alloc(arena, (target->format_count + 1) * sizeof(*starts));
    if (!texts || !starts)
        return NULL;
    buf_clear(out);
    for (size_t i = 0; i < target->format_count; i++) {
        starts[i] = NOT_SET;
        if (!target->formats[i].format)
            continue;
        starts[i] = out->len;
        render_option(job, &target->formats[i], out);
        if (buf_add_byte(out, '\0') == -E2BIG) {
            out->error = 0;
            buf_cut(out, out->len - 1);
            buf_add_byte(out, '\0');
        }
        if (out->error)
            return NULL; /* without its end it would run into the next one */
    }
    for (size_t i = 0; i < target->format_count; i++)
        texts[i] = starts[i] == NOT_SET ? NULL : buf_str(out) + starts[i];
    return texts;
}

/* Makes the delivery for a target; NULL when there is no memory. */
static struct delivery *make_delivery(struct job *job, struct target *target, bool is_fallback)
{
    const struct notification *n = job->n;
    const struct route *route = n->route;
    struct render *r = job->render;
    struct delivery_parts parts = {
        .target = target,
        .message = n->message,
        .route = route->name,
        .ledger = route->ledger,
        .title = route->title ? buf_str(&r->title) : NULL,
        .title_len = r->title.len,
        .has_priority = n->has_priority,
        .priority = n->priority,
        .has_severity = n->has_severity,
        .severity = n->severity,
        .is_fallback = is_fallback,
    };
    if (route->format || route->template) {
        parts.text = buf_str(&r->text);
        parts.text_len = r->text.len;
    }
    if (target->wants & TOCSIN_WANTS_HTML) {
        render_html(job);
        parts.html = buf_str(&r->html);
        parts.html_len = r->html.len;
    }
    if (target->wants & TOCSIN_WANTS_FIELDS) {
        flatten(job);
        parts.fields = r->fields;
        parts.field_count = r->field_count;
    }
    parts.rendered = render_target(job, target);
    return parts.rendered ? delivery_new(&parts) : NULL;
}

/* Takes a delivery in; NULL: it could not be made. */
static void add_delivery(struct job *job, struct delivery *delivery)
{
    if (!delivery) {
        job->stats->out_of_memory++;
        message_refuse(job->n->message);
        return;
    }
    job->stats->deliveries++;
    **job->tail = delivery;
    *job->tail = &delivery->next;
}

static void dispatch(struct job *job, struct target *target)
{
    add_delivery(job, make_delivery(job, target, false));
}

/* One delivery for the first of several targets, with those for the others, rendered now. */
static void dispatch_first_of(struct job *job, const struct route_target *list)
{
    struct delivery *first = make_delivery(job, list->targets[0], false);
    for (size_t i = 1; first && i < list->target_count; i++) {
        struct delivery *fallback = make_delivery(job, list->targets[i], true);
        if (!fallback) {
            delivery_free(first);
            first = NULL;
        } else {
            delivery_add_fallback(first, fallback);
        }
    }
    add_delivery(job, first);
}

/* A target whose name has fields in it: "service:target", or "service". */
static void dispatch_named(struct job *job, const struct format *format)
{
    const struct route *route = job->n->route;
    const struct target_finder *finder = &route->routes->finder;
    struct buf name = BUF_INIT(TARGET_NAME_MAX_BYTES);
    size_t missing = 0;
    int rc = format_render(format, job->n->fields, FORMAT_CLEAN_LINE, &name, &missing);
    job->stats->missing_fields += missing;
    const char *text = buf_str(&name), *colon = strchr(text, ':');
    struct target *target = NULL;
    bool found = false;
    if (rc == 0 && colon) {
        size_t service_len = (size_t)(colon - text);
        target = finder->find(finder->context, text, service_len, colon + 1, strlen(colon + 1));
        found = target != NULL;
        if (target)
            dispatch(job, target);
    } else if (rc == 0) {
        for (size_t i = 0; (target = finder->target_at(finder->context, text, strlen(text), i));
             i++) {
            found = true;
            dispatch(job, target);
        }
    }
    if (!found) {
        job->stats->no_target++;
        if (job->observer && job->observer->no_target)
            job->observer->no_target(job->observer->context, route, text);
    }
    buf_release(&name);
}

void render_notification(struct render *render, const struct notification *notification,
                         const struct engine_observer *observer, struct engine_stats *stats,
                         struct buf *why, struct delivery ***tail)
{
    struct job job = {
        .render = render,
        .n = notification,
        .observer = observer,
        .stats = stats,
        .why = why,
        .tail = tail,
    };
    const struct route *route = notification->route;
    render_texts(&job);
    for (size_t i = 0; i < route->target_count; i++) {
        const struct route_target *target = &route->targets[i];
        if (target->format)
            dispatch_named(&job, target->format);
        if (target->first_of)
            dispatch_first_of(&job, target);
        for (size_t j = 0; !target->first_of && j < target->target_count; j++)
            dispatch(&job, target->targets[j]);
    }
}
