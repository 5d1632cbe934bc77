/* SPDX-License-Identifier: MIT */

/* What is saved from damaged files: everything but what stood where the damage is. */

#include "temporary.h"

#include "base/log.h"
#include "store/rescue.h"
#include "store/store.h"
#include "store/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>

enum {
    DELIVERIES = 3000,
    ATTEMPTS = 2000,
    PAGE = 4096,
};

#define FILL                                                                                       \
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "              \
    "INSERT INTO delivery (number, service, target, state, created_ms, attempts, due_ms, record) " \
    "SELECT i, 's', 't', 0, i, 0, 0, zeroblob(100 + i % 7 * 900) FROM n;"                          \
    "INSERT INTO attempt SELECT number, 1, 1, 'in vain' FROM delivery WHERE number <= 2000"

struct saved {
    int tables;
    int64_t deliveries, attempts, gaps;
};

static void note(void *context, const struct rescued *r)
{
    struct saved *saved = context;
    saved->tables++;
    saved->gaps += r->gaps;
    if (strcmp(r->table, "delivery") == 0)
        saved->deliveries = r->rows;
    if (strcmp(r->table, "attempt") == 0)
        saved->attempts = r->rows;
}

static int64_t number_of(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    CHECK(sqlite3_prepare_v2(db, sql, -1, &row, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return number;
}

static void open_and_close(const char *path)
{
    struct store *store;
    struct buf why = BUF_INIT(4096);
    CHECK(store_open(path, &store, &why) == 0, "%s", buf_str(&why));
    store_close(store, 1000);
    buf_release(&why);
}

/* Makes a store with rows; with `in_log`, those are in its log only. Returns its length. */
static off_t fill(const struct temporary *t, bool in_log)
{
    sqlite3 *db;
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", t->path);
    unlink(t->path);
    unlink(wal);
    open_and_close(t->path);
    assert_int_equal(sqlite3_open(t->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA wal_autocheckpoint = 0; BEGIN", NULL, NULL, NULL),
                     SQLITE_OK);
    CHECK(sqlite3_exec(db, FILL, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, in_log, NULL);
    sqlite3_close(db);
    struct stat file;
    assert_int_equal(stat(t->path, &file), 0);
    return file.st_size;
}

/* Returns what store_rescue() does; what it made can be used, and is as it was told. */
static int rescue(const struct temporary *t, struct saved *saved)
{
    char to[128], more[160];
    struct buf why = BUF_INIT(4096);
    struct stat before, after;
    snprintf(to, sizeof(to), "%s.new", t->path);
    snprintf(more, sizeof(more), "%s-lock", to);
    unlink(to);
    *saved = (struct saved){ 0 };
    assert_int_equal(stat(t->path, &before), 0);
    int rc = store_rescue(t->path, to, note, saved, &why);
    assert_int_equal(stat(t->path, &after), 0);
    assert_true(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
                before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_size == after.st_size);
    if (rc == 0) {
        open_and_close(to);
        assert_int_equal(number_of(to, "SELECT count(*) FROM delivery"), saved->deliveries);
        assert_int_equal(number_of(to, "SELECT count(*) FROM attempt"), saved->attempts);
    } else {
        CHECK(strstr(buf_str(&why), t->path), "\"%s\"", buf_str(&why));
        assert_int_equal(access(to, F_OK), -1);
    }
    unlink(more);
    snprintf(more, sizeof(more), "%s-copy", to);
    assert_int_equal(access(more, F_OK), -1);
    buf_release(&why);
    return rc;
}

static void a_whole_file_is_copied_as_a_whole(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    for (int in_log = 0; in_log < 2; in_log++) {
        struct saved saved;
        fill(&t, in_log);
        assert_int_equal(rescue(&t, &saved), 0);
        assert_int_equal(saved.deliveries, DELIVERIES);
        assert_int_equal(saved.attempts, ATTEMPTS);
        assert_int_equal(saved.gaps, 0);
        assert_true(saved.tables >= 2);
    }
    temporary_release(&t);
}

static void what_is_there_already_is_not_overwritten(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(&t, false);
    struct saved saved;
    struct buf why = BUF_INIT(4096);
    assert_int_equal(store_rescue(t.path, t.path, note, &saved, &why), -EEXIST);
    assert_int_equal(number_of(t.path, "SELECT count(*) FROM delivery"), DELIVERIES);
    buf_release(&why);
    temporary_release(&t);
}

/* Spoils a page, in one of several ways, and keeps what it was. */
static void spoil(const char *path, off_t page, int way, uint8_t was[PAGE])
{
    uint8_t is[PAGE];
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, was, PAGE, page * PAGE), PAGE);
    memcpy(is, was, PAGE);
    if (way == 0)
        memset(is, 0x5a, PAGE);
    else if (way == 1)
        memset(is, 0, PAGE);
    else if (way == 2)
        is[(size_t)(page * 131) % PAGE] ^= 0x41;
    else
        is[page == 0 ? 100 + page % 12 : page % 12] ^= 0xff; /* the head of its tree */
    assert_int_equal(pwrite(fd, is, PAGE, page * PAGE), PAGE);
    close(fd);
}

static void mend(const char *path, off_t page, const uint8_t was[PAGE])
{
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, was, PAGE, page * PAGE), PAGE);
    close(fd);
}

