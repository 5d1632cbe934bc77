/* SPDX-License-Identifier: MIT */

#include "ledger/tell.h"

#include "base/printable.h"
#include "router/engine.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

/* ---- Pieces ---- */

const char *ledger_event_word(enum ledger_event event)
{
    static const char *const words[LEDGER_EVENT_END] = {
        [LEDGER_SENT] = "sent",
        [LEDGER_RETRY] = "retry",
        [LEDGER_REJECTED] = "rejected",
        [LEDGER_GIVEN_UP] = "given up",
        [LEDGER_FORGOTTEN] = "forgotten",
        [LEDGER_DROPPED] = "dropped",
        [LEDGER_SUPPRESSED] = "suppressed",
        [LEDGER_MOVED] = "moved",
    };
    return event > 0 && event < LEDGER_EVENT_END ? words[event] : "?";
}

const char *book_state_word(enum book_state state)
{
    static const char *const words[] = {
        [BOOK_DONE] = "done",       [BOOK_WAITING] = "waiting", [BOOK_DEAD] = "dead",
        [BOOK_REVIVED] = "revived", [BOOK_GONE] = "gone",       [BOOK_IN_MEMORY] = "in memory",
        [BOOK_LOST] = "lost",
    };
    return words[state];
}

static void add_text(struct buf *out, struct book_text text)
{
    if (text.data)
        printable_add(out, text.data, text.len);
}

static void add_sheet_text(struct buf *out, struct sheet_text text)
{
    if (text.data)
        printable_add(out, text.data, text.len);
}

static void add_time(struct buf *out, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    char text[32] = "?";
    if (localtime_r(&seconds, &parts))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts);
    buf_addf(out, "%s.%03d", text, (int)(ms % 1000));
}

static void add_target(struct buf *out, const struct book_delivery *d)
{
    add_text(out, d->service);
    buf_add_byte(out, ':');
    add_text(out, d->target);
}

static const char *verdict_word(unsigned verdict)
{
    return verdict < VERDICT_COUNT ? verdict_text((enum verdict)verdict)
                                   : "decided something that this version does not know";
}

/* ---- Decisions ---- */

static void add_decision(const struct book_decision *d, struct buf *out)
{
    switch (d->kind) {
    case SHEET_SUPPRESSED:
        buf_add_str(out, "It was not routed: ");
        add_text(out, d->reason);
        buf_add_str(out, ".\n");
        return;
    case SHEET_NO_TARGET:
        buf_add_str(out, "  route \"");
        add_text(out, d->route);
        buf_add_str(out, "\": there is no target \"");
        add_text(out, d->target);
        buf_add_str(out, "\", so nothing went there: add it, or correct the route's targets\n");
        return;
    case SHEET_DECISION:
    case SHEET_DELIVERY:
        break;
    }
    buf_add_str(out, "  route \"");
    add_text(out, d->route);
    buf_add_str(out, "\": ");
    bool dispatched = d->verdict == VERDICT_DISPATCHED;
    buf_add_str(out, dispatched ? "made a notification" : verdict_word(d->verdict));
    if (d->when.len > 0) {
        buf_add_str(out, ": ");
        add_text(out, d->when);
    }
    if (d->reason.len > 0) {
        buf_add_str(out, dispatched ? ", though: " : ": ");
        add_text(out, d->reason);
    }
    if (d->missing > 0)
        buf_addf(out, ", with %" PRIu64 " field%s missing, left as written", d->missing,
                 d->missing == 1 ? "" : "s");
    buf_add_byte(out, '\n');
}

static void add_decisions(const struct book_entry *e, const char *others, struct buf *out)
{
    bool suppressed = book_entry_was_suppressed(e);
    if (e->decision_count == 0 && e->delivery_count == 0)
        buf_addf(out, "It matched none of the %" PRIu64 " route%s, so nothing was sent.\n",
                 e->routes, e->routes == 1 ? "" : "s");
    else if (e->decision_count > 0 && !suppressed)
        buf_addf(out, "Of %" PRIu64 " route%s, %s matched its topic:\n", e->routes,
                 e->routes == 1 ? "" : "s", e->decision_count == 1 ? "this one" : "these");
    for (size_t i = 0; i < e->decision_count; i++)
        add_decision(&e->decisions[i], out);
    buf_add_str(out, others);
    if (e->decision_count > 0 && e->delivery_count == 0 && !suppressed)
        buf_add_str(out, "So nothing was sent.\n");
}

/* ---- Deliveries ---- */

static bool is_same_failure(const struct book_event *a, const struct book_event *b)
{
    return a->event == LEDGER_RETRY && b->event == LEDGER_RETRY && a->reason.len == b->reason.len &&
           a->reason.data && b->reason.data &&
           memcmp(a->reason.data, b->reason.data, a->reason.len) == 0;
}

