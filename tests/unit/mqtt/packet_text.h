/* SPDX-License-Identifier: MIT */

/* For tests of the packet codec: any packet as a line of text, and written again. One thread. */

#ifndef PACKET_TEXT_H
#define PACKET_TEXT_H

#include "base/buf.h"
#include "mqtt/packet.h"

/* A packet that may be anything. */
struct any_packet {
    uint8_t first;
    const uint8_t *body;
    size_t len;
    enum mqtt_level level; /* CONNECT says it itself */
    enum mqtt_sender sender;
};

/* Reads it, and adds what it says to `out`, as
 *   "PUBLISH q1 dup id=10 topic=a/b [01=1 26=name:value] payload=hello"
 * where bytes that are no plain ASCII are \XX. Nothing is added if it cannot be read. */
enum mqtt_reason packet_text(const struct any_packet *packet, struct buf *out);

/* Reads it, which must be possible, and writes it again to `out`. Returns its length, as the writers do. */
size_t packet_again(const struct any_packet *packet, uint8_t *out, size_t room);

#endif
