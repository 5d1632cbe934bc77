/* SPDX-License-Identifier: MIT */

/*
 * Counts the messages that a link has handed on and that nobody has taken over yet (message.h): of the
 * link in all, to bound memory, and of the connection that they came by, to know when its
 * acknowledgements may go out.
 *
 * The link's thread makes messages count and waits; message_release_hold() of any thread takes them off,
 * and wakes the link's thread only if that is worth it.
 */

#ifndef TOCSIN_LINK_INTAKE_H
#define TOCSIN_LINK_INTAKE_H

#include "router/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct intake;

/* `wake_fd` is an eventfd, written to when intake_wait_*() said so; it is duplicated. Messages keep the
 * intake alive after intake_unref(). NULL when there is no memory or descriptor. */
struct intake *intake_new(int wake_fd, size_t max_messages, size_t max_bytes);
void intake_unref(struct intake *intake); /* NULL is allowed */

/* What came by one connection. */
struct intake_connection;
struct intake_connection *intake_connection_new(struct intake *intake);
void intake_connection_unref(struct intake_connection *connection); /* NULL is allowed */

/* Makes a list of `n` messages linked by `next` count. Before anybody else sees them. */
void intake_add(struct intake_connection *connection, struct message *first, size_t n);

/* Whether all that came by this connection has been taken over. */
bool intake_all_taken(const struct intake_connection *connection);

/* Whether a message of QoS 1 that came by this connection was refused: nothing may be acknowledged any more.
 * To be asked after intake_all_taken(). */
bool intake_was_refused(const struct intake_connection *connection);

/* Whether the bound of messages or bytes of the link is reached. */
bool intake_is_full(const struct intake *intake);

uint64_t intake_untaken(const struct intake *intake);

/* Asks for a wake-up once all is taken, or once there is room again. Returns false if that is so
 * already, and then there will be none. */
bool intake_wait_taken(struct intake_connection *connection);
bool intake_wait_room(struct intake_connection *connection);

#endif
