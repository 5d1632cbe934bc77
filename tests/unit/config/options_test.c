/* SPDX-License-Identifier: MIT */

#include "config/options.h"

#include "../suite.h"

struct all {
    bool on;
    int64_t port;
    double ratio;
    const char *host;
    const char *mode;
    struct tocsin_secret password;
    struct tocsin_duration timeout;
    struct tocsin_size limit;
    struct tocsin_list names;
    struct tocsin_format path;
    struct tocsin_formats arguments;
    const struct tocsin_node *tls;
};

static const struct tocsin_option table[] = {
    TOCSIN_OPTION(struct all, on, .def = "true", .help = "Whether it is on."),
    TOCSIN_OPTION(struct all, port, .def = "80", .min = 1, .max = 65535, .help = "TCP port."),
    TOCSIN_OPTION(struct all, ratio, .def = "0.5", .min = 0, .max = 1, .help = "Share."),
    TOCSIN_OPTION(struct all, host, .flags = TOCSIN_OPTION_REQUIRED, .help = "Host."),
    TOCSIN_OPTION(struct all, mode, .def = "fast", .choices = "fast|slow|off", .help = "Mode."),
    TOCSIN_OPTION(struct all, password, .help = "Password."),
    TOCSIN_OPTION(struct all, timeout, .def = "5s", .min = 100, .max = 60000, .help = "Wait."),
    TOCSIN_OPTION(struct all, limit, .def = "1MiB", .min = 1, .max = INT64_MAX, .help = "Limit."),
    TOCSIN_OPTION(struct all, names, .def = "me", .help = "Names."),
    TOCSIN_OPTION(struct all, path, .def = "/tmp/{name}", .help = "Path."),
    TOCSIN_OPTION(struct all, arguments, .help = "Arguments."),
    TOCSIN_OPTION(struct all, tls, .help = "TLS."),
    { .name = NULL },
};

/* What one text gives. */
struct outcome {
    struct conf *conf;
    struct all all;
    struct options_memory memory;
    struct conf_errors errors;
    size_t found;
};

static void read_text(struct outcome *o, const char *text)
{
    static const char *const extra[] = { "targets", NULL };
    *o = (struct outcome){ .errors = CONF_ERRORS_INIT };
    assert_int_equal(conf_load_text("t.conf", text, &o->conf, &o->errors), 0);
    const struct options_part part = { table, &o->all };
    o->found = options_read(conf_root(o->conf), &part, 1, extra, &o->memory, &o->errors);
}

static void outcome_release(struct outcome *o)
{
    options_memory_release(&o->memory);
    conf_errors_release(&o->errors);
    conf_unref(o->conf);
}

static void defaults_fill_what_the_file_leaves_out(void **state)
{
    (void)state;
    struct outcome o;
    read_text(&o, "host = \"h\";");
    assert_int_equal(o.found, 0);
    assert_true(o.all.on);
    assert_int_equal(o.all.port, 80);
    assert_true(o.all.ratio == 0.5);
    assert_string_equal(o.all.host, "h");
    assert_string_equal(o.all.mode, "fast");
    assert_null(o.all.password.text);
    assert_int_equal(o.all.timeout.ms, 5000);
    assert_int_equal(o.all.limit.bytes, 1024 * 1024);
    assert_int_equal(o.all.names.count, 1);
    assert_string_equal(o.all.names.items[0], "me");
    assert_null(o.all.names.items[1]);
    assert_string_equal(o.all.path.text, "/tmp/{name}");
    assert_int_equal(o.memory.format_count, 1);
    assert_null(o.memory.formats[0].node);
    assert_int_equal(o.all.arguments.count, 0);
    assert_null(o.all.tls);
    outcome_release(&o);
}

static void every_type_is_read_from_the_file(void **state)
{
    (void)state;
    struct outcome o;
    read_text(&o, "on = false; port = 8080; ratio = 1; host = \"h\"; mode = \"off\";\n"
                  "password = \"p\"; timeout = \"250ms\"; limit = 512; names = [ \"a\", \"b\" ];\n"
                  "path = \"{x}\"; arguments = ( \"-s\", \"{y}\" ); tls = { ca = \"c\"; };\n"
                  "targets = { };");
    CHECK(o.found == 0, "%s", buf_str(&o.errors.text));
    assert_false(o.all.on);
    assert_int_equal(o.all.port, 8080);
    assert_true(o.all.ratio == 1.0);
    assert_string_equal(o.all.mode, "off");
    assert_string_equal(o.all.password.text, "p");
    assert_int_equal(o.all.timeout.ms, 250);
    assert_int_equal(o.all.limit.bytes, 512);
    assert_int_equal(o.all.names.count, 2);
    assert_string_equal(o.all.names.items[1], "b");
    assert_null(o.all.names.items[2]);
    assert_int_equal(o.all.path.index, 0);
    assert_int_equal(o.all.arguments.first, 1);
    assert_int_equal(o.all.arguments.count, 2);
    assert_string_equal(o.memory.formats[2].text, "{y}");
    assert_int_equal(conf_node_line(o.memory.formats[2].node), 3);
    assert_ptr_equal(o.all.tls, conf_node_get(conf_root(o.conf), "tls"));
    outcome_release(&o);
}

TEST_SUITE("options", cmocka_unit_test(defaults_fill_what_the_file_leaves_out),
           cmocka_unit_test(every_type_is_read_from_the_file));
