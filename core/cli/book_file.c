/* SPDX-License-Identifier: MIT */

#include "cli/book_file.h"

#include "config/conf.h"
#include "daemon/setup.h"
#include "store/place.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

bool book_file_in_use(const char *path)
{
    struct buf name = BUF_INIT(65536);
    buf_addf(&name, "%s-lock", path);
    int fd = open(buf_str(&name), O_RDONLY | O_CLOEXEC);
    buf_release(&name);
    if (fd < 0)
        return false;
    bool in_use = flock(fd, LOCK_SH | LOCK_NB) < 0;
    close(fd);
    return in_use;
}

char *book_file_find(const struct cli_command *command, const char *config, const char *without,
                     struct ledger_config *ledger)
{
    const char *name = config ? config : setup_default_path();
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf = NULL;
    char *path = NULL;
    int rc = conf_load(name, &conf, &errors);
    if (rc == 0)
        rc = store_place(conf, &path, &errors);
    if (rc == 0 && ledger)
        rc = ledger_config_read(conf, ledger, &errors);
    if (errors.count > 0)
        fputs(buf_str(&errors.text), stderr);
    else if (rc < 0)
        fprintf(stderr, "tocsin %s: %s: %s\n", command->name, name, strerror(-rc));
    conf_errors_release(&errors);
    conf_unref(conf);
    if (rc == 0 && path && strcmp(path, STORE_MEMORY) != 0)
        return path;
    if (rc == 0)
        fprintf(stderr, "tocsin %s: %s: it names no store, so %s: write store = { };\n",
                command->name, name, without);
    free(path);
    return NULL;
}

int book_file_open(struct book_file *file, const struct cli_command *command, const char *config)
{
    *file = (struct book_file){ 0 };
    file->path = book_file_find(command, config, "there is no ledger", &file->ledger);
    int rc = file->path ? 0 : -ENOENT;
    if (rc == 0 && access(file->path, F_OK) < 0) {
        rc = -errno;
        fprintf(stderr, "tocsin %s: %s: %s; the daemon makes it when it runs\n", command->name,
                file->path, strerror(-rc));
    } else if (rc == 0 &&
               sqlite3_open_v2(file->path, &file->db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK) {
        rc = -EIO;
        fprintf(stderr, "tocsin %s: %s: %s\n", command->name, file->path,
                file->db ? sqlite3_errmsg(file->db) : "no memory");
    }
    if (rc < 0) {
        book_file_close(file);
        return rc;
    }
    sqlite3_busy_timeout(file->db, 5000);
    file->in_use = book_file_in_use(file->path);
    return 0;
}

void book_file_close(struct book_file *file)
{
    sqlite3_close(file->db);
    free(file->path);
    *file = (struct book_file){ 0 };
}
