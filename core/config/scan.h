/* SPDX-License-Identifier: MIT */

/*
 * Looks through a configuration file before libconfig parses it, for what libconfig does not notice or
 * cannot tell: integers that it would cut, where a name stood first, how deep things are nested, and
 * what is wrong where it would say "syntax error". For core/config alone; any thread.
 */

#ifndef TOCSIN_CONFIG_SCAN_H
#define TOCSIN_CONFIG_SCAN_H

#include "config/source.h"

#define SCAN_MAX_NESTED 32 /* groups and lists within each other */

/* Returns 0, -EINVAL (`errors` tells; libconfig need not see it then) or -ENOMEM. */
int scan(const struct source *source, struct conf_errors *errors);

#endif
