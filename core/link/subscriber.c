/* SPDX-License-Identifier: MIT */

#include "link/subscriber.h"

#include "base/log.h"
#include "link/remembered.h"
#include "link/subscriptions.h"

#include <errno.h>
#include <limits.h>
#include <mqtt_protocol.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BATCH       8 /* filters in a packet: some brokers take no more */
#define REFUSED     0x80
#define REFUSED_LOG 20 /* lines about refused filters after one change */

/* A packet that the broker has not answered yet. */
struct pending {
    int mid;
    size_t first, count; /* in the list of the plan; count 0: UNSUBSCRIBE */
};

struct subscriber {
    struct subscriber_config config;
    bool file_read;    /* what an earlier run has subscribed is known */
    bool file_trouble; /* it has been said that the file cannot be written */

    pthread_mutex_t lock; /* of the wish */
    char **wish;          /* QoS in the first byte, then the filter */
    size_t wish_count;
    atomic_uint wished;  /* number of this wish; never 0 */
    atomic_uint settled; /* number of the wish that the broker has answered; 0 for none */
    unsigned applied;    /* number of the wish that it has been asked for; 0 for none */

    struct subscriptions *active; /* what has been asked for; NULL before the first time */
    bool fresh;                   /* nothing of it has been asked on this connection */
    char **leftover;              /* what is to be unsubscribed, until that is answered */
    size_t leftover_count;
    struct pending *pending;
    size_t pending_count, pending_room;
    size_t logged; /* lines about refused filters */
};

struct subscriber *subscriber_new(const struct subscriber_config *config)
{
    struct subscriber *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->config = *config;
    pthread_mutex_init(&s->lock, NULL);
    atomic_init(&s->wished, 1);
    atomic_init(&s->settled, 0);
    return s;
}

static void free_texts(char ***texts, size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        free((*texts)[i]);
    free(*texts);
    *texts = NULL;
    *count = 0;
}

