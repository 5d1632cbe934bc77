/* SPDX-License-Identifier: MIT */

/* Open addressing in an array of identifiers, half full at most; 0 is a free place. The worker's thread. */

#include "broker/ids.h"

#include <errno.h>
#include <stdlib.h>

#define PLACES_FIRST 8

struct ids {
    uint32_t count;
    uint32_t mask;
    uint32_t away; /* how many are not at home: none, if a client counts up */
    uint16_t places[];
};

/* Neighbours stay neighbours: clients count up, and so the set is read in order. */
static uint32_t home(const struct ids *ids, uint16_t id)
{
    return id & ids->mask;
}

static struct ids *sized(uint32_t places)
{
    struct ids *ids = calloc(1, sizeof(*ids) + places * sizeof(ids->places[0]));
    if (ids)
        ids->mask = places - 1;
    return ids;
}

static uint32_t find(const struct ids *ids, uint16_t id)
{
    uint32_t at = home(ids, id);
    while (ids->places[at] != 0 && ids->places[at] != id)
        at = (at + 1) & ids->mask;
    return at;
}

/* Adds what is not in it yet; there is room. */
static void put(struct ids *ids, uint16_t id)
{
    const uint32_t at = find(ids, id);
    ids->places[at] = id;
    ids->count++;
    ids->away += at != home(ids, id);
}

static int grow(struct ids **ids)
{
    struct ids *old = *ids, *fresh = sized(old ? (old->mask + 1) * 2 : PLACES_FIRST);
    if (!fresh)
        return -ENOMEM;
    for (uint32_t i = 0; old && i <= old->mask; i++)
        if (old->places[i] != 0)
            put(fresh, old->places[i]);
    free(old);
    *ids = fresh;
    return 0;
}

int ids_add(struct ids **ids, uint16_t id)
{
    if (*ids && (*ids)->places[find(*ids, id)] == id)
        return 0;
    if ((!*ids || (*ids)->count * 2 > (*ids)->mask) && grow(ids) < 0)
        return -ENOMEM;
    put(*ids, id);
    return 1;
}

bool ids_remove(struct ids **set, uint16_t id)
{
    struct ids *ids = *set;
    if (!ids_have(ids, id))
        return false;
    if (--ids->count == 0) {
        free(ids);
        *set = NULL;
        return true;
    }
    /* Closes the gap: moves up what would not be found across it. Who is at home never is. */
    uint32_t gap = find(ids, id);
    ids->away -= gap != home(ids, id);
    for (uint32_t at = (gap + 1) & ids->mask; ids->away > 0 && ids->places[at] != 0;
         at = (at + 1) & ids->mask) {
        const uint32_t its_home = home(ids, ids->places[at]);
        if (((at - its_home) & ids->mask) >= ((at - gap) & ids->mask)) {
            ids->places[gap] = ids->places[at];
            ids->away -= gap == its_home;
            gap = at;
        }
    }
    ids->places[gap] = 0;
    return true;
}

bool ids_have(const struct ids *ids, uint16_t id)
{
    return ids && id != 0 && ids->places[find(ids, id)] == id;
}

uint32_t ids_count(const struct ids *ids)
{
    return ids ? ids->count : 0;
}

void ids_free(struct ids *ids)
{
    free(ids);
}
