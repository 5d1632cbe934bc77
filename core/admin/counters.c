/* SPDX-License-Identifier: MIT */

#include "admin/counters.h"

#include "broker/broker.h"
#include "delivery/services.h"
#include "ledger/ledger.h"
#include "link/links.h"
#include "router/routing_stats.h"
#include "store/store.h"

#include <inttypes.h>

/* clang-format off */
#define T(FIELD, HELP) { #FIELD, COUNTER_TOTAL, offsetof(OF, FIELD), HELP }
#define G(FIELD, HELP) { #FIELD, COUNTER_GAUGE, offsetof(OF, FIELD), HELP }
#define F(FIELD, HELP) { #FIELD, COUNTER_FLAG, offsetof(OF, FIELD), HELP }
#define E(FIELD, HELP) { #FIELD, COUNTER_TOTAL, offsetof(OF, engine.FIELD), HELP }
#define V(NAME, VERDICT, HELP) \
    { NAME, COUNTER_TOTAL, offsetof(OF, engine.verdicts) + (VERDICT) * sizeof(uint64_t), HELP }
#define END { .name = NULL }

#define OF struct routing_stats
const struct counter counters_of_routing[] = {
    T(received, "messages that links have handed on, and internal ones"),
    T(internal, "messages that the router has made itself"),
    E(messages, "messages that were looked at: routed, or not matched"),
    E(unmatched, "messages that matched no route"),
    T(refused, "messages that were not looked at, and not acknowledged"),
    G(waiting, "messages to be looked at"),
    E(deliveries, "deliveries that routes made"),
    V("not_decoded", VERDICT_NOT_DECODED, "payloads that are not what `decode` expects"),
    V("when_false", VERDICT_WHEN_FALSE, "routes whose `when` was false"),
    V("ended", VERDICT_ENDED, "routes whose function returned false"),
    V("errors", VERDICT_ERROR, "routes in which an expression failed"),
    V("retained", VERDICT_RETAINED, "routes that skipped a retained message"),
    E(missing_fields, "fields that were not there"),
    E(no_target, "targets that do not exist"),
    E(out_of_memory, "notifications for which there was no memory"),
    END,
};
#undef OF

#define OF struct target_stats
const struct counter counters_of_target[] = {
    T(created, "deliveries that routes made"),
    T(restored, "deliveries that were found on disk"),
    T(revived, "dead letters that were to be tried again"),
    T(taken_over, "deliveries that came from the configuration before"),
    T(moved_in, "deliveries that came from a target before this one in first_of"),
    T(sent, "deliveries that the service has taken"),
    T(retried, "attempts in vain after which another one follows"),
    T(rejected, "deliveries that the service will never take"),
    T(given_up, "deliveries that were tried long enough"),
    T(dropped, "deliveries of QoS 0 for which the queue had no place"),
    T(forgotten, "deliveries whose message will be sent again by its broker"),
    T(refused, "deliveries for which there was no memory"),
    T(moved_out, "deliveries that went to the next target of first_of"),
    T(handed_over, "deliveries that went to the next configuration"),
    T(unreadable, "deliveries on disk that cannot be read"),
    T(removed, "deliveries that somebody else has taken off the disk"),
    T(suppressed, "deliveries whose message had come before"),
    T(left, "deliveries that were there at the end"),
    G(waiting, "deliveries that wait"),
    G(retrying, "of these, tried in vain so far"),
    G(held, "of these, beyond the bound"),
    G(spilled, "of these, on disk only"),
    G(bytes, "memory that they take"),
    T(opened, "how often the breaker was opened"),
    { "breaker", COUNTER_BREAKER, offsetof(OF, breaker), "state of the breaker: 0 closed, 1 open, 2 half-open" },
    F(failing, "whether the last attempts were in vain"),
    END,
};
#undef OF

#define OF struct link_stats
const struct counter counters_of_link[] = {
    F(connected, "whether it receives"),
    T(received, "messages handed on"),
    { "bytes", COUNTER_TOTAL, offsetof(OF, received_bytes), "their bytes" },
    T(published, "messages published"),
    T(publish_failed, "messages that could not be published"),
    T(connects, "connections so far"),
    T(loops_stopped, "messages dropped because they came round again"),
    T(subscriptions_refused, "subscriptions that the broker refused"),
    T(dropped, "messages of QoS 0 for which there was no room"),
    G(untaken, "messages handed on that have no place yet"),
    END,
};
#undef OF

