/* SPDX-License-Identifier: MIT */

/* What the ledger is told of a batch that a plugin is done with. See service.h. */

#include "delivery/service.h"
#include "ledger/ledger.h"

#define NOTES_AT_ONCE 64

static enum ledger_event event_of(enum queue_fate fate)
{
    switch (fate) {
    case QUEUE_SENT:
        return LEDGER_SENT;
    case QUEUE_RETRYING:
        return LEDGER_RETRY;
    case QUEUE_REJECTED:
        return LEDGER_REJECTED;
    case QUEUE_GIVEN_UP:
        return LEDGER_GIVEN_UP;
    case QUEUE_FORGOTTEN:
        return LEDGER_FORGOTTEN;
    case QUEUE_MOVING:
        return LEDGER_MOVED;
    case QUEUE_UNTRIED:
        break;
    }
    return LEDGER_EVENT_END;
}

void service_note(const struct service *service, struct delivery *const *batch,
                  const struct tocsin_delivery *results, size_t n, const enum queue_fate *fates,
                  bool in_queue)
{
    struct ledger_note notes[NOTES_AT_ONCE];
    size_t count = 0;
    for (size_t i = 0; service->host->ledger && i < n; i++) {
        if (fates[i] == QUEUE_UNTRIED || (fates[i] >= QUEUE_RETRYING) != in_queue)
            continue;
        notes[count++] = (struct ledger_note){
            .event = event_of(fates[i]),
            .delivery = batch[i],
            .attempt = results[i].attempt,
            .reason = results[i].reason,
            .receipt = results[i].receipt,
            .target = fates[i] == QUEUE_MOVING ? batch[i]->fallback->address : NULL,
        };
        if (count == NOTES_AT_ONCE) {
            ledger_note(service->host->ledger, notes, count);
            count = 0;
        }
    }
    if (count > 0)
        ledger_note(service->host->ledger, notes, count);
}
