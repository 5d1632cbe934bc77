/* SPDX-License-Identifier: MIT */

#include "delivery/keep.h"

#include "base/clock.h"
#include "base/container.h"
#include "base/log.h"
#include "delivery/record.h"
#include "delivery/seen.h"
#include "delivery/survey.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define TRIM_AT_ONCE  200 /* dead letters of one transaction */
#define TRIM_EVERY_MS (60 * 1000)

struct dead_total {
    uint64_t count, bytes;
};

struct keeper {
    struct store *store;
    struct seen *seen; /* NULL: none */
    atomic_uint_fast64_t next_number;

    /* Dead letters, as of the last commit, and their bounds. */
    atomic_uint_fast64_t dead, dead_bytes;
    atomic_uint_fast64_t most_dead, most_dead_bytes;
    atomic_int_fast64_t most_dead_ms, trim_ms;
    struct store_task trim;
    atomic_bool trimming;
    struct dead_total trimmed; /* the store's thread's, from here on */
    uint64_t trimmed_ever, trim_saw;
    struct log_trouble trim_said;

    struct survey
        *survey; /* as it was before those to be tried again became waiting ones; NULL: not taken */
    uint64_t seed; /* for the spread of what is due at once */
};

enum kept_state {
    KEPT_WAITING, /* to be written */
    KEPT_HOLDING, /* the same, and it holds its message until then */
    KEPT_WRITTEN,
    KEPT_ENDED, /* the delivery is done; if it was written, it is to be taken away */
};

/* Of rows (store/schema.c). */
enum state {
    STATE_WAITING = 0,
    STATE_DEAD = 1,
    STATE_REVIVED = 2,
};

struct kept {
    struct store_task task; /* to write it, then to take it away; borrows the delivery meanwhile */
    struct keeper *keeper;
    struct delivery *delivery;
    _Atomic(enum kept_state) state;
    bool inserted;  /* the writer's */
    bool was_tried; /* there are attempts on disk; set before the end */
    uint64_t number;
    uint64_t replaces; /* the number of the one in whose place it is written; 0: of none */
    int64_t created_ms;
    size_t rendered_count;
    char *target; /* behind the service's name */
    char service[];
};

struct keeper *keeper_new(struct store *store)
{
    struct keeper *keeper = calloc(1, sizeof(*keeper));
    if (keeper) {
        keeper->store = store;
        keeper_set_bounds(keeper, &DEAD_BOUNDS_DEFAULT);
        atomic_init(&keeper->next_number, 1);
        keeper->seed = (uint64_t)clock_wall_ms() | 1;
    }
    return keeper;
}

void keeper_free(struct keeper *keeper)
{
    if (keeper)
        survey_free(keeper->survey);
    free(keeper);
}

int keeper_load_seen(struct keeper *keeper, struct seen *seen)
{
    uint64_t next_number = atomic_load(&keeper->next_number);
    int rc = seen_load(seen, keeper->store, &next_number);
    atomic_store(&keeper->next_number, next_number);
    keeper->seen = seen;
    return rc;
}

/* ---- Writing; the store's thread ---- */

static bool is_needed(const struct store_task *task)
{
    const struct kept *kept = CONTAINER_OF(task, struct kept, task);
    return atomic_load_explicit(&kept->state, memory_order_acquire) != KEPT_ENDED;
}

static int insert(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct buf *record = store_scratch(store);
    if (record_write(kept->delivery, kept->rendered_count, record) < 0)
        return SQLITE_NOMEM;
    sqlite3_stmt *s =
        store_statement(store, "INSERT OR REPLACE INTO delivery "
                               "(number, service, target, state, created_ms, attempts, "
                               "due_ms, record) "
                               "VALUES (?1, ?2, ?3, 0, ?4, 0, 0, ?5)");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)kept->number);
    sqlite3_bind_text(s, 2, kept->service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 3, kept->target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, kept->created_ms);
    sqlite3_bind_blob64(s, 5, record->data, record->len, SQLITE_STATIC);
    int rc = store_step(s);
    if (rc == SQLITE_OK)
        rc = seen_write(store, kept->number, kept->delivery);
    kept->inserted = rc == SQLITE_OK;
    return rc;
}

