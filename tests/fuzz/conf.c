/* SPDX-License-Identifier: MIT */

/*
 * A configuration of any bytes, read through a table that has every type of option.
 *
 * Beside what the sanitizers see: errors and results agree with each other, and libconfig has no
 * complaint of its own about what our scan has let through.
 */

#include "config/options.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct all {
    bool on;
    int64_t port;
    double ratio;
    const char *host, *mode;
    struct tocsin_secret password;
    struct tocsin_duration timeout;
    struct tocsin_size limit;
    struct tocsin_list names;
    struct tocsin_format path;
    struct tocsin_formats arguments;
    const struct tocsin_node *tls;
};

static const struct tocsin_option table[] = {
    TOCSIN_OPTION(struct all, on, .def = "true", .help = "Bool."),
    TOCSIN_OPTION(struct all, port, .def = "80", .min = 1, .max = 65535, .help = "Int."),
    TOCSIN_OPTION(struct all, ratio, .def = "0.5", .min = 0, .max = 1, .help = "Float."),
    TOCSIN_OPTION(struct all, host, .flags = TOCSIN_OPTION_REQUIRED, .help = "String."),
    TOCSIN_OPTION(struct all, mode, .def = "fast", .choices = "fast|slow|off", .help = "Choice."),
    TOCSIN_OPTION(struct all, password, .help = "Secret."),
    TOCSIN_OPTION(struct all, timeout, .def = "5s", .min = 100, .max = 60000, .help = "Duration."),
    TOCSIN_OPTION(struct all, limit, .def = "1MiB", .min = 1, .max = INT64_MAX, .help = "Size."),
    TOCSIN_OPTION(struct all, names, .def = "me", .help = "List."),
    TOCSIN_OPTION(struct all, path, .def = "/tmp/{name}", .help = "Format."),
    TOCSIN_OPTION(struct all, arguments, .help = "Formats."),
    TOCSIN_OPTION(struct all, tls, .help = "Tree."),
    { .name = NULL },
};

/* The group, and each group below it, as if it were the one of the table. */
static void read_groups(const struct conf_node *group, struct conf_errors *errors)
{
    struct all all = { 0 };
    struct options_memory memory = { 0 };
    const struct options_part part = { table, &all };
    static const char *const extra[] = { "targets", NULL };
    size_t before = errors->count;
    size_t found = options_read(group, &part, 1, extra, &memory, errors);
    assert(errors->count - before == found);
    assert(found > 0 || all.host);
    for (size_t i = 0; i < all.names.count; i++)
        assert(all.names.items[i]);
    assert(all.arguments.count == 0 ||
           all.arguments.first + all.arguments.count <= memory.format_count);
    options_memory_release(&memory);

    for (size_t i = 0; i < conf_node_count(group); i++)
        if (conf_node_type(conf_node_at(group, i)) == CONF_GROUP)
            read_groups(conf_node_at(group, i), errors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';

    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf;
    int rc = conf_load_text("fuzz", text, &conf, &errors);
    assert((rc == 0) == (conf != NULL));
    assert((rc == 0) == (errors.count == 0));
    assert(!strstr(buf_str(&errors.text), ": syntax error\n"));
    if (conf) {
        assert(conf_node_equal(conf_root(conf), conf_root(conf)));
        read_groups(conf_root(conf), &errors);
    }
    conf_errors_release(&errors);
    conf_unref(conf);
    free(text);
    return 0;
}
