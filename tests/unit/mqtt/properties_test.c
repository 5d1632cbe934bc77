/* SPDX-License-Identifier: MIT */

#include "mqtt/properties.h"

#include "../suite.h"

#include <stdlib.h>

#define C MQTT_FROM_CLIENT
#define S MQTT_FROM_SERVER

/* Reads hex digits with blanks as properties whose length goes before them. The bytes are to be freed. */
static enum mqtt_reason read_hex(const char *hex, enum mqtt_type type, enum mqtt_sender sender,
                                 struct mqtt_properties *out, uint8_t **memory)
{
    uint8_t *data = malloc(strlen(hex) + 4);
    size_t len = 0;
    for (const char *at = hex; *at; at += *at == ' ' ? 1 : 2)
        if (*at != ' ')
            data[len++] = (uint8_t)strtoul((const char[]){ at[0], at[1], '\0' }, NULL, 16);
    uint8_t *exact = malloc(len + 4); /* so that a byte read beyond is noticed */
    uint8_t *start = mqtt_varint_write(exact, len);
    memcpy(start, data, len);
    exact = realloc(exact, (size_t)(start - exact) + len);
    size_t total = mqtt_varint_length(len) + len;
    free(data);
    const uint8_t *end;
    enum mqtt_reason reason = mqtt_properties_read(out, type, sender, exact, total, &end);
    CHECK(end == (reason == MQTT_SUCCESS ? exact + total : exact), "%s: end", hex);
    CHECK(reason == MQTT_SUCCESS || out->present == 0, "%s: something is present", hex);
    *memory = exact;
    return reason;
}

static enum mqtt_reason reason_of(const char *hex, enum mqtt_type type, enum mqtt_sender sender)
{
    struct mqtt_properties properties;
    uint8_t *memory;
    enum mqtt_reason reason = read_hex(hex, type, sender, &properties, &memory);
    free(memory);
    return reason;
}

/* Table 2-4 of the specification: where each may be. 'W' is a will, '-' stands for none. */
static const struct {
    const char *hex; /* one with a value that is allowed */
    const char *types;
} table[] = {
    { "01 01", "W3" },
    { "02 00000000", "W3" },
    { "03 0000", "W3" },
    { "08 0001 61", "W3" },
    { "09 0000", "W3" },
    { "0B 01", "38" },
    { "11 FFFFFFFF", "12E" },
    { "12 0000", "2" },
    { "13 0000", "2" },
    { "15 0001 61", "12F" },
    { "17 01", "1" },
    { "18 00000000", "W" },
    { "19 01", "1" },
    { "1A 0000", "2" },
    { "1C 0000", "2E" },
    { "1F 0000", "245679BEF" },
    { "21 0001", "12" },
    { "22 0000", "12" },
    { "23 0001", "3" },
    { "24 01", "2" },
    { "25 01", "2" },
    { "26 0000 0000", "W123456789ABEF" },
    { "27 00000001", "12" },
    { "28 01", "2" },
    { "29 01", "2" },
    { "2A 01", "2" },
    { "00", "-" },
    { "04 00", "-" },
    { "2B 00", "-" },
    { "7F 00", "-" },
    { "81 00 01", "-" },
    { "FF FFFF7F", "-" },
};

static void properties_are_where_the_specification_allows_them(void **state)
{
    (void)state;
    static const char letters[] = "W123456789ABCDEF";
    for (size_t i = 0; i < ROWS(table); i++)
        for (int type = 0; type < 16; type++) {
            /* Subscription Identifier in PUBLISH and Server Reference in DISCONNECT come from servers,
             * Session Expiry Interval in DISCONNECT from clients. */
            enum mqtt_sender sender = strncmp(table[i].hex, "11", 2) == 0 ? C : S;
            enum mqtt_reason reason = reason_of(table[i].hex, (enum mqtt_type)type, sender);
            bool allowed = strchr(table[i].types, letters[type]);
            CHECK(reason == (allowed ? MQTT_SUCCESS : MQTT_MALFORMED_PACKET), "%s in %c: %02X",
                  table[i].hex, letters[type], reason);
        }
}

