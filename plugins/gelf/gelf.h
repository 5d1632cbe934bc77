/* SPDX-License-Identifier: MIT */

/* What the files of this plugin share. All of it runs on the thread of the instance. */

#ifndef GELF_GELF_H
#define GELF_GELF_H

#include "tocsin/plugin.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

struct gelf_service {
    const char *transport;
    const char *host;
    int64_t port;
    const char *path;
    const char *compression;
    struct tocsin_size datagram;
    struct tocsin_size max_message;
    const char *ca;
    const char *cert;
    const char *key;
    bool verify;
    const char *username;
    struct tocsin_secret password;
    struct tocsin_duration connect_timeout;
    struct tocsin_duration timeout;
    struct tocsin_duration resend;
    struct tocsin_duration park;
};

struct gelf_target {
    struct tocsin_format source;
    struct tocsin_format short_message;
    const char *level;
    bool decoded;
    struct tocsin_formats fields;
    struct tocsin_list add;
    const char *separator;
    const char *booleans;
    struct tocsin_list as_text;
    struct tocsin_list as_number;
};

/* ---- Bytes that grow. What goes wrong while adding is kept in `failed`. ---- */

struct bytes {
    char *data;
    size_t len, room;
    bool failed;
};

void bytes_release(struct bytes *bytes);
void bytes_clear(struct bytes *bytes);
/* Makes room for `n` more bytes. Returns false if there is no memory for them. */
bool bytes_reserve(struct bytes *bytes, size_t n);
void bytes_add(struct bytes *bytes, const void *data, size_t n);

/* ---- record.c: a delivery as GELF ---- */

struct record_limits {
    size_t json; /* bytes of the whole record at most */
    size_t full; /* bytes of its full_message, as JSON, at most */
};

/*
 * Writes `d` as one JSON object to `out`, which is cleared first. Additional fields get half of
 * `limits->json` at most, and those for which there is no room are left out. A full_message over the
 * limits is cut, or left out if little of it would be left; `*full` is set to the bytes that it takes.
 * Returns 0, -EMSGSIZE if the rest alone is over the limit, or -ENOMEM.
 */
int record_write(struct bytes *out, const struct tocsin_delivery *d, const char *hostname,
                 const struct record_limits *limits, size_t *full);

/* NULL, or what is wrong with the options that record_write() goes by. */
const char *record_check(const struct gelf_target *target);

/* ---- datagram.c: UDP ---- */

struct datagram {
    int fd; /* -1 while not open */
    int64_t opened_ms;
    char message[160]; /* of the last failure */
};

/* Sends one message, in chunks if need be. Returns 0 or a negative errno value. */
int datagram_send(struct datagram *udp, const struct gelf_service *service, const void *data,
                  size_t len);
void datagram_close(struct datagram *udp);

/* The longest message that can be sent. */
size_t datagram_limit(const struct gelf_service *service);

/* ---- stream.c: TCP, with or without TLS ---- */

struct stream {
    CURL *curl; /* NULL while not connected */
    curl_socket_t fd;
    struct bytes last, older; /* what was written a moment ago, in case it gets lost */
    int64_t last_began_ms, written_ms;
    int64_t lost_ms; /* when the end of the connection was noticed to which that was written */
    char message[CURL_ERROR_SIZE]; /* of the last failure */
};

/*
 * Writes `len` bytes and waits until the other host has them. Returns true if it has; or false, with
 * the connection closed and `message` set, and then any part of them may have arrived.
 *
 * Nobody answers, so what a server had not worked on when it ended is lost without a sign: what was
 * written less than `service->resend` before the end of a connection was noticed is written again to
 * the next. It is noticed here, since nothing is called between two writes.
 */
bool stream_write(struct stream *stream, const struct gelf_service *service, const void *data,
                  size_t len);
void stream_release(struct stream *stream);

/* ---- For all ---- */

int64_t gelf_now_ms(void);
/* Sets what TLS and addresses need: `scheme` is "http", "https"; `path` begins with a slash. */
bool gelf_set_url(CURL *curl, const struct gelf_service *service, const char *scheme,
                  const char *path);

#endif
