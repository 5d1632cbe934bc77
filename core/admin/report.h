/* SPDX-License-Identifier: MIT */

/* What is seen of the program, told to people. Any thread. */

#ifndef TOCSIN_ADMIN_REPORT_H
#define TOCSIN_ADMIN_REPORT_H

#include "admin/observation.h"

/* Logs all counters, a line for each part. */
void observation_log(const struct observation *seen);

#endif
