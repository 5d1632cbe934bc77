/* SPDX-License-Identifier: MIT */

/*
 * A service with moods, for tests that watch from outside: it appends a line to a file for each delivery, and what it
 * answers is what the first word of another file says: works, fails, x (a third fails), slow, rejects
 * or hangs (until the word is another, then it fails).
 *
 * A line is "VERDICT MICROSECONDS ID ATTEMPT TEXT", with S for sent and R for rejected, and the time of the monotonic clock.
 */

#include "tocsin/plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct moody_target {
    const char *path;
    const char *mood;
};

struct moody {
    const struct tocsin_host *host;
    unsigned random;
};

static const struct tocsin_option service_options[] = { { .name = NULL } };

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct moody_target, path, .flags = TOCSIN_OPTION_REQUIRED, .help = "Lines."),
    TOCSIN_OPTION(struct moody_target, mood, .flags = TOCSIN_OPTION_REQUIRED, .help = "Mood."),
    { .name = NULL },
};

static int moody_open(const struct tocsin_host *host, const void *service, void **self)
{
    (void)service;
    struct moody *moody = calloc(1, sizeof(*moody));
    if (!moody)
        return -ENOMEM;
    moody->host = host;
    moody->random = (unsigned)getpid();
    *self = moody;
    return 0;
}

static void rest(int ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000L }, NULL);
}

/* The letter that a mood begins with; 'w' if there is no file. */
static char mood_of(const struct moody_target *target)
{
    char word = 'w';
    int fd = open(target->mood, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, &word, 1) < 1)
        word = 'w';
    if (fd >= 0)
        close(fd);
    return word;
}

static void say(const struct moody *moody, struct tocsin_delivery *d, char verdict)
{
    const struct moody_target *target = d->target;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char line[2048];
    int len = snprintf(line, sizeof(line), "%c %" PRId64 " %s %u %s\n", verdict,
                       (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, d->message->id,
                       d->attempt, d->message->text);
    int fd = open(target->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || len < 0 || (size_t)len >= sizeof(line) || write(fd, line, (size_t)len) != len)
        (moody->host->fail)(d, TOCSIN_RETRY, -errno, "path=%s", target->path);
    else
        d->verdict = verdict == 'S' ? TOCSIN_SENT : TOCSIN_REJECT;
    if (fd >= 0)
        close(fd);
}

static void moody_send(void *self, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct moody *moody = self;
    char mood = mood_of(deliveries[0]->target);
    for (size_t i = 0; i < n; i++) {
        struct tocsin_delivery *d = deliveries[i];
        if (mood == 'h') {
            while (mood_of(d->target) == 'h')
                rest(5);
            (moody->host->fail)(d, TOCSIN_RETRY, -ETIMEDOUT, "it hung");
            return;
        }
        moody->random = moody->random * 1103515245 + 12345;
        if (mood == 's')
            rest(3);
        if (mood == 'f') {
            (moody->host->fail)(d, TOCSIN_RETRY, -ECONNREFUSED, "it is in a bad mood");
            return;
        }
        if (mood == 'x' && (moody->random >> 16) % 3 == 0) {
            (moody->host->fail)(d, TOCSIN_RETRY, 0, "it is flaky");
            return;
        }
        say(moody, d, mood == 'r' ? 'R' : 'S');
    }
}

static void moody_close(void *self)
{
    free(self);
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "moody",
    .summary = "has moods",
    .service_options = service_options,
    .target_options = target_options,
    .target_size = sizeof(struct moody_target),
    .max_batch = 16,
    .open = moody_open,
    .send = moody_send,
    .close = moody_close,
};
