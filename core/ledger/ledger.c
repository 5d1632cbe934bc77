/* SPDX-License-Identifier: MIT */

/* What waits to be written, how it is written, and what goes. */

#include "ledger/ledger.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"
#include "config/options.h"
#include "ledger/sheet.h"
#include "store/store.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SOON_BYTES \
    ((size_t)256 * 1024) /* that wait: then it is written without waiting for others */
#define KEPT_BYTES    ((size_t)1024 * 1024) /* of a buffer that has been larger */
#define ROW_BYTES     40                    /* of a row beside its sheets, about */
#define TRIM_ROWS     64                    /* that go with a transaction at most */
#define TRIM_BYTES    ((int64_t)256 * 1024) /* the same, beyond twice of what comes */
#define FIRST_WAIT_MS 1000                  /* after a transaction that failed */
#define LAST_WAIT_MS  60000

/* Where the ledger on disk begins and ends. */
struct extent {
    int64_t first_position, first_until_ms;
    int64_t next_number, end_position;
    bool empty;
};

struct ledger {
    struct store_rider rider;
    struct store *store;
    atomic_int keep;
    atomic_bool unmatched;
    atomic_int_fast64_t max_age_ms, max_size;
    atomic_uint_fast64_t entries_noted, events_noted, dropped_ever, bytes_on_disk;

    pthread_mutex_t lock; /* for what follows */
    struct buf waiting;   /* to be written, with the next transaction */
    size_t entries;       /* of these */
    size_t taken_bytes;   /* of what is being written */
    uint64_t dropped;     /* since the last row */
    int64_t until_ms;     /* when the last sheet came */
    bool said_soon;       /* the store was woken for it */
    bool ends;
    struct log_trouble full;

    /* The store's thread. */
    struct buf taken; /* one row, until it is committed */
    size_t taken_entries;
    uint64_t taken_dropped;
    int64_t taken_until_ms;
    struct extent extent, planned; /* as committed; as they will be after the transaction */
    int64_t ridden_ms;             /* monotonic clock */
    int64_t wait_ms, not_before_ms;
};

/* ---- Configuration ---- */

struct ledger_settings {
    const char *keep;
    struct tocsin_duration max_age;
    struct tocsin_size max_size;
    bool unmatched;
};

const struct tocsin_option ledger_options[] = {
    TOCSIN_OPTION(struct ledger_settings, keep, .def = "all", .choices = "all|deliveries|none",
                  .help = "What is kept of the messages of routes that do not say it themselves: "
                          "every decision, only what led to deliveries, or nothing."),
    TOCSIN_OPTION(struct ledger_settings, max_age, .def = "30d", .min = 1000, .max = 315360000000,
                  .help = "What is older goes."),
    TOCSIN_OPTION(struct ledger_settings, max_size, .def = "128MiB", .min = 65536,
                  .max = INT64_C(1) << 40,
                  .help = "What is more than that goes, the oldest first. A message takes some 60 "
                          "bytes beside its topic."),
    TOCSIN_OPTION(struct ledger_settings, unmatched, .def = "false",
                  .help = "Whether messages that match no route are kept, too."),
    { .name = NULL },
};

int ledger_config_read(const struct conf *conf, struct ledger_config *out,
                       struct conf_errors *errors)
{
    const struct conf_node *group = conf_node_get(conf_root(conf), "ledger");
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "not a group, write ledger = { };");
        group = NULL;
    }
    struct ledger_settings settings = { 0 };
    const struct options_part part = { ledger_options, &settings };
    struct options_memory memory = { 0 };
    size_t wrong = options_read(group, &part, 1, NULL, &memory, errors);
    *out = (struct ledger_config){
        .keep = LEDGER_KEEP_ALL,
        .max_age_ms = settings.max_age.ms,
        .max_size = settings.max_size.bytes,
        .unmatched = settings.unmatched,
    };
    if (settings.keep && strcmp(settings.keep, "deliveries") == 0)
        out->keep = LEDGER_KEEP_DELIVERIES;
    if (settings.keep && strcmp(settings.keep, "none") == 0)
        out->keep = LEDGER_KEEP_NONE;
    options_memory_release(&memory);
    return wrong > 0 ? -EINVAL : 0;
}

void ledger_configure(struct ledger *ledger, const struct ledger_config *config)
{
    if (!ledger)
        return;
    atomic_store(&ledger->keep, (int)config->keep);
    atomic_store(&ledger->unmatched, config->unmatched);
    atomic_store(&ledger->max_age_ms, config->max_age_ms);
    atomic_store(&ledger->max_size, config->max_size);
}

