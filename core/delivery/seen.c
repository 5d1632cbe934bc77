/* SPDX-License-Identifier: MIT */

#include "delivery/seen.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define FIRST_PLACES 256
#define SWEEP_MS     1000
#define NOWHERE      UINT32_MAX

enum known_state {
    KNOWN_GONE, /* its place is free as soon as it is the oldest */
    KNOWN_OPEN, /* not safe yet: the message is held by it */
    KNOWN_SAFE,
    KNOWN_OLD, /* the sender may never have heard of it, and has sent nothing new since */
};

struct known {
    uint64_t identity[2];
    uint64_t sender;
    uint64_t number;         /* of the delivery on disk */
    struct message *message; /* while it is open: a reference */
    int64_t since_ms;        /* in this state */
    uint32_t next;           /* of the same bucket */
    enum known_state state;
    bool on_disk;
    bool reused; /* the sender has given it to several messages */
};

/* A sender that something old is known of. */
struct old_sender {
    uint64_t sender;
    int64_t fresh_ms; /* when it sent something new; 0: not yet */
};

struct seen {
    pthread_mutex_t lock;
    uint64_t secret;
    struct store *store; /* NULL: none */

    /* A ring of what is known, oldest first, and chains by hash: places are counted from the first ever on. */
    struct known *ring;
    uint32_t *buckets; /* places in the ring */
    uint32_t mask;     /* places less 1 */
    uint32_t first, count;

    struct map old_senders; /* sender -> struct old_sender */
    size_t old_count;       /* in the state KNOWN_OLD */

    int64_t swept_ms;
    struct log_trouble said;
    uint64_t messages, deliveries;
};

/* ---- The ring; with the lock ---- */

static uint32_t bucket_of(const struct seen *seen, const uint64_t identity[2])
{
    return (uint32_t)identity[0] & seen->mask;
}

static struct known *find(const struct seen *seen, const uint64_t identity[2])
{
    if (!seen->ring)
        return NULL;
    for (uint32_t at = seen->buckets[bucket_of(seen, identity)]; at != NOWHERE;
         at = seen->ring[at].next)
        if (seen->ring[at].identity[0] == identity[0] && seen->ring[at].identity[1] == identity[1])
            return &seen->ring[at];
    return NULL;
}

static void chain(struct seen *seen, uint32_t place)
{
    struct known *k = &seen->ring[place];
    uint32_t *bucket = &seen->buckets[bucket_of(seen, k->identity)];
    k->next = *bucket;
    *bucket = place;
}

static void unchain(struct seen *seen, const struct known *k)
{
    const uint32_t place = (uint32_t)(k - seen->ring);
    uint32_t *at = &seen->buckets[bucket_of(seen, k->identity)];
    while (*at != place)
        at = &seen->ring[*at].next;
    *at = k->next;
}

static void set_state(struct seen *seen, struct known *k, enum known_state state)
{
    seen->old_count -= k->state == KNOWN_OLD;
    seen->old_count += state == KNOWN_OLD;
    k->state = state;
}

/* It is not known any more. A message that it has a reference to is given to the caller. */
static struct message *forget(struct seen *seen, struct known *k)
{
    struct message *m = k->message;
    if (k->state != KNOWN_GONE)
        unchain(seen, k);
    set_state(seen, k, KNOWN_GONE);
    k->message = NULL;
    return m;
}

static int grow(struct seen *seen)
{
    const uint32_t places = seen->ring ? 2 * (seen->mask + 1) : FIRST_PLACES;
    struct known *ring = malloc(places * sizeof(*ring));
    uint32_t *buckets = malloc(places * sizeof(*buckets));
    if (!ring || !buckets) {
        free(ring);
        free(buckets);
        return -1;
    }
    for (uint32_t i = 0; i < places; i++)
        buckets[i] = NOWHERE;
    for (uint32_t i = 0; i < seen->count; i++)
        ring[i] = seen->ring[(seen->first + i) & seen->mask];
    free(seen->ring);
    free(seen->buckets);
    seen->ring = ring;
    seen->buckets = buckets;
    seen->mask = places - 1;
    seen->first = 0;
    for (uint32_t i = 0; i < seen->count; i++)
        if (ring[i].state != KNOWN_GONE)
            chain(seen, i);
    return 0;
}

