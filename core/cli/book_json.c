/* SPDX-License-Identifier: MIT */

#include "cli/book_json.h"

#include "base/utf8.h"
#include "ledger/tell.h"
#include "router/engine.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MOST (1024 * 1024)

/* A text of a stranger: what is not UTF-8 in it becomes U+FFFD. */
static json_t *json_of(const char *data, size_t len)
{
    json_t *value = json_stringn(data ? data : "", data ? len : 0);
    if (value)
        return value;
    struct buf clean = BUF_INIT(TEXT_MOST);
    utf8_add_lossy(&clean, data, len);
    value = json_stringn(buf_str(&clean), clean.len);
    buf_release(&clean);
    return value;
}

static json_t *json_text(struct book_text text)
{
    return json_of(text.data, text.len);
}

static void set_text(json_t *object, const char *key, struct book_text text)
{
    if (text.len > 0)
        json_object_set_new(object, key, json_text(text));
}

static void set_number(json_t *object, const char *key, uint64_t number)
{
    if (number > 0)
        json_object_set_new(object, key, json_integer((json_int_t)number));
}

static json_t *json_decision(const struct book_decision *d)
{
    json_t *object = json_object();
    set_text(object, "route", d->route);
    const char *verdict = d->verdict < VERDICT_COUNT ? verdict_text((enum verdict)d->verdict) : "?";
    if (d->kind == SHEET_SUPPRESSED)
        verdict = "not routed";
    else if (d->kind == SHEET_NO_TARGET)
        verdict = "there is no such target";
    json_object_set_new(object, "verdict", json_string(verdict));
    set_text(object, "when", d->when);
    set_text(object, "reason", d->reason);
    set_text(object, "target", d->target);
    set_number(object, "missing_fields", d->missing);
    return object;
}

static json_t *json_delivery(const struct book_delivery *d)
{
    json_t *object = json_pack("{s:o, s:o, s:o, s:o, s:s}", "id", json_text(d->id), "route",
                               json_text(d->route), "service", json_text(d->service), "target",
                               json_text(d->target), "state", book_state_word(d->state));
    set_number(object, "number", d->number);
    set_number(object, "attempts", d->attempts);
    set_number(object, "due_ms", (uint64_t)d->due_ms);
    json_t *events = json_array();
    for (size_t i = 0; i < d->event_count; i++) {
        const struct book_event *e = &d->events[i];
        json_t *event = json_pack("{s:s, s:I}", "event", ledger_event_word(e->event), "at_ms",
                                  (json_int_t)e->at_ms);
        set_number(event, "attempt", e->attempt);
        set_text(event, "reason", e->reason);
        set_text(event, "receipt", e->receipt);
        set_text(event, "moved_to", e->moved_to);
        json_array_append_new(events, event);
    }
    json_object_set_new(object, "events", events);
    return object;
}

static bool print(json_t *value)
{
    bool good = value && json_dumpf(value, stdout, JSON_COMPACT) == 0 && putchar('\n') == '\n';
    json_decref(value);
    return good;
}

bool book_json_entry(const struct book_entry *e, json_t *others)
{
    json_t *decisions = json_array(), *deliveries = json_array();
    for (size_t i = 0; i < e->decision_count; i++)
        json_array_append_new(decisions, json_decision(&e->decisions[i]));
    for (size_t i = 0; i < e->delivery_count; i++)
        json_array_append_new(deliveries, json_delivery(&e->deliveries[i]));
    json_t *object =
        json_pack("{s:s, s:I, s:I, s:o, s:o, s:I, s:i, s:b, s:b, s:I, s:o, s:o}", "kind", "message",
                  "number", (json_int_t)e->number, "at_ms", (json_int_t)e->at_ms, "link",
                  json_text(e->link), "topic", json_text(e->topic), "size", (json_int_t)e->size,
                  "qos", (int)e->qos, "retain", e->retain, "dup", e->dup, "routes",
                  (json_int_t)e->routes, "decisions", decisions, "deliveries", deliveries);
    if (others && json_object_set_new(object, "other_routes_now", others) < 0) {
        json_decref(object);
        object = NULL;
    }
    return print(object);
}

static struct book_text text_of(struct sheet_text text)
{
    return (struct book_text){ (char *)(uintptr_t)text.data, text.len };
}

bool book_json_event(const struct sheet_item *event, const char *id, uint64_t number)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:o, s:o, s:o}", "kind", "event", "event", ledger_event_word(event->event),
        "at_ms", (json_int_t)event->at_ms, "id", json_of(id, strlen(id)), "service",
        json_text(text_of(event->service)), "target", json_text(text_of(event->target)));
    set_number(object, "message", number);
    set_number(object, "attempt", event->attempt);
    set_text(object, "reason", text_of(event->reason));
    set_text(object, "receipt", text_of(event->receipt));
    set_text(object, "moved_to", text_of(event->moved_to));
    return print(object);
}
