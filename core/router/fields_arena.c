/* SPDX-License-Identifier: MIT */

/* Room for the values that are made up for a message. It belongs to one thread. */

#include "router/fields_arena.h"

#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK_BYTES (8u << 10)   /* of the first chunk; each further one doubles */
#define CHUNK_MAX   (256u << 10) /* bytes; also the largest that is kept for the next message */

struct chunk {
    struct chunk *next; /* older */
    size_t capacity;    /* bytes */
    size_t used;
    alignas(max_align_t) char bytes[];
};

#define DOCS_KEPT 8 /* for the next message */

struct fields_arena {
    struct chunk *chunk; /* that is being filled; NULL at first */

    struct json_doc **docs;
    size_t doc_count; /* that there are, and how many of them are in use */
    size_t docs_used;
    size_t doc_capacity;

    int64_t received_ms; /* what `times` are of */
    struct value times[FIELD_LAST_TIME - FIELD_FIRST_TIME + 1];

    int64_t
        local_second; /* what `local` is of: localtime_r() is slow, and most messages share one */
    struct tm local;
};

struct fields_arena *fields_arena_new(void)
{
    struct fields_arena *arena = calloc(1, sizeof(*arena));
    if (arena)
        arena->local_second = INT64_MIN;
    return arena;
}

static void free_chunks(struct chunk *chunk)
{
    while (chunk) {
        struct chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void fields_arena_free(struct fields_arena *arena)
{
    if (!arena)
        return;
    free_chunks(arena->chunk);
    for (size_t i = 0; i < arena->doc_count; i++)
        json_doc_free(arena->docs[i]);
    free(arena->docs);
    free(arena);
}

void fields_arena_clear(struct fields_arena *arena)
{
    memset(arena->times, 0, sizeof(arena->times)); /* VALUE_NONE */
    arena->docs_used = 0;
    while (arena->doc_count > DOCS_KEPT)
        json_doc_free(arena->docs[--arena->doc_count]);

    struct chunk *chunk = arena->chunk;
    if (!chunk)
        return;
    free_chunks(chunk->next);
    chunk->next = NULL;
    chunk->used = 0;
    if (chunk->capacity > CHUNK_MAX) {
        free(chunk);
        arena->chunk = NULL;
    }
}

void *fields_arena_alloc(struct fields_arena *arena, size_t len)
{
    struct chunk *chunk = arena->chunk;
    size_t room = chunk ? chunk->capacity - chunk->used : 0;
    if (len > SIZE_MAX / 2)
        return NULL;
    len = (len + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
    if (!chunk || len > room) {
        size_t capacity = chunk ? chunk->capacity * 2 : CHUNK_BYTES;
        if (capacity > CHUNK_MAX)
            capacity = CHUNK_MAX;
        if (capacity < len)
            capacity = len;
        chunk = malloc(sizeof(*chunk) + capacity);
        if (!chunk)
            return NULL;
        *chunk = (struct chunk){ .next = arena->chunk, .capacity = capacity };
        arena->chunk = chunk;
    }
    void *bytes = chunk->bytes + chunk->used;
    chunk->used += len;
    return bytes;
}

struct json_doc *fields_arena_doc(struct fields_arena *arena)
{
    if (arena->docs_used < arena->doc_count)
        return arena->docs[arena->docs_used++];
    if (arena->doc_count == arena->doc_capacity) {
        size_t capacity = arena->doc_capacity ? arena->doc_capacity * 2 : DOCS_KEPT;
        struct json_doc **docs = realloc(arena->docs, capacity * sizeof(docs[0]));
        if (!docs)
            return NULL;
        arena->docs = docs;
        arena->doc_capacity = capacity;
    }
    struct json_doc *doc = json_doc_new();
    if (doc) {
        arena->docs[arena->doc_count++] = doc;
        arena->docs_used++;
    }
    return doc;
}

/* ---- Times ---- */

#define TIME_BYTES 64

static int64_t seconds_of(int64_t ms)
{
    return ms / 1000 - (ms % 1000 < 0);
}

static const struct tm *local_time(struct fields_arena *arena, int64_t second)
{
    if (arena->local_second != second) {
        time_t when = (time_t)second;
        arena->local_second = INT64_MIN;
        if (!localtime_r(&when, &arena->local))
            return NULL;
        arena->local_second = second;
    }
    return &arena->local;
}

/* "2026-11-22T10:59:35.123", and what comes after it. */
static int write_iso(char *out, const struct tm *tm, int64_t ms, const char *zone)
{
    return snprintf(out, TIME_BYTES, "%04ld-%02d-%02dT%02d:%02d:%02d.%03d%s", 1900L + tm->tm_year,
                    tm->tm_mon + 1, tm->tm_mday, tm->tm_hour, tm->tm_min, tm->tm_sec,
                    (int)(ms - seconds_of(ms) * 1000), zone);
}

static int write_time(struct fields_arena *arena, enum field_fixed field, int64_t ms, char *out)
{
    int64_t second = seconds_of(ms);
    if (field == FIELD_DTISO) {
        time_t when = (time_t)second;
        struct tm utc;
        return gmtime_r(&when, &utc) ? write_iso(out, &utc, ms, "Z") : -1;
    }
    const struct tm *local = local_time(arena, second);
    if (!local)
        return -1;
    if (field == FIELD_DTHHMM)
        return snprintf(out, TIME_BYTES, "%02d:%02d", local->tm_hour, local->tm_min);
    if (field == FIELD_DTHHMMSS)
        return snprintf(out, TIME_BYTES, "%02d:%02d:%02d", local->tm_hour, local->tm_min,
                        local->tm_sec);
    char zone[16];
    long minutes = labs(local->tm_gmtoff) / 60;
    snprintf(zone, sizeof(zone), "%c%02ld:%02ld", local->tm_gmtoff < 0 ? '-' : '+',
             minutes / 60 % 100, minutes % 60);
    return write_iso(out, local, ms, zone);
}

struct value fields_arena_time(struct fields_arena *arena, enum field_fixed field,
                               int64_t received_ms)
{
    if (field == FIELD_DTEPOCH)
        return VALUE_OF_INT(seconds_of(received_ms));
    if (!arena)
        return VALUE_NOTHING;

    if (arena->received_ms != received_ms)
        memset(arena->times, 0, sizeof(arena->times));
    arena->received_ms = received_ms;
    struct value *value = &arena->times[field - FIELD_FIRST_TIME];
    if (value->type == VALUE_NONE) {
        char text[TIME_BYTES];
        int len = write_time(arena, field, received_ms, text);
        char *copy = len > 0 ? fields_arena_alloc(arena, (size_t)len) : NULL;
        if (!copy)
            return VALUE_NOTHING;
        memcpy(copy, text, (size_t)len);
        *value = VALUE_OF_TEXT(copy, (size_t)len);
    }
    return *value;
}
