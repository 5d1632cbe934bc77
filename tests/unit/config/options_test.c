/* SPDX-License-Identifier: MIT */

#include "config/options.h"

#include "../suite.h"

#include <stdio.h>
#include <stdlib.h>

struct all {
    bool on;
    int64_t port;
    double ratio;
    const char *host;
    const char *mode;
    struct tocsin_secret password;
    struct tocsin_duration timeout;
    struct tocsin_duration pause;
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
    TOCSIN_OPTION(struct all, pause, .help = "Pause."),
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
    assert_string_equal(o.all.arguments.texts[0], "-s");
    assert_string_equal(o.all.arguments.texts[1], "{y}");
    assert_string_equal(o.memory.formats[2].text, "{y}");
    assert_int_equal(conf_node_line(o.memory.formats[2].node), 3);
    assert_ptr_equal(o.all.tls, conf_node_get(conf_root(o.conf), "tls"));
    outcome_release(&o);
}

/* The errors of a text, its file's name left out of each line. To be freed. */
static char *errors_of(const char *text)
{
    struct outcome o;
    read_text(&o, text);
    assert_int_equal(o.found, o.errors.count);
    char *out = strdup(buf_str(&o.errors.text));
    outcome_release(&o);
    return out;
}

static void error_says_what_is_wrong_and_what_to_write(void **state)
{
    (void)state;
#define UNITS "such as \"250ms\", \"30s\", \"5m\", \"2h\" or \"1d\"\n"
#define SIZES "such as \"512\", \"64KiB\", \"10MiB\" or \"1GiB\"\n"
    static const struct {
        const char *text, *want; /* `host`, which is required, is put before the text */
    } rows[] = {
        { "hots = 1;", "t.conf:2: hots: unknown option, did you mean 'host'?\n" },
        { "tragets = { };", "t.conf:2: tragets: unknown option, did you mean 'targets'?\n" },
        { "zzzzzz = 1;", "t.conf:2: zzzzzz: unknown option\n" },

        { "on = 1;", "t.conf:2: on: must be true or false\n" },
        { "on = \"yes\";", "t.conf:2: on: must be true or false\n" },
        { "on = \"true\";", "t.conf:2: on: must be true or false: write true without quotes\n" },
        { "on = { };", "t.conf:2: on: must be true or false\n" },

        { "port = \"80\";", "t.conf:2: port: must be a number: write 80 without quotes\n" },
        { "port = \"http\";", "t.conf:2: port: must be a whole number\n" },
        { "port = \"99999999999999999999\";", "t.conf:2: port: must be a whole number\n" },
        { "port = 80.5;", "t.conf:2: port: must be a whole number\n" },
        { "port = true;", "t.conf:2: port: must be a whole number\n" },
        { "port = ( );", "t.conf:2: port: must be a whole number\n" },
        { "port = 0;", "t.conf:2: port: 0 is out of range, write 1 to 65535\n" },
        { "port = 70000;", "t.conf:2: port: 70000 is out of range, write 1 to 65535\n" },
        { "port = 5000000000L;", "t.conf:2: port: 5000000000 is out of range, write 1 to 65535\n" },
        { "port = \"${env:TOCSIN_WORD}\";", "t.conf:2: port: must be a whole number\n" },
        { "port = \"${env:TOCSIN_70000}\";",
          "t.conf:2: port: is out of range, write 1 to 65535\n" },

        { "ratio = \"0.5\";", "t.conf:2: ratio: must be a number: write 0.5 without quotes\n" },
        { "ratio = \"half\";", "t.conf:2: ratio: must be a number\n" },
        { "ratio = 1.5;", "t.conf:2: ratio: 1.5 is out of range, write 0 to 1\n" },
        { "ratio = -1;", "t.conf:2: ratio: -1 is out of range, write 0 to 1\n" },
        { "ratio = 1e999;", "t.conf:2: ratio: is too large\n" },

        { "mode = 5;", "t.conf:2: mode: must be a string: write \"5\"\n" },
        { "mode = true;", "t.conf:2: mode: must be a string: write \"true\"\n" },
        { "mode = 1.5;", "t.conf:2: mode: must be a string: write \"1.5\"\n" },
        { "mode = [ \"fast\" ];", "t.conf:2: mode: must be a string\n" },
        { "mode = \"fas\";",
          "t.conf:2: mode: \"fas\" is not a choice, write \"fast\", \"slow\" or \"off\"\n" },
        { "mode = \"fast|slow\";",
          "t.conf:2: mode: \"fast|slow\" is not a choice, write \"fast\", \"slow\" or \"off\"\n" },
        { "mode = \"\";",
          "t.conf:2: mode: \"\" is not a choice, write \"fast\", \"slow\" or \"off\"\n" },
        { "mode = \"a\\nb\";",
          "t.conf:2: mode: \"a\\x0ab\" is not a choice, write \"fast\", \"slow\" or \"off\"\n" },
        { "mode = \"${env:TOCSIN_WORD}\";",
          "t.conf:2: mode: is not a choice, write \"fast\", \"slow\" or \"off\"\n" },

        { "password = 12345;", "t.conf:2: password: must be a string: write it in quotes\n" },

        { "timeout = 5;", "t.conf:2: timeout: has no unit: write \"5s\" for seconds\n" },
        { "timeout = true;", "t.conf:2: timeout: must be a duration, " UNITS },
        { "timeout = \"5 s\";", "t.conf:2: timeout: \"5 s\" is not a duration, " UNITS },
        { "timeout = \"50ms\";",
          "t.conf:2: timeout: \"50ms\" is out of range, write \"100ms\" to \"1m\"\n" },
        { "timeout = \"99999999999999999d\";", "t.conf:2: timeout: \"99999999999999999d\" is out "
                                               "of range, write \"100ms\" to \"1m\"\n" },
        { "timeout = \"${env:TOCSIN_WORD}\";", "t.conf:2: timeout: is not a duration, " UNITS },
        { "timeout = \"${env:TOCSIN_1D}\";",
          "t.conf:2: timeout: is out of range, write \"100ms\" to \"1m\"\n" },
        { "pause = \"99999999999999999d\";", "t.conf:2: pause: is too long\n" },

        { "limit = \"1MB\";", "t.conf:2: limit: \"1MB\" is not a size, " SIZES },
        { "limit = -1;", "t.conf:2: limit: must be a size, " SIZES },
        { "limit = 0;", "t.conf:2: limit: \"0\" is out of range, write \"1\" or more\n" },
        { "limit = \"99999999999GiB\";",
          "t.conf:2: limit: \"99999999999GiB\" is out of range, write \"1\" or more\n" },

        { "names = 5;", "t.conf:2: names: must be a string or a list of strings: write \"5\"\n" },
        { "names = { };", "t.conf:2: names: must be a string or a list of strings\n" },
        { "names = ( \"a\",\n 5 );", "t.conf:3: names[1]: must be a string: write \"5\"\n" },
        { "path = 5;", "t.conf:2: path: must be a string: write \"5\"\n" },
        { "arguments = ( true,\n \"a\", ( ) );",
          "t.conf:2: arguments[0]: must be a string: write \"true\"\n"
          "t.conf:3: arguments[2]: must be a string\n" },
        { "port = 0; on = 1;\nmode = \"x\"; x = 1;",
          "t.conf:3: x: unknown option\n"
          "t.conf:2: on: must be true or false\n"
          "t.conf:2: port: 0 is out of range, write 1 to 65535\n"
          "t.conf:3: mode: \"x\" is not a choice, write \"fast\", \"slow\" or \"off\"\n" },
    };
    setenv("TOCSIN_WORD", "s3cret", 1);
    setenv("TOCSIN_70000", "70000", 1);
    setenv("TOCSIN_1D", "1d", 1);
    for (size_t i = 0; i < ROWS(rows); i++) {
        char text[400];
        snprintf(text, sizeof(text), "host = \"h\";\n%s", rows[i].text);
        char *got = errors_of(text);
        CHECK(strcmp(got, rows[i].want) == 0, "<<%s>>\n got: %s want: %s", rows[i].text, got,
              rows[i].want);
        free(got);
    }
    unsetenv("TOCSIN_WORD");
    unsetenv("TOCSIN_70000");
    unsetenv("TOCSIN_1D");
}

