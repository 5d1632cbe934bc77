/* SPDX-License-Identifier: MIT */

#include "link/properties.h"

#include "../suite.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <stdlib.h>

static void properties_survive_there_and_back(void **state)
{
    (void)state;
    const struct tocsin_property user[] = { { "a", "1" }, { HOPS_PROPERTY, "9" }, { "a", "2" } };
    const struct tocsin_properties sent = { .content_type = "text/plain",
                                            .response_topic = "r",
                                            .correlation = (const uint8_t *)"\0\1",
                                            .correlation_len = 2,
                                            .user = user,
                                            .user_count = 3,
                                            .expires_ms = 60500,
                                            .payload_utf8 = 1 };
    const struct tocsin_publication publication = { .topic = "t", .hops = 3, .properties = &sent };
    mosquitto_property *list;
    assert_int_equal(properties_make(&publication, 1000, &list), 0);

    struct properties_in in = { 0 };
    assert_int_equal(properties_read(&in, list, 5000), 0);
    assert_true(in.any);
    assert_int_equal(in.hops, 3);
    assert_string_equal(in.properties.content_type, "text/plain");
    assert_string_equal(in.properties.response_topic, "r");
    assert_int_equal(in.properties.correlation_len, 2);
    assert_memory_equal(in.properties.correlation, "\0\1", 2);
    assert_int_equal(in.properties.expires_ms, 5000 + 60000); /* 59.5 s were left */
    assert_int_equal(in.properties.payload_utf8, 1);
    assert_int_equal(in.properties.user_count, 2);
    assert_string_equal(in.properties.user[0].value, "1");
    assert_string_equal(in.properties.user[1].value, "2");

    assert_int_equal(properties_read(&in, NULL, 0), 0);
    assert_false(in.any);
    assert_int_equal(in.hops, 0);
    assert_int_equal(in.properties.payload_utf8, -1);
    properties_release(&in);
    mosquitto_property_free_all(&list);
}

static void hops_are_a_number_or_none(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        uint8_t hops;
    } rows[] = {
        { "0", 0 },     { "1", 1 },   { "254", 254 }, { "255", 255 },
        { "256", 255 }, { "", 0 },    { "-1", 0 },    { "2x", 0 },
        { " 2", 0 },    { "007", 7 }, { "1e3", 0 },   { "99999999999999999999999999", 255 }
    };
    struct properties_in in = { 0 };
    for (size_t i = 0; i < ROWS(rows); i++) {
        mosquitto_property *list = NULL;
        mosquitto_property_add_string_pair(&list, MQTT_PROP_USER_PROPERTY, HOPS_PROPERTY,
                                           rows[i].value);
        assert_int_equal(properties_read(&in, list, 0), 0);
        CHECK(in.hops == rows[i].hops && !in.any, "\"%s\": %u", rows[i].value, in.hops);
        mosquitto_property_free_all(&list);
    }
    properties_release(&in);
}

/* Reads what was written for a packet, which needs its length in front. */
static void read_back(struct properties_in *in, const struct buf *written, int64_t received_ms)
{
    uint8_t *raw = malloc(written->len + 4);
    uint8_t *end = mqtt_varint_write(raw, written->len);
    memcpy(end, buf_str(written), written->len);
    struct mqtt_properties properties;
    const uint8_t *used;
    size_t len = (size_t)(end - raw) + written->len;
    assert_int_equal(
        mqtt_properties_read(&properties, MQTT_PUBLISH, MQTT_FROM_SERVER, raw, len, &used), 0);
    assert_int_equal(properties_read_packet(in, &properties, received_ms), 0);
    free(raw); /* it has copies */
}

