/* SPDX-License-Identifier: MIT */

/* The formats of `tocsin sub`. Main thread. */

#include "cli/sub_format.h"

#include "base/utf8.h"
#include "cli/sub_json.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NO_LIMIT SIZE_MAX

const char sub_format_help[] =
    "What -F prints of a message:\n"
    "\n"
    "  %t  topic                  %p  payload as it is\n"
    "  %q  QoS                    %x  payload in hexadecimal, %X with capitals\n"
    "  %r  retain flag, 0 or 1    %l  length of the payload in bytes\n"
    "  %m  packet identifier      %j  all as a JSON object, the payload a string\n"
    "  %%  a percent sign         %J  the same, the payload the JSON that it is\n"
    "  %I  date and time, 2026-11-22T14:05:09+0100\n"
    "  %U  seconds since 1970, with nanoseconds\n"
    "\n"
    "Of the properties of MQTT 5; nothing if it is not there:\n"
    "\n"
    "  %A  topic alias            %E  message expiry interval\n"
    "  %C  content type           %F  payload format indicator\n"
    "  %D  correlation data       %P  user properties, name:value name:value\n"
    "  %R  response topic         %S  subscription identifier\n"
    "\n"
    "Between % and the letter may stand - (left-aligned), 0 (filled with zeros),\n"
    "the least width, and for %t %C %R %I a dot and the greatest: %-20.20t\n"
    "\n"
    "@ and a letter is strftime's % and that letter: @H:@M:@S. @N are the\n"
    "nanoseconds, @@ is the character. \\n \\t \\r \\v \\a \\e \\0 \\\\ are the\n"
    "characters that they are in C; \\e is escape.";

/* "%-20.10t", taken apart. */
struct spec {
    bool left, zero;
    size_t width, most;
    char letter;
};

/* Reads a number; more digits than any width has are as good as too many. */
static const char *read_number(const char *at, size_t *number)
{
    *number = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        if (*number <= SUB_FORMAT_MAX_WIDTH)
            *number = *number * 10 + (size_t)(*at - '0');
    return at;
}

/* Reads what stands after '%', and returns the place after it. */
static const char *read_spec(const char *at, struct spec *spec)
{
    *spec = (struct spec){ .most = NO_LIMIT };
    for (; *at == '-' || *at == '0'; at++)
        if (*at == '-')
            spec->left = true;
        else
            spec->zero = true;
    at = read_number(at, &spec->width);
    if (*at == '.')
        at = read_number(at + 1, &spec->most);
    spec->letter = *at;
    return *at ? at + 1 : at;
}

static const char *spec_fault(const struct spec *spec)
{
    if (!spec->letter)
        return "ends in the middle of a sequence: write %% for a percent sign";
    if (!strchr("%ACDEFIJPRSUXjlmpqrtx", spec->letter))
        return "has a sequence that there is not: write %% for a percent sign";
    if (spec->width > SUB_FORMAT_MAX_WIDTH ||
        (spec->most != NO_LIMIT && spec->most > SUB_FORMAT_MAX_WIDTH))
        return "has a width of more than 10000";
    return NULL;
}

static bool escape(char letter, char *byte)
{
    static const char letters[] = "0aenrtv\\", bytes[] = "\0\a\033\n\r\t\v\\";
    const char *place = letter ? strchr(letters, letter) : NULL;
    if (place)
        *byte = bytes[place - letters];
    return place != NULL;
}

const char *sub_format_fault(const char *format, size_t *at)
{
    struct spec spec;
    char byte;
    for (const char *c = format; *c;) {
        const char *fault = NULL;
        *at = (size_t)(c - format);
        if (*c == '%') {
            c = read_spec(c + 1, &spec);
            fault = spec_fault(&spec);
        } else if (*c == '@') {
            fault = c[1] ? NULL : "ends in the middle of a sequence: write @@ for the character";
            c += 2;
        } else if (*c == '\\') {
            fault = escape(c[1], &byte) ? NULL : "has a \\ before a letter that means nothing then";
            c += 2;
        } else {
            c++;
        }
        if (fault)
            return fault;
    }
    return NULL;
}

/* ---- Values -------------------------------------------------------------------------------------- */

static void begin_field(const struct spec *spec, size_t width, char fill, struct buf *out)
{
    if (!spec->left && spec->width > width)
        buf_add_fill(out, fill, spec->width - width);
}

static void end_field(const struct spec *spec, size_t width, struct buf *out)
{
    if (spec->left && spec->width > width)
        buf_add_fill(out, ' ', spec->width - width);
}

static void add_number(const struct spec *spec, long value, struct buf *out)
{
    const int width = (int)spec->width;
    buf_addf(out, spec->left ? "%-*ld" : spec->zero ? "%0*ld" : "%*ld", width, value);
}

/* Takes `text`, which may be NULL. */
static void add_own_text(const struct spec *spec, char *text, struct buf *out)
{
    const char *shown = text ? text : "";
    size_t len = utf8_cut_chars(shown, strlen(shown), spec->most);
    size_t width = utf8_count(shown, len);
    begin_field(spec, width, ' ', out);
    buf_add(out, shown, len);
    end_field(spec, width, out);
    free(text);
}

static void add_text(const struct spec *spec, const char *text, struct buf *out)
{
    char *own = strdup(text);
    if (!own)
        out->error = -ENOMEM;
    add_own_text(spec, own, out);
}

static void add_payload(const struct spec *spec, const struct sub_message *m, struct buf *out)
{
    begin_field(spec, m->len, spec->zero ? '0' : ' ', out);
    buf_add(out, m->payload, m->len);
    end_field(spec, m->len, out);
}

