/* SPDX-License-Identifier: MIT */

/* Any thread. */

#include "store/fault.h"

#ifdef TOCSIN_FAULTS

#    include <signal.h>
#    include <stdatomic.h>
#    include <stdlib.h>
#    include <string.h>
#    include <unistd.h>

void fault_point(const char *name)
{
    static atomic_long times;
    const char *wanted = getenv("TOCSIN_FAULT");
    size_t len = strlen(name);
    if (!wanted || strncmp(wanted, name, len) != 0 || (wanted[len] != '\0' && wanted[len] != ':'))
        return;
    long which = wanted[len] == ':' ? strtol(wanted + len + 1, NULL, 10) : 1;
    if (atomic_fetch_add(&times, 1) + 1 == which)
        kill(getpid(), SIGKILL);
}

#else

typedef int fault_is_empty; /* ISO C wants something in a file */

#endif
