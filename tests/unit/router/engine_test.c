/* SPDX-License-Identifier: MIT */

/* The engine as a whole: a configuration and a message in, deliveries and decisions out. */

#include "router/engine.h"

#include "../suite.h"

#include <errno.h>
#include <stdlib.h>

/* Two services with two targets each; log:path has a format of its own, mail wants HTML and fields. */
static struct format *path_format;
static struct target_format own_formats[1];
static struct target targets[] = {
    { .service = "log", .name = "info" },
    { .service = "log", .name = "path", .formats = own_formats, .format_count = 1 },
    { .service = "mail", .name = "ops", .wants = TOCSIN_WANTS_HTML | TOCSIN_WANTS_FIELDS },
    { .service = "mail", .name = "boss" },
};
static const char *const services[] = { "log", "mail" };

static struct target *target_at(void *context, const char *service, size_t len, size_t index)
{
    (void)context;
    for (size_t i = 0; i < ROWS(targets); i++)
        if (strlen(targets[i].service) == len && memcmp(targets[i].service, service, len) == 0 &&
            index-- == 0)
            return &targets[i];
    return NULL;
}

static struct target *find(void *context, const char *service, size_t len, const char *name,
                           size_t name_len)
{
    struct target *target;
    for (size_t i = 0; (target = target_at(context, service, len, i)); i++)
        if (strlen(target->name) == name_len && memcmp(target->name, name, name_len) == 0)
            return target;
    return NULL;
}

static const char *service_at(void *context, size_t index)
{
    (void)context;
    return index < ROWS(services) ? services[index] : NULL;
}

static const struct target_finder finder = { find, target_at, service_at, NULL };

static int setup(void **state)
{
    (void)state;
    struct buf why = BUF_INIT(1024);
    int rc = format_new("/var/log/{room}.log", 19, &path_format, &why);
    own_formats[0] = (struct target_format){ path_format, FORMAT_CLEAN_PATH };
    buf_release(&why);
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    format_free(path_format);
    return 0;
}

/* Makes an engine, or fails the test with the errors of the configuration. */
static struct engine *engine_of(const char *routes)
{
    static const char *const links[] = { "here", "there", NULL };
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf = NULL;
    struct routes *compiled = NULL;
    struct buf text = BUF_INIT(1 << 20);
    buf_addf(&text, "routes = ( %s );", routes);
    int rc = conf_load_text("test.conf", buf_str(&text), &conf, &errors);
    if (rc == 0)
        rc = routes_new(conf, &finder, links, &compiled, &errors);
    CHECK(rc == 0, "%s: %d: %s", routes, rc, buf_str(&errors.text));
    conf_unref(conf);
    buf_release(&text);
    conf_errors_release(&errors);
    return engine_new(compiled);
}

static void note_decision(void *context, const struct decision *d)
{
    if (d->verdict != VERDICT_DISPATCHED)
        buf_addf(context, "%s: %s\n", route_name(d->route), verdict_text(d->verdict));
}

static void note_no_target(void *context, const struct route *route, const char *name)
{
    buf_addf(context, "%s: no target %s\n", route_name(route), name);
}

