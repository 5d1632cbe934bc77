/* SPDX-License-Identifier: MIT */

#include "../suite.h"

#include "base/printable.h"

static void what_a_terminal_would_obey_is_written_out(void **state)
{
    (void)state;
    static const struct {
        const char *text, *printed;
    } rows[] = {
        { "", "" },
        { "a/b c~", "a/b c~" },
        { "\x1b[31m", "\\x1b[31m" },
        { "a\nb\r\t\x7f", "a\\x0ab\\x0d\\x09\\x7f" },
        { "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x94\x94",
          "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x94\x94" },
        { "\xc2\x9b"
          "2J",
          "\\xc2\\x9b2J" },
        { "\x9b"
          "2J",
          "\\x9b2J" },
        { "\xe2\x80\xae\xe2\x81\xa6", "\\xe2\\x80\\xae\\xe2\\x81\\xa6" },
        { "\xc3(\xff", "\\xc3(\\xff" },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct buf out = BUF_INIT(1000);
        assert_int_equal(printable_add(&out, rows[i].text, strlen(rows[i].text)), 0);
        CHECK(strcmp(buf_str(&out), rows[i].printed) == 0, "row %zu: %s", i, buf_str(&out));
        buf_release(&out);
    }
}

TEST_SUITE("printable", cmocka_unit_test(what_a_terminal_would_obey_is_written_out));
