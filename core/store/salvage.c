/* SPDX-License-Identifier: MIT */

/* See salvage.h. The numbers of sections are those of SQLite's description of its file format. */

#include "store/salvage.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE         4096 /* of each store */
#define COLUMNS_MOST 32
#define SHAPES_MOST  64
#define ROW_MOST     (1024 * 1024 * 1024)

enum page_kind {
    PAGE_INDEX_INNER = 0x02,
    PAGE_INDEX_LEAF = 0x0a,
    PAGE_TABLE_LEAF = 0x0d,
};

struct column {
    char name[64];
    int type;       /* SQLITE_INTEGER, _TEXT, _BLOB; 0 for any */
    bool may_lack;  /* NULL, or not there in rows of an older version */
    bool is_row_id; /* stored as NULL */
};

/* What a row of a table looks like, or of an index, which is known only to be told apart. */
struct shape {
    char *table; /* NULL for an index */
    bool in_index_pages;
    struct column columns[COLUMNS_MOST];
    int count;
    sqlite3_stmt *insert; /* of so many columns */
    int insert_count;
};

struct value {
    int type;
    int64_t number;
    double real;
    const uint8_t *data;
    size_t len;
};

struct salvager {
    int fd;
    off_t pages;
    sqlite3 *out;
    struct shape shapes[SHAPES_MOST];
    size_t shape_count;
    struct buf row; /* one that goes on on other pages */
    void (*added)(void *context, const char *table);
    void *context;
};

/* ---- Shapes ---- */

static int type_of(const char *declared)
{
    if (strcasecmp(declared, "INTEGER") == 0)
        return SQLITE_INTEGER;
    if (strcasecmp(declared, "TEXT") == 0)
        return SQLITE_TEXT;
    return strcasecmp(declared, "BLOB") == 0 ? SQLITE_BLOB : 0;
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql, const char *name)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK && name)
        sqlite3_bind_text(statement, 1, name, -1, SQLITE_TRANSIENT);
    return statement;
}

static const char *text_at(sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    return text ? text : "";
}

static void add_column(struct shape *shape, sqlite3_stmt *row, bool is_row_id)
{
    if (shape->count == COLUMNS_MOST)
        return;
    struct column *c = &shape->columns[shape->count++];
    snprintf(c->name, sizeof(c->name), "%s", text_at(row, 0));
    c->type = type_of(text_at(row, 1));
    c->may_lack = sqlite3_column_int(row, 2) == 0 && sqlite3_column_int(row, 3) == 0;
    c->is_row_id = is_row_id;
}

/* The columns of a table in the order in which they are stored: without row ids, those of the key come first. */
static void learn_table(struct salvager *s, const char *name, bool without_row_ids)
{
    struct shape *shape = &s->shapes[s->shape_count++];
    *shape = (struct shape){ .table = strdup(name), .in_index_pages = without_row_ids };
    sqlite3_stmt *row =
        prepare(s->out,
                without_row_ids ? "SELECT name, type, \"notnull\", pk, dflt_value FROM "
                                  "pragma_table_info(?1) ORDER BY pk = 0, pk, cid"
                                : "SELECT name, type, \"notnull\", pk, dflt_value FROM "
                                  "pragma_table_info(?1) ORDER BY cid",
                name);
    while (row && sqlite3_step(row) == SQLITE_ROW) {
        bool is_key = sqlite3_column_int(row, 3) > 0;
        add_column(shape, row,
                   is_key && !without_row_ids && strcasecmp(text_at(row, 1), "INTEGER") == 0);
        struct column *c = &shape->columns[shape->count - 1];
        /* A column with a default was added later, maybe. */
        c->may_lack = c->may_lack || sqlite3_column_type(row, 4) != SQLITE_NULL;
    }
    sqlite3_finalize(row);
}

