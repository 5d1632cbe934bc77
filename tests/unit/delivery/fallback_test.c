/* SPDX-License-Identifier: MIT */

/* From a target on to the next one: in the queue, and in whole services. */

#include "queue_bench.h"
#include "scripted_services.h"

#include <stdio.h>

/* ---- The queue ---- */

static struct target_stats stats_of(const struct queue_target *t)
{
    struct target_stats stats;
    queue_target_stats(t, &stats);
    return stats;
}

static bool is_balanced(const struct target_stats *stats)
{
    return target_stats_difference(stats) == 0;
}

/* For `a`, and then for `b`. */
static enum queue_place submit_first_of(struct bench *b, const char *topic, const char *text,
                                        uint8_t qos)
{
    struct message *m = message_new(topic, strlen(topic), text, strlen(text), NULL);
    m->qos = qos;
    struct delivery_parts parts = { .target = &b->names, .message = m, .route = "r" };
    struct delivery *d = delivery_new(&parts);
    parts.is_fallback = true;
    delivery_add_fallback(d, delivery_new(&parts));
    size_t worker;
    enum queue_place place = queue_submit(b->queue, b->a, d, b->now, &worker);
    if (place == QUEUE_DROPPED)
        delivery_free(d);
    message_release_hold(m);
    message_unref(m);
    return place;
}

/* Does what a service does with those that move. Returns how many there were. */
static size_t move_all(struct bench *b)
{
    size_t n = 0, worker;
    struct delivery *list = queue_moving(b->queue, b->now);
    for (; list; n++) {
        struct delivery *d = list;
        list = d->next;
        struct delivery *next = d->fallback;
        delivery_borrow(next);
        next->moved = true;
        next->holding = d->holding;
        d->holding = false;
        queue_submit(b->queue, b->b, next, b->now, &worker);
        delivery_free(d);
    }
    assert_false(queue_has_moving(b->queue));
    return n;
}

static void what_is_rejected_or_given_up_goes_on_to_its_fallback(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_attempts = 2;
    bench_init(&b, 1, &rules);
    submit_first_of(&b, "x", "1", 1);
    submit_first_of(&b, "y", "2", 1);
    submit_first_of(&b, "z", "3", 1);
    char id[40];
    TAKEN(&b, "1 2 3");
    memcpy(id, b.batch[0]->id, sizeof(id));
    enum queue_fate *fates = bench_settle(&b, "xsr");
    assert_int_equal(fates[0], QUEUE_MOVING);
    assert_int_equal(fates[1], QUEUE_SENT);
    assert_int_equal(fates[2], QUEUE_RETRYING);
    assert_true(queue_has_moving(b.queue));
    assert_int_equal(move_all(&b), 1);
    TAKEN(&b, "1");
    assert_string_equal(b.batch[0]->view.id, id); /* it is the same delivery */
    bench_settle(&b, "s");
    assert_string_equal(bench_take_next(&b), "3");
    assert_int_equal(bench_settle(&b, "r")[0], QUEUE_MOVING); /* given up */
    assert_int_equal(move_all(&b), 1);
    assert_string_equal(bench_take_next(&b), "3");
    assert_int_equal(b.batch[0]->attempts, 0);                  /* it begins anew */
    assert_int_equal(bench_settle(&b, "x")[0], QUEUE_REJECTED); /* the last one */

    struct target_stats of_a = stats_of(b.a), of_b = stats_of(b.b);
    assert_true(is_balanced(&of_a) && is_balanced(&of_b));
    assert_int_equal(of_a.created, 3);
    assert_int_equal(of_a.moved_out, 2);
    assert_int_equal(of_a.rejected + of_a.given_up, 0);
    assert_int_equal(of_b.created, 0);
    assert_int_equal(of_b.moved_in, 2);
    assert_int_equal(of_b.rejected, 1);
    bench_release(&b);
}

static void nothing_waits_at_an_open_breaker_that_has_a_fallback(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, 1, &RULES);
    submit_first_of(&b, "x", "1", 1);
    submit_first_of(&b, "x", "2", 1);
    submit_first_of(&b, "y", "3", 1);
    for (int i = 0; i < 3; i++) {
        assert_false(queue_has_moving(b.queue));
        bench_take_next(&b);
        bench_settle(&b, "r");
    }
    assert_int_equal(stats_of(b.a).breaker, BREAKER_OPEN);
    assert_int_equal(move_all(&b), 3);
    assert_int_equal(submit_first_of(&b, "x", "4", 1), QUEUE_PASSED); /* also what comes later */
    assert_int_equal(move_all(&b), 1);
    const char *got = bench_take(&b);
    CHECK(strstr(got, "1") < strstr(got, "2") && strstr(got, "2") < strstr(got, "4"), "%s", got);
    assert_int_equal(b.n, 4);
    bench_settle(&b, "ssss");

    /* When its time is over, the next one that comes is the probe. */
    b.now += 1000;
    assert_int_equal(submit_first_of(&b, "y", "5", 1), QUEUE_PLACED);
    TAKEN(&b, "5");
    submit_first_of(&b, "y", "6", 1); /* waits for what becomes of it */
    assert_int_equal(move_all(&b), 0);
    bench_settle(&b, "s");
    assert_false(queue_has_moving(b.queue));
    assert_int_equal(stats_of(b.a).breaker, BREAKER_CLOSED);
    TAKEN(&b, "6");
    bench_settle(&b, "s");
    struct target_stats of_a = stats_of(b.a), of_b = stats_of(b.b);
    assert_true(is_balanced(&of_a) && is_balanced(&of_b));
    assert_int_equal(of_a.waiting + of_b.waiting, 0);
    assert_int_equal(of_a.sent, 2);
    assert_int_equal(of_b.sent, 4);
    bench_release(&b);
}

