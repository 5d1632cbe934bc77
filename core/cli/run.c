/* SPDX-License-Identifier: MIT */

/* tocsin run */

#include "cli/cli.h"
#include "daemon/daemon.h"
#include "daemon/setup.h"

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { .name = NULL },
};

static int run(const struct cli_args *args)
{
    const char *path = cli_value(&cli_run, args, "config");
    return daemon_run(path ? path : setup_default_path());
}

const struct cli_command cli_run = {
    .name = "run",
    .summary = "be a broker and route messages until a signal ends it",
    .arguments = "",
    .description =
        "Serves MQTT clients, connects to the brokers that `links` names, routes what comes, and "
        "delivers it.\n"
        "It stays in the foreground and logs to standard error, with priorities when systemd "
        "listens.\n\n"
        "SIGTERM and SIGINT end it cleanly: it stops receiving, delivers what is under way, and "
        "ends\n"
        "after at most `drain`; a second one ends it at once. SIGHUP reads the configuration again "
        "(a\n"
        "wrong one changes nothing) and opens files again. SIGUSR1 logs the counters.",
    .exit_status =
        "0 after a clean end, 1 if it could not start, 2 if deliveries were left undone.",
    .example = "tocsin run -c examples/first-steps/tocsin.conf",
    .options = options,
    .run = run,
};
