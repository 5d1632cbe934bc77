/* SPDX-License-Identifier: MIT */

#include "link/intake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct intake {
    atomic_uint refs; /* of the link, and of each connection */
    int wake_fd;
    size_t max_messages, max_bytes;
    atomic_size_t messages, bytes;
};

enum waiting {
    WAIT_NONE,
    WAIT_TAKEN,
    WAIT_ROOM
};

struct intake_connection {
    struct intake *intake;
    atomic_size_t refs; /* one of the link, and one of each untaken message */
    atomic_size_t untaken;
    atomic_bool refused;
    atomic_int waiting; /* enum waiting */
};

struct intake *intake_new(int wake_fd, size_t max_messages, size_t max_bytes)
{
    struct intake *intake = malloc(sizeof(*intake));
    if (!intake)
        return NULL;
    *intake = (struct intake){ .max_messages = max_messages, .max_bytes = max_bytes };
    atomic_init(&intake->refs, 1);
    intake->wake_fd = fcntl(wake_fd, F_DUPFD_CLOEXEC, 0);
    if (intake->wake_fd < 0) {
        free(intake);
        return NULL;
    }
    return intake;
}

void intake_unref(struct intake *intake)
{
    if (intake && atomic_fetch_sub(&intake->refs, 1) == 1) {
        close(intake->wake_fd);
        free(intake);
    }
}

struct intake_connection *intake_connection_new(struct intake *intake)
{
    struct intake_connection *c = malloc(sizeof(*c));
    if (!c)
        return NULL;
    c->intake = intake;
    atomic_init(&c->refs, 1);
    atomic_init(&c->untaken, 0);
    atomic_init(&c->refused, false);
    atomic_init(&c->waiting, WAIT_NONE);
    atomic_fetch_add(&intake->refs, 1);
    return c;
}

void intake_connection_unref(struct intake_connection *c)
{
    if (c && atomic_fetch_sub(&c->refs, 1) == 1) {
        intake_unref(c->intake);
        free(c);
    }
}

/* The waiting thread is told at half the bound, so that it does not wake for each message. */
static bool has_room(const struct intake *intake)
{
    return atomic_load(&intake->messages) <= intake->max_messages / 2 &&
           atomic_load(&intake->bytes) <= intake->max_bytes / 2;
}

/* message_taken_fn. The counters change before `waiting` is read, and the waiting thread does it the
 * other way round: so one of the two sees the other. */
static void taken(struct message *message, void *context)
{
    struct intake_connection *c = context;
    struct intake *intake = c->intake;
    if (message->qos > 0 && atomic_load(&message->refused))
        atomic_store(&c->refused, true);
    atomic_fetch_sub(&intake->bytes, message_size(message));
    atomic_fetch_sub(&intake->messages, 1);
    bool all = atomic_fetch_sub(&c->untaken, 1) == 1;

    int waiting = atomic_load(&c->waiting);
    if ((waiting == WAIT_TAKEN && all) || (waiting == WAIT_ROOM && has_room(intake))) {
        if (atomic_compare_exchange_strong(&c->waiting, &waiting, WAIT_NONE)) {
            int rc = eventfd_write(intake->wake_fd, 1);
            (void)rc; /* it fails only when it is full, and then the thread is awake */
        }
    }
    intake_connection_unref(c);
}

void intake_add(struct intake_connection *c, struct message *first, size_t n)
{
    size_t bytes = 0;
    for (struct message *m = first; m; m = m->next) {
        m->taken = taken;
        m->taken_context = c;
        bytes += message_size(m);
    }
    atomic_fetch_add(&c->refs, n);
    atomic_fetch_add(&c->untaken, n);
    atomic_fetch_add(&c->intake->messages, n);
    atomic_fetch_add(&c->intake->bytes, bytes);
}

bool intake_all_taken(const struct intake_connection *c)
{
    return atomic_load(&c->untaken) == 0;
}

bool intake_was_refused(const struct intake_connection *c)
{
    return atomic_load(&c->refused);
}

bool intake_is_full(const struct intake *intake)
{
    size_t messages = atomic_load(&intake->messages);
    return messages >= intake->max_messages ||
           (messages > 0 && atomic_load(&intake->bytes) >= intake->max_bytes);
}

uint64_t intake_untaken(const struct intake *intake)
{
    return atomic_load(&intake->messages);
}

bool intake_wait_taken(struct intake_connection *c)
{
    atomic_store(&c->waiting, WAIT_TAKEN);
    if (!intake_all_taken(c))
        return true;
    atomic_store(&c->waiting, WAIT_NONE);
    return false;
}

bool intake_wait_room(struct intake_connection *c)
{
    atomic_store(&c->waiting, WAIT_ROOM);
    if (!has_room(c->intake))
        return true;
    atomic_store(&c->waiting, WAIT_NONE);
    return false;
}