static void add_reason(struct buf *out, const struct book_event *e)
{
    if (e->reason.len == 0)
        return;
    buf_add_str(out, ": ");
    add_text(out, e->reason);
}

/* `now_at` is the target that it had gone on to; NULL: it had not. */
static void add_event(const struct book_event *e, const struct book_text *now_at, struct buf *out)
{
    buf_add_str(out, "    ");
    add_time(out, e->at_ms);
    buf_add_str(out, "  ");
    if (now_at) {
        add_text(out, *now_at);
        buf_add_str(out, ", ");
    }
    if (e->attempt > 0)
        buf_addf(out, "attempt %" PRIu64 ": ", e->attempt);
    switch (e->event) {
    case LEDGER_SENT:
        buf_add_str(out, "sent");
        if (e->receipt.len > 0) {
            buf_add_str(out, ", receipt ");
            add_text(out, e->receipt);
        }
        break;
    case LEDGER_RETRY:
        buf_add_str(out, "failed, to be tried again");
        break;
    case LEDGER_REJECTED:
        buf_add_str(out, "rejected by the service");
        break;
    case LEDGER_GIVEN_UP:
        buf_add_str(out, "given up after this one");
        break;
    case LEDGER_FORGOTTEN:
        buf_add_str(out, "let go, as its link brings the message again");
        break;
    case LEDGER_DROPPED:
        buf_add_str(out, "dropped");
        break;
    case LEDGER_SUPPRESSED:
        buf_add_str(out, "suppressed");
        break;
    case LEDGER_MOVED:
        buf_add_str(out, "moved on to ");
        add_text(out, e->moved_to);
        break;
    case LEDGER_EVENT_END:
        break;
    }
    add_reason(out, e);
    buf_add_byte(out, '\n');
}

/* Failures that are the same as the one before are told together. Returns how many events were told. */
static size_t add_events_like(const struct book_delivery *d, size_t at, struct buf *out)
{
    const struct book_event *first = &d->events[at];
    const struct book_text *now_at = NULL;
    for (size_t i = 0; i < at; i++)
        if (d->events[i].moved_to.len > 0)
            now_at = &d->events[i].moved_to;
    add_event(first, now_at, out);
    size_t end = at + 1;
    while (end < d->event_count && is_same_failure(first, &d->events[end]))
        end++;
    if (end - at == 2)
        add_event(&d->events[at + 1], now_at, out);
    if (end - at <= 2)
        return end - at;
    const struct book_event *last = &d->events[end - 1];
    buf_addf(out,
             "    ... attempts %" PRIu64 " to %" PRIu64 " failed the same way, the last of them ",
             d->events[at + 1].attempt, last->attempt);
    add_time(out, last->at_ms);
    buf_add_byte(out, '\n');
    return end - at;
}

/* Where it stands, and what to do about it. */
static void add_state(const struct book_delivery *d, struct buf *out)
{
    bool tried = d->attempts > 0 || d->event_count > 0;
    switch (d->state) {
    case BOOK_DONE:
        return; /* its last event has said it */
    case BOOK_WAITING:
        buf_addf(out, "    It waits on disk %s", tried ? "to be tried again" : "to be sent");
        if (d->due_ms > 0 && d->attempts > 0) {
            buf_add_str(out, ", not before ");
            add_time(out, d->due_ms);
        }
        buf_addf(out, "; `tocsin queue show %" PRIu64 "` shows all of it.\n", d->number);
        return;
    case BOOK_DEAD:
        buf_addf(out,
                 "    It is a dead letter: `tocsin queue retry %" PRIu64
                 "` has it tried again, `tocsin queue drop %" PRIu64
                 "` forgets it, `tocsin queue show %" PRIu64 "` shows all of it.\n",
                 d->number, d->number, d->number);
        return;
    case BOOK_REVIVED:
        buf_add_str(out, "    It was a dead letter, and a running daemon tries it again within a "
                         "second, else the next one does.\n");
        return;
    case BOOK_GONE:
        buf_add_str(out, "    It became a dead letter, which is not kept any more: somebody "
                         "dropped it, or there "
                         "were too many.\n");
        return;
    case BOOK_IN_MEMORY:
        buf_add_str(
            out, tried ? "    It is not done yet, and not on disk: the daemon has it in memory.\n"
                       : "    Nothing has happened to it yet that was noted; what happens is noted "
                         "within a "
                         "second.\n");
        return;
    case BOOK_LOST:
        buf_add_str(
            out,
            "    It is not on disk, and the daemon that had it in memory has ended: if it was of "
            "QoS 0 it is lost; else it was sent within the last second, or its link has brought "
            "the message again.\n");
        return;
    }
}

