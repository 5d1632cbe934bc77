/* SPDX-License-Identifier: MIT */

#include "net/peer.h"

#include "net/listener.h"

#include "../suite.h"
#include "clients.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static struct listener *open_at(const struct listener_options *options)
{
    struct buf why = BUF_INIT(1000);
    struct listener *listener;
    CHECK(listener_open(options, &listener, &why) == 0, "%s", buf_str(&why));
    buf_release(&why);
    return listener;
}

static int accept_one(int listening)
{
    client_await(listening);
    int fd = accept(listening, NULL, NULL);
    assert_true(fd >= 0);
    return fd;
}

static uint16_t own_port(int fd)
{
    struct sockaddr_in6 own = { 0 };
    socklen_t len = sizeof(own);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&own, &len), 0);
    return ntohs(own.sin6_port); /* at the same place as IPv4's */
}

static void check_peer(const char *before, int client, int accepted)
{
    char want[100];
    snprintf(want, sizeof(want), "%s%u", before, own_port(client));
    assert_string_equal(peer_name(NULL, accepted).text, want);
}

static void peer_is_named_by_its_address(void **state)
{
    (void)state;
    struct listener *listener = open_at(&(struct listener_options){ .bind = "127.0.0.1" });
    int client = client_connect(listener_port(listener)), accepted = accept_one(listener->fds[0]);
    check_peer("127.0.0.1:", client, accepted);

    /* Also after a reset, which is when one wants to know. */
    const struct linger at_once = { .l_onoff = 1 };
    assert_int_equal(setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    char want[100];
    snprintf(want, sizeof(want), "127.0.0.1:%u", own_port(client));
    close(client);
    client_await(accepted);
    assert_string_equal(peer_name(NULL, accepted).text, want);
    close(accepted);
    listener_close(listener);
}

static void ipv6_peer_is_named_in_brackets(void **state)
{
    (void)state;
    /* Without IPV6_V6ONLY, so that IPv4 comes by it as well. */
    const struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
    int listening = socket(AF_INET6, SOCK_STREAM, 0), off = 0;
    if (listening < 0)
        return; /* a host without IPv6 has no such peers */
    assert_int_equal(setsockopt(listening, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)), 0);
    if (bind(listening, (const struct sockaddr *)&any, sizeof(any)) == 0) {
        assert_int_equal(listen(listening, 5), 0);
        int client = client_ipv6(own_port(listening)), accepted = accept_one(listening);
        check_peer("[::1]:", client, accepted);
        close(client);
        close(accepted);

        client = client_connect(own_port(listening));
        accepted = accept_one(listening);
        check_peer("127.0.0.1:", client, accepted);
        close(client);
        close(accepted);
    }
    close(listening);
}

static void unix_peer_is_named_by_path_and_user(void **state)
{
    (void)state;
    char folder[] = "/tmp/tocsin-net-XXXXXX", path[60], want[100];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/socket", folder);
    struct listener *listener = open_at(&(struct listener_options){ .unix_path = path });
    int client = client_unix(path), accepted = accept_one(listener->fds[0]);
    snprintf(want, sizeof(want), "unix:%s uid %u", path, (unsigned)getuid());
    assert_string_equal(peer_name(NULL, accepted).text, want);
    close(client);
    assert_string_equal(peer_name(NULL, accepted).text, want);
    close(accepted);
    listener_close(listener);
    assert_int_equal(rmdir(folder), 0);
}

static const char *proxied(const struct transport *transport)
{
    return transport ? "198.51.100.7:4711" : NULL;
}

static void transport_may_know_better(void **state)
{
    (void)state;
    static const struct transport_ops knows = { .name = "proxy", .peer = proxied }, silent = { 0 };
    const struct transport a = { &knows }, b = { &silent };
    assert_string_equal(peer_name(&a, -1).text, "198.51.100.7:4711");
    assert_string_equal(peer_name(&b, -1).text, "unknown");
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    assert_string_equal(peer_name(NULL, pipes[0]).text, "unknown");
    close(pipes[0]);
    close(pipes[1]);
}

TEST_SUITE("peer", cmocka_unit_test(peer_is_named_by_its_address),
           cmocka_unit_test(ipv6_peer_is_named_in_brackets),
           cmocka_unit_test(unix_peer_is_named_by_path_and_user),
           cmocka_unit_test(transport_may_know_better));
