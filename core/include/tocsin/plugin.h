/* SPDX-License-Identifier: MIT */

/*
 * The plugin ABI: all that a service plugin may know of the router.
 *
 * A plugin is one shared object that exports one symbol, `tocsin_plugin`. It links to nothing in the
 * router: what it needs comes through `struct tocsin_host`, so a test can call it with a host of its
 * own.
 *
 * Life of an instance (one worker of one configured service):
 *
 *   check(), check_target(), wants()   any thread, no I/O; also run by `tocsin check`
 *   open() -> send()* -> close()       always the same thread, never two calls at once
 *   reopen()                           the same thread, between two send(): SIGHUP has come
 *
 * So a plugin needs no locks as long as it keeps its state in the instance and has no writable
 * static data. Two instances of one plugin do run at the same time.
 *
 * Any change to this file that an old plugin could notice raises TOCSIN_PLUGIN_ABI. New members go at
 * the end of a struct, where `struct_size` tells each side what the other one knows. For the same
 * reason, arrays across the border hold pointers, or come with the size of their elements.
 */

#ifndef TOCSIN_PLUGIN_H
#define TOCSIN_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOCSIN_PLUGIN_ABI 1

/* ---- Options ------------------------------------------------------------------------------- */

/*
 * Values with a unit or a rule of their own have a type of their own. The C type of a field is what
 * decides how its option is parsed, so the table and the struct cannot disagree.
 */
struct tocsin_duration {
    int64_t ms; /* written "250ms", "30s", "5m", "2h" or "1d" */
};

struct tocsin_size {
    int64_t bytes; /* written "512", "64KiB", "10MiB" or "1GiB" */
};

struct tocsin_secret {
    const char *text; /* literal, "${env:NAME}" or "${file:PATH}"; printed as "***" */
};

struct tocsin_list {
    const char *const *items; /* `count` strings, then NULL; written [ "a", "b" ] or "a" */
    size_t count;
};

/*
 * A text with fields in it, such as "/var/log/{room}.log". The router renders it for each delivery;
 * tocsin_rendered() gives the result. Only targets can have such options. `text` is what the file
 * says; NULL if it says nothing and there is no default, and then tocsin_rendered() is NULL too.
 */
struct tocsin_format {
    const char *text;
    size_t index; /* in tocsin_delivery.rendered */
};

/* A list of them: for example an argument vector. */
struct tocsin_formats {
    size_t count;
    size_t first; /* index of the first in tocsin_delivery.rendered; the others follow */
    const char *const *texts; /* what the file says, `count` of them, for check_target() */
};

struct tocsin_node; /* a subtree of the configuration, read by the core alone so far */

enum tocsin_option_type {
    TOCSIN_OPT_BOOL,
    TOCSIN_OPT_INT,
    TOCSIN_OPT_FLOAT,
    TOCSIN_OPT_STRING,
    TOCSIN_OPT_SECRET,
    TOCSIN_OPT_DURATION,
    TOCSIN_OPT_SIZE,
    TOCSIN_OPT_LIST,
    TOCSIN_OPT_FORMAT,
    TOCSIN_OPT_FORMATS,
    TOCSIN_OPT_TREE,
};

enum tocsin_option_flags {
    TOCSIN_OPTION_REQUIRED = 0x1, /* no default; leaving it out is an error */
    TOCSIN_OPTION_LINK = 0x2,     /* STRING: must name a configured link */

    /* FORMAT, FORMATS: what is done to the value of each field before it goes into the text, so
     * that no message can leave the place its author meant. At most one of these. */
    TOCSIN_CLEAN_PATH = 0x10,  /* one level of a file name: no '/', no NUL, not "", "." or ".." */
    TOCSIN_CLEAN_TOPIC = 0x20, /* one level of a topic name: no '/', '+', '#', NUL, not empty; but
                                * what is taken from the message's topic keeps its '/' */
    TOCSIN_CLEAN_LINE = 0x40,  /* one line: control characters become blanks */
    TOCSIN_CLEAN_NAME = 0x80,  /* as LINE, and ';' becomes '_' too (Nagios object names) */
};

/*
 * One option. The tables are the only list of options there is: the parser, `tocsin check`,
 * `tocsin plugins NAME`, the example configuration and the manual page all come from them.
 */
struct tocsin_option {
    const char *name;             /* key in the file; the name of the field */
    enum tocsin_option_type type; /* from the field's C type */
    size_t offset;                /* of the field in the config struct */
    unsigned flags;               /* TOCSIN_OPTION_*, TOCSIN_CLEAN_* */
    const char *def;              /* default, written as in the file; NULL gives 0, false or NULL */
    int64_t min, max;             /* for INT, FLOAT, SIZE (bytes), DURATION (ms), where min < max */
    const char *choices;          /* for STRING: the words allowed, "a|b|c"; NULL allows all. For
                                   * TREE: what help calls its type, "group" if NULL. */
    const char *help;             /* one sentence with the unit and the effect; required */
};