enum ledger_keep ledger_keeps(const struct ledger *ledger, enum ledger_keep keep)
{
    if (!ledger)
        return LEDGER_KEEP_NONE;
    return keep != LEDGER_KEEP_DEFAULT
               ? keep
               : (enum ledger_keep)atomic_load_explicit(&ledger->keep, memory_order_relaxed);
}

bool ledger_wants_unmatched(const struct ledger *ledger)
{
    return ledger && atomic_load_explicit(&ledger->unmatched, memory_order_relaxed);
}

/* ---- Taking in; any thread ---- */

void ledger_add(struct ledger *ledger, struct sheet *sheet, size_t entries, size_t events)
{
    const struct buf *bytes = &sheet->out;
    bool good = sheet_finish(sheet);
    int64_t now_ms = clock_wall_ms();
    bool wake = false, say_full = false;
    pthread_mutex_lock(&ledger->lock);
    size_t waits = ledger->waiting.len + ledger->taken_bytes;
    bool fits = good && waits <= LEDGER_WAITING_MOST && bytes->len <= LEDGER_WAITING_MOST - waits &&
                buf_add(&ledger->waiting, bytes->data, bytes->len) == 0;
    if (fits) {
        ledger->entries += entries;
        ledger->until_ms = now_ms;
        wake = ledger->waiting.len >= SOON_BYTES && !ledger->said_soon;
        ledger->said_soon |= wake;
    } else {
        ledger->waiting.error = 0;
        ledger->dropped += entries + events;
        say_full = log_trouble_due(&ledger->full, clock_mono_ms());
    }
    pthread_mutex_unlock(&ledger->lock);
    if (fits) {
        atomic_fetch_add_explicit(&ledger->entries_noted, entries, memory_order_relaxed);
        atomic_fetch_add_explicit(&ledger->events_noted, events, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&ledger->dropped_ever, entries + events, memory_order_relaxed);
    }
    if (wake)
        store_wake(ledger->store);
    if (say_full)
        log_warning("ledger: the store does not keep up, so it will have a gap; deliveries are not "
                    "affected");
}

/* ---- What happened to deliveries ---- */

static bool is_wanted(const struct ledger *ledger, const struct delivery *delivery)
{
    return ledger_keeps(ledger, delivery->ledger) != LEDGER_KEEP_NONE;
}

void ledger_note(struct ledger *ledger, const struct ledger_note *notes, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; ledger && i < n; i++)
        count += is_wanted(ledger, notes[i].delivery);
    if (count == 0)
        return;
    int64_t now_ms = clock_wall_ms();
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, now_ms);
    count = 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_wanted(ledger, notes[i].delivery))
            continue;
        sheet_add_event(&sheet, &notes[i], now_ms);
        count++;
    }
    ledger_add(ledger, &sheet, 0, count);
    sheet_release(&sheet);
}

void ledger_note_one(struct ledger *ledger, enum ledger_event event,
                     const struct delivery *delivery, const char *reason)
{
    const struct ledger_note note = { .event = event, .delivery = delivery, .reason = reason };
    ledger_note(ledger, &note, 1);
}

void ledger_note_moved(struct ledger *ledger, const struct delivery *delivery, const char *target,
                       const char *reason)
{
    const struct ledger_note note = {
        .event = LEDGER_MOVED,
        .delivery = delivery,
        .reason = reason,
        .target = target,
    };
    ledger_note(ledger, &note, 1);
}

void ledger_note_suppressed(struct ledger *ledger, const struct message *message,
                            const char *reason)
{
    if (ledger_keeps(ledger, LEDGER_KEEP_DEFAULT) == LEDGER_KEEP_NONE)
        return;
    struct sheet sheet;
    sheet_init(&sheet);
    sheet_begin(&sheet, clock_wall_ms());
    sheet_add_suppressed(&sheet, reason);
    sheet_add_message(&sheet, message, 0);
    ledger_add(ledger, &sheet, 1, 0);
    sheet_release(&sheet);
}

static void note_run(struct ledger *ledger, bool ends)
{
    char run[DELIVERY_RUN_SIZE];
    delivery_run(run);
    struct sheet sheet;
    sheet_init(&sheet);
    int64_t now_ms = clock_wall_ms();
    sheet_begin(&sheet, now_ms);
    sheet_add_run(&sheet, ends, run, now_ms);
    ledger_add(ledger, &sheet, 0, 1);
    sheet_release(&sheet);
}

/* ---- Writing; the store's thread ---- */

static bool is_too_old(const struct ledger *ledger, const struct extent *e)
{
    return !e->empty && clock_wall_ms() - e->first_until_ms > atomic_load(&ledger->max_age_ms);
}

static bool is_too_large(const struct ledger *ledger, const struct extent *e)
{
    return !e->empty && e->end_position - e->first_position > atomic_load(&ledger->max_size);
}

