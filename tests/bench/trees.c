/* SPDX-License-Identifier: MIT */

/*
 * What subscriptions and retained messages take, in resident bytes as the kernel counts them, and what finding them
 * costs. Topics are load/12345/temperature, each with one filter, of 10 sessions. Prints lines
 * "name value unit". Figures are in README.md.
 */

#include "broker/filters.h"
#include "broker/interest.h"
#include "broker/publication.h"
#include "broker/retained.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SESSIONS 10
#define BATCH    1000 /* topics that a scan looks at */

static size_t number;

static size_t resident(void)
{
    unsigned long total, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu %lu", &total, &pages) != 2)
        exit(1);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void say(const char *name, double value, const char *unit)
{
    printf("%-44s %8.1f %s\n", name, value, unit);
}

/* In an order that is not that of the topics. */
static const char *topic_of(size_t i, size_t *len)
{
    static char text[64];
    *len = (size_t)snprintf(text, sizeof text, "load/%zu/temperature", i * 7919 % number);
    return text;
}

static void count_subscription(const struct subscription *subscription, void *context)
{
    (void)subscription;
    ++*(size_t *)context;
}

static bool count_publication(struct publication *publication, void *context)
{
    (void)publication;
    ++*(size_t *)context;
    return true;
}

static void leave(const char *filter, size_t len, void *context)
{
    interest_remove(context, 0, filter, len);
}

/* What one worker has, with the shared index as one worker's. */
static void measure_filters(void)
{
    struct filters *filters = filters_new();
    struct subscriber sessions[SESSIONS] = { 0 };
    size_t len, before = resident(), found = 0;
    double start = now_ns();
    for (size_t i = 0; i < number; i++) {
        const char *topic = topic_of(i, &len);
        const struct subscription subscription = { &sessions[i % SESSIONS], 0, 1 };
        filters_add(filters, topic, len, &subscription);
    }
    say("filters: add", (now_ns() - start) / (double)number, "ns");
    say("filters: memory of a subscription", (double)(resident() - before) / (double)number,
        "bytes");
    start = now_ns();
    for (size_t i = 0; i < number; i++) {
        const char *topic = topic_of(i, &len);
        filters_match(filters, topic, len, count_subscription, &found);
    }
    say("filters: match, one finds it", (now_ns() - start) / (double)number, "ns");

    struct interest *interest = interest_new();
    before = resident();
    for (size_t i = 0; i < number; i++) {
        const char *topic = topic_of(i, &len);
        interest_add(interest, 0, topic, len);
    }
    say("interest: memory of a filter, one worker", (double)(resident() - before) / (double)number,
        "bytes");
    start = now_ns();
    for (size_t s = 0; s < SESSIONS; s++)
        while (!filters_drop(filters, &sessions[s], BATCH, leave, interest))
            ;
    say("filters and interest: drop", (now_ns() - start) / (double)number, "ns");
    interest_free(interest);
    filters_free(filters);
    if (found != number)
        exit(1);
}

static size_t scan(struct retained *retained, const char *filter, double *longest)
{
    struct retained_cursor cursor;
    size_t found = 0;
    if (retained_cursor_init(&cursor, filter, strlen(filter)) < 0)
        exit(1);
    *longest = 0;
    for (bool more = true; more;) {
        const double start = now_ns();
        more = retained_scan(retained, &cursor, 1, BATCH, count_publication, &found);
        if (now_ns() - start > *longest)
            *longest = now_ns() - start;
    }
    retained_cursor_release(&cursor);
    return found;
}

static void set_all(struct retained *retained)
{
    static const char payload[64];
    for (size_t i = 0, len; i < number; i++) {
        const char *topic = topic_of(i, &len);
        struct publication *publication =
            publication_new(topic, len, NULL, 0, payload, sizeof payload);
        if (!publication || retained_set(retained, publication) < 0)
            exit(1);
        publication_unref(publication);
    }
}

static void measure_retained(void)
{
    struct retained *retained = retained_new();
    const size_t before = resident();
    double start = now_ns(), longest;
    set_all(retained);
    say("retained: set, new", (now_ns() - start) / (double)number, "ns");
    say("retained: memory of a message of 64 B", (double)(resident() - before) / (double)number,
        "bytes");
    say("retained: of it beside the publication",
        (double)retained_stats(retained).overhead / (double)number, "bytes");
    start = now_ns();
    set_all(retained);
    say("retained: set, another value", (now_ns() - start) / (double)number, "ns");

    start = now_ns();
    size_t found = scan(retained, "#", &longest);
    say("retained: walk '#', each message", (now_ns() - start) / (double)found, "ns");
    say("retained: longest step of it", longest / 1e3, "us");
    start = now_ns();
    found = scan(retained, "load/+/temperature", &longest);
    say("retained: walk 'load/+/temperature', each", (now_ns() - start) / (double)found, "ns");
    start = now_ns();
    if (scan(retained, "load/77/#", &longest) != 1)
        exit(1);
    say("retained: walk 'load/77/#'", now_ns() - start, "ns");
    retained_free(retained);
}

/* The worst that the shape of a tree can do: all filters of "a" and '+' in so many levels, under none of which the
 * topic ends. */
static void measure_wildcards(void)
{
    const unsigned levels = 16;
    struct filters *filters = filters_new();
    struct subscriber session = { 0 };
    char filter[128];
    for (size_t bits = 0; bits < (size_t)1 << levels; bits++) {
        size_t len = 0;
        for (unsigned level = 0; level < levels; level++) {
            filter[len++] = bits >> level & 1 ? '+' : 'a';
            filter[len++] = '/';
        }
        filter[len++] = 'b';
        const struct subscription subscription = { &session, 0, 0 };
        filters_add(filters, filter, len, &subscription);
    }
    for (unsigned level = 0; level < levels; level++)
        memcpy(filter + (size_t)2 * level, "a/", 2);
    filter[2 * levels] = 'c';
    size_t found = 0;
    const double start = now_ns();
    filters_match(filters, filter, 2 * levels + 1, count_subscription, &found);
    char name[64];
    snprintf(name, sizeof name, "filters: match 'a'/'+' in %u levels, none", levels);
    say(name, (now_ns() - start) / 1e3, "us");
    filters_free(filters);
}

/* In a process of its own, so that it does not use memory that another one has given back. */
static void run(void (*measure)(void))
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        measure();
        fflush(stdout);
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        exit(1);
}

int main(int argc, char **argv)
{
    number = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    run(measure_filters);
    run(measure_retained);
    run(measure_wildcards);
    return 0;
}
