/* SPDX-License-Identifier: MIT */

#include "router/route_read.h"

#include "base/nearest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A route as it stands in the file. */
struct route_config {
    const char *name;
    struct tocsin_list topic;
    const char *link;
    int64_t qos;
    const char *retained;
    const char *decode;
    const struct tocsin_node *set;
    const char *function;
    const char *when;
    const struct tocsin_node *severity;
    const struct tocsin_node *priority;
    const char *title;
    const char *format;
    const char *template;
    const char *html_template;
    const struct tocsin_node *targets;
    bool stop;
    const char *ledger;
};

const struct tocsin_option route_options[] = {
    TOCSIN_OPTION(struct route_config, name,
                  .help = "What the route is called in logs and reports; its topic if left out."),
    TOCSIN_OPTION(struct route_config, topic, .flags = TOCSIN_OPTION_REQUIRED,
                  .help =
                      "Topic filter, or a list of them. A level {name} is a named '+', {name#} at "
                      "the end a named '#'; the names are fields."),
    TOCSIN_OPTION(
        struct route_config, link, .flags = TOCSIN_OPTION_LINK,
        .help =
            "Link that the messages come by, \"broker\" for the included broker; all if left out."),
    TOCSIN_OPTION(struct route_config, qos, .def = "1", .min = 0, .max = 2,
                  .help =
                      "QoS to subscribe with. With 1 nothing is lost between broker and router; 2 "
                      "is 1 for all links but the included broker's, which also never brings a "
                      "message twice."),
    TOCSIN_OPTION(struct route_config, retained, .def = "process", .choices = "process|skip",
                  .help =
                      "What to do with retained messages that the broker sends again after each "
                      "connection: they may be news, or not."),
    TOCSIN_OPTION(
        struct route_config, decode, .def = "auto", .choices = "auto|json|number|text|binary",
        .help = "What the payload is. auto takes JSON objects and arrays, numbers, or text; "
                "with json, number or text another payload ends the route and is counted."),
    TOCSIN_OPTION(struct route_config, set,
                  .help = "Computed fields in the order given: name = \"expression\"; or "
                          "name = { format = \"...\"; }; or a number or truth value."),
    TOCSIN_OPTION(struct route_config, function,
                  .help =
                      "User function, of the files in router.functions, that is called with the "
                      "message: a table it returns adds fields, false ends the route."),
    TOCSIN_OPTION(struct route_config, when,
                  .help = "Expression; when it is false or nil the route ends for this message."),
    TOCSIN_OPTION(struct route_config, severity, .choices = "expression",
                  .help =
                      "ok, warning, critical or unknown, or an expression that gives one of these "
                      "words or 0 to 3. What is critical goes before others of its target."),
    TOCSIN_OPTION(struct route_config, priority, .choices = "whole number or expression",
                  .help = "Whole number, or an expression that gives one: what it means is the "
                          "service's. What has one above 0 goes before others of its target."),
    TOCSIN_OPTION(struct route_config, title, .help = "Format of the notification's title."),
    TOCSIN_OPTION(struct route_config, format,
                  .help =
                      "Format of the notification's text; the payload as it is if neither this nor "
                      "template is there."),
    TOCSIN_OPTION(struct route_config, template,
                  .help = "Template file for the text, instead of format."),
    TOCSIN_OPTION(struct route_config, html_template,
                  .help =
                      "Template file for targets that want HTML; format or template with escaped "
                      "values if left out."),
    TOCSIN_OPTION(struct route_config, targets, .choices = "list",
                  .help =
                      "Where it goes: \"service:target\", or \"service\" for all its targets; may "
                      "hold fields, \"log:{level}\". { first_of = [ ... ]; } in a list with ( ) is "
                      "one place with others to fall back to."),
    TOCSIN_OPTION(struct route_config, stop, .def = "false",
                  .help =
                      "Whether routes further down are skipped for messages that pass this one's "
                      "filter and when."),
    TOCSIN_OPTION(struct route_config, ledger, .choices = "all|deliveries|none",
                  .help = "What the ledger keeps of this route: every decision, only what led to "
                          "deliveries, or nothing; as ledger.keep says if left out."),
    { .name = NULL },
};

