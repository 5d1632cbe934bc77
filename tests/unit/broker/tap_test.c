/* SPDX-License-Identifier: MIT */

#include "broker/tap.h"

#include "../suite.h"
#include "peers.h"

#include <pthread.h>
#include <stdio.h>

static struct tap_message *in_hand, **in_hand_end = &in_hand;
static size_t given;

static void keep_in_hand(void *context, struct tap_message *first, size_t n)
{
    assert_ptr_equal(context, &given);
    *in_hand_end = first;
    for (given += n; n > 0; n--)
        in_hand_end = &(*in_hand_end)->next;
    assert_null(*in_hand_end); /* as many as it says */
}

/* Ends what came first. */
static void finish(size_t n, bool refused)
{
    for (; n > 0; n--) {
        struct tap_message *message = in_hand;
        assert_non_null(message);
        in_hand = message->next;
        if (!in_hand)
            in_hand_end = &in_hand;
        tap_message_done(message, refused);
    }
}

static struct broker_tap *tap_open(struct broker *broker)
{
    given = 0;
    struct broker_tap *tap = broker_tap_open(broker, "tap", keep_in_hand, &given);
    assert_non_null(tap);
    return tap;
}

static void set(struct broker_tap *tap, const char *filter, uint8_t qos)
{
    const struct tap_filter one = { filter, qos };
    assert_int_equal(broker_tap_set_filters(tap, &one, 1), 0);
}

static void retained_messages_come_with_filters_that_are_new(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_open(broker);
    struct peer peer;
    peer_begin(&peer, broker, MQTT_3_1_1, "peer", true);
    for (uint16_t i = 1; i <= 3; i++) {
        const char *const topics[] = { "a/1", "a/2", "b/1" };
        peer_publish(&peer, topics[i - 1], "r", 2 | MQTT_FLAG_RETAIN, i);
    }
    set(tap, "a/#", 0);
    assert_int_equal(given, 2);
    assert_true(in_hand->retain && in_hand->qos == 0);
    set(tap, "a/#", 2); /* only its QoS has changed */
    assert_int_equal(given, 2);
    const struct tap_filter two[] = { { "+/1", 2 }, { "a/#", 2 } };
    assert_int_equal(broker_tap_set_filters(tap, two, 2), 0);
    assert_int_equal(given, 4);
    finish(4, false);

    /* One that is published now matches both, and comes once, with the QoS that it has. */
    peer_publish(&peer, "a/1", "live", 2 | MQTT_FLAG_RETAIN, 9);
    assert_int_equal(given, 5);
    assert_true(!in_hand->retain && in_hand->qos == 1);
    finish(1, false);
    assert_int_equal(broker_tap_set_filters(tap, NULL, 0), 0);
    peer_publish(&peer, "a/1", "nobody", 2, 10);
    assert_int_equal(given, 5);
    broker_tap_close(tap);
    peer_close(&peer);
    quiet_broker_end(broker);
}

static void publisher_is_acknowledged_in_order_when_all_taps_are_done(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_open(broker), *other = tap_open(broker);
    struct peer peer;
    set(tap, "t", 2);
    set(other, "t", 1);
    peer_begin(&peer, broker, MQTT_5_0, "peer", true);
    peer_publish(&peer, "t", "1", 2, 1);
    peer_publish(&peer, "t", "2", 4, 2);
    peer_publish(&peer, "nobody", "3", 2, 3); /* waits for nobody but those before */
    peer_publish(&peer, "t", "4", 0, 0);
    EXPECT(&peer, "nothing");
    assert_int_equal(given, 6);
    finish(1, false);
    EXPECT(&peer, "nothing");
    finish(1, false);
    EXPECT(&peer, "PUBACK id=1 00");
    EXPECT(&peer, "nothing");
    peer_publish(&peer, "t", "2", 4 | MQTT_FLAG_DUP, 2); /* under way still: not again */
    EXPECT(&peer, "nothing");
    assert_int_equal(given, 6);
    finish(4, false);
    EXPECT(&peer, "PUBREC id=2 00");
    EXPECT(&peer, "PUBACK id=3 10");
    EXPECT(&peer, "nothing");
    struct broker_tap_stats stats;
    broker_tap_stats(tap, &stats);
    assert_int_equal(stats.received, 3);
    assert_int_equal(stats.in_hand, 0);
    assert_int_equal(stats.in_hand_bytes, 0);
    broker_tap_close(other);
    broker_tap_close(tap);
    peer_close(&peer);
    quiet_broker_end(broker);
}

static void message_that_is_refused_is_not_acknowledged_and_new_the_next_time(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_open(broker);
    set(tap, "t", 2);
    for (uint8_t qos = 1; qos <= 2; qos++) {
        struct peer peer;
        given = 0;
        peer_begin(&peer, broker, MQTT_5_0, "peer", false);
        peer_publish(&peer, "t", "1", (uint8_t)(qos << 1), 1);
        finish(1, true);
        EXPECT(&peer, "DISCONNECT 89 [1F=a\\20message\\20could\\20not\\20be\\20taken\\20over]");
        EXPECT(&peer, "closed");
        peer_close(&peer);
        peer_begin(&peer, broker, MQTT_5_0, "peer", false);
        peer_publish(&peer, "t", "1", (uint8_t)(qos << 1 | MQTT_FLAG_DUP), 1);
        assert_int_equal(given, 2);
        finish(1, false);
        EXPECT(&peer, qos == 1 ? "PUBACK id=1 00" : "PUBREC id=1 00");
        if (qos == 2) {
            peer_ack(&peer, MQTT_PUBREL, 1);
            EXPECT(&peer, "PUBCOMP id=1 00");
        }
        peer_close(&peer);
    }
    broker_tap_close(tap);
    quiet_broker_end(broker);
}

