/* SPDX-License-Identifier: MIT */

#include "config/conf.h"

#include "../suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* The errors that a text gives, all in one string; "" if it loads. To be freed. */
static char *errors_of(const char *text)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf;
    int rc = conf_load_text("t.conf", text, &conf, &errors);
    CHECK((rc == 0) == (conf != NULL) && (rc == 0) == (errors.count == 0), "%s: rc %d", text, rc);
    char *out = strdup(buf_str(&errors.text));
    conf_errors_release(&errors);
    conf_unref(conf);
    return out;
}

struct error_row {
    const char *text, *want;
};

static void check_rows(const struct error_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char *got = errors_of(rows[i].text);
        CHECK(strcmp(got, rows[i].want) == 0, "<<%s>>\n got: %s want: %s", rows[i].text, got,
              rows[i].want);
        free(got);
    }
}

static void text_of_every_form_is_accepted(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "",
        "\n\n",
        "# a comment without an end of line",
        "/* a\n comment */ a = 1 // and\n b : 2, c = \"x\" \"y\"\n \"z\";",
        "\xEF\xBB\xBF a = 1;",
        "a = { }; b = ( ); c = [ ]; d = { e = { f = ( 1, \"x\", { g = true; }, ( ), [ 1, 2 ] ) } }",
        "a = True; b = FALSE; c = 1e5; d = -.5; e = 5.; f = +1.5E-3; g = 0x7FFFFFFF; h = "
        "5000000000L;",
        "a = 2147483647; b = -2147483648; c = 0xFFFFFFFFFFL; d = 9223372036854775807LL; e = +1;",
        "*a-b_1 = 1;",
        "a = \"\\\"\\\\ \\x41 \\t\";",
        "a = \"#no comment /* either // @include \";\r\nb = 1;\f",
        "a = \"two\n@include \\\"lines\\\"\";",
        "a = \"\\\"\n@include \" \"nothing\";",
        "/*\n@include \"nothing\"\n*/",
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        char *got = errors_of(rows[i]);
        CHECK(*got == '\0', "<<%s>>: %s", rows[i], got);
        free(got);
    }
}

static void syntax_error_says_where_and_what_to_write(void **state)
{
    (void)state;
    static const struct error_row rows[] = {
        { "a", "t.conf:1: a: a value is missing at the end of the file\n" },
        { "a 1;", "t.conf:1: a: needs a value: write '=' after the name\n" },
        { "a = ;", "t.conf:1: a: a value is missing here\n" },
        { "a =", "t.conf:1: a: a value is missing at the end of the file\n" },
        { "a = 1;;", "t.conf:1: a name is missing: is there one ';' too many?\n" },
        { "= 1;", "t.conf:1: a name is missing: write NAME = VALUE;\n" },
        { "a = {\n  1 = 2;\n};", "t.conf:2: a: a name is missing: write NAME = VALUE;\n" },
        { "s = {\n p = {\n  password = hunter2;\n};};",
          "t.conf:3: s.p.password: is neither a number nor true or false: write a text in "
          "quotes\n" },
        { "host = 10.0.0.1;",
          "t.conf:1: host: is neither a number nor true or false: write a text in quotes\n" },
        { "a = 1b;",
          "t.conf:1: a: is neither a number nor true or false: write a text in quotes\n" },
        { "a = -0x1;",
          "t.conf:1: a: is neither a number nor true or false: write a text in quotes\n" },
        { "a = .;",
          "t.conf:1: a: is neither a number nor true or false: write a text in quotes\n" },
        { "a = 0x;",
          "t.conf:1: a: is neither a number nor true or false: write a text in quotes\n" },
        { "a = 1.5e;",
          "t.conf:1: a: is neither a number nor true or false: write a text in quotes\n" },
        { "a = 1 \"b\";", "t.conf:1: a: the value has ended: write ';' before what follows\n" },
        { "r = (\n { x = 1; }\n { x = 2; }\n);",
          "t.conf:3: r[0]: write ',' between the values of a list\n" },
        { "r = ( 1,\n 2, );",
          "t.conf:2: r[2]: nothing follows the ',' before this: leave it out\n" },
        { "r = ( , 1 );", "t.conf:1: r[0]: a value is missing here\n" },
        { "r = [ 1, { } ];",
          "t.conf:1: r[1]: a list in [ ] has plain values only: write ( ) around these\n" },
        { "r = [ 1, \"x\" ];", "t.conf:1: r[1]: the values of a list in [ ] must be of one type: "
                               "write ( ) for a mix\n" },
        { "a = {\n b = 1;\n\n", "t.conf:1: a: the '{' of this line is never closed: write '}'\n" },
        { "a = {\n b = ( 1;\n};", "t.conf:2: a.b[0]: write ',' between the values of a list\n" },
        { "a = {\n b = ( 1 }\n;",
          "t.conf:2: a.b: '}' cannot close the '(' of line 2: write ')' first\n" },
        { "a = 1; }", "t.conf:1: there is nothing to be closed here\n" },
        { "a = \"x;\nb = 1;\n",
          "t.conf:1: a: the text that begins here has no end: write a quote\n" },
        { "a = \"x;\nb = \"y\";\n",
          "t.conf:2: the text that begins here has no end: write a quote; or is a "
          "quote missing in line 1?\n" },
        { "/* x\n", "t.conf:1: the comment that begins here has no end: write */\n" },
        { "a = \"b\\x00c\";", "t.conf:1: a: a text cannot have \\x00 in it\n" },
        { "a = 1; @include \"x\"",
          "t.conf:1: write @include \"FILE\" at the beginning of a line of its own\n" },
        { "a = \"1\";\nb = \"\xFF\";", "t.conf:2: is not text in UTF-8: save it as UTF-8\n" },
        { "a = {\nb = \"\\xff\"; };", "t.conf:2: a.b: is not valid UTF-8\n" },
    };
    check_rows(rows, ROWS(rows));
}

