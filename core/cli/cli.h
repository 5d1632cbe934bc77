/* SPDX-License-Identifier: MIT */

/*
 * The command line: one file a subcommand, each with a table of its options, from which parsing, --help and
 * the manual page come. Main thread.
 */

#ifndef TOCSIN_CLI_CLI_H
#define TOCSIN_CLI_CLI_H

#include "base/buf.h"
#include "tocsin/plugin.h"

#include <stdbool.h>
#include <stddef.h>

/* Exit statuses, beside those that a command explains itself. */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2
};

struct cli_option {
    const char *name;     /* "config" for --config */
    char letter;          /* 'c' for -c; 0 for none; 'h' takes -h from --help */
    const char *argument; /* "FILE"; "[N]": may be left out, and is "" then; NULL for a flag */
    const char *help;
};

#define CLI_MAX_OPTIONS 72

/* An option as it stood in the call. */
struct cli_given {
    const struct cli_option *option;
    char *value;  /* NULL for a flag */
    char **words; /* that belong to it beside the value, see cli_command.words */
    size_t word_count;
};

struct cli_args {
    /* By the place in the table, the last one if it was given again; "" for a flag; NULL: not given. */
    const char *values[CLI_MAX_OPTIONS];
    struct cli_given *given; /* all of them, in their order */
    size_t given_count;
    char **rest;
    size_t rest_count;
};

struct cli_command {
    const char *name;
    const char *summary;              /* one line */
    const char *arguments;            /* "TOPIC PAYLOAD", or "" */
    const char *description;          /* paragraphs, divided by empty lines */
    const char *exit_status;          /* what it means; NULL: 0, 1 and 2 as everybody has it */
    const char *example;              /* a line that works */
    const struct cli_option *options; /* ends with an entry without a name */
    const char *details;              /* more for the reader, written as a topic below; or NULL */
    size_t least, most;               /* how many arguments */
    /* Options may stand among the arguments. Else what begins with '-' after the first argument is one too: a
     * payload of -5. */
    bool mixed;
    /* How many of the words that follow belong to an option beside its value; NULL: to none does any.
     * `following` ends with NULL. */
    size_t (*words)(const struct cli_given *given, char *const *following);
    int (*run)(const struct cli_args *args);
};

/* All commands, NULL at the end. */
extern const struct cli_command *const cli_commands[];
const struct cli_command *cli_command_named(const char *name);

extern const struct cli_command cli_run, cli_check, cli_plugins, cli_explain, cli_send, cli_help,
    cli_version, cli_pub, cli_sub, cli_queue, cli_status, cli_store, cli_why, cli_ledger;

/* Runs the command that argv names. Returns the exit status. */
int cli_main(int argc, char **argv);

/* Help for a command, and for all of them. */
void cli_add_help(const struct cli_command *command, struct buf *out);
void cli_add_overview(struct buf *out);

/* The value of an option; NULL if it was not given. */
const char *cli_value(const struct cli_command *command, const struct cli_args *args,
                      const char *name);

/* Whether one of the command's options has this letter. */
bool cli_has_letter(const struct cli_command *command, char letter);

/* Complains on standard error, "tocsin COMMAND: ...", and returns CLI_USAGE. */
int cli_misused(const struct cli_command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints a buffer on standard output and releases it. Returns CLI_OK, or CLI_FAILED when it cannot be
 * written or the buffer had failed. */
int cli_print(struct buf *out);

/* ---- Sections of the configuration, for help, the sample and the manual ---- */

struct cli_section {
    const char *name;
    const char *where;   /* how it stands in the file */
    const char *summary; /* what it is for */
    const struct tocsin_option *table;
};

extern const struct cli_section cli_sections[]; /* ends with an entry without a name */

/* What is written inside options: formats, expressions and so on. Paragraphs are divided by empty lines; one whose
 * lines are indented is literal. */
struct cli_topic {
    const char *name;
    const char *summary;
    const char *text; /* no line is longer than a terminal */
};

extern const struct cli_topic cli_topics[]; /* ends with an entry without a name */

/* Manual pages in mdoc(7): of the program with its commands (tocsin.1), of one command, of the
 * configuration (tocsin.conf.5). */
void manual_add_program(struct buf *out);
void manual_add_command(const struct cli_command *command, struct buf *out);
void manual_add_configuration(struct buf *out);

/* The commented sample of a configuration. */
void sample_add(struct buf *out);

#endif
