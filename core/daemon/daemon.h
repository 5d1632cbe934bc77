/* SPDX-License-Identifier: MIT */

/*
 * The running router: links, shards and services put together, and the signals that steer it.
 *
 *   SIGTERM, SIGINT   stop receiving, deliver what is under way (for at most `drain`), end; a second one
 *                     ends at once
 *   SIGHUP            read the configuration again, and let plugins open their files again
 *   SIGUSR1           log the counters
 */

#ifndef TOCSIN_DAEMON_DAEMON_H
#define TOCSIN_DAEMON_DAEMON_H

/* Runs until a signal ends it. Returns the exit status: 0 after a clean end; 1 when the configuration is
 * wrong (it is said on standard error) or the start failed; 2 when deliveries were left undone. */
int daemon_run(const char *config_path);

#endif
