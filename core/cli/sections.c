/* SPDX-License-Identifier: MIT */

/* The sections of a configuration, and the sample made from their tables. */

#include "admin/settings.h"
#include "broker/broker.h"
#include "cli/cli.h"
#include "config/options.h"
#include "daemon/setup.h"
#include "delivery/keep.h"
#include "delivery/services.h"
#include "ledger/ledger.h"
#include "link/links.h"
#include "router/routes.h"
#include "store/place.h"

#include <string.h>

#define SAMPLE_MAX_BYTES (256 * 1024)

const struct cli_section cli_sections[] = {
    { "settings", "at the top of the file", "the router as a whole", settings_options },
    { "admin", "admin = { ... };", "what is told about the router, by MQTT", admin_options },
    { "broker", "broker = { ... };", "the included broker, which is there without links, too",
      broker_options },
    { "listener", "broker = { listeners = ( { ... }, ... ); };",
      "where the included broker takes clients; one on 127.0.0.1 if there is no list",
      broker_listener_options },
    { "link", "links = ( { ... }, ... );", "another broker to receive from and publish to",
      link_options },
    { "tls", "links = ( { tls = { ... }; } );", "encryption of a link", link_tls_options },
    { "store", "store = { ... };", "where what must survive is kept; without it, nowhere",
      store_options },
    { "ledger", "ledger = { ... };", "what is kept of what became of messages; with a store only",
      ledger_options },
    { "dead_letters", "dead_letters = { ... };",
      "how much is kept of what was given up; with a store only", dead_letter_options },
    { "router", "router = { ... };", "what all routes share", router_options },
    { "route", "routes = ( { ... }, ... );", "which messages become which notifications",
      route_options },
    { "first_of", "routes = ( { targets = ( { first_of = [ ... ]; } ); } );",
      "a target with others to fall back to", first_of_options },
    { "service", "services = { NAME = { ... }; };",
      "a way to deliver, beside its plugin's own options", service_core_options },
    { "target", "services = { NAME = { targets = { NAME = { ... }; }; }; };",
      "a destination of a service, beside its plugin's own options", target_core_options },
    { "retry", "services = { NAME = { retry = { ... }; }; };", "what happens when a delivery fails",
      retry_options },
    { "queue", "services = { NAME = { queue = { ... }; }; };", "how much may wait for a service",
      queue_options },
    { "breaker", "services = { NAME = { breaker = { ... }; }; };",
      "when a target that fails again and again is left alone", breaker_options },
    { .name = NULL },
};

/* The options of a section, all commented out: what the sample sets stands above them. */
static void add_section(struct buf *out, const char *name, size_t indent)
{
    struct buf text = BUF_INIT(SAMPLE_MAX_BYTES);
    for (const struct cli_section *s = cli_sections; s->name; s++)
        if (strcmp(s->name, name) == 0)
            options_sample(s->table, indent, &text);
    bool line_start = true;
    for (const char *at = buf_str(&text); *at; at++) {
        if (line_start && *at != ' ' && *at != '\n') {
            buf_add_str(out, *at == '#' ? "" : "#");
            line_start = false;
        }
        buf_add_byte(out, *at);
        line_start = line_start || *at == '\n';
    }
    buf_release(&text);
}

void sample_add(struct buf *out)
{
    buf_add_str(
        out,
        "// Configuration of tocsin. `tocsin check` says whether it is right, `tocsin explain "
        "TOPIC\n"
        "// PAYLOAD` what it does with a message, `tocsin help SECTION` more about each section.\n"
        "//\n"
        "// A line that is commented out shows the default. Files in conf.d/ beside this one are "
        "read\n"
        "// after it, and added to it. \"${env:NAME}\" and \"${file:PATH}\" keep secrets out of "
        "it.\n\n");
    add_section(out, "settings", 0);
    buf_add_str(
        out, "\n// The included broker. Routes that name no link get its messages, too; in their "
             "`link` it is\n"
             "// \"broker\".\n"
             "broker = {\n    listeners = (\n        {\n            bind = \"127.0.0.1\";\n"
             "            port = 1883;\n\n            // All options of a listener:\n");
    add_section(out, "listener", 12);
    buf_add_str(out, "        }\n    );\n\n    // All options of the broker:\n");
    add_section(out, "broker", 4);
    buf_add_str(
        out, "};\n\n"
             "// Other brokers to receive from and publish to. Without the group above, and with "
             "this one,\n"
             "// there is no included broker.\n"
             "// links = (\n    // {\n        // name = \"elsewhere\";\n"
             "        // host = \"mqtt.example.org\";\n\n        // All options of a link:\n");
    add_section(out, "link", 8);
    buf_add_str(out, "\n        // Encryption:\n        // tls = {\n");
    add_section(out, "tls", 12);
    buf_add_str(out, "        // };\n    // }\n// );\n\n"
                     "// Keeps on disk what was acknowledged and is not delivered yet.\n"
                     "store = {\n");
    add_section(out, "store", 4);
    buf_add_str(out, "};\n\n"
                     "// What is kept of what became of messages, for `tocsin why` and `tocsin "
                     "ledger`.\n"
                     "ledger = {\n");
    add_section(out, "ledger", 4);
    buf_add_str(out, "};\n\n"
                     "// What is told about the router, by MQTT.\n"
                     "admin = {\n");
    add_section(out, "admin", 4);
    buf_add_str(out, "};\n\n"
                     "// The ways to deliver: each names a plugin, and its targets. `tocsin "
                     "plugins` lists them,\n"
                     "// `tocsin plugins NAME` their options.\n"
                     "services = {\n    log = {\n        plugin = \"log\";\n\n"
                     "        // All options of a service, beside its plugin's own:\n");
    add_section(out, "service", 8);
    buf_add_str(out, "\n        // What happens when a delivery fails:\n        // retry = {\n");
    add_section(out, "retry", 12);
    buf_add_str(out, "        // };\n\n        // How much may wait:\n        // queue = {\n");
    add_section(out, "queue", 12);
    buf_add_str(out, "        // };\n\n        // When a target that fails again and again is left "
                     "alone:\n        // breaker = {\n");
    add_section(out, "breaker", 12);
    buf_add_str(out, "        // };\n\n        targets = {\n            info = {\n"
                     "                // All options of a target, beside its plugin's own:\n");
    add_section(out, "target", 16);
    buf_add_str(
        out, "            };\n        };\n    };\n};\n\n// What all routes share.\nrouter = {\n");
    add_section(out, "router", 4);
    buf_add_str(
        out,
        "};\n\n"
        "// Which messages become which notifications: checked in this order, all that match run.\n"
        "routes = (\n    {\n        name = \"temperature\";\n"
        "        topic = \"sensors/{room}/celsius\";\n        when = \"value >= 30\";\n"
        "        severity = \"value >= 35 and 'critical' or 'warning'\";\n"
        "        title = \"{severity}: {room} is too warm\";\n"
        "        format = \"{value:.1f} °C in {room}, {_dthhmm}\";\n"
        "        targets = [ \"log:info\" ];\n\n        // All options of a route:\n");
    add_section(out, "route", 8);
    buf_add_str(out, "    }\n);\n");
}
