/* SPDX-License-Identifier: MIT */

#include "broker/routing.h"

#include "../suite.h"
#include "peers.h"

#include <stdio.h>

static struct mqtt_subscription with(const char *filter, uint8_t qos, bool no_local,
                                     bool as_published)
{
    struct mqtt_subscription what = wanted(filter, qos);
    what.no_local = no_local;
    what.retain_as_published = as_published;
    return what;
}

static void overlapping_filters_make_one_message_of_the_highest_qos(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct peer peer, other;
    peer_begin(&peer, broker, MQTT_5_0, "peer", true);
    peer_begin(&other, broker, MQTT_5_0, "other", true);
    peer_subscribe(&peer, 1, "a/#", 0, 7);
    EXPECT(&peer, "SUBACK id=1 00");
    peer_subscribe(&peer, 2, "+/b", 2, 0);
    EXPECT(&peer, "SUBACK id=2 02");
    peer_publish(&other, "a/b", "1", 2, 1);
    EXPECT(&peer, "PUBLISH q1 id=1 topic=a/b [0B=7] payload=1");
    peer_publish(&other, "a/c", "2", 2, 2);
    EXPECT(&peer, "PUBLISH q0 topic=a/c [0B=7] payload=2");

    /* The cached answer is not used any longer than it is right. */
    peer_unsubscribe(&peer, 3, "+/b");
    EXPECT(&peer, "UNSUBACK id=3 00");
    peer_publish(&other, "a/b", "3", 2, 3);
    EXPECT(&peer, "PUBLISH q0 topic=a/b [0B=7] payload=3");
    peer_subscribe(&peer, 4, "a/#", 1, 8);
    EXPECT(&peer, "SUBACK id=4 01");
    peer_publish(&other, "a/b", "4", 4, 4);
    EXPECT(&peer, "PUBLISH q1 id=2 topic=a/b [0B=8] payload=4");
    peer_subscribe(&other, 5, "$share/g/a/b", 0, 0);
    peer_publish(&peer, "a/b", "5", 0, 0);
    EXPECT(&peer, "PUBLISH q0 topic=a/b [0B=8] payload=5");
    peer_close(&peer);
    peer_publish(&other, "a/b", "6", 0, 0);
    const char *const answers[] = { "PUBACK id=1 00",
                                    "PUBACK id=2 00",
                                    "PUBACK id=3 00",
                                    "PUBREC id=4 00",
                                    "SUBACK id=5 00",
                                    "PUBLISH q0 topic=a/b payload=5",
                                    "PUBLISH q0 topic=a/b payload=6",
                                    "nothing" };
    for (size_t i = 0; i < ROWS(answers); i++)
        EXPECT(&other, answers[i]);
    peer_close(&other);
    quiet_broker_end(broker);
}

static void message_carries_the_identifiers_of_all_filters_that_match(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct peer peer;
    peer_begin(&peer, broker, MQTT_5_0, "peer", true);
    const unsigned count = 512; /* filters that differ in which of nine levels are wildcards */
    for (unsigned i = 0; i < count; i++) {
        char filter[18] = "a/a/a/a/a/a/a/a/a";
        for (unsigned level = 0; level < 9; level++)
            if (i >> level & 1)
                filter[2 * level] = '+';
        peer_subscribe(&peer, 1, filter, 0, 200000000 + i);
        EXPECT(&peer, "SUBACK id=1 00");
    }
    peer_publish(&peer, "a/a/a/a/a/a/a/a/a", "x", 0, 0);
    const char *text = peer_next(&peer);
    for (unsigned i = 0; i < count; i++) {
        char id[24];
        snprintf(id, sizeof(id), "0B=%u", 200000000 + i);
        CHECK(strstr(text, id), "%u is missing", i);
    }
    EXPECT(&peer, "nothing");
    peer_close(&peer);
    quiet_broker_end(broker);
}

