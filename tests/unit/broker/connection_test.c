/* SPDX-License-Identifier: MIT */

/* What clients do to a broker, or to each other, that conversations over a true network can hardly arrange. */

#include "../suite.h"
#include "peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void topic_outside_of_the_mount_point_is_not_for_its_clients(void **state)
{
    (void)state;
    struct broker *broker =
        quiet_broker("broker = { listeners = ( { port = 0; }, { port = 0; mount_point = \"m/\"; },"
                     " { port = 0; mount_point = \"much/longer/\"; } ); };");
    struct peer publisher, mounted;
    peer_begin(&publisher, broker, MQTT_3_1_1, "publisher", true);
    peer_open(&mounted, broker, MQTT_3_1_1, 0, 1);
    peer_connect(&mounted, "mounted", false, 0);
    EXPECT(&mounted, "CONNACK 00");
    peer_subscribe(&mounted, 1, "#", 1, 0);
    EXPECT(&mounted, "SUBACK id=1 01");

    /* "m" and "m/" match "m/#", but nothing of them is left for the client. */
    peer_publish(&publisher, "m", "parent", 0, 0);
    peer_publish(&publisher, "m/", "empty", 0, 0);
    peer_publish(&publisher, "m", "parent", 2, 7);
    EXPECT(&publisher, "PUBACK id=7 00");
    peer_publish(&publisher, "m/x", "child", 2, 8);
    EXPECT(&publisher, "PUBACK id=8 00");
    EXPECT(&mounted, "PUBLISH q1 id=2 topic=x payload=child");
    EXPECT(&mounted, "nothing");

    /* And then the session comes by another listener. */
    peer_close(&mounted);
    peer_publish(&publisher, "m/y", "for the other listener", 2, 9);
    EXPECT(&publisher, "PUBACK id=9 00");
    peer_open(&mounted, broker, MQTT_3_1_1, 0, 2);
    peer_connect(&mounted, "mounted", false, 0);
    EXPECT(&mounted, "CONNACK present 00");
    EXPECT(&mounted, "nothing");

    struct broker_stats stats;
    broker_stats(broker, &stats);
    assert_int_equal(stats.publish_dropped, 5);
    peer_close(&mounted);
    peer_close(&publisher);
    quiet_broker_end(broker);
}

static void message_that_was_one_too_many_is_new_when_it_comes_again(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { receive_maximum = 2; };");
    struct peer publisher, subscriber;
    peer_begin(&subscriber, broker, MQTT_3_1_1, "subscriber", true);
    peer_subscribe(&subscriber, 1, "#", 0, 0);
    EXPECT(&subscriber, "SUBACK id=1 00");
    peer_begin(&publisher, broker, MQTT_5_0, "publisher", false);
    for (uint16_t id = 1; id <= 2; id++) {
        peer_publish(&publisher, "t", "within", 4, id);
        EXPECT(&publisher, id == 1 ? "PUBREC id=1 00" : "PUBREC id=2 00");
        EXPECT(&subscriber, "PUBLISH q0 topic=t payload=within");
    }
    peer_publish(&publisher, "t", "beyond", 4, 3);
    EXPECT(&publisher, "DISCONNECT 93");
    EXPECT(&publisher, "closed");
    EXPECT(&subscriber, "nothing");

    /* A new connection has a new quota, and not what the old one left in it. */
    peer_close(&publisher);
    peer_begin(&publisher, broker, MQTT_5_0, "publisher", false);
    peer_publish(&publisher, "t", "beyond", 4 | MQTT_FLAG_DUP, 3);
    EXPECT(&publisher, "PUBREC id=3 00");
    EXPECT(&subscriber, "PUBLISH q0 topic=t payload=beyond");
    peer_ack(&publisher, MQTT_PUBREL, 1);
    EXPECT(&publisher, "PUBCOMP id=1 00");
    peer_publish(&publisher, "t", "more", 4, 4);
    EXPECT(&publisher, "PUBREC id=4 00");
    peer_publish(&publisher, "t", "beyond", 4, 5);
    EXPECT(&publisher,
           "PUBREC id=5 00"); /* 2 may be of this connection or the last: in its favour */
    peer_publish(&publisher, "t", "beyond", 4, 6);
    EXPECT(&publisher, "DISCONNECT 93");

    peer_close(&publisher);
    peer_close(&subscriber);
    quiet_broker_end(broker);
}