static void each_property_but_two_is_there_at_most_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(table); i++) {
        if (table[i].types[0] == '-')
            continue;
        char twice[64] = "";
        strncat(twice, table[i].hex, 30);
        strncat(twice, table[i].hex, 30);
        char place = table[i].types[strlen(table[i].types) - 1];
        int type = place == 'W' ? 0 : (int)strtol((const char[]){ place, '\0' }, NULL, 16);
        enum mqtt_sender sender = strncmp(table[i].hex, "11", 2) == 0 ? C : S;
        enum mqtt_reason reason = reason_of(twice, (enum mqtt_type)type, sender);
        bool allowed = strncmp(table[i].hex, "26", 2) == 0;
        CHECK(reason == (allowed ? MQTT_SUCCESS : MQTT_PROTOCOL_ERROR), "%s in %c: %02X", twice,
              place, reason);
    }
    assert_int_equal(reason_of("0B01 0B01", MQTT_PUBLISH, S), MQTT_SUCCESS);
}

static void values_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        enum mqtt_type type;
        enum mqtt_sender sender;
        int reason;
    } rows[] = {
        /* Ranges. */
        { "01 00", MQTT_PUBLISH, C, 0 },
        { "01 02", MQTT_PUBLISH, C, 0x82 },
        { "17 02", MQTT_CONNECT, C, 0x82 },
        { "19 02", MQTT_CONNECT, C, 0x82 },
        { "24 02", MQTT_CONNACK, S, 0x82 },
        { "25 FF", MQTT_CONNACK, S, 0x82 },
        { "28 02", MQTT_CONNACK, S, 0x82 },
        { "29 02", MQTT_CONNACK, S, 0x82 },
        { "2A 02", MQTT_CONNACK, S, 0x82 },
        { "21 0000", MQTT_CONNECT, C, 0x82 },
        { "27 00000000", MQTT_CONNECT, C, 0x82 },
        { "23 0000", MQTT_PUBLISH, C, 0x94 },
        { "23 FFFF", MQTT_PUBLISH, C, 0 },
        { "0B 00", MQTT_SUBSCRIBE, C, 0x82 },
        { "0B FFFFFF7F", MQTT_SUBSCRIBE, C, 0 },
        { "0B FFFFFFFF", MQTT_SUBSCRIBE, C, 0x81 },
        { "0B 8000", MQTT_SUBSCRIBE, C, 0x81 },
        { "0B 8080808001", MQTT_SUBSCRIBE, C, 0x81 },
        { "0B 8100", MQTT_SUBSCRIBE, C, 0x81 },
        { "0B 80", MQTT_SUBSCRIBE, C, 0x81 },
        /* Text. */
        { "03 0001 00", MQTT_PUBLISH, C, 0x81 },
        { "03 0001 80", MQTT_PUBLISH, C, 0x81 },
        { "03 0003 EDBFBF", MQTT_PUBLISH, C, 0x81 },
        { "03 0003 EFBBBF", MQTT_PUBLISH, C, 0 },
        { "03 0001 2B", MQTT_PUBLISH, C, 0 },
        { "26 0001 00 0000", MQTT_PUBLISH, C, 0x81 },
        { "26 0000 0001 FF", MQTT_PUBLISH, C, 0x81 },
        { "09 0003 00FF80", MQTT_PUBLISH, C, 0 },
        { "08 0000", MQTT_PUBLISH, C, 0x82 },
        { "08 0001 23", MQTT_PUBLISH, C, 0x82 },
        { "08 0003 612F2B", MQTT_WILL, C, 0x82 },
        { "08 0001 00", MQTT_PUBLISH, C, 0x81 },
        /* Cut short. */
        { "01", MQTT_PUBLISH, C, 0x81 },
        { "23 00", MQTT_PUBLISH, C, 0x81 },
        { "02 000000", MQTT_PUBLISH, C, 0x81 },
        { "03 00", MQTT_PUBLISH, C, 0x81 },
        { "03 0002 61", MQTT_PUBLISH, C, 0x81 },
        { "26 0001 61", MQTT_PUBLISH, C, 0x81 },
        { "26 0001 61 0001", MQTT_PUBLISH, C, 0x81 },
        { "01 01 02", MQTT_PUBLISH, C, 0x81 },
        /* Who sends it. */
        { "0B 01", MQTT_PUBLISH, C, 0x82 },
        { "11 00000000", MQTT_DISCONNECT, S, 0x82 },
        { "1C 0001 61", MQTT_DISCONNECT, C, 0x82 },
        /* What needs another. */
        { "16 0000", MQTT_CONNECT, C, 0x82 },
        { "16 0000 15 0001 61", MQTT_CONNECT, C, 0 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        int reason = (int)reason_of(rows[i].hex, rows[i].type, rows[i].sender);
        CHECK(reason == rows[i].reason, "%s: %02X, not %02X", rows[i].hex, reason, rows[i].reason);
    }
}