void subscriber_free(struct subscriber *s)
{
    if (!s)
        return;
    free_texts(&s->wish, &s->wish_count);
    free_texts(&s->leftover, &s->leftover_count);
    subscriptions_free(s->active);
    free(s->pending);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

int subscriber_set_filters(struct subscriber *s, const struct link_filter *filters, size_t n)
{
    char **wish = calloc(n + 1, sizeof(*wish));
    size_t count = 0;
    while (wish && count < n) {
        size_t len = strlen(filters[count].filter);
        char *text = malloc(len + 2);
        if (!text) {
            free_texts(&wish, &count);
            break;
        }
        text[0] = (char)(filters[count].qos > 0);
        memcpy(text + 1, filters[count].filter, len + 1);
        wish[count++] = text;
    }
    if (!wish)
        return -ENOMEM;
    pthread_mutex_lock(&s->lock);
    free_texts(&s->wish, &s->wish_count);
    s->wish = wish;
    s->wish_count = n;
    if (atomic_fetch_add(&s->wished, 1) == UINT_MAX)
        atomic_store(&s->wished, 1);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

bool subscriber_changed(const struct subscriber *s)
{
    return atomic_load(&s->wished) != s->applied;
}

/* Notes it when nothing is left to be answered. */
static void note_settled(struct subscriber *s)
{
    if (s->pending_count == 0)
        atomic_store(&s->settled, s->applied);
}

/* An earlier run may have left subscriptions in the session. */
static void read_leftover(struct subscriber *s)
{
    s->file_read = true;
    int rc = remembered_read(s->config.file, s->config.session, &s->leftover, &s->leftover_count);
    if (rc == 0)
        return;
    free_texts(&s->leftover, &s->leftover_count);
    char text[100];
    log_warning("link %s: cannot read what was subscribed before file=%s: %s", s->config.link,
                s->config.file,
                rc == -EINVAL ? "it is no such file" : strerror_r(-rc, text, sizeof(text)));
}

/* Before something is asked for, and after something has been taken back. */
static void remember(struct subscriber *s, const struct subscriptions *plan)
{
    if (!s->config.file)
        return;
    size_t count = 0;
    const char **filters = calloc(plan->count + s->leftover_count + 1, sizeof(*filters));
    int rc = filters ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < plan->count; i++)
        filters[count++] = plan->list[i].filter;
    for (size_t i = 0; rc == 0 && i < s->leftover_count; i++)
        filters[count++] = s->leftover[i];
    if (rc == 0)
        rc = remembered_write(s->config.file, s->config.session, filters, count);
    free(filters);
    char text[100];
    if (rc < 0 && !s->file_trouble)
        log_warning("link %s: cannot write down what is subscribed file=%s: %s", s->config.link,
                    s->config.file, strerror_r(-rc, text, sizeof(text)));
    s->file_trouble = rc < 0;
}

void subscriber_connected(struct subscriber *s, bool resumed)
{
    if (!s->file_read && s->config.file)
        read_leftover(s);
    s->fresh = true;
    s->pending_count = 0;
    s->logged = 0;
    if (!resumed) {
        subscriptions_free(s->active);
        s->active = NULL;
        free_texts(&s->leftover, &s->leftover_count);
    }
    s->applied = 0;
    atomic_store(&s->settled, 0);
}

static int make_plan(struct subscriber *s, bool identifiers, struct subscriptions **out)
{
    *out = NULL;
    pthread_mutex_lock(&s->lock);
    s->applied = atomic_load(&s->wished);
    struct link_filter *filters = calloc(s->wish_count + 1, sizeof(*filters));
    for (size_t i = 0; filters && i < s->wish_count; i++)
        filters[i] =
            (struct link_filter){ .filter = s->wish[i] + 1, .qos = (uint8_t)s->wish[i][0] };
    int rc = filters ? subscriptions_new(filters, s->wish_count, identifiers, out) : -ENOMEM;
    pthread_mutex_unlock(&s->lock);
    free(filters);
    return rc;
}

static int add_pending(struct subscriber *s, struct pending pending)
{
    if (s->pending_count == s->pending_room) {
        size_t room = s->pending_room ? s->pending_room * 2 : 16;
        struct pending *larger = realloc(s->pending, room * sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        s->pending = larger;
        s->pending_room = room;
    }
    s->pending[s->pending_count++] = pending;
    return 0;
}

/* ---- Subscribing --------------------------------------------------------------------------------- */

/* How to ask for one of the plan; -1: not at all, it is there already. */
static int options_for(const struct subscriber *s, const struct subscription *one)
{
    const struct subscription *old = s->active ? subscriptions_find(s->active, one->filter) : NULL;
    if (!s->fresh && old && old->qos == one->qos && old->id == one->id)
        return -1;
    if (s->config.skip_retained)
        return MQTT_SUB_OPT_SEND_RETAIN_NEVER;
    /* A change of the set is no reason to hear of old values again. */
    return old && !s->fresh ? MQTT_SUB_OPT_SEND_RETAIN_NEW : MQTT_SUB_OPT_SEND_RETAIN_ALWAYS;
}

static int send_batch(struct subscriber *s, struct mosquitto *mosq,
                      const struct subscriptions *plan, size_t first, size_t count, int options)
{
    const struct subscription *one = &plan->list[first];
    char *texts[BATCH];
    for (size_t i = 0; i < count; i++)
        texts[i] =
            (char *)(uintptr_t)plan->list[first + i].filter; /* the library changes nothing */
    mosquitto_property *properties = NULL;
    int mid, rc = MOSQ_ERR_SUCCESS;
    if (one->id != 0)
        rc = mosquitto_property_add_varint(&properties, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, one->id);
    if (rc == MOSQ_ERR_SUCCESS)
        rc = mosquitto_subscribe_multiple(mosq, &mid, (int)count, texts, one->qos, options,
                                          properties);
    mosquitto_property_free_all(&properties);
    if (rc != MOSQ_ERR_SUCCESS)
        return rc == MOSQ_ERR_NOMEM ? -ENOMEM : -EINVAL;
    return add_pending(s, (struct pending){ .mid = mid, .first = first, .count = count });
}

static int send_subscribes(struct subscriber *s, struct mosquitto *mosq,
                           const struct subscriptions *plan)
{
    for (size_t i = 0; i < plan->count;) {
        const struct subscription *one = &plan->list[i];
        int options = options_for(s, one);
        size_t n = 1;
        if (options >= 0 && one->id == 0)
            while (n < BATCH && i + n < plan->count && one[n].id == 0 && one[n].qos == one->qos &&
                   options_for(s, &one[n]) == options)
                n++;
        int rc = options >= 0 ? send_batch(s, mosq, plan, i, n, options) : 0;
        if (rc < 0)
            return rc;
        i += n;
    }
    return 0;
}

/* ---- Unsubscribing ------------------------------------------------------------------------------- */

/* Notes what the plan no longer has, and forgets what it has again. */
static int find_leftover(struct subscriber *s, const struct subscriptions *plan)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->leftover_count; i++)
        if (subscriptions_find(plan, s->leftover[i]))
            free(s->leftover[i]);
        else
            s->leftover[kept++] = s->leftover[i];
    s->leftover_count = kept;
    if (!s->active)
        return 0;
    char **larger = realloc(s->leftover, (kept + s->active->count + 1) * sizeof(*larger));
    if (!larger)
        return -ENOMEM;
    s->leftover = larger;
    for (size_t i = 0; i < s->active->count; i++) {
        if (subscriptions_find(plan, s->active->list[i].filter))
            continue;
        char *text = strdup(s->active->list[i].filter);
        if (!text)
            return -ENOMEM;
        s->leftover[s->leftover_count++] = text;
    }
    return 0;
}

