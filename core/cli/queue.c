/* SPDX-License-Identifier: MIT */

/*
 * tocsin queue: looks into the store, and changes what is in it. It reads and writes the file itself, beside a
 * daemon that may be running; the daemon notices within a second.
 */

#include "base/buf.h"
#include "base/clock.h"
#include "base/units.h"
#include "cli/book_file.h"
#include "cli/cli.h"
#include "cli/queue_to.h"
#include "delivery/record.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "target", 0, "SERVICE[:TARGET]", "Only deliveries for that service or target." },
    { "topic", 't', "FILTER", "Only those of messages whose topic matches this MQTT filter." },
    { "since", 0, "DURATION", "Only those made in that time, such as 2h." },
    { "match", 0, "TEXT", "Only those with this in payload, text, title or reason." },
    { "dead", 0, NULL, "Only dead letters; what retry and drop begin with if left out." },
    { "waiting", 0, NULL, "Only what waits to be delivered." },
    { "to", 0, "SERVICE:TARGET", "Have them tried there, in place of where they were for." },
    { "dry-run", 'n', NULL, "Say what retry or drop would do, and do nothing." },
    { "json", 0, NULL, "Print JSON: an object on each line." },
    { .name = NULL },
};

#define NOT_STARTED INT64_MIN /* in place of a count: what is wrong has been said */

enum state {
    STATE_WAITING = 0,
    STATE_DEAD = 1,
    STATE_REVIVED = 2,
};

static const char *const state_names[] = { "waiting", "dead", "to be retried" };

struct filter {
    const char *service, *target; /* NULL: any */
    size_t service_len;
    const char *topic;
    const char *match;
    int64_t since_ms; /* 0: any */
    bool dead, waiting;
    char *const *numbers; /* of single ones */
    size_t number_count;
    bool *found; /* of each of these, whether it was there and wanted */
};

/* One row, and what of its record is looked at. */
struct entry {
    uint64_t number;
    const char *service, *target, *reason;
    enum state state;
    int64_t created_ms, ended_ms, due_ms;
    unsigned attempts;
    const void *record;
    size_t record_len;
    struct record_field topic;
};

enum column {
    COLUMN_NUMBER,
    COLUMN_SERVICE,
    COLUMN_TARGET,
    COLUMN_STATE,
    COLUMN_CREATED,
    COLUMN_ATTEMPTS,
    COLUMN_DUE,
    COLUMN_ENDED,
    COLUMN_REASON,
    COLUMN_RECORD,
};

/* ---- Reading ---- */

static const char *text_of(sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    return text ? text : "";
}

static struct entry read_entry(sqlite3_stmt *row)
{
    struct entry e = {
        .number = (uint64_t)sqlite3_column_int64(row, COLUMN_NUMBER),
        .service = text_of(row, COLUMN_SERVICE),
        .target = text_of(row, COLUMN_TARGET),
        .state = (enum state)sqlite3_column_int(row, COLUMN_STATE),
        .created_ms = sqlite3_column_int64(row, COLUMN_CREATED),
        .attempts = (unsigned)sqlite3_column_int64(row, COLUMN_ATTEMPTS),
        .due_ms = sqlite3_column_int64(row, COLUMN_DUE),
        .ended_ms = sqlite3_column_int64(row, COLUMN_ENDED),
        .reason = text_of(row, COLUMN_REASON),
        .record = sqlite3_column_blob(row, COLUMN_RECORD),
        .record_len = (size_t)sqlite3_column_bytes(row, COLUMN_RECORD),
    };
    if (e.state < STATE_WAITING || e.state > STATE_REVIVED)
        e.state = STATE_DEAD;
    struct record_field field;
    for (size_t at = 0; record_next(e.record, e.record_len, &at, &field);)
        if (strcmp(field.name, "topic") == 0)
            e.topic = field;
    return e;
}

static bool record_has(const struct entry *e, const char *text)
{
    size_t len = strlen(text);
    struct record_field field;
    for (size_t at = 0; record_next(e->record, e->record_len, &at, &field);)
        if ((strcmp(field.name, "payload") == 0 || strcmp(field.name, "text") == 0 ||
             strcmp(field.name, "title") == 0) &&
            memmem(field.data, field.len, text, len))
            return true;
    return strstr(e->reason, text) != NULL;
}