static struct known *oldest(const struct seen *seen)
{
    return &seen->ring[seen->first & seen->mask];
}

/* Takes the oldest out of the ring, which is known to nobody any more. */
static void drop_oldest(struct seen *seen, struct known *out)
{
    struct known *k = oldest(seen);
    *out = *k;
    seen->first = (seen->first + 1) & seen->mask;
    seen->count--;
}

/* Puts one behind the others. Returns whether there is memory for it. */
static bool add(struct seen *seen, const struct known *k)
{
    if ((!seen->ring || seen->count > seen->mask) && grow(seen) < 0)
        return false;
    const uint32_t place = (seen->first + seen->count++) & seen->mask;
    seen->ring[place] = *k;
    seen->ring[place].state = KNOWN_GONE;
    set_state(seen, &seen->ring[place], k->state);
    chain(seen, place);
    return true;
}

/* ---- What is known how long; with the lock ---- */

static struct old_sender *old_sender(const struct seen *seen, uint64_t sender)
{
    return map_get(&seen->old_senders, (const char *)&sender, sizeof(sender));
}

static void forget_old_senders(struct seen *seen)
{
    const struct map_entry *e;
    for (size_t at = 0; (e = map_next(&seen->old_senders, &at));)
        free(e->value);
    map_release(&seen->old_senders);
    seen->old_senders = (struct map)MAP_INIT;
}

/* From now on this sender has something old. */
static void note_old_sender(struct seen *seen, uint64_t sender)
{
    struct old_sender *old = old_sender(seen, sender);
    if (old) {
        old->fresh_ms = 0;
        return;
    }
    old = malloc(sizeof(*old));
    if (!old)
        return;
    *old = (struct old_sender){ .sender = sender };
    if (map_set(&seen->old_senders, (const char *)&old->sender, sizeof(old->sender), old) < 0)
        free(old);
}

static void note_fresh(struct seen *seen, uint64_t sender, int64_t now_ms)
{
    struct old_sender *old = seen->old_count > 0 ? old_sender(seen, sender) : NULL;
    if (old && old->fresh_ms == 0)
        old->fresh_ms = now_ms;
}

static bool is_over(const struct seen *seen, const struct known *k, int64_t now_ms)
{
    const struct old_sender *old;
    switch (k->state) {
    case KNOWN_GONE:
        return true;
    case KNOWN_OPEN:
        return false;
    case KNOWN_SAFE:
        return k->reused || now_ms - k->since_ms >= SEEN_ACKED_MS;
    case KNOWN_OLD:
        old = old_sender(seen, k->sender);
        return now_ms - k->since_ms >= SEEN_OLD_MS || !old ||
               (old->fresh_ms > 0 && now_ms - old->fresh_ms >= SEEN_ACKED_MS);
    }
    return true;
}

/* What is to be done without the lock. */
struct leftovers {
    struct message *messages[64];
    uint64_t numbers[1024];
    size_t message_count, number_count;
};

#define LEFTOVER_MESSAGES (sizeof(((struct leftovers *)0)->messages) / sizeof(struct message *))
#define LEFTOVER_NUMBERS  (sizeof(((struct leftovers *)0)->numbers) / sizeof(uint64_t))

static void remove_oldest(struct seen *seen, struct leftovers *rest)
{
    struct known gone;
    struct message *m = forget(seen, oldest(seen));
    drop_oldest(seen, &gone);
    if (m)
        rest->messages[rest->message_count++] = m;
    if (gone.on_disk)
        rest->numbers[rest->number_count++] = gone.number;
}

