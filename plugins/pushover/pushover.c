/* SPDX-License-Identifier: MIT */

/*
 * pushover: notifications on phones, by the Pushover message API.
 *
 * One POST per message, over one connection that is kept; max_workers holds a service to the two
 * connections that the vendor allows. What the API says of lengths is made true before sending, since
 * a request that it refuses must never be repeated, and too many of those get the sender blocked:
 * long texts are cut, and a refusal that is about the target parks it.
 * All of it runs on the thread of the instance.
 *
 * Libraries: libcurl jansson libcrypto zlib
 */

#include "form.h"
#include "tocsin/plugin.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define KEY_CHARS       30 /* of a token and of a user key */
#define USERS_MAX       50
#define MESSAGE_CHARS   1024
#define TITLE_CHARS     250
#define URL_CHARS       512
#define URL_TITLE_CHARS 100
#define DEVICE_CHARS    25
#define SOUND_CHARS     64
#define TAG_BYTES       256
#define IMAGE_BYTES     5242880
#define PRIORITY_AUTO   (-3)
#define EMERGENCY       2

#define ANSWER_BYTES  65536
#define REFUSALS_MAX  3
#define PARK_MAX_MS   (INT64_C(32) * 24 * 3600 * 1000)
#define QUOTA_PARK_MS (INT64_C(3600) * 1000)

struct pushover_service {
    struct tocsin_secret token;
    const char *api_url;
    const char *ca;
    struct tocsin_duration connect_timeout;
    struct tocsin_duration timeout;
    struct tocsin_duration retry_after;
    struct tocsin_duration park;
};

