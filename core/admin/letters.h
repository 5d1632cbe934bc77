/* SPDX-License-Identifier: MIT */

/*
 * New dead letters as messages of the router itself (link "internal"): so routes can tell somebody, and subscribers of the
 * included broker, or else of the first link's, can see them, in TOPIC/dead-letter/SERVICE/TARGET. The payload is a JSON object: id, service, target,
 * route, topic, link, reason, attempts, created, text (its first LETTER_TEXT_BYTES).
 *
 * A service's thread puts them in, another takes them out. There may be a storm of them: what is not taken over by routes
 * yet is bounded, the rest waits here, and what is beyond LETTERS_MOST is counted and left out. The dead letters themselves
 * are in the store, whatever becomes of their messages.
 */

#ifndef TOCSIN_ADMIN_LETTERS_H
#define TOCSIN_ADMIN_LETTERS_H

#include "router/delivery.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LETTER_TEXT_BYTES    200
#define LETTERS_MOST         10000 /* that wait here */
#define LETTERS_MOST_UNTAKEN 1000  /* messages that routes have not taken over */

struct letter {
    struct letter *next;
    char *topic, *text;
    uint64_t untold; /* its number in the store, if that is to know that it has been told; or 0 */
};

struct letters {
    pthread_mutex_t lock; /* of all */
    struct letter *first, **end;
    size_t count;
    uint64_t left_out;
    bool closed;     /* all have been taken, and nobody takes any more; */
    size_t too_late; /* so many were put in since */
};

void letters_init(struct letters *letters);
void letters_release(struct letters *letters);

/* Notes one, unless it is of a message of the router itself, of a topic below `topic`, or of another router's dead
 * letter: of those there would be no end. `untold` becomes the letter's. Any thread; does not block. */
enum letters_fate {
    LETTERS_NEW,     /* there is something new to take */
    LETTERS_NOTHING, /* it was not noted, and need not be */
    LETTERS_CLOSED,  /* it comes too late */
};
enum letters_fate letters_put(struct letters *letters, const char *topic,
                              const struct delivery *delivery, const char *reason,
                              unsigned attempts, uint64_t untold);

/* Takes the oldest out, to be freed by letter_free(); NULL if there is none, or routes have their fill and not
 * `all`. When there is none with `all`, that was the last one: what is put in from then on comes too late. */
struct letter *letters_take(struct letters *letters, bool all);
void letter_free(struct letter *letter); /* NULL is allowed */

/* Makes a message of it. NULL when there is no memory. */
struct message *letter_message(const struct letter *letter, int64_t now_ms);

#endif
