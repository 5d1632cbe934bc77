/* SPDX-License-Identifier: MIT */

#include "packet_text.h"

#include "../suite.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#define C MQTT_FROM_CLIENT
#define S MQTT_FROM_SERVER

/* Hex digits, blanks, and 'text' in quotes. Returns memory of exactly `*len` bytes, to be freed. */
static uint8_t *bytes_of(const char *hex, size_t *len)
{
    uint8_t *out = malloc(strlen(hex) + 1);
    size_t n = 0;
    for (const char *at = hex; *at;) {
        if (*at == ' ') {
            at++;
        } else if (*at == '\'') {
            for (at++; *at != '\''; at++)
                out[n++] = (uint8_t)*at;
            at++;
        } else {
            assert_true(isxdigit((unsigned char)at[0]) && isxdigit((unsigned char)at[1]));
            const char digits[3] = { at[0], at[1], '\0' };
            out[n++] = (uint8_t)strtoul(digits, NULL, 16);
            at += 2;
        }
    }
    *len = n;
    uint8_t *exact = malloc(n ? n : 1);
    memcpy(exact, out, n);
    free(out);
    return exact;
}

/* A packet out of its bytes, all of which it must be. */
static struct any_packet packet_of(const char *name, uint8_t *data, size_t len, int level,
                                   enum mqtt_sender sender)
{
    size_t header, remaining;
    int rc = mqtt_packet_length(data, len, &header, &remaining);
    CHECK(rc == 1 && header + remaining == len, "%s: %d, %zu + %zu of %zu bytes", name, rc, header,
          remaining, len);
    return (struct any_packet){ data[0], data + header, remaining, (enum mqtt_level)level, sender };
}

