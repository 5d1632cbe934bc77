/* SPDX-License-Identifier: MIT */

/* Telling systemd how it goes (sd_notify(3)'s protocol). Does nothing when nobody asked. Any thread. */

#ifndef TOCSIN_DAEMON_NOTIFY_H
#define TOCSIN_DAEMON_NOTIFY_H

/* Sends `state`, such as "READY=1", to the socket in $NOTIFY_SOCKET. */
void notify_systemd(const char *state);

/* "RELOADING=1" with the time that Type=notify-reload wants. */
void notify_reloading(void);

#endif
