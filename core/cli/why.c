/* SPDX-License-Identifier: MIT */

/* tocsin why: tells from the ledger what became of a message, and why. */

#include "base/units.h"
#include "cli/book_file.h"
#include "cli/book_json.h"
#include "cli/cli.h"
#include "ledger/tell.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OUTPUT_MOST (256 * 1024 * 1024)
#define LAST_MOST   100000

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "topic", 't', "FILTER", "The last message whose topic matches this MQTT filter." },
    { "last", 'n', "N", "The last N messages, of those that match; 1 if left out." },
    { "json", 0, NULL, "Print JSON: an object on each line." },
    { .name = NULL },
};

/* Reads how many; returns false if that is no number. */
static bool read_count(const char *text, size_t *out)
{
    char *end;
    errno = 0;
    unsigned long value = text ? strtoul(text, &end, 10) : *out;
    if (text &&
        (errno || *end || text[0] < '0' || text[0] > '9' || value == 0 || value > LAST_MOST))
        return false;
    *out = value;
    return true;
}

static const char *read_filter(const struct cli_args *args, struct book_filter *f)
{
    const char *id = args->rest_count > 0 ? args->rest[0] : NULL;
    *f = (struct book_filter){ .topic = cli_value(&cli_why, args, "topic"), .last = 1 };
    if (!read_count(cli_value(&cli_why, args, "last"), &f->last))
        return "--last is a number from 1 to 100000";
    if (f->topic && topic_filter_fault(f->topic, strlen(f->topic)))
        return "--topic is no topic filter";
    if (!id)
        return NULL;
    if (f->topic || cli_value(&cli_why, args, "last"))
        return "an ID names one message; leave out --topic and --last";
    if (id[0] == '\0')
        return "the ID is empty";
    if (id[strspn(id, "0123456789")] != '\0')
        f->delivery = id;
    else if ((f->number = strtoull(id, NULL, 10)) == 0 || f->number > INT64_MAX)
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

static void add_reasons(const struct book_file *file, const struct book *book,
                        const struct book_filter *f, struct buf *out)
{
    const struct ledger_config *config = &file->ledger;
    if (config->keep == LEDGER_KEEP_NONE)
        buf_add_str(
            out, "- The configuration says ledger.keep = \"none\": only routes that say ledger = "
                 "\"all\" or \"deliveries\" are noted.\n");
    if (config->keep == LEDGER_KEEP_DELIVERIES)
        buf_add_str(
            out, "- The configuration says ledger.keep = \"deliveries\": what led to none is not "
                 "noted, unless its route says ledger = \"all\".\n");
    if (!config->unmatched && !f->delivery)
        buf_addf(
            out,
            "- It matched no route, and ledger.unmatched is false. `tocsin explain %s PAYLOAD` "
            "shows what would match.\n",
            f->topic && !strpbrk(f->topic, "+#") ? f->topic : "TOPIC");
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

static int tell_nothing(const struct book_file *file, const struct book *book,
                        const struct book_filter *f)
{
    struct buf out = BUF_INIT(65536);
    if (book->oldest_ms == 0)
        buf_add_str(&out, "tocsin why: the ledger is empty. It may be that:\n");
    else if (f->number > 0)
        buf_addf(&out,
                 "tocsin why: there is no message %" PRIu64 " in the ledger. It may be that:\n",
                 f->number);
    else if (f->delivery)
        buf_addf(&out, "tocsin why: the ledger has no delivery %s. It may be that:\n", f->delivery);
    else if (f->topic)
        buf_addf(&out, "tocsin why: the ledger has no message for %s. It may be that:\n", f->topic);
    else
        buf_add_str(&out, "tocsin why: the ledger has no message. It may be that:\n");
    add_reasons(file, book, f, &out);
    fputs(buf_str(&out), stderr);
    buf_release(&out);
    return CLI_FAILED;
}

/* ---- The command ---- */

static int tell(const struct book_file *file, const struct book *book,
                const struct book_filter *filter, bool as_json)
{
    if (book->count == 0)
        return tell_nothing(file, book, filter);
    bool good = true;
    for (size_t i = 0; good && i < book->count; i++) {
        struct buf out = BUF_INIT(OUTPUT_MOST);
        if (as_json)
            good = book_json_entry(book->entries[i]);
        else if (i > 0)
            buf_add_byte(&out, '\n');
        if (!as_json)
            tell_entry(book->entries[i], &out);
        good = good && cli_print(&out) == CLI_OK;
    }
    if (book->damaged)
        fprintf(stderr, "tocsin why: some of the ledger could not be read\n");
    if (book->dropped > 0 && !as_json)
        fprintf(stderr,
                "tocsin why: %" PRIu64
                " other messages and events since then were not noted, since the "
                "store did not keep up\n",
                book->dropped);
    return good ? CLI_OK : CLI_FAILED;
}

static int run(const struct cli_args *args)
{
    struct book_filter filter;
    const char *fault = read_filter(args, &filter);
    if (fault)
        return cli_misused(&cli_why, "%s", fault);
    struct book_file file;
    if (book_file_open(&file, &cli_why, cli_value(&cli_why, args, "config")) < 0)
        return CLI_FAILED;
    struct book book;
    int status = CLI_FAILED, rc = book_read(file.db, &filter, file.in_use, &book);
    if (rc == 0)
        status = tell(&file, &book, &filter, cli_value(&cli_why, args, "json") != NULL);
    else
        fprintf(stderr, "tocsin why: %s: %s\n", file.path, rc == -EIO ? book.error : strerror(-rc));
    book_release(&book);
    book_file_close(&file);
    return status;
}

const struct cli_command cli_why = {
    .name = "why",
    .summary = "tell what became of a message, and why",
    .arguments = "[ID]",
    .description = "Reads the ledger in the file that `store` names, also while the daemon runs, "
                   "and tells in sentences: "
                   "which\n"
                   "message, when, from where; what each route decided, and why; each delivery "
                   "with its attempts and their "
                   "results;\n"
                   "where it stands now, and what to do about it.\n"
                   "\n"
                   "ID is the id of a delivery, as the log has it, or the number of a message, as "
                   "`tocsin ledger` prints it. "
                   "Without\n"
                   "one, and without --topic, it is the last message. What is kept, and how long, "
                   "the group `ledger` says "
                   "(`tocsin\n"
                   "help ledger`), and each route's option of that name.",
    .example = "tocsin why --topic 'clients/+/10.0.0.7/#'",
    .exit_status = "0 if there was something to tell, 1 if not, 2 for a call that makes no sense.",
    .options = options,
    .most = 1,
    .mixed = true,
    .run = run,
};
