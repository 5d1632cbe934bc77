/* SPDX-License-Identifier: MIT */

/*
 * All integers are big-endian:
 *
 *      0  version 3 (2 bytes), padding (2)
 *      4  CRC-32 of the packet, with these four bytes zero
 *      8  the server's time
 *     12  return code (2)
 *     14  host name (64), service description (128), output (512 or 4096): NUL-terminated
 *         padding (2)
 */

#include "packet.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <zlib.h>

enum {
    HOST_AT = 14,
    SERVICE_AT = 78,
    OUTPUT_AT = 206,
    TAIL_LEN = 2,
};

/* The longest beginning of valid UTF-8 that has at most `max` bytes and ends between characters. */
static size_t cut(const char *text, size_t len, size_t max)
{
    if (len <= max)
        return len;
    while (max > 0 && ((unsigned char)text[max] & 0xC0) == 0x80)
        max--;
    return max;
}

/* Copies a name into a field of `size` bytes, cut to fit: ';' would shift what follows in the
 * server's command file, and a control character would end the name. */
static void put_name(uint8_t *into, size_t size, const char *name)
{
    size_t len = cut(name, strlen(name), size - 1);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];
        into[i] = c == ';' ? '_' : c < ' ' || c == 0x7F ? ' ' : c;
    }
    into[len] = '\0';
}

/* A text under construction in a fixed place; what does not fit is left out. */
struct line {
    char *text;
    size_t len;
    size_t max;
};

static void line_add(struct line *line, const char *text, size_t len, bool has_perfdata)
{
    len = cut(text, len, line->max - line->len);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < ' ' && c != '\n') || c == 0x7F)
            c = ' ';
        else if (c == '|' && has_perfdata)
            c = '/'; /* performance data begins at the first one */
        line->text[line->len++] = (char)c;
    }
}

/* One number as performance data: label=21.5, or 'my label'=21.5. Added whole or not at all. */
static void add_number(struct line *line, const char *label, size_t label_len,
                       const struct tocsin_field *field)
{
    const size_t most = label_len + field->len + 4; /* a blank, two quotes, '=' */
    if (label_len == 0 || most > line->max - line->len)
        return;
    bool quoted = false;
    for (size_t i = 0; i < label_len; i++)
        quoted = quoted || (unsigned char)label[i] <= ' ';

    char *at = line->text + line->len;
    if (line->len > 0)
        *at++ = ' ';
    if (quoted)
        *at++ = '\'';
    for (size_t i = 0; i < label_len; i++) {
        unsigned char c = (unsigned char)label[i];
        *at++ = c < ' ' || c == '=' || c == '\'' || c == '|' || c == 0x7F ? '_' : (char)c;
    }
    if (quoted)
        *at++ = '\'';
    *at++ = '=';
    memcpy(at, field->text, field->len);
    line->len = (size_t)(at - line->text) + field->len;
}

/* Writes the performance data of a delivery: its format, then its fields. */
static void add_perfdata(struct line *line, const struct tocsin_delivery *d)
{
    const struct nsca_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *text = tocsin_rendered(d, &target->perfdata);

    if (text) {
        size_t len = strcspn(text, "\n");
        if (len > line->max) {
            len = line->max; /* back to the end of a value */
            while (len > 0 && text[len] != ' ')
                len--;
        }
        line_add(line, text, len, true);
    }
    for (size_t i = 0; i < target->perfdata_fields.count; i++) {
        const char *item = target->perfdata_fields.items[i];
        const char *equals = strchr(item, '=');
        const char *name = equals ? equals + 1 : item;
        bool all = strcmp(item, "*") == 0;
        for (size_t f = 0; f < m->field_count; f++) {
            const struct tocsin_field *field = m->fields[f];
            if (field->type != TOCSIN_FIELD_NUMBER || (!all && strcmp(field->name, name) != 0))
                continue;
            const char *label = equals ? item : field->name;
            add_number(line, label, equals ? (size_t)(equals - item) : strlen(label), field);
        }
    }
}

