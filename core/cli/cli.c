/* SPDX-License-Identifier: MIT */

#include "cli/cli.h"

#include "base/nearest.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_WIDTH   80
#define HELP_COLUMN  26    /* where the help of an option begins */
#define HELP_WIDTH   100   /* columns of a line of it */
#define FIRST_OPTION 256   /* what getopt_long() returns for the first option of a table */
#define HELP_OPTION  65536 /* ... and for --help */

const struct cli_command *const cli_commands[] = {
    &cli_run,    &cli_check,   &cli_explain, &cli_send,    &cli_pub,
    &cli_sub,    &cli_queue,   &cli_status,  &cli_store,   &cli_why,
    &cli_ledger, &cli_plugins, &cli_help,    &cli_version, NULL,
};

const struct cli_command *cli_command_named(const char *name)
{
    for (size_t i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0)
            return cli_commands[i];
    return NULL;
}

int cli_misused(const struct cli_command *command, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "tocsin %s: ", command->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry `tocsin %s --help`.\n", command->name);
    return CLI_USAGE;
}

int cli_print(struct buf *out)
{
    bool good =
        !out->error && fwrite(buf_str(out), 1, out->len, stdout) == out->len && fflush(stdout) == 0;
    buf_release(out);
    return good ? CLI_OK : CLI_FAILED;
}

const char *cli_value(const struct cli_command *command, const struct cli_args *args,
                      const char *name)
{
    for (size_t i = 0; command->options[i].name; i++)
        if (strcmp(command->options[i].name, name) == 0)
            return args->values[i];
    return NULL;
}

/* ---- Help ---- */

/* Text from HELP_COLUMN on, over as many lines as it takes. */
static void add_wrapped(const char *text, struct buf *out)
{
    for (size_t len, column = HELP_COLUMN; *text; text += len, column += len) {
        len = strcspn(text, " ");
        if (column > HELP_COLUMN && column + len >= HELP_WIDTH) {
            buf_add_byte(out, '\n');
            buf_add_fill(out, ' ', HELP_COLUMN);
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            buf_add_byte(out, ' ');
            column++;
        }
        buf_add(out, text, len);
        text += text[len] == ' ';
    }
    buf_add_byte(out, '\n');
}

static void add_option(const struct cli_option *option, struct buf *out)
{
    size_t start = out->len;
    if (option->letter)
        buf_addf(out, "  -%c, ", option->letter);
    else
        buf_add_str(out, "      ");
    buf_addf(out, "--%s%s%s", option->name, option->argument ? " " : "",
             option->argument ? option->argument : "");
    size_t column = out->len - start;
    if (column >= HELP_COLUMN) {
        buf_add_byte(out, '\n');
        column = 0;
    }
    buf_add_fill(out, ' ', HELP_COLUMN - column);
    add_wrapped(option->help, out);
}

static size_t option_by_letter(const struct cli_command *command, int letter)
{
    size_t i = 0;
    while (command->options[i].name && command->options[i].letter != letter)
        i++;
    return i;
}

bool cli_has_letter(const struct cli_command *command, char letter)
{
    return command->options[option_by_letter(command, letter)].name != NULL;
}

void cli_add_help(const struct cli_command *command, struct buf *out)
{
    buf_addf(out, "tocsin %s: %s\n\nUsage: tocsin %s [OPTION]...%s%s\n\n%s\n\nOptions:\n",
             command->name, command->summary, command->name, command->arguments[0] ? " " : "",
             command->arguments, command->description);
    for (const struct cli_option *o = command->options; o->name; o++)
        add_option(o, out);
    const char letter = cli_has_letter(command, 'h') ? '\0' : 'h';
    add_option(&(struct cli_option){ "help", letter, NULL, "Show this help." }, out);
    if (command->details)
        buf_addf(out, "\n%s\n", command->details);
    buf_addf(out, "\nExit status: %s\n",
             command->exit_status ? command->exit_status
                                  : "0 if it worked, 1 if not, 2 for a call "
                                    "that makes no sense.");
    buf_addf(out, "Example:     %s\n", command->example);
}

void cli_add_overview(struct buf *out)
{
    buf_add_str(out, "tocsin turns MQTT messages into notifications.\n\nUsage: tocsin COMMAND "
                     "[OPTION]... [ARGUMENT]...\n\nCommands:\n");
    for (size_t i = 0; cli_commands[i]; i++)
        buf_addf(out, "  %-10s%s\n", cli_commands[i]->name, cli_commands[i]->summary);
    buf_add_str(out, "\n`tocsin COMMAND --help` tells more of one.\n"
                     "Sections of the configuration, for `tocsin help SECTION`:\n ");
    size_t column = 1;
    for (const struct cli_section *s = cli_sections; s->name; s++) {
        if (column + strlen(s->name) + 1 > LINE_WIDTH) {
            buf_add_str(out, "\n ");
            column = 1;
        }
        buf_addf(out, " %s", s->name);
        column += strlen(s->name) + 1;
    }
    buf_add_str(out, ", and each plugin.\nWhat is written inside them, for `tocsin help NAME`:\n ");
    for (const struct cli_topic *t = cli_topics; t->name; t++)
        buf_addf(out, " %s", t->name);
    buf_add_str(out, ".\n");
}

