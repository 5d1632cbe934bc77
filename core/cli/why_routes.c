/* SPDX-License-Identifier: MIT */

#include "cli/why_routes.h"

#include "base/printable.h"
#include "daemon/setup.h"
#include "mqtt/topic.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define A_FEW 3

struct why_routes {
    struct identity identity;
    struct setup setup;
    bool read;
    int64_t
        changed_ms; /* when the file was changed last; files that it includes are not looked at */
};

struct why_routes *why_routes_open(const char *config)
{
    struct why_routes *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    const char *path = config ? config : setup_default_path();
    struct stat file;
    if (stat(path, &file) == 0)
        r->changed_ms = (int64_t)file.st_mtim.tv_sec * 1000 + file.st_mtim.tv_nsec / 1000000;
    struct conf_errors errors = CONF_ERRORS_INIT;
    r->read = setup_read(&r->setup, path, &r->identity, NULL, &errors) == 0;
    conf_errors_release(&errors);
    return r;
}

void why_routes_close(struct why_routes *r)
{
    if (!r)
        return;
    if (r->read)
        setup_release(&r->setup);
    identity_release(&r->identity);
    free(r);
}

/* ---- What a route has to do with a message ---- */

enum relation {
    RELATION_NOT_KEPT, /* it matches, and says itself that it is not to be noted */
    RELATION_NEW,      /* it matches now */
    RELATION_LINK,     /* of another link */
    RELATION_TOPIC,
};

struct other {
    const struct route *route;
    enum relation relation;
    size_t near; /* so many levels of its filter fit */
};

/* How many levels of a filter fit the topic, from the front. */
static size_t levels_alike(const char *filter, const char *topic, size_t len)
{
    const char *end = topic + len;
    for (size_t n = 0;; n++) {
        size_t of_filter = strcspn(filter, "/");
        const char *slash = memchr(topic, '/', (size_t)(end - topic));
        size_t of_topic = (size_t)((slash ? slash : end) - topic);
        bool same = of_filter == of_topic && memcmp(filter, topic, of_topic) == 0;
        if (!same && !(of_filter == 1 && filter[0] == '+'))
            return n;
        if (!slash || filter[of_filter] == '\0')
            return n + 1;
        filter += of_filter + 1;
        topic = slash + 1;
    }
}

static bool filters_match(const struct route *route, const char *topic, size_t len, size_t *near)
{
    bool matches = false;
    *near = 0;
    const char *filter;
    for (size_t i = 0; (filter = route_filter_at(route, i)); i++) {
        matches |= topic_filter_matches(filter, strlen(filter), topic, len);
        size_t alike = levels_alike(filter, topic, len);
        *near = alike > *near ? alike : *near;
    }
    return matches;
}

static struct other look_at(const struct why_routes *r, const struct route *route,
                            const char *topic, size_t len, const char *link)
{
    struct other other = { .route = route, .relation = RELATION_TOPIC };
    enum ledger_keep keep = route_ledger(route);
    if (keep == LEDGER_KEEP_DEFAULT)
        keep = r->setup.ledger.keep;
    if (filters_match(route, topic, len, &other.near))
        other.relation = link && route_link(route) && strcmp(route_link(route), link) != 0
                             ? RELATION_LINK
                         : keep != LEDGER_KEEP_ALL ? RELATION_NOT_KEPT
                                                   : RELATION_NEW;
    return other;
}

/* What says most first: those that match, then the nearest; else as they stand in the file. */
static int compare(const void *one, const void *two)
{
    const struct other *a = one, *b = two;
    if (a->relation != b->relation)
        return a->relation < b->relation ? -1 : 1;
    if (a->near != b->near)
        return a->near > b->near ? -1 : 1;
    size_t i = route_index(a->route), j = route_index(b->route);
    return i < j ? -1 : i > j;
}

/* The routes that an entry does not name (NULL: all), in order, to be freed; NULL: no memory. */
static struct other *list_others(const struct why_routes *r, const struct book_entry *entry,
                                 const char *topic, size_t len, const char *link, size_t *count)
{
    const struct routes *routes = engine_routes(r->setup.engines[0]);
    struct other *list = calloc(routes_count(routes) + 1, sizeof(*list));
    const struct route *route;
    *count = 0;
    for (size_t i = 0; list && (route = routes_at(routes, i)); i++)
        if (!entry || !book_entry_has_route(entry, route_name(route)))
            list[(*count)++] = look_at(r, route, topic, len, link);
    if (list)
        qsort(list, *count, sizeof(*list), compare);
    return list;
}

/* ---- In sentences ---- */

static void add_text(struct buf *out, const char *text)
{
    printable_add(out, text, strlen(text));
}

static void add_filters(const struct route *route, struct buf *out)
{
    const char *filter;
    for (size_t i = 0; (filter = route_filter_at(route, i)); i++) {
        buf_add_str(out, i > 0 ? ", " : "");
        add_text(out, filter);
    }
}