/*
 * Writes the output, NUL-terminated: the first line of the text, '|' and the performance data, then
 * the other lines. Where not all has room, the other lines go first; then the first line is cut, of
 * which half the room is kept.
 */
static void put_output(char *into, size_t max, const struct tocsin_delivery *d)
{
    const struct nsca_target *target = d->target;
    const char *text = tocsin_rendered(d, &target->output);
    char data[PACKET_LEN];

    if (!text)
        text = d->message->text[0] ? d->message->text : d->message->title;
    text += strspn(text, " \t\r\n");
    size_t len = strlen(text);
    while (len > 0 && (unsigned char)text[len - 1] <= ' ')
        len--;
    const char *newline = memchr(text, '\n', len);
    size_t first_len = newline ? (size_t)(newline - text) : len;

    size_t kept = first_len < max / 2 ? first_len : max / 2;
    struct line perfdata = { .text = data, .max = max - kept - 1 };
    add_perfdata(&perfdata, d);
    bool has_perfdata = perfdata.len > 0;

    struct line line = { .text = into, .max = has_perfdata ? max - perfdata.len - 1 : max };
    line_add(&line, text, first_len, has_perfdata);
    line.max = max;
    if (has_perfdata) {
        line.text[line.len++] = '|';
        memcpy(line.text + line.len, perfdata.text, perfdata.len);
        line.len += perfdata.len;
    }
    if (newline)
        line_add(&line, newline, len - first_len, has_perfdata);
    line.text[line.len] = '\0';
}

/* The return code: the numbers of Nagios for a service, or for a host. */
static uint8_t state_of(const struct tocsin_delivery *d, bool of_host)
{
    static const struct {
        const char *word;
        uint8_t service, host;
    } words[] = {
        { "ok", 0, 0 },          { "warning", 1, 1 }, { "critical", 2, 1 }, { "unknown", 3, 2 },
        { "up", 0, 0 },          { "down", 2, 1 },    { "0", 0, 0 },        { "1", 1, 1 },
        { "unreachable", 3, 2 }, { "2", 2, 2 },       { "3", 3, 2 },
    };
    const struct nsca_target *target = d->target;
    const char *text = tocsin_rendered(d, &target->state);
    size_t row = (size_t)d->message->severity; /* its values are the first rows */

    if (text) {
        row = 0;
        while (row < sizeof(words) / sizeof(words[0]) && strcasecmp(words[row].word, text) != 0)
            row++;
    }
    if (row >= sizeof(words) / sizeof(words[0]))
        row = TOCSIN_UNKNOWN;
    return of_host ? words[row].host : words[row].service;
}

static void put_u32(uint8_t *into, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        into[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Fills what the texts leave free with '0' to 'z', as the reference client does: with XOR, and zeros, the
 * key would show. Returns 0 or a negative errno value. */
static int packet_noise(uint8_t *packet, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = getrandom(packet + done, len - done, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    for (size_t i = 0; i < len; i++)
        packet[i] = (uint8_t)('0' + packet[i] % ('z' - '0' + 1));
    return 0;
}

int packet_fill(uint8_t *packet, size_t len, const uint8_t time[4], const struct tocsin_delivery *d)
{
    const struct nsca_target *target = d->target;
    const char *service = tocsin_rendered(d, &target->check_service);
    bool of_host = !service || service[0] == '\0';
    int rc = packet_noise(packet, len);
    if (rc < 0)
        return rc;

    packet[0] = 0;
    packet[1] = 3; /* version of the protocol */
    put_u32(packet + 4, 0);
    memcpy(packet + 8, time, 4);
    packet[12] = 0;
    packet[13] = state_of(d, of_host);
    put_name(packet + HOST_AT, SERVICE_AT - HOST_AT, tocsin_rendered(d, &target->check_host));
    put_name(packet + SERVICE_AT, OUTPUT_AT - SERVICE_AT, of_host ? "" : service);
    put_output((char *)packet + OUTPUT_AT, len - OUTPUT_AT - TAIL_LEN - 1, d);
    put_u32(packet + 4, (uint32_t)crc32(0, packet, (uInt)len));
    return 0;
}
