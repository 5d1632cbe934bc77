/* SPDX-License-Identifier: MIT */

/* Reading sheets: whatever the bytes are, it ends, and stays within them. */

#include "ledger/sheet.h"

#include "ledger/sheet_format.h"

#include <stdlib.h>
#include <string.h>

/* ---- A cursor that remembers its first error ---- */

struct cursor {
    const uint8_t *at, *end;
    bool failed;
};

static uint64_t get(struct cursor *c)
{
    uint64_t number = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (c->at == c->end)
            break;
        uint8_t byte = *c->at++;
        if (shift == 63 && byte > 1)
            break;
        number |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return number;
    }
    c->failed = true;
    return 0;
}

static int64_t get_time(struct cursor *c, int64_t base_ms)
{
    uint64_t bits = get(c);
    uint64_t difference = bits & 1 ? ~(bits >> 1) : bits >> 1;
    return (int64_t)((uint64_t)base_ms + difference);
}

static struct sheet_text get_text(struct cursor *c)
{
    uint64_t len = get(c);
    if (c->failed || len > (uint64_t)(c->end - c->at)) {
        c->failed = true;
        return (struct sheet_text){ NULL, 0 };
    }
    struct sheet_text text = { (const char *)c->at, (size_t)len };
    c->at += len;
    return text;
}

static struct sheet_text get_name(struct cursor *c, const struct sheet_reader *reader)
{
    uint64_t place = get(c);
    if (place > reader->name_count)
        c->failed = true;
    if (c->failed || place == 0)
        return (struct sheet_text){ NULL, 0 };
    return reader->names[place - 1];
}

/* ---- Sheets ---- */

void sheet_reader_init(struct sheet_reader *reader, const void *data, size_t len)
{
    static const uint8_t nothing[1];
    const uint8_t *at = len > 0 ? data : nothing;
    *reader = (struct sheet_reader){ .at = at, .end = at + len, .sheet_end = at };
}

void sheet_reader_release(struct sheet_reader *reader)
{
    free(reader->names);
    *reader = (struct sheet_reader){ 0 };
}

/* Goes on to the next sheet; one of another version is passed over. */
static bool open_sheet(struct sheet_reader *reader)
{
    while (reader->end - reader->at > SHEET_HEAD) {
        const uint8_t *head = reader->at;
        size_t len =
            (size_t)head[1] | (size_t)head[2] << 8 | (size_t)head[3] << 16 | (size_t)head[4] << 24;
        if (len > (size_t)(reader->end - head) - SHEET_HEAD)
            break;
        reader->sheet_end = head + SHEET_HEAD + len;
        reader->name_count = 0;
        struct cursor c = { head + SHEET_HEAD, reader->sheet_end, false };
        reader->base_ms = (int64_t)(get(&c) & INT64_MAX);
        if (head[0] == SHEET_VERSION && !c.failed) {
            reader->at = c.at;
            return true;
        }
        reader->damaged = true;
        reader->at = reader->sheet_end;
    }
    reader->damaged |= reader->at != reader->end;
    reader->at = reader->sheet_end = reader->end;
    return false;
}

static bool remember_name(struct sheet_reader *reader, const uint8_t *data, size_t len)
{
    if (reader->name_count == reader->name_room) {
        size_t room = reader->name_room ? reader->name_room * 2 : 64;
        struct sheet_text *names = realloc(reader->names, room * sizeof(*names));
        if (!names)
            return false;
        reader->names = names;
        reader->name_room = room;
    }
    reader->names[reader->name_count++] = (struct sheet_text){ (const char *)data, len };
    return true;
}

static struct sheet_id get_id(struct cursor *c, const struct sheet_reader *reader)
{
    struct sheet_id id = { .run = get_name(c, reader) };
    id.number = get(c);
    return id;
}