static void nothing_is_sent_that_is_larger_than_a_client_takes(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    static const struct {
        uint8_t max; /* packets of the broker are at most that long */
        const char *answers[3];
    } rows[] = {
        { 2, { "closed" } },
        { 9, { "closed" } }, /* CONNACK has 11 bytes here, */
        { 11, { "CONNACK 00 [21=1000 22=10]", "DISCONNECT 95", "closed" } }, /* SUBACK 14 */
        { 14,
          { "CONNACK 00 [21=1000 22=10]", "SUBACK id=1 00 00 00 00 00 00 00 00 00", "nothing" } },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct peer peer;
        peer_open(&peer, broker, MQTT_5_0, 0, 0);
        const uint8_t connect[] = { 0x10, 19, 0,    4, 'M', 'Q', 'T',         'T', 5, 2,  0,
                                    0,    5,  0x27, 0, 0,   0,   rows[i].max, 0,   1, 'c' };
        const uint8_t subscribe[] = { 0x82,   39,     0,      1,      0,
#define FILTER 0, 1, 'f', 0
                                      FILTER, FILTER, FILTER, FILTER, FILTER,
                                      FILTER, FILTER, FILTER, FILTER };
#undef FILTER
        peer_send(&peer, connect, sizeof(connect));
        peer_send(&peer, subscribe, sizeof(subscribe));
        for (size_t j = 0; j < 3 && rows[i].answers[j]; j++) {
            const char *answer = peer_next(&peer);
            CHECK(strcmp(answer, rows[i].answers[j]) == 0, "at most %u bytes: %s", rows[i].max,
                  answer);
        }
        peer_close(&peer);
    }
    quiet_broker_end(broker);
}

/* Sends a packet as often as the broker reads it, at most `most` times; the answers are not read. Returns how often. */
static int send_until_it_stops(struct peer *peer, const uint8_t *packet, size_t len, int most)
{
    int sent = 0;
    for (int idle = 0; sent < most && idle < 5;) {
        ssize_t n = send(peer->fd, packet, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n == (ssize_t)len) {
            sent++;
            idle = 0;
            continue;
        }
        assert_int_equal(n, -1);
        turns(peer->broker);
        idle++;
    }
    return sent;
}