static bool wants(struct store_rider *rider, bool alone)
{
    struct ledger *ledger = CONTAINER_OF(rider, struct ledger, rider);
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&ledger->lock);
    size_t waits = ledger->waiting.len + ledger->taken.len;
    bool soon = waits >= SOON_BYTES, ends = ledger->ends;
    pthread_mutex_unlock(&ledger->lock);
    if (ends && waits > 0)
        return true;
    if (now_ms < ledger->not_before_ms)
        return false;
    if (!alone)
        return waits > 0;
    if (waits > 0 && (soon || now_ms - ledger->ridden_ms >= STORE_WATCH_MS))
        return true;
    return is_too_old(ledger, &ledger->extent) || is_too_large(ledger, &ledger->extent);
}

/* Takes what waits, if nothing is left of a transaction that failed. */
static void take(struct ledger *ledger)
{
    if (ledger->taken.len > 0)
        return;
    if (ledger->taken.cap > KEPT_BYTES)
        buf_release(&ledger->taken);
    struct buf empty = ledger->taken;
    pthread_mutex_lock(&ledger->lock);
    ledger->taken = ledger->waiting;
    ledger->taken_entries = ledger->entries;
    ledger->taken_dropped = ledger->dropped;
    ledger->taken_until_ms = ledger->until_ms;
    ledger->taken_bytes = ledger->taken.len;
    ledger->waiting = empty;
    ledger->entries = 0;
    ledger->dropped = 0;
    ledger->said_soon = false;
    pthread_mutex_unlock(&ledger->lock);
}

