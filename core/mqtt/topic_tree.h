/* SPDX-License-Identifier: MIT */

/*
 * Many topic filters at once: which of them match a topic name. The cost of a match depends on the levels
 * of the topic and on what matches, not on how many filters there are.
 *
 * A tree that nobody changes any more may be read by any number of threads.
 */

#ifndef TOCSIN_MQTT_TOPIC_TREE_H
#define TOCSIN_MQTT_TOPIC_TREE_H

#include <stddef.h>

struct topic_tree;

/* NULL when there is no memory. */
struct topic_tree *topic_tree_new(void);

/* Frees the tree, not the values. NULL is allowed. */
void topic_tree_free(struct topic_tree *tree);

/* Adds a valid filter with a value that topic_tree_match() gives back; a filter may be added several
 * times. Returns 0 or -ENOMEM. */
int topic_tree_add(struct topic_tree *tree, const char *filter, size_t len, void *value);

/* Calls `visit` with the value of each filter that matches a valid topic name, in no order. Filters that
 * start with a wildcard do not match topics that start with '$' [MQTT-4.7.2-1]. */
void topic_tree_match(const struct topic_tree *tree, const char *topic, size_t len,
                      void (*visit)(void *value, void *context), void *context);

#endif