static void a_hold_goes_along(void **state)
{
    (void)state;
    struct bench b;
    struct queue_rules rules = RULES;
    rules.max_messages = 1;
    bench_init(&b, 1, &rules);
    bench_submit(&b, b.b, "x", "full");
    bench_submit(&b, b.a, "x", "full");
    struct message *m = message_new("y", 1, "1", 1, NULL);
    m->qos = 1;
    struct delivery_parts parts = { .target = &b.names, .message = m, .route = "r" };
    struct delivery *d = delivery_new(&parts);
    parts.is_fallback = true;
    delivery_add_fallback(d, delivery_new(&parts));
    size_t worker;
    assert_int_equal(queue_submit(b.queue, b.a, d, b.now, &worker), QUEUE_HELD);
    message_release_hold(m);
    bench_take(&b);
    assert_int_equal(b.n, 3);
    char verdicts[4] = "sss";
    for (size_t i = 0; i < 3; i++)
        if (b.batch[i]->view.text[0] == '1')
            verdicts[i] = 'x';
        else if (b.batch[i]->queue_target == b.b)
            verdicts[i] = '.';
    bench_settle(&b, verdicts);
    move_all(&b);
    assert_int_equal(stats_of(b.a).held, 0);
    if (stats_of(b.b).waiting == 2)
        assert_int_equal(stats_of(b.b).held, 1);
    assert_int_equal(atomic_load(&m->holds), stats_of(b.b).held);
    message_unref(m);
    bench_release(&b);
}

/* ---- Services ---- */

static struct delivery *first_of(const struct services *services, const char *const *targets,
                                 const char *topic, const char *text, uint8_t qos)
{
    struct delivery *d = NULL;
    for (; *targets; targets++) {
        const char *colon = strchr(*targets, ':');
        struct target *t = services_target(services, *targets, (size_t)(colon - *targets),
                                           colon + 1, strlen(colon + 1));
        assert_non_null(t);
        if (!d) {
            d = delivery(t, topic, text, qos);
            continue;
        }
        const char *rendered[1] = { "x" };
        delivery_add_fallback(d, delivery_new(&(struct delivery_parts){ .target = t,
                                                                        .message = d->message,
                                                                        .route = "r",
                                                                        .rendered = rendered,
                                                                        .is_fallback = true }));
    }
    return d;
}

static void submit_to(const struct services *services, const char *const *targets,
                      const char *topic, const char *text)
{
    struct delivery *d = first_of(services, targets, topic, text, 1);
    struct message *m = d->message;
    services_submit(d);
    message_release_hold(m);
    message_unref(m);
}

#define TWICE "retry = { initial = \"1ms\"; max = \"5ms\"; max_attempts = 2; };"

static void services_fall_back_from_one_to_the_next(void **state)
{
    (void)state;
    struct services *services =
        make("phone = { plugin = \"scripted\"; " TWICE " targets = { ops = { }; }; }; "
             "mail = { plugin = \"scripted\"; " TWICE " targets = { ops = { }; boss = { }; }; };",
             NULL);
    services_start(services);
    static const char *const all[] = { "phone:ops", "mail:ops", "mail:boss", NULL };
    set_failing("", "ops", 1000 * 1000);
    for (int i = 0; i < 20; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", i);
        submit_to(services, all, "x", text);
    }
    await(&plugin.sent, 20, "sent");
    for (int i = 0; i < 20; i++) { /* their order is the topic's */
        char want[24];
        snprintf(want, sizeof(want), "boss %d", i);
        CHECK(strcmp(plugin.log[i], want) == 0, "%d: %s", i, plugin.log[i]);
    }
    await(&plugin.taken, 20, "taken over");
    static const char *const names[][2] = { { "phone", "ops" },
                                            { "mail", "ops" },
                                            { "mail", "boss" } };
    for (size_t i = 0; i < ROWS(names); i++) {
        struct target *t = target(services, names[i][0], names[i][1]);
        await_stats(t, all_done, "done");
        struct target_stats stats;
        services_target_stats(t, &stats);
        CHECK(is_balanced(&stats), "%s:%s", names[i][0], names[i][1]);
        assert_int_equal(stats.moved_in, i > 0 ? 20 : 0);
        assert_int_equal(stats.moved_out, i < 2 ? 20 : 0);
        assert_int_equal(stats.rejected + stats.given_up, 0);
    }
    assert_int_equal(services_free(services, 10 * 1000), 0);
}

