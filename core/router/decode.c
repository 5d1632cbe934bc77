/* SPDX-License-Identifier: MIT */

#include "router/decode.h"

#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_MAX_BYTES 64 /* a longer payload is no number */

void decoder_begin(struct decoder *decoder, const struct message *message)
{
    *decoder = (struct decoder){ .doc = decoder->doc, .message = message };
}

static const char *payload_text(const struct decoder *decoder)
{
    return (const char *)decoder->message->payload;
}

static int read_json(struct decoder *d, struct value *value, struct buf *why)
{
    if (d->json == JSON_UNTRIED) {
        int rc = json_doc_parse(d->doc, payload_text(d), d->message->payload_len, &d->why, &d->at);
        if (rc == -ENOMEM)
            return rc;
        d->json = rc == 0 ? JSON_READ : JSON_BAD;
    }
    if (d->json == JSON_BAD) {
        buf_addf(why, "the payload is not JSON: %s at byte %zu", d->why ? d->why : "too large",
                 d->at);
        return -EINVAL;
    }
    *value = json_value(d->doc, 0);
    return 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A decimal number with blanks around it, and nothing else: no hex, no infinity. */
static bool read_number(const struct decoder *d, struct value *value)
{
    const char *text = payload_text(d), *end = text + d->message->payload_len;
    while (text < end && is_blank(*text))
        text++;
    while (end > text && is_blank(end[-1]))
        end--;
    size_t len = (size_t)(end - text);
    if (len == 0 || len > NUMBER_MAX_BYTES || strspn(text, "0123456789+-.eE") < len)
        return false;

    /* The payload has a NUL behind it, and a blank or that NUL ends the number. */
    char *stop;
    errno = 0;
    long long integer = strtoll(text, &stop, 10);
    if (stop == end && errno == 0) {
        *value = VALUE_OF_INT(integer);
        return true;
    }
    double number = strtod(text, &stop);
    *value = (struct value){ .type = VALUE_FLOAT, .u.number = number };
    return stop == end && isfinite(number);
}

static bool read_text(struct decoder *d, struct value *value)
{
    size_t len = d->message->payload_len;
    if (d->text == TEXT_UNTRIED)
        d->text = utf8_valid(payload_text(d), len) ? TEXT_VALID : TEXT_INVALID;
    *value = VALUE_OF_TEXT(payload_text(d), len);
    return d->text == TEXT_VALID;
}

/* A JSON object or array, a number, or text, whichever it is first; bytes that are none of these have no
 * decoded form. */
static int read_auto(struct decoder *d, struct value *value, struct buf *why)
{
    const char *text = payload_text(d);
    size_t len = d->message->payload_len, start = 0;
    while (start < len && is_blank(text[start]))
        start++;
    if (start < len && (text[start] == '{' || text[start] == '[')) {
        size_t mark = why->len;
        int rc = read_json(d, value, why);
        if (rc != -EINVAL)
            return rc;
        buf_cut(why, mark);
    }
    if (!read_number(d, value) && !read_text(d, value))
        *value = VALUE_NOTHING;
    return 0;
}

int decoder_value(struct decoder *decoder, enum decode how, struct value *value, struct buf *why)
{
    *value = VALUE_NOTHING;
    switch (how) {
    case DECODE_AUTO:
        return read_auto(decoder, value, why);
    case DECODE_JSON:
        return read_json(decoder, value, why);
    case DECODE_NUMBER:
        if (read_number(decoder, value))
            return 0;
        buf_add_str(why, "the payload is not a number");
        break;
    case DECODE_TEXT:
        if (read_text(decoder, value))
            return 0;
        buf_add_str(why, "the payload is not UTF-8 text");
        break;
    case DECODE_BINARY:
        return 0;
    }
    *value = VALUE_NOTHING;
    return -EINVAL;
}
