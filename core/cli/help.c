/* SPDX-License-Identifier: MIT */

/* tocsin help */

#include "base/nearest.h"
#include "cli/cli.h"
#include "cli/plugin_help.h"
#include "config/options.h"

#include <stdio.h>
#include <string.h>

#define HELP_MAX_BYTES (1024 * 1024)

static const struct cli_option options[] = {
    { "sample", 0, NULL, "Print a commented configuration with all options." },
    { "man", 0, NULL, "Print the manual page: of the program, of a command, or of tocsin.conf." },
    { .name = NULL },
};

static const struct cli_section *section_named(const char *name)
{
    for (const struct cli_section *s = cli_sections; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

static const struct cli_topic *topic_named(const char *name)
{
    for (const struct cli_topic *t = cli_topics; t->name; t++)
        if (strcmp(t->name, name) == 0)
            return t;
    return NULL;
}

static int unknown(const char *name)
{
    struct nearest nearest = { .wrong = name };
    for (const struct cli_topic *t = cli_topics; t->name; t++)
        nearest_try(&nearest, t->name);
    for (const struct cli_section *s = cli_sections; s->name; s++)
        nearest_try(&nearest, s->name);
    for (size_t i = 0; cli_commands[i]; i++)
        nearest_try(&nearest, cli_commands[i]->name);
    if (nearest.best)
        return cli_misused(&cli_help, "there is no section \"%s\", did you mean \"%s\"?", name,
                           nearest.best);
    return cli_misused(&cli_help, "there is no section, command or plugin \"%s\"", name);
}

static int manual(const char *name)
{
    struct buf out = BUF_INIT(HELP_MAX_BYTES);
    const struct cli_command *command = cli_command_named(name);
    if (strcmp(name, "tocsin") == 0)
        manual_add_program(&out);
    else if (strcmp(name, "tocsin.conf") == 0)
        manual_add_configuration(&out);
    else if (command)
        manual_add_command(command, &out);
    else
        return unknown(name);
    return cli_print(&out);
}

static int run(const struct cli_args *args)
{
    const char *name = args->rest_count > 0 ? args->rest[0] : NULL;
    if (cli_value(&cli_help, args, "man"))
        return manual(name ? name : "tocsin");

    struct buf out = BUF_INIT(HELP_MAX_BYTES);
    if (cli_value(&cli_help, args, "sample")) {
        sample_add(&out);
        return cli_print(&out);
    }
    if (!name) {
        cli_add_overview(&out);
        return cli_print(&out);
    }
    const struct cli_section *section = section_named(name);
    const struct cli_topic *topic = topic_named(name);
    const struct cli_command *command = cli_command_named(name);
    if (topic) {
        buf_addf(&out, "%s: %s\n\n%s\n", topic->name, topic->summary, topic->text);
        return cli_print(&out);
    }
    if (section) {
        buf_addf(&out, "%s: %s\n%s\n\n", section->name, section->summary, section->where);
        options_help(section->table, &out);
        if (command)
            buf_addf(&out, "\nThe command of this name: `tocsin %s --help`.\n", name);
        return cli_print(&out);
    }
    if (command) {
        cli_add_help(command, &out);
        return cli_print(&out);
    }
    struct buf why = BUF_INIT(4096);
    int rc = plugin_add_help(NULL, name, &out, &why);
    buf_release(&why);
    if (rc == 0)
        return cli_print(&out);
    buf_release(&out);
    return unknown(name);
}

const struct cli_command cli_help = {
    .name = "help",
    .summary = "explain a command, a section, a plugin, or how formats are written",
    .arguments = "[NAME]",
    .description = "Without NAME it lists commands and sections. With the name of a section or "
                   "plugin it prints all its\n"
                   "options: type, default, range, effect. They come from the tables that the "
                   "configuration is read\n"
                   "with. fields, formats, expressions, templates and functions tell what is "
                   "written inside options.",
    .example = "tocsin help route",
    .options = options,
    .most = 1,
    .run = run,
};
