/* SPDX-License-Identifier: MIT */

/* See survey.h. */

#include "delivery/survey.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct count {
    struct count *next;
    unsigned state;
    uint64_t count;
    char *target; /* behind the service's name */
    char service[];
};

struct survey {
    struct count *first;
};

static int add(struct survey *survey, sqlite3_stmt *row)
{
    const char *service = (const char *)sqlite3_column_text(row, 0);
    const char *target = (const char *)sqlite3_column_text(row, 1);
    if (!service || !target)
        return -ENOMEM;
    size_t service_len = strlen(service) + 1, target_len = strlen(target) + 1;
    struct count *c = malloc(sizeof(*c) + service_len + target_len);
    if (!c)
        return -ENOMEM;
    *c = (struct count){
        .next = survey->first,
        .state = (unsigned)sqlite3_column_int64(row, 2),
        .count = (uint64_t)sqlite3_column_int64(row, 3),
    };
    memcpy(c->service, service, service_len);
    c->target = c->service + service_len;
    memcpy(c->target, target, target_len);
    survey->first = c;
    return 0;
}

struct survey *survey_new(sqlite3 *db)
{
    struct survey *survey = calloc(1, sizeof(*survey));
    sqlite3_stmt *row = NULL;
    int rc = SQLITE_NOMEM;
    if (survey)
        rc = sqlite3_prepare_v2(db,
                                "SELECT service, target, state, count(*) FROM delivery "
                                "GROUP BY service, target, state",
                                -1, &row, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(row);
        if (rc == SQLITE_ROW && add(survey, row) < 0)
            rc = SQLITE_NOMEM;
    }
    sqlite3_finalize(row);
    if (rc == SQLITE_DONE)
        return survey;
    survey_free(survey);
    return NULL;
}

void survey_free(struct survey *survey)
{
    while (survey && survey->first) {
        struct count *next = survey->first->next;
        free(survey->first);
        survey->first = next;
    }
    free(survey);
}

uint64_t survey_count(const struct survey *survey, const char *service, const char *target,
                      unsigned state)
{
    uint64_t sum = 0;
    for (const struct count *c = survey->first; c; c = c->next) {
        bool wanted =
            !service || (strcmp(c->service, service) == 0 && strcmp(c->target, target) == 0);
        sum += wanted && c->state == state ? c->count : 0;
    }
    return sum;
}
