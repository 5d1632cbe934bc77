/* SPDX-License-Identifier: MIT */

/* Writing sheets. */

#include "ledger/sheet.h"

#include "base/map.h"
#include "ledger/sheet_format.h"

#include <string.h>

#define REASON_MOST 512 /* bytes of a text that others wrote */

void sheet_init(struct sheet *sheet)
{
    *sheet = (struct sheet){ 0 };
    buf_init(&sheet->out, SHEET_MOST);
    buf_init(&sheet->parts, SHEET_MOST);
}

void sheet_release(struct sheet *sheet)
{
    buf_release(&sheet->out);
    buf_release(&sheet->parts);
}

/* ---- Numbers and texts ---- */

static size_t encode(uint8_t bytes[10], uint64_t number)
{
    size_t n = 0;
    for (; number >= 0x80; number >>= 7)
        bytes[n++] = (uint8_t)(number | 0x80);
    bytes[n++] = (uint8_t)number;
    return n;
}

/* A difference of times, which may be negative. */
static uint64_t difference_of(int64_t a, int64_t b)
{
    uint64_t bits = (uint64_t)a - (uint64_t)b;
    return bits >> 63 ? ~bits << 1 | 1 : bits << 1;
}

/* Numbers one after the other, which are added at once. */
#define NUMBERS_MOST 12
static void put_numbers(struct buf *out, const uint64_t *numbers, size_t count)
{
    uint8_t bytes[NUMBERS_MOST * 10];
    size_t len = 0;
    for (size_t i = 0; i < count; i++)
        len += encode(bytes + len, numbers[i]);
    buf_add(out, bytes, len);
}