static void add_delivery(const struct book_delivery *d, struct buf *out)
{
    buf_add_str(out, "  To ");
    add_target(out, d);
    buf_add_str(out, " (route \"");
    add_text(out, d->route);
    buf_add_str(out, "\", id ");
    add_text(out, d->id);
    buf_add_str(out, "):\n");
    for (size_t i = 0; i < d->event_count;)
        i += add_events_like(d, i, out);
    add_state(d, out);
}

void tell_entry(const struct book_entry *e, const char *others, struct buf *out)
{
    buf_addf(out, "Message %" PRIu64 ", topic ", e->number);
    add_text(out, e->topic);
    buf_add_str(out, ", came ");
    add_time(out, e->at_ms);
    if (e->link.len > 0) {
        buf_add_str(out, " by link ");
        add_text(out, e->link);
    }
    buf_addf(out, " with QoS %u and %" PRIu64 " byte%s%s%s.\n", e->qos, e->size,
             e->size == 1 ? "" : "s", e->retain ? ", retained" : "",
             e->dup ? ", marked as sent before" : "");
    add_decisions(e, others, out);
    if (e->delivery_count > 0)
        buf_addf(out, "%zu deliver%s:\n", e->delivery_count, e->delivery_count == 1 ? "y" : "ies");
    for (size_t i = 0; i < e->delivery_count; i++)
        add_delivery(&e->deliveries[i], out);
}

/* ---- On one line ---- */

static void add_standing(const struct book_delivery *d, struct buf *out)
{
    const struct book_text *now = NULL; /* it may have gone from one target to others */
    for (size_t i = 0; i < d->event_count; i++)
        if (d->events[i].moved_to.len > 0)
            now = &d->events[i].moved_to;
    buf_add_str(out, "  ");
    if (now)
        add_text(out, *now);
    else
        add_target(out, d);
    buf_add_byte(out, ' ');
    const struct book_event *last = d->event_count > 0 ? &d->events[d->event_count - 1] : NULL;
    if (d->state == BOOK_DONE && last)
        buf_add_str(out, ledger_event_word(last->event));
    else if ((d->state == BOOK_WAITING || d->state == BOOK_IN_MEMORY) && last)
        buf_addf(out, "retrying (%" PRIu64 ")", last->attempt);
    else
        buf_add_str(out, book_state_word(d->state));
}

void tell_line(const struct book_entry *e, struct buf *out)
{
    buf_addf(out, "%8" PRIu64 "  ", e->number);
    add_time(out, e->at_ms);
    buf_add_str(out, "  ");
    add_text(out, e->link);
    buf_add_str(out, "  ");
    add_text(out, e->topic);
    buf_addf(out, "  %" PRIu64 " B", e->size);
    for (size_t i = 0; i < e->decision_count; i++) {
        const struct book_decision *d = &e->decisions[i];
        if (d->kind == SHEET_DECISION && d->verdict == VERDICT_DISPATCHED)
            continue;
        buf_add_str(out, "  ");
        if (d->kind == SHEET_SUPPRESSED) {
            buf_add_str(out, "not routed: ");
            add_text(out, d->reason);
            continue;
        }
        add_text(out, d->route);
        buf_add_str(out, ": ");
        if (d->kind == SHEET_NO_TARGET) {
            buf_add_str(out, "no target ");
            add_text(out, d->target);
        } else {
            buf_add_str(out, verdict_word(d->verdict));
        }
    }
    for (size_t i = 0; i < e->delivery_count; i++)
        add_standing(&e->deliveries[i], out);
    if (e->decision_count == 0 && e->delivery_count == 0)
        buf_add_str(out, "  no route");
    buf_add_byte(out, '\n');
}

void tell_event(const struct sheet_item *event, const char *id, uint64_t number, struct buf *out)
{
    if (number > 0)
        buf_addf(out, "%8" PRIu64 "  ", number);
    else
        buf_add_str(out, "       -  ");
    add_time(out, event->at_ms);
    buf_add_str(out, "  ");
    add_sheet_text(out, event->service);
    buf_add_byte(out, ':');
    add_sheet_text(out, event->target);
    buf_addf(out, "  %s", ledger_event_word(event->event));
    if (event->event == LEDGER_MOVED) {
        buf_add_str(out, " to ");
        add_sheet_text(out, event->moved_to);
    }
    if (event->attempt > 0)
        buf_addf(out, "  attempt %" PRIu64, event->attempt);
    buf_add_str(out, "  id ");
    printable_add(out, id, strlen(id));
    if (event->reason.len > 0) {
        buf_add_str(out, "  ");
        add_sheet_text(out, event->reason);
    }
    buf_add_byte(out, '\n');
}