/* The client goes, comes back, or its session ends, while the tap has the message. */
static void acknowledgement_does_not_reach_another_connection(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_open(broker);
    struct peer peer, second;
    set(tap, "t", 2);
    peer_begin(&peer, broker, MQTT_5_0, "peer", false);
    peer_publish(&peer, "t", "1", 2, 1);
    peer_publish(&peer, "t", "2", 4, 2);
    peer_begin(&second, broker, MQTT_5_0, "peer", false); /* takes over */
    EXPECT(&peer, "DISCONNECT 8E");
    finish(1, false);
    EXPECT(&second, "nothing");
    peer_publish(&second, "t", "2", 4 | MQTT_FLAG_DUP, 2); /* asks for its acknowledgement */
    EXPECT(&second, "nothing");
    finish(1, false);
    EXPECT(&second, "PUBREC id=2 00");
    peer_publish(&second, "t", "3", 2, 3);
    peer_close(&second);
    peer_begin(&second, broker, MQTT_5_0, "peer", true); /* ends the session */
    finish(1, false);
    EXPECT(&second, "nothing");
    peer_close(&peer);
    peer_close(&second);
    broker_tap_close(tap);
    quiet_broker_end(broker);
}

static void crowded_tap_drops_qos_0_and_pauses_publishers(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_open(broker);
    struct broker_tap_stats stats;
    struct peer peer;
    set(tap, "t", 2);
    broker_tap_set_limit(tap, 1);
    peer_begin(&peer, broker, MQTT_3_1_1, "peer", true);
    peer_publish(&peer, "t", "1", 2, 1); /* there is room for one */
    peer_publish(&peer, "t", "dropped", 0, 0);
    peer_publish(&peer, "t", "2", 2, 2); /* taken, but the next is not read */
    peer_publish(&peer, "t", "3", 2, 3);
    assert_int_equal(given, 2);
    broker_tap_stats(tap, &stats);
    assert_int_equal(stats.dropped, 1);
    assert_int_equal(stats.in_hand, 2);
    finish(1, false);
    EXPECT(&peer, "PUBACK id=1 00");
    EXPECT(&peer, "nothing");
    assert_int_equal(given, 2);
    finish(1, false);
    EXPECT(&peer, "PUBACK id=2 00");
    assert_int_equal(given, 3);
    finish(1, false);
    EXPECT(&peer, "PUBACK id=3 00");
    broker_tap_close(tap);
    peer_close(&peer);
    quiet_broker_end(broker);
}

/* What a tap wants before and after is wanted at every moment in between. */
struct watch {
    struct interest *interest;
    atomic_bool end;
    unsigned looks, gaps;
};

static void *watch(void *context)
{
    struct watch *w = context;
    while (!atomic_load(&w->end)) {
        w->looks++;
        w->gaps += interest_match(w->interest, "a/b", 3) == 0;
    }
    return NULL;
}

static void filter_that_stays_is_never_missing(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_open(broker);
    struct watch w = { .interest = broker->interest };
    pthread_t thread;
    char names[100][16];
    struct tap_filter filters[101];
    set(tap, "a/#", 1);
    assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
    for (unsigned i = 0; i < 200; i++) {
        for (unsigned j = 0; j < 100; j++) {
            snprintf(names[j], sizeof(names[j]), "c/%u/%u", i, j);
            filters[j] = (struct tap_filter){ names[j], 0 };
        }
        filters[100] = (struct tap_filter){ "a/#", (uint8_t)(i % 3) };
        assert_int_equal(broker_tap_set_filters(tap, filters, 101), 0);
    }
    atomic_store(&w.end, true);
    pthread_join(thread, NULL);
    CHECK(w.gaps == 0, "missing at %u of %u looks", w.gaps, w.looks);
    broker_tap_close(tap);
    quiet_broker_end(broker);
}

static void taps_are_eight(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *taps[TAPS_MAX];
    for (size_t i = 0; i < TAPS_MAX; i++)
        taps[i] = tap_open(broker);
    assert_null(broker_tap_open(broker, "ninth", keep_in_hand, NULL));
    broker_tap_close(taps[3]);
    taps[3] = tap_open(broker);
    for (size_t i = 0; i < TAPS_MAX; i++)
        broker_tap_close(taps[i]);
    broker_tap_close(NULL);
    quiet_broker_end(broker);
}

TEST_SUITE("broker tap", cmocka_unit_test(retained_messages_come_with_filters_that_are_new),
           cmocka_unit_test(publisher_is_acknowledged_in_order_when_all_taps_are_done),
           cmocka_unit_test(message_that_is_refused_is_not_acknowledged_and_new_the_next_time),
           cmocka_unit_test(acknowledgement_does_not_reach_another_connection),
           cmocka_unit_test(crowded_tap_drops_qos_0_and_pauses_publishers),
           cmocka_unit_test(filter_that_stays_is_never_missing), cmocka_unit_test(taps_are_eight));
