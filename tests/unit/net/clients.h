/* SPDX-License-Identifier: MIT */

/* Sockets on the clients' side of a listener under test. */

#ifndef TOCSIN_TESTS_NET_CLIENTS_H
#define TOCSIN_TESTS_NET_CLIENTS_H

#include <stdint.h>

/* Connects and returns the socket, or a negative errno value. */
int client_ipv4(uint16_t port);
int client_ipv6(uint16_t port);
int client_unix(const char *path);

/* The same, of which the test fails if it does not work. */
int client_connect(uint16_t port);

/* Waits until a nonblocking socket has something to read. */
void client_await(int fd);

#endif
