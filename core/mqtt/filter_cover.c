/* SPDX-License-Identifier: MIT */

#include "mqtt/filter_cover.h"

#include <string.h>

/* One level of a filter; `text` is NULL behind the last one. */
struct level {
    const char *text;
    size_t len;
};

/* Takes the next level off `*rest`, which becomes NULL with the last one. */
static struct level next_level(const char **rest)
{
    const char *text = *rest;
    if (!text)
        return (struct level){ 0 };
    size_t len = strcspn(text, "/");
    *rest = text[len] == '/' ? text + len + 1 : NULL;
    return (struct level){ text, len };
}

static bool is_level(struct level level, char c)
{
    return level.text && level.len == 1 && level.text[0] == c;
}

static bool is_same(struct level a, struct level b)
{
    return a.len == b.len && memcmp(a.text, b.text, a.len) == 0;
}

static bool starts_with_wildcard(const char *filter)
{
    return filter[0] == '+' || filter[0] == '#';
}

bool filter_has_wildcard(const char *filter)
{
    return strpbrk(filter, "+#") != NULL;
}

bool filter_covers(const char *wide, const char *narrow)
{
    if (starts_with_wildcard(wide) && narrow[0] == '$')
        return false;
    for (;;) {
        struct level w = next_level(&wide), n = next_level(&narrow);
        if (is_level(w, '#'))
            return true; /* of the level above too, so narrow may have ended */
        if (!w.text || !n.text)
            return !w.text && !n.text;
        if (is_level(n, '#'))
            return false;
        if (!is_level(w, '+') && !is_same(w, n))
            return false;
    }
}

bool filter_overlaps(const char *a, const char *b)
{
    if ((starts_with_wildcard(a) && b[0] == '$') || (starts_with_wildcard(b) && a[0] == '$'))
        return false;
    for (;;) {
        struct level x = next_level(&a), y = next_level(&b);
        if (is_level(x, '#') || is_level(y, '#'))
            return true;
        if (!x.text || !y.text)
            return !x.text && !y.text;
        if (!is_level(x, '+') && !is_level(y, '+') && !is_same(x, y))
            return false;
    }
}

int filter_join(const char *a, const char *b, struct buf *out)
{
    for (bool first = true;; first = false) {
        struct level x = next_level(&a), y = next_level(&b);
        if (!x.text && !y.text)
            return out->error;
        if (!first)
            buf_add_byte(out, '/');
        if (!x.text || !y.text || is_level(x, '#') || is_level(y, '#'))
            return buf_add_byte(out, '#');
        if (is_same(x, y))
            buf_add(out, x.text, x.len);
        else
            buf_add_byte(out, '+');
    }
}

/* The order that makes each level of a tree one range: the end of a text before '/', that before all
 * other bytes. */
static int rank(char c)
{
    return c == '\0' ? 0 : c == '/' ? 1 : 2 + (unsigned char)c;
}

int filter_compare(const char *a, const char *b)
{
    while (*a == *b && *a != '\0') {
        a++;
        b++;
    }
    return rank(*a) - rank(*b);
}

/* ---- Walks over a sorted array, seen as a tree --------------------------------------------------- */

struct walk {
    const char *const *sorted;
    bool covering; /* else overlapping */
    const char *filter;
    filter_visit_fn *visit;
    void *context;
};

/* Filters of [lo, hi) that have the same first `at` bytes, which end after a '/'. */
struct range {
    size_t lo, hi, at;
};

/* The part of the range whose next level is `level`: by halving, since it is sorted. */
static struct range narrowed(const struct walk *walk, struct range range, struct level level)
{
    struct range part = { range.lo, range.lo, range.at + level.len };
    for (int upper = 0; upper < 2; upper++) {
        size_t lo = upper ? part.lo : range.lo, hi = range.hi;
        while (lo < hi) {
            size_t mid = lo + (hi - lo) / 2;
            const char *text = walk->sorted[mid] + range.at;
            size_t same = 0;
            while (same < level.len && text[same] == level.text[same])
                same++;
            int order = same < level.len ? rank(text[same]) - rank(level.text[same])
                                         : (rank(text[same]) > rank('/') ? 1 : 0);
            if (order < 0 || (upper && order == 0))
                lo = mid + 1;
            else
                hi = mid;
        }
        *(upper ? &part.hi : &part.lo) = lo;
    }
    return part;
}

static void visit_range(const struct walk *walk, struct range range)
{
    for (size_t i = range.lo; i < range.hi; i++)
        walk->visit(i, walk->context);
}

static void walk_levels(const struct walk *walk, struct range range, const char *rest);

/* Goes on below a range whose texts have the same level up to `at`, where they end or have a '/'. */
static void walk_below(const struct walk *walk, struct range range, const char *rest)
{
    if (range.lo == range.hi)
        return;
    /* The one that ends here comes first; there is at most one, since all are different. */
    if (walk->sorted[range.lo][range.at] == '\0') {
        if (!rest || (!walk->covering && strcmp(rest, "#") == 0))
            walk->visit(range.lo, walk->context);
        range.lo++;
    }
    range.at++;
    if (range.lo == range.hi)
        return;
    if (rest) {
        walk_levels(walk, range, rest);
        return;
    }
    /* The filter has ended: deeper ones match its level too only if all that they add is '#'. */
    struct range all = narrowed(walk, range, (struct level){ "#", 1 });
    visit_range(walk, all);
}

static void walk_levels(const struct walk *walk, struct range range, const char *rest)
{
    struct level level = next_level(&rest);
    bool hash = is_level(level, '#'), plus = is_level(level, '+');
    bool start = range.at == 0;

    if (hash && !walk->covering) {
        for (size_t i = range.lo; i < range.hi; i++)
            if (!start || walk->sorted[i][0] != '$')
                walk->visit(i, walk->context);
        return;
    }
    bool wildcards_apply = !(start && level.len > 0 && level.text[0] == '$');
    if (wildcards_apply)
        visit_range(walk, narrowed(walk, range, (struct level){ "#", 1 }));
    if (hash)
        return;
    if (plus && !walk->covering) {
        for (size_t i = range.lo; i < range.hi;) {
            const char *text = walk->sorted[i] + range.at;
            struct range child = narrowed(walk, range, (struct level){ text, strcspn(text, "/") });
            bool skip = (start && text[0] == '$') || (child.at == range.at + 1 && text[0] == '#');
            if (!skip)
                walk_below(walk, child, rest);
            i = child.hi;
        }
        return;
    }
    if (wildcards_apply && !plus)
        walk_below(walk, narrowed(walk, range, (struct level){ "+", 1 }), rest);
    walk_below(walk, narrowed(walk, range, level), rest);
}

void filter_visit_overlapping(const char *const *sorted, size_t n, const char *filter,
                              filter_visit_fn *visit, void *context)
{
    struct walk walk = { sorted, false, filter, visit, context };
    walk_levels(&walk, (struct range){ 0, n, 0 }, filter);
}

/* Leaves out the filter itself, which covers itself. */
struct others {
    const struct walk *walk;
    filter_visit_fn *visit;
    void *context;
};

static void visit_other(size_t index, void *context)
{
    const struct others *others = context;
    if (strcmp(others->walk->sorted[index], others->walk->filter) != 0)
        others->visit(index, others->context);
}

void filter_visit_covering(const char *const *sorted, size_t n, const char *filter,
                           filter_visit_fn *visit, void *context)
{
    struct walk walk = { sorted, true, filter, visit_other, NULL };
    struct others others = { &walk, visit, context };
    walk.context = &others;
    walk_levels(&walk, (struct range){ 0, n, 0 }, filter);
}