static void properties_survive_the_packet_codec(void **state)
{
    (void)state;
    const struct tocsin_property user[] = { { "a", "1" }, { HOPS_PROPERTY, "9" }, { "", "" } };
    const struct tocsin_properties sent = { .content_type = "text/plain",
                                            .response_topic = "r",
                                            .correlation = (const uint8_t *)"\0\1",
                                            .correlation_len = 2,
                                            .user = user,
                                            .user_count = 3,
                                            .expires_ms = 60500,
                                            .payload_utf8 = 1 };
    const struct tocsin_publication publication = { .topic = "t", .hops = 30, .properties = &sent };
    struct buf out = BUF_INIT(1000);
    assert_int_equal(properties_write(&publication, 1000, &out), 0);
    assert_int_equal(properties_packet_length(&publication), 2 + 3 + 1 + out.len);

    struct properties_in in = { 0 };
    for (int i = 0; i < 2; i++) { /* the memory is used again */
        read_back(&in, &out, 5000);
        assert_true(in.any);
        assert_int_equal(in.hops, 30);
        assert_string_equal(in.properties.content_type, "text/plain");
        assert_string_equal(in.properties.response_topic, "r");
        assert_int_equal(in.properties.correlation_len, 2);
        assert_memory_equal(in.properties.correlation, "\0\1", 2);
        assert_int_equal(in.properties.expires_ms, 5000 + 60000); /* 59.5 s were left */
        assert_int_equal(in.properties.payload_utf8, 1);
        assert_int_equal(in.properties.user_count, 2);
        assert_string_equal(in.properties.user[0].name, "a");
        assert_string_equal(in.properties.user[0].value, "1");
        assert_string_equal(in.properties.user[1].name, "");
        assert_string_equal(in.properties.user[1].value, "");
        assert_int_equal(in.id_count, 0);
    }
    buf_clear(&out);
    buf_add(&out, "\x23\0\x05\x0B\x07\x0B\x80\x01", 8);
    read_back(&in, &out, 5000);
    assert_false(in.any);
    assert_int_equal(in.hops, 0);
    assert_int_equal(in.properties.payload_utf8, -1);
    assert_int_equal(in.id_count, 2);
    assert_int_equal(in.ids[1], 128);
    buf_release(&out);
    properties_release(&in);
}

static void empty_values_are_not_absent_ones(void **state)
{
    (void)state;
    const struct tocsin_properties sent = { .content_type = "",
                                            .correlation = (const uint8_t *)"",
                                            .payload_utf8 = -1 };
    const struct tocsin_publication publication = { .topic = "t", .properties = &sent };
    struct buf out = BUF_INIT(1000);
    assert_int_equal(properties_write(&publication, 0, &out), 0);
    struct properties_in in = { 0 };
    read_back(&in, &out, 0);
    assert_true(in.any);
    assert_string_equal(in.properties.content_type, "");
    assert_non_null(in.properties.correlation);
    assert_int_equal(in.properties.correlation_len, 0);
    assert_null(in.properties.response_topic);

    const struct tocsin_publication bare = { .topic = "t" };
    buf_clear(&out);
    assert_int_equal(properties_write(&bare, 0, &out), 0);
    assert_int_equal(out.len, 0);
    buf_release(&out);
    properties_release(&in);
}

static void what_no_packet_can_say_is_refused(void **state)
{
    (void)state;
    static char long_text[65537];
    memset(long_text, 'x', sizeof(long_text) - 1);
    const struct tocsin_property bad_name = { "\xff", "" }, bad_value = { "", "\xff" };
    const struct tocsin_property long_value = { "", long_text };
    const struct tocsin_properties rows[] = {
        { .payload_utf8 = -1, .content_type = "\xff" },
        { .payload_utf8 = -1, .content_type = long_text },
        { .payload_utf8 = -1, .response_topic = "a/#" },
        { .payload_utf8 = -1, .response_topic = "" },
        { .payload_utf8 = -1, .correlation = (const uint8_t *)long_text, .correlation_len = 65536 },
        { .payload_utf8 = -1, .user = &bad_name, .user_count = 1 },
        { .payload_utf8 = -1, .user = &bad_value, .user_count = 1 },
        { .payload_utf8 = -1, .user = &long_value, .user_count = 1 },
    };
    struct buf out = BUF_INIT(100000);
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct tocsin_publication publication = { .topic = "t", .properties = &rows[i] };
        int rc = properties_write(&publication, 0, &out);
        CHECK(rc == -EINVAL && out.len == 0, "row %zu: %d", i, rc);
    }
    buf_release(&out);
    buf_init(&out, 4);
    const struct tocsin_properties large = { .payload_utf8 = -1, .content_type = "xx" };
    const struct tocsin_publication publication = { .topic = "t", .properties = &large };
    assert_int_equal(properties_write(&publication, 0, &out), -E2BIG);
    buf_release(&out);
}

