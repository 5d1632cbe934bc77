/* SPDX-License-Identifier: MIT */

#include "admin/conservation.h"

#include <inttypes.h>
#include <stdio.h>

static uint64_t handed_on(const struct observation *o)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < o->link_count; i++)
        sum += o->links[i].stats.received;
    return sum;
}

static unsigned differ(struct buf *why, const char *left_name, uint64_t left,
                       const char *right_name, uint64_t right)
{
    if (left == right)
        return 0;
    buf_addf(why, "%s%s %" PRIu64 ", %s %" PRIu64, why->len > 0 ? "; " : "", left_name, left,
             right_name, right);
    return 1;
}

/* Those that hold at every moment. */
static unsigned compare_exact(const struct observation *o, struct buf *why)
{
    const struct routing_stats *r = &o->routing;
    unsigned wrong = differ(why, "messages received", r->received, "routed, refused and waiting",
                            r->engine.messages + r->refused + r->waiting);
    if (o->unbalanced.len > 0) {
        buf_addf(why, "%s%s", why->len > 0 ? "; " : "", buf_str(&o->unbalanced));
        wrong++;
    }
    return wrong;
}

/* Those that hold while nothing moves. */
static unsigned compare_still(const struct observation *o, struct buf *why)
{
    const struct routing_stats *r = &o->routing;
    unsigned wrong = differ(why, "messages handed on by links, and internal ones",
                            handed_on(o) + r->internal, "received", r->received);
    wrong +=
        differ(why, "deliveries made by routes", r->engine.deliveries, "created", o->sum.created);
    wrong +=
        differ(why, "deliveries handed over", o->sum.handed_over, "taken over", o->sum.taken_over);
    return wrong;
}

unsigned conservation_compare(const struct observation *seen, struct buf *why)
{
    return compare_exact(seen, why) + compare_still(seen, why);
}

bool conservation_is_still(const struct observation *before, const struct observation *after)
{
    return !before->incomplete && !after->incomplete && after->routing.waiting == 0 &&
           handed_on(before) == handed_on(after) &&
           before->routing.received == after->routing.received &&
           before->routing.internal == after->routing.internal &&
           before->routing.engine.deliveries == after->routing.engine.deliveries &&
           before->sum.created == after->sum.created &&
           before->sum.moved_in == after->sum.moved_in &&
           before->sum.moved_out == after->sum.moved_out &&
           before->sum.handed_over == after->sum.handed_over &&
           before->sum.taken_over == after->sum.taken_over;
}

bool conservation_look(struct conservation *c, const struct observation *before,
                       const struct observation *after)
{
    struct buf why = BUF_INIT(sizeof(c->why) - 1);
    bool still = conservation_is_still(before, after);
    unsigned wrong = compare_exact(after, &why);
    if (still)
        wrong += compare_still(after, &why);
    bool was_broken = c->is_broken;
    if (wrong > 0)
        c->suspicious++;
    else if (still) /* in motion, only what is exact has been looked at */
        c->suspicious = 0;
    if (c->suspicious >= CONSERVATION_LOOKS)
        c->is_broken = true;
    else if (c->suspicious == 0)
        c->is_broken = false;
    if (wrong > 0)
        snprintf(c->why, sizeof(c->why), "%s", buf_str(&why));
    buf_release(&why);
    return c->is_broken != was_broken;
}
