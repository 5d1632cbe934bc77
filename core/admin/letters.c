/* SPDX-License-Identifier: MIT */

#include "admin/letters.h"

#include "admin/status.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "router/message.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Messages outlive everything, so what counts them does, too. */
static atomic_size_t untaken;

void letters_init(struct letters *letters)
{
    *letters = (struct letters){ .end = &letters->first };
    pthread_mutex_init(&letters->lock, NULL);
}

void letters_release(struct letters *letters)
{
    while (letters->first) {
        struct letter *letter = letters->first;
        letters->first = letter->next;
        letter_free(letter);
    }
    pthread_mutex_destroy(&letters->lock);
}

void letter_free(struct letter *letter)
{
    if (!letter)
        return;
    free(letter->topic);
    free(letter->text);
    free(letter);
}

/* ---- Making ---- */

/* Bytes from outside as a JSON text, at most so many of them. */
static json_t *text_json(const char *text, size_t len, size_t most)
{
    struct buf clean = BUF_INIT(4 * (most + 4));
    int rc = utf8_add_lossy(&clean, text, len < most + 4 ? len : most + 4);
    if (rc == 0 && clean.len > most) {
        buf_cut(&clean, utf8_cut(buf_str(&clean), clean.len, most));
        rc = buf_add_str(&clean, "\xe2\x80\xa6"); /* an ellipsis */
    }
    json_t *json = rc == 0 ? json_stringn(buf_str(&clean), clean.len) : NULL;
    buf_release(&clean);
    return json;
}

static char *make_text(const struct delivery *d, const char *reason, unsigned attempts)
{
    const struct tocsin_message *v = &d->view;
    char created[32];
    int64_t age_ms = d->created_ms > 0 ? clock_mono_ms() - d->created_ms : 0;
    status_time(clock_wall_ms() - age_ms, created);
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:o, s:o, s:s, s:o, s:i, s:s, s:o}", "id", v->id, "service",
                  d->target->service, "target", d->target->name, "route",
                  text_json(v->route, strlen(v->route), LETTER_TEXT_BYTES), "topic",
                  text_json(v->topic, strlen(v->topic), 65535), "link", v->link, "reason",
                  text_json(reason, strlen(reason), 1000), "attempts", (int)attempts, "created",
                  created, "text", text_json(v->text, v->text_len, LETTER_TEXT_BYTES));
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

static struct letter *letter_new(const char *topic, const struct delivery *d, const char *reason,
                                 unsigned attempts)
{
    struct letter *letter = calloc(1, sizeof(*letter));
    struct buf full = BUF_INIT(65535);
    buf_addf(&full, "%s/dead-letter/%s/%s", topic, d->target->service, d->target->name);
    if (letter) {
        letter->topic = buf_take(&full);
        letter->text = make_text(d, reason, attempts);
    }
    buf_release(&full);
    if (letter && letter->topic && letter->text)
        return letter;
    letter_free(letter);
    return NULL;
}

/* Whether a topic is one of dead letters, of whatever router: ends with "/dead-letter/SERVICE/TARGET". */
static bool is_letter(const char *topic, size_t len)
{
    static const char level[] = "/dead-letter/";
    for (const char *at = topic;
         (at = memmem(at, (size_t)(topic + len - at), level, sizeof(level) - 1)); at++) {
        const char *service = at + sizeof(level) - 1;
        const char *slash = memchr(service, '/', (size_t)(topic + len - service));
        if (slash && !memchr(slash + 1, '/', (size_t)(topic + len - slash - 1)))
            return true;
    }
    return false;
}

/* Whether the delivery's message is about such things itself: of this router, or of another one, which may have a route for
 * ours as we have one for its. */
static bool is_own(const char *topic, const struct message *m)
{
    size_t len = strlen(topic);
    return (m->link && strcmp(m->link, MESSAGE_INTERNAL) == 0) ||
           (strncmp(m->topic, topic, len) == 0 &&
            (m->topic[len] == '/' || m->topic[len] == '\0')) ||
           is_letter(m->topic, m->topic_len);
}

enum letters_fate letters_put(struct letters *letters, const char *topic,
                              const struct delivery *delivery, const char *reason,
                              unsigned attempts, uint64_t untold)
{
    if (is_own(topic, delivery->message))
        return LETTERS_NOTHING;
    struct letter *letter = letter_new(topic, delivery, reason, attempts);
    pthread_mutex_lock(&letters->lock);
    const bool closed = letters->closed;
    const bool fits = letter && letters->count < LETTERS_MOST && !closed;
    if (closed) {
        letters->too_late++;
    } else if (fits) {
        letter->untold = untold;
        *letters->end = letter;
        letters->end = &letter->next;
        letters->count++;
    } else {
        letters->left_out++;
    }
    pthread_mutex_unlock(&letters->lock);
    if (!fits)
        letter_free(letter);
    return fits ? LETTERS_NEW : closed ? LETTERS_CLOSED : LETTERS_NOTHING;
}

struct letter *letters_take(struct letters *letters, bool all)
{
    if (!all && atomic_load(&untaken) >= LETTERS_MOST_UNTAKEN)
        return NULL;
    pthread_mutex_lock(&letters->lock);
    struct letter *letter = letters->first;
    if (letter) {
        letters->first = letter->next;
        if (!letters->first)
            letters->end = &letters->first;
        letters->count--;
    }
    letters->closed = all && !letter;
    pthread_mutex_unlock(&letters->lock);
    return letter;
}

static void taken(struct message *message, void *context)
{
    (void)message;
    (void)context;
    atomic_fetch_sub(&untaken, 1);
}

struct message *letter_message(const struct letter *letter, int64_t now_ms)
{
    struct message *m =
        message_new(letter->topic, strlen(letter->topic), letter->text, strlen(letter->text), NULL);
    if (!m)
        return NULL;
    m->link = MESSAGE_INTERNAL;
    m->received_ms = now_ms;
    m->qos = 1; /* its deliveries are kept on disk, and not dropped from a full queue */
    m->taken = taken;
    atomic_fetch_add(&untaken, 1);
    return m;
}
