/* SPDX-License-Identifier: MIT */

#include "cli/sub_format.h"

#include "../suite.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <stdlib.h>
#include <time.h>

/* 2026-11-22 14:05:09.001234567 UTC */
static const struct timespec arrived = { 1795356309, 1234567 };

/* Begins (an hour east of Greenwich), or ends, what depends on the zone. */
static void set_zone(bool begin)
{
    if (begin)
        setenv("TZ", "UTC-1", 1);
    else
        unsetenv("TZ");
    tzset();
}

struct row {
    const char *format;
    const char *want;
};

static void check_rows(const struct sub_message *m, bool pretty, const struct row *rows, size_t n)
{
    set_zone(true);
    for (size_t i = 0; i < n; i++) {
        struct buf out = BUF_INIT(65536);
        size_t at;
        const char *fault = sub_format_fault(rows[i].format, &at);
        CHECK(!fault, "%s: %s", rows[i].format, fault);
        int rc = sub_format_add(rows[i].format, m, pretty, &out);
        CHECK(rc == 0 && strcmp(buf_str(&out), rows[i].want) == 0, "%s: %d, printed %s",
              rows[i].format, rc, buf_str(&out));
        buf_release(&out);
    }
    set_zone(false);
}

static void a_message_is_laid_out_by_width_and_precision(void **state)
{
    (void)state;
    const struct sub_message m = { .topic = "a/b",
                                   .payload = "hello",
                                   .len = 5,
                                   .qos = 1,
                                   .retain = true,
                                   .mid = 42,
                                   .arrived = arrived };
    static const struct row rows[] = {
        { "", "" },
        { "plain", "plain" },
        { "%t|%5t|%-5t|%05t|%.2t|%5.2t|%-5.2t|", "a/b|  a/b|a/b  |  a/b|a/|   a/|a/   |" },
        { "%.t|%.0t|%2t|", "||a/b|" },
        { "%p|%7p|%-7p|%07p|%3p|%.2p", "hello|  hello|hello  |00hello|hello|hello" },
        { "%x|%12x|%-12x|%012x|%4x|%X",
          "68656c6c6f|  68656c6c6f|68656c6c6f  |0068656c6c6f|68656c6c6f|68656C6C6F" },
        { "%q%r %m|%5m|%-5m|%05m|%-05m|%0-5m|", "11 42|   42|42   |00042|42   |42   |" },
        { "%l|%3l|%-3l|%03l", "5|  5|5  |005" },
        { "%% %5% @@ @% \\\\", "% % @ % \\" },
        { "\\a\\e\\n\\r\\t\\v", "\a\033\n\r\t\v" },
        { "%A%C%D%E%F%P%R%S|%3A|%03A|%3C|%3E|%-3S|", "|   |   |   |   |   |" },
        { "%I|%27I|%-27I|%.10I",
          "2026-11-22T15:05:09+0100|   2026-11-22T15:05:09+0100|2026-11-22T15:05:09+0100   |"
          "2026-11-22" },
        { "%U", "1795356309.001234567" },
        { "@Y-@m-@d @H:@M:@S.@N @z @s", "2026-11-22 15:05:09.001234567 +0100 1795356309" },
    };
    check_rows(&m, false, rows, ROWS(rows));
}

static mosquitto_property *all_properties(void)
{
    mosquitto_property *list = NULL;
    mosquitto_property_add_string(&list, MQTT_PROP_CONTENT_TYPE, "text/plain");
    mosquitto_property_add_string_pair(&list, MQTT_PROP_USER_PROPERTY, "k", "v");
    mosquitto_property_add_string(&list, MQTT_PROP_RESPONSE_TOPIC, "r/\xc3\xa9t");
    mosquitto_property_add_string_pair(&list, MQTT_PROP_USER_PROPERTY, "k\"2", "");
    mosquitto_property_add_binary(&list, MQTT_PROP_CORRELATION_DATA, "c\0\xff", 3);
    mosquitto_property_add_int32(&list, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL, UINT32_MAX);
    mosquitto_property_add_byte(&list, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR, 1);
    mosquitto_property_add_int16(&list, MQTT_PROP_TOPIC_ALIAS, 65535);
    mosquitto_property_add_varint(&list, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, 268435455);
    return list;
}

static void properties_are_printed(void **state)
{
    (void)state;
    mosquitto_property *list = all_properties();
    const struct sub_message m = { .topic = "t", .properties = list, .arrived = arrived };
    static const struct row rows[] = {
        { "%A|%7A|%-7A|%07A|", "65535|  65535|65535  |0065535|" },
        { "%C|%12C|%-12C|%.4C|", "text/plain|  text/plain|text/plain  |text|" },
        { "%R|%5R|%.3R|", "r/\xc3\xa9t| r/\xc3\xa9t|r/\xc3\xa9|" },
        { "%E|%F|%03F|%S", "4294967295|1|001|268435455" },
        { "%P", "k:v k\"2:" },
        { "%j",
          "{\"tst\":\"2026-11-22T15:05:09.001234+0100\",\"topic\":\"t\",\"qos\":0,\"retain\":0,"
          "\"payloadlen\":0,\"properties\":{\"content-type\":\"text/plain\","
          "\"user-properties\":{\"k\":\"v\",\"k\\\"2\":\"\"},\"response-topic\":\"r/\xc3\xa9t\","
          "\"correlation-data\":\"c\\u0000\xef\xbf\xbd\",\"message-expiry-interval\":4294967295,"
          "\"payload-format-indicator\":1,\"topic-alias\":65535,"
          "\"subscription-identifier\":268435455},\"payload\":null}" },
    };
    check_rows(&m, false, rows, ROWS(rows));
    struct buf out = BUF_INIT(100);
    assert_int_equal(sub_format_add("%D\\0", &m, false, &out), 0);
    assert_int_equal(out.len, 4);
    assert_memory_equal(buf_str(&out), "c\0\xff", 4);
    buf_release(&out);
    mosquitto_property_free_all(&list);
}

