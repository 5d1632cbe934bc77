/* SPDX-License-Identifier: MIT */

/*
 * A whole configuration, read and checked: what `tocsin check` looks at, and `run`, `explain` and `send`
 * start from. Nothing in it has been started. Main thread.
 */

#ifndef TOCSIN_DAEMON_SETUP_H
#define TOCSIN_DAEMON_SETUP_H

#include "admin/settings.h"
#include "config/conf.h"
#include "config/options.h"
#include "delivery/keep.h"
#include "delivery/services.h"
#include "ledger/ledger.h"
#include "link/links.h"
#include "router/engine.h"

/* The top level of the file. */
struct settings {
    const char *node;
    const char *log_level;
    const char *plugin_dir;
    struct tocsin_duration drain;
};

extern const struct tocsin_option settings_options[];

/* The name of the router by such a configuration, to be freed; NULL: no memory. */
char *setup_node(const struct conf *conf);

/* Whether this configuration runs a broker of its own: it has the group `broker`, or no links. */
bool setup_has_broker(const struct conf *conf);

/* What stays from one configuration to the next: the names that everything else is made with. */
struct identity {
    char *node;
    char *plugin_dir;
    bool has_broker; /* and the link to it, which comes first */
    char **links;    /* names, NULL at the end */
    size_t link_count;
    struct services_host host; /* points to the above */
};

struct setup {
    struct conf *conf;
    struct settings settings;
    struct options_memory memory;
    char *store_path; /* NULL: there is no store */
    struct ledger_config ledger;
    struct admin_settings admin;
    struct dead_bounds dead_letters;
    struct services *services;
    struct engine **engines; /* router.shards of them */
    size_t engine_count;
};

/*
 * Reads the file, with plugins and files of routes. `identity` is filled at the first call, when its node is
 * NULL, and kept at later ones: a reload can't change the node's name or the links. `previous` are the
 * services of the running configuration, or NULL. Returns 0; or -EINVAL, with all that is wrong in `errors`;
 * or -ENOMEM. Then nothing is left to release but `identity`.
 */
int setup_read(struct setup *setup, const char *path, struct identity *identity,
               struct services *previous, struct conf_errors *errors);

/* Frees what is still there: set to NULL what somebody else has taken. */
void setup_release(struct setup *setup);
void identity_release(struct identity *identity);

/* The configuration file to use when none is named: ./tocsin.conf, else the installed one. */
const char *setup_default_path(void);

/* The folder of the plugins, to be freed by the caller: `wanted` if it is not NULL. NULL: no memory. */
char *setup_plugin_dir(const char *wanted);

enum tocsin_level settings_log_level(const struct settings *settings);

#endif