static size_t dead_count;
static char dead_at[64];

static bool on_dead(void *context, const struct delivery *d, const char *reason, unsigned attempts)
{
    (void)context;
    (void)reason;
    (void)attempts;
    pthread_mutex_lock(&plugin.lock);
    dead_count++;
    snprintf(dead_at, sizeof(dead_at), "%s:%s", d->target->service, d->target->name);
    pthread_cond_broadcast(&plugin.changed);
    pthread_mutex_unlock(&plugin.lock);
    return true;
}

static void only_the_last_one_leaves_a_dead_letter(void **state)
{
    (void)state;
    struct services *services =
        make("s = { plugin = \"scripted\"; " TWICE " targets = { a = { }; b = { }; }; };", NULL);
    static const char *const all[] = { "s:a", "s:b", NULL };
    dead_count = 0;
    scripted_host.dead = on_dead;
    services_start(services);
    set_failing("*", "", 4);
    submit_to(services, all, "x", "1");
    await(&dead_count, 1, "dead");
    assert_string_equal(dead_at, "s:b");
    await_stats(target(services, "s", "b"), all_done, "done");
    assert_int_equal(services_free(services, 10 * 1000), 0);
    assert_int_equal(dead_count, 1);
    scripted_host.dead = NULL;
}

static void a_fallback_is_found_in_the_configuration_of_then(void **state)
{
    (void)state;
    struct services *old =
        make("a = { plugin = \"scripted\"; " TWICE " targets = { t = { }; }; }; "
             "b = { plugin = \"scripted\"; " TWICE " targets = { gone = { }; t = { }; }; };",
             NULL);
    services_start(old);
    static const char *const all[] = { "a:t", "b:gone", "b:t", NULL };
    memcpy(plugin.hanging, "1", sizeof("1"));
    set_gate(true);
    submit_to(old, all, "x", "1"); /* the plugin has it, and so the service goes on */
    submit_to(old, all, "x", "2");
    await(&plugin.blocked, 1, "blocked");
    struct services *new =
        make("a = { plugin = \"scripted\"; " TWICE " targets = { t = { }; }; }; "
             "b = { plugin = \"scripted\"; mood = 3; " TWICE " targets = { t = { }; }; };",
             old);
    services_start(new);
    services_free(old, 10 * 1000);
    set_failing("2", "", 2);
    set_gate(false);
    await(&plugin.sent, 1, "sent");
    assert_string_equal(plugin.log[0], "t 2");
    struct target_stats stats;
    await_stats(target(new, "b", "t"), all_done, "done");
    services_target_stats(target(new, "b", "t"), &stats);
    assert_int_equal(stats.moved_in, 1);
    assert_int_equal(services_free(new, 10 * 1000), 0);
}

static void without_any_target_to_fall_back_to_it_ends_where_it_is(void **state)
{
    (void)state;
    struct services *old = make("a = { plugin = \"scripted\"; " TWICE " targets = { t = { }; }; }; "
                                "b = { plugin = \"scripted\"; " TWICE " targets = { t = { }; }; };",
                                NULL);
    services_start(old);
    static const char *const all[] = { "a:t", "b:t", NULL };
    memcpy(plugin.hanging, "hang", sizeof("hang"));
    set_gate(true);
    submit(target(old, "a", "t"), "x", "hang", 1);
    await(&plugin.blocked, 1, "blocked");
    submit_to(old, all, "x", "1");
    struct services *new =
        make("a = { plugin = \"scripted\"; " TWICE " targets = { t = { }; }; };", old);
    services_start(new);
    services_free(old, 10 * 1000);
    dead_count = 0;
    scripted_host.dead = on_dead;
    set_failing("1", "", 2);
    set_gate(false);
    await(&dead_count, 1, "dead");
    assert_string_equal(dead_at, "a:t");
    struct target_stats stats;
    services_target_stats(target(new, "a", "t"), &stats);
    assert_true(is_balanced(&stats));
    assert_int_equal(stats.given_up, 1);
    assert_int_equal(services_free(new, 10 * 1000), 0);
    scripted_host.dead = NULL;
}

TEST_SUITE("delivery fallback",
           cmocka_unit_test(what_is_rejected_or_given_up_goes_on_to_its_fallback),
           cmocka_unit_test(nothing_waits_at_an_open_breaker_that_has_a_fallback),
           cmocka_unit_test(a_hold_goes_along), TEST(services_fall_back_from_one_to_the_next),
           TEST(only_the_last_one_leaves_a_dead_letter),
           TEST(a_fallback_is_found_in_the_configuration_of_then),
           TEST(without_any_target_to_fall_back_to_it_ends_where_it_is));
