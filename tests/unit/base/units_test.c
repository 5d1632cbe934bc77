/* SPDX-License-Identifier: MIT */

#include "base/units.h"

#include "../suite.h"

#include <errno.h>
#include <inttypes.h>

#define SECOND INT64_C(1000)
#define DAY    (86400 * SECOND)
#define GIB    (INT64_C(1) << 30)

struct row {
    const char *text;
    int rc;
    int64_t want;
    const char *again; /* the shortest form; NULL: the text itself */
};

static void check_rows(const struct row *rows, size_t n, int (*parse)(const char *, int64_t *),
                       void (*add)(struct buf *, int64_t))
{
    for (size_t i = 0; i < n; i++) {
        int64_t value = -1;
        int rc = parse(rows[i].text, &value);
        CHECK(rc == rows[i].rc && value == rows[i].want, "\"%s\": %d, %" PRId64, rows[i].text, rc,
              value);
        if (rc < 0)
            continue;
        struct buf out = BUF_INIT(100);
        add(&out, value);
        const char *again = rows[i].again ? rows[i].again : rows[i].text;
        CHECK(strcmp(buf_str(&out), again) == 0, "\"%s\": printed %s", rows[i].text, buf_str(&out));
        int64_t same;
        CHECK(parse(buf_str(&out), &same) == 0 && same == value, "\"%s\"", rows[i].text);
        buf_release(&out);
    }
}

static void duration_is_a_whole_number_with_a_unit(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "0", 0, 0, "0ms" },
        { "0s", 0, 0, "0ms" },
        { "250ms", 0, 250, NULL },
        { "30s", 0, 30 * SECOND, NULL },
        { "5m", 0, 300 * SECOND, NULL },
        { "2h", 0, 7200 * SECOND, NULL },
        { "1d", 0, DAY, NULL },
        { "90s", 0, 90 * SECOND, NULL },
        { "120s", 0, 120 * SECOND, "2m" },
        { "1000ms", 0, SECOND, "1s" },
        { "36h", 0, DAY + DAY / 2, NULL },
        { "0030s", 0, 30 * SECOND, "30s" },
        { "9223372036854775807ms", 0, INT64_MAX, NULL },
        { "106751991167d", 0, 106751991167 * DAY, NULL },
        { "106751991168d", -ERANGE, 0, NULL },
        { "9223372036854775808ms", -ERANGE, 0, NULL },
        { "", -EINVAL, 0, NULL },
        { "30", -EINVAL, 0, NULL },
        { "s", -EINVAL, 0, NULL },
        { "-1s", -EINVAL, 0, NULL },
        { "+1s", -EINVAL, 0, NULL },
        { " 1s", -EINVAL, 0, NULL },
        { "1s ", -EINVAL, 0, NULL },
        { "1 s", -EINVAL, 0, NULL },
        { "1.5s", -EINVAL, 0, NULL },
        { "1S", -EINVAL, 0, NULL },
        { "1KiB", -EINVAL, 0, NULL },
        { "1m30s", -EINVAL, 0, NULL },
        { "0x10s", -EINVAL, 0, NULL },
    };
    check_rows(rows, ROWS(rows), duration_parse, duration_add);
}

static void size_is_a_whole_number_of_bytes_or_with_a_unit(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "0", 0, 0, NULL },
        { "512", 0, 512, NULL },
        { "1024", 0, 1024, "1KiB" },
        { "64KiB", 0, 65536, NULL },
        { "10MiB", 0, 10485760, NULL },
        { "1GiB", 0, GIB, NULL },
        { "1536KiB", 0, 1536 * 1024, NULL },
        { "8589934591GiB", 0, 8589934591 * GIB, NULL },
        { "8589934592GiB", -ERANGE, 0, NULL },
        { "9223372036854775807", 0, INT64_MAX, NULL },
        { "9223372036854775808", -ERANGE, 0, NULL },
        { "", -EINVAL, 0, NULL },
        { "KiB", -EINVAL, 0, NULL },
        { "1KB", -EINVAL, 0, NULL },
        { "1kib", -EINVAL, 0, NULL },
        { "1s", -EINVAL, 0, NULL },
        { "-1", -EINVAL, 0, NULL },
        { "1.5MiB", -EINVAL, 0, NULL },
    };
    check_rows(rows, ROWS(rows), size_parse, size_add);
}

TEST_SUITE("units", cmocka_unit_test(duration_is_a_whole_number_with_a_unit),
           cmocka_unit_test(size_is_a_whole_number_of_bytes_or_with_a_unit));