static bool has_room(const struct leftovers *rest)
{
    return rest->message_count < LEFTOVER_MESSAGES && rest->number_count < LEFTOVER_NUMBERS;
}

/* Removes what is over, as far as there is room for leftovers. */
static void sweep(struct seen *seen, int64_t now_ms, struct leftovers *rest)
{
    for (uint32_t left = seen->count; left > 0 && has_room(rest); left--) {
        struct known *k = oldest(seen);
        if (is_over(seen, k, now_ms)) {
            remove_oldest(seen, rest);
        } else if (k->state == KNOWN_SAFE) {
            break; /* those behind it are younger */
        } else {
            /* To the end of the ring: others may be over before it. */
            struct known moved;
            unchain(seen, k);
            drop_oldest(seen, &moved);
            seen->old_count -= moved.state == KNOWN_OLD;
            add(seen, &moved);
        }
    }
    if (seen->old_count == 0)
        forget_old_senders(seen);
}

static void clean_up(const struct seen *seen, const struct leftovers *rest)
{
    for (size_t i = 0; i < rest->message_count; i++)
        message_unref(rest->messages[i]);
    if (rest->number_count > 0 && seen->store)
        seen_drop_rows(seen->store, rest->numbers, rest->number_count);
}

/* ---- Identities ---- */

static void begin(const struct seen *seen, XXH3_state_t *state)
{
    XXH3_INITSTATE(state);
    state->extSecret = NULL;
    XXH3_128bits_reset_withSeed(state, seen->secret);
}

static void add_text(XXH3_state_t *state, const char *text)
{
    XXH3_128bits_update(state, text ? text : "", text ? strlen(text) + 1 : 0);
}

static XXH128_hash_t hash_message(const struct seen *seen, const struct message *m)
{
    XXH3_state_t state;
    begin(seen, &state);
    const uint64_t head[] = { m->sender, m->packet_id, m->topic_len, m->payload_len };
    XXH3_128bits_update(&state, head, sizeof(head));
    XXH3_128bits_update(&state, m->topic, m->topic_len);
    XXH3_128bits_update(&state, m->payload, m->payload_len);
    const struct tocsin_properties *p = m->properties; /* but the expiry, which counts down */
    if (p) {
        add_text(&state, p->content_type);
        add_text(&state, p->response_topic);
        if (p->correlation)
            XXH3_128bits_update(&state, p->correlation, p->correlation_len);
        for (size_t i = 0; i < p->user_count; i++) {
            add_text(&state, p->user[i].name);
            add_text(&state, p->user[i].value);
        }
    }
    return XXH3_128bits_digest(&state);
}

/* How many deliveries of the message, of those before this one, are for the same target by the same route. */
static uint64_t count_alike(const struct delivery *from, const struct delivery *d)
{
    uint64_t count = 0;
    for (; from != d; from = from->next)
        count += from->target == d->target && strcmp(from->view.route, d->view.route) == 0;
    return count;
}

static void identify(struct seen *seen, const struct delivery *first_of_message,
                     const XXH128_hash_t *content, struct delivery *d)
{
    XXH3_state_t state;
    begin(seen, &state);
    const uint64_t head[] = { content->low64, content->high64, count_alike(first_of_message, d) };
    XXH3_128bits_update(&state, head, sizeof(head));
    add_text(&state, d->target->service);
    add_text(&state, d->target->name);
    add_text(&state, d->view.route);
    const XXH128_hash_t hash = XXH3_128bits_digest(&state);
    d->identity[0] = hash.low64;
    d->identity[1] = hash.high64 ? hash.high64 : 1;
}

static bool is_identified(const struct delivery *d)
{
    return d->identity[1] != 0;
}

/* ---- Passing; any shard's thread ---- */

/* Whether the delivery is known, so that its message, if it is still open, follows the first one. With the lock. */
static bool is_again(struct seen *seen, struct known *k, const struct delivery *d, int64_t now_ms)
{
    if (!k || !d->message->dup || k->message == d->message || is_over(seen, k, now_ms))
        return false;
    if (k->state == KNOWN_OPEN)
        return message_follow(k->message, d->message) == 0;
    set_state(seen, k, KNOWN_SAFE); /* and will be acknowledged once more */
    k->since_ms = now_ms;
    return true;
}

