/* SPDX-License-Identifier: MIT */

/*
 * Fresh deliveries of a stream (stream.h): urgent ones and others, each in order of arrival. All of one topic are always in
 * the same list, so that a topic's order holds whatever is taken from which: one that is urgent takes with it
 * what waits of its topic, and as long as it waits, others of its topic join it.
 *
 * To find these, there is a table of topics. It is only there while something urgent has come to others that wait; as long
 * as nothing is urgent, this is a plain list. Without memory for it nothing goes before anything else.
 */

#ifndef TOCSIN_DELIVERY_LINES_H
#define TOCSIN_DELIVERY_LINES_H

#include "base/map.h"
#include "router/delivery.h"

#include <stdbool.h>
#include <stddef.h>

struct delivery_list {
    struct delivery *first, *last;
};

void delivery_list_append(struct delivery_list *list, struct delivery *delivery);
void delivery_list_prepend(struct delivery_list *list, struct delivery *delivery);
struct delivery *delivery_list_pop(struct delivery_list *list); /* which is not empty */

/* Begins zeroed. */
struct lines {
    struct delivery_list ordinary, urgent;
    struct map topics; /* topic -> what waits of it, when `mixed` */
    bool mixed;
};

/* Frees it with its deliveries. */
void lines_release(struct lines *lines);

bool lines_are_empty(const struct lines *lines);

/* Adds a delivery that has arrived. */
void lines_append(struct lines *lines, struct delivery *delivery);

/* Adds deliveries of one topic that were before all others of it, and empties their list. */
void lines_prepend(struct lines *lines, struct delivery_list *of_topic);

/* Takes out the first of a list; NULL if it is empty. */
struct delivery *lines_take(struct lines *lines, bool urgent);

/* Takes all out, in an order that keeps the topics'. */
struct delivery_list lines_empty(struct lines *lines);

#endif
