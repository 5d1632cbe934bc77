/* SPDX-License-Identifier: MIT */

/* A message through the stages of each route that matches: decode, set, function, when, severity. What comes
 * after, the notification and its targets, is render.c's. */

#include "router/engine.h"

#include "router/decode.h"
#include "router/render.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REASON_MAX_BYTES 512

struct engine {
    struct routes *routes;
    struct decoder decoder;
    struct render render;
    struct fields_arena *arena;
    struct buf why;
    struct buf scratch;
    const struct route_match **matched; /* by the message at hand, in the order of the file */
    size_t matched_count;
    struct engine_stats stats;

    /* The fields of the route at hand. */
    struct field_level levels[ROUTE_TOPIC_MAX_LEVELS];
    struct field_set set[2 * ROUTE_MAX_SET];
    struct fields fields;
};

const char *verdict_text(enum verdict verdict)
{
    static const char *const texts[VERDICT_COUNT] = {
        [VERDICT_DISPATCHED] = "dispatched",
        [VERDICT_NO_MATCH] = "the topic does not match",
        [VERDICT_STOPPED] = "a route before it said stop",
        [VERDICT_NOT_DECODED] = "the payload does not decode",
        [VERDICT_WHEN_FALSE] = "`when` was false",
        [VERDICT_ENDED] = "the function returned false",
        [VERDICT_ERROR] = "an expression failed",
        [VERDICT_RETAINED] = "the message is a retained one, and the route skips those",
    };
    return texts[verdict];
}

struct engine *engine_new(struct routes *routes)
{
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->decoder.doc = json_doc_new();
    e->arena = fields_arena_new();
    e->matched = calloc(routes->match_count + 1, sizeof(*e->matched));
    buf_init(&e->why, REASON_MAX_BYTES);
    buf_init(&e->scratch, (size_t)routes->settings.text_size.bytes);
    render_init(&e->render, routes);
    if (!e->decoder.doc || !e->arena || !e->matched) {
        engine_free(e);
        return NULL;
    }
    e->routes = routes;
    return e;
}

void engine_free(struct engine *engine)
{
    if (!engine)
        return;
    render_release(&engine->render);
    buf_release(&engine->scratch);
    buf_release(&engine->why);
    free(engine->matched);
    fields_arena_free(engine->arena);
    json_doc_free(engine->decoder.doc);
    routes_free(engine->routes);
    free(engine);
}

struct routes *engine_routes(struct engine *engine)
{
    return engine->routes;
}

void engine_stats(const struct engine *engine, struct engine_stats *out)
{
    *out = engine->stats;
}

/* ---- Which routes ---- */

/* Keeps `matched` in the order of the file; of several filters of one route the first counts. */
static void note_match(void *value, void *context)
{
    struct engine *e = context;
    const struct route_match *match = value;
    size_t at = e->matched_count;
    while (at > 0 && e->matched[at - 1]->route->index > match->route->index)
        at--;
    if (at > 0 && e->matched[at - 1]->route == match->route) {
        if (match < e->matched[at - 1])
            e->matched[at - 1] = match;
        return;
    }
    memmove(&e->matched[at + 1], &e->matched[at], (e->matched_count - at) * sizeof(*e->matched));
    e->matched[at] = match;
    e->matched_count++;
}

static void find_matches(struct engine *e, const struct message *m)
{
    e->matched_count = 0;
    topic_tree_match(e->routes->tree, m->topic, m->topic_len, note_match, e);

    size_t kept = 0;
    for (size_t i = 0; i < e->matched_count; i++) {
        const char *link = e->matched[i]->route->link;
        if (!link || strcmp(link, m->link) == 0)
            e->matched[kept++] = e->matched[i];
    }
    e->matched_count = kept;
}

/* ---- The stages of one route; each returns VERDICT_DISPATCHED to go on ---- */

static enum verdict failed(struct engine *e, int rc)
{
    if (rc == -ENOMEM) {
        e->stats.out_of_memory++;
        buf_add_str(&e->why, "out of memory");
    }
    return VERDICT_ERROR;
}

