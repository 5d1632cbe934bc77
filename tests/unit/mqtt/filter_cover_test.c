/* SPDX-License-Identifier: MIT */

#include "mqtt/filter_cover.h"

#include "../suite.h"

#include <mosquitto.h>
#include <stdio.h>
#include <stdlib.h>

static void filters_cover_and_overlap(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool covers; /* a covers b */
        bool overlaps;
        const char *join; /* NULL when they do not overlap */
    } rows[] = {
        { "a", "a", true, true, "a" },
        { "a", "b", false, false, NULL },
        { "#", "a/b", true, true, "#" },
        { "a/#", "a", true, true, "a/#" },
        { "a", "a/#", false, true, "a/#" },
        { "a/#", "a/b/c", true, true, "a/#" },
        { "a/+", "a/#", false, true, "a/#" },
        { "a/#", "a/+", true, true, "a/#" },
        { "a/+", "a/b", true, true, "a/+" },
        { "a/+", "a/", true, true, "a/+" },
        { "a/+", "a", false, false, NULL },
        { "a/+/c", "a/b/+", false, true, "a/+/+" },
        { "a/+/c", "a/b/#", false, true, "a/+/#" },
        { "a/b/#", "a/+", false, true, "a/+/#" },
        { "+/b", "a/+", false, true, "+/+" },
        { "+/b/#", "a/+/c/#", false, true, "+/+/#" },
        { "+/x", "a/y", false, false, NULL },
        { "#", "$SYS/broker", false, false, NULL },
        { "+/broker", "$SYS/broker", false, false, NULL },
        { "$SYS/#", "$SYS/+/up", true, true, "$SYS/#" },
        { "$SYS/+/a", "$SYS/b/+", false, true, "$SYS/+/+" },
        { "#", "+/#", true, true, "#" },
        { "/a", "+/a", false, true, "+/a" },
        { "/a", "a", false, false, NULL },
        { "//", "/+/", false, true, "/+/" },
        { "ab/+", "a/+", false, false, NULL },
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *a = rows[i].a, *b = rows[i].b;
        CHECK(filter_covers(a, b) == rows[i].covers, "\"%s\" covers \"%s\"", a, b);
        CHECK(filter_overlaps(a, b) == rows[i].overlaps, "\"%s\" and \"%s\"", a, b);
        CHECK(filter_overlaps(b, a) == rows[i].overlaps, "\"%s\" and \"%s\"", b, a);
        if (rows[i].join) {
            struct buf join = BUF_INIT(100);
            assert_int_equal(filter_join(a, b, &join), 0);
            CHECK(strcmp(buf_str(&join), rows[i].join) == 0, "\"%s\" and \"%s\": \"%s\"", a, b,
                  buf_str(&join));
            buf_release(&join);
        }
    }
}

static void filters_sort_by_levels(void **state)
{
    (void)state;
    static const char *const rows[] = { "",    "#",   "+",   "+/+",  "/",     "a",   "a/",
                                        "a/ ", "a/#", "a/b", "a/bc", "a/b c", "a b", "ab" };
    /* The last four show that '/' goes before every other byte. */
    static const char *const sorted[] = { "",    "/",   "#",   "+",     "+/+",  "a",   "a/",
                                          "a/ ", "a/#", "a/b", "a/b c", "a/bc", "a b", "ab" };
    const char *got[ROWS(rows)];
    memcpy(got, rows, sizeof(got));
    for (size_t i = 1; i < ROWS(rows); i++)
        for (size_t j = i; j > 0 && filter_compare(got[j - 1], got[j]) > 0; j--) {
            const char *swap = got[j];
            got[j] = got[j - 1];
            got[j - 1] = swap;
        }
    for (size_t i = 0; i < ROWS(rows); i++)
        CHECK(strcmp(got[i], sorted[i]) == 0, "%zu: \"%s\", not \"%s\"", i, got[i], sorted[i]);
}

/* All filters of up to three levels out of these words, against all topics of the same kind. */
static const char *const words[] = { "a", "b", "", "$x", "+", "#" };
#define WORDS       6
#define NAME_WORDS  4
#define MOST        400
#define MOST_LENGTH 16

struct texts {
    char text[MOST][MOST_LENGTH];
    size_t count;
};

