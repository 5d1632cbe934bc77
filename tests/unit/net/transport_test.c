/* SPDX-License-Identifier: MIT */

#include "net/transport.h"

#include "base/container.h"

#include "../suite.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void make_pair(int pair[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

static void plain_socket_is_read_and_written(void **state)
{
    (void)state;
    int pair[2];
    make_pair(pair);
    char got[100] = "";
    assert_int_equal(transport_read(NULL, pair[0], got, sizeof(got)), -EAGAIN);
    const struct iovec parts[] = { { "one ", 4 }, { "", 0 }, { "two", 3 } };
    assert_int_equal(transport_writev(NULL, pair[1], parts, 3), 7);
    assert_int_equal(transport_read(NULL, pair[0], got, 5), 5);
    assert_int_equal(transport_read(NULL, pair[0], got + 5, sizeof(got) - 5), 2);
    assert_string_equal(got, "one two");
    assert_int_equal(transport_wants(NULL), 0);
    assert_false(transport_has_more(NULL));
    assert_null(transport_certificate_name(NULL));
    transport_close(NULL, pair[0]);
    assert_int_equal(fcntl(pair[0], F_GETFD), -1);
    close(pair[1]);
}

static void full_socket_takes_a_part_and_then_nothing(void **state)
{
    (void)state;
    static char big[100000];
    int pair[2];
    make_pair(pair);
    const struct iovec part = { big, sizeof(big) };
    ssize_t rc, sum = 0;
    while ((rc = transport_writev(NULL, pair[1], &part, 1)) > 0)
        sum += rc;
    assert_int_equal(rc, -EAGAIN);
    while ((rc = transport_read(NULL, pair[0], big, sizeof(big))) > 0)
        sum -= rc;
    assert_int_equal(rc, -EAGAIN);
    assert_int_equal(sum, 0);
    close(pair[0]);
    close(pair[1]);
}

static void peer_that_is_gone_is_an_end_or_an_error_and_no_signal(void **state)
{
    (void)state;
    int pair[2];
    make_pair(pair);
    close(pair[1]);
    char byte;
    assert_int_equal(transport_read(NULL, pair[0], &byte, 1), 0);
    const struct iovec part = { "x", 1 };
    assert_int_equal(transport_writev(NULL, pair[0], &part, 1), -EPIPE);
    close(pair[0]);
    assert_int_equal(transport_read(NULL, -1, &byte, 1), -EBADF);
    assert_int_equal(transport_writev(NULL, -1, &part, 1), -EBADF);
}

/* One that turns upper case into lower case and back. */
struct lower {
    struct transport transport;
    int closed;
};

static ssize_t lower_read(struct transport *transport, int fd, void *to, size_t len)
{
    assert_non_null(transport);
    ssize_t got = transport_plain_read(fd, to, len);
    for (ssize_t i = 0; i < got; i++)
        ((char *)to)[i] |= ' ';
    return got;
}

static ssize_t lower_writev(struct transport *transport, int fd, const struct iovec *parts,
                            int count)
{
    assert_non_null(transport);
    return transport_plain_writev(fd, parts, count);
}

static uint32_t lower_wants(const struct transport *transport)
{
    return transport ? EPOLLOUT : 0;
}

static bool lower_has_more(const struct transport *transport)
{
    return transport != NULL;
}

static void lower_close(struct transport *transport, int fd)
{
    assert_true(fcntl(fd, F_GETFD) >= 0); /* it may still say goodbye */
    CONTAINER_OF(transport, struct lower, transport)->closed++;
}

static const char *lower_certificate_name(const struct transport *transport)
{
    return transport ? "attic" : NULL;
}

static const struct transport_ops lower_ops = {
    .name = "lower",
    .read = lower_read,
    .writev = lower_writev,
    .wants = lower_wants,
    .has_more = lower_has_more,
    .close = lower_close,
    .certificate_name = lower_certificate_name,
};

static void transport_is_asked_where_there_is_one(void **state)
{
    (void)state;
    struct lower lower = { .transport.ops = &lower_ops };
    int pair[2];
    make_pair(pair);
    const struct iovec part = { "ABC", 3 };
    assert_int_equal(transport_writev(&lower.transport, pair[1], &part, 1), 3);
    char got[4] = "";
    assert_int_equal(transport_read(&lower.transport, pair[0], got, 3), 3);
    assert_string_equal(got, "abc");
    assert_int_equal(transport_wants(&lower.transport), EPOLLOUT);
    assert_true(transport_has_more(&lower.transport));
    assert_string_equal(transport_certificate_name(&lower.transport), "attic");
    transport_close(&lower.transport, pair[0]);
    assert_int_equal(lower.closed, 1);
    assert_int_equal(fcntl(pair[0], F_GETFD), -1);
    close(pair[1]);
}

TEST_SUITE("transport", cmocka_unit_test(plain_socket_is_read_and_written),
           cmocka_unit_test(full_socket_takes_a_part_and_then_nothing),
           cmocka_unit_test(peer_that_is_gone_is_an_end_or_an_error_and_no_signal),
           cmocka_unit_test(transport_is_asked_where_there_is_one));
