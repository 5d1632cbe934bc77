/* SPDX-License-Identifier: MIT */

#include "loop/loop.h"

#include "base/clock.h"
#include "base/container.h"

#include "../suite.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct bench;

/* One end of a pair of sockets in the loop, the other one in the test's hand. */
struct end {
    struct loop_source source;
    struct bench *bench;
    int other;
    int calls;
    uint32_t events;
    struct end *removes; /* when it is called */
};

struct letter {
    struct mail mail;
    int number;
};

struct bench {
    struct loop loop;
    struct end ends[4];
    int turn_ends, again;
    char order[64]; /* what was called: a letter each */
    struct timer timer;
    int timer_ends, mail_count;
    int stop_at;  /* stops when that much mail has come */
    sem_t *taken; /* to be posted when mail has come */
};

static void note(struct bench *b, char what)
{
    size_t len = strlen(b->order);
    if (len + 1 < sizeof(b->order))
        b->order[len] = what;
}

static void end_ready(struct loop_source *source, uint32_t events)
{
    struct end *end = CONTAINER_OF(source, struct end, source);
    end->calls++;
    end->events = events;
    note(end->bench, 's');
    char bytes[100];
    ssize_t got = read(source->fd, bytes, sizeof(bytes));
    (void)got;
    if (end->removes) {
        loop_remove(&end->bench->loop, &end->removes->source);
        memset(&end->removes->source, 0xEE, sizeof(end->removes->source)); /* as if freed */
    }
}

static void mail_came(struct loop *loop, struct mail *first)
{
    struct bench *b = CONTAINER_OF(loop, struct bench, loop);
    note(b, 'm');
    for (struct mail *mail = first; mail; mail = mail->next)
        assert_int_equal(CONTAINER_OF(mail, struct letter, mail)->number, b->mail_count++);
    if (b->taken)
        sem_post(b->taken);
    if (b->stop_at > 0 && b->mail_count >= b->stop_at)
        loop_stop(loop);
}

static void turn_ended(struct loop *loop)
{
    struct bench *b = CONTAINER_OF(loop, struct bench, loop);
    note(b, 'e');
    b->turn_ends++;
    if (b->again > 0) {
        b->again--;
        loop_again(loop);
    }
}

static void timer_ended_here(struct timer_wheel *wheel, struct timer *timer)
{
    struct bench *b = CONTAINER_OF(timer, struct bench, timer);
    assert_ptr_equal(wheel, &b->loop.timers);
    note(b, 't');
    b->timer_ends++;
    loop_stop(&b->loop);
}

static struct bench *bench_new(void)
{
    struct bench *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    assert_int_equal(loop_init(&b->loop), 0);
    b->loop.mail = mail_came;
    b->loop.turn_end = turn_ended;
    b->timer.kind = timer_wheel_kind(&b->loop.timers, timer_ended_here) & 0xFF;
    for (size_t i = 0; i < ROWS(b->ends); i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
        b->ends[i] = (struct end){ .source = { .ready = end_ready, .fd = pair[0] },
                                   .bench = b,
                                   .other = pair[1] };
        assert_int_equal(loop_add(&b->loop, &b->ends[i].source, EPOLLIN), 0);
    }
    return b;
}

static void bench_free(struct bench *b)
{
    for (size_t i = 0; i < ROWS(b->ends); i++)
        close(b->ends[i].other);
    loop_release(&b->loop);
    free(b);
}

/* Ends that were removed have their descriptor closed by the test. */
static void end_close(struct end *end)
{
    int fd = end->source.fd;
    loop_remove(&end->bench->loop, &end->source);
    close(fd);
}

static void poke(struct end *end)
{
    assert_int_equal(write(end->other, "x", 1), 1);
}

