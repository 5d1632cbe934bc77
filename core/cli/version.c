/* SPDX-License-Identifier: MIT */

/* tocsin version */

#include "cli/cli.h"

#include <jansson.h>
#include <mosquitto.h>
#include <stdio.h>

#include <lua.h>

static const struct cli_option options[] = {
    { "json", 0, NULL, "Print a JSON object instead of text." },
    { .name = NULL },
};

static int run(const struct cli_args *args)
{
    int major, minor, revision;
    mosquitto_lib_version(&major, &minor, &revision);
    if (cli_value(&cli_version, args, "json"))
        printf("{\"version\": \"%s\", \"plugin_abi\": %d, \"libmosquitto\": \"%d.%d.%d\", "
               "\"jansson\": \"%s\", \"lua\": \"%s.%s.%s\"}\n",
               TOCSIN_VERSION, TOCSIN_PLUGIN_ABI, major, minor, revision, jansson_version_str(),
               LUA_VERSION_MAJOR, LUA_VERSION_MINOR, LUA_VERSION_RELEASE);
    else
        printf("tocsin %s (plugin ABI %d, libmosquitto %d.%d.%d, jansson %s, Lua %s.%s.%s)\n",
               TOCSIN_VERSION, TOCSIN_PLUGIN_ABI, major, minor, revision, jansson_version_str(),
               LUA_VERSION_MAJOR, LUA_VERSION_MINOR, LUA_VERSION_RELEASE);
    return CLI_OK;
}

const struct cli_command cli_version = {
    .name = "version",
    .summary = "print the version, and those of the libraries",
    .arguments = "",
    .description =
        "Prints the version of the program, of the plugin ABI, and of the libraries it uses.",
    .example = "tocsin version",
    .options = options,
    .run = run,
};