#define OF struct store_stats
const struct counter counters_of_store[] = {
    { "changes", COUNTER_TOTAL, offsetof(OF, tasks), "changes written" },
    T(commits, "groups of them"),
    T(failures, "groups that could not be written, and were tried again"),
    T(set_apart, "changes that cannot be carried out"),
    G(waiting, "changes to be written"),
    F(in_trouble, "whether the last write failed"),
    { "bytes", COUNTER_SIGNED, offsetof(OF, bytes), "size of the file and its log" },
    END,
};
#undef OF

#define OF struct ledger_stats
const struct counter counters_of_ledger[] = {
    T(entries, "messages noted"),
    T(events, "events noted"),
    T(dropped, "events for which there was no room"),
    { "waiting_bytes", COUNTER_GAUGE, offsetof(OF, waiting), "bytes to be written" },
    G(bytes, "bytes on disk"),
    END,
};
#undef OF

/* Called as in the $SYS tree. */
#define OF struct broker_stats
const struct counter counters_of_broker[] = {
    { "clients", COUNTER_GAUGE, offsetof(OF, clients_connected), "clients that are connected" },
    { "sessions", COUNTER_GAUGE, offsetof(OF, clients_total), "sessions" },
    T(connections, "connections so far"),
    { "refused", COUNTER_TOTAL, offsetof(OF, connections_refused), "connections that were refused" },
    { "received", COUNTER_TOTAL, offsetof(OF, messages_received), "packets received" },
    T(bytes_received, "bytes received"),
    { "sent", COUNTER_TOTAL, offsetof(OF, messages_sent), "packets sent" },
    T(bytes_sent, "bytes sent"),
    T(publish_received, "messages received"),
    T(publish_sent, "messages sent"),
    T(publish_dropped, "messages dropped"),
    T(packets_refused, "packets refused"),
    G(subscriptions, "subscriptions"),
    { "shared", COUNTER_GAUGE, offsetof(OF, shared_subscriptions), "shared subscriptions" },
    G(retained, "retained messages"),
    G(stored, "messages in sessions and retained"),
    G(stored_bytes, "their bytes"),
    END,
};
#undef OF
/* clang-format on */

int64_t counter_value(const struct counter *counter, const void *stats)
{
    const char *at = (const char *)stats + counter->offset;
    switch (counter->kind) {
    case COUNTER_TOTAL:
    case COUNTER_GAUGE:
        return (int64_t) * (const uint64_t *)(const void *)at;
    case COUNTER_SIGNED:
        return *(const int64_t *)(const void *)at;
    case COUNTER_BREAKER:
        return *(const enum breaker_state *)(const void *)at;
    case COUNTER_FLAG:
        return *(const bool *)(const void *)at;
    }
    return 0;
}

void counters_write(const struct counter *table, const void *stats, bool leave_out_zeros,
                    struct buf *out)
{
    for (const struct counter *c = table; c->name; c++) {
        int64_t value = counter_value(c, stats);
        if (value == 0 && leave_out_zeros)
            continue;
        if (c->kind == COUNTER_BREAKER)
            buf_addf(out, " %s=%s", c->name, breaker_state_name((enum breaker_state)value));
        else
            buf_addf(out, " %s=%" PRId64, c->name, value);
    }
}

json_t *counters_json(const struct counter *table, const void *stats, bool leave_out_zeros)
{
    json_t *object = json_object();
    for (const struct counter *c = table; object && c->name; c++) {
        int64_t value = counter_value(c, stats);
        if (value == 0 && leave_out_zeros)
            continue;
        json_t *json = c->kind == COUNTER_FLAG ? json_boolean(value)
                       : c->kind == COUNTER_BREAKER
                           ? json_string(breaker_state_name((enum breaker_state)value))
                           : json_integer(value);
        if (json_object_set_new(object, c->name, json) < 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}