static const struct {
    int level;
    enum mqtt_sender sender;
    const char *hex, *text;
} packets[] = {
    /* CONNECT. The flags and the keep alive of the first two are those of the specifications' examples. */
    { 4, C, "10 2A 0004'MQTT' 04 CE 000A 0004'test' 0003'a/b' 0005'hello' 0004'user' 0006'secret'",
      "CONNECT v4 clean keep=10 id=test will q1 topic=a/b payload=hello user=user "
      "password=secret" },
    { 5, C,
      "10 31 0004'MQTT' 05 CE 000A 05 110000000A 0004'test' 00 0003'a/b' 0005'hello' 0004'user' "
      "0006'secret'",
      "CONNECT v5 clean keep=10 id=test [11=10] will q1 topic=a/b payload=hello user=user "
      "password=secret" },
    { 3, C, "10 12 0006'MQIsdp' 03 02 003C 0004'test'", "CONNECT v3 clean keep=60 id=test" },
    { 4, C, "10 0C 0004'MQTT' 04 02 0000 0000", "CONNECT v4 clean keep=0 id=" },
    { 4, C, "10 0D 0004'MQTT' 04 00 FFFF 0001'x'", "CONNECT v4 keep=65535 id=x" },
    { 5, C, "10 0D 0004'MQTT' 05 00 0000 00 0000", "CONNECT v5 keep=0 id=" },
    { 5, C, "10 11 0004'MQTT' 05 40 0000 00 0000 0002'pw'", "CONNECT v5 keep=0 id= password=pw" },
    { 4, C, "10 10 0004'MQTT' 04 C2 0000 0000 0000 0000",
      "CONNECT v4 clean keep=0 id= user= password=" },
    { 4, C, "10 15 0004'MQTT' 04 36 0000 0000 0003'w/t' 0002 00FF",
      "CONNECT v4 clean keep=0 id= will q2 retain topic=w/t payload=\\00\\FF" },
    { 5, C,
      "10 37 0004'MQTT' 05 2C 0000 14 1100000000 210014 2700000400 220005 1701 1901"
      "0000 10 1800000005 0101 0200000001 0300"
      "01't' 0001't' 0000",
      "CONNECT v5 keep=0 id= [11=0 21=20 27=1024 22=5 17=1 19=1] will q1 retain topic=t payload= "
      "[18=5 01=1 02=1 03=t]" },
    /* CONNACK */
    { 4, S, "20 02 01 00", "CONNACK present 00" },
    { 4, S, "20 02 00 05", "CONNACK 87" },
    { 3, S, "20 02 00 01", "CONNACK 84" },
    { 5, S, "20 03 00 00 00", "CONNACK 00" },
    { 5, S, "20 03 00 87 00", "CONNACK 87" },
    { 5, S, "20 0C 01 00 09 120003'abc' 130014", "CONNACK present 00 [12=abc 13=20]" },
    { 5, S, "20 19 00 00 16 2400 2501 2800 2900 2A00 1A0003'res' 1C0003'ref'",
      "CONNACK 00 [24=0 25=1 28=0 29=0 2A=0 1A=res 1C=ref]" },
    /* PUBLISH. The first is the example of 3.1.1 with DUP, QoS and RETAIN all set. */
    { 4, C, "3B 0C 0003'a/b' 000A 'hello'", "PUBLISH q1 dup retain id=10 topic=a/b payload=hello" },
    { 4, C, "30 05 0003'a/b'", "PUBLISH q0 topic=a/b payload=" },
    { 3, C, "34 07 0003'a/b' FFFF", "PUBLISH q2 id=65535 topic=a/b payload=" },
    { 5, C, "32 08 0003'a/b' 000A 00", "PUBLISH q1 id=10 topic=a/b payload=" },
    { 5, C, "30 09 0000 03 230001 'abc'", "PUBLISH q0 topic= [23=1] payload=abc" },
    { 5, C, "30 07 0002 C3A4 00 00FF", "PUBLISH q0 topic=\\C3\\A4 payload=\\00\\FF" },
    { 5, C, "30 21 0001't' 17 0101 080001'r' 090002 0001 030001'c' 260001'a'0002'bc' 'xyz' 202020",
      "PUBLISH q0 topic=t [01=1 08=r 09=\\00\\01 03=c 26=a:bc] payload=xyz\\20\\20\\20" },
    { 5, S, "30 0D 0001't' 08 0B01 0B807F 0BFF01 00",
      "PUBLISH q0 topic=t [0B=1 0B=16256 0B=255] "
      "payload=\\00" },
    { 4, S, "30 0F 000D'$SYS/broker/x'", "PUBLISH q0 topic=$SYS/broker/x payload=" },
    /* PUBACK, PUBREC, PUBREL, PUBCOMP */
    { 4, C, "40 02 000A", "PUBACK id=10 00" },
    { 4, C, "50 02 000A", "PUBREC id=10 00" },
    { 4, C, "62 02 000A", "PUBREL id=10 00" },
    { 4, C, "70 02 000A", "PUBCOMP id=10 00" },
    { 5, C, "40 02 0100", "PUBACK id=256 00" },
    { 5, S, "40 03 FFFF 10", "PUBACK id=65535 10" },
    { 5, C, "50 03 0001 80", "PUBREC id=1 80" },
    { 5, C, "62 03 0001 92", "PUBREL id=1 92" },
    { 5, S, "70 0A 0001 92 06 1F0003'why'", "PUBCOMP id=1 92 [1F=why]" },
    { 5, S, "40 0B 0001 00 07 260001'a'0001'b'", "PUBACK id=1 00 [26=a:b]" },
    /* SUBSCRIBE: the examples first. */
    { 4, C, "82 0E 000A 0003'a/b' 01 0003'c/d' 02", "SUBSCRIBE id=10 filter=a/b q1 filter=c/d q2" },
    { 5, C, "82 0F 000A 00 0003'a/b' 01 0003'c/d' 02",
      "SUBSCRIBE id=10 filter=a/b q1 filter=c/d q2" },
    { 3, C, "82 06 0001 0001'#' 00", "SUBSCRIBE id=1 filter=# q0" },
    { 5, C, "82 0D 0001 02 0B01 0001'+' 2E 0001'#' 11",
      "SUBSCRIBE id=1 [0B=1] filter=+ q2 no-local as-published handling=2 filter=# q1 "
      "handling=1" },
    { 5, C, "82 18 0001 05 0BFFFFFF7F 000D'$share/g/a/+/' 09",
      "SUBSCRIBE id=1 [0B=268435455] share=g filter=a/+/ q1 as-published" },
    { 4, C, "82 0F 0001 000A'$share/g//' 00", "SUBSCRIBE id=1 share=g filter=/ q0" },
    { 4, C, "82 0B 0001 0006'$share' 00", "SUBSCRIBE id=1 filter=$share q0" },
    /* UNSUBSCRIBE */
    { 4, C, "A2 0C 000A 0003'a/b' 0003'c/d'", "UNSUBSCRIBE id=10 filter=a/b filter=c/d" },
    { 5, C, "A2 16 0001 07 260001'a'0001'b' 000A'$share/g/#'",
      "UNSUBSCRIBE id=1 [26=a:b] share=g filter=#" },
    /* SUBACK, UNSUBACK */
    { 4, S, "90 05 000A 00 02 80", "SUBACK id=10 00 02 80" },
    { 5, S, "90 06 000A 00 01 87 A2", "SUBACK id=10 01 87 A2" },
    { 5, S, "90 0A 0001 06 1F0003'why' 9E", "SUBACK id=1 9E [1F=why]" },
    { 4, S, "B0 02 000A", "UNSUBACK id=10" },
    { 5, S, "B0 05 000A 00 00 11", "UNSUBACK id=10 00 11" },
    /* PINGREQ, PINGRESP */
    { 3, C, "C0 00", "PINGREQ" },
    { 5, S, "D0 00", "PINGRESP" },
    /* DISCONNECT, AUTH */
    { 4, C, "E0 00", "DISCONNECT 00" },
    { 5, C, "E0 00", "DISCONNECT 00" },
    { 5, C, "E0 01 04", "DISCONNECT 04" },
    { 5, S, "E0 01 8E", "DISCONNECT 8E" },
    { 5, C, "E0 07 00 05 1100000000", "DISCONNECT 00 [11=0]" },
    { 5, S, "E0 08 9D 06 1C0003'h:1'", "DISCONNECT 9D [1C=h:1]" },
    { 5, C, "F0 0C 18 0A 150001'm' 160003 000102", "AUTH 18 [15=m 16=\\00\\01\\02]" },
    { 5, S, "F0 00", "AUTH 00" },
};

