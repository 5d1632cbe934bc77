/* SPDX-License-Identifier: MIT */

#include "net/listener.h"

#include "../suite.h"
#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct listener *open_or_fail(const struct listener_options *options)
{
    struct buf why = BUF_INIT(1000);
    struct listener *listener;
    int rc = listener_open(options, &listener, &why);
    CHECK(rc == 0 && why.len == 0, "%d: %s", rc, buf_str(&why));
    buf_release(&why);
    return listener;
}

/* Expects an error whose words contain all of `words`, separated by '|'. */
static void refuse(const struct listener_options *options, int error, const char *words)
{
    struct buf why = BUF_INIT(1000);
    buf_add_str(&why, "left over");
    struct listener *listener = (struct listener *)&why;
    int rc = listener_open(options, &listener, &why);
    assert_null(listener);
    CHECK(rc == error, "%d instead of %d: %s", rc, error, buf_str(&why));
    char all[500];
    snprintf(all, sizeof(all), "%s", words);
    for (char *at = all, *word; (word = strsep(&at, "|")) != NULL;)
        CHECK(strstr(buf_str(&why), word), "no \"%s\" in: %s", word, buf_str(&why));
    assert_null(strstr(buf_str(&why), "left over"));
    buf_release(&why);
}

static bool has_ipv6(void)
{
    const struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool works = fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
    close(fd);
    return works;
}

static void check_answers(int client, bool wanted)
{
    CHECK(wanted ? client >= 0 : client == -ECONNREFUSED, "%s", strerror(client < 0 ? -client : 0));
    if (client >= 0)
        close(client);
}

static void addresses_follow_from_the_options(void **state)
{
    (void)state;
    static const struct {
        struct listener_options options;
        bool ipv4, ipv6;
        const char *name; /* the port follows */
    } rows[] = {
        { { 0 }, true, true, "port " },
        { { .bind = "", .interface = "" }, true, true, "port " },
        { { .domain = LISTENER_IPV4 }, true, false, "port " },
        { { .domain = LISTENER_IPV6 }, false, true, "port " },
        { { .bind = "127.0.0.1" }, true, false, "127.0.0.1:" },
        { { .bind = "::1" }, false, true, "[::1]:" },
        { { .bind = "localhost", .domain = LISTENER_IPV4 }, true, false, "localhost:" },
        { { .interface = "lo" }, true, true, "lo:" },
        { { .interface = "lo", .domain = LISTENER_IPV4 }, true, false, "lo:" },
    };
    bool ipv6 = has_ipv6();
    for (size_t i = 0; i < ROWS(rows); i++) {
        if (!ipv6 && !rows[i].ipv4)
            continue;
        struct listener *listener = open_or_fail(&rows[i].options);
        uint16_t port = listener_port(listener);
        assert_true(port != 0 && !listener->is_unix);
        CHECK(listener->count >= (size_t)rows[i].ipv4 + (ipv6 && rows[i].ipv6), "row %zu", i);
        check_answers(client_ipv4(port), rows[i].ipv4);
        if (ipv6)
            check_answers(client_ipv6(port), rows[i].ipv6);
        char name[100];
        snprintf(name, sizeof(name), "%s%u", rows[i].name, port);
        assert_string_equal(listener->name, name);
        for (size_t k = 0; k < listener->count; k++) {
            assert_true(fcntl(listener->fds[k], F_GETFD) & FD_CLOEXEC);
            assert_true(fcntl(listener->fds[k], F_GETFL) & O_NONBLOCK);
        }
        listener_close(listener);
        check_answers(client_ipv4(port), false);
    }
}

static void port_in_use_is_said_with_its_address(void **state)
{
    (void)state;
    struct listener *first = open_or_fail(&(struct listener_options){ .bind = "127.0.0.1" });
    uint16_t port = listener_port(first);
    char words[200];
    snprintf(words, sizeof(words),
             "listening on 127.0.0.1:%u: |in use|another program|another port", port);
    refuse(&(struct listener_options){ .bind = "127.0.0.1", .port = port }, -EADDRINUSE, words);
    snprintf(words, sizeof(words), "listening on 0.0.0.0:%u: |in use", port);
    refuse(&(struct listener_options){ .port = port }, -EADDRINUSE, words);

    /* A connection that lingers is no obstacle to starting anew. */
    int client = client_connect(port), accepted = accept(first->fds[0], NULL, NULL);
    assert_true(accepted >= 0);
    close(accepted);
    listener_close(first);
    listener_close(open_or_fail(&(struct listener_options){ .bind = "127.0.0.1", .port = port }));
    close(client);
    listener_close(NULL);
}

