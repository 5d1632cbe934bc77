/* SPDX-License-Identifier: MIT */

#include "router/route_topic.h"

#include "mqtt/topic.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_name(const char *text, size_t len)
{
    if (len == 0 || isdigit((unsigned char)text[0]))
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && text[i] != '_')
            return false;
    return true;
}

/* Adds a name after checking it. */
static int add_name(struct route_topic *topic, const char *name, size_t len, size_t level,
                    bool rest, struct buf *why)
{
    if (!is_name(name, len)) {
        buf_addf(why, "'{%.*s}' is no name for a level, write letters, digits and '_'", (int)len,
                 name);
        return -EINVAL;
    }
    if (fields_name_is_fixed(name, len)) {
        buf_addf(why, "'{%.*s}' would hide the field of that name, choose another", (int)len, name);
        return -EINVAL;
    }
    for (size_t i = 0; i < topic->name_count; i++) {
        if (strlen(topic->names[i].name) == len && memcmp(topic->names[i].name, name, len) == 0) {
            buf_addf(why, "'{%.*s}' names two levels, choose another", (int)len, name);
            return -EINVAL;
        }
    }
    struct level_name *names =
        realloc(topic->names, (topic->name_count + 1) * sizeof(*topic->names));
    if (!names)
        return -ENOMEM;
    topic->names = names;
    char *copy = strndup(name, len);
    if (!copy)
        return -ENOMEM;
    names[topic->name_count++] = (struct level_name){ .name = copy, .level = level, .rest = rest };
    return 0;
}

/* One level of the text: appends it to the filter as MQTT has it. */
static int add_level(struct route_topic *topic, const char *text, size_t len, size_t level,
                     bool last, struct buf *filter, struct buf *why)
{
    if (len < 2 || text[0] != '{' || text[len - 1] != '}') {
        if (memchr(text, '{', len) || memchr(text, '}', len)) {
            buf_addf(why, "'%.*s': a name in braces must be the whole level, write \"a/{name}/b\"",
                     (int)len, text);
            return -EINVAL;
        }
        return buf_add(filter, text, len);
    }
    bool rest = text[len - 2] == '#';
    if (rest && !last) {
        buf_addf(why, "'%.*s' stands for all that follows, so it must be the last level", (int)len,
                 text);
        return -EINVAL;
    }
    int rc = add_name(topic, text + 1, len - (rest ? 3 : 2), level, rest, why);
    return rc < 0 ? rc : buf_add_byte(filter, rest ? '#' : '+');
}

int route_topic_init(struct route_topic *topic, const char *text, struct buf *why)
{
    *topic = (struct route_topic){ 0 };
    struct buf filter = BUF_INIT(TOPIC_MAX_BYTES + 1);
    int rc = 0;
    size_t level = 0;
    for (const char *at = text;; level++) {
        if (level == ROUTE_TOPIC_MAX_LEVELS) {
            buf_addf(why, "it has more than %d levels", ROUTE_TOPIC_MAX_LEVELS);
            rc = -EINVAL;
            break;
        }
        size_t n = strcspn(at, "/");
        rc = add_level(topic, at, n, level, at[n] == '\0', &filter, why);
        if (rc < 0 || at[n] == '\0')
            break;
        buf_add_byte(&filter, '/');
        at += n + 1;
    }
    if (rc == 0 || rc == -E2BIG) {
        const char *fault = topic_filter_fault(buf_str(&filter), filter.len);
        if (fault || rc < 0) {
            buf_add_str(why, fault ? fault : "it is longer than 65535 bytes");
            rc = -EINVAL;
        }
    }
    topic->filter = buf_take(&filter);
    if (rc == 0 && !topic->filter)
        rc = -ENOMEM;
    return rc;
}

void route_topic_release(struct route_topic *topic)
{
    for (size_t i = 0; i < topic->name_count; i++)
        free(topic->names[i].name);
    free(topic->names);
    free(topic->filter);
    *topic = (struct route_topic){ 0 };
}

void route_topic_levels(const struct route_topic *topic, const char *name, size_t len,
                        struct field_level *levels)
{
    const char *at = name, *end = name + len;
    size_t level = 0, i = 0;
    /* The names are in the order of the levels. */
    while (i < topic->name_count) {
        const struct level_name *wanted = &topic->names[i];
        const char *slash = at <= end ? memchr(at, '/', (size_t)(end - at)) : NULL;
        const char *stop = slash ? slash : end;
        if (level == wanted->level) {
            if (wanted->rest)
                stop = end;
            /* "a/{rest#}" also matches "a": then there is no rest. */
            levels[i++] = at <= end ? (struct field_level){ wanted->name, at, (size_t)(stop - at) }
                                    : (struct field_level){ wanted->name, end, 0 };
        }
        at = stop + 1;
        level++;
    }
}