/* clang-format off */
#define TOCSIN_OPTION_TYPE(S, FIELD)                  \
    _Generic(((S *)NULL)->FIELD,                      \
        bool: TOCSIN_OPT_BOOL,                        \
        int64_t: TOCSIN_OPT_INT,                      \
        double: TOCSIN_OPT_FLOAT,                     \
        const char *: TOCSIN_OPT_STRING,              \
        struct tocsin_secret: TOCSIN_OPT_SECRET,      \
        struct tocsin_duration: TOCSIN_OPT_DURATION,  \
        struct tocsin_size: TOCSIN_OPT_SIZE,          \
        struct tocsin_list: TOCSIN_OPT_LIST,          \
        struct tocsin_format: TOCSIN_OPT_FORMAT,      \
        struct tocsin_formats: TOCSIN_OPT_FORMATS,    \
        const struct tocsin_node *: TOCSIN_OPT_TREE)
/* clang-format on */

/* TOCSIN_OPTION(struct carbon_service, port, .def = "2003", .help = "TCP port.") */
#define TOCSIN_OPTION(S, FIELD, ...)                                                        \
    {                                                                                       \
        .name = #FIELD, .type = TOCSIN_OPTION_TYPE(S, FIELD), .offset = offsetof(S, FIELD), \
        __VA_ARGS__                                                                         \
    }

/* ---- Messages and deliveries --------------------------------------------------------------- */

/* What a notification says of the thing it is about: the states of Nagios, with its numbers. */
enum tocsin_severity {
    TOCSIN_OK = 0,
    TOCSIN_WARNING = 1,
    TOCSIN_CRITICAL = 2,
    TOCSIN_UNKNOWN = 3,
};

enum tocsin_field_type {
    TOCSIN_FIELD_STRING,
    TOCSIN_FIELD_NUMBER, /* `text` is the number as JSON writes it */
    TOCSIN_FIELD_BOOL,   /* `text` is "true" or "false" */
    TOCSIN_FIELD_NULL,   /* `text` is "null" */
    TOCSIN_FIELD_JSON,   /* an array: `text` is its JSON */
};

/* One decoded value. Objects are flattened: {"a":{"b":1}} gives the field "a.b". */
struct tocsin_field {
    const char *name; /* NUL-terminated, valid UTF-8 */
    const char *text; /* NUL-terminated, valid UTF-8, `len` bytes */
    size_t len;
    enum tocsin_field_type type;
};

/* The properties of an MQTT 5 message that a republished one carries on. */
struct tocsin_property {
    const char *name; /* a user property; both are NUL-terminated UTF-8 */
    const char *value;
};

struct tocsin_properties {
    const char *content_type;   /* NULL if absent */
    const char *response_topic; /* NULL if absent */
    const uint8_t *correlation; /* NULL if absent */
    size_t correlation_len;
    const struct tocsin_property *user; /* in order, duplicates kept */
    size_t user_count;
    int64_t expires_ms;  /* wall clock, ms since 1970; 0: never */
    int8_t payload_utf8; /* Payload Format Indicator: 0, 1; -1 if absent */
};

/* One routed message. Read-only, and valid until the send() that carries it has returned. */
struct tocsin_message {
    const char *topic;      /* NUL-terminated, valid UTF-8 */
    const uint8_t *payload; /* as it arrived; not terminated */
    size_t payload_len;     /* bytes */
    const char *text;       /* after the route's format; NUL-terminated, valid UTF-8 */
    size_t text_len;        /* bytes */
    const char *title;      /* NUL-terminated; "" when the route sets none */
    const char *html;       /* the text for HTML, values escaped; NULL unless TOCSIN_WANTS_HTML */
    const char *route;      /* name of the route */
    const char *link;       /* name of the link that it came by */
    const char *id;       /* stable over retries: of letters, digits and '-', unique per delivery */
    int64_t received_ms;  /* wall clock, ms since 1970-01-01 UTC */
    int priority;         /* of the route; 0 when it sets none */
    bool has_priority;    /* whether it sets one */
    bool has_severity;    /* whether the route sets a severity */
    bool text_is_payload; /* no format: `payload` is the text, byte for byte, even if not UTF-8 */
    enum tocsin_severity severity;            /* TOCSIN_OK when the route sets none */
    uint8_t qos;                              /* as it arrived */
    bool retain;                              /* as it arrived */
    uint8_t hops;                             /* how often it has been republished already */
    const struct tocsin_field *const *fields; /* empty unless TOCSIN_WANTS_FIELDS */
    size_t field_count;
    const struct tocsin_properties *properties; /* NULL if it came without */
};

/* What became of one message. Every message has its own, also within a batch. */
enum tocsin_verdict {
    TOCSIN_RETRY, /* not now: try again after the backoff, or after retry_after_ms */
    TOCSIN_SENT,  /* the service has taken it */
    TOCSIN_REJECT /* it cannot be sent as it is: do not try again */
};