static void length_is_checked_against_what_there_is(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        int reason;
        size_t used;
    } rows[] = {
        { "", 0, 0x81, 0 },
        { "\x00", 1, 0, 1 },
        { "\x00\x01", 2, 0, 1 },
        { "\x02\x01\x01", 3, 0, 3 },
        { "\x02\x01\x01\x01", 4, 0, 3 },
        { "\x02\x01", 2, 0x81, 0 },
        { "\x82\x00\x01\x01", 4, 0x81, 0 },
        { "\x80", 1, 0x81, 0 },
        { "\xFF\xFF\xFF\x7F", 4, 0x81, 0 },
        { "\xFF\xFF\xFF\xFF\x7F", 5, 0x81, 0 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const uint8_t *data = (const uint8_t *)rows[i].text, *end;
        struct mqtt_properties p;
        int reason = (int)mqtt_properties_read(&p, MQTT_PUBLISH, C, data, rows[i].len, &end);
        CHECK(reason == rows[i].reason && end == data + rows[i].used, "row %zu: %02X, %zu", i,
              reason, (size_t)(end - data));
    }
}

static void values_are_found_by_their_property(void **state)
{
    (void)state;
    struct mqtt_properties p;
    uint8_t *memory;
    assert_int_equal(read_hex("22 0102 27 01020304 17 00 15 0002 6162 260001 61 0001 62 16 0001 00",
                              MQTT_CONNECT, C, &p, &memory),
                     MQTT_SUCCESS);
    assert_int_equal(mqtt_properties_number(&p, MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM, 9), 0x0102);
    assert_int_equal(mqtt_properties_number(&p, MQTT_PROPERTY_MAXIMUM_PACKET_SIZE, 9), 0x01020304);
    assert_int_equal(mqtt_properties_number(&p, MQTT_PROPERTY_REQUEST_PROBLEM_INFORMATION, 9), 0);
    assert_int_equal(mqtt_properties_number(&p, MQTT_PROPERTY_RECEIVE_MAXIMUM, 65535), 65535);
    assert_true(mqtt_properties_have(&p, MQTT_PROPERTY_USER_PROPERTY));
    assert_false(mqtt_properties_have(&p, MQTT_PROPERTY_RECEIVE_MAXIMUM));
    struct mqtt_string method = mqtt_properties_string(&p, MQTT_PROPERTY_AUTHENTICATION_METHOD);
    assert_int_equal(method.len, 2);
    assert_memory_equal(method.data, "ab", 2);
    struct mqtt_slice data = mqtt_properties_binary(&p, MQTT_PROPERTY_AUTHENTICATION_DATA);
    assert_int_equal(data.len, 1);
    assert_int_equal(data.data[0], 0);
    assert_null(mqtt_properties_string(&p, MQTT_PROPERTY_REASON_STRING).data);

    mqtt_properties_clear(&p);
    assert_false(mqtt_properties_have(&p, MQTT_PROPERTY_USER_PROPERTY));
    assert_int_equal(mqtt_properties_number(&p, MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM, 9), 9);
    free(memory);
}

static void server_carries_on_what_it_must_and_in_order(void **state)
{
    (void)state;
    static const struct {
        const char *hex, *carried;
    } rows[] = {
        { "", "" },
        { "01 01", "\x01\x01" },
        { "02 00000001", "" },
        { "23 0001", "" },
        { "26 0001 62 0000 02 00000001 26 0001 61 0000 23 0001 01 00 26 0001 62 0000",
          "\x26\0\1b\0\0\x26\0\1a\0\0\x01\0\x26\0\1b\0\0" },
        { "08 0001 72 03 0001 63 09 0001 00", "\x08\0\1r\x03\0\1c\x09\0\1\0" },
    };
    static const size_t lengths[] = { 0, 2, 0, 0, 20, 12 };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct mqtt_properties p;
        uint8_t *memory, out[64];
        assert_int_equal(read_hex(rows[i].hex, MQTT_PUBLISH, C, &p, &memory), MQTT_SUCCESS);
        CHECK(p.carried_len == lengths[i], "%s: %u", rows[i].hex, p.carried_len);
        CHECK(mqtt_properties_carry(&p, out) == out + lengths[i] &&
                  memcmp(out, rows[i].carried, lengths[i]) == 0,
              "%s: carries others", rows[i].hex);
        free(memory);
    }
}

