/* SPDX-License-Identifier: MIT */

/* See rescue.h. Row by row, around what cannot be read; where a tree is broken, page by page (salvage.h). */

#include "store/rescue.h"

#include "store/file.h"
#include "store/salvage.h"
#include "store/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMIT_EACH  10000 /* rows */
#define SINGLE_STEPS 10000 /* behind a row that cannot be read; then they grow */
#define TABLES_MOST  64

struct rescue {
    const char *from, *to;
    char *copy;
    sqlite3 *in;
    struct store_file out;
    struct rescued tables[TABLES_MOST]; /* with names of their own */
    size_t table_count;
    struct buf *why;
};

struct table {
    const char *name;
    struct buf columns;  /* "a, b": those that both files have */
    struct buf backward; /* "a DESC, b DESC": the key, of a table without row ids */
    int count;
    bool has_row_ids;
    struct rescued *report;
};

/* ---- The copy ---- */

static int copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = in < 0 || out < 0 ? -errno : 0;
    static char block[65536];
    ssize_t got = 0;
    while (rc == 0 && (got = read(in, block, sizeof(block))) > 0)
        if (write(out, block, (size_t)got) != got)
            rc = -ENOSPC;
    if (rc == 0 && got < 0)
        rc = -errno;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return rc;
}

