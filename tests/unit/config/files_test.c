/* SPDX-License-Identifier: MIT */

/* Configurations of several files: conf.d, @include, ${file:}. Each test has a folder of its own. */

#include "config/conf.h"

#include "../suite.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_folder(void **state)
{
    char *folder = strdup("/tmp/tocsin-files.XXXXXX");
    *state = mkdtemp(folder);
    return *state ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int remove_folder(void **state)
{
    int rc = nftw(*state, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return rc;
}

static void path_in(const char *folder, const char *name, char *out, size_t size)
{
    assert_true((size_t)snprintf(out, size, "%s/%s", folder, name) < size);
}

static void put_bytes(const char *folder, const char *name, const char *data, size_t len)
{
    char path[200];
    path_in(folder, name, path, sizeof(path));
    char *slash = strrchr(path, '/');
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void put_file(const char *folder, const char *name, const char *text)
{
    put_bytes(folder, name, text, strlen(text));
}

/* Loads FOLDER/t.conf. Gives its errors, the folder's name left out; to be freed. */
static char *load(const char *folder, struct conf **out)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    char path[200];
    path_in(folder, "t.conf", path, sizeof(path));
    int rc = conf_load(path, out, &errors);
    CHECK((rc == 0) == (errors.count == 0) && (rc == 0) == (*out != NULL), "rc %d", rc);
    char *text = strdup(buf_str(&errors.text));
    conf_errors_release(&errors);

    size_t len = strlen(folder) + 1;
    for (char *at; (at = strstr(text, folder)) != NULL;)
        memmove(at, at + len, strlen(at + len) + 1);
    return text;
}

static void check_errors(const char *folder, const char *want)
{
    struct conf *conf;
    char *got = load(folder, &conf);
    assert_string_equal(got, want);
    free(got);
    conf_unref(conf);
}

static struct conf *check_loads(const char *folder)
{
    struct conf *conf;
    char *got = load(folder, &conf);
    assert_string_equal(got, "");
    free(got);
    return conf;
}

static void conf_d_is_merged_in_sorted_order(void **state)
{
    const char *folder = *state;
    put_file(folder, "t.conf", "a = 1;\ns = { x = { p = 1; }; };\nr = ( 1 );");
    put_file(folder, "conf.d/20.conf", "s = {\n x = { r = 3; }; y = { }; };\nr = [ 3 ];");
    put_file(folder, "conf.d/10.conf", "s = { x = { q = 2; }; };\n r = ( 2 ); b = 1;");
    put_file(folder, "conf.d/.hidden.conf", "wrong");
    put_file(folder, "conf.d/.conf", "wrong");
    put_file(folder, "conf.d/30.conf~", "wrong");
    struct conf *conf = check_loads(folder);

    struct conf *same;
    struct conf_errors errors = CONF_ERRORS_INIT;
    assert_int_equal(conf_load_text("same",
                                    "a = 1; b = 1; r = ( 1, 2, 3 );\n"
                                    "s = { x = { p = 1; q = 2; r = 3; }; y = { }; };",
                                    &same, &errors),
                     0);
    assert_true(conf_node_equal(conf_root(conf), conf_root(same)));

    const struct conf_node *s = conf_node_get(conf_root(conf), "s");
    const struct conf_node *r = conf_node_get(conf_node_get(s, "x"), "r");
    assert_int_equal(conf_node_line(r), 2);
    assert_string_equal(strrchr(conf_node_file(r), '/'), "/20.conf");
    conf_error(&errors, r, "x");
    conf_error(&errors, conf_node_at(conf_node_get(conf_root(conf), "r"), 2), "y");
    assert_non_null(strstr(buf_str(&errors.text), "/conf.d/20.conf:2: s.x.r: x\n"));
    assert_non_null(strstr(buf_str(&errors.text), "/conf.d/20.conf:3: r[2]: y\n"));
    conf_errors_release(&errors);
    conf_unref(same);
    conf_unref(conf);
}

static void errors_of_all_files_come_at_once(void **state)
{
    const char *folder = *state;
    put_file(folder, "t.conf", "a = 1;\nb = 5000000000;");
    put_file(folder, "conf.d/1.conf", "c = \"${file:nothing}\";");
    put_file(folder, "conf.d/2.conf", "d = ;");
    check_errors(folder,
                 "t.conf:2: b: is a number of more than 32 bits: put an L behind it\n"
                 "conf.d/1.conf:1: c: conf.d/nothing cannot be read: No such file or directory\n"
                 "conf.d/2.conf:1: d: a value is missing here\n");
}

static void value_in_two_files_names_both_places(void **state)
{
    const char *folder = *state;
    put_file(folder, "t.conf", "\ns = { a = 1;\n b = ( );\n c = { }; };");
    put_file(folder, "conf.d/1.conf", "s = { a = 1; };");
    put_file(folder, "conf.d/2.conf", "s = {\n a = 1; b = { };\n c = ( ); };");
    check_errors(folder,
                 "conf.d/1.conf:1: s.a: stands in t.conf:2 already: leave one of them out\n"
                 "conf.d/2.conf:2: s.a: stands in t.conf:2 already: leave one of them out\n"
                 "conf.d/2.conf:2: s.b: stands in t.conf:3 already: leave one of them out\n"
                 "conf.d/2.conf:3: s.c: stands in t.conf:4 already: leave one of them out\n");
}

static void file_that_cannot_be_read_is_an_error(void **state)
{
    const char *folder = *state;
    check_errors(folder, "t.conf: cannot be read: No such file or directory\n");
    char path[200];
    path_in(folder, "t.conf", path, sizeof(path));
    assert_int_equal(mkdir(path, 0700), 0);
    check_errors(folder, "t.conf: cannot be read: Is a directory\n");
    assert_int_equal(rmdir(path), 0);
    put_file(folder, "t.conf", "");
    path_in(folder, "conf.d", path, sizeof(path));
    assert_int_equal(symlink("conf.d", path), 0);
    check_errors(folder, "conf.d: cannot be read: Too many levels of symbolic links\n");
}

static void include_stands_for_the_file(void **state)
{
    const char *folder = *state;
    put_file(folder, "t.conf",
             "a = 1;\ns = {\n\t@include \"sub/one\" b = 2;\n c = 3;\n};\nd = 4;\n");
    put_file(folder, "sub/one", "e = 5;\n@include \"two\"\nf = 6;");
    put_file(folder, "sub/two", "\ng = 7;");
    struct conf *conf = check_loads(folder);
    static const struct {
        const char *name, *file;
        unsigned line;
    } rows[] = {
        { "e", "/sub/one", 1 }, { "g", "/sub/two", 2 }, { "f", "/sub/one", 3 },
        { "b", "/t.conf", 3 },  { "c", "/t.conf", 4 },
    };
    const struct conf_node *s = conf_node_get(conf_root(conf), "s");
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct conf_node *node = conf_node_get(s, rows[i].name);
        CHECK(node && conf_node_line(node) == rows[i].line, "%s", rows[i].name);
        const char *file = conf_node_file(node) + strlen(folder);
        CHECK(strcmp(file, rows[i].file) == 0, "%s: %s", rows[i].name, file);
    }
    assert_int_equal(conf_node_line(conf_node_get(conf_root(conf), "d")), 6);
    conf_unref(conf);
}

static void include_that_goes_wrong_is_an_error_at_its_place(void **state)
{
    const char *folder = *state;
    put_file(folder, "t.conf", "a = 1;\n@include \"nothing\"\n");
    check_errors(folder, "t.conf:2: @include: nothing cannot be read: No such file or directory\n");
    put_file(folder, "t.conf", "@include \".\"\n");
    check_errors(folder, "t.conf:1: @include: . cannot be read: Is a directory\n");
    put_file(folder, "t.conf", "\n@include \"t.conf\"\n");
    check_errors(folder, "t.conf:2: @include: files include each other too often: does one include "
                         "itself?\n");
    put_file(folder, "t.conf", "a = 1;\n@include \"one\"\n@include \"two\"");
    put_file(folder, "one", "\nb = 1;\na = 2;");
    put_file(folder, "two", "b = 1;\nc = 5000000000;");
    check_errors(folder, "one:3: a: stands in t.conf:1 already: leave one of them out\n"
                         "two:1: b: stands in one:2 already: leave one of them out\n"
                         "two:2: c: is a number of more than 32 bits: put an L behind it\n");
}

static void file_is_put_into_a_string(void **state)
{
    const char *folder = *state;
    put_file(folder, "pw", "s3cret\n\n");
    put_file(folder, "empty", "");
    char text[400];
    snprintf(text, sizeof(text),
             "a = \"${file:pw}\"; b = \"<${file:%s/pw}>\"; c = \"${file:empty}\";", folder);
    put_file(folder, "t.conf", text);
    put_file(folder, "conf.d/x.conf", "d = \"${file:../pw}\";");
    struct conf *conf = check_loads(folder);
    static const struct {
        const char *name, *want;
    } rows[] = { { "a", "s3cret\n" }, { "b", "<s3cret\n>" }, { "c", "" }, { "d", "s3cret\n" } };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const struct conf_node *node = conf_node_get(conf_root(conf), rows[i].name);
        CHECK(strcmp(conf_node_string(node), rows[i].want) == 0, "%s", rows[i].name);
        CHECK(conf_node_is_secret(node), "%s", rows[i].name);
    }
    conf_unref(conf);
}

