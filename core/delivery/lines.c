/* SPDX-License-Identifier: MIT */

#include "delivery/lines.h"

#include <stdlib.h>
#include <string.h>

/* What waits of one topic: all of it in the one list, or all in the other. */
struct line {
    struct delivery *first, *last; /* in `ordinary`, linked by topic_next */
    size_t urgent;                 /* in `urgent` */
    size_t topic_len;
    char topic[]; /* not terminated */
};

/* ---- Lists ---- */

void delivery_list_append(struct delivery_list *list, struct delivery *delivery)
{
    delivery->next = NULL;
    delivery->prev = list->last;
    if (list->first)
        list->last->next = delivery;
    else
        list->first = delivery;
    list->last = delivery;
}

void delivery_list_prepend(struct delivery_list *list, struct delivery *delivery)
{
    delivery->prev = NULL;
    delivery->next = list->first;
    if (list->first)
        list->first->prev = delivery;
    else
        list->last = delivery;
    list->first = delivery;
}

static void list_unlink(struct delivery_list *list, struct delivery *d)
{
    if (d->prev)
        d->prev->next = d->next;
    else
        list->first = d->next;
    if (d->next)
        d->next->prev = d->prev;
    else
        list->last = d->prev;
    d->next = d->prev = NULL;
}

struct delivery *delivery_list_pop(struct delivery_list *list)
{
    struct delivery *d = list->first;
    list_unlink(list, d);
    return d;
}

/* Moves all of `from` to the beginning of `to`. */
static void list_move_before(struct delivery_list *to, struct delivery_list *from)
{
    if (!from->first)
        return;
    from->last->next = to->first;
    if (to->first)
        to->first->prev = from->last;
    else
        to->last = from->last;
    to->first = from->first;
    *from = (struct delivery_list){ 0 };
}

static void list_free(struct delivery_list *list)
{
    while (list->first)
        delivery_free(delivery_list_pop(list));
}

/* ---- The table of topics ---- */

static struct line *line_of(const struct lines *lines, const struct delivery *d)
{
    return map_get(&lines->topics, d->message->topic, d->message->topic_len);
}

/* Finds it or makes it; NULL when there is no memory. */
static struct line *line_for(struct lines *lines, const struct delivery *d)
{
    struct line *line = line_of(lines, d);
    if (line)
        return line;
    size_t len = d->message->topic_len;
    line = malloc(sizeof(*line) + len);
    if (!line)
        return NULL;
    *line = (struct line){ .topic_len = len };
    memcpy(line->topic, d->message->topic, len);
    if (map_set(&lines->topics, line->topic, len, line) < 0) {
        free(line);
        return NULL;
    }
    return line;
}

/* Forgets a topic of which nothing waits any more; and, with the last one, the table. */
static void line_drop(struct lines *lines, struct line *line)
{
    if (line->first || line->urgent > 0)
        return;
    map_remove(&lines->topics, line->topic, line->topic_len);
    free(line);
    lines->mixed = lines->topics.count > 0;
}

static void line_append(struct line *line, struct delivery *d)
{
    d->topic_next = NULL;
    if (line->first)
        line->last->topic_next = d;
    else
        line->first = d;
    line->last = d;
}

static void forget_topics(struct lines *lines)
{
    const struct map_entry *entry;
    for (size_t at = 0; (entry = map_next(&lines->topics, &at));)
        free(entry->value);
    map_release(&lines->topics);
    lines->topics = (struct map)MAP_INIT;
    lines->mixed = false;
}

/* Enters all that waits. Returns false when there is no memory. */
static bool mix(struct lines *lines)
{
    lines->mixed = true;
    for (struct delivery *d = lines->ordinary.first; d; d = d->next) {
        struct line *line = line_for(lines, d);
        if (!line) {
            forget_topics(lines);
            return false;
        }
        line_append(line, d);
    }
    return true;
}

/* Makes one list of both, in an order that keeps the topics'. */
static struct delivery_list *merge(struct lines *lines)
{
    if (lines->mixed)
        forget_topics(lines);
    list_move_before(&lines->ordinary, &lines->urgent);
    return &lines->ordinary;
}

struct delivery_list lines_empty(struct lines *lines)
{
    struct delivery_list all = *merge(lines);
    lines->ordinary = (struct delivery_list){ 0 };
    return all;
}

/* Takes all of a topic out of the ordinary ones, and appends it to `to`. */
static void pull(struct lines *lines, struct line *line, struct delivery_list *to)
{
    while (line->first) {
        struct delivery *d = line->first;
        line->first = d->topic_next;
        d->topic_next = NULL;
        list_unlink(&lines->ordinary, d);
        delivery_list_append(to, d);
        line->urgent++;
    }
}

/* ---- Lines ---- */

void lines_release(struct lines *lines)
{
    list_free(merge(lines));
    map_release(&lines->topics);
}

bool lines_are_empty(const struct lines *lines)
{
    return !lines->ordinary.first && !lines->urgent.first;
}

void lines_append(struct lines *lines, struct delivery *d)
{
    bool urgent = delivery_is_urgent(d);
    struct line *line = NULL;
    if (lines->mixed || (urgent && mix(lines)))
        line = line_for(lines, d);
    if (!line) {
        delivery_list_append(merge(lines), d);
        return;
    }
    if (!urgent && line->urgent == 0) {
        delivery_list_append(&lines->ordinary, d);
        line_append(line, d);
        return;
    }
    pull(lines, line, &lines->urgent);
    delivery_list_append(&lines->urgent, d);
    line->urgent++;
}

static bool has_urgent(const struct delivery_list *list)
{
    for (const struct delivery *d = list->first; d; d = d->next)
        if (delivery_is_urgent(d))
            return true;
    return false;
}

void lines_prepend(struct lines *lines, struct delivery_list *list)
{
    if (!list->first)
        return;
    bool urgent = has_urgent(list);
    struct line *line = NULL;
    if (lines->mixed || (urgent && mix(lines)))
        line = line_for(lines, list->first);
    if (!line) {
        list_move_before(merge(lines), list);
        return;
    }
    if (urgent || line->urgent > 0) {
        for (const struct delivery *d = list->first; d; d = d->next)
            line->urgent++;
        pull(lines, line, list); /* these are behind them; if there are some, none is urgent yet */
        list_move_before(&lines->urgent, list);
        return;
    }
    struct delivery *behind = line->first;
    struct delivery *last = line->last;
    line->first = NULL;
    for (struct delivery *d = list->first; d; d = d->next)
        line_append(line, d);
    if (behind) {
        line->last->topic_next = behind;
        line->last = last;
    }
    list_move_before(&lines->ordinary, list);
}

struct delivery *lines_take(struct lines *lines, bool urgent)
{
    struct delivery_list *list = urgent ? &lines->urgent : &lines->ordinary;
    if (!list->first)
        return NULL;
    struct delivery *d = delivery_list_pop(list);
    if (!lines->mixed)
        return d;
    struct line *line = line_of(lines, d);
    if (urgent)
        line->urgent--;
    else
        line->first = d->topic_next; /* a topic's order is the list's */
    d->topic_next = NULL;
    line_drop(lines, line);
    return d;
}
