/* SPDX-License-Identifier: MIT */

/*
 * A program run to its end: started, watched, ended with all that it left behind. Blocks the calling
 * thread, up to the limits it is given; any number of threads may do so at once.
 *
 * The program gets the input as a file that is open for reading, standard output goes nowhere, and the
 * beginning of what it writes to standard error is kept. It has a process group of its own, the default
 * action for every signal, no signal blocked, and no other descriptor of ours.
 */

#ifndef EXEC_CHILD_H
#define EXEC_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct child_run {
    const char *const *argv; /* argv[0] is a path, or a name to be found in PATH */
    const char *const *envp; /* ends with NULL */
    const char *directory;   /* to run in; NULL: ours */
    const void *input;       /* NULL for none */
    size_t input_len;        /* bytes */
    int64_t timeout_ms;      /* then its group gets SIGTERM, */
    int64_t grace_ms;        /* and after this SIGKILL */
};

struct child_end {
    int status;            /* as waitpid() gives it */
    bool timed_out;        /* it had to be ended */
    pid_t left;            /* 0; or what not even SIGKILL has ended yet: to be reaped later */
    char stderr_text[128]; /* the first line that is not blank, printable ASCII */
};

/*
 * Runs a program and waits for its end. What is left of its process group then is killed.
 *
 * Returns 0 and sets `*end`; or a negative errno value if it was not started: -ENOENT and the like from
 * execve(2), -E2BIG if arguments and environment are too long, or what pipe(2), memfd_create(2) and such
 * returned.
 */
int child_run(const struct child_run *run, struct child_end *end);

#endif
