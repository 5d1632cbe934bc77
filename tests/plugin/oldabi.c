/* SPDX-License-Identifier: MIT */

/* A plugin of another time: nothing behind its ABI number may be looked at. */

#include "tocsin/plugin.h"

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI + 1,
    .name = (const char *)1,
    .service_options = (const struct tocsin_option *)1,
};
