/* SPDX-License-Identifier: MIT */

/* Running programs (child.h). On the thread that owns the instance. */

#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The descriptors of one run; -1 where there is none. */
struct wires {
    int input;  /* what the program reads */
    int output; /* what it writes to standard error */
    int errors; /* where we read that */
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Moves a descriptor away from 0, 1 and 2, which the program's own would overwrite. */
static int move_up(int *fd)
{
    if (*fd > STDERR_FILENO)
        return 0;
    int higher = fcntl(*fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int error = higher < 0 ? -errno : 0;
    close_fd(fd);
    *fd = higher;
    return error;
}

/* A file in memory, read from its beginning: the program may read it or not, at any speed, and we never
 * have to write to a pipe that nobody reads. */
static int input_new(const void *input, size_t len, int *fd)
{
    *fd = memfd_create("tocsin-input", MFD_CLOEXEC);
    if (*fd < 0)
        return -errno;
    for (size_t at = 0; at < len;) {
        ssize_t n = write(*fd, (const char *)input + at, len - at);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    return lseek(*fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

static int wires_open(struct wires *wires, const struct child_run *run)
{
    int pipe_fds[2] = { -1, -1 };
    int error = 0;

    if (run->input)
        error = input_new(run->input, run->input_len, &wires->input);
    else if ((wires->input = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
        error = -errno;
    if (!error && pipe2(pipe_fds, O_CLOEXEC) < 0)
        error = -errno;
    wires->errors = pipe_fds[0];
    wires->output = pipe_fds[1];
    if (!error)
        error = move_up(&wires->input);
    if (!error)
        error = move_up(&wires->output);
    if (!error)
        error = move_up(&wires->errors);
    if (!error && fcntl(wires->errors, F_SETFL, O_NONBLOCK) < 0)
        error = -errno;
    return error;
}

static void wires_close(struct wires *wires)
{
    close_fd(&wires->input);
    close_fd(&wires->output);
    close_fd(&wires->errors);
}

/* posix_spawn() runs nothing of ours between fork and exec, tells why exec failed, and costs no copy of
 * a large process's page tables. */
static int spawn(const struct child_run *run, const struct wires *wires, pid_t *pid)
{
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);

    int error = posix_spawnattr_init(&attributes);
    if (error)
        return -error;
    error = posix_spawn_file_actions_init(&actions);
    if (error) {
        posix_spawnattr_destroy(&attributes);
        return -error;
    }
    short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    if (!error)
        error = posix_spawnattr_setflags(&attributes, flags);
    if (!error)
        error = posix_spawnattr_setpgroup(&attributes, 0);
    if (!error)
        error = posix_spawnattr_setsigmask(&attributes, &none);
    if (!error)
        error = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&actions, wires->input, STDIN_FILENO);
    if (!error)
        error = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&actions, wires->output, STDERR_FILENO);
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
    if (!error && run->directory)
        error = posix_spawn_file_actions_addchdir_np(&actions, run->directory);
    if (!error)
        error = posix_spawnp(pid, run->argv[0], &actions, &attributes, (char *const *)run->argv,
                             (char *const *)run->envp);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return -error;
}

/* Reads what is there. The beginning is kept, the rest is read so that the program can go on. Returns
 * whether there may be more later. */
static bool errors_read(int fd, struct child_end *end, bool *line_over)
{
    char chunk[4096];
    for (int turns = 0; turns < 16; turns++) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        size_t used = strlen(end->stderr_text);
        for (ssize_t i = 0; i < n && !*line_over; i++) {
            if (chunk[i] == '\n' || chunk[i] == '\r')
                *line_over = used > 0;
            else if (used + 1 >= sizeof(end->stderr_text))
                *line_over = true;
            else if (used > 0 || (chunk[i] != ' ' && chunk[i] != '\t'))
                end->stderr_text[used++] = chunk[i] >= ' ' && chunk[i] <= '~' ? chunk[i] : '?';
        }
        end->stderr_text[used] = '\0';
    }
    return true;
}

/* Waits until the program has ended, or until `deadline_ms`. Returns whether it has. */
static bool await_end(int pidfd, struct wires *wires, int64_t deadline_ms, struct child_end *end,
                      bool *line_over)
{
    for (;;) {
        struct pollfd fds[] = {
            { .fd = pidfd, .events = POLLIN },
            { .fd = wires->errors, .events = POLLIN }, /* a negative one is passed over */
        };
        int64_t left = deadline_ms - now_ms();
        if (left < 0)
            left = 0;
        int n = poll(fds, 2, left > INT32_MAX ? INT32_MAX : (int)left);
        if (n > 0 && fds[1].revents && !errors_read(wires->errors, end, line_over))
            close_fd(&wires->errors);
        if (n > 0 && fds[0].revents)
            return true;
        if (left == 0)
            return false;
    }
}

/* Waits for the end of `pid`, by force if need be. It is not reaped before its group has been killed: until
 * then nobody else can get its number, so the signal cannot hit a stranger. */
static void watch(pid_t pid, int pidfd, struct wires *wires, const struct child_run *run,
                  struct child_end *end)
{
    bool line_over = false;
    bool ended = await_end(pidfd, wires, now_ms() + run->timeout_ms, end, &line_over);
    if (!ended) {
        end->timed_out = true;
        kill(-pid, SIGTERM);
        ended = await_end(pidfd, wires, now_ms() + run->grace_ms, end, &line_over);
    }
    kill(-pid, SIGKILL);
    if (!ended)
        ended = await_end(pidfd, wires, now_ms() + 1000, end, &line_over);
    if (wires->errors >= 0)
        errors_read(wires->errors, end, &line_over);

    if (!ended) { /* in the kernel, out of reach: on a dead disk, for example */
        end->left = pid;
        return;
    }
    while (waitpid(pid, &end->status, 0) < 0 && errno == EINTR)
        continue;
}

int child_run(const struct child_run *run, struct child_end *end)
{
    struct wires wires = { -1, -1, -1 };
    pid_t pid = 0;
    *end = (struct child_end){ .status = 0 };

    int error = wires_open(&wires, run);
    if (!error)
        error = spawn(run, &wires, &pid);
    if (error) {
        wires_close(&wires);
        return error;
    }
    close_fd(&wires.input);
    close_fd(&wires.output);

    int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) { /* out of descriptors: it cannot be watched, so it must not run */
        error = -errno;
        kill(-pid, SIGKILL);
        while (waitpid(pid, &end->status, 0) < 0 && errno == EINTR)
            continue;
    } else {
        watch(pid, pidfd, &wires, run, end);
        close(pidfd);
    }
    wires_close(&wires);
    return error;
}