static void packets_are_read_and_written_as_the_specification_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(packets); i++) {
        const char *hex = packets[i].hex;
        size_t len;
        uint8_t *data = bytes_of(hex, &len);
        struct any_packet packet = packet_of(hex, data, len, packets[i].level, packets[i].sender);
        struct buf text = BUF_INIT(10000);
        enum mqtt_reason reason = packet_text(&packet, &text);
        CHECK(reason == MQTT_SUCCESS && strcmp(buf_str(&text), packets[i].text) == 0,
              "%s: %02X \"%s\"", hex, reason, buf_str(&text));

        uint8_t again[300];
        CHECK(packet_again(&packet, NULL, 0) == len, "%s: another length", hex);
        memset(again, 0xA5, sizeof(again));
        CHECK(packet_again(&packet, again, len - 1) == len && again[0] == 0xA5,
              "%s: written without room", hex);
        CHECK(packet_again(&packet, again, len) == len && memcmp(again, data, len) == 0 &&
                  again[len] == 0xA5,
              "%s: written otherwise", hex);
        buf_release(&text);
        free(data);
    }
}

/* No packet may be cut short and still be read, but where its end is not marked. */
static void packets_that_are_cut_short_are_malformed(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(packets); i++) {
        size_t len;
        uint8_t *data = bytes_of(packets[i].hex, &len);
        struct any_packet whole =
            packet_of(packets[i].hex, data, len, packets[i].level, packets[i].sender);
        for (size_t cut = 0; cut < whole.len; cut++) {
            uint8_t *body =
                malloc(cut ? cut : 1); /* exact, so that a byte read beyond is noticed */
            memcpy(body, whole.body, cut);
            struct any_packet packet = whole;
            packet.body = body;
            packet.len = cut;
            struct buf text = BUF_INIT(10000);
            enum mqtt_reason reason = packet_text(&packet, &text);
            CHECK((reason == MQTT_SUCCESS) == (text.len > 0), "%s, %zu", packets[i].hex, cut);
            switch (mqtt_packet_type(whole.first)) {
            case MQTT_CONNECT:
            case MQTT_CONNACK:
                CHECK(reason == MQTT_MALFORMED_PACKET, "%s, %zu: %02X", packets[i].hex, cut,
                      reason);
                break;
            default:
                break;
            }
            buf_release(&text);
            free(body);
        }
        free(data);
    }
}