static void numbers_and_bools_may_come_from_the_environment(void **state)
{
    (void)state;
    setenv("TOCSIN_PORT", "8080", 1);
    setenv("TOCSIN_ON", "false", 1);
    setenv("TOCSIN_RATIO", "0.25", 1);
    struct outcome o;
    read_text(&o, "host = \"h\"; port = \"${env:TOCSIN_PORT}\"; on = \"${env:TOCSIN_ON}\";\n"
                  "ratio = \"${env:TOCSIN_RATIO}\"; limit = \"${env:TOCSIN_PORT}\";");
    CHECK(o.found == 0, "%s", buf_str(&o.errors.text));
    assert_int_equal(o.all.port, 8080);
    assert_false(o.all.on);
    assert_true(o.all.ratio == 0.25);
    assert_int_equal(o.all.limit.bytes, 8080);
    outcome_release(&o);
    unsetenv("TOCSIN_PORT");
    unsetenv("TOCSIN_ON");
    unsetenv("TOCSIN_RATIO");
}

static void missing_option_is_named_with_an_example(void **state)
{
    (void)state;
    struct needs {
        const char *host, *mode;
        bool on;
        int64_t port;
        double ratio;
        struct tocsin_secret password;
        struct tocsin_duration timeout;
        struct tocsin_size limit;
        struct tocsin_list names;
        const struct tocsin_node *tls;
    } into = { 0 };
#define NEEDED .flags = TOCSIN_OPTION_REQUIRED, .help = "x"
    static const struct tocsin_option needs[] = {
        TOCSIN_OPTION(struct needs, host, NEEDED),
        TOCSIN_OPTION(struct needs, mode, .choices = "fast|slow", NEEDED),
        TOCSIN_OPTION(struct needs, on, NEEDED),
        TOCSIN_OPTION(struct needs, port, .min = 10, .max = 20, NEEDED),
        TOCSIN_OPTION(struct needs, ratio, NEEDED),
        TOCSIN_OPTION(struct needs, password, NEEDED),
        TOCSIN_OPTION(struct needs, timeout, .min = 500, .max = 1000, NEEDED),
        TOCSIN_OPTION(struct needs, limit, NEEDED),
        TOCSIN_OPTION(struct needs, names, NEEDED),
        TOCSIN_OPTION(struct needs, tls, NEEDED),
        { .name = NULL },
    };
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct options_memory memory = { 0 };
    struct conf *conf;
    assert_int_equal(conf_load_text("t.conf", "\ns = {\n x = { }; y = 1; };", &conf, &errors), 0);
    const struct conf_node *s = conf_node_get(conf_root(conf), "s");
    const struct options_part parts[] = { { needs, &into }, { NULL, NULL } };
    size_t found = options_read(conf_node_get(s, "x"), parts, 2, NULL, &memory, &errors);
    assert_string_equal(buf_str(&errors.text),
                        "t.conf:3: s.x: host is missing: write host = \"...\";\n"
                        "t.conf:3: s.x: mode is missing: write mode = \"fast\";\n"
                        "t.conf:3: s.x: on is missing: write on = true;\n"
                        "t.conf:3: s.x: port is missing: write port = 10;\n"
                        "t.conf:3: s.x: ratio is missing: write ratio = 1.0;\n"
                        "t.conf:3: s.x: password is missing: write password = \"...\";\n"
                        "t.conf:3: s.x: timeout is missing: write timeout = \"500ms\";\n"
                        "t.conf:3: s.x: limit is missing: write limit = \"1MiB\";\n"
                        "t.conf:3: s.x: names is missing: write names = [ \"...\" ];\n"
                        "t.conf:3: s.x: tls is missing: write tls = { };\n");
    assert_int_equal(found, 10);

    /* What is not a group cannot be read at all; what is not there is an empty group. */
    buf_clear(&errors.text);
    assert_int_equal(options_read(conf_node_get(s, "y"), parts, 2, NULL, &memory, &errors), 1);
    assert_string_equal(buf_str(&errors.text), "t.conf:3: s.y: must be a group: write { ... }\n");
    buf_clear(&errors.text);
    assert_int_equal(options_read(NULL, parts, 2, NULL, &memory, &errors), 10);
    assert_memory_equal(buf_str(&errors.text), "host is missing: write", 22);

    options_memory_release(&memory);
    conf_errors_release(&errors);
    conf_unref(conf);
}