static void add_texts(struct texts *texts, const char *head, size_t levels, size_t word_count)
{
    for (size_t w = 0; w < word_count; w++) {
        char text[MOST_LENGTH];
        int len = snprintf(text, sizeof(text), "%s%s", head, words[w]);
        assert_in_range(len, 0, MOST_LENGTH - 2);
        if (text[0] != '\0')
            memcpy(texts->text[texts->count++], text, sizeof(text));
        if (levels > 1 && strcmp(words[w], "#") != 0) {
            text[len] = '/';
            text[len + 1] = '\0';
            add_texts(texts, text, levels - 1, word_count);
        }
    }
}

static bool matches(const char *filter, const char *topic)
{
    bool result = false;
    mosquitto_topic_matches_sub(filter, topic, &result);
    return result;
}

static void cover_and_overlap_agree_with_what_filters_match(void **state)
{
    (void)state;
    static struct texts filters, topics;
    add_texts(&filters, "", 3, WORDS);
    add_texts(&topics, "", 4, NAME_WORDS);
    static bool match[MOST][MOST];
    for (size_t i = 0; i < filters.count; i++)
        for (size_t t = 0; t < topics.count; t++)
            match[i][t] = matches(filters.text[i], topics.text[t]);

    for (size_t i = 0; i < filters.count; i++) {
        for (size_t j = 0; j < filters.count; j++) {
            const char *a = filters.text[i], *b = filters.text[j];
            bool covers = true, overlaps = false;
            struct buf join = BUF_INIT(100);
            filter_join(a, b, &join);
            bool overlap = filter_overlaps(a, b);
            for (size_t t = 0; t < topics.count; t++) {
                covers = covers && (match[i][t] || !match[j][t]);
                overlaps = overlaps || (match[i][t] && match[j][t]);
                if (overlap && (match[i][t] || match[j][t]))
                    CHECK(matches(buf_str(&join), topics.text[t]),
                          "\"%s\" of \"%s\" and \"%s\": %s", buf_str(&join), a, b, topics.text[t]);
            }
            buf_release(&join);
            /* "/#" and "+" share only the empty name, which does not exist. */
            bool empty = (strcmp(a, "/#") == 0 && strcmp(b, "+") == 0) ||
                         (strcmp(b, "/#") == 0 && strcmp(a, "+") == 0);
            if (!empty)
                CHECK(overlaps == overlap, "\"%s\" and \"%s\" overlap: %d", a, b, overlaps);
            /* No name is empty, so "+/#" matches all that "#" does, and "/+/#" all of "/#". That is
             * not seen, and need not be. */
            bool excused = strcmp(b, "#") == 0 || strcmp(b, "/#") == 0;
            if (!excused || !covers)
                CHECK(covers == filter_covers(a, b), "\"%s\" covers \"%s\": %d", a, b, covers);
        }
    }
}

static int compare_texts(const void *a, const void *b)
{
    return filter_compare(*(const char *const *)a, *(const char *const *)b);
}

static void count_visit(size_t index, void *context)
{
    ((unsigned char *)context)[index]++;
}

static void walks_find_what_comparing_pairs_finds(void **state)
{
    (void)state;
    static struct texts filters;
    filters.count = 0;
    add_texts(&filters, "", 3, WORDS);
    const char *sorted[MOST];
    for (size_t i = 0; i < filters.count; i++)
        sorted[i] = filters.text[i];
    qsort(sorted, filters.count, sizeof(sorted[0]), compare_texts);

    for (size_t i = 0; i < filters.count; i++) {
        unsigned char covering[MOST] = { 0 }, overlapping[MOST] = { 0 };
        filter_visit_covering(sorted, filters.count, sorted[i], count_visit, covering);
        filter_visit_overlapping(sorted, filters.count, sorted[i], count_visit, overlapping);
        for (size_t j = 0; j < filters.count; j++) {
            CHECK(covering[j] == (i != j && filter_covers(sorted[j], sorted[i])),
                  "\"%s\" covers \"%s\": %d", sorted[j], sorted[i], covering[j]);
            CHECK(overlapping[j] == filter_overlaps(sorted[j], sorted[i]),
                  "\"%s\" and \"%s\" overlap: %d", sorted[j], sorted[i], overlapping[j]);
        }
    }
}

TEST_SUITE("filter cover", cmocka_unit_test(filters_cover_and_overlap),
           cmocka_unit_test(filters_sort_by_levels),
           cmocka_unit_test(cover_and_overlap_agree_with_what_filters_match),
           cmocka_unit_test(walks_find_what_comparing_pairs_finds));