static void learn_index(struct salvager *s, const char *name)
{
    struct shape *shape = &s->shapes[s->shape_count++];
    *shape = (struct shape){ .in_index_pages = true };
    sqlite3_stmt *row =
        prepare(s->out,
                "SELECT ifnull(x.name, ''), ifnull(c.type, 'INTEGER'), ifnull(c.\"notnull\", 1), 0 "
                "FROM sqlite_master m JOIN pragma_index_xinfo(m.name) x "
                "LEFT JOIN pragma_table_info(m.tbl_name) c ON c.cid = x.cid WHERE m.name = ?1 "
                "ORDER BY x.seqno",
                name);
    while (row && sqlite3_step(row) == SQLITE_ROW)
        add_column(shape, row, false);
    sqlite3_finalize(row);
}

static void learn(struct salvager *s, bool (*wanted)(void *context, const char *table))
{
    sqlite3_stmt *row =
        prepare(s->out,
                "SELECT m.name, m.type = 'table', ifnull(t.wr, 0) FROM sqlite_master m "
                "LEFT JOIN pragma_table_list t ON t.name = m.name AND t.schema = 'main' "
                "WHERE m.type = 'table' OR m.type = 'index' AND m.sql IS NOT NULL",
                NULL);
    while (row && s->shape_count < SHAPES_MOST && sqlite3_step(row) == SQLITE_ROW) {
        const char *name = text_at(row, 0);
        if (!sqlite3_column_int(row, 1))
            learn_index(s, name);
        else if (strncmp(name, "sqlite_", 7) != 0)
            learn_table(s, name, sqlite3_column_int(row, 2) != 0);
        struct shape *shape = &s->shapes[s->shape_count - 1];
        if (s->shape_count > 0 && shape->table && !wanted(s->context, shape->table)) {
            free(shape->table); /* to be told apart, no more */
            shape->table = NULL;
        }
    }
    sqlite3_finalize(row);
}

static bool fits_column(const struct column *c, const struct value *v)
{
    if (c->is_row_id)
        return v->type == SQLITE_NULL;
    if (v->type == SQLITE_NULL)
        return c->may_lack;
    return c->type == 0 || c->type == v->type;
}

static bool fits(const struct shape *shape, const struct value *values, int count)
{
    if (count > shape->count)
        return false;
    for (int i = 0; i < shape->count; i++)
        if (i < count ? !fits_column(&shape->columns[i], &values[i]) : !shape->columns[i].may_lack)
            return false;
    return true;
}

/* The one table whose row it can be. */
static struct shape *shape_of(struct salvager *s, bool index_page, const struct value *values,
                              int count)
{
    struct shape *found = NULL;
    for (size_t i = 0; i < s->shape_count; i++)
        if (s->shapes[i].in_index_pages == index_page && fits(&s->shapes[i], values, count)) {
            if (found)
                return NULL;
            found = &s->shapes[i];
        }
    return found && found->table ? found : NULL;
}

/* ---- Rows into the new file ---- */

static int prepare_insert(struct salvager *s, struct shape *shape, int count)
{
    if (shape->insert && shape->insert_count == count)
        return 0;
    struct buf sql = BUF_INIT(65536);
    buf_addf(&sql, "INSERT OR IGNORE INTO \"%s\" (", shape->table);
    for (int i = 0; i < count; i++)
        buf_addf(&sql, "%s\"%s\"", i ? ", " : "", shape->columns[i].name);
    buf_add_str(&sql, ") VALUES (?1");
    for (int i = 2; i <= count; i++)
        buf_addf(&sql, ", ?%d", i);
    buf_add_str(&sql, ")");
    sqlite3_finalize(shape->insert);
    shape->insert = sql.error ? NULL : prepare(s->out, buf_str(&sql), NULL);
    shape->insert_count = count;
    buf_release(&sql);
    return shape->insert ? 0 : -EIO;
}

