/* SPDX-License-Identifier: MIT */

/*
 * Letters: mails as the bytes that go to the server, and the addresses in them. Any thread; no I/O.
 *
 * Nothing that comes from a message can end a header or a part early: control characters in header
 * texts become blanks before they are encoded (RFC 2047), bodies are quoted-printable or base64
 * (RFC 2045), and the boundaries contain "=_", which neither of these encodings can produce. The same
 * letter always gives the same bytes, so that a second attempt is the same mail.
 */

#ifndef MAIL_LETTER_H
#define MAIL_LETTER_H

#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that grow, up to a limit. The first error stays, so that many writes need one check. */
struct octets {
    char *data; /* not terminated */
    size_t len;
    size_t cap;
    size_t max;
    int error; /* 0, -E2BIG or -ENOMEM */
};

void octets_release(struct octets *octets);

/* "Display Name <local@domain>" or "local@domain", taken apart. The parts point into the text. */
struct mailbox {
    const char *name; /* without the quotes around it; `name_len` is 0 when there is none */
    size_t name_len;
    const char *address;
    size_t address_len;
    const char *domain; /* the address's, to its end */
    size_t domain_len;
};

/*
 * Takes a mailbox apart. Returns whether it is one: the address of ASCII letters, digits, '.' and
 * the other characters of RFC 5322 section 3.2.3, at most 254 bytes (RFC 5321 section 4.5.3.1), its
 * domain a name or an address literal; the name at most 200 bytes without control characters.
 */
bool mailbox_parse(const char *text, struct mailbox *out);

/* All that makes a letter. Texts are borrowed; NULL leaves out what is optional. */
struct letter {
    const char *from;       /* a mailbox */
    struct tocsin_list to;  /* mailboxes; none gives "undisclosed-recipients:;" */
    struct tocsin_list cc;  /* mailboxes */
    const char *reply_to;   /* a mailbox; optional */
    const char *subject;    /* any text */
    const char *id;         /* left side of the Message-ID: letters, digits and '-' */
    const char *thread;     /* optional: letters with equal ones are shown together */
    int64_t date_ms;        /* wall clock, ms since 1970 */
    int importance;         /* 1 high, 0 not said, -1 low */
    const char *text;       /* body as text; optional if there is html */
    size_t text_len;        /* bytes */
    const char *html;       /* body as HTML, a document or what goes into one; optional */
    const void *attachment; /* optional */
    size_t attachment_len;
    const char *attachment_type; /* media type */
    const char *attachment_name;
    bool attachment_shown; /* in the letter, as images are, rather than as a file */
};

/* Writes the letter, every line ended by CR LF. Errors are in `out->error`. */
void letter_write(const struct letter *letter, struct octets *out);

/* Whether all of it is UTF-8 without NUL: fit to be read as text. */
bool bytes_are_text(const void *bytes, size_t len);

/* What the first bytes tell: the media type of a PNG, JPEG, GIF or WebP image, else NULL. */
const char *image_type(const uint8_t *bytes, size_t len);

#endif
