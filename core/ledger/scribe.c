/* SPDX-License-Identifier: MIT */

#include "ledger/scribe.h"

#include "base/clock.h"
#include "ledger/sheet.h"

#include <stdlib.h>

struct scribe {
    struct ledger *ledger;
    struct sheet sheet;
    size_t entries;
    bool begun;

    /* The message at hand. */
    bool matched; /* a route, whether it is kept or not */
    bool wanted;  /* there is a decision that is kept for itself */
};

struct scribe *scribe_new(struct ledger *ledger)
{
    struct scribe *scribe = ledger ? calloc(1, sizeof(*scribe)) : NULL;
    if (scribe) {
        scribe->ledger = ledger;
        sheet_init(&scribe->sheet);
    }
    return scribe;
}

void scribe_free(struct scribe *scribe)
{
    if (!scribe)
        return;
    sheet_release(&scribe->sheet);
    free(scribe);
}

static struct sheet *open_sheet(struct scribe *scribe)
{
    if (!scribe->begun)
        sheet_begin(&scribe->sheet, clock_wall_ms());
    scribe->begun = true;
    return &scribe->sheet;
}

void scribe_decided(struct scribe *scribe, const struct decision *d)
{
    if (!scribe || d->verdict == VERDICT_NO_MATCH)
        return;
    scribe->matched = true;
    enum ledger_keep keep = ledger_keeps(scribe->ledger, route_ledger(d->route));
    if (keep == LEDGER_KEEP_NONE ||
        (keep == LEDGER_KEEP_DELIVERIES && d->verdict != VERDICT_DISPATCHED))
        return;
    scribe->wanted |= keep == LEDGER_KEEP_ALL;
    sheet_add_decision(open_sheet(scribe),
                       &(struct sheet_decision){
                           .route = route_name(d->route),
                           .reason = d->reason,
                           .when = d->verdict == VERDICT_WHEN_FALSE ? route_when(d->route) : NULL,
                           .verdict = d->verdict,
                           .missing = d->missing,
                       });
}

void scribe_no_target(struct scribe *scribe, const struct route *route, const char *name)
{
    if (!scribe || ledger_keeps(scribe->ledger, route_ledger(route)) == LEDGER_KEEP_NONE)
        return;
    scribe->wanted = true;
    sheet_add_no_target(open_sheet(scribe), route_name(route), name);
}

void scribe_message(struct scribe *scribe, const struct message *message,
                    const struct delivery *first, size_t routes)
{
    if (!scribe)
        return;
    bool wanted = scribe->wanted || (!scribe->matched && ledger_wants_unmatched(scribe->ledger));
    for (const struct delivery *d = first; d; d = d->next) {
        if (ledger_keeps(scribe->ledger, d->ledger) == LEDGER_KEEP_NONE)
            continue;
        sheet_add_delivery(open_sheet(scribe), d);
        wanted = true;
    }
    if (wanted) {
        sheet_add_message(open_sheet(scribe), message, routes);
        scribe->entries++;
    } else if (scribe->begun) {
        sheet_drop_parts(&scribe->sheet);
    }
    scribe->matched = false;
    scribe->wanted = false;
    if (scribe->sheet.out.len >= SHEET_LARGE)
        scribe_flush(scribe);
}

void scribe_flush(struct scribe *scribe)
{
    if (!scribe)
        return;
    if (scribe->entries > 0)
        ledger_add(scribe->ledger, &scribe->sheet, scribe->entries, 0);
    scribe->entries = 0;
    scribe->begun = false;
}
