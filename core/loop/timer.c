/* SPDX-License-Identifier: MIT */

/*
 * A tick is a number of 52 bits, nine digits to the base of 64. A timer lies at the level of the highest digit in
 * which its tick differs from `now`, in the slot of that digit. So all of a level ends before all of the next
 * higher one, slots lie in the order of their time, and none is behind `now`: the first slot of the lowest level
 * that is not empty comes next. When `now` gets to a slot above level 0, its timers move to lower levels.
 */

#include "loop/timer.h"

#include <assert.h>

#define DIGIT_BITS 6
#define TICK_MAX   ((1ull << 52) - 1)

_Static_assert(sizeof(struct timer) == 24, "many connections have one each");
_Static_assert(TIMER_LEVELS *DIGIT_BITS >= 52, "the levels hold all ticks");

struct place {
    unsigned level, slot;
};

static struct place place_of(uint64_t now, uint64_t due)
{
    uint64_t differ = now ^ due;
    unsigned level = differ == 0 ? 0 : (unsigned)(63 - __builtin_clzll(differ)) / DIGIT_BITS;
    return (struct place){ level, (unsigned)(due >> (level * DIGIT_BITS)) & 63 };
}

/* The slot that comes next, and the tick at which it does. */
static bool find_next(const struct timer_wheel *wheel, struct place *place, uint64_t *tick)
{
    for (unsigned level = 0; level < TIMER_LEVELS; level++) {
        if (wheel->occupied[level] == 0)
            continue;
        unsigned slot = (unsigned)__builtin_ctzll(wheel->occupied[level]);
        uint64_t above = ~0ull << ((level + 1) * DIGIT_BITS);
        *place = (struct place){ level, slot };
        *tick = (wheel->now & above) | (uint64_t)slot << (level * DIGIT_BITS);
        return true;
    }
    return false;
}

static void link_timer(struct timer_wheel *wheel, struct timer *timer)
{
    struct place place = place_of(wheel->now, timer->due);
    struct timer **head = &wheel->slots[place.level][place.slot];
    timer->next = *head;
    timer->link = head;
    if (*head)
        (*head)->link = &timer->next;
    *head = timer;
    wheel->occupied[place.level] |= 1ull << place.slot;
}

static void unlink_timer(struct timer_wheel *wheel, struct timer *timer)
{
    *timer->link = timer->next;
    if (timer->next)
        timer->next->link = timer->link;
    timer->link = NULL;

    struct place place = place_of(wheel->now, timer->due);
    if (!wheel->slots[place.level][place.slot])
        wheel->occupied[place.level] &= ~(1ull << place.slot);
}

void timer_wheel_init(struct timer_wheel *wheel, int64_t now_ms)
{
    assert(now_ms >= 0);
    *wheel = (struct timer_wheel){ .now = (uint64_t)now_ms / TIMER_TICK_MS };
}

uint8_t timer_wheel_kind(struct timer_wheel *wheel, timer_ended *ended)
{
    uint8_t kind = 0;
    while (wheel->ended[kind] && wheel->ended[kind] != ended) {
        kind++;
        assert(kind < TIMER_KINDS);
    }
    wheel->ended[kind] = ended;
    return kind;
}

void timer_start(struct timer_wheel *wheel, struct timer *timer, int64_t due_ms)
{
    assert(wheel->ended[timer->kind]);
    if (timer->link)
        unlink_timer(wheel, timer);

    /* Rounded up; that of `now` itself has ended already. */
    uint64_t due = due_ms > 0 ? ((uint64_t)due_ms + TIMER_TICK_MS - 1) / TIMER_TICK_MS : 0;
    if (due <= wheel->now)
        due = wheel->now + 1;
    if (due > TICK_MAX)
        due = TICK_MAX;
    timer->due = due & TICK_MAX;
    link_timer(wheel, timer);
}

void timer_stop(struct timer_wheel *wheel, struct timer *timer)
{
    if (timer->link)
        unlink_timer(wheel, timer);
}

int64_t timer_wheel_next(const struct timer_wheel *wheel)
{
    struct place place;
    uint64_t tick;
    return find_next(wheel, &place, &tick) ? (int64_t)(tick * TIMER_TICK_MS) : TIMER_NEVER;
}

static void end_timers(struct timer_wheel *wheel, unsigned slot)
{
    /* From the head each time: what is called may stop any of them. None is added: new ones end later. */
    for (struct timer *timer; (timer = wheel->slots[0][slot]) != NULL;) {
        unlink_timer(wheel, timer);
        wheel->ended[timer->kind](wheel, timer);
    }
}

static void move_down(struct timer_wheel *wheel, struct place place)
{
    struct timer *timer = wheel->slots[place.level][place.slot];
    wheel->slots[place.level][place.slot] = NULL;
    wheel->occupied[place.level] &= ~(1ull << place.slot);
    while (timer) {
        struct timer *next = timer->next;
        link_timer(wheel, timer);
        timer = next;
    }
}

void timer_wheel_advance(struct timer_wheel *wheel, int64_t now_ms)
{
    uint64_t now = now_ms > 0 ? (uint64_t)now_ms / TIMER_TICK_MS : 0;
    if (now <= wheel->now)
        return;

    struct place place;
    uint64_t tick;
    while (find_next(wheel, &place, &tick) && tick <= now) {
        wheel->now = tick;
        if (place.level == 0)
            end_timers(wheel, place.slot);
        else
            move_down(wheel, place);
    }
    wheel->now = now;
}