static void client_that_reads_no_answers_is_read_from_no_further(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { max_output_bytes = 65536L; };");
    struct peer peer;
    peer_begin(&peer, broker, MQTT_3_1_1, "peer", true);
    static const uint8_t ping[] = { 0xc0, 0 };
    const int most = 2000000;
    int sent = send_until_it_stops(&peer, ping, sizeof(ping), most);
    CHECK(sent < most, "%s", "it reads and reads");
    size_t waits = (size_t)broker->workers[0]->clients->output.bytes;
    CHECK(waits < 65536 + WORKER_BUFFER, "%zu bytes wait", waits);

    /* Once it reads there is an answer for each. */
    static char bytes[65536];
    size_t got = 0;
    for (ssize_t n; (n = recv(peer.fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0; got += (size_t)n)
        turns(broker);
    CHECK(got == 2 * (size_t)sent, "%zu bytes of answers to %d pings", got, sent);
    assert_false(broker->workers[0]->clients->paused);
    peer_close(&peer);
    quiet_broker_end(broker);
}

/* ---- Receipts, by a tap ---- */

static struct tap_message *in_hand;

static void keep_in_hand(void *context, struct tap_message *first, size_t n)
{
    (void)context;
    (void)n;
    struct tap_message **end = &in_hand;
    while (*end)
        end = &(*end)->next;
    *end = first;
}

static void finish_oldest(bool refused)
{
    struct tap_message *message = in_hand;
    assert_non_null(message);
    in_hand = message->next;
    tap_message_done(message, refused);
}

static struct broker_tap *tap_of(struct broker *broker, const char *filter)
{
    in_hand = NULL;
    struct broker_tap *tap = broker_tap_open(broker, "tap", keep_in_hand, NULL);
    const struct tap_filter filters[] = { { filter, 2 } };
    assert_non_null(tap);
    assert_int_equal(broker_tap_set_filters(tap, filters, 1), 0);
    return tap;
}

static void acknowledgements_that_wait_are_limited_for_clients_that_know_no_limit(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        uint8_t packets[16];
        size_t len;
    } rows[] = {
        { "QoS 1", { 0x32, 6, 0, 1, 't', 0, 2, 'x' }, 8 },
        { "QoS 1, refused", { 0x32, 9, 0, 4, '$', 'S', 'Y', 'S', 0, 2, 'x' }, 11 },
        { "QoS 2, released early", { 0x34, 5, 0, 1, 't', 0, 2, 0x62, 2, 0, 2 }, 11 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct broker *broker = quiet_broker("broker = { receive_maximum = 100; };");
        struct broker_tap *tap = tap_of(broker, "held");
        struct peer peer;
        peer_begin(&peer, broker, MQTT_3_1_1, "peer", true);
        peer_publish(&peer, "held", "", 2, 1);
        int sent = send_until_it_stops(&peer, rows[i].packets, rows[i].len, 1000);
        uint32_t waiting = broker->workers[0]->clients->waiting;
        CHECK(waiting == 100, "%s: %u wait", rows[i].what, waiting);

        finish_oldest(false);
        int answers = 0;
        while (strcmp(peer_next(&peer), "nothing") != 0)
            answers++;
        CHECK(answers >= sent, "%s: %d answers to %d", rows[i].what, answers, sent);
        assert_int_equal(broker->workers[0]->clients->waiting, 0);
        broker_tap_close(tap);
        peer_close(&peer);
        quiet_broker_end(broker);
    }
}

static void client_that_leaves_while_nothing_is_read_from_it_is_heard_to_the_end(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct broker_tap *tap = tap_of(broker, "held");
    broker_tap_set_limit(tap, 1);
    struct peer watcher, peer;
    peer_begin(&watcher, broker, MQTT_3_1_1, "watcher", true);
    peer_subscribe(&watcher, 1, "will", 0, 0);
    EXPECT(&watcher, "SUBACK id=1 00");

    static const uint8_t connect[] = { 0x10, 20, 0, 4,   'M', 'Q', 'T', 'T', 4,   6,   0,
                                       0,    0,  1, 'c', 0,   4,   'w', 'i', 'l', 'l', 0 };
    uint8_t whole[sizeof(connect) + 1] = { 0 }; /* and a will without payload */
    memcpy(whole, connect, sizeof(connect));
    whole[1] = sizeof(whole) - 2;
    peer_open(&peer, broker, MQTT_3_1_1, 0, 0);
    peer_send(&peer, whole, sizeof(whole));
    EXPECT(&peer, "CONNACK 00");
    for (uint16_t id = 1; id <= 2; id++) /* the second finds the tap crowded */
        peer_publish(&peer, "held", "x", 2, id);
    assert_true(peer.broker->workers[0]->clients->paused);
    static const uint8_t disconnect[] = { 0xe0, 0 };
    peer_send(&peer, disconnect, sizeof(disconnect));
    assert_int_equal(shutdown(peer.fd, SHUT_WR), 0);
    EXPECT(&watcher, "nothing");
    finish_oldest(false);
    finish_oldest(false);
    EXPECT(&peer, "PUBACK id=1 00");
    EXPECT(&peer, "PUBACK id=2 00");
    EXPECT(&peer, "closed");
    EXPECT(&watcher, "nothing"); /* it has said good-bye: no will */
    broker_tap_close(tap);
    peer_close(&peer);
    peer_close(&watcher);
    quiet_broker_end(broker);
}

/* ---- Retained messages on their way ---- */

#define RETAINED 300

static struct broker *broker_with_retained(void)
{
    struct broker *broker = quiet_broker("broker = { };");
    struct peer publisher;
    char topic[16];
    peer_begin(&publisher, broker, MQTT_3_1_1, "publisher", true);
    for (uint16_t i = 1; i <= RETAINED; i++) {
        snprintf(topic, sizeof(topic), "r/%u", i);
        peer_publish(&publisher, topic, "x", 2 | MQTT_FLAG_RETAIN, i);
        CHECK(strncmp(peer_next(&publisher), "PUBACK", 6) == 0, "%s", topic);
    }
    peer_close(&publisher);
    return broker;
}

/* Reads and acknowledges all that comes. Returns how many messages that were. */
static int take_all(struct peer *peer)
{
    int count = 0;
    for (const char *text; strncmp(text = peer_next(peer), "PUBLISH", 7) == 0; count++) {
        const char *id = strstr(text, " id=");
        assert_non_null(id);
        peer_ack(peer, MQTT_PUBACK, (uint16_t)atoi(id + 4));
    }
    return count;
}

static void unsubscribing_ends_the_retained_messages_too(void **state)
{
    (void)state;
    struct broker *broker = broker_with_retained();
    struct peer peer;
    peer_begin(&peer, broker, MQTT_3_1_1, "peer", true);
    peer_subscribe(&peer, 1, "r/#", 1, 0);
    EXPECT(&peer, "SUBACK id=1 01");
    peer_subscribe(&peer, 2, "+/1", 1, 0); /* waits behind the other */
    assert_non_null(broker->workers[0]->walks);
    peer_unsubscribe(&peer, 3, "r/#");
    int before = take_all(&peer); /* those that were sent before the answer */
    int after = take_all(&peer);
    CHECK(before == 20, "%d before SUBACK", before);
    while (after < 1000 && strcmp(peer_next(&peer), "nothing") != 0)
        after += take_all(&peer);
    CHECK(before + after > 100 && before + after < 150, "%d messages", before + after);
    assert_null(broker->workers[0]->walks);
    peer_close(&peer);
    quiet_broker_end(broker);
}

static void retained_messages_wait_for_a_client_that_is_away(void **state)
{
    (void)state;
    struct broker *broker = broker_with_retained();
    broker->settings.max_queued_messages = 110;
    struct peer peer;
    peer_begin(&peer, broker, MQTT_3_1_1, "peer", false);
    peer_subscribe(&peer, 1, "r/#", 1, 0);
    EXPECT(&peer, "SUBACK id=1 01");
    peer_close(&peer);
    turns(broker);
    peer_begin(&peer, broker, MQTT_3_1_1, "peer", false);
    int count = take_all(&peer);
    CHECK(count == RETAINED, "%d of %d", count, RETAINED);
    assert_null(broker->workers[0]->walks);
    peer_close(&peer);
    quiet_broker_end(broker);
}

static void asking_for_retained_messages_without_taking_them_has_a_limit(void **state)
{
    (void)state;
    struct broker *broker = broker_with_retained();
    struct peer peer;
    peer_begin(&peer, broker, MQTT_5_0, "peer", true);
    peer_subscribe(&peer, 1, "r/#", 1, 0);
    static const uint8_t again[] = { 0x82, 9, 0, 2, 0, 0, 3, 'r', '/', '#', 1 };
    int sent = 0;
    const char *answer = "";
    for (; sent < 30000 && strncmp(answer, "DISCONNECT", 10) != 0; sent++) {
        if (send(peer.fd, again, sizeof(again), MSG_NOSIGNAL) < 0)
            assert_true(sent > 0);
        answer = peer_next(&peer);
        CHECK(strcmp(answer, "closed") != 0, "%s", "no word");
    }
    CHECK(sent < 20000, "%d times", sent);
    peer_close(&peer);
    assert_null(broker->workers[0]->walks);
    quiet_broker_end(broker);
}

TEST_SUITE("broker connection",
           cmocka_unit_test(topic_outside_of_the_mount_point_is_not_for_its_clients),
           cmocka_unit_test(message_that_was_one_too_many_is_new_when_it_comes_again),
           cmocka_unit_test(nothing_is_sent_that_is_larger_than_a_client_takes),
           cmocka_unit_test(client_that_reads_no_answers_is_read_from_no_further),
           cmocka_unit_test(acknowledgements_that_wait_are_limited_for_clients_that_know_no_limit),
           cmocka_unit_test(client_that_leaves_while_nothing_is_read_from_it_is_heard_to_the_end),
           cmocka_unit_test(unsubscribing_ends_the_retained_messages_too),
           cmocka_unit_test(retained_messages_wait_for_a_client_that_is_away),
           cmocka_unit_test(asking_for_retained_messages_without_taking_them_has_a_limit));