static bool is_listed(const struct filter *f, uint64_t number)
{
    for (size_t i = 0; i < f->number_count; i++)
        if (strtoull(f->numbers[i], NULL, 10) == number)
            return true;
    return f->number_count == 0;
}

static void note_found(const struct filter *f, uint64_t number)
{
    for (size_t i = 0; i < f->number_count; i++)
        f->found[i] |= strtoull(f->numbers[i], NULL, 10) == number;
}

static bool is_wanted(const struct filter *f, const struct entry *e)
{
    if ((f->dead && e->state == STATE_WAITING) || (f->waiting && e->state == STATE_DEAD) ||
        !is_listed(f, e->number) || (f->since_ms && e->created_ms < f->since_ms))
        return false;
    if (f->service && (strncmp(e->service, f->service, f->service_len) != 0 ||
                       e->service[f->service_len] != '\0'))
        return false;
    if (f->target && strcmp(e->target, f->target) != 0)
        return false;
    if (f->topic && !topic_filter_matches(f->topic, strlen(f->topic), e->topic.data, e->topic.len))
        return false;
    return !f->match || record_has(e, f->match);
}

/* Calls `each` with the entries that are wanted, oldest first. Returns how many, or -EIO. */
static int64_t visit(sqlite3 *db, const struct filter *filter,
                     void (*each)(const struct entry *entry, void *context), void *context)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(
            db,
            "SELECT number, service, target, state, created_ms, attempts, due_ms, "
            "ended_ms, CASE WHEN state = 1 THEN reason ELSE "
            "(SELECT reason FROM attempt WHERE delivery = delivery.number "
            "ORDER BY number DESC LIMIT 1) END, record FROM delivery ORDER BY number",
            -1, &row, NULL) != SQLITE_OK)
        return -EIO;
    int64_t count = 0;
    int rc;
    while ((rc = sqlite3_step(row)) == SQLITE_ROW) {
        struct entry e = read_entry(row);
        if (!is_wanted(filter, &e))
            continue;
        each(&e, context);
        note_found(filter, e.number);
        count++;
    }
    sqlite3_finalize(row);
    return rc == SQLITE_DONE ? count : -EIO;
}

/* ---- Printing ---- */

static void add_time(struct buf *out, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    char text[32] = "?";
    if (localtime_r(&seconds, &parts))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts);
    buf_add_str(out, text);
}

/* What a stranger has sent, on one line of a terminal. */
static void add_clean(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < ' ' || c == 0x7f)
            buf_addf(out, "\\x%02x", c);
        else
            buf_add_byte(out, text[i]);
    }
}

static void print(struct buf *out)
{
    fwrite(buf_str(out), 1, out->len, stdout);
    buf_release(out);
}

static json_t *json_of(const char *text, size_t len)
{
    json_t *value = json_stringn(text, len);
    return value ? value : json_stringn_nocheck("(not UTF-8)", 11);
}

static json_t *json_entry(const struct entry *e)
{
    return json_pack("{s:I, s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:s}", "number",
                     (json_int_t)e->number, "state", state_names[e->state], "service", e->service,
                     "target", e->target, "topic", json_of(e->topic.data, e->topic.len), "attempts",
                     (json_int_t)e->attempts, "created_ms", (json_int_t)e->created_ms, "ended_ms",
                     (json_int_t)e->ended_ms, "reason", e->reason);
}

