/* SPDX-License-Identifier: MIT */

#include "router/message.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Cuts a block of memory into pieces; with `at` NULL it only measures. */
struct cutter {
    char *at;
    size_t used;
};

static void *cut(struct cutter *cutter, size_t len, size_t align)
{
    cutter->used = (cutter->used + align - 1) / align * align;
    void *piece = cutter->at ? cutter->at + cutter->used : NULL;
    cutter->used += len;
    return piece;
}

/* A copy with a NUL behind it. */
static char *cut_copy(struct cutter *cutter, const void *data, size_t len)
{
    char *copy = cut(cutter, len + 1, 1);
    if (copy) {
        if (len > 0)
            memcpy(copy, data, len);
        copy[len] = '\0';
    }
    return copy;
}

static const char *cut_text(struct cutter *cutter, const char *text)
{
    return text ? cut_copy(cutter, text, strlen(text)) : NULL;
}

static const struct tocsin_properties *cut_properties(struct cutter *cutter,
                                                      const struct tocsin_properties *from)
{
    struct tocsin_properties *to = cut(cutter, sizeof(*to), _Alignof(struct tocsin_properties));
    struct tocsin_property *user =
        cut(cutter, from->user_count * sizeof(*user), _Alignof(struct tocsin_property));
    struct tocsin_properties copy = *from;
    copy.content_type = cut_text(cutter, from->content_type);
    copy.response_topic = cut_text(cutter, from->response_topic);
    if (from->correlation)
        copy.correlation =
            (const uint8_t *)cut_copy(cutter, from->correlation, from->correlation_len);
    copy.user = user;
    for (size_t i = 0; i < from->user_count; i++) {
        struct tocsin_property pair = { cut_text(cutter, from->user[i].name),
                                        cut_text(cutter, from->user[i].value) };
        if (user)
            user[i] = pair;
    }
    if (to)
        *to = copy;
    return to;
}

struct message *message_new(const char *topic, size_t topic_len, const void *payload,
                            size_t payload_len, const struct tocsin_properties *properties)
{
    assert(topic_len <= UINT32_MAX);

    /* The same cuts twice: to measure, then to fill. */
    struct cutter cutter = { .used = sizeof(struct message) };
    if (properties)
        cut_properties(&cutter, properties);
    size_t head = cutter.used;
    if (payload_len > SIZE_MAX - head - topic_len - 2)
        return NULL;
    struct message *m = malloc(head + topic_len + 1 + payload_len + 1);
    if (!m)
        return NULL;

    *m = (struct message){ .topic_len = (uint32_t)topic_len, .payload_len = payload_len };
    atomic_init(&m->refs, 1);
    atomic_init(&m->holds, 1);
    atomic_init(&m->refused, false);
    atomic_init(&m->followers, NULL);
    cutter = (struct cutter){ .at = (char *)m, .used = sizeof(struct message) };
    if (properties)
        m->properties = cut_properties(&cutter, properties);
    m->topic = cut_copy(&cutter, topic, topic_len);
    m->payload = (const uint8_t *)cut_copy(&cutter, payload, payload_len);
    return m;
}

struct message *message_ref(struct message *message)
{
    atomic_fetch_add_explicit(&message->refs, 1, memory_order_relaxed);
    return message;
}

void message_unref(struct message *message)
{
    if (message && atomic_fetch_sub_explicit(&message->refs, 1, memory_order_acq_rel) == 1)
        free(message);
}

uint64_t message_sender(const char *link, const void *client, size_t len)
{
    /* Without a seed, as it goes to disk; who makes another's hash gains nothing without the rest (delivery/seen.h). */
    uint64_t sender = XXH3_64bits(link, strlen(link));
    if (len > 0)
        sender = XXH3_64bits_withSeed(client, len, sender);
    return sender ? sender : 1;
}

/* ---- Followers ---- */

struct message_follower {
    struct message_follower *next;
    struct message *message; /* with a reference and a hold */
};

static struct message_follower nobody_more; /* in place of a list: the message has been taken */

int message_follow(struct message *message, struct message *follower)
{
    struct message_follower *f = malloc(sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->message = message_ref(follower);
    message_hold(follower);
    f->next = atomic_load(&message->followers);
    while (f->next != &nobody_more &&
           !atomic_compare_exchange_weak(&message->followers, &f->next, f))
        ;
    if (f->next != &nobody_more)
        return 0;
    message_release_hold(follower);
    message_unref(follower);
    free(f);
    return -EALREADY;
}

static void let_followers_go(struct message *message)
{
    const bool refused = atomic_load(&message->refused);
    struct message_follower *f = atomic_exchange(&message->followers, &nobody_more);
    while (f) {
        struct message_follower *next = f->next;
        if (refused)
            message_refuse(f->message);
        message_release_hold(f->message);
        message_unref(f->message);
        free(f);
        f = next;
    }
}

void message_hold(struct message *message)
{
    atomic_fetch_add_explicit(&message->holds, 1, memory_order_relaxed);
}

void message_release_hold(struct message *message)
{
    unsigned before = atomic_fetch_sub_explicit(&message->holds, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before > 1)
        return;
    let_followers_go(message);
    if (message->taken)
        message->taken(message, message->taken_context);
}

void message_refuse(struct message *message)
{
    atomic_store_explicit(&message->refused, true, memory_order_relaxed);
}

size_t message_size(const struct message *message)
{
    const char *end = (const char *)message->payload + message->payload_len + 1;
    return (size_t)(end - (const char *)message);
}