static void file_with_a_nul_byte_is_refused(void **state)
{
    const char *folder = *state;
    static const char text[] = "a = 1;\nb = \"x\0y\";";
    put_bytes(folder, "t.conf", text, sizeof(text) - 1);
    check_errors(folder, "t.conf:2: is not text in UTF-8: save it as UTF-8\n");
    put_bytes(folder, "pw", "s3\0cret", 7);
    put_file(folder, "t.conf", "a = \"${file:pw}\";");
    check_errors(folder, "t.conf:1: a: pw has a NUL byte in it\n");
}

static void includes_are_limited_in_depth_and_number(void **state)
{
    const char *folder = *state;
    char name[20], text[40];
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof(name), i == 0 ? "t.conf" : "%d", i);
        snprintf(text, sizeof(text), "\n@include \"%d\"", i + 1);
        put_file(folder, name, i == 10 ? "" : text);
    }
    conf_unref(check_loads(folder)); /* ten within each other */
    put_file(folder, "10", "\n@include \"11\"");
    check_errors(folder,
                 "10:2: @include: files include each other too often: does one include itself?\n");

    put_file(folder, "1", "");
    struct buf many = BUF_INIT(100000);
    for (int i = 0; i < 1000; i++)
        buf_add_str(&many, "@include \"1\"\n");
    put_file(folder, "t.conf", buf_str(&many));
    conf_unref(check_loads(folder));
    buf_add_str(&many, "@include \"1\"\n");
    put_file(folder, "t.conf", buf_str(&many));
    check_errors(
        folder,
        "t.conf:1001: @include: files include each other too often: does one include itself?\n");
    buf_release(&many);
}

#define IN_FOLDER(TEST) cmocka_unit_test_setup_teardown(TEST, make_folder, remove_folder)

TEST_SUITE("configuration files", IN_FOLDER(conf_d_is_merged_in_sorted_order),
           IN_FOLDER(errors_of_all_files_come_at_once),
           IN_FOLDER(value_in_two_files_names_both_places),
           IN_FOLDER(file_that_cannot_be_read_is_an_error), IN_FOLDER(include_stands_for_the_file),
           IN_FOLDER(include_that_goes_wrong_is_an_error_at_its_place),
           IN_FOLDER(file_with_a_nul_byte_is_refused),
           IN_FOLDER(includes_are_limited_in_depth_and_number),
           IN_FOLDER(file_is_put_into_a_string));