static const struct {
    int level;
    enum mqtt_sender sender;
    const char *hex;
    int reason;
} faults[] = {
    /* The fixed header: flags, and who may send what. */
    { 4, C, "00 00", 0x82 },
    { 4, C, "F0 00", 0x82 },
    { 4, C, "20 02 0000", 0x82 },
    { 4, C, "D0 00", 0x82 },
    { 4, S, "C0 00", 0x82 },
    { 4, S, "E0 00", 0x82 },
    { 4, C, "11 0C 0004'MQTT' 04 02 0000 0000", 0x81 },
    { 5, C, "C1 00", 0x81 },
    { 5, C, "C0 01 00", 0x81 },
    { 4, C, "60 02 0001", 0x81 },
    { 4, C, "63 02 0001", 0x81 },
    { 4, C, "42 02 0001", 0x81 },
    { 4, C, "48 02 0001", 0x81 },
    { 4, C, "80 06 0001 0001'#' 00", 0x81 },
    { 4, C, "A0 05 0001 0001'#'", 0x81 },
    { 5, C, "E2 00", 0x81 },
    /* CONNECT */
    { 4, C, "10 0C 0004'MQTX' 04 02 0000 0000", 0x84 },
    { 4, C, "10 0C 0004'mqtt' 04 02 0000 0000", 0x84 },
    { 4, C, "10 0C 0004'MQTT' 03 02 0000 0000", 0x84 },
    { 4, C, "10 0C 0004'MQTT' 06 02 0000 0000", 0x84 },
    { 4, C, "10 0C 0004'MQTT' 84 02 0000 0000", 0x84 },
    { 4, C, "10 0F 0006'MQIsdp' 04 02 0000 0001'x'", 0x84 },
    { 4, C, "10 0C 0004'MQTT' 04 03 0000 0000", 0x81 },
    { 5, C, "10 0D 0004'MQTT' 05 03 0000 00 0000", 0x81 },
    { 4, C, "10 0C 0004'MQTT' 04 0A 0000 0000", 0x81 },
    { 4, C, "10 0C 0004'MQTT' 04 22 0000 0000", 0x81 },
    { 4, C, "10 11 0004'MQTT' 04 1E 0000 0000 0001't' 0000", 0x81 },
    { 4, C, "10 0E 0004'MQTT' 04 42 0000 0000 0000", 0x81 },
    { 4, C, "10 0D 0004'MQTT' 04 02 0000 0000 00", 0x81 },
    { 4, C, "10 0D 0004'MQTT' 04 02 0000 0001 00", 0x81 },
    { 4, C, "10 0E 0004'MQTT' 04 02 0000 0002 C328", 0x81 },
    { 4, C, "10 0F 0004'MQTT' 04 02 0000 0003 EDA080", 0x81 },
    { 4, C, "10 0F 0004'MQTT' 04 82 0000 0000 0001 80", 0x81 },
    { 4, C, "10 0F 0004'MQTT' 04 06 0000 0000 0000 00", 0x81 },
    { 4, C, "10 10 0004'MQTT' 04 06 0000 0000 0000 0000", 0x90 },
    { 4, C, "10 11 0004'MQTT' 04 06 0000 0000 0001'#' 0000", 0x90 },
    { 4, C, "10 11 0004'MQTT' 04 06 0000 0000 0001 FF 0000", 0x81 },
    { 4, C, "10 0C 0004'MQTT' 04 00 0000 0000", 0x85 },
    { 3, C, "10 0E 0006'MQIsdp' 03 02 0000 0000", 0x85 },
    { 5, C, "10 10 0004'MQTT' 05 02 0000 03 210000 0000", 0x82 },
    /* CONNACK */
    { 4, S, "20 02 02 00", 0x81 },
    { 4, S, "20 02 00 06", 0x82 },
    { 4, S, "20 02 01 05", 0x82 },
    { 5, S, "20 03 01 87 00", 0x82 },
    { 5, S, "20 03 00 8E 00", 0x82 },
    { 5, S, "20 02 00 00", 0x81 },
    { 4, S, "20 03 00 00 00", 0x81 },
    /* PUBLISH */
    { 4, C, "36 05 0001't' 0001", 0x81 },
    { 4, C, "38 03 0001't'", 0x81 },
    { 4, C, "32 05 0001't' 0000", 0x82 },
    { 4, C, "32 04 0001't' 00", 0x81 },
    { 4, C, "30 01 00", 0x81 },
    { 4, C, "30 00", 0x81 },
    { 4, C, "30 03 0002't'", 0x81 },
    { 4, C, "30 02 0000", 0x82 },
    { 5, C, "30 03 0000 00", 0x82 },
    { 5, C, "30 06 0000 03 230000", 0x94 },
    { 5, C, "30 06 0001't' 02 0B01", 0x82 },
    { 5, C, "30 03 0001't'", 0x81 },
    { 5, C, "30 05 0001't' 02 01", 0x81 },
    { 4, C, "30 03 0001'#'", 0x90 },
    { 4, C, "30 05 0003'a/+'", 0x90 },
    { 4, C, "30 03 0001 00", 0x81 },
    { 4, C, "30 0B 0009'abcdefgh' FF", 0x81 },
    { 4, C, "30 07 0005 F490808061", 0x81 },
    /* PUBACK, PUBREC, PUBREL, PUBCOMP */
    { 4, C, "40 02 0000", 0x82 },
    { 4, C, "40 01 00", 0x81 },
    { 4, C, "40 00", 0x81 },
    { 4, C, "40 03 0001 00", 0x81 },
    { 5, C, "40 03 0001 01", 0x82 },
    { 5, C, "40 03 0001 92", 0x82 },
    { 5, C, "62 03 0001 80", 0x82 },
    { 5, C, "70 03 0001 10", 0x82 },
    { 5, C, "40 05 0001 00 00 00", 0x81 },
    { 5, C, "40 05 0001 00 01 1F", 0x81 },
    { 5, C, "40 06 0001 00 02 0101", 0x81 },
    /* SUBSCRIBE */
    { 4, C, "82 02 0001", 0x82 },
    { 5, C, "82 03 0001 00", 0x82 },
    { 4, C, "82 06 0000 0001'#' 00", 0x82 },
    { 4, C, "82 05 0001 0001'#'", 0x81 },
    { 4, C, "82 05 0001 0000 00", 0x8F },
    { 4, C, "82 06 0001 0001'#' 03", 0x82 },
    { 4, C, "82 06 0001 0001'#' 04", 0x81 },
    { 5, C, "82 07 0001 00 0001'#' 40", 0x81 },
    { 5, C, "82 07 0001 00 0001'#' 80", 0x81 },
    { 5, C, "82 07 0001 00 0001'#' 03", 0x82 },
    { 5, C, "82 07 0001 00 0001'#' 30", 0x82 },
    { 5, C, "82 0F 0001 00 0009'$share/g/' 00", 0x8F },
    { 5, C, "82 10 0001 00 000A'$share/g/a' 04", 0x82 },
    { 4, C, "82 0E 0001 0009'$share//a' 00", 0x8F },
    { 4, C, "82 0F 0001 000A'$share/+/a' 00", 0x8F },
    { 4, C, "82 10 0001 000B'$share/g#/a' 00", 0x8F },
    { 4, C, "82 0D 0001 0008'$share/g' 00", 0x8F },
    { 4, C, "82 0C 0001 0007'$share/' 00", 0x8F },
    { 4, C, "82 0A 0001 0005'a/b#c' 00", 0x8F },
    { 4, C, "82 0A 0001 0005'a/#/c' 00", 0x8F },
    { 4, C, "82 08 0001 0003'a+b' 00", 0x8F },
    { 4, C, "82 08 0001 0003 610062 00", 0x81 },
    { 4, C, "82 08 0001 0003 61FF62 00", 0x81 },
    { 5, C, "82 09 0001 02 0B00 0001'#' 00", 0x82 },
    { 5, C, "82 0B 0001 04 0B010B02 0001'#' 00", 0x82 },
    { 4, C, "82 09 0001 0001'#' 00 0001'a'", 0x81 },
    /* UNSUBSCRIBE */
    { 4, C, "A2 02 0001", 0x82 },
    { 5, C, "A2 03 0001 00", 0x82 },
    { 4, C, "A2 05 0000 0001'#'", 0x82 },
    { 4, C, "A2 06 0001 0002'##'", 0x8F },
    { 5, C, "A2 08 0001 02 0B01 0001'#'", 0x81 },
    /* SUBACK, UNSUBACK */
    { 4, S, "90 02 0001", 0x82 },
    { 4, S, "90 03 0001 03", 0x82 },
    { 4, S, "90 03 0001 81", 0x82 },
    { 4, S, "90 03 0001 87", 0x82 },
    { 4, S, "B0 03 0001 00", 0x81 },
    { 5, S, "B0 04 0001 00 01", 0x82 },
    { 5, S, "B0 02 0001", 0x81 },
    /* DISCONNECT, AUTH */
    { 4, C, "E0 01 00", 0x81 },
    { 5, C, "E0 01 8E", 0x82 },
    { 5, S, "E0 01 04", 0x82 },
    { 5, C, "E0 01 01", 0x82 },
    { 5, C, "E0 03 00 00 00", 0x81 },
    { 5, S, "E0 07 00 05 1100000000", 0x82 },
    { 5, C, "E0 08 00 06 1C0003'h:1'", 0x82 },
    { 5, C, "F0 01 18", 0x81 },
    { 5, C, "F0 02 18 00", 0x82 },
    { 5, C, "F0 06 00 04 150001'm'", 0x82 },
    { 5, S, "F0 06 19 04 150001'm'", 0x82 },
    { 5, C, "F0 00", 0x82 },
};

