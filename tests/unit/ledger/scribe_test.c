/* SPDX-License-Identifier: MIT */

/* Which messages a scribe notes, by what routes and the configuration say. */

#include "../suite.h"

#include "../store/temporary.h"
#include "config/conf.h"
#include "ledger/scribe.h"
#include "router/engine.h"
#include "store/store.h"

static struct target target = { .service = "file", .name = "out" };

static struct target *find(void *context, const char *service, size_t service_len, const char *name,
                           size_t name_len)
{
    (void)context;
    (void)name;
    (void)name_len;
    return service_len == 4 && memcmp(service, "file", 4) == 0 ? &target : NULL;
}

static struct target *target_at(void *context, const char *service, size_t service_len,
                                size_t index)
{
    return index == 0 ? find(context, service, service_len, "", 0) : NULL;
}

static const char *service_at(void *context, size_t index)
{
    (void)context;
    return index == 0 ? "file" : NULL;
}

static struct engine *engine_of(const char *text)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf;
    CHECK(conf_load_text("test", text, &conf, &errors) == 0, "%s", buf_str(&errors.text));
    const struct target_finder finder = { find, target_at, service_at, NULL };
    const char *const links[] = { NULL };
    struct routes *routes;
    CHECK(routes_new(conf, &finder, links, &routes, &errors) == 0, "%s", buf_str(&errors.text));
    conf_unref(conf);
    conf_errors_release(&errors);
    struct engine *engine = engine_new(routes);
    assert_non_null(engine);
    return engine;
}

static void decided(void *context, const struct decision *d)
{
    scribe_decided(context, d);
}

static void no_target(void *context, const struct route *route, const char *name)
{
    scribe_no_target(context, route, name);
}

static void route_one(struct scribe *scribe, struct engine *engine, const char *topic,
                      const char *payload)
{
    const struct engine_observer observer = { .decided = decided,
                                              .no_target = no_target,
                                              .context = scribe };
    struct message *m = message_new(topic, strlen(topic), payload, strlen(payload), NULL);
    assert_non_null(m);
    m->link = "home";
    struct delivery *first = engine_message(engine, m, &observer);
    scribe_message(scribe, m, first, routes_count(engine_routes(engine)));
    while (first) {
        struct delivery *next = first->next;
        delivery_free(first);
        first = next;
    }
    message_unref(m);
}

static const char routes[] =
    "routes = ( { name = \"a\"; topic = \"a\"; when = \"value > 1\"; targets = \"file:out\"; },"
    "  { name = \"all\"; topic = \"all\"; ledger = \"all\"; when = \"value > 1\"; targets = "
    "\"file:out\"; },"
    "  { name = \"sent\"; topic = \"sent\"; ledger = \"deliveries\"; when = \"value > 1\"; targets "
    "= \"file:out\"; },"
    "  { name = \"none\"; topic = \"none\"; ledger = \"none\"; when = \"value > 1\"; targets = "
    "\"file:out\"; },"
    "  { name = \"lost\"; topic = \"lost\"; targets = \"{x?nowhere}\"; } );";

static void routes_and_the_group_say_what_is_noted(void **state)
{
    (void)state;
    static const struct {
        enum ledger_keep keep;
        bool unmatched;
        const char *topic, *payload;
        unsigned noted;
    } rows[] = {
        { LEDGER_KEEP_ALL, false, "a", "1", 1 },
        { LEDGER_KEEP_ALL, false, "a", "2", 1 },
        { LEDGER_KEEP_DELIVERIES, false, "a", "1", 0 },
        { LEDGER_KEEP_DELIVERIES, false, "a", "2", 1 },
        { LEDGER_KEEP_NONE, false, "a", "1", 0 },
        { LEDGER_KEEP_NONE, false, "a", "2", 0 },
        { LEDGER_KEEP_NONE, false, "all", "1", 1 },
        { LEDGER_KEEP_ALL, false, "sent", "1", 0 },
        { LEDGER_KEEP_NONE, false, "sent", "2", 1 },
        { LEDGER_KEEP_ALL, false, "none", "1", 0 },
        { LEDGER_KEEP_ALL, false, "none", "2", 0 },
        { LEDGER_KEEP_ALL, true, "none", "2", 0 }, /* it matched a route */
        { LEDGER_KEEP_ALL, false, "else", "1", 0 },
        { LEDGER_KEEP_ALL, true, "else", "1", 1 },
        { LEDGER_KEEP_ALL, false, "lost", "1", 1 },
    };
    struct temporary t;
    temporary_init(&t);
    struct store *store;
    struct buf why = BUF_INIT(4096);
    assert_int_equal(store_open(t.path, &store, &why), 0);
    struct engine *engine = engine_of(routes);
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct ledger_config config = {
            .keep = rows[i].keep,
            .unmatched = rows[i].unmatched,
            .max_age_ms = 1000000,
            .max_size = 1000000,
        };
        struct ledger *ledger;
        assert_int_equal(ledger_new(store, &config, &ledger), 0);
        struct scribe *scribe = scribe_new(ledger);
        assert_non_null(scribe);
        route_one(scribe, engine, rows[i].topic, rows[i].payload);
        route_one(scribe, engine, rows[i].topic, rows[i].payload);
        scribe_flush(scribe);
        struct ledger_stats stats;
        ledger_stats(ledger, &stats);
        CHECK(stats.entries == 2 * rows[i].noted, "row %zu, %s %s: %u", i, rows[i].topic,
              rows[i].payload, (unsigned)stats.entries);
        scribe_free(scribe);
        ledger_free(ledger);
    }
    engine_free(engine);
    store_close(store, 1000);
    buf_release(&why);
    temporary_release(&t);
}

TEST_SUITE("ledger scribe", cmocka_unit_test(routes_and_the_group_say_what_is_noted));