static void integer_that_would_be_cut_is_refused(void **state)
{
    (void)state;
    static const struct error_row rows[] = {
        { "a = 2147483648;",
          "t.conf:1: a: is a number of more than 32 bits: put an L behind it\n" },
        { "a = -2147483649;",
          "t.conf:1: a: is a number of more than 32 bits: put an L behind it\n" },
        { "s = (\n{ a = 0x80000000; } );",
          "t.conf:2: s[0].a: is a number of more than 32 bits: put an L behind it\n" },
        { "a = 9223372036854775808L;",
          "t.conf:1: a: is a number of more than 64 bits: write a smaller one\n" },
        { "a = 99999999999999999999;\nb = 0xFFFFFFFFFFFFFFFFL;",
          "t.conf:1: a: is a number of more than 64 bits: write a smaller one\n"
          "t.conf:2: b: is a number of more than 64 bits: write a smaller one\n" },
    };
    check_rows(rows, ROWS(rows));
}

static void duplicate_names_both_places(void **state)
{
    (void)state;
    static const struct error_row rows[] = {
        { "a = 1;\na = 2;\na = 3;",
          "t.conf:2: a: stands in t.conf:1 already: leave one of them out\n"
          "t.conf:3: a: stands in t.conf:1 already: leave one of them out\n" },
        { "r = ( { a = 1; }, { a = 1;\n b = 2; c = { b = 1; };\n b = 3; } );",
          "t.conf:3: r[1].b: stands in t.conf:2 already: leave one of them out\n" },
    };
    check_rows(rows, ROWS(rows));
}

static void nesting_is_limited_to_32(void **state)
{
    (void)state;
    char text[400];
    for (int depth = 32; depth <= 33; depth++) {
        int n = snprintf(text, sizeof(text), "a = ");
        for (int i = 0; i < depth; i++)
            text[n++] = '(';
        for (int i = 0; i < depth; i++)
            text[n++] = ')';
        text[n] = '\0';
        char *got = errors_of(text);
        if (depth == 32)
            assert_string_equal(got, "");
        else
            assert_non_null(strstr(got, ": is nested more than 32 deep\n"));
        free(got);
    }
}

static void text_over_4_mib_is_refused(void **state)
{
    (void)state;
    size_t max = (size_t)4 * 1024 * 1024;
    char *text = malloc(max + 1);
    memset(text, '\n', max);
    text[max] = '\0';
    char *got = errors_of(text);
    assert_string_equal(got, "");
    free(got);
    free(text);

    text = malloc(max + 2);
    memset(text, '\n', max + 1);
    text[max + 1] = '\0';
    got = errors_of(text);
    assert_string_equal(got, "t.conf: is larger than 4 MiB, with what it includes\n");
    free(got);
    free(text);
}