static void print_json(json_t *value)
{
    json_dumpf(value, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(value);
}

struct listing {
    bool as_json, begun;
};

static void list_one(const struct entry *e, void *context)
{
    struct listing *listing = context;
    if (listing->as_json) {
        print_json(json_entry(e));
        return;
    }
    if (!listing->begun)
        puts("  number  state    made                 attempts  target  topic  reason");
    listing->begun = true;
    struct buf line = BUF_INIT(1024 * 1024);
    buf_addf(&line, "%8" PRIu64 "  %-7s  ", e->number,
             e->state == STATE_REVIVED ? "retry" : state_names[e->state]);
    add_time(&line, e->created_ms);
    buf_addf(&line, "  %8u  %s:%s  ", e->attempts, e->service, e->target);
    add_clean(&line, e->topic.data, e->topic.len);
    if (e->reason[0]) {
        buf_add_str(&line, "  ");
        add_clean(&line, e->reason, strlen(e->reason));
    }
    buf_add_byte(&line, '\n');
    print(&line);
}

static void add_fields(json_t *object, const struct entry *e)
{
    json_t *fields = json_array();
    struct record_field field;
    for (size_t at = 0; record_next(e->record, e->record_len, &at, &field);)
        json_array_append_new(fields, json_pack("{s:s, s:o}", "name", field.name, "value",
                                                json_of(field.data, field.len)));
    json_object_set_new(object, "record", fields);
}

/* When it is tried next, if that is known, and it is on its way at all. */
static int64_t next_try(const struct entry *e)
{
    return e->state == STATE_WAITING && e->attempts > 0 ? e->due_ms : 0;
}

struct showing {
    sqlite3 *db;
    bool as_json;
};

static void show_attempts(sqlite3 *db, const struct entry *e, json_t *list, struct buf *out)
{
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(
            db, "SELECT number, at_ms, reason FROM attempt WHERE delivery = ?1 ORDER BY number", -1,
            &row, NULL) != SQLITE_OK)
        return;
    sqlite3_bind_int64(row, 1, (sqlite3_int64)e->number);
    while (sqlite3_step(row) == SQLITE_ROW) {
        const char *reason = text_of(row, 2);
        if (list) {
            json_array_append_new(list, json_pack("{s:I, s:I, s:s}", "attempt",
                                                  (json_int_t)sqlite3_column_int64(row, 0), "at_ms",
                                                  (json_int_t)sqlite3_column_int64(row, 1),
                                                  "reason", reason));
            continue;
        }
        buf_addf(out, "attempt %-4" PRId64 "   ", (int64_t)sqlite3_column_int64(row, 0));
        add_time(out, sqlite3_column_int64(row, 1));
        buf_add_str(out, "  ");
        add_clean(out, reason, strlen(reason));
        buf_add_byte(out, '\n');
    }
    sqlite3_finalize(row);
}

/* What can be done about it. */
static void add_advice(const struct entry *e, struct buf *out)
{
    if (e->state == STATE_DEAD)
        buf_addf(out,
                 "`tocsin queue retry %" PRIu64 "` has it tried again (--to SERVICE:TARGET: "
                 "elsewhere), `tocsin queue drop %" PRIu64 "` forgets it;\n",
                 e->number, e->number);
    buf_addf(out, "`tocsin why --queue %" PRIu64 "` tells how it came to be.\n", e->number);
}

static void show_one(const struct entry *e, void *context)
{
    const struct showing *showing = context;
    if (showing->as_json) {
        json_t *object = json_entry(e), *attempts = json_array();
        show_attempts(showing->db, e, attempts, NULL);
        json_object_set_new(object, "errors", attempts);
        add_fields(object, e);
        print_json(object);
        return;
    }
    struct buf out = BUF_INIT(64 * 1024 * 1024);
    buf_addf(&out, "number         %" PRIu64 "\nstate          %s\ntarget         %s:%s\n",
             e->number, state_names[e->state], e->service, e->target);
    buf_add_str(&out, "made           ");
    add_time(&out, e->created_ms);
    if (e->ended_ms) {
        buf_add_str(&out, "\nended          ");
        add_time(&out, e->ended_ms);
    }
    buf_addf(&out, "\nattempts       %u\n", e->attempts);
    if (next_try(e) > 0) {
        buf_add_str(&out, "next attempt   ");
        add_time(&out, next_try(e));
        buf_add_byte(&out, '\n');
    }
    if (e->reason[0]) {
        buf_add_str(&out, "reason         ");
        add_clean(&out, e->reason, strlen(e->reason));
        buf_add_byte(&out, '\n');
    }
    struct record_field field;
    for (size_t at = 0; record_next(e->record, e->record_len, &at, &field);) {
        bool is_time = strcmp(field.name, "received_ms") == 0;
        buf_addf(&out, "%-14s ", is_time ? "received" : field.name);
        if (is_time)
            add_time(&out, strtoll(field.data, NULL, 10));
        else
            add_clean(&out, field.data, field.len);
        buf_add_byte(&out, '\n');
    }
    show_attempts(showing->db, e, NULL, &out);
    add_advice(e, &out);
    buf_add_byte(&out, '\n');
    print(&out);
}

/* ---- Changing ---- */

struct change {
    sqlite3_stmt *statement, *attempts;
    const struct queue_to *to; /* NULL: where they were for */
    bool dry_run;
    struct listing listing;
    int rc;
    int64_t skipped;
};

