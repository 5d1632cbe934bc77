/* SPDX-License-Identifier: MIT */

#include "loop/mailbox.h"

#include "base/container.h"

#include "../suite.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

struct letter {
    struct mail mail;
    unsigned from, number;
};

static unsigned number_of(const struct mail *mail)
{
    return CONTAINER_OF(mail, struct letter, mail)->number;
}

/* How often the taker was woken since the last call. */
static uint64_t wakes(const struct mailbox *box)
{
    uint64_t count = 0;
    return read(box->fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void mail_is_taken_in_the_order_of_posting(void **state)
{
    (void)state;
    struct mailbox box;
    assert_int_equal(mailbox_init(&box), 0);
    struct letter letters[10] = { 0 };
    struct mailbag bag = { 0 };
    assert_null(mailbox_take(&box));
    mailbox_post(&box, &bag);
    assert_null(mailbox_take(&box));

    for (unsigned i = 0; i < ROWS(letters); i++)
        letters[i].number = i;
    mailbox_post_one(&box, &letters[0].mail);
    for (size_t i = 1; i < 5; i++)
        mailbag_add(&bag, &letters[i].mail);
    assert_false(mailbag_is_empty(&bag));
    mailbox_post(&box, &bag);
    assert_true(mailbag_is_empty(&bag));
    mailbag_add(&bag, &letters[5].mail);
    mailbox_post(&box, &bag);
    mailbox_post_one(&box, &letters[6].mail);

    unsigned want = 0;
    for (struct mail *mail = mailbox_take(&box); mail; mail = mail->next)
        assert_int_equal(number_of(mail), want++);
    assert_int_equal(want, 7);
    assert_null(mailbox_take(&box));

    mailbox_post_one(&box, &letters[7].mail);
    struct mail *last = mailbox_take(&box);
    assert_int_equal(number_of(last), 7);
    assert_null(last->next);
    mailbox_release(&box);
}

static void only_a_taker_that_sleeps_is_woken_and_only_once(void **state)
{
    (void)state;
    struct mailbox box;
    assert_int_equal(mailbox_init(&box), 0);
    struct letter letters[4] = { 0 };
    mailbox_post_one(&box, &letters[0].mail);
    assert_int_equal(wakes(&box), 0);
    assert_false(mailbox_sleep(&box)); /* there is something */
    mailbox_post_one(&box, &letters[1].mail);
    assert_int_equal(wakes(&box), 0);
    assert_non_null(mailbox_take(&box));

    assert_true(mailbox_sleep(&box));
    assert_true(mailbox_sleep(&box)); /* the same again */
    assert_int_equal(wakes(&box), 0);
    mailbox_post_one(&box, &letters[2].mail);
    mailbox_post_one(&box, &letters[3].mail);
    assert_int_equal(wakes(&box), 1);
    struct mail *mail = mailbox_take(&box);
    assert_ptr_equal(mail, &letters[2].mail);
    assert_ptr_equal(mail->next, &letters[3].mail);
    assert_null(mail->next->next);

    assert_true(mailbox_sleep(&box)); /* woken by something else: */
    assert_null(mailbox_take(&box));
    mailbox_post_one(&box, &letters[0].mail); /* not asleep any more */
    assert_int_equal(wakes(&box), 0);
    assert_ptr_equal(mailbox_take(&box), &letters[0].mail);
    mailbox_release(&box);
}

/* ---- Threads -------------------------------------------------------------------------------------- */

#define POSTERS 4
#define LETTERS 20000

struct poster {
    pthread_t thread;
    struct mailbox *box;
    unsigned name;
    struct letter letters[LETTERS];
};

/* In bags of 1 to 16. */
static void *post_all(void *arg)
{
    struct poster *poster = arg;
    struct mailbag bag = { 0 };
    for (unsigned i = 0; i < LETTERS; i++) {
        poster->letters[i] = (struct letter){ .from = poster->name, .number = i };
        mailbag_add(&bag, &poster->letters[i].mail);
        if (i % 16 >= poster->name * 4 + i % 5 || i + 1 == LETTERS)
            mailbox_post(poster->box, &bag);
    }
    return NULL;
}

static void all_mail_of_many_threads_comes_in_order_of_each(void **state)
{
    (void)state;
    static struct poster posters[POSTERS];
    struct mailbox box;
    assert_int_equal(mailbox_init(&box), 0);
    for (unsigned i = 0; i < POSTERS; i++) {
        posters[i].box = &box;
        posters[i].name = i;
        assert_int_equal(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]), 0);
    }

    unsigned next[POSTERS] = { 0 }, taken = 0;
    uint64_t sleeps = 0, woken = 0;
    while (taken < POSTERS * LETTERS) {
        if (mailbox_sleep(&box)) {
            struct pollfd wake = { .fd = box.fd, .events = POLLIN };
            assert_int_equal(poll(&wake, 1, 60000), 1);
            sleeps++;
            woken += wakes(&box);
        }
        for (struct mail *mail = mailbox_take(&box), *after; mail; mail = after) {
            after = mail->next;
            struct letter *letter = CONTAINER_OF(mail, struct letter, mail);
            CHECK(letter->number == next[letter->from], "from %u: %u instead of %u", letter->from,
                  letter->number, next[letter->from]);
            next[letter->from]++;
            taken++;
            *letter = (struct letter){ 0 }; /* nobody else looks at it any more */
        }
    }
    for (unsigned i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_join(posters[i].thread, NULL), 0);
    assert_int_equal(woken, sleeps); /* each sleep ended with one wake-up */
    assert_int_equal(wakes(&box), 0);
    assert_null(mailbox_take(&box));
    mailbox_release(&box);
}

TEST_SUITE("mailbox", cmocka_unit_test(mail_is_taken_in_the_order_of_posting),
           cmocka_unit_test(only_a_taker_that_sleeps_is_woken_and_only_once),
           cmocka_unit_test(all_mail_of_many_threads_comes_in_order_of_each));