static void bind(sqlite3_stmt *insert, int at, const struct value *v)
{
    switch (v->type) {
    case SQLITE_INTEGER:
        sqlite3_bind_int64(insert, at, v->number);
        break;
    case SQLITE_FLOAT:
        sqlite3_bind_double(insert, at, v->real);
        break;
    case SQLITE_TEXT:
        sqlite3_bind_text64(insert, at, (const char *)v->data, v->len, SQLITE_STATIC, SQLITE_UTF8);
        break;
    case SQLITE_BLOB:
        sqlite3_bind_blob64(insert, at, v->data, v->len, SQLITE_STATIC);
        break;
    default:
        sqlite3_bind_null(insert, at);
        break;
    }
}

static int add(struct salvager *s, struct shape *shape, int64_t row_id, const struct value *values,
               int count)
{
    int rc = prepare_insert(s, shape, count);
    if (rc < 0)
        return rc;
    for (int i = 0; i < count; i++) {
        const struct value id = { .type = SQLITE_INTEGER, .number = row_id };
        bind(shape->insert, i + 1, shape->columns[i].is_row_id ? &id : &values[i]);
    }
    sqlite3_step(shape->insert);
    rc = sqlite3_reset(shape->insert);
    if (rc == SQLITE_OK && sqlite3_changes(s->out) == 1)
        s->added(s->context, shape->table);
    return rc == SQLITE_OK || rc == SQLITE_TOOBIG || rc == SQLITE_MISMATCH ? 0 : -EIO;
}

/* ---- Bytes into values ---- */

struct cursor {
    const uint8_t *at, *end;
    bool failed;
};

static uint64_t big_endian(struct cursor *c, size_t len)
{
    uint64_t value = 0;
    if ((size_t)(c->end - c->at) < len) {
        c->failed = true;
        return 0;
    }
    while (len-- > 0)
        value = value << 8 | *c->at++;
    return value;
}

/* 1.6 */
static uint64_t varint(struct cursor *c)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t byte = big_endian(c, 1);
        value = value << 7 | (byte & 0x7f);
        if (!(byte & 0x80) || c->failed)
            return value;
    }
    return value << 8 | big_endian(c, 1);
}

/* A value by its serial type, 2.1. */
static struct value value_of(uint64_t type, struct cursor *body)
{
    static const uint8_t lengths[] = { 0, 1, 2, 3, 4, 6, 8, 8, 0, 0 };
    struct value v = { .type = SQLITE_NULL };
    if (type == 0)
        return v;
    if (type >= 12) {
        v.type = type % 2 ? SQLITE_TEXT : SQLITE_BLOB;
        v.len = (size_t)((type - 12) / 2);
        v.data = body->at;
        body->failed = body->failed || (size_t)(body->end - body->at) < v.len;
        body->at += body->failed ? 0 : v.len;
        return v;
    }
    if (type >= sizeof(lengths)) {
        body->failed = true;
        return v;
    }
    size_t len = lengths[type];
    uint64_t bits = big_endian(body, len);
    v.type = type == 7 ? SQLITE_FLOAT : SQLITE_INTEGER;
    if (type == 7)
        memcpy(&v.real, &bits, sizeof(v.real));
    else if (len == 0)
        v.number = (int64_t)type - 8;
    else
        v.number = (int64_t)(bits << (64 - 8 * len)) >> (64 - 8 * len);
    return v;
}

/* Returns the number of values, -1 for what is no record. */
static int read_record(const uint8_t *data, size_t len, struct value values[COLUMNS_MOST])
{
    struct cursor head = { data, data + len, false };
    uint64_t head_len = varint(&head);
    if (head.failed || head_len > len || head_len < (uint64_t)(head.at - data))
        return -1;
    struct cursor body = { data + head_len, data + len, false };
    head.end = body.at;
    int count = 0;
    while (head.at < head.end && !head.failed && !body.failed) {
        if (count == COLUMNS_MOST)
            return -1;
        values[count] = value_of(varint(&head), &body);
        count++;
    }
    return head.failed || body.failed || body.at != body.end ? -1 : count;
}

/* ---- Pages ---- */

static bool read_page(const struct salvager *s, uint64_t number, uint8_t page[PAGE])
{
    return number > 0 && number <= (uint64_t)s->pages &&
           pread(s->fd, page, PAGE, (off_t)(number - 1) * PAGE) == PAGE;
}

