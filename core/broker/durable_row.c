/* SPDX-License-Identifier: MIT */

#include "broker/durable_row.h"

#include "base/clock.h"
#include "broker/worker.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define IDENTIFIER_MAX 268435455u

/* ---- Times ---- */

static int64_t sum(int64_t a, int64_t b)
{
    int64_t result;
    if (__builtin_add_overflow(a, b, &result))
        return b < 0 ? INT64_MIN : INT64_MAX;
    return result;
}

static int64_t difference(int64_t a, int64_t b)
{
    int64_t result;
    if (__builtin_sub_overflow(a, b, &result))
        return a < b ? INT64_MIN : INT64_MAX;
    return result;
}

/* ms since the first second of the broker's clock has begun. */
static int64_t broker_ms(const struct durable_clock *clock)
{
    return clock_mono_ms() - clock->broker->started_ms;
}

int64_t expires_to_wall(const struct durable_clock *clock, uint32_t expires)
{
    if (expires == 0)
        return 0;
    const int64_t left = ((int64_t)expires - 1) * 1000 - broker_ms(clock);
    const int64_t at = sum(clock_wall_ms(), left);
    return at < 1 ? 1 : at;
}

uint32_t expires_from_wall(const struct durable_clock *clock, int64_t expires_ms)
{
    if (expires_ms == 0)
        return 0;
    const int64_t now = broker_ms(clock), left = difference(expires_ms, clock_wall_ms());
    if (left <= 0)
        return 1;
    /* The two clocks tick apart, so a time that went to and fro may have become later by one ms; a second that was
     * rounded up has that to give. */
    const int64_t at = sum(now < 0 ? 0 : now, left - 1);
    const int64_t second = at / 1000 + (at % 1000 > 0) + 1;
    return second > UINT32_MAX ? UINT32_MAX : (uint32_t)second;
}

/* ---- Rows ---- */

int row_publication(const struct durable_clock *clock, const void *record, size_t len,
                    struct publication **out)
{
    int64_t expires_ms;
    const int rc = durable_read_publication(record, len, out, &expires_ms);
    if (rc == 0)
        (*out)->expires = expires_from_wall(clock, expires_ms);
    return rc;
}

/* The publication of `message`. */
static int read_record(sqlite3_stmt *record, sqlite3_int64 message,
                       const struct durable_clock *clock, struct row_cache *cache,
                       struct publication **out)
{
    const size_t at = (uint64_t)message % ROW_CACHE;
    if (cache && cache->publications[at] && cache->messages[at] == message) {
        *out = publication_ref(cache->publications[at]);
        return 0;
    }
    sqlite3_bind_int64(record, 1, message);
    const int step = sqlite3_step(record);
    int rc = step == SQLITE_DONE ? -EBADMSG : -EIO;
    if (step == SQLITE_ROW) {
        const void *data = sqlite3_column_blob(record, 0);
        rc = row_publication(clock, data ? data : "", (size_t)sqlite3_column_bytes(record, 0), out);
    }
    sqlite3_reset(record);
    if (rc == 0 && cache) {
        publication_unref(cache->publications[at]);
        cache->publications[at] = publication_ref(*out);
        cache->messages[at] = message;
    }
    return rc;
}

void row_cache_free(struct row_cache *cache)
{
    for (size_t i = 0; cache && i < ROW_CACHE; i++)
        publication_unref(cache->publications[i]);
    free(cache);
}

/* Four bytes for each, the lowest first. */
static int read_identifiers(const uint8_t *bytes, size_t len, struct stored_message *out)
{
    if (len % 4 != 0)
        return -EBADMSG;
    out->ids = malloc(len);
    if (!out->ids)
        return -ENOMEM;
    out->id_count = (uint32_t)(len / 4);
    for (size_t i = 0; i < len / 4; i++, bytes += 4) {
        out->ids[i] = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                      (uint32_t)bytes[3] << 24;
        if (out->ids[i] == 0 || out->ids[i] > IDENTIFIER_MAX)
            return -EBADMSG;
    }
    return 0;
}

/* "NAME/FILTER" */
static int read_share(const char *text, size_t len, struct stored_message *out)
{
    const char *slash = memchr(text, '/', len);
    if (!slash)
        return -EBADMSG;
    const size_t name = (size_t)(slash - text);
    if (topic_name_fault(text, name) || topic_filter_fault(slash + 1, len - name - 1))
        return -EBADMSG;
    out->share = malloc(len + 1);
    if (!out->share)
        return -ENOMEM;
    memcpy(out->share, text, len);
    out->share[len] = '\0';
    return 0;
}

static int read_message(sqlite3_stmt *row, sqlite3_stmt *record, const struct durable_clock *clock,
                        struct row_cache *cache, struct stored_message *out)
{
    const sqlite3_int64 packet_id = sqlite3_column_int64(row, QUEUED_PACKET_ID);
    const sqlite3_int64 qos = sqlite3_column_int64(row, QUEUED_QOS);
    const bool released = sqlite3_column_int(row, QUEUED_RELEASED) != 0;
    if (packet_id < 0 || packet_id > UINT16_MAX || qos < 0 || qos > 2 || (packet_id && qos == 0) ||
        (released && packet_id == 0))
        return -EBADMSG;
    out->packet_id = (uint16_t)packet_id;
    out->qos = (uint8_t)qos;
    out->retain = sqlite3_column_int(row, QUEUED_RETAIN) != 0;

    const sqlite3_int64 message = sqlite3_column_int64(row, QUEUED_MESSAGE);
    const sqlite3_int64 number = sqlite3_column_int64(row, QUEUED_NUMBER);
    if (number < 1 || number > NUMBER_MAX || message < 0 || message > NUMBER_MAX)
        return -EBADMSG;
    int rc = released ? 0 : read_record(record, message, clock, cache, &out->publication);
    const void *share = sqlite3_column_blob(row, QUEUED_SHARE);
    if (rc == 0 && share)
        rc = read_share(share, (size_t)sqlite3_column_bytes(row, QUEUED_SHARE), out);
    const void *ids = sqlite3_column_blob(row, QUEUED_IDENTIFIERS);
    if (rc == 0 && ids)
        rc = read_identifiers(ids, (size_t)sqlite3_column_bytes(row, QUEUED_IDENTIFIERS), out);
    if (rc < 0)
        return rc;

    out->kept = malloc(sizeof(*out->kept));
    if (!out->kept)
        return -ENOMEM;
    atomic_init(&out->kept->refs, 1);
    atomic_init(&out->kept->state, KEPT_WRITTEN);
    out->kept->session = (uint64_t)sqlite3_column_int64(row, QUEUED_SESSION);
    out->kept->number = (uint64_t)number;
    out->kept->message = (uint64_t)message;
    out->kept->shared = sqlite3_column_type(row, QUEUED_SHARE) != SQLITE_NULL;
    return 0;
}

int row_message(sqlite3_stmt *row, sqlite3_stmt *record, const struct durable_clock *clock,
                struct row_cache *cache, struct stored_message *out)
{
    *out = (struct stored_message){ .publication = NULL };
    const int rc = read_message(row, record, clock, cache, out);
    if (rc < 0)
        stored_message_release(out);
    return rc;
}

void stored_message_release(struct stored_message *message)
{
    publication_unref(message->publication);
    if (message->kept &&
        atomic_fetch_sub_explicit(&message->kept->refs, 1, memory_order_acq_rel) == 1)
        free(message->kept);
    free(message->ids);
    free(message->share);
    *message = (struct stored_message){ .publication = NULL };
}
