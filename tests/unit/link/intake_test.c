/* SPDX-License-Identifier: MIT */

#include "link/intake.h"

#include "../suite.h"

#include <sys/eventfd.h>
#include <unistd.h>

#define COUNT 4

static struct message *messages[COUNT];

/* A list of COUNT messages of 100 bytes, that counts. */
static void add_messages(struct intake_connection *connection)
{
    static const char payload[100];
    for (size_t i = COUNT; i-- > 0;) {
        messages[i] = message_new("t", 1, payload, sizeof(payload), NULL);
        assert_non_null(messages[i]);
        messages[i]->next = i + 1 < COUNT ? messages[i + 1] : NULL;
    }
    intake_add(connection, messages[0], COUNT);
}

static void take(size_t i)
{
    message_release_hold(messages[i]);
    message_unref(messages[i]);
}

static bool woken(int fd)
{
    eventfd_t value;
    return eventfd_read(fd, &value) == 0;
}

static void the_last_message_taken_wakes_who_waits(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct intake *intake = intake_new(fd, COUNT, 1000000);
    struct intake_connection *connection = intake_connection_new(intake);
    assert_true(intake_all_taken(connection));
    assert_false(intake_wait_taken(connection));

    add_messages(connection);
    assert_false(intake_all_taken(connection));
    assert_true(intake_is_full(intake));
    assert_int_equal(intake_untaken(intake), COUNT);
    assert_true(intake_wait_taken(connection));
    take(0);
    take(2);
    take(1);
    assert_false(woken(fd));
    take(3);
    assert_true(woken(fd));
    assert_true(intake_all_taken(connection));
    assert_int_equal(intake_untaken(intake), 0);

    /* Nobody waits: nobody is woken. */
    add_messages(connection);
    for (size_t i = 0; i < COUNT; i++)
        take(i);
    assert_false(woken(fd));
    intake_connection_unref(connection);
    intake_unref(intake);
    close(fd);
}

static void half_the_bound_is_room(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct intake *intake = intake_new(fd, COUNT, 1000000);
    struct intake_connection *connection = intake_connection_new(intake);
    assert_false(intake_wait_room(connection));
    add_messages(connection);
    assert_true(intake_wait_room(connection));
    take(0);
    assert_false(woken(fd));
    take(1);
    assert_true(woken(fd));
    assert_false(intake_is_full(intake));
    take(2);
    take(3);
    assert_false(woken(fd));
    intake_connection_unref(connection);
    intake_unref(intake);
    close(fd);
}

static void bytes_are_bounded_but_one_message_is_allowed(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct intake *intake = intake_new(fd, 1000, 150);
    struct intake_connection *connection = intake_connection_new(intake);
    assert_false(intake_is_full(intake));
    add_messages(connection);
    assert_true(intake_is_full(intake));
    for (size_t i = 0; i < COUNT; i++)
        take(i);
    assert_false(intake_is_full(intake));
    intake_connection_unref(connection);
    intake_unref(intake);
    close(fd);
}

static void messages_of_an_earlier_connection_count_for_the_link_alone(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct intake *intake = intake_new(fd, COUNT, 1000000);
    struct intake_connection *first = intake_connection_new(intake);
    add_messages(first);
    intake_connection_unref(first);
    struct intake_connection *second = intake_connection_new(intake);
    assert_true(intake_all_taken(second));
    assert_true(intake_is_full(intake));
    intake_connection_unref(second);
    intake_unref(intake);
    close(fd);
    /* They outlive everything. */
    for (size_t i = 0; i < COUNT; i++)
        take(i);
}

static void a_message_that_was_refused_is_remembered(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct intake *intake = intake_new(fd, COUNT, 1000000);
    struct intake_connection *connection = intake_connection_new(intake);
    add_messages(connection);
    messages[1]->qos = 1;
    message_refuse(messages[0]); /* QoS 0: the broker waits for nothing */
    take(0);
    assert_false(intake_was_refused(connection));
    message_refuse(messages[1]);
    assert_false(intake_was_refused(connection));
    take(1);
    assert_true(intake_was_refused(connection));
    take(2);
    take(3);
    assert_true(intake_all_taken(connection));
    assert_true(intake_was_refused(connection));
    intake_connection_unref(connection);

    connection = intake_connection_new(intake);
    assert_false(intake_was_refused(connection));
    intake_connection_unref(connection);
    intake_unref(intake);
    close(fd);
}

TEST_SUITE("link intake", cmocka_unit_test(a_message_that_was_refused_is_remembered),
           cmocka_unit_test(the_last_message_taken_wakes_who_waits),
           cmocka_unit_test(half_the_bound_is_room),
           cmocka_unit_test(bytes_are_bounded_but_one_message_is_allowed),
           cmocka_unit_test(messages_of_an_earlier_connection_count_for_the_link_alone));
