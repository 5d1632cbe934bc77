/* SPDX-License-Identifier: MIT */

/* Manual pages in mdoc(7), from the same tables as everything else. */

#include "cli/cli.h"
#include "config/options.h"

#include <ctype.h>
#include <string.h>

#define DATE "2026-11-22"

#define TOPIC_MAX_BYTES 65536

/* Text as mdoc takes it: no line may begin with a dot or quote, and backslashes are doubled. Line feeds
 * within a paragraph become blanks, an empty line begins a new one. */
static void add_prose(struct buf *out, const char *text)
{
    bool line_start = true;
    for (const char *begin = text; *text; text++) {
        if (text[0] == '\n' && text[1] == '\n') {
            buf_add_str(out, "\n.Pp\n");
            line_start = true;
            text++;
        } else if (*text == '\n') {
            buf_add_byte(out, '\n');
            line_start = true;
        } else if (text > begin && text[0] == ' ' && text[-1] == '.' &&
                   isupper((unsigned char)text[1])) {
            buf_add_byte(out, '\n'); /* a sentence begins a line */
            line_start = true;
        } else if (*text == '\\') {
            buf_add_str(out, "\\e");
        } else {
            if (line_start && *text == ' ')
                continue;
            if (line_start && (*text == '.' || *text == '\''))
                buf_add_str(out, "\\&");
            buf_add_byte(out, *text);
            line_start = false;
        }
    }
    buf_add_byte(out, '\n');
}

/* One line as it is. */
static void add_line(struct buf *out, const char *text, size_t len)
{
    if (len > 0 && (*text == '.' || *text == '\''))
        buf_add_str(out, "\\&");
    for (size_t i = 0; i < len; i++)
        if (text[i] == '\\')
            buf_add_str(out, "\\e");
        else
            buf_add_byte(out, text[i]);
    buf_add_byte(out, '\n');
}

static void add_head(struct buf *out, const char *title, const char *section, const char *name,
                     const char *about)
{
    buf_addf(out, ".Dd %s\n.Dt ", DATE);
    for (const char *c = title; *c; c++)
        buf_add_byte(out, (char)toupper((unsigned char)*c));
    buf_addf(out, " %s\n.Os\n.Sh NAME\n.Nm %s\n.Nd %s\n", section, name, about);
}

/* Prose that was gathered line by line. */
static void end_prose(struct buf *out, struct buf *prose)
{
    if (prose->len > 0)
        add_prose(out, buf_str(prose));
    buf_clear(prose);
}

/* Indented lines are literal, the others prose. */
static void add_text(struct buf *out, const char *text)
{
    struct buf prose = BUF_INIT(TOPIC_MAX_BYTES);
    bool literal = false;
    for (const char *line = text, *end; *line; line = *end ? end + 1 : end) {
        end = line + strcspn(line, "\n");
        if (end == line) {
            if (prose.len > 0 && *end && end[1] != ' ') {
                end_prose(out, &prose);
                buf_add_str(out, ".Pp\n");
            }
            end_prose(out, &prose);
            continue;
        }
        if ((*line == ' ') != literal) {
            literal = !literal;
            end_prose(out, &prose);
            buf_add_str(out, literal ? ".Bd -literal -offset indent\n" : ".Ed\n.Pp\n");
        }
        if (literal)
            add_line(out, line + 2, (size_t)(end - line) - 2);
        else
            buf_addf(&prose, "%s%.*s", prose.len > 0 ? " " : "", (int)(end - line), line);
    }
    end_prose(out, &prose);
    if (literal)
        buf_add_str(out, ".Ed\n");
    buf_release(&prose);
}

static void add_options(struct buf *out, const struct cli_command *command)
{
    buf_add_str(out, ".Bl -tag -width Ds\n");
    for (const struct cli_option *o = command->options; o->name; o++) {
        buf_add_str(out, ".It ");
        if (o->letter)
            buf_addf(out, "Fl %c%s%s , ", o->letter, o->argument ? " Ar " : "",
                     o->argument ? o->argument : "");
        buf_addf(out, "Fl Fl %s%s%s\n", o->name, o->argument ? " Ar " : "",
                 o->argument ? o->argument : "");
        add_prose(out, o->help);
    }
    buf_addf(out, ".It %sFl Fl help\nShow a short help.\n.El\n",
             cli_has_letter(command, 'h') ? "" : "Fl h , ");
}

