/* SPDX-License-Identifier: MIT */

/* How much of dead letters is kept: the group `dead_letters` of the configuration. Main thread. */

#include "config/options.h"
#include "delivery/keep.h"

#include <errno.h>

struct dead_settings {
    int64_t max_count;
    struct tocsin_size max_size;
    struct tocsin_duration max_age;
};

const struct tocsin_option dead_letter_options[] = {
    TOCSIN_OPTION(struct dead_settings, max_count, .def = "10000", .min = 1, .max = 10000000,
                  .help = "How many are kept; beyond, the oldest go, which is logged."),
    TOCSIN_OPTION(struct dead_settings, max_size, .def = "256MiB", .min = 65536,
                  .max = INT64_C(1) << 40,
                  .help = "How much room they may take, with payload and rendered texts."),
    TOCSIN_OPTION(struct dead_settings, max_age, .def = "180d", .min = 0, .max = 315360000000,
                  .help = "How long they are kept; 0 for as long as there is room."),
    { .name = NULL },
};

int dead_bounds_read(const struct conf *conf, struct dead_bounds *out, struct conf_errors *errors)
{
    const struct conf_node *group = conf_node_get(conf_root(conf), "dead_letters");
    size_t wrong = 0;
    if (group && conf_node_type(group) != CONF_GROUP) {
        conf_error(errors, group, "not a group, write dead_letters = { };");
        group = NULL;
        wrong = 1;
    }
    struct dead_settings settings = { 0 };
    const struct options_part part = { dead_letter_options, &settings };
    struct options_memory memory = { 0 };
    wrong += options_read(group, &part, 1, NULL, &memory, errors);
    *out = (struct dead_bounds){ (uint64_t)settings.max_count, (uint64_t)settings.max_size.bytes,
                                 settings.max_age.ms };
    options_memory_release(&memory);
    return wrong > 0 ? -EINVAL : 0;
}
