/* SPDX-License-Identifier: MIT */

/*
 * gelf: log records for Graylog and others, in GELF 1.1 over UDP, TCP, TLS, HTTP or HTTPS.
 *
 * record.c makes the JSON, datagram.c and stream.c carry it; here are the options, compression, HTTP
 * and the verdicts. UDP tells nothing but that nobody listens. Over TCP a message counts as sent when
 * the other host has it; HTTP alone is answered. All of it runs on the thread of the instance.
 *
 * Libraries: libcurl zlib
 */

#include "gelf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH_MAX   64
#define CUTS_MAX    16
#define IGNORED_MAX 65536
#define WAIT_MAX_MS (INT64_C(24) * 3600 * 1000)

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct gelf_service, transport, .def = "udp", .choices = "udp|tcp|tls|http|https",
                  .help = "How records travel; http and https alone are acknowledged."),
    TOCSIN_OPTION(struct gelf_service, host, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "Name or address of the server."),
    TOCSIN_OPTION(struct gelf_service, port, .def = "12201", .min = 1, .max = 65535,
                  .help = "Port of the server's input."),
    TOCSIN_OPTION(struct gelf_service, path, .def = "/gelf", .help = "http: path of the input."),
    TOCSIN_OPTION(struct gelf_service, compression, .def = "none", .choices = "none|zlib|gzip",
                  .help = "How records are compressed; not with tcp and tls."),
    TOCSIN_OPTION(struct gelf_service, datagram, .def = "1420", .min = 256, .max = 8192,
                  .help =
                      "udp: longest datagram in bytes; longer records go in chunks, at most 128. "
                      "8192 suits a local network."),
    TOCSIN_OPTION(struct gelf_service, max_message, .def = "2MiB", .min = 1024, .max = 67108864,
                  .help = "Longest record that the server takes, in bytes of JSON; full_message is "
                          "cut to that."),
    TOCSIN_OPTION(struct gelf_service, ca,
                  .help = "tls, https: file of CA certificates to trust; unset: those of the "
                          "system."),
    TOCSIN_OPTION(struct gelf_service, cert,
                  .help = "tls, https: file with this client's certificate (PEM)."),
    TOCSIN_OPTION(struct gelf_service, key, .help = "tls, https: file with its private key (PEM)."),
    TOCSIN_OPTION(struct gelf_service, verify, .def = "true",
                  .help =
                      "tls, https: whether the server's certificate and its name must be right."),
    TOCSIN_OPTION(struct gelf_service, username, .help = "http: user name for Basic access."),
    TOCSIN_OPTION(struct gelf_service, password, .help = "http: password for Basic access."),
    TOCSIN_OPTION(struct gelf_service, connect_timeout, .def = "5s", .min = 10, .max = 300000,
                  .help = "Longest wait for a connection."),
    TOCSIN_OPTION(struct gelf_service, timeout, .def = "10s", .min = 10, .max = 600000,
                  .help = "Longest wait for one write, or one request and its answer."),
    TOCSIN_OPTION(struct gelf_service, resend, .def = "2s", .min = 0, .max = 60000,
                  .help =
                      "tcp, tls: what was written less than this before the record that finds its "
                      "connection ended is written again ahead of that; 0s: nothing is."),
    TOCSIN_OPTION(struct gelf_service, park, .def = "1m", .min = 1, .max = 86400000,
                  .help = "http: how long a target is held back after 401, 403 or 404."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct gelf_target, source, .flags = TOCSIN_CLEAN_LINE,
                  .help = "The record's host: what it is from, such as \"{device}\"; unset or "
                          "empty: the name of this host."),
    TOCSIN_OPTION(struct gelf_target, short_message, .flags = TOCSIN_CLEAN_LINE,
                  .help = "The record's short_message; unset: the title, or else the first line of "
                          "the text."),
    TOCSIN_OPTION(struct gelf_target, level, .def = "auto",
                  .choices = "auto|emergency|alert|critical|error|warning|notice|info|debug",
                  .help =
                      "The record's level; auto: by severity (critical, unknown: error, warning, "
                      "ok: info), or else info."),
    TOCSIN_OPTION(struct gelf_target, decoded, .def = "true",
                  .help = "Whether the decoded fields of the payload become additional fields."),
    TOCSIN_OPTION(struct gelf_target, fields,
                  .help = "More additional fields, each written \"name=text\"; the text may hold "
                          "fields."),
    TOCSIN_OPTION(struct gelf_target, add,
                  .help =
                      "What is added of the message: topic, route, link, severity, qos, retain, "
                      "message_id, none; unset: topic and route."),
    TOCSIN_OPTION(struct gelf_target, separator, .def = "_", .choices = "_|.",
                  .help = "What joins the names of nested fields."),
    TOCSIN_OPTION(struct gelf_target, booleans, .def = "text", .choices = "text|number",
                  .help = "Whether true is sent as \"true\" or as 1."),
    TOCSIN_OPTION(struct gelf_target, as_text,
                  .help = "Names of fields that are always sent as texts."),
    TOCSIN_OPTION(struct gelf_target, as_number,
                  .help = "Names of fields that are always sent as numbers, and left out when they "
                          "are none."),
    { .name = NULL },
};

