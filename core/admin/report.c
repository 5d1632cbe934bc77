/* SPDX-License-Identifier: MIT */

#include "admin/report.h"

#include "admin/counters.h"
#include "base/log.h"

#include <inttypes.h>

#define LINE_MAX_BYTES 1900

static void log_part(const char *kind, const char *name, const struct counter *table,
                     const void *stats, bool leave_out_zeros)
{
    struct buf line = BUF_INIT(LINE_MAX_BYTES);
    counters_write(table, stats, leave_out_zeros, &line);
    log_info("%s%s%s%s", kind, name[0] ? " " : "", name, buf_str(&line));
    buf_release(&line);
}

void observation_log(const struct observation *seen)
{
    log_part("router", "", counters_of_routing, &seen->routing, false);
    if (seen->has_store) {
        log_part("store", "", counters_of_store, &seen->store, false);
        log_part("ledger", "", counters_of_ledger, &seen->ledger, false);
        log_info("dead letters waiting=%" PRIu64, seen->dead_letters);
    }
    if (seen->has_broker)
        log_part("broker", "", counters_of_broker, &seen->broker, false);
    for (size_t i = 0; i < seen->link_count; i++)
        log_part("link", seen->links[i].name, counters_of_link, &seen->links[i].stats, false);
    for (size_t i = 0; i < seen->target_count; i++)
        log_part("target", seen->targets[i].name, counters_of_target, &seen->targets[i].stats,
                 true);
    log_part("targets", "in all, of earlier configurations too", counters_of_target, &seen->sum,
             true);
}