static struct conf *load(const char *text)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf;
    int rc = conf_load_text("t.conf", text, &conf, &errors);
    CHECK(rc == 0, "%s", buf_str(&errors.text));
    conf_errors_release(&errors);
    return conf;
}

static void node_knows_its_place_and_value(void **state)
{
    (void)state;
    struct conf *conf = load("services = {\n  phone = { port = 5000000000L; on = true; };\n};\n"
                             "routes = (\n  { },\n  { when = \"x\";\n    share = 0.5; } );\n");
    const struct conf_node *root = conf_root(conf);
    const struct conf_node *port =
        conf_node_get(conf_node_get(conf_node_get(root, "services"), "phone"), "port");
    assert_int_equal(conf_node_int(port), 5000000000);
    assert_true(conf_node_float(port) == 5e9);
    const struct conf_node *routes = conf_node_get(root, "routes");
    assert_int_equal(conf_node_type(routes), CONF_LIST);
    assert_int_equal(conf_node_count(routes), 2);
    const struct conf_node *share = conf_node_get(conf_node_at(routes, 1), "share");
    assert_true(conf_node_float(share) == 0.5);
    assert_int_equal(conf_node_line(share), 7);
    assert_string_equal(conf_node_file(share), "t.conf");
    assert_string_equal(conf_node_name(share), "share");
    assert_null(conf_node_get(root, "nothing"));
    assert_string_equal(conf_node_name(conf_node_at(routes, 1)), "");

    struct conf_errors errors = CONF_ERRORS_INIT;
    conf_error(&errors, port, "is %d", 1);
    conf_error(&errors, conf_node_at(routes, 0), "two\nlines");
    conf_error(&errors, root, "all");
    conf_error(&errors, NULL, "none");
    assert_string_equal(buf_str(&errors.text), "t.conf:2: services.phone.port: is 1\n"
                                               "t.conf:5: routes[0]: two\\x0alines\n"
                                               "t.conf: all\n"
                                               "none\n");
    assert_int_equal(errors.count, 4);
    conf_errors_release(&errors);
    conf_unref(conf);
}

static void reference_keeps_the_tree(void **state)
{
    (void)state;
    struct conf *conf = load("a = \"x\";");
    const struct conf_node *a = conf_node_get(conf_root(conf), "a");
    assert_ptr_equal(conf_ref(conf), conf);
    conf_unref(conf);
    assert_string_equal(conf_node_string(a), "x");
    conf_unref(conf);
    conf_unref(NULL);
}

static void equal_trees_say_the_same(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool equal;
    } rows[] = {
        { "", "", true },
        { "a = 1; b = \"x\";", "\n\nb = \"x\"; a = 0x1;", true },
        { "a = 1;", "a = 2;", false },
        { "a = 1;", "a = 1.0;", false },
        { "a = 1.5;", "a = 1.5;", true },
        { "a = 1.5;", "a = 1.25;", false },
        { "a = true;", "a = false;", false },
        { "a = \"x\";", "a = \"y\";", false },
        { "a = \"${env:TOCSIN_TEST}\";", "a = \"s3cret\";", true },
        { "a = 1;", "b = 1;", false },
        { "a = 1;", "a = 1; b = 1;", false },
        { "a = ( 1, 2 );", "a = [ 1, 2 ];", true },
        { "a = ( 1, 2 );", "a = ( 2, 1 );", false },
        { "a = { b = { c = 1; }; };", "a = { b = { c = 2; }; };", false },
    };
    setenv("TOCSIN_TEST", "s3cret", 1);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct conf *a = load(rows[i].a), *b = load(rows[i].b);
        CHECK(conf_node_equal(conf_root(a), conf_root(b)) == rows[i].equal, "<<%s>> <<%s>>",
              rows[i].a, rows[i].b);
        CHECK(conf_node_equal(conf_root(b), conf_root(a)) == rows[i].equal, "<<%s>> <<%s>>",
              rows[i].b, rows[i].a);
        assert_false(conf_node_equal(conf_root(a), NULL));
        conf_unref(a);
        conf_unref(b);
    }
    assert_true(conf_node_equal(NULL, NULL));
    unsetenv("TOCSIN_TEST");
}