struct pushover_target {
    struct tocsin_secret token;
    struct tocsin_list user;
    struct tocsin_list device;
    struct tocsin_format title;
    int64_t priority;
    struct tocsin_duration repeat;
    struct tocsin_duration expire;
    const char *callback;
    struct tocsin_format tags;
    bool cancel;
    struct tocsin_format sound;
    struct tocsin_format url;
    struct tocsin_format url_title;
    bool html;
    bool monospace;
    bool timestamp;
    struct tocsin_duration ttl;
    bool attachment;
    struct tocsin_secret encryption_key;
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct pushover_service, token,
                  .help = "API token of the application; a target may have its own."),
    TOCSIN_OPTION(struct pushover_service, api_url, .def = "https://api.pushover.net/1",
                  .help = "Where the API is, without the slash and the name of a call."),
    TOCSIN_OPTION(struct pushover_service, ca,
                  .help = "File of CA certificates to trust; unset: those of the system."),
    TOCSIN_OPTION(struct pushover_service, connect_timeout, .def = "10s", .min = 10, .max = 300000,
                  .help = "Longest wait for a connection."),
    TOCSIN_OPTION(struct pushover_service, timeout, .def = "30s", .min = 10, .max = 600000,
                  .help = "Longest wait for a whole request and its answer."),
    TOCSIN_OPTION(struct pushover_service, retry_after, .def = "5s", .min = 1, .max = 3600000,
                  .help = "Wait after a failure of the service or the network; doubles with each "
                          "attempt, up to 64 times. The vendor asks for 5s at least."),
    TOCSIN_OPTION(struct pushover_service, park, .def = "10m", .min = 1, .max = 86400000,
                  .help = "How long a target is held back after the service has refused its token, "
                          "user or device, or three messages in a row."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct pushover_target, token,
                  .help = "API token of the application, in place of the service's."),
    TOCSIN_OPTION(struct pushover_target, user, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "User or group key, or a list of up to 50 of them."),
    TOCSIN_OPTION(struct pushover_target, device,
                  .help = "Names of the devices to send to; unset: all of the user's."),
    TOCSIN_OPTION(struct pushover_target, title, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Title, in place of the route's; cut after 250 characters."),
    TOCSIN_OPTION(struct pushover_target, priority, .def = "-3", .min = PRIORITY_AUTO,
                  .max = EMERGENCY,
                  .help = "-2 silent, -1 quiet, 0 normal, 1 high, 2 until acknowledged; -3: the "
                          "route's priority, or else by severity (ok -1, critical 1, others 0)."),
    TOCSIN_OPTION(struct pushover_target, repeat, .def = "1m", .min = 30000, .max = 10800000,
                  .help = "Priority 2: how often the alert is repeated; 30s at least."),
    TOCSIN_OPTION(struct pushover_target, expire, .def = "1h", .min = 1000, .max = 10800000,
                  .help = "Priority 2: when repeating ends; 3h at most."),
    TOCSIN_OPTION(struct pushover_target, callback,
                  .help = "Priority 2: public URL that is told when a user acknowledges."),
    TOCSIN_OPTION(struct pushover_target, tags, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Priority 2: tags kept with the receipt, with commas between."),
    TOCSIN_OPTION(struct pushover_target, cancel, .def = "false",
                  .help = "Whether a message with severity ok ends the repeating of earlier ones "
                          "with the same first tag, before it is sent itself."),
    TOCSIN_OPTION(struct pushover_target, sound, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Name of a sound; unset or empty: the user's own choice."),
    TOCSIN_OPTION(struct pushover_target, url, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Link shown with the message; left out if over 512 characters."),
    TOCSIN_OPTION(struct pushover_target, url_title, .flags = TOCSIN_CLEAN_LINE,
                  .help = "Text of that link; cut after 100 characters."),
    TOCSIN_OPTION(struct pushover_target, html, .def = "false",
                  .help = "Whether the route's text is HTML (b, i, u, font, a); field values are "
                          "escaped."),
    TOCSIN_OPTION(struct pushover_target, monospace, .def = "false",
                  .help = "Whether to show the text in a fixed-width font; not with html."),
    TOCSIN_OPTION(struct pushover_target, timestamp, .def = "true",
                  .help = "Whether to show when the message came in, not when it was delivered."),
    TOCSIN_OPTION(struct pushover_target, ttl, .min = 0, .max = INT64_C(31536000000),
                  .help = "When devices delete the message; unset: never. Not with priority 2."),
    TOCSIN_OPTION(struct pushover_target, attachment, .def = "false",
                  .help = "Whether to attach a payload that is an image (PNG, JPEG, GIF, WebP, up "
                          "to 5242880 bytes)."),
    TOCSIN_OPTION(struct pushover_target, encryption_key,
                  .help = "64 hexadecimal digits, shared with the devices: message, title and link "
                          "are encrypted."),
    { .name = NULL },
};

/* What the last call answered. */
struct answer {
    long status; /* HTTP; 0: none */
    size_t len;  /* of the body, as far as it was kept */
    bool too_long;
    int64_t limit, remaining, reset; /* of the monthly quota; -1: not told */
    char error[CURL_ERROR_SIZE];
};

struct pushover {
    const struct tocsin_host *host;
    const struct pushover_service *service;
    CURL *curl;
    struct curl_slist *headers;
    char *body; /* ANSWER_BYTES */
    struct answer answer;
    unsigned refusals; /* in a row */
    bool quota_warned;
};

static bool is_key(const char *text)
{
    return strlen(text) == KEY_CHARS && !strpbrk(text, "_-") && form_is_name(text, KEY_CHARS);
}

static bool is_blank(const char *text)
{
    while (*text != '\0' && (unsigned char)*text <= ' ')
        text++;
    return *text == '\0';
}

/* ---- What a message becomes -------------------------------------------------------------------- */

/* The media type of an image, by its first bytes; NULL if it is none that phones show. */
static const char *image_type(const uint8_t *data, size_t len)
{
    if (len >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0)
        return "image/png";
    if (len >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0)
        return "image/jpeg";
    if (len >= 6 && (memcmp(data, "GIF87a", 6) == 0 || memcmp(data, "GIF89a", 6) == 0))
        return "image/gif";
    if (len >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0)
        return "image/webp";
    return NULL;
}

static int64_t priority_of(const struct pushover_target *target, const struct tocsin_message *m)
{
    if (target->priority != PRIORITY_AUTO)
        return target->priority;
    if (m->has_priority)
        return m->priority < -2 ? -2 : m->priority > EMERGENCY ? EMERGENCY : m->priority;
    if (m->has_severity && m->severity == TOCSIN_OK)
        return -1;
    return m->has_severity && m->severity == TOCSIN_CRITICAL ? 1 : 0;
}

static void add_message(struct form *form, const struct pushover_target *target,
                        const struct tocsin_message *m, bool is_image)
{
    if (is_blank(m->text) || (is_image && m->text_is_payload)) {
        /* The API refuses an empty message, and a picture is no text to read. */
        form_add_text(form, "message", m->topic, strlen(m->topic), MESSAGE_CHARS);
    } else if (target->html && m->html) {
        form_add_html(form, "message", m->html, strlen(m->html), MESSAGE_CHARS);
        form_add(form, "html", "1");
    } else {
        form_add_text(form, "message", m->text, m->text_len, MESSAGE_CHARS);
    }
    if (target->monospace)
        form_add(form, "monospace", "1");
}

static void add_priority(struct form *form, const struct tocsin_delivery *d)
{
    const struct pushover_target *target = d->target;
    const int64_t priority = priority_of(target, d->message);
    const char *tags = tocsin_rendered(d, &target->tags);

    if (priority != 0)
        form_add_number(form, "priority", priority);
    if (priority == EMERGENCY) {
        form_add_number(form, "retry", (target->repeat.ms + 999) / 1000);
        form_add_number(form, "expire", target->expire.ms / 1000);
        if (target->callback)
            form_add(form, "callback", target->callback);
        if (tags && !is_blank(tags))
            form_add(form, "tags", tags);
    } else if (target->ttl.ms > 0) {
        form_add_number(form, "ttl", (target->ttl.ms + 999) / 1000);
    }
}

static void add_url(const struct pushover *self, struct form *form, const struct tocsin_delivery *d)
{
    const struct pushover_target *target = d->target;
    const char *url = tocsin_rendered(d, &target->url);
    const char *title = tocsin_rendered(d, &target->url_title);

    if (!url || is_blank(url))
        return;
    if (form_prefix(url, strlen(url), URL_CHARS) < strlen(url)) {
        self->host->log(self->host, TOCSIN_LOG_WARNING,
                        "url left out, it is over %d characters: target=%s", URL_CHARS,
                        d->target_name);
        return;
    }
    form_add_text(form, "url", url, strlen(url), URL_CHARS);
    if (title && !is_blank(title))
        form_add_text(form, "url_title", title, strlen(title), URL_TITLE_CHARS);
}

static const char *token_of(const struct pushover *self, const struct pushover_target *target)
{
    return target->token.text ? target->token.text : self->service->token.text;
}

/* All parameters but the attachment. */
static void make_form(const struct pushover *self, struct form *form,
                      const struct tocsin_delivery *d, bool is_image)
{
    const struct pushover_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *title = tocsin_rendered(d, &target->title);
    const char *sound = tocsin_rendered(d, &target->sound);

    form->cipher_key = target->encryption_key.text;
    form_add(form, "token", token_of(self, target));
    form_add_list(form, "user", &target->user);
    if (target->device.count > 0)
        form_add_list(form, "device", &target->device);
    if (!title || is_blank(title))
        title = m->title;
    if (!is_blank(title))
        form_add_text(form, "title", title, strlen(title), TITLE_CHARS);
    add_message(form, target, m, is_image);
    add_priority(form, d);
    add_url(self, form, d);
    /* Users have sounds of their own; but what can't be a name is not worth a refusal. */
    if (sound && form_is_name(sound, SOUND_CHARS))
        form_add(form, "sound", sound);
    if (target->timestamp && m->received_ms > 0)
        form_add_number(form, "timestamp", m->received_ms / 1000);
    if (form->cipher_key)
        form_add(form, "encrypted", "1");
}

/* ---- Calls ------------------------------------------------------------------------------------- */

static size_t take_body(char *data, size_t size, size_t n, void *ctx)
{
    struct pushover *self = ctx;
    n *= size;
    if (n > ANSWER_BYTES - self->answer.len) {
        self->answer.too_long = true;
        return 0; /* ends the transfer */
    }
    memcpy(self->body + self->answer.len, data, n);
    self->answer.len += n;
    return n;
}

static void read_header(const char *line, size_t len, const char *name, int64_t *out)
{
    const size_t name_len = strlen(name);
    char value[24];
    if (len <= name_len || strncasecmp(line, name, name_len) != 0)
        return;
    line += name_len;
    len -= name_len;
    while (len > 0 && *line == ' ') {
        line++;
        len--;
    }
    size_t n = 0;
    while (n < len && n < sizeof(value) - 1 && line[n] >= '0' && line[n] <= '9') {
        value[n] = line[n];
        n++;
    }
    value[n] = '\0';
    if (n > 0 && n < 18)
        *out = strtoll(value, NULL, 10);
}

static size_t take_header(char *line, size_t size, size_t n, void *ctx)
{
    struct answer *answer = &((struct pushover *)ctx)->answer;
    read_header(line, n * size, "X-Limit-App-Limit:", &answer->limit);
    read_header(line, n * size, "X-Limit-App-Remaining:", &answer->remaining);
    read_header(line, n * size, "X-Limit-App-Reset:", &answer->reset);
    return n * size;
}

/* Adds the fields and the image to a multipart body; NULL without memory. */
static curl_mime *make_mime(CURL *curl, const struct form *form, const struct tocsin_message *m,
                            const char *type)
{
    curl_mime *mime = curl_mime_init(curl);
    if (!mime)
        return NULL;
    for (size_t i = 0; i <= form->count; i++) {
        curl_mimepart *part = curl_mime_addpart(mime);
        CURLcode rc = part ? CURLE_OK : CURLE_OUT_OF_MEMORY;
        if (rc == CURLE_OK && i < form->count) {
            rc = curl_mime_name(part, form->fields[i].name);
            if (rc == CURLE_OK)
                rc = curl_mime_data(part, form->fields[i].value, form->fields[i].len);
        } else if (rc == CURLE_OK) {
            rc = curl_mime_name(part, "attachment");
            if (rc == CURLE_OK)
                rc = curl_mime_data(part, (const char *)m->payload, m->payload_len);
            if (rc == CURLE_OK)
                rc = curl_mime_type(part, type);
            if (rc == CURLE_OK)
                rc = curl_mime_filename(part, strchr(type, '/') + 1);
        }
        if (rc != CURLE_OK) {
            curl_mime_free(mime);
            return NULL;
        }
    }
    return mime;
}

/* POSTs `form`, with the id of a delivery (or NULL) by which a server can tell that it has come before, with the payload of `image` as attachment unless `type` is NULL. What came of it is in
 * self->answer; without memory that looks like no answer. */
static CURLcode call(struct pushover *self, const char *url, const struct form *form,
                     const char *id, const struct tocsin_message *image, const char *type)
{
    size_t len = 0;
    char *body = type ? NULL : form_encode(form, &len);
    curl_mime *mime = type ? make_mime(self->curl, form, image, type) : NULL;
    CURLcode rc = CURLE_OUT_OF_MEMORY;

    self->answer = (struct answer){ .limit = -1, .remaining = -1, .reset = -1 };
    if (body || mime) {
        curl_easy_setopt(self->curl, CURLOPT_URL, url);
        if (mime) {
            curl_easy_setopt(self->curl, CURLOPT_MIMEPOST, mime);
        } else {
            curl_easy_setopt(self->curl, CURLOPT_POSTFIELDS, body);
            curl_easy_setopt(self->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
            curl_easy_setopt(self->curl, CURLOPT_POST, 1L);
        }
        char key[80];
        snprintf(key, sizeof(key), "Idempotency-Key: %s", id ? id : "");
        struct curl_slist with_key = { key, self->headers };
        curl_easy_setopt(self->curl, CURLOPT_HTTPHEADER, id ? &with_key : self->headers);
        rc = curl_easy_perform(self->curl);
        curl_easy_setopt(self->curl, CURLOPT_HTTPHEADER, self->headers);
        curl_easy_getinfo(self->curl, CURLINFO_RESPONSE_CODE, &self->answer.status);
        curl_easy_setopt(self->curl, CURLOPT_MIMEPOST, NULL);
        curl_easy_setopt(self->curl, CURLOPT_POSTFIELDS, NULL);
    }
    curl_mime_free(mime);
    free(body);
    return rc;
}

/* ---- Verdicts ---------------------------------------------------------------------------------- */

/* Not now. What is behind it concerns every message to this target, so all of them wait. */
static void wait_for(struct tocsin_delivery *d, int64_t ms)
{
    d->retry_after_ms = ms < PARK_MAX_MS ? ms : PARK_MAX_MS;
    d->park_ms = d->retry_after_ms;
}

/* The Retry-After that came with the answer; 0: none. */
static int64_t told_wait_ms(const struct pushover *self)
{
    curl_off_t told = 0;
    if (curl_easy_getinfo(self->curl, CURLINFO_RETRY_AFTER, &told) != CURLE_OK || told <= 0)
        return 0;
    return told < PARK_MAX_MS / 1000 ? told * 1000 : PARK_MAX_MS;
}

static void retry_later(struct pushover *self, struct tocsin_delivery *d)
{
    const unsigned doublings = d->attempt > 6 ? 6 : d->attempt > 0 ? d->attempt - 1 : 0;
    const int64_t wait = self->service->retry_after.ms << doublings;
    const int64_t told = told_wait_ms(self);
    wait_for(d, told > wait ? told : wait);
}

/* The month's quota is used up: nothing more until it is filled again. */
static void quota_used_up(struct pushover *self, struct tocsin_delivery *d)
{
    const int64_t left = self->answer.reset - (int64_t)time(NULL);
    const int64_t told = told_wait_ms(self);
    if (self->answer.reset < 0)
        wait_for(d, told > 0 ? told : QUOTA_PARK_MS);
    else if (left > 0)
        wait_for(d, left < PARK_MAX_MS / 1000 ? left * 1000 : PARK_MAX_MS);
    else
        retry_later(self, d);
    self->host->fail(d, TOCSIN_RETRY, 0, "the quota is used up; next attempt in %lld s",
                     (long long)(d->park_ms / 1000));
}

/* The texts of `errors`, joined, without what could upset a terminal. */
static void join_errors(const json_t *body, char *out, size_t size)
{
    const json_t *errors = json_object_get(body, "errors");
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < json_array_size(errors) && n + 1 < size; i++) {
        const char *text = json_string_value(json_array_get(errors, i));
        const int len = snprintf(out + n, size - n, "%s%s", n > 0 ? "; " : "", text ? text : "?");
        n = len < 0 ? size : n + (size_t)len;
    }
    for (char *p = out; *p; p++) {
        if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
            *p = '?';
    }
}

/* Whether the answer calls the target's token, user or device wrong: then no message will do better. */
static bool target_is_wrong(const json_t *body)
{
    static const char *const names[] = { "token", "user", "device" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *said = json_string_value(json_object_get(body, names[i]));
        if (said && strcmp(said, "invalid") == 0)
            return true;
    }
    return false;
}

static void refused(struct pushover *self, struct tocsin_delivery *d, const json_t *body)
{
    char errors[100];
    join_errors(body, errors, sizeof(errors));
    self->refusals++;
    if (target_is_wrong(body) || self->refusals >= REFUSALS_MAX) {
        d->park_ms = self->service->park.ms;
        self->host->log(self->host, TOCSIN_LOG_ERROR, "target parked: target=%s park_s=%lld: %s",
                        d->target_name, (long long)(d->park_ms / 1000), errors);
    }
    self->host->fail(d, TOCSIN_REJECT, 0, "HTTP status %ld: %s", self->answer.status,
                     errors[0] ? errors : "the service gave no reason");
}

static void accepted(struct pushover *self, struct tocsin_delivery *d, const json_t *body)
{
    const char *receipt = json_string_value(json_object_get(body, "receipt"));
    if (!receipt)
        receipt = json_string_value(json_object_get(body, "request"));
    if (receipt && form_is_name(receipt, sizeof(d->receipt) - 1))
        snprintf(d->receipt, sizeof(d->receipt), "%s", receipt);
    d->verdict = TOCSIN_SENT;
    self->refusals = 0;

    const struct answer *answer = &self->answer;
    const bool low =
        answer->limit > 0 && answer->remaining >= 0 && answer->remaining < answer->limit / 20;
    if (low && !self->quota_warned)
        self->host->log(self->host, TOCSIN_LOG_WARNING,
                        "monthly quota nearly used up: remaining=%lld limit=%lld",
                        (long long)answer->remaining, (long long)answer->limit);
    self->quota_warned = low;
}

/* Sets the verdict by what was answered, if anything was. */
static void judge(struct pushover *self, struct tocsin_delivery *d, CURLcode rc)
{
    const struct answer *answer = &self->answer;
    const bool whole = rc == CURLE_OK;
    json_t *body = whole ? json_loadb(self->body, answer->len, 0, NULL) : NULL;
    const json_t *status = json_object_get(body, "status");

    if (answer->status == 429) {
        quota_used_up(self, d);
    } else if (answer->status >= 400 && answer->status < 500) {
        refused(self, d, body);
    } else if (answer->status == 0 || (!whole && !answer->too_long)) {
        retry_later(self, d);
        self->host->fail(d, TOCSIN_RETRY, 0, "no answer: %s",
                         answer->error[0] ? answer->error : curl_easy_strerror(rc));
    } else if (answer->status != 200 || !json_is_integer(status)) {
        /* Not the service itself, but something in front of it. */
        retry_later(self, d);
        self->host->fail(d, TOCSIN_RETRY, 0, "HTTP status %ld%s", answer->status,
                         answer->status == 200 ? ", but not an answer of the API" : "");
    } else if (json_integer_value(status) != 1) {
        refused(self, d, body);
    } else {
        accepted(self, d, body);
    }
    json_decref(body);
}

/* ---- Sending ----------------------------------------------------------------------------------- */

/*
 * Ends the repeating of earlier alarms with the first of the tags. Returns false, with the verdict set,
 * if it has to be tried again. A refusal does not keep the all-clear itself from being sent.
 */
static bool cancel_by_tag(struct pushover *self, struct tocsin_delivery *d)
{
    const struct pushover_target *target = d->target;
    const char *tags = tocsin_rendered(d, &target->tags);
    if (!target->cancel || !tags || !d->message->has_severity || d->message->severity != TOCSIN_OK)
        return true;
    const size_t len = strcspn(tags, ",");
    if (len == 0 || len > TAG_BYTES)
        return true;

    struct form form = { .count = 0 };
    char *tag = curl_easy_escape(self->curl, tags, (int)len);
    const size_t room = strlen(self->service->api_url) + (tag ? strlen(tag) : 0) + 64;
    char *url = malloc(room);
    form_add(&form, "token", token_of(self, target));
    bool done = false;
    if (!url || !tag || form.error) {
        self->host->fail(d, TOCSIN_RETRY, -ENOMEM, "cannot cancel by tag");
    } else {
        snprintf(url, room, "%s/receipts/cancel_by_tag/%s.json", self->service->api_url, tag);
        const CURLcode rc = call(self, url, &form, NULL, NULL, NULL);
        const long status = self->answer.status;
        done = (status >= 200 && status < 300 && rc == CURLE_OK) ||
               (status >= 400 && status < 500 && status != 429);
        if (!done)
            judge(self, d, rc);
        else if (status >= 400)
            self->host->log(self->host, TOCSIN_LOG_WARNING, "cancel by tag refused: status=%ld",
                            status);
    }
    form_release(&form);
    curl_free(tag);
    free(url);
    return done;
}

static void send_one(struct pushover *self, struct tocsin_delivery *d)
{
    const struct pushover_target *target = d->target;
    const struct tocsin_message *m = d->message;
    const char *type = target->attachment ? image_type(m->payload, m->payload_len) : NULL;
    const bool is_image = type != NULL;

    if (!cancel_by_tag(self, d))
        return;
    if (is_image && m->payload_len > IMAGE_BYTES) {
        self->host->log(self->host, TOCSIN_LOG_WARNING,
                        "image left out, it is over %d bytes: target=%s", IMAGE_BYTES,
                        d->target_name);
        type = NULL;
    }

    struct form form = { .count = 0 };
    make_form(self, &form, d, is_image);
    const size_t room = strlen(self->service->api_url) + sizeof("/messages.json");
    char *url = malloc(room);
    if (!url || form.error) {
        self->host->fail(d, TOCSIN_RETRY, form.error ? form.error : -ENOMEM,
                         "cannot make the request");
    } else {
        snprintf(url, room, "%s/messages.json", self->service->api_url);
        judge(self, d, call(self, url, &form, m->id, m, type));
    }
    free(url);
    form_release(&form);
}

static void pushover_send(void *ctx, struct tocsin_delivery *const *deliveries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        send_one(ctx, deliveries[i]);
        if (deliveries[i]->verdict == TOCSIN_RETRY)
            return;
    }
}

/* ---- Configuration, life ----------------------------------------------------------------------- */

static const char *pushover_check(const void *ctx)
{
    const struct pushover_service *service = ctx;
    if (service->token.text && !is_key(service->token.text))
        return "token: an application token has 30 letters and digits";
    if (strncmp(service->api_url, "https://", 8) != 0 &&
        strncmp(service->api_url, "http://", 7) != 0)
        return "api_url: begin it with https://";
    return NULL;
}

static const char *pushover_check_target(const void *service_ctx, const void *ctx)
{
    const struct pushover_service *service = service_ctx;
    const struct pushover_target *target = ctx;

    if (!target->token.text && !service->token.text)
        return "token: give one to the service or to the target";
    if (target->token.text && !is_key(target->token.text))
        return "token: an application token has 30 letters and digits";
    if (target->user.count == 0 || target->user.count > USERS_MAX)
        return "user: give 1 to 50 keys";
    for (size_t i = 0; i < target->user.count; i++) {
        if (!is_key(target->user.items[i]))
            return "user: a user or group key has 30 letters and digits";
    }
    if (target->device.count > 0 && target->user.count > 1)
        return "device: goes with a single user only";
    for (size_t i = 0; i < target->device.count; i++) {
        if (!form_is_name(target->device.items[i], DEVICE_CHARS))
            return "device: a name has up to 25 letters, digits, '_' and '-'";
    }
    if (target->html && target->monospace)
        return "monospace: leave out either this or html";
    if (target->callback && strncmp(target->callback, "http", 4) != 0)
        return "callback: begin it with https://";
    if (target->cancel && !target->tags.text)
        return "cancel: goes with tags only";
    if (target->encryption_key.text) {
        if (!form_is_cipher_key(target->encryption_key.text))
            return "encryption_key: give 64 hexadecimal digits";
        if (target->attachment)
            return "attachment: leave out either this or encryption_key, since images are not "
                   "encrypted";
    }
    return NULL;
}

static unsigned pushover_wants(const void *service, const void *ctx)
{
    const struct pushover_target *target = ctx;
    (void)service;
    return target->html ? TOCSIN_WANTS_HTML : 0;
}

static void pushover_close(void *ctx)
{
    struct pushover *self = ctx;
    curl_easy_cleanup(self->curl);
    curl_slist_free_all(self->headers);
    free(self->body);
    free(self);
    curl_global_cleanup();
}

static int pushover_open(const struct tocsin_host *host, const void *ctx, void **out)
{
    const struct pushover_service *service = ctx;
    *out = NULL;
    struct pushover *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    self->host = host;
    self->service = service;
    self->curl = curl_easy_init();
    self->body = malloc(ANSWER_BYTES);
    /* No waiting for a "100 Continue" before an image. */
    self->headers = curl_slist_append(NULL, "Expect:");
    if (!self->curl || !self->body || !self->headers) {
        pushover_close(self);
        return -ENOMEM;
    }

    CURL *curl = self->curl;
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "tocsin");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, self->headers);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)service->connect_timeout.ms);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)service->timeout.ms);
    curl_easy_setopt(curl, CURLOPT_MAXCONNECTS, 1L);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (service->ca)
        curl_easy_setopt(curl, CURLOPT_CAINFO, service->ca);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, self->answer.error);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, self);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, self);
    *out = self;
    return 0;
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "pushover",
    .summary = "notifications on phones, by the Pushover service",
    .service_options = service_options,
    .service_size = sizeof(struct pushover_service),
    .target_options = target_options,
    .target_size = sizeof(struct pushover_target),
    .max_workers = 2,
    .check = pushover_check,
    .check_target = pushover_check_target,
    .wants = pushover_wants,
    .open = pushover_open,
    .send = pushover_send,
    .close = pushover_close,
};
