/* SPDX-License-Identifier: MIT */

/* tocsin check */

#include "cli/cli.h"
#include "daemon/setup.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration; ./tocsin.conf or the installed one if left out." },
    { "json", 0, NULL, "Print a JSON object instead of text." },
    { .name = NULL },
};

struct counts {
    bool broker;
    size_t links, services, targets, routes;
};

static struct counts count(const struct setup *setup, const struct identity *identity)
{
    struct counts n = {
        .broker = identity->has_broker,
        .links = identity->link_count - identity->has_broker,
    };
    const char *name;
    for (; (name = services_name_at(setup->services, n.services)); n.services++)
        for (size_t i = 0; services_target_at(setup->services, name, strlen(name), i); i++)
            n.targets++;
    while (routes_at(engine_routes(setup->engines[0]), n.routes))
        n.routes++;
    return n;
}

static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

static int report(const char *path, int rc, const struct counts *n,
                  const struct conf_errors *errors)
{
    struct buf out = BUF_INIT(2 * 1024 * 1024);
    if (rc == -ENOMEM)
        buf_add_str(&out, "out of memory\n");
    else if (rc < 0)
        buf_addf(&out, "%s%s: %zu error%s\n", buf_str(&errors->text), path, errors->count,
                 errors->count == 1 ? "" : "s");
    else
        buf_addf(&out, "%s: fine: %s%zu link%s, %zu service%s with %zu target%s, %zu route%s\n",
                 path, n->broker ? "a broker, " : "", n->links, plural(n->links), n->services,
                 plural(n->services), n->targets, plural(n->targets), n->routes, plural(n->routes));
    return cli_print(&out);
}

static int report_json(const char *path, int rc, const struct counts *n, struct conf_errors *errors)
{
    json_t *list = json_array();
    char *save = NULL, *text = buf_take(&errors->text);
    for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save))
        json_array_append_new(list, json_stringn_nocheck(line, strlen(line)));
    free(text);
    json_t *root = json_pack("{s:s, s:b, s:o, s:b, s:I, s:I, s:I, s:I}", "file", path, "ok",
                             rc == 0, "errors", list, "broker", n->broker, "links",
                             (json_int_t)n->links, "services", (json_int_t)n->services, "targets",
                             (json_int_t)n->targets, "routes", (json_int_t)n->routes);
    int status = json_dumpf(root, stdout, JSON_INDENT(2)) == 0 ? CLI_OK : CLI_FAILED;
    putchar('\n');
    json_decref(root);
    return status;
}

static int run(const struct cli_args *args)
{
    const char *path = cli_value(&cli_check, args, "config");
    if (!path)
        path = setup_default_path();
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct identity identity = { 0 };
    struct setup setup;
    struct counts n = { 0 };
    int rc = setup_read(&setup, path, &identity, NULL, &errors);
    if (rc == 0)
        n = count(&setup, &identity);
    int status = cli_value(&cli_check, args, "json") ? report_json(path, rc, &n, &errors)
                                                     : report(path, rc, &n, &errors);
    if (rc == 0)
        setup_release(&setup);
    identity_release(&identity);
    conf_errors_release(&errors);
    return rc < 0 ? CLI_FAILED : status;
}

const struct cli_command cli_check = {
    .name = "check",
    .summary = "say whether a configuration is right",
    .arguments = "",
    .description = "Reads the configuration with everything it names (conf.d, templates, "
                   "functions, plugins) and\n"
                   "prints all that is wrong, a line each: file, line, key, what is wrong, what to "
                   "write. It needs no\n"
                   "network and changes nothing.",
    .exit_status = "0 if it is right, 1 if not, 2 for a call that makes no sense.",
    .example = "tocsin check -c /etc/tocsin/tocsin.conf",
    .options = options,
    .run = run,
};