enum transport {
    UDP,
    STREAM,
    HTTP
};

struct gelf {
    const struct tocsin_host *host;
    const struct gelf_service *service;
    enum transport transport;
    char hostname[256];
    struct bytes json, packed, frames;
    bool zipping; /* `zip` is initialised */
    z_stream zip;
    struct datagram udp;
    struct stream stream;
    CURL *curl;
    struct curl_slist *headers;
    size_t ignored; /* bytes of the answer's body */
    char message[CURL_ERROR_SIZE];
};

int64_t gelf_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool gelf_set_url(CURL *curl, const struct gelf_service *service, const char *scheme,
                  const char *path)
{
    const bool is_v6 = strchr(service->host, ':') != NULL;
    const size_t room = strlen(service->host) + strlen(path) + 64;
    char *url = malloc(room);
    if (!url)
        return false;
    snprintf(url, room, "%s://%s%s%s:%lld%s", scheme, is_v6 ? "[" : "", service->host,
             is_v6 ? "]" : "", (long long)service->port, path);
    const CURLcode rc = curl_easy_setopt(curl, CURLOPT_URL, url);
    free(url);
    if (rc != CURLE_OK)
        return false;

    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)service->connect_timeout.ms);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, service->verify ? 1L : 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, service->verify ? 2L : 0L);
    if (service->ca)
        curl_easy_setopt(curl, CURLOPT_CAINFO, service->ca);
    if (service->cert)
        curl_easy_setopt(curl, CURLOPT_SSLCERT, service->cert);
    if (service->key)
        curl_easy_setopt(curl, CURLOPT_SSLKEY, service->key);
    return true;
}

/* ---- Making what is sent ----------------------------------------------------------------------- */

static int compress_record(struct gelf *self)
{
    z_stream *zip = &self->zip;
    bytes_clear(&self->packed);
    if (deflateReset(zip) != Z_OK ||
        !bytes_reserve(&self->packed, deflateBound(zip, (uLong)self->json.len)))
        return -ENOMEM;
    zip->next_in = (z_const Bytef *)self->json.data;
    zip->avail_in = (uInt)self->json.len;
    zip->next_out = (Bytef *)self->packed.data;
    zip->avail_out = (uInt)self->packed.room;
    if (deflate(zip, Z_FINISH) != Z_STREAM_END)
        return -EIO;
    self->packed.len = zip->total_out;
    return 0;
}

/* Makes the record, compressed if it has to be, and sets `*out` to it. Returns 0, -EMSGSIZE or -ENOMEM. */
static int make_record(struct gelf *self, const struct tocsin_delivery *d, const struct bytes **out)
{
    const size_t json_max = (size_t)self->service->max_message.bytes;
    const size_t sent_max = self->transport == UDP ? datagram_limit(self->service) : json_max;
    struct record_limits limits = { .json = json_max, .full = SIZE_MAX };
    if (!self->zipping && sent_max < json_max)
        limits.json = sent_max;

    *out = self->zipping ? &self->packed : &self->json;
    for (int i = 0; i < CUTS_MAX; i++) {
        size_t full = 0;
        int rc = record_write(&self->json, d, self->hostname, &limits, &full);
        if (rc == 0 && self->zipping)
            rc = compress_record(self);
        if (rc < 0 || (*out)->len <= sent_max)
            return rc;
        /* Only compressed records get here: how much has to go is known by trying. */
        const size_t times = (*out)->len / sent_max;
        limits.full = times > 1 ? full / times : full / 10 * 9;
        if (full == 0)
            limits.json = self->json.len / 10 * 9;
    }
    return -EMSGSIZE;
}

/* The same, with the verdict set if there is no record. */
static const struct bytes *make_or_fail(struct gelf *self, struct tocsin_delivery *d)
{
    const struct bytes *record = NULL;
    const int rc = make_record(self, d, &record);
    if (rc == 0)
        return record;
    if (rc == -EMSGSIZE)
        self->host->fail(d, TOCSIN_REJECT, 0, "the record is too long, even without full_message");
    else
        self->host->fail(d, TOCSIN_RETRY, rc, "cannot make the record");
    return NULL;
}

/* ---- Sending ----------------------------------------------------------------------------------- */

