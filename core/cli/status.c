/* SPDX-License-Identifier: MIT */

/* tocsin status: how a running daemon is, for people, programs, and monitoring. */

#include "base/buf.h"
#include "base/clock.h"
#include "cli/client.h"
#include "cli/status_fetch.h"
#include "daemon/setup.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MISSED_DOCUMENTS 3 /* after which a status is old */

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "json", 0, NULL, "Print the status as it is published: JSON." },
    { "check", 0, NULL, "Print one line for Nagios and the like, and exit with its status." },
    { "timeout", 0, "SECONDS", "Longest wait for an answer; 10 if left out." },
    { .name = NULL },
};

enum check_status {
    CHECK_OK,
    CHECK_WARNING,
    CHECK_CRITICAL,
    CHECK_UNKNOWN
};

static const char *const check_words[] = { "OK", "WARNING", "CRITICAL", "UNKNOWN" };

/* ---- Reading the document: what is not there is "" or 0 ---- */

static const char *text_of(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static json_int_t number_of(const json_t *o, const char *name)
{
    return json_integer_value(json_object_get(o, name));
}

static bool is_true(const json_t *o, const char *name)
{
    return json_is_true(json_object_get(o, name));
}

/* Seconds since it was published; what lies ahead, because clocks differ, is 0. */
static int64_t age_of(const json_t *status)
{
    struct tm utc = { 0 };
    if (!strptime(text_of(status, "time"), "%Y-%m-%dT%H:%M:%SZ", &utc))
        return 0;
    int64_t age = clock_wall_ms() / 1000 - (int64_t)timegm(&utc);
    return age > 0 ? age : 0;
}

static bool is_old(const json_t *status)
{
    int64_t interval_ms = number_of(status, "interval_ms");
    return is_true(status, "online") && interval_ms > 0 &&
           age_of(status) * 1000 > MISSED_DOCUMENTS * interval_ms + 5000;
}

/* ---- For monitoring ---- */

static enum check_status check_of(const json_t *status)
{
    const char *health = text_of(status, "health");
    if (is_old(status) || strcmp(health, "critical") == 0 || strcmp(health, "stopped") == 0)
        return CHECK_CRITICAL;
    return strcmp(health, "ok") == 0        ? CHECK_OK
           : strcmp(health, "warning") == 0 ? CHECK_WARNING
                                            : CHECK_UNKNOWN;
}

/* One line without what divides it. */
static void add_plain(struct buf *out, const char *text)
{
    for (; *text; text++)
        buf_add_byte(out, *text == '|' || (unsigned char)*text < ' ' ? ' ' : *text);
}

static void add_reasons(struct buf *out, const json_t *status, const char *before,
                        const char *between)
{
    size_t i;
    const json_t *reason;
    json_array_foreach(json_object_get(status, "reasons"), i, reason)
    {
        buf_add_str(out, i == 0 ? before : between);
        add_plain(out, json_is_string(reason) ? json_string_value(reason) : "");
    }
}

static void add_performance(struct buf *out, const json_t *status)
{
    const json_t *router = json_object_get(status, "router");
    const json_t *deliveries = json_object_get(status, "deliveries");
    const json_t *store = json_object_get(status, "store");
    if (!router || !deliveries)
        return;
    buf_addf(out,
             " | received=%" PRId64 "c unmatched=%" PRId64 "c sent=%" PRId64 "c retried=%" PRId64
             "c dead=%" PRId64 "c dropped=%" PRId64 "c waiting=%" PRId64 " retrying=%" PRId64
             " dead_letters=%" PRId64,
             (int64_t)number_of(router, "received"), (int64_t)number_of(router, "unmatched"),
             (int64_t)number_of(deliveries, "sent"), (int64_t)number_of(deliveries, "retried"),
             (int64_t)(number_of(deliveries, "rejected") + number_of(deliveries, "given_up")),
             (int64_t)number_of(deliveries, "dropped"), (int64_t)number_of(deliveries, "waiting"),
             (int64_t)number_of(deliveries, "retrying"), (int64_t)number_of(store, "dead_letters"));
    if (is_true(store, "durable"))
        buf_addf(out, " store=%" PRId64 "B", (int64_t)number_of(store, "bytes"));
}

static int print_check(const json_t *status)
{
    enum check_status check = check_of(status);
    struct buf out = BUF_INIT(65536);
    buf_addf(&out, "TOCSIN %s - %s", check_words[check],
             text_of(status, "node")[0] ? text_of(status, "node") : "it");
    if (json_array_size(json_object_get(status, "reasons")) == 0 || !is_true(status, "online") ||
        is_old(status))
        buf_addf(&out, " is %s", text_of(status, "health"));
    if (is_old(status))
        buf_addf(&out, ", but that was %" PRId64 " s ago: look whether the daemon hangs",
                 age_of(status));
    add_reasons(&out, status, ": ", "; ");
    if (check == CHECK_CRITICAL && !is_true(status, "online"))
        buf_add_str(&out, ": start the daemon");
    add_performance(&out, status);
    buf_add_byte(&out, '\n');
    return cli_print(&out) == CLI_OK ? (int)check : CHECK_UNKNOWN;
}

/* ---- For people ---- */

static void add_store(struct buf *out, const json_t *store)
{
    if (!is_true(store, "durable"))
        buf_add_str(out, "store       none: what waits ends with the daemon\n");
    else
        buf_addf(out,
                 "store       %s, %" PRId64 " KiB with its log, to be written: %" PRId64
                 ", dead letters: %" PRId64 "\n",
                 is_true(store, "in_trouble") ? "CANNOT BE WRITTEN" : "works",
                 (int64_t)(number_of(store, "bytes") / 1024), (int64_t)number_of(store, "waiting"),
                 (int64_t)number_of(store, "dead_letters"));
}

static void add_links(struct buf *out, const json_t *links)
{
    const char *name;
    json_t *l;
    json_object_foreach((json_t *)links, name, l)
        buf_addf(out, "link        %s: %s, received: %" PRId64 ", published: %" PRId64 "\n", name,
                 is_true(l, "connected") ? "connected" : "NOT CONNECTED",
                 (int64_t)number_of(l, "received"), (int64_t)number_of(l, "published"));
}

static const char *trouble_of(const json_t *target)
{
    const char *breaker = text_of(target, "breaker");
    return breaker[0] && strcmp(breaker, "closed") != 0 ? "does not work"
           : is_true(target, "failing")                 ? "fails"
                                                        : "";
}

/* Where to go on reading. */
static void add_advice(struct buf *out, const json_t *targets)
{
    const char *name;
    json_t *t;
    const char *before = "\n";
    json_object_foreach((json_t *)targets, name, t)
    {
        if (!trouble_of(t)[0] || number_of(t, "waiting") == 0)
            continue;
        buf_addf(out, "%s`tocsin queue list --target %s` shows what waits there, and why.\n",
                 before, name);
        before = "";
    }
}

static void add_targets(struct buf *out, const json_t *targets)
{
    const char *name;
    json_t *t;
    if (json_object_size(targets) > 0)
        buf_addf(out, "\n%-30s %10s %10s %10s %10s\n", "target", "sent", "waiting", "retrying",
                 "dead");
    json_object_foreach((json_t *)targets, name, t)
    {
        buf_addf(out, "%-30s %10" PRId64 " %10" PRId64 " %10" PRId64 " %10" PRId64 "%s%s\n", name,
                 (int64_t)number_of(t, "sent"), (int64_t)number_of(t, "waiting"),
                 (int64_t)number_of(t, "retrying"),
                 (int64_t)(number_of(t, "rejected") + number_of(t, "given_up")),
                 trouble_of(t)[0] ? "  " : "", trouble_of(t));
    }
}

static int print_table(const json_t *status)
{
    const json_t *router = json_object_get(status, "router");
    const json_t *sum = json_object_get(status, "deliveries");
    const json_t *broker = json_object_get(status, "broker");
    const json_t *store = json_object_get(status, "store");
    struct buf out = BUF_INIT((size_t)16 * 1024 * 1024);
    buf_addf(&out, "node        %s, version %s, since %s\nhealth      %s", text_of(status, "node"),
             text_of(status, "version"), text_of(status, "started"), text_of(status, "health"));
    if (is_old(status))
        buf_addf(&out, ", but that was %" PRId64 " s ago: look whether the daemon hangs",
                 age_of(status));
    add_reasons(&out, status, "\n            ", "\n            ");
    buf_addf(&out,
             "\nmessages    received: %" PRId64 ", matched no route: %" PRId64 ", waiting: %" PRId64
             "\ndeliveries  created: %" PRId64 ", sent: %" PRId64 ", waiting: %" PRId64
             ", dead: %" PRId64 ", dropped: %" PRId64 "\n",
             (int64_t)number_of(router, "received"), (int64_t)number_of(router, "unmatched"),
             (int64_t)number_of(router, "waiting"), (int64_t)number_of(sum, "created"),
             (int64_t)number_of(sum, "sent"), (int64_t)number_of(sum, "waiting"),
             (int64_t)(number_of(sum, "rejected") + number_of(sum, "given_up")),
             (int64_t)number_of(sum, "dropped"));
    if (store)
        add_store(&out, store);
    if (broker)
        buf_addf(
            &out,
            "broker      clients: %" PRId64 ", messages in: %" PRId64 ", out: %" PRId64
            ", retained: %" PRId64 "\n",
            (int64_t)number_of(broker, "clients"), (int64_t)number_of(broker, "publish_received"),
            (int64_t)number_of(broker, "publish_sent"), (int64_t)number_of(broker, "retained"));
    add_links(&out, json_object_get(status, "links"));
    add_targets(&out, json_object_get(status, "targets"));
    if (is_true(store, "durable"))
        add_advice(&out, json_object_get(status, "targets"));
    return cli_print(&out);
}

static int print_json(const json_t *status)
{
    char *text = json_dumps(status, JSON_INDENT(2));
    int rc = text && puts(text) >= 0 && fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
    free(text);
    return rc;
}

/* ---- Together ---- */

/* Name resolution and connecting know no time limit. */
static void on_alarm(int number)
{
    static const char text[] = "TOCSIN UNKNOWN - no answer in time: does the broker hang?\n";
    (void)number;
    ssize_t written = write(STDOUT_FILENO, text, sizeof(text) - 1);
    (void)written;
    _exit(CHECK_UNKNOWN);
}

static int complain(bool check, enum status_fetched fetched, const char *why)
{
    if (!check) {
        fprintf(stderr, "tocsin status: %s\n", why);
        return CLI_FAILED;
    }
    enum check_status status = fetched == STATUS_NO_DAEMON ? CHECK_CRITICAL : CHECK_UNKNOWN;
    struct buf out = BUF_INIT(65536);
    buf_addf(&out, "TOCSIN %s - ", check_words[status]);
    add_plain(&out, why);
    buf_add_byte(&out, '\n');
    cli_print(&out);
    return (int)status;
}

static int run(const struct cli_args *args)
{
    const char *file = cli_value(&cli_status, args, "config");
    bool check = cli_value(&cli_status, args, "check") != NULL;
    bool as_json = cli_value(&cli_status, args, "json") != NULL;
    long seconds = 10;
    int misused = client_number(&cli_status, args, "timeout", 1, 3600, &seconds);
    if (misused == 0 && check && as_json)
        misused = cli_misused(&cli_status, "--check and --json exclude each other");
    if (misused != 0)
        return check ? CHECK_UNKNOWN : misused;
    if (check) {
        signal(SIGALRM, on_alarm);
        alarm((unsigned)seconds + 2);
    }

    json_t *status = NULL;
    struct buf why = BUF_INIT(65536);
    enum status_fetched fetched =
        status_fetch(file ? file : setup_default_path(), seconds * 1000, &status, &why);
    int rc = fetched != STATUS_FETCHED ? complain(check, fetched, buf_str(&why))
             : check                   ? print_check(status)
             : as_json                 ? print_json(status)
                                       : print_table(status);
    buf_release(&why);
    json_decref(status);
    return rc;
}

const struct cli_command cli_status = {
    .name = "status",
    .summary = "tell how a running daemon is",
    .arguments = "",
    .description =
        "Reads the status that the daemon publishes from its broker, or "
        "from\n"
        "that of its first link, which the configuration names, and prints it.\n"
        "\n"
        "health is ok; warning, when a person should look at something some time; critical, when\n"
        "messages do not come through; or stopped. The reasons stand beside it.\n"
        "\n"
        "With --check it is a plugin for Nagios, Icinga and the like: a line with performance "
        "data.\n"
        "CRITICAL also means that the daemon does not run, UNKNOWN that this cannot be told, "
        "because the\n"
        "broker of the link cannot be reached or has no status.",
    .example = "tocsin status --check",
    .exit_status = "0 if the status was read, 1 if not, 2 for a call that makes no sense.\n"
                   "             With --check: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
    .details = "What is published (TOPIC is admin.topic, tocsin/NODE if left out):\n"
               "\n"
               "  TOPIC/status         JSON, retained: online, health, reasons, node, version,\n"
               "                       started, time, and the counters of router, deliveries (all\n"
               "                       targets, those before a reload too), accounts, store,\n"
               "                       ledger, broker, links and targets, of which zeros are left\n"
               "                       out. The names are those that SIGUSR1 logs.\n"
               "  TOPIC/dead-letter/SERVICE/TARGET\n"
               "                       JSON, each new dead letter: id, service, target, route,\n"
               "                       topic, link, reason, attempts, created, and the first\n"
               "                       200 bytes of the text\n"
               "\n"
               "The status goes to the included broker, or to that of the first link. Dead\n"
               "letters go there too, and to routes, as messages of link \"internal\"; those that\n"
               "come while the program is ending when it starts again, if there is a store:\n"
               "\n"
               "  { topic = \"tocsin/+/dead-letter/phone/#\"; targets = \"mail:ops\";\n"
               "    format = \"{target}: {reason}: {json.text}\"; }\n"
               "\n"
               "What becomes a dead letter of these, of another router's dead letters, or of\n"
               "other messages below TOPIC or tocsin/, is told by the log and the counters\n"
               "alone. The own status is never a message for routes.\n"
               "\n"
               "accounts.hold says whether everything is accounted for:\n"
               "\n"
               "  received = messages (routed, or unmatched) + refused + waiting\n"
               "  created + restored + revived + taken_over + moved_in = sent + rejected\n"
               "    + given_up + dropped + suppressed + forgotten + refused + moved_out\n"
               "    + handed_over + unreadable + removed + left + waiting",
    .options = options,
    .run = run,
};