/* Makes it one for the target that it is to go to. */
static void change_target(struct change *change, const struct entry *e)
{
    const struct target *target = queue_to_target(change->to);
    struct buf record = BUF_INIT(1024 * 1024 * 1024);
    int rc = queue_to_record(change->to, e->number, e->record, e->record_len, &record);
    if (rc < 0) {
        fprintf(stderr, "tocsin queue: %" PRIu64 ": its record cannot be used: %s\n", e->number,
                strerror(-rc));
        change->skipped++;
    } else if (!change->dry_run && change->rc == SQLITE_OK) {
        sqlite3_bind_int64(change->statement, 1, (sqlite3_int64)e->number);
        sqlite3_bind_text(change->statement, 2, target->service, -1, SQLITE_STATIC);
        sqlite3_bind_text(change->statement, 3, target->name, -1, SQLITE_STATIC);
        sqlite3_bind_blob64(change->statement, 4, record.data, record.len, SQLITE_STATIC);
        sqlite3_step(change->statement);
        change->rc = sqlite3_reset(change->statement);
    }
    buf_release(&record);
}

static void change_one(const struct entry *e, void *context)
{
    struct change *change = context;
    list_one(e, &change->listing);
    if (change->to) {
        change_target(change, e);
        return;
    }
    if (change->dry_run || change->rc != SQLITE_OK)
        return;
    sqlite3_stmt *const both[] = { change->attempts, change->statement };
    for (size_t i = 0; i < 2; i++) {
        if (!both[i])
            continue;
        sqlite3_bind_int64(both[i], 1, (sqlite3_int64)e->number);
        sqlite3_step(both[i]);
        int rc = sqlite3_reset(both[i]);
        if (rc != SQLITE_OK)
            change->rc = rc;
    }
}

/* Carries out a change on all that is wanted, in one transaction. */
static int64_t change_all(sqlite3 *db, const struct filter *filter, const char *sql,
                          const char *attempts_sql, const struct queue_to *to, bool dry_run,
                          bool as_json)
{
    struct change change = { .to = to, .dry_run = dry_run, .listing = { .as_json = as_json } };
    change.rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (change.rc == SQLITE_OK)
        change.rc = sqlite3_prepare_v2(db, sql, -1, &change.statement, NULL);
    if (change.rc == SQLITE_OK && attempts_sql)
        change.rc = sqlite3_prepare_v2(db, attempts_sql, -1, &change.attempts, NULL);
    int64_t count = change.rc == SQLITE_OK ? visit(db, filter, change_one, &change) : -EIO;
    sqlite3_finalize(change.statement);
    sqlite3_finalize(change.attempts);
    bool good = count >= 0 && change.rc == SQLITE_OK &&
                sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
    return good ? count - change.skipped : -EIO;
}

static int64_t retry_all(sqlite3 *db, const struct cli_args *args, struct filter *filter,
                         bool dry_run, bool as_json)
{
    const char *where = cli_value(&cli_queue, args, "to");
    filter->dead = true;
    if (!where)
        return change_all(db, filter, "UPDATE delivery SET state = 2, due_ms = 0 WHERE number = ?1",
                          NULL, NULL, dry_run, as_json);
    struct queue_to *to = queue_to_open(cli_value(&cli_queue, args, "config"), where);
    if (!to)
        return NOT_STARTED;
    int64_t count = change_all(db, filter,
                               "UPDATE delivery SET state = 2, due_ms = 0, service = ?2, "
                               "target = ?3, record = ?4 WHERE number = ?1",
                               NULL, to, dry_run, as_json);
    queue_to_close(to);
    return count;
}

/* ---- The command ---- */

/* Whether it is a number that a delivery can have. */
static bool is_number(const char *text)
{
    errno = 0;
    const uint64_t number = strtoull(text, NULL, 10);
    return text[strspn(text, "0123456789")] == '\0' && errno == 0 && number > 0 &&
           number <= INT64_MAX;
}