static void each_page_may_be_spoilt_and_only_what_it_held_is_missing(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    off_t pages = fill(&t, false) / PAGE;
    int tried = 0;
    uint8_t was[PAGE];
    for (off_t page = 0; page < pages; page += page < 10 ? 1 : 37) {
        for (int way = 0; way < 4; way++) {
            if (page >= 5 &&
                page % 4 != way) /* those before are special; of others each way is tried often */
                continue;
            struct saved saved;
            spoil(t.path, page, way, was);
            int rc = rescue(&t, &saved);
            tried++;
            CHECK(rc == 0, "page %d, way %d: %d", (int)page, way, rc);
            int64_t missing = DELIVERIES - saved.deliveries;
            CHECK(missing >= 0 && missing <= 41 && ATTEMPTS - saved.attempts <= 300,
                  "page %d, way %d: %d and %d are missing", (int)page, way, (int)missing,
                  ATTEMPTS - (int)saved.attempts);
            CHECK(missing == 0 || saved.gaps > 0, "%d missing, and not a word", (int)missing);
            mend(t.path, page, was);
        }
    }
    CHECK(tried > 40, "%d", tried);
    temporary_release(&t);
}

static void a_spoilt_head_costs_nothing(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(&t, false);
    for (off_t at = 0; at < 100; at += at < 28 ? 3 : 7) {
        struct saved saved;
        uint8_t byte, flipped;
        int fd = open(t.path, O_RDWR);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        flipped = (uint8_t)~byte;
        assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
        CHECK(rescue(&t, &saved) == 0 && saved.deliveries == DELIVERIES && saved.gaps == 0,
              "byte %d: %d rows", (int)at, (int)saved.deliveries);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
    temporary_release(&t);
}

static void what_is_left_of_a_cut_file_is_saved(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    for (int eighths = 7; eighths >= 0; eighths--) {
        struct saved saved;
        off_t left = fill(&t, false) / 8 * eighths;
        assert_int_equal(truncate(t.path, left), 0);
        int rc = rescue(&t, &saved);
        if (eighths == 0)
            assert_int_equal(rc, -EBADMSG);
        else
            CHECK(rc == 0 && saved.deliveries > DELIVERIES / 8 * eighths * 3 / 4, "%d eighths: %d",
                  eighths, (int)saved.deliveries);
    }
    temporary_release(&t);
}

static void write_file(const char *path, const char *line, int times)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < times; i++)
        fputs(line, file);
    fclose(file);
}

/* A page of lines that end with CR begins with what could be the kind of a page. */
static void what_never_was_a_store_is_not_replaced_by_an_empty_one(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    static const char *const lines[] = { "This is a letter.\n", "\rLine 7\n\n\n\n\n\n\n\n",
                                         "short" };
    for (size_t i = 0; i < ROWS(lines); i++) {
        struct saved saved;
        write_file(t.path, lines[i], i < 2 ? 4096 : 1);
        assert_false(trace_found(t.path));
        CHECK(rescue(&t, &saved) == -EBADMSG, "%s", lines[i]);
        assert_int_equal(saved.tables, 0);
    }
    temporary_release(&t);
}

/* The file itself is lost, all that was written last is in the log. */
static void a_log_beside_it_is_a_trace(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(&t, true);
    write_file(t.path, "This is a letter.\n", 4096);
    assert_true(trace_found(t.path));
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", t.path);
    unlink(wal);
    assert_false(trace_found(t.path));
    temporary_release(&t);
}

static void a_store_without_its_first_page_has_traces(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    uint8_t was[PAGE];
    for (int way = 0; way < 2; way++) {
        unlink(t.path);
        open_and_close(t.path); /* with no row in it */
        spoil(t.path, 0, way, was);
        assert_true(trace_found(t.path));
    }
    temporary_release(&t);
}

TEST_SUITE("store rescue", cmocka_unit_test(a_whole_file_is_copied_as_a_whole),
           cmocka_unit_test(what_is_there_already_is_not_overwritten),
           cmocka_unit_test(each_page_may_be_spoilt_and_only_what_it_held_is_missing),
           cmocka_unit_test(a_spoilt_head_costs_nothing),
           cmocka_unit_test(what_is_left_of_a_cut_file_is_saved),
           cmocka_unit_test(what_never_was_a_store_is_not_replaced_by_an_empty_one),
           cmocka_unit_test(a_log_beside_it_is_a_trace),
           cmocka_unit_test(a_store_without_its_first_page_has_traces));
