/* SPDX-License-Identifier: MIT */

/*
 * Any bytes as any packet: the first says version and sender, the second is the first of the packet, the
 * rest its body.
 *
 * Beside what the sanitizers see: what can be read and is written again is read as the same, a writer
 * without enough room writes nothing, and the length of what it wrote is what the fixed header says.
 */

#include "../unit/mqtt/packet_text.c"

#include <stdio.h>
#include <string.h>

/* Always in force, whatever the build. */
#define MUST(COND)                                                 \
    do {                                                           \
        if (!(COND)) {                                             \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #COND); \
            abort();                                               \
        }                                                          \
    } while (0)

static uint8_t *copy_of(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1); /* exact, so that a byte read beyond is noticed */
    if (!copy)
        abort();
    if (data && len > 0)
        memcpy(copy, data, len);
    return copy;
}

/* Each value is also found by its property. */
static void check_values(const struct any_packet *packet)
{
    struct mqtt_publish publish;
    if (mqtt_packet_type(packet->first) != MQTT_PUBLISH ||
        mqtt_read_publish(packet->first, packet->body, packet->len, packet->level, packet->sender,
                          &publish) != MQTT_SUCCESS)
        return;
    const struct mqtt_properties *p = &publish.properties;
    struct mqtt_property_item item;
    size_t total = 0;
    for (size_t at = 0; mqtt_properties_next(p, &at, &item); total += item.raw.len) {
        MUST(mqtt_properties_have(p, item.id));
        if (item.id == MQTT_PROPERTY_USER_PROPERTY ||
            item.id == MQTT_PROPERTY_SUBSCRIPTION_IDENTIFIER)
            continue;
        if (item.value.data)
            MUST(mqtt_properties_binary(p, item.id).data == item.value.data &&
                 mqtt_properties_string(p, item.id).len == item.value.len);
        else
            MUST(mqtt_properties_number(p, item.id, ~item.number) == item.number);
    }
    MUST(total == p->raw.len);
}

static void check_again(const struct any_packet *packet, const struct buf *text)
{
    size_t len = packet_again(packet, NULL, 0);
    MUST(len >= 2);
    uint8_t *out = copy_of(NULL, len);
    MUST(packet_again(packet, out, len - 1) == len);
    MUST(packet_again(packet, out, len) == len);

    size_t header, remaining;
    MUST(mqtt_packet_length(out, len, &header, &remaining) == 1 && header + remaining == len);
    uint8_t *body = copy_of(out + header, remaining);
    const struct any_packet again = { out[0], body, remaining, packet->level, packet->sender };
    struct buf second = BUF_INIT(1u << 24);
    MUST(packet_text(&again, &second) == MQTT_SUCCESS);
    MUST(second.len == text->len && memcmp(second.data, text->data, text->len) == 0);
    buf_release(&second);
    free(body);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t header, remaining;
    uint8_t *copy = copy_of(data, size);
    int rc = mqtt_packet_length(copy, size, &header, &remaining);
    MUST((rc == 1) == (header > 0) && header <= MQTT_HEADER_MAX && remaining <= MQTT_VARINT_MAX);
    free(copy);
    if (size < 2)
        return 0;

    uint8_t *body = copy_of(data + 2, size - 2);
    const struct any_packet packet = {
        .first = data[1],
        .body = body,
        .len = size - 2,
        .level = (enum mqtt_level)(MQTT_3_1 + (data[0] & 3) % 3),
        .sender = data[0] & 4 ? MQTT_FROM_SERVER : MQTT_FROM_CLIENT,
    };
    struct buf text = BUF_INIT(1u << 24);
    enum mqtt_reason reason = packet_text(&packet, &text);
    MUST((reason == MQTT_SUCCESS) == (text.len > 0));
    MUST(reason == MQTT_SUCCESS || reason >= MQTT_UNSPECIFIED_ERROR);
    if (reason == MQTT_SUCCESS) {
        check_values(&packet);
        check_again(&packet, &text);
    }
    buf_release(&text);
    free(body);
    return 0;
}