static void unknown_option_in_a_short_table_lists_it(void **state)
{
    (void)state;
    struct small {
        int64_t low, high;
    } into = { 0 };
    static const struct tocsin_option small[] = {
        TOCSIN_OPTION(struct small, low, .help = "x"),
        TOCSIN_OPTION(struct small, high, .help = "x"),
        { .name = NULL },
    };
    static const char *const extra[] = { "tls", NULL };
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct options_memory memory = { 0 };
    struct conf *conf;
    assert_int_equal(conf_load_text("t.conf", "keepalive = 1;", &conf, &errors), 0);
    const struct options_part part = { small, &into };
    assert_int_equal(options_read(conf_root(conf), &part, 1, extra, &memory, &errors), 1);
    assert_string_equal(buf_str(&errors.text),
                        "t.conf:1: keepalive: unknown option, known are: low, high, tls\n");
    options_memory_release(&memory);
    conf_errors_release(&errors);
    conf_unref(conf);
}

static void formats_of_several_reads_are_numbered_on(void **state)
{
    (void)state;
    struct outcome o;
    read_text(&o, "host = \"h\"; arguments = ( \"a\", \"b\" );");
    struct all second = { 0 };
    const struct options_part part = { table, &second };
    assert_int_equal(options_read(conf_root(o.conf), &part, 1, NULL, &o.memory, &o.errors), 0);
    assert_int_equal(o.all.path.index, 0);
    assert_int_equal(o.all.arguments.first, 1);
    assert_int_equal(second.path.index, 3);
    assert_int_equal(second.arguments.first, 4);
    assert_int_equal(o.memory.format_count, 6);
    assert_ptr_equal(o.memory.formats[3].option, &table[10]);
    outcome_release(&o);
}