static enum verdict run_decode(struct engine *e, const struct route *route)
{
    if (route->decode == DECODE_AUTO && !route->needs_decoded)
        return VERDICT_DISPATCHED;
    int rc = decoder_value(&e->decoder, route->decode, &e->fields.decoded, &e->why);
    if (rc == -EINVAL)
        return VERDICT_NOT_DECODED;
    return rc < 0 ? failed(e, rc) : VERDICT_DISPATCHED;
}

/* A format's text as a value in the arena. */
static int format_value(struct engine *e, const struct format *format, struct value *out)
{
    buf_clear(&e->scratch);
    size_t missing = 0;
    int rc = format_render(format, &e->fields, FORMAT_AS_IS, &e->scratch, &missing);
    e->stats.missing_fields += missing;
    if (rc == -ENOMEM)
        return rc;
    char *copy = fields_arena_alloc(e->arena, e->scratch.len + 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, buf_str(&e->scratch), e->scratch.len + 1);
    *out = VALUE_OF_TEXT(copy, e->scratch.len);
    return 0;
}

static enum verdict run_set(struct engine *e, const struct route *route)
{
    for (size_t i = 0; i < route->set_count; i++) {
        const struct route_set *set = &route->set[i];
        struct value value = set->constant;
        int rc = 0;
        if (set->expression != NO_EXPRESSION)
            rc = script_run(e->routes->script, set->expression, &e->fields, &value, &e->why);
        else if (set->format)
            rc = format_value(e, set->format, &value);
        if (rc < 0)
            return failed(e, rc);
        if (value.type != VALUE_NONE)
            e->set[e->fields.set_count++] = (struct field_set){ set->name, value };
    }
    return VERDICT_DISPATCHED;
}

static enum verdict run_function(struct engine *e, const struct route *route)
{
    if (!route->function)
        return VERDICT_DISPATCHED;
    struct field_set added[ROUTE_MAX_SET];
    size_t count = 0;
    bool stop = false;
    int rc = script_call(e->routes->script, route->function, &e->fields, added, ROUTE_MAX_SET,
                         &count, &stop, &e->why);
    if (rc < 0)
        return failed(e, rc);
    if (stop)
        return VERDICT_ENDED;
    /* What the function says replaces what was set before. */
    memmove(&e->set[count], e->set, e->fields.set_count * sizeof(e->set[0]));
    memcpy(e->set, added, count * sizeof(added[0]));
    e->fields.set_count += count;
    return VERDICT_DISPATCHED;
}

static enum verdict run_when(struct engine *e, const struct route *route)
{
    if (route->when == NO_EXPRESSION)
        return VERDICT_DISPATCHED;
    struct value value;
    int rc = script_run(e->routes->script, route->when, &e->fields, &value, &e->why);
    if (rc < 0)
        return failed(e, rc);
    return value_is_true(&value) ? VERDICT_DISPATCHED : VERDICT_WHEN_FALSE;
}

/* A severity that an expression gave; what makes no sense is unknown, and said. */
static int64_t severity_of(struct engine *e, const struct value *value)
{
    int64_t severity = -1;
    if (value->type == VALUE_STRING)
        severity = severity_from_word(value->u.string.text, value->u.string.len);
    else if (value->type == VALUE_INT)
        severity = value->u.integer;
    else if (value->type == VALUE_FLOAT && value->u.number >= 0 && value->u.number <= 3)
        severity = (int64_t)value->u.number;
    if (severity >= TOCSIN_OK && severity <= TOCSIN_UNKNOWN)
        return severity;
    buf_add_str(&e->why, "severity is not ok, warning, critical or unknown, so it is unknown");
    return TOCSIN_UNKNOWN;
}