static void what_cannot_be_listened_on_is_said(void **state)
{
    (void)state;
    static const struct {
        struct listener_options options;
        int error;
        const char *words;
    } rows[] = {
        { { .bind = "192.0.2.1", .port = 1 },
          -EADDRNOTAVAIL,
          "192.0.2.1:1|no interface of this host has that address" },
        { { .bind = "not a host" }, -EINVAL, "\"not a host\"|address or host name" },
        { { .bind = "127.0.0.1", .domain = LISTENER_IPV6 },
          -EADDRNOTAVAIL,
          "\"127.0.0.1\"|no IPv6 address|socket_domain" },
        { { .bind = "::1", .domain = LISTENER_IPV4 }, -EADDRNOTAVAIL, "no IPv4 address" },
        { { .interface = "no0" }, -ENODEV, "\"no0\"|no interface of that name" },
        { { .bind = "127.0.0.1", .interface = "lo", .port = 7 },
          -EINVAL,
          "port 7|\"127.0.0.1\"|\"lo\"|exclude" },
        { { .unix_path = "" }, -ENAMETOOLONG, "1 to 107 bytes" },
        { { .unix_path = "/tmp/0123456789012345678901234567890123456789012345678901234567890123456"
                         "78901234567890123456789012345678901234" },
          -ENAMETOOLONG,
          "1 to 107 bytes" },
        { { .unix_path = "/nowhere/at/all" }, -ENOENT, "unix:/nowhere/at/all" },
    };
    for (size_t i = 0; i < ROWS(rows); i++)
        refuse(&rows[i].options, rows[i].error, rows[i].words);
}

/* ---- Unix sockets ------------------------------------------------------------------------------- */

/* A folder of the test's own, and a path in it. */
struct folder {
    char folder[40], path[60];
};

static void folder_make(struct folder *folder)
{
    snprintf(folder->folder, sizeof(folder->folder), "/tmp/tocsin-net-XXXXXX");
    assert_non_null(mkdtemp(folder->folder));
    snprintf(folder->path, sizeof(folder->path), "%s/socket", folder->folder);
}

/* It must be empty by now. */
static void folder_remove(const struct folder *folder)
{
    assert_int_equal(rmdir(folder->folder), 0);
}

static void unix_socket_has_its_mode_and_goes_with_its_listener(void **state)
{
    (void)state;
    struct folder folder;
    folder_make(&folder);
    static const unsigned modes[] = { 0600, 0660, 0777 };
    for (size_t i = 0; i < ROWS(modes); i++) {
        struct listener *listener = open_or_fail(
            &(struct listener_options){ .unix_path = folder.path, .unix_mode = modes[i] });
        struct stat made;
        assert_int_equal(stat(folder.path, &made), 0);
        assert_int_equal(made.st_mode & 0777, modes[i]);
        assert_true(listener->is_unix && listener_port(listener) == 0);
        assert_string_equal(listener->name + strlen("unix:"), folder.path);
        check_answers(client_unix(folder.path), true);
        listener_close(listener);
        assert_int_equal(access(folder.path, F_OK), -1);
    }
    folder_remove(&folder);
}

static void socket_that_was_left_behind_is_replaced(void **state)
{
    (void)state;
    struct folder folder;
    folder_make(&folder);
    const struct listener_options options = { .unix_path = folder.path };
    struct listener *first = open_or_fail(&options);
    char aside[80];
    snprintf(aside, sizeof(aside), "%s.aside", folder.path);
    assert_int_equal(link(folder.path, aside), 0);
    listener_close(first); /* as if it had been killed: */
    assert_int_equal(rename(aside, folder.path), 0);
    check_answers(client_unix(folder.path), false);

    struct listener *second = open_or_fail(&options);
    check_answers(client_unix(folder.path), true);
    listener_close(second);
    folder_remove(&folder);
}

static void socket_that_somebody_answers_on_is_kept(void **state)
{
    (void)state;
    struct folder folder;
    folder_make(&folder);
    const struct listener_options options = { .unix_path = folder.path, .backlog = 1 };
    struct listener *first = open_or_fail(&options);
    refuse(&options, -EADDRINUSE, "another program listens there|another path");

    /* Also when it is too busy to answer: with a backlog of 1, two connections may wait. One is that by which
     * the first attempt found out. */
    int waiting = client_unix(folder.path);
    assert_true(waiting >= 0);
    refuse(&options, -EADDRINUSE, "another program listens there|another path");
    close(waiting);
    for (int i = 0; i < 2; i++)
        close(accept(first->fds[0], NULL, NULL));
    check_answers(client_unix(folder.path), true);
    listener_close(first);
    folder_remove(&folder);
}

static void file_that_is_no_socket_is_kept(void **state)
{
    (void)state;
    struct folder folder;
    folder_make(&folder);
    int fd = open(folder.path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    refuse(&(struct listener_options){ .unix_path = folder.path }, -EEXIST, "no socket|remove it");
    assert_int_equal(unlink(folder.path), 0);
    folder_remove(&folder);
}

static void socket_of_another_one_is_not_removed(void **state)
{
    (void)state;
    struct folder folder;
    folder_make(&folder);
    const struct listener_options options = { .unix_path = folder.path };
    struct listener *first = open_or_fail(&options);
    assert_int_equal(unlink(folder.path), 0);
    struct listener *second = open_or_fail(&options);
    listener_close(first);
    check_answers(client_unix(folder.path), true);
    listener_close(second);
    folder_remove(&folder);
}

TEST_SUITE("listener", cmocka_unit_test(addresses_follow_from_the_options),
           cmocka_unit_test(port_in_use_is_said_with_its_address),
           cmocka_unit_test(what_cannot_be_listened_on_is_said),
           cmocka_unit_test(unix_socket_has_its_mode_and_goes_with_its_listener),
           cmocka_unit_test(socket_that_was_left_behind_is_replaced),
           cmocka_unit_test(socket_that_somebody_answers_on_is_kept),
           cmocka_unit_test(file_that_is_no_socket_is_kept),
           cmocka_unit_test(socket_of_another_one_is_not_removed));