/* Puts together what goes on on other pages, 1.6. Returns false if it does not come to its end. */
static bool follow(struct salvager *s, struct cursor *cell, size_t local, size_t len)
{
    uint8_t page[PAGE];
    buf_clear(&s->row);
    buf_add(&s->row, cell->at, local);
    cell->at += local;
    uint64_t next = big_endian(cell, 4);
    while (s->row.len < len && read_page(s, next, page)) {
        size_t rest = len - s->row.len;
        struct cursor c = { page, page + PAGE, false };
        next = big_endian(&c, 4);
        if (buf_add(&s->row, c.at, rest < PAGE - 4 ? rest : PAGE - 4) < 0)
            return false;
    }
    return s->row.len == len;
}

static int read_cell(struct salvager *s, enum page_kind kind, struct cursor cell)
{
    if (kind == PAGE_INDEX_INNER)
        big_endian(&cell, 4);
    uint64_t len = varint(&cell);
    int64_t row_id = kind == PAGE_TABLE_LEAF ? (int64_t)varint(&cell) : 0;
    const size_t most = kind == PAGE_TABLE_LEAF ? PAGE - 35 : (PAGE - 12) * 64 / 255 - 23;
    const size_t least = (PAGE - 12) * 32 / 255 - 23;
    if (cell.failed || len > ROW_MOST || len > (uint64_t)s->pages * PAGE || len < 2)
        return 0;
    size_t local = (size_t)len;
    if (len > most) {
        local = least + (size_t)(len - least) % (PAGE - 4);
        local = local <= most ? local : least;
    }
    if ((size_t)(cell.end - cell.at) < local)
        return 0;
    const uint8_t *data = cell.at;
    if (len > most) {
        if (!follow(s, &cell, local, (size_t)len))
            return 0;
        data = (const uint8_t *)s->row.data;
    }
    struct value values[COLUMNS_MOST];
    int count = read_record(data, (size_t)len, values);
    struct shape *shape = count > 0 ? shape_of(s, kind != PAGE_TABLE_LEAF, values, count) : NULL;
    return shape ? add(s, shape, row_id, values, count) : 0;
}

/* 1.6: the head, the places of the cells, the cells. */
static int read_cells(struct salvager *s, const uint8_t page[PAGE])
{
    const enum page_kind kind = page[0];
    if (kind != PAGE_TABLE_LEAF && kind != PAGE_INDEX_LEAF && kind != PAGE_INDEX_INNER)
        return 0;
    struct cursor head = { page + 3, page + PAGE, false };
    size_t count = (size_t)big_endian(&head, 2);
    head.at = page + (kind == PAGE_INDEX_INNER ? 12 : 8);
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        size_t at = (size_t)big_endian(&head, 2);
        if (head.failed)
            break;
        if (at < PAGE)
            rc = read_cell(s, kind, (struct cursor){ page + at, page + PAGE, false });
    }
    return rc;
}

int salvage(const char *path, sqlite3 *out, bool (*wanted)(void *context, const char *table),
            void (*added)(void *context, const char *table), void *context)
{
    struct salvager *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    *s = (struct salvager){ .out = out, .added = added, .context = context };
    buf_init(&s->row, ROW_MOST);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat file = { 0 };
    int rc = s->fd < 0 || fstat(s->fd, &file) < 0 ? -errno : 0;
    if (rc == 0) {
        s->pages = file.st_size / PAGE;
        learn(s, wanted);
    }
    uint8_t page[PAGE];
    for (off_t number = 2; rc == 0 && number <= s->pages; number++)
        if (read_page(s, (uint64_t)number, page))
            rc = read_cells(s, page);
    for (size_t i = 0; i < s->shape_count; i++) {
        sqlite3_finalize(s->shapes[i].insert);
        free(s->shapes[i].table);
    }
    if (s->fd >= 0)
        close(s->fd);
    buf_release(&s->row);
    free(s);
    return rc;
}