#define HEAD "{\"tst\":\"2026-11-22T15:05:09.001234+0100\",\"topic\":\"t\",\"qos\":2,\"retain\":0,"

static void json_is_valid_whatever_the_payload_is(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        size_t len;
        const char *format, *want; /* NULL: not JSON */
    } rows[] = {
        { "hi", 2, "%j", HEAD "\"payloadlen\":2,\"mid\":7,\"payload\":\"hi\"}" },
        { "\"\\\n", 3, "%j", HEAD "\"payloadlen\":3,\"mid\":7,\"payload\":\"\\\"\\\\\\n\"}" },
        { "\xff\0x", 3, "%j",
          HEAD "\"payloadlen\":3,\"mid\":7,\"payload\":\"\xef\xbf\xbd\\u0000x\"}" },
        { "", 0, "%J", HEAD "\"payloadlen\":0,\"mid\":7,\"payload\":null}" },
        { " 1.50 ", 6, "%J", HEAD "\"payloadlen\":6,\"mid\":7,\"payload\":1.50}" },
        { "{\"a\" : [1, {}]}", 15, "%J",
          HEAD "\"payloadlen\":15,\"mid\":7,\"payload\":{\"a\":[1,{}]}}" },
        { "12345678901234567890", 20, "%J",
          HEAD "\"payloadlen\":20,\"mid\":7,\"payload\":12345678901234567890}" },
        { "hi", 2, "%J", NULL },
        { "1 2", 3, "x%Jx", NULL },
        { "\"\xff\"", 3, "%J", NULL },
    };
    set_zone(true);
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct sub_message m = { .topic = "t",
                                       .payload = rows[i].payload,
                                       .len = rows[i].len,
                                       .qos = 2,
                                       .mid = 7,
                                       .arrived = arrived };
        struct buf out = BUF_INIT(1000);
        int rc = sub_format_add(rows[i].format, &m, false, &out);
        CHECK(rc == (rows[i].want ? 0 : -EINVAL), "row %zu: %d", i, rc);
        CHECK(!rows[i].want || strcmp(buf_str(&out), rows[i].want) == 0, "row %zu: %s", i,
              buf_str(&out));
        buf_release(&out);
    }
    set_zone(false);
}

static void json_can_be_laid_out_over_lines(void **state)
{
    (void)state;
    const struct sub_message m = {
        .topic = "t,{", .payload = "{\"a\\\"b\":[1,\"x: y\",{},[]]}", .len = 25, .arrived = arrived
    };
    static const struct row rows[] = {
        { "%J", "{\n"
                "  \"tst\": \"2026-11-22T15:05:09.001234+0100\",\n"
                "  \"topic\": \"t,{\",\n"
                "  \"qos\": 0,\n"
                "  \"retain\": 0,\n"
                "  \"payloadlen\": 25,\n"
                "  \"payload\": {\n"
                "    \"a\\\"b\": [\n"
                "      1,\n"
                "      \"x: y\",\n"
                "      {},\n"
                "      []\n"
                "    ]\n"
                "  }\n"
                "}" },
    };
    check_rows(&m, true, rows, ROWS(rows));
}

static void what_is_no_format_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        size_t at;
    } rows[] = {
        { "%", 0 },        { "x%", 1 },      { "%5", 0 },       { "%-", 0 },
        { "%.3", 0 },      { "ab%z", 2 },    { "%5.5z", 0 },    { "%t%k", 2 },
        { "@", 0 },        { "a@b@", 3 },    { "\\", 0 },       { "\\q", 0 },
        { "%t \\x41", 3 }, { "%10001t", 0 }, { "%.10001t", 0 }, { "%99999999999999999999t", 0 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t at = 99;
        CHECK(sub_format_fault(rows[i].format, &at) && at == rows[i].at, "%s: %zu", rows[i].format,
              at);
    }
    size_t at;
    assert_null(sub_format_fault("%10000.10000t", &at));
}

TEST_SUITE("sub format", cmocka_unit_test(a_message_is_laid_out_by_width_and_precision),
           cmocka_unit_test(properties_are_printed),
           cmocka_unit_test(json_is_valid_whatever_the_payload_is),
           cmocka_unit_test(json_can_be_laid_out_over_lines),
           cmocka_unit_test(what_is_no_format_is_refused));