static void faults_get_the_reason_that_the_specification_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(faults); i++) {
        const char *hex = faults[i].hex;
        size_t len;
        uint8_t *data = bytes_of(hex, &len);
        struct any_packet packet = packet_of(hex, data, len, faults[i].level, faults[i].sender);
        struct buf text = BUF_INIT(10000);
        int reason = (int)packet_text(&packet, &text);
        CHECK(reason == faults[i].reason && text.len == 0, "%s: %02X, not %02X", hex, reason,
              faults[i].reason);
        buf_release(&text);
        free(data);
    }
}

/* ---- What the tables cannot say ------------------------------------------------------------------ */

static void fixed_header_is_one_to_four_bytes_of_length(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        int rc;
        size_t header, remaining;
    } rows[] = {
        { "", 0, 0, 0 },
        { "30", 0, 0, 0 },
        { "30 00", 1, 2, 0 },
        { "30 7F", 1, 2, 127 },
        { "30 80", 0, 0, 0 },
        { "30 8001", 1, 3, 128 },
        { "30 FF7F", 1, 3, 16383 },
        { "30 808001", 1, 4, 16384 },
        { "30 FFFF7F", 1, 4, 2097151 },
        { "30 FFFFFF", 0, 0, 0 },
        { "30 80808001", 1, 5, 2097152 },
        { "30 FFFFFF7F", 1, 5, 268435455 },
        { "30 FFFFFFFF", -EBADMSG, 0, 0 },
        { "30 8080808001", -EBADMSG, 0, 0 },
        { "30 8000", 1, 3, 0 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t len, header, remaining;
        uint8_t *data = bytes_of(rows[i].hex, &len);
        int rc = mqtt_packet_length(data, len, &header, &remaining);
        CHECK(rc == rows[i].rc && header == rows[i].header && remaining == rows[i].remaining,
              "%s: %d %zu %zu", rows[i].hex, rc, header, remaining);
        free(data);
    }
}