/* Returns whether it is to be delivered. */
static bool pass(struct seen *seen, const struct delivery *d, int64_t now_ms)
{
    struct leftovers rest; /* large, so only its counts are set */
    rest.message_count = rest.number_count = 0;
    struct message *m = d->message, *before = NULL;
    pthread_mutex_lock(&seen->lock);
    if (now_ms - seen->swept_ms >= SWEEP_MS) {
        sweep(seen, now_ms, &rest);
        seen->swept_ms = now_ms;
    }
    if (!m->dup)
        note_fresh(seen, m->sender, now_ms);
    struct known *k = find(seen, d->identity);
    const bool again = is_again(seen, k, d, now_ms);
    if (!again) {
        const bool reused = k && !m->dup && (k->reused || !is_over(seen, k, now_ms));
        if (k) {
            before = forget(seen, k);
            if (k->on_disk && rest.number_count < LEFTOVER_NUMBERS) {
                rest.numbers[rest.number_count++] = k->number;
                k->on_disk = false;
            }
        }
        while (seen->count >= SEEN_MOST && has_room(&rest))
            remove_oldest(seen, &rest);
        if (add(seen, &(struct known){ .identity = { d->identity[0], d->identity[1] },
                                       .sender = m->sender,
                                       .message = m,
                                       .since_ms = now_ms,
                                       .state = KNOWN_OPEN,
                                       .reused = reused }))
            message_ref(m);
    }
    seen->deliveries += again;
    pthread_mutex_unlock(&seen->lock);
    message_unref(before);
    clean_up(seen, &rest);
    return !again;
}

static void say(struct seen *seen, const struct message *m, int64_t now_ms)
{
    pthread_mutex_lock(&seen->lock);
    seen->messages++;
    const uint64_t held_back = seen->said.held_back;
    const bool due = log_trouble_due(&seen->said, now_ms);
    pthread_mutex_unlock(&seen->lock);
    if (due)
        log_info("link %s: sent again what was taken over already, it is not delivered twice "
                 "topic=%s (%" PRIu64 " more since the last line)",
                 m->link, m->topic, held_back);
}

struct delivery *seen_pass(struct seen *seen, struct delivery *first, int64_t now_ms,
                           struct delivery **again)
{
    const struct message *message = NULL, *said = NULL;
    const struct delivery *first_of_message = NULL;
    XXH128_hash_t content = { 0 };

    /* All get their identities first: which are alike is seen only before some are dropped. */
    for (struct delivery *d = first; d; d = d->next) {
        if (d->message->qos == 0 || d->message->sender == 0)
            continue;
        if (d->message != message) {
            message = d->message;
            first_of_message = d;
            content = hash_message(seen, message);
        }
        identify(seen, first_of_message, &content, d);
    }
    struct delivery *list = NULL, **end = &list;
    while (first) {
        struct delivery *d = first;
        first = d->next;
        if (!is_identified(d) || pass(seen, d, now_ms)) {
            *end = d;
            end = &d->next;
            continue;
        }
        if (d->message != said) {
            said = d->message;
            say(seen, d->message, now_ms);
        }
        *again = d;
        again = &d->next;
    }
    *end = NULL;
    *again = NULL;
    return list;
}

/* ---- What becomes of them; any thread ---- */

void seen_safe(struct seen *seen, const struct delivery *d, bool on_disk)
{
    if (!is_identified(d))
        return;
    struct message *m = NULL;
    pthread_mutex_lock(&seen->lock);
    struct known *k = find(seen, d->identity);
    if (k && k->state == KNOWN_OPEN && k->message == d->message) {
        m = k->message;
        k->message = NULL;
        k->number = d->number;
        k->on_disk = on_disk;
        k->since_ms = clock_mono_ms();
        set_state(seen, k, KNOWN_SAFE);
    } else if (k && on_disk && d->number > 0 && k->number == d->number) {
        k->on_disk = true;
    }
    pthread_mutex_unlock(&seen->lock);
    message_unref(m);
}

