/* SPDX-License-Identifier: MIT */

/*
 * What a link publishes of its own accord, without anybody waiting for it: copies, in order, of which some may be under way.
 * Bounded; what has no room is refused. Under its owner's lock.
 */

#ifndef TOCSIN_LINK_NOTICES_H
#define TOCSIN_LINK_NOTICES_H

#include <stddef.h>

#define NOTICES_MOST       1000 /* that wait */
#define NOTICES_MOST_BYTES ((size_t)4 * 1024 * 1024)
#define NOTICES_UNDER_WAY  20 /* published and not answered */

struct notice {
    struct notice *next;
    char *topic;
    size_t len;
    char payload[];
};

struct notices {
    struct notice *first, **end;
    size_t count, bytes;
    int under_way[NOTICES_UNDER_WAY]; /* the library's numbers of what is */
    size_t under_way_count;
};

void notices_init(struct notices *notices);
void notices_release(struct notices *notices);

/* Returns 0, -ENOBUFS or -ENOMEM. */
int notices_add(struct notices *notices, const char *topic, const void *payload, size_t len);

/* Takes the oldest, to be freed with notice_free(); NULL if there is none, or enough are under way. Whoever takes one says what
 * has become of it, unless it cannot be published at all: it is under way, and this is its number; or it could not be sent now,
 * and is the oldest again. */
struct notice *notices_take(struct notices *notices);
void notices_sent(struct notices *notices, int mid);
void notices_put_back(struct notices *notices, struct notice *notice);
void notice_free(struct notice *notice); /* NULL is allowed */

/* Something has been answered: one of these, or what is none of them; or none of these will be any more. */
void notices_answered(struct notices *notices, int mid);
void notices_forget(struct notices *notices);

#endif
