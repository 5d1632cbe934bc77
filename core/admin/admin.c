/* SPDX-License-Identifier: MIT */

#include "admin/admin.h"

#include "admin/conservation.h"
#include "admin/health.h"
#include "admin/letters.h"
#include "admin/status.h"
#include "base/clock.h"
#include "base/log.h"
#include "router/message.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_MS  1000
#define STILL_MS 5 /* between two looks that tell whether something moves */

struct admin {
    struct admin_host host;
    struct admin_settings settings; /* the topic never changes */
    int64_t started_ms, started_mono_ms;
    struct letters letters;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool stop;
    bool has_letters;
    int64_t interval_ms;

    /* The thread's own; after its end, the main thread's. */
    struct conservation conservation;
    struct health health;
    int64_t published_ms; /* 0: never */
    uint64_t left_out;    /* letters, so far told */
    struct log_trouble publishing;
};

/* ---- Looking ---- */

/* Looks at everything; a second time when the accounts seem wrong, as it may have moved meanwhile. */
static void look(struct admin *a, struct observation *seen)
{
    a->host.observe(a->host.context, seen);
    struct buf unused = BUF_INIT(4096);
    bool good = conservation_compare(seen, &unused) == 0;
    buf_release(&unused);
    bool changed;
    if (good) {
        changed = conservation_look(&a->conservation, seen, seen);
    } else {
        const struct timespec pause = { .tv_nsec = STILL_MS * 1000000 };
        nanosleep(&pause, NULL);
        struct observation again = OBSERVATION_INIT;
        a->host.observe(a->host.context, &again);
        changed = conservation_look(&a->conservation, seen, &again);
        observation_release(&again);
    }
    if (changed && a->conservation.is_broken)
        log_error("messages or deliveries are not accounted for, which is a fault of this program: "
                  "%s",
                  a->conservation.why);
    else if (changed)
        log_info("messages and deliveries are accounted for again");
}

/* ---- Telling ---- */

static void log_health(const struct health *h)
{
    struct buf text = BUF_INIT(4096);
    health_write(h, &text);
    if (h->level == HEALTH_CRITICAL)
        log_error("health: %s", buf_str(&text));
    else if (h->level == HEALTH_WARNING)
        log_warning("health: %s", buf_str(&text));
    else
        log_info("health: %s", buf_str(&text));
    buf_release(&text);
}

static void tell_systemd(const struct admin *a)
{
    struct buf text = BUF_INIT(4096);
    buf_add_str(&text, "STATUS=");
    health_write(&a->health, &text);
    a->host.tell(a->host.context, buf_str(&text));
    buf_release(&text);
}

static void publish(struct admin *a, const struct observation *seen, int64_t now_ms, bool last)
{
    const struct status_parts parts = {
        .node = a->host.node,
        .started_ms = a->started_ms,
        .now_ms = clock_wall_ms(),
        .interval_ms = a->interval_ms,
        .seen = seen,
        .health = &a->health,
        .conservation = &a->conservation,
    };
    a->published_ms = now_ms;
    if (!a->settings.enabled)
        return;
    char *text = status_text(&parts);
    int rc = text ? a->host.set_status(a->host.context, text, last) : -ENOMEM;
    free(text);
    if (rc == 0)
        log_trouble_over(&a->publishing);
    else if (rc != -EAGAIN && log_trouble_due(&a->publishing, now_ms))
        log_warning("the status cannot be published topic=%s/status: %s", a->settings.topic,
                    strerror(-rc));
}

static void look_and_tell(struct admin *a, int64_t interval_ms)
{
    struct observation seen = OBSERVATION_INIT;
    int64_t now_ms = clock_mono_ms();
    look(a, &seen);
    struct health now;
    health_judge(&now, &seen, &a->conservation, now_ms - a->started_mono_ms);
    bool first = a->published_ms == 0;
    bool changed = first ? now.level != HEALTH_OK : health_differs(&a->health, &now);
    a->health = now;
    if (changed)
        log_health(&now);
    if (changed || first || now_ms - a->published_ms >= interval_ms) {
        tell_systemd(a);
        publish(a, &seen, now_ms, false);
    }
    observation_release(&seen);
}

/* ---- Dead letters ---- */

