/* SPDX-License-Identifier: MIT */

#include "base/log_rate.h"

bool log_rate_due(struct log_rate *rate, int64_t now_ms)
{
    if (rate->lines == 0 || now_ms >= rate->until_ms) {
        rate->until_ms = now_ms + LOG_RATE_PERIOD_MS;
        rate->lines = 0;
    }
    if (rate->lines >= LOG_RATE_LINES) {
        rate->held_back++;
        return false;
    }
    rate->lines++;
    return true;
}

uint64_t log_rate_rest(struct log_rate *rate, int64_t now_ms)
{
    if (rate->lines == 0 || now_ms < rate->until_ms)
        return 0;
    uint64_t rest = rate->held_back;
    *rate = (struct log_rate){ 0 };
    return rest;
}
