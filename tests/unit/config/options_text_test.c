/* SPDX-License-Identifier: MIT */

#include "config/options.h"

#include "../suite.h"

struct all {
    bool on;
    int64_t port, level;
    double ratio;
    const char *host, *mode, *separator;
    struct tocsin_secret password;
    struct tocsin_duration timeout, pause;
    struct tocsin_size limit;
    struct tocsin_list names;
    struct tocsin_format path;
    struct tocsin_formats arguments;
    const struct tocsin_node *tls;
};

static const struct tocsin_option table[] = {
    TOCSIN_OPTION(struct all, host, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "Name or address of the server that all of this goes to, be it near or "
                          "far. It is resolved at each connection."),
    TOCSIN_OPTION(struct all, on, .def = "true", .help = ".Whether it is on."),
    TOCSIN_OPTION(struct all, port, .def = "80", .min = 1, .max = 65535, .help = "TCP port."),
    TOCSIN_OPTION(struct all, level, .min = INT64_MIN, .max = 7, .help = "Level."),
    TOCSIN_OPTION(struct all, ratio, .def = "0.5", .max = 1, .help = "Share."),
    TOCSIN_OPTION(struct all, mode, .def = "fast", .choices = "fast|slow|off", .help = "Mode."),
    TOCSIN_OPTION(struct all, separator, .def = "\n\"\\${x}", .help = "Bytes, as in \"\\n\"."),
    TOCSIN_OPTION(struct all, password, .def = "s3cret", .help = "Password."),
    TOCSIN_OPTION(struct all, timeout, .def = "5s", .min = 100, .max = 60000, .help = "Wait."),
    TOCSIN_OPTION(struct all, pause, .help = "Pause."),
    TOCSIN_OPTION(struct all, limit, .def = "1MiB", .min = 1, .max = INT64_MAX, .help = "Limit."),
    TOCSIN_OPTION(struct all, names, .def = "me", .help = "Names."),
    TOCSIN_OPTION(struct all, path, .flags = TOCSIN_CLEAN_PATH, .def = "/tmp/{name}",
                  .help = "Path."),
    TOCSIN_OPTION(struct all, arguments, .help = "Arguments."),
    TOCSIN_OPTION(struct all, tls, .help = "TLS."),
    { .name = NULL },
};

static void help_lists_every_option(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(100000);
    options_help(NULL, &out);
    assert_int_equal(out.len, 0);
    options_help(table, &out);
    assert_string_equal(
        buf_str(&out),
        "  host: string, required\n"
        "      Name or address of the server that all of this goes to, be it near or far.\n"
        "      It is resolved at each connection.\n"
        "  on: true or false, default true\n"
        "      .Whether it is on.\n"
        "  port: whole number, 1 to 65535, default 80\n"
        "      TCP port.\n"
        "  level: whole number, at most 7\n"
        "      Level.\n"
        "  ratio: number, 0 to 1, default 0.5\n"
        "      Share.\n"
        "  mode: \"fast\", \"slow\" or \"off\", default \"fast\"\n"
        "      Mode.\n"
        "  separator: string, default \"\\n\\\"\\\\$${x}\"\n"
        "      Bytes, as in \"\\n\".\n"
        "  password: secret string\n"
        "      Password.\n"
        "  timeout: duration, \"100ms\" to \"1m\", default \"5s\"\n"
        "      Wait.\n"
        "  pause: duration\n"
        "      Pause.\n"
        "  limit: size, \"1\" or more, default \"1MiB\"\n"
        "      Limit.\n"
        "  names: string or list of strings, default \"me\"\n"
        "      Names.\n"
        "  path: string with {fields}, default \"/tmp/{name}\"\n"
        "      Path.\n"
        "  arguments: string or list of strings, with {fields}\n"
        "      Arguments.\n"
        "  tls: group\n"
        "      TLS.\n");
    buf_release(&out);
}