static void add_synopsis(struct buf *out, const struct cli_command *command)
{
    buf_addf(out, ".Nm tocsin %s\n.Op Ar option ...\n", command->name);
    if (command->arguments[0])
        buf_addf(out, ".Ar %s\n", command->arguments);
}

void manual_add_command(const struct cli_command *command, struct buf *out)
{
    char title[64] = "tocsin-";
    strncat(title, command->name, sizeof(title) - strlen(title) - 1);
    add_head(out, title, "1", title, command->summary);
    buf_add_str(out, ".Sh SYNOPSIS\n");
    add_synopsis(out, command);
    buf_add_str(out, ".Sh DESCRIPTION\n");
    add_prose(out, command->description);
    buf_add_str(out, ".Pp\nThe options are as follows:\n");
    add_options(out, command);
    if (command->details) {
        buf_add_str(out, ".Pp\n");
        add_text(out, command->details);
    }
    buf_add_str(out, ".Sh EXIT STATUS\n");
    add_prose(out, command->exit_status
                       ? command->exit_status
                       : "0 if it worked, 1 if not, 2 for a call that makes no sense.");
    buf_addf(out, ".Sh EXAMPLES\n.Dl %s\n.Sh SEE ALSO\n.Xr tocsin 1 ,\n.Xr tocsin.conf 5\n",
             command->example);
}

void manual_add_program(struct buf *out)
{
    add_head(out, "tocsin", "1", "tocsin", "turn MQTT messages into notifications");
    buf_add_str(out, ".Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar option ...\n.Op Ar argument ...\n"
                     ".Sh DESCRIPTION\n");
    add_prose(
        out,
        "Is an MQTT broker, connects to others, maps branches of the topic tree to transforms, and "
        "hands the "
        "results "
        "to service plugins: mail, Pushover, NSCA, GELF, files, programs, and other topics.\n\n"
        "The commands are as follows:");
    buf_add_str(out, ".Bl -tag -width Ds\n");
    for (size_t i = 0; cli_commands[i]; i++) {
        buf_addf(out, ".It Xr tocsin-%s 1\n", cli_commands[i]->name);
        add_prose(out, cli_commands[i]->summary);
    }
    buf_add_str(
        out,
        ".El\n.Sh ENVIRONMENT\n.Bl -tag -width Ds\n.It Ev TOCSIN_PLUGINS\n"
        "Folder that is searched for plugins before any other.\n"
        ".It Ev NOTIFY_SOCKET , JOURNAL_STREAM\nSet by systemd: it is told when the router is\n"
        "ready, and log lines begin with their priority.\n.El\n"
        ".Sh SEE ALSO\n.Xr tocsin.conf 5\n");
}

void manual_add_configuration(struct buf *out)
{
    add_head(out, "tocsin.conf", "5", "tocsin.conf", "configuration of tocsin");
    buf_add_str(out, ".Sh DESCRIPTION\n");
    add_prose(
        out,
        "The file has the syntax of libconfig: name = value; with groups in braces, lists in "
        "parentheses, and comments after // or #. Integers over 32 bits end with L.\n\n"
        "Files conf.d/*.conf beside it are read after it, in sorted order: groups are merged, "
        "lists "
        "are appended. In strings, ${env:NAME} is replaced by the environment variable, and "
        "${file:PATH} by the content of the file; $${ stands for ${ itself.\n\n"
        "Everything that is wrong is reported at once, with file, line, key and what to write, and "
        "nothing starts half configured. Try with tocsin check.");
    for (const struct cli_section *s = cli_sections; s->name; s++) {
        buf_add_str(out, ".Ss ");
        buf_addf(out, "%s: %s\n", s->name, s->summary);
        add_prose(out, s->where);
        buf_add_str(out, ".Bl -tag -width Ds\n");
        options_mdoc(s->table, out);
        buf_add_str(out, ".El\n");
    }
    for (const struct cli_topic *t = cli_topics; t->name; t++) {
        buf_addf(out, ".Ss %s: %s\n", t->name, t->summary);
        add_text(out, t->text);
    }
    buf_add_str(out, ".Sh SEE ALSO\n.Xr tocsin 1 ,\n.Xr tocsin-check 1 ,\n.Xr tocsin-explain 1\n");
}
