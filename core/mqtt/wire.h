/* SPDX-License-Identifier: MIT */

/*
 * For the codec alone: a cursor over a packet's bytes, which remembers its first error, and the bytes of
 * a packet to be. Any thread.
 */

#ifndef TOCSIN_MQTT_WIRE_H
#define TOCSIN_MQTT_WIRE_H

#include "mqtt/properties.h"

#include <string.h>
#ifdef __SSE2__
#    include <emmintrin.h>
#endif

#define MQTT_STRING_MAX 65535u

/* ---- Text ---------------------------------------------------------------------------------------- */

#define WIRE_ONES  0x0101010101010101u
#define WIRE_HIGHS 0x8080808080808080u

/* Nonzero if one of the eight bytes is NUL, a wildcard or no ASCII. '+' and '#' differ in one bit. */
static inline uint64_t wire_odd_bytes(uint64_t word)
{
    uint64_t wild = (word & ~(WIRE_ONES * 0x08)) ^ (WIRE_ONES * '#');
    return (((word - WIRE_ONES) & ~word) | ((wild - WIRE_ONES) & ~wild) | word) & WIRE_HIGHS;
}

#ifdef __SSE2__
/* The same for at least 16 bytes. */
static inline bool wire_text_is_plain_16(const uint8_t *text, size_t len)
{
    const __m128i hash = _mm_set1_epi8('#'), mask = _mm_set1_epi8(~0x08);
    __m128i odd = _mm_setzero_si128();
    for (size_t i = 0;; i += sizeof(odd)) {
        bool last = i + sizeof(odd) >= len;
        __m128i word = _mm_loadu_si128((const void *)(text + (last ? len - sizeof(odd) : i)));
        odd = _mm_or_si128(odd, word);
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(word, _mm_setzero_si128()));
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(_mm_and_si128(word, mask), hash));
        if (last)
            return _mm_movemask_epi8(odd) == 0;
    }
}
#endif

/* Whether all is ASCII without NUL, '+' and '#': true of nearly all topics. */
static inline bool wire_text_is_plain(const uint8_t *text, size_t len)
{
#ifdef __SSE2__
    if (len >= sizeof(__m128i))
        return wire_text_is_plain_16(text, len);
#endif
    uint64_t word, odd = 0;
    if (len >= sizeof(word)) {
        for (size_t i = 0; i < len - sizeof(word); i += sizeof(word)) {
            memcpy(&word, text + i, sizeof(word));
            odd |= wire_odd_bytes(word);
        }
        memcpy(&word, text + len - sizeof(word), sizeof(word));
        return (odd | wire_odd_bytes(word)) == 0;
    }
    if (len >= 4) {
        uint32_t begin, end;
        memcpy(&begin, text, sizeof(begin));
        memcpy(&end, text + len - sizeof(end), sizeof(end));
        return wire_odd_bytes((uint64_t)begin << 32 | end) == 0;
    }
    if (len == 0)
        return true;
    /* The upper bytes are 'a's. */
    word = 0x6161616161000000u | (uint64_t)text[0] << 16 | (uint64_t)text[len / 2] << 8 |
           text[len - 1];
    return wire_odd_bytes(word) == 0;
}

/* UTF-8 without NUL [MQTT-1.5.4-1], [MQTT-1.5.4-2]. */
bool wire_text_valid(const uint8_t *text, size_t len);

/* A topic name, which may be empty: MQTT_MALFORMED_PACKET if it is no text as above,
 * MQTT_TOPIC_NAME_INVALID if it has a wildcard. */
enum mqtt_reason wire_topic_check_slow(const uint8_t *text, size_t len);

static inline enum mqtt_reason wire_topic_check(const uint8_t *text, size_t len)
{
    return wire_text_is_plain(text, len) ? MQTT_SUCCESS : wire_topic_check_slow(text, len);
}

/* ---- Reading ------------------------------------------------------------------------------------- */

/* After an error it is at its end, and gives zeros and empty values. */
struct wire_in {
    const uint8_t *at, *end;
    enum mqtt_reason error;
};

static inline size_t wire_left(const struct wire_in *in)
{
    return (size_t)(in->end - in->at);
}

static inline void wire_fail(struct wire_in *in, enum mqtt_reason error)
{
    if (in->error == MQTT_SUCCESS)
        in->error = error;
    in->at = in->end;
}

static inline uint16_t wire_peek16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t wire_peek32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

uint8_t wire_take8(struct wire_in *in);
uint16_t wire_take16(struct wire_in *in);
uint32_t wire_take32(struct wire_in *in);
/* In the fewest bytes [MQTT-1.5.5-1]. */
uint32_t wire_take_varint(struct wire_in *in);
/* Two bytes of length, then as many. */
struct mqtt_slice wire_take_binary(struct wire_in *in);
/* The same, checked to be text. */
struct mqtt_string wire_take_string(struct wire_in *in);
/* A Packet Identifier, which is not 0 [MQTT-2.2.1-3]. */
uint16_t wire_take_packet_id(struct wire_in *in);
/* Properties, on 5.0; none before. */
void wire_take_properties(struct wire_in *in, enum mqtt_level level, enum mqtt_type type,
                          enum mqtt_sender sender, struct mqtt_properties *out);
/* What is left over makes a packet malformed. Returns the first error. */
enum mqtt_reason wire_finish(struct wire_in *in);

/* ---- Writing ------------------------------------------------------------------------------------- */

static inline uint8_t *wire_put16(uint8_t *out, size_t value)
{
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return out + 2;
}

static inline uint8_t *wire_put32(uint8_t *out, uint32_t value)
{
    return wire_put16(wire_put16(out, value >> 16), value & 0xFFFF);
}

/* The bytes as they are; NULL is none. */
static inline uint8_t *wire_put_raw(uint8_t *out, const void *data, size_t len)
{
    if (len > 0)
        memcpy(out, data, len);
    return out + len;
}

/* Two bytes of length, then as many. */
static inline uint8_t *wire_put_binary(uint8_t *out, const void *data, size_t len)
{
    return wire_put_raw(wire_put16(out, len), data, len);
}

/* Property Length and properties, on 5.0. */
static inline size_t wire_properties_length(enum mqtt_level level, struct mqtt_slice properties)
{
    return level < MQTT_5_0 ? 0 : mqtt_varint_length(properties.len) + properties.len;
}

static inline uint8_t *wire_put_properties(uint8_t *out, enum mqtt_level level,
                                           struct mqtt_slice properties)
{
    if (level < MQTT_5_0)
        return out;
    return wire_put_raw(mqtt_varint_write(out, properties.len), properties.data, properties.len);
}

#endif
