/* SPDX-License-Identifier: MIT */

/* Publications as bytes: all that one has comes back, and what is none is refused. */

#include "../suite.h"

#include "broker/durable_op.h"

#include <errno.h>
#include <stdlib.h>

#define BYTES(TEXT) (TEXT), sizeof(TEXT) - 1

static const struct {
    const char *name;
    const char *topic;
    const char *properties;
    size_t properties_len;
    size_t payload_len;
    int64_t expires_ms;
    uint8_t qos;
    bool retain;
} whole[] = {
    { "the shortest", "t", BYTES(""), 0, 0, 0, false },
    { "retained", "a/b", BYTES(""), 5, 0, 1, true },
    { "of QoS 2", "/", BYTES(""), 127, 0, 2, false },
    { "one that expires", "a//b", BYTES(""), 128, 1, 0, false },
    { "one that expires late", "$SYS/x", BYTES(""), 16383, INT64_MAX, 2, true },
    { "with all that is carried on", "k\xc3\xbc\x63he",
      BYTES("\x01\x01\x03\x00\x04text\x08\x00\x01r\x09\x00\x03\x00\xff\x00\x26\x00\x01n\x00\x01v"),
      16384, 1700000000000, 1, false },
    { "a long one", "t", BYTES("\x26\x00\x00\x00\x00"), 3000000, 0, 1, false },
};

static struct publication *publication_of(size_t row)
{
    uint8_t *payload = malloc(whole[row].payload_len + 1);
    assert_non_null(payload);
    for (size_t i = 0; i < whole[row].payload_len; i++)
        payload[i] = (uint8_t)(i * 7 + i / 256);
    struct publication *p =
        publication_new(whole[row].topic, strlen(whole[row].topic), whole[row].properties,
                        whole[row].properties_len, payload, whole[row].payload_len);
    assert_non_null(p);
    free(payload);
    p->qos = whole[row].qos;
    p->retain = whole[row].retain;
    return p;
}

static void all_of_a_publication_comes_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(whole); i++) {
        struct publication *p = publication_of(i), *back;
        struct buf record = BUF_INIT((size_t)1 << 24);
        int64_t expires_ms;
        assert_int_equal(durable_write_publication(p, whole[i].expires_ms, &record), 0);
        CHECK(durable_read_publication(record.data, record.len, &back, &expires_ms) == 0, "%s",
              whole[i].name);
        CHECK(expires_ms == whole[i].expires_ms, "%s: expires", whole[i].name);
        CHECK(back->qos == p->qos && back->retain == p->retain && back->expires == 0, "%s: flags",
              whole[i].name);
        CHECK(back->topic_len == p->topic_len &&
                  memcmp(publication_topic(back), publication_topic(p), p->topic_len) == 0,
              "%s: topic", whole[i].name);
        CHECK(back->properties_len == p->properties_len &&
                  memcmp(publication_properties(back), publication_properties(p),
                         p->properties_len) == 0,
              "%s: properties", whole[i].name);
        CHECK(back->payload_len == p->payload_len &&
                  memcmp(publication_payload(back), publication_payload(p), p->payload_len) == 0,
              "%s: payload", whole[i].name);
        publication_unref(back);
        publication_unref(p);
        buf_release(&record);
    }
}

static void a_short_record_has_few_bytes_beside_the_message(void **state)
{
    (void)state;
    struct publication *p = publication_of(1);
    struct buf record = BUF_INIT(1000);
    assert_int_equal(durable_write_publication(p, 0, &record), 0);
    assert_int_equal(record.len, 5 + 3 + 5);
    buf_release(&record);
    publication_unref(p);
}

static void a_full_buffer_is_told(void **state)
{
    (void)state;
    struct publication *p = publication_of(3);
    struct buf record = BUF_INIT(100);
    assert_int_equal(durable_write_publication(p, 0, &record), -E2BIG);
    buf_release(&record);
    publication_unref(p);
}