static int send_unsubscribes(struct subscriber *s, struct mosquitto *mosq)
{
    for (size_t i = 0; i < s->leftover_count; i += BATCH) {
        size_t n = s->leftover_count - i < BATCH ? s->leftover_count - i : BATCH;
        int mid;
        int rc = mosquitto_unsubscribe_multiple(mosq, &mid, (int)n, s->leftover + i, NULL);
        if (rc != MOSQ_ERR_SUCCESS)
            return rc == MOSQ_ERR_NOMEM ? -ENOMEM : -EINVAL;
        rc = add_pending(s, (struct pending){ .mid = mid });
        if (rc < 0)
            return rc;
    }
    return 0;
}

int subscriber_apply(struct subscriber *s, struct mosquitto *mosq, bool identifiers)
{
    struct subscriptions *plan;
    int rc = make_plan(s, identifiers, &plan);
    if (rc < 0)
        return rc;
    /* Packets that are not answered yet speak of the list that goes. */
    for (size_t i = 0; i < s->pending_count; i++)
        s->pending[i].first = SIZE_MAX;
    s->logged = 0;
    if (plan->widened > 0)
        log_info("link %s: the broker has no subscription identifiers, overlapping filters are "
                 "joined filters=%zu into=%zu",
                 s->config.link, plan->count + plan->widened, plan->count);
    rc = find_leftover(s, plan);
    if (rc == 0)
        remember(s, plan);
    if (rc == 0)
        rc = send_subscribes(s, mosq, plan);
    if (rc == 0)
        rc = send_unsubscribes(s, mosq);
    subscriptions_free(s->active);
    s->active = plan;
    s->fresh = false;
    if (rc == 0)
        note_settled(s);
    return rc;
}

/* ---- Answers ------------------------------------------------------------------------------------- */

static void log_refused(struct subscriber *s, const char *filter, int code, bool v5)
{
    if (s->logged++ < REFUSED_LOG)
        log_error("link %s: subscription refused filter=%s: %s", s->config.link, filter,
                  v5 ? mosquitto_reason_string(code) : "the broker gives no reason");
    else if (s->logged == REFUSED_LOG + 1)
        log_error("link %s: more subscriptions are refused", s->config.link);
}

/* Takes the packet off the list of those not answered. */
static bool take_pending(struct subscriber *s, int mid, struct pending *out)
{
    for (size_t i = 0; i < s->pending_count; i++)
        if (s->pending[i].mid == mid) {
            *out = s->pending[i];
            s->pending_count--;
            memmove(s->pending + i, s->pending + i + 1,
                    (s->pending_count - i) * sizeof(*s->pending));
            return true;
        }
    return false;
}

size_t subscriber_answered(struct subscriber *s, int mid, int count, const int *granted, bool v5)
{
    struct pending pending;
    if (!take_pending(s, mid, &pending))
        return 0;
    size_t refused = 0;
    for (size_t i = 0; i < pending.count && i < (size_t)count; i++) {
        if (granted[i] < REFUSED)
            continue;
        refused++;
        if (pending.first != SIZE_MAX)
            log_refused(s, s->active->list[pending.first + i].filter, granted[i], v5);
    }
    note_settled(s);
    return refused;
}

void subscriber_unsubscribed(struct subscriber *s, int mid)
{
    struct pending pending;
    if (!take_pending(s, mid, &pending))
        return;
    note_settled(s);
    for (size_t i = 0; i < s->pending_count; i++)
        if (s->pending[i].count == 0)
            return;
    free_texts(&s->leftover, &s->leftover_count);
    remember(s, s->active);
}

bool subscriber_is_settled(const struct subscriber *s)
{
    return atomic_load(&s->settled) == atomic_load(&s->wished);
}

bool subscriber_takes(const struct subscriber *s, const char *topic, size_t len,
                      const uint32_t *ids, size_t n)
{
    return n == 0 || !s->active || subscriptions_take(s->active, topic, len, ids, n);
}
