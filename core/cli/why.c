/* SPDX-License-Identifier: MIT */

/* tocsin why: tells from the ledger what became of a message, and why. */

#include "base/units.h"
#include "cli/book_file.h"
#include "cli/book_json.h"
#include "cli/cli.h"
#include "cli/why_routes.h"
#include "ledger/tell.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OUTPUT_MOST (256 * 1024 * 1024)
#define LAST_MOST   100000

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "topic", 't', "FILTER", "The last message whose topic matches this MQTT filter." },
    { "last", 'n', "[N]", "The last N messages, of those that match; 1 if left out." },
    { "queue", 'q', "NUMBER",
      "The message of the delivery or dead letter that `tocsin queue list` gives this number." },
    { "all", 'a', NULL, "Name all routes that do not match, not only the nearest." },
    { "json", 0, NULL, "Print JSON: an object on each line." },
    { .name = NULL },
};

/* Reads a number from 1 to `most`; returns false if it is none. */
static bool read_number(const char *text, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return !errno && !*end && text[0] >= '0' && text[0] <= '9' && *out > 0 && *out <= most;
}

static const char *read_filter(const struct cli_args *args, struct book_filter *f, uint64_t *queued)
{
    const char *id = args->rest_count > 0 ? args->rest[0] : NULL;
    const char *last = cli_value(&cli_why, args, "last");
    const char *queue = cli_value(&cli_why, args, "queue");
    uint64_t count = 1;
    *queued = 0;
    *f = (struct book_filter){ .topic = cli_value(&cli_why, args, "topic"), .last = 1 };
    if (last && last[0] && !read_number(last, LAST_MOST, &count))
        return "--last is a number from 1 to 100000";
    f->last = count;
    if (f->topic && topic_filter_fault(f->topic, strlen(f->topic)))
        return "--topic is no topic filter";
    if ((id || queue) && (f->topic || last || (id && queue)))
        return "an ID or --queue names one message; leave out the other, --topic and --last";
    if (queue && !read_number(queue, INT64_MAX, queued))
        return "--queue is a number, as `tocsin queue list` prints them";
    if (!id)
        return NULL;
    if (id[0] == '\0')
        return "the ID is empty";
    if (id[strspn(id, "0123456789")] != '\0')
        f->delivery = id;
    else if (!read_number(id, INT64_MAX, &f->number))
        return "there is no message of that number";
    return NULL;
}

/* ---- When there is nothing ---- */

static void add_time(struct buf *out, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    char text[32] = "?";
    if (localtime_r(&seconds, &parts))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts);
    buf_add_str(out, text);
}

/* What is asked for, and how it is told. */
struct question {
    struct book_filter filter;
    uint64_t queued; /* number of a delivery on disk; 0: none */
    const char *config;
    bool all, as_json;
};

static void add_ledger_reasons(const struct ledger_config *config, struct buf *out)
{
    if (config->keep == LEDGER_KEEP_NONE)
        buf_add_str(
            out, "- The configuration says ledger.keep = \"none\": only routes that say ledger = "
                 "\"all\" or \"deliveries\" are noted.\n");
    if (config->keep == LEDGER_KEEP_DELIVERIES)
        buf_add_str(
            out, "- The configuration says ledger.keep = \"deliveries\": what led to none is not "
                 "noted, unless its route says ledger = \"all\".\n");
}

/* A topic that can be looked up by itself; NULL if none is asked for, or several are. */
static const char *single_topic(const struct book_filter *f)
{
    return f->topic && !strpbrk(f->topic, "+#") ? f->topic : NULL;
}

/* Of a topic; `matches` routes match it now. */
static void add_topic_reasons(const struct book_file *file, const struct book_filter *f,
                              size_t matches, struct buf *out)
{
    const char *topic = single_topic(f);
    if (matches == 0)
        buf_addf(out,
                 "- It matched no route%s. `tocsin explain '%s' PAYLOAD` shows what would become "
                 "of it now.\n",
                 file->ledger.unmatched ? "" : ", and ledger.unmatched is false",
                 topic ? topic : "TOPIC");
    buf_addf(out, "- It never came: `tocsin sub -t '%s'` shows what comes to the broker now.\n",
             f->topic ? f->topic : "#");
}