static void level_of_the_answer_is_known_even_if_connect_is_not(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        int level;
    } rows[] = {
        { "", 4 },
        { "0004'MQTT'", 4 },
        { "0004'MQTT' 03 02", 4 },
        { "0004'MQTT' 06 02", 5 },
        { "0004'MQTT' 84 02", 4 }, /* a bridge, which then tries again without that bit */
        { "0004'MQTT' 85 02", 5 },
        { "0004'MQTT' 05 03", 5 },
        { "0006'MQIsdp' 03 0E", 3 },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t len;
        uint8_t *data = bytes_of(rows[i].body, &len);
        struct mqtt_connect connect;
        CHECK(mqtt_read_connect(data, len, &connect) != MQTT_SUCCESS, "%s", rows[i].body);
        CHECK((int)connect.level == rows[i].level, "%s: %d", rows[i].body, connect.level);
        free(data);
    }
}

static void version_3_1_forgives_what_it_did_not_forbid(void **state)
{
    (void)state;
    static const struct {
        const char *hex, *text;
    } rows[] = {
        { "10 0F 0006'MQIsdp' 03 03 0000 0001'x'", "CONNECT v3 clean keep=0 id=x" },
        { "10 0F 0006'MQIsdp' 03 C2 0000 0001'x'", "CONNECT v3 clean keep=0 id=x" },
        { "10 12 0006'MQIsdp' 03 C2 0000 0001'x' 0001'u'", "CONNECT v3 clean keep=0 id=x user=u" },
        { "82 06 0001 0001'#' FC", "SUBSCRIBE id=1 filter=# q0" },
        { "8A 06 0001 0001'#' 02", "SUBSCRIBE id=1 filter=# q2" },
        { "6A 02 0001", "PUBREL id=1 00" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t len;
        uint8_t *data = bytes_of(rows[i].hex, &len);
        struct any_packet packet = packet_of(rows[i].hex, data, len, 3, C);
        struct buf text = BUF_INIT(1000);
        enum mqtt_reason reason = packet_text(&packet, &text);
        CHECK(reason == MQTT_SUCCESS && strcmp(buf_str(&text), rows[i].text) == 0,
              "%s: %02X \"%s\"", rows[i].hex, reason, buf_str(&text));
        buf_release(&text);
        free(data);
    }
}

static void longer_forms_are_read_too(void **state)
{
    (void)state;
    static const struct {
        const char *hex, *text;
    } rows[] = {
        { "40 03 0001 00", "PUBACK id=1 00" },    { "40 04 0001 00 00", "PUBACK id=1 00" },
        { "62 04 0001 92 00", "PUBREL id=1 92" }, { "E0 01 00", "DISCONNECT 00" },
        { "E0 02 00 00", "DISCONNECT 00" },       { "C0 8000", "PINGREQ" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        size_t len;
        uint8_t *data = bytes_of(rows[i].hex, &len);
        struct any_packet packet = packet_of(rows[i].hex, data, len, 5, C);
        struct buf text = BUF_INIT(1000);
        enum mqtt_reason reason = packet_text(&packet, &text);
        CHECK(reason == MQTT_SUCCESS && strcmp(buf_str(&text), rows[i].text) == 0,
              "%s: %02X \"%s\"", rows[i].hex, reason, buf_str(&text));
        buf_release(&text);
        free(data);
    }
}

/* A fault at each place of topics of each length, since they are looked at a word at a time. */
static void topic_is_checked_at_each_byte(void **state)
{
    (void)state;
    static const struct {
        uint8_t byte;
        int reason;
    } rows[] = {
        { 'a', 0x00 }, { '"', 0x00 }, { '*', 0x00 },  { ',', 0x00 },  { 0x01, 0x00 },
        { '#', 0x90 }, { '+', 0x90 }, { 0x00, 0x81 }, { 0x80, 0x81 }, { 0xFF, 0x81 },
    };
    for (size_t len = 1; len <= 40; len++)
        for (size_t at = 0; at < len; at++)
            for (size_t i = 0; i < ROWS(rows); i++) {
                uint8_t *body = malloc(2 + len);
                body[0] = 0;
                body[1] = (uint8_t)len;
                memset(body + 2, 'z', len);
                body[2 + at] = rows[i].byte;
                struct mqtt_publish publish;
                int reason = (int)mqtt_read_publish(0x30, body, 2 + len, MQTT_3_1_1, C, &publish);
                CHECK(reason == rows[i].reason, "%02X at %zu of %zu: %02X", rows[i].byte, at, len,
                      reason);
                free(body);
            }
}

static void what_is_too_long_is_not_written(void **state)
{
    (void)state;
    static char text[65536];
    const struct mqtt_slice none = { NULL, 0 };
    struct mqtt_publish_head head = { .topic = { text, 65535 } };
    assert_int_equal(mqtt_write_publish_head(NULL, 0, MQTT_5_0, &head, NULL), 4 + 65538);
    head.topic.len = 65536;
    assert_int_equal(mqtt_write_publish_head(NULL, 0, MQTT_5_0, &head, NULL), 0);
    head.topic.len = 1;
    head.payload_len = MQTT_VARINT_MAX - 3;
    assert_int_equal(mqtt_write_publish_head(NULL, 0, MQTT_3_1_1, &head, NULL), 5 + 3);
    assert_int_equal(mqtt_write_publish_head(NULL, 0, MQTT_5_0, &head, NULL), 0);

    struct mqtt_subscription subscription = { .text = { text, 65536 } };
    assert_int_equal(mqtt_write_subscribe(NULL, 0, MQTT_5_0, 1, &subscription, 1, none), 0);
    assert_int_equal(mqtt_write_unsubscribe(NULL, 0, MQTT_5_0, 1, &subscription, 1, none), 0);
    const struct mqtt_slice huge = { (const uint8_t *)text, MQTT_VARINT_MAX };
    assert_int_equal(mqtt_write_connack(NULL, 0, MQTT_5_0, false, MQTT_SUCCESS, huge), 0);
    assert_int_equal(mqtt_write_ack(NULL, 0, MQTT_5_0, MQTT_PUBACK, 1, MQTT_SUCCESS, huge), 0);
    assert_int_equal(mqtt_write_disconnect(NULL, 0, MQTT_5_0, MQTT_SUCCESS, huge), 0);

    subscription.text.len = 65535;
    assert_int_equal(mqtt_write_subscribe(NULL, 0, MQTT_5_0, 1, &subscription, 1, none),
                     4 + 3 + 2 + 65535 + 1);

    /* Each string of CONNECT, as long as can be and a byte more. */
    const struct mqtt_string string = { text, 65535 };
    const struct mqtt_slice slice = { (const uint8_t *)text, 65535 };
    struct mqtt_connect connect = { .level = MQTT_5_0,
                                    .client_id = string,
                                    .user_name = string,
                                    .password = slice,
                                    .will = { .topic = string, .payload = slice } };
    assert_int_equal(mqtt_write_connect(NULL, 0, &connect), 4 + 10 + 1 + 1 + 5 * 65537);
    size_t *const lengths[] = { &connect.client_id.len, &connect.user_name.len,
                                &connect.password.len, &connect.will.topic.len,
                                &connect.will.payload.len };
    for (size_t i = 0; i < ROWS(lengths); i++) {
        *lengths[i] = 65536;
        CHECK(mqtt_write_connect(NULL, 0, &connect) == 0, "string %zu", i);
        *lengths[i] = 65535;
    }
}

/* What only 5.0 can say is left out, or said as well as can be. */
static void older_versions_are_told_what_they_understand(void **state)
{
    (void)state;
    const uint8_t raw[] = { 0x1F, 0, 1, 'x' };
    const struct mqtt_slice properties = { raw, sizeof(raw) };
    uint8_t out[20];
    assert_int_equal(mqtt_write_connack(out, 20, MQTT_3_1_1, true, MQTT_BANNED, properties), 4);
    assert_memory_equal(out, "\x20\x02\x01\x05", 4);
    assert_int_equal(mqtt_write_connack(out, 20, MQTT_3_1, true, MQTT_SUCCESS, properties), 4);
    assert_memory_equal(out, "\x20\x02\x00\x00", 4);
    assert_int_equal(
        mqtt_write_connack(out, 20, MQTT_3_1_1, false, MQTT_MALFORMED_PACKET, properties), 0);
    assert_int_equal(
        mqtt_write_ack(out, 20, MQTT_3_1_1, MQTT_PUBREC, 7, MQTT_QUOTA_EXCEEDED, properties), 4);
    assert_memory_equal(out, "\x50\x02\x00\x07", 4);
    assert_int_equal(
        mqtt_write_suback(out, 20, MQTT_3_1_1, 7, (const uint8_t *)"\x01\x87", 2, properties), 6);
    assert_memory_equal(out, "\x90\x04\x00\x07\x01\x80", 6);
    assert_int_equal(
        mqtt_write_unsuback(out, 20, MQTT_3_1_1, 7, (const uint8_t *)"\x11", 1, properties), 4);
    assert_memory_equal(out, "\xB0\x02\x00\x07", 4);
    assert_int_equal(
        mqtt_write_disconnect(out, 20, MQTT_3_1_1, MQTT_SERVER_SHUTTING_DOWN, properties), 2);
    assert_memory_equal(out, "\xE0\x00", 2);

    const struct mqtt_publish_head head = {
        .topic = { "t", 1 }, .qos = 1, .packet_id = 7, .own = properties, .carried = properties
    };
    assert_int_equal(mqtt_write_publish_head(out, 20, MQTT_3_1_1, &head, NULL), 7);
    assert_memory_equal(out, "\x32\x05\x00\x01t\x00\x07", 7);
}

static void publish_head_has_room_for_another_packet_id(void **state)
{
    (void)state;
    const struct mqtt_publish_head head = { .topic = { "a/b", 3 },
                                            .payload_len = 200,
                                            .packet_id = 0x1234,
                                            .qos = 2,
                                            .own = { (const uint8_t *)"\x23\x00\x05", 3 },
                                            .carried = { (const uint8_t *)"\x01\x01", 2 } };
    uint8_t out[32];
    size_t at;
    size_t len = mqtt_write_publish_head(out, sizeof(out), MQTT_5_0, &head, &at);
    assert_int_equal(len, 16);
    assert_memory_equal(out,
                        "\x34\xD5\x01\x00\x03"
                        "a/b\x12\x34\x05\x23\x00\x05\x01\x01",
                        16);
    assert_int_equal(at, 8);
    mqtt_set_packet_id(out + at, 0xABCD);
    assert_memory_equal(out + 8, "\xAB\xCD", 2);
}

static void reasons_have_names_and_return_codes(void **state)
{
    (void)state;
    assert_string_equal(mqtt_reason_name(MQTT_SUCCESS), "success");
    assert_string_equal(mqtt_reason_name(MQTT_TOPIC_ALIAS_INVALID), "topic alias invalid");
    assert_string_equal(mqtt_reason_name((enum mqtt_reason)0xA3), "unknown reason");
    size_t known = 0;
    for (int i = 0; i < 256; i++) {
        enum mqtt_reason reason = (enum mqtt_reason)i;
        bool named = strcmp(mqtt_reason_name(reason), "unknown reason") != 0;
        bool used = false;
        for (int type = 1; type < 16; type++)
            used = used || mqtt_reason_allowed(reason, (enum mqtt_type)type, C) ||
                   mqtt_reason_allowed(reason, (enum mqtt_type)type, S);
        CHECK(named == used, "%02X", i);
        known += named;
        int code = mqtt_reason_return_code(reason);
        CHECK(code < 0 || code == 3 || code == 5 ||
                  mqtt_reason_of_return_code((uint8_t)code) == reason,
              "%02X: %d", i, code);
    }
    assert_int_equal(known, 43);
    assert_int_equal(mqtt_reason_of_return_code(6), MQTT_PROTOCOL_ERROR);
    assert_int_equal(mqtt_reason_return_code(MQTT_PROTOCOL_ERROR), -1);
}

TEST_SUITE("packet", cmocka_unit_test(packets_are_read_and_written_as_the_specification_says),
           cmocka_unit_test(packets_that_are_cut_short_are_malformed),
           cmocka_unit_test(faults_get_the_reason_that_the_specification_names),
           cmocka_unit_test(fixed_header_is_one_to_four_bytes_of_length),
           cmocka_unit_test(level_of_the_answer_is_known_even_if_connect_is_not),
           cmocka_unit_test(version_3_1_forgives_what_it_did_not_forbid),
           cmocka_unit_test(longer_forms_are_read_too),
           cmocka_unit_test(topic_is_checked_at_each_byte),
           cmocka_unit_test(what_is_too_long_is_not_written),
           cmocka_unit_test(older_versions_are_told_what_they_understand),
           cmocka_unit_test(publish_head_has_room_for_another_packet_id),
           cmocka_unit_test(reasons_have_names_and_return_codes));
