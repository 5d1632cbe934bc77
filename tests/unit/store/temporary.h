/* SPDX-License-Identifier: MIT */

/* A folder for a test's files, which goes with them. */

#ifndef TOCSIN_TESTS_STORE_TEMPORARY_H
#define TOCSIN_TESTS_STORE_TEMPORARY_H

#include "../suite.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct temporary {
    char folder[64];
    char path[96]; /* of the store in it */
};

static inline void temporary_init(struct temporary *t)
{
    snprintf(t->folder, sizeof(t->folder), "/tmp/tocsin-test-XXXXXX");
    assert_non_null(mkdtemp(t->folder));
    snprintf(t->path, sizeof(t->path), "%s/store.db", t->folder);
}

static inline void temporary_release(struct temporary *t)
{
    chmod(t->folder, 0700);
    DIR *dir = opendir(t->folder);
    assert_non_null(dir);
    const struct dirent *entry;
    while ((entry = readdir(dir)))
        unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    rmdir(t->folder);
}

#endif