#define PUT(OUT, ...)                                     \
    put_numbers((OUT), (const uint64_t[]){ __VA_ARGS__ }, \
                sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

/* ---- Names ---- */

static bool is_name(const struct sheet *sheet, size_t at, const char *text, size_t len)
{
    return sheet->names[at].len == len &&
           memcmp(buf_str(&sheet->out) + sheet->names[at].offset, text, len) == 0;
}

/* The place of a name plus one, which is written when it is new; 0 for an empty one. */
static uint64_t name_of(struct sheet *sheet, const char *text, size_t len)
{
    if (len == 0)
        return 0;
    size_t at = map_hash(text, len) & (SHEET_NAMES - 1);
    while (sheet->names[at].len > 0 && !is_name(sheet, at, text, len))
        at = (at + 1) & (SHEET_NAMES - 1);
    if (sheet->names[at].len > 0)
        return sheet->names[at].place + 1u;

    PUT(&sheet->out, SHEET_TAG_NAME, len);
    uint32_t offset = (uint32_t)sheet->out.len, place = sheet->name_count++;
    if (buf_add(&sheet->out, text, len) == 0 && sheet->names_known < SHEET_NAMES / 2) {
        sheet->names[at].offset = offset;
        sheet->names[at].len = (uint32_t)len;
        sheet->names[at].place = place;
        sheet->names_known++;
    }
    return place + 1u;
}

static uint64_t name_of_string(struct sheet *sheet, const char *text)
{
    return text ? name_of(sheet, text, strnlen(text, REASON_MOST)) : 0;
}

/* ---- Ids ---- */

/* The value of hexadecimal digits written without leading zeros; 0 if that is not what they are. */
static uint64_t parse_hex(const char *text)
{
    uint64_t number = 0;
    size_t len = strlen(text);
    if (len == 0 || len > 16 || text[0] == '0')
        return 0;
    for (; *text; text++) {
        bool is_digit = *text >= '0' && *text <= '9';
        if (!is_digit && (*text < 'a' || *text > 'f'))
            return 0;
        number = number << 4 | (uint64_t)(is_digit ? *text - '0' : *text - 'a' + 10);
    }
    return number;
}

struct coded_id {
    uint64_t run, number;
};

static struct coded_id code_id(struct sheet *sheet, const char *id)
{
    const char *dash = strrchr(id, '-');
    uint64_t number = dash ? parse_hex(dash + 1) : 0;
    size_t len = number > 0 ? (size_t)(dash - id) : strlen(id);
    return (struct coded_id){ name_of(sheet, id, len), number };
}

/* ---- Sheets ---- */

void sheet_begin(struct sheet *sheet, int64_t now_ms)
{
    buf_clear(&sheet->out);
    buf_clear(&sheet->parts);
    if (sheet->names_known > 0)
        memset(sheet->names, 0, sizeof(sheet->names));
    sheet->names_known = 0;
    sheet->name_count = 0;
    sheet->base_ms = now_ms;
    buf_add_byte(&sheet->out, SHEET_VERSION);
    buf_add_fill(&sheet->out, '\0', 4);
    PUT(&sheet->out, now_ms > 0 ? (uint64_t)now_ms : 0);
}

bool sheet_finish(struct sheet *sheet)
{
    if (sheet->out.error)
        return false;
    size_t len = sheet->out.len - SHEET_HEAD;
    for (size_t i = 0; i < 4; i++)
        sheet->out.data[1 + i] = (char)(len >> 8 * i & 0xff);
    return true;
}

/* ---- Messages ---- */

void sheet_add_decision(struct sheet *sheet, const struct sheet_decision *d)
{
    uint64_t route = name_of_string(sheet, d->route);
    uint64_t reason = name_of_string(sheet, d->reason);
    uint64_t when = name_of_string(sheet, d->when);
    PUT(&sheet->parts, SHEET_DECISION, route, d->verdict, reason, when, d->missing);
}

void sheet_add_delivery(struct sheet *sheet, const struct delivery *delivery)
{
    uint64_t route = name_of_string(sheet, delivery->view.route);
    uint64_t service = name_of_string(sheet, delivery->target->service);
    uint64_t target = name_of_string(sheet, delivery->target->name);
    const struct coded_id id = code_id(sheet, delivery->id);
    PUT(&sheet->parts, SHEET_DELIVERY, route, service, target, id.run, id.number);
}

void sheet_add_no_target(struct sheet *sheet, const char *route, const char *name)
{
    uint64_t route_name = name_of_string(sheet, route);
    uint64_t target = name_of_string(sheet, name);
    PUT(&sheet->parts, SHEET_NO_TARGET, route_name, target);
}

void sheet_add_suppressed(struct sheet *sheet, const char *reason)
{
    uint64_t name = name_of_string(sheet, reason);
    PUT(&sheet->parts, SHEET_SUPPRESSED, name);
}

void sheet_drop_parts(struct sheet *sheet)
{
    buf_clear(&sheet->parts);
}

void sheet_add_message(struct sheet *sheet, const struct message *m, size_t routes)
{
    const uint64_t link = name_of_string(sheet, m->link);
    const unsigned flags =
        (m->qos & SHEET_QOS) | (m->retain ? SHEET_RETAIN : 0u) | (m->dup ? SHEET_DUP : 0u);
    const struct buf *parts = &sheet->parts;
    const uint64_t numbers[] = { difference_of(m->received_ms, sheet->base_ms),
                                 flags,
                                 link,
                                 m->payload_len,
                                 routes,
                                 m->topic_len };
    uint8_t head[NUMBERS_MOST * 10];
    size_t len = 0;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        len += encode(head + len, numbers[i]);
    PUT(&sheet->out, SHEET_TAG_MESSAGE, len + m->topic_len + parts->len);
    buf_add(&sheet->out, head, len);
    buf_add(&sheet->out, m->topic, m->topic_len);
    buf_add(&sheet->out, parts->data, parts->len);
    if (parts->error)
        sheet->out.error = parts->error;
    buf_clear(&sheet->parts);
}

/* ---- Events ---- */

/* What is in `parts` becomes an item. */
static void put_item(struct sheet *sheet, enum sheet_tag tag)
{
    struct buf *parts = &sheet->parts;
    PUT(&sheet->out, tag, parts->len);
    buf_add(&sheet->out, parts->data, parts->len);
    if (parts->error)
        sheet->out.error = parts->error;
    buf_clear(parts);
}

void sheet_add_event(struct sheet *sheet, const struct ledger_note *note, int64_t now_ms)
{
    const struct delivery *d = note->delivery;
    const struct coded_id id = code_id(sheet, d->id);
    uint64_t service = name_of_string(sheet, d->target->service);
    uint64_t target = name_of_string(sheet, d->target->name);
    uint64_t reason = name_of_string(sheet, note->reason);
    uint64_t moved_to = name_of_string(sheet, note->target);
    const size_t receipt_len = note->receipt ? strnlen(note->receipt, REASON_MOST) : 0;
    struct buf *parts = &sheet->parts;
    buf_clear(parts);
    PUT(parts, difference_of(now_ms, sheet->base_ms), note->event, id.run, id.number, d->number,
        note->attempt, service, target, reason, moved_to, receipt_len);
    buf_add(parts, note->receipt, receipt_len);
    put_item(sheet, SHEET_TAG_EVENT);
}

void sheet_add_run(struct sheet *sheet, bool ends, const char *run, int64_t now_ms)
{
    uint64_t name = name_of_string(sheet, run);
    buf_clear(&sheet->parts);
    PUT(&sheet->parts, difference_of(now_ms, sheet->base_ms), name);
    put_item(sheet, ends ? SHEET_TAG_END : SHEET_TAG_BEGIN);
}
