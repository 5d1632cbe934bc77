/* SPDX-License-Identifier: MIT */

/* tocsin ledger: lists what is in the ledger, and goes on with what comes. */

#include "base/clock.h"
#include "base/units.h"
#include "cli/book_file.h"
#include "cli/book_json.h"
#include "cli/cli.h"
#include "ledger/tell.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define LAST_MOST     100000
#define LOOK_MS       250    /* for changes of the file */
#define FOLLOWED_MOST 100000 /* deliveries that are not done */
#define LINE_MOST     (1024 * 1024)

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "follow", 'f', NULL, "Go on with what comes, and what happens to deliveries." },
    { "topic", 't', "FILTER", "Only messages whose topic matches this MQTT filter." },
    { "route", 'r', "NAME", "Only messages that this route looked at." },
    { "target", 0, "SERVICE[:TARGET]",
      "Only messages with a delivery for that service or target." },
    { "since", 0, "DURATION", "Only what came in that time, such as 2h." },
    { "last", 'n', "N", "At most so many, the newest; 100 if left out, 10 with --follow." },
    { "json", 0, NULL, "Print JSON: an object on each line." },
    { .name = NULL },
};

static const char *read_filter(const struct cli_args *args, bool follow, struct book_filter *f)
{
    const char *last = cli_value(&cli_ledger, args, "last");
    const char *since = cli_value(&cli_ledger, args, "since");
    *f = (struct book_filter){
        .topic = cli_value(&cli_ledger, args, "topic"),
        .route = cli_value(&cli_ledger, args, "route"),
        .target = cli_value(&cli_ledger, args, "target"),
        .last = follow ? 10 : 100,
    };
    int64_t span = 0;
    if (f->topic && topic_filter_fault(f->topic, strlen(f->topic)))
        return "--topic is no topic filter";
    if (since && duration_parse(since, &span) < 0)
        return "--since is a time such as 30m, 2h or 1d";
    if (since)
        f->since_ms = clock_wall_ms() - span;
    if (since && !last)
        f->last = LAST_MOST;
    if (!last)
        return NULL;
    char *end;
    errno = 0;
    unsigned long value = strtoul(last, &end, 10);
    if (errno || *end || last[0] < '0' || last[0] > '9' || value > LAST_MOST ||
        (value == 0 && !follow))
        return "--last is a number from 1 to 100000";
    f->last = value;
    return NULL;
}

/* ---- Printing ---- */

struct listing {
    const struct book_filter *filter;
    bool as_json, failed;
    struct map followed; /* deliveries that are not done, by id: struct followed */
};

struct followed {
    uint64_t message;
    char id[];
};

static void print(struct listing *listing, struct buf *out)
{
    if (cli_print(out) != CLI_OK)
        listing->failed = true;
}

static void print_entry(struct listing *listing, const struct book_entry *entry)
{
    if (listing->as_json) {
        listing->failed |= !book_json_entry(entry, NULL) || fflush(stdout) != 0;
        return;
    }
    struct buf out = BUF_INIT(LINE_MOST);
    tell_line(entry, &out);
    print(listing, &out);
}

/* ---- Following ---- */

static bool is_selective(const struct book_filter *f)
{
    return f->topic || f->route || f->target;
}

static void follow_delivery(struct listing *listing, const struct book_delivery *d,
                            uint64_t message)
{
    if (d->id.len == 0 || listing->followed.count >= FOLLOWED_MOST)
        return;
    struct followed *followed = malloc(sizeof(*followed) + d->id.len + 1);
    if (!followed)
        return;
    followed->message = message;
    memcpy(followed->id, d->id.data, d->id.len + 1);
    free(map_remove(&listing->followed, followed->id, d->id.len));
    if (map_set(&listing->followed, followed->id, d->id.len, followed) < 0)
        free(followed);
}

static bool is_open(const struct book_delivery *d)
{
    return d->state == BOOK_WAITING || d->state == BOOK_IN_MEMORY || d->state == BOOK_REVIVED;
}

static void on_message(void *context, const struct book_entry *entry)
{
    struct listing *listing = context;
    if (!book_wants(listing->filter, entry))
        return;
    print_entry(listing, entry);
    for (size_t i = 0; i < entry->delivery_count; i++)
        follow_delivery(listing, &entry->deliveries[i], entry->number);
}

static bool is_end(enum ledger_event event)
{
    return event != LEDGER_RETRY && event != LEDGER_MOVED;
}

static void on_event(void *context, const struct sheet_item *event, const char *id)
{
    struct listing *listing = context;
    struct followed *followed = map_get(&listing->followed, id, strlen(id));
    if (!followed && is_selective(listing->filter))
        return;
    uint64_t message = followed ? followed->message : 0;
    if (listing->as_json) {
        listing->failed |= !book_json_event(event, id, message) || fflush(stdout) != 0;
    } else {
        struct buf out = BUF_INIT(LINE_MOST);
        tell_event(event, id, message, &out);
        print(listing, &out);
    }
    if (followed && is_end(event->event))
        free(map_remove(&listing->followed, id, strlen(id)));
}

