/* SPDX-License-Identifier: MIT */

/* Acceptors: one and several of them on a listener, and when descriptors run out. */

#include "net/listener.h"

#include "../suite.h"
#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct bench {
    struct loop loop;
    struct listener *listener;
    struct acceptor acceptor;
    int fds[200];
    int count, stop_at; /* stops accepting after that many; 0: never */
};

static void keep(struct acceptor *acceptor, int fd)
{
    struct bench *b = acceptor->context;
    assert_true(b->count < (int)ROWS(b->fds));
    b->fds[b->count++] = fd;
    if (b->count == b->stop_at)
        acceptor_stop(acceptor);
}

static struct listener *open_loopback(bool nodelay)
{
    struct buf why = BUF_INIT(1000);
    const struct listener_options options = { .bind = "127.0.0.1", .nodelay = nodelay };
    struct listener *listener;
    CHECK(listener_open(&options, &listener, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    return listener;
}

static struct bench *bench_new(bool nodelay)
{
    struct bench *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    assert_int_equal(loop_init(&b->loop), 0);
    b->listener = open_loopback(nodelay);
    assert_int_equal(acceptor_start(&b->acceptor, &b->loop, b->listener, keep, b), 0);
    return b;
}

static void bench_free(struct bench *b)
{
    acceptor_stop(&b->acceptor);
    acceptor_stop(&b->acceptor);
    for (int i = 0; i < b->count; i++)
        close(b->fds[i]);
    listener_close(b->listener);
    loop_release(&b->loop);
    free(b);
}

static void await_accepted(struct bench *b, int count)
{
    while (b->count < count)
        assert_int_equal(loop_turn(&b->loop, true), 0);
}

static void connections_are_nonblocking_and_have_the_listeners_options(void **state)
{
    (void)state;
    for (int nodelay = 0; nodelay <= 1; nodelay++) {
        struct bench *b = bench_new(nodelay);
        int client = client_connect(listener_port(b->listener));
        await_accepted(b, 1);
        int set = -1;
        socklen_t len = sizeof(set);
        assert_int_equal(getsockopt(b->fds[0], IPPROTO_TCP, TCP_NODELAY, &set, &len), 0);
        assert_int_equal(set != 0, nodelay);
        assert_true(fcntl(b->fds[0], F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(b->fds[0], F_GETFL) & O_NONBLOCK);
        assert_int_equal(write(client, "x", 1), 1);
        client_await(b->fds[0]);
        char byte;
        assert_int_equal(read(b->fds[0], &byte, 1), 1);
        close(client);
        bench_free(b);
    }
}

static void a_turn_accepts_a_batch_and_the_next_one_the_rest(void **state)
{
    (void)state;
    struct bench *b = bench_new(false);
    int clients[ACCEPTOR_BATCH + 10];
    for (size_t i = 0; i < ROWS(clients); i++)
        clients[i] = client_connect(listener_port(b->listener));
    assert_int_equal(loop_turn(&b->loop, true), 0);
    assert_int_equal(b->count, ACCEPTOR_BATCH);
    assert_int_equal(loop_turn(&b->loop, true), 0);
    assert_int_equal(b->count, ROWS(clients));
    assert_int_equal(b->listener->accepted, ROWS(clients));
    assert_int_equal(b->listener->failed, 0);
    for (size_t i = 0; i < ROWS(clients); i++)
        close(clients[i]);
    bench_free(b);
}

static void acceptor_may_be_stopped_by_what_it_calls(void **state)
{
    (void)state;
    struct bench *b = bench_new(false);
    b->stop_at = 2;
    int clients[4];
    for (size_t i = 0; i < ROWS(clients); i++)
        clients[i] = client_connect(listener_port(b->listener));
    for (int i = 0; i < 3; i++)
        assert_int_equal(loop_turn(&b->loop, i == 0), 0);
    assert_int_equal(b->count, 2);

    /* The others still wait, for whoever accepts next. */
    assert_int_equal(acceptor_start(&b->acceptor, &b->loop, b->listener, keep, b), 0);
    await_accepted(b, 4);
    for (size_t i = 0; i < ROWS(clients); i++)
        close(clients[i]);
    bench_free(b);
}

/* ---- Without descriptors -------------------------------------------------------------------------- */

/* Standard error goes to a file in memory meanwhile. */
static int begin_capture(int *saved)
{
    int file = memfd_create("log", MFD_CLOEXEC);
    *saved = dup(STDERR_FILENO);
    assert_true(file >= 0 && *saved >= 0 && dup2(file, STDERR_FILENO) >= 0);
    return file;
}

static void end_capture(int file, int saved, char *text, size_t size)
{
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    ssize_t len = pread(file, text, size - 1, 0);
    assert_true(len >= 0);
    text[len] = '\0';
    close(file);
}

/* No more descriptors than there are. */
static struct rlimit limit_descriptors(void)
{
    struct rlimit before, now;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int lowest_free = dup(STDIN_FILENO);
    assert_true(lowest_free >= 0);
    close(lowest_free);
    now = before;
    now.rlim_cur = (rlim_t)lowest_free;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
    return before;
}

static void connections_wait_while_there_are_no_descriptors(void **state)
{
    (void)state;
    struct bench *b = bench_new(false);
    int clients[3], saved;
    for (size_t i = 0; i < ROWS(clients); i++)
        clients[i] = client_connect(listener_port(b->listener));
    int log = begin_capture(&saved);
    struct rlimit before = limit_descriptors();
    for (int i = 0; i < 1000; i++)
        assert_int_equal(loop_turn(&b->loop, false), 0);
    bool paused = timer_is_running(&b->acceptor.pause);
    uint64_t failed = b->listener->failed;
    assert_int_equal(b->count, 0);
    while (b->listener->failed == failed) /* it tries again by itself */
        assert_int_equal(loop_turn(&b->loop, true), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    await_accepted(b, ROWS(clients));
    char text[2000];
    end_capture(log, saved, text, sizeof(text));

    assert_true(paused);
    assert_true(failed >= 1 && failed < 100); /* it does not try each turn */
    const char *line = strstr(text, "listener: connections have to wait listener=127.0.0.1:");
    assert_non_null(line);
    assert_non_null(strstr(line, "Too many open files; raise the limit"));
    assert_null(strstr(line + 1, "listener: connections")); /* once */
    for (size_t i = 0; i < ROWS(clients); i++)
        close(clients[i]);
    bench_free(b);
}

/* ---- Threads -------------------------------------------------------------------------------------- */

#define CLIENTS 300

struct worker {
    struct loop loop;
    struct acceptor acceptor;
    pthread_t thread;
    int count;
};

static void close_at_once(struct acceptor *acceptor, int fd)
{
    struct worker *worker = acceptor->context;
    worker->count++;
    close(fd);
}

static void *run_worker(void *arg)
{
    struct worker *worker = arg;
    int rc = loop_run(&worker->loop);
    acceptor_stop(&worker->acceptor);
    return rc == 0 ? worker : NULL;
}

static void workers_share_a_listener(void **state)
{
    (void)state;
    struct listener *listener = open_loopback(false);
    struct worker *workers = calloc(3, sizeof(*workers));
    assert_non_null(workers);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(loop_init(&workers[i].loop), 0);
        assert_int_equal(acceptor_start(&workers[i].acceptor, &workers[i].loop, listener,
                                        close_at_once, &workers[i]),
                         0);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]), 0);
    }
    int clients[10], sum = 0;
    for (int round = 0; round < CLIENTS / 10; round++) {
        for (int i = 0; i < 10; i++)
            clients[i] = client_connect(listener_port(listener));
        for (int i = 0; i < 10; i++) {
            client_await(clients[i]); /* until somebody has taken and closed it */
            close(clients[i]);
        }
    }
    for (int i = 0; i < 3; i++) {
        loop_stop(&workers[i].loop);
        void *result;
        assert_int_equal(pthread_join(workers[i].thread, &result), 0);
        assert_ptr_equal(result, &workers[i]);
        sum += workers[i].count;
        loop_release(&workers[i].loop);
    }
    assert_int_equal(sum, CLIENTS);
    assert_int_equal(listener->accepted, CLIENTS);
    free(workers);
    listener_close(listener);
}

TEST_SUITE("acceptor", cmocka_unit_test(connections_are_nonblocking_and_have_the_listeners_options),
           cmocka_unit_test(a_turn_accepts_a_batch_and_the_next_one_the_rest),
           cmocka_unit_test(acceptor_may_be_stopped_by_what_it_calls),
           cmocka_unit_test(connections_wait_while_there_are_no_descriptors),
           cmocka_unit_test(workers_share_a_listener));