static int delete_row(struct store *store, uint64_t number, bool was_tried)
{
    int rc = SQLITE_OK;
    if (was_tried) {
        sqlite3_stmt *attempts = store_statement(store, "DELETE FROM attempt WHERE delivery = ?1");
        if (!attempts)
            return SQLITE_ERROR;
        sqlite3_bind_int64(attempts, 1, (sqlite3_int64)number);
        rc = store_step(attempts);
    }
    sqlite3_stmt *s = store_statement(store, "DELETE FROM delivery WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)number);
    return rc == SQLITE_OK ? store_step(s) : rc;
}

static int take_away(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    return delete_row(store, kept->number, kept->was_tried);
}

/* Also when it is done already, and need not be written: the other one must go. */
static int replace(struct store_task *task, struct store *store)
{
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    int rc = is_needed(task) ? insert(task, store) : SQLITE_OK;
    return rc == SQLITE_OK ? delete_row(store, kept->replaces, true) : rc;
}

static void taken_away(struct store_task *task, struct store *store)
{
    (void)store;
    delivery_return(CONTAINER_OF(task, struct kept, task)->delivery);
}

/* The task that takes it away; the delivery is borrowed for it. */
static void post_end(struct kept *kept)
{
    kept->task = (struct store_task){ .apply = take_away, .done = taken_away };
    store_post(kept->keeper->store, &kept->task);
}

/* If it is to be written still, its state becomes `to`. Returns what it was. */
static enum kept_state leave_waiting(struct kept *kept, enum kept_state to)
{
    enum kept_state before = atomic_load(&kept->state);
    while ((before == KEPT_WAITING || before == KEPT_HOLDING) &&
           !atomic_compare_exchange_weak(&kept->state, &before, to))
        ;
    return before;
}

static void written(struct store_task *task, struct store *store)
{
    (void)store;
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct delivery *d = kept->delivery;
    bool inserted = kept->inserted;
    if (inserted && kept->keeper->seen)
        seen_safe(kept->keeper->seen, d, true);
    enum kept_state before = leave_waiting(kept, KEPT_WRITTEN);
    if (before != KEPT_ENDED) {
        /* From here on the task may be posted again by the owner. */
        if (before == KEPT_HOLDING)
            message_release_hold(d->message);
        delivery_return(d);
    } else if (inserted) {
        post_end(kept); /* done while it was being written */
    } else {
        delivery_return(d);
    }
}

/* It cannot be written: so its message must not be acknowledged for it. What is in a queue goes on without. */
static void not_written(struct store_task *task, struct store *store, int code)
{
    (void)store;
    (void)code;
    struct kept *kept = CONTAINER_OF(task, struct kept, task);
    struct delivery *d = kept->delivery;
    if (leave_waiting(kept, KEPT_WAITING) == KEPT_HOLDING) {
        message_refuse(d->message);
        message_release_hold(d->message);
    }
    delivery_return(d);
}

/* ---- Deliveries ---- */

static struct kept *kept_new(struct keeper *keeper, struct delivery *d)
{
    const char *service = d->target->service, *target = d->target->name;
    size_t service_len = strlen(service), target_len = strlen(target);
    struct kept *kept = malloc(sizeof(*kept) + service_len + target_len + 2);
    if (!kept)
        return NULL;
    *kept = (struct kept){
        .keeper = keeper,
        .delivery = d,
        .number = d->number,
        .rendered_count = d->target->format_count,
    };
    memcpy(kept->service, service, service_len + 1);
    kept->target = kept->service + service_len + 1;
    memcpy(kept->target, target, target_len + 1);
    d->kept = kept;
    d->kept_free = free;
    return kept;
}

/* One that was tried before it had a place is to be written already, and holds its message from now on. */
static void hold_until_written(struct kept *kept)
{
    message_hold(kept->delivery->message);
    enum kept_state expected = KEPT_WAITING;
    if (!atomic_compare_exchange_strong(&kept->state, &expected, KEPT_HOLDING))
        message_release_hold(kept->delivery->message); /* it is written, or holds it */
}

void keep_order(struct keeper *keeper, struct delivery *d)
{
    if (d->number == 0)
        d->number = atomic_fetch_add_explicit(&keeper->next_number, 1, memory_order_relaxed);
}

void keep_put(struct keeper *keeper, struct delivery *d, bool hold)
{
    if (d->kept) {
        if (hold)
            hold_until_written(d->kept);
        return;
    }
    keep_order(keeper, d);
    struct kept *kept = kept_new(keeper, d);
    if (!kept) {
        if (hold)
            message_refuse(d->message);
        return;
    }
    kept->task = (struct store_task){
        .needed = is_needed, .apply = insert, .done = written, .failed = not_written
    };
    kept->created_ms = clock_wall_ms();
    atomic_init(&kept->state, hold ? KEPT_HOLDING : KEPT_WAITING);
    if (hold)
        message_hold(d->message);
    delivery_borrow(d);
    store_post(keeper->store, &kept->task);
}

void keep_end(struct keeper *keeper, struct delivery *d)
{
    (void)keeper;
    struct kept *kept = d->kept;
    if (!kept)
        return;
    enum kept_state before = leave_waiting(kept, KEPT_ENDED);
    if (before == KEPT_HOLDING)
        message_release_hold(d->message); /* delivered is as good as written */
    if (before == KEPT_WRITTEN) {
        atomic_store(&kept->state, KEPT_ENDED);
        delivery_borrow(d);
        post_end(kept);
    }
}

void keep_move(struct keeper *keeper, struct delivery *from, struct delivery *to)
{
    struct kept *old = from->kept;
    keep_order(keeper, to);
    struct kept *kept = old ? kept_new(keeper, to) : NULL;
    if (!kept)
        return;
    enum kept_state before = leave_waiting(old, KEPT_ENDED);
    atomic_store(&old->state, KEPT_ENDED);
    kept->replaces = old->number;
    kept->created_ms = clock_wall_ms();
    kept->task = (struct store_task){ .apply = replace, .done = written };
    atomic_init(&kept->state, before == KEPT_HOLDING ? KEPT_HOLDING : KEPT_WAITING);
    delivery_borrow(to);
    store_post(keeper->store, &kept->task);
}

/* Another attempt was in vain. */
struct retried {
    struct store_task task;
    struct keeper *keeper;
    uint64_t number;
    unsigned attempts;
    int64_t at_ms, due_ms;
    uint64_t size; /* of its record, when it has become a dead letter */
    bool is_there;
    char reason[];
};

static struct retried *retried_new(struct keeper *keeper, const struct delivery *d,
                                   unsigned attempts, const char *reason)
{
    struct kept *kept = d->kept;
    size_t len = strlen(reason) + 1;
    struct retried *retried = kept ? malloc(sizeof(*retried) + len) : NULL;
    if (!retried)
        return NULL;
    kept->was_tried = true;
    *retried = (struct retried){
        .keeper = keeper,
        .number = kept->number,
        .attempts = attempts,
        .at_ms = clock_wall_ms(),
    };
    memcpy(retried->reason, reason, len);
    return retried;
}

static int insert_attempt(const struct retried *retried, struct store *store)
{
    sqlite3_stmt *s =
        store_statement(store, "INSERT OR REPLACE INTO attempt VALUES (?1, ?2, ?3, ?4)");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    sqlite3_bind_int64(s, 2, retried->attempts);
    sqlite3_bind_int64(s, 3, retried->at_ms);
    sqlite3_bind_text(s, 4, retried->reason, -1, SQLITE_STATIC);
    return store_step(s);
}

static int update(struct store_task *task, struct store *store)
{
    const struct retried *retried = CONTAINER_OF(task, struct retried, task);
    sqlite3_stmt *s =
        store_statement(store, "UPDATE delivery SET attempts = ?2, due_ms = ?3 WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    sqlite3_bind_int64(s, 2, retried->attempts);
    sqlite3_bind_int64(s, 3, retried->due_ms);
    int rc = store_step(s);
    return rc == SQLITE_OK ? insert_attempt(retried, store) : rc;
}

static void updated(struct store_task *task, struct store *store)
{
    (void)store;
    free(CONTAINER_OF(task, struct retried, task));
}

void keep_retry(struct keeper *keeper, struct delivery *d, unsigned attempts, int64_t due_ms,
                const char *reason)
{
    keep_put(keeper, d, false); /* if it was not yet */
    struct retried *retried = retried_new(keeper, d, attempts, reason);
    if (!retried)
        return; /* then a restart tries it again too soon, which does no harm */
    retried->task = (struct store_task){ .apply = update, .done = updated };
    retried->due_ms = due_ms;
    store_post(keeper->store, &retried->task);
}

/* ---- Dead letters ---- */

static const char count_sql[] =
    "SELECT count(*), ifnull(sum(length(record)), 0) FROM delivery WHERE state = 1";

static int count_dead(sqlite3_stmt *s, struct dead_total *out)
{
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    if (rc == SQLITE_ROW)
        *out = (struct dead_total){ (uint64_t)sqlite3_column_int64(s, 0),
                                    (uint64_t)sqlite3_column_int64(s, 1) };
    if (s)
        sqlite3_reset(s);
    return rc == SQLITE_ROW ? SQLITE_OK : SQLITE_ERROR;
}

void keeper_set_bounds(struct keeper *keeper, const struct dead_bounds *bounds)
{
    if (!keeper)
        return;
    atomic_store(&keeper->most_dead, bounds->count);
    atomic_store(&keeper->most_dead_bytes, bounds->bytes);
    atomic_store(&keeper->most_dead_ms, bounds->age_ms);
}

/* Whether the oldest one, which ended then, is too much of so many. */
static bool is_too_much(struct keeper *keeper, struct dead_total total, int64_t ended_ms,
                        int64_t now_ms)
{
    const int64_t age_ms = atomic_load(&keeper->most_dead_ms);
    return total.count > atomic_load(&keeper->most_dead) ||
           total.bytes > atomic_load(&keeper->most_dead_bytes) ||
           (age_ms > 0 && ended_ms < now_ms - age_ms);
}

/* Drops the oldest above the bounds, some at a time. */
static int trim(struct store_task *task, struct store *store)
{
    struct keeper *keeper = CONTAINER_OF(task, struct keeper, trim);
    struct dead_total left = { atomic_load(&keeper->dead), atomic_load(&keeper->dead_bytes) };
    sqlite3_int64 numbers[TRIM_AT_ONCE] = { 0 };
    keeper->trim_saw = left.count;
    const int64_t now_ms = clock_wall_ms();
    keeper->trimmed = (struct dead_total){ 0 };
    sqlite3_stmt *s =
        store_statement(store, "SELECT number, length(record), ended_ms FROM delivery "
                               "WHERE state = 1 ORDER BY ended_ms LIMIT ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int(s, 1, TRIM_AT_ONCE);
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW &&
           is_too_much(keeper, left, sqlite3_column_int64(s, 2), now_ms)) {
        const uint64_t bytes = (uint64_t)sqlite3_column_int64(s, 1);
        numbers[keeper->trimmed.count++] = sqlite3_column_int64(s, 0);
        keeper->trimmed.bytes += bytes;
        left.count -= left.count > 0;
        left.bytes -= bytes < left.bytes ? bytes : left.bytes;
    }
    sqlite3_reset(s);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return rc;
    rc = SQLITE_OK;
    for (size_t i = 0; i < keeper->trimmed.count && rc == SQLITE_OK; i++)
        rc = delete_row(store, (uint64_t)numbers[i], true);
    return rc;
}

static void trimmed(struct store_task *task, struct store *store)
{
    (void)store;
    struct keeper *keeper = CONTAINER_OF(task, struct keeper, trim);
    const struct dead_total gone = keeper->trimmed;
    atomic_fetch_sub(&keeper->dead, gone.count);
    atomic_fetch_sub(&keeper->dead_bytes, gone.bytes);
    keeper->trimmed_ever += gone.count;
    atomic_store(&keeper->trimming, false);
    if (gone.count > 0 && log_trouble_due(&keeper->trim_said, clock_mono_ms()))
        log_warning(
            "store: the oldest dead letters are dropped, as they are too many, too large or "
            "too old (`tocsin help dead_letters`): %" PRIu64 " so far",
            keeper->trimmed_ever);
    /* Others of the group may have been buried since. */
    const struct dead_total now = { atomic_load(&keeper->dead), atomic_load(&keeper->dead_bytes) };
    if (gone.count == TRIM_AT_ONCE ||
        (now.count + gone.count > keeper->trim_saw && is_too_much(keeper, now, INT64_MAX, 0)))
        keeper_trim(keeper);
}

void keeper_trim(struct keeper *keeper)
{
    if (atomic_load(&keeper->dead) == 0 || atomic_exchange(&keeper->trimming, true))
        return;
    keeper->trim = (struct store_task){ .apply = trim, .done = trimmed };
    store_post(keeper->store, &keeper->trim);
}

void keeper_tick(struct keeper *keeper, int64_t now_ms)
{
    if (now_ms < atomic_load(&keeper->trim_ms))
        return;
    atomic_store(&keeper->trim_ms, now_ms + TRIM_EVERY_MS);
    keeper_trim(keeper);
}

static int read_size(struct store *store, struct retried *retried)
{
    sqlite3_stmt *s =
        store_statement(store, "SELECT length(record) FROM delivery WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    int rc = sqlite3_step(s);
    retried->is_there = rc == SQLITE_ROW;
    retried->size = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(s, 0) : 0;
    sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int bury(struct store_task *task, struct store *store)
{
    struct retried *retried = CONTAINER_OF(task, struct retried, task);
    sqlite3_stmt *s = store_statement(store, "UPDATE delivery SET state = 1, attempts = ?2, "
                                             "ended_ms = ?3, reason = ?4 WHERE number = ?1");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)retried->number);
    sqlite3_bind_int64(s, 2, retried->attempts);
    sqlite3_bind_int64(s, 3, retried->at_ms);
    sqlite3_bind_text(s, 4, retried->reason, -1, SQLITE_STATIC);
    int rc = store_step(s);
    if (rc == SQLITE_OK)
        rc = insert_attempt(retried, store);
    return rc == SQLITE_OK ? read_size(store, retried) : rc;
}

static void buried(struct store_task *task, struct store *store)
{
    (void)store;
    struct retried *retried = CONTAINER_OF(task, struct retried, task);
    struct keeper *keeper = retried->keeper;
    atomic_fetch_add(&keeper->dead, retried->is_there);
    const struct dead_total total = {
        atomic_load(&keeper->dead),
        atomic_fetch_add(&keeper->dead_bytes, retried->size) + retried->size,
    };
    free(retried);
    if (is_too_much(keeper, total, INT64_MAX, 0))
        keeper_trim(keeper);
}

void keep_bury(struct keeper *keeper, struct delivery *d, unsigned attempts, const char *reason)
{
    keep_put(keeper, d, false);
    struct retried *retried = retried_new(keeper, d, attempts, reason);
    if (!retried) {
        log_error("no memory for a dead letter, id=%s is lost", d->id);
        keep_end(keeper, d);
        return;
    }
    retried->task = (struct store_task){ .apply = bury, .done = buried };
    store_post(keeper->store, &retried->task);
}

uint64_t keeper_dead(const struct keeper *keeper)
{
    return atomic_load(&keeper->dead);
}

int keep_revive_all(struct keeper *keeper)
{
    sqlite3 *db = store_connection(keeper->store);
    survey_free(keeper->survey);
    if (!(keeper->survey = survey_new(db)))
        return -EIO;
    if (survey_count(keeper->survey, NULL, NULL, STATE_REVIVED) > 0) {
        if (sqlite3_exec(db,
                         "UPDATE delivery SET state = 0, attempts = 0, due_ms = 0 WHERE state = 2",
                         NULL, NULL, NULL) != SQLITE_OK)
            return -EIO;
    }
    struct dead_total total;
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db, count_sql, -1, &s, NULL);
    if (rc == SQLITE_OK && (rc = count_dead(s, &total)) == SQLITE_OK) {
        atomic_store(&keeper->dead, total.count);
        atomic_store(&keeper->dead_bytes, total.bytes);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_OK ? 0 : -EIO;
}

/* ---- Loading ---- */

#define SPREAD_MS 2000 /* over which retries that are overdue are spread */
#define DAY_MS    ((int64_t)24 * 3600 * 1000)

static uint64_t random_upto(struct keeper *keeper, uint64_t most)
{
    keeper->seed ^= keeper->seed << 13;
    keeper->seed ^= keeper->seed >> 7;
    keeper->seed ^= keeper->seed << 17;
    return (keeper->seed >> 1) % (most + 1);
}

static const char *find_link(void *context, const char *name)
{
    const struct keep_load *load = context;
    for (const char *const *at = load->links; at && *at; at++)
        if (strcmp(*at, name) == 0)
            return *at;
    return strcmp(name, MESSAGE_INTERNAL) == 0 ? MESSAGE_INTERNAL : NULL;
}

enum column {
    COLUMN_NUMBER,
    COLUMN_CREATED,
    COLUMN_ATTEMPTS,
    COLUMN_DUE,
    COLUMN_RECORD,
};

/* A clock that was set back, or a number that makes no sense, must not make it wait for longer than it ever had to. */
static void set_times(const struct keep_load *load, struct delivery *d, sqlite3_stmt *row)
{
    struct keeper *keeper = load->keeper;
    int64_t longest = load->longest_ms > 0 ? load->longest_ms : DAY_MS;
    int64_t wall = clock_wall_ms(), now = clock_mono_ms();
    int64_t age = wall - sqlite3_column_int64(row, COLUMN_CREATED);
    int64_t wait = sqlite3_column_int64(row, COLUMN_DUE) - wall;
    d->created_ms = now - (age > 0 ? age : 0);
    d->attempts = (unsigned)sqlite3_column_int64(row, COLUMN_ATTEMPTS);
    if (d->attempts > 0)
        d->due_ms =
            now + (wait > 0 && wait <= longest ? wait : (int64_t)random_upto(keeper, SPREAD_MS));
}

/* Makes the delivery of a row. Returns 0, or what record_read() does. */
static int make(struct keep_load *load, sqlite3_stmt *row, uint64_t number, struct delivery **out)
{
    const void *record = sqlite3_column_blob(row, COLUMN_RECORD);
    int rc = record_read(record, (size_t)sqlite3_column_bytes(row, COLUMN_RECORD), load->for_target,
                         find_link, load, out);
    if (rc < 0)
        return rc;
    (*out)->number = number;
    struct kept *kept = kept_new(load->keeper, *out);
    if (!kept) {
        delivery_free(*out);
        return -ENOMEM;
    }
    atomic_init(&kept->state, KEPT_WRITTEN);
    kept->inserted = true;
    kept->was_tried = load->revived || sqlite3_column_int64(row, COLUMN_ATTEMPTS) > 0;
    set_times(load, *out, row);
    return 0;
}

static int load_rows(struct keep_load *load, sqlite3_stmt *row)
{
    struct delivery **end = &load->first;
    load->first = NULL;
    load->rows = 0;
    load->last = load->range.after;
    size_t unread = 0, bytes = 0;
    uint64_t first_unread = 0;
    sqlite3_bind_text(row, 1, load->range.service, -1, SQLITE_STATIC);
    sqlite3_bind_text(row, 2, load->range.target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(row, 3, (sqlite3_int64)load->range.after);
    sqlite3_bind_int64(row, 4, (sqlite3_int64)load->range.last);
    sqlite3_bind_int64(row, 5, (sqlite3_int64)load->most);
    int rc;
    while ((rc = sqlite3_step(row)) == SQLITE_ROW) {
        uint64_t number = (uint64_t)sqlite3_column_int64(row, COLUMN_NUMBER);
        bytes += (size_t)sqlite3_column_bytes(row, COLUMN_RECORD);
        if (load->rows > 0 && bytes > KEEP_LOAD_BYTES)
            break; /* so does this */
        int made = make(load, row, number, end);
        if (made == -ENOMEM)
            break; /* the rest comes with the next load */
        load->rows++;
        load->last = number;
        if (made == 0)
            end = &(*end)->next;
        else if (unread++ == 0)
            first_unread = number;
    }
    if (unread > 0)
        log_error("store: deliveries for %s:%s that cannot be read, or were made for other formats "
                  "than the target has now, stay on disk: %zu, the first of them number %" PRIu64,
                  load->range.service, load->range.target, unread, first_unread);
    *end = NULL;
    load->more = rc == SQLITE_ROW || load->rows == load->most;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static const char load_sql[] =
    "SELECT number, created_ms, attempts, due_ms, record FROM delivery "
    "WHERE service = ?1 AND target = ?2 AND state = 0 AND number > ?3 AND number <= ?4 "
    "ORDER BY number LIMIT ?5";

static void drop_list(struct delivery *first)
{
    while (first) {
        struct delivery *next = first->next;
        delivery_free(first);
        first = next;
    }
}

static const char revived_sql[] =
    "SELECT number, created_ms, 0, 0, record FROM delivery "
    "WHERE service = ?1 AND target = ?2 AND state = 2 AND number > ?3 AND number <= ?4 "
    "ORDER BY number LIMIT ?5";

/* Those that have been loaded wait like others from now on. */
static int mark_revived(const struct keep_load *load, struct store *store)
{
    sqlite3_stmt *s =
        store_statement(store, "UPDATE delivery SET state = 0, attempts = 0, due_ms = 0 "
                               "WHERE service = ?1 AND target = ?2 AND state = 2 AND number <= ?3");
    if (!s)
        return SQLITE_ERROR;
    sqlite3_bind_text(s, 1, load->range.service, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, load->range.target, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, (sqlite3_int64)load->last);
    return store_step(s);
}

static int apply_load(struct store_task *task, struct store *store)
{
    struct keep_load *load = CONTAINER_OF(task, struct keep_load, task);
    drop_list(load->first); /* of a try that was rolled back */
    load->first = NULL;
    sqlite3_stmt *row = store_statement(store, load->revived ? revived_sql : load_sql);
    if (!row)
        return SQLITE_ERROR;
    int rc = load_rows(load, row);
    sqlite3_reset(row);
    if (rc == SQLITE_OK && load->revived && load->rows > 0)
        rc = mark_revived(load, store);
    struct dead_total total;
    if (rc == SQLITE_OK && load->revived &&
        (rc = count_dead(store_statement(store, count_sql), &total)) == SQLITE_OK) {
        load->dead = total.count;
        load->dead_bytes = total.bytes;
    }
    return rc;
}

static void loaded(struct store_task *task, struct store *store)
{
    (void)store;
    struct keep_load *load = CONTAINER_OF(task, struct keep_load, task);
    if (load->revived) { /* somebody else may have dropped some; those of later tasks are counted by them */
        atomic_store(&load->keeper->dead, load->dead);
        atomic_store(&load->keeper->dead_bytes, load->dead_bytes);
    }
    load->loaded(load);
}

void keep_load(struct keep_load *load)
{
    load->first = NULL;
    load->task = (struct store_task){ .apply = apply_load, .done = loaded };
    store_post(load->keeper->store, &load->task);
}

int keep_load_now(struct keep_load *load)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(store_connection(load->keeper->store), load_sql, -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = load_rows(load, row);
    sqlite3_finalize(row);
    return rc == SQLITE_OK ? 0 : -EIO;
}

static const char last_sql[] = "SELECT max(number) FROM delivery";
static const char last_of_target_sql[] =
    "SELECT number FROM delivery WHERE service = ?1 AND target = ?2 AND state = 0 "
    "ORDER BY number DESC LIMIT 1";

int keep_count(struct keeper *keeper, const char *service, const char *target, uint64_t *count,
               uint64_t *last)
{
    sqlite3 *db = store_connection(keeper->store);
    if (!keeper->survey && !(keeper->survey = survey_new(db)))
        return -EIO;
    *count = survey_count(keeper->survey, service, target, STATE_WAITING) +
             survey_count(keeper->survey, service, target, STATE_REVIVED);
    *last = 0;
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(db, service ? last_of_target_sql : last_sql, -1, &row, NULL);
    if (rc == SQLITE_OK && service) {
        sqlite3_bind_text(row, 1, service, -1, SQLITE_STATIC);
        sqlite3_bind_text(row, 2, target, -1, SQLITE_STATIC);
    }
    if (rc == SQLITE_OK && (rc = sqlite3_step(row)) == SQLITE_ROW)
        *last = (uint64_t)sqlite3_column_int64(row, 0);
    if (!service && *last >= atomic_load(&keeper->next_number)) /* they go on behind these */
        atomic_store(&keeper->next_number, *last + 1);
    sqlite3_finalize(row);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -EIO;
}
