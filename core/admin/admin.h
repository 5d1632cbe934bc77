/* SPDX-License-Identifier: MIT */

/*
 * The control plane: a thread that looks at the running program once a second, checks its accounts (conservation.h),
 * judges its health, and publishes the status, regularly and whenever the health changes. It also makes messages of dead
 * letters (letters.h).
 *
 * Main thread, except where it says any thread.
 */

#ifndef TOCSIN_ADMIN_ADMIN_H
#define TOCSIN_ADMIN_ADMIN_H

#include "admin/observation.h"
#include "admin/settings.h"
#include "router/delivery.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What it needs of the program. Called by its thread, and after its end by the main thread. */
struct admin_host {
    const char *node;
    void (*observe)(void *context, struct observation *out);
    int (*set_status)(void *context, const char *text, bool last); /* links_set_status() */
    int (*announce)(void *context, const char *topic, const void *payload, size_t len);
    void (*route)(void *context, struct message *message); /* with its reference */
    void (*tell)(void *context, const char *state);        /* notify_systemd() */
    /* A dead letter has been told that was not by an earlier run: keep_told(). NULL: nothing outlives a run. */
    void (*told)(void *context, uint64_t number);
    void *context;
};

struct admin;

/* Takes the topic and copies the rest of the settings; the host is copied. NULL when there is no memory. */
struct admin *admin_new(const struct admin_host *host, struct admin_settings *settings);
int admin_start(struct admin *admin);

/* After a reload: the interval. */
void admin_configure(struct admin *admin, const struct admin_settings *settings);

const char *admin_topic(const struct admin *admin);
bool admin_is_enabled(const struct admin *admin);

/* A delivery has become a dead letter. With `untold`, in an earlier run: it is its number, for told(). Any thread. Returns
 * false if it comes too late, after admin_stop(). */
bool admin_dead_letter(struct admin *admin, const struct delivery *delivery, const char *reason,
                       unsigned attempts, uint64_t untold);

/* Ends the thread; dead letters so far have been handed on. Later ones come too late, and are counted. */
void admin_stop(struct admin *admin);

/* The last status: stopped. After everything else has come to its end, but the links. */
void admin_say_stopped(struct admin *admin);

void admin_free(
    struct admin *admin); /* after admin_stop(), and nobody calls it any more; NULL is allowed */

#endif
