/* SPDX-License-Identifier: MIT */

/* tocsin store: whether the store's file is whole, and what to do if it is not. */

#include "base/buf.h"
#include "cli/book_file.h"
#include "cli/cli.h"
#include "store/file.h"
#include "store/rescue.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct cli_option options[] = {
    { "config", 'c', "FILE", "Configuration that names the store, if no STORE is given." },
    { "to", 0, "NEW", "Leave STORE where it is, and write what can be read to this new file." },
    { .name = NULL },
};

static int fail(const char *format, const char *a, const char *b)
{
    fprintf(stderr, "tocsin store: ");
    fprintf(stderr, format, a, b);
    fputc('\n', stderr);
    return CLI_FAILED;
}

/* ---- check ---- */

static int print_line(void *context, int columns, char **values, char **names)
{
    (void)names;
    int *lines = context;
    if (columns > 0 && values[0] && strcmp(values[0], "ok") != 0) {
        ++*lines;
        printf("%s\n", values[0]);
    }
    return 0;
}

static int check(const char *path)
{
    sqlite3 *db = NULL;
    int lines = 0, status = CLI_OK;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(db, 5000);
        /* Whoever looks changes nothing, also when no other has it open. */
        sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        rc = sqlite3_exec(db, "PRAGMA integrity_check(50)", print_line, &lines, NULL);
    }
    if (rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB || lines > 0) {
        struct buf why = BUF_INIT(65536);
        if (rc == SQLITE_NOTADB)
            store_file_not_a_database(path, sqlite3_errmsg(db), &why);
        else
            store_file_damaged(path, lines > 0 ? "see above" : sqlite3_errmsg(db), &why);
        status = fail("%s%s", buf_str(&why), "");
        buf_release(&why);
    } else if (rc != SQLITE_OK) {
        status = fail("%s: %s", path, sqlite3_errmsg(db));
    } else {
        printf("%s: whole\n", path);
    }
    sqlite3_close(db);
    return fflush(stdout) == 0 ? status : CLI_FAILED;
}

/* ---- rescue ---- */

static void tell(void *context, const struct rescued *r)
{
    (void)context;
    printf("%s: %" PRId64 " rows", r->table, r->rows);
    if (r->gaps > 0)
        printf(", %" PRId64 " place%s could not be read", r->gaps, r->gaps == 1 ? "" : "s");
    putchar('\n');
}

/* The daemon's user has to be able to use it. */
static void give_to_same_owner(const char *from, const char *to)
{
    struct stat old;
    if (stat(from, &old) < 0 || chmod(to, old.st_mode & 0777) < 0 ||
        chown(to, old.st_uid, old.st_gid) < 0)
        fail("%s: owner and rights could not be made those of %s", to, from);
}

static int move(const char *from, const char *to)
{
    return rename(from, to) == 0 || errno == ENOENT ? 0 : -errno;
}

/* The damaged one becomes PATH.damaged, with its log, and what was rescued takes its place. */
static int replace(const char *path, const char *fresh)
{
    struct buf old = BUF_INIT(65536), wal = BUF_INIT(65536), old_wal = BUF_INIT(65536);
    buf_addf(&old, "%s.damaged", path);
    buf_addf(&wal, "%s-wal", path);
    buf_addf(&old_wal, "%s.damaged-wal", path);
    int status = CLI_OK;
    /* The log goes first: beside another file it would be taken for that one's. */
    if (move(buf_str(&wal), buf_str(&old_wal)) < 0 || move(path, buf_str(&old)) < 0 ||
        rename(fresh, path) < 0)
        status = fail("%s cannot be replaced: %s", path, strerror(errno));
    else
        printf("what was damaged is %s now\n", buf_str(&old));
    buf_clear(&wal);
    buf_addf(&wal, "%s-shm", path);
    if (status == CLI_OK)
        unlink(buf_str(&wal));
    buf_release(&old);
    buf_release(&wal);
    buf_release(&old_wal);
    return status;
}

static int rescue_to(const char *path, const char *to, bool in_place)
{
    struct buf why = BUF_INIT(65536), old = BUF_INIT(65536), lock = BUF_INIT(65536);
    int status = CLI_OK;
    buf_addf(&old, "%s.damaged", path);
    buf_addf(&lock, "%s-lock", to);
    if (in_place && access(buf_str(&old), F_OK) == 0)
        status = fail("%s is there already, of another time: move it away", buf_str(&old), "");
    else if (store_rescue(path, to, tell, NULL, &why) < 0)
        status = fail("%s%s", buf_str(&why), "");
    else {
        unlink(buf_str(&lock));
        give_to_same_owner(path, to);
        if (in_place)
            status = replace(path, to);
    }
    buf_release(&why);
    buf_release(&old);
    buf_release(&lock);
    return status;
}

static int rescue(const char *path, const char *to)
{
    struct store_file file;
    struct buf why = BUF_INIT(65536), fresh = BUF_INIT(65536);
    buf_addf(&fresh, "%s.rescued", path);
    int rc = store_file_lock(&file, path, &why);
    int status = rc < 0 ? fail("%s%s", buf_str(&why), "")
                        : rescue_to(path, to ? to : buf_str(&fresh), to == NULL);
    store_file_close(&file);
    buf_release(&why);
    buf_release(&fresh);
    return fflush(stdout) == 0 ? status : CLI_FAILED;
}

/* ---- The command ---- */

/* Says why a file cannot be a store at all; NULL if it may be one. */
static const char *fault_of(const char *path, bool was_named)
{
    struct stat file;
    if (stat(path, &file) < 0)
        return errno == ENOENT && !was_named
                   ? "No such file or directory; the daemon makes it when it runs"
                   : strerror(errno);
    if (S_ISDIR(file.st_mode))
        return "is a folder: name the file in it";
    return S_ISREG(file.st_mode) ? NULL : "is no regular file, so it cannot be a store";
}

static int run(const struct cli_args *args)
{
    const char *verb = args->rest[0], *to = cli_value(&cli_store, args, "to");
    bool checks = strcmp(verb, "check") == 0;
    if (!checks && strcmp(verb, "rescue") != 0)
        return cli_misused(&cli_store, "%s is not check or rescue", verb);
    if (checks && to)
        return cli_misused(&cli_store, "--to belongs to rescue");
    char *path = args->rest_count > 1
                     ? strdup(args->rest[1])
                     : book_file_find(&cli_store, cli_value(&cli_store, args, "config"),
                                      "there is no file", NULL);
    if (!path)
        return CLI_FAILED;
    const char *fault = fault_of(path, args->rest_count > 1);
    int status = fault ? fail("%s: %s", path, fault) : checks ? check(path) : rescue(path, to);
    free(path);
    return status;
}

const struct cli_command cli_store = {
    .name = "store",
    .summary = "check the store's file, and rescue what is in a damaged one",
    .arguments = "check|rescue [STORE]",
    .description =
        "Works on the file STORE, or on the one that `store` in the configuration names.\n"
        "\n"
        "check reads all of it and says what is wrong, also while the daemon runs. rescue needs "
        "the "
        "daemon ended:\n"
        "it writes all that can be read to a new file, tells how much that is, and puts it in the "
        "place of STORE,\n"
        "which is kept as STORE.damaged; it needs room for both and for a copy.",
    .example = "tocsin store check /var/lib/tocsin/tocsin.db",
    .exit_status =
        "0 if the file is whole, or was rescued, also if something is missing; 1 if not; "
        "2 for a call\n             that makes no sense.",
    .options = options,
    .least = 1,
    .most = 2,
    .mixed = true,
    .run = run,
};
