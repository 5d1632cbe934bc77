/* SPDX-License-Identifier: MIT */

#include "admin/health.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *health_word(enum health_level level)
{
    static const char *const words[] = { "ok", "warning", "critical", "stopped" };
    return words[level];
}

__attribute__((format(printf, 3, 4))) static void add(struct health *h, enum health_level level,
                                                      const char *format, ...)
{
    if (level > h->level)
        h->level = level;
    if (h->count < HEALTH_REASONS) {
        va_list args;
        va_start(args, format);
        vsnprintf(h->reasons[h->count], sizeof(h->reasons[0]), format, args);
        va_end(args);
    }
    h->count++;
}

/* Adds those targets that are of this level. */
static void judge_targets(struct health *h, const struct observation *seen, enum health_level level)
{
    for (size_t i = 0; i < seen->target_count; i++) {
        const struct target_stats *t = &seen->targets[i].stats;
        bool open = t->breaker != BREAKER_CLOSED;
        enum health_level is = open && t->waiting > 0                   ? HEALTH_CRITICAL
                               : open || (t->failing && t->waiting > 0) ? HEALTH_WARNING
                                                                        : HEALTH_OK;
        if (is == level)
            add(h, level, "target %s %s, deliveries that wait: %" PRIu64, seen->targets[i].name,
                open ? "does not work" : "fails", t->waiting);
    }
}

void health_judge(struct health *h, const struct observation *seen,
                  const struct conservation *conservation, int64_t since_ms)
{
    h->level = HEALTH_OK;
    h->count = 0;
    if (seen->store.in_trouble)
        add(h, HEALTH_CRITICAL,
            "the store cannot be written, so nothing is acknowledged: see the log, and whether "
            "there is room on the disk");
    if (conservation->is_broken)
        add(h, HEALTH_CRITICAL, "messages or deliveries are not accounted for: %.120s",
            conservation->why);
    for (size_t i = 0; i < seen->link_count; i++) {
        const struct link_stats *l = &seen->links[i].stats;
        if (!l->connected && (l->connects > 0 || since_ms >= HEALTH_CONNECT_MS))
            add(h, HEALTH_CRITICAL, "link %s is not connected", seen->links[i].name);
    }
    judge_targets(h, seen, HEALTH_CRITICAL);
    judge_targets(h, seen, HEALTH_WARNING);
    if (seen->dead_letters > 0)
        add(h, HEALTH_WARNING,
            "dead letters wait for a person: %" PRIu64 " (tocsin queue list --dead)",
            seen->dead_letters);
    if (seen->stray > 0)
        add(h, HEALTH_WARNING,
            "deliveries wait on disk for targets that are not configured: %" PRIu64
            " (put these back and reload, or end the daemon and tocsin queue drop --waiting)",
            seen->stray);
    if (seen->store.set_apart > 0)
        add(h, HEALTH_WARNING, "changes could not be kept on disk, see the log: %" PRIu64,
            seen->store.set_apart);
}

/* Reasons are the same if their words are, up to the numbers. */
static bool reason_differs(const char *a, const char *b)
{
    while (*a || *b) {
        while (*a >= '0' && *a <= '9')
            a++;
        while (*b >= '0' && *b <= '9')
            b++;
        if (*a != *b)
            return true;
        if (!*a)
            break;
        a++;
        b++;
    }
    return false;
}

bool health_differs(const struct health *a, const struct health *b)
{
    if (a->level != b->level || a->count != b->count)
        return true;
    for (size_t i = 0; i < a->count && i < HEALTH_REASONS; i++)
        if (reason_differs(a->reasons[i], b->reasons[i]))
            return true;
    return false;
}

void health_write(const struct health *h, struct buf *out)
{
    buf_add_str(out, health_word(h->level));
    for (size_t i = 0; i < h->count && i < HEALTH_REASONS; i++)
        buf_addf(out, "%s%s", i == 0 ? ": " : "; ", h->reasons[i]);
    if (h->count > HEALTH_REASONS)
        buf_addf(out, "; and %zu more", h->count - HEALTH_REASONS);
}