static void udp_send(struct gelf *self, struct tocsin_delivery *const *deliveries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct tocsin_delivery *d = deliveries[i];
        const struct bytes *record = make_or_fail(self, d);
        if (!record && d->verdict == TOCSIN_REJECT)
            continue;
        if (!record)
            return;
        const int rc = datagram_send(&self->udp, self->service, record->data, record->len);
        if (rc < 0) {
            self->host->fail(d, TOCSIN_RETRY, self->udp.message[0] ? 0 : rc, "%s",
                             self->udp.message[0] ? self->udp.message : "udp");
            return;
        }
        d->verdict = TOCSIN_SENT;
    }
}

/* Adds as many frames as one write should have, from `deliveries[*at]` on. Each ends with a NUL, which
 * JSON never holds. Returns false if memory is short: then nothing after `*at` goes. */
static bool fill_frames(struct gelf *self, struct tocsin_delivery *const *deliveries, size_t n,
                        size_t *at)
{
    bytes_clear(&self->frames);
    while (*at < n && self->frames.len <= (size_t)self->service->max_message.bytes) {
        struct tocsin_delivery *d = deliveries[*at];
        const struct bytes *record = make_or_fail(self, d);
        if (record && !bytes_reserve(&self->frames, record->len + 1)) {
            self->frames.failed = false;
            self->host->fail(d, TOCSIN_RETRY, -ENOMEM, "cannot make the record");
            return false;
        }
        if (!record && d->verdict == TOCSIN_RETRY)
            return false;
        if (record) {
            bytes_add(&self->frames, record->data, record->len);
            bytes_add(&self->frames, "", 1);
        }
        (*at)++;
    }
    return true;
}

/* As few writes as possible for the batch. */
static void stream_send(struct gelf *self, struct tocsin_delivery *const *deliveries, size_t n)
{
    /* As with http: what a slow server makes too late keeps its preset, and comes with the next batch. */
    const int64_t end_ms = gelf_now_ms() + self->service->timeout.ms;
    bool go_on = true;
    for (size_t at = 0; at < n && go_on;) {
        const size_t first = at;
        go_on = fill_frames(self, deliveries, n, &at);
        const bool sent =
            self->frames.len == 0 ||
            stream_write(&self->stream, self->service, self->frames.data, self->frames.len);
        bool blamed = false; /* a delivery with a reason counts as tried: one is enough */
        for (size_t i = first; i < at; i++) {
            if (deliveries[i]->verdict == TOCSIN_REJECT)
                continue;
            if (sent)
                deliveries[i]->verdict = TOCSIN_SENT;
            else if (!blamed)
                self->host->fail(deliveries[i], TOCSIN_RETRY, 0, "%s", self->stream.message);
            blamed = true;
        }
        go_on = go_on && sent && gelf_now_ms() < end_ms;
    }
}

/* The status says it all; a body without end is not waited for. */
static size_t ignore_body(char *data, size_t size, size_t n, void *ctx)
{
    struct gelf *self = ctx;
    (void)data;
    self->ignored += size * n;
    return self->ignored > IGNORED_MAX ? 0 : size * n;
}

static void http_judge(struct gelf *self, struct tocsin_delivery *d, CURLcode rc)
{
    long status = 0;
    curl_off_t told = 0;
    curl_easy_getinfo(self->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 408 || status == 429 || status >= 500) {
        if (curl_easy_getinfo(self->curl, CURLINFO_RETRY_AFTER, &told) == CURLE_OK && told > 0)
            d->retry_after_ms = told < WAIT_MAX_MS / 1000 ? told * 1000 : WAIT_MAX_MS;
        d->park_ms = d->retry_after_ms;
        self->host->fail(d, TOCSIN_RETRY, 0, "HTTP status %ld", status);
    } else if (status >= 400) {
        if (status == 401 || status == 403 || status == 404)
            d->park_ms = self->service->park.ms;
        self->host->fail(d, TOCSIN_REJECT, 0, "HTTP status %ld", status);
    } else if (status >= 300) {
        self->host->fail(d, TOCSIN_RETRY, 0, "HTTP status %ld: redirections are not followed",
                         status);
    } else if (status >= 200) {
        d->verdict = TOCSIN_SENT;
    } else {
        self->host->fail(d, TOCSIN_RETRY, 0, "no answer: %s",
                         self->message[0] ? self->message : curl_easy_strerror(rc));
    }
}

static void http_send(struct gelf *self, struct tocsin_delivery *const *deliveries, size_t n)
{
    /* A batch of slow answers must not add up: what is not begun in time is preset to be retried. */
    const int64_t end_ms = gelf_now_ms() + self->service->timeout.ms;
    for (size_t i = 0; i < n && (i == 0 || gelf_now_ms() < end_ms); i++) {
        struct tocsin_delivery *d = deliveries[i];
        const struct bytes *record = make_or_fail(self, d);
        if (record) {
            self->message[0] = '\0';
            self->ignored = 0;
            curl_easy_setopt(self->curl, CURLOPT_POSTFIELDS, record->data);
            curl_easy_setopt(self->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)record->len);
            http_judge(self, d, curl_easy_perform(self->curl));
        }
        if (d->verdict == TOCSIN_RETRY)
            return;
    }
}