static void environment_is_put_into_strings_and_marked_secret(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
        bool secret;
    } rows[] = {
        { "a = \"plain\";", "plain", false },
        { "a = \"${env:TOCSIN_TEST}\";", "s3cret", true },
        { "a = \"<${env:TOCSIN_TEST}${env:TOCSIN_TEST}>\";", "<s3crets3cret>", true },
        { "a = \"$${env:TOCSIN_TEST}\";", "${env:TOCSIN_TEST}", false },
        { "a = \"$ {x} $\";", "$ {x} $", false },
        { "a = \"$$${\";", "$${", false },
        { "a = \"${env:TOCSIN_TEST}$${\";", "s3cret${", true },
        { "a = \"${env:TOCSIN_REFERENCE}\";", "${env:TOCSIN_TEST}", true },
        { "a = \"${env:TOCSIN_EMPTY}\";", "", true },
    };
    setenv("TOCSIN_TEST", "s3cret", 1);
    setenv("TOCSIN_REFERENCE", "${env:TOCSIN_TEST}", 1);
    setenv("TOCSIN_EMPTY", "", 1);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct conf *conf = load(rows[i].text);
        const struct conf_node *a = conf_node_get(conf_root(conf), "a");
        CHECK(strcmp(conf_node_string(a), rows[i].want) == 0, "<<%s>>: %s", rows[i].text,
              conf_node_string(a));
        CHECK(conf_node_is_secret(a) == rows[i].secret, "<<%s>>", rows[i].text);
        conf_unref(conf);
    }
    unsetenv("TOCSIN_TEST");
    unsetenv("TOCSIN_REFERENCE");
    unsetenv("TOCSIN_EMPTY");
}

static void wrong_reference_is_an_error_that_shows_no_secret(void **state)
{
    (void)state;
#define GOES_ON                                                                           \
    "\"${\" must go on as ${env:NAME} or ${file:PATH}: write \"$${\" for the characters " \
    "themselves\n"
    static const struct error_row rows[] = {
        { "a = \"${env:TOCSIN_NOT_SET}\";",
          "t.conf:1: a: the environment has no TOCSIN_NOT_SET: set it, or write the value here\n" },
        { "a = \"hun${ter2\";", "t.conf:1: a: " GOES_ON },
        { "a = \"hun${ter}2\";\nb = \"${}\";", "t.conf:1: a: " GOES_ON "t.conf:2: b: " GOES_ON },
        { "a = \"${file:/nowhere/pw}\";",
          "t.conf:1: a: /nowhere/pw cannot be read: No such file or directory\n" },
        { "a = \"${file:/}\";", "t.conf:1: a: / cannot be read: Is a directory\n" },
        { "a = \"${file:/dev/zero}\";", "t.conf:1: a: is longer than 1 MiB\n" },
    };
    check_rows(rows, ROWS(rows));
    setenv("TOCSIN_TEST", "s3cret\xFF", 1);
    char *got = errors_of("a = \"${env:TOCSIN_TEST}\";");
    assert_string_equal(got, "t.conf:1: a: is not valid UTF-8\n");
    free(got);
    unsetenv("TOCSIN_TEST");
}

TEST_SUITE("configuration text", cmocka_unit_test(text_of_every_form_is_accepted),
           cmocka_unit_test(syntax_error_says_where_and_what_to_write),
           cmocka_unit_test(integer_that_would_be_cut_is_refused),
           cmocka_unit_test(duplicate_names_both_places),
           cmocka_unit_test(nesting_is_limited_to_32), cmocka_unit_test(text_over_4_mib_is_refused),
           cmocka_unit_test(node_knows_its_place_and_value),
           cmocka_unit_test(reference_keeps_the_tree), cmocka_unit_test(equal_trees_say_the_same),
           cmocka_unit_test(environment_is_put_into_strings_and_marked_secret),
           cmocka_unit_test(wrong_reference_is_an_error_that_shows_no_secret));