static void read_message(struct cursor *c, const struct sheet_reader *reader,
                         struct sheet_item *item)
{
    item->kind = SHEET_MESSAGE;
    item->at_ms = get_time(c, reader->base_ms);
    uint64_t flags = get(c);
    item->qos = (uint8_t)(flags & SHEET_QOS);
    item->retain = flags & SHEET_RETAIN;
    item->dup = flags & SHEET_DUP;
    item->link = get_name(c, reader);
    item->size = get(c);
    item->routes = get(c);
    item->topic = get_text(c);
    item->parts = c->at;
    item->parts_end = c->end;
}

static void read_event(struct cursor *c, const struct sheet_reader *reader, struct sheet_item *item)
{
    item->kind = SHEET_EVENT;
    item->at_ms = get_time(c, reader->base_ms);
    uint64_t event = get(c);
    item->event = event > 0 && event < LEDGER_EVENT_END ? (enum ledger_event)event : 0;
    item->id = get_id(c, reader);
    item->number = get(c);
    item->attempt = get(c);
    item->service = get_name(c, reader);
    item->target = get_name(c, reader);
    item->reason = get_name(c, reader);
    item->moved_to = get_name(c, reader);
    item->receipt = get_text(c);
    if (item->event == 0)
        c->failed = true;
}

static void read_run(struct cursor *c, const struct sheet_reader *reader, struct sheet_item *item,
                     bool ends)
{
    item->kind = ends ? SHEET_END : SHEET_BEGIN;
    item->at_ms = get_time(c, reader->base_ms);
    item->id.run = get_name(c, reader);
}

bool sheet_next(struct sheet_reader *reader, struct sheet_item *item)
{
    for (;;) {
        if (reader->at == reader->sheet_end && !open_sheet(reader))
            return false;
        struct cursor sheet = { reader->at, reader->sheet_end, false };
        uint64_t tag = get(&sheet);
        struct sheet_text body = get_text(&sheet);
        if (sheet.failed) { /* the rest of this sheet cannot be told apart */
            reader->damaged |= reader->at != reader->sheet_end;
            reader->at = reader->sheet_end;
            continue;
        }
        reader->at = sheet.at;
        const uint8_t *data = (const uint8_t *)body.data;
        struct cursor c = { data, data + body.len, false };
        *item = (struct sheet_item){ 0 };
        switch (tag) {
        case SHEET_TAG_NAME:
            if (!remember_name(reader, data, body.len))
                return false;
            continue;
        case SHEET_TAG_MESSAGE:
            read_message(&c, reader, item);
            break;
        case SHEET_TAG_EVENT:
            read_event(&c, reader, item);
            break;
        case SHEET_TAG_BEGIN:
        case SHEET_TAG_END:
            read_run(&c, reader, item, tag == SHEET_TAG_END);
            break;
        default:
            continue;
        }
        if (!c.failed)
            return true;
        reader->damaged = true;
    }
}

bool sheet_next_part(struct sheet_reader *reader, struct sheet_item *item, struct sheet_part *part)
{
    if (item->kind != SHEET_MESSAGE || item->parts == item->parts_end)
        return false;
    struct cursor c = { item->parts, item->parts_end, false };
    *part = (struct sheet_part){ 0 };
    uint64_t kind = get(&c);
    switch (kind) {
    case SHEET_DECISION:
        part->route = get_name(&c, reader);
        part->verdict = (unsigned)(get(&c) & 0xffff);
        part->reason = get_name(&c, reader);
        part->when = get_name(&c, reader);
        part->missing = get(&c);
        break;
    case SHEET_DELIVERY:
        part->route = get_name(&c, reader);
        part->service = get_name(&c, reader);
        part->target = get_name(&c, reader);
        part->id = get_id(&c, reader);
        break;
    case SHEET_NO_TARGET:
        part->route = get_name(&c, reader);
        part->target = get_name(&c, reader);
        break;
    case SHEET_SUPPRESSED:
        part->reason = get_name(&c, reader);
        break;
    default: /* of a newer version: where it ends cannot be told */
        c.failed = true;
    }
    item->parts = c.failed ? item->parts_end : c.at;
    if (c.failed) {
        reader->damaged = true;
        return false;
    }
    part->kind = (enum sheet_part_kind)kind;
    return true;
}
