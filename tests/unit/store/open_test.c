/* SPDX-License-Identifier: MIT */

/* What store_open() says of files that it cannot use, and that it leaves them as they are. */

#include "temporary.h"

#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/wait.h>

#define INSERT                                                                                     \
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "                \
    "INSERT INTO delivery (number, service, target, state, created_ms, attempts, due_ms, record) " \
    "SELECT i, 's', 't', 0, 1, 0, 0, zeroblob(100) FROM n"

static void run_sql(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static int64_t number_of(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
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
    CHECK(store_open(path, &store, &why) == 0, "%s: %s", path, buf_str(&why));
    assert_int_equal(why.len, 0);
    assert_int_equal(store_close(store, 1000), 0);
    buf_release(&why);
}

/* A store with so many deliveries in it. */
static void fill(const char *path, int count)
{
    open_and_close(path);
    char sql[300];
    snprintf(sql, sizeof(sql), INSERT, count);
    run_sql(path, sql);
}

/* Expects an error, and words of the sentence that tells what to do. */
static void refuses(const char *path, int error, const char *says)
{
    struct store *store;
    struct buf why = BUF_INIT(4096);
    int rc = store_open(path, &store, &why);
    CHECK(rc == error, "%s: %d, not %d: %s", path, rc, error, buf_str(&why));
    assert_null(store);
    CHECK(strstr(buf_str(&why), says), "\"%s\" does not say \"%s\"", buf_str(&why), says);
    CHECK(strstr(buf_str(&why), path), "\"%s\" does not name the file", buf_str(&why));
    buf_release(&why);
}

static void file_and_folder_are_made_and_survive(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(t.path, 3);
    open_and_close(t.path);
    assert_int_equal(number_of(t.path, "SELECT count(*) FROM delivery"), 3);
    assert_int_equal(number_of(t.path, "PRAGMA application_id"), 0x746f6373);

    char deeper[128];
    snprintf(deeper, sizeof(deeper), "%s/new/store.db", t.folder);
    open_and_close(deeper);
    struct stat folder, file;
    assert_int_equal(stat(deeper, &file), 0);
    assert_int_equal(file.st_mode & 07, 0); /* messages are nobody else's business */
    *strrchr(deeper, '/') = '\0';
    assert_int_equal(stat(deeper, &folder), 0);
    assert_int_equal(folder.st_mode & 07, 0);
    struct temporary inner = { .path = "" };
    snprintf(inner.folder, sizeof(inner.folder), "%.60s", deeper);
    temporary_release(&inner);

    snprintf(deeper, sizeof(deeper), "%s/one/two/store.db", t.folder);
    struct store *store;
    struct buf why = BUF_INIT(4096);
    assert_int_equal(store_open(deeper, &store, &why), -ENOENT);
    assert_non_null(strstr(buf_str(&why), "/one/two cannot be made"));
    buf_release(&why);
    temporary_release(&t);
}

static void memory_is_no_file(void **state)
{
    (void)state;
    struct store *store;
    struct buf why = BUF_INIT(4096);
    assert_int_equal(store_open(STORE_MEMORY, &store, &why), 0);
    assert_false(store_is_durable(store));
    assert_int_equal(store_close(store, 0), 0);
    assert_int_equal(store_close(NULL, 0), 0);
    assert_int_not_equal(access(STORE_MEMORY, F_OK), 0);
    buf_release(&why);
}

static void a_second_one_is_told(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    struct store *store;
    struct buf why = BUF_INIT(4096);
    assert_int_equal(store_open(t.path, &store, &why), 0);
    refuses(t.path, -EBUSY, "another tocsin runs with this store");
    pid_t child = fork();
    if (child == 0) {
        struct store *other;
        _exit(store_open(t.path, &other, &why) == -EBUSY ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(store_close(store, 0), 0);
    open_and_close(t.path);
    buf_release(&why);
    temporary_release(&t);
}

static void what_is_not_ours_is_left_alone(void **state)
{
    (void)state;
    static const struct {
        const char *sql;
        int error;
        const char *says;
    } cases[] = {
        { "CREATE TABLE cats (name)", -EPROTO, "another program" },
        { "PRAGMA application_id = 17", -EPROTO, "another program" },
        { "PRAGMA user_version = 1", -EPROTO, "another program" },
        { "PRAGMA application_id = 0x746f6373; PRAGMA user_version = -1", -EPROTO,
          "another program" },
        { "PRAGMA application_id = 0x746f6373; PRAGMA user_version = 1000", -EPROTO,
          "newer version" },
    };
    for (size_t i = 0; i < ROWS(cases); i++) {
        struct temporary t;
        temporary_init(&t);
        run_sql(t.path, cases[i].sql);
        refuses(t.path, cases[i].error, cases[i].says);
        assert_int_equal(number_of(t.path, "SELECT count(*) FROM sqlite_master"), i == 0);
        CHECK(access(t.path, F_OK) == 0, "%s", cases[i].sql);
        temporary_release(&t);
    }
    struct temporary t;
    temporary_init(&t);
    FILE *file = fopen(t.path, "w");
    for (int i = 0; i < 500; i++)
        fputs("This is a letter and no database.\n", file);
    fclose(file);
    refuses(t.path, -EBADMSG, "is no store, or nothing is left of it (file is not a database)");
    temporary_release(&t);
}

/* Opens a damaged file: it may be used if nothing is wrong with it, but must not be called good when it is not. */
static int try(const char *path)
{
    struct store *store;
    struct buf why = BUF_INIT(4096);
    int rc = store_open(path, &store, &why);
    if (rc < 0)
        CHECK(why.len > 0, "%d without a word", rc);
    store_close(store, 1000);
    buf_release(&why);
    return rc;
}

static void truncated_files_are_damaged(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(t.path, 2000);
    struct stat whole;
    stat(t.path, &whole);
    static const int eighths[] = { 7, 4, 1 };
    for (size_t i = 0; i < ROWS(eighths); i++) {
        assert_int_equal(truncate(t.path, whole.st_size / 8 * eighths[i] / 4096 * 4096), 0);
        refuses(t.path, -EBADMSG, "tocsin store rescue");
    }
    assert_int_equal(truncate(t.path, 50), 0);
    refuses(t.path, -EBADMSG, "is damaged");
    temporary_release(&t);
}

static void flipped_bytes_never_do_worse_than_an_error(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(t.path, 300);
    struct stat whole;
    stat(t.path, &whole);
    int found = 0;
    uint32_t random = 1;
    for (int i = 0; i < 200; i++) {
        random = random * 1664525 + 1013904223;
        /* Half of them where pages begin: headers and cells. */
        off_t at = (off_t)((random >> 8) % (uint32_t)whole.st_size);
        if (i % 2 == 0)
            at = at / 4096 * 4096 + at % 64;
        int fd = open(t.path, O_RDWR);
        uint8_t byte, flipped;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        flipped = byte ^ (uint8_t)(1u << (random & 7));
        assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
        close(fd);
        int rc = try(t.path);
        CHECK(rc == 0 || rc == -EBADMSG || rc == -EPROTO || rc == -EIO || rc == -EACCES,
              "byte %lld: %d", (long long)at, rc);
        found += rc < 0;
        if (rc == 0 && number_of(t.path, "SELECT count(*) FROM delivery") == 300) {
            fd = open(t.path, O_RDWR);
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
            close(fd);
            continue;
        }
        unlink(t.path);
        fill(t.path, 300);
    }
    CHECK(found > 40, "%d", found);
    temporary_release(&t);
}

/* Rights mean nothing to root. */
static void become(uid_t user)
{
    assert_int_equal(seteuid(user), 0);
}

static void what_may_not_be_written_is_refused(void **state)
{
    (void)state;
    struct temporary t;
    temporary_init(&t);
    fill(t.path, 1);
    bool root = geteuid() == 0;
    if (root)
        assert_int_equal(chown(t.path, 65534, (gid_t)-1) | chown(t.folder, 65534, (gid_t)-1), 0);
    chmod(t.path, 0400);
    char lock[128];
    snprintf(lock, sizeof(lock), "%s-lock", t.path);
    unlink(lock);
    if (root)
        become(65534);
    refuses(t.path, -EACCES, "cannot be written");
    chmod(t.path, 0600);
    open_and_close(t.path);
    unlink(lock);
    chmod(t.folder, 0500);
    refuses(t.path, -EACCES, "cannot be written");
    if (root)
        become(0);
    temporary_release(&t);
}

/* What each version has left behind; a new version adds its own, and changes none. */
#define VERSION_1                                                                                \
    "PRAGMA application_id = 0x746f6373;"                                                        \
    "CREATE TABLE delivery (number INTEGER PRIMARY KEY, service TEXT NOT NULL, target TEXT NOT " \
    "NULL,"                                                                                      \
    " state INTEGER NOT NULL, created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL,"           \
    " due_ms INTEGER NOT NULL, record BLOB NOT NULL);"                                           \
    "CREATE INDEX delivery_of_target ON delivery (service, target, state, number);"
#define VERSION_2                                                                               \
    "ALTER TABLE delivery ADD COLUMN ended_ms INTEGER; ALTER TABLE delivery ADD COLUMN reason " \
    "TEXT;"                                                                                     \
    "CREATE TABLE attempt (delivery INTEGER NOT NULL, number INTEGER NOT NULL,"                 \
    " at_ms INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (delivery, number)) WITHOUT "   \
    "ROWID;"
#define VERSION_3                                                                    \
    "CREATE TABLE ledger (number INTEGER PRIMARY KEY, entries INTEGER NOT NULL,"     \
    " until_ms INTEGER NOT NULL, position INTEGER NOT NULL, bytes INTEGER NOT NULL," \
    " dropped INTEGER NOT NULL, sheets BLOB NOT NULL);"
#define VERSION_4                                                                                  \
    "CREATE TABLE session (number INTEGER PRIMARY KEY, id BLOB NOT NULL, persistent INTEGER NOT "  \
    "NULL, expiry INTEGER NOT NULL,"                                                               \
    " left_ms INTEGER NOT NULL, will BLOB, will_delay INTEGER NOT NULL, will_expiry INTEGER NOT "  \
    "NULL);"                                                                                       \
    "CREATE TABLE subscription (session INTEGER NOT NULL, share TEXT NOT NULL, filter TEXT NOT "   \
    "NULL, identifier INTEGER NOT NULL,"                                                           \
    " options INTEGER NOT NULL, PRIMARY KEY (session, share, filter)) WITHOUT ROWID;"              \
    "CREATE TABLE message (number INTEGER PRIMARY KEY, record BLOB NOT NULL);"                     \
    "CREATE TABLE queued (session INTEGER NOT NULL, number INTEGER NOT NULL, packet_id INTEGER "   \
    "NOT NULL, size INTEGER NOT NULL,"                                                             \
    " message INTEGER, qos INTEGER NOT NULL, retain INTEGER NOT NULL, released INTEGER NOT NULL, " \
    "share TEXT, identifiers BLOB,"                                                                \
    " PRIMARY KEY (session, number)) WITHOUT ROWID;"                                               \
    "CREATE INDEX queued_of_message ON queued (message);"                                          \
    "CREATE INDEX queued_in_flight ON queued (session, number) WHERE packet_id <> 0;"              \
    "CREATE TABLE received (session INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY "    \
    "(session, packet_id)) WITHOUT ROWID;"                                                         \
    "CREATE TABLE retained (topic BLOB PRIMARY KEY, expires_ms INTEGER NOT NULL, record BLOB NOT " \
    "NULL);"                                                                                       \
    "CREATE INDEX retained_expiring ON retained (expires_ms) WHERE expires_ms > 0;"                \
    "CREATE TABLE ended (session INTEGER PRIMARY KEY);"
#define LETTER "INSERT INTO delivery (number, service, target, state, created_ms, attempts, due_ms"
#define RECORD "x'0101056162632d3102046d2f746f03027879'"

#define VERSION_5                                                                      \
    "CREATE TABLE seen (number INTEGER PRIMARY KEY, sender INTEGER NOT NULL, identity" \
    " BLOB NOT NULL, at_ms INTEGER NOT NULL);"

#define VERSION_6 "CREATE INDEX delivery_dead ON delivery (ended_ms) WHERE state = 1;"

#define VERSION_7 "ALTER TABLE session ADD COLUMN sent INTEGER NOT NULL DEFAULT 0;"

#define VERSION_8                                                        \
    "ALTER TABLE delivery ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;" \
    "CREATE INDEX delivery_urgent ON delivery (service, target, state, number) WHERE urgent = 1;"

#define VERSION_9                                                          \
    "ALTER TABLE queued ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;" \
    "CREATE INDEX queued_expiring ON queued (session, expires_ms) WHERE expires_ms > 0;"

#define VERSION_10                                                       \
    "ALTER TABLE delivery ADD COLUMN untold INTEGER NOT NULL DEFAULT 0;" \
    "CREATE INDEX delivery_untold ON delivery (number) WHERE untold = 1;"

static void an_old_schema_comes_up_to_date(void **state)
{
    (void)state;
    static const char *const versions[] = {
        VERSION_1 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "PRAGMA user_version = 1",
        VERSION_1 VERSION_2 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "INSERT INTO attempt VALUES (7, 2, 1790000000500, 'refused'); PRAGMA user_version = 2",
        VERSION_1 VERSION_2 VERSION_3 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "INSERT INTO ledger VALUES (1, 0, 1790000000000, 0, 3, 0, x'00'); PRAGMA user_version = 3",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "INSERT INTO queued VALUES (1, 2, 0, 9, 3, 1, 0, 0, NULL, NULL); PRAGMA user_version = 4",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 VERSION_5 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "INSERT INTO seen VALUES (0, 1, x'', 0); PRAGMA user_version = 5",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 VERSION_5 VERSION_6 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "PRAGMA user_version = 6",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 VERSION_5 VERSION_6 VERSION_7 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "PRAGMA user_version = 7",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 VERSION_5 VERSION_6 VERSION_7 VERSION_8 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "PRAGMA user_version = 8",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 VERSION_5 VERSION_6 VERSION_7 VERSION_8 VERSION_9
            LETTER ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD
                   ");"
                   "PRAGMA user_version = 9",
        VERSION_1 VERSION_2 VERSION_3 VERSION_4 VERSION_5 VERSION_6 VERSION_7 VERSION_8 VERSION_9
            VERSION_10 LETTER
        ", record) VALUES (7, 'file', 'out', 0, 1790000000000, 2, 1790000001000, " RECORD ");"
        "PRAGMA user_version = 10",
    };
    for (size_t i = 0; i < ROWS(versions); i++) {
        struct temporary t;
        temporary_init(&t);
        run_sql(t.path, versions[i]);
        open_and_close(t.path);
        assert_int_equal(number_of(t.path,
                                   "SELECT count(*) FROM delivery WHERE service = 'file' AND "
                                   "target = 'out' AND attempts = 2 AND length(record) = 18"),
                         1);
        struct temporary fresh;
        temporary_init(&fresh);
        open_and_close(fresh.path);
        assert_int_equal(number_of(t.path, "PRAGMA user_version"),
                         number_of(fresh.path, "PRAGMA user_version"));
        const char *shape = "SELECT count(*) FROM sqlite_master";
        assert_int_equal(number_of(t.path, shape), number_of(fresh.path, shape));
        /* The list above has this version's too. */
        assert_int_equal(number_of(fresh.path, "PRAGMA user_version"), ROWS(versions));
        temporary_release(&fresh);
        temporary_release(&t);
    }
}

TEST_SUITE("store open", cmocka_unit_test(file_and_folder_are_made_and_survive),
           cmocka_unit_test(memory_is_no_file), cmocka_unit_test(a_second_one_is_told),
           cmocka_unit_test(what_is_not_ours_is_left_alone),
           cmocka_unit_test(truncated_files_are_damaged),
           cmocka_unit_test(flipped_bytes_never_do_worse_than_an_error),
           cmocka_unit_test(what_may_not_be_written_is_refused),
           cmocka_unit_test(an_old_schema_comes_up_to_date));
