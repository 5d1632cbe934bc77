/* SPDX-License-Identifier: MIT */

#include "admin/status.h"

#include "admin/counters.h"

#include <stdio.h>
#include <time.h>

void status_time(int64_t wall_ms, char out[32])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm utc;
    out[0] = '\0';
    if (gmtime_r(&seconds, &utc))
        strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

/* Sets a member; a NULL value, for lack of memory, makes the whole thing fail. */
static void set(json_t *object, const char *name, json_t *value, bool *good)
{
    if (!value || json_object_set_new(object, name, value) < 0)
        *good = false;
}

static json_t *reasons_json(const struct health *h)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < h->count && i < HEALTH_REASONS; i++)
        json_array_append_new(list, json_string_nocheck(h->reasons[i]));
    return list;
}

static json_t *store_json(const struct observation *seen, bool *good)
{
    if (!seen->has_store)
        return json_pack("{s:b}", "durable", false);
    json_t *store = counters_json(counters_of_store, &seen->store, false);
    if (store) {
        set(store, "durable", json_true(), good);
        set(store, "dead_letters", json_integer((json_int_t)seen->dead_letters), good);
        set(store, "not_configured", json_integer((json_int_t)seen->stray), good);
    }
    return store;
}

static json_t *links_json(const struct observation *seen, bool *good)
{
    json_t *links = json_object();
    for (size_t i = 0; links && i < seen->link_count; i++)
        set(links, seen->links[i].name,
            counters_json(counters_of_link, &seen->links[i].stats, false), good);
    return links;
}

static json_t *targets_json(const struct observation *seen, bool *good)
{
    json_t *targets = json_object();
    for (size_t i = 0; targets && i < seen->target_count; i++)
        set(targets, seen->targets[i].name,
            counters_json(counters_of_target, &seen->targets[i].stats, true), good);
    return targets;
}

char *status_text(const struct status_parts *p)
{
    const struct observation *seen = p->seen;
    bool good = true;
    char started[32], now[32];
    status_time(p->started_ms, started);
    status_time(p->now_ms, now);
    json_t *o = json_object();
    set(o, "online", json_boolean(p->health->level != HEALTH_STOPPED), &good);
    set(o, "health", json_string(health_word(p->health->level)), &good);
    set(o, "reasons", reasons_json(p->health), &good);
    set(o, "node", json_string(p->node), &good);
    set(o, "version", json_string(TOCSIN_VERSION), &good);
    set(o, "started", json_string(started), &good);
    set(o, "time", json_string(now), &good);
    set(o, "interval_ms", json_integer(p->interval_ms), &good);
    set(o, "router", counters_json(counters_of_routing, &seen->routing, false), &good);
    set(o, "deliveries", counters_json(counters_of_target, &seen->sum, false), &good);
    set(o, "accounts",
        json_pack("{s:b,s:s}", "hold", !p->conservation->is_broken, "why",
                  p->conservation->is_broken ? p->conservation->why : ""),
        &good);
    if (p->health->level != HEALTH_STOPPED)
        set(o, "store", store_json(seen, &good), &good);
    if (seen->has_store)
        set(o, "ledger", counters_json(counters_of_ledger, &seen->ledger, false), &good);
    if (seen->has_broker)
        set(o, "broker", counters_json(counters_of_broker, &seen->broker, false), &good);
    set(o, "links", links_json(seen, &good), &good);
    set(o, "targets", targets_json(seen, &good), &good);
    char *text = good ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}