/* Severity and priority. An alarm whose severity cannot be told is still an alarm: unknown. */
static void run_ranks(struct engine *e, const struct route *route, struct notification *n)
{
    if (route->severity.set) {
        int64_t severity = route->severity.constant;
        if (route->severity.expression != NO_EXPRESSION) {
            struct value value;
            int rc = script_run(e->routes->script, route->severity.expression, &e->fields, &value,
                                &e->why);
            severity = rc == 0 ? severity_of(e, &value) : TOCSIN_UNKNOWN;
        }
        n->has_severity = true;
        n->severity = (enum tocsin_severity)severity;
        const char *word = severity_word(severity);
        e->fields.severity = VALUE_OF_TEXT(word, strlen(word));
    }
    if (route->priority.set) {
        struct value value = VALUE_OF_INT(route->priority.constant);
        if (route->priority.expression != NO_EXPRESSION &&
            script_run(e->routes->script, route->priority.expression, &e->fields, &value, &e->why) <
                0)
            return;
        if (value.type == VALUE_FLOAT && value.u.number >= INT16_MIN && value.u.number <= INT16_MAX)
            value = VALUE_OF_INT((int64_t)value.u.number);
        if (value.type != VALUE_INT || value.u.integer < INT16_MIN || value.u.integer > INT16_MAX) {
            buf_add_str(&e->why, "priority is not a whole number from -32768 to 32767");
            return;
        }
        n->has_priority = true;
        n->priority = (int)value.u.integer;
        e->fields.priority = value;
    }
}

static enum verdict run_route(struct engine *e, const struct route_match *match, struct message *m,
                              const struct engine_observer *observer, struct delivery ***tail)
{
    const struct route *route = match->route;
    e->fields = (struct fields){
        .message = m,
        .route = route->name,
        .levels = e->levels,
        .level_count = match->topic->name_count,
        .set = e->set,
        .arena = e->arena,
    };
    route_topic_levels(match->topic, m->topic, m->topic_len, e->levels);

    if (route->skip_retained && m->retain)
        return VERDICT_RETAINED;
    enum verdict verdict = run_decode(e, route);
    if (verdict == VERDICT_DISPATCHED)
        verdict = run_set(e, route);
    if (verdict == VERDICT_DISPATCHED)
        verdict = run_function(e, route);
    if (verdict == VERDICT_DISPATCHED)
        verdict = run_when(e, route);
    if (verdict != VERDICT_DISPATCHED)
        return verdict;

    struct notification notification = { .route = route, .message = m, .fields = &e->fields };
    run_ranks(e, route, &notification);
    render_notification(&e->render, &notification, observer, &e->stats, &e->why, tail);
    return VERDICT_DISPATCHED;
}

static void tell(const struct engine_observer *observer, const struct decision *decision)
{
    if (observer && observer->decided)
        observer->decided(observer->context, decision);
}

/* For those who trace: the routes up to `until` that were not looked at. */
static void tell_skipped(const struct engine *e, const struct engine_observer *observer,
                         const struct message *m, size_t *next, size_t until)
{
    for (; observer && observer->trace && *next < until; ++*next)
        tell(observer, &(struct decision){ .message = m,
                                           .route = e->routes->list[*next],
                                           .verdict = VERDICT_NO_MATCH,
                                           .reason = "" });
    *next = until + 1;
}

struct delivery *engine_message(struct engine *engine, struct message *message,
                                const struct engine_observer *observer)
{
    struct delivery *first = NULL, **tail = &first;
    size_t next_to_tell = 0;
    bool stopped = false;

    engine->stats.messages++;
    fields_arena_clear(engine->arena);
    decoder_begin(&engine->decoder, message);
    find_matches(engine, message);
    engine->stats.unmatched += engine->matched_count == 0;

    for (size_t i = 0; i < engine->matched_count; i++) {
        const struct route *route = engine->matched[i]->route;
        tell_skipped(engine, observer, message, &next_to_tell, route->index);
        if (stopped) {
            tell(observer, &(struct decision){ .message = message,
                                               .route = route,
                                               .verdict = VERDICT_STOPPED,
                                               .reason = "" });
            continue;
        }
        buf_clear(&engine->why);
        uint64_t missing_before = engine->stats.missing_fields;
        enum verdict verdict = run_route(engine, engine->matched[i], message, observer, &tail);
        engine->stats.verdicts[verdict]++;
        tell(observer, &(struct decision){
                           .message = message,
                           .route = route,
                           .verdict = verdict,
                           .reason = buf_str(&engine->why),
                           .fields = &engine->fields,
                           .missing = (size_t)(engine->stats.missing_fields - missing_before),
                       });
        stopped = verdict == VERDICT_DISPATCHED && route->stop;
    }
    tell_skipped(engine, observer, message, &next_to_tell, engine->routes->count);
    return first;
}
