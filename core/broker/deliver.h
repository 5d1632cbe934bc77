/* SPDX-License-Identifier: MIT */

/*
 * The last step: a message into the output of a connection, or into the queue of a session. The worker's
 * thread.
 */

#ifndef TOCSIN_BROKER_DELIVER_H
#define TOCSIN_BROKER_DELIVER_H

#include "broker/client.h"
#include "broker/routing.h"

/* Delivers by the terms, whose references stay the caller's: now if there is room, later if it may wait; or
 * drops it, and counts that. Returns whether it was put into the session's flow. */
bool deliver(struct worker *worker, struct session *session, struct publish *publish,
             const struct terms *terms);

/* Sends what has been waiting, as far as there is room: after an acknowledgement, after a reconnect, after the
 * output has drained. */
void deliver_waiting(struct client *client);

/* What one of QoS 2 waited for is on disk: sends it, or its PUBREL. */
void deliver_held(struct worker *worker, struct session *session, const struct kept *kept,
                  uint16_t packet_id);

/* Forgets in memory what is on disk of the queue of a session that is away, but for its beginning. */
void deliver_spill(struct session *session);

/* Whether its output or queue is so full, or its client away, that what can wait elsewhere (retained messages)
 * should. */
bool deliver_is_congested(const struct session *session);

/* To a member of a shared subscription, wherever it is; if it has left, to another. Takes the reference of the
 * member. */
void deliver_shared(struct worker *worker, struct share_member *member, struct publish *publish);

/* Gives what the session has by shared subscriptions (by one member, unless NULL) and was not received, to
 * others; if there are none, a persistent session keeps it, as it does what is on disk when others would not have it
 * there, or have no room. */
void deliver_to_others(struct worker *worker, struct session *session, struct share_member *member);

#endif
