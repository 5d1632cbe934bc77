/* SPDX-License-Identifier: MIT */

#include "delivery/breaker.h"

#define MOST_PROBES 64 /* no time grows after so many */

const char *breaker_state_name(enum breaker_state state)
{
    static const char *const names[] = {
        [BREAKER_CLOSED] = "closed",
        [BREAKER_OPEN] = "open",
        [BREAKER_HALF_OPEN] = "half-open",
    };
    return names[state];
}

static void become(struct breaker *b, enum breaker_state state)
{
    b->news |= b->state != state;
    b->state = state;
}

static void become_open(struct breaker *b, const struct breaker_rules *rules, int64_t now_ms)
{
    double ms = (double)rules->open_ms;
    for (unsigned i = 0; i < b->probes && ms < (double)rules->max_ms; i++)
        ms *= rules->factor;
    b->open_ms = ms < (double)rules->max_ms ? (int64_t)ms : rules->max_ms;
    b->until_ms = now_ms + b->open_ms;
    become(b, BREAKER_OPEN);
}

size_t breaker_allows(const struct breaker *b, int64_t now_ms, size_t flying, size_t max)
{
    if (b->state == BREAKER_CLOSED)
        return max;
    bool is_over = b->state == BREAKER_OPEN && now_ms >= b->until_ms;
    return is_over && flying == 0 && max > 0 ? 1 : 0;
}

void breaker_go(struct breaker *b)
{
    if (b->state == BREAKER_OPEN)
        become(b, BREAKER_HALF_OPEN);
}

bool breaker_works(struct breaker *b)
{
    bool was_closed = b->state == BREAKER_CLOSED;
    become(b, BREAKER_CLOSED);
    b->failures = b->probes = 0;
    return !was_closed;
}

bool breaker_fails(struct breaker *b, const struct breaker_rules *rules, int64_t now_ms)
{
    if (b->state == BREAKER_HALF_OPEN) {
        if (b->probes < MOST_PROBES)
            b->probes++;
        become_open(b, rules, now_ms);
    } else if (b->state == BREAKER_CLOSED) {
        if (b->failures < UINT32_MAX)
            b->failures++;
        if (rules->failures > 0 && b->failures >= (uint64_t)rules->failures) {
            b->opened++;
            become_open(b, rules, now_ms);
        }
    }
    return b->state == BREAKER_OPEN;
}

void breaker_untried(struct breaker *b)
{
    if (b->state == BREAKER_HALF_OPEN)
        become(b, BREAKER_OPEN);
}
