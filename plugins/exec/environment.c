/* SPDX-License-Identifier: MIT */

/* Environments (environment.h). Any thread; no I/O. */

#include "environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 128
#define FIELDS_MAX     1000 /* later ones are left out */

static const char prefix[] = "TOCSIN_";

void environment_release(struct environment *environment)
{
    for (size_t i = 0; i < environment->count; i++)
        free(environment->items[i]);
    free(environment->items);
    *environment = (struct environment){ .items = NULL };
}

void environment_add(struct environment *environment, const char *name, const char *value,
                     size_t len)
{
    size_t name_len = strlen(name);
    size_t size = name_len + 1 + len + 1;

    if (environment->error || len > ENVIRONMENT_VALUE_MAX || (len > 0 && memchr(value, '\0', len)))
        return;
    if (size > ENVIRONMENT_MAX - environment->bytes) {
        environment->error = -E2BIG;
        return;
    }
    if (environment->count + 2 > environment->cap) {
        size_t cap = environment->cap ? environment->cap * 2 : 32;
        char **items = realloc(environment->items, cap * sizeof(*items));
        if (!items) {
            environment->error = -ENOMEM;
            return;
        }
        environment->items = items;
        environment->cap = cap;
    }
    char *item = malloc(size);
    if (!item) {
        environment->error = -ENOMEM;
        return;
    }
    memcpy(item, name, name_len);
    item[name_len] = '=';
    if (len > 0)
        memcpy(item + name_len + 1, value, len);
    item[size - 1] = '\0';
    environment->items[environment->count++] = item;
    environment->items[environment->count] = NULL;
    environment->bytes += size;
}

/* Whether there is a variable of this name from item `first` on. */
static bool has(const struct environment *environment, size_t first, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = first; i < environment->count; i++) {
        const char *item = environment->items[i];
        if (strncmp(item, name, len) == 0 && item[len] == '=')
            return true;
    }
    return false;
}

static void add_text(struct environment *environment, const char *name, const char *value)
{
    environment_add(environment, name, value, strlen(value));
}

/* "TOCSIN_" and the field's name in capitals, with '_' for what is neither a letter nor a digit.
 * Returns whether it fits. */
static bool field_name(const char *name, char out[NAME_MAX_BYTES])
{
    size_t len = strlen(name);
    if (sizeof(prefix) + len > NAME_MAX_BYTES)
        return false;
    memcpy(out, prefix, sizeof(prefix) - 1);
    char *to = out + sizeof(prefix) - 1;
    for (; *name; name++) {
        if (*name >= 'a' && *name <= 'z')
            *to++ = (char)(*name - 'a' + 'A');
        else
            *to++ = (*name >= 'A' && *name <= 'Z') || (*name >= '0' && *name <= '9') ? *name : '_';
    }
    *to = '\0';
    return true;
}

/* The fixed names, which no field may take, whether they are set or not. */
static bool is_fixed(const char *name)
{
    static const char *const names[] = { "TOPIC",    "PAYLOAD",  "TITLE",   "TEXT",
                                         "SEVERITY", "PRIORITY", "ROUTE",   "LINK",
                                         "TARGET",   "ID",       "ATTEMPT", "RECEIVED_MS" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name + sizeof(prefix) - 1, names[i]) == 0)
            return true;
    }
    return false;
}

/* Whether it is UTF-8 (RFC 3629), as far as that can be told from leading and following bytes. */
static bool is_utf8(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t more = p[i] < 0x80                    ? 0
                      : p[i] >= 0xc2 && p[i] <= 0xdf ? 1
                      : p[i] >= 0xe0 && p[i] <= 0xef ? 2
                      : p[i] >= 0xf0 && p[i] <= 0xf4 ? 3
                                                     : len;
        if (more >= len - i)
            return false;
        for (size_t k = 1; k <= more; k++) {
            if (p[i + k] < 0x80 || p[i + k] > 0xbf)
                return false;
        }
        i += more + 1;
    }
    return true;
}

void environment_add_delivery(struct environment *environment, const struct tocsin_delivery *d)
{
    static const char *const severities[] = { "ok", "warning", "critical", "unknown" };
    const struct tocsin_message *m = d->message;
    char number[24];
    size_t first = environment->count;

    add_text(environment, "TOCSIN_TOPIC", m->topic);
    if (is_utf8(m->payload, m->payload_len))
        environment_add(environment, "TOCSIN_PAYLOAD", (const char *)m->payload, m->payload_len);
    environment_add(environment, "TOCSIN_TEXT", m->text, m->text_len);
    add_text(environment, "TOCSIN_TITLE", m->title);
    add_text(environment, "TOCSIN_SEVERITY", m->has_severity ? severities[m->severity & 3] : "");
    snprintf(number, sizeof(number), "%d", m->priority);
    add_text(environment, "TOCSIN_PRIORITY", m->has_priority ? number : "");
    add_text(environment, "TOCSIN_ROUTE", m->route);
    add_text(environment, "TOCSIN_LINK", m->link);
    add_text(environment, "TOCSIN_TARGET", d->target_name);
    add_text(environment, "TOCSIN_ID", m->id);
    snprintf(number, sizeof(number), "%u", d->attempt);
    add_text(environment, "TOCSIN_ATTEMPT", number);
    snprintf(number, sizeof(number), "%lld", (long long)m->received_ms);
    add_text(environment, "TOCSIN_RECEIVED_MS", number);

    for (size_t i = 0; i < m->field_count && i < FIELDS_MAX && !environment->error; i++) {
        const struct tocsin_field *field = m->fields[i];
        char name[NAME_MAX_BYTES];
        if (field_name(field->name, name) && !is_fixed(name) && !has(environment, first, name))
            environment_add(environment, name, field->text, field->len);
    }
}