int severity_from_word(const char *text, size_t len)
{
    for (int i = TOCSIN_OK; i <= TOCSIN_UNKNOWN; i++)
        if (strlen(severity_word(i)) == len && strncasecmp(severity_word(i), text, len) == 0)
            return i;
    return -1;
}

const char *severity_word(int64_t severity)
{
    static const char *const words[] = { "ok", "warning", "critical", "unknown" };
    return severity >= TOCSIN_OK && severity <= TOCSIN_UNKNOWN ? words[severity] : "unknown";
}

static const struct conf_node *node_of(const struct route_reader *r, const char *key)
{
    const struct conf_node *node = options_node(r->node, key);
    return node ? node : r->node;
}

/* Turns the result of compiling something into an error about `node`. */
static bool compiled(struct route_reader *r, int rc, const struct conf_node *node)
{
    if (rc == -ENOMEM)
        r->out_of_memory = true;
    else if (rc < 0)
        conf_error(r->errors, node, "%s", buf_str(&r->why));
    buf_clear(&r->why);
    return rc == 0;
}

void route_note_path(const struct field_path *path, void *context)
{
    bool *needs_decoded = context;
    const char *text = field_path_text(path);
    size_t len = strcspn(text, ".[");
    if (!fields_name_is_fixed(text, len) || (len == 4 && memcmp(text, "json", 4) == 0))
        *needs_decoded = true;
}

struct format *route_read_format(struct route_reader *r, const char *text,
                                 const struct conf_node *node)
{
    struct format *format = NULL;
    if (text && compiled(r, format_new(text, strlen(text), &format, &r->why), node))
        format_each_path(format, route_note_path, &r->route->needs_decoded);
    return format;
}

static int read_expression(struct route_reader *r, const char *text, const char *what,
                           const struct conf_node *node)
{
    if (!text)
        return NO_EXPRESSION;
    int id = NO_EXPRESSION;
    if (!compiled(r, script_compile(r->routes->script, what, text, strlen(text), &id, &r->why),
                  node))
        return NO_EXPRESSION;
    r->route->needs_decoded = true;
    return id;
}

static struct template *read_template(struct route_reader *r, const char *path, const char *key)
{
    if (!path)
        return NULL;
    const struct conf_node *node = node_of(r, key);
    const char *file = conf_node_file(node), *slash = strrchr(file, '/');
    struct buf full = BUF_INIT(4096);
    if (path[0] != '/' && slash)
        buf_add(&full, file, (size_t)(slash + 1 - file));
    buf_add_str(&full, path);
    struct template *template = NULL;
    int rc = template_load(r->routes->script, buf_str(&full), &template, &r->why);
    if (rc < 0 && rc != -ENOMEM && r->why.len == 0)
        buf_addf(&r->why, "\"%s\" cannot be read: %s", buf_str(&full), strerror(-rc));
    compiled(r, rc, node);
    buf_release(&full);
    r->route->needs_decoded = true;
    return template;
}

/* ---- Topics ---- */

static void read_topics(struct route_reader *r, const struct tocsin_list *list)
{
    struct route *route = r->route;
    const struct conf_node *node = node_of(r, "topic");
    route->topics = calloc(list->count + 1, sizeof(*route->topics));
    if (!route->topics) {
        r->out_of_memory = true;
        return;
    }
    if (list->count == 0 && options_node(r->node, "topic"))
        conf_error(r->errors, node, "the list is empty, write a topic filter");
    for (size_t i = 0; i < list->count; i++) {
        const struct conf_node *at =
            conf_node_type(node) == CONF_LIST ? conf_node_at(node, i) : node;
        compiled(r, route_topic_init(&route->topics[route->topic_count++], list->items[i], &r->why),
                 at);
    }
}

/* ---- set, severity, priority ---- */