static void gelf_send(void *ctx, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct gelf *self = ctx;
    switch (self->transport) {
    case UDP:
        udp_send(self, deliveries, n);
        break;
    case STREAM:
        stream_send(self, deliveries, n);
        break;
    case HTTP:
        http_send(self, deliveries, n);
        break;
    }
}

/* ---- Configuration, life ----------------------------------------------------------------------- */

static enum transport transport_of(const struct gelf_service *service)
{
    if (strcmp(service->transport, "udp") == 0)
        return UDP;
    return strncmp(service->transport, "http", 4) == 0 ? HTTP : STREAM;
}

static const char *gelf_check(const void *ctx)
{
    const struct gelf_service *service = ctx;
    if (transport_of(service) == STREAM && strcmp(service->compression, "none") != 0)
        return "compression: leave it out, GELF over TCP has none";
    if (service->host[0] == '\0' || strpbrk(service->host, "/@?# \t\r\n"))
        return "host: give a name or an address, and nothing else";
    if (service->path[0] != '/')
        return "path: begin it with a slash";
    if (!service->cert != !service->key)
        return "cert: goes with key, and key with cert";
    if (!service->username != !service->password.text)
        return "username: goes with password, and password with username";
    return NULL;
}

static const char *gelf_check_target(const void *service, const void *ctx)
{
    (void)service;
    return record_check(ctx);
}

static unsigned gelf_wants(const void *service, const void *ctx)
{
    const struct gelf_target *target = ctx;
    (void)service;
    return target->decoded ? TOCSIN_WANTS_FIELDS : 0;
}

static void gelf_close(void *ctx)
{
    struct gelf *self = ctx;
    datagram_close(&self->udp);
    stream_release(&self->stream);
    curl_easy_cleanup(self->curl);
    curl_slist_free_all(self->headers);
    if (self->zipping)
        deflateEnd(&self->zip);
    bytes_release(&self->json);
    bytes_release(&self->packed);
    bytes_release(&self->frames);
    free(self);
    curl_global_cleanup();
}

static bool http_open(struct gelf *self)
{
    const struct gelf_service *service = self->service;
    static const char *const lines[] = { "Content-Type: application/json", "Expect:" };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]) + (self->zipping ? 1 : 0); i++) {
        const char *line = i < 2 ? lines[i]
                           : strcmp(service->compression, "gzip") == 0
                               ? "Content-Encoding: gzip"
                               : "Content-Encoding: deflate";
        struct curl_slist *headers = curl_slist_append(self->headers, line);
        if (!headers)
            return false;
        self->headers = headers;
    }
    self->curl = curl_easy_init();
    if (!self->curl || !gelf_set_url(self->curl, service, service->transport, service->path))
        return false;
    CURL *curl = self->curl;
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, self->message);
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, self->headers);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "tocsin");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)service->timeout.ms);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, self);
    if (service->username) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERNAME, service->username);
        curl_easy_setopt(curl, CURLOPT_PASSWORD, service->password.text);
    }
    return true;
}

static int gelf_open(const struct tocsin_host *host, const void *ctx, void **out)
{
    const struct gelf_service *service = ctx;
    *out = NULL;
    struct gelf *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    self->host = host;
    self->service = service;
    self->transport = transport_of(service);
    self->udp.fd = -1;
    if (gethostname(self->hostname, sizeof(self->hostname) - 1) < 0 || self->hostname[0] == '\0')
        snprintf(self->hostname, sizeof(self->hostname), "tocsin");
    if (strcmp(service->compression, "none") != 0) {
        const int bits = strcmp(service->compression, "gzip") == 0 ? 15 + 16 : 15;
        self->zipping = deflateInit2(&self->zip, Z_DEFAULT_COMPRESSION, Z_DEFLATED, bits, 8,
                                     Z_DEFAULT_STRATEGY) == Z_OK;
        if (!self->zipping) {
            gelf_close(self);
            return -ENOMEM;
        }
    }
    if (self->transport == HTTP && !http_open(self)) {
        gelf_close(self);
        return -ENOMEM;
    }
    *out = self;
    return 0;
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "gelf",
    .summary = "log records in GELF for Graylog and others, over UDP, TCP, TLS or HTTP",
    .service_options = service_options,
    .service_size = sizeof(struct gelf_service),
    .target_options = target_options,
    .target_size = sizeof(struct gelf_target),
    .max_batch = BATCH_MAX,
    .check = gelf_check,
    .check_target = gelf_check_target,
    .wants = gelf_wants,
    .open = gelf_open,
    .send = gelf_send,
    .close = gelf_close,
};
