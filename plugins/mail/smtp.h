/* SPDX-License-Identifier: MIT */

/*
 * SMTP: one connection to one server, by libcurl, and what the server made of a mail.
 *
 * Each mail is one transaction for one recipient, so an answer is always about exactly one recipient
 * (libcurl tells which one of several was refused to nobody). The connection, its TLS session and
 * its login are kept for the next one. One thread at a time.
 */

#ifndef MAIL_SMTP_H
#define MAIL_SMTP_H

#include "tocsin/plugin.h"

#include <stddef.h>
#include <stdint.h>

/* The options of the service. */
struct mail_service {
    const char *host;
    int64_t port;
    const char *tls;
    const char *ca;
    const char *cert;
    const char *key;
    struct tocsin_secret key_password;
    bool verify;
    const char *username;
    struct tocsin_secret password;
    struct tocsin_secret token;
    const char *auth;
    bool allow_plaintext_auth;
    const char *ehlo;
    const char *from;
    const char *envelope_from;
    struct tocsin_duration connect_timeout;
    struct tocsin_duration timeout;
    struct tocsin_duration retry_after;
    struct tocsin_duration park;
    struct tocsin_size max_size;
};

enum smtp_outcome {
    SMTP_TAKEN,          /* 250 after the final dot */
    SMTP_REFUSED,        /* 5xx for this recipient */
    SMTP_SENDER_REFUSED, /* 5xx before there was a recipient: it holds for all of them */
    SMTP_DEFERRED,       /* 4xx for this recipient */
    SMTP_BUSY,           /* 4xx that holds for all of them */
    SMTP_DENIED,         /* the server does not let us in: user name, password, token */
    SMTP_FAILED          /* no connection, no TLS, no answer: no use trying the next one now */
};

struct smtp_answer {
    enum smtp_outcome outcome;
    char text[128]; /* what the server said, or libcurl: printable ASCII */
};

struct smtp;

/* Returns 0 and sets `*out`; or -EINVAL (no URL can be made of host, port and ehlo) or -ENOMEM.
 * Connects to nothing. `service` must outlive it. */
int smtp_new(const struct mail_service *service, struct smtp **out);

/* Lets a server that is there know, and waits for nothing. NULL is allowed. */
void smtp_free(struct smtp *smtp);

/*
 * Sends `data`, a letter in `len` bytes with CR LF line ends, to one recipient, within `timeout_ms`.
 * `from` ("" is the empty return path) and `to` are bare addresses. A kept connection that turns out
 * to be dead, or of which the server has had enough (421), is replaced once, unless the server may
 * have taken the mail already.
 */
void smtp_send(struct smtp *smtp, const char *from, const char *to, const char *data, size_t len,
               int64_t timeout_ms, struct smtp_answer *answer);

#endif