static void read_set_member(struct route_reader *r, const struct conf_node *node,
                            struct route_set *set)
{
    *set = (struct route_set){ .name = conf_node_name(node), .expression = NO_EXPRESSION };
    size_t name_len = strlen(set->name);
    if (fields_name_is_fixed(set->name, name_len))
        conf_error(r->errors, node,
                   "this field is there already and cannot be set, choose another "
                   "name");
    switch (conf_node_type(node)) {
    case CONF_STRING: {
        struct buf what = BUF_INIT(1024);
        buf_addf(&what, "set.%s", set->name);
        set->expression = read_expression(r, conf_node_string(node), buf_str(&what), node);
        buf_release(&what);
        break;
    }
    case CONF_GROUP: {
        const struct conf_node *format = conf_node_get(node, "format");
        if (!format || conf_node_type(format) != CONF_STRING || conf_node_count(node) != 1)
            conf_error(r->errors, node,
                       "write \"expression\" or { format = \"text with {fields}\"; }");
        else
            set->format = route_read_format(r, conf_node_string(format), format);
        break;
    }
    case CONF_INT:
        set->constant = VALUE_OF_INT(conf_node_int(node));
        break;
    case CONF_FLOAT:
        set->constant = (struct value){ .type = VALUE_FLOAT, .u.number = conf_node_float(node) };
        break;
    case CONF_BOOL:
        set->constant = (struct value){ .type = VALUE_BOOL, .u.boolean = conf_node_bool(node) };
        break;
    case CONF_LIST:
        conf_error(r->errors, node, "a list cannot be a field, write \"expression\"");
        break;
    }
}

static void read_set(struct route_reader *r, const struct conf_node *group)
{
    if (!group)
        return;
    if (conf_node_type(group) != CONF_GROUP) {
        conf_error(r->errors, group, "write set = { name = \"expression\"; };");
        return;
    }
    size_t count = conf_node_count(group);
    if (count > ROUTE_MAX_SET) {
        conf_error(r->errors, group, "at most %d fields can be set", ROUTE_MAX_SET);
        return;
    }
    r->route->set = calloc(count + 1, sizeof(*r->route->set));
    if (!r->route->set) {
        r->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < count; i++)
        read_set_member(r, conf_node_at(group, i), &r->route->set[r->route->set_count++]);
}

/* `words`: "ok" and so on are constants. */
static void read_rank(struct route_reader *r, const struct conf_node *node, const char *key,
                      bool words, struct route_rank *rank)
{
    rank->expression = NO_EXPRESSION;
    if (!node)
        return;
    rank->set = true;
    if (conf_node_type(node) == CONF_INT) {
        rank->constant = conf_node_int(node);
        if (words && (rank->constant < TOCSIN_OK || rank->constant > TOCSIN_UNKNOWN))
            conf_error(r->errors, node, "write ok, warning, critical or unknown, or 0 to 3");
        return;
    }
    if (conf_node_type(node) != CONF_STRING) {
        conf_error(r->errors, node, "write %s or an expression",
                   words ? "ok, warning, critical, unknown" : "a whole number");
        return;
    }
    const char *text = conf_node_string(node);
    int word = words ? severity_from_word(text, strlen(text)) : -1;
    if (word >= 0)
        rank->constant = word;
    else
        rank->expression = read_expression(r, text, key, node);
}

/* ---- The rest ---- */

static void check_link(struct route_reader *r, const char *link, const char *const *links)
{
    if (!link || strcmp(link, MESSAGE_INTERNAL) == 0)
        return;
    struct nearest nearest = { .wrong = link };
    for (; *links; links++) {
        if (strcmp(*links, link) == 0)
            return;
        nearest_try(&nearest, *links);
    }
    if (nearest.best)
        conf_error(r->errors, node_of(r, "link"), "there is no link \"%s\", did you mean \"%s\"?",
                   link, nearest.best);
    else
        conf_error(r->errors, node_of(r, "link"), "there is no link \"%s\", add it to links", link);
}

static void try_name(const char *name, void *context)
{
    nearest_try(context, name);
}