static void add_reason(const struct other *other, struct buf *out)
{
    const char *link = route_link(other->route);
    switch (other->relation) {
    case RELATION_NOT_KEPT:
        buf_add_str(out,
                    "matches, and may have run: its option `ledger`, or the group's, says that "
                    "this is not noted");
        return;
    case RELATION_NEW:
        buf_add_str(out, "matches now, so it was added or changed since");
        return;
    case RELATION_LINK:
        buf_add_str(out, "listens to link ");
        add_text(out, link ? link : "");
        buf_add_str(out, " only");
        return;
    case RELATION_TOPIC:
        buf_add_str(out, "does not match, its topic is ");
        add_filters(other->route, out);
        return;
    }
}

/* Whether a few words about it are of interest: it is not on another branch of the tree altogether. */
static bool is_near(const struct other *other)
{
    return other->relation != RELATION_TOPIC || other->near > 0;
}

static size_t count_near(const struct other *list, size_t count)
{
    size_t n = 0;
    while (n < count && is_near(&list[n]))
        n++;
    return n;
}

static void add_others(const struct other *list, size_t count, bool all, struct buf *out)
{
    size_t near = count_near(list, count), most = near <= A_FEW + 1 ? near : A_FEW;
    size_t shown = all ? count : most;
    for (size_t i = 0; i < shown; i++) {
        buf_add_str(out, "  route \"");
        add_text(out, route_name(list[i].route));
        buf_add_str(out, "\": ");
        add_reason(&list[i], out);
        buf_add_byte(out, '\n');
    }
    size_t rest = count - shown;
    if (rest > 0)
        buf_addf(out, "  %zu%s: --all names %s\n", rest,
                 shown > 0   ? " more"
                 : rest == 1 ? " of a topic not like it"
                             : " of topics not like it",
                 rest == 1 ? "it" : "them");
}

static size_t count_matches(const struct other *list, size_t count)
{
    size_t n = 0;
    while (n < count && (list[n].relation == RELATION_NOT_KEPT || list[n].relation == RELATION_NEW))
        n++;
    return n;
}

void why_routes_tell(const struct why_routes *r, const struct book_entry *entry, bool all,
                     struct buf *out)
{
    if (!r || book_entry_was_suppressed(entry))
        return;
    if (!r->read) {
        buf_add_str(out, "Which other routes there are cannot be told: the configuration cannot be "
                         "used as it is now; `tocsin check` says why.\n");
        return;
    }
    size_t count;
    struct other *list =
        list_others(r, entry, entry->topic.data, entry->topic.len, entry->link.data, &count);
    bool changed = r->changed_ms > entry->at_ms ||
                   entry->routes != routes_count(engine_routes(r->setup.engines[0]));
    if (list && count > 0) {
        buf_addf(out, "%s, by the configuration as it is now%s:\n",
                 count_matches(list, count) == 0 ? "Routes that do not match it" : "Other routes",
                 changed ? ", which was changed since then" : "");
        add_others(list, count, all, out);
    }
    free(list);
}

static void add_matches(const struct other *list, size_t count, struct buf *out)
{
    for (size_t i = 0; i < count; i++) {
        buf_add_str(out, "  route \"");
        add_text(out, route_name(list[i].route));
        buf_add_str(out, "\": its topic is ");
        add_filters(list[i].route, out);
        buf_add_str(out, list[i].relation == RELATION_NOT_KEPT
                             ? "; its option `ledger`, or the group's, leaves messages out\n"
                             : "\n");
    }
}

size_t why_routes_tell_topic(const struct why_routes *r, const char *topic, bool all,
                             struct buf *out)
{
    if (!r || !r->read)
        return 0;
    size_t count;
    struct other *list = list_others(r, NULL, topic, strlen(topic), NULL, &count);
    size_t matches = list ? count_matches(list, count) : 0;
    if (matches > 0) {
        buf_add_str(out, "By the configuration as it is now, it matches:\n");
        add_matches(list, matches, out);
    } else if (list) {
        buf_addf(out, "By the configuration as it is now, it matches none of %zu route%s%s\n",
                 count, count == 1 ? "" : "s", count > 0 ? ":" : ".");
        add_others(list, count, all, out);
    }
    free(list);
    return matches;
}

/* ---- JSON ---- */

static json_t *json_other(const struct other *other)
{
    static const char *const words[] = {
        [RELATION_NOT_KEPT] = "matches, and is not noted",
        [RELATION_NEW] = "matches now",
        [RELATION_LINK] = "listens to another link",
        [RELATION_TOPIC] = "the topic does not match",
    };
    json_t *filters = json_array();
    const char *filter, *link = route_link(other->route);
    for (size_t i = 0; (filter = route_filter_at(other->route, i)); i++)
        json_array_append_new(filters, json_string(filter));
    json_t *object = json_pack("{s:s, s:s, s:o}", "route", route_name(other->route), "verdict",
                               words[other->relation], "filters", filters);
    if (object && link)
        json_object_set_new(object, "link", json_string(link));
    return object;
}

json_t *why_routes_json(const struct why_routes *r, const struct book_entry *entry)
{
    if (!r || !r->read || book_entry_was_suppressed(entry))
        return NULL;
    size_t count;
    struct other *list =
        list_others(r, entry, entry->topic.data, entry->topic.len, entry->link.data, &count);
    json_t *array = list ? json_array() : NULL;
    for (size_t i = 0; array && i < count; i++)
        json_array_append_new(array, json_other(&list[i]));
    free(list);
    return array;
}