static void default_of_a_foreign_table_can_be_tried(void **state)
{
    (void)state;
    static const struct {
        struct tocsin_option option;
        const char *want;
    } rows[] = {
        { { .name = "a", .type = TOCSIN_OPT_INT }, "" },
        { { .name = "a", .type = TOCSIN_OPT_INT, .def = "1" }, "" },
        { { .name = "a", .type = TOCSIN_OPT_INT, .def = "x" },
          "the default of 'a' must be a whole number" },
        { { .name = "a", .type = TOCSIN_OPT_INT, .def = "5", .min = 1, .max = 4 },
          "the default of 'a' 5 is out of range, write 1 to 4" },
        { { .name = "a", .type = TOCSIN_OPT_BOOL, .def = "yes" },
          "the default of 'a' must be true or false" },
        { { .name = "a", .type = TOCSIN_OPT_STRING, .def = "c", .choices = "a|b" },
          "the default of 'a' \"c\" is not a choice, write \"a\" or \"b\"" },
        { { .name = "a", .type = TOCSIN_OPT_LIST, .def = "x" }, "" },
        { { .name = "a", .type = TOCSIN_OPT_FORMATS, .def = "x" }, "" },
        { { .name = "a", .type = TOCSIN_OPT_TREE, .def = "x" },
          "the default of 'a' must not be there: a tree has none" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct buf why = BUF_INIT(1000);
        bool valid = options_default_valid(&rows[i].option, &why);
        CHECK(strcmp(buf_str(&why), rows[i].want) == 0, "%zu: %s", i, buf_str(&why));
        assert_int_equal(valid, why.len == 0);
        buf_release(&why);
    }
}

static void node_of_an_option_is_found(void **state)
{
    (void)state;
    struct outcome o;
    read_text(&o, "host = \"h\";");
    const struct conf_node *root = conf_root(o.conf);
    assert_ptr_equal(options_node(root, "host"), conf_node_get(root, "host"));
    assert_null(options_node(root, "port"));
    assert_null(options_node(NULL, "port"));
    outcome_release(&o);
}

TEST_SUITE("options", cmocka_unit_test(defaults_fill_what_the_file_leaves_out),
           cmocka_unit_test(every_type_is_read_from_the_file),
           cmocka_unit_test(error_says_what_is_wrong_and_what_to_write),
           cmocka_unit_test(numbers_and_bools_may_come_from_the_environment),
           cmocka_unit_test(missing_option_is_named_with_an_example),
           cmocka_unit_test(unknown_option_in_a_short_table_lists_it),
           cmocka_unit_test(formats_of_several_reads_are_numbered_on),
           cmocka_unit_test(default_of_a_foreign_table_can_be_tried),
           cmocka_unit_test(node_of_an_option_is_found));