static void ready_source_is_called_with_its_events(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    assert_int_equal(loop_turn(&b->loop, false), 0);
    assert_int_equal(b->ends[0].calls, 0);
    poke(&b->ends[1]);
    assert_int_equal(loop_turn(&b->loop, true), 0);
    assert_int_equal(b->ends[0].calls, 0);
    assert_int_equal(b->ends[1].calls, 1);
    assert_int_equal(b->ends[1].events, EPOLLIN);
    assert_int_equal(loop_turn(&b->loop, false), 0);
    assert_int_equal(b->ends[1].calls, 1); /* it was read */

    assert_int_equal(loop_modify(&b->loop, &b->ends[1].source, EPOLLIN | EPOLLOUT), 0);
    assert_int_equal(loop_turn(&b->loop, true), 0);
    assert_int_equal(b->ends[1].events, EPOLLOUT);
    assert_int_equal(loop_modify(&b->loop, &b->ends[1].source, EPOLLIN), 0);
    assert_int_equal(loop_modify(&b->loop, &b->ends[1].source, EPOLLIN), 0);
    assert_int_equal(loop_turn(&b->loop, false), 0);
    assert_int_equal(b->ends[1].calls, 2);

    assert_true(loop_has(&b->ends[1].source));
    loop_remove(&b->loop, &b->ends[1].source);
    assert_false(loop_has(&b->ends[1].source));
    loop_remove(&b->loop, &b->ends[1].source); /* does nothing */
    poke(&b->ends[1]);
    assert_int_equal(loop_turn(&b->loop, false), 0);
    assert_int_equal(b->ends[1].calls, 2);
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

static void source_that_was_removed_in_the_same_turn_is_not_called(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    int fds[ROWS(b->ends)];
    for (size_t i = 0; i < ROWS(b->ends); i++)
        fds[i] = b->ends[i].source.fd;
    /* Whichever of the two comes first, the other one must not come. */
    b->ends[1].removes = &b->ends[2];
    b->ends[2].removes = &b->ends[1];
    for (size_t i = 0; i < ROWS(b->ends); i++)
        poke(&b->ends[i]);
    assert_int_equal(loop_turn(&b->loop, true), 0);
    assert_int_equal(b->ends[0].calls, 1);
    assert_int_equal(b->ends[1].calls + b->ends[2].calls, 1);
    assert_int_equal(b->ends[3].calls, 1);
    loop_release(&b->loop);
    for (size_t i = 0; i < ROWS(b->ends); i++) {
        close(fds[i]);
        close(b->ends[i].other);
    }
    free(b);
}

static void turn_goes_sources_mail_timers_end(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    struct letter letters[2] = { { .number = 0 }, { .number = 1 } };
    struct mailbag bag = { 0 };
    mailbag_add(&bag, &letters[0].mail);
    mailbag_add(&bag, &letters[1].mail);
    loop_post(&b->loop, &bag);
    poke(&b->ends[0]);
    loop_timer_start(&b->loop, &b->timer, 0);
    assert_int_equal(loop_run(&b->loop), 0); /* until the timer ends */
    /* The timer ends with a later turn, or with this one if a tick was just over. */
    assert_true(strncmp(b->order, "sme", 3) == 0 || strcmp(b->order, "smte") == 0);
    assert_string_equal(b->order + strlen(b->order) - 2, "te");
    assert_int_equal(b->mail_count, 2);
    assert_int_equal(b->timer_ends, 1);
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

static void timer_wakes_the_loop_and_not_early(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    int64_t begin = loop_now_ms(&b->loop);
    loop_timer_start(&b->loop, &b->timer, 50);
    assert_int_equal(loop_run(&b->loop), 0);
    assert_int_equal(b->timer_ends, 1);
    assert_true(loop_now_ms(&b->loop) >= begin + 50);
    assert_true(b->turn_ends <= 4); /* it slept */
    loop_timer_start(&b->loop, &b->timer, 1);
    loop_timer_stop(&b->loop, &b->timer);
    assert_false(timer_is_running(&b->timer));
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

static void loop_that_was_told_so_does_not_wait(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    b->again = 5;
    loop_again(&b->loop);
    for (int i = 0; i < 6; i++)
        assert_int_equal(loop_turn(&b->loop, true), 0); /* nothing would wake it */
    assert_int_equal(b->turn_ends, 6);
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

static void clocks_are_read_once_a_turn(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    int64_t before = clock_mono_ms(), wall_before = clock_wall_ms();
    assert_int_equal(loop_turn(&b->loop, false), 0);
    assert_true(loop_now_ms(&b->loop) >= before && loop_now_ms(&b->loop) <= clock_mono_ms());
    assert_true(loop_wall_ms(&b->loop) >= wall_before);
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

static void descriptor_that_cannot_be_waited_for_is_an_error(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    struct loop_source bad = { .ready = end_ready, .fd = -1 };
    assert_int_equal(loop_add(&b->loop, &bad, EPOLLIN), -EBADF);
    assert_false(loop_has(&bad));
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

/* ---- Threads -------------------------------------------------------------------------------------- */

#define LETTERS 5000

static void *post_letters(void *arg)
{
    struct bench *b = arg;
    struct letter *letters = calloc(LETTERS, sizeof(*letters));
    struct mailbag bag = { 0 };
    for (int i = 0; letters && i < LETTERS; i++) {
        letters[i].number = i;
        mailbag_add(&bag, &letters[i].mail);
        if (i % 7 == 0 || i + 1 == LETTERS)
            loop_post(&b->loop, &bag);
        if (i % 100 == 0)
            poke(&b->ends[i / 100 % 4]);
    }
    return letters;
}

static void mail_of_another_thread_wakes_the_loop(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    b->stop_at = LETTERS;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, post_letters, b), 0);
    assert_int_equal(loop_run(&b->loop), 0);
    void *letters;
    assert_int_equal(pthread_join(thread, &letters), 0);
    assert_int_equal(b->mail_count, LETTERS);
    free(letters);
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

/* The next one when the last one has been taken, so each finds the loop asleep, or about to be. */
static void *post_one_by_one(void *arg)
{
    struct bench *b = arg;
    for (int i = 0; i < b->stop_at; i++) {
        struct letter letter = { .number = i };
        loop_post_one(&b->loop, &letter.mail);
        while (sem_wait(b->taken) != 0)
            ;
    }
    return NULL;
}

static void each_mail_wakes_a_loop_that_has_nothing_else_to_do(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    sem_t taken;
    assert_int_equal(sem_init(&taken, 0, 0), 0);
    b->taken = &taken;
    b->stop_at = 1000;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, post_one_by_one, b), 0);
    assert_int_equal(loop_run(&b->loop), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(b->mail_count, 1000);
    sem_destroy(&taken);
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

static void *run_loop(void *arg)
{
    struct bench *b = arg;
    return loop_run(&b->loop) == 0 ? b : NULL;
}

static void loop_is_stopped_by_another_thread(void **state)
{
    (void)state;
    struct bench *b = bench_new();
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, run_loop, b), 0);
        loop_stop(&b->loop);
        void *result;
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, b);
    }
    for (size_t i = 0; i < ROWS(b->ends); i++)
        end_close(&b->ends[i]);
    bench_free(b);
}

TEST_SUITE("loop", cmocka_unit_test(ready_source_is_called_with_its_events),
           cmocka_unit_test(source_that_was_removed_in_the_same_turn_is_not_called),
           cmocka_unit_test(turn_goes_sources_mail_timers_end),
           cmocka_unit_test(timer_wakes_the_loop_and_not_early),
           cmocka_unit_test(loop_that_was_told_so_does_not_wait),
           cmocka_unit_test(clocks_are_read_once_a_turn),
           cmocka_unit_test(descriptor_that_cannot_be_waited_for_is_an_error),
           cmocka_unit_test(mail_of_another_thread_wakes_the_loop),
           cmocka_unit_test(each_mail_wakes_a_loop_that_has_nothing_else_to_do),
           cmocka_unit_test(loop_is_stopped_by_another_thread));