static const char *read_filter(const struct cli_args *args, struct filter *f)
{
    const char *target = cli_value(&cli_queue, args, "target");
    const char *since = cli_value(&cli_queue, args, "since");
    *f = (struct filter){
        .topic = cli_value(&cli_queue, args, "topic"),
        .match = cli_value(&cli_queue, args, "match"),
        .dead = cli_value(&cli_queue, args, "dead") != NULL,
        .waiting = cli_value(&cli_queue, args, "waiting") != NULL,
        .numbers = args->rest + 1,
        .number_count = args->rest_count - 1,
    };
    if (target) {
        const char *colon = strchr(target, ':');
        f->service = target;
        f->service_len = colon ? (size_t)(colon - target) : strlen(target);
        f->target = colon ? colon + 1 : NULL;
    }
    if (f->topic && topic_filter_fault(f->topic, strlen(f->topic)))
        return "--topic is no topic filter";
    if (f->dead && f->waiting)
        return "--dead and --waiting exclude each other";
    int64_t span = 0;
    if (since && duration_parse(since, &span) < 0)
        return "--since is a time such as 30m, 2h or 1d";
    if (since)
        f->since_ms = clock_wall_ms() - span;
    for (size_t i = 0; i < f->number_count; i++)
        if (!is_number(f->numbers[i]))
            return "after the verb come numbers, as list prints them";
    return NULL;
}

static int fail(const char *format, const char *a, const char *b)
{
    fprintf(stderr, "tocsin queue: ");
    fprintf(stderr, format, a, b);
    fputc('\n', stderr);
    return CLI_FAILED;
}

/* Says of a number that was named why nothing was done with it. */
static void tell_missing(sqlite3 *db, const char *verb, uint64_t number)
{
    sqlite3_stmt *row = NULL;
    int state = -1;
    if (sqlite3_prepare_v2(db, "SELECT state FROM delivery WHERE number = ?1", -1, &row, NULL) ==
        SQLITE_OK) {
        sqlite3_bind_int64(row, 1, (sqlite3_int64)number);
        if (sqlite3_step(row) == SQLITE_ROW)
            state = sqlite3_column_int(row, 0);
    }
    sqlite3_finalize(row);
    fprintf(stderr, "tocsin queue: %" PRIu64 " ", number);
    if (state < 0)
        fprintf(stderr,
                "is not there, or not any more: `tocsin queue list` lists what is, `tocsin why "
                "--queue %" PRIu64 "` may tell what became of it\n",
                number);
    else if (state == STATE_WAITING && strcmp(verb, "retry") == 0)
        fprintf(
            stderr,
            "waits, and will be tried again by itself if its target is configured: `tocsin queue "
            "show %" PRIu64 "` says when\n",
            number);
    else if (state == STATE_WAITING && strcmp(verb, "drop") == 0)
        fprintf(stderr,
                "waits, and is no dead letter: `tocsin queue drop --waiting %" PRIu64
                "` drops it, when the daemon is ended\n",
                number);
    else
        fprintf(stderr, "is %s, which is not what was asked for\n",
                state_names[state <= STATE_REVIVED ? state : STATE_DEAD]);
}

/* Who names a number wants to know. Returns whether one was missed. */
static bool tell_missed(sqlite3 *db, const char *verb, const struct filter *filter)
{
    bool missed = false;
    for (size_t i = 0; i < filter->number_count; i++)
        if (!filter->found[i]) {
            tell_missing(db, verb, strtoull(filter->numbers[i], NULL, 10));
            missed = true;
        }
    return missed;
}

static int finish(sqlite3 *db, const char *path, const char *verb, const struct filter *filter,
                  int64_t count, const char *what, bool quiet)
{
    if (count == NOT_STARTED)
        return CLI_FAILED;
    if (count < 0)
        return fail("%s: %s", path, sqlite3_errmsg(db));
    if (!quiet)
        fprintf(stderr, "%" PRId64 " %s\n", count, what);
    bool missed = tell_missed(db, verb, filter);
    return fflush(stdout) == 0 && !missed ? CLI_OK : CLI_FAILED;
}

