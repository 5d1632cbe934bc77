/* SPDX-License-Identifier: MIT */

/* A store with what the broker keeps in it: ops go in, and what is read back comes out as text. */

#ifndef TOCSIN_TESTS_BROKER_DURABLE_WORLD_H
#define TOCSIN_TESTS_BROKER_DURABLE_WORLD_H

#include "../store/temporary.h"
#include "../suite.h"

#include "broker/durable_op.h"
#include "broker/worker.h"

struct durable_world {
    struct temporary files;
    struct store *store;
    struct broker broker; /* only its clock */
    struct durable_clock clock;
    uint64_t last, unreadable; /* of the last world_read() */
    uint32_t expires;          /* of the last message that it met */
    size_t flights, queued, rest, retained;
    bool twice; /* each op is carried out, rolled back, and carried out again */
};

/* For suites: the world is the state. */
int world_set_up(void **state);
int world_tear_down(void **state);

/* Carries ops out and commits them together. */
void world_apply(struct durable_world *w, struct durable_op *ops, size_t count);

/* The same with `failures` groups before that are rolled back. */
void world_apply_late(struct durable_world *w, struct durable_op *ops, size_t count, int failures);

void world_reopen(struct durable_world *w);

/* What is on disk, a line for each thing; to be freed. */
char *world_read(struct durable_world *w);

/* Fails unless that is `wanted`. */
void world_expect(struct durable_world *w, const char *wanted);

/* The one number that a query gives; and a change behind everybody's back. */
int64_t world_number(const struct durable_world *w, const char *sql);
void world_run(const struct durable_world *w, const char *sql);

/* What ops are made of; to be unref'd. */
struct publication *publication_text(const char *topic, const char *payload);
struct kept *kept_of(uint64_t number, uint64_t message);

/* ---- Ops, each committed on its own ---- */

void session_op(struct durable_world *w, uint64_t number, const char *id);
void simple_op(struct durable_world *w, enum durable_kind kind, uint64_t session,
               uint16_t packet_id);
void subscription_op(struct durable_world *w, enum durable_kind kind, uint64_t session,
                     const char *share, const char *filter, uint32_t id, uint8_t options);
void message_op(struct durable_world *w, enum durable_kind kind, uint64_t session,
                struct kept *kept, struct publication *publication, uint16_t packet_id);

/* Queues a message of topic "t" that nobody holds in memory, and ends one. */
void world_put(struct durable_world *w, uint64_t session, uint64_t number, uint64_t message,
               const char *payload);
void world_land(struct durable_world *w, uint64_t session, uint64_t number, uint64_t message);

/* How many messages have rows. */
int64_t world_messages(const struct durable_world *w);

#endif
