/* SPDX-License-Identifier: MIT */

/*
 * The parameters of one request to the Pushover API, and what makes texts fit them: cutting by
 * characters, cutting HTML, encryption. All texts are valid UTF-8. Any thread.
 */

#ifndef PUSHOVER_FORM_H
#define PUSHOVER_FORM_H

#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORM_FIELDS     24
#define FORM_CIPHER_KEY 32 /* bytes */

/* Begin with all zero; what goes wrong while adding is kept in `error`, a negative errno value. */
struct form {
    struct form_field {
        const char *name; /* not copied */
        char *value;      /* owned */
        size_t len;
    } fields[FORM_FIELDS];
    size_t count;
    const char *cipher_key; /* 64 hexadecimal digits: texts are encrypted; NULL: they are not */
    int error;
};

void form_release(struct form *form);

void form_add(struct form *form, const char *name, const char *value);
void form_add_number(struct form *form, const char *name, int64_t number);
void form_add_list(struct form *form, const char *name, const struct tocsin_list *list);

/* Adds a text for people: encrypted if there is a key, and then never in the clear. What has more
 * than `max` characters is cut, and ends with an ellipsis. */
void form_add_text(struct form *form, const char *name, const char *text, size_t len, size_t max);

/* The same for HTML: no tag and no entity is cut in half, and what is open is closed. */
void form_add_html(struct form *form, const char *name, const char *text, size_t len, size_t max);

/* The form as application/x-www-form-urlencoded, `*len` bytes, for free(); NULL without memory. */
char *form_encode(const struct form *form, size_t *len);

/* Whether `text` is a key for encryption. */
bool form_is_cipher_key(const char *text);

/* The length in bytes of the first `max` characters. */
size_t form_prefix(const char *text, size_t len, size_t max);

/* Whether `text` is one to `max` letters, digits, '_' and '-'. */
bool form_is_name(const char *text, size_t max);

#endif
