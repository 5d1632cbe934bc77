/* SPDX-License-Identifier: MIT */

/*
 * log: messages as lines of the router's own log, or as lines on standard error with a syslog priority in
 * front, which systemd's journal understands (sd-daemon(3)).
 */

#include "tocsin/plugin.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LINE_FIRST = 1024, /* bytes of a line buffer that usually is enough */
    LINE_KEPT = 65536, /* a longer one is given back */
    BATCH_MAX = 64,
    WAIT_MS = 1000, /* for the reader of standard error */
};

struct log_service {
    const char *style;
};

struct log_target {
    const char *level;
};

struct log_instance {
    const struct tocsin_host *host;
    bool syslog;
    char *line; /* grown as needed */
    size_t size;
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct log_service, style, .def = "log", .choices = "log|syslog",
                  .help = "\"log\" writes to the router's own log, \"syslog\" lines such as "
                          "\"<5>title: text\" to standard error."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct log_target, level, .def = "info",
                  .choices = "critical|error|warning|notice|info|debug|severity",
                  .help = "Importance of the lines; \"severity\" takes it from the message: ok is "
                          "info, and unknown is a warning."),
    { .name = NULL },
};

/* What a word means to either log. */
static const struct level {
    const char *word;
    enum tocsin_level ours;
    int priority; /* syslog's */
} levels[] = {
    { "critical", TOCSIN_LOG_ERROR, 2 },  { "error", TOCSIN_LOG_ERROR, 3 },
    { "warning", TOCSIN_LOG_WARNING, 4 }, { "notice", TOCSIN_LOG_INFO, 5 },
    { "info", TOCSIN_LOG_INFO, 6 },       { "debug", TOCSIN_LOG_DEBUG, 7 },
};

static const char *severity_word(const struct tocsin_message *m)
{
    switch (m->severity) {
    case TOCSIN_OK:
        return "info";
    case TOCSIN_CRITICAL:
        return "critical";
    case TOCSIN_WARNING:
    case TOCSIN_UNKNOWN:
        break;
    }
    return "warning";
}

static const struct level *choose_level(const struct tocsin_delivery *d)
{
    const struct log_target *target = d->target;
    const char *word = target->level;
    if (strcmp(word, "severity") == 0)
        word = severity_word(d->message);
    size_t i = 0;
    while (strcmp(levels[i].word, word) != 0) /* the table's choices are the words */
        i++;
    return &levels[i];
}

static bool make_room(struct log_instance *self, size_t size)
{
    if (self->size >= size)
        return true;
    size_t bigger = size < LINE_FIRST ? LINE_FIRST : size;
    char *line = realloc(self->line, bigger);
    if (!line)
        return false;
    self->line = line;
    self->size = bigger;
    return true;
}

/* Whatever a text holds, it stays one line. */
static size_t put_clean(char *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        out[i] = c < ' ' || c == 0x7F ? ' ' : text[i];
    }
    return len;
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Whether a line can be written before long: a pipe that nobody reads must not hold up the router's end. */
static bool is_read(void)
{
    struct pollfd output = { .fd = STDERR_FILENO, .events = POLLOUT };
    return poll(&output, 1, WAIT_MS) != 0;
}

/* One write for each line, so that lines of others do not get in between. */
static int write_syslog(struct log_instance *self, const struct tocsin_message *m, int priority)
{
    size_t title_len = strlen(m->title), text_len = m->text_len;
    while (text_len > 0 && m->text[text_len - 1] == '\n')
        text_len--;
    if (!make_room(self, title_len + text_len + 16))
        return -ENOMEM;
    size_t len = (size_t)snprintf(self->line, self->size, "<%d>", priority);
    if (title_len > 0) {
        len += put_clean(self->line + len, m->title, title_len);
        self->line[len++] = ':';
        self->line[len++] = ' ';
    }
    len += put_clean(self->line + len, m->text, text_len);
    self->line[len++] = '\n';
    int rc = write_all(STDERR_FILENO, self->line, len);
    if (self->size > LINE_KEPT) {
        free(self->line);
        self->line = NULL;
        self->size = 0;
    }
    return rc;
}

static int log_open(const struct tocsin_host *host, const void *service, void **out)
{
    const struct log_service *config = service;
    struct log_instance *self = malloc(sizeof(*self));
    if (!self)
        return -ENOMEM;
    *self = (struct log_instance){ .host = host, .syslog = strcmp(config->style, "syslog") == 0 };
    *out = self;
    return 0;
}

static void log_send(void *context, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct log_instance *self = context;
    for (size_t i = 0; i < n; i++) {
        struct tocsin_delivery *d = deliveries[i];
        const struct tocsin_message *m = d->message;
        const struct level *level = choose_level(d);
        int rc = is_read() ? 0 : -EAGAIN;
        if (rc == 0 && self->syslog)
            rc = write_syslog(self, m, level->priority);
        else if (rc == 0 && m->title[0] != '\0')
            self->host->log(self->host, level->ours, "%s: %s", m->title, m->text);
        else if (rc == 0)
            self->host->log(self->host, level->ours, "%s", m->text);
        if (rc < 0) {
            self->host->fail(d, TOCSIN_RETRY, rc, "standard error");
            return;
        }
        d->verdict = TOCSIN_SENT;
    }
}

static void log_close(void *context)
{
    struct log_instance *self = context;
    free(self->line);
    free(self);
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "log",
    .summary = "lines in the router's own log, or on standard error for the journal",
    .service_options = service_options,
    .service_size = sizeof(struct log_service),
    .target_options = target_options,
    .target_size = sizeof(struct log_target),
    .max_batch = BATCH_MAX,
    .open = log_open,
    .send = log_send,
    .close = log_close,
};
