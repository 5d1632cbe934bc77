/* SPDX-License-Identifier: MIT */

/* A check result as NSCA's packet, made of a delivery. Any thread. */

#ifndef NSCA_PACKET_H
#define NSCA_PACKET_H

#include "tocsin/plugin.h"

#define PACKET_LEN        4304 /* bytes, with room for 4095 of output */
#define PACKET_LEGACY_LEN 720  /* bytes, with room for 511: NSCA before 2.9 */

struct nsca_target {
    struct tocsin_format check_host;
    struct tocsin_format check_service;
    struct tocsin_format output;
    struct tocsin_format state;
    struct tocsin_format perfdata;
    struct tocsin_list perfdata_fields;
};

/*
 * Fills `packet` with `len` bytes (one of the two sizes above), not encrypted. `time` are the four bytes
 * of the server's clock. Texts are cut between two characters to what has room. Returns 0, or a negative
 * errno value if there are no random bytes.
 */
int packet_fill(uint8_t *packet, size_t len, const uint8_t time[4],
                const struct tocsin_delivery *d);

#endif