/* Of a file's head, what is the same in every store comes from the new one; its size is told by the system. */
static int mend_head(const char *path, const char *fresh)
{
    uint8_t head[100], good[100];
    int fd = open(path, O_RDWR | O_CLOEXEC), other = open(fresh, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || other < 0 ? -errno : 0;
    if (rc == 0 && (pread(fd, head, sizeof(head), 0) != sizeof(head) ||
                    pread(other, good, sizeof(good), 0) != sizeof(good)))
        rc = -EBADMSG;
    if (rc == 0) {
        memcpy(head, good, 24);           /* what it is, size of pages, journal, reserved space */
        memset(head + 28, 0, 4);          /* pages: as many as there are */
        memcpy(head + 44, good + 44, 4);  /* format of the schema */
        memcpy(head + 52, good + 52, 16); /* vacuum, encoding, version of the schema */
        if (pwrite(fd, head, sizeof(head), 0) != sizeof(head))
            rc = -EIO;
    }
    if (fd >= 0)
        close(fd);
    if (other >= 0)
        close(other);
    return rc;
}

/* PATH with something behind it. */
static const char *beside(struct buf *out, const char *path, const char *suffix)
{
    buf_clear(out);
    buf_addf(out, "%s%s", path, suffix);
    return buf_str(out);
}

static void remove_all(const char *path)
{
    static const char *const suffixes[] = { "", "-wal", "-shm", "-journal", "-lock" };
    struct buf name = BUF_INIT(65536);
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
        unlink(beside(&name, path, suffixes[i]));
    buf_release(&name);
}

static int open_copy(struct rescue *r)
{
    struct buf from = BUF_INIT(65536), to = BUF_INIT(65536);
    int rc = copy_file(r->from, r->copy);
    if (rc == 0) {
        rc = copy_file(beside(&from, r->from, "-wal"), beside(&to, r->copy, "-wal"));
        rc = rc == -ENOENT ? 0 : rc;
    }
    if (rc == 0)
        rc = mend_head(r->copy, r->to);
    if (rc < 0)
        buf_addf(r->why, "%s cannot be copied to %s: %s", r->from, r->copy, strerror(-rc));
    buf_release(&from);
    buf_release(&to);
    if (rc < 0)
        return rc;
    if (sqlite3_open_v2(r->copy, &r->in, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        return -EIO;
    /* Not to be taken in by a file that is shorter than it says, nor by a wrong line in the schema. */
    sqlite3_exec(r->in, "PRAGMA writable_schema = ON; PRAGMA cell_size_check = ON;", NULL, NULL,
                 NULL);
    sqlite3_exec(r->in, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
    return 0;
}

/* ---- Tables ---- */

static sqlite3_stmt *prepare(sqlite3 *db, struct buf *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sql->error || sqlite3_prepare_v2(db, buf_str(sql), -1, &statement, NULL) != SQLITE_OK)
        statement = NULL;
    return statement;
}

static bool has_column(struct rescue *r, const char *table, const char *column)
{
    struct buf sql = BUF_INIT(65536);
    buf_addf(&sql, "SELECT \"%s\".\"%s\" FROM \"%s\" LIMIT 0", table, column, table);
    sqlite3_stmt *statement = prepare(r->in, &sql);
    sqlite3_finalize(statement);
    buf_release(&sql);
    return statement != NULL;
}

/* Which columns there are, by the new file. */
static int find_columns(struct rescue *r, struct table *t)
{
    struct buf sql = BUF_INIT(65536);
    buf_addf(&sql, "SELECT name, pk FROM pragma_table_info('%s') ORDER BY pk", t->name);
    sqlite3_stmt *row = prepare(r->out.db, &sql);
    while (row && sqlite3_step(row) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(row, 0);
        if (!has_column(r, t->name, name))
            continue;
        buf_addf(&t->columns, "%s\"%s\"", t->count++ > 0 ? ", " : "", name);
        if (sqlite3_column_int(row, 1) > 0)
            buf_addf(&t->backward, "%s\"%s\" DESC", t->backward.len > 0 ? ", " : "", name);
    }
    sqlite3_finalize(row);
    buf_clear(&sql);
    buf_addf(&sql, "SELECT rowid FROM \"%s\" LIMIT 0", t->name);
    row = prepare(r->out.db, &sql);
    t->has_row_ids = row != NULL;
    sqlite3_finalize(row);
    buf_release(&sql);
    return t->columns.error ? t->columns.error : t->backward.error;
}

static sqlite3_stmt *prepare_insert(struct rescue *r, const struct table *t)
{
    struct buf sql = BUF_INIT(65536);
    buf_addf(&sql, "INSERT OR IGNORE INTO \"%s\" (%s) VALUES (?1", t->name, buf_str(&t->columns));
    for (int i = 2; i <= t->count; i++)
        buf_addf(&sql, ", ?%d", i);
    buf_add_str(&sql, ")");
    sqlite3_stmt *statement = prepare(r->out.db, &sql);
    buf_release(&sql);
    return statement;
}

static int run(const struct rescue *r, const char *sql)
{
    return sqlite3_exec(r->out.db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -EIO;
}

/* Puts a row into the new file; one that breaks its rules is a gap. `first` is the column where it begins. */
static int put(struct rescue *r, struct table *t, sqlite3_stmt *insert, sqlite3_stmt *row,
               int first)
{
    sqlite3_reset(insert);
    for (int i = 0; i < t->count; i++)
        sqlite3_bind_value(insert, i + 1, sqlite3_column_value(row, first + i));
    sqlite3_step(insert);
    int rc = sqlite3_reset(insert);
    if (rc != SQLITE_OK && rc != SQLITE_TOOBIG && rc != SQLITE_MISMATCH)
        return -EIO;
    if (rc == SQLITE_OK && sqlite3_changes(r->out.db) == 1)
        t->report->rows++;
    else if (t->has_row_ids) /* without, it may have come from the other side */
        t->report->gaps++;
    return t->report->rows % COMMIT_EACH == 0 ? run(r, "COMMIT; BEGIN") : 0;
}

/* Whether there is something to read behind a row id, or nothing at all: not damage, in any case. */
static bool can_be_read(sqlite3_stmt *row, int64_t after)
{
    sqlite3_reset(row);
    sqlite3_bind_int64(row, 1, after);
    int rc = sqlite3_step(row);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* The row id behind which reading can go on. Returns false if there is none. */
static bool step_over(sqlite3_stmt *row, int64_t *after)
{
    int64_t step = 1;
    for (int i = 0; *after < INT64_MAX - step; i++) {
        *after += step;
        if (can_be_read(row, *after))
            return true;
        if (i >= SINGLE_STEPS)
            step = step < INT64_MAX / 2 ? step * 2 : step;
    }
    return false;
}

/* A table with row ids: they lead around what cannot be read. */
static int copy_by_row_ids(struct rescue *r, struct table *t, sqlite3_stmt *insert)
{
    struct buf sql = BUF_INIT(65536);
    buf_addf(&sql, "SELECT rowid, %s FROM \"%s\" NOT INDEXED WHERE rowid > ?1 ORDER BY rowid",
             buf_str(&t->columns), t->name);
    sqlite3_stmt *row = prepare(r->in, &sql);
    buf_release(&sql);
    if (!row) {
        t->report->gaps++;
        return 0;
    }
    int64_t last = -1; /* numbers begin with 1, wherever they are ours */
    int rc = 0, stepped;
    sqlite3_bind_int64(row, 1, last);
    do {
        while (rc == 0 && (stepped = sqlite3_step(row)) == SQLITE_ROW &&
               sqlite3_column_int64(row, 0) > last) {
            last = sqlite3_column_int64(row, 0);
            rc = put(r, t, insert, row, 1);
        }
        if (rc < 0 || stepped == SQLITE_DONE)
            break;
        t->report->gaps++;
        if (!step_over(row, &last))
            break;
        sqlite3_reset(row);
        sqlite3_bind_int64(row, 1, last);
    } while (true);
    sqlite3_finalize(row);
    return rc;
}

/* One without: from its beginning, then from its end, as far as it goes. Sets `whole`. */
static int copy_one_way(struct rescue *r, struct table *t, sqlite3_stmt *insert, const char *order,
                        bool *whole)
{
    struct buf sql = BUF_INIT(65536);
    buf_addf(&sql, "SELECT %s FROM \"%s\" %s", buf_str(&t->columns), t->name, order);
    sqlite3_stmt *row = prepare(r->in, &sql);
    buf_release(&sql);
    int rc = 0, stepped = SQLITE_CORRUPT;
    while (row && rc == 0 && (stepped = sqlite3_step(row)) == SQLITE_ROW)
        rc = put(r, t, insert, row, 0);
    *whole = stepped == SQLITE_DONE;
    sqlite3_finalize(row);
    return rc;
}

static int copy_both_ways(struct rescue *r, struct table *t, sqlite3_stmt *insert)
{
    bool whole;
    int rc = copy_one_way(r, t, insert, "", &whole);
    if (rc < 0 || whole)
        return rc;
    t->report->gaps++;
    struct buf order = BUF_INIT(65536);
    buf_addf(&order, "ORDER BY %s", buf_str(&t->backward));
    rc = copy_one_way(r, t, insert, buf_str(&order), &whole);
    buf_release(&order);
    return rc;
}

static int copy_table(struct rescue *r, struct rescued *report)
{
    struct table t = {
        .name = report->table,
        .columns = BUF_INIT(65536),
        .backward = BUF_INIT(65536),
        .report = report,
    };
    int rc = find_columns(r, &t);
    sqlite3_stmt *insert = rc == 0 && t.count > 0 ? prepare_insert(r, &t) : NULL;
    if (insert && (rc = run(r, "BEGIN")) == 0) {
        rc = t.has_row_ids ? copy_by_row_ids(r, &t, insert) : copy_both_ways(r, &t, insert);
        if (rc == 0)
            rc = run(r, "COMMIT");
    }
    sqlite3_finalize(insert);
    buf_release(&t.columns);
    buf_release(&t.backward);
    return rc;
}

static int list_tables(struct rescue *r)
{
    struct buf sql = BUF_INIT(65536);
    buf_add_str(&sql, "SELECT name FROM sqlite_master WHERE type = 'table' "
                      "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid");
    sqlite3_stmt *row = prepare(r->out.db, &sql);
    buf_release(&sql);
    while (row && r->table_count < TABLES_MOST && sqlite3_step(row) == SQLITE_ROW) {
        char *name = strdup((const char *)sqlite3_column_text(row, 0));
        if (name)
            r->tables[r->table_count++].table = name;
    }
    sqlite3_finalize(row);
    return r->table_count > 0 ? 0 : -EIO;
}

static struct rescued *find_table(struct rescue *r, const char *name)
{
    struct rescued *at = r->tables;
    while (at < r->tables + r->table_count && strcmp(at->table, name) != 0)
        at++;
    return at < r->tables + r->table_count ? at : NULL;
}

static bool has_gaps(void *context, const char *table)
{
    const struct rescued *found = find_table(context, table);
    return found && found->gaps > 0;
}

static void on_salvaged(void *context, const char *table)
{
    find_table(context, table)->rows++;
}

/* The tables of the new file; an old one has them too, or has not had them yet. */
static int copy_tables(struct rescue *r)
{
    const bool readable = has_column(r, "delivery", "record");
    bool gaps = false;
    int rc = list_tables(r);
    for (size_t i = 0; i < r->table_count && rc == 0; i++) {
        if (readable)
            rc = copy_table(r, &r->tables[i]);
        else
            r->tables[i].gaps = 1;
        gaps = gaps || r->tables[i].gaps > 0;
    }
    if (rc == 0 && gaps && (rc = run(r, "BEGIN")) == 0) {
        rc = salvage(r->copy, r->out.db, has_gaps, on_salvaged, r);
        if (rc == 0)
            rc = run(r, "COMMIT");
    }
    if (rc < 0)
        buf_addf(r->why, "%s cannot be written: %s", r->to, sqlite3_errmsg(r->out.db));
    return rc;
}

int store_rescue(const char *from, const char *to,
                 void (*tell)(void *context, const struct rescued *rescued), void *context,
                 struct buf *why)
{
    struct stat file;
    if (stat(to, &file) == 0) {
        buf_addf(why, "%s is there already: move it away", to);
        return -EEXIST;
    }
    if (access(from, R_OK) == 0 && !trace_found(from)) {
        buf_addf(why, "%s is no store, or nothing is left of it: nothing was changed", from);
        return -EBADMSG;
    }
    struct buf copy = BUF_INIT(65536);
    buf_addf(&copy, "%s-copy", to);
    struct rescue r = { .from = from, .to = to, .why = why };
    r.copy = buf_take(&copy);
    if (!r.copy)
        return -ENOMEM;
    remove_all(r.copy);
    int rc = store_file_open(&r.out, to, why);
    if (rc == 0) /* what is in its log has to be in it: its head is looked at */
        rc = run(&r, "PRAGMA wal_checkpoint(TRUNCATE)");
    if (rc == 0)
        rc = open_copy(&r);
    if (rc == 0)
        rc = copy_tables(&r);
    for (size_t i = 0; i < r.table_count; i++) {
        if (rc == 0)
            tell(context, &r.tables[i]);
        free((char *)r.tables[i].table);
    }
    sqlite3_close(r.in);
    store_file_close(&r.out);
    remove_all(r.copy);
    if (rc < 0)
        remove_all(to);
    free(r.copy);
    return rc;
}