static void add_hex(const struct spec *spec, const struct sub_message *m, struct buf *out)
{
    const char *digits = spec->letter == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    const unsigned char *bytes = m->payload;
    begin_field(spec, 2 * m->len, spec->zero ? '0' : ' ', out);
    char *hex = m->len > 0 ? buf_reserve(out, 2 * m->len) : NULL;
    for (size_t i = 0; hex && i < m->len; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    if (hex)
        buf_commit(out, 2 * m->len);
    end_field(spec, 2 * m->len, out);
}

static void add_time(const struct spec *spec, const char *format, const struct timespec *at,
                     struct buf *out)
{
    char text[200];
    struct tm local;
    if (localtime_r(&at->tv_sec, &local) && strftime(text, sizeof(text), format, &local) > 0)
        add_text(spec, text, out);
}

/* ---- Properties ---------------------------------------------------------------------------------- */

static void add_user_properties(const mosquitto_property *list, struct buf *out)
{
    char *name = NULL, *value = NULL;
    const char *between = "";
    const mosquitto_property *p =
        mosquitto_property_read_string_pair(list, MQTT_PROP_USER_PROPERTY, &name, &value, false);
    while (p) {
        buf_addf(out, "%s%s:%s", between, name ? name : "", value ? value : "");
        free(name);
        free(value);
        between = " ";
        p = mosquitto_property_read_string_pair(p, MQTT_PROP_USER_PROPERTY, &name, &value, true);
    }
}

static void add_correlation(const mosquitto_property *list, struct buf *out)
{
    void *data = NULL;
    uint16_t len = 0;
    if (mosquitto_property_read_binary(list, MQTT_PROP_CORRELATION_DATA, &data, &len, false) &&
        data)
        buf_add(out, data, len);
    free(data);
}

static void add_text_property(const struct spec *spec, const mosquitto_property *list, int id,
                              struct buf *out)
{
    char *text = NULL;
    mosquitto_property_read_string(list, id, &text, false);
    add_own_text(spec, text, out);
}

static void add_number_property(const struct spec *spec, const mosquitto_property *list,
                                struct buf *out)
{
    uint8_t byte = 0;
    uint16_t small = 0;
    uint32_t number = 0;
    const mosquitto_property *found = NULL;
    switch (spec->letter) {
    case 'A':
        found = mosquitto_property_read_int16(list, MQTT_PROP_TOPIC_ALIAS, &small, false);
        number = small;
        break;
    case 'E':
        found =
            mosquitto_property_read_int32(list, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL, &number, false);
        break;
    case 'F':
        found =
            mosquitto_property_read_byte(list, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR, &byte, false);
        number = byte;
        break;
    default:
        found =
            mosquitto_property_read_varint(list, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, &number, false);
    }
    if (found)
        add_number(spec, (long)number, out);
    else
        buf_add_fill(out, ' ', spec->width);
}

/* ---- The whole ----------------------------------------------------------------------------------- */

static int add_sequence(const struct spec *spec, const struct sub_message *m, bool pretty,
                        struct buf *out)
{
    switch (spec->letter) {
    case '%':
        return buf_add_byte(out, '%');
    case 'A':
    case 'E':
    case 'F':
    case 'S':
        add_number_property(spec, m->properties, out);
        break;
    case 'C':
        add_text_property(spec, m->properties, MQTT_PROP_CONTENT_TYPE, out);
        break;
    case 'D':
        add_correlation(m->properties, out);
        break;
    case 'I':
        add_time(spec, "%FT%T%z", &m->arrived, out);
        break;
    case 'J':
    case 'j':
        return sub_json_add(m, spec->letter == 'J', pretty, out);
    case 'l':
        add_number(spec, (long)m->len, out);
        break;
    case 'm':
        add_number(spec, m->mid, out);
        break;
    case 'P':
        add_user_properties(m->properties, out);
        break;
    case 'p':
        add_payload(spec, m, out);
        break;
    case 'q':
        buf_addf(out, "%d", m->qos);
        break;
    case 'R':
        add_text_property(spec, m->properties, MQTT_PROP_RESPONSE_TOPIC, out);
        break;
    case 'r':
        buf_addf(out, "%d", m->retain);
        break;
    case 't':
        add_text(spec, m->topic, out);
        break;
    case 'U':
        buf_addf(out, "%ld.%09ld", (long)m->arrived.tv_sec, m->arrived.tv_nsec);
        break;
    default:
        add_hex(spec, m, out);
    }
    return out->error;
}

static void add_time_sequence(char letter, const struct sub_message *m, struct buf *out)
{
    const struct spec plain = { .most = NO_LIMIT };
    const char format[] = { '%', letter, '\0' };
    if (letter == '@')
        buf_add_byte(out, '@');
    else if (letter == 'N')
        buf_addf(out, "%09ld", m->arrived.tv_nsec);
    else
        add_time(&plain, format, &m->arrived, out);
}

int sub_format_add(const char *format, const struct sub_message *m, bool pretty, struct buf *out)
{
    int rc = 0;
    while (*format && rc == 0) {
        struct spec spec;
        char byte = '\0';
        size_t plain = strcspn(format, "%@\\");
        buf_add(out, format, plain);
        format += plain;
        if (*format == '%') {
            format = read_spec(format + 1, &spec);
            rc = add_sequence(&spec, m, pretty, out);
        } else if (*format == '@') {
            add_time_sequence(format[1], m, out);
            format += 2;
        } else if (*format == '\\') {
            escape(format[1], &byte);
            buf_add_byte(out, byte);
            format += 2;
        }
    }
    return rc < 0 ? rc : out->error;
}