/* What a message leads to, in one text: decisions, then "service:target [title] text" lines. */
static char *outcome(struct engine *engine, const char *topic, const char *payload, bool retain,
                     const char *link)
{
    struct buf out = BUF_INIT(1 << 20);
    const struct engine_observer observer = { note_decision, note_no_target, &out, true };
    struct message *m = message_new(topic, strlen(topic), payload, strlen(payload), NULL);
    m->received_ms = 1700000000123;
    m->link = link;
    m->retain = retain;
    struct delivery *d = engine_message(engine, m, &observer);
    while (d) {
        static const char *const severities[] = { "ok", "warning", "critical", "unknown" };
        struct delivery *next = d->next;
        buf_addf(&out, "%s:%s", d->target->service, d->target->name);
        if (d->view.has_severity)
            buf_addf(&out, " %s", severities[d->view.severity]);
        if (d->view.has_priority)
            buf_addf(&out, " %d", d->view.priority);
        buf_addf(&out, " [%s] %s\n", d->view.title, d->view.text);
        if (d->view.html)
            buf_addf(&out, "  html %s\n", d->view.html);
        for (size_t i = 0; i < d->target->format_count; i++)
            buf_addf(&out, "  option %s\n", d->rendered[i]);
        for (size_t i = 0; i < d->view.field_count; i++)
            buf_addf(&out, "  %s=%s\n", d->view.fields[i]->name, d->view.fields[i]->text);
        for (const struct delivery *f = d->fallback; f; f = f->fallback) {
            CHECK(strcmp(f->id, d->id) == 0, "%s has another id", f->address);
            buf_addf(&out, "  else %s [%s] %s\n", f->address, f->view.title, f->view.text);
            if (f->view.html)
                buf_addf(&out, "  html %s\n", f->view.html);
            for (size_t i = 0; i < f->rendered_count; i++)
                buf_addf(&out, "  option %s\n", f->rendered[i]);
        }
        delivery_free(d);
        d = next;
    }
    message_unref(m);
    return buf_take(&out);
}

