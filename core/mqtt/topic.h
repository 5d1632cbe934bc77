/* SPDX-License-Identifier: MIT */

/*
 * Topic names and topic filters as MQTT 5.0 section 4.7 has them, which is also 3.1.1's; the numbers in
 * brackets are the statement numbers of 5.0. Any thread.
 */

#ifndef TOCSIN_MQTT_TOPIC_H
#define TOCSIN_MQTT_TOPIC_H

#include <stdbool.h>
#include <stddef.h>

#define TOPIC_MAX_BYTES 65535 /* [MQTT-4.7.3-3] */

/* What is wrong with a topic name, as the end of the sentence "bad topic name: ..."; NULL if nothing is.
 * Empty [MQTT-4.7.3-1], too long [MQTT-4.7.3-3], a NUL [MQTT-4.7.3-2], a wildcard [MQTT-3.3.2-2], or not
 * UTF-8 [MQTT-1.5.4-1]. */
const char *topic_name_fault(const char *text, size_t len);

/* The same for a filter: also '#' that is not the whole of the last level [MQTT-4.7.1-1] and '+' that is
 * not the whole of its level [MQTT-4.7.1-2]. */
const char *topic_filter_fault(const char *text, size_t len);

/*
 * Whether a valid filter matches a valid topic name. Bytes are compared as they are [MQTT-4.7.3-4]; a
 * filter that starts with a wildcard never matches a topic that starts with '$' [MQTT-4.7.2-1]. Linear in
 * the two lengths.
 */
bool topic_filter_matches(const char *filter, size_t filter_len, const char *topic,
                          size_t topic_len);

#endif
