/* SPDX-License-Identifier: MIT */

/*
 * exec: runs a program for each delivery. Its exit status is the verdict: 0 sent, 75 (EX_TEMPFAIL) retry,
 * any other reject. One worker's thread.
 *
 * What a message says reaches the program as arguments, as input and in the environment, never as the
 * name of the program and never as text of a shell. How programs are run is in child.c.
 */

#include "child.h"
#include "environment.h"
#include "tocsin/plugin.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define EXIT_RETRY 75 /* EX_TEMPFAIL of sysexits.h */
#define LEFT_MAX   16

struct exec_service {
    struct tocsin_duration timeout;
    struct tocsin_duration grace;
    const char *directory;
};

struct exec_target {
    struct tocsin_formats command;
    const char *shell;
    const char *stdin;
    bool fields;
    struct tocsin_list environment;
};

struct exec {
    const struct tocsin_host *host;
    const struct exec_service *service;
    pid_t left[LEFT_MAX]; /* programs that not even SIGKILL could end at once; 0: a free place */
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct exec_service, timeout, .def = "30s", .min = 10, .max = 86400000,
                  .help = "Longest time that a program may run; keep it below the service's "
                          "deadline."),
    TOCSIN_OPTION(struct exec_service, grace, .def = "2s", .min = 0, .max = 60000,
                  .help = "Time between SIGTERM, when the time is over, and SIGKILL."),
    TOCSIN_OPTION(struct exec_service, directory,
                  .help = "Directory to run the programs in; without it, the router's."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct exec_target, command,
                  .help = "The program and its arguments; the arguments may hold fields."),
    TOCSIN_OPTION(struct exec_target, shell,
                  .help =
                      "Text for /bin/sh -c, instead of command; what the message says is in the "
                      "environment, as \"$TOCSIN_TEXT\"."),
    TOCSIN_OPTION(struct exec_target, stdin, .def = "text", .choices = "text|payload|none",
                  .help = "What the program finds on its standard input."),
    TOCSIN_OPTION(struct exec_target, fields, .def = "true",
                  .help = "Whether the fields of the message are in the environment."),
    TOCSIN_OPTION(struct exec_target, environment,
                  .help = "More variables, as \"NAME=value\"; of the router's own only a few are "
                          "handed on."),
    { .name = NULL },
};

/* ---- Checks ---- */

/* "NAME=value" with a name that every shell can read. */
static bool is_assignment(const char *text)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
    size_t len = strspn(text, allowed);
    return len > 0 && len < 128 && text[len] == '=' && (text[0] < '0' || text[0] > '9');
}

static const char *exec_check(const void *config)
{
    const struct exec_service *service = config;
    if (service->directory && service->directory[0] != '/')
        return "directory must be an absolute path";
    return NULL;
}

static const char *exec_check_target(const void *service, const void *config)
{
    const struct exec_target *target = config;
    const struct tocsin_formats *command = &target->command;
    (void)service;

    if (!command->count == !target->shell)
        return command->count ? "command and shell exclude each other: leave one out"
                              : "command or shell is missing";
    if (command->count) {
        const char *program = command->texts ? command->texts[0] : "";
        if (strpbrk(program, "{}"))
            return "command must not begin with a field: no message may choose the program";
        if (program[0] == '\0' || (strchr(program, '/') && program[0] != '/'))
            return "command must begin with an absolute path, or a name to be found in PATH";
    } else if (target->shell[0] == '\0') {
        return "shell is empty";
    }
    for (size_t i = 0; i < target->environment.count; i++) {
        const char *item = target->environment.items[i];
        if (!is_assignment(item))
            return "environment must be like [ \"NAME=value\" ]";
        if (strncmp(item, "TOCSIN_", 7) == 0)
            return "environment must not set TOCSIN_ names: they are the message's";
    }
    return NULL;
}

static unsigned exec_wants(const void *service, const void *config)
{
    const struct exec_target *target = config;
    (void)service;
    return target->fields ? TOCSIN_WANTS_FIELDS : 0;
}

/* ---- Sending ---- */

/* What programs usually need of the router's own environment. The rest may hold secrets. */
static void add_inherited(struct environment *environment, const struct tocsin_list *more)
{
    static const char *const names[] = { "PATH", "HOME", "USER",     "LOGNAME", "SHELL",
                                         "LANG", "TZ",   "LC_CTYPE", "LC_ALL",  "TMPDIR" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *value = getenv(names[i]);
        size_t len = strlen(names[i]);
        bool given = false;
        for (size_t k = 0; k < more->count; k++) {
            if (strncmp(more->items[k], names[i], len) == 0 && more->items[k][len] == '=')
                given = true;
        }
        if (value && !given)
            environment_add(environment, names[i], value, strlen(value));
    }
    for (size_t k = 0; k < more->count; k++) {
        const char *value = strchr(more->items[k], '=') + 1;
        char name[128];
        snprintf(name, sizeof(name), "%.*s", (int)(value - 1 - more->items[k]), more->items[k]);
        environment_add(environment, name, value, strlen(value));
    }
}

