/* SPDX-License-Identifier: MIT */

#include "link/echo.h"

#include "base/map.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PLACES 4096 /* a power of two */

struct place {
    uint64_t hash; /* of topic and payload */
    int64_t sent_ms;
    int64_t window_ms; /* when the window of `count` began */
    int64_t count;
};

struct echo {
    pthread_mutex_t lock;
    int64_t limit, window_ms;
    atomic_bool used;
    struct place places[PLACES];
};

struct echo *echo_new(int64_t limit, int64_t window_ms)
{
    struct echo *echo = calloc(1, sizeof(*echo));
    if (!echo)
        return NULL;
    pthread_mutex_init(&echo->lock, NULL);
    echo->limit = limit;
    echo->window_ms = window_ms;
    atomic_init(&echo->used, false);
    return echo;
}

void echo_free(struct echo *echo)
{
    if (echo)
        pthread_mutex_destroy(&echo->lock);
    free(echo);
}

/* The hashes are seeded, so strangers cannot choose messages that are taken for ours. */
static uint64_t hash_of(const char *topic, const void *payload, size_t len)
{
    return map_hash(topic, strlen(topic)) * 31 + map_hash(payload, len);
}

static struct place *place_of(struct echo *echo, uint64_t hash)
{
    return &echo->places[hash & (PLACES - 1)];
}

void echo_note_sent(struct echo *echo, const char *topic, const void *payload, size_t len,
                    int64_t now_ms)
{
    uint64_t hash = hash_of(topic, payload, len);
    pthread_mutex_lock(&echo->lock);
    struct place *place = place_of(echo, hash);
    if (place->hash != hash || now_ms - place->window_ms >= echo->window_ms)
        *place = (struct place){ .hash = hash, .window_ms = now_ms };
    place->sent_ms = now_ms;
    atomic_store(&echo->used, true);
    pthread_mutex_unlock(&echo->lock);
}

bool echo_is_loop(struct echo *echo, const char *topic, const void *payload, size_t len,
                  int64_t now_ms)
{
    if (!atomic_load(&echo->used))
        return false;
    uint64_t hash = hash_of(topic, payload, len);
    pthread_mutex_lock(&echo->lock);
    struct place *place = place_of(echo, hash);
    bool loop = false;
    if (place->hash == hash && now_ms - place->sent_ms < echo->window_ms) {
        if (now_ms - place->window_ms >= echo->window_ms) {
            place->window_ms = now_ms;
            place->count = 0;
        }
        loop = ++place->count > echo->limit;
    }
    pthread_mutex_unlock(&echo->lock);
    return loop;
}
