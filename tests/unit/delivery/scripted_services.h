/* SPDX-License-Identifier: MIT */

/*
 * Whole services with real threads for tests, and the plugin of tests/plugin/scripted.c under control:
 * what its calls have come to, and what they shall answer.
 */

#ifndef TOCSIN_TESTS_SCRIPTED_SERVICES_H
#define TOCSIN_TESTS_SCRIPTED_SERVICES_H

#include "delivery/services.h"

#include "../suite.h"

#include <pthread.h>

#define SENT_MAX 20000

/* What the plugin's calls have come to, and what they shall answer. All under the lock. */
struct scripted_plugin {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char log[SENT_MAX][24]; /* "target text" of what was sent, in order */
    size_t published;
    size_t sent, calls, blocked, opened, closed, reopened, taken;
    char failing[24];    /* the text that is to be retried, "*" for all */
    char failing_on[24]; /* the target that retries all */
    size_t fail_times;   /* how often */
    char hanging[24];    /* the text at which the plugin hangs while `gate` is shut */
    bool gate_shut;
    size_t read_after; /* bytes read from messages after the gate was opened */
    int64_t slow_ms;   /* how long each delivery takes */
    size_t open_fails; /* how often open() fails */
    const char *word;  /* of the last delivery's target */
    int64_t mood;      /* of the last opened service */
};
extern struct scripted_plugin plugin;

/* What the services are made with. */
extern const char *const scripted_links[2]; /* "home", "garden" */
extern struct services_host scripted_host;

/* Short waits between attempts. */
#define QUICK "retry = { initial = \"1ms\"; max = \"5ms\"; };"

/* Before and after each test. */
int set_up(void **state);
int tear_down(void **state);
#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, set_up, tear_down)

/* Services from what stands in the group `services`. */
struct services *make(const char *text, struct services *previous);
struct target *target(const struct services *services, const char *service, const char *name);

/* A delivery whose message still has the hold that it was made with. */
struct delivery *delivery(struct target *t, const char *topic, const char *text, uint8_t qos);

/* Submits one, and then lets go of the message, as the engine does. */
void submit(struct target *t, const char *topic, const char *text, uint8_t qos);

/* Shuts or opens the gate at which the plugin hangs; says what is to be retried, and how often. */
void set_gate(bool shut);
void set_failing(const char *text, const char *target, size_t times);

/* Awaits that a counter of `plugin` reaches a number; reads one. */
void await(const size_t *counter, size_t number, const char *what);
size_t now(const size_t *counter);

/* Polls a target's counters, since nobody is told of them. */
void await_stats(struct target *t, bool (*enough)(const struct target_stats *stats),
                 const char *what);
bool all_done(const struct target_stats *stats);

#endif