/* ---- Parsing ---- */

static int argument_kind(const struct cli_option *option)
{
    if (!option->argument)
        return no_argument;
    return option->argument[0] == '[' ? optional_argument : required_argument;
}

/* Builds getopt's tables from ours. */
static void build_tables(const struct cli_command *command, struct option *longs, char *shorts)
{
    size_t n = 0;
    if (!command->mixed)
        *shorts++ = '+';
    *shorts++ = ':';
    for (; command->options[n].name; n++) {
        const struct cli_option *o = &command->options[n];
        longs[n] = (struct option){
            .name = o->name,
            .has_arg = argument_kind(o),
            .val = FIRST_OPTION + (int)n,
        };
        if (o->letter)
            *shorts++ = o->letter;
        for (int colons = o->letter ? argument_kind(o) : 0; colons > 0; colons--)
            *shorts++ = ':';
    }
    longs[n++] = (struct option){ .name = "help", .has_arg = no_argument, .val = HELP_OPTION };
    longs[n] = (struct option){ 0 };
    if (!cli_has_letter(command, 'h'))
        *shorts++ = 'h';
    *shorts = '\0';
}

/* Notes an option, and takes the words after it that are its own. */
static void take_option(const struct cli_command *command, size_t i, char **argv,
                        struct cli_args *args)
{
    struct cli_given *given = &args->given[args->given_count++];
    /* For getopt an optional value is part of the same word; for a person it may be the next one. */
    if (!optarg && argument_kind(&command->options[i]) == optional_argument && argv[optind] &&
        argv[optind][0] != '-')
        optarg = argv[optind++];
    *given = (struct cli_given){
        .option = &command->options[i],
        .value = optarg,
        .words = argv + optind,
    };
    args->values[i] = optarg ? optarg : "";
    if (command->words)
        given->word_count = command->words(given, given->words);
    optind += (int)given->word_count;
}

static int parse_and_run(const struct cli_command *command, int argc, char **argv,
                         struct cli_args *args)
{
    struct option longs[CLI_MAX_OPTIONS + 2];
    char shorts[3 * CLI_MAX_OPTIONS + 4];
    build_tables(command, longs, shorts);
    opterr = 0;
    int letter;
    while ((letter = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (letter == HELP_OPTION || (letter == 'h' && !cli_has_letter(command, 'h'))) {
            struct buf out = BUF_INIT(65536);
            cli_add_help(command, &out);
            return cli_print(&out);
        }
        if (letter == ':')
            return cli_misused(command, "%s wants a value", argv[optind - 1]);
        if (letter == '?')
            return cli_misused(command, "there is no option %s", argv[optind - 1]);
        take_option(command,
                    letter >= FIRST_OPTION ? (size_t)(letter - FIRST_OPTION)
                                           : option_by_letter(command, letter),
                    argv, args);
    }
    args->rest = argv + optind;
    args->rest_count = (size_t)(argc - optind);
    if (args->rest_count > command->most && args->rest[command->most][0] == '-')
        return cli_misused(command, "options stand before the arguments: tocsin %s %s ... %s",
                           command->name, args->rest[command->most], command->arguments);
    if (args->rest_count < command->least || args->rest_count > command->most)
        return args->rest_count > command->most && command->most == 0
                   ? cli_misused(command, "what is \"%s\"? There are only options", args->rest[0])
                   : cli_misused(command, "usage: tocsin %s [OPTION]... %s", command->name,
                                 command->arguments);
    return command->run(args);
}

int cli_main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "--help";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        struct buf out = BUF_INIT(65536);
        cli_add_overview(&out);
        int status = cli_print(&out);
        return argc > 1 ? status : CLI_USAGE;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        name = "version";
    const struct cli_command *command = cli_command_named(name);
    if (!command) {
        struct nearest nearest = { .wrong = name };
        for (size_t i = 0; cli_commands[i]; i++)
            nearest_try(&nearest, cli_commands[i]->name);
        fprintf(stderr, "tocsin: there is no command \"%s\"", name);
        fprintf(stderr, nearest.best ? ", did you mean \"%s\"?\n" : ", try `tocsin help`\n",
                nearest.best);
        return CLI_USAGE;
    }
    size_t room = 1;
    for (int i = 2; i < argc; i++)
        room += argv[i][0] == '-' ? strlen(argv[i]) : 0; /* each letter of -abc is one */
    struct cli_args args = { .given = calloc(room, sizeof(*args.given)) };
    int status = args.given ? parse_and_run(command, argc - 1, argv + 1, &args) : CLI_FAILED;
    free(args.given);
    return status;
}