static void identifiers_are_read_and_aliases_ignored(void **state)
{
    (void)state;
    mosquitto_property *list = NULL;
    mosquitto_property_add_varint(&list, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, 7);
    mosquitto_property_add_int16(&list, MQTT_PROP_TOPIC_ALIAS, 1);
    mosquitto_property_add_varint(&list, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, 268435455);
    struct properties_in in = { 0 };
    assert_int_equal(properties_read(&in, list, 0), 0);
    assert_int_equal(in.id_count, 2);
    assert_int_equal(in.ids[0], 7);
    assert_int_equal(in.ids[1], 268435455);
    assert_false(in.any);
    properties_release(&in);
    mosquitto_property_free_all(&list);
}

static void an_expired_message_makes_no_properties(void **state)
{
    (void)state;
    static const struct {
        int64_t expires_ms, now_ms;
        int want;
    } rows[] = { { 1000, 999, 0 },
                 { 1000, 1000, -ESTALE },
                 { 1000, 1001, -ESTALE },
                 { 0, INT64_MAX, 0 },
                 { INT64_MAX / 2, 0, 0 } };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct tocsin_properties p = { .expires_ms = rows[i].expires_ms, .payload_utf8 = -1 };
        const struct tocsin_publication publication = { .topic = "t", .properties = &p };
        mosquitto_property *list;
        int rc = properties_make(&publication, rows[i].now_ms, &list);
        CHECK(rc == rows[i].want, "row %zu: %d", i, rc);
        mosquitto_property_free_all(&list);
        struct buf out = BUF_INIT(1000);
        rc = properties_write(&publication, rows[i].now_ms, &out);
        CHECK(rc == rows[i].want, "row %zu: written: %d", i, rc);
        buf_release(&out);
    }
}

static void a_packet_is_as_long_as_the_specification_says(void **state)
{
    (void)state;
    const struct tocsin_property user[] = { { "ab", "c" } };
    const struct tocsin_properties p = { .content_type = "t",
                                         .correlation = (const uint8_t *)"xyz",
                                         .correlation_len = 3,
                                         .user = user,
                                         .user_count = 1,
                                         .expires_ms = 1,
                                         .payload_utf8 = 0 };
    static const struct {
        bool properties;
        uint8_t qos, hops;
        size_t payload, want;
    } rows[] = {
        { false, 0, 0, 0, 2 + 3 + 1 }, /* fixed header, topic "t", no properties */
        { false, 1, 0, 10, 2 + 3 + 2 + 1 + 10 },
        { false, 0, 0, 123, 2 + 3 + 1 + 123 }, /* remaining length 127 */
        { false, 0, 0, 124, 3 + 3 + 1 + 124 },
        { false, 0, 12, 0, 2 + 3 + 1 + 5 + 11 + 2 },
        { true, 0, 0, 0, 2 + 3 + 1 + (2 + 5 + 4 + 6 + 8) },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct tocsin_publication publication = {
            .topic = "t",
            .qos = rows[i].qos,
            .hops = rows[i].hops,
            .payload_len = rows[i].payload,
            .properties = rows[i].properties ? &p : NULL,
        };
        size_t len = properties_packet_length(&publication);
        CHECK(len == rows[i].want, "row %zu: %zu", i, len);
    }
}

TEST_SUITE("link properties", cmocka_unit_test(properties_survive_there_and_back),
           cmocka_unit_test(properties_survive_the_packet_codec),
           cmocka_unit_test(empty_values_are_not_absent_ones),
           cmocka_unit_test(what_no_packet_can_say_is_refused),
           cmocka_unit_test(hops_are_a_number_or_none),
           cmocka_unit_test(identifiers_are_read_and_aliases_ignored),
           cmocka_unit_test(an_expired_message_makes_no_properties),
           cmocka_unit_test(a_packet_is_as_long_as_the_specification_says));