struct tocsin_delivery {
    const struct tocsin_message *message;
    const void *target; /* this delivery's target config; its type is the plugin's own */
    const char *target_name;
    const char *const *rendered; /* the target's formats; see tocsin_rendered() */
    unsigned attempt;            /* 1 the first time */
    enum tocsin_verdict verdict; /* out; preset to TOCSIN_RETRY, so an early return loses nothing */
    int64_t retry_after_ms;      /* out; preset to 0, the router's own backoff */
    int64_t park_ms;  /* out; preset to 0: with any verdict, hold back the target for so long */
    char reason[160]; /* out; preset to ""; why it was not sent, for people */
    char receipt[80]; /* out; preset to ""; what the service called it, for the log */
};

/* The text of a FORMAT option for this delivery; NULL if the option is not set. */
static inline const char *tocsin_rendered(const struct tocsin_delivery *d,
                                          const struct tocsin_format *format)
{
    return format->text ? d->rendered[format->index] : NULL;
}

/* ---- What the router offers a plugin ------------------------------------------------------- */

enum tocsin_level {
    TOCSIN_LOG_ERROR,
    TOCSIN_LOG_WARNING,
    TOCSIN_LOG_INFO,
    TOCSIN_LOG_DEBUG
};

/* One publication by a link. `error` is out: 0 once the broker has acknowledged it (QoS 0: once it
 * has been written), or a negative errno value: -EAGAIN the link is down, -ETIMEDOUT no answer in
 * time, -EACCES not authorized, -ESTALE expired, -EINVAL refused for good; then `reason_code` is
 * MQTT's, or 0. */
struct tocsin_publication {
    const char *topic;
    const uint8_t *payload;
    size_t payload_len;
    uint8_t qos;
    bool retain;
    uint8_t hops;                               /* the hop count that it carries; only MQTT 5 can */
    const struct tocsin_properties *properties; /* NULL for none */
    int error;
    uint8_t reason_code;
};

struct tocsin_host {
    uint32_t struct_size;
    const char *service; /* name of the service, for messages */
    /* Logs one line under the instance's name, cut at about 2 KB. Any thread. */
    void (*log)(const struct tocsin_host *host, enum tocsin_level level, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
    /* Sets a verdict other than TOCSIN_SENT and formats its reason, cut to fit. `error` is 0 or a
     * negative errno value, whose text is added (strerror() is not for plugins: threads). */
    void (*fail)(struct tocsin_delivery *delivery, enum tocsin_verdict verdict, int error,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));
    /* Publishes `n` messages by the link of that name and waits until each is acknowledged or has
     * failed, or until `timeout_ms` has passed. Results are in each publication's `error`. */
    void (*publish)(const struct tocsin_host *host, const char *link,
                    struct tocsin_publication *const *publications, size_t n, int64_t timeout_ms);
};

/* ---- What a plugin offers the router ------------------------------------------------------- */

enum tocsin_wants {
    TOCSIN_WANTS_FIELDS = 0x1, /* message->fields: decoded values cost time, so ask for them */
    TOCSIN_WANTS_HTML = 0x2,   /* message->html */
};

struct tocsin_plugin {
    uint32_t abi;         /* TOCSIN_PLUGIN_ABI; nothing else is read when it differs */
    uint32_t struct_size; /* sizeof(struct tocsin_plugin) */
    uint32_t option_size; /* sizeof(struct tocsin_option) */
    const char *name;     /* [a-z][a-z0-9_]*, as in the configuration */
    const char *summary;  /* one line for lists of plugins */

    const struct tocsin_option *service_options; /* ends with an entry without a name */
    size_t service_size;                         /* sizeof the struct that they fill */
    const struct tocsin_option *target_options;  /* the same for each target of the service */
    size_t target_size;

    size_t max_batch;   /* most deliveries for one send(); 0 is 1. With more than one, send() stops
                         * at the first that must be retried, so that order is kept. */
    size_t max_workers; /* most instances of one service at a time; 0: as many as configured */

    /* Optional. Checks what the tables cannot say, such as two options that exclude each other.
     * Returns NULL, or a static string that says what to change. */
    const char *(*check)(const void *service);
    const char *(*check_target)(const void *service, const void *target);

    /* Optional. What the messages to this target must have: TOCSIN_WANTS_*. */
    unsigned (*wants)(const void *service, const void *target);

    /* Makes an instance. The service need not be reachable yet: connect in send(). `service` and
     * `host` outlive the instance. Returns 0 and sets `*self`, or a negative errno value. */
    int (*open)(const struct tocsin_host *host, const void *service, void **self);

    /* Tries to send `n` deliveries (at least one), in order, and sets the verdict of each. May
     * block, up to the time limits in the plugin's own options. */
    void (*send)(void *self, struct tocsin_delivery *const *deliveries, size_t n);

    /* Optional. Lets go of files that may have been rotated away. */
    void (*reopen)(void *self);

    /* Releases the instance; called exactly once for each open() that returned 0. */
    void (*close)(void *self);
};

/* The one symbol that a plugin defines. Everything else in it is static. */
extern __attribute__((visibility("default"))) const struct tocsin_plugin tocsin_plugin;

#endif
