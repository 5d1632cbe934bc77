/* SPDX-License-Identifier: MIT */

#include "link/notices.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void notices_init(struct notices *notices)
{
    *notices = (struct notices){ .end = &notices->first };
}

void notices_release(struct notices *notices)
{
    while (notices->first) {
        struct notice *notice = notices->first;
        notices->first = notice->next;
        notice_free(notice);
    }
    notices_init(notices);
}

void notice_free(struct notice *notice)
{
    if (!notice)
        return;
    free(notice->topic);
    free(notice);
}

static size_t size_of(const struct notice *notice)
{
    return sizeof(*notice) + notice->len + strlen(notice->topic);
}

int notices_add(struct notices *notices, const char *topic, const void *payload, size_t len)
{
    if (notices->count >= NOTICES_MOST || notices->bytes > NOTICES_MOST_BYTES ||
        len > NOTICES_MOST_BYTES - notices->bytes)
        return -ENOBUFS;
    struct notice *notice = calloc(1, sizeof(*notice) + len);
    if (!notice || !(notice->topic = strdup(topic))) {
        notice_free(notice);
        return -ENOMEM;
    }
    if (len > 0)
        memcpy(notice->payload, payload, len);
    notice->len = len;
    *notices->end = notice;
    notices->end = &notice->next;
    notices->count++;
    notices->bytes += size_of(notice);
    return 0;
}

struct notice *notices_take(struct notices *notices)
{
    struct notice *notice = notices->first;
    if (!notice || notices->under_way_count >= NOTICES_UNDER_WAY)
        return NULL;
    notices->first = notice->next;
    if (!notices->first)
        notices->end = &notices->first;
    notices->count--;
    notices->bytes -= size_of(notice);
    return notice;
}

void notices_sent(struct notices *notices, int mid)
{
    assert(notices->under_way_count < NOTICES_UNDER_WAY);
    notices->under_way[notices->under_way_count++] = mid;
}

void notices_put_back(struct notices *notices, struct notice *notice)
{
    notice->next = notices->first;
    notices->first = notice;
    if (!notice->next)
        notices->end = &notice->next;
    notices->count++;
    notices->bytes += size_of(notice);
}

void notices_answered(struct notices *notices, int mid)
{
    for (size_t i = 0; i < notices->under_way_count; i++)
        if (notices->under_way[i] == mid) {
            notices->under_way[i] = notices->under_way[--notices->under_way_count];
            return;
        }
}

void notices_forget(struct notices *notices)
{
    notices->under_way_count = 0;
}