static void message_becomes_deliveries(void **state)
{
    (void)state;
    static const struct {
        const char *name, *routes, *topic, *payload, *want;
    } rows[] = {
        { "payload is the text", "{ topic = \"a/#\"; targets = \"log:info\"; }", "a/b", "hello",
          "log:info [] hello\n" },
        { "no match", "{ topic = \"a/#\"; targets = \"log:info\"; }", "b", "hello",
          "a/#: the topic does not match\n" },
        { "levels, title, format, severity",
          "{ name = \"t\"; topic = \"{room}/celsius\"; decode = \"number\"; when = \"value >= "
          "27\"; "
          "severity = \"value >= 30 and 'critical' or 'warning'\"; title = \"{severity}: {room}\"; "
          "format = \"{value:.1f} in {room}\"; targets = [ \"log:info\" ]; }",
          "attic/celsius", "31.25", "log:info critical [critical: attic] 31.2 in attic\n" },
        { "when is false",
          "{ name = \"t\"; topic = \"#\"; when = \"value > 5\"; targets = \"log:info\"; }", "x",
          "3", "t: `when` was false\n" },
        { "a payload that does not decode stops only routes that need it",
          "{ name = \"n\"; topic = \"#\"; decode = \"number\"; targets = \"log:info\"; }, "
          "{ name = \"j\"; topic = \"#\"; decode = \"json\"; targets = \"log:info\"; }, "
          "{ name = \"a\"; topic = \"#\"; targets = \"log:info\"; }",
          "x", "warm",
          "n: the payload does not decode\nj: the payload does not decode\nlog:info [] warm\n" },
        { "an expression that fails ends its route only",
          "{ name = \"e\"; topic = \"#\"; when = \"nosuch.field > 1\"; targets = \"log:info\"; }, "
          "{ name = \"f\"; topic = \"#\"; targets = \"mail:boss\"; }",
          "x", "1", "e: an expression failed\nmail:boss [] 1\n" },
        { "json members, set, nested paths",
          "{ topic = \"x\"; set = { f = \"c * 9 / 5 + 32\"; l = { format = \"<{data.s[1]}>\"; }; "
          "limit = 3; }; format = \"{c} {f:.0f} {l} {limit} {topic} {json.topic}\"; targets = "
          "\"log:info\"; }",
          "x", "{\"c\": 20, \"topic\": \"mine\", \"data\": {\"s\": [1, \"two\"]}}",
          "log:info [] 20 68 <two> 3 x mine\n" },
        { "a missing field stays as it is written",
          "{ topic = \"x\"; format = \"{celsius:.1f} {a?none}\"; targets = \"log:info\"; }", "x",
          "{}", "log:info [] {celsius:.1f} none\n" },
        { "stop ends the list, but only after a route that fired",
          "{ name = \"a\"; topic = \"x\"; when = \"false\"; stop = true; targets = \"log:info\"; "
          "}, "
          "{ name = \"b\"; topic = \"x\"; stop = true; targets = \"log:info\"; }, "
          "{ name = \"c\"; topic = \"x\"; targets = \"mail:boss\"; }",
          "x", "1", "a: `when` was false\nc: a route before it said stop\nlog:info [] 1\n" },
        { "all targets of a service", "{ topic = \"r/{room}\"; targets = \"log\"; }", "r/attic",
          "1", "log:info [] 1\nlog:path [] 1\n  option /var/log/attic.log\n" },
        { "a level cannot leave its place in a path",
          "{ topic = \"r/{room}\"; targets = \"log:path\"; }", "r/..", "1",
          "log:path [] 1\n  option /var/log/__.log\n" },
        { "target by field", "{ topic = \"{level}\"; targets = \"log:{level}\"; }", "info", "1",
          "log:info [] 1\n" },
        { "target by field that does not exist",
          "{ name = \"t\"; topic = \"{level}\"; targets = [ \"log:{level}\", \"mail:boss\" ]; }",
          "debug", "1", "t: no target log:debug\nmail:boss [] 1\n" },
        { "html and fields",
          "{ topic = \"{room}\"; set = { twice = \"v * 2\"; }; format = \"<{s}> & {v}\"; targets = "
          "\"mail:ops\"; }",
          "attic",
          "{\"s\": \"a<b\", \"v\": 2, \"o\": {\"p\": null, \"q\": [1, 2]}, \"room\": \"x\"}",
          "mail:ops [] <a<b> & 2\n  html <a&lt;b> & 2\n  room=attic\n  twice=4\n  s=a<b\n  v=2\n"
          "  o.p=null\n  o.q=[1,2]\n" },
        { "several topics of one route fire once",
          "{ topic = [ \"a/{x}\", \"+/{y}\", \"#\" ]; format = \"{x?-} {y?-}\"; targets = "
          "\"log:info\"; }",
          "a/b", "1", "log:info [] b -\n" },
        { "priority and severity as numbers",
          "{ topic = \"#\"; severity = \"2\"; priority = -1; targets = \"log:info\"; }", "x", "1",
          "log:info critical -1 [] 1\n" },
        { "a severity that makes no sense is unknown",
          "{ topic = \"#\"; severity = \"'bad'\"; targets = \"log:info\"; }", "x", "1",
          "log:info unknown [] 1\n" },
        { "auto: text that looks like JSON but is not",
          "{ topic = \"#\"; format = \"{value}\"; targets = \"log:info\"; }", "x", "{oops",
          "log:info [] {oops\n" },
        { "times", "{ topic = \"#\"; format = \"{_dtepoch} {_dtiso}\"; targets = \"log:info\"; }",
          "x", "1", "log:info [] 1700000000 2023-11-14T22:13:20.123Z\n" },
        { "number: no hex, no infinity",
          "{ name = \"n\"; topic = \"#\"; decode = \"number\"; targets = \"log:info\"; }", "x",
          "0x10", "n: the payload does not decode\n" },
        { "number: blanks around it",
          "{ topic = \"#\"; decode = \"number\"; format = \"{value}\"; targets = \"log:info\"; }",
          "x", " 42\n", "log:info [] 42\n" },
        { "fallbacks are rendered at once",
          "{ topic = \"r/{room}\"; title = \"T\"; targets = ( \"mail:boss\", { first_of = [ "
          "\"log:info\", \"log:path\", \"mail:ops\" ]; } ); }",
          "r/attic", "1<2",
          "mail:boss [T] 1<2\nlog:info [T] 1<2\n  else log:path [T] 1<2\n  option "
          "/var/log/attic.log\n  else mail:ops [T] 1<2\n  html 1&lt;2\n" },
        { "first_of alone, and in parentheses",
          "{ topic = \"#\"; targets = { first_of = ( \"log:info\", \"mail:boss\" ); }; }", "x", "1",
          "log:info [] 1\n  else mail:boss [] 1\n" },
        { "no targets, no deliveries", "{ topic = \"#\"; }", "x", "1", "" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct engine *engine = engine_of(rows[i].routes);
        char *got = outcome(engine, rows[i].topic, rows[i].payload, false, "here");
        CHECK(strcmp(got ? got : "", rows[i].want) == 0, "%s: got\n%s", rows[i].name,
              got ? got : "");
        free(got);
        engine_free(engine);
    }
}

static void link_and_retain_choose_routes(void **state)
{
    (void)state;
    struct engine *engine =
        engine_of("{ name = \"l\"; topic = \"#\"; link = \"there\"; targets = \"log:info\"; }, "
                  "{ name = \"r\"; topic = \"#\"; retained = \"skip\"; targets = \"mail:boss\"; }");
    static const struct {
        bool retain;
        const char *link, *want;
    } rows[] = {
        { false, "here", "l: the topic does not match\nmail:boss [] 1\n" },
        { false, "there", "log:info [] 1\nmail:boss [] 1\n" },
        { true, "here",
          "l: the topic does not match\nr: the message is a retained one, and the route skips "
          "those\n" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        char *got = outcome(engine, "x", "1", rows[i].retain, rows[i].link);
        CHECK(got && strcmp(got, rows[i].want) == 0, "row %zu: %s", i, got ? got : "");
        free(got);
    }
    engine_free(engine);
}

static void bytes_that_are_not_text_reach_services_untouched(void **state)
{
    (void)state;
    struct engine *engine = engine_of("{ topic = \"#\"; targets = \"log:info\"; }");
    static const uint8_t payload[] = { 0xFF, 0x00, 0xC3, 'a' };
    struct message *m = message_new("x", 1, payload, sizeof(payload), NULL);
    m->link = "here";
    struct delivery *d = engine_message(engine, m, NULL);
    assert_non_null(d);
    assert_true(d->view.text_is_payload);
    assert_int_equal(d->view.payload_len, sizeof(payload));
    assert_memory_equal(d->view.payload, payload, sizeof(payload));
    assert_string_equal(d->view.text, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                                      "a");
    delivery_free(d);
    message_unref(m);
    engine_free(engine);
}

static void counters_add_up(void **state)
{
    (void)state;
    struct engine *engine = engine_of(
        "{ topic = \"a/#\"; when = \"value > 1\"; format = \"{x}\"; targets = \"log:info\"; }");
    free(outcome(engine, "a", "2", false, "here"));
    free(outcome(engine, "a", "1", false, "here"));
    free(outcome(engine, "b", "1", false, "here"));
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(stats.messages, 3);
    assert_int_equal(stats.unmatched, 1);
    assert_int_equal(stats.deliveries, 1);
    assert_int_equal(stats.missing_fields, 1);
    assert_int_equal(stats.verdicts[VERDICT_DISPATCHED], 1);
    assert_int_equal(stats.verdicts[VERDICT_WHEN_FALSE], 1);
    engine_free(engine);
}

static void errors_name_place_and_remedy(void **state)
{
    (void)state;
    static const struct {
        const char *route, *want;
    } rows[] = {
        { "{ topic = \"a\"; targets = \"lgo:info\"; }",
          "test.conf:1: routes[0].targets: there is no service \"lgo\", did you mean \"log\"?\n" },
        { "{ topic = \"a\"; targets = [ \"log:info\", \"log:inof\" ]; }",
          "test.conf:1: routes[0].targets[1]: service \"log\" has no target \"inof\", did you mean "
          "\"info\"?\n" },
        { "{ topic = \"a\"; targets = ( \"log:info\", { first_of = [ \"log:info\", \"mial:boss\" "
          "]; } ); }",
          "test.conf:1: routes[0].targets[1].first_of[1]: there is no service \"mial\", did you "
          "mean "
          "\"mail\"?\n" },
        { "{ topic = \"a\"; targets = ( { frist_of = [ \"log:info\" ]; first_of = [ \"mail:boss\" "
          "]; } ); }",
          "test.conf:1: routes[0].targets[0].frist_of: unknown option, did you mean "
          "'first_of'?\n" },
        { "{ topic = \"a\"; targets = ( { first_of = [ \"log\" ]; } ); }",
          "test.conf:1: routes[0].targets[0].first_of[0]: service \"log\" has 2 targets: write one "
          "of "
          "them, such as \"log:info\"\n" },
        { "{ topic = \"a\"; targets = ( { first_of = [ \"log:info\", \"log:info\" ]; } ); }",
          "test.conf:1: routes[0].targets[0].first_of[1]: \"log:info\" is there twice: leave out "
          "one "
          "of them\n" },
        { "{ topic = \"a/{l}\"; targets = ( { first_of = [ \"log:{l}\" ]; } ); }",
          "test.conf:1: routes[0].targets[0].first_of[0]: \"log:{l}\" has fields in it: name "
          "targets "
          "in first_of\n" },
        { "{ topic = \"a\"; targets = ( { first_of = [ ]; } ); }",
          "test.conf:1: routes[0].targets[0].first_of: write 1 to 16 targets\n" },
        { "{ topic = \"a\"; targets = ( 5 ); }",
          "test.conf:1: routes[0].targets[0]: must be \"service:target\" or { first_of = [ "
          "\"service:target\", ... ]; }\n" },
        { "{ topic = \"a\"; link = \"heer\"; }",
          "test.conf:1: routes[0].link: there is no link \"heer\", did you mean \"here\"?\n" },
        { "{ topic = \"a/{b\"; }",
          "test.conf:1: routes[0].topic: '{b': a name in braces must be the whole level, write "
          "\"a/{name}/b\"\n" },
        { "{ topic = \"a\"; set = { topic = \"1\"; }; }",
          "test.conf:1: routes[0].set.topic: this field is there already and cannot be set, choose "
          "another name\n" },
        { "{ topic = \"a\"; function = \"nosuch\"; }",
          "test.conf:1: routes[0].function: there is no function \"nosuch\", name its file in "
          "router.functions\n" },
        { "{ topic = \"a\"; severity = 7; }",
          "test.conf:1: routes[0].severity: write ok, warning, critical or unknown, or 0 to 3\n" },
        { "{ name = \"n\"; topic = \"a\"; }, { name = \"n\"; topic = \"b\"; }",
          "test.conf:1: routes[1].name: there is a route \"n\" already, choose another name\n" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        static const char *const links[] = { "here", NULL };
        struct conf_errors errors = CONF_ERRORS_INIT;
        struct buf text = BUF_INIT(4096);
        buf_addf(&text, "routes = ( %s );", rows[i].route);
        struct conf *conf = NULL;
        assert_int_equal(conf_load_text("test.conf", buf_str(&text), &conf, &errors), 0);
        struct routes *routes;
        int rc = routes_new(conf, &finder, links, &routes, &errors);
        CHECK(rc == -EINVAL && strcmp(buf_str(&errors.text), rows[i].want) == 0, "%s: %d\n%s",
              rows[i].route, rc, buf_str(&errors.text));
        conf_unref(conf);
        buf_release(&text);
        conf_errors_release(&errors);
    }
}

TEST_SUITE("engine", cmocka_unit_test_setup_teardown(message_becomes_deliveries, setup, teardown),
           cmocka_unit_test(link_and_retain_choose_routes),
           cmocka_unit_test(bytes_that_are_not_text_reach_services_untouched),
           cmocka_unit_test(counters_add_up), cmocka_unit_test(errors_name_place_and_remedy));
