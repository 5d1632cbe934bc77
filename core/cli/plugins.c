/* SPDX-License-Identifier: MIT */

/* tocsin plugins */

#include "cli/cli.h"
#include "cli/plugin_help.h"
#include "config/options.h"
#include "daemon/setup.h"
#include "delivery/services.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_MAX_BYTES (1024 * 1024)

static const struct cli_option options[] = {
    { "dir", 'd', "FOLDER", "Folder of the plugins; where the router looks if left out." },
    { "json", 0, NULL, "Print JSON instead of text." },
    { .name = NULL },
};

/* The folder to look in, to be freed. */
static char *folder(const char *wanted)
{
    const char *environment = getenv("TOCSIN_PLUGINS");
    return setup_plugin_dir(wanted ? wanted : environment);
}

int plugin_add_help(const char *dir, const char *name, struct buf *out, struct buf *why)
{
    const struct tocsin_plugin *plugin;
    char *path = folder(dir);
    int rc = path ? plugin_load(path, name, &plugin, why) : -ENOMEM;
    free(path);
    if (rc < 0)
        return rc;
    buf_addf(out, "%s: %s\n\nOptions of the service:\n\n", plugin->name, plugin->summary);
    options_help(plugin->service_options, out);
    buf_add_str(out, "\nOptions of a target:\n\n");
    options_help(plugin->target_options, out);
    buf_add_str(out,
                "\nBeside these there are the options of every service and target: `tocsin help "
                "service`,\n`tocsin help target`.\n");
    return 0;
}

static const char *type_name(enum tocsin_option_type type)
{
    static const char *const names[] = {
        [TOCSIN_OPT_BOOL] = "bool",     [TOCSIN_OPT_INT] = "int",
        [TOCSIN_OPT_FLOAT] = "float",   [TOCSIN_OPT_STRING] = "string",
        [TOCSIN_OPT_SECRET] = "secret", [TOCSIN_OPT_DURATION] = "duration",
        [TOCSIN_OPT_SIZE] = "size",     [TOCSIN_OPT_LIST] = "list",
        [TOCSIN_OPT_FORMAT] = "format", [TOCSIN_OPT_FORMATS] = "formats",
        [TOCSIN_OPT_TREE] = "tree",
    };
    return names[type];
}

static json_t *json_table(const struct tocsin_option *table)
{
    json_t *list = json_array();
    for (; table && table->name; table++) {
        json_t *option = json_pack(
            "{s:s, s:s, s:b, s:s}", "name", table->name, "type", type_name(table->type), "required",
            (table->flags & TOCSIN_OPTION_REQUIRED) != 0, "help", table->help);
        if (table->def)
            json_object_set_new(option, "default", json_string(table->def));
        if (table->choices)
            json_object_set_new(option, "choices", json_string(table->choices));
        if (table->min < table->max) {
            json_object_set_new(option, "min", json_integer(table->min));
            json_object_set_new(option, "max", json_integer(table->max));
        }
        json_array_append_new(list, option);
    }
    return list;
}

static int print_json(json_t *json)
{
    int rc = json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
    return rc == 0 && fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
}

static int complain(const char *name, const struct buf *why)
{
    fprintf(stderr, "tocsin plugins: %s: %s\n", name, buf_str(why));
    return CLI_FAILED;
}

static int tell_one(const char *dir, const char *name, bool as_json)
{
    struct buf out = BUF_INIT(HELP_MAX_BYTES), why = BUF_INIT(4096);
    const struct tocsin_plugin *plugin;
    int status;
    if (!as_json) {
        status =
            plugin_add_help(dir, name, &out, &why) < 0 ? complain(name, &why) : cli_print(&out);
    } else if (plugin_load(dir, name, &plugin, &why) < 0) {
        status = complain(name, &why);
    } else {
        status = print_json(json_pack("{s:s, s:s, s:o, s:o}", "name", plugin->name, "summary",
                                      plugin->summary, "service_options",
                                      json_table(plugin->service_options), "target_options",
                                      json_table(plugin->target_options)));
    }
    buf_release(&why);
    buf_release(&out);
    return status;
}

static int list(const char *dir, bool as_json)
{
    char **names = plugin_names(dir);
    int status = CLI_OK;
    json_t *all = json_array();
    for (size_t i = 0; names && names[i]; i++) {
        const struct tocsin_plugin *plugin;
        struct buf why = BUF_INIT(4096);
        if (plugin_load(dir, names[i], &plugin, &why) < 0) {
            status = complain(names[i], &why);
        } else if (as_json) {
            json_array_append_new(
                all, json_pack("{s:s, s:s}", "name", plugin->name, "summary", plugin->summary));
        } else {
            printf("%-12s%s\n", plugin->name, plugin->summary);
        }
        buf_release(&why);
    }
    if (!names || !names[0]) {
        fprintf(stderr, "tocsin plugins: there are none in %s; name the folder with --dir\n", dir);
        status = CLI_FAILED;
    }
    plugin_names_free(names);
    if (as_json)
        return print_json(all) == CLI_OK ? status : CLI_FAILED;
    json_decref(all);
    return status;
}

static int run(const struct cli_args *args)
{
    bool as_json = cli_value(&cli_plugins, args, "json") != NULL;
    char *dir = folder(cli_value(&cli_plugins, args, "dir"));
    if (!dir)
        return CLI_FAILED;
    int status = args->rest_count > 0 ? tell_one(dir, args->rest[0], as_json) : list(dir, as_json);
    free(dir);
    return status;
}

const struct cli_command cli_plugins = {
    .name = "plugins",
    .summary = "list the service plugins, or the options of one",
    .arguments = "[NAME]",
    .description = "Lists the plugins that services can be made of. With NAME it prints the "
                   "options of that one, for the\n"
                   "service and for each of its targets.",
    .example = "tocsin plugins mail",
    .options = options,
    .most = 1,
    .run = run,
};
