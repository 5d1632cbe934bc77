/* SPDX-License-Identifier: MIT */

/* The store's file, for commands that look into it beside a daemon that may be running. Main thread. */

#ifndef TOCSIN_CLI_BOOK_FILE_H
#define TOCSIN_CLI_BOOK_FILE_H

#include "cli/cli.h"
#include "ledger/ledger.h"

#include <stdbool.h>

struct sqlite3;

struct book_file {
    char *path;
    struct sqlite3 *db; /* to read only */
    struct ledger_config ledger;
    bool in_use; /* a daemon has it */
};

/*
 * Where the store is, by the configuration (NULL: the default one), to be freed by the caller; `ledger` is set to what its
 * group says, unless it is NULL. NULL, after having said on standard error what is wrong: a mistake in the
 * configuration, no memory, or no store; then "so `without`" is said, such as "there is no ledger".
 */
char *book_file_find(const struct cli_command *command, const char *config, const char *without,
                     struct ledger_config *ledger);

/* Finds the store by the configuration (NULL: the default one) and opens it. Returns 0, or a negative errno value
 * after having said on standard error what is wrong; then there is nothing to release. */
int book_file_open(struct book_file *file, const struct cli_command *command, const char *config);
void book_file_close(struct book_file *file);

/* Whether a daemon has the store at this path. */
bool book_file_in_use(const char *path);

#endif