static void check_function(struct route_reader *r, const char *function)
{
    if (!function || script_has_function(r->routes->script, function))
        return;
    struct nearest nearest = { .wrong = function };
    script_each_function(r->routes->script, try_name, &nearest);
    if (nearest.best)
        conf_error(r->errors, node_of(r, "function"),
                   "there is no function \"%s\", did you mean "
                   "\"%s\"?",
                   function, nearest.best);
    else
        conf_error(r->errors, node_of(r, "function"),
                   "there is no function \"%s\", name its file in router.functions", function);
}

static enum decode decode_from_word(const char *word)
{
    static const char *const words[] = {
        [DECODE_AUTO] = "auto", [DECODE_JSON] = "json",     [DECODE_NUMBER] = "number",
        [DECODE_TEXT] = "text", [DECODE_BINARY] = "binary",
    };
    for (size_t i = 0; word && i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(words[i], word) == 0)
            return (enum decode)i;
    return DECODE_AUTO;
}

static enum ledger_keep keep_from_word(const char *word)
{
    if (!word)
        return LEDGER_KEEP_DEFAULT;
    return strcmp(word, "all") == 0          ? LEDGER_KEEP_ALL
           : strcmp(word, "deliveries") == 0 ? LEDGER_KEEP_DELIVERIES
                                             : LEDGER_KEEP_NONE;
}

static void compile_route(struct route_reader *r, const struct route_config *c,
                          const char *const *links)
{
    struct route *route = r->route;
    read_topics(r, &c->topic);
    route->name = c->name ? c->name : c->topic.count > 0 ? c->topic.items[0] : "";
    route->link = c->link;
    check_link(r, c->link, links);
    route->qos = (uint8_t)c->qos;
    route->stop = c->stop;
    route->skip_retained = c->retained && strcmp(c->retained, "skip") == 0;
    route->decode = decode_from_word(c->decode);
    route->ledger = keep_from_word(c->ledger);

    read_set(r, c->set);
    route->function = c->function;
    check_function(r, c->function);
    route->needs_decoded = route->needs_decoded || c->function;
    route->when_text = c->when;
    route->when = read_expression(r, c->when, "when", node_of(r, "when"));
    read_rank(r, c->severity, "severity", true, &route->severity);
    read_rank(r, c->priority, "priority", false, &route->priority);

    if (c->format && c->template)
        conf_error(r->errors, node_of(r, "template"),
                   "there is a format too, leave out one of them");
    route->title = route_read_format(r, c->title, node_of(r, "title"));
    route->format = route_read_format(r, c->format, node_of(r, "format"));
    route->template = read_template(r, c->template, "template");
    route->html_template = read_template(r, c->html_template, "html_template");
    route_read_targets(r, c->targets);
}

int route_read(struct routes *routes, const struct conf_node *node, const char *const *links,
               struct options_memory *memory, struct conf_errors *errors, struct route **out)
{
    *out = NULL;
    struct route *route = calloc(1, sizeof(*route));
    if (!route)
        return -ENOMEM;
    route->routes = routes;
    struct route_reader r = {
        .routes = routes,
        .route = route,
        .node = node,
        .errors = errors,
        .memory = memory,
        .why = BUF_INIT(4096),
    };
    struct route_config config = { 0 };
    const struct options_part part = { route_options, &config };
    options_read(node, &part, 1, NULL, memory, errors);
    compile_route(&r, &config, links);
    route_look_at_targets(route);
    buf_release(&r.why);
    if (r.out_of_memory) {
        route_free(route);
        return -ENOMEM;
    }
    *out = route;
    return 0;
}

void route_free(struct route *route)
{
    if (!route)
        return;
    for (size_t i = 0; i < route->topic_count; i++)
        route_topic_release(&route->topics[i]);
    for (size_t i = 0; i < route->set_count; i++)
        format_free(route->set[i].format);
    for (size_t i = 0; i < route->target_count; i++) {
        format_free(route->targets[i].format);
        free(route->targets[i].targets);
    }
    format_free(route->title);
    format_free(route->format);
    template_free(route->template);
    template_free(route->html_template);
    free(route->topics);
    free(route->set);
    free(route->targets);
    free(route);
}