void seen_forget(struct seen *seen, const struct delivery *d)
{
    if (!is_identified(d))
        return;
    struct message *m = NULL;
    pthread_mutex_lock(&seen->lock);
    struct known *k = find(seen, d->identity);
    if (k && k->state == KNOWN_OPEN && k->message == d->message)
        m = forget(seen, k);
    pthread_mutex_unlock(&seen->lock);
    message_unref(m);
}

void seen_lost(struct seen *seen, uint64_t sender)
{
    const int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&seen->lock);
    bool any = false;
    for (uint32_t i = 0; i < seen->count; i++) {
        struct known *k = &seen->ring[(seen->first + i) & seen->mask];
        if (k->sender != sender || k->state == KNOWN_OPEN || is_over(seen, k, now_ms))
            continue;
        set_state(seen, k, KNOWN_OLD);
        k->since_ms = now_ms;
        any = true;
    }
    if (any)
        note_old_sender(seen, sender);
    pthread_mutex_unlock(&seen->lock);
}

void seen_stats(struct seen *seen, struct seen_stats *out)
{
    pthread_mutex_lock(&seen->lock);
    *out = (struct seen_stats){ seen->messages, seen->deliveries, seen->count };
    pthread_mutex_unlock(&seen->lock);
}

/* ---- Between two runs; no other thread has it ---- */

void seen_set_secret(struct seen *seen, uint64_t secret)
{
    seen->secret = secret;
}

struct store *seen_store(struct seen *seen)
{
    return seen->store;
}

void seen_set_store(struct seen *seen, struct store *store)
{
    seen->store = store;
}

void seen_add_old(struct seen *seen, const struct seen_row *row)
{
    if (find(seen, row->identity))
        return;
    add(seen, &(struct known){ .identity = { row->identity[0], row->identity[1] },
                               .sender = row->sender,
                               .number = row->number,
                               .since_ms = clock_mono_ms(),
                               .state = KNOWN_OLD,
                               .on_disk = true });
    note_old_sender(seen, row->sender);
}

size_t seen_unwritten(struct seen *seen, struct seen_row **rows)
{
    const int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&seen->lock);
    size_t n = 0;
    *rows = calloc(seen->count + 1, sizeof(**rows));
    for (uint32_t i = 0; *rows && i < seen->count; i++) {
        const struct known *k = &seen->ring[(seen->first + i) & seen->mask];
        if (k->state == KNOWN_OPEN || k->on_disk || k->number == 0 || is_over(seen, k, now_ms))
            continue;
        (*rows)[n++] =
            (struct seen_row){ k->number, k->sender, { k->identity[0], k->identity[1] } };
    }
    pthread_mutex_unlock(&seen->lock);
    return n;
}

/* ---- Life ---- */

struct seen *seen_new(void)
{
    struct seen *seen = calloc(1, sizeof(*seen));
    if (!seen)
        return NULL;
    pthread_mutex_init(&seen->lock, NULL);
    seen->old_senders = (struct map)MAP_INIT;
    if (getrandom(&seen->secret, sizeof(seen->secret), GRND_NONBLOCK) !=
        (ssize_t)sizeof(seen->secret))
        seen->secret = (uint64_t)clock_wall_ms() * 0x9E3779B97F4A7C15u;
    return seen;
}

void seen_free(struct seen *seen)
{
    if (!seen)
        return;
    for (uint32_t i = 0; i < seen->count; i++)
        message_unref(seen->ring[(seen->first + i) & seen->mask].message);
    forget_old_senders(seen);
    free(seen->ring);
    free(seen->buckets);
    pthread_mutex_destroy(&seen->lock);
    free(seen);
}