static int carry_out(sqlite3 *db, const char *path, const struct cli_args *args,
                     struct filter *filter)
{
    const char *verb = args->rest[0];
    bool as_json = cli_value(&cli_queue, args, "json") != NULL;
    bool dry_run = cli_value(&cli_queue, args, "dry-run") != NULL;
    struct showing showing = { db, as_json };
    struct listing listing = { .as_json = as_json };
    if (strcmp(verb, "list") == 0)
        return finish(db, path, verb, filter, visit(db, filter, list_one, &listing), "found",
                      as_json);
    if (strcmp(verb, "show") == 0)
        return finish(db, path, verb, filter, visit(db, filter, show_one, &showing), "found",
                      as_json);
    if (strcmp(verb, "retry") == 0)
        return finish(db, path, verb, filter, retry_all(db, args, filter, dry_run, as_json),
                      dry_run ? "would be tried again" : "will be tried again", as_json);
    if (filter->waiting && !dry_run && book_file_in_use(path))
        return fail("%s: what waits cannot be dropped while %s runs with it: end that first", path,
                    "tocsin");
    filter->dead = !filter->waiting;
    return finish(db, path, verb, filter,
                  change_all(db, filter, "DELETE FROM delivery WHERE number = ?1",
                             "DELETE FROM attempt WHERE delivery = ?1", NULL, dry_run, as_json),
                  dry_run ? "would be dropped" : "dropped", as_json);
}

/* Complains about a call that makes no sense, before any file is looked for. Returns 0 if there is nothing to complain of. */
static int complain(const struct cli_args *args, const struct filter *filter, const char *fault)
{
    static const char *const verbs[] = { "list", "show", "retry", "drop" };
    const char *verb = args->rest[0];
    size_t i = 0;
    while (i < 4 && strcmp(verb, verbs[i]) != 0)
        i++;
    if (i == 4)
        return cli_misused(&cli_queue, "%s is not list, show, retry or drop", verb);
    const bool retries = strcmp(verb, "retry") == 0;
    if (fault)
        return cli_misused(&cli_queue, "%s", fault);
    if (cli_value(&cli_queue, args, "to") && !retries)
        return cli_misused(&cli_queue, "--to is for retry");
    if (filter->waiting && retries)
        return cli_misused(&cli_queue,
                           "retry is for dead letters: what waits is tried again by itself");
    return 0;
}

static int run(const struct cli_args *args)
{
    struct filter filter;
    const char *fault = read_filter(args, &filter);
    const int misused = complain(args, &filter, fault);
    if (misused != 0)
        return misused;
    char *path = book_file_find(&cli_queue, cli_value(&cli_queue, args, "config"),
                                "nothing is kept on disk", NULL);
    if (!path)
        return CLI_FAILED;
    int status = CLI_FAILED;
    sqlite3 *db = NULL;
    if (access(path, F_OK) < 0)
        status = fail("%s: %s; the daemon makes it when it runs", path, strerror(errno));
    else if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        status = fail("%s: %s", path, sqlite3_errmsg(db));
    else {
        sqlite3_busy_timeout(db, 5000);
        filter.found = calloc(filter.number_count + 1, sizeof(*filter.found));
        status = filter.found ? carry_out(db, path, args, &filter)
                              : fail("%s: %s", path, strerror(ENOMEM));
    }
    sqlite3_close(db);
    free(filter.found);
    free(path);
    return status;
}

const struct cli_command cli_queue = {
    .name = "queue",
    .summary = "look at what waits and at dead letters, try them again or drop them",
    .arguments = "list|show|retry|drop [NUMBER...]",
    .description =
        "Works on the file that `store` names, also while the daemon runs. What waits was taken "
        "over "
        "and is\n"
        "not delivered yet; dead letters are what a service rejected, or what was given up after\n"
        "retry.max_attempts or retry.max_age.\n"
        "\n"
        "list prints a line each: number, state, when it was made, attempts so far, target, "
        "topic,\n"
        "and why the last attempt failed. show prints all of it, with the error of every attempt,\n"
        "when it is tried next, and what can be done. retry has dead letters tried again, with "
        "the\n"
        "same id as before: a running daemon begins within a second; with --to by another target,\n"
        "whose own formats, such as a path, are rendered anew from topic, payload, title and "
        "text.\n"
        "What only the route knew, such as named topic levels, stays there as it is written, and\n"
        "that is said. drop forgets them. `tocsin why --queue NUMBER` tells how one came to be.\n"
        "\n"
        "Without a NUMBER or a filter all are meant; of what waits only list and show, and drop "
        "with\n"
        "--waiting, which needs the daemon ended.",
    .example = "tocsin queue list --dead --since 1d",
    .exit_status =
        "0 if it worked, 1 if not, or if one of the NUMBERs is not there, 2 for a call that\n"
        "             makes no sense.",
    .options = options,
    .least = 1,
    .most = 1000,
    .mixed = true,
    .run = run,
};
