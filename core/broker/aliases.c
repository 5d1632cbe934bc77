/* SPDX-License-Identifier: MIT */

/* The worker's thread. */

#include "broker/aliases.h"

#include "base/map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GIVEN_MAX 64 /* aliases given to one client */

struct topic {
    uint64_t hash;
    size_t len;
    char text[];
};

struct aliases {
    struct topic **learned; /* by alias less 1 */
    uint16_t learned_count;
    uint16_t given_count;
    struct topic *given[GIVEN_MAX]; /* the same */
};

static struct topic *topic_new(const char *text, size_t len)
{
    struct topic *topic = malloc(sizeof(*topic) + len);
    if (topic) {
        topic->hash = map_hash(text, len);
        topic->len = len;
        memcpy(topic->text, text, len);
    }
    return topic;
}

int aliases_learn(struct aliases **out, uint16_t alias, const char *text, size_t len)
{
    if (!*out && !(*out = calloc(1, sizeof(**out))))
        return -ENOMEM;
    struct aliases *aliases = *out;
    if (alias > aliases->learned_count) {
        struct topic **more = realloc(aliases->learned, alias * sizeof(struct topic *));
        if (!more)
            return -ENOMEM;
        memset(more + aliases->learned_count, 0,
               (size_t)(alias - aliases->learned_count) * sizeof(struct topic *));
        aliases->learned = more;
        aliases->learned_count = alias;
    }
    struct topic *topic = topic_new(text, len);
    if (!topic)
        return -ENOMEM;
    free(aliases->learned[alias - 1]);
    aliases->learned[alias - 1] = topic;
    return 0;
}

const char *aliases_topic(const struct aliases *aliases, uint16_t alias, size_t *len)
{
    if (!aliases || alias == 0 || alias > aliases->learned_count || !aliases->learned[alias - 1])
        return NULL;
    *len = aliases->learned[alias - 1]->len;
    return aliases->learned[alias - 1]->text;
}

uint16_t aliases_give(struct aliases **out, uint16_t maximum, const char *text, size_t len,
                      bool *known)
{
    if (!*out && !(*out = calloc(1, sizeof(**out))))
        return 0;
    struct aliases *aliases = *out;
    uint64_t hash = map_hash(text, len);
    for (uint16_t i = 0; i < aliases->given_count; i++) {
        const struct topic *topic = aliases->given[i];
        if (topic->hash == hash && topic->len == len && memcmp(topic->text, text, len) == 0) {
            *known = true;
            return (uint16_t)(i + 1);
        }
    }
    *known = false;
    if (aliases->given_count >= maximum || aliases->given_count >= GIVEN_MAX)
        return 0;
    struct topic *topic = topic_new(text, len);
    if (!topic)
        return 0;
    aliases->given[aliases->given_count++] = topic;
    return aliases->given_count;
}

void aliases_take_back(struct aliases *aliases, uint16_t alias)
{
    if (alias == aliases->given_count)
        free(aliases->given[--aliases->given_count]);
}

void aliases_free(struct aliases *aliases)
{
    if (!aliases)
        return;
    for (uint16_t i = 0; i < aliases->learned_count; i++)
        free(aliases->learned[i]);
    for (uint16_t i = 0; i < aliases->given_count; i++)
        free(aliases->given[i]);
    free(aliases->learned);
    free(aliases);
}
