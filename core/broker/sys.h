/* SPDX-License-Identifier: MIT */

/* The $SYS tree: the broker's counters as retained messages, by Mosquitto's names. The first worker's thread. */

#ifndef TOCSIN_BROKER_SYS_H
#define TOCSIN_BROKER_SYS_H

struct worker;
struct sys;

/* Called once a second: publishes what has changed when `sys_interval` has passed. */
void sys_publish(struct worker *worker);

void sys_free(struct sys *sys); /* NULL is allowed */

#endif