static void writer_writes_what_the_reader_reads(void **state)
{
    (void)state;
    static const uint8_t want[] = { 0x02, 0,    0, 1,    0,   0x0B, 0x80, 0x01, 0x23, 1,
                                    2,    0x01, 1, 0x03, 0,   1,    'c',  0x09, 0,    1,
                                    0,    0x26, 0, 1,    'a', 0,    2,    'b',  'c' };
    uint8_t memory[64];
    struct mqtt_property_writer w = { .data = memory, .room = sizeof(want) };
    assert_true(mqtt_property_add_number(&w, MQTT_PROPERTY_MESSAGE_EXPIRY_INTERVAL, 256));
    assert_true(mqtt_property_add_number(&w, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER, 128));
    assert_true(mqtt_property_add_number(&w, MQTT_PROPERTY_TOPIC_ALIAS, 0x0102));
    assert_true(mqtt_property_add_number(&w, MQTT_PROPERTY_PAYLOAD_FORMAT_INDICATOR, 1));
    assert_true(
        mqtt_property_add_string(&w, MQTT_PROPERTY_CONTENT_TYPE, (struct mqtt_string){ "c", 1 }));
    assert_true(mqtt_property_add_raw(&w, (struct mqtt_slice){ (const uint8_t *)"\x09\0\1\0", 4 }));
    assert_true(mqtt_property_add_user(&w, (struct mqtt_string){ "a", 1 },
                                       (struct mqtt_string){ "bc", 2 }));
    assert_int_equal(w.len, sizeof(want));
    assert_memory_equal(memory, want, sizeof(want));
    assert_false(w.failed);
    assert_ptr_equal(mqtt_property_written(&w).data, memory);
}

static void writer_leaves_out_what_does_not_fit(void **state)
{
    (void)state;
    static char text[65536];
    uint8_t memory[8] = { 0 };
    struct mqtt_property_writer w = { .data = memory, .room = 5 };
    assert_false(mqtt_property_add_string(&w, MQTT_PROPERTY_REASON_STRING,
                                          (struct mqtt_string){ "why", 3 }));
    assert_true(w.failed);
    assert_int_equal(w.len, 0);
    assert_true(
        mqtt_property_add_string(&w, MQTT_PROPERTY_REASON_STRING, (struct mqtt_string){ "no", 2 }));
    assert_int_equal(w.len, 5);
    assert_false(mqtt_property_add_number(&w, MQTT_PROPERTY_MAXIMUM_QOS, 1));
    assert_false(mqtt_property_add_user(&w, (struct mqtt_string){ NULL, 0 },
                                        (struct mqtt_string){ NULL, 0 }));
    assert_false(mqtt_property_add_raw(&w, (struct mqtt_slice){ memory, 1 }));
    assert_int_equal(w.len, 5);
    assert_int_equal(memory[5], 0);

    uint8_t *large = malloc(200000);
    struct mqtt_property_writer l = { .data = large, .room = 200000 };
    const struct mqtt_string too_long = { text, 65536 }, none = { NULL, 0 };
    assert_false(mqtt_property_add_string(&l, MQTT_PROPERTY_REASON_STRING, too_long));
    assert_false(mqtt_property_add_user(&l, too_long, none));
    assert_false(mqtt_property_add_user(&l, none, too_long));
    assert_false(
        mqtt_property_add_number(&l, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER, MQTT_VARINT_MAX + 1));
    assert_int_equal(l.len, 0);
    const struct mqtt_string longest = { text, 65535 };
    assert_true(mqtt_property_add_user(&l, longest, longest));
    assert_true(mqtt_property_add_string(&l, MQTT_PROPERTY_REASON_STRING, longest));
    assert_true(
        mqtt_property_add_number(&l, MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER, MQTT_VARINT_MAX));
    assert_true(mqtt_property_add_user(&l, none, none));
    assert_int_equal(l.len, 5 + 2 * 65535 + 3 + 65535 + 5 + 5);
    free(large);
}

TEST_SUITE("packet properties",
           cmocka_unit_test(properties_are_where_the_specification_allows_them),
           cmocka_unit_test(each_property_but_two_is_there_at_most_once),
           cmocka_unit_test(values_are_checked),
           cmocka_unit_test(length_is_checked_against_what_there_is),
           cmocka_unit_test(values_are_found_by_their_property),
           cmocka_unit_test(server_carries_on_what_it_must_and_in_order),
           cmocka_unit_test(writer_writes_what_the_reader_reads),
           cmocka_unit_test(writer_leaves_out_what_does_not_fit));