/* Reaps programs that were out of reach when their time was over. */
static void reap_left(struct exec *self)
{
    for (size_t i = 0; i < LEFT_MAX; i++) {
        if (self->left[i] && waitpid(self->left[i], NULL, WNOHANG) != 0)
            self->left[i] = 0;
    }
}

static void keep_left(struct exec *self, pid_t pid)
{
    self->host->log(self->host, TOCSIN_LOG_ERROR, "program cannot be ended pid=%d", (int)pid);
    for (size_t i = 0; i < LEFT_MAX; i++) {
        if (self->left[i] == 0) {
            self->left[i] = pid;
            return;
        }
    }
}

/* Whether a signal says more about the moment than about the message. */
static bool is_from_outside(int number)
{
    return number == SIGTERM || number == SIGKILL || number == SIGINT || number == SIGHUP;
}

static void conclude(const struct exec *self, struct tocsin_delivery *d,
                     const struct child_end *end)
{
    const char *text = end->stderr_text;
    const char *colon = text[0] ? ": " : "";

    if (end->timed_out) {
        self->host->fail(d, TOCSIN_RETRY, 0, "not done in %lld ms%s%s",
                         (long long)self->service->timeout.ms, colon, text);
    } else if (WIFSIGNALED(end->status)) {
        int number = WTERMSIG(end->status);
        self->host->fail(d, is_from_outside(number) ? TOCSIN_RETRY : TOCSIN_REJECT, 0,
                         "killed by signal %d%s%s", number, colon, text);
    } else if (WEXITSTATUS(end->status) == 0) {
        d->verdict = TOCSIN_SENT;
    } else {
        int status = WEXITSTATUS(end->status);
        self->host->fail(d, status == EXIT_RETRY ? TOCSIN_RETRY : TOCSIN_REJECT, 0,
                         "exit status %d%s%s", status, colon, text);
    }
}

/* The argument vector of a delivery; free() it. The texts are borrowed. NULL without memory. */
static const char **arguments_new(const struct tocsin_delivery *d)
{
    const struct exec_target *target = d->target;
    size_t count = target->shell ? 3 : target->command.count;
    const char **argv = calloc(count + 1, sizeof(*argv));
    if (argv && target->shell) {
        argv[0] = "/bin/sh";
        argv[1] = "-c";
        argv[2] = target->shell;
    } else if (argv) {
        for (size_t i = 0; i < count; i++)
            argv[i] = d->rendered[target->command.first + i];
    }
    return argv;
}

static void deliver(struct exec *self, struct tocsin_delivery *d)
{
    const struct exec_target *target = d->target;
    const struct tocsin_message *m = d->message;
    struct environment environment = { .items = NULL };
    struct child_end end;

    add_inherited(&environment, &target->environment);
    environment_add_delivery(&environment, d);
    const char **argv = arguments_new(d);
    struct child_run run = {
        .argv = argv,
        .envp = (const char *const *)environment.items,
        .directory = self->service->directory,
        .timeout_ms = self->service->timeout.ms,
        .grace_ms = self->service->grace.ms,
    };
    bool payload = strcmp(target->stdin, "payload") == 0 || m->text_is_payload;
    if (strcmp(target->stdin, "none") != 0) {
        run.input = payload ? (const void *)m->payload : m->text;
        run.input_len = payload ? m->payload_len : m->text_len;
        if (!run.input)
            run.input = "";
    }

    int error = environment.error;
    if (!error && !argv)
        error = -ENOMEM;
    if (!error)
        error = child_run(&run, &end);
    if (error == -E2BIG) {
        self->host->fail(d, TOCSIN_REJECT, error, "arguments and environment");
    } else if (error) {
        self->host->fail(d, TOCSIN_RETRY, error, "cannot run %s", argv ? argv[0] : "the program");
    } else {
        if (end.left)
            keep_left(self, end.left);
        conclude(self, d, &end);
    }
    free(argv);
    environment_release(&environment);
}

static void exec_send(void *instance, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct exec *self = instance;
    reap_left(self);
    for (size_t i = 0; i < n; i++)
        deliver(self, deliveries[i]);
}

static int exec_open(const struct tocsin_host *host, const void *service, void **out)
{
    struct exec *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    *self = (struct exec){ .host = host, .service = service };
    /* Whoever started the router may have left SIGCHLD ignored, and then exit statuses are lost. */
    struct sigaction now;
    if (sigaction(SIGCHLD, NULL, &now) == 0 && now.sa_handler == SIG_IGN)
        signal(SIGCHLD, SIG_DFL);
    *out = self;
    return 0;
}

static void exec_close(void *instance)
{
    struct exec *self = instance;
    reap_left(self);
    free(self);
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "exec",
    .summary = "programs, one run for each notification",
    .service_options = service_options,
    .service_size = sizeof(struct exec_service),
    .target_options = target_options,
    .target_size = sizeof(struct exec_target),
    .check = exec_check,
    .check_target = exec_check_target,
    .wants = exec_wants,
    .open = exec_open,
    .send = exec_send,
    .close = exec_close,
};
