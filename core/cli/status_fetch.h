/* SPDX-License-Identifier: MIT */

/* Gets the status document of a daemon from where its configuration says that it is: its own broker, or the one of its
 * first link. Main thread. */

#ifndef TOCSIN_CLI_STATUS_FETCH_H
#define TOCSIN_CLI_STATUS_FETCH_H

#include "base/buf.h"

#include <jansson.h>
#include <stdint.h>

enum status_fetched {
    STATUS_FETCHED,
    STATUS_NOT_CONFIGURED, /* there is no such configuration, or it names no place for it */
    STATUS_NO_DAEMON,      /* the daemon's own broker is not there, so neither is the daemon */
    STATUS_NO_BROKER,      /* the link's broker is not there */
    STATUS_NO_ANSWER,      /* the broker is there, but has no status within the time */
};

/* Sets `*out` to the document, a reference of the caller's. Else `why` has a sentence that says
 * what is wrong and what to do. */
enum status_fetched status_fetch(const char *config_path, int64_t timeout_ms, json_t **out,
                                 struct buf *why);

#endif