static void a_record_that_is_cut_is_refused(void **state)
{
    (void)state;
    struct publication *p = publication_of(5), *back;
    struct buf record = BUF_INIT(100000);
    int64_t expires_ms;
    assert_int_equal(durable_write_publication(p, 5, &record), 0);
    for (size_t len = 0; len < record.len; len++) {
        /* In memory of its own length, so that a read behind it is seen. */
        char *cut = malloc(len + 1);
        assert_non_null(cut);
        memcpy(cut + 1, record.data, len);
        CHECK(durable_read_publication(cut + 1, len, &back, &expires_ms) == -EBADMSG && !back,
              "%zu bytes of %zu", len, record.len);
        free(cut);
    }
    buf_add_byte(&record, 'x');
    assert_int_equal(durable_read_publication(record.data, record.len, &back, &expires_ms),
                     -EBADMSG);
    buf_release(&record);
    publication_unref(p);
}

static const struct {
    const char *name;
    const char *bytes;
    size_t len;
} bad[] = {
    { "nothing", BYTES("") },
    { "an older version", BYTES("\x00\x00\x01t\x00\x00") },
    { "a newer version", BYTES("\x02\x00\x01t\x00\x00") },
    { "QoS 3", BYTES("\x01\x03\x01t\x00\x00") },
    { "an unknown flag", BYTES("\x01\x10\x01t\x00\x00") },
    { "no topic", BYTES("\x01\x00\x00\x00\x00") },
    { "a wildcard", BYTES("\x01\x00\x01#\x00\x00") },
    { "another wildcard", BYTES("\x01\x00\x03\x61/+\x00\x00") },
    { "a NUL in the topic", BYTES("\x01\x00\x02t\x00\x00\x00") },
    { "a topic that is not UTF-8", BYTES("\x01\x00\x01\xff\x00\x00") },
    { "a topic behind the end", BYTES("\x01\x00\x04t\x00\x00") },
    { "a topic of nearly all memory", BYTES("\x01\x00\xff\xff\xff\xff\x0ft\x00\x00") },
    { "a length that does not end", BYTES("\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01") },
    { "a length that is longer than it need be", BYTES("\x01\x00\x81\x00t\x00\x00") },
    { "a payload that is too short", BYTES("\x01\x00\x01t\x00\x02x") },
    { "a payload that is too long", BYTES("\x01\x00\x01t\x00\x01xy") },
    { "an unknown property", BYTES("\x01\x00\x01t\x02\x7f\x00\x00") },
    { "a property that is not carried on", BYTES("\x01\x00\x01t\x05\x02\x00\x00\x00\x01\x00") },
    { "a topic alias", BYTES("\x01\x00\x01t\x03\x23\x00\x01\x00") },
    { "a subscription identifier", BYTES("\x01\x00\x01t\x02\x0b\x01\x00") },
    { "a property twice", BYTES("\x01\x00\x01t\x04\x01\x00\x01\x00\x00") },
    { "a property that is cut", BYTES("\x01\x00\x01t\x03\x03\x00\x05\x00") },
    { "properties behind the end", BYTES("\x01\x00\x01t\x05\x01\x00") },
    { "a content type that is not UTF-8", BYTES("\x01\x00\x01t\x04\x03\x00\x01\xff\x00") },
    { "a response topic with a wildcard", BYTES("\x01\x00\x01t\x04\x08\x00\x01#\x00") },
    { "a time that is none", BYTES("\x01\x08\0\0\0\0\0\0\0\0\x01t\x00\x00") },
    { "a time before the beginning", BYTES("\x01\x08\1\0\0\0\0\0\0\x80\x01t\x00\x00") },
    { "a time that is cut", BYTES("\x01\x08\1\0\0\0\0\0\0") },
};

static void what_is_no_record_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS(bad); i++) {
        struct publication *p;
        int64_t expires_ms;
        char *copy = malloc(bad[i].len + 1);
        assert_non_null(copy);
        memcpy(copy + 1, bad[i].bytes, bad[i].len);
        CHECK(durable_read_publication(copy + 1, bad[i].len, &p, &expires_ms) == -EBADMSG, "%s",
              bad[i].name);
        CHECK(!p && expires_ms == 0, "%s: set", bad[i].name);
        free(copy);
    }
}

TEST_SUITE("durable record", cmocka_unit_test(all_of_a_publication_comes_back),
           cmocka_unit_test(a_short_record_has_few_bytes_beside_the_message),
           cmocka_unit_test(a_full_buffer_is_told),
           cmocka_unit_test(a_record_that_is_cut_is_refused),
           cmocka_unit_test(what_is_no_record_is_refused));
