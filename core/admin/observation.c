/* SPDX-License-Identifier: MIT */

#include "admin/observation.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more in an array of `count`, which grows by doubling. NULL when there is no memory. */
static void *grown(void *list, size_t count, size_t size)
{
    bool is_full = (count & (count - 1)) == 0; /* 0, 1, 2, 4, ... */
    return is_full ? reallocarray(list, count > 0 ? count * 2 : 1, size) : list;
}

void observation_add_link(struct observation *o, const char *name, const struct link_stats *stats)
{
    struct observed_link *list = grown(o->links, o->link_count, sizeof(*list));
    if (!list) {
        o->incomplete = true;
        return;
    }
    o->links = list;
    list[o->link_count++] = (struct observed_link){ name, *stats };
}

void observation_add_target(struct observation *o, const char *service, const char *target,
                            const struct target_stats *stats)
{
    struct observed_target *list = grown(o->targets, o->target_count, sizeof(*list));
    if (list)
        o->targets = list;
    struct buf name = BUF_INIT(65536);
    buf_addf(&name, "%s:%s", service, target);
    char *text = list ? buf_take(&name) : NULL;
    buf_release(&name);
    if (text)
        list[o->target_count++] = (struct observed_target){ text, *stats };
    else
        o->incomplete = true;
}

void observation_release(struct observation *o)
{
    for (size_t i = 0; i < o->target_count; i++)
        free(o->targets[i].name);
    free(o->targets);
    free(o->links);
    buf_release(&o->unbalanced);
}