static const char sample[] =
    "  # Name or address of the server that all of this goes to, be it near or far.\n"
    "  # It is resolved at each connection. (string, required)\n"
    "  host = \"...\";\n"
    "\n"
    "  # .Whether it is on. (true or false, default true)\n"
    "  #on = true;\n"
    "\n"
    "  # TCP port. (whole number, 1 to 65535, default 80)\n"
    "  #port = 80;\n"
    "\n"
    "  # Level. (whole number, at most 7)\n"
    "  #level = 1;\n"
    "\n"
    "  # Share. (number, 0 to 1, default 0.5)\n"
    "  #ratio = 0.5;\n"
    "\n"
    "  # Mode. (\"fast\", \"slow\" or \"off\", default \"fast\")\n"
    "  #mode = \"fast\";\n"
    "\n"
    "  # Bytes, as in \"\\n\". (string, default \"\\n\\\"\\\\$${x}\")\n"
    "  #separator = \"\\n\\\"\\\\$${x}\";\n"
    "\n"
    "  # Password. (secret string)\n"
    "  #password = \"...\";\n"
    "\n"
    "  # Wait. (duration, \"100ms\" to \"1m\", default \"5s\")\n"
    "  #timeout = \"5s\";\n"
    "\n"
    "  # Pause. (duration)\n"
    "  #pause = \"30s\";\n"
    "\n"
    "  # Limit. (size, \"1\" or more, default \"1MiB\")\n"
    "  #limit = \"1MiB\";\n"
    "\n"
    "  # Names. (string or list of strings, default \"me\")\n"
    "  #names = \"me\";\n"
    "\n"
    "  # Path. (string with {fields}, default \"/tmp/{name}\")\n"
    "  #path = \"/tmp/{name}\";\n"
    "\n"
    "  # Arguments. (string or list of strings, with {fields})\n"
    "  #arguments = [ \"...\" ];\n"
    "\n"
    "  # TLS. (group)\n"
    "  #tls = { };\n";

static void sample_comments_out_all_but_what_is_required(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(100000);
    options_sample(table, 2, &out);
    assert_string_equal(buf_str(&out), sample);
    buf_release(&out);
}

static void sample_is_accepted_with_and_without_its_comments(void **state)
{
    (void)state;
    char text[sizeof(sample)];
    memcpy(text, sample, sizeof(sample));
    for (int round = 0; round < 2; round++) {
        struct all all = { 0 };
        const struct options_part part = { table, &all };
        struct options_memory memory = { 0 };
        struct conf_errors errors = CONF_ERRORS_INIT;
        struct conf *conf = NULL;
        int rc = conf_load_text("sample", text, &conf, &errors);
        CHECK(rc == 0, "%s", buf_str(&errors.text));
        size_t found = options_read(conf_root(conf), &part, 1, NULL, &memory, &errors);
        CHECK(found == 0, "%s", buf_str(&errors.text));
        assert_int_equal(conf_node_count(conf_root(conf)), round == 0 ? 1 : ROWS(table) - 1);
        assert_string_equal(all.separator, "\n\"\\${x}");
        options_memory_release(&memory);
        conf_errors_release(&errors);
        conf_unref(conf);
        for (char *mark = text; (mark = strchr(mark, '#')) != NULL; mark++)
            if (mark[1] != ' ')
                *mark = ' ';
    }
}

static void manual_has_an_item_for_every_option(void **state)
{
    (void)state;
    struct buf out = BUF_INIT(100000);
    options_mdoc(table, &out);
    const char *end = ".It Ic port\n";
    char *port = strstr(buf_str(&out), end);
    assert_non_null(port);
    char *separator = strstr(port, ".It Ic separator\n");
    assert_non_null(separator);
    *strstr(separator, ".It Ic password\n") = '\0';
    assert_string_equal(separator, ".It Ic separator\n"
                                   "Bytes, as in \"\\en\".\n"
                                   "(string, default \"\\en\\e\"\\e\\e$${x}\")\n");
    *port = '\0';
    assert_string_equal(buf_str(&out), ".It Ic host\n"
                                       "Name or address of the server that all of this goes to, be "
                                       "it near or far.\n"
                                       "It is resolved at each connection.\n"
                                       "(string, required)\n"
                                       ".It Ic on\n"
                                       "\\&.Whether it is on.\n"
                                       "(true or false, default true)\n");
    buf_release(&out);
}

TEST_SUITE("options text", cmocka_unit_test(help_lists_every_option),
           cmocka_unit_test(sample_comments_out_all_but_what_is_required),
           cmocka_unit_test(sample_is_accepted_with_and_without_its_comments),
           cmocka_unit_test(manual_has_an_item_for_every_option));
