/* SPDX-License-Identifier: MIT */

#include "store/place.h"

#include "base/buf.h"
#include "config/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct store_settings {
    const char *path;
};

const struct tocsin_option store_options[] = {
    TOCSIN_OPTION(struct store_settings, path,
                  .help = "The file; if left out, tocsin.db in the state directory (systemd's "
                          "STATE_DIRECTORY, /var/lib/tocsin for root, ~/.local/state/tocsin). "
                          "\":memory:\" for none."),
    { .name = NULL },
};

/* The state directory, as far as it can be told; its parents have to be there. */
static int add_folder(struct buf *out)
{
    const char *given = getenv("STATE_DIRECTORY"), *state = getenv("XDG_STATE_HOME"),
               *home = getenv("HOME");
    if (given && *given)
        return buf_add(out, given, strcspn(given, ":")); /* it may be a list */
    if (geteuid() == 0)
        return buf_add_str(out, "/var/lib/tocsin");
    if (state && *state == '/')
        return buf_addf(out, "%s/tocsin", state);
    return home && *home == '/' ? buf_addf(out, "%s/.local/state/tocsin", home) : -ENOENT;
}

int store_place(const struct conf *conf, char **path, struct conf_errors *errors)
{
    *path = NULL;
    const struct conf_node *group = conf_node_get(conf_root(conf), "store");
    if (!group)
        return 0;
    if (conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "not a group, write store = { };");
        return -EINVAL;
    }
    struct store_settings settings = { 0 };
    const struct options_part part = { store_options, &settings };
    struct options_memory memory = { 0 };
    size_t wrong = options_read(group, &part, 1, NULL, &memory, errors);
    struct buf out = BUF_INIT(65536);
    int rc = 0;
    if (wrong > 0)
        rc = -EINVAL;
    else if (settings.path)
        rc = buf_add_str(&out, settings.path);
    else if (add_folder(&out) == -ENOENT) {
        conf_error(
            errors, group,
            "there is no state directory (HOME is not set): write path = \"/FOLDER/tocsin.db\";");
        rc = -EINVAL;
    } else {
        rc = buf_add_str(&out, "/tocsin.db");
    }
    options_memory_release(&memory);
    if (rc == 0 && !(*path = buf_take(&out)))
        rc = -ENOMEM;
    buf_release(&out);
    return rc;
}
