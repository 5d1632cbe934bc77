/* SPDX-License-Identifier: MIT */

/* Where the store is: the group `store` of the configuration. Main thread. */

#ifndef TOCSIN_STORE_PLACE_H
#define TOCSIN_STORE_PLACE_H

#include "config/conf.h"
#include "tocsin/plugin.h"

/* For help and the sample. */
extern const struct tocsin_option store_options[];

/*
 * Reads the group. Sets `*path`, to be freed by the caller: the file's, ":memory:", or NULL if there is no such
 * group, and so no store. Without `path` in it, it is tocsin.db in the state directory: the one that systemd gives
 * (STATE_DIRECTORY), or /var/lib/tocsin for root, or ~/.local/state/tocsin. Returns 0, -EINVAL (`errors`) or
 * -ENOMEM.
 */
int store_place(const struct conf *conf, char **path, struct conf_errors *errors);

#endif