static void hand_on_letters(struct admin *a, bool all)
{
    struct letter *letter;
    while ((letter = letters_take(&a->letters, all))) {
        struct message *m = letter_message(letter, clock_wall_ms());
        if (m)
            a->host.route(a->host.context, m);
        else
            log_error("no memory for a message about a dead letter topic=%s", letter->topic);
        a->host.announce(a->host.context, letter->topic, letter->text, strlen(letter->text));
        if (letter->untold > 0 && a->host.told)
            a->host.told(a->host.context, letter->untold);
        letter_free(letter);
    }
    pthread_mutex_lock(&a->letters.lock);
    uint64_t left_out = a->letters.left_out;
    pthread_mutex_unlock(&a->letters.lock);
    if (left_out > a->left_out)
        log_error(
            "there were too many dead letters for a message about each, or no memory: %" PRIu64
            " without one",
            left_out - a->left_out);
    a->left_out = left_out;
}

bool admin_dead_letter(struct admin *a, const struct delivery *delivery, const char *reason,
                       unsigned attempts, uint64_t untold)
{
    if (!a->settings.enabled)
        return true;
    enum letters_fate fate =
        letters_put(&a->letters, a->settings.topic, delivery, reason, attempts, untold);
    if (fate == LETTERS_NEW) {
        pthread_mutex_lock(&a->lock);
        a->has_letters = true;
        pthread_cond_signal(&a->wake);
        pthread_mutex_unlock(&a->lock);
    }
    return fate != LETTERS_CLOSED;
}

/* ---- The thread ---- */

static void *run(void *context)
{
    struct admin *a = context;
    pthread_setname_np(pthread_self(), "admin");
    int64_t look_ms = 0;
    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        a->has_letters = false;
        int64_t interval_ms = a->interval_ms;
        pthread_mutex_unlock(&a->lock);
        hand_on_letters(a, false);
        if (clock_mono_ms() >= look_ms) {
            look_and_tell(a, interval_ms);
            look_ms = clock_mono_ms() + LOOK_MS;
        }
        const struct timespec until = { .tv_sec = (time_t)(look_ms / 1000),
                                        .tv_nsec = look_ms % 1000 * 1000000 };
        pthread_mutex_lock(&a->lock);
        while (!a->stop && !a->has_letters &&
               pthread_cond_timedwait(&a->wake, &a->lock, &until) != ETIMEDOUT)
            continue;
    }
    pthread_mutex_unlock(&a->lock);
    hand_on_letters(a, true);
    return NULL;
}

/* ---- Life ---- */

struct admin *admin_new(const struct admin_host *host, struct admin_settings *settings)
{
    struct admin *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->host = *host;
    a->settings = *settings;
    settings->topic = NULL;
    a->interval_ms = settings->status_interval.ms;
    a->started_ms = clock_wall_ms();
    a->started_mono_ms = clock_mono_ms();
    letters_init(&a->letters);
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return a;
}

int admin_start(struct admin *a)
{
    int rc = pthread_create(&a->thread, NULL, run, a);
    a->running = rc == 0;
    return -rc;
}

void admin_configure(struct admin *a, const struct admin_settings *settings)
{
    pthread_mutex_lock(&a->lock);
    a->interval_ms = settings->status_interval.ms;
    pthread_mutex_unlock(&a->lock);
}

const char *admin_topic(const struct admin *a)
{
    return a->settings.topic;
}

bool admin_is_enabled(const struct admin *a)
{
    return a->settings.enabled;
}

void admin_stop(struct admin *a)
{
    if (!a || !a->running)
        return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    a->running = false;
}

void admin_say_stopped(struct admin *a)
{
    if (!a || a->published_ms == 0)
        return;
    struct observation seen = OBSERVATION_INIT;
    a->host.observe(a->host.context, &seen);
    a->health = (struct health){ .level = HEALTH_STOPPED };
    publish(a, &seen, clock_mono_ms(), true);
    observation_release(&seen);
    pthread_mutex_lock(&a->letters.lock);
    size_t left = a->letters.too_late;
    pthread_mutex_unlock(&a->letters.lock);
    if (left > 0 && a->host.told)
        log_info("dead letters at the end, of which the next start will tell: %zu", left);
    else if (left > 0)
        log_warning("dead letters at the end, for which there is no message: %zu", left);
}

void admin_free(struct admin *a)
{
    if (!a)
        return;
    letters_release(&a->letters);
    admin_settings_release(&a->settings);
    pthread_cond_destroy(&a->wake);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