static void add_reasons(const struct book_file *file, const struct book *book,
                        const struct book_filter *f, size_t matches, struct buf *out)
{
    add_ledger_reasons(&file->ledger, out);
    if (!f->delivery)
        add_topic_reasons(file, f, matches, out);
    buf_add_str(out, "- Its routes say ledger = \"none\", or it came before there was a store.\n");
    if (book->oldest_ms > 0) {
        buf_add_str(out, "- It is older than what is kept, which goes back to ");
        add_time(out, book->oldest_ms);
        buf_add_str(out, " (ledger.max_age, ledger.max_size).\n");
    }
    if (book->dropped > 0)
        buf_addf(out,
                 "- It was not noted, as %" PRIu64 " others, since the store did not keep up.\n",
                 book->dropped);
    if (file->in_use)
        buf_add_str(out,
                    "- It came within the last second: what happens is noted once a second at the "
                    "latest. Try again.\n");
    else
        buf_add_str(out,
                    "- It came within the last second before the daemon was killed; there is none "
                    "with this store now.\n");
}

/* What can be said of a number is certain. */
static int tell_no_message(const struct book_file *file, const struct book *book, uint64_t number)
{
    struct buf out = BUF_INIT(65536), id = BUF_INIT(65536);
    buf_addf(&out, "tocsin why: there is no message %" PRIu64 " in the ledger", number);
    if (number < book->first_row) {
        buf_add_str(&out, ": it is older than what is kept, which goes back to ");
        add_time(&out, book->oldest_ms);
        buf_add_str(&out, " (ledger.max_age, ledger.max_size).\n");
    } else if (number >= book->next_row) {
        buf_addf(&out, ", whose last number is %" PRIu64 " so far.\n", book->next_row - 1);
    } else {
        buf_add_str(&out, ": not every number is that of a message. `tocsin ledger` lists those "
                          "that there are.\n");
    }
    if (book_find_queued(file->db, number, &id) == 0)
        buf_addf(&out,
                 "If it is a number of `tocsin queue list`, `tocsin why --queue %" PRIu64
                 "` tells of that.\n",
                 number);
    fputs(buf_str(&out), stderr);
    buf_release(&out);
    buf_release(&id);
    return CLI_FAILED;
}

static int tell_nothing(const struct book_file *file, const struct book *book,
                        const struct question *q)
{
    const struct book_filter *f = &q->filter;
    if (f->number > 0 && book->oldest_ms > 0)
        return tell_no_message(file, book, f->number);
    struct buf out = BUF_INIT(OUTPUT_MOST);
    size_t matches = 0;
    if (book->oldest_ms == 0)
        buf_add_str(&out, "tocsin why: the ledger is empty.");
    else if (f->delivery)
        buf_addf(&out, "tocsin why: the ledger has no delivery %s.", f->delivery);
    else if (f->topic)
        buf_addf(&out, "tocsin why: the ledger has no message for %s.", f->topic);
    else
        buf_add_str(&out, "tocsin why: the ledger has no message.");
    if (single_topic(f)) {
        buf_add_byte(&out, '\n');
        struct why_routes *routes = why_routes_open(q->config);
        matches = why_routes_tell_topic(routes, f->topic, q->all, &out);
        why_routes_close(routes);
        buf_add_str(&out, "It may be that:\n");
    } else {
        buf_add_str(&out, " It may be that:\n");
    }
    add_reasons(file, book, f, matches, &out);
    fputs(buf_str(&out), stderr);
    buf_release(&out);
    return CLI_FAILED;
}

/* ---- The command ---- */

static bool tell_one(const struct book_entry *entry, const struct why_routes *routes,
                     const struct question *q, bool is_first)
{
    if (q->as_json)
        return book_json_entry(entry, why_routes_json(routes, entry));
    struct buf out = BUF_INIT(OUTPUT_MOST), others = BUF_INIT(OUTPUT_MOST);
    why_routes_tell(routes, entry, q->all, &others);
    if (!is_first)
        buf_add_byte(&out, '\n');
    tell_entry(entry, buf_str(&others), &out);
    buf_release(&others);
    return cli_print(&out) == CLI_OK;
}