static int insert(struct ledger *ledger, struct store *store)
{
    sqlite3_stmt *s =
        store_statement(store, "INSERT INTO ledger "
                               "(number, entries, until_ms, position, bytes, dropped, sheets) "
                               "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    if (!s)
        return SQLITE_ERROR;
    struct extent *e = &ledger->planned;
    int64_t bytes = (int64_t)ledger->taken.len + ROW_BYTES;
    sqlite3_bind_int64(s, 1, e->next_number);
    sqlite3_bind_int64(s, 2, (sqlite3_int64)ledger->taken_entries);
    sqlite3_bind_int64(s, 3, ledger->taken_until_ms);
    sqlite3_bind_int64(s, 4, e->end_position);
    sqlite3_bind_int64(s, 5, bytes);
    sqlite3_bind_int64(s, 6, (sqlite3_int64)ledger->taken_dropped);
    sqlite3_bind_blob64(s, 7, ledger->taken.data, ledger->taken.len, SQLITE_STATIC);
    int rc = store_step(s);
    if (e->empty) {
        e->first_position = e->end_position;
        e->first_until_ms = ledger->taken_until_ms;
        e->empty = false;
    }
    e->end_position += bytes;
    e->next_number += ledger->taken_entries > 0 ? (int64_t)ledger->taken_entries : 1;
    return rc;
}

/* Looks where it begins. Sets `*number` to that of the first row, if there is one. */
static int look_at_first(sqlite3_stmt *s, struct extent *e, int64_t *number)
{
    if (!s)
        return SQLITE_ERROR;
    int rc = sqlite3_step(s);
    e->empty = rc != SQLITE_ROW;
    if (rc == SQLITE_ROW) {
        *number = sqlite3_column_int64(s, 0);
        e->first_position = sqlite3_column_int64(s, 1);
        e->first_until_ms = sqlite3_column_int64(s, 2);
    }
    sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static const char first_sql[] =
    "SELECT number, position, until_ms FROM ledger ORDER BY number LIMIT 1";

/* The oldest rows go, a few with each transaction, faster than new ones come. */
static int trim(struct ledger *ledger, struct store *store)
{
    struct extent *e = &ledger->planned;
    int64_t begin = e->first_position, most = 2 * (int64_t)ledger->taken.len + TRIM_BYTES;
    for (size_t i = 0; i < TRIM_ROWS && e->first_position - begin < most &&
                       (is_too_old(ledger, e) || is_too_large(ledger, e));
         i++) {
        int64_t first = 0;
        int rc = look_at_first(store_statement(store, first_sql), e, &first);
        if (rc != SQLITE_OK)
            return rc;
        if (e->empty)
            break;
        sqlite3_stmt *s = store_statement(store, "DELETE FROM ledger WHERE number = ?1");
        if (!s)
            return SQLITE_ERROR;
        sqlite3_bind_int64(s, 1, first);
        rc = store_step(s);
        if (rc == SQLITE_OK)
            rc = look_at_first(store_statement(store, first_sql), e, &first);
        if (rc != SQLITE_OK)
            return rc;
    }
    return SQLITE_OK;
}

static int apply(struct store_rider *rider, struct store *store)
{
    struct ledger *ledger = CONTAINER_OF(rider, struct ledger, rider);
    take(ledger);
    ledger->planned = ledger->extent;
    int rc = ledger->taken.len > 0 ? insert(ledger, store) : SQLITE_OK;
    return rc == SQLITE_OK ? trim(ledger, store) : rc;
}

static void set_bytes(struct ledger *ledger)
{
    const struct extent *e = &ledger->extent;
    atomic_store(&ledger->bytes_on_disk,
                 e->empty ? 0 : (uint64_t)(e->end_position - e->first_position));
}

static void done(struct store_rider *rider, bool committed)
{
    struct ledger *ledger = CONTAINER_OF(rider, struct ledger, rider);
    int64_t now_ms = clock_mono_ms();
    ledger->ridden_ms = now_ms;
    if (!committed) {
        ledger->wait_ms = ledger->wait_ms ? ledger->wait_ms * 2 : FIRST_WAIT_MS;
        if (ledger->wait_ms > LAST_WAIT_MS)
            ledger->wait_ms = LAST_WAIT_MS;
        ledger->not_before_ms = now_ms + ledger->wait_ms;
        return;
    }
    ledger->wait_ms = 0;
    ledger->extent = ledger->planned;
    set_bytes(ledger);
    buf_clear(&ledger->taken);
    pthread_mutex_lock(&ledger->lock);
    ledger->taken_bytes = 0;
    bool over = ledger->dropped == 0 && log_trouble_over(&ledger->full);
    pthread_mutex_unlock(&ledger->lock);
    if (over)
        log_info("ledger: the store keeps up again");
}

/* ---- Life ---- */

static int load_extent(struct ledger *ledger)
{
    struct extent *e = &ledger->extent;
    sqlite3 *db = store_connection(ledger->store);
    sqlite3_stmt *s = NULL;
    *e = (struct extent){ .next_number = 1, .empty = true };
    int64_t first;
    int rc = sqlite3_prepare_v2(db, first_sql, -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = look_at_first(s, e, &first);
    sqlite3_finalize(s);
    if (rc != SQLITE_OK || e->empty)
        return rc == SQLITE_OK ? 0 : -EIO;
    s = NULL;
    rc = sqlite3_prepare_v2(
        db, "SELECT number, entries, position, bytes FROM ledger ORDER BY number DESC LIMIT 1", -1,
        &s, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t entries = sqlite3_column_int64(s, 1);
        e->next_number = sqlite3_column_int64(s, 0) + (entries > 0 ? entries : 1);
        e->end_position = sqlite3_column_int64(s, 2) + sqlite3_column_int64(s, 3);
    }
    sqlite3_finalize(s);
    set_bytes(ledger);
    return rc == SQLITE_ROW ? 0 : -EIO;
}

int ledger_new(struct store *store, const struct ledger_config *config, struct ledger **out)
{
    *out = NULL;
    struct ledger *ledger = calloc(1, sizeof(*ledger));
    if (!ledger)
        return -ENOMEM;
    ledger->store = store;
    ledger->rider = (struct store_rider){ .wants = wants, .apply = apply, .done = done };
    pthread_mutex_init(&ledger->lock, NULL);
    buf_init(&ledger->waiting, LEDGER_WAITING_MOST);
    buf_init(&ledger->taken, LEDGER_WAITING_MOST);
    ledger_configure(ledger, config);
    int rc = load_extent(ledger);
    if (rc < 0) {
        ledger_free(ledger);
        return rc;
    }
    *out = ledger;
    return 0;
}

void ledger_begin(struct ledger *ledger)
{
    if (!ledger)
        return;
    note_run(ledger, false);
    store_ride(ledger->store, &ledger->rider);
}

void ledger_end(struct ledger *ledger)
{
    if (!ledger)
        return;
    note_run(ledger, true);
    pthread_mutex_lock(&ledger->lock);
    ledger->ends = true;
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_free(struct ledger *ledger)
{
    if (!ledger)
        return;
    pthread_mutex_destroy(&ledger->lock);
    buf_release(&ledger->waiting);
    buf_release(&ledger->taken);
    free(ledger);
}

void ledger_stats(struct ledger *ledger, struct ledger_stats *out)
{
    *out = (struct ledger_stats){ 0 };
    if (!ledger)
        return;
    *out = (struct ledger_stats){
        .entries = atomic_load(&ledger->entries_noted),
        .events = atomic_load(&ledger->events_noted),
        .dropped = atomic_load(&ledger->dropped_ever),
        .bytes = atomic_load(&ledger->bytes_on_disk),
    };
    pthread_mutex_lock(&ledger->lock);
    out->waiting = ledger->waiting.len + ledger->taken_bytes;
    pthread_mutex_unlock(&ledger->lock);
}
