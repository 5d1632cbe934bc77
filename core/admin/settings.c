/* SPDX-License-Identifier: MIT */

#include "admin/settings.h"

#include "base/buf.h"
#include "config/options.h"
#include "mqtt/topic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct admin_group {
    bool enabled;
    struct tocsin_duration status_interval;
    const char *topic;
};

const struct tocsin_option admin_options[] = {
    TOCSIN_OPTION(struct admin_group, enabled, .def = "true",
                  .help = "Whether to publish the status, and messages about dead letters."),
    TOCSIN_OPTION(struct admin_group, status_interval, .def = "10s", .min = 1000, .max = 86400000,
                  .help = "Time between two status documents; when the health changes, there is "
                          "one at once."),
    TOCSIN_OPTION(struct admin_group, topic,
                  .help = "Topic that the ones of this router begin with; tocsin/NODE if left "
                          "out. The status is in TOPIC/status, retained, and each new dead letter "
                          "in TOPIC/dead-letter/SERVICE/TARGET."),
    { .name = NULL },
};

int admin_settings_read(const struct conf *conf, const char *node, struct admin_settings *out,
                        struct conf_errors *errors)
{
    *out = (struct admin_settings){ 0 };
    struct options_memory memory = { 0 };
    struct admin_group read = { 0 };
    const struct conf_node *group = conf_node_get(conf_root(conf), "admin");
    size_t wrong = 0;
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "must be a group: write admin = { status_interval = \"30s\"; };");
        group = NULL;
        wrong = 1;
    }
    const struct options_part part = { admin_options, &read };
    wrong += options_read(group, &part, 1, NULL, &memory, errors);
    const char *fault = read.topic ? topic_name_fault(read.topic, strlen(read.topic)) : NULL;
    if (fault || (read.topic && read.topic[0] == '$')) {
        conf_error(errors, options_node(group, "topic"), "%s",
                   fault ? fault : "topics with $ in front are the broker's: choose another");
        wrong++;
    }
    struct buf topic = BUF_INIT(65536);
    buf_addf(&topic, "%s%s", read.topic ? "" : "tocsin/", read.topic ? read.topic : node);
    out->enabled = read.enabled;
    out->status_interval = read.status_interval;
    out->topic = buf_take(&topic);
    buf_release(&topic);
    options_memory_release(&memory);
    return wrong > 0 ? -EINVAL : out->topic ? 0 : -ENOMEM;
}

void admin_settings_release(struct admin_settings *settings)
{
    free(settings->topic);
    *settings = (struct admin_settings){ 0 };
}
