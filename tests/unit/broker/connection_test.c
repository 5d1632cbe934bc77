/* SPDX-License-Identifier: MIT */

/* What clients do to a broker, or to each other, that conversations over a true network can hardly arrange. */

#include "../suite.h"
#include "peers.h"

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

TEST_SUITE("broker connection",
           cmocka_unit_test(topic_outside_of_the_mount_point_is_not_for_its_clients));