static void no_local_holds_for_the_publisher_and_that_subscription_alone(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { };");
    struct peer peer, other;
    peer_begin(&peer, broker, MQTT_5_0, "peer", true);
    peer_begin(&other, broker, MQTT_5_0, "other", true);
    const struct mqtt_subscription local = with("t", 2, true, false),
                                   any = with("+", 1, false, true);
    peer_subscribe_as(&peer, 1, &local, 1);
    EXPECT(&peer, "SUBACK id=1 02");
    peer_publish(&peer, "t", "own", 0, 0);
    EXPECT(&peer, "nothing");
    peer_publish(&other, "t", "other's", 0, 0);
    EXPECT(&peer, "PUBLISH q0 topic=t [0B=1] payload=other's");

    /* With both: its own by the second only, with that one's options; others' by both. */
    peer_subscribe_as(&peer, 2, &any, 2);
    EXPECT(&peer, "SUBACK id=2 01");
    peer_publish(&peer, "t", "own", 4 | MQTT_FLAG_RETAIN, 9);
    EXPECT(&peer, "PUBLISH q1 retain id=1 topic=t [0B=2] payload=own");
    EXPECT(&peer, "PUBREC id=9 00");
    peer_publish(&other, "t", "other's", 4 | MQTT_FLAG_RETAIN, 9);
    const char *text = peer_next(&peer);
    CHECK(strcmp(text, "PUBLISH q2 retain id=2 topic=t [0B=1 0B=2] payload=other's") == 0 ||
              strcmp(text, "PUBLISH q2 retain id=2 topic=t [0B=2 0B=1] payload=other's") == 0,
          "%s", text);
    EXPECT(&peer, "nothing");
    peer_close(&peer);
    peer_close(&other);
    quiet_broker_end(broker);
}

/* Two workers, which own one client each: answers of one are out of date when the other's sessions change. */
static void other_workers_sessions_are_routed_to_as_they_come_and_go(void **state)
{
    (void)state;
    struct broker *broker = quiet_broker("broker = { workers = 2; };");
    char ids[2][16] = { "", "" };
    for (unsigned i = 0; !ids[0][0] || !ids[1][0]; i++) {
        char id[16];
        snprintf(id, sizeof(id), "client-%u", i);
        memcpy(ids[broker_owner(broker, id, strlen(id))], id, sizeof(id));
    }
    struct peer a, b;
    peer_begin(&a, broker, MQTT_3_1_1, ids[0], true);
    peer_begin(&b, broker, MQTT_3_1_1, ids[1], true); /* accepted by the first worker: moves */
    assert_non_null(broker->workers[0]->clients);
    assert_non_null(broker->workers[1]->clients);
    peer_publish(&a, "t", "nobody", 0, 0);
    peer_subscribe(&b, 1, "+", 1, 0);
    EXPECT(&b, "SUBACK id=1 01");
    peer_publish(&a, "t", "short", 2, 1);
    EXPECT(&a, "PUBACK id=1 00");
    EXPECT(&b, "PUBLISH q1 id=1 topic=t payload=short");
    static char large[5000];
    memset(large, 'x', sizeof(large) - 1);
    peer_publish(&a, "t", large, 0, 0); /* by reference, between two that go by the parcel */
    peer_publish(&a, "t", "last", 0, 0);
    CHECK(strlen(peer_next(&b)) > sizeof(large), "%s", buf_str(&b.text));
    EXPECT(&b, "PUBLISH q0 topic=t payload=last");
    peer_subscribe(&b, 2, "$share/g/t", 0, 0);
    peer_unsubscribe(&b, 3, "+");
    EXPECT(&b, "SUBACK id=2 00");
    EXPECT(&b, "UNSUBACK id=3");
    peer_publish(&a, "t", "shared", 2, 2);
    EXPECT(&b, "PUBLISH q0 topic=t payload=shared");
    EXPECT(&b, "nothing");
    peer_close(&b);
    peer_publish(&a, "t", "nobody", 0, 0);
    EXPECT(&a, "PUBACK id=2 00");
    assert_int_equal(atomic_load(&broker->workers[1]->backlog), 0);
    peer_close(&a);
    quiet_broker_end(broker);
}

TEST_SUITE("broker routing",
           cmocka_unit_test(overlapping_filters_make_one_message_of_the_highest_qos),
           cmocka_unit_test(message_carries_the_identifiers_of_all_filters_that_match),
           cmocka_unit_test(no_local_holds_for_the_publisher_and_that_subscription_alone),
           cmocka_unit_test(other_workers_sessions_are_routed_to_as_they_come_and_go));
