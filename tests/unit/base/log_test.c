/* SPDX-License-Identifier: MIT */

#include "base/log.h"

#include "../suite.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SECOND 1000
#define HOUR   (3600 * SECOND)

static void lasting_trouble_is_logged_ever_more_rarely(void **state)
{
    (void)state;
    static const struct {
        int64_t now_ms;
        bool due;
        uint64_t held_back; /* before the call */
    } rows[] = {
        { 1000, true, 0 },   { 1000, false, 0 },
        { 10999, false, 1 }, { 11000, true, 2 }, /* 10 s after the first */
        { 30999, false, 0 }, { 31000, true, 1 }, /* 20 s after that */
        { 70999, false, 0 }, { 71000, true, 1 }, /* 40 s */
    };
    struct log_trouble trouble = { 0 };
    for (size_t i = 0; i < ROWS(rows); i++) {
        CHECK(trouble.held_back == rows[i].held_back, "row %zu: %d", i, (int)trouble.held_back);
        CHECK(log_trouble_due(&trouble, rows[i].now_ms) == rows[i].due, "row %zu", i);
    }

    int64_t now = 71000, last = 0;
    for (int i = 0; i < 20; i++) {
        last = trouble.next_ms - now;
        now = trouble.next_ms;
        assert_true(log_trouble_due(&trouble, now));
    }
    assert_int_equal(last, HOUR);
}

static void end_of_trouble_is_told_once(void **state)
{
    (void)state;
    struct log_trouble trouble = { 0 };
    assert_false(log_trouble_over(&trouble));
    assert_true(log_trouble_due(&trouble, 5));
    assert_true(log_trouble_over(&trouble));
    assert_false(log_trouble_over(&trouble));
    assert_true(log_trouble_due(&trouble, 6)); /* and it begins anew */
}

/* What one call writes to standard error. */
static void capture(void (*log)(void), char *out, size_t size)
{
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_true(saved >= 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    close(ends[1]);
    log();
    dup2(saved, STDERR_FILENO);
    close(saved);
    size_t len = 0;
    for (ssize_t n; len + 1 < size && (n = read(ends[0], out + len, size - len - 1)) > 0;)
        len += (size_t)n;
    out[len] = '\0';
    close(ends[0]);
}

static void log_all_levels(void)
{
    log_error("one %d", 1);
    log_warning("two");
    log_info("three");
    log_debug("four");
}

static void level_decides_which_lines_are_written(void **state)
{
    (void)state;
    static const char *const want[] = {
        [TOCSIN_LOG_ERROR] = "<3>one 1\n",
        [TOCSIN_LOG_WARNING] = "<3>one 1\n<4>two\n",
        [TOCSIN_LOG_INFO] = "<3>one 1\n<4>two\n<6>three\n",
        [TOCSIN_LOG_DEBUG] = "<3>one 1\n<4>two\n<6>three\n<7>four\n",
    };
    log_set_systemd(true);
    for (size_t i = 0; i < ROWS(want); i++) {
        log_set_level((enum tocsin_level)i);
        char got[200];
        capture(log_all_levels, got, sizeof(got));
        CHECK(strcmp(got, want[i]) == 0, "level %zu: %s", i, got);
        assert_true(log_enabled((enum tocsin_level)i));
        assert_int_equal(log_enabled(TOCSIN_LOG_DEBUG), i == TOCSIN_LOG_DEBUG);
    }
    log_set_level(TOCSIN_LOG_INFO);
    log_set_systemd(false);
}

static void log_forged(void)
{
    log_info("name=%s", "a\n<3>forged\r\x1B[31m\x7F\t\xC3\xA4");
}

static void control_characters_cannot_forge_a_line(void **state)
{
    (void)state;
    log_set_systemd(true);
    char got[200];
    capture(log_forged, got, sizeof(got));
    log_set_systemd(false);
    assert_string_equal(got, "<6>name=a\\x0a<3>forged\\x0d\\x1b[31m\\x7f\\x09\xC3\xA4\n");
}

static void log_long(void)
{
    static char text[10000];
    memset(text, '\n', sizeof(text) - 1);
    log_info("%s", text);
}

static void long_line_is_cut_and_ended(void **state)
{
    (void)state;
    static char got[10000];
    capture(log_long, got, sizeof(got));
    size_t len = strlen(got);
    assert_true(len > 1000 && len <= 2048);
    assert_ptr_equal(strchr(got, '\n'), got + len - 1);
}

static void line_begins_with_the_time_outside_of_systemd(void **state)
{
    (void)state;
    char got[200];
    log_set_level(TOCSIN_LOG_DEBUG);
    capture(log_all_levels, got, sizeof(got));
    log_set_level(TOCSIN_LOG_INFO);
    const char *line = got;
    static const char *const ends[] = { "error: one 1\n", "warning: two\n", "info: three\n",
                                        "debug: four\n" };
    for (size_t i = 0; i < ROWS(ends); i++) {
        static const char form[] = "0000-00-00 00:00:00.000 ";
        for (size_t k = 0; k < sizeof(form) - 1; k++)
            CHECK(form[k] == '0' ? isdigit((unsigned char)line[k]) : line[k] == form[k], "%s",
                  line);
        line += sizeof(form) - 1;
        CHECK(strncmp(line, ends[i], strlen(ends[i])) == 0, "%s", line);
        line += strlen(ends[i]);
    }
    assert_string_equal(line, "");
}

static void log_more_than_a_pipe_holds(void)
{
    for (int i = 0; i < 2000; i++)
        log_info("%0100d", i);
}

static void output_that_nobody_reads_costs_lines_and_stops_nothing(void **state)
{
    (void)state;
    static char got[300000];
    log_set_systemd(true);
    capture(log_more_than_a_pipe_holds, got, sizeof(got));
    size_t kept = 0;
    for (const char *line = got; (line = strchr(line, '\n')); line++)
        kept++;
    assert_true(kept > 100 && kept < 2000);

    capture(log_all_levels, got, sizeof(got));
    log_set_systemd(false);
    assert_non_null(strstr(got, " lines of the log were lost: nobody read them\n<3>one 1\n"));
    assert_int_equal(strtoul(got + 3, NULL, 10), 2000 - kept);
}

TEST_SUITE("log", cmocka_unit_test(lasting_trouble_is_logged_ever_more_rarely),
           cmocka_unit_test(end_of_trouble_is_told_once),
           cmocka_unit_test(level_decides_which_lines_are_written),
           cmocka_unit_test(control_characters_cannot_forge_a_line),
           cmocka_unit_test(long_line_is_cut_and_ended),
           cmocka_unit_test(line_begins_with_the_time_outside_of_systemd),
           cmocka_unit_test(output_that_nobody_reads_costs_lines_and_stops_nothing));