static int tell(const struct book_file *file, const struct book *book, const struct question *q)
{
    if (book->count == 0)
        return tell_nothing(file, book, q);
    bool good = true;
    struct why_routes *routes = why_routes_open(q->config);
    for (size_t i = 0; good && i < book->count; i++)
        good = tell_one(book->entries[i], routes, q, i == 0);
    why_routes_close(routes);
    good = good && fflush(stdout) == 0;
    if (book->damaged)
        fprintf(stderr, "tocsin why: some of the ledger could not be read: `tocsin store check` "
                        "says whether the store is damaged\n");
    if (book->dropped > 0 && !q->as_json)
        fprintf(stderr,
                "tocsin why: %" PRIu64
                " other messages and events since then were not noted, since the "
                "store did not keep up\n",
                book->dropped);
    return good ? CLI_OK : CLI_FAILED;
}

/* Says that a number of the queue is not known. */
static int tell_no_number(const struct book_file *file, uint64_t queued, int rc)
{
    if (rc == -ENOENT)
        fprintf(stderr,
                "tocsin why: neither the queue nor the ledger knows a delivery %" PRIu64
                ". `tocsin queue list` prints the numbers that there are; what was sent or "
                "dropped is in `tocsin ledger`, unless it is older than what is kept.\n",
                queued);
    else
        fprintf(stderr, "tocsin why: %s: %s\n", file->path,
                rc == -EIO ? sqlite3_errmsg(file->db) : strerror(-rc));
    return CLI_FAILED;
}

static int look_up(const struct book_file *file, const struct question *q)
{
    struct book book;
    int status = CLI_FAILED, rc = book_read(file->db, &q->filter, file->in_use, &book);
    if (rc == 0)
        status = tell(file, &book, q);
    else
        fprintf(stderr, "tocsin why: %s: %s\n", file->path,
                rc == -EIO ? book.error : strerror(-rc));
    book_release(&book);
    return status;
}

static int run(const struct cli_args *args)
{
    struct question q = {
        .config = cli_value(&cli_why, args, "config"),
        .all = cli_value(&cli_why, args, "all") != NULL,
        .as_json = cli_value(&cli_why, args, "json") != NULL,
    };
    const char *fault = read_filter(args, &q.filter, &q.queued);
    if (fault)
        return cli_misused(&cli_why, "%s", fault);
    struct book_file file;
    if (book_file_open(&file, &cli_why, q.config) < 0)
        return CLI_FAILED;
    struct buf id = BUF_INIT(65536);
    int rc = q.queued > 0 ? book_find_queued(file.db, q.queued, &id) : 0;
    if (q.queued > 0)
        q.filter.delivery = buf_str(&id);
    int status = rc < 0 ? tell_no_number(&file, q.queued, rc) : look_up(&file, &q);
    buf_release(&id);
    book_file_close(&file);
    return status;
}

const struct cli_command cli_why = {
    .name = "why",
    .summary = "tell what became of a message, and why",
    .arguments = "[ID]",
    .description =
        "Reads the ledger in the file that `store` names, also while the daemon runs, and tells "
        "in\n"
        "sentences: which message, when, from where; what each route decided, and why; each\n"
        "delivery with its attempts and their results; where it stands now, and what to do about\n"
        "it.\n"
        "\n"
        "ID is the id of a delivery, as the log has it, or the number of a message, as `tocsin\n"
        "ledger` prints it; --queue takes a number of `tocsin queue list`. Without one, and "
        "without\n"
        "--topic, it is the last message. What is kept, and how long, the group `ledger` says\n"
        "(`tocsin help ledger`), and each route's option of that name.\n"
        "\n"
        "The ledger is written with whatever else goes to disk, and once a second if there is\n"
        "nothing else. After kill -9, messages of the last second may be missing that made no\n"
        "delivery, or whose deliveries were made at once; what waits, or is a dead letter, is "
        "there.\n"
        "\n"
        "Which routes do not match a message is not kept: it is found out when you ask, by the\n"
        "configuration as it is then.",
    .example = "tocsin why --topic 'clients/+/10.0.0.7/#'",
    .exit_status = "0 if there was something to tell, 1 if not, 2 for a call that makes no sense.",
    .options = options,
    .most = 1,
    .mixed = true,
    .run = run,
};
