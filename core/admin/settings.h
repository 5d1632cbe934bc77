/* SPDX-License-Identifier: MIT */

/* The group `admin` of the configuration. Main thread. */

#ifndef TOCSIN_ADMIN_SETTINGS_H
#define TOCSIN_ADMIN_SETTINGS_H

#include "config/conf.h"
#include "tocsin/plugin.h"

#include <stdbool.h>

struct admin_settings {
    bool enabled;
    struct tocsin_duration status_interval;
    char *topic; /* own; "tocsin/NODE", when it is not given */
};

extern const struct tocsin_option admin_options[]; /* for help and the sample */

/* Reads the group; what is not given is preset. Returns 0, -EINVAL (`errors`) or -ENOMEM. In all cases
 * admin_settings_release() has to follow. */
int admin_settings_read(const struct conf *conf, const char *node, struct admin_settings *out,
                        struct conf_errors *errors);
void admin_settings_release(struct admin_settings *settings);

#endif
