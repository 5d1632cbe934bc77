/* SPDX-License-Identifier: MIT */

/* How workers reach taps (broker.h). The worker's thread but where it says other. */

#ifndef TOCSIN_BROKER_TAP_H
#define TOCSIN_BROKER_TAP_H

#include "broker/routing.h"
#include "broker/worker.h"

/* The highest QoS of the tap's filters that match; 0 if it is closed. Any thread. */
uint8_t tap_qos(struct broker *broker, unsigned tap, const char *topic, size_t len);

/* Puts the message into the turn's batch for the tap. */
void tap_deliver(struct worker *worker, unsigned tap, struct publish *publish, uint8_t qos);

/* The turn's end: hands the batches over. */
void taps_settle(struct worker *worker);

/* Whether a tap has more in hand than its limit. Any thread. */
bool taps_are_crowded(const struct broker *broker);

#endif