static int data_version(sqlite3 *db)
{
    sqlite3_stmt *s = NULL;
    int version = -1;
    if (sqlite3_prepare_v2(db, "PRAGMA data_version", -1, &s, NULL) == SQLITE_OK &&
        sqlite3_step(s) == SQLITE_ROW)
        version = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return version;
}

static int watch_signals(void)
{
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    return signalfd(-1, &ends, SFD_CLOEXEC);
}

/* Goes on until a signal, or until nobody reads what is printed. */
static int follow(struct listing *listing, sqlite3 *db, uint64_t next_row)
{
    const struct book_listener listener = { on_message, on_event, listing };
    int rc = 0, version = -1, signals = watch_signals();
    if (signals < 0)
        return -errno;
    while (rc == 0 && !listing->failed) {
        int now = data_version(db);
        if (now != version)
            rc = book_follow(db, &next_row, &listener);
        version = now;
        struct pollfd fds[] = { { .fd = signals, .events = POLLIN }, { .fd = STDOUT_FILENO } };
        if (poll(fds, 2, LOOK_MS) > 0 &&
            ((fds[0].revents & POLLIN) || (fds[1].revents & (POLLERR | POLLHUP))))
            break;
    }
    close(signals);
    return rc;
}

/* ---- The command ---- */

static int list(struct listing *listing, struct book_file *file, bool goes_on)
{
    struct book book;
    int rc = book_read(file->db, listing->filter, file->in_use, &book);
    for (size_t i = 0; rc == 0 && !listing->failed && i < book.count; i++) {
        const struct book_entry *entry = book.entries[i];
        print_entry(listing, entry);
        for (size_t j = 0; goes_on && j < entry->delivery_count; j++)
            if (is_open(&entry->deliveries[j]))
                follow_delivery(listing, &entry->deliveries[j], entry->number);
    }
    if (rc == 0 && book.damaged)
        fprintf(stderr, "tocsin ledger: some of it could not be read: `tocsin store check` says "
                        "whether the store is damaged\n");
    if (rc == 0 && book.count == 0 && !goes_on && !listing->as_json)
        fprintf(stderr,
                book.oldest_ms == 0
                    ? "tocsin ledger: it is empty; `tocsin why` says what may be the cause\n"
                    : "tocsin ledger: there is nothing like that in it; `tocsin why --topic "
                      "TOPIC` says what may be the cause\n");
    if (rc < 0)
        fprintf(stderr, "tocsin ledger: %s: %s\n", file->path,
                rc == -EIO ? book.error : strerror(-rc));
    uint64_t next_row = book.next_row;
    book_release(&book);
    if (rc < 0 || !goes_on || listing->failed)
        return rc;
    rc = follow(listing, file->db, next_row);
    if (rc < 0)
        fprintf(stderr, "tocsin ledger: %s: %s\n", file->path,
                rc == -EIO ? sqlite3_errmsg(file->db) : strerror(-rc));
    return rc;
}

static void release(struct listing *listing)
{
    size_t at = 0;
    for (const struct map_entry *e; (e = map_next(&listing->followed, &at));)
        free(e->value);
    map_release(&listing->followed);
}

static int run(const struct cli_args *args)
{
    struct book_filter filter;
    bool goes_on = cli_value(&cli_ledger, args, "follow") != NULL;
    const char *fault = read_filter(args, goes_on, &filter);
    if (fault)
        return cli_misused(&cli_ledger, "%s", fault);
    struct book_file file;
    if (book_file_open(&file, &cli_ledger, cli_value(&cli_ledger, args, "config")) < 0)
        return CLI_FAILED;
    struct listing listing = {
        .filter = &filter,
        .as_json = cli_value(&cli_ledger, args, "json") != NULL,
    };
    if (goes_on)
        signal(SIGPIPE, SIG_IGN);
    int rc = list(&listing, &file, goes_on);
    release(&listing);
    book_file_close(&file);
    return rc == 0 && (goes_on || !listing.failed) ? CLI_OK : CLI_FAILED;
}

const struct cli_command cli_ledger = {
    .name = "ledger",
    .summary = "list what became of messages, or follow it",
    .arguments = "",
    .description = "Reads the ledger in the file that `store` names, also while the daemon runs. "
                   "Prints a line for each "
                   "message:\n"
                   "number, time, link, topic and size, what routes decided that made no "
                   "notification, and where each "
                   "delivery\n"
                   "stands. `tocsin why NUMBER` tells all of one.\n"
                   "\n"
                   "With --follow it goes on with a line for each message that comes, and for "
                   "whatever happens to a "
                   "delivery, within\n"
                   "a second or so; until it is interrupted.",
    .example = "tocsin ledger --follow --topic 'alarm/#'",
    .options = options,
    .run = run,
};
