/* SPDX-License-Identifier: MIT */

#include "mqtt/topic.h"

#include "base/utf8.h"

#include <string.h>

static const char *text_fault(const char *text, size_t len)
{
    if (len == 0)
        return "it is empty";
    if (len > TOPIC_MAX_BYTES)
        return "it is longer than 65535 bytes";
    if (memchr(text, '\0', len))
        return "it contains a NUL byte";
    if (!utf8_valid(text, len))
        return "it is not valid UTF-8";
    return NULL;
}

const char *topic_name_fault(const char *text, size_t len)
{
    const char *fault = text_fault(text, len);
    if (!fault && (memchr(text, '+', len) || memchr(text, '#', len)))
        fault = "'+' and '#' are for filters only";
    return fault;
}

const char *topic_filter_fault(const char *text, size_t len)
{
    const char *fault = text_fault(text, len);
    for (size_t i = 0; i < len && !fault; i++) {
        bool starts_level = i == 0 || text[i - 1] == '/';
        bool ends_level = i + 1 == len || text[i + 1] == '/';
        if (text[i] == '#' && (!starts_level || i + 1 != len))
            fault = "'#' must be the whole of the last level";
        else if (text[i] == '+' && (!starts_level || !ends_level))
            fault = "'+' must be the whole of its level";
    }
    return fault;
}

bool topic_filter_matches(const char *filter, size_t filter_len, const char *topic,
                          size_t topic_len)
{
    const char *f = filter, *f_end = filter + filter_len;
    const char *t = topic, *t_end = topic + topic_len;

    if (*t == '$' && (*f == '+' || *f == '#'))
        return false;

    /* Outside a wildcard both sides advance byte by byte. A valid filter's wildcard is a whole level, so
     * it needs no look behind or ahead. */
    while (f < f_end) {
        if (*f == '#')
            return true;
        if (*f == '+') {
            f++;
            while (t < t_end && *t != '/')
                t++;
        } else if (t < t_end && *f == *t) {
            f++;
            t++;
        } else {
            /* "a/#" also matches its parent "a". */
            return t == t_end && f_end - f == 2 && f[0] == '/' && f[1] == '#';
        }
    }
    return t == t_end;
}
