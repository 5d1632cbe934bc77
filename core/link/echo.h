/* SPDX-License-Identifier: MIT */

/*
 * The last resort against loops where nothing can be carried along (MQTT 3.1.1): remembers what the
 * sending side of a link has published of late, and counts how often the same comes back.
 *
 * A message is the same if topic and payload are. So a loop that changes the payload each time is not
 * seen; and what returns more often than the limit within the window for an honest reason is. Memory is
 * fixed: a newer publication may take the place of an older one.
 *
 * Any thread.
 */

#ifndef TOCSIN_LINK_ECHO_H
#define TOCSIN_LINK_ECHO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct echo;

struct echo *echo_new(int64_t limit, int64_t window_ms); /* NULL when there is no memory */
void echo_free(struct echo *echo);                       /* NULL is allowed */

/* A message is being published. */
void echo_note_sent(struct echo *echo, const char *topic, const void *payload, size_t len,
                    int64_t now_ms);

/* A message has come. Says whether it is one too many of an own publication. Costs nothing worth
 * mentioning while nothing has been published. */
bool echo_is_loop(struct echo *echo, const char *topic, const void *payload, size_t len,
                  int64_t now_ms);

#endif
